"""Repair of outlines. Only polygonal parts are kept: stray lines make vectorised shapely 100 times slower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import shapely
from shapely.geometry import MultiPolygon, Polygon

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


def repaired(geometry: BaseGeometry) -> BaseGeometry | None:
    """Return a valid polygon or multipolygon of the same outline, or None where no area is left.

    Uses shapely's make_valid by structure: buffer(0) would silently lose a lobe of a bow-tie, and make_valid by lines
    cut out what two parts of one region share. Points and lines are
    returned as they are.
    """
    if not isinstance(geometry, (Polygon, MultiPolygon)):
        return geometry
    if geometry.is_empty:
        return None
    valid = (
        geometry
        if geometry.is_valid
        else shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    )
    parts = [
        part for part in shapely.get_parts(_flatten(valid)) if isinstance(part, Polygon) and part.area > 0
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _flatten(geometry: BaseGeometry) -> list[BaseGeometry]:
    """Return the parts of a collection, one level down (make_valid nests no deeper)."""
    return list(shapely.get_parts(shapely.get_parts(geometry)))
