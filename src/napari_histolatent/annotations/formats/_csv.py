"""Tables of points: a header with x and y (pixels or micrometres), or bare columns x, y and perhaps a class."""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_histolatent.annotations._chunks import collecting_later
from napari_histolatent.annotations._marks import Mark, SourceFile, number_of
from napari_histolatent.annotations._region import UNCLASSIFIED
from napari_histolatent.annotations.formats._format import Format, WriteOptions
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.slides import SlideInfo

_DELIMITERS = "\t;,"
_HEAD_BYTES = 1 << 16
_PLACE_WORDS = frozenset(
    ("centroid", "center", "centre", "coordinate", "coord", "pos", "position")
) | frozenset(("location", "point", "level", "level0", "px", "pixel", "pixels"))
_CLASSES = ("class", "classification", "class name", "label", "cell type", "category", "type", "group")
_NAMES = ("name",)
_IDS = ("object id", "id", "uuid")


@dataclass(frozen=True)
class _Columns:
    """Which column is what."""

    x: int
    y: int
    is_um: bool = False
    class_name: int | None = None
    name: int | None = None
    id: int | None = None
    has_header: bool = True


def recognises_points(path: Path) -> bool:
    """Whether a file begins with a header of x and y, or with a row of numbers."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in head and not is_utf16:
        return False
    return _layout(_first_line(_decoded(head))) is not None


def read_points(path: Path, slide: SlideInfo | None = None) -> SourceFile:
    """Return one mark per row.

    Raises
    ------
    AnnotationError
        If the columns are in micrometres and the slide's pixel size is not known, or it is no table after all.
    """
    text = _decoded(path.read_bytes())
    layout = _layout(_first_line(text))
    if layout is None:
        msg = f"{path.name} has no columns x and y; name them in its first line."
        raise AnnotationError(msg)
    delimiter, columns = layout
    scale_x, scale_y = _um_per_px(path.name, slide) if columns.is_um else (1.0, 1.0)
    marks: list[Mark] = []
    dropped: list[str] = []
    rows = csv.reader(_lines(text), delimiter=delimiter)
    try:
        if columns.has_header:
            next(row for row in rows if _is_filled(row))
        with collecting_later():
            for row in rows:
                if not _is_filled(row):
                    continue
                x, y = (_number(row, column) for column in (columns.x, columns.y))
                if not (np.isfinite(x) and np.isfinite(y)):
                    wrong = columns.y if np.isfinite(x) else columns.x
                    what = f'"{row[wrong]}" is not a number' if wrong < len(row) else "it has too few columns"
                    dropped.append(f"line {rows.line_num:,} dropped: {what}")
                    continue
                marks.append(
                    Mark(
                        where=f"line {rows.line_num:,}",
                        kind="points",
                        rings=(np.array([[x / scale_x, y / scale_y]]),),
                        class_name=_cell(row, columns.class_name),
                        name=_cell(row, columns.name),
                        id=_cell(row, columns.id),
                    )
                )
    except csv.Error as error:
        msg = f"{path.name} is not a table: {error} in line {rows.line_num:,}; save it as CSV again."
        raise AnnotationError(msg) from error
    messages = (
        (f"Coordinates were in micrometres; they were divided by {scale_x:g} x {scale_y:g} µm per pixel.",)
        if columns.is_um
        else ()
    )
    return SourceFile(format="csv-points", marks=tuple(marks), dropped=tuple(dropped), messages=messages)


def write_points(path: Path, annotations: Annotations, options: WriteOptions) -> None:
    """Write the columns id, name, class, x and y in level-0 pixels; a region of many points takes a row for each.

    Raises
    ------
    AnnotationError
        If some regions are not points.
    """
    others = [r for r in annotations.regions if r.geometry.geom_type not in ("Point", "MultiPoint")]
    if others:
        areas = sum(region.is_area for region in others)
        lines = len(others) - areas
        counts = [f"{count:,} {what}" for count, what in ((areas, "areas"), (lines, "lines")) if count]
        msg = (
            f"A table of points cannot hold the {' and '.join(counts)} among these annotations; "
            "write GeoJSON, or leave them out."
        )
        raise AnnotationError(msg)
    dx, dy = options.offset_xy
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "name", "class", "x", "y"])
        for region in annotations.regions:
            class_name = "" if region.class_name == UNCLASSIFIED else region.class_name
            for x, y in shapely.get_coordinates(region.geometry).tolist():
                writer.writerow([region.id, region.name, class_name, repr(x + dx), repr(y + dy)])


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")  # Excel's "Unicode text"
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A head may be cut within a character; anything else is the encoding of older programs.
        if error.reason == "unexpected end of data":
            return data[: error.start].decode("utf-8-sig")
        return data.decode("latin-1")


def _first_line(text: str) -> str:
    return next((line.rstrip("\r\n") for line in _lines(text) if line.strip()), "")


def _lines(text: str) -> io.StringIO:
    # str.splitlines would also part what csv writes unquoted, such as U+2028 or a form feed in a name.
    return io.StringIO(text, newline="")


def _layout(line: str) -> tuple[str, _Columns] | None:
    """Return the delimiter and the columns of a table by its first line, or None where it is none."""
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:
            continue
        columns = _named_columns(cells) or _bare_columns(cells)
        if columns is not None:
            return delimiter, columns
    return None


def _named_columns(cells: Sequence[str]) -> _Columns | None:
    places: dict[tuple[str, bool], int] = {}
    for index, cell in enumerate(cells):
        place = _place(cell)
        if place is not None:
            places.setdefault(place, index)
    for is_um in (False, True):
        if ("x", is_um) in places and ("y", is_um) in places:
            words = [" ".join(re.findall(r"[a-z0-9]+", cell.lower())) for cell in cells]
            return _Columns(
                x=places["x", is_um],
                y=places["y", is_um],
                is_um=is_um,
                class_name=_first_of(_CLASSES, words),
                name=_first_of(_NAMES, words),
                id=_first_of(_IDS, words),
            )
    return None


def _place(header: str) -> tuple[str, bool] | None:
    """Return which axis a header names and whether in micrometres, or None where it names something else."""
    # The micro sign, the Greek mu, and the micro sign of UTF-8 read as Latin-1.
    text = re.sub(r"(Âµ|Î¼|µ|\u03bc)m\b", " um ", header).lower()
    words = set(re.findall(r"[a-z0-9]+", text)) - _PLACE_WORDS
    units = words & {"um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"}
    axes = words - units
    return (axes.pop(), bool(units)) if axes in ({"x"}, {"y"}) else None


def _bare_columns(cells: Sequence[str]) -> _Columns | None:
    if len(cells) < 2 or not all(np.isfinite(number_of(cell)) for cell in cells[:2]):
        return None
    return _Columns(x=0, y=1, class_name=2 if len(cells) > 2 else None, has_header=False)


def _first_of(wanted: Sequence[str], words: Sequence[str]) -> int | None:
    return next((words.index(name) for name in wanted if name in words), None)


def _um_per_px(file_name: str, slide: SlideInfo | None) -> tuple[float, float]:
    if slide is None or slide.mpp_x is None or slide.mpp_y is None:
        why = "no slide was given" if slide is None else f"{slide.path.name} does not state its pixel size"
        msg = (
            f"{file_name} has its coordinates in micrometres and {why}; give the slide (and --slide-mpp), "
            "or export the coordinates in pixels."
        )
        raise AnnotationError(msg)
    return slide.mpp_x, slide.mpp_y


def _is_filled(row: Sequence[str]) -> bool:
    return any(cell.strip() for cell in row)


def _number(row: Sequence[str], column: int) -> float:
    return number_of(row[column]) if column < len(row) else float("nan")


def _cell(row: Sequence[str], column: int | None) -> str:
    return row[column].strip() if column is not None and column < len(row) else ""


CSV = Format(
    name="csv-points",
    title="CSV of points",
    suffixes=(".csv",),
    container="csv",
    recognises=recognises_points,
    read=read_points,
    write=write_points,
)
