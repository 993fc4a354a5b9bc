from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import zarr

from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FORMAT_VERSION = 1
_REQUIRED = ("patches", "size_px", "mpp", "classes", "slides", "digest")
_BLOCK_PATCHES, _DENSE = 1024, 32
"""Patches read at once where more than one in so many of them is wanted."""
INDEX_FILE, SETTINGS_FILE, PIXELS_FOLDER = "index.parquet", "dataset.json", "pixels.zarr"


class PatchDataset:
    """A folder of labelled patches: map-style, opened lazily in each process, picklable.

    `dataset[i]` is (pixels, label): uint8 RGB of shape (size_px, size_px, 3) and the class index.

    Attributes
    ----------
    path
        The folder.
    settings
        The content of dataset.json: settings, slides, class table, counts, digest.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a dataset folder.

        Raises
        ------
        DatasetError
            If it is not a dataset, is incomplete, or was written by a newer version.
        """
        self.path = Path(path)
        self.settings = self._read_settings()
        self._columns: dict[str, Any] | None = None
        self._labels: NDArray[np.int64] | None = None
        self._pixels: Any = None

    def _read_settings(self) -> dict[str, Any]:
        file = self.path / SETTINGS_FILE
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = (
                f"{self.path} is not a patch dataset ({SETTINGS_FILE} {'is missing' if isinstance(error, OSError) else 'cannot be parsed'}); "
                "make one with `histolatent extract SLIDE --annotations FILE --out FOLDER`."
            )
            raise DatasetError(msg) from error
        version = settings.get("format_version") if isinstance(settings, dict) else None
        if version != FORMAT_VERSION:
            msg = f"{self.path} has dataset format {version!r}, this version reads {FORMAT_VERSION}; update napari-histolatent or cut the dataset again."
            raise DatasetError(msg)
        missing = [name for name in _REQUIRED if name not in settings]
        if missing:
            msg = f"{self.path / SETTINGS_FILE} lacks {', '.join(missing)}; cut the dataset again."
            raise DatasetError(msg)
        return dict(settings)

    def __getstate__(self) -> dict[str, Any]:
        # Open stores do not travel between processes; each opens its own.
        return {
            "path": self.path,
            "settings": self.settings,
            "_columns": None,
            "_labels": None,
            "_pixels": None,
        }

    @property
    def columns(self) -> dict[str, Any]:
        """The index, a list or array a column, one entry a patch."""
        if self._columns is None:
            try:
                self._columns = pq.read_table(self.path / INDEX_FILE).to_pydict()
            except (OSError, ValueError) as error:
                msg = f"{self.path / INDEX_FILE} cannot be read ({error}); cut the dataset again."
                raise DatasetError(msg) from error
        return self._columns

    @property
    def pixels(self) -> Any:
        """The patches as one zarr array, uint8, shape (n, size_px, size_px, 3)."""
        if self._pixels is None:
            folder = self.path / PIXELS_FOLDER
            try:
                pixels: Any = zarr.open_array(folder, mode="r")
            except (OSError, ValueError, KeyError) as error:
                msg = f"{folder} cannot be read ({error}); cut the dataset again."
                raise DatasetError(msg) from error
            # zarr takes a file that is missing for zeros: black patches.
            stored = sum(path.is_file() for path in (folder / "c").glob("*/0/0/0"))
            if pixels.shape[0] != len(self) or stored != -(
                -pixels.shape[0] // (pixels.shards or pixels.chunks)[0]
            ):
                msg = f"{folder} is incomplete ({stored} files of pixels for {len(self)} patches); cut the dataset again."
                raise DatasetError(msg)
            self._pixels = pixels
        return self._pixels

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""
        return tuple(self.settings["classes"])

    @property
    def size_px(self) -> int:
        """Side of a patch."""
        return int(self.settings["size_px"])

    @property
    def mpp(self) -> float | None:
        """Micrometres per patch pixel, where the slides state it."""
        return None if self.settings["mpp"] is None else float(self.settings["mpp"])

    @property
    def digest(self) -> str:
        """sha256 of the pixels, labels and splits."""
        return str(self.settings["digest"])

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each patch, shape (n,)."""
        if self._labels is None:
            position = {name: i for i, name in enumerate(self.classes)}
            self._labels = np.array([position[name] for name in self.columns["label"]], np.int64)
        return self._labels

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of one split."""
        return np.flatnonzero(np.asarray(self.columns["split"]) == split)

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return patches, uint8, shape (len(rows), size_px, size_px, 3), in the order of `rows`."""
        rows = np.asarray(rows, np.int64) % len(self)
        patches = np.empty((len(rows), self.size_px, self.size_px, 3), np.uint8)
        blocks = rows // _BLOCK_PATCHES
        for block in np.unique(blocks):
            wanted = np.flatnonzero(blocks == block)
            start = int(block) * _BLOCK_PATCHES
            if len(wanted) * _DENSE > _BLOCK_PATCHES:
                # Row by row zarr took 15 s for 3,500 patches, whole blocks 0.3 s.
                patches[wanted] = self.pixels[start : start + _BLOCK_PATCHES][rows[wanted] - start]
            else:
                for i in wanted:
                    patches[i] = self.pixels[int(rows[i])]
        return patches

    def __len__(self) -> int:
        return int(self.settings["patches"])

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint8], int]:
        if not -len(self) <= row < len(self):
            msg = f"row {row} of {len(self)}"
            raise IndexError(msg)
        return np.asarray(self.pixels[row]), int(self.labels[row])

    def report(self) -> dict[str, Any]:
        """Return what `histolatent dataset info --json` reports."""
        per_split: dict[str, dict[str, int]] = {}
        for name, split in zip(self.columns["label"], self.columns["split"], strict=True):
            per_split.setdefault(split, dict.fromkeys(self.classes, 0))[name] += 1
        return {
            "path": str(self.path),
            "patches": len(self),
            "size_px": self.size_px,
            "mpp": self.mpp,
            "classes": dict(sorted(Counter(self.columns["label"]).items())),
            "splits": {name: sum(classes.values()) for name, classes in sorted(per_split.items())},
            "classes_per_split": per_split,
            "slides": self.settings["slides"],
            "digest": self.digest,
        }
