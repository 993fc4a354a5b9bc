"""Outlines as files really hold them: with heights, and with very many points."""

from __future__ import annotations

import numpy as np
import pytest
from shapely.geometry import Polygon

from napari_histolatent._napari.regions._outlines import _keyhole


def circle(radius: float, points: int) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.column_stack([200 + radius * np.cos(angle), 300 + radius * np.sin(angle)])


def test_a_height_is_left_out() -> None:
    outer, hole = (np.column_stack([circle(r, 40), np.full(40, 7.0)]) for r in (100, 50))
    ring = _keyhole(Polygon(outer, [hole]))
    assert ring.shape[1] == 2
    flat = Polygon(circle(100, 40), [circle(50, 40)])
    assert Polygon(ring).area == pytest.approx(flat.area)


def test_a_ring_of_very_many_points_needs_no_matrix_of_distances() -> None:
    """Each with each other would be 80 GB."""
    points, angle = 100_000, np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    outer = circle(100, points) * np.column_stack([1 + 0.2 * np.sin(9 * angle), np.ones(points)])
    polygon = Polygon(outer, [circle(40, points) + np.array([25, 10])])
    assert Polygon(_keyhole(polygon)).area == pytest.approx(polygon.area)
