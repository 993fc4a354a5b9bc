"""ASAP XML in and out: one ring per annotation, groups as classes, no holes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_histolatent.annotations._marks import Mark, SourceFile, hex_color, number_of, rectangle_ring
from napari_histolatent.annotations._region import UNCLASSIFIED
from napari_histolatent.annotations.formats._format import Format
from napari_histolatent.annotations.formats._xml import (
    attribute,
    hex_text,
    number_text,
    quoted,
    ring_of_attributes,
    shapes_to_write,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

    from napari_histolatent.annotations._marks import RGB
    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.annotations.formats._format import WriteOptions
    from napari_histolatent.annotations.formats._xml import WrittenShape
    from napari_histolatent.slides import SlideInfo

_NAME = "asap-xml"

# A spline is drawn as a curve through its vertices, but ASAP's own masks join them by straight lines.
_KINDS: dict[str, Literal["area", "line", "points"]] = {
    "": "area",
    "none": "area",
    "polygon": "area",
    "spline": "area",
    "rectangle": "area",
    "measurement": "line",
    "dot": "points",
    "pointset": "points",
}


def is_asap(root: Element) -> bool:
    """Whether a document is of ASAP; its outer element may be missing."""
    return root.tag == "ASAP_Annotations" or (
        root.tag == "Annotations"
        and any(a.find("Coordinates") is not None for a in root.findall("Annotation"))
    )


def read_asap(root: Element, slide: SlideInfo | None = None) -> SourceFile:
    """Return what an ASAP document says; vertices are put by their Order, groups are the classes."""
    colors: dict[str, RGB] = {}
    messages: list[str] = []
    declared = _read_groups(root, colors, messages)
    marks: list[Mark] = []
    dropped: list[str] = []
    undeclared: Counter[str] = Counter()
    for index, annotation in enumerate(_annotations(root), start=1):
        where = f"annotation {index}{quoted(text_of(annotation, 'Name'))}"
        group = _group(text_of(annotation, "PartOfGroup"))
        if group and group not in declared:
            undeclared[group] += 1
        shape = text_of(annotation, "Type")
        kind = _KINDS.get(shape.lower())
        if kind is None:
            dropped.append(f'{where} dropped: its type "{shape}" is none of ASAP\'s')
            continue
        points = annotation.findall("Coordinates/Coordinate")
        if not points:
            dropped.append(f"{where} dropped: it has no coordinates")
            continue
        ring = ring_of_attributes(_in_order(points))
        if shape.lower() == "rectangle" and len(ring) == 2:
            ring = rectangle_ring(*ring.ravel())
        marks.append(
            Mark(
                where=where,
                kind=kind,
                rings=(ring,),
                class_name=group,
                name=text_of(annotation, "Name"),
                color=hex_color(annotation.get("Color")),
            )
        )
    messages += [
        f"group {group} is not declared in the file, but {n} annotation{'s' * (n > 1)} of it {'are' if n > 1 else 'is'} there"
        for group, n in undeclared.items()
    ]
    return SourceFile(
        format=_NAME,
        marks=tuple(marks),
        colors=colors,
        dropped=tuple(dropped),
        messages=tuple(messages),
        fill="non-zero",
        groups_can_be_holes=True,
    )


def _annotations(root: Element) -> Iterator[Element]:
    for section in [root] if root.tag == "Annotations" else root.findall("Annotations"):
        yield from section.findall("Annotation")


def _read_groups(root: Element, colors: dict[str, RGB], messages: list[str]) -> set[str]:
    """Return the names of the groups that the file declares."""
    declared: set[str] = set()
    for group in root.iter("Group"):
        name = _group(text_of(group, "Name"))
        parent = _group(text_of(group, "PartOfGroup"))
        color = hex_color(group.get("Color"))
        if color is not None:
            colors.setdefault(name, color)
        said = f"group {name} lies in {parent}"
        if parent and said not in messages:
            messages.append(said)
        declared.add(name)
    return declared


def _group(name: str) -> str:
    return "" if name.lower() == "none" else name


def _in_order(points: Sequence[Element]) -> Sequence[Element]:
    """Return coordinates by their Order; one that has none stays behind the one before it."""
    texts = [point.get("Order") for point in points]
    try:
        orders = np.fromiter(map(float, texts), np.float64, len(texts))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        orders = np.array([number_of(text) for text in texts])
    if np.isnan(orders).any():
        known = np.maximum.accumulate(np.where(np.isnan(orders), -1, np.arange(len(orders))))
        orders = np.where(known < 0, -np.inf, orders[known])
    if (orders[1:] >= orders[:-1]).all():
        return points
    return [points[i] for i in np.argsort(orders, kind="stable")]


def write_asap(path: Path, annotations: Annotations, options: WriteOptions) -> None:
    """Write one annotation per ring; every group that is named is declared, or ASAP refuses the file.

    Holes become annotations of the group `annotations.hole_class`. ASAP has no other way to say them, so when the
    file is read again such a group cuts whatever lies in it, islands within a hole too. ASAP has no polylines either:
    a line is a Measurement of all its points. Regions of no class are in no group; a class called "None" joins them,
    as that is how ASAP says "no group".
    """
    holes = attribute(annotations.hole_class)
    groups = {
        name: hex_text(annotations.color_of(name))
        for name in dict.fromkeys(region.class_name for region in annotations.regions)
    }
    has_holes = False
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<ASAP_Annotations>\n\t<Annotations>\n')
        for index, shape in enumerate(shapes_to_write(annotations, options, holes_cut_all=True)):
            name = f"Annotation {index}"
            if shape.kind == "hole":
                if not has_holes:
                    has_holes = True
                    groups.setdefault(
                        annotations.hole_class, hex_text(annotations.color_of(annotations.hole_class))
                    )
                group, color = holes, groups[annotations.hole_class]
            else:
                name = shape.region.name or name
                is_classed = shape.region.class_name != UNCLASSIFIED
                group = attribute(shape.region.class_name if is_classed else "None")
                color = groups[shape.region.class_name]
            file.write(
                f"\t\t<Annotation Name={attribute(name)} Type={attribute(_type_of(shape))} "
                f'PartOfGroup={group} Color="{color}">\n\t\t\t<Coordinates>\n'
            )
            file.writelines(_coordinates(shape.xy))
            file.write("\t\t\t</Coordinates>\n\t\t</Annotation>\n")
        file.write("\t</Annotations>\n\t<AnnotationGroups>\n")
        file.writelines(
            f'\t\t<Group Name={attribute(name)} PartOfGroup="None" Color="{color}">\n\t\t\t<Attributes />\n\t\t</Group>\n'
            for name, color in groups.items()
            if name != UNCLASSIFIED
        )
        file.write("\t</AnnotationGroups>\n</ASAP_Annotations>\n")


def _type_of(shape: WrittenShape) -> str:
    if shape.kind == "points":
        return "Dot" if len(shape.xy) == 1 else "PointSet"
    return "Measurement" if shape.kind == "line" else "Polygon"


def _coordinates(xy: NDArray[np.float64]) -> Iterator[str]:
    for order, (x, y) in enumerate(xy.tolist()):
        yield f'\t\t\t\t<Coordinate Order="{order}" X="{number_text(x)}" Y="{number_text(y)}" />\n'


ASAP = Format(
    name=_NAME,
    title="ASAP XML",
    suffixes=(".xml",),
    container="xml",
    recognises=is_asap,
    read=read_asap,
    write=write_asap,
)
