from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations import _edits as edits

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

SQUARE = box(0, 0, 100, 100)
DONUT = Polygon(SQUARE.exterior, [box(40, 40, 60, 60).exterior])


def wobbly(n: int, seed: int = 0, radius: float = 1000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    r = radius * (1 + 0.1 * np.sin(5 * angles)) + rng.normal(0, 0.2, n)
    return np.column_stack([r * np.cos(angles), r * np.sin(angles)]) + 5000


def assert_sound(geometry: BaseGeometry | None) -> None:
    assert isinstance(geometry, (Polygon, MultiPolygon))
    assert geometry.is_valid
    assert all(part.area >= edits.SMALLEST_PART_PX2 for part in shapely.get_parts(geometry))


def test_an_outline_is_its_polygon_closed_or_not() -> None:
    points = [(0, 0), (10, 0), (10, 5), (0, 5)]
    for drawn in (points, [*points, points[0]], [(math.nan, 1), *points]):
        result = edits.polygon_of(drawn)
        assert result is not None
        assert result.equals(box(0, 0, 10, 5))


def test_a_crossing_outline_keeps_both_lobes() -> None:
    result = edits.polygon_of([(0, 0), (10, 10), (10, 0), (0, 10)])
    assert_sound(result)
    assert result is not None
    assert result.area == pytest.approx(50)


@pytest.mark.parametrize(
    "points", [[], [(1, 1)], [(0, 0), (5, 5)], [(0, 0), (5, 5), (9, 9)], [(1, 1)] * 5, [(math.nan, 0)] * 4]
)
def test_an_outline_around_nothing_is_nothing(points: list[tuple[float, float]]) -> None:
    assert edits.polygon_of(points) is None
    assert edits.freehand_of(points, 1) is None


def test_a_rectangle_and_an_ellipse_between_any_two_corners() -> None:
    for corner, opposite in (((10, 20), (40, 30)), ((40, 20), (10, 30))):
        rectangle = edits.rectangle_of(corner, opposite)
        ellipse = edits.ellipse_of(corner, opposite)
        assert rectangle is not None
        assert rectangle.equals(box(10, 20, 40, 30))
        assert_sound(ellipse)
        assert ellipse is not None
        assert edits.n_vertices(ellipse) == 96
        assert ellipse.bounds == pytest.approx((10, 20, 40, 30))
        assert ellipse.area == pytest.approx(math.pi * 15 * 5, rel=1e-3)
    assert edits.rectangle_of((1, 1), (1, 5)) is None
    assert edits.ellipse_of((1, 1), (5, 1)) is None
    assert edits.rectangle_of((math.nan, 1), (3, 5)) is None


@pytest.mark.parametrize("tolerance", [0.5, 2, 20])
def test_a_freehand_outline_moves_by_the_tolerance_at_most(tolerance: float) -> None:
    points = wobbly(3000)
    drawn = edits.polygon_of(points)
    result = edits.freehand_of(points, tolerance)
    assert_sound(result)
    assert drawn is not None
    assert result is not None
    assert edits.n_vertices(result) < len(points) / 3
    assert shapely.hausdorff_distance(result.boundary, drawn.boundary, densify=0.1) <= tolerance * 1.01


def test_a_dab_is_a_disc_and_a_stroke_a_sausage() -> None:
    dab = edits.stroke_of([(50, 50)], 10)
    assert dab is not None
    assert dab.area == pytest.approx(math.pi * 100, rel=0.03)
    assert edits.stroke_of([(50, 50), (50, 50)], 10) == dab
    stroke = edits.stroke_of([(0, 0), (100, 0)], 10)
    assert stroke is not None
    assert stroke.area == pytest.approx(2000 + math.pi * 100, rel=0.03)
    loop = edits.stroke_of(wobbly(2000), 10)
    assert isinstance(loop, Polygon)
    assert len(loop.interiors) == 1
    assert edits.stroke_of([], 10) is None
    assert edits.stroke_of([(0, 0)], 0) is None
    assert edits.stroke_of([(0, 0)], math.nan) is None


def test_adding_and_subtracting() -> None:
    stroke = edits.stroke_of([(50, 50)], 10)
    holed = edits.subtracted(SQUARE, stroke)
    assert isinstance(holed, Polygon)
    assert len(holed.interiors) == 1
    filled = edits.added(holed, stroke)
    assert filled is not None
    assert filled.area == pytest.approx(SQUARE.area)
    assert edits.added(None, SQUARE) == SQUARE
    assert edits.added(SQUARE, None) == SQUARE
    assert edits.added(None, None) is None
    assert edits.subtracted(SQUARE, None) == SQUARE
    assert edits.subtracted(SQUARE, box(-1, -1, 101, 101)) is None
    halves = edits.subtracted(SQUARE, box(40, -1, 60, 101))
    assert isinstance(halves, MultiPolygon)
    assert halves.area == pytest.approx(8000)


def test_a_thousand_random_strokes_leave_a_sound_area() -> None:
    rng = np.random.default_rng(3)
    area: BaseGeometry | None = SQUARE
    for _ in range(1000):
        stroke = edits.stroke_of(rng.uniform(-20, 120, (rng.integers(1, 6), 2)), rng.uniform(0.01, 8))
        area = (edits.added if rng.random() < 0.5 else edits.subtracted)(area, stroke)
        if area is not None:
            assert_sound(area)
    assert area is not None


def test_what_is_smaller_than_a_millionth_is_dropped() -> None:
    assert edits.polygon_of([(0, 0), (1e-4, 0), (0, 1e-4)]) is None
    assert edits.merged([SQUARE, box(200, 200, 200.0005, 200.0005)]) == SQUARE


def test_merging_touching_areas_makes_one() -> None:
    result = edits.merged([SQUARE, box(100, 0, 200, 100), Point(500, 500)])
    assert isinstance(result, Polygon)
    assert result.area == pytest.approx(20000)
    assert edits.merged([]) is None
    assert edits.merged([Point(0, 0), LineString([(0, 0), (1, 1)])]) is None


@pytest.mark.parametrize(
    ("geometry", "line", "areas"),
    [
        (SQUARE, [(30, -10), (30, 110)], [7000, 3000]),
        (SQUARE, [(30, -10), (30, 50)], [10000]),  # ends inside
        (SQUARE, [(200, -10), (200, 50)], [10000]),  # passes by
        (SQUARE, [(30, 20), (30, 50)], [10000]),  # wholly inside
        (SQUARE, [(0, -10), (0, 110)], [10000]),  # along the outline
        (SQUARE, [(30, 50)], [10000]),
        (SQUARE, [(30, -10), (30, 110), (60, 110), (60, -10)], [4000, 3000, 3000]),
        (SQUARE, [(-10, 20), (50, 20), (50, 80), (-10, 80)], [7000, 3000]),
        (DONUT, [(-10, 50), (50, 50)], [9600]),  # ends in the hole
        (DONUT, [(-10, 50), (110, 50)], [4800, 4800]),  # through the hole
        (DONUT, [(20, -10), (20, 110)], [7600, 2000]),  # past the hole
    ],
)
def test_a_line_cuts_where_it_goes_all_the_way(
    geometry: Polygon, line: list[tuple[float, float]], areas: list[float]
) -> None:
    parts = edits.split(geometry, line)
    assert [part.area for part in parts] == pytest.approx(areas)
    for part in parts:
        assert_sound(part)
    if len(parts) == 1:
        assert parts[0] == geometry


def test_polygons_that_the_line_misses_stay_with_the_first_part() -> None:
    two = MultiPolygon([SQUARE, box(200, 0, 210, 10)])
    parts = edits.split(two, [(30, -10), (30, 110)])
    assert [part.area for part in parts] == pytest.approx([7100, 3000])
    assert isinstance(parts[0], MultiPolygon)
    between = edits.split(two, [(150, -10), (150, 110)])
    assert between == [two]


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_of_a_split_cover_the_whole_and_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = edits.subtracted(
        edits.polygon_of(wobbly(400, seed)), edits.stroke_of(rng.uniform(4500, 5500, (4, 2)), 60)
    )
    assert whole is not None
    parts = edits.split(whole, np.cumsum(rng.normal(0, 400, (12, 2)), axis=0) + 5000)
    assert sum(part.area for part in parts) == pytest.approx(whole.area)
    union = edits.merged(parts)
    assert union is not None
    assert union.symmetric_difference(whole).area == pytest.approx(0, abs=1e-3)
    for part in parts:
        assert_sound(part)


def test_holes_are_filled_below_a_size() -> None:
    two = Polygon(SQUARE.exterior, [box(10, 10, 12, 12).exterior, box(40, 40, 60, 60).exterior])
    assert edits.without_holes(two) == SQUARE
    small_filled = edits.without_holes(two, 5)
    assert small_filled is not None
    assert small_filled.area == pytest.approx(9600)
    island = MultiPolygon([DONUT, box(45, 45, 55, 55)])
    filled = edits.without_holes(island)
    assert_sound(filled)
    assert filled is not None
    assert filled.equals(SQUARE)
    assert edits.without_holes(Point(1, 1)) is None


def test_simplifying_keeps_parts_and_holes() -> None:
    outline = Polygon(wobbly(2000))
    holed = outline.difference(Point(5000, 5000).buffer(50)).difference(Point(5300, 5000).buffer(3))
    two = MultiPolygon([holed, box(0, 0, 5, 5)])
    for tolerance in (0.5, 5, 50, 5000):
        result = edits.simplified(two, tolerance)
        assert_sound(result)
        assert [len(part.interiors) for part in shapely.get_parts(result)] == [2, 0]
        assert edits.n_vertices(result) < edits.n_vertices(two)
    assert edits.simplified(two, 0) is two
    assert edits.simplified(Point(3, 4), 2) == Point(3, 4)


def test_lengths_areas_and_vertices() -> None:
    line = [(0, 0), (30, 40), (30, 100)]
    assert edits.length_of(line, None) == pytest.approx(110)
    assert edits.length_of(line, (0.5, 0.25)) == pytest.approx(math.hypot(15, 10) + 15)
    assert edits.length_of([], None) == 0
    assert edits.length_of([(1, 1)], None) == 0
    assert edits.area_mm2(box(0, 0, 4000, 2000), (0.25, 0.5)) == pytest.approx(1)
    assert edits.n_vertices(SQUARE) == 4
    assert edits.n_vertices(MultiPolygon([DONUT, box(45, 45, 55, 55)])) == 12
    assert edits.n_vertices(LineString(line)) == 3
