"""A small conditional DCGAN.

Trunk: Radford et al. 2016 (transposed convolutions doubling a 4 x 4 seed; here 4 x 4 kernels, since 5 x 5 ones
draw a checkerboard and cost 1.4 times as much). Conditioning: label concatenated to z, Mirza & Osindero 2014;
conditional batch normalisation from z and y, de Vries et al. 2017 and Brock et al. 2019. Discriminator: projection
head, Miyato & Koyama 2018; minibatch standard deviation, Karras et al. 2018; no normalisation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SEED_PX = 4
"""Side of the feature map that the first layer makes."""


def build(
    *, classes: tuple[str, ...], size_px: int, z_dim: int = 64, base_channels: int = 16
) -> tuple[CDCGANGenerator, ProjectionDiscriminator]:
    """Build both networks; see `build_gan`."""
    return (
        CDCGANGenerator(classes=classes, size_px=size_px, z_dim=z_dim, base_channels=base_channels),
        ProjectionDiscriminator(n_classes=len(classes), size_px=size_px, base_channels=base_channels),
    )


def _doublings(size_px: int) -> int:
    doublings = math.log2(size_px / SEED_PX) if size_px > 0 else 0.0
    if doublings < 2 or doublings != int(doublings):  # in 8 px no metric sees anything
        msg = f"The cdcgan network draws squares of 16, 32, 64, ... px, not {size_px}; cut patches of such a size."
        raise UserError(msg)
    return int(doublings)


def _channels(doublings: int, base_channels: int) -> list[int]:
    """Return the width of each stage, finest first; doubled per halving, at most 8 times the base."""
    return [base_channels * min(2**i, 8) for i in range(doublings)]


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift are linear in the layer's latent w = (z, y).

    The class's weights start at N(0, 0.1), not at zero: with zero weights the class was learnt too late, and
    z alone only moved colours.
    """

    def __init__(self, channels: int, z_dim: int, n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.affine = nn.Linear(z_dim + n_classes, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.normal_(self.affine.weight[:, z_dim:], std=0.1)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Normalise x (B, C, H, W) with the latent w (B, w_dim)."""
        scale, shift = self.affine(w)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = self.norm(x) * (1 + scale) + shift
        return out


class CDCGANGenerator(nn.Module):
    """Generator; z is N(0, I). Its latent w repeats (z, y) for the seed and each stage."""

    def __init__(self, *, classes: tuple[str, ...], size_px: int, z_dim: int, base_channels: int) -> None:
        super().__init__()
        doublings = _doublings(size_px)
        self.classes, self.size_px, self.z_dim = classes, size_px, z_dim
        self.w_dim = z_dim + len(classes)
        self.num_ws = 1 + doublings
        widths = _channels(doublings, base_channels)[::-1]
        self.seed = nn.Linear(self.w_dim, widths[0] * SEED_PX**2)
        self.norms = nn.ModuleList(ConditionalBatchNorm(width, z_dim, len(classes)) for width in widths)
        self.stages = nn.ModuleList(
            nn.ConvTranspose2d(width, after, 4, stride=2, padding=1, bias=after == 3)
            for width, after in zip(widths, [*widths[1:], 3], strict=True)
        )
        nn.init.normal_(self.seed.weight, std=0.05)
        for stage in self.stages:
            assert isinstance(stage, nn.ConvTranspose2d)
            nn.init.kaiming_normal_(stage.weight, mode="fan_out", nonlinearity="relu")

    def map(self, z: Tensor, y: Tensor, *, psi: float = 1.0) -> Tensor:
        """Return (B, num_ws, w_dim); psi scales z towards its mean, 0."""
        return torch.cat([z * psi, y], dim=1)[:, None].expand(-1, self.num_ws, -1)

    def synthesize(self, w: Tensor) -> Tensor:
        """Return images (B, 3, size_px, size_px) in [-1, 1]."""
        x: Tensor = self.seed(w[:, 0]).unflatten(1, (-1, SEED_PX, SEED_PX))
        for i, (norm, stage) in enumerate(zip(self.norms, self.stages, strict=True)):
            x = stage(torch.relu(norm(x, w[:, 1 + i])))
        return torch.tanh(x)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images of z (B, z_dim) and y (B, K)."""
        return self.synthesize(self.map(z, y))


class ProjectionDiscriminator(nn.Module):
    """Discriminator without normalisation; score = v(h) + <embed(y), h>."""

    def __init__(self, *, n_classes: int, size_px: int, base_channels: int) -> None:
        super().__init__()
        widths = _channels(_doublings(size_px), base_channels)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, width, 4, stride=2, padding=1)
            for before, width in zip([3, *widths], widths, strict=False)
        )
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.score = nn.Linear(widths[-1], 1)
        self.embed = nn.Linear(n_classes, widths[-1], bias=False)
        for layer in (*self.stages, self.last):
            assert isinstance(layer, nn.Conv2d)
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        """Return scores (B,) of images (B, 3, size_px, size_px) with classes y (B, K)."""
        x = images
        for stage in self.stages:
            x = nn.functional.leaky_relu(stage(x), 0.2)
        x = nn.functional.leaky_relu(self.last(_with_minibatch_deviation(x)), 0.2)
        features = x.mean(dim=(2, 3))
        projection = (self.embed(y) * features).sum(1) / math.sqrt(features.shape[1])
        score: Tensor = self.score(features).squeeze(1) + projection
        return score


def _with_minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append a map of the mean standard deviation over groups of samples (Karras et al. 2018, section 3)."""
    batch, _, height, width = x.shape
    size = math.gcd(group, batch)
    grouped = x.reshape(size, -1, *x.shape[1:])
    deviation = (grouped.var(0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    maps = deviation.repeat(size)[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([x, maps], dim=1)
