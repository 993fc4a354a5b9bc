"""Regions that do not lie where they should: the likely factor or offset is proposed, never applied unasked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_histolatent.annotations._chunks import in_chunks
from napari_histolatent.annotations._region import SourceRing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.slides import SlideInfo

_SLACK = 1.02
"""Outlines may leave the slide by a little, where a hand slipped."""
_CORNER = 1 / 4
"""Of width and of height: the top-left sixteenth."""
_POWERS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Factors of an export at a level that this slide does not have."""
_SAME_FACTOR = 0.01
"""Relative: a level's own 4.0003 and the power 4 are one."""
_MOST = 4


@dataclass(frozen=True)
class Placement:
    """Where level-0 coordinates come from: `level0 = file * factor + offset`."""

    factor: float = 1.0
    offset_xy: tuple[float, float] = (0.0, 0.0)

    def moved(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points, shape (n, 2), in level-0 pixels."""
        return xy if self == AS_IS else xy * self.factor + np.asarray(self.offset_xy)

    def then(self, other: Placement) -> Placement:
        """Return both, one after the other."""
        x, y = (a * other.factor + b for a, b in zip(self.offset_xy, other.offset_xy, strict=True))
        return Placement(self.factor * other.factor, (x, y))

    @property
    def words(self) -> str:
        """Say what it does."""
        said = [] if self.factor == 1 else [f"multiply by {self.factor:g}"]
        if self.offset_xy != (0.0, 0.0):
            said.append(f"shift by x {self.offset_xy[0]:+g}, y {self.offset_xy[1]:+g} px")
        return ", then ".join(said) or "leave as it is"


AS_IS = Placement()


@dataclass(frozen=True)
class Proposal:
    """A placement that would put the regions onto the slide, and why it is thought of."""

    placement: Placement
    reason: str


def moved(annotations: Annotations, placement: Placement) -> Annotations:
    """Return the regions put elsewhere; their source rings move with them."""
    if placement == AS_IS:
        return annotations
    geometries = shapely.transform(
        np.array([region.geometry for region in annotations.regions], object), placement.moved
    )
    regions = tuple(
        replace(
            region,
            geometry=geometry,
            source=tuple(SourceRing(placement.moved(ring.xy), ring.is_hole) for ring in region.source),
        )
        for region, geometry in zip(annotations.regions, geometries, strict=True)
    )
    return replace(annotations, regions=regions)


def proposals(annotations: Annotations, slide: SlideInfo) -> tuple[Proposal, ...]:
    """Return what would bring regions onto the slide that lie off it, all in its corner, or in a cropped image.

    The likeliest come first, four at most: bounds of the scanned part as an offset (QuPath crops to them), levels of
    the pyramid as factors (an export at another level), the pixel size as one (an export in micrometres), and powers
    of two (a level that this slide does not have).
    """
    geometries = np.array([region.geometry for region in annotations.regions], object)
    if not len(geometries):
        return ()
    bounds = in_chunks(shapely.bounds, geometries)
    (left, top), (right, bottom) = bounds[:, :2].min(axis=0).tolist(), bounds[:, 2:].max(axis=0).tolist()
    size = np.array([slide.width_px, slide.height_px], float)

    def fits(placement: Placement) -> bool:
        corners = placement.moved(np.array([[left, top], [right, bottom]]))
        return bool((corners >= -size * (_SLACK - 1)).all() and (corners <= size * _SLACK).all())

    beyond = not fits(AS_IS)
    in_corner = right <= size[0] * _CORNER and bottom <= size[1] * _CORNER and left >= 0 and top >= 0
    levels = sorted({level.downsample for level in slide.levels if level.downsample > 1})
    micrometres: list[Proposal] = []
    if slide.mpp_x is not None and (in_corner or beyond):
        micrometres = [
            Proposal(Placement(1 / slide.mpp_x), f"as if in micrometres, at {slide.mpp_x:g} µm per px")
        ]
    found: list[Proposal] = []
    for proposal in (
        *_offsets(annotations.format, slide, beyond=beyond),
        *_factors(levels, in_corner=in_corner, beyond=beyond),
        *micrometres,
        *_factors(_POWERS, in_corner=in_corner, beyond=beyond),
    ):
        if fits(proposal.placement) and not any(_are_near(proposal.placement, v.placement) for v in found):
            found.append(proposal)
    # However many levels there are, micrometres are among them.
    last = [v for v in found[_MOST - 1 :] if v in micrometres] or found[_MOST - 1 : _MOST]
    return (*found[: _MOST - 1], *last)


def _offsets(format_name: str, slide: SlideInfo, *, beyond: bool) -> list[Proposal]:
    x, y = slide.bounds[:2]
    if (x, y) == (0, 0):
        return []
    found = []
    if format_name == "qupath-geojson":
        reason = f"QuPath counts from the scanned part, which starts at x={x}, y={y}"
        found.append(Proposal(Placement(offset_xy=(float(x), float(y))), reason))
    if beyond:
        reason = f"the scanned part starts at x={x}, y={y}"
        found.append(Proposal(Placement(offset_xy=(-float(x), -float(y))), reason))
    return found


def _factors(downsamples: Sequence[float], *, in_corner: bool, beyond: bool) -> list[Proposal]:
    """Return downsamples, in rising order, as factors: the one that moves regions farthest, or least, comes first."""
    found = []
    if in_corner:
        for downsample in reversed(downsamples):
            reason = (
                f"all regions lie in the slide's top-left sixteenth, as if drawn at downsample {downsample:g}"
            )
            found.append(Proposal(Placement(downsample), reason))
    if beyond:
        for downsample in downsamples:
            reason = f"regions lie beyond the slide, as if drawn on a scan {downsample:g} times as fine"
            found.append(Proposal(Placement(1 / downsample), reason))
    return found


def _are_near(a: Placement, b: Placement) -> bool:
    return a.offset_xy == b.offset_xy and math.isclose(a.factor, b.factor, rel_tol=_SAME_FACTOR)
