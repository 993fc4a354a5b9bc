from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations import Annotations, Region
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import RULES, coverage_of, label_of

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

HOLED = Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 4, 4).exterior])


def annotations_of(*shapes: tuple[str, BaseGeometry]) -> Annotations:
    regions = tuple(Region(str(i), name, shape) for i, (name, shape) in enumerate(shapes))
    return Annotations(regions, format="test")


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
        # Marks carry no area.
        ([("a", Point(5, 5)), ("a", LineString([(0, 0), (10, 10)]))], (0, 0, 10, 10), [0, 0]),
        # Coordinates of a large slide keep their fractions.
        ([("a", box(100_000, 200_000, 100_005, 200_010))], (100_000, 200_000, 100_010, 200_010), [0.5, 0]),
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
    expected = [[rasters[name][y : y + 6, x : x + 8].mean() for name in "ab"] for x, y in corners]
    np.testing.assert_allclose(coverage_of(annotations_of(*shapes), ["a", "b"], boxes), expected, atol=1e-6)


def test_no_boxes_have_no_coverage() -> None:
    coverage = coverage_of(annotations_of(("a", box(0, 0, 1, 1))), ["a", "b"], np.empty((0, 4)))
    assert coverage.shape == (0, 2)


@pytest.mark.parametrize(
    ("rule", "threshold", "shares", "label"),
    [
        ("area", 0.75, [0.8, 0.2], 0),
        ("area", 0.75, [0.2, 0.8], 1),
        ("area", 0.75, [0.7, 0.3], -1),
        ("area", 0.75, [0.75, 0.25], 0),
        ("area", 0.7, [0.7, 0.3], 0),  # 0.7 is less than 0.7 in single precision
        ("area", 0.1, [0.3, 0.2], 0),
        ("area", 0.1, [0.0, 0.0], -1),
        ("area", 1.0, [1.0, 0.0], 0),
        ("area", 1.0, [0.99, 0.0], -1),
        ("majority", 0.9, [0.51, 0.49], 0),
        ("majority", 0.9, [0.5, 0.5], -1),
        ("majority", 0.9, [0.2, 0.3], -1),
        ("any", 0.9, [0.0, 0.001], 1),
        ("any", 0.9, [0.002, 0.001], 0),
        ("any", 0.9, [0.0, 0.0], -1),
        ("inside", 0.1, [0.0, 1.0], 1),
        ("inside", 0.1, [0.999, 0.001], -1),
    ],
)
def test_the_rule_gives_the_label(rule: str, threshold: float, shares: list[float], label: int) -> None:
    coverage = np.array([shares], np.float32)
    assert label_of(coverage, rule=rule, threshold=threshold).tolist() == [label]


@pytest.mark.parametrize(
    ("shares", "at_the_centre", "label"),
    [([0.9, 0.1], [0, 1], 1), ([0.1, 0.0], [1, 0], 0), ([0.9, 0.0], [0, 0], -1)],
)
def test_the_centre_decides_alone(shares: list[float], at_the_centre: list[float], label: int) -> None:
    labels = label_of(
        np.array([shares], np.float32),
        rule="centre",
        threshold=0.75,
        centre_coverage=np.array([at_the_centre], np.float32),
    )
    assert labels.tolist() == [label]


def test_each_patch_has_a_label_of_its_own() -> None:
    coverage = np.array([[1, 0, 0], [0, 0, 1], [0.4, 0.3, 0.3], [0, 0.8, 0.1]], np.float32)
    assert label_of(coverage, rule="area", threshold=0.75).tolist() == [0, 2, -1, 1]


@pytest.mark.parametrize("rule", RULES)
def test_no_patches_have_no_labels(rule: str) -> None:
    assert label_of(np.empty((0, 2), np.float32), rule=rule, threshold=0.75).tolist() == []


def test_an_unknown_rule_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(
        DatasetError, match=r"no label rule 'most'; choose one of area, majority, any, inside, centre\."
    ):
        label_of(np.ones((1, 1), np.float32), rule="most", threshold=0.5)


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, 75.0, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold: float) -> None:
    with pytest.raises(DatasetError, match=f"above 0 and up to 1, not at {threshold:g}"):
        label_of(np.ones((1, 1), np.float32), rule="area", threshold=threshold)
