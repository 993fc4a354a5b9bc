"""Aperio ImageScope XML in and out: layers of regions, where a negative region cuts its own layer.

HALO's files have the same structure in other words, so the layers are read here for both.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely
from shapely.geometry import Polygon

from napari_histolatent.annotations._marks import Mark, SourceFile, ellipse_ring, number_of, rectangle_ring
from napari_histolatent.annotations.formats._asap import is_asap
from napari_histolatent.annotations.formats._format import Format
from napari_histolatent.annotations.formats._xml import (
    attribute,
    number_text,
    quoted,
    ring_of_attributes,
    shapes_to_write,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

    from napari_histolatent.annotations._marks import RGB
    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.annotations.formats._format import WriteOptions
    from napari_histolatent.annotations.formats._xml import WrittenShape
    from napari_histolatent.slides import SlideInfo

_NAME = "imagescope-xml"

Shape = Literal["polygon", "rectangle", "ellipse", "arrow", "ruler", "line", "points"]

_NUMBERS: dict[str, Shape] = {
    "": "polygon",
    "0": "polygon",
    "1": "rectangle",
    "2": "ellipse",
    "3": "arrow",
    "4": "ruler",
    "5": "points",
}
_WORDS: dict[str, Shape] = {
    "polygon": "polygon",
    "freehand": "polygon",
    "rectangle": "rectangle",
    "ellipse": "ellipse",
    "arrow": "arrow",
    "ruler": "ruler",
    "line": "line",
    "polyline": "line",
    "pin": "points",
    "point": "points",
    "counter": "points",
}
_LINES = ("arrow", "ruler", "line")


def is_halo(root: Element) -> bool:
    """Whether a document is of HALO: short vertex elements, types in words."""
    if root.tag != "Annotations" or is_asap(root):
        return False
    regions = root.findall("Annotation/Regions/Region")
    vertices = {vertex.tag for region in regions for vertex in region.findall("Vertices/*")[:1]}
    if vertices:
        return "V" in vertices
    if regions:
        return any(text_of(region, "Type").lower() in _WORDS for region in regions)
    # Without a region there is only how HALO says that a layer is shown; ImageScope says 1 or 0.
    return any(text_of(layer, "Visible").lower() in ("true", "false") for layer in root.findall("Annotation"))


def is_imagescope(root: Element) -> bool:
    """Whether a document is of ImageScope; one where nothing was drawn is, too."""
    if root.tag != "Annotations" or is_asap(root) or is_halo(root):
        return False
    return not len(root) or "MicronsPerPixel" in root.attrib or root.find("Annotation/Regions") is not None


def read_imagescope(root: Element, slide: SlideInfo | None = None) -> SourceFile:
    """Return what an ImageScope document says.

    The class is the layer's name, else a value or name among its attributes, else the region's text. Zoom is how far
    the view was zoomed when the region was drawn: coordinates are level-0 pixels at any zoom.
    """
    return read_layers(root, format_name=_NAME, name_of=lambda region: text_of(region, "Text"))


@dataclass
class _Found:
    marks: list[Mark] = field(default_factory=list)
    colors: dict[str, RGB] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def read_layers(
    root: Element,
    *,
    format_name: str,
    name_of: Callable[[Element], str],
    name_is_class: bool = True,
    is_line: Callable[[Element, NDArray[np.float64]], bool] | None = None,
) -> SourceFile:
    """Return what the layers of an ImageScope or HALO document say.

    Parameters
    ----------
    root
        The document.
    format_name
        Of the two.
    name_of
        Gives a region's name.
    name_is_class
        Whether that is its class where its layer names none.
    is_line
        Tells from a polygon and its ring whether it is a line after all.
    """
    found = _Found()
    for number, layer in enumerate(root.findall("Annotation"), start=1):
        label = f"layer {number}{quoted(text_of(layer, 'Name'))}"
        layer_class = text_of(layer, "Name") or _class_in_attributes(layer)
        color = _color(layer.get("LineColor"))
        for place, region in enumerate(layer.iter("Region"), start=1):
            shape, ring = _shape(region)
            if shape == "polygon" and is_line is not None and is_line(region, ring):
                shape = "line"
            # A ruler is called one, so that nobody looks for its area.
            word = shape if shape in _LINES else "region"
            where = f"{word} {place} of {label}"
            if shape is None:
                found.dropped.append(f'{where} dropped: its type "{text_of(region, "Type")}" is not known')
                continue
            if not len(ring):
                found.dropped.append(f"{where} dropped: it has no vertices")
                continue
            name = name_of(region)
            class_name = layer_class or (name if name_is_class else "")
            if color is not None:
                found.colors.setdefault(class_name, color)
            found.marks.append(
                Mark(
                    where=where,
                    kind="line" if shape in _LINES else "points" if shape == "points" else "area",
                    rings=(_outline(shape, ring),),
                    class_name=class_name,
                    name=name,
                    id=text_of(region, "Id"),
                    color=color,
                    layer=str(number),
                    is_negative=text_of(region, "NegativeROA").lower() in ("1", "true"),
                )
            )
    return SourceFile(
        format=format_name,
        marks=tuple(found.marks),
        colors=found.colors,
        dropped=tuple(found.dropped),
    )


def _shape(region: Element) -> tuple[Shape | None, NDArray[np.float64]]:
    vertices = region.find("Vertices")
    points: Sequence[Element] = ()
    if vertices is not None:
        points = vertices.findall("Vertex") or vertices.findall("V")
    kind = text_of(region, "Type").lower()
    return _NUMBERS.get(kind) or _WORDS.get(kind), ring_of_attributes(points)


def _outline(shape: Shape, ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a rectangle's or ellipse's outline; both may be given by two or by four corners of their box."""
    if shape == "rectangle" and len(ring) == 2:
        return rectangle_ring(*ring.ravel())
    if shape == "ellipse" and len(ring) in (2, 4):
        with np.errstate(all="ignore"):  # a coordinate may be no number
            return ellipse_ring(*ring.min(axis=0), *ring.max(axis=0))
    return ring


def _class_in_attributes(layer: Element) -> str:
    attributes = layer.findall("Attributes/Attribute")
    values = [text_of(a, "Value") for a in attributes]
    # ImageScope gives every layer an attribute called Description; other names were typed in by someone.
    names = [name for a in attributes if (name := text_of(a, "Name")).lower() != "description"]
    return next(filter(None, [*values, *names]), "")


def _color(text: str | None) -> RGB | None:
    """Return a decimal 0xBBGGRR as RGB: 255 is red."""
    value = number_of(text)
    if not 0 <= value <= 0xFFFFFF or not value.is_integer():
        return None
    packed = int(value)
    return packed & 255, packed >> 8 & 255, packed >> 16 & 255


# Writing

_HEADERS = "".join(
    f'\t\t\t\t<AttributeHeader Id="{number}" Name="{name}" ColumnWidth="-1"/>\n'
    for number, name in ((9999, "Region"), (9997, "Length"), (9996, "Area"), (9998, "Text"))
)


def write_imagescope(path: Path, annotations: Annotations, options: WriteOptions) -> None:
    """Write one layer per class, with holes as negative regions right after their polygon.

    A negative region cuts all of its layer, so a polygon that lies in the hole of another one of its class (an island)
    goes to a further layer of the same name; with the rings of the source file, that is not looked for. A line is a
    ruler (Type 4) of all its vertices. Points are written as one region of Type 5, the number after the ruler's:
    ImageScope's own files are not known to have it, so ImageScope may not show them, but they are read back as points.
    """
    mpp = _mpp(options)
    layers = _layers(annotations, options)
    colors = {name: annotations.color_of(name) for name in dict.fromkeys(name for name, _ in layers)}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        size = f' MicronsPerPixel="{number_text(mpp)}"' if mpp else ""
        file.write(f'<?xml version="1.0" encoding="UTF-8"?>\n<Annotations{size}>\n')
        number = 0
        for index, (name, shapes) in enumerate(layers, start=1):
            red, green, blue = colors[name]
            file.write(
                f'\t<Annotation Id="{index}" Name={attribute(name)} ReadOnly="0" NameReadOnly="0" LineColorReadOnly="0" '
                f'Incremental="0" Type="4" LineColor="{blue << 16 | green << 8 | red}" Visible="1" Selected="0" '
                'MarkupImagePath="" MacroName="">\n\t\t<Attributes/>\n\t\t<Regions>\n\t\t\t<RegionAttributeHeaders>\n'
                f"{_HEADERS}\t\t\t</RegionAttributeHeaders>\n"
            )
            for shape in shapes:
                number += 1
                file.writelines(_region(shape, number, mpp))
            file.write("\t\t</Regions>\n\t\t<Plots/>\n\t</Annotation>\n")
        file.write("</Annotations>\n")


def _mpp(options: WriteOptions) -> float | None:
    slide = options.slide
    if slide is None or slide.mpp_x is None or slide.mpp_y is None:
        return None
    return slide.mpp_x if slide.mpp_x == slide.mpp_y else (slide.mpp_x + slide.mpp_y) / 2


def _layers(annotations: Annotations, options: WriteOptions) -> list[tuple[str, list[WrittenShape]]]:
    """Return the layers to write, each with its class."""
    pieces: defaultdict[str, list[list[WrittenShape]]] = defaultdict(list)
    for shape in shapes_to_write(annotations, options, holes_cut_all=False):
        of_class = pieces[shape.region.class_name]
        if shape.kind == "hole" and of_class and of_class[-1][0].kind in ("outline", "hole"):
            of_class[-1].append(shape)
        else:
            of_class.append([shape])
    layers = []
    for name, of_class in pieces.items():
        places = [0] * len(of_class) if options.rings == "source" else _places(of_class)
        layers += [
            (name, [s for piece, at in zip(of_class, places, strict=True) if at == place for s in piece])
            for place in range(max(places) + 1)
        ]
    return layers


def _places(pieces: Sequence[Sequence[WrittenShape]]) -> list[int]:
    """Return the layer of each polygon, so that none lies in a hole of another polygon of its layer."""
    owners = [i for i, piece in enumerate(pieces) for shape in piece if shape.kind == "hole"]
    if not owners:
        return [0] * len(pieces)
    holes = np.array([Polygon(s.xy) for piece in pieces for s in piece if s.kind == "hole"], object)
    bodies = np.array(
        [
            Polygon(piece[0].xy, [hole.xy for hole in piece[1:]]) if piece[0].kind == "outline" else Polygon()
            for piece in pieces
        ],
        object,
    )
    hole, body = shapely.STRtree(bodies).query(holes, predicate="intersects")
    is_other = np.array(owners)[hole] != body
    hole, body = hole[is_other], body[is_other]
    # What merely touches a hole is not cut by it.
    is_cut = shapely.area(shapely.intersection(holes[hole], bodies[body])) > 0
    conflicts: defaultdict[int, set[int]] = defaultdict(set)
    for k, other in zip(hole[is_cut].tolist(), body[is_cut].tolist(), strict=True):
        conflicts[owners[k]].add(other)
        conflicts[other].add(owners[k])
    places: list[int] = []
    for i in range(len(pieces)):
        taken = {places[j] for j in conflicts[i] if j < i}
        places.append(next(place for place in range(len(taken) + 1) if place not in taken))
    return places


def _region(shape: WrittenShape, number: int, mpp: float | None) -> Iterator[str]:
    is_ring = shape.kind in ("outline", "hole")
    length, area = _length(shape, is_ring=is_ring), _area(shape.xy) if is_ring else 0.0
    microns = f' LengthMicrons="{length * mpp:.1f}" AreaMicrons="{area * mpp**2:.1f}"' if mpp else ""
    kind = {"line": 4, "points": 5}.get(shape.kind, 0)
    yield (
        f'\t\t\t<Region Id="{number}" Type="{kind}" Zoom="1" Selected="0" ImageLocation="" ImageFocus="0" '
        f'Length="{length:.1f}" Area="{area:.1f}"{microns} Text={attribute(shape.region.name)} '
        f'NegativeROA="{int(shape.kind == "hole")}" InputRegionId="0" Analyze="1" DisplayId="{number}">\n'
        "\t\t\t\t<Attributes/>\n\t\t\t\t<Vertices>\n"
    )
    yield from _vertices(shape.xy.tolist())
    yield "\t\t\t\t</Vertices>\n\t\t\t</Region>\n"


def _vertices(points: Iterable[Sequence[float]]) -> Iterator[str]:
    for x, y in points:
        yield f'\t\t\t\t\t<Vertex X="{number_text(x)}" Y="{number_text(y)}" Z="0"/>\n'


def _length(shape: WrittenShape, *, is_ring: bool) -> float:
    if shape.kind == "points":
        return 0.0
    xy = np.vstack([shape.xy, shape.xy[:1]]) if is_ring else shape.xy
    with np.errstate(all="ignore"):  # the file's own rings may have any number
        return float(np.hypot(*np.diff(xy, axis=0).T).sum())


def _area(xy: NDArray[np.float64]) -> float:
    with np.errstate(all="ignore"):
        x, y = (xy - xy[0]).T
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


IMAGESCOPE = Format(
    name=_NAME,
    title="Aperio ImageScope XML",
    suffixes=(".xml",),
    container="xml",
    recognises=is_imagescope,
    read=read_imagescope,
    write=write_imagescope,
)
