"""Export to folders of pictures, one a class, as torchvision's ImageFolder and many others read them."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import file_name_of
from napari_histolatent.patches.formats._export import (
    Names,
    Progress,
    Rows,
    blocks_of,
    export_folder,
    folder_names,
    report_of,
)
from napari_histolatent.patches.formats._picture import PICTURES, encoded_picture, require_picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.patches._dataset import PatchDataset

UNLABELLED, UNSPLIT = "unlabelled", "unsplit"
"""Folders of patches without a class, and of those in no split where others are in one."""
LABELS_FILE = "labels.csv"
LABELS_HEADER = ("file", "label", "group", "split", "slide", "x", "y", "size_level0_px")
_THREADS = 4


def export_image_folder(
    dataset: PatchDataset,
    out: Path,
    *,
    picture: str = "png",
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Write `out/SPLIT/CLASS/SLIDE_X_Y_SIZE.png`, and a table of all files with label, group and place.

    The folder of the split is left out where no patch is in one. `labels.csv` keeps what folder names cannot:
    the class names as they are, and the patient (else the slide) of each patch, which `import_folder` takes
    for its groups.

    Parameters
    ----------
    dataset
        The dataset.
    out
        Folder to make, whole or not at all.
    picture
        `png` (lossless), or `jpeg` (quality 95).
    on_progress
        Called with (patches written, patches in all).
    should_stop
        Asked now and then; when it says so, nothing is left behind.

    Returns
    -------
    dict
        format, path, patches, files, classes {name: n}, splits {name: n}, messages; folders {class: folder}.

    Raises
    ------
    DatasetError
        If `out` exists, there are no patches, pixels cannot be read, or stopping was asked for.
    UserError
        If the folder cannot be written.
    """
    require_picture(picture)
    rows = Rows.of(dataset)
    classes = folder_names(sorted(set(rows.label)))
    if "" in classes:
        classes[""] = UNLABELLED if UNLABELLED not in classes.values() else f"_{UNLABELLED}"
    has_splits = any(rows.split)
    used: dict[str, Names] = {}
    listed: list[tuple[Any, ...]] = []
    progress = Progress(len(dataset), on_progress, should_stop)
    with export_folder(dataset, out) as folder, ThreadPoolExecutor(_THREADS) as pool:

        def write(job: tuple[str, int, Any]) -> None:
            name, row, pixels = job
            (folder / name).write_bytes(encoded_picture(pixels, picture, rows.provenance(row)))

        for numbers, pixels in blocks_of(dataset):
            jobs = []
            for row, patch in zip(numbers, pixels, strict=True):
                parent = classes[rows.label[row]]
                if has_splits:
                    parent = f"{file_name_of(rows.split[row]) if rows.split[row] else UNSPLIT}/{parent}"
                if parent not in used:
                    used[parent] = Names()
                    (folder / parent).mkdir(parents=True, exist_ok=True)
                name = f"{parent}/{used[parent].unused(rows.name(row))}{PICTURES[picture]}"
                jobs.append((name, row, patch))
                listed.append(_listed(rows, row, name))
            list(pool.map(write, jobs))
            progress.tell(numbers.stop)
        with (folder / LABELS_FILE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(LABELS_HEADER)
            writer.writerows(sorted(listed))
    return report_of(dataset, out, f"imagefolder-{picture}", len(listed) + 1) | {"folders": classes}


def _listed(rows: Rows, row: int, name: str) -> tuple[Any, ...]:
    place = (rows.x[row], rows.y[row], rows.width[row]) if rows.has_place(row) else ("", "", "")
    group = rows.patient[row] or rows.slide[row]
    return (name, rows.label[row], group, rows.split[row], rows.slide_name(row), *place)
