"""A dataset of picture files: a folder for each class, or any folder with a table of labels."""

from __future__ import annotations

import csv
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from napari_histolatent._files import digest_of_file
from napari_histolatent._pictures import open_picture
from napari_histolatent.errors import DatasetError, UserError, passing_through
from napari_histolatent.patches._split import SPLITS, SplitSpec, split_by_group
from napari_histolatent.patches._write import require_free, write_dataset
from napari_histolatent.patches.formats._picture import provenance_in
from napari_histolatent.slides._resample import area_averaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.patches._store import StoreSpec

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
ORIGIN = "file"
"""What the index says of a patch that came as a picture."""
_BATCH = 64
_THREADS = 4
_MAX_SIDE_PX = 1 << 14
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "unsplit": "",
}
"""Folder names above the classes that say the split."""
_MODES = frozenset(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr"])
"""Pillow's kinds of pictures with 8 bits a channel: of the others a conversion would cut off values."""


@dataclass(frozen=True)
class _Picture:
    """A file that becomes a patch."""

    name: str
    """Relative to the folder, with forward slashes."""
    label: str
    group: str = ""
    split: str = ""
    digest: str = ""
    size_px: tuple[int, int] = (0, 0)
    said: tuple[tuple[str, Any], ...] = ()
    """What the picture itself says of its origin (PNG files of an export)."""


def import_folder(
    folder: Path,
    *,
    labels: Path | None = None,
    out: Path,
    split: SplitSpec | None = None,
    mpp: float | None = None,
    classes: Sequence[str] | None = None,
    label_column: str | None = None,
    group_column: str = "group",
    size_px: int | None = None,
    store: StoreSpec | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Make a dataset of picture files, whole or not at all; the same files give the same dataset.

    Without a table the pictures are `folder/CLASS/**/*.png` (jpg, jpeg, tif, tiff), or
    `folder/SPLIT/CLASS/...` where all folders are called train, val, test and the like. With a table its rows
    name them, their class and their group: patches of one group (patient, slide, source tile) are kept in one
    split. PNG files that `export_image_folder` wrote say their patient and slide themselves.

    Parameters
    ----------
    folder
        Where the pictures are.
    labels
        CSV with a header (UTF-8): `file` (relative to `folder`), a column of labels, and perhaps groups and
        `split` (train, val, test).
    out
        Folder of the dataset to make.
    split
        Shares of train, val and test, by group; None: the splits that the folders or the table
        say, else the default shares.
    mpp
        Micrometres per pixel of the pictures, if known; with `size_px` it is scaled.
    classes
        Only these, in this order; None: all, sorted.
    label_column
        Column of the labels; None: `label`, else `class`.
    group_column
        Column of the groups; it becomes the patient.
    size_px
        Side to bring larger pictures to by area averaging; None: as they are, which has to be one size.
    store
        How pixels are kept; lossless if None.
    overwrite
        Whether a dataset that is there already is replaced.
    on_progress
        Called with (pictures stored, pictures in all).
    should_stop
        Asked now and then; when it says so, nothing is left behind.

    Returns
    -------
    dict
        path, patches, classes {name: n}, splits {name: n}, groups, size_px, mpp, not_listed, messages.

    Raises
    ------
    DatasetError
        If there is nothing to import, a picture is missing, unreadable, not square or of another size, the
        table lacks a column, names a file twice or one outside the folder, `out` exists, or stopping was asked
        for.
    UserError
        If the dataset cannot be written.
    """
    require_free(out, overwrite=overwrite)
    _require_numbers(mpp, size_px)
    if not folder.is_dir():
        msg = f"{folder} {'is a file' if folder.exists() else 'does not exist'}; give the folder that holds the pictures."
        raise DatasetError(msg)
    if labels is None:
        pictures, not_listed = _in_class_folders(folder), 0
    else:
        pictures, not_listed = _in_table(
            folder, labels, label_column, group_column, reads_splits=split is None
        )
    pictures, classes = _of_classes(pictures, classes, folder)
    pictures = _with_heads(folder, pictures, should_stop)
    own_px = _common_size(pictures, size_px)
    side = size_px or own_px
    if mpp is not None:
        mpp *= own_px / side

    messages: list[str] = []
    by_folder = split is None and any(picture.split for picture in pictures)
    splits = _splits(pictures, classes, split, messages)
    groups = [_group_of(picture) for picture in pictures]
    synthetic = sum(dict(picture.said).get("synthetic") is True for picture in pictures)
    if synthetic:
        messages.append(
            f"{synthetic:,} of the {len(pictures):,} pictures are SYNTHETIC, as they say themselves."
        )
    settings: dict[str, Any] = {
        "mpp": mpp,
        "slides": _slides_of(pictures),
        "split": None if by_folder else asdict(split or SplitSpec()),
        "imported": {
            "from": "folder of pictures",
            "folder": str(folder),
            "labels": None if labels is None else str(labels),
            "resized_from_px": own_px if side != own_px else None,
            "synthetic": synthetic,
        },
    }
    write_dataset(
        out,
        table=_table(pictures, splits, side, mpp),
        batches=_batches(folder, pictures, side, on_progress, should_stop),
        size_px=side,
        classes=classes,
        settings=settings,
        store=store,
        overwrite=overwrite,
    )
    return {
        "path": str(out),
        "patches": len(pictures),
        "classes": dict(sorted(Counter(picture.label for picture in pictures).items())),
        "splits": dict(sorted(Counter(splits).items())),
        "groups": len(set(groups)),
        "size_px": side,
        "mpp": mpp,
        "not_listed": not_listed,
        "messages": messages,
    }


def _require_numbers(mpp: float | None, size_px: int | None) -> None:
    if mpp is not None and not 0 < mpp < 1000:
        msg = f"A pixel size of {mpp:g} um is not possible; give micrometres per pixel, such as 0.5."
        raise DatasetError(msg)
    if size_px is not None and not 1 <= size_px <= _MAX_SIDE_PX:
        msg = f"A side of {size_px} px is not possible; give 1 to {_MAX_SIDE_PX:,}."
        raise DatasetError(msg)


# --- which files


def _in_class_folders(folder: Path) -> list[_Picture]:
    parents = _subfolders(folder)
    has_splits = bool(parents) and all(parent.name.lower() in _SPLIT_FOLDERS for parent in parents)
    found = []
    if has_splits:
        for parent in parents:
            split = _SPLIT_FOLDERS[parent.name.lower()]
            for of_class in _subfolders(parent):
                found += [_Picture(name, of_class.name, split=split) for name in _files_in(folder, of_class)]
    else:
        for of_class in parents:
            found += [_Picture(name, of_class.name) for name in _files_in(folder, of_class)]
    if not found:
        kinds = ", ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
        lies_loose = any(_is_picture(path) for path in folder.iterdir())
        msg = (
            f"The pictures of {folder} lie in no folder of a class; make a folder for each class, or give a table of labels (--labels)."
            if lies_loose
            else f"{folder} holds no folder with pictures ({kinds}); give the folder above the classes' own."
        )
        raise DatasetError(msg)
    return sorted(found, key=lambda picture: picture.name)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))
    )


def _files_in(folder: Path, of_class: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in of_class.rglob("*") if _is_picture(path)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _in_table(
    folder: Path, labels: Path, label_column: str | None, group_column: str, *, reads_splits: bool
) -> tuple[list[_Picture], int]:
    found: dict[str, tuple[int, _Picture]] = {}
    with _table_rows(labels) as reader:
        header = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        label_column = label_column or ("label" if "label" in header else "class")
        for name in ("file", label_column):
            if name not in header:
                msg = f"{labels} has no column {name!r} (it has {', '.join(header) or 'none'}); name the columns file and label (or class), and perhaps group."
                raise DatasetError(msg)
        for row in reader:
            line = reader.line_num
            name = _name_within(folder, row["file"] or "", f"{labels}, line {line}")
            label = (row[label_column] or "").strip()
            if not label:
                msg = f"{labels}, line {line}, gives {name} no {label_column}; fill it in or remove the line."
                raise DatasetError(msg)
            if name in found:
                msg = f"{labels} names {name} twice (lines {found[name][0]} and {line}); remove one of them."
                raise DatasetError(msg)
            split = (row.get("split") or "").strip().lower() if reads_splits else ""
            if split and split not in _SPLIT_FOLDERS:
                msg = f"{labels}, line {line}, has the split {split!r}; write train, val or test, or give shares to split anew."
                raise DatasetError(msg)
            picture = _Picture(
                name,
                label,
                group=(row.get(group_column) or "").strip(),
                split=_SPLIT_FOLDERS.get(split, ""),
            )
            found[name] = (line, picture)
    if not found:
        msg = f"{labels} names no picture; add a line for each."
        raise DatasetError(msg)
    missing = [name for name in sorted(found) if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        msg = f"{labels} names {missing[0]}{more}, which {'are' if more else 'is'} not in {folder}; give the folder that the names are relative to."
        raise DatasetError(msg)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if _is_picture(path)}
    return [found[name][1] for name in sorted(found)], len(there - set(found))


@contextmanager
def _table_rows(labels: Path) -> Iterator[csv.DictReader[str]]:
    try:
        with labels.open(encoding="utf-8-sig", newline="") as file:
            yield csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        what = "is no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        msg = f"The table of labels {labels} cannot be read ({what}); give a CSV file with the columns file and label."
        raise DatasetError(msg) from error


def _name_within(folder: Path, text: str, where: str) -> str:
    text = text.strip()
    if not text or "\0" in text:
        msg = f"{where}, names no file; fill in the column file or remove the line."
        raise DatasetError(msg)
    if "\\" in text and not (folder / text).is_file():
        text = text.replace("\\", "/")  # a table from Windows
    # Compared as they are written: a folder that is itself a link stays usable.
    root = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(root, text))
    if os.path.commonpath([root, path]) != root or path == root:
        msg = f"{where}, names {text}, which lies outside {folder}; give names relative to that folder."
        raise DatasetError(msg)
    return Path(os.path.relpath(path, root)).as_posix()


def _of_classes(
    pictures: list[_Picture], classes: Sequence[str] | None, folder: Path
) -> tuple[list[_Picture], list[str]]:
    there = sorted({picture.label for picture in pictures})
    if classes is None:
        return pictures, there
    for name in classes:
        if name not in there:
            msg = f"No picture of {folder} is of class {name!r}; choose among {', '.join(there)}."
            raise DatasetError(msg)
    wanted = list(dict.fromkeys(classes))
    return [picture for picture in pictures if picture.label in wanted], wanted


# --- what is in them


def _with_heads(
    folder: Path, pictures: list[_Picture], should_stop: Callable[[], bool] | None
) -> list[_Picture]:
    found: list[_Picture] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(pictures), _BATCH):
            if should_stop is not None and passing_through(should_stop)():
                msg = f"Importing was stopped before any of {len(pictures):,} pictures was stored."
                raise DatasetError(msg)
            found += pool.map(lambda picture: _with_head(folder, picture), pictures[start : start + _BATCH])
    return found


def _with_head(folder: Path, picture: _Picture) -> _Picture:
    path = folder / picture.name
    try:
        with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
            size, mode = image.size, image.mode
            is_deep = _is_deep(image)
            said = provenance_in(image)
        digest = digest_of_file(path)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    if mode not in _MODES or is_deep:
        msg = f"{path} has more than 8 bits a channel, of which the lower ones would be lost; save it as 8-bit RGB."
        raise DatasetError(msg)
    if max(size) > _MAX_SIDE_PX:
        msg = f"{path} has {size[0]:,} x {size[1]:,} px, more than a patch can have ({_MAX_SIDE_PX:,}); cut slides with `histolatent extract`."
        raise DatasetError(msg)
    return replace(picture, digest=digest, size_px=size, said=tuple(said.items()))


def _is_deep(image: Image.Image) -> bool:
    """Whether Pillow, which has no RGB of 16 bits, would take the upper 8 bits and say nothing."""
    bits = getattr(image, "tag_v2", {}).get(258, (8,))  # TIFF's BitsPerSample
    tiles = getattr(image, "tile", ())
    return max(bits, default=8) > 8 or any(";16" in str(tile[3]) for tile in tiles)


def _unreadable(path: Path, error: BaseException) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read as a picture ({error}); save it again as PNG, JPEG or TIFF, or take it out of the folder."
    )


def _common_size(pictures: list[_Picture], size_px: int | None) -> int:
    """Return the side that all pictures have, or, if they are resized, that of the first."""
    first = pictures[0]
    for picture in pictures:
        width, height = picture.size_px
        if width != height:
            msg = f"{picture.name} has {width} x {height} px, but patches are square; cut it to a square."
            raise DatasetError(msg)
        if size_px is None and picture.size_px != first.size_px:
            msg = f"{picture.name} has {width} x {height} px, {first.name} {first.size_px[0]} x {first.size_px[1]}; bring all to one size, or give the size to resize them to."
            raise DatasetError(msg)
        if size_px is not None and width < size_px:
            msg = f"{picture.name} has {width} x {height} px, fewer than the {size_px} asked for; give a size that no picture is smaller than."
            raise DatasetError(msg)
    return first.size_px[0]


def _batches(
    folder: Path,
    pictures: list[_Picture],
    size_px: int,
    on_progress: Callable[[int, int], None] | None,
    should_stop: Callable[[], bool] | None,
) -> Iterator[NDArray[np.uint8]]:
    def read(picture: _Picture) -> NDArray[np.uint8]:
        try:
            pixels, _ = open_picture(folder / picture.name)
        except UserError as error:
            raise _unreadable(folder / picture.name, error.__cause__ or error) from error
        if pixels.shape[:2] != picture.size_px[::-1]:
            msg = f"{folder / picture.name} was changed during the import; import it again."
            raise DatasetError(msg)
        if pixels.shape[0] == size_px:
            return pixels
        return area_averaged(pixels, (0.0, 0.0), picture.size_px, (size_px, size_px))

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(pictures), _BATCH):
            yield np.stack(list(pool.map(read, pictures[start : start + _BATCH])))
            done = min(start + _BATCH, len(pictures))
            if should_stop is not None and passing_through(should_stop)():
                msg = f"Importing was stopped after {done:,} of {len(pictures):,} pictures; nothing was kept."
                raise DatasetError(msg)
            if on_progress is not None:
                passing_through(on_progress)(done, len(pictures))


# --- the index


def _origin(picture: _Picture) -> dict[str, Any]:
    """Return what is known of where a patch was cut: from its own text, of which nothing is taken unchecked."""
    said = dict(picture.said)
    place: list[Any] = [said.get(key) for key in ("left", "top", "width_level0_px", "height_level0_px")]
    left, top, width, height = place
    digest, patient = said.get("slide_digest"), said.get("patient")
    mpp: Any = said.get("mpp")
    has_digest = isinstance(digest, str) and 0 < len(digest) <= 128
    has_place = (
        has_digest
        and all(type(v) is int and abs(v) < 1 << 40 for v in (left, top))
        and all(type(v) in (int, float) and 0 < v < 1e9 for v in (width, height))
    )
    return {
        "slide": digest if has_digest else picture.digest,
        "patient": patient if isinstance(patient, str) and len(patient) <= 1000 else "",
        "x": left if has_place else 0,
        "y": top if has_place else 0,
        "width_level0_px": float(width) if has_place else np.nan,
        "height_level0_px": float(height) if has_place else np.nan,
        "mpp": float(mpp) if type(mpp) in (int, float) and 0 < mpp < 1000 else np.nan,
    }


def _group_of(picture: _Picture) -> str:
    """Return who stays together: the table's group, the patient, the slide, else the picture (and its copies)."""
    origin = _origin(picture)
    return str(picture.group or origin["patient"] or origin["slide"])


def _splits(
    pictures: list[_Picture], classes: list[str], spec: SplitSpec | None, messages: list[str]
) -> list[str]:
    groups = [_group_of(picture) for picture in pictures]
    if spec is None and any(picture.split for picture in pictures):
        splits = [picture.split for picture in pictures]
        of_group: dict[str, set[str]] = {}
        for group, split in zip(groups, splits, strict=True):
            of_group.setdefault(group, set()).add(split)
        torn = sorted(group for group, several in of_group.items() if len(several - {""}) > 1)
        if torn:
            messages.append(
                f"{len(torn):,} groups (the first: {torn[0][:40]}) are in more than one split, as the folders or the table say, so a score will be too good; give shares to split by group anew."
            )
        return splits
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[picture.label] for picture in pictures], np.int64)
    assigned = split_by_group(groups, labels, spec or SplitSpec())
    splits = [SPLITS[i] for i in assigned]
    if not any(picture.group or dict(picture.said).get("slide_digest") for picture in pictures):
        messages.append(
            "No groups are known, so the pictures were split one by one; if several are of one patient, a score will be too good: give a table with a column group."
        )
    trained = {picture.label for picture, split in zip(pictures, splits, strict=True) if split == SPLITS[0]}
    messages.extend(
        f"Class {name!r} has no picture in the training split: its pictures are of too few groups."
        for name in classes
        if name not in trained
    )
    return splits


def _table(pictures: list[_Picture], splits: list[str], size_px: int, mpp: float | None) -> pa.Table:
    origins = [_origin(picture) for picture in pictures]
    columns: dict[str, list[Any]] = {name: [origin[name] for origin in origins] for name in origins[0]}
    columns["patient"] = [
        picture.group or origin["patient"] for picture, origin in zip(pictures, origins, strict=True)
    ]
    if mpp is not None:
        columns["mpp"] = [mpp] * len(pictures)
    columns["downsample"] = [width / size_px for width in columns["width_level0_px"]]
    columns["label"] = [picture.label for picture in pictures]
    columns["split"] = splits
    columns["origin"] = [ORIGIN] * len(pictures)
    return pa.table(columns)


def _slides_of(pictures: list[_Picture]) -> list[dict[str, Any]]:
    """Return the sources as a dataset names its slides: each once, a picture of no slide as one of its own."""
    slides: dict[str, dict[str, Any]] = {}
    for picture in pictures:
        said, origin = dict(picture.said), _origin(picture)
        name = said.get("slide")
        is_slide = origin["slide"] != picture.digest and isinstance(name, str) and name
        entry: dict[str, Any] = {
            "path": "" if is_slide else picture.name,
            "digest": origin["slide"],
            "name": name if is_slide else PurePosixPath(picture.name).stem,
            "patient": picture.group or origin["patient"] or None,
        }
        if said.get("synthetic") is True:
            entry["synthetic"] = True
        slides.setdefault(origin["slide"], entry)
    return list(slides.values())
