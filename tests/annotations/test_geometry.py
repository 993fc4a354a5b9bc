from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations._geometry import repaired

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

BOW_TIE = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
SPIKE = Polygon([(0, 0), (10, 0), (10, 10), (5, 10), (5, 30), (5, 10), (0, 10)])
HOLED = Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 4, 4).exterior])
OVERLAPPING = MultiPolygon([box(0, 0, 10, 10), box(5, 5, 15, 15)])

# Two squares drawn in opposite turns that share an edge: GEOS 3.14 leaves them side by side, which is not valid.
OPPOSITE_LOBES = Polygon([(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (-1, 0), (-1, 4), (0, 4), (0, 0)])


@pytest.mark.parametrize(
    ("geometry", "area", "n_parts"),
    [
        (box(0, 0, 10, 10), 100, 1),
        (HOLED, 96, 1),
        (MultiPolygon([box(0, 0, 1, 1), box(5, 5, 7, 7)]), 5, 2),
        (MultiPolygon([box(0, 0, 3, 3)]), 9, 1),
        (BOW_TIE, 50, 2),  # buffer(0) would give 25
        (SPIKE, 100, 1),
        (MultiPolygon([box(0, 0, 10, 10), box(10, 0, 20, 10)]), 200, 1),
        (OPPOSITE_LOBES, 20, 1),
        (OVERLAPPING, 175, 1),  # what two parts share counts once
    ],
)
def test_the_result_is_valid_and_covers_the_outline(
    geometry: BaseGeometry, area: float, n_parts: int
) -> None:
    result = repaired(geometry)
    assert isinstance(result, Polygon if n_parts == 1 else MultiPolygon)
    assert result.is_valid
    assert result.area == pytest.approx(area)
    assert len(getattr(result, "geoms", [result])) == n_parts


def test_a_bow_tie_keeps_both_lobes() -> None:
    result = repaired(BOW_TIE)
    assert result is not None
    assert result.contains(Point(2, 5))
    assert result.contains(Point(8, 5))
    assert not result.contains(Point(5, 8))


@pytest.mark.parametrize("geometry", [box(0, 0, 10, 10), HOLED])
def test_a_sound_outline_is_unchanged(geometry: Polygon) -> None:
    result = repaired(geometry)
    assert result is not None
    assert result.equals_exact(geometry, 0)


@pytest.mark.parametrize(
    "geometry",
    [
        Polygon(),
        MultiPolygon(),
        Polygon([(0, 0), (10, 0), (5, 0)]),
        Polygon([(3, 3), (3, 3), (3, 3)]),
        MultiPolygon([Polygon([(0, 0), (10, 10), (5, 5)])]),
    ],
)
def test_no_area_is_no_region(geometry: BaseGeometry) -> None:
    assert repaired(geometry) is None


@pytest.mark.parametrize("geometry", [Point(1, 2), LineString([(0, 0), (5, 5)])])
def test_marks_pass_as_they_are(geometry: BaseGeometry) -> None:
    assert repaired(geometry) is geometry
