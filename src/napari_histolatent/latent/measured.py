"""What can be measured on a tile without a model: features that a direction in latent space may be tied to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.models.stain import haematoxylin, lumen, nuclei

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


def nuclear_area_fraction(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of each image's area that is nuclei, 0 to 1, shape (n,), of images (n, H, W, 3)."""
    return np.asarray(nuclei(images).mean(axis=(-2, -1)), np.float64)


def mean_haematoxylin(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean density of haematoxylin of each image, shape (n,), of images (n, H, W, 3).

    Colour deconvolution with the stain vectors of Ruifrok and Johnston 2001; optical density, base 10.
    """
    return np.asarray(haematoxylin(images).mean(axis=(-2, -1)), np.float64)


def lumen_fraction(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of each image's area that is unstained, 0 to 1, shape (n,), of images (n, H, W, 3)."""
    return np.asarray(lumen(images).mean(axis=(-2, -1)), np.float64)


_FUNCTIONS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float64]]] = {
    "nuclear area fraction": nuclear_area_fraction,
    "haematoxylin": mean_haematoxylin,
    "lumen fraction": lumen_fraction,
}
FEATURES: tuple[str, ...] = tuple(_FUNCTIONS)
"""Names of what can be measured."""


def measured(images: NDArray[np.uint8], feature: str) -> NDArray[np.float64]:
    """Return one feature of each image, shape (n,).

    Parameters
    ----------
    images
        uint8, shape (n, H, W, 3), RGB.
    feature
        One of `FEATURES`.

    Raises
    ------
    UserError
        If there is no such feature.
    """
    return function_named(feature)(images)


def function_named(feature: str) -> Callable[[NDArray[np.uint8]], NDArray[np.float64]]:
    """Return what measures a feature.

    Raises
    ------
    UserError
        If there is no such feature.
    """
    if feature not in _FUNCTIONS:
        msg = f"There is no measured feature {feature!r}; choose one of: {', '.join(FEATURES)}."
        raise UserError(msg)
    return _FUNCTIONS[feature]


def table(images: NDArray[np.uint8], features: Sequence[str] = FEATURES) -> dict[str, NDArray[np.float64]]:
    """Return each feature of each image: name -> values (n,)."""
    return {name: measured(images, name) for name in features}
