"""What the drawing tools do to outlines: pure functions on shapely geometry in level-0 pixels, (x, y).

Every function that makes an area returns a valid polygon or multipolygon, or None where nothing is left.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import LineString, MultiPolygon, Point, Polygon

from napari_histolatent.annotations._geometry import repaired
from napari_histolatent.annotations._marks import ellipse_ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike, NDArray
    from shapely.geometry.base import BaseGeometry

SMALLEST_PART_PX2 = 1e-6
"""Parts of less area are what rounding leaves behind, and nothing that anybody drew."""

_QUAD_SEGS = 8
"""Sides of a quarter of the brush's circle."""


def polygon_of(points_xy: ArrayLike) -> Polygon | MultiPolygon | None:
    """Return the area of a drawn outline.

    Parameters
    ----------
    points_xy
        Vertices in the order drawn, shape (n, 2), closed or not. Where the outline crosses itself, every
        part that it encloses counts.

    Returns
    -------
    Polygon or MultiPolygon or None
        None where the outline encloses nothing.
    """
    points = _points(points_xy)
    return _polygonal(Polygon(points)) if len(points) >= 3 else None


def rectangle_of(corner: tuple[float, float], opposite: tuple[float, float]) -> Polygon | None:
    """Return the rectangle between two opposite corners, or None if it has no area."""
    (x0, x1), (y0, y1) = sorted((corner[0], opposite[0])), sorted((corner[1], opposite[1]))
    return _polygonal(shapely.box(x0, y0, x1, y1)) if _all_finite(corner, opposite) else None


def ellipse_of(corner: tuple[float, float], opposite: tuple[float, float]) -> Polygon | None:
    """Return the ellipse that fills the box between two opposite corners, as a polygon of 96 vertices."""
    if not _all_finite(corner, opposite):
        return None
    return _polygonal(Polygon(ellipse_ring(*corner, *opposite)))


def freehand_of(points_xy: ArrayLike, tolerance_px: float) -> Polygon | MultiPolygon | None:
    """Return the area of a freehand outline without the vertices that its shape does not need.

    Parameters
    ----------
    points_xy
        As the mouse gave them, shape (n, 2); the outline is closed from the last to the first.
    tolerance_px
        How far the outline may move (Douglas-Peucker, topology kept).
    """
    drawn = polygon_of(points_xy)
    return None if drawn is None else simplified(drawn, tolerance_px)


def stroke_of(points_xy: ArrayLike, radius_px: float) -> Polygon | MultiPolygon | None:
    """Return what a round brush covers on its way through `points_xy`, shape (n, 2)."""
    points = _points(points_xy)
    if not len(points) or not radius_px > 0:
        return None
    path = LineString(points) if len(points) > 1 else Point(points[0])
    footprint = path.buffer(radius_px, quad_segs=_QUAD_SEGS)
    return _polygonal(footprint.simplify(radius_px / 50, preserve_topology=True))


def added(geometry: BaseGeometry | None, stroke: BaseGeometry | None) -> Polygon | MultiPolygon | None:
    """Return the geometry with the stroke; either may be None."""
    return merged([part for part in (geometry, stroke) if part is not None])


def subtracted(geometry: BaseGeometry | None, stroke: BaseGeometry | None) -> Polygon | MultiPolygon | None:
    """Return the geometry without the stroke; None where that takes all of it."""
    area = None if geometry is None else _polygonal(geometry)
    cutter = None if stroke is None else _polygonal(stroke)
    if area is None or cutter is None:
        return area
    return _polygonal(_overlay(shapely.difference, area, cutter))


def merged(geometries: Iterable[BaseGeometry]) -> Polygon | MultiPolygon | None:
    """Return the union of the areas; what is no area is left out."""
    areas = [area for area in map(_polygonal, geometries) if area is not None]
    return _polygonal(_overlay(shapely.union_all, areas)) if areas else None


def split(geometry: BaseGeometry, line_xy: ArrayLike) -> list[Polygon | MultiPolygon]:
    """Return the parts into which a line cuts an area, the largest first.

    Only a line that goes all the way through a polygon cuts it, from outline to outline: one that ends
    inside it or in a hole does not. A line that closes a loop inside cuts the loop out. Polygons of a
    multipolygon that the line does not cut stay with the first part.

    Parameters
    ----------
    geometry
        Polygon or multipolygon.
    line_xy
        The line's points, shape (n, 2).

    Returns
    -------
    list
        One part if the line does not cut; together the parts cover what the geometry did.
    """
    area = _polygonal(geometry)
    if area is None:
        return []
    points = _points(line_xy)
    if len(points) < 2:
        return [area]
    line = LineString(points)
    uncut: list[Polygon] = []
    pieces: list[Polygon] = []
    for polygon in _polygons(area):
        faces = _faces(polygon, line)
        if len(faces) > 1:
            pieces += faces
        else:
            uncut.append(polygon)
    if not pieces:
        return [area]
    pieces.sort(key=lambda piece: -piece.area)
    first = _polygonal(MultiPolygon([pieces[0], *uncut])) if uncut else pieces[0]
    return [part for part in (first, *pieces[1:]) if part is not None]


def _faces(polygon: Polygon, line: LineString) -> list[Polygon]:
    """Return the pieces of one polygon; polygonize drops dangling lines and those that lead into a hole."""
    if not line.intersects(polygon):
        return [polygon]
    edges = _overlay(shapely.union, polygon.boundary, line)
    shapely.prepare(polygon)
    return [
        face
        for face in shapely.get_parts(shapely.polygonize(shapely.get_parts(edges)))
        if face.area >= SMALLEST_PART_PX2 and polygon.contains(face.representative_point())
    ]


def without_holes(
    geometry: BaseGeometry, smaller_than_px2: float = math.inf
) -> Polygon | MultiPolygon | None:
    """Return the geometry with its holes below an area filled (all of them, unless told)."""
    area = _polygonal(geometry)
    if area is None:
        return None
    filled = [
        Polygon(
            polygon.exterior,
            [ring for ring in polygon.interiors if Polygon(ring).area >= smaller_than_px2],
        )
        for polygon in _polygons(area)
    ]
    # An island in a hole becomes part of what fills it: only a union keeps that valid.
    return merged(filled) if len(filled) > 1 else _polygonal(filled[0])


def simplified(geometry: BaseGeometry, tolerance_px: float) -> BaseGeometry:
    """Return the geometry with fewer vertices: same parts, same holes, moved by the tolerance at most.

    Where the tolerance would cost a part or a hole, a smaller one is taken; a geometry that cannot be
    simplified is returned as it is, never None.
    """
    if not tolerance_px > 0:
        return geometry
    vertices = shapely.points(shapely.get_coordinates(geometry))
    for tolerance in (tolerance_px * 0.8**step for step in range(16)):
        simpler = shapely.simplify(geometry, tolerance, preserve_topology=True)
        if not simpler.is_valid or simpler.is_empty or _topology(simpler) != _topology(geometry):
            continue
        # Where a ring starts, GEOS may move it by twice the tolerance.
        edges = simpler.boundary if _polygons(simpler) else simpler
        shapely.prepare(edges)
        if shapely.dwithin(edges, vertices, tolerance_px).all():
            return simpler
    return geometry


def length_of(line_xy: ArrayLike, mpp_xy: tuple[float, float] | None) -> float:
    """Return the length of a line, shape (n, 2), in µm, or in level-0 pixels where mpp is not known."""
    steps = np.diff(_points(line_xy), axis=0) * np.asarray(mpp_xy or (1.0, 1.0))
    return float(np.hypot(steps[:, 0], steps[:, 1]).sum())


def area_mm2(geometry: BaseGeometry, mpp_xy: tuple[float, float]) -> float:
    """Return the area in mm² at `mpp_xy` µm per pixel."""
    return float(geometry.area) * mpp_xy[0] * mpp_xy[1] / 1e6


def n_vertices(geometry: BaseGeometry) -> int:
    """Return the number of vertices, those that close a ring not counted again."""
    closing = sum(1 + len(polygon.interiors) for polygon in _polygons(geometry))
    return int(shapely.get_num_coordinates(geometry)) - closing


def _points(points_xy: ArrayLike) -> NDArray[np.float64]:
    """Return finite points, shape (n, 2), without those that repeat the one before."""
    points = np.asarray(points_xy, np.float64).reshape(-1, 2)
    # A canvas that is being laid out maps the mouse to NaN: such a point is nowhere.
    points = points[np.isfinite(points).all(axis=1)]
    is_new = np.ones(len(points), bool)
    is_new[1:] = (np.diff(points, axis=0) != 0).any(axis=1)
    return points[is_new]


def _all_finite(*points: tuple[float, float]) -> bool:
    return all(math.isfinite(value) for point in points for value in point)


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    """Return the polygons in any geometry, collections in collections included."""
    if isinstance(geometry, Polygon):
        return [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _polygons(part)]


def _polygonal(geometry: BaseGeometry) -> Any:
    """Return the polygonal parts that are large enough, valid, or None where there are none."""
    polygons = [polygon for polygon in _polygons(geometry) if not polygon.is_empty]
    if not polygons:
        return None
    valid = repaired(MultiPolygon(polygons) if len(polygons) > 1 else polygons[0])
    parts = [] if valid is None else [part for part in _polygons(valid) if part.area >= SMALLEST_PART_PX2]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _topology(geometry: BaseGeometry) -> list[int]:
    """Return the number of holes of each polygon."""
    return [len(polygon.interiors) for polygon in _polygons(geometry)]


def _overlay(operation: Callable[..., Any], *geometries: Any) -> Any:
    try:
        return operation(*geometries)
    except shapely.GEOSException:
        # Nearly coincident edges can defeat the exact overlay; on a grid of 1e-6 px it cannot fail.
        return operation(*geometries, grid_size=1e-6)
