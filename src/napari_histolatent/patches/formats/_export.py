"""What all exports share: whole or not at all, progress, names, and what each patch says of itself."""

from __future__ import annotations

import math
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._files import file_name_of, replacing, without_nan
from napari_histolatent.errors import DatasetError, passing_through, writing_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.patches._dataset import PatchDataset

BLOCK_PATCHES = 256
"""Patches read, and held in memory, at once."""
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


@dataclass(frozen=True)
class Progress:
    """Whom to tell, and whom to ask whether to stop."""

    total: int
    on_progress: Callable[[int, int], None] | None = None
    should_stop: Callable[[], bool] | None = None

    def tell(self, done: int) -> None:
        """Say that so many patches are done.

        Raises
        ------
        DatasetError
            If stopping is asked for.
        """
        if self.should_stop is not None and passing_through(self.should_stop)():
            msg = f"Exporting was stopped after {done:,} of {self.total:,} patches; nothing was kept."
            raise DatasetError(msg)
        if self.on_progress is not None:
            passing_through(self.on_progress)(done, self.total)


@contextmanager
def export_folder(dataset: PatchDataset, out: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `out` when all is written.

    Raises
    ------
    DatasetError
        If `out` exists, or the dataset has no patches.
    UserError
        If it cannot be written.
    """
    if out.exists():
        msg = f"{out} exists already; choose another output folder or remove it."
        raise DatasetError(msg)
    if len(dataset) == 0:
        msg = f"{dataset.path} has no patches to export; cut or relabel it first."
        raise DatasetError(msg)
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as folder:
            folder.mkdir()
            yield folder


def report_of(
    dataset: PatchDataset, out: Path, format_name: str, files: int, messages: list[str] | None = None
) -> dict[str, Any]:
    """Return what every export reports."""
    return {
        "format": format_name,
        "path": str(out),
        "patches": len(dataset),
        "files": files,
        "classes": dict(sorted(Counter(map(str, dataset.columns["label"])).items())),
        "splits": dict(sorted(Counter(map(str, dataset.columns["split"])).items())),
        "messages": messages or [],
    }


def blocks_of(dataset: PatchDataset) -> Iterator[tuple[range, NDArray[np.uint8]]]:
    """Yield the numbers of some patches, and their pixels: uint8, shape (len(numbers), size_px, size_px, 3)."""
    for start in range(0, len(dataset), BLOCK_PATCHES):
        numbers = range(start, min(start + BLOCK_PATCHES, len(dataset)))
        yield numbers, dataset.read(numbers)


@dataclass(frozen=True)
class Rows:
    """The index of a dataset as plain values, one a patch, and the slides by their digest."""

    slide: list[str]
    patient: list[str]
    label: list[str]
    split: list[str]
    level: list[int]
    x: list[int]
    y: list[int]
    width: list[float]
    """In level-0 pixels, like x, y and height; NaN for a patch that has no place on a slide."""
    height: list[float]
    downsample: list[float]
    mpp: list[float]
    slides: dict[str, dict[str, Any]]
    digest: str

    @classmethod
    def of(cls, dataset: PatchDataset) -> Rows:
        """Return the rows of a dataset."""
        columns = dataset.columns

        def values(name: str, kind: type, missing: Any) -> list[Any]:
            if name not in columns:
                return [missing] * len(dataset)
            return [missing if value is None else kind(value) for value in columns[name]]

        return cls(
            slide=values("slide", str, ""),
            patient=values("patient", str, ""),
            label=values("label", str, ""),
            split=values("split", str, ""),
            level=values("level", int, -1),
            x=values("x", int, 0),
            y=values("y", int, 0),
            width=values("width_level0_px", float, math.nan),
            height=values("height_level0_px", float, math.nan),
            downsample=values("downsample", float, math.nan),
            mpp=values("mpp", float, math.nan),
            slides={str(entry.get("digest", "")): entry for entry in dataset.settings["slides"]},
            digest=dataset.digest,
        )

    def slide_name(self, row: int) -> str:
        """Return the file name of a patch's slide without its suffix."""
        return slide_stem(self.slides.get(self.slide[row], {}), self.slide[row])

    def has_place(self, row: int) -> bool:
        """Whether it is known where on a slide the patch lies."""
        return math.isfinite(self.width[row])

    def require_places(self, dataset: PatchDataset, format_name: str) -> None:
        """Refuse patches that lie on no slide.

        Raises
        ------
        DatasetError
            With the remedy.
        """
        nowhere = int(np.isnan(self.width).sum())
        if nowhere:
            msg = (
                f"{nowhere:,} of the {len(self.width):,} patches of {dataset.path} have no place on a slide, so they cannot be "
                f"written as {format_name}; export the pictures themselves (imagefolder-png or webdataset)."
            )
            raise DatasetError(msg)

    def provenance(self, row: int) -> dict[str, Any]:
        """Return what a picture file says of its patch; x and y are the centre in level-0 pixels."""
        known: dict[str, Any] = {
            "synthetic": self.slides.get(self.slide[row], {}).get("synthetic") is True,
            "slide": self.slide_name(row),
            "slide_digest": self.slide[row],
            "patient": self.patient[row],
            "label": self.label[row],
            "split": self.split[row],
            "dataset_digest": self.digest,
            "mpp": self.mpp[row],
        }
        if self.has_place(row):
            known |= {
                "x": self.x[row] + self.width[row] / 2,
                "y": self.y[row] + self.height[row] / 2,
                "left": self.x[row],
                "top": self.y[row],
                "width_level0_px": self.width[row],
                "height_level0_px": self.height[row],
                "level": self.level[row],
            }
        return dict(without_nan(known))

    def name(self, row: int) -> str:
        """Return slide name, left, top and side in level-0 pixels, joined by underscores, as a file name."""
        stem = file_name_of(self.slide_name(row))[:60]
        if not self.has_place(row):
            return stem
        return f"{stem}_{self.x[row]}_{self.y[row]}_{round(self.width[row])}"


def slide_stem(entry: dict[str, Any], digest: str) -> str:
    """Return a slide's file name without suffix, from its entry in dataset.json."""
    path = PureWindowsPath(str(entry.get("path") or ""))  # takes both kinds of slash
    return path.stem or str(entry.get("name") or "") or digest[:12] or "patch"


def stem_on_disk(stem: str) -> str:
    """Return a slide's name as other tools look for it: unchanged, unless a file cannot be called so."""
    unusable = _NOT_IN_NAMES.search(stem) or stem.strip(". ") != stem or len(stem) > 200
    return file_name_of(stem) if unusable else stem


class Names:
    """Gives each name once, also where a disk takes upper and lower case for the same."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def unused(self, name: str) -> str:
        """Return the name, or the name with a number, if it was given before."""
        candidate = name
        while self._used[candidate.casefold()]:
            self._used[name.casefold()] += 1
            candidate = f"{name}_{self._used[name.casefold()]}"
        self._used[candidate.casefold()] += 1
        return candidate


def folder_names(names: list[str]) -> dict[str, str]:
    """Return a folder's name for each class."""
    used = Names()
    return {name: used.unused(file_name_of(name)) for name in names}
