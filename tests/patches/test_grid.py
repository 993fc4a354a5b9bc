from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_histolatent.errors import DatasetError, SlideError
from napari_histolatent.patches import (
    EDGES,
    GridSpec,
    Positions,
    Resolution,
    patch_downsample,
    positions_on,
    resolutions,
    tile_box,
)
from napari_histolatent.patches._grid import RESAMPLED, patch_boxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide

    SlideOf = Callable[..., Slide]


def blank(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def placed(slide: Slide, spec: GridSpec, within: Any = None) -> Positions:
    return positions_on(slide.info, spec, resolutions(slide, spec)[0], within)


def columns_and_rows(positions: Positions) -> tuple[list[int], list[int]]:
    """The corners' x and y, after a look that they are all of one times all of the other, row by row."""
    xs, ys = (sorted(set(positions.level0_xy[:, i].tolist())) for i in (0, 1))
    assert positions.level0_xy.tolist() == [[x, y] for y in ys for x in xs]
    return xs, ys


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"size_px": 7, "level": 0}, "A patch of 7 px is too small; give a size of at least 8 px."),
        ({"stride_px": 0, "level": 0}, "A stride of 0 px does not move; give at least 1 px."),
        ({"stride_um": 0.0, "level": 0}, "A stride of 0 µm does not move; give a number above 0."),
        ({"stride_um": math.nan, "level": 0}, "A stride of nan µm does not move; give a number above 0."),
        (
            {"overlap_px": 256, "level": 0},
            "An overlap of 256 px does not fit patches of 256 px; give 0 to 255 px.",
        ),
        (
            {"stride_px": 8, "overlap_um": 4.0, "level": 0},
            "The step between patches is given more than once (stride_px=8, overlap_um=4); give one of them.",
        ),
        (
            {},
            "Give one of an mpp, a level or downsamples to cut at, not mpp=None, level=None, downsamples=().",
        ),
        (
            {"mpp": 0.5, "downsamples": (1.0,)},
            "Give one of an mpp, a level or downsamples to cut at, not mpp=0.5, level=None, downsamples=(1.0,).",
        ),
        (
            {"downsamples": (1.0, 0.5)},
            "A downsample of 0.5 is not possible; give 1 (zoom 0), 2 (zoom 1), ...",
        ),
        ({"level": 0, "edge": "cut"}, "There is no edge rule 'cut'; choose one of whole, shift, pad."),
        (
            {"level": 0, "origin_px": (0.0, math.inf)},
            "The grid's origin (0.0, inf) is not a place; give two numbers of level-0 pixels.",
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


# At what is read


@pytest.mark.parametrize(
    ("spec", "expected", "level"),
    [
        (GridSpec(level=0), 1, 0),
        (GridSpec(level=1), 4, 1),
        (GridSpec(mpp=0.499), 1, 0),
        (GridSpec(mpp=0.5), 1, 0),  # 0.499 is meant
        (GridSpec(mpp=0.49), 1, 0),
        (GridSpec(mpp=2.0), 4, 1),
        (GridSpec(mpp=1.98), 4, 1),
        (GridSpec(mpp=0.998), 2, RESAMPLED),
        (GridSpec(mpp=0.52), 0.52 / 0.499, RESAMPLED),
        (GridSpec(mpp=0.25), 0.25 / 0.499, RESAMPLED),
        (GridSpec(downsamples=(1.0,)), 1, 0),
        (GridSpec(downsamples=(2.0,)), 2, RESAMPLED),
        (GridSpec(downsamples=(4.0,)), 4, 1),
        (GridSpec(downsamples=(4.01,)), 4, 1),
        (GridSpec(downsamples=(4.08,)), 4.08, RESAMPLED),
        (GridSpec(downsamples=(8.0,)), 8, RESAMPLED),
    ],
)
def test_a_resolution_near_a_level_means_that_level(
    slide_of: SlideOf, spec: GridSpec, expected: float, level: int
) -> None:
    slide = slide_of(blank(400, 400), blank(100, 100), mpp=(0.499, 0.499))
    (resolution,) = resolutions(slide, spec)
    assert resolution.downsample == pytest.approx((expected, expected))
    assert resolution.level == level
    assert patch_downsample(slide, spec) == resolution.downsample


def test_a_level_that_odd_sides_make_odd_is_the_zoom_it_is_meant_to_be(slide_of: SlideOf) -> None:
    slide = slide_of(blank(401, 401), blank(200, 200))  # 2.005
    assert resolutions(slide, GridSpec(downsamples=(1.0, 2.0))) == (
        Resolution((1.0, 1.0), 0),
        Resolution((2.005, 2.005), 1),
    )


def test_several_zooms_are_read_in_their_order(slide_of: SlideOf) -> None:
    slide = slide_of(blank(400, 400), blank(100, 100))
    found = resolutions(slide, GridSpec(downsamples=(4.0, 1.0, 2.0)))
    assert [(v.downsample[0], v.level) for v in found] == [(4, 1), (1, 0), (2, RESAMPLED)]


def test_pixels_that_are_not_square_are_never_a_level(slide_of: SlideOf) -> None:
    slide = slide_of(blank(400, 400), mpp=(0.5, 0.25))
    assert resolutions(slide, GridSpec(mpp=0.5)) == (Resolution((1, 2), RESAMPLED),)


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_that_the_slide_has_not(slide_of: SlideOf, level: int) -> None:
    slide = slide_of(blank(400, 400), blank(100, 100))
    with pytest.raises(DatasetError, match=rf"array\.tiff has no level {level}; its levels are 0 to 1\."):
        resolutions(slide, GridSpec(level=level))


@pytest.mark.parametrize("mpp", [0.0, -0.5, math.nan, math.inf])
def test_an_impossible_mpp(slide_of: SlideOf, mpp: float) -> None:
    with pytest.raises(SlideError, match=r"is not possible; the slide has 0\.5; give a number"):
        resolutions(slide_of(blank(400, 400), mpp=(0.5, 0.5)), GridSpec(mpp=mpp))


@pytest.mark.parametrize(
    "spec",
    [GridSpec(mpp=0.5), GridSpec(level=0, stride_um=20.0), GridSpec(level=0, overlap_um=20.0)],
)
def test_micrometres_need_a_slide_that_states_its_pixel_size(slide_of: SlideOf, spec: GridSpec) -> None:
    with pytest.raises(SlideError, match="does not state its pixel size"):
        placed(slide_of(blank(400, 400)), spec)


# Where patches lie


@pytest.mark.parametrize(("width", "height"), [(63, 400), (400, 63)])
def test_a_slide_smaller_than_a_patch(slide_of: SlideOf, width: int, height: int) -> None:
    slide = slide_of(blank(width, height))
    for edge in ("whole", "shift"):
        with pytest.raises(
            DatasetError, match=f"is {width} x {height} px, smaller than one patch of 64 level-0 px"
        ):
            placed(slide, GridSpec(size_px=64, level=0, edge=edge))
    xs, ys = columns_and_rows(placed(slide, GridSpec(size_px=64, level=0, edge="pad")))
    assert (xs, ys) == (list(range(0, width, 64)), list(range(0, height, 64)))


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
    positions = placed(slide_of(blank(extent, size)), GridSpec(size_px=size, level=0, stride_px=stride))
    assert positions.level0_xy.tolist() == [[x, 0] for x in expected]
    assert positions.cell.tolist() == [[i, 0] for i in range(len(expected))]


def brute_force(
    extent: int, size: int, step: int, origin: int, edge: str, within: tuple[int, int]
) -> list[int]:
    """Every place on a line is tried."""
    lattice = [x for x in range(extent) if (x - origin) % step == 0]
    whole = [x for x in lattice if x + size <= extent]
    found = lattice if edge == "pad" else whole
    # The next of the lattice would hang over the edge: it is moved back to where it ends with the slide.
    if edge == "shift" and (not whole or whole[-1] + size < extent):
        after = whole[-1] + step if whole else lattice[0] if lattice else extent
        if after < extent:
            found = [*whole, extent - size]
    return [x for x in found if x < within[1] and x + size > within[0]]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_edges_origin_and_the_part_looked_at_are_those_of_trying_every_place(
    slide_of: SlideOf, data: st.DataObject
) -> None:
    size = data.draw(st.integers(8, 30), "size")
    extent = data.draw(st.integers(size, 120), "extent")
    step = data.draw(st.integers(1, 50), "step")
    origin = data.draw(st.integers(-150, 150), "origin")
    edge = data.draw(st.sampled_from(sorted(EDGES)), "edge")
    low = data.draw(st.integers(0, extent - 1), "low")
    high = data.draw(st.integers(low + 1, extent), "high")
    spec = GridSpec(size_px=size, level=0, stride_px=step, origin_px=(origin, origin), edge=edge)
    slide = slide_of(blank(extent, extent))
    positions = placed(slide, spec, (low, 0, high, extent))
    expected = brute_force(extent, size, step, origin, edge, (low, high))
    expected_y = brute_force(extent, size, step, origin, edge, (0, extent))
    assert positions.level0_xy.tolist() == [[x, y] for y in expected_y for x in expected]
    if len(positions) and edge != "shift":
        # A place is told by its cell.
        lattice = np.array(positions.origin_xy) + positions.cell * np.array(positions.step_xy)
        np.testing.assert_array_equal(lattice, positions.level0_xy)


def test_size_and_stride_are_in_pixels_of_the_patch(slide_of: SlideOf) -> None:
    slide = slide_of(blank(400, 200), blank(100, 50))
    positions = placed(slide, GridSpec(size_px=20, level=1, stride_px=10))
    assert columns_and_rows(positions) == (list(range(0, 321, 40)), [0, 40, 80, 120])
    assert positions.step_xy == (40, 40)
    assert (positions.boxes[:, 2:] - positions.boxes[:, :2] == 80).all()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (GridSpec(size_px=20, level=0, overlap_px=5), 15),
        (GridSpec(size_px=20, level=1, overlap_px=5), 60),
        (GridSpec(size_px=20, level=0, overlap_px=0), 20),
        (GridSpec(size_px=20, level=0, stride_um=10.0), 20),
        (GridSpec(size_px=20, level=1, stride_um=10.0), 20),
        (GridSpec(size_px=20, level=1, overlap_um=10.0), 60),
        (GridSpec(size_px=20, level=0, overlap_um=0.0), 20),
        (GridSpec(size_px=20, mpp=1.0, stride_um=10.0), 20),
        (GridSpec(size_px=20, mpp=1.0, overlap_um=2.5), 35),
    ],
)
def test_a_step_may_be_said_as_overlap_and_in_micrometres(
    slide_of: SlideOf, spec: GridSpec, expected: int
) -> None:
    slide = slide_of(blank(400, 200), blank(100, 50), mpp=(0.5, 0.5))
    positions = placed(slide, spec)
    assert positions.step_xy == (expected, expected)
    xs, _ = columns_and_rows(positions)
    assert set(np.diff(xs)) == {expected}


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            GridSpec(size_px=20, level=0, overlap_um=10.0),
            "An overlap of 10 µm does not fit patches of 10 µm; give less.",
        ),
        (
            GridSpec(size_px=20, level=0, overlap_um=-1.0),
            "An overlap of -1 µm does not fit patches of 10 µm; give less.",
        ),
        (
            GridSpec(size_px=20, level=0, stride_um=0.1),
            "A step of 0.2 level-0 pixels is less than a pixel of array.tiff; make it larger.",
        ),
    ],
)
def test_a_step_in_micrometres_that_cannot_be(slide_of: SlideOf, spec: GridSpec, sentence: str) -> None:
    with pytest.raises(DatasetError) as caught:
        placed(slide_of(blank(400, 200), mpp=(0.5, 0.5)), spec)
    assert str(caught.value) == sentence


def test_more_positions_than_can_be_planned_are_refused_before_they_are_made(slide_of: SlideOf) -> None:
    with pytest.raises(
        DatasetError, match=r"has 9,000,000 positions on array\.tiff, more than the 5,000,000"
    ):
        placed(slide_of(blank(3007, 3007)), GridSpec(size_px=8, level=0, stride_px=1))


@pytest.mark.parametrize("mpp", [0.25, 0.58125, 0.7, 0.81, 1.0, 1.37])
def test_every_patch_lies_whole_on_the_slide(slide_of: SlideOf, mpp: float) -> None:
    # BUG: corners were rounded up as well as down, so the last patch could reach half a pixel past the edge.
    for extent in range(28, 60):
        for edge in ("whole", "shift"):
            boxes = placed(
                slide_of(blank(extent, extent), mpp=(0.5, 0.5)), GridSpec(size_px=8, mpp=mpp, edge=edge)
            ).boxes
            assert len(boxes) > 0
            assert boxes.min() >= 0
            assert boxes.max() <= extent + 1e-6
            if edge == "shift":
                assert boxes.max() > extent - 1


def test_pixels_that_are_not_square_have_a_step_for_each_direction(slide_of: SlideOf) -> None:
    positions = placed(slide_of(blank(100, 100), mpp=(0.5, 0.25)), GridSpec(size_px=10, mpp=0.5))
    assert positions.step_xy == (10, 20)
    assert columns_and_rows(positions) == (list(range(0, 91, 10)), list(range(0, 81, 20)))


def test_rows_go_together(slide_of: SlideOf) -> None:
    positions = placed(slide_of(blank(50, 10)), GridSpec(size_px=10, level=0))
    part = positions.take(np.array([4, 0]))
    assert len(part) == 2
    assert part.level0_xy.tolist() == [[40, 0], [0, 0]]
    assert part.cell.tolist() == [[4, 0], [0, 0]]
    assert part.boxes.tolist() == [[40, 0, 50, 10], [0, 0, 10, 10]]
