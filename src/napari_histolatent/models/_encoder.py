"""A small convolutional encoder: from an image to the latent vector and class that draw one like it.

It starts the reverse search: one pass instead of hundreds of steps from a random start (Zhu et al. 2016,
"Generative visual manipulation on the natural image manifold", start from such a network too).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_LAST_SIDE_PX = 4
"""The maps are halved down to this side (to 7 px for sizes that are no power of two); z depends on where things lie."""
_MAX_WIDENING = 8


def build(
    *, classes: tuple[str, ...], size_px: int, z_dim: int, prior: str = "normal", base_channels: int = 16
) -> ConvEncoder:
    """Build the encoder of a generator with these classes, size and latent space, with fresh (random) weights.

    Raises
    ------
    UserError
        If the images are too small.
    """
    if size_px < 16:
        msg = f"The convnet encoder needs images of at least 16 px, not {size_px}; use a larger generator."
        raise UserError(msg)
    return ConvEncoder(
        classes=classes, size_px=size_px, z_dim=z_dim, prior=prior, base_channels=base_channels
    )


class ConvEncoder(nn.Module):
    """Convolutions of 4 x 4 and stride 2 down to 4 x 4 maps, then one linear layer for z and the class.

    Without normalisation: training and use, generated and real images, one image and many are then the same
    computation, and mean colours, which normalisation takes away, reach the heads. Under a uniform prior z ends in
    a tanh: it cannot leave the cube that the generator has seen.
    """

    def __init__(
        self, *, classes: tuple[str, ...], size_px: int, z_dim: int, prior: str, base_channels: int
    ) -> None:
        super().__init__()
        self.classes, self.size_px, self.z_dim = classes, size_px, z_dim
        self._bounded = prior == "uniform"
        halvings = (size_px // _LAST_SIDE_PX).bit_length() - 1
        widths = [3] + [base_channels * min(2**i, _MAX_WIDENING) for i in range(halvings)]
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 4, stride=2, padding=1)
            nn.init.kaiming_normal_(convolution.weight, a=0.2)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
            blocks += [convolution, nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*blocks)
        n_features = widths[-1] * (size_px >> halvings) ** 2
        self.head = nn.Linear(n_features, z_dim + len(classes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return z (B, z_dim) and class logits (B, K) of images (B, 3, size_px, size_px) in [-1, 1]."""
        answer: Tensor = self.head(self.features(images).flatten(1))
        z, logits = answer[:, : self.z_dim], answer[:, self.z_dim :]
        return (torch.tanh(z) if self._bounded else z), logits
