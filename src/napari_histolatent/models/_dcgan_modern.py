"""A small DCGAN that learns fast, with classes or without.

Trunk: Radford et al. 2016 (transposed convolutions doubling a 4 x 4 seed; here 4 x 4 kernels, since 5 x 5 ones
draw a checkerboard and cost 1.4 times as much). The last of them makes features, from which a plain convolution at
full size makes the colours: that takes the rest of the checkerboard away. Maps are continued beyond their edges by
their last pixels, where zeros draw a frame around every image. Conditioning: label concatenated to z, Mirza & Osindero 2014;
conditional batch normalisation from z and y, de Vries et al. 2017 and Brock et al. 2019. Discriminator: projection
head, Miyato & Koyama 2018; minibatch standard deviation, Karras et al. 2018; no normalisation.

Without classes y is (B, 0): the normalisation's scale and shift come from z alone, and there is no projection.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.models._norm import GatheredBatchNorm2d

if TYPE_CHECKING:
    from torch import Tensor

SEED_PX = 4
"""Side of the feature map that the first layer makes."""


def build(
    *, classes: tuple[str, ...], size_px: int, z_dim: int = 64, base_channels: int = 16
) -> tuple[ModernGenerator, ModernDiscriminator]:
    """Build both networks; see `build_gan`."""
    return (
        ModernGenerator(classes=classes, size_px=size_px, z_dim=z_dim, base_channels=base_channels),
        ModernDiscriminator(n_classes=len(classes), size_px=size_px, base_channels=base_channels),
    )


def _doublings(size_px: int) -> int:
    doublings = math.log2(size_px / SEED_PX) if size_px > 0 else 0.0
    if doublings < 2 or doublings != int(doublings):  # in 8 px no metric sees anything
        msg = f"The modern design draws squares of 16, 32, 64, ... px, not {size_px}; cut patches of such a size."
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
        self.norm = GatheredBatchNorm2d(channels, affine=False)
        self.affine = nn.Linear(z_dim + n_classes, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        if n_classes:
            nn.init.normal_(self.affine.weight[:, z_dim:], std=0.1)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Normalise x (B, C, H, W) with the latent w (B, w_dim)."""
        scale, shift = self.affine(w)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = self.norm(x) * (1 + scale) + shift
        return out


class ModernGenerator(nn.Module):
    """Generator; z is N(0, I). Its latent w repeats (z, y) for the seed and each stage."""

    prior = "normal"

    def __init__(self, *, classes: tuple[str, ...], size_px: int, z_dim: int, base_channels: int) -> None:
        super().__init__()
        doublings = _doublings(size_px)
        self.classes, self.size_px, self.z_dim = classes, size_px, z_dim
        self.w_dim = z_dim + len(classes)
        self.num_ws = 2 + doublings
        widths = [*_channels(doublings, base_channels)[::-1], base_channels]
        self.seed = nn.Linear(self.w_dim, widths[0] * SEED_PX**2)
        self.norms = nn.ModuleList(ConditionalBatchNorm(width, z_dim, len(classes)) for width in widths)
        # Padded by 1 beforehand, and 2 of what comes out taken off at each side.
        self.stages = nn.ModuleList(
            nn.ConvTranspose2d(width, after, 4, stride=2, padding=3, bias=False)
            for width, after in pairwise(widths)
        )
        self.colors = nn.Conv2d(base_channels, 3, 3, padding=1, padding_mode="replicate")
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
        *norms, last = self.norms
        for i, (norm, stage) in enumerate(zip(norms, self.stages, strict=True)):
            x = torch.relu(norm(x, w[:, 1 + i]))
            x = stage(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"))
        return torch.tanh(self.colors(torch.relu(last(x, w[:, -1]))))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images of z (B, z_dim) and y (B, K)."""
        return self.synthesize(self.map(z, y))


class ModernDiscriminator(nn.Module):
    """Discriminator without normalisation; score = v(h) + <embed(y), h>, or v(h) without classes."""

    def __init__(self, *, n_classes: int, size_px: int, base_channels: int) -> None:
        super().__init__()
        widths = _channels(_doublings(size_px), base_channels)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, width, 4, stride=2, padding=1)
            for before, width in zip([3, *widths], widths, strict=False)
        )
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.score = nn.Linear(widths[-1], 1)
        self.embed = nn.Linear(n_classes, widths[-1], bias=False) if n_classes else None
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
        score: Tensor = self.score(features).squeeze(1)
        if self.embed is not None:
            score = score + (self.embed(y) * features).sum(1) / math.sqrt(features.shape[1])
        return score


def _with_minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append a map of the mean standard deviation over groups of samples (Karras et al. 2018, section 3).

    A group is four samples in a row, 4 i to 4 i + 3, so that a batch divided among processes in parts of a multiple
    of four has the groups of the whole batch. Other batches are divided into pairs or, if odd, into single samples,
    which have no deviation: the map then says nothing.
    """
    size = math.gcd(group, len(x))
    # In half precision the squares of large features overflow, and those of small ones vanish.
    grouped = x.reshape(-1, size, *x.shape[1:]).float()
    deviation = (grouped.var(1, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    maps = deviation.repeat_interleave(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, maps.to(x.dtype)], dim=1)
