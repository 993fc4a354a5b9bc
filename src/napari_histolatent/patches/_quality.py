"""Quality of a patch by a few numbers, cheap enough to be measured on every patch that is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._config import option
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._pens import pen_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

QUALITY_COLUMNS = ("focus", "saturation", "white", "pen")

WHITE_ABOVE = 220
"""A pixel whose three channels are all above this (of 255) counts as white."""

_SAMPLE_EVERY_PX = 4
_LUMA = (77, 150, 29)
"""ITU-R BT.601's weights of red, green and blue, in 1/256."""


@dataclass(frozen=True)
class QualitySpec:
    """Which patches are good enough; None leaves a measure alone."""

    min_focus: float | None = option(
        None, "Least focus: variance of the Laplacian of brightness; below 20 is usually blurred, None: any."
    )
    min_saturation: float | None = option(None, "Least mean saturation (max - min of RGB), 0 to 255.")
    max_white: float | None = option(None, "Largest share of white pixels, 0 to 1.")
    max_pen: float | None = option(None, "Largest share of pixels with the colour of pen ink, 0 to 1.")

    def __post_init__(self) -> None:
        for name, highest in (
            ("min_focus", np.inf),
            ("min_saturation", 255),
            ("max_white", 1),
            ("max_pen", 1),
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= highest:
                remedy = "of at least 0" if highest == np.inf else f"from 0 to {highest:g}"
                msg = f"The limit {name} = {value:g} is not possible; give a number {remedy}, or none."
                raise DatasetError(msg)

    def keeps(self, values: Mapping[str, NDArray[np.float32]]) -> NDArray[np.bool_]:
        """Return which patches pass every limit that is set.

        Parameters
        ----------
        values
            As `quality_of` gives them, each of shape (n,). A value that was never measured (NaN, of a dataset
            without pixels) passes.

        Returns
        -------
        numpy.ndarray
            bool, shape (n,).
        """
        kept = np.ones(len(values["focus"]), bool)
        for name in QUALITY_COLUMNS:
            least, most = getattr(self, f"min_{name}", None), getattr(self, f"max_{name}", None)
            # Compared the wrong way round, as NaN is neither below nor above.
            if least is not None:
                kept &= ~(values[name] < least)
            if most is not None:
                kept &= ~(values[name] > most)
        return kept


def quality_of(pixels: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
    """Return focus, saturation, white and pen of each patch.

    - focus: variance of the 3 x 3 Laplacian [0 1 0; 1 -4 1; 0 1 0] of luma (BT.601, whole numbers 0 to 255) over
      the inner pixels (Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000,
      section 3). Depends on the pixel size and on what is shown: compare patches of one dataset.
    - saturation: mean of max - min over R, G and B, 0 to 255.
    - white: share of pixels with all three channels above 220.
    - pen: share of pixels of a pen's colour, any of the four (`pen_pixels`). Clean H&E has 0.002,
      up to 0.05 where it is full of blood or of dark blue nuclei.

    Focus is exact; the other three look at every 4th pixel of every 4th row (at every pixel of patches below
    32 px), which moves a share by about 0.01 at 256 px.

    Parameters
    ----------
    pixels
        uint8, shape (n, size, size, 3), RGB; any size from 3 px.

    Returns
    -------
    dict
        float32, shape (n,), by the names in `QUALITY_COLUMNS`.
    """
    values = {name: np.empty(len(pixels), np.float32) for name in QUALITY_COLUMNS}
    height, width = pixels[0].shape[:2] if len(pixels) else (0, 0)
    if not len(pixels):
        return values
    luma, product = np.empty((2, height, width), np.uint16)
    # One patch at a time: its planes stay in the processor's cache, a block's would not.
    for i, patch in enumerate(pixels):
        _luma_into(luma, product, patch)
        values["focus"][i] = _variance_of_laplacian(luma.view(np.int16))
    step = _SAMPLE_EVERY_PX if min(height, width) >= 8 * _SAMPLE_EVERY_PX else 1
    sample = np.stack([patch[step // 2 :: step, step // 2 :: step] for patch in pixels])
    red, green, blue = (np.ascontiguousarray(sample[..., i]) for i in range(3))
    darkest = np.minimum(np.minimum(red, green), blue)
    brightest = np.maximum(np.maximum(red, green), blue)
    values["saturation"][:] = (brightest - darkest).mean(axis=(1, 2), dtype=np.float64)
    values["white"][:] = (darkest > WHITE_ABOVE).mean(axis=(1, 2))
    values["pen"][:] = pen_pixels(sample).mean(axis=(1, 2))
    return values


def _luma_into(luma: NDArray[np.uint16], product: NDArray[np.uint16], patch: NDArray[np.uint8]) -> None:
    """Write the rounded luma of (height, width, 3) pixels; `product` is room for work."""
    luma[...] = patch[..., 0]
    luma *= _LUMA[0]
    for channel in (1, 2):
        product[...] = patch[..., channel]
        product *= _LUMA[channel]
        luma += product
    # At most 255 * 256 + 128: fits in 16 bits without a sign.
    luma += 128
    luma >>= 8


def _variance_of_laplacian(luma: NDArray[np.int16]) -> float:
    height, width = luma.shape
    flat = luma.reshape(-1)
    # Whole rows at once, twice as fast as the inner pixels alone; what wraps around at the sides is cut off below.
    n = (height - 2) * width - 2
    laplacian = np.zeros((height - 2, width), np.int16)
    inner = laplacian.reshape(-1)[:n]
    np.multiply(flat[width + 1 :][:n], np.int16(-4), out=inner)
    for shift in (1, width, width + 2, 2 * width + 1):
        inner += flat[shift : shift + n]
    values = laplacian[:, : width - 2].astype(np.float32).ravel()
    mean = float(values.mean())
    return float(values @ values) / len(values) - mean * mean
