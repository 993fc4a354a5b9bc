"""What a judge of tissue is shown while it learns: images (B, 3, H, W) in [-1, 1]. Chance comes from the generator.

A classifier that learns from the patches as they are judges by mean stain or by sharpness, whichever gives the class
away, and then says nothing of a flipped or generated tile. `robust` takes both cues from it: the stain of a patch is
that of any other in the batch, and how sharp it is is chance. What is left is structure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from napari_histolatent.patches._stain import _LOG_LMS_TO_LAB, _RGB_TO_LMS
from napari_histolatent.training._augment import dihedral

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TISSUE_DENSITY = 0.15 * 2.302585
"""Least optical density (natural logarithm) of tissue; 0.15 to base 10, as where slides are normalised."""
_LEAST_TISSUE = 0.1
"""Share of a patch that has to be tissue, for its stain to be known."""
_LEAST_SPREAD = 1e-3
"""In l, α, β: of patches of one colour, to which no other spread can be given."""
_WIDEST_SIGMA_PX = 2.0
_REACH_PX = 5


def plain(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return each image in one of the eight symmetries of the square, its colours and sharpness as they are."""
    return dihedral(images, rng)


def robust(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return images turned, with the stain of one another, jittered, some greyed, blurred, sharpened or noisy."""
    images = dihedral(images, rng)
    images = greyed(jittered(restained(images, rng), rng), rng)
    return noisy(reduced(resharpened(images, rng), rng), rng)


AUGMENTERS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {"plain": plain, "robust": robust}
"""Name, as in `ClassifierConfig.augmentation` -> what is done to a batch."""


def restained(images: Tensor, rng: torch.Generator, *, share: float = 0.8) -> Tensor:
    """Return images, a share of them with mean and spread of stain of another one of the batch, jittered.

    Reinhard's transfer in l, α, β (Reinhard et al. 2001, equations 10 and 11), over tissue alone: white stays
    white. Classes are even in a batch, so about half of these patches get the stain of another class. Patches with
    too little tissue are left as they are. The same transfer per channel of optical density was tried: how the
    channels go together still gave the class away.
    """
    n = len(images)
    other = torch.randperm(n, generator=rng)
    chosen = _chance((n, 1, 1, 1), 0, 1, rng, images) < share
    mean_jitter = 0.24 * _normal((n, 3, 1, 1), rng, images)
    spread_jitter = torch.exp(0.25 * _normal((n, 3, 1, 1), rng, images))
    rgb = (images.clamp(-1, 1) + 1) * 127.5
    lms_of_rgb = torch.from_numpy(_RGB_TO_LMS).to(images)
    lab_of_lms = torch.from_numpy(_LOG_LMS_TO_LAB).to(images)
    lab = _mixed(lab_of_lms, torch.log10(_mixed(lms_of_rgb, rgb.clamp_min(1))))
    weight = (_density(images).square().sum(1, keepdim=True) / _TISSUE_DENSITY**2).clamp(max=1)
    tissue = (weight == 1).to(images)
    area = tissue.mean((2, 3), keepdim=True)
    mean, spread = _moments(lab, tissue, area)
    wanted = mean[other] + mean_jitter * spread[other].mean(1, keepdim=True)
    scale = (spread[other] / spread.clamp_min(_LEAST_SPREAD)).clamp(1 / 3, 3) * spread_jitter
    # Its rows are orthonormal: the transpose leads back.
    log_lms = _mixed(lab_of_lms.T, (lab - mean) * scale + wanted)
    changed = _mixed(torch.from_numpy(np.linalg.inv(_RGB_TO_LMS)).to(images), 10**log_lms)
    result = (rgb + weight * (changed - rgb)).clamp(0, 255) / 127.5 - 1
    known = (area >= _LEAST_TISSUE) & (spread.amin(1, keepdim=True) >= _LEAST_SPREAD)
    return torch.where(chosen & known & known[other], result, images)


def jittered(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return images with stain (optical density per channel) a little stronger or weaker, and tinted."""
    each = (len(images), 3, 1, 1)
    factor, tint = _chance(each, 0.85, 1.18, rng, images), _chance(each, -0.05, 0.1, rng, images)
    return _image(_density(images) * factor + tint)


def greyed(images: Tensor, rng: torch.Generator, *, share: float = 0.2) -> Tensor:
    """Return images, a share of them half or wholly without colour."""
    each = (len(images), 1, 1, 1)
    chosen, amount = _chance(each, 0, 1, rng, images) < share, _chance(each, 0.5, 1, rng, images)
    grey = images.mean(1, keepdim=True)
    return images + chosen * amount * (grey - images)


def resharpened(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return images, 60 % blurred by a Gaussian of SD 0.3 to 2 px, 15 % sharpened by what it takes away."""
    each = (len(images), 1, 1, 1)
    sigma = _chance(each, 0.3, _WIDEST_SIGMA_PX, rng, images)
    which, sharper = _chance(each, 0, 1, rng, images), _chance(each, 0.3, 1.2, rng, images)
    amount = torch.where(which < 0.6, 1.0, torch.where(which < 0.75, -sharper, 0.0))
    return (images + amount * (_gaussian(images, sigma) - images)).clamp(-1, 1)


def reduced(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return images, the first sixth of them reduced to 0.4 to 0.9 of their side and enlarged again."""
    first, (height, width) = max(1, len(images) // 6), images.shape[2:]
    factor = 0.4 + 0.5 * float(torch.rand((), generator=rng))
    size = (max(1, int(height * factor)), max(1, int(width * factor)))
    small = nn.functional.interpolate(images[:first], size, mode="bilinear")
    return torch.cat([nn.functional.interpolate(small, (height, width), mode="bilinear"), images[first:]])


def noisy(images: Tensor, rng: torch.Generator, *, share: float = 0.4) -> Tensor:
    """Return images, a share of them with noise of SD up to 0.06: a blurred patch may be grainy, too."""
    each = (len(images), 1, 1, 1)
    chosen, amount = _chance(each, 0, 1, rng, images) < share, _chance(each, 0, 0.06, rng, images)
    return (images + chosen * amount * _normal(tuple(images.shape), rng, images)).clamp(-1, 1)


def _gaussian(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by its own SD, in px, shape (B, 1, 1, 1); borders are repeated."""
    at = torch.arange(-_REACH_PX, _REACH_PX + 1, device=images.device)
    weights = torch.exp(-0.5 * (at / sigma).square())
    weights = weights / weights.sum(3, keepdim=True)
    # A sum of shifted images: a convolution with a kernel an image is several times slower on a CPU.
    for dim, padding in ((2, (0, 0, _REACH_PX, _REACH_PX)), (3, (_REACH_PX, _REACH_PX, 0, 0))):
        length = images.shape[dim]
        padded = nn.functional.pad(images, padding, mode="replicate")
        images = torch.zeros_like(images)
        for i in range(len(at)):
            images += padded.narrow(dim, i, length) * weights[..., i : i + 1]
    return images


def _density(images: Tensor) -> Tensor:
    # Black has no logarithm: it counts as the darkest grey of 8 bits.
    return -torch.log(((images.clamp(-1, 1) + 1) / 2).clamp_min(1 / 255))


def _image(density: Tensor) -> Tensor:
    return torch.exp(-density.clamp_min(0)) * 2 - 1


def _mixed(matrix: Tensor, images: Tensor) -> Tensor:
    """Return images whose channels are those of the given ones, mixed by a matrix (3, 3)."""
    return torch.einsum("ij,bjhw->bihw", matrix, images)


def _moments(values: Tensor, tissue: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and SD of each channel over tissue, (B, 3, 1, 1); 0 where there is none."""
    share = area.clamp_min(1e-6)
    mean = (values * tissue).mean((2, 3), keepdim=True) / share
    variance = ((values - mean).square() * tissue).mean((2, 3), keepdim=True) / share
    return mean, variance.sqrt()


def _chance(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator, like: Tensor) -> Tensor:
    # Drawn on the CPU, so that every device sees the same numbers.
    return (torch.rand(shape, generator=rng) * (high - low) + low).to(like)


def _normal(shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=rng).to(like)
