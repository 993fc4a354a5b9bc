"""Annotation formats, one module each, behind one registry; a file's format is told by its content."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

from napari_histolatent.annotations.formats._asap import ASAP
from napari_histolatent.annotations.formats._csv import CSV
from napari_histolatent.annotations.formats._darwin import DARWIN
from napari_histolatent.annotations.formats._format import Format, WriteOptions
from napari_histolatent.annotations.formats._geojson import GEOJSON, read_geojson_share
from napari_histolatent.annotations.formats._halo import HALO
from napari_histolatent.annotations.formats._imagescope import IMAGESCOPE
from napari_histolatent.annotations.formats._json import parse_json
from napari_histolatent.annotations.formats._mask import MASK
from napari_histolatent.annotations.formats._ncrf import NCRF
from napari_histolatent.annotations.formats._ndpa import NDPA
from napari_histolatent.annotations.formats._xml import parse_xml
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations._marks import SourceFile
    from napari_histolatent.slides import SlideInfo

__all__ = ["FORMATS", "Format", "WriteOptions", "format_for", "formats_written", "read_file", "read_share"]

FORMATS: tuple[Format, ...] = (ASAP, GEOJSON, IMAGESCOPE, HALO, NDPA, NCRF, DARWIN, MASK, CSV)
"""In the order in which a document is asked what it is; of formats with one suffix, the first is written."""

_MAX_BYTES = 1 << 29
"""Half a gigabyte of JSON takes several GB to parse: beyond that a file is refused before it is read."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def formats_written() -> tuple[Format, ...]:
    """Return the formats that can be written."""
    return tuple(known for known in FORMATS if known.write is not None)


def format_for(path: Path, name: str | None = None) -> Format:
    """Return the format to write a file in: the named one, or the first that its suffix belongs to.

    Raises
    ------
    AnnotationError
        If there is none, or it cannot be written.
    """
    names = ", ".join(known.name for known in formats_written())
    if name is not None:
        for known in formats_written():
            if known.name == name:
                return known
        msg = f"{name!r} is no format that can be written; choose one of {names}."
        raise AnnotationError(msg)
    for known in formats_written():
        if path.suffix.lower() in known.suffixes:
            return known
    suffixes = ", ".join(sorted({s for known in formats_written() for s in known.suffixes}))
    msg = f"The suffix of {path.name} tells no format; name the file with one of {suffixes}."
    raise AnnotationError(msg)


def read_file(path: Path, slide: SlideInfo | None = None) -> SourceFile:
    """Return what an annotation file says, in the format that its content shows.

    Raises
    ------
    AnnotationError
        If it is missing, too large, damaged, of no known format, or needs a slide that was not given.
    """
    document, container = _parsed(path)
    for known in FORMATS:
        if known.container == container and known.recognises(document):
            return known.read(document, slide)
    msg = f"{path.name} is {_called(document, container)}, but none of the annotation formats that are read: {_titles()}."
    raise AnnotationError(msg)


def read_share(path: Path, share: tuple[int, int]) -> SourceFile | None:
    """Return what one share of a file says, such as (0, 2), the first half; None if it has to be read as a whole.

    Raises
    ------
    AnnotationError
        If it is JSON nested too deep.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None  # what is wrong with it, the reading as a whole says
    if data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] not in (b"{", b"["):
        return None
    return read_geojson_share(data, path.name, share)


def _parsed(path: Path) -> tuple[Any, str]:
    if not path.is_file():
        what = (
            "is a folder"
            if path.is_dir()
            else "does not exist"
            if not path.exists()
            else "is no regular file"
        )
        msg = f"{path} {what}; give the path of an annotation file ({_titles()})."
        raise AnnotationError(msg)
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        if head.startswith(_TIFF):
            return path, "tiff"
        size = path.stat().st_size
        if size > _MAX_BYTES:
            msg = f"{path.name} has {size:,} bytes, more than the {_MAX_BYTES:,} that can be read; split it."
            raise AnnotationError(msg)
        data = path.read_bytes()
    except OSError as error:
        msg = f"{path.name} cannot be read ({error.strerror or error}); check that the file is there and may be read."
        raise AnnotationError(msg) from error
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not start:
        msg = f"{path.name} is empty; export the annotations again."
        raise AnnotationError(msg)
    if start.startswith(b"<") or (head.startswith(_UTF16) and b"<" in head[2:4]):
        return parse_xml(data, path.name), "xml"
    if start[:1] in (b"{", b"["):
        return parse_json(data, path.name), "json"
    return path, "csv"


def _called(document: Any, container: str) -> str:
    if container == "xml":
        return f"XML with the root <{document.tag}>"
    if container == "json":
        keys = (
            ", ".join(map(str, list(document)[:5])) if isinstance(document, dict) else type(document).__name__
        )
        return f"JSON ({keys})"
    return (
        "a TIFF that is no label mask"
        if container == "tiff"
        else "neither XML, JSON, TIFF nor a table of points"
    )


def _titles() -> str:
    return ", ".join(known.title for known in FORMATS)
