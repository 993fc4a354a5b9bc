from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box
from skimage.measure import label, regionprops

from napari_histolatent.annotations import _raster
from napari_histolatent.annotations._raster import RegionRaster


def blobs(rng: np.random.Generator, count: int) -> list[Polygon | MultiPolygon]:
    """Random valid shapes with a hole each, drawn either way round."""
    result = []
    for _ in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 30)))
        radii, center = rng.uniform(5, 30, len(angles)), rng.uniform(0, 64, 2)
        points = center + np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])
        shape = shapely.make_valid(Polygon(points)).difference(Point(center).buffer(4))
        parts = MultiPolygon([p for p in shapely.get_parts(shape) if p.geom_type == "Polygon"])
        result.append(shapely.reverse(parts) if rng.random() < 0.5 else parts)
    return result


def expected(
    shapes: list[Polygon | MultiPolygon], codes: np.ndarray, box_xy: tuple[float, ...], shape: tuple[int, int]
) -> np.ndarray:
    left, top, right, bottom = box_xy
    rows, columns = shape
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
    result = np.zeros(shape, int)
    for index in np.argsort(codes, kind="stable"):
        result[shapely.contains_xy(shapes[index], *np.meshgrid(x, y))] = codes[index]
    return result


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "box_xy", [(3.0, 2.0, 60.0, 50.0), (-40.0, -40.0, 120.0, 100.0), (30.0, 30.0, 34.0, 33.0)]
)
def test_a_pixel_has_the_code_of_what_covers_its_centre(seed: int, box_xy: tuple[float, ...]) -> None:
    rng = np.random.default_rng(seed)
    shapes, codes = blobs(rng, 7), rng.integers(1, 4, 7)
    filled = RegionRaster(shapes, codes).fill(box_xy, (96, 80))  # type: ignore[arg-type]
    assert filled.dtype == np.uint16
    assert np.array_equal(filled, expected(shapes, codes, box_xy, (96, 80)))


def test_small_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, codes = blobs(np.random.default_rng(0), 30), np.arange(30) % 5 + 1
    raster = RegionRaster(shapes, codes)
    before = [draw((0, 0, 64, 64), (128, 128)) for draw in (raster.fill, raster.outlines)]
    monkeypatch.setattr(_raster, "_EDGES_AT_ONCE", 40)
    monkeypatch.setattr(_raster, "_PIXELS_AT_ONCE", 100)
    after = [draw((0, 0, 64, 64), (128, 128)) for draw in (raster.fill, raster.outlines)]
    assert np.array_equal(before, after)


def test_regions_that_abut_share_no_pixel_and_leave_none() -> None:
    rng = np.random.default_rng(3)
    points = rng.integers(0, 128, (60, 2)) / 2  # many vertices and edges on the centres of pixels
    triangles = shapely.get_parts(shapely.delaunay_triangles(shapely.multipoints(points)))
    each = [RegionRaster([t], np.array([1])).fill((0, 0, 64, 64), (64, 64)) for t in triangles]
    owners = np.sum(each, axis=0)
    hull = shapely.union_all(triangles)
    x, y = np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5)
    assert owners.max() == 1
    assert (owners[shapely.contains_xy(hull, x, y)] == 1).all()
    assert (owners[~shapely.intersects_xy(hull, x, y)] == 0).all()


def test_the_area_of_what_is_drawn() -> None:
    shape = Polygon(box(2, 3, 50, 40).exterior, [box(10, 10, 20, 25).exterior])
    (found,) = regionprops(label(RegionRaster([shape], np.array([7])).fill((0, 0, 64, 64), (64, 64)) == 7))
    assert found.area == shape.area
    assert found.euler_number == 0  # one part, one hole


def test_a_higher_code_is_on_top_whatever_the_order() -> None:
    shapes = [box(0, 0, 10, 10), box(5, 0, 15, 10), box(8, 0, 20, 10)]
    row = RegionRaster(shapes, np.array([2, 9, 1])).fill((0, 0, 20, 1), (1, 20))[0]
    assert row.tolist() == [2] * 5 + [9] * 10 + [1] * 5


def test_outlines_show_at_every_zoom_without_gaps() -> None:
    circle = Point(500, 500).buffer(400, quad_segs=50)
    raster = RegionRaster([circle, box(0, 0, 1e7, 1e7)], np.array([3, 1]))
    for size in (1, 4, 33, 600):
        drawn = raster.outlines((0, 0, 1000, 1000), (size, size))
        dots = raster.dots((0, 0, 1000, 1000), (size, size))
        assert (drawn == 3).any() == (size > 1)
        assert (dots == 3).any() == (size == 1), "what is too small for an outline is a dot"
    ring = raster.outlines((50, 50, 950, 950), (600, 600)) == 3
    assert label(ring, connectivity=2).max() == 1
    assert label(~ring, connectivity=1).max() == 2  # closed: inside and outside are apart
    rows, columns = np.nonzero(ring)
    centers = shapely.points(50 + (columns + 0.5) * 1.5, 50 + (rows + 0.5) * 1.5)
    assert shapely.distance(circle.exterior, centers).max() <= 1.5 * np.sqrt(0.5) + 1e-9


def test_dots_stand_for_what_is_too_small() -> None:
    shapes = [box(100, 200, 110, 205), box(300, 300, 500, 500), box(101, 201, 103, 203), box(-50, 0, -40, 1)]
    raster = RegionRaster(shapes, np.array([1, 2, 3, 4]))
    dots = raster.dots((0, 0, 1000, 1000), (100, 100))
    assert {(int(r), int(c)): int(dots[r, c]) for r, c in np.argwhere(dots)} == {(20, 10): 3}
    # At full size the smallest is 2 pixels wide, and drawn as what it is.
    assert not raster.dots((0, 0, 1000, 1000), (1000, 1000)).any()


def test_what_is_at_a_point() -> None:
    shapes = [
        box(0, 0, 10, 10),
        box(0, 0, 5, 5),
        box(2, 2, 30, 30),
        Polygon(box(0, 0, 9, 9).exterior, [box(3, 3, 6, 6).exterior]),
    ]
    raster = RegionRaster(shapes, np.array([1, 1, 5, 1]))
    assert raster.at(4, 4) == [2, 1, 0]
    assert raster.at(1, 1) == [1, 3, 0]
    assert raster.at(40, 4) == []


def test_no_regions_and_empty_ones() -> None:
    for raster in (
        RegionRaster([], np.empty(0, int)),
        RegionRaster([Polygon(), MultiPolygon()], np.array([1, 2])),
    ):
        for draw in (raster.fill, raster.outlines, raster.dots):
            assert not draw((0, 0, 10, 10), (4, 5)).any()
        assert raster.at(0, 0) == []
    mixed = RegionRaster([Polygon(), box(0, 0, 1, 1), MultiPolygon([box(2, 0, 3, 1)])], np.array([1, 2, 3]))
    assert mixed.fill((0, 0, 4, 1), (1, 4)).tolist() == [[2, 0, 3, 0]]


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        RegionRaster([box(0, 0, 1, 1)] * 2, np.array([0, 1]))
    with pytest.raises(ValueError, match="1 geometries and 2 codes"):
        RegionRaster([box(0, 0, 1, 1)], np.array([1, 1]))
    with pytest.raises(ValueError, match="no polygons"):
        RegionRaster([LineString([(0, 0), (1, 1)])], np.array([1]))


def test_several_threads_draw_the_same() -> None:
    shapes = blobs(np.random.default_rng(5), 50)
    raster = RegionRaster(shapes, np.arange(1, 51))
    boxes = [(float(i), 0.0, i + 40.0, 60.0) for i in range(16)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda b: raster.fill(b, (64, 64)), boxes))
    assert np.array_equal(together, [raster.fill(b, (64, 64)) for b in boxes])
