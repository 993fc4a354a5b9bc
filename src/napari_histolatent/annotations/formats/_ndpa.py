"""Hamamatsu NDPA in and out: nanometres from the centre of the glass slide, so its slide is needed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_histolatent.annotations._marks import Mark, SourceFile, ellipse_ring, hex_color, rectangle_ring
from napari_histolatent.annotations._region import UNCLASSIFIED
from napari_histolatent.annotations.formats._asap import islands_kept
from napari_histolatent.annotations.formats._format import Format
from napari_histolatent.annotations.formats._xml import content, hex_text, quoted, ring_from, shapes_to_write
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

    from napari_histolatent.annotations._marks import RGB
    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.annotations.formats._format import WriteOptions
    from napari_histolatent.slides import SlideInfo

_NAME = "ndpa"
_HOLE = "(hole)"
"""At the end of a title: NDPA has no holes, so they are written as shapes of their own that say so."""

_FARTHEST_NM = 4e18
"""What the file's own rings are held to where a number in them is wild."""


def is_ndpa(root: Element) -> bool:
    """Whether a document is of NDP.view."""
    return root.tag == "annotations" and (not len(root) or root.find("ndpviewstate") is not None)


@dataclass(frozen=True)
class _Frame:
    """Where the slide's pixels lie on the glass."""

    offset_nm: NDArray[np.float64]
    """Of the slide's centre from the centre of the glass, (x, y)."""
    nm_per_px: NDArray[np.float64]
    centre_px: NDArray[np.float64]

    def to_px(self, nm: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):  # a coordinate may be any number
            return (nm - self.offset_nm) / self.nm_per_px + self.centre_px

    def to_nm(self, px: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return (px - self.centre_px) * self.nm_per_px + self.offset_nm


def _frame(slide: SlideInfo | None) -> _Frame:
    if slide is None:
        msg = (
            "NDPA annotations count nanometres from the centre of the glass, so they mean nothing without their slide; "
            "name it with --slide, or open the .ndpi file first."
        )
        raise AnnotationError(msg)
    offset = slide.offset_from_centre_nm
    if offset is None:
        msg = (
            f"{slide.path.name} does not say where it lies on the glass (its offset from the slide's centre is missing), "
            "which NDPA annotations count from; open the original .ndpi file, or name it with --slide."
        )
        raise AnnotationError(msg)
    if slide.mpp_x is None or slide.mpp_y is None:
        msg = (
            f"{slide.path.name} does not state its pixel size (mpp missing), which NDPA annotations need; "
            "open the original .ndpi file, or set the pixel size of this one."
        )
        raise AnnotationError(msg)
    return _Frame(
        offset_nm=np.array(offset, np.float64),
        nm_per_px=np.array([slide.mpp_x, slide.mpp_y], np.float64) * 1000,
        centre_px=np.array([slide.width_px, slide.height_px], np.float64) / 2,
    )


def read_ndpa(root: Element, slide: SlideInfo | None) -> SourceFile:
    """Return what an NDPA document says, in the pixels of its slide.

    A view's title is the class of what is drawn in it, its details are the name. A title that ends with " (hole)" is
    ours: it marks a hole in the areas of the title before it.

    Raises
    ------
    AnnotationError
        If there is no slide, or it does not say its pixel size and where it lies on the glass.
    """
    frame = _frame(slide)
    marks: list[Mark] = []
    dropped: list[str] = []
    colors: dict[str, RGB] = {}
    other_units: Counter[str] = Counter()
    for number, view in enumerate(root.findall("ndpviewstate"), start=1):
        title = (view.findtext("title") or "").strip()
        class_name, is_hole = _class_of(title)
        units = (view.findtext("coordformat") or "nanometers").strip()
        if units.lower() not in ("nanometers", "nanometres"):
            other_units[units] += 1
        for annotation in view.findall("annotation"):
            where = f"view {number}{quoted(title)}"
            kind = (annotation.get("type") or "").strip().lower()
            shape = _shape(annotation, kind)
            if isinstance(shape, str):
                dropped.append(f"{where} dropped: {shape}")
                continue
            color = hex_color(annotation.get("color"))
            if color is not None:
                colors.setdefault(class_name, color)
            marks.append(
                Mark(
                    where=where,
                    kind=shape[0],
                    rings=(frame.to_px(shape[1]),),
                    class_name=class_name,
                    name=(view.findtext("details") or "").strip(),
                    id=(view.get("id") or "").strip(),
                    color=color,
                    # A hole without a layer would cut every class.
                    layer=class_name or UNCLASSIFIED,
                    is_negative=is_hole and shape[0] == "area",
                )
            )
    return SourceFile(
        format=_NAME,
        marks=tuple(marks),
        colors=colors,
        dropped=tuple(dropped),
        messages=tuple(
            f'{n} view{"s" * (n > 1)} count{"s" * (n == 1)} in "{units}"; read as nanometers, so check where they lie'
            for units, n in other_units.items()
        ),
    )


def _class_of(title: str) -> tuple[str, bool]:
    if title == _HOLE or title.endswith(f" {_HOLE}"):
        return title.removesuffix(_HOLE).strip(), True
    return title, False


def _shape(
    annotation: Element, kind: str
) -> tuple[Literal["area", "line", "points"], NDArray[np.float64]] | str:
    """Return a shape in nanometres, or why there is none."""
    if kind == "freehand":
        points = annotation.findall("pointlist/point")
        if not points:
            return "it has no points"
        ring = ring_from([p.findtext("x") for p in points], [p.findtext("y") for p in points])
        if _said(annotation, "specialtype").lower() == "rectangle":
            return "area", rectangle_ring(*ring.ravel()) if len(ring) == 2 else ring
        return "line" if _said(annotation, "closed") == "0" else "area", ring
    if kind == "pin":
        return "points", _point(annotation, "x", "y")
    if kind == "circle":
        centre = _point(annotation, "x", "y")[0]
        radius = abs(ring_from([annotation.findtext("radius")], ["0"])[0, 0])
        with np.errstate(all="ignore"):
            return "area", ellipse_ring(*(centre - radius), *(centre + radius))
    if kind in ("linearmeasure", "pointer"):
        return "line", np.vstack([_point(annotation, "x1", "y1"), _point(annotation, "x2", "y2")])
    return f'its type "{kind}" is not known'


def _said(annotation: Element, name: str) -> str:
    """Return what an element, or else an attribute, says."""
    return (annotation.findtext(name) or annotation.get(name) or "").strip()


def _point(annotation: Element, x: str, y: str) -> NDArray[np.float64]:
    return ring_from([annotation.findtext(x)], [annotation.findtext(y)])


def write_ndpa(path: Path, annotations: Annotations, options: WriteOptions) -> None:
    """Write one view per shape, in whole nanometres.

    NDPA has no holes: one is written as a freehand shape of its own, with the title of its class and " (hole)", which
    `read_ndpa` understands and NDP.view shows as it is. It cuts everything of its class, so a hole with an island of its
    class in it becomes part of its outline (see `islands_kept`), except where the rings of the source file are written.
    The parts of a region, and the points of a set, become annotations of their own. A line of two points is a ruler, a
    longer one an open freehand line.

    Raises
    ------
    AnnotationError
        If there is no slide, or it does not say its pixel size and where it lies on the glass.
    """
    frame = _frame(options.slide)
    colors = {
        name: hex_text(annotations.color_of(name))
        for name in dict.fromkeys(region.class_name for region in annotations.regions)
    }
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="utf-8" standalone="yes"?>\n<annotations>\n')
        number = 0
        shapes = shapes_to_write(annotations, options, holes_cut_all=False)
        for shape in shapes if options.rings == "source" else islands_kept(shapes):
            class_name = shape.region.class_name
            title = "" if class_name == UNCLASSIFIED else class_name
            if shape.kind == "hole":
                title = f"{title} {_HOLE}".strip()
            points = np.rint(frame.to_nm(shape.xy).clip(-_FARTHEST_NM, _FARTHEST_NM)).astype(np.int64)
            for drawn in points[:, None] if shape.kind == "points" else [points]:
                number += 1
                file.writelines(_view(number, title, shape.region.name, drawn))
                file.writelines(_annotation(shape.kind, drawn, colors[class_name]))
                file.write("\t</ndpviewstate>\n")
        file.write("</annotations>\n")


def _view(number: int, title: str, name: str, points: NDArray[np.int64]) -> Iterator[str]:
    x, y = points.min(axis=0) + np.ptp(points, axis=0) // 2
    yield (
        f'\t<ndpviewstate id="{number}">\n\t\t<title>{content(title)}</title>\n\t\t<details>{content(name)}</details>\n'
        f"\t\t<coordformat>nanometers</coordformat>\n\t\t<lens>10</lens>\n\t\t<x>{x}</x>\n\t\t<y>{y}</y>\n\t\t<z>0</z>\n"
        "\t\t<showtitle>1</showtitle>\n\t\t<showhistogram>0</showhistogram>\n"
        "\t\t<showlineprofile>0</showlineprofile>\n"
    )


def _annotation(
    kind: Literal["outline", "hole", "line", "points"], points: NDArray[np.int64], color: str
) -> Iterator[str]:
    rows = points.tolist()
    if kind == "points":
        yield (
            f'\t\t<annotation type="pin" displayname="AnnotatePin" color="{color}">\n\t\t\t<x>{rows[0][0]}</x>\n'
            f"\t\t\t<y>{rows[0][1]}</y>\n\t\t\t<icon>pinblue</icon>\n\t\t\t<stricon>iconpinblue</stricon>\n"
        )
    elif kind == "line" and len(rows) == 2:
        (x1, y1), (x2, y2) = rows
        yield (
            f'\t\t<annotation type="linearmeasure" displayname="AnnotateRuler" color="{color}">\n'
            f"\t\t\t<x1>{x1}</x1>\n\t\t\t<y1>{y1}</y1>\n\t\t\t<x2>{x2}</x2>\n\t\t\t<y2>{y2}</y2>\n"
        )
    else:
        yield (
            f'\t\t<annotation type="freehand" displayname="AnnotateFreehand" color="{color}">\n'
            f"\t\t\t<measuretype>0</measuretype>\n\t\t\t<closed>{int(kind != 'line')}</closed>\n\t\t\t<pointlist>\n"
        )
        for x, y in rows:
            yield f"\t\t\t\t<point><x>{x}</x><y>{y}</y></point>\n"
        yield "\t\t\t</pointlist>\n"
    yield "\t\t</annotation>\n"


NDPA = Format(
    name=_NAME,
    title="Hamamatsu NDPA",
    suffixes=(".ndpa",),
    container="xml",
    recognises=is_ndpa,
    read=read_ndpa,
    write=write_ndpa,
    needs_slide=True,
)
