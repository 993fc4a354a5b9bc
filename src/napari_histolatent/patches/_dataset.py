from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from napari_histolatent._files import DamagedJsonError, read_json_object
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._index import MEMBER, strings
from napari_histolatent.patches._split import SPLITS
from napari_histolatent.patches._store import ShardReader, digests_of_shards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.patches._on_the_fly import SlidePixels

FORMAT_VERSION = 2


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value >= 0


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_table(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(fits(item) for item in value.values())


_REQUIRED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "patches": ("a whole number from 0 on", _is_count),
    "rows": ("a whole number from 0 on", _is_count),
    "stored": ("a whole number from 0 on", _is_count),
    "size_px": ("a whole number from 1 on", lambda v: _is_count(v) and v > 0),
    "mpp": ("a number above 0 or null", lambda v: v is None or (_is_number(v) and v > 0)),
    "classes": ("a list of names", lambda v: _is_list_of(v, str)),
    "slides": ("a list of objects", lambda v: _is_list_of(v, dict)),
    "counts": ("numbers by split and class", lambda v: _is_table(v, lambda of: _is_table(of, _is_count))),
    "left_out": ("numbers by reason", lambda v: _is_table(v, _is_count)),
    "pixels": ("the name of a folder or null", lambda v: v is None or (isinstance(v, str) and v != "")),
    "pixels_digest": ("a text", lambda v: isinstance(v, str)),
    "digest": ("a text", lambda v: isinstance(v, str)),
}
"""What dataset.json says at least, and what each has to be."""
INDEX_FILE, SETTINGS_FILE, PROVENANCE_FILE = "index.parquet", "dataset.json", "provenance.json"
PIXELS_FOLDER = "pixels.zarr"


class Columns(Mapping[str, "NDArray[Any]"]):
    """The index's columns as arrays, made when they are asked for: numbers, or object arrays of texts."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._arrays: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            if name not in self._table.column_names:
                raise KeyError(name)
            is_text = pa.types.is_string(self._table.schema.field(name).type)
            column = strings(self._table, name) if is_text else self._table[name].to_numpy()
            self._arrays[name] = column
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.column_names)

    def __len__(self) -> int:
        return len(self._table.column_names)


class PatchDataset:
    """A folder of labelled patches: map-style, opened lazily in each process, picklable.

    `dataset[i]` is (pixels, label): uint8 RGB of shape (size_px, size_px, 3) and the class index. Rows of the
    index that are left out of the dataset (column `left_out`) are not counted; `table` holds them too.

    Attributes
    ----------
    path
        The folder.
    settings
        The content of dataset.json: recipe, slides, class table, counts, digest.
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
        self._forget()

    def _forget(self) -> None:
        self._table: pa.Table | None = None
        self._rows: NDArray[np.int64] | None = None
        self._columns: Columns | None = None
        self._labels: NDArray[np.int64] | None = None
        self._pixels: ShardReader | SlidePixels | None = None

    def _read_settings(self) -> dict[str, Any]:
        file = self.path / SETTINGS_FILE
        try:
            settings = read_json_object(file)
        except DamagedJsonError as error:
            msg = (
                f"{self.path} is not a patch dataset ({SETTINGS_FILE} {error}); "
                "make one with `histolatent extract SLIDE --annotations FILE --out FOLDER`."
            )
            raise DatasetError(msg) from error
        version = settings.get("format_version")
        if version != FORMAT_VERSION:
            msg = f"{self.path} has dataset format {version!r}, this version reads {FORMAT_VERSION}; update napari-histolatent or cut the dataset again."
            raise DatasetError(msg)
        missing = [name for name in _REQUIRED if name not in settings]
        if missing:
            msg = f"{file} lacks {', '.join(missing)}; cut the dataset again."
            raise DatasetError(msg)
        for name, (wanted, fits) in _REQUIRED.items():
            if not fits(settings[name]):
                msg = f"{file} says {name} {reprlib.repr(settings[name])}, where {wanted} is wanted; cut the dataset again."
                raise DatasetError(msg)
        return dict(settings)

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel between processes; each opens its own.
        return {"path": self.path, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def table(self) -> pa.Table:
        """The whole index, one row for each patch of the store, also those that are left out."""
        if self._table is None:
            file = self.path / INDEX_FILE
            try:
                table = pq.read_table(file)
            except (OSError, ValueError) as error:
                msg = f"{file} cannot be read ({error}); cut the dataset again."
                raise DatasetError(msg) from error
            needed = {"slide", "x", "y", "label", "split", "left_out"}
            if not needed <= set(table.column_names) or len(table) != self.settings["rows"]:
                msg = f"{file} is not the index of {SETTINGS_FILE} ({len(table)} rows for {self.settings['rows']}); cut the dataset again."
                raise DatasetError(msg)
            self._table = table
        return self._table

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of the index, and place in the store, of each patch of the dataset, shape (n,)."""
        if self._rows is None:
            self._rows = np.flatnonzero(strings(self.table, "left_out") == MEMBER)
            if len(self._rows) != len(self):
                msg = f"{self.path / INDEX_FILE} has {len(self._rows)} patches where {SETTINGS_FILE} says {len(self)}; cut the dataset again."
                raise DatasetError(msg)
        return self._rows

    @property
    def columns(self) -> Columns:
        """The index of the dataset's patches, an array a column."""
        if self._columns is None:
            all_in = len(self) == self.settings["rows"]
            self._columns = Columns(self.table if all_in else self.table.take(pa.array(self.rows)))
        return self._columns

    @property
    def pixels_folder(self) -> Path | None:
        """The zarr array's folder: in this dataset, or in the one that this is a view of; None: index only."""
        place = self.settings["pixels"]
        return None if place is None else (self.path / place).resolve()

    def _source(self) -> ShardReader | SlidePixels:
        if self._pixels is None:
            folder = self.pixels_folder
            if folder is None:
                from napari_histolatent.patches._on_the_fly import SlidePixels

                self._pixels = SlidePixels(self)
            elif not folder.is_dir():
                msg = f"The pixels of {self.path} are gone ({folder}); bring the folder back, or cut the dataset again."
                raise DatasetError(msg)
            else:
                self._require_own_pixels(folder)
                self._pixels = ShardReader(folder, int(self.settings["stored"]), self.size_px)
        return self._pixels

    def _require_own_pixels(self, folder: Path) -> None:
        """Refuse the pixels of a dataset that was cut anew since this view of it was made."""
        base = folder.parent
        if base == self.path.resolve():
            return
        try:
            found = read_json_object(base / SETTINGS_FILE).get("pixels_digest")
        except DamagedJsonError:
            found = None
        if found != self.settings["pixels_digest"]:
            what = "cannot be read" if found is None else "was cut anew since and holds other patches"
            msg = f"{self.path} is a view of {base}, which {what}; make the view again with `histolatent dataset relabel`."
            raise DatasetError(msg)

    def verify(self) -> None:
        """Compare all that is stored, pixels and index, with the digests that were written with it.

        Reads every file once. An index-only dataset has its index only; its slides are compared as they are read.

        Raises
        ------
        DatasetError
            If something is damaged, gone, or was changed.
        """
        from napari_histolatent.patches._write import digest_of_dataset, digest_of_shards

        if (folder := self.pixels_folder) is not None:
            self._source()  # says it if they are gone, or not those of this view
            digests = digests_of_shards(folder, int(self.settings["stored"]), self.size_px)
            if digest_of_shards(digests) != self.settings["pixels_digest"]:
                msg = f"The pixels in {folder} are not those that were written ({SETTINGS_FILE} has another digest); bring them back from a copy, or cut the dataset again."
                raise DatasetError(msg)
        found = digest_of_dataset(
            self.table,
            size_px=self.size_px,
            stain=self.settings.get("stain"),
            pixels_digest=self.settings["pixels_digest"],
        )
        if found != self.digest:
            msg = f"{self.path / INDEX_FILE} is not what was written ({SETTINGS_FILE} has another digest); bring it back from a copy, or cut the dataset again."
            raise DatasetError(msg)

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
        """Micrometres per patch pixel, where the slides state it and all patches have the same."""
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
            try:
                self._labels = np.array([position[name] for name in self.columns["label"]], np.int64)
            except KeyError as error:
                msg = f"{self.path / INDEX_FILE} holds the label {error}, {SETTINGS_FILE} the classes {', '.join(self.classes)}; cut the dataset again."
                raise DatasetError(msg) from error
        return self._labels

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Return the numbers of the patches of one split."""
        return np.flatnonzero(self.columns["split"] == split)

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return patches, uint8, shape (len(rows), size_px, size_px, 3), in the order of `rows`.

        Raises
        ------
        DatasetError
            If the pixels are gone or damaged.
        SlideError
            If the dataset is index-only and a slide cannot be read.
        """
        return self._source().read(self.rows[np.asarray(rows, np.int64)])

    def __len__(self) -> int:
        return int(self.settings["patches"])

    def __getitem__(self, row: int) -> tuple[NDArray[np.uint8], int]:
        if not -len(self) <= row < len(self):
            msg = f"row {row} of {len(self)}"
            raise IndexError(msg)
        return self.read([row])[0], int(self.labels[row])

    def report(self) -> dict[str, Any]:
        """Return what `histolatent dataset info --json` reports."""
        per_split: dict[str, dict[str, int]] = self.settings["counts"]
        classes: Counter[str] = Counter()
        for counts in per_split.values():
            classes.update(counts)
        return {
            "path": str(self.path),
            "patches": len(self),
            "size_px": self.size_px,
            "mpp": self.mpp,
            "classes": dict(sorted(classes.items())),
            "splits": {name: sum(classes.values()) for name, classes in sorted(per_split.items())},
            "classes_per_split": per_split,
            "left_out": self.settings["left_out"],
            "codec": self.settings.get("codec"),
            "pixels": None if self.pixels_folder is None else str(self.pixels_folder),
            "bytes": self._nbytes(),
            "slides": self.settings["slides"],
            "failed": self.settings.get("failed", []),
            "complete": self.settings.get("complete", True),
            "messages": self.settings.get("messages", []),
            "digest": self.digest,
        }

    def _nbytes(self) -> int:
        """Return what the dataset takes on the disk, the pixels of a view not counted."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def counts_per_split(
    labels: NDArray[np.object_], splits: NDArray[np.object_], classes: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Return the number of patches of each class in each split that has any."""
    pairs = Counter(zip(splits.tolist(), labels.tolist(), strict=True))
    present = [name for name in (*SPLITS, "") if any(split == name for split, _ in pairs)]
    return {split: {name: pairs[split, name] for name in classes} for split in present}
