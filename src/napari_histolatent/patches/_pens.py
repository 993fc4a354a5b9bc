"""Pen marks on the glass, told from stained tissue by the light that the ink absorbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

PEN_COLORS = ("green", "blue", "red", "black")

OD_SCALE = 256
"""Steps of one unit of optical density in `OD_OF`."""

OD_OF = np.round(-np.log10((np.arange(256) + 1) / 256) * OD_SCALE).astype(np.int16)
"""Optical density of each intensity 0 to 255, in steps: at most 616, so that the rules fit in int16."""

_CORE_SHARE = 0.6
"""Share of ink around a pixel from which it lies in a stroke: single cells and colour fringes stay below."""
_EDGE_SHARE = 0.3
_STROKES_ACROSS = 50
"""Of a whole slide of 20 to 60 mm, a stroke of 0.4 to 1.2 mm."""


def pen_pixels(pixels: NDArray[np.uint8], colors: Collection[str] = PEN_COLORS) -> NDArray[np.bool_]:
    """Return which pixels have the colour of a pen's ink, each judged by itself.

    Haematoxylin and eosin both absorb green most. Ink is told from them by how its optical density
    (OD = -log10((I + 1) / 256)) is shared between red, green and blue; a share is of the sum of the three:

    - green: red's share is above green's by 0.1, and blue's is not below green's by more than 0.1;
    - blue: red's share is above green's by an eighth, and green's above blue's by 0.1;
    - red: green's and blue's shares are both above red's by 0.3 (eosin hardly absorbs blue);
    - black: the brightest channel is below 80 and at most 20 above the darkest.

    Made for H&E. Other tissue comes close: blue stains (trichrome, Alcian blue) to blue ink, coal dust and
    melanin to black, packed red blood cells to red. Violet ink cannot be told from haematoxylin by colour.

    The rules and their numbers are our own. That pens are found by colour is as in HistoQC (Janowczyk et al.,
    JCO Clin Cancer Inform 3, 2019); that stains are told apart by ratios of optical density is from Ruifrok and
    Johnston (Anal Quant Cytol Histol 23:291-299, 2001).

    Parameters
    ----------
    pixels
        uint8, shape (..., 3), RGB.
    colors
        Some of `PEN_COLORS`.

    Returns
    -------
    numpy.ndarray
        bool, shape (...).

    Raises
    ------
    DatasetError
        If a colour is not one of `PEN_COLORS`.
    """
    require_pen_colors(colors)
    red, green, blue = (OD_OF.take(pixels[..., i]) for i in range(3))
    total = red + green + blue
    ink = np.zeros(total.shape, bool)
    if "green" in colors or "blue" in colors:
        over_red, over_blue = red - green, green - blue
        if "green" in colors:
            ink |= (10 * over_red > total) & (10 * over_blue <= total) & (total > 77)
        if "blue" in colors:
            ink |= (8 * over_red > total) & (10 * over_blue > total) & (total > 77)
    if "red" in colors:
        ink |= (10 * (np.minimum(blue, green) - red) > 3 * total) & (total > 150)
    if "black" in colors:
        ink |= _neutral_dark(pixels)
    return ink


def pen_mask(
    pixels: NDArray[np.uint8], colors: Collection[str] = PEN_COLORS, *, stroke_px: int | None = None
) -> NDArray[np.bool_]:
    """Return where pens have marked the glass: strokes with their soft edges.

    A stroke is where ink (`pen_pixels`) fills more than 60 % of a square of `stroke_px`; what is smaller (red
    blood cells in a vessel, colour fringes, single dark nuclei) is left. Beside a stroke, as far as twice
    its width, paler or darker ink of the same hue goes too.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3), RGB.
    colors
        Some of `PEN_COLORS`.
    stroke_px
        The thinnest stroke to find, in pixels; default: a fiftieth of the longer side, at least 9.

    Returns
    -------
    numpy.ndarray
        bool, shape (height, width).

    Raises
    ------
    DatasetError
        If a colour is not one of `PEN_COLORS`.
    """
    require_pen_colors(colors)
    width = stroke_px or max(9, max(pixels.shape[:2]) // _STROKES_ACROSS)
    found = np.zeros(pixels.shape[:2], bool)
    for color in colors:
        ink = pen_pixels(pixels, (color,))
        core = _share_around(ink, width) > _CORE_SHARE
        if not core.any():
            continue
        near = ndimage.maximum_filter(core, 4 * width + 1)
        edge = _share_around(_pale_or_dark(pixels, color) | ink, max(3, width // 3)) > _EDGE_SHARE
        # The square at a straight edge of a stroke holds less ink than in its middle: give that rim back.
        found |= ndimage.maximum_filter(core, max(3, width // 4)) | (near & edge)
    return found


def require_pen_colors(colors: Collection[str]) -> None:
    """Raise DatasetError unless every colour is one of `PEN_COLORS`."""
    unknown = [v for v in colors if v not in PEN_COLORS]
    if unknown:
        msg = f"There is no rule for pens of colour {unknown[0]!r}; choose of {', '.join(PEN_COLORS)}."
        raise DatasetError(msg)


def _pale_or_dark(pixels: NDArray[np.uint8], color: str) -> NDArray[np.bool_]:
    """Return which pixels could be this ink where there is less of it, or more than one layer over tissue."""
    red, green, blue = (OD_OF.take(pixels[..., i]) for i in range(3))
    total = red + green + blue
    if color == "green":
        return np.asarray(((red >= green) & (total > 25)) | _neutral_dark(pixels))
    if color == "blue":
        return np.asarray((12 * (red - green) > total) & (total > 25))
    if color == "red":
        pale = (5 * (np.minimum(blue, green) - red) > total) & (total > 25)
        dark = (blue >= red) & (10 * (green - blue) < total) & (pixels.max(axis=2) < 110) & (red > 100)
        return np.asarray(pale | dark)
    brightest = pixels.max(axis=2)
    return np.asarray((brightest < 150) & (brightest - pixels.min(axis=2) <= 20))


def _neutral_dark(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    brightest = np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    darkest = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    return np.asarray((brightest < 80) & (brightest - darkest <= 20))


def _share_around(mask: NDArray[np.bool_], size: int) -> NDArray[np.float32]:
    return np.asarray(ndimage.uniform_filter(mask.astype(np.float32), size))
