from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shapely.geometry import Polygon, box

from napari_histolatent.annotations import Annotations, Region, read_annotations
from napari_histolatent.errors import AnnotationError, DatasetError, SlideError
from napari_histolatent.patches import GridSpec, TissueMask, coverage_of, plan_grid, tile_box, tissue_mask
from napari_histolatent.patches._grid import patch_boxes, patch_downsample
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.patches import PatchGrid
    from napari_histolatent.slides import Slide

    SlideOf = Callable[..., Slide]

EVERYWHERE = Annotations((Region("1", "a", box(0, 0, 10_000, 10_000)),), format="test")


def blank(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def planned(slide: Slide, spec: GridSpec, annotations: Annotations = EVERYWHERE) -> PatchGrid:
    everything = np.ones((slide.info.height_px, slide.info.width_px), bool)
    return plan_grid(slide, annotations, TissueMask(everything, (1.0, 1.0), threshold=0), spec)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"size_px": 7, "level": 0}, "A patch of 7 px is too small; give a size of at least 8 px."),
        ({"stride_px": 0, "level": 0}, "A stride of 0 px does not move; give at least 1 px."),
        ({}, "Give either an mpp or a level to cut at, not mpp=None with level=None."),
        ({"mpp": 0.5, "level": 0}, "Give either an mpp or a level to cut at, not mpp=0.5 with level=0."),
        (
            {"level": 0, "min_tissue": 1.5},
            "The least share of tissue has to lie between 0 and 1, not at 1.5.",
        ),
        (
            {"level": 0, "min_tissue": float("nan")},
            "The least share of tissue has to lie between 0 and 1, not at nan.",
        ),
    ],
)
def test_a_grid_that_cannot_be_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatasetError) as caught:
        GridSpec(**arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("centre", "size_px", "downsample", "expected"),
    [
        ((100, 100), 64, (1.0, 1.0), (68, 68, 132, 132)),
        ((100, 100), 64, (2.0, 4.0), (36, -28, 164, 228)),
        ((100.4, 99.6), 10, (1.0, 1.0), (95, 95, 105, 105)),
        ((0, 0), 8, (1.5, 1.5), (-6, -6, 6, 6)),
    ],
)
def test_the_tile_around_a_point(
    centre: tuple[float, float],
    size_px: int,
    downsample: tuple[float, float],
    expected: tuple[int, int, float, float],
) -> None:
    assert tile_box(centre, size_px, downsample) == expected


def test_boxes_of_patches() -> None:
    boxes = patch_boxes(np.array([[0, 0], [10, 20]]), 8, (2.0, 1.5))
    np.testing.assert_array_equal(boxes, [[0, 0, 16, 12], [10, 20, 26, 32]])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (GridSpec(level=0), (1, 1)),
        (GridSpec(level=1), (4, 4)),
        (GridSpec(mpp=0.499), (1, 1)),
        (GridSpec(mpp=0.5), (1, 1)),  # 0.499 is meant
        (GridSpec(mpp=0.49), (1, 1)),
        (GridSpec(mpp=2.0), (4, 4)),
        (GridSpec(mpp=1.98), (4, 4)),
        (GridSpec(mpp=0.998), (2, 2)),
        (GridSpec(mpp=0.52), (0.52 / 0.499, 0.52 / 0.499)),
        (GridSpec(mpp=0.25), (0.25 / 0.499, 0.25 / 0.499)),
    ],
)
def test_an_mpp_near_a_level_means_that_level(
    slide_of: SlideOf, spec: GridSpec, expected: tuple[float, float]
) -> None:
    slide = slide_of(blank(400, 400), blank(100, 100), mpp=(0.499, 0.499))
    assert patch_downsample(slide, spec) == pytest.approx(expected)


def test_pixels_that_are_not_square_are_never_a_level(slide_of: SlideOf) -> None:
    slide = slide_of(blank(400, 400), mpp=(0.5, 0.25))
    assert patch_downsample(slide, GridSpec(mpp=0.5)) == (1, 2)


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_that_the_slide_has_not(slide_of: SlideOf, level: int) -> None:
    slide = slide_of(blank(400, 400), blank(100, 100))
    with pytest.raises(DatasetError, match=rf"array\.tiff has no level {level}; its levels are 0 to 1\."):
        patch_downsample(slide, GridSpec(level=level))


@pytest.mark.parametrize("mpp", [0.0, -0.5, float("nan"), float("inf")])
def test_an_impossible_mpp(slide_of: SlideOf, mpp: float) -> None:
    with pytest.raises(SlideError, match=r"is not possible; the slide has 0\.5; give a number"):
        planned(slide_of(blank(400, 400), mpp=(0.5, 0.5)), GridSpec(mpp=mpp))


def test_an_mpp_needs_a_slide_that_states_its_own(slide_of: SlideOf) -> None:
    with pytest.raises(SlideError, match="does not state its pixel size"):
        planned(slide_of(blank(400, 400)), GridSpec(mpp=0.5))


@pytest.mark.parametrize(("width", "height"), [(63, 400), (400, 63)])
def test_a_slide_smaller_than_a_patch(slide_of: SlideOf, width: int, height: int) -> None:
    with pytest.raises(
        DatasetError, match=f"is {width} x {height} px, smaller than one patch of 64 level-0 px"
    ):
        planned(slide_of(blank(width, height)), GridSpec(size_px=64, level=0))


@pytest.mark.parametrize(
    ("extent", "size", "stride", "expected"),
    [
        (64, 64, None, [0]),
        (127, 64, None, [0]),
        (128, 64, None, [0, 64]),
        (128, 64, 32, [0, 32, 64]),
        (128, 64, 100, [0]),
        (300, 64, 100, [0, 100, 200]),
    ],
)
def test_corners_follow_the_stride(
    slide_of: SlideOf, extent: int, size: int, stride: int | None, expected: list[int]
) -> None:
    grid = planned(slide_of(blank(extent, size)), GridSpec(size_px=size, level=0, stride_px=stride))
    assert grid.level0_xy.tolist() == [[x, 0] for x in expected]


def test_size_and_stride_are_in_pixels_of_the_patch(slide_of: SlideOf) -> None:
    slide = slide_of(blank(400, 200), blank(100, 50))
    grid = planned(slide, GridSpec(size_px=20, level=1, stride_px=10))
    assert sorted(set(grid.level0_xy[:, 0])) == list(range(0, 321, 40))
    assert sorted(set(grid.level0_xy[:, 1])) == [0, 40, 80, 120]
    assert len(grid) == 9 * 4
    assert (grid.boxes[:, 2:] - grid.boxes[:, :2] == 80).all()


@pytest.mark.parametrize("mpp", [0.25, 0.58125, 0.7, 0.81, 1.0, 1.37])
def test_every_patch_lies_whole_on_the_slide(slide_of: SlideOf, mpp: float) -> None:
    # BUG: corners are rounded up as well as down, so the last patch can reach half a pixel past the edge.
    for extent in range(28, 60):
        boxes = planned(slide_of(blank(extent, extent), mpp=(0.5, 0.5)), GridSpec(size_px=8, mpp=mpp)).boxes
        assert len(boxes) > 0
        assert boxes.min() >= 0
        assert boxes.max() <= extent + 1e-6


def test_only_patches_that_touch_a_region_are_planned(slide_of: SlideOf) -> None:
    triangle = Annotations((Region("1", "a", Polygon([(0, 0), (200, 0), (0, 200)])),), format="test")
    grid = planned(slide_of(blank(200, 200)), GridSpec(size_px=20, level=0), triangle)
    expected = {(x, y) for x in range(0, 200, 20) for y in range(0, 200, 20) if x + y < 200}
    assert {(int(x), int(y)) for x, y in grid.level0_xy} == expected
    assert (grid.coverage > 0).all()


def test_a_plan_of_a_drawn_slide_has_the_right_shares(tiny_slide: Path, tiny_regions: Path) -> None:
    annotations = read_annotations(tiny_regions)
    with open_slide(tiny_slide) as slide:
        mask = tissue_mask(slide)
        grid = plan_grid(slide, annotations, mask, GridSpec(size_px=32, mpp=1.0, stride_px=16))
    assert grid.classes == ("epithelium", "stroma")
    assert grid.downsample == (2, 2)
    np.testing.assert_array_equal(grid.coverage, coverage_of(annotations, grid.classes, grid.boxes))
    np.testing.assert_array_equal(grid.tissue, mask.fractions(grid.boxes))
    # By hand: the patch at (32, 288) reaches 36 px into epithelium, which starts at x = 60.
    (row,) = np.flatnonzero((grid.level0_xy == (32, 288)).all(axis=1))
    np.testing.assert_allclose(grid.coverage[row], [36 / 64, 0])
    assert grid.label[row] == -1


def test_the_hole_of_a_region_takes_no_part_in_it(tiny_slide: Path, tiny_regions: Path) -> None:
    with open_slide(tiny_slide) as slide:
        grid = planned(slide, GridSpec(size_px=32, mpp=1.0, stride_px=4), read_annotations(tiny_regions))
    hole = box(180, 280, 260, 360)
    shares = np.array([1 - hole.intersection(box(*patch)).area / 64**2 for patch in grid.boxes])
    inside = (grid.boxes[:, :2] >= 60).all(axis=1) & (grid.boxes[:, 2] <= 370) & (grid.boxes[:, 3] <= 580)
    assert 0 < shares[inside].min() < 0.1  # patches wholly in the hole touch no region
    np.testing.assert_allclose(grid.coverage[inside, 0], shares[inside], atol=1e-6)
    assert (grid.label[inside] == np.where(shares[inside] >= 0.75, 0, -1)).all()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # One row of patches of 10 px; class a covers x < 26, class b x >= 32.
        ("area", [0, 0, -1, 1, 1]),
        ("any", [0, 0, 0, 1, 1]),
        ("majority", [0, 0, 0, 1, 1]),
        ("inside", [0, 0, -1, -1, 1]),
        ("centre", [0, 0, 0, 1, 1]),
    ],
)
def test_each_rule_labels_the_plan(slide_of: SlideOf, rule: str, expected: list[int]) -> None:
    annotations = Annotations(
        (Region("1", "a", box(0, 0, 26, 10)), Region("2", "b", box(32, 0, 50, 10))), format="test"
    )
    grid = planned(slide_of(blank(50, 10)), GridSpec(size_px=10, level=0, rule=rule), annotations)
    assert grid.label.tolist() == expected


def test_the_centre_rule_looks_at_the_centre_and_not_at_the_area(slide_of: SlideOf) -> None:
    ring = Polygon(box(0, 0, 10, 10).exterior, [box(4, 4, 6, 6).exterior])
    annotations = Annotations((Region("1", "a", ring), Region("2", "b", box(4, 4, 6, 6))), format="test")
    grid = planned(slide_of(blank(10, 10)), GridSpec(size_px=10, level=0, rule="centre"), annotations)
    assert [grid.classes[i] for i in grid.label] == ["b"]


def test_an_unknown_rule_or_threshold_is_refused(slide_of: SlideOf) -> None:
    slide = slide_of(blank(100, 100))
    with pytest.raises(DatasetError, match="There is no label rule 'most'"):
        planned(slide, GridSpec(level=0, rule="most"))
    with pytest.raises(DatasetError, match="has to lie above 0 and up to 1, not at 75"):
        planned(slide, GridSpec(level=0, threshold=75))


def test_annotations_of_another_slide_are_refused(slide_of: SlideOf) -> None:
    elsewhere = Annotations((Region("1", "a", box(5000, 5000, 6000, 6000)),), format="test")
    with pytest.raises(AnnotationError, match=r"lie outside array\.tiff"):
        planned(slide_of(blank(100, 100)), GridSpec(level=0), elsewhere)


def test_planning_reads_no_pixels(slide_of: SlideOf, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = slide_of(blank(100, 100))
    monkeypatch.delattr(type(slide._backend), "read_level")
    assert len(planned(slide, GridSpec(size_px=10, level=0))) == 100


def test_labelled_keeps_patches_with_a_label_and_tissue(slide_of: SlideOf) -> None:
    annotations = Annotations((Region("1", "a", box(0, 0, 26, 10)),), format="test")
    slide, spec = slide_of(blank(50, 10)), GridSpec(size_px=10, level=0, threshold=0.5, min_tissue=0.5)
    tissue = np.ones((10, 50), bool)
    tissue[:, 5:10] = False  # half of the first patch
    tissue[:, 10:16] = False  # more than half of the second
    grid = plan_grid(slide, annotations, TissueMask(tissue, (1.0, 1.0), threshold=0), spec)
    assert grid.tissue == pytest.approx([0.5, 0.4, 1])
    assert grid.labelled().level0_xy[:, 0].tolist() == [0, 20]


def test_counts_and_rows_go_together(slide_of: SlideOf) -> None:
    annotations = Annotations(
        (Region("1", "a", box(0, 0, 30, 10)), Region("2", "b", box(30, 0, 50, 10))), format="test"
    )
    grid = planned(slide_of(blank(50, 10)), GridSpec(size_px=10, level=0), annotations)
    assert grid.counts() == {"a": 3, "b": 2}
    part = grid.take(np.array([4, 0]))
    assert part.level0_xy.tolist() == [[40, 0], [0, 0]]
    assert part.label.tolist() == [1, 0]
    np.testing.assert_array_equal(part.coverage, [[0, 1], [1, 0]])
    assert part.counts() == {"a": 1, "b": 1}
    assert len(part) == len(part.tissue) == 2
