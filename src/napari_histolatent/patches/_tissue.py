from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from skimage.filters import threshold_otsu

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

_MASK_LONGEST_PX = 2048
_LEAST_SPREAD = 8
"""Saturation levels between glass and stain below which a picture has no two sides to separate."""


@dataclass(frozen=True)
class TissueMask:
    """Where there is tissue, on a coarse picture of the slide."""

    mask: NDArray[np.bool_]
    """Shape (height, width), in pixels of the coarse picture."""
    downsample: tuple[float, float]
    """Level-0 pixels per mask pixel, (x, y)."""
    threshold: float
    """Saturation, 0 to 255, above which a pixel counts as tissue."""

    def fractions(self, boxes: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the share of tissue in each box.

        Parameters
        ----------
        boxes
            Shape (n, 4): left, top, right, bottom in level-0 pixels. What lies off the slide is glass.

        Returns
        -------
        numpy.ndarray
            float32, shape (n,), 0 to 1; exact for the mask.
        """
        summed = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        summed[1:, 1:] = self.mask.cumsum(0, dtype=np.int64).cumsum(1)
        scaled = boxes / np.array([*self.downsample, *self.downsample])
        height, width = self.mask.shape
        left, right = (np.clip(scaled[:, i], 0, width) for i in (0, 2))
        top, bottom = (np.clip(scaled[:, i], 0, height) for i in (1, 3))

        def tissue_before(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
            # Linear between the corners of a mask pixel: exact, as the mask is constant within.
            row, column = np.minimum(y.astype(int), height - 1), np.minimum(x.astype(int), width - 1)
            down, across = y - row, x - column
            upper = (1 - across) * summed[row, column] + across * summed[row, column + 1]
            lower = (1 - across) * summed[row + 1, column] + across * summed[row + 1, column + 1]
            return np.asarray((1 - down) * upper + down * lower)

        inside = (
            tissue_before(bottom, right)
            - tissue_before(top, right)
            - tissue_before(bottom, left)
            + tissue_before(top, left)
        )
        area = (scaled[:, 2] - scaled[:, 0]) * (scaled[:, 3] - scaled[:, 1])
        return np.asarray(inside / area, np.float32)


def tissue_mask(slide: Slide) -> TissueMask:
    """Return where a brightfield slide has tissue: Otsu's threshold on saturation (max - min of RGB).

    A picture without two sides (all glass, or all tissue) is cut at a fixed saturation instead.
    """
    pixels, _ = slide.thumbnail(longest_px=_MASK_LONGEST_PX)
    saturation = pixels.max(axis=2) - pixels.min(axis=2)
    low, high = np.percentile(saturation, (2, 98))
    threshold = float(threshold_otsu(saturation)) if high - low >= _LEAST_SPREAD else 16.0
    height, width = saturation.shape
    return TissueMask(
        mask=saturation > threshold,
        downsample=(slide.info.width_px / width, slide.info.height_px / height),
        threshold=threshold,
    )
