"""Many tiles' heatmaps as one: how large each is drawn, and how neighbours that overlap are mixed. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

CELLS = 16
"""Pixels of the heatmap a tile's side: twice the places that a classifier's last maps have, or more."""


@dataclass(frozen=True)
class RegionGrid:
    """Tiles over a rectangle of a slide, and the pixels of the heatmap under them."""

    origin: tuple[float, float]
    """Left and top in level-0 pixels."""
    tile_side: tuple[float, float]
    """Level-0 pixels of a tile, (x, y)."""
    columns: int
    rows: int
    overlap: int = 1
    """Tiles over each place, along one axis: 1 (side by side) or 2 (half a tile apart)."""

    @property
    def step_cells(self) -> int:
        """Pixels of the heatmap from tile to tile."""
        return CELLS // self.overlap

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the heatmap."""
        rows, columns = (self.step_cells * (n - 1) + CELLS for n in (self.rows, self.columns))
        return rows, columns

    @property
    def pixel_side(self) -> tuple[float, float]:
        """Level-0 pixels of a pixel of the heatmap, (x, y)."""
        return self.tile_side[0] / CELLS, self.tile_side[1] / CELLS

    @property
    def level0_box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the heatmap in level-0 pixels; up to a tile more than was asked for."""
        left, top = self.origin
        height, width = self.shape
        return left, top, left + width * self.pixel_side[0], top + height * self.pixel_side[1]

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Return left and top of a tile in level-0 pixels."""
        return (
            self.origin[0] + column * self.tile_side[0] / self.overlap,
            self.origin[1] + row * self.tile_side[1] / self.overlap,
        )

    def boxes(self) -> NDArray[np.float64]:
        """Return left, top, right, bottom of each tile in level-0 pixels, row by row, shape (rows * columns, 4)."""
        places = np.indices((self.rows, self.columns)).reshape(2, -1).T[:, ::-1]
        side = np.array(self.tile_side)
        corners = np.array(self.origin) + places * side / self.overlap
        return np.hstack([corners, corners + side])


def grid_over(
    box: tuple[float, float, float, float], tile_side: tuple[float, float], *, overlap: int = 1
) -> RegionGrid:
    """Return the grid whose tiles cover a box (left, top, right, bottom in level-0 pixels)."""
    columns, rows = (
        max(1, math.ceil(((box[axis + 2] - box[axis]) / tile_side[axis] - 1) * overlap - 1e-6) + 1)
        for axis in (0, 1)
    )
    return RegionGrid((box[0], box[1]), tile_side, columns, rows, overlap)


def mixed(
    grid: RegionGrid,
    maps: Iterable[tuple[tuple[int, int], NDArray[np.float32]]],
    *,
    first_row: int,
    n_rows: int,
) -> NDArray[np.float32]:
    """Return rows of the heatmap in which every place is the mean of the maps over it, its middle counting most.

    Parameters
    ----------
    grid
        The whole grid.
    maps
        ((row, column), map of any shape) of the tiles that were looked at.
    first_row, n_rows
        The rows of the heatmap that are wanted; the maps of all tiles that reach into them are needed.

    Returns
    -------
    numpy.ndarray
        float32, shape (n_rows, width); NaN where no tile was looked at.
    """
    width = grid.shape[1]
    sums, weights = np.zeros((n_rows, width), np.float32), np.zeros((n_rows, width), np.float32)
    window = _window(grid.overlap)
    for (row, column), values in maps:
        top, left = row * grid.step_cells - first_row, column * grid.step_cells
        inside = slice(max(0, -top), min(CELLS, n_rows - top))
        if inside.start >= inside.stop:
            continue
        place = np.s_[top + inside.start : top + inside.stop, left : left + CELLS]
        sums[place] += (reduced(values) * window)[inside]
        weights[place] += window[inside]
    return np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)


def reduced(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a map as `CELLS` by `CELLS` pixels, by area averaging."""
    down, across = (_averaging(n) for n in values.shape)
    return np.asarray(down @ values @ across.T, np.float32)


def halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the map at half the size: the mean of each 2 by 2 pixels, of those that are not NaN."""
    height, width = values.shape
    padded = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // 2, 2, -1, 2)
    known = ~np.isnan(blocks)
    counts = known.sum(axis=(1, 3))
    sums = np.where(known, blocks, 0).sum(axis=(1, 3), dtype=np.float32)
    means = np.full(sums.shape, np.nan, np.float32)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


@cache
def _averaging(n: int) -> NDArray[np.float32]:
    """Return the matrix (CELLS, n) that averages n pixels into cells, each pixel by its share of the cell."""
    edges = np.linspace(0, n, CELLS + 1)
    pixels = np.arange(n)
    shares = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares = np.maximum(shares, 0)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


@cache
def _window(overlap: int) -> NDArray[np.float32]:
    """Return how much each pixel of a tile counts where tiles overlap: a pyramid; else all the same."""
    if overlap == 1:
        return np.ones((CELLS, CELLS), np.float32)
    line = 1 - np.abs((np.arange(CELLS) + 0.5) / (CELLS / 2) - 1)
    return np.asarray(np.outer(line, line), np.float32)
