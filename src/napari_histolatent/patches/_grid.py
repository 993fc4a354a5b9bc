from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_histolatent._config import option
from napari_histolatent.annotations import require_on_slide
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._labels import UNLABELLED, coverage_of, label_of
from napari_histolatent.slides import best_level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.annotations import Annotations
    from napari_histolatent.patches._tissue import TissueMask
    from napari_histolatent.slides import Slide, SlideInfo

_MAX_POSITIONS = 5_000_000
"""Positions of a grid before labels; each costs some 400 bytes while it is planned."""

_SNAP = 0.02
"""An mpp within this share of a level's own is read at that level, unresampled (0.499 for 0.5)."""


@dataclass(frozen=True)
class GridSpec:
    """Which patches to cut, and how they get their label."""

    size_px: int = option(64, "Side of a patch, in its own pixels.")
    mpp: float | None = option(None, "Micrometres per patch pixel; or give `level`.")
    level: int | None = option(None, "Pyramid level to read as it is stored.")
    stride_px: int | None = option(
        None, "Step between patches, in patch pixels; None: one patch size, no overlap."
    )
    rule: str = option("area", "How regions give a label: area, majority, any, inside or centre.")
    threshold: float = option(0.75, "Least share of the class in a patch, for rule area.")
    min_tissue: float = option(0.5, "Least share of tissue in a patch, 0 to 1.")

    def __post_init__(self) -> None:
        if self.size_px < 8:
            msg = f"A patch of {self.size_px} px is too small; give a size of at least 8 px."
            raise DatasetError(msg)
        if self.stride_px is not None and self.stride_px < 1:
            msg = f"A stride of {self.stride_px} px does not move; give at least 1 px."
            raise DatasetError(msg)
        if (self.mpp is None) == (self.level is None):
            msg = f"Give either an mpp or a level to cut at, not mpp={self.mpp} with level={self.level}."
            raise DatasetError(msg)
        if not 0 <= self.min_tissue <= 1:
            msg = f"The least share of tissue has to lie between 0 and 1, not at {self.min_tissue:g}."
            raise DatasetError(msg)


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one slide before they are cut: a plan. Row i of every array is one patch."""

    spec: GridSpec
    classes: tuple[str, ...]
    downsample: tuple[float, float]
    """Level-0 pixels per patch pixel, (x, y)."""
    level0_xy: NDArray[np.int64]
    """Top-left corners, shape (n, 2), in level-0 pixels."""
    coverage: NDArray[np.float32]
    """Area fraction per class, shape (n, classes)."""
    tissue: NDArray[np.float32]
    """Share of tissue, shape (n,)."""
    label: NDArray[np.int64]
    """Index into `classes`, shape (n,); -1 where the rule gives none."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Left, top, right, bottom of each patch in level-0 pixels, shape (n, 4)."""
        return patch_boxes(self.level0_xy, self.spec.size_px, self.downsample)

    def labelled(self) -> PatchGrid:
        """Return the patches that have a label and enough tissue."""
        keep = (self.label != UNLABELLED) & (self.tissue >= self.spec.min_tissue)
        return self.take(np.flatnonzero(keep))

    def take(self, rows: NDArray[np.int64]) -> PatchGrid:
        """Return the grid of these rows."""
        return PatchGrid(
            spec=self.spec,
            classes=self.classes,
            downsample=self.downsample,
            level0_xy=self.level0_xy[rows],
            coverage=self.coverage[rows],
            tissue=self.tissue[rows],
            label=self.label[rows],
        )

    def counts(self) -> dict[str, int]:
        """Return the number of patches of each class."""
        return {name: int((self.label == i).sum()) for i, name in enumerate(self.classes)}


def patch_boxes(
    level0_xy: NDArray[np.int64], size_px: int, downsample: tuple[float, float]
) -> NDArray[np.float64]:
    """Return left, top, right, bottom in level-0 pixels, shape (n, 4), of patches at these corners."""
    corners = level0_xy.astype(np.float64)
    return np.hstack([corners, corners + size_px * np.array(downsample)])


def patch_downsample(slide: Slide, spec: GridSpec) -> tuple[float, float]:
    """Return level-0 pixels per patch pixel, (x, y).

    An mpp within 2 % of a stored level's own is taken to mean that level: its pixels are cut unresampled.

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
        return own, own
    asked = slide.downsamples_at(spec.mpp or 0)
    own = levels[best_level([v.downsample for v in levels], asked[0] * (1 + _SNAP))].downsample
    if all(abs(v / own - 1) <= _SNAP for v in asked):
        return own, own
    return asked


def plan_grid(slide: Slide, annotations: Annotations, mask: TissueMask, spec: GridSpec) -> PatchGrid:
    """Return every patch of the grid that lies whole on the slide and touches a region, labelled by the rule.

    Pure but for reading facts off `slide`; no pixels are read.

    Raises
    ------
    AnnotationError
        If no region lies on the slide.
    DatasetError
        If the slide is smaller than one patch, or the rule or threshold is unknown.
    SlideError
        If an mpp is asked for and the slide states no pixel size.
    """
    require_on_slide(annotations, slide.info)
    downsample = patch_downsample(slide, spec)
    level0_xy = _corners(slide.info, spec, downsample, _bounds_of(annotations))
    classes = annotations.classes
    boxes = patch_boxes(level0_xy, spec.size_px, downsample)
    coverage = coverage_of(annotations, classes, boxes)
    touched = np.flatnonzero(coverage.max(axis=1) > 0)
    level0_xy, boxes, coverage = level0_xy[touched], boxes[touched], coverage[touched]
    centres = None
    if spec.rule == "centre":
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        centres = coverage_of(annotations, classes, np.hstack([middle - 1e-3, middle + 1e-3]))
    return PatchGrid(
        spec=spec,
        classes=classes,
        downsample=downsample,
        level0_xy=level0_xy,
        coverage=coverage,
        tissue=mask.fractions(boxes),
        label=label_of(coverage, rule=spec.rule, threshold=spec.threshold, centre_coverage=centres),
    )


def tile_box(
    centre: tuple[float, float], size_px: int, downsample: tuple[float, float]
) -> tuple[int, int, float, float]:
    """Return left, top (whole level-0 pixels), right and bottom of the tile around a level-0 point."""
    left, top = (round(centre[i] - size_px * downsample[i] / 2) for i in (0, 1))
    return left, top, left + size_px * downsample[0], top + size_px * downsample[1]


def _bounds_of(annotations: Annotations) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of all regions with an area, in level-0 pixels."""
    left, top, right, bottom = shapely.total_bounds([r.geometry for r in annotations.regions if r.is_area])
    return float(left), float(top), float(right), float(bottom)


def _corners(
    info: SlideInfo, spec: GridSpec, downsample: Sequence[float], within: tuple[float, float, float, float]
) -> NDArray[np.int64]:
    """Return the top-left corners of all patches on the slide that can touch `within`, row by row, shape (n, 2).

    The grid begins at the slide's corner wherever the regions are, so that it does not move with them.
    """
    stride_px = spec.stride_px or spec.size_px
    axes = []
    for axis, (extent, scale) in enumerate(zip((info.width_px, info.height_px), downsample, strict=True)):
        size, step = spec.size_px * scale, stride_px * scale
        last = extent - size
        if last < 0:
            msg = (
                f"{info.path.name} is {info.width_px} x {info.height_px} px, smaller than one patch of "
                f"{size:.0f} level-0 px; choose a smaller size or a finer mpp."
            )
            raise DatasetError(msg)
        first = max(0, math.floor((within[axis] - size) / step))
        end = min(last, within[axis + 2])
        axes.append((first, max(0, math.floor((end + 1e-6) / step) + 1 - first), step))
    count = axes[0][1] * axes[1][1]
    if count > _MAX_POSITIONS:
        msg = (
            f"The grid has {count:,} positions over the regions of {info.path.name}, more than the "
            f"{_MAX_POSITIONS:,} that can be planned; choose a larger stride or a coarser mpp."
        )
        raise DatasetError(msg)
    # Floored, not rounded: the last patch must not hang over the edge by half a pixel.
    columns, rows = np.meshgrid(
        *(np.floor(np.arange(first, first + n) * step + 1e-6).astype(np.int64) for first, n, step in axes)
    )
    return np.column_stack([columns.ravel(), rows.ravel()])
