"""Darwin V7 JSON, versions 1.0 and 2.0; read only.

A polygon's paths together follow the even-odd rule: a path inside another is a hole, one inside a hole an island.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_histolatent.annotations._marks import (
    Mark,
    SourceFile,
    ellipse_ring,
    number_of,
    rectangle_ring,
    ring_of,
)
from napari_histolatent.annotations.formats._format import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.slides import SlideInfo

_PROBES = 15
"""Vertices of a path that are asked whether another path encloses them."""

Kind = Literal["area", "line", "points"]
Rings = tuple["NDArray[np.float64]", ...]


def recognises_darwin(document: Any) -> bool:
    """Whether a JSON value has Darwin's annotations of one item (2.0) or image (1.0)."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("annotations"), list)
        and (isinstance(document.get("item"), dict) or isinstance(document.get("image"), dict))
    )


def read_darwin(document: Any, slide: SlideInfo | None = None) -> SourceFile:
    """Return the shapes of a document; the class is the annotation's name."""
    del slide  # its coordinates are pixels already
    marks: list[Mark] = []
    dropped: list[str] = []
    tags = 0
    for index, annotation in enumerate(document["annotations"]):
        entry = annotation if isinstance(annotation, dict) else {}
        class_name = _text(entry.get("name"))
        where = f'annotation {index + 1} "{class_name}"' if class_name else f"annotation {index + 1}"
        if "tag" in entry:
            tags += 1  # says something of the whole image
            continue
        try:
            kind, shapes = _shapes(entry)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error) if isinstance(error, _Unreadable) else "its numbers are missing or misplaced"
            dropped.append(f"{where} dropped: {reason}")
            continue
        part_of = f"annotation {index + 1}" if len(shapes) > 1 else ""
        marks.extend(
            Mark(
                where=where,
                kind=kind,
                rings=rings,
                class_name=class_name,
                id=_text(entry.get("id")),
                part_of=part_of,
            )
            for rings in shapes
        )
    return SourceFile(
        format="darwin-json",
        marks=tuple(marks),
        dropped=tuple(dropped),
        messages=tuple(_messages(document, tags)),
    )


class _Unreadable(ValueError):
    """Why an annotation is dropped."""


def _messages(document: Any, tags: int) -> list[str]:
    messages = []
    if tags:
        messages.append(f"{tags:,} tags were left out: they belong to the whole image and mark no place.")
    item = document.get("item")
    slots = item.get("slots") if isinstance(item, dict) else None
    if isinstance(slots, list) and len(slots) > 1:
        messages.append(
            f"The item has {len(slots):,} images (slots); the annotations of all of them were read together."
        )
    return messages


def _text(value: Any) -> str:
    return "" if value is None or isinstance(value, (dict, list)) else str(value)


def _shapes(entry: dict[str, Any]) -> tuple[Kind, list[Rings]]:
    # A bounding box comes last: every polygon has one beside it.
    for key in ("polygon", "complex_polygon"):
        if isinstance(entry.get(key), dict):
            return "area", _polygons(_paths(entry[key]))
    if "ellipse" in entry:
        return "area", [(_ellipse(entry["ellipse"]),)]
    if "line" in entry:
        return "line", [(_path(entry["line"]["path"]),)]
    if "keypoint" in entry:
        return "points", [(_path([entry["keypoint"]]),)]
    other = next(
        (key for key in ("skeleton", "mask", "raster_layer", "cuboid", "string") if key in entry), None
    )
    if other is not None:
        msg = f'it is of the kind "{other}", which has no outline of its own'
        raise _Unreadable(msg)
    if "bounding_box" in entry:
        box = entry["bounding_box"]
        x, y, width, height = (number_of(box[key]) for key in ("x", "y", "w", "h"))
        return "area", [(rectangle_ring(x, y, x + width, y + height),)]
    msg = "it has no polygon, box, ellipse, line or keypoint"
    raise _Unreadable(msg)


def _paths(polygon: dict[str, Any]) -> list[NDArray[np.float64]]:
    """Return the paths of 2.0 (`paths`), and of 1.0 (`path`, one or many, and `additional_paths`)."""
    paths: list[Any] = list(polygon.get("paths") or [])
    own = polygon.get("path") or []
    paths += own if own and isinstance(own[0], list) else [own]
    paths += list(polygon.get("additional_paths") or [])
    rings = [_path(path) for path in paths if path]
    if not rings:
        msg = "its polygon has no path"
        raise _Unreadable(msg)
    return rings


def _path(points: Any) -> NDArray[np.float64]:
    if not points:
        msg = "its path is empty"
        raise _Unreadable(msg)
    return ring_of((point["x"], point["y"]) for point in points)


def _ellipse(ellipse: dict[str, Any]) -> NDArray[np.float64]:
    rx, ry = (number_of(ellipse["radius"][key]) for key in ("x", "y"))
    center = np.array([number_of(ellipse["center"][key]) for key in ("x", "y")])
    angle = number_of(ellipse.get("angle", 0))  # radians
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    ring: NDArray[np.float64] = ellipse_ring(-rx, -ry, rx, ry) @ turn + center
    return ring


def _polygons(paths: Sequence[NDArray[np.float64]]) -> list[Rings]:
    """Return each outline with its holes: a path within an odd number of others is a hole."""
    enclosing = [
        {j for j, outer in enumerate(paths) if j != i and _encloses(outer, path)}
        for i, path in enumerate(paths)
    ]
    holes: dict[int, list[NDArray[np.float64]]] = {
        i: [] for i, around in enumerate(enclosing) if len(around) % 2 == 0
    }
    for i, around in enumerate(enclosing):
        if i not in holes:
            # The innermost outline around it is the one that most others enclose.
            owner = max((j for j in around if j in holes), key=lambda j: len(enclosing[j]), default=None)
            if owner is None:
                holes[i] = []
            else:
                holes[owner].append(paths[i])
    return [(paths[i], *inner) for i, inner in holes.items()]


def _encloses(outer: NDArray[np.float64], inner: NDArray[np.float64]) -> bool:
    """Whether most vertices of `inner` are inside `outer` by the even-odd rule; of equal paths, neither is."""
    if _box_area(outer) <= _box_area(inner):
        return False
    probes = inner[np.linspace(0, len(inner) - 1, min(len(inner), _PROBES)).astype(int)]
    x, y = probes[:, :1], probes[:, 1:]
    x0, y0 = outer.T
    x1, y1 = np.roll(outer, -1, axis=0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return bool(np.count_nonzero(crosses.sum(axis=1) % 2) * 2 > len(probes))


def _box_area(path: NDArray[np.float64]) -> float:
    xy = path[np.isfinite(path).all(axis=1)]
    return float(np.prod(np.ptp(xy, axis=0))) if len(xy) else 0.0


DARWIN = Format(
    name="darwin-json",
    title="Darwin V7 JSON",
    suffixes=(".json",),
    container="json",
    recognises=recognises_darwin,
    read=read_darwin,
)
