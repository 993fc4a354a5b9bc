"""Area averaging: each pixel of the result is the mean over the box it covers, every source pixel by its share.

Pillow's and OpenCV's own area filters do this for whole factors and corners only; else they count a pixel whole
or not at all (up to 150 grey levels off at the edge of a nucleus).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STRIPE_VALUES = 1 << 22
"""Values converted to float at once: a large region must not take four times its memory."""


def area_averaged(
    pixels: NDArray[np.uint8],
    corner_xy: tuple[float, float],
    box_px: tuple[float, float],
    size_px: tuple[int, int],
) -> NDArray[np.uint8]:
    """Return the means over a grid of boxes.

    Parameters
    ----------
    pixels
        Shape (height, width, 3), uint8.
    corner_xy
        Where the first box begins, in pixels, (x, y); not below 0.
    box_px
        Width and height of all boxes together, in pixels; the last may end at the last pixel, not beyond.
    size_px
        How many boxes, (columns, rows).

    Returns
    -------
    numpy.ndarray
        uint8, shape (rows, columns, 3), rounded.
    """
    factors = [box_px[i] / size_px[i] for i in (0, 1)]
    whole = [round(v) for v in factors]
    is_whole = all(abs(f - w) < 1e-9 and w >= 1 for f, w in zip(factors, whole, strict=True))
    if is_whole and all(abs(v - round(v)) < 1e-9 for v in corner_xy):
        left, top = (round(v) for v in corner_xy)
        box = (left, top, left + whole[0] * size_px[0], top + whole[1] * size_px[1])
        return np.asarray(Image.fromarray(pixels).reduce((whole[0], whole[1]), box=box))
    height, width, channels = pixels.shape
    down = _shares(corner_xy[1], factors[1], size_px[1], height)
    across = _shares(corner_xy[0], factors[0], size_px[0], width)
    columns = pixels.reshape(height, width * channels)
    lines = np.empty((size_px[1], width * channels), np.float32)
    step = max(1, _STRIPE_VALUES // height)
    for start in range(0, width * channels, step):
        lines[:, start : start + step] = down @ columns[:, start : start + step].astype(np.float32)
    turned = lines.reshape(size_px[1], width, channels).transpose(1, 0, 2).reshape(width, -1)
    means = (across @ turned).reshape(size_px[0], size_px[1], channels).transpose(1, 0, 2)
    return np.ascontiguousarray(means.round().clip(0, 255).astype(np.uint8))


def _shares(start: float, length: float, count: int, n: int) -> csr_array:
    """Return the (count, n) matrix of the share that each of n pixels has in each of `count` intervals."""
    edges = np.clip(start + length * np.arange(count + 1), 0, n)
    # Every whole pixel edge and every interval edge cuts the line into pieces of one pixel and one interval.
    cuts = np.union1d(edges, np.arange(np.ceil(edges[0]), np.floor(edges[-1]) + 1))
    middles, widths = (cuts[:-1] + cuts[1:]) / 2, np.diff(cuts)
    rows = np.clip(np.searchsorted(edges, middles, side="right") - 1, 0, count - 1)
    shares = widths / np.diff(edges)[rows]
    return csr_array(
        (shares.astype(np.float32), (rows, np.floor(middles).astype(np.int64))), shape=(count, n)
    )
