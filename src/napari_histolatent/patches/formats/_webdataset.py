"""Export to WebDataset: tar files of KEY.png, KEY.cls and KEY.json, read in a row by data loaders."""

from __future__ import annotations

import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import file_name_of
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches.formats._export import (
    Names,
    Progress,
    Rows,
    blocks_of,
    export_folder,
    report_of,
)
from napari_histolatent.patches.formats._picture import PICTURES, encoded_picture, require_picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.patches._dataset import PatchDataset

_THREADS = 4
_BLOCK = 512
"""Bytes of a tar file's header, and what contents are padded to."""
NO_SPLIT = "patches"
"""Name of the shards of patches that are in no split."""


def export_webdataset(
    dataset: PatchDataset,
    out: Path,
    *,
    picture: str = "png",
    patches_per_shard: int | None = None,
    shard_bytes: int = 10**9,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Write `out/SPLIT-000000.tar` and so on; the same dataset gives the same bytes.

    A patch is KEY.png (or .jpg), KEY.cls (class index as text) and KEY.json (class, split, slide, patient,
    place, pixel size). A key has no dot: readers take all after the first one for the suffix. Patches stand in
    the order of the index, that is slide by slide; readers shuffle them.

    Parameters
    ----------
    dataset
        The dataset.
    out
        Folder to make, whole or not at all; `classes.txt` in it names the classes, one a line.
    picture
        `png` (lossless), or `jpeg` (quality 95).
    patches_per_shard
        Patches of a tar file; None: as many as fit.
    shard_bytes
        Most bytes of a tar file (one patch is written in any case).
    on_progress
        Called with (patches written, patches in all).
    should_stop
        Asked now and then; when it says so, nothing is left behind.

    Returns
    -------
    dict
        format, path, patches, files, classes {name: n}, splits {name: n}, messages; shards [names].

    Raises
    ------
    DatasetError
        If `out` exists, there are no patches, pixels cannot be read, or stopping was asked for.
    UserError
        If the folder cannot be written.
    """
    require_picture(picture)
    if (patches_per_shard is not None and patches_per_shard < 1) or shard_bytes < 1:
        msg = f"A shard of {patches_per_shard} patches and {shard_bytes} bytes holds nothing; give at least 1 of each."
        raise DatasetError(msg)
    rows = Rows.of(dataset)
    labels = dataset.labels
    progress = Progress(len(dataset), on_progress, should_stop)
    keys = Names()
    with export_folder(dataset, out) as folder, ThreadPoolExecutor(_THREADS) as pool:
        shards = _Shards(folder, patches_per_shard, shard_bytes)

        def encoded(job: tuple[int, Any]) -> bytes:
            return encoded_picture(job[1], picture, rows.provenance(job[0]))

        try:
            for numbers, pixels in blocks_of(dataset):
                pictures = pool.map(encoded, zip(numbers, pixels, strict=True))
                for row, data in zip(numbers, pictures, strict=True):
                    said = {**rows.provenance(row), "classes": list(dataset.classes)}
                    members = {
                        PICTURES[picture]: data,
                        ".cls": str(int(labels[row])).encode(),
                        ".json": json.dumps(said, ensure_ascii=False).encode(),
                    }
                    shards.add(rows.split[row], keys.unused(rows.name(row).replace(".", "_")), members)
                progress.tell(numbers.stop)
        finally:
            shards.close()
        (folder / "classes.txt").write_text(
            "".join(f"{name}\n" for name in dataset.classes), encoding="utf-8", newline="\n"
        )
    return report_of(dataset, out, "webdataset", len(shards.names) + 1) | {"shards": sorted(shards.names)}


class _Shards:
    """The tar files, one at a time open for each split."""

    def __init__(self, folder: Path, patches_per_shard: int | None, shard_bytes: int) -> None:
        self.names: list[str] = []
        self._folder, self._most, self._most_bytes = folder, patches_per_shard, shard_bytes
        self._open: dict[str, tarfile.TarFile] = {}
        self._numbers: dict[str, int] = {}
        self._patches: dict[str, int] = {}

    def add(self, split: str, key: str, members: dict[str, bytes]) -> None:
        tar = self._open.get(split)
        size = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for data in members.values())
        is_full = tar is not None and (
            self._patches[split] == self._most or tar.offset + size > self._most_bytes
        )
        if tar is None or is_full:
            tar = self._next(split)
        for suffix, data in members.items():
            header = tarfile.TarInfo(key + suffix)
            header.size, header.mode = len(data), 0o644  # time, owner and group stay 0
            tar.addfile(header, BytesIO(data))
        self._patches[split] += 1

    def _next(self, split: str) -> tarfile.TarFile:
        if split in self._open:
            self._open[split].close()
        number = self._numbers[split] = self._numbers.get(split, -1) + 1
        name = f"{file_name_of(split) if split else NO_SPLIT}-{number:06d}.tar"
        self.names.append(name)
        self._patches[split] = 0
        self._open[split] = tarfile.open(self._folder / name, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        return self._open[split]

    def close(self) -> None:
        for tar in self._open.values():
            tar.close()
