from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations import Annotations, Region, read_annotations
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import _coverage
from napari_histolatent.patches._coverage import CancelledError, annotated_of, cover, coverage_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

HOLED = Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 4, 4).exterior])


def annotations_of(*shapes: tuple[str, BaseGeometry]) -> Annotations:
    regions = tuple(Region(str(i), name, shape) for i, (name, shape) in enumerate(shapes))
    return Annotations(regions, format="test")


def grid(xs: NDArray[np.float64], ys: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """Squares with their top-left corners at all of xs times ys."""
    x, y = (v.ravel() for v in np.meshgrid(xs, ys))
    return np.column_stack([x, y, x + size, y + size]).astype(float)


def shares_by_shapely(shapes: list[BaseGeometry], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = shapely.box(*boxes.T)
    cut = shapely.intersection(shapely.union_all(shapes), squares)
    return np.asarray(shapely.area(cut) / shapely.area(squares))


def star(rng: np.random.Generator, centre: tuple[float, float], radius: float, n: int) -> Polygon:
    """A ragged outline with a hole in it."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    rays = radius * rng.uniform(0.5, 1, n)
    rings = [
        np.column_stack([centre[0] + s * rays * np.cos(angle), centre[1] + s * rays * np.sin(angle)])
        for s in (1, 0.4)
    ]
    found = shapely.make_valid(Polygon(rings[0])).difference(shapely.make_valid(Polygon(rings[1])))
    return max(shapely.get_parts(found), key=shapely.area)


@pytest.mark.parametrize(
    ("shapes", "patch", "expected"),
    [
        ([("a", box(0, 0, 5, 10))], (0, 0, 10, 10), [0.5, 0]),
        ([("a", box(-5, -5, 50, 50))], (0, 0, 10, 10), [1, 0]),
        ([("a", box(20, 20, 30, 30))], (0, 0, 10, 10), [0, 0]),
        ([("a", box(10, 0, 20, 10))], (0, 0, 10, 10), [0, 0]),  # they share an edge, which has no area
        ([("a", box(2, 2, 4, 4))], (0, 0, 10, 10), [0.04, 0]),
        # Overlaps within a class count once, of two classes twice.
        ([("a", box(0, 0, 6, 10)), ("a", box(4, 0, 10, 10))], (0, 0, 10, 10), [1, 0]),
        ([("a", box(0, 0, 6, 10)), ("a", box(0, 0, 3, 10))], (0, 0, 10, 10), [0.6, 0]),
        ([("a", box(0, 0, 6, 10)), ("b", box(4, 0, 10, 10))], (0, 0, 10, 10), [0.6, 0.6]),
        # A hole is not covered, unless another region of the class fills it.
        ([("a", HOLED)], (0, 0, 10, 10), [0.96, 0]),
        ([("a", HOLED)], (0, 0, 5, 5), [21 / 25, 0]),
        ([("a", HOLED)], (2, 2, 4, 4), [0, 0]),
        ([("a", HOLED), ("b", box(2, 2, 4, 4))], (0, 0, 10, 10), [0.96, 0.04]),
        ([("a", HOLED), ("a", box(2, 2, 4, 3))], (0, 0, 10, 10), [0.98, 0]),
        ([("a", MultiPolygon([box(0, 0, 1, 10), box(8, 0, 10, 10)]))], (0, 0, 10, 10), [0.3, 0]),
        ([("a", Polygon([(0, 0), (10, 0), (0, 10)]))], (0, 0, 10, 10), [0.5, 0]),
        # Two parts that touch in a point; a hole that touches its outline.
        ([("a", MultiPolygon([box(0, 0, 5, 5), box(5, 5, 10, 10)]))], (0, 0, 10, 10), [0.5, 0]),
        (
            [("a", Polygon(box(0, 0, 10, 10).exterior, [[(0, 5), (5, 2), (5, 8)]]))],
            (0, 0, 10, 10),
            [0.85, 0],
        ),
        # Marks carry no area.
        ([("a", Point(5, 5)), ("a", LineString([(0, 0), (10, 10)]))], (0, 0, 10, 10), [0, 0]),
        # Coordinates of a large slide keep their fractions; a third number is no matter.
        ([("a", box(100_000, 200_000, 100_005, 200_010))], (100_000, 200_000, 100_010, 200_010), [0.5, 0]),
        ([("a", Polygon([(0, 0, 7), (10, 0, 7), (0, 10, 7)]))], (0, 0, 10, 10), [0.5, 0]),
    ],
)
def test_coverage_is_the_area_by_hand(
    shapes: list[tuple[str, BaseGeometry]], patch: tuple[float, ...], expected: list[float]
) -> None:
    coverage = coverage_of(annotations_of(*shapes), ["a", "b"], np.array([patch], float))
    assert coverage.dtype == np.float32
    np.testing.assert_allclose(coverage, [expected], atol=1e-6)


def test_coverage_equals_counted_pixels() -> None:
    # Rectangles on whole pixels, drawn into a raster: every area is a count.
    rng = np.random.default_rng(0)
    rasters = {name: np.zeros((60, 60), bool) for name in "ab"}
    shapes = []
    for name in "ab" * 6:
        left, top, width, height = (int(v) for v in rng.integers(1, 25, 4))
        shapes.append((name, box(left, top, left + width, top + height)))
        rasters[name][top : top + height, left : left + width] = True
    corners = [(x, y) for x in range(0, 50, 3) for y in range(0, 50, 7)]
    boxes = np.array([(x, y, x + 8, y + 6) for x, y in corners], float)
    counts = np.array([[rasters[name][y : y + 6, x : x + 8].sum() for name in "ab"] for x, y in corners])
    found = coverage_of(annotations_of(*shapes), ["a", "b"], boxes)
    np.testing.assert_allclose(found, counts / 48, atol=1e-7)
    np.testing.assert_array_equal(found == 0, counts == 0)
    np.testing.assert_array_equal(found == 1, counts == 48)
    either = [(rasters["a"] | rasters["b"])[y : y + 6, x : x + 8].mean() for x, y in corners]
    np.testing.assert_allclose(annotated_of(annotations_of(*shapes), boxes), either, atol=1e-7)


WAYS = {
    "one lattice": {},
    "bands and few edges at once": {"_CELLS_AT_ONCE": 300, "_PIECES_AT_ONCE": 40, "_BOXES_AT_ONCE": 50},
    "groups": {"_FREE_CELLS": 0, "_CELLS_PER_BOX": 0, "_GROUP": 7, "_BOXES_AT_ONCE": 50},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_boxes_of_any_kind_agree_with_plain_intersections(
    monkeypatch: pytest.MonkeyPatch, way: str, seed: int
) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setattr(_coverage, name, value)
    rng = np.random.default_rng(seed)
    offset = rng.uniform(0, 2e5, 2)
    centres = offset + rng.uniform(-50, 150, (12, 2))
    shapes = [star(rng, (x, y), rng.uniform(1, 60), 40) for x, y in centres]
    shapes += [MultiPolygon([box(*c, *(c + 3)), box(*(c + 5), *(c + 9))]) for c in centres[:3]]
    overlapping = annotations_of(*(("a", shape) for shape in shapes))
    low = rng.uniform(-40, 120, (60, 2)) + offset
    boxes_of = {
        "overlapping": grid(offset[0] + np.arange(-30, 120, 9), offset[1] + np.arange(-20, 120, 7), 16),
        "with gaps": grid(offset[0] + np.arange(-30, 120, 19), offset[1] + np.arange(-20, 120, 17), 6.5),
        "anywhere": np.hstack([low, low + rng.uniform(0.5, 60, (60, 2))]),
    }
    for kind, boxes in boxes_of.items():
        expected = shares_by_shapely(shapes, boxes)
        found = coverage_of(overlapping, ["a"], boxes)[:, 0]
        np.testing.assert_allclose(found, expected, atol=2e-7, err_msg=kind)
        assert 0 < np.count_nonzero(found == 0) < len(boxes), kind
        np.testing.assert_array_equal(found == 0, expected == 0, err_msg=kind)


SIDES = {
    "left": box(-900, 10, -800, 40),
    "right": box(800, 10, 900, 40),
    "above": box(10, -900, 40, -800),
    "below": box(10, 800, 40, 900),
    "across to the left": box(-900, 13, 20, 31),
    "across to the right": box(33, 13, 900, 31),
    "across upwards": box(13, -900, 31, 20),
    "across downwards": box(13, 33, 31, 900),
    "slanted past all": Polygon([(-500, -300), (700, 20), (300, 800)]),
    "all around": Polygon(box(-99, -99, 199, 199).exterior, [box(-9, -9, 109, 109).exterior]),
    "all over": box(-99, -99, 199, 199),
    "inside one cell": Polygon([(41, 41), (44, 42), (42, 45)]),
    "on the lines": box(20, 30, 60, 70),
    "a step on the lines": Polygon([(0, 0), (50, 0), (50, 20), (20, 20), (20, 50), (0, 50)]),
    "a corner on a line": Polygon([(10, 10), (50, 50), (10, 90)]),
    "along the diagonal": Polygon([(0, 0), (100, 100), (0, 100)]),
}


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("name", SIDES)
def test_shapes_beside_across_and_on_the_lines(name: str, turn: bool) -> None:
    shape = SIDES[name].reverse() if turn else SIDES[name]
    boxes = grid(np.arange(0, 100, 10), np.arange(0, 100, 10), 10)
    expected = shares_by_shapely([SIDES[name]], boxes)
    found = coverage_of(annotations_of(("a", shape)), ["a"], boxes)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_array_equal(found == 1, expected == 1)


coordinate = st.integers(0, 24)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9),
    st.lists(
        st.tuples(coordinate, coordinate, st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=9
    ),
    st.sampled_from([1.0, 1 / 3, 1e-3]),
)
def test_any_outline_agrees_with_plain_intersections(
    points: list[tuple[int, int]], corners: list[tuple[int, int, int, int]], scale: float
) -> None:
    drawn = shapely.make_valid(Polygon([(scale * x, scale * y) for x, y in points]))
    shapes = [p for p in shapely.get_parts(drawn) if isinstance(p, Polygon) and not p.is_empty]
    boxes = scale * np.array([(x, y, x + w, y + h) for x, y, w, h in corners], float)
    expected = shares_by_shapely(shapes, boxes)
    found = coverage_of(annotations_of(*(("a", shape) for shape in shapes)), ["a"], boxes)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_patch_is_wholly_in_or_out_to_the_last_bit() -> None:
    # Thirds have no exact sum: whether a border lies in the box decides, not the arithmetic.
    left, top, third = 123_456 + 1 / 3, 98_765 + 2 / 3, 1 / 3
    outline = Polygon([(left + third * x, top + third * y) for x, y in ((0, 0), (70, 3), (90, 80), (5, 61))])
    boxes = grid(left + third * np.arange(-9, 95), top + third * np.arange(-9, 85), 0.05)
    squares = shapely.box(*boxes.T)
    found = coverage_of(annotations_of(("a", outline)), ["a"], boxes)[:, 0]
    inside, outside = shapely.contains(outline, squares), shapely.disjoint(outline, squares)
    assert inside.sum() > 1000
    assert outside.sum() > 1000
    assert (found[inside] == 1).all()
    assert (found[outside] == 0).all()
    border = ~inside & ~outside
    np.testing.assert_allclose(found[border], shares_by_shapely([outline], boxes[border]), atol=1e-6)


def test_rounding_does_not_reach_a_patch_beside_a_border() -> None:
    # Sums over the whole slide are 10^16 times the area of the smallest boxes: their last digit is more than a box.
    side, edge, width = 234_567.891, 123_456.789, 1e-3
    far, left, right = (
        box(a, -3.3, b, side) for a, b in ((-7.7, edge / 3), (edge / 2, edge), (edge, side + 9))
    )
    y = np.arange(1, 200) * 1111.1
    tiny = [
        np.column_stack([np.full(199, x), y, np.full(199, x + width), y + width])
        for x in (edge - width, edge)
    ]
    tiny[0][:, 2] = edge
    boxes = np.vstack([[0, 0, side, side], *tiny])
    annotations = annotations_of(("a", far), ("a", left), ("b", far), ("b", right))
    found = coverage_of(annotations, ["a", "b"], boxes)
    np.testing.assert_allclose(found[0], [edge * 5 / 6 / side, 1 - edge * 2 / 3 / side], rtol=1e-6)
    assert (found[1:200] == (1, 0)).all()
    assert (found[200:] == (0, 1)).all()


def test_whatever_is_annotated_counts_once_asked_for_or_not() -> None:
    annotations = annotations_of(
        ("a", box(0, 0, 6, 10)), ("b", box(4, 0, 8, 10)), ("c", box(20, 0, 25, 10)), ("d", Point(35, 5))
    )
    boxes = grid(np.arange(0, 40, 10), np.array([0.0]), 10)
    found = cover(annotations, ["b", "x"], boxes)
    np.testing.assert_allclose(found.shares, [[0.4, 0], [0, 0], [0, 0], [0, 0]], atol=1e-7)
    np.testing.assert_allclose(found.annotated, [0.8, 0, 0.5, 0], atol=1e-7)
    assert found.annotated.dtype == np.float32
    np.testing.assert_array_equal(annotated_of(annotations, boxes), found.annotated)
    assert found.regions == ["0 1", "", "2", ""]


def test_bits_name_the_classes_at_the_centre() -> None:
    annotations = annotations_of(
        ("a", box(0, 0, 5, 10)),  # its border runs through the centre of the first box
        ("b", HOLED),
        ("c", box(4, 4, 6, 6)),
        ("c", box(10, 0, 20, 10)),
        ("b", Polygon(box(20, 0, 30, 10).exterior, [box(22, 2, 28, 8).exterior])),
    )
    boxes = grid(np.arange(0, 40, 10), np.array([0.0]), 10)
    found = cover(annotations, ["a", "x", "c", "b"], boxes, with_regions=False)
    assert found.centre_classes.dtype == np.uint64
    assert found.centre_classes.tolist() == [0b1101, 0b0100, 0, 0]
    assert found.regions is None


def test_the_last_of_64_classes_has_its_bit_and_a_65th_is_refused() -> None:
    names = [f"class {i}" for i in range(65)]
    annotations = annotations_of((names[63], box(0, 0, 9, 9)))
    found = cover(annotations, names[:64], np.array([[0.0, 0, 4, 4]]))
    assert found.centre_classes.tolist() == [1 << 63]
    with pytest.raises(DatasetError, match=r"65 classes are more than the 64 .*; map some of them"):
        cover(annotations, names, np.array([[0.0, 0, 4, 4]]))


@pytest.mark.parametrize("way", WAYS)
def test_regions_are_those_with_an_area_in_the_box(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setattr(_coverage, name, value)
    rng = np.random.default_rng(5)
    # With few vertices and with many, which go different ways; a tile's neighbour; a mark.
    stars = [star(rng, (x, y), r, n) for x, y, r, n in ((40, 40, 38, 500), (60, 50, 40, 30), (20, 70, 3, 9))]
    shapes = [*stars, box(60, 60, 70, 70), MultiPolygon([box(1, 1, 2, 2), box(94, 94, 97, 98)]), Point(5, 5)]
    boxes = grid(np.arange(0, 100, 5), np.arange(0, 100, 10), 10)
    squares = shapely.box(*boxes.T)
    inside = [shapely.area(shapely.intersection(shape, squares)) > 0 for shape in shapes]
    expected = [
        " ".join(str(i) for i, touched in enumerate(column) if touched)
        for column in zip(*inside, strict=True)
    ]
    annotations = annotations_of(*(("ab"[i % 2], shape) for i, shape in enumerate(shapes)))
    assert cover(annotations, ["a", "b"], boxes).regions == expected
    assert max(map(len, expected)) >= 5


@pytest.mark.parametrize("boxes", [np.empty((0, 4)), np.array([[0.0, 0, 1, 1]])])
def test_nothing_covers_nothing(boxes: NDArray[np.float64]) -> None:
    n = len(boxes)
    nothing, beside = Annotations((), format="test"), annotations_of(("a", box(9, 9, 10, 10)))
    for given_regions, classes in ((nothing, []), (nothing, ["a"]), (beside, ["a", "b"])):
        found = cover(given_regions, classes, boxes)
        assert found.shares.shape == (n, len(classes))
        assert not found.shares.any()
        assert found.annotated.tolist() == [0] * n
        assert found.centre_classes.tolist() == [0] * n
        assert found.regions == [""] * n
        assert coverage_of(given_regions, classes, boxes).shape == (n, len(classes))


@pytest.mark.parametrize("wrong", [(0, 0, 0, 1), (0, 2, 1, 1), (0, 0, float("nan"), 1)])
def test_a_box_without_an_area_is_a_fault(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="left < right"):
        coverage_of(annotations_of(("a", HOLED)), ["a"], np.array([wrong], float))


def test_it_stops_at_any_step_when_told() -> None:
    annotations = annotations_of(
        ("a", HOLED), ("b", box(1, 1, 8, 8)), ("b", Point(8, 8).buffer(3, quad_segs=99))
    )
    boxes = grid(np.arange(0, 10, 3), np.arange(0, 10, 3), 3)

    def stops_after(n: int) -> int:
        asked = 0

        def should_stop() -> bool:
            nonlocal asked
            asked += 1
            return asked > n

        cover(annotations, ["a", "b"], boxes, should_stop=should_stop)
        return asked

    n_asked = stops_after(1000)
    assert n_asked >= 10
    for n in range(n_asked):
        with pytest.raises(CancelledError):
            stops_after(n)


# Real outlines


def read(data_dir: Path, number: str) -> Annotations:
    return read_annotations(data_dir / "annotations" / "asap" / f"camelyon16_tumor_{number}.xml")


def test_a_large_real_outline_agrees_with_plain_intersections(data_dir: Path) -> None:
    annotations = read(data_dir, "039")
    shapes = [region.geometry for region in annotations.regions]
    left, top, right, bottom = shapely.total_bounds(shapes)
    boxes = grid(np.linspace(left, right - 256, 150), np.linspace(top, bottom - 256, 150), 256)
    found = coverage_of(annotations, annotations.classes, boxes)[:, 0]
    rng = np.random.default_rng(0)
    some = rng.choice(np.flatnonzero((found > 0) & (found < 1)), 200, replace=False)
    some = np.concatenate([some, rng.choice(len(boxes), 100, replace=False)])
    np.testing.assert_allclose(found[some], shares_by_shapely(shapes, boxes[some]), atol=1e-6)


@pytest.mark.parametrize("number", ["036", "085"])
def test_real_fractions_agree_with_counted_pixels(data_dir: Path, number: str) -> None:
    annotations = read(data_dir, number)
    polygons = np.array([p for region in annotations.regions for p in region.polygons], dtype=object)
    rng = np.random.default_rng(1)
    vertices = rng.permutation(shapely.get_coordinates(polygons))[:12]
    corners = np.floor(vertices - rng.uniform(40, 216, vertices.shape))
    boxes = np.hstack([corners, corners + 256])
    found = coverage_of(annotations, annotations.classes, boxes)[:, 0]
    counted = [share_counted(polygons, *corner, size=256, times=10) for corner in corners]
    assert np.ptp(counted) > 0.4
    np.testing.assert_allclose(found, counted, atol=0.002)


def share_counted(polygons: NDArray[np.object_], left: float, top: float, *, size: int, times: int) -> float:
    """The share of a square that is drawn, with `times` dots along each pixel's side."""
    square, covered = box(left, top, left + size, top + size), np.zeros((size * times,) * 2, bool)
    for polygon in polygons[shapely.intersects(polygons, square)]:
        picture = Image.new("1", covered.shape)
        draw = ImageDraw.Draw(picture)
        for ring, fill in ((polygon.exterior, 1), *((hole, 0) for hole in polygon.interiors)):
            # Dots have their places at their middles.
            xy = (np.asarray(ring.coords) - (left, top)) * times - 0.5
            draw.polygon(xy.ravel().tolist(), fill=fill)
        covered |= np.asarray(picture)
    return float(covered.mean())
