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
            float32, shape (n,), 0 to 1; each mask pixel that a box covers mostly counts whole.
        """
        summed = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        summed[1:, 1:] = self.mask.cumsum(0, dtype=np.int64).cumsum(1)
        scaled = boxes / np.array([*self.downsample, *self.downsample])
        corners = np.round(scaled).astype(np.int64)
        area = np.maximum((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), 1)
        left, right = (np.clip(corners[:, i], 0, self.mask.shape[1]) for i in (0, 2))
        top, bottom = (np.clip(corners[:, i], 0, self.mask.shape[0]) for i in (1, 3))
        inside = summed[bottom, right] - summed[top, right] - summed[bottom, left] + summed[top, left]
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
