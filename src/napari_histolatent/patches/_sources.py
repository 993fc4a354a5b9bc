"""Which slides, with which regions, of which patient: from a folder, or a table."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from typing import TYPE_CHECKING

from napari_histolatent.annotations import FORMATS
from napari_histolatent.errors import AnnotationError, DatasetError
from napari_histolatent.patches._plan import SlideSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SLIDE_SUFFIXES = frozenset(
    [
        ".svs",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".bif",
        ".vms",
        ".vmu",
        ".svslide",
        ".qptiff",
        ".tif",
        ".tiff",
        ".dcm",
        ".zarr",
    ]
)
COLUMNS = ("slide", "annotation", "patient", "label", "mpp", "mask", "coords")
"""Columns of a batch table; all but the first may be missing."""
_LAST_SUFFIXES = (".tif", ".tiff", ".csv")
"""A picture or a table of a slide's name may be its tissue mask or its measurements, where regions lie beside."""
_OTHER_NAMES = {"annotations": "annotation", "case": "patient", "class": "label", "coordinates": "coords"}


def annotations_for(slide: Path, annotations: Path) -> Path:
    """Return the annotation file of a slide: the path itself, or in a folder the one of the slide's name.

    Raises
    ------
    AnnotationError
        If the folder holds none for this slide, or several.
    """
    if not annotations.is_dir():
        return annotations
    suffixes = list(dict.fromkeys(suffix for known in FORMATS for suffix in known.suffixes))
    # A mask beside its slide may have the slide's own name.
    names = [f"{slide.stem}{suffix}" for suffix in suffixes]
    found = [
        candidate
        for candidate in (annotations / name for name in names)
        if candidate.is_file() and not (slide.exists() and candidate.samefile(slide))
    ]
    found = [path for path in found if path.suffix not in _LAST_SUFFIXES] or found
    if len(found) > 1:
        which = ", ".join(path.name for path in found)
        msg = f"{annotations} holds several annotations of {slide.name} ({which}); keep one of them, or name the file in a table."
        raise AnnotationError(msg)
    if found:
        return found[0]
    msg = f"{annotations} holds no annotations of {slide.name} ({', '.join(names)}); add them or leave the slide out."
    raise AnnotationError(msg)


def require_own_names(slides: Sequence[Path]) -> None:
    """Refuse slides of one name, which a folder of annotations (or masks) cannot tell apart.

    Raises
    ------
    DatasetError
        Naming two of them.
    """
    counts = Counter(slide.stem for slide in slides)
    for stem, count in counts.items():
        if count > 1:
            which = " and ".join(str(slide) for slide in slides if slide.stem == stem)
            msg = f"{which} are both called {stem}, so that a folder has one file for both; name the files of each slide in a table (CSV)."
            raise DatasetError(msg)


def slides_in(folder: Path) -> list[Path]:
    """Return the slides directly in a folder, by name.

    Raises
    ------
    DatasetError
        If there is none.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SLIDE_SUFFIXES)
    if not found:
        msg = f"{folder} holds no slide ({' '.join(sorted(SLIDE_SUFFIXES))}); name another folder, or the slides themselves."
        raise DatasetError(msg)
    return found


def read_batch(table: Path) -> list[SlideSource]:
    """Return the slides of a CSV table with the columns slide, annotation, patient, label, mpp, mask, coords.

    Paths are relative to the table's folder. Empty cells are "not given".

    Raises
    ------
    DatasetError
        If the table cannot be read, lacks the column slide, or a row is not possible; with the row's number.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except FileNotFoundError as error:
        msg = f"{table} does not exist; choose a CSV table of slides, or a folder of them."
        raise DatasetError(msg) from error
    except (OSError, UnicodeError) as error:
        msg = f"{table} cannot be read ({error}); save it as CSV in UTF-8."
        raise DatasetError(msg) from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    try:
        end = 0
        for cells in reader:
            rows.append((end + 1, cells))  # a quoted cell may hold several lines
            end = reader.line_num
    except csv.Error as error:
        msg = f"Line {reader.line_num} of {table} cannot be read as CSV ({error}); save it as CSV in UTF-8."
        raise DatasetError(msg) from error
    header = [_OTHER_NAMES.get(v.strip().lower(), v.strip().lower()) for v in rows[0][1]] if rows else []
    unknown = [name for name in header if name not in COLUMNS]
    if "slide" not in header or unknown or len(set(header)) < len(header):
        what = (
            f"the columns {', '.join(unknown)}, which mean nothing here"
            if unknown
            else f"the columns {', '.join(header) or '(none)'}"
        )
        msg = f"{table} has {what}; give it a first line with slide and any of {', '.join(COLUMNS[1:])}."
        raise DatasetError(msg)
    sources = []
    for number, cells in rows[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            msg = f"Line {number} of {table} has {len(cells)} cells, its first line names {len(header)} columns; put a name that holds a {delimiter!r} in quotes, and write an empty cell for what is not given."
            raise DatasetError(msg)
        values = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        sources.append(_source_of(values, table, number))
    if not sources:
        msg = f"{table} names no slide; add a line for each."
        raise DatasetError(msg)
    return sources


def _source_of(values: dict[str, str], table: Path, number: int) -> SlideSource:
    if not values.get("slide"):
        msg = f"Line {number} of {table} names no slide; fill it in, or remove the line."
        raise DatasetError(msg)

    def path_of(name: str) -> Path | None:
        return table.parent / values[name] if values.get(name) else None

    mpp = None
    if values.get("mpp"):
        try:
            mpp = float(values["mpp"].replace(",", "."))
        except ValueError:
            mpp = math.nan
        if not (math.isfinite(mpp) and mpp > 0):
            msg = f"Line {number} of {table} gives the pixel size {values['mpp']!r}; give µm per pixel such as 0.25, or leave it empty."
            raise DatasetError(msg)
    slide = table.parent / values["slide"]
    annotations = path_of("annotation")
    return SlideSource(
        slide=slide,
        annotations=annotations
        if annotations is None or not annotations.is_dir()
        else annotations_for(slide, annotations),
        patient=values.get("patient", ""),
        mpp=mpp,
        label=values.get("label", ""),
        mask=path_of("mask"),
        coords=path_of("coords"),
    )
