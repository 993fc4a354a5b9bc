"""Where patches lie: positions on a slide, before anything is known of what they show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._config import option
from napari_histolatent.errors import DatasetError
from napari_histolatent.slides import best_level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide, SlideInfo

EDGES = {
    "whole": "only patches that lie whole on the slide",
    "shift": "the last patch of a row or column is moved back onto the slide",
    "pad": "patches may reach over the edge; what lies outside is the slide's background colour",
}
"""Name and meaning of each rule for the slide's right and lower edge."""

MAX_POSITIONS = 5_000_000
"""Positions of one grid; each costs some 200 bytes while it is planned."""

RESAMPLED = -1
"""In place of a level: the patch is area-averaged from the next finer level."""

_SNAP = 0.02
"""An mpp within this share of a level's own is read at that level, unresampled (0.499 for 0.5)."""
SNAP_ZOOM = 0.005
"""A zoom level is the slide's own level of this downsample, as far as cut edges make it odd (2.0005)."""


@dataclass(frozen=True)
class GridSpec:
    """Size, resolution and spacing of patches."""

    size_px: int = option(256, "Side of a patch, in its own pixels.")
    mpp: float | None = option(None, "Micrometres per patch pixel; or give `level` or `downsamples`.")
    level: int | None = option(None, "Pyramid level to read as it is stored.")
    downsamples: tuple[float, ...] = option(
        (), "Downsamples to cut at, one or several: 1 is zoom 0 of the slide, 2 is zoom 1."
    )
    stride_px: int | None = option(
        None, "Step between patches, in patch pixels; None: one patch size, no overlap."
    )
    stride_um: float | None = option(None, "Step between patches in µm instead.")
    overlap_px: int | None = option(None, "Overlap of neighbours in patch pixels instead of a step.")
    overlap_um: float | None = option(None, "Overlap of neighbours in µm instead of a step.")
    origin_px: tuple[float, float] = option((0.0, 0.0), "A corner of the grid, level-0 pixels (x, y).")
    edge: str = option("whole", "At the slide's edge: whole, shift or pad.")

    def __post_init__(self) -> None:
        if self.size_px < 8:
            msg = f"A patch of {self.size_px} px is too small; give a size of at least 8 px."
            raise DatasetError(msg)
        steps = {
            "stride_px": self.stride_px,
            "stride_um": self.stride_um,
            "overlap_px": self.overlap_px,
            "overlap_um": self.overlap_um,
        }
        given = [f"{name}={value:g}" for name, value in steps.items() if value is not None]
        if len(given) > 1:
            msg = f"The step between patches is given more than once ({', '.join(given)}); give one of them."
            raise DatasetError(msg)
        if self.stride_px is not None and self.stride_px < 1:
            msg = f"A stride of {self.stride_px} px does not move; give at least 1 px."
            raise DatasetError(msg)
        if self.stride_um is not None and not (math.isfinite(self.stride_um) and self.stride_um > 0):
            msg = f"A stride of {self.stride_um:g} µm does not move; give a number above 0."
            raise DatasetError(msg)
        if self.overlap_px is not None and not 0 <= self.overlap_px < self.size_px:
            msg = f"An overlap of {self.overlap_px} px does not fit patches of {self.size_px} px; give 0 to {self.size_px - 1} px."
            raise DatasetError(msg)
        if (self.mpp is not None) + (self.level is not None) + bool(self.downsamples) != 1:
            msg = f"Give one of an mpp, a level or downsamples to cut at, not mpp={self.mpp}, level={self.level}, downsamples={self.downsamples}."
            raise DatasetError(msg)
        for value in self.downsamples:
            if not (math.isfinite(value) and value >= 1):
                msg = f"A downsample of {value:g} is not possible; give 1 (zoom 0), 2 (zoom 1), ..."
                raise DatasetError(msg)
        if self.edge not in EDGES:
            msg = f"There is no edge rule {self.edge!r}; choose one of {', '.join(EDGES)}."
            raise DatasetError(msg)
        if not all(map(math.isfinite, self.origin_px)):
            msg = f"The grid's origin {self.origin_px} is not a place; give two numbers of level-0 pixels."
            raise DatasetError(msg)


@dataclass(frozen=True)
class Resolution:
    """At what patch pixels are read."""

    downsample: tuple[float, float]
    """Level-0 pixels per patch pixel, (x, y)."""
    level: int
    """The level that is read as it is stored, or RESAMPLED."""


@dataclass(frozen=True)
class Positions:
    """Patches of one resolution on one slide. Row i of every array is one patch, row by row of the grid."""

    size_px: int
    resolution: Resolution
    level0_xy: NDArray[np.int64]
    """Top-left corners, shape (n, 2), in level-0 pixels."""
    cell: NDArray[np.int64]
    """Column and row in the grid, shape (n, 2); -1 for a patch that lies off it."""
    origin_xy: tuple[float, float]
    """Level-0 pixels of the top-left corner of the patch in column 0, row 0."""
    step_xy: tuple[float, float]
    """Level-0 pixels between neighbours."""

    def __len__(self) -> int:
        return len(self.level0_xy)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Left, top, right, bottom of each patch in level-0 pixels, shape (n, 4)."""
        return patch_boxes(self.level0_xy, self.size_px, self.resolution.downsample)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Positions:
        """Return these rows."""
        return Positions(
            self.size_px,
            self.resolution,
            self.level0_xy[rows],
            self.cell[rows],
            self.origin_xy,
            self.step_xy,
        )


def patch_boxes(
    level0_xy: NDArray[np.int64], size_px: int, downsample: tuple[float, float]
) -> NDArray[np.float64]:
    """Return left, top, right, bottom in level-0 pixels, shape (n, 4), of patches at these corners."""
    corners = level0_xy.astype(np.float64)
    return np.hstack([corners, corners + size_px * np.array(downsample)])


def resolutions(slide: Slide, spec: GridSpec) -> tuple[Resolution, ...]:
    """Return at what patches are read, one entry for each downsample of the spec.

    An mpp within 2 % of a stored level's own is taken to mean that level, a downsample within 0.5 %: its pixels
    are cut unresampled.

    Raises
    ------
    SlideError
        If an mpp is asked for and the slide states no pixel size.
    DatasetError
        If the level does not exist.
    """
    levels = slide.info.levels
    if spec.level is not None:
        if not 0 <= spec.level < len(levels):
            msg = f"{slide.info.path.name} has no level {spec.level}; its levels are 0 to {len(levels) - 1}."
            raise DatasetError(msg)
        own = levels[spec.level].downsample
        return (Resolution((own, own), spec.level),)
    if spec.mpp is not None:
        return (_snapped(slide.info, slide.downsamples_at(spec.mpp), _SNAP),)
    return tuple(_snapped(slide.info, (value, value), SNAP_ZOOM) for value in spec.downsamples)


def _snapped(info: SlideInfo, asked: tuple[float, float], tolerance: float) -> Resolution:
    own = [level.downsample for level in info.levels]
    level = best_level(own, asked[0] * (1 + tolerance))
    if all(abs(v / own[level] - 1) <= tolerance for v in asked):
        return Resolution((own[level], own[level]), level)
    return Resolution(asked, RESAMPLED)


def patch_downsample(slide: Slide, spec: GridSpec) -> tuple[float, float]:
    """Return level-0 pixels per patch pixel, (x, y), of the spec's first resolution; see `resolutions`."""
    return resolutions(slide, spec)[0].downsample


def positions_on(
    info: SlideInfo,
    spec: GridSpec,
    resolution: Resolution,
    within: tuple[float, float, float, float] | None = None,
) -> Positions:
    """Return the patches of the grid on a slide; no pixels are read.

    The grid hangs at `spec.origin_px` wherever the regions are, so that it does not move with them.

    Parameters
    ----------
    info
        The slide's facts.
    spec
        Size, step, origin and edge rule.
    resolution
        One of `resolutions`.
    within
        Left, top, right, bottom in level-0 pixels: leave out patches that cannot touch this; None: the slide.

    Raises
    ------
    DatasetError
        If the slide is smaller than one patch, or there are too many positions.
    SlideError
        If a step in µm is asked for and the slide states no pixel size.
    """
    box = within or (0.0, 0.0, float(info.width_px), float(info.height_px))
    step = _step_of(info, spec, resolution)
    size = tuple(spec.size_px * v for v in resolution.downsample)
    lines = [_line(info, spec, axis, size[axis], step[axis], (box[axis], box[axis + 2])) for axis in (0, 1)]
    count = len(lines[0][0]) * len(lines[1][0])
    if count > MAX_POSITIONS:
        msg = (
            f"The grid has {count:,} positions on {info.path.name}, more than the "
            f"{MAX_POSITIONS:,} that can be planned; choose a larger stride or a coarser resolution."
        )
        raise DatasetError(msg)
    corners = np.stack(np.meshgrid(lines[0][1], lines[1][1]), axis=-1).reshape(-1, 2)
    cells = np.stack(np.meshgrid(lines[0][0], lines[1][0]), axis=-1).reshape(-1, 2)
    first = [v[0][0] if len(v[0]) else 0 for v in lines]
    origin = tuple(spec.origin_px[i] + first[i] * step[i] for i in (0, 1))
    return Positions(
        spec.size_px, resolution, corners, cells - np.array(first), (origin[0], origin[1]), (step[0], step[1])
    )


def _step_of(info: SlideInfo, spec: GridSpec, resolution: Resolution) -> tuple[float, float]:
    """Return level-0 pixels between neighbours, (x, y)."""
    downsample = resolution.downsample
    if spec.stride_um is not None or spec.overlap_um is not None:
        mpp = info.require_mpp()
        if spec.stride_um is not None:
            step = tuple(spec.stride_um / v for v in mpp)
        else:
            overlap = [(spec.overlap_um or 0) / v for v in mpp]
            step = tuple(spec.size_px * downsample[i] - overlap[i] for i in (0, 1))
            if min(step) <= 0 or min(overlap) < 0:
                side = spec.size_px * downsample[0] * mpp[0]
                msg = (
                    f"An overlap of {spec.overlap_um:g} µm does not fit patches of {side:.4g} µm; give less."
                )
                raise DatasetError(msg)
        if min(step) < 1:
            msg = f"A step of {min(step):.2g} level-0 pixels is less than a pixel of {info.path.name}; make it larger."
            raise DatasetError(msg)
        return step[0], step[1]
    stride_px = spec.size_px - spec.overlap_px if spec.overlap_px else spec.stride_px or spec.size_px
    return stride_px * downsample[0], stride_px * downsample[1]


def _line(
    info: SlideInfo, spec: GridSpec, axis: int, size: float, step: float, within: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the grid's numbers and level-0 corners along one axis."""
    extent = (info.width_px, info.height_px)[axis]
    origin = spec.origin_px[axis]
    last = extent - size
    if last < 0 and spec.edge != "pad":
        msg = (
            f"{info.path.name} is {info.width_px} x {info.height_px} px, smaller than one patch of "
            f"{size:.0f} level-0 px; choose a smaller size or a finer resolution, or the edge rule pad."
        )
        raise DatasetError(msg)
    # Touching counts as not reaching: a patch that ends where the box begins shows nothing of it.
    lowest = math.floor((within[0] - size - origin) / step) + 1
    highest = math.ceil((within[1] - origin) / step - 1e-9) - 1
    first = math.ceil(-origin / step - 1e-9)  # the first that does not begin left of the slide
    if spec.edge == "pad":
        end = math.ceil((extent - origin) / step - 1e-9) - 1
    else:
        end = math.floor((last - origin) / step + 1e-6)
    numbers = np.arange(max(lowest, first), min(highest, end) + 1)
    # Floored, not rounded: the last patch must not hang over the edge by half a pixel.
    corners = np.floor(origin + numbers * step + 1e-6).astype(np.int64)
    begins_on_slide = origin + (end + 1) * step < extent - 1e-6
    if spec.edge == "shift" and origin + end * step + size < extent - 1e-6 and begins_on_slide:
        moved = math.floor(last + 1e-6)
        # Asked of where it is moved to: which patches there are must not depend on what is looked at.
        if moved < within[1] and moved + size > within[0]:
            numbers = np.append(numbers, end + 1)
            corners = np.append(corners, moved)
    return numbers.astype(np.int64), corners


def tile_box(
    centre: tuple[float, float], size_px: int, downsample: tuple[float, float]
) -> tuple[int, int, float, float]:
    """Return left, top (whole level-0 pixels), right and bottom of the tile around a level-0 point."""
    left, top = (round(centre[i] - size_px * downsample[i] / 2) for i in (0, 1))
    return left, top, left + size_px * downsample[0], top + size_px * downsample[1]
