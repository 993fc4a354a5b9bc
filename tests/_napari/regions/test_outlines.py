"""Regions as shapes and back, without a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shapely.geometry import LineString, MultiLineString, MultiPoint, MultiPolygon, Point, Polygon, box

from napari_histolatent._napari._layers import points_of, xy_of
from napari_histolatent._napari.regions._outlines import (
    POINT_RADIUS_PX,
    geometry_of,
    outlines_of,
    with_vertices_moved,
)
from napari_histolatent.annotations import Region

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

OUTER = [(10, 20), (110, 20), (110, 100), (10, 100)]
HOLE = [(30, 30), (60, 30), (60, 60), (30, 60)]
OTHER_HOLE = [(70, 35), (100, 35), (100, 90), (70, 90)]
RING = Polygon(OUTER, [HOLE])
TWO_HOLES = Polygon(OUTER[::-1], [HOLE, OTHER_HOLE[::-1]])
FAR = Polygon([(200, 200), (250, 200), (200, 250.5)])


def shapes_of(geometry: BaseGeometry) -> list[tuple[str, np.ndarray]]:
    outlines = outlines_of([Region("a", "tumour", geometry)])
    assert set(outlines.ids) == {"a"}
    return list(zip(outlines.shape_types, outlines.data, strict=True))


@pytest.mark.parametrize(
    "geometry",
    [
        Polygon(OUTER),
        RING,
        TWO_HOLES,
        Polygon(OUTER, [OTHER_HOLE, HOLE[::-1]]),
        MultiPolygon([RING, FAR]),
        MultiPolygon([FAR, TWO_HOLES, box(300, 0, 310.25, 7)]),
        LineString([(0, 0), (5, 5), (9.5, 2)]),
        MultiLineString([[(0, 0), (5, 5)], [(9, 9), (12, 9), (12, 1)]]),
    ],
)
def test_what_is_shown_comes_back(geometry: BaseGeometry) -> None:
    shapes = shapes_of(geometry)
    assert len(shapes) == len(getattr(geometry, "geoms", [geometry]))
    back = geometry_of(shapes)
    assert back is not None
    assert back.geom_type == geometry.geom_type
    assert back.is_valid
    assert back.equals(geometry)
    assert back.area == pytest.approx(geometry.area)
    assert back.length == pytest.approx(geometry.length)


@pytest.mark.parametrize("geometry", [Point(5, 7.25), MultiPoint([(5, 7.25), (100, 3)])])
def test_points_are_small_circles_and_come_back(geometry: BaseGeometry) -> None:
    shapes = shapes_of(geometry)
    assert {kind for kind, _ in shapes} == {"ellipse"}
    sizes = [np.ptp(vertices, axis=0) for _, vertices in shapes]
    assert np.allclose(sizes, 2 * POINT_RADIUS_PX)
    back = geometry_of(shapes, is_point=True)
    assert back is not None
    assert back.equals(geometry)


def test_regions_keep_their_order_and_their_ids() -> None:
    regions = [Region("b", "x", MultiPolygon([RING, FAR])), Region("a", "y", Point(1, 1))]
    outlines = outlines_of(regions)
    assert outlines.ids == ["b", "b", "a"]
    assert outlines.shape_types == ["polygon", "polygon", "ellipse"]
    assert len(outlines) == 3
    assert len(outlines_of([])) == 0


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2, 2.0])
def test_an_ellipse_is_the_one_in_its_turned_box(angle: float) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-40, -15], [40, -15], [40, 15], [-40, 15]]) @ turn.T + (100, 80)
    ellipse = geometry_of([("ellipse", points_of(corners))])
    assert ellipse is not None
    assert ellipse.area == pytest.approx(np.pi * 40 * 15, rel=0.002)
    assert (ellipse.centroid.x, ellipse.centroid.y) == pytest.approx((100, 80))
    end = np.array([40.0, 0]) @ turn.T + (100, 80)
    assert ellipse.exterior.distance(Point(end)) < 0.01
    side = np.array([0, 15.0]) @ turn.T + (100, 80)
    assert ellipse.exterior.distance(Point(side)) < 0.01


def test_a_turned_rectangle_keeps_its_corners() -> None:
    corners = np.array([(0, 0), (30, 40), (22, 46), (-8, 6)], float)
    back = geometry_of([("rectangle", points_of(corners))])
    assert back is not None
    assert back.equals(Polygon(corners))


def test_an_outline_that_crosses_itself_becomes_two_parts() -> None:
    back = geometry_of([("polygon", points_of(np.array([(0, 0), (10, 10), (10, 0), (0, 10)], float)))])
    assert back is not None
    assert back.is_valid
    assert back.area == pytest.approx(50)
    assert len(back.geoms) == 2


@pytest.mark.parametrize(
    ("kind", "xy"),
    [("polygon", [(0, 0), (5, 5), (10, 10)]), ("rectangle", [(3, 3)] * 4), ("ellipse", [(3, 3)] * 4)],
)
def test_what_covers_nothing_is_nothing(kind: str, xy: list[Any]) -> None:
    assert geometry_of([(kind, points_of(np.array(xy, float)))]) is None


def test_parts_that_overlap_are_joined() -> None:
    shapes = [
        ("polygon", points_of(np.array(b.exterior.coords)[:-1])) for b in (box(0, 0, 9, 9), box(5, 0, 20, 9))
    ]
    back = geometry_of(shapes)
    assert back is not None
    assert back.equals(box(0, 0, 20, 9))


# Vertices that are moved


def twice_passed(ring: np.ndarray) -> list[int]:
    """Return the places of a ring whose point comes again."""
    return [i for i, point in enumerate(ring) if (ring == point).all(axis=1).sum() > 1]


@pytest.mark.parametrize("polygon", [RING, TWO_HOLES])
def test_a_seam_stays_closed_whichever_end_of_it_is_moved(polygon: Polygon) -> None:
    ((_, ring),) = shapes_of(polygon)
    ends = twice_passed(ring)
    assert len(ends) >= 4, "each hole is reached and left by a seam"
    for index in ends:
        after = ring.copy()
        after[index] += (2.0, -1.5)
        moved = with_vertices_moved(polygon, after)
        assert moved is not None
        assert moved.is_valid
        assert len(moved.interiors) == len(polygon.interiors)
        # The same, done to the polygon itself.
        old, new = tuple(xy_of(ring[[index]])[0]), tuple(xy_of(after[[index]])[0])
        rings = [
            [new if tuple(p) == old else p for p in part.coords[:-1]]
            for part in (polygon.exterior, *polygon.interiors)
        ]
        wanted = Polygon(rings[0], rings[1:])
        assert moved.equals(wanted)
        assert moved.area == pytest.approx(wanted.area)
        assert moved.area != pytest.approx(polygon.area)


def test_a_vertex_of_a_hole_is_moved_alone() -> None:
    ((_, ring),) = shapes_of(RING)
    ends = twice_passed(ring)
    index = next(i for i in range(len(ring)) if i not in ends and tuple(xy_of(ring)[i]) in HOLE)
    after = ring.copy()
    after[index] += 3
    moved = with_vertices_moved(RING, after)
    assert moved is not None
    assert moved.exterior.equals(RING.exterior)
    assert not moved.interiors[0].equals(RING.interiors[0])


def test_what_is_not_moved_stays_to_the_last_bit() -> None:
    """A slide is 200,000 px wide, and napari's 32-bit numbers have seven digits."""
    odd = Polygon(
        [(90_000.1, 0.2), (90_010.3, 0.7), (90_009.9, 11.1)],
        [[(90_004.1, 2.3), (90_006.7, 2.9), (90_006.1, 4.3)]],
    )
    ((_, ring),) = shapes_of(odd)
    in_napari = ring.astype(np.float32)
    same = with_vertices_moved(odd, in_napari)
    assert same is not None
    assert same.equals_exact(odd, 0.0)
    index = next(i for i, p in enumerate(xy_of(ring)) if tuple(p) == odd.exterior.coords[2])
    in_napari[index] += 4.0
    moved = with_vertices_moved(odd, in_napari)
    assert moved is not None
    kept = set(odd.exterior.coords) & set(moved.exterior.coords)
    assert kept == set(odd.exterior.coords[:2])
    assert moved.interiors[0].equals_exact(odd.interiors[0], 0.0)


def test_a_hole_that_is_pulled_over_the_outline_is_repaired() -> None:
    ((_, ring),) = shapes_of(RING)
    index = next(i for i, p in enumerate(xy_of(ring)) if tuple(p) == (60.0, 60.0))
    after = ring.copy()
    after[(ring == ring[index]).all(axis=1)] = points_of(np.array([[60.0, 200.0]]))[0]
    moved = with_vertices_moved(RING, after)
    assert moved is not None
    assert moved.is_valid
    assert moved.area > 0
