"""Regions as napari shapes and back: pure converters, both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from scipy.spatial import cKDTree
from shapely.geometry import LineString, MultiLineString, MultiPoint, MultiPolygon, Point, Polygon

from napari_histolatent._napari._layers import points_of, xy_of
from napari_histolatent.annotations import polygon_of, repaired

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.annotations import Region

POINT_RADIUS_PX = 12.0
"""Level-0 pixels: how large a mark without area is drawn."""


@dataclass(frozen=True)
class Outlines:
    """Shapes of a Shapes layer, and of which region each is; a region of several parts has several."""

    data: list[NDArray[np.float64]]
    shape_types: list[str]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.data)


def outlines_of(regions: Iterable[Region]) -> Outlines:
    """Return the shapes that show regions; coordinates are (row, column) in level-0 pixels."""
    data: list[NDArray[np.float64]] = []
    types: list[str] = []
    ids: list[str] = []
    for region in regions:
        for kind, points in _shapes(region.geometry):
            data.append(points)
            types.append(kind)
            ids.append(region.id)
    return Outlines(data, types, ids)


def geometry_of(shapes: Sequence[tuple[str, NDArray[Any]]], *, is_point: bool = False) -> BaseGeometry | None:
    """Return the level-0 geometry of a region's shapes (type, vertices), or None where they cover nothing.

    Parameters
    ----------
    shapes
        Type (polygon, rectangle, ellipse, path or line) and vertices (row, column) of each.
    is_point
        Whether they are the small circles that stand for points.
    """
    if is_point:
        centres = [xy_of(vertices).mean(axis=0) for _, vertices in shapes]
        return Point(centres[0]) if len(centres) == 1 else MultiPoint(centres)
    lines = [xy_of(v) for kind, v in shapes if kind in ("path", "line") and len(v) > 1]
    areas = [polygon_of(_outline(kind, xy_of(v))) for kind, v in shapes if kind not in ("path", "line")]
    found = [area for area in areas if area is not None]
    if found:
        return together(found)
    if lines:
        return LineString(lines[0]) if len(lines) == 1 else MultiLineString(lines)
    return None


def with_vertices_moved(polygon: Polygon, after: NDArray[Any]) -> BaseGeometry | None:
    """Return a polygon whose ring of napari's has been changed at some vertices, or None where nothing is left.

    A ring that runs through holes passes the ends of its seams twice: taken vertex by vertex, a moved end moves
    both, and the seam stays closed.

    Parameters
    ----------
    polygon
        The polygon that was shown by `outlines_of`.
    after
        The ring as it is now, as many vertices as before, (row, column).
    """
    points, order = _ring_through_holes(polygon)
    # napari keeps 32-bit numbers: a vertex that only lost its last digits was not moved.
    moved = (points_of(points[order]).astype(after.dtype) != after[:, -2:]).any(axis=1)
    points = points.copy()
    points[order[moved]] = xy_of(after)[moved]
    ends = np.cumsum([len(ring.coords) - 1 for ring in (polygon.exterior, *polygon.interiors)])
    rings = np.split(points, ends[:-1])
    return repaired(Polygon(rings[0], rings[1:]))


def together(parts: Sequence[BaseGeometry]) -> BaseGeometry:
    """Return parts as one geometry, as they are unless they overlap."""
    if len(parts) == 1:
        return parts[0]
    whole = MultiPolygon([p for part in parts for p in shapely.get_parts(part)])
    return whole if whole.is_valid else shapely.union_all(parts)


def _outline(kind: str, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    if kind != "ellipse" or len(xy) != 4:  # napari keeps an ellipse as the corners of its box
        return xy
    centre, across, down = xy.mean(axis=0), (xy[1] - xy[0]) / 2, (xy[3] - xy[0]) / 2
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)[:, None]
    ring: NDArray[np.float64] = centre + across * np.cos(angles) + down * np.sin(angles)
    return ring


def _shapes(geometry: BaseGeometry) -> list[tuple[str, NDArray[np.float64]]]:
    found = []
    for part in shapely.get_parts(geometry):
        if part.geom_type == "Polygon":
            found.append(("polygon", _keyhole(part)))
        elif part.geom_type == "LineString":
            found.append(("path", points_of(shapely.get_coordinates(part))))
        elif part.geom_type == "Point":
            corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * POINT_RADIUS_PX
            found.append(("ellipse", points_of(np.array([[part.x, part.y]]) + corners)))
    return found


def _keyhole(polygon: Polygon) -> NDArray[np.float64]:
    """Return one (row, column) ring that runs through the holes: napari's polygons have no holes of their own."""
    points, order = _ring_through_holes(polygon)
    return points_of(points[order])


def _ring_through_holes(polygon: Polygon) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the vertices of all rings (x, y), unclosed and in order, and the order in which one ring visits them."""
    rings = [shapely.get_coordinates(ring)[:-1] for ring in (polygon.exterior, *polygon.interiors)]
    points = np.vstack(rings)
    order = np.arange(len(rings[0]))
    if len(rings) == 1:
        return points, order
    starts = np.cumsum([0, *map(len, rings)])
    joined = _Joined(rings[0])
    # Those near the outline first: what lies behind them is then bridged to them, and seams stay short.
    nearness = [joined.nearest(ring)[0].min() for ring in rings[1:]]
    for k in (np.argsort(nearness, kind="stable") + 1).tolist():
        indices = np.arange(starts[k], starts[k + 1])
        # Holes have to run against the outline, or the ring crosses itself; files turn them either way.
        if polygon.interiors[k - 1].is_ccw == polygon.exterior.is_ccw:
            indices = indices[::-1]
        distances, vertices = joined.nearest(points[indices])
        start = int(distances.argmin())
        at = int(np.flatnonzero(order == vertices[start])[0])
        turned = np.roll(indices, -start)
        order = np.concatenate([order[: at + 1], turned, turned[:1], order[at:]])
        joined.add(rings[k], int(starts[k]))
    return points, order


class _Joined:
    """The vertices that a seam may lead to: of the outline, and of the holes that hang on it already."""

    _NEW = 2000
    """Vertices of one tree: it is made anew with each ring, until it is full."""

    def __init__(self, outline: NDArray[np.float64]) -> None:
        self._trees = [(cKDTree(outline), np.arange(len(outline)))]
        self._points: list[NDArray[np.float64]] = []
        self._vertices: list[NDArray[np.int64]] = []

    def add(self, ring: NDArray[np.float64], first: int) -> None:
        """Add a ring whose vertices are numbered from `first` on."""
        self._points.append(ring)
        self._vertices.append(np.arange(first, first + len(ring)))
        points = np.vstack(self._points)
        if len(points) > self._NEW:
            self._trees.append((cKDTree(points), np.concatenate(self._vertices)))
            self._points, self._vertices = [], []

    def nearest(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return for each point the distance to the nearest vertex, and its number."""
        trees = list(self._trees)
        if self._points:
            trees.append((cKDTree(np.vstack(self._points)), np.concatenate(self._vertices)))
        best = np.full(len(points), np.inf)
        vertices = np.zeros(len(points), np.int64)
        for tree, numbers in trees:
            distances, found = tree.query(points)
            closer = distances < best
            best[closer] = distances[closer]
            vertices[closer] = numbers[found[closer]]
        return best, vertices
