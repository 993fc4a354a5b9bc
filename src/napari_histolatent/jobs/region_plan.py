"""What a heatmap of a region will take: which tiles, what the classifier sees in some of them, and how long it takes."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_histolatent.errors import UserError
from napari_histolatent.explain.region import RegionGrid, grid_over
from napari_histolatent.patches import GridSpec, TissueMask, patch_downsample, tissue_mask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.annotations import Region
    from napari_histolatent.jobs.region_heatmap import RegionHeatmapConfig
    from napari_histolatent.slides import Slide, SlideInfo
    from napari_histolatent.training.load import LoadedClassifier

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in level-0 pixels."""

_MAX_ENLARGEMENT = 4.0
_PROBED = 16
_TIMED = 4
_BOXES_AT_ONCE = 1 << 16

READERS = 4
"""Threads that read tiles while others are mapped."""


@dataclass(frozen=True)
class RegionPlan:
    """The tiles of a region, and which of them are looked at."""

    grid: RegionGrid
    wanted: NDArray[np.bool_]
    """Shape (rows, columns)."""

    @property
    def n_tiles(self) -> int:
        """How many tiles are looked at."""
        return int(np.count_nonzero(self.wanted))


@dataclass(frozen=True)
class RegionProbe:
    """What some tiles of a region tell of all."""

    seen: tuple[tuple[str, int], ...]
    """Classes, the one that is seen in most of the tiles first, each with their number."""
    seconds_per_tile: float


def plan_region(
    slide: Slide,
    classifier: LoadedClassifier,
    box: Box | None,
    config: RegionHeatmapConfig,
    *,
    areas: BaseGeometry | None = None,
    mask: TissueMask | None = None,
) -> RegionPlan:
    """Return the tiles of a region that will be looked at.

    Parameters
    ----------
    slide
        The slide.
    classifier
        Whose tiles they are: of its size and pixel size.
    box
        The region; None: what the areas cover, or the whole slide without them.
    config
        How close the tiles lie, and how much tissue they need.
    areas
        Polygons in level-0 pixels: tiles that touch none of them are left out.
    mask
        Where the slide has tissue; None: it is looked for.

    Raises
    ------
    UserError
        If the region has no area or lies off the slide, no tile of it has the tissue, or the slide's pixels are
        more than 4 times as large as those the classifier learnt from.
    """
    grid = _grid_of(slide, classifier, box_on_slide(box, areas, slide.info), config)
    wanted = np.ones(grid.rows * grid.columns, bool)
    if areas is not None:
        wanted &= _touching(grid.boxes(), areas)
    if config.min_tissue and wanted.any():
        mask = mask or tissue_mask(slide)
        wanted[wanted] = mask.fractions(grid.boxes()[wanted]) >= config.min_tissue
    if not wanted.any():
        msg = f"No tile of the region of {slide.info.path.name} has {100 * config.min_tissue:g} % of tissue; choose another region, or ask for less tissue."
        raise UserError(msg)
    return RegionPlan(grid, wanted.reshape(grid.rows, grid.columns))


def probe_region(slide: Slide, classifier: LoadedClassifier, plan: RegionPlan) -> RegionProbe:
    """Look at some tiles of a region, evenly spread: which classes are seen, and how long a tile takes.

    The same tiles are looked at each time.
    """
    from napari_histolatent.explain.gradcam import grad_cam, probabilities
    from napari_histolatent.models.images import to_tensor

    network = classifier.network
    places = np.argwhere(plan.wanted)
    places = places[np.linspace(0, len(places) - 1, min(_PROBED, len(places))).round().astype(int)]
    started = time.perf_counter()
    pixels = np.stack([read_tile(slide, plan.grid, (int(r), int(c)), network.size_px) for r, c in places])
    reading = (time.perf_counter() - started) / len(pixels)
    images = to_tensor(pixels).to(classifier.device)
    indices = probabilities(network, images).argmax(dim=1).tolist()
    counts = Counter(network.classes[i] for i in indices)
    timed = images[:_TIMED]
    started = time.perf_counter()
    grad_cam(network, timed, [network.classes[0]] * len(timed))
    # The next tiles are read while these are computed, several at once.
    seconds = max(reading / READERS, (time.perf_counter() - started) / len(timed))
    return RegionProbe(tuple(counts.most_common()), seconds)


def read_tile(slide: Slide, grid: RegionGrid, place: tuple[int, int], size_px: int) -> NDArray[np.uint8]:
    """Return the pixels of a tile, uint8, shape (size_px, size_px, 3), of (row, column) of the grid."""
    x, y = (round(v) for v in grid.corner(*place))
    downsamples = (grid.tile_side[0] / size_px, grid.tile_side[1] / size_px)
    return slide.read_downsampled((x, y), size_px=(size_px, size_px), downsamples=downsamples)


def areas_of(regions: Iterable[Region]) -> BaseGeometry:
    """Return what regions cover together, in level-0 pixels; empty where none of them has an area."""
    return shapely.union_all([region.geometry for region in regions if region.is_area])


def box_on_slide(box: Box | None, areas: BaseGeometry | None, info: SlideInfo) -> Box:
    """Return the part of a region's box that lies on the slide; see `plan_region`.

    Raises
    ------
    UserError
        If the region has no area, or lies off the slide.
    """
    if box is None:
        box = (0.0, 0.0, float(info.width_px), float(info.height_px)) if areas is None else areas.bounds
    left, top, right, bottom = box
    if not all(map(math.isfinite, box)) or left >= right or top >= bottom:
        msg = f"The region {box} has no area; give left, top, right and bottom in level-0 pixels."
        raise UserError(msg)
    inside = (
        max(left, 0.0),
        max(top, 0.0),
        min(right, float(info.width_px)),
        min(bottom, float(info.height_px)),
    )
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        msg = f"The region {box} lies off {info.path.name} ({info.width_px} x {info.height_px} px); choose one on the slide."
        raise UserError(msg)
    return inside


def _grid_of(slide: Slide, classifier: LoadedClassifier, box: Box, config: RegionHeatmapConfig) -> RegionGrid:
    size_px, mpp = classifier.network.size_px, classifier.checkpoint.mpp
    downsample = patch_downsample(slide, GridSpec(size_px=size_px, mpp=mpp, level=0 if mpp is None else None))
    if min(downsample) < 1 / _MAX_ENLARGEMENT:
        msg = f"The pixels of {slide.info.path.name} are {1 / min(downsample):.2g} times as large as those that the classifier learnt from, more than can be resampled (4); choose a finer slide or another classifier."
        raise UserError(msg)
    # Whole level-0 pixels: then a slide at the classifier's own pixel size is not resampled.
    corner = (float(math.floor(box[0])), float(math.floor(box[1])))
    return grid_over(
        (*corner, box[2], box[3]),
        (size_px * downsample[0], size_px * downsample[1]),
        overlap=config.overlap,
    )


def _touching(boxes: NDArray[np.float64], areas: BaseGeometry) -> NDArray[np.bool_]:
    """Return which boxes (n, 4) share more than an edge with the areas, shape (n,)."""
    shapely.prepare(areas)
    touching = np.empty(len(boxes), bool)
    for start in range(0, len(boxes), _BOXES_AT_ONCE):
        part = slice(start, start + _BOXES_AT_ONCE)
        tiles = shapely.box(*boxes[part].T)
        hit = shapely.intersects(areas, tiles)
        # Asked of those alone: touches is not quick where the areas have many corners.
        hit[hit] = ~shapely.touches(areas, tiles[hit])
        touching[part] = hit
    return touching
