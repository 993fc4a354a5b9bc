"""Haematoxylin, nuclei and lumen of a tile: what pictures of tissue are measured by. No torch.

Colour deconvolution after Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution",
Anal Quant Cytol Histol 23, 2001, with the vectors of haematoxylin, eosin and what is neither that they state (and
`skimage.color.hed2rgb` has), so that figures of different tiles compare: no fit to a tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""R, G, B of optical density of haematoxylin, eosin and the rest."""
_UNMIXED = np.linalg.inv(_STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)).astype(np.float32)
_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
"""Of a pixel's value; black has no logarithm: 0 counts as 1."""

_SMOOTHING_PX = 1.0
_BINS = 128
_LEAST_DENSITY = 0.2
"""Of haematoxylin: what is paler is no nucleus, however pale the rest of its tile is."""
_LEAST_CONTRAST = 0.1
"""Between a tile's nuclei and the rest, in the same unit: below it the tile has no two kinds of tissue."""
_WHITE_DENSITY = 0.15
"""Macenko et al. 2009, section 2.1: the length of the optical density below which there is no tissue."""


def haematoxylin(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the density of haematoxylin at each pixel.

    Parameters
    ----------
    pixels
        uint8, shape (..., 3), RGB.

    Returns
    -------
    numpy.ndarray
        float32, shape (...), optical density (base 10) along the stain's vector; at least 0.
    """
    densities = [_DENSITY[pixels[..., i]] * _UNMIXED[i, 0] for i in range(3)]
    return np.asarray(np.maximum(densities[0] + densities[1] + densities[2], 0))


def nuclei(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where a tile's nuclei are: haematoxylin, a little smoothed, over the tile's own threshold.

    The threshold is Otsu's (IEEE Trans Syst Man Cybern 9:62-66, 1979), but at least 0.2. A tile whose pixels on both
    sides of it hardly differ has no nuclei. Neighbours that touch are not parted: this is for areas, not counts.

    Parameters
    ----------
    pixels
        uint8, shape (..., height, width, 3), RGB: one tile or several.

    Returns
    -------
    numpy.ndarray
        bool, shape (..., height, width).
    """
    density = haematoxylin(pixels)
    smooth = ndimage.gaussian_filter(density, _SMOOTHING_PX, axes=(-2, -1))
    tiles = smooth.reshape(-1, *smooth.shape[-2:])
    masks = np.zeros(tiles.shape, bool)
    for mask, tile in zip(masks, tiles, strict=True):
        over = tile > max(_otsu(tile), _LEAST_DENSITY)
        if over.any() and not over.all() and tile[over].mean() - tile[~over].mean() >= _LEAST_CONTRAST:
            mask[:] = over
    return masks.reshape(smooth.shape)


def lumen(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where a tile shows no tissue (lumen, tears, glass): bool, shape (...), of pixels (..., 3)."""
    squares = (_DENSITY[pixels[..., i]] ** 2 for i in range(3))
    return np.asarray(sum(squares) < _WHITE_DENSITY**2)


def _otsu(values: NDArray[np.float32]) -> float:
    """Return the threshold that parts values into the two groups whose means differ most, by their sizes."""
    counts, edges = np.histogram(values, bins=_BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    sums = np.cumsum(counts * middles)
    low = sums[:-1] / np.maximum(below, 1)
    high = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (high - low) ** 2))])
