"""What the XML formats share: a parser that refuses hostile and broken files, rings of elements, and writing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import shapely
from defusedxml.common import DefusedXmlException  # type: ignore[import-untyped, unused-ignore]
from defusedxml.ElementTree import XMLParser as DefusedParser  # type: ignore[import-untyped, unused-ignore]
from shapely.geometry import Polygon

from napari_histolatent.annotations._marks import number_of
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.annotations._marks import RGB
    from napari_histolatent.annotations._region import Annotations, Region
    from napari_histolatent.annotations.formats._format import WriteOptions

_CHUNK = 1 << 16
"""Bytes per call of the C parser: between two of them other threads get their turn."""
_MAX_DEPTH = 64
_MAX_ELEMENTS = 20_000_000
_PREAMBLE = re.compile(rb"(?:\xef\xbb\xbf|\s)*")
_DECLARED = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([^"'<>]*)["']""")
_UTF8_NAMES = ("utf-8", "utf8", "ascii", "us-ascii")
_ENDED_EARLY = (3, 5, 6)
"""Expat's codes for no element, an unclosed token and half a character."""


def parse_xml(data: bytes, file_name: str) -> Element:
    """Return the root element of an XML file's bytes.

    A byte order mark or blanks before the declaration are passed over; UTF-16 is understood, and so is UTF-8 whose
    declaration calls it UTF-16 (as .NET writes it).

    Raises
    ------
    AnnotationError
        If the file is empty, not well-formed, broken off, not in the encoding it declares, has a document type
        (through which entity bombs and other files come in), or is nested or large beyond any annotation file.
    """
    body, line = _as_utf8(data, file_name)
    if not body:
        msg = f"{file_name} is empty ({len(data)} bytes); export the annotations again."
        raise AnnotationError(msg)
    # The tree takes some 500 bytes per element, so they are counted before it is built.
    n_elements = body.count(b"<") - body.count(b"</")
    if n_elements > _MAX_ELEMENTS:
        msg = f"{file_name} has {n_elements:,} XML elements, more than the {_MAX_ELEMENTS:,} that can be read; split it."
        raise AnnotationError(msg)
    try:
        _check_prolog(body)
        root = _tree(body)
    except DefusedXmlException as error:
        name = getattr(error, "name", None) or "of no name"
        msg = (
            f"{file_name} declares a document type (DOCTYPE {name}), through which other files and entity bombs "
            "can come in; remove that declaration, or export the annotations again."
        )
        raise AnnotationError(msg) from error
    except ET.ParseError as error:
        raise AnnotationError(_reason(error, body, line, file_name)) from error
    if _is_deep(root):
        msg = (
            f"{file_name} nests its XML elements more than {_MAX_DEPTH} deep, which no annotation format does; "
            "export the annotations again."
        )
        raise AnnotationError(msg)
    return root


def _as_utf8(data: bytes, file_name: str) -> tuple[bytes, int]:
    """Return the document in UTF-8 without what precedes it, and the lines that this took off."""
    wide = _wide_encoding(data)
    if wide:
        text = _decoded(data, wide, file_name)
        return text.lstrip("\ufeff \t\r\n").encode(), 0
    found = _PREAMBLE.match(data)
    start = found.end() if found else 0
    body = data[start:] if start else data
    declared = _DECLARED.match(body)
    encoding = declared.group(1).decode("ascii", "replace").strip().lower() if declared else "utf-8"
    if encoding in _UTF8_NAMES or encoding.startswith("utf-16"):
        return body, data[:start].count(b"\n")
    return _decoded(body, encoding, file_name).encode(), data[:start].count(b"\n")


def _wide_encoding(data: bytes) -> str | None:
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return "utf-16"
    return {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(data[:2])


def _decoded(data: bytes, encoding: str, file_name: str) -> str:
    try:
        text = data.decode(encoding)
        text.encode()
    except UnicodeError as error:
        msg = (
            f"{file_name} is not in the encoding {encoding} that it claims ({error}); save it as UTF-8, or name its "
            "real encoding in its first line."
        )
        raise AnnotationError(msg) from error
    except (LookupError, ValueError) as error:  # a name with a zero in it
        shown = encoding.replace("\0", " ")
        msg = f'{file_name} declares the encoding "{shown}", which is not known; save it as UTF-8.'
        raise AnnotationError(msg) from error
    return text


class _Prolog:
    """Notes where the root element begins."""

    is_over = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.is_over = True


def _check_prolog(body: bytes) -> None:
    """Have defusedxml refuse a document type.

    A document type can only stand before the root element, anywhere else it is not well-formed. So defusedxml, which
    calls Python for every element, reads up to there, and the C parser the rest: that is four times as fast.
    """
    prolog = _Prolog()
    parser = DefusedParser(
        target=prolog, encoding="utf-8", forbid_dtd=True, forbid_entities=True, forbid_external=True
    )
    # Small steps at first: what a document type holds is then not even parsed. Expat reads an unfinished comment
    # anew at each step, so the steps grow.
    start, step = 0, 64
    while start < len(body) and not prolog.is_over:
        parser.feed(body[start : start + step])
        start, step = start + step, min(step * 2, _CHUNK)


def _tree(body: bytes) -> Element:
    parser = ET.XMLParser(encoding="utf-8")
    for start in range(0, len(body), _CHUNK):
        parser.feed(body[start : start + _CHUNK])
    root: Element = parser.close()
    return root


def _reason(error: ET.ParseError, body: bytes, lines_before: int, file_name: str) -> str:
    line, column = error.position
    line += lines_before
    if error.code in _ENDED_EARLY:
        return f"{file_name} breaks off in line {line} ({_said(error)}); the file is not complete: copy or export it again."
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        line = body.count(b"\n", 0, wrong.start) + 1 + lines_before
        return (
            f"{file_name} has a character in line {line} that is not UTF-8 (byte 0x{body[wrong.start]:02X}), although "
            "the file claims to be; save it as UTF-8, or name its real encoding in its first line, such as "
            'encoding="iso-8859-1".'
        )
    if not body.startswith(b"<"):
        return f"{file_name} is not XML ({_said(error)}); choose the annotation file, or export it again."
    return (
        f"{file_name} is not well-formed XML in line {line}, column {column + 1} ({_said(error)}); "
        "mend that line, or export the annotations again."
    )


def _said(error: ET.ParseError) -> str:
    return str(error.msg).partition(": line ")[0]


def _is_deep(root: Element) -> bool:
    level = [root]
    for _ in range(_MAX_DEPTH - 1):
        level = [child for element in level for child in element if len(child)]
        if not level:
            return False
    return True


# Reading


def ring_from(xs: Sequence[str | None], ys: Sequence[str | None]) -> NDArray[np.float64]:
    """Return coordinates given as texts as an array of shape (n, 2), NaN where one is missing or no number."""
    ring = np.empty((len(xs), 2), np.float64)
    for axis, texts in enumerate((xs, ys)):
        try:
            ring[:, axis] = np.fromiter(map(float, texts), np.float64, len(texts))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            ring[:, axis] = [number_of(text) for text in texts]
    return ring


def ring_of_attributes(points: Sequence[Element]) -> NDArray[np.float64]:
    """Return the X and Y attributes of elements as an array of shape (n, 2)."""
    return ring_from([point.get("X") for point in points], [point.get("Y") for point in points])


def text_of(element: Element, attribute: str) -> str:
    """Return an attribute without blanks around it, empty where it is missing."""
    return (element.get(attribute) or "").strip()


def quoted(text: str) -> str:
    """Return a name as messages show it, with a blank before it; empty where there is none."""
    return f' "{text}"' if text else ""


# Writing


@dataclass(frozen=True, slots=True)
class WrittenShape:
    """One ring, line or set of points, as a format without nested rings writes it."""

    region: Region
    kind: Literal["outline", "hole", "line", "points"]
    xy: NDArray[np.float64]
    """Shape (n, 2), level-0 pixels with the offset added; outlines and holes are not closed."""


def shapes_to_write(
    annotations: Annotations, options: WriteOptions, *, holes_cut_all: bool
) -> Iterator[WrittenShape]:
    """Yield what is to be written, each polygon's holes right after its outline.

    Parameters
    ----------
    annotations, options
        What to write and how.
    holes_cut_all
        Whether a hole in this format cuts every class (ASAP) or its own class only. A source ring that was the hole
        of several regions is yielded once, or once per class.
    """
    offset = np.asarray(options.offset_xy, np.float64)
    seen: set[tuple[str, bytes]] = set()
    for region in annotations.regions:
        if options.rings == "source" and region.source:
            for ring in region.source:
                key = ("" if holes_cut_all else region.class_name, ring.xy.tobytes())
                if ring.is_hole and key in seen:
                    continue
                if ring.is_hole:
                    seen.add(key)
                xy = ring.xy[np.isfinite(ring.xy).all(axis=1)]
                if len(xy):
                    yield WrittenShape(region, "hole" if ring.is_hole else "outline", xy + offset)
        else:
            for kind, xy in _shapes_of(region.geometry):
                yield WrittenShape(region, kind, xy + offset)


def _shapes_of(
    geometry: BaseGeometry,
) -> Iterator[tuple[Literal["outline", "hole", "line", "points"], NDArray[np.float64]]]:
    if geometry.is_empty:
        return
    if isinstance(geometry, Polygon):
        yield "outline", shapely.get_coordinates(geometry.exterior)[:-1]
        for hole in geometry.interiors:
            yield "hole", shapely.get_coordinates(hole)[:-1]
    elif geometry.geom_type in ("Point", "MultiPoint"):
        yield "points", shapely.get_coordinates(geometry)
    elif geometry.geom_type in ("LineString", "LinearRing"):
        yield "line", shapely.get_coordinates(geometry)
    else:
        for part in shapely.get_parts(geometry):
            yield from _shapes_of(part)


_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


def attribute(text: str) -> str:
    """Return a text as a quoted attribute value."""
    return quoteattr(_FORBIDDEN.sub("", text))


def content(text: str) -> str:
    """Return a text as the content of an element."""
    return escape(_FORBIDDEN.sub("", text), {"\r": "&#13;"})


def number_text(value: float) -> str:
    """Return the shortest text that gives the same float64 again, whole numbers without a point."""
    return repr(float(value)).removesuffix(".0")


def hex_text(color: RGB) -> str:
    """Return a colour as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*color)
