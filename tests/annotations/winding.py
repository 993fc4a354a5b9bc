"""What an outline covers by the non-zero rule, computed by its definition and without shapely's repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry


def covered(ring: NDArray[np.float64]) -> BaseGeometry:
    """Return the union of the faces of an outline's drawing around which it turns at least once."""
    closed = ring if (ring[0] == ring[-1]).all() else np.vstack([ring, ring[:1]])
    lines = shapely.node(shapely.linestrings(closed))
    faces = shapely.get_parts(shapely.polygonize([lines]))
    kept = [face for face in faces if turns(closed, face.representative_point().coords[0])]
    return shapely.union_all(kept)


def turns(closed: NDArray[np.float64], point: tuple[float, float]) -> int:
    """Return how often a closed ring turns around a point (Sunday's crossing rule)."""
    x, y = point
    (x0, y0), (x1, y1) = closed[:-1].T, closed[1:].T
    is_left = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
    up = (y0 <= y) & (y1 > y) & (is_left > 0)
    down = (y0 > y) & (y1 <= y) & (is_left < 0)
    return int(up.sum() - down.sum())
