"""The pyramid that is displayed: levels of strict ratio 2, each read from the next finer stored level. Pure.

Boxes are (top, bottom, left, right) in pixels of a display level; a tile is (level, row, column).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_histolatent.slides import Level

TILE_PX = 512
COARSEST_PX = 2048
"""The coarsest level is held in memory whole: it is the overview, and napari's thumbnail."""

Box = tuple[int, int, int, int]
Tile = tuple[int, int, int]


@dataclass(frozen=True)
class DisplayLevel:
    """One displayed level: downsample 2**level exactly."""

    downsample: int
    width_px: int
    """Padded, so that the widths of two levels have the ratio of their downsamples: napari places by that."""
    height_px: int
    inside_width_px: int
    """What the slide covers of it."""
    inside_height_px: int
    stored_level: int
    factor: float
    """Pixels of the stored level per pixel of this one."""


def display_levels(stored: Sequence[Level], *, coarsest_px: int = COARSEST_PX) -> tuple[DisplayLevel, ...]:
    """Return the display levels of a slide, finest first: at least two, the coarsest within `coarsest_px`."""
    width, height = stored[0].width_px, stored[0].height_px
    count = 2
    while max(width, height) / 2 ** (count - 1) > coarsest_px:
        count += 1
    whole = 2 ** (count - 1)
    padded = [math.ceil(n / whole) * whole for n in (width, height)]
    ratios = [content_ratio(stored[0], level) for level in stored]
    levels = []
    for downsample in (2**i for i in range(count)):
        source = max(
            (i for i, ratio in enumerate(ratios) if ratio <= downsample * (1 + 1e-6)),
            key=lambda i: ratios[i],
        )
        factor = downsample / ratios[source]
        if abs(factor - round(factor)) < 1e-6:
            factor = float(round(factor))
        # At a fractional factor only whole pixels are read; else those at the edges are means of what is there.
        count_of = math.ceil if factor == int(factor) else _whole
        inside = (
            min(math.ceil(width / downsample), count_of(stored[source].width_px / factor)),
            min(math.ceil(height / downsample), count_of(stored[source].height_px / factor)),
        )
        levels.append(
            DisplayLevel(
                downsample=downsample,
                width_px=padded[0] // downsample,
                height_px=padded[1] // downsample,
                inside_width_px=inside[0],
                inside_height_px=inside[1],
                stored_level=source,
                factor=factor,
            )
        )
    return tuple(levels)


def _whole(length: float) -> int:
    return max(1, int(length + 1e-6))


def content_ratio(level0: Level, level: Level) -> float:
    """Return how many level-0 pixels the content of one pixel of `level` covers.

    Scanners average whole blocks (4 x 4) and cut what is left over at the right and the bottom, so sizes have
    ratios like 4.00009 while pixel i still covers level-0 pixels [4 i, 4 i + 4). Placing pixels by 4.00009
    moves them by up to a pixel of that level at the far end: the jump one sees at a change of level.
    """
    whole = round(level.downsample)
    is_cut = all(
        abs(finest / whole - own) < 1
        for finest, own in ((level0.width_px, level.width_px), (level0.height_px, level.height_px))
    )
    return float(whole) if is_cut else level.downsample


def tiles_of(box: Box, level: int, *, tile_px: int = TILE_PX) -> Iterator[Tile]:
    """Yield the tiles that a box touches, row by row."""
    top, bottom, left, right = box
    for row in range(top // tile_px, -(-bottom // tile_px)):
        for column in range(left // tile_px, -(-right // tile_px)):
            yield level, row, column


def box_of(tile: Tile, level: DisplayLevel, *, tile_px: int = TILE_PX) -> Box:
    """Return the box of a tile, cut at the level's edges."""
    _, row, column = tile
    return (
        row * tile_px,
        min((row + 1) * tile_px, level.height_px),
        column * tile_px,
        min((column + 1) * tile_px, level.width_px),
    )


def centre_out(tiles: Iterator[Tile] | Sequence[Tile], box: Box, *, tile_px: int = TILE_PX) -> list[Tile]:
    """Return tiles, those nearest to the middle of the box first."""
    middle_row, middle_column = (box[0] + box[1]) / 2 / tile_px - 0.5, (box[2] + box[3]) / 2 / tile_px - 0.5
    return sorted(tiles, key=lambda tile: math.hypot(tile[1] - middle_row, tile[2] - middle_column))


def overlap(one: Box, other: Box) -> Box | None:
    """Return what two boxes share, or None."""
    top, bottom = max(one[0], other[0]), min(one[1], other[1])
    left, right = max(one[2], other[2]), min(one[3], other[3])
    return (top, bottom, left, right) if top < bottom and left < right else None


def within(box: Box, frame: Box) -> tuple[slice, slice]:
    """Return the (rows, columns) of a box in an array that shows `frame`."""
    return slice(box[0] - frame[0], box[1] - frame[0]), slice(box[2] - frame[2], box[3] - frame[2])
