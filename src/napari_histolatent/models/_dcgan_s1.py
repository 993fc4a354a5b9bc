"""The DCGAN and cDCGAN of Fernandez et al., "Medical image editing in the latent space of GANs", section 3.1.

As the paper says: z uniform from -1 to 1, 100 numbers; 5 x 5 kernels and stride 2 throughout; a fully connected
layer, then four transposed convolutions to 256 px, so that the seed is 16 x 16; batch normalisation in all layers
but the generator's last and the discriminator's first; ReLU, and leaky ReLU of slope 0.2 in the discriminator;
tanh; four convolutions, flattened, one output. The class is joined to z, and as constant maps to what the
discriminator's first convolution puts out.

What it leaves open, and where it was taken from:

- Widths. "Half the filters" of Radford et al. 2016 in each layer, read as both networks: 512, 256, 128, 64, 3 and
  64, 128, 256, 512 (17.5 and 4.4 million parameters at 256 px).
- Other sizes than 256 px: the same four stages, from a seed of a sixteenth of the side.
- Initial weights: N(0, 0.02), Radford et al. 2016, section 4; gains of normalisation N(1, 0.02) and biases 0, the
  code of the same authors.
- Biases: none where normalisation follows and would take them away again; normalisation by channel, the seed's too.
- The class joins the first convolution's output behind its leaky ReLU.
- The output is a logit: the sigmoid belongs to the loss, where it does not overflow.

The discriminator's convolutions see 61 px; what is larger, only its last layer can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.models._norm import GatheredBatchNorm2d

if TYPE_CHECKING:
    from torch import Tensor

STAGES = 4
"""Convolutions of stride 2 in each network."""
SMALLEST_PX, LARGEST_PX = 16, 512
"""The side is halved four times: a multiple of the smallest."""


def build(
    *, classes: tuple[str, ...], size_px: int, z_dim: int = 100, base_channels: int = 64
) -> tuple[S1Generator, S1Discriminator]:
    """Build both networks; see `build_gan`."""
    return (
        S1Generator(classes=classes, size_px=size_px, z_dim=z_dim, base_channels=base_channels),
        S1Discriminator(n_classes=len(classes), size_px=size_px, base_channels=base_channels),
    )


def _seed_px(size_px: int) -> int:
    if size_px % SMALLEST_PX or not SMALLEST_PX <= size_px <= LARGEST_PX:
        msg = f"The s1 design draws squares of 64, 128, 256 or 512 px (or another multiple of 16 below 512), not {size_px}; cut patches of such a size."
        raise UserError(msg)
    return size_px // SMALLEST_PX


def _widths(base_channels: int) -> list[int]:
    """Return the width of each stage, finest first."""
    return [base_channels * 2**i for i in range(STAGES)]


class S1Generator(nn.Module):
    """Generator; z is uniform in [-1, 1]. z and class enter at the seed, and nowhere else.

    Its latent w repeats (z, y) for the seed and each of the four normalised maps, `num_ws` 5, though the network
    itself has no use for it but at the seed. An offset in a later layer means what it does in other generators,
    where a layer's w shifts its channels: there the mean of each channel (over the map) is moved by what the
    network draws there from that layer's w less what it draws from the first w (of adaptive instance
    normalisation, Huang & Belongie 2017, the shift). Both are drawn without any shift, so that the shifts of
    several layers add up, and none takes back an earlier one. An offset in the first w alone moves what is where;
    the means stay those of the later layers' w. It needs no weights that were never trained, is nothing where w
    is repeated, and costs up to four drawings where it is not.
    """

    prior = "uniform"

    def __init__(self, *, classes: tuple[str, ...], size_px: int, z_dim: int, base_channels: int) -> None:
        super().__init__()
        self.classes, self.size_px, self.z_dim = classes, size_px, z_dim
        self.w_dim = z_dim + len(classes)
        self.num_ws = 1 + STAGES
        self._seed_px = _seed_px(size_px)
        widths = _widths(base_channels)[::-1]
        self.seed = nn.Linear(self.w_dim, widths[0] * self._seed_px**2)
        self.norms = nn.ModuleList(GatheredBatchNorm2d(width) for width in widths)
        self.stages = nn.ModuleList(
            nn.ConvTranspose2d(width, after, 5, stride=2, padding=2, output_padding=1, bias=after == 3)
            for width, after in zip(widths, [*widths[1:], 3], strict=True)
        )
        _initialise(self)

    def map(self, z: Tensor, y: Tensor, *, psi: float = 1.0) -> Tensor:
        """Return (B, num_ws, w_dim); psi scales z towards its mean, 0."""
        return torch.cat([z * psi, y], dim=1)[:, None].expand(-1, self.num_ws, -1)

    def synthesize(self, w: Tensor) -> Tensor:
        """Return images (B, 3, size_px, size_px) in [-1, 1]."""
        batch = len(w)
        # Repeated by `map`, it says so by its stride; to compare the values would wait for the device.
        repeated = w.stride(1) == 0
        # The images first, then what the first and each later w would draw unshifted, as far as it is needed.
        latents = w[:, 0] if repeated else w.transpose(0, 1).flatten(0, 1)
        x: Tensor = self.seed(latents).unflatten(1, (-1, self._seed_px, self._seed_px))
        for i, (norm, stage) in enumerate(zip(self.norms, self.stages, strict=True), 1):
            x = norm(x)
            if not repeated:
                own, *others = torch.split(x, batch)
                # Nothing is shifted yet in the first map.
                first = own if i == 1 else others.pop(0)
                other, *later = others
                shift = other.mean((2, 3), keepdim=True) - first.mean((2, 3), keepdim=True)
                x = torch.cat([own + shift, first, *later] if later else [own + shift])
            x = stage(torch.relu(x))
        return torch.tanh(x)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images of z (B, z_dim) and y (B, K)."""
        return self.synthesize(self.map(z, y))


class S1Discriminator(nn.Module):
    """Discriminator with batch normalisation; the score is a logit."""

    def __init__(self, *, n_classes: int, size_px: int, base_channels: int) -> None:
        super().__init__()
        seed_px, widths = _seed_px(size_px), _widths(base_channels)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, width, 5, stride=2, padding=2, bias=before == 3)
            for before, width in zip([3, widths[0] + n_classes, *widths[1:]], widths, strict=False)
        )
        self.norms = nn.ModuleList(GatheredBatchNorm2d(width) for width in widths[1:])
        self.score = nn.Linear(widths[-1] * seed_px**2, 1)
        _initialise(self)

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        """Return scores (B,) of images (B, 3, size_px, size_px) with classes y (B, K)."""
        first, *others = self.stages
        x = nn.functional.leaky_relu(first(images), 0.2)
        if y.shape[1]:
            maps = y.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, maps], dim=1)
        for stage, norm in zip(others, self.norms, strict=True):
            x = nn.functional.leaky_relu(norm(stage(x)), 0.2)
        score: Tensor = self.score(x.flatten(1)).squeeze(1)
        return score


def _initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, mean=1.0, std=0.02)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
