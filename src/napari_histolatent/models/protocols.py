"""What the rest of the program may know of a network. No class here, and no network elsewhere by name.

Images are float tensors (B, 3, size_px, size_px), RGB in [-1, 1]. A class vector y is (B, K) with K classes;
its entries sum to 1 (one-hot, or a blend of classes). A network without classes has classes () and y (B, 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class Generator(Protocol):
    """Maps latent vectors and classes to images, through per-layer latents w.

    `map` then `synthesize` is the whole network. A network without a mapping network repeats (z, y) for each
    of its layers, so that per-layer offsets are ordinary points in every network.
    """

    classes: tuple[str, ...]
    size_px: int
    z_dim: int
    num_ws: int
    w_dim: int
    prior: str
    """What z is drawn from: "normal" or "uniform" (`models.priors`)."""

    def map(self, z: Tensor, y: Tensor, *, psi: float = 1.0) -> Tensor:
        """Return w, shape (B, num_ws, w_dim), of z (B, z_dim) and y (B, K); psi < 1 pulls to the mean."""

    def synthesize(self, w: Tensor) -> Tensor:
        """Return images of w (B, num_ws, w_dim)."""


@runtime_checkable
class Discriminator(Protocol):
    """Scores images given their class; higher is more real."""

    def __call__(self, images: Tensor, y: Tensor) -> Tensor:
        """Return scores, shape (B,)."""


@runtime_checkable
class Encoder(Protocol):
    """Guesses what a generator would draw an image from: where a reverse search starts."""

    classes: tuple[str, ...]
    size_px: int
    z_dim: int

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, z_dim) and the logits of the classes (B, K)."""


@runtime_checkable
class Classifier(Protocol):
    """Tells the classes of images apart."""

    classes: tuple[str, ...]
    size_px: int

    @property
    def cam_layer(self) -> nn.Module:
        """The layer whose maps Grad-CAM weighs: the last convolution with a spatial extent."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, K)."""
