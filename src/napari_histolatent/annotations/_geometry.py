"""Repair of outlines. Only polygonal parts are kept: stray lines make vectorised shapely 100 times slower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_FEW_VERTICES = 500
_SLIVER_PX2 = 1e-4
"""Level-0 pixels squared."""


def repaired(geometry: BaseGeometry) -> BaseGeometry | None:
    """Return a valid polygon or multipolygon of the same outline, or None where no area is left.

    Uses shapely's make_valid by structure, which fills an outline by the non-zero rule: buffer(0) would silently
    lose a lobe of a bow-tie, and make_valid by lines cuts out what an outline covers twice, or what two parts of
    one region share. Points and lines are returned as they are.
    """
    if not isinstance(geometry, (Polygon, MultiPolygon)):
        return geometry
    if geometry.is_empty:
        return None
    if geometry.is_valid:
        return polygonal(geometry)
    result = polygonal(shapely.make_valid(geometry, method="structure", keep_collapsed=False))
    if result is not None and not result.is_valid:
        # GEOS 3.14 leaves lobes that were drawn in opposite turns side by side, where they share an edge too.
        result = polygonal(shapely.union_all(shapely.get_parts(result)))
    return None if result is None else _without_slivers(result)


def _without_slivers(geometry: BaseGeometry) -> BaseGeometry:
    """Leave out parts and holes that rounding made where lines cross: read again, they would be faults of their own."""
    parts = []
    for part in shapely.get_parts(geometry):
        holes = [hole for hole in part.interiors if Polygon(hole).area >= _SLIVER_PX2]
        parts.append(part if len(holes) == len(part.interiors) else Polygon(part.exterior, holes))
    kept = [part for part in parts if part.area >= _SLIVER_PX2] or [max(parts, key=lambda part: part.area)]
    return kept[0] if len(kept) == 1 else MultiPolygon(kept)


def n_crossings(geometry: Polygon) -> float:
    """Return about how often an outline crosses itself, by a sample of its segments.

    The repair of 100,000 crossings takes seconds, that of the 10 million of two long outlines whose points were mixed
    takes hours.
    """
    xy = shapely.get_coordinates(geometry)
    n = len(xy) - 1
    if n < _FEW_VERTICES:
        return 0.0
    # Segments that join one ring to the next are among them: of a few holes that is nothing.
    segments = shapely.linestrings(np.stack([xy[:-1], xy[1:]], axis=1))
    sample = segments[:: max(1, n // max(8, min(200, 4_000_000 // n)))]
    hits = shapely.STRtree(segments).query(sample, predicate="intersects")
    # Each meets itself and its two neighbours.
    return max(0.0, float(hits.shape[1] / len(sample) - 3) * n / 2)


def polygonal(geometry: BaseGeometry) -> BaseGeometry | None:
    """Return what of a geometry covers an area, or None."""
    if isinstance(geometry, Polygon) and geometry.area > 0:
        return geometry
    # make_valid nests collections no deeper than once.
    parts = shapely.get_parts(shapely.get_parts(geometry))
    kept = [part for part in parts if isinstance(part, Polygon) and part.area > 0]
    if not kept:
        return None
    return kept[0] if len(kept) == 1 else MultiPolygon(kept)
