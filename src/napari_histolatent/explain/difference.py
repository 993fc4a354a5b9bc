"""What a classifier sees more of in one picture than in another: before and after an edit, say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.explain.heatmap import Heatmap

_STOPS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_COLORS = ((5, 48, 97), (103, 169, 207), (247, 247, 247), (239, 138, 98), (103, 0, 31))
"""Blue over white to red (RdBu of ColorBrewer, its ends and middles)."""


@dataclass(frozen=True)
class HeatmapDifference:
    """The map of one picture less that of another."""

    values: NDArray[np.float32]
    """After less before, shape (height, width); in the unit of the maps."""
    target: str
    layer: str
    level0_box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom in level-0 pixels, where the pictures have a place on a slide."""

    @property
    def largest(self) -> float:
        """The largest change, up or down: the end of a scale around 0."""
        return float(np.abs(self.values).max(initial=0))


def difference_of(before: Heatmap, after: Heatmap) -> HeatmapDifference:
    """Return where a classifier sees more (above 0) and less (below 0) of a class after than before.

    Raw maps are compared, on the classifier's own scale.

    Raises
    ------
    UserError
        If the maps have another size, class or layer: their values do not compare.
    """
    for what, one, other in (
        ("size", *(" x ".join(map(str, item.values.shape[::-1])) for item in (before, after))),
        ("class", before.target, after.target),
        ("layer", before.layer, after.layer),
    ):
        if one != other:
            msg = f"The heatmaps are of another {what} ({one} and {other}); make both with the same classifier, class and layer."
            raise UserError(msg)
    return HeatmapDifference(
        values=after.values - before.values,
        target=after.target,
        layer=after.layer,
        level0_box=after.level0_box,
    )


def colored_difference(shown: HeatmapDifference, *, largest: float | None = None) -> NDArray[np.uint8]:
    """Return a difference in colours, uint8 (height, width, 3): blue is less, white the same, red more.

    `largest` (default: its own) is the change that has the strongest colour.
    """
    top = shown.largest if largest is None else largest
    shares = np.clip(shown.values / top, -1, 1) if top > 0 else np.zeros_like(shown.values)
    channels = [np.interp(shares, _STOPS, channel) for channel in zip(*_COLORS, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
