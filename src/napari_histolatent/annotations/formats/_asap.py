"""ASAP XML in and out: one ring per annotation, groups as classes, no holes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely
from shapely.geometry import LinearRing, Polygon

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
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

    from napari_histolatent.annotations._marks import RGB
    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.annotations.formats._format import WriteOptions
    from napari_histolatent.annotations.formats._xml import WrittenShape
    from napari_histolatent.slides import SlideInfo

_NAME = "asap-xml"
_SAME_PX = 0.02
"""Twice the distance within which the repair takes two points for one."""

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

    Holes become annotations of the group `annotations.hole_class`, which cuts whatever of a class with the hole lies in
    it: so a hole with an island of its own class in it becomes part of its outline (see `islands_kept`), except where
    the rings of the source file are written. ASAP has no polylines either:
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
        shapes = shapes_to_write(annotations, options, holes_cut_all=True)
        for index, shape in enumerate(shapes if options.rings == "source" else islands_kept(shapes)):
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


# Islands


def islands_kept(shapes: Iterable[WrittenShape]) -> list[WrittenShape]:
    """Return shapes to write whose holes take nothing away from another polygon of their class.

    Where a hole is a shape of its own, it cuts an island of its class that lies in it. Such a hole is written as part
    of its outline instead: along a bridge to it, around it in the opposite turn, and back. That encloses the same
    area by the even-odd and by the non-zero rule, and the repair makes a hole of it when it is read. All other rings
    stay as they are. (A hole cut up around its island would not do: the outline would cover the island a second time.)

    Parameters
    ----------
    shapes
        Each polygon's holes right after its outline, as `shapes_to_write` yields them.
    """
    pieces: list[list[WrittenShape]] = []
    for shape in shapes:
        if shape.kind == "hole":
            pieces[-1].append(shape)
        else:
            pieces.append([shape])
    bridged = _holes_with_islands(pieces)
    result = []
    for number, piece in enumerate(pieces):
        holes = bridged.get(number, set())
        ring = piece[0].xy
        for k in sorted(holes):
            ring = _with_bridge(ring, piece[0].xy, piece[k].xy)
        result += [replace(piece[0], xy=ring) if holes else piece[0]]
        result += [shape for k, shape in enumerate(piece) if k and k not in holes]
    return result


def _holes_with_islands(pieces: Sequence[Sequence[WrittenShape]]) -> dict[int, set[int]]:
    """Return which holes overlap another polygon of their class: places in a piece, by its number."""
    of_hole = [(i, k) for i, piece in enumerate(pieces) for k in range(1, len(piece))]
    if not of_hole:
        return {}
    areas = [i for i, piece in enumerate(pieces) if piece[0].kind == "outline"]
    bodies = np.array([Polygon(pieces[i][0].xy, [hole.xy for hole in pieces[i][1:]]) for i in areas], object)
    holes = np.array([Polygon(pieces[i][k].xy) for i, k in of_hole], object)
    hole, body = shapely.STRtree(bodies).query(holes, predicate="intersects")
    classes = [pieces[i][0].region.class_name.strip() for i in areas]
    owners = [pieces[i][0].region.class_name.strip() for i, _ in of_hole]
    is_other = np.array(
        [
            areas[b] != of_hole[h][0] and classes[b] == owners[h]
            for h, b in zip(hole.tolist(), body.tolist(), strict=True)
        ],
        bool,
    )
    hole, body = hole[is_other], body[is_other]
    # What merely touches a hole is not cut by it.
    is_cut = shapely.area(shapely.intersection(holes[hole], bodies[body])) > 0
    found: defaultdict[int, set[int]] = defaultdict(set)
    for h in hole[is_cut].tolist():
        found[of_hole[h][0]].add(of_hole[h][1])
    return found


def _with_bridge(
    ring: NDArray[np.float64], outline: NDArray[np.float64], hole: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a ring, which is the outline with bridges to other holes or none, that goes around a hole too."""
    # The shortest way crosses neither of the two.
    ends = shapely.get_coordinates(shapely.shortest_line(LinearRing(outline), LinearRing(hole)))
    around = _from(hole, ends[1])
    if LinearRing(outline).is_ccw == LinearRing(hole).is_ccw:
        around = np.vstack([around[:1], around[:0:-1]])
    along = _from(ring, ends[0])
    return np.vstack([along, along[:1], around, around[:1]])


def _from(ring: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an open ring that begins at a point on it: at a vertex, where one is so near that it would be the same."""
    nearest = int(np.argmin(np.hypot(*(ring - start).T)))
    if np.hypot(*(ring[nearest] - start)) < _SAME_PX:
        return np.roll(ring, -nearest, axis=0)
    segments = shapely.linestrings(np.stack([ring, np.roll(ring, -1, axis=0)], axis=1))
    after = int(np.argmin(shapely.distance(segments, shapely.points(start)))) + 1
    return np.vstack([start, ring[after:], ring[:after]])


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
