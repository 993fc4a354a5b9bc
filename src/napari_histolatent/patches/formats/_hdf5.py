"""Patch coordinates in HDF5, as CLAM and TRIDENT write and read them.

Both keep a dataset `coords` of shape (n, 2), the top-left corners (x, y) in level-0 pixels, with attributes.
CLAM: patch_size (pixels of the level), patch_level, downsample, level_dim, downsampled_level_dim, name,
save_path (wsi_core/WholeSlideImage.py, process_contour). TRIDENT: patch_size (pixels at the target
magnification), patch_size_level0, level0_magnification, target_magnification, overlap, name, savetodir,
level0_width, level0_height (trident/IO.py, coords_to_h5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches.formats._export import (
    Names,
    Progress,
    Rows,
    export_folder,
    report_of,
    stem_on_disk,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import h5py
    from numpy.typing import NDArray

    from napari_histolatent.patches._dataset import PatchDataset

_MAX_COORDS = 20_000_000
_MAX_SIZE_PX = 1 << 16
_MAX_LEVEL0_PX = 1 << 31
"""Beyond any slide."""
_MAX_ATTRIBUTES, _MAX_ATTRIBUTE_BYTES = 256, 1 << 16
_MAGNIFICATIONS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)
_UM_AT_1X = 10.0
"""Micrometres per pixel at magnification 1, by the convention that TRIDENT uses (10 / magnification)."""


@dataclass(frozen=True, eq=False)
class Coords:
    """The patches that an HDF5 file of CLAM or TRIDENT names."""

    dialect: str
    """`clam` or `trident`."""
    level0_xy: NDArray[np.int64]
    """Top-left corners (x, y) in level-0 pixels, shape (n, 2), in the order of the file."""
    size_px: int
    """Side of a patch as it is cut."""
    size_level0: float
    """Side of a patch in level-0 pixels."""
    level: int
    """The slide's level that is cut; -1 if the patch is resampled to its size."""
    mpp: float | None
    """Micrometres per pixel of the patch, where the file says so itself; a magnification is not taken for it."""
    name: str
    """The slide's file name without suffix, or empty."""
    attrs: dict[str, Any]
    """What else the file says: numbers, texts and short lists."""

    def __len__(self) -> int:
        return len(self.level0_xy)

    @property
    def downsample(self) -> float:
        """Level-0 pixels per pixel of the patch."""
        return self.size_level0 / self.size_px


# --- reading


def coords_from_hdf5(path: Path) -> Coords:
    """Return the patches that a coordinate or feature file of CLAM or TRIDENT names.

    Raises
    ------
    DatasetError
        If it is missing, no HDF5, of neither kind, or says something that cannot be.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        msg = f"{path} {what}; give the .h5 file of one slide, as CLAM or TRIDENT writes it to its folder patches."
        raise DatasetError(msg)
    import h5py  # a tenth of a second, which only those who need it wait

    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            return _read(file, path)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        msg = f"{path} cannot be read as HDF5 ({_first_line(error)}); make it again with CLAM or TRIDENT."
        raise DatasetError(msg) from error


def _read(file: h5py.File, path: Path) -> Coords:
    import h5py

    link = file.get("coords", getlink=True)
    dataset = file.get("coords") if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        names = ", ".join(sorted(file)[:5]) or "nothing"
        msg = f"{path} has no dataset coords of its own (it holds {names}); give a coordinate file of CLAM or TRIDENT."
        raise DatasetError(msg)
    attrs = _attributes(dataset, path)
    if "patch_size" not in attrs:
        # CLAM's older bags of pictures have coordinates in pixels of the level, and what they need elsewhere.
        msg = f"{path} does not say its patch_size, as files of CLAM and TRIDENT do; cut the coordinates again with create_patches_fp.py or TRIDENT."
        raise DatasetError(msg)
    size_px = _whole(attrs, "patch_size", 1, _MAX_SIZE_PX, path)
    is_trident = "level0_magnification" in attrs or "patch_size_level0" in attrs
    if is_trident:
        level, size_level0 = -1, _size_of_trident(attrs, size_px, path)
        if size_level0 == size_px:
            level = 0
    else:
        level = _whole(attrs, "patch_level", 0, 63, path)
        factor = (
            _number(attrs, "custom_downsample", 1.0, 1024.0, path) if "custom_downsample" in attrs else 1.0
        )
        size_level0 = size_px * _downsample_of_clam(attrs, level, path) * factor
        if factor != 1:
            level = -1
    mpp = attrs.get("mpp")
    name = attrs.get("name")
    return Coords(
        dialect="trident" if is_trident else "clam",
        level0_xy=_coordinates(dataset, path),
        size_px=size_px,
        size_level0=size_level0,
        level=level,
        mpp=float(mpp) if isinstance(mpp, (int, float)) and 1e-3 < mpp < 1e3 else None,
        name=name if isinstance(name, str) else "",
        attrs=attrs,
    )


def _size_of_trident(attrs: dict[str, Any], size_px: int, path: Path) -> float:
    if "patch_size_level0" in attrs:
        return float(_whole(attrs, "patch_size_level0", 1, _MAX_LEVEL0_PX, path))
    full = _number(attrs, "level0_magnification", 0.01, 1000.0, path)
    target = _number(attrs, "target_magnification", 0.01, 1000.0, path)
    return float(round(size_px * full / target))


def _downsample_of_clam(attrs: dict[str, Any], level: int, path: Path) -> float:
    if "downsample" not in attrs and level == 0:
        return 1.0
    value = attrs.get("downsample")
    first = value[0] if isinstance(value, list) and value else value
    return _number({"downsample": first}, "downsample", 0.5, 65536.0, path)


def _coordinates(dataset: h5py.Dataset, path: Path) -> NDArray[np.int64]:
    shape, kind = dataset.shape, dataset.dtype.kind
    if shape is None or len(shape) != 2 or shape[1] != 2 or kind not in "iuf":
        msg = f"{path} has coords of shape {shape} and type {dataset.dtype}, where n rows of x and y as numbers are wanted; make it again."
        raise DatasetError(msg)
    if not 0 < shape[0] <= _MAX_COORDS:
        msg = f"{path} names {shape[0]:,} patches; 1 to {_MAX_COORDS:,} can be read."
        raise DatasetError(msg)
    values = dataset[()]
    if kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        msg = f"{path} has coordinates that are no whole pixels; give level-0 pixels."
        raise DatasetError(msg)
    if values.min() < 0 or values.max() >= _MAX_LEVEL0_PX:
        worst = values.min() if values.min() < 0 else values.max()
        msg = f"{path} has the coordinate {worst:g}, which lies on no slide; give level-0 pixels from 0 on."
        raise DatasetError(msg)
    return np.ascontiguousarray(values, dtype=np.int64)


def _attributes(dataset: h5py.Dataset, path: Path) -> dict[str, Any]:
    """Return the attributes as plain values; none is read before its size is known."""
    names = list(dataset.attrs)
    if len(names) > _MAX_ATTRIBUTES:
        msg = f"{path} has {len(names):,} attributes, more than the {_MAX_ATTRIBUTES} that can be read; make it again."
        raise DatasetError(msg)
    found: dict[str, Any] = {}
    for name in names:
        if dataset.attrs.get_id(name).get_storage_size() > _MAX_ATTRIBUTE_BYTES:
            continue
        value: Any = dataset.attrs[name]
        if isinstance(value, (np.ndarray, np.generic)):
            value = value.tolist()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, (bool, int, float, str, list)):
            found[name] = value
    return found


def _number(attrs: dict[str, Any], name: str, least: float, most: float, path: Path) -> float:
    value = attrs.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        msg = f"{path} says {name} {value!r}, where a number from {least:g} to {most:g} is wanted; make it again with CLAM or TRIDENT."
        raise DatasetError(msg)
    return float(value)


def _whole(attrs: dict[str, Any], name: str, least: int, most: int, path: Path) -> int:
    value = _number(attrs, name, least, most, path)
    if not value.is_integer():
        msg = f"{path} says {name} {value:g}, where a whole number is wanted; make it again with CLAM or TRIDENT."
        raise DatasetError(msg)
    return int(value)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- writing


def export_clam(
    dataset: PatchDataset,
    out: Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Write `out/patches/SLIDE.h5` as CLAM's create_patches_fp.py does; `out` is what its later steps are given.

    CLAM reads the pixels of one level and does not resample: patches that were resampled are written as squares
    of level 0 that cover the same tissue, which a message of the report says.

    Parameters
    ----------
    dataset
        The dataset.
    out
        Folder to make, whole or not at all.
    on_progress
        Called with (patches written, patches in all).
    should_stop
        Asked now and then; when it says so, nothing is left behind.

    Returns
    -------
    dict
        format, path, patches, files, classes {name: n}, splits {name: n}, messages.

    Raises
    ------
    DatasetError
        If `out` exists, there are no patches, they lie on no slide, or stopping was asked for.
    UserError
        If the folder cannot be written.
    """

    def attributes(rows: Rows, numbers: list[int]) -> dict[str, Any]:
        first = numbers[0]
        level = rows.level[first]
        is_level = level >= 0
        downsample = rows.width[first] / dataset.size_px if is_level else 1.0
        attrs: dict[str, Any] = {
            "patch_size": dataset.size_px if is_level else round(rows.width[first]),
            "patch_level": max(level, 0),
            "downsample": (downsample, downsample),
        }
        size = _slide_size(rows, first)
        if size is not None:
            of_level = tuple(round(v / downsample) for v in size)
            attrs |= {"downsampled_level_dim": of_level, "level_dim": of_level}
        return attrs

    def message(rows: Rows) -> list[str]:
        resampled = sum(level < 0 for level in rows.level)
        if not resampled:
            return []
        return [
            f"{resampled:,} patches were resampled to {dataset.size_px} px, which CLAM does not do: it will read squares of level 0 of the same tissue."
        ]

    return _export(dataset, out, "clam", "", "save_path", attributes, message, on_progress, should_stop)


def export_trident(
    dataset: PatchDataset,
    out: Path,
    *,
    magnification: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Write `out/patches/SLIDE_patches.h5` as TRIDENT does; `out` is what its later steps call the coords folder.

    Parameters
    ----------
    dataset
        The dataset.
    out
        Folder to make, whole or not at all.
    magnification
        Of the slides' level 0; None: the usual one nearest to 10 / (um per pixel). TRIDENT uses its ratio to
        that of the patches only.
    on_progress
        Called with (patches written, patches in all).
    should_stop
        Asked now and then; when it says so, nothing is left behind.

    Returns
    -------
    dict
        format, path, patches, files, classes {name: n}, splits {name: n}, messages.

    Raises
    ------
    DatasetError
        If `out` exists, there are no patches, they lie on no slide, a slide has no pixel size and no
        magnification is given, or stopping was asked for.
    UserError
        If the folder cannot be written.
    """
    if magnification is not None and not 0 < magnification <= 1000:
        msg = f"A magnification of {magnification:g} is not possible; give that of the slides' level 0, such as 40."
        raise DatasetError(msg)

    def attributes(rows: Rows, numbers: list[int]) -> dict[str, Any]:
        first = numbers[0]
        downsample = rows.width[first] / dataset.size_px
        mpp = rows.mpp[first]
        full = magnification
        if full is None:
            if not math.isfinite(mpp):
                msg = f"The pixel size of {rows.slide_name(first)} is not known, and TRIDENT wants a magnification; give that of its level 0."
                raise DatasetError(msg)
            wanted = _UM_AT_1X * downsample / mpp
            full = min(_MAGNIFICATIONS, key=lambda usual: abs(math.log(usual / wanted)))
        attrs: dict[str, Any] = {
            "patch_size": dataset.size_px,
            "patch_size_level0": round(rows.width[first]),
            "level0_magnification": _plain(full),
            "target_magnification": _plain(full / downsample),
            "overlap": _overlap(dataset),
        }
        size = _slide_size(rows, first)
        if size is not None:
            attrs |= {"level0_width": size[0], "level0_height": size[1]}
        if math.isfinite(mpp):
            attrs["mpp"] = mpp
        return attrs

    return _export(
        dataset,
        out,
        "trident",
        "_patches",
        "savetodir",
        attributes,
        lambda _: [],
        on_progress,
        should_stop,
    )


def _export(
    dataset: PatchDataset,
    out: Path,
    format_name: str,
    suffix: str,
    folder_attribute: str,
    attributes: Callable[[Rows, list[int]], dict[str, Any]],
    message: Callable[[Rows], list[str]],
    on_progress: Callable[[int, int], None] | None,
    should_stop: Callable[[], bool] | None,
) -> dict[str, Any]:
    import h5py

    rows = Rows.of(dataset)
    rows.require_places(dataset, f"coordinates for {format_name.upper()}")
    progress = Progress(len(dataset), on_progress, should_stop)
    messages = message(rows)
    names: dict[str, str] = {}
    used = Names()
    done = files = 0
    with export_folder(dataset, out) as folder:
        (folder / "patches").mkdir()
        for numbers, part in _files_of(rows):
            slide = rows.slide[numbers[0]]
            if slide not in names:
                stem = stem_on_disk(rows.slide_name(numbers[0]))
                names[slide] = used.unused(stem)
                if names[slide] != stem:
                    messages.append(
                        f"Two slides are called {stem}; the patches of the second are in {names[slide]}{suffix}.h5."
                    )
            name = names[slide]
            if part:
                name = used.unused(f"{name}_{part}")
                messages.append(
                    f"{names[slide]} has patches of different size or level; those of one kind are in {name}{suffix}.h5."
                )
            with h5py.File(folder / "patches" / f"{name}{suffix}.h5", "w") as file:
                xy = np.array([(rows.x[row], rows.y[row]) for row in numbers], np.int64)
                coords = file.create_dataset("coords", data=xy)
                said = {**attributes(rows, numbers), "name": names[slide], folder_attribute: "patches"}
                for key, value in said.items():
                    coords.attrs[key] = value
            files += 1
            done += len(numbers)
            progress.tell(done)
    return report_of(dataset, out, format_name, files, messages)


def _files_of(rows: Rows) -> Iterator[tuple[list[int], str]]:
    """Yield the numbers of the patches of each file, and what tells it from the slide's first file."""
    found: dict[str, dict[tuple[int, float], list[int]]] = {}
    for row, slide in enumerate(rows.slide):
        kinds = found.setdefault(slide, {})
        kinds.setdefault((rows.level[row], round(rows.width[row], 3)), []).append(row)
    for kinds in found.values():
        for i, ((_, width), numbers) in enumerate(kinds.items()):
            yield numbers, f"{round(width)}px" if i else ""


def _slide_size(rows: Rows, row: int) -> tuple[int, int] | None:
    entry = rows.slides.get(rows.slide[row], {})
    size = entry.get("width_px"), entry.get("height_px")
    return (int(size[0]), int(size[1])) if size[0] and size[1] else None


def _overlap(dataset: PatchDataset) -> int:
    """Return by how many of their own pixels neighbours overlap, as far as the grid says so."""
    settings = dataset.settings
    grid = settings.get("grid") or (settings.get("recipe") or {}).get("grid") or {}
    stride = grid.get("stride_px")
    return max(0, dataset.size_px - int(stride)) if isinstance(stride, (int, float)) else 0


def _plain(value: float) -> float:
    """Return a whole number as an int: some readers of these files expect one."""
    return round(value) if abs(value - round(value)) < 1e-6 else value
