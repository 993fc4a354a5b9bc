"""Lines around where a heatmap is above a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.explain.heatmap import Heatmap


@dataclass(frozen=True)
class Contour:
    """The closed lines of one threshold."""

    threshold: float
    """As a share of the scale's maximum, above 0 and below 1."""
    lines: tuple[NDArray[np.float64], ...]
    """Shape (n, 2) each: x, y in the map's pixels, continuous (the first pixel covers 0 to 1); first and last agree."""

    def on_slide(
        self, shape: tuple[int, int], level0_box: tuple[float, float, float, float]
    ) -> tuple[NDArray[np.float64], ...]:
        """Return the lines as x, y in level-0 pixels of a map of this (height, width), which covers the box."""
        left, top, right, bottom = level0_box
        scale = np.array([(right - left) / shape[1], (bottom - top) / shape[0]])
        return tuple(line * scale + (left, top) for line in self.lines)


def contours(
    heatmap: Heatmap, thresholds: Sequence[float] = (0.5,), *, maximum: float | None = None
) -> tuple[Contour, ...]:
    """Return the lines where a map passes each threshold (marching squares, those of scikit-image).

    Parameters
    ----------
    heatmap
        The map; a map of nothing has no lines.
    thresholds
        Shares of `maximum`.
    maximum
        What counts as 1, as in `colored`; None: the map's own.

    Raises
    ------
    UserError
        If a threshold is not above 0 and below 1.
    """
    from skimage.measure import find_contours

    for threshold in thresholds:
        if not 0 < threshold < 1:
            msg = f"A threshold of {threshold:g} is not possible; give shares of the maximum above 0 and below 1."
            raise UserError(msg)
    top = maximum if maximum is not None else float(heatmap.values.max(initial=0))
    height, width = heatmap.values.shape
    # Nothing beyond the edge: lines close there instead of ending.
    framed = np.pad(heatmap.values.astype(np.float64), 1)
    found = []
    for threshold in thresholds:
        lines = find_contours(framed, threshold * top) if top > 0 else []
        # Row, column of pixel centres within the frame -> x, y of the map's pixels.
        placed = (np.clip(line[:, ::-1] - 0.5, 0, (width, height)) for line in lines)
        found.append(Contour(float(threshold), tuple(placed)))
    return tuple(found)
