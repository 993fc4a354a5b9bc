"""A Grad-CAM map as a value, and in colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_STOPS: Mapping[str, tuple[tuple[float, ...], tuple[tuple[int, int, int], ...]]] = {
    "ember": ((0.0, 0.33, 0.66, 1.0), ((20, 20, 90), (180, 30, 110), (250, 150, 40), (255, 250, 180))),
    "jet": (
        (0.0, 0.125, 0.375, 0.625, 0.875, 1.0),
        ((0, 0, 128), (0, 0, 255), (0, 255, 255), (255, 255, 0), (255, 0, 0), (128, 0, 0)),
    ),
}
COLORMAPS = tuple(_STOPS)
"""ember: dark blue to pale yellow; its lightness rises all along, so it reads in grey too. jet: blue, green, yellow, red,
as in the figures of Fernandez et al. (6) and most others; its bands look like edges that are not in the map."""


@dataclass(frozen=True)
class Heatmap:
    """A Grad-CAM map of one tile."""

    values: NDArray[np.float32]
    """The raw map after ReLU, resampled to the tile, shape (height, width); its scale is the model's own."""
    target: str
    """Class whose evidence is shown."""
    layer: str
    probability: float
    """The classifier's probability of the target on this tile."""
    level0_box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom in level-0 pixels, where the tile has a place on a slide."""

    def to_json(self) -> dict[str, Any]:
        """Return all but the map itself."""
        return {
            "target": self.target,
            "layer": self.layer,
            "probability": self.probability,
            "maximum": float(self.values.max(initial=0)),
            "level0_box": None if self.level0_box is None else list(self.level0_box),
        }


def shared_maximum(heatmaps: Sequence[Heatmap]) -> float:
    """Return one scale for maps that are shown side by side."""
    return max((float(item.values.max(initial=0)) for item in heatmaps), default=0.0)


def lookup_table(colormap: str = "ember") -> NDArray[np.uint8]:
    """Return the 256 colours of a colour map from nothing to the maximum, uint8, shape (256, 3).

    Raises
    ------
    UserError
        If there is no such colour map.
    """
    return _colors_at(np.linspace(0, 1, 256), colormap)


def colored(heatmap: Heatmap, *, maximum: float | None = None, colormap: str = "ember") -> NDArray[np.uint8]:
    """Return the map in colours, uint8 (height, width, 3); `maximum` (default: its own) is the brightest.

    Raises
    ------
    UserError
        If there is no such colour map.
    """
    return _colors_at(_scaled(heatmap, maximum), colormap)


def translucent(
    heatmap: Heatmap, *, maximum: float | None = None, colormap: str = "ember"
) -> NDArray[np.uint8]:
    """Return the map in colours, uint8 (height, width, 4); clear where there is no evidence."""
    alpha = (_scaled(heatmap, maximum) * 255).round().astype(np.uint8)
    return np.dstack([colored(heatmap, maximum=maximum, colormap=colormap), alpha])


def _colors_at(shares: NDArray[Any], colormap: str) -> NDArray[np.uint8]:
    """Return the colours of values from 0 to 1, uint8, shape (..., 3)."""
    if colormap not in _STOPS:
        msg = f"There is no colour map {colormap!r}; choose one of {', '.join(COLORMAPS)}."
        raise UserError(msg)
    stops, colors = _STOPS[colormap]
    channels = [np.interp(shares, stops, channel) for channel in zip(*colors, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _scaled(heatmap: Heatmap, maximum: float | None) -> NDArray[np.float32]:
    """Return the map from 0 to 1, where 1 is `maximum` (default: the map's own)."""
    top = maximum if maximum is not None else float(heatmap.values.max(initial=0))
    return np.clip(heatmap.values / top, 0, 1) if top > 0 else np.zeros_like(heatmap.values)


def overlaid(
    pixels: NDArray[np.uint8],
    heatmap: Heatmap,
    *,
    maximum: float | None = None,
    opacity: float = 0.5,
    colormap: str = "ember",
) -> NDArray[np.uint8]:
    """Return the tile with the coloured map over it, uint8 (height, width, 3)."""
    shown = colored(heatmap, maximum=maximum, colormap=colormap)
    mixed = (1 - opacity) * pixels.astype(np.float32) + opacity * shown
    return mixed.round().astype(np.uint8)
