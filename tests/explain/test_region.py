from __future__ import annotations

import numpy as np
import pytest

from napari_histolatent.explain.region import CELLS, RegionGrid, grid_over, halved, mixed, reduced


def constant(value: float, size: int = 32) -> np.ndarray:
    return np.full((size, size), value, np.float32)


@pytest.mark.parametrize(
    ("box", "overlap", "columns", "rows"),
    [
        ((0.0, 0.0, 64.0, 64.0), 1, 1, 1),
        ((0.0, 0.0, 64.1, 64.0), 1, 2, 1),
        ((10.0, 20.0, 138.0, 84.0), 1, 2, 1),
        ((0.0, 0.0, 128.0, 64.0), 2, 3, 1),
        ((0.0, 0.0, 100.0, 65.0), 2, 3, 2),
        ((0.0, 0.0, 5.0, 5.0), 2, 1, 1),
    ],
)
def test_a_grid_covers_the_box_with_as_few_tiles_as_do(
    box: tuple[float, float, float, float], overlap: int, columns: int, rows: int
) -> None:
    grid = grid_over(box, (64.0, 64.0), overlap=overlap)
    assert (grid.columns, grid.rows) == (columns, rows)
    left, top, right, bottom = grid.level0_box
    assert (left, top) == box[:2]
    assert right >= box[2]
    assert bottom >= box[3]
    boxes = grid.boxes().reshape(rows, columns, 4)
    assert boxes[-1, -1].tolist() == pytest.approx([right - 64, bottom - 64, right, bottom])
    assert tuple(boxes[-1, -1, :2]) == pytest.approx(grid.corner(rows - 1, columns - 1))
    assert grid.shape == (round((bottom - top) / 4), round((right - left) / 4))


@pytest.mark.parametrize("size", [16, 64, 299])
def test_a_map_keeps_its_mean_and_its_place(size: int) -> None:
    values = np.random.default_rng(0).random((size, size)).astype(np.float32)
    small = reduced(values)
    assert (small.shape, small.dtype) == ((CELLS, CELLS), np.float32)
    assert small.mean() == pytest.approx(values.mean(), rel=1e-4)
    spot = np.zeros((size, size), np.float32)
    row, column = size // 4, size // 2 + 1
    spot[row, column] = 1
    cell = tuple(int((place + 0.5) * CELLS / size) for place in (row, column))
    assert np.unravel_index(reduced(spot).argmax(), (CELLS, CELLS)) == cell


def test_a_map_of_sixteen_pixels_is_left_as_it_is() -> None:
    values = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    np.testing.assert_allclose(reduced(values), values, rtol=1e-5)


def test_tiles_side_by_side_keep_to_their_own_place() -> None:
    grid = RegionGrid((0.0, 0.0), (32.0, 32.0), columns=3, rows=2)
    maps = [((0, 0), constant(1)), ((0, 2), constant(3)), ((1, 1), constant(5))]
    whole = mixed(grid, maps, first_row=0, n_rows=grid.shape[0])
    by_tile = whole.reshape(2, CELLS, 3, CELLS).transpose(0, 2, 1, 3)
    for row, column in np.ndindex(2, 3):
        expected = {(0, 0): 1, (0, 2): 3, (1, 1): 5}.get((row, column), np.nan)
        np.testing.assert_allclose(by_tile[row, column], expected, rtol=1e-5)


def test_tiles_that_overlap_are_mixed_without_a_seam() -> None:
    grid = RegionGrid((0.0, 0.0), (32.0, 32.0), columns=5, rows=3, overlap=2)
    even = mixed(
        grid,
        [((r, c), constant(2.0)) for r, c in np.ndindex(3, 5)],
        first_row=0,
        n_rows=grid.shape[0],
    )
    np.testing.assert_allclose(even, 2, rtol=1e-5)
    ramp = mixed(
        grid,
        [((r, c), constant(float(c))) for r, c in np.ndindex(3, 5)],
        first_row=0,
        n_rows=grid.shape[0],
    )
    steps = np.diff(ramp[0])
    assert steps.min() > -1e-5
    assert steps.max() < 0.2, "tiles side by side would step by 1"


@pytest.mark.parametrize("overlap", [1, 2])
def test_parts_are_those_of_the_whole(overlap: int) -> None:
    grid = RegionGrid((0.0, 0.0), (32.0, 32.0), columns=2, rows=4, overlap=overlap)
    rng = np.random.default_rng(0)
    maps = [
        ((r, c), rng.random((32, 32)).astype(np.float32)) for r, c in np.ndindex(4, 2) if (r, c) != (1, 1)
    ]
    height = grid.shape[0]
    whole = mixed(grid, maps, first_row=0, n_rows=height)
    parts = [mixed(grid, maps, first_row=i, n_rows=min(7, height - i)) for i in range(0, height, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_halving_means_what_is_known() -> None:
    nan = np.nan
    values = np.array([[1, 3, nan, nan, 8], [5, 7, nan, nan, nan], [2, nan, 4, 4, 6]], np.float32)
    expected = [[4, nan, 8], [2, 4, 6]]
    np.testing.assert_array_equal(halved(values), np.array(expected, np.float32))
