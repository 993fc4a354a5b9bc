"""Augmentation of image tensors (B, C, H, W) in [-1, 1]. Chance comes from the generator that is passed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator, like: Tensor) -> Tensor:
    # Drawn on the CPU, so that every device sees the same numbers.
    return (torch.rand(shape, generator=rng) * (high - low) + low).to(like)


def dihedral(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return each image in one of the eight symmetries of the square: tissue has no upright."""
    flip_x, flip_y, transpose = torch.randint(0, 2, (3, len(images), 1, 1, 1), generator=rng).bool()
    images = torch.where(flip_x.to(images.device), images.flip(3), images)
    images = torch.where(flip_y.to(images.device), images.flip(2), images)
    return torch.where(transpose.to(images.device), images.transpose(2, 3), images)


def differentiable_augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return images with changed colour, shifted, and with a square cut out (Zhao et al. 2020, DiffAugment).

    Gradients flow through it: the generator is not taught to draw the augmentation.
    """
    return _cutout(_shift(_recolour(images, rng), rng), rng)


def _recolour(images: Tensor, rng: torch.Generator) -> Tensor:
    each = (len(images), 1, 1, 1)
    images = images + _uniform(each, -0.5, 0.5, rng, images)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * _uniform(each, 0, 2, rng, images) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * _uniform(each, 0.5, 1.5, rng, images) + mean


def _shift(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift by up to an eighth of the side; what comes in is 0 (grey)."""
    batch, _, height, width = images.shape
    reach = max(1, height // 8)
    dy, dx = torch.randint(0, 2 * reach + 1, (2, batch, 1), generator=rng).to(images.device)
    padded = nn.functional.pad(images, (reach,) * 4)
    rows = (dy + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (dx + torch.arange(width, device=images.device))[:, None, None, :]
    sample = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[sample, channel, rows, columns]


def _cutout(images: Tensor, rng: torch.Generator) -> Tensor:
    """Set a square of half the side, somewhere over the image, to 0."""
    batch, _, height, width = images.shape
    centre_y, centre_x = (
        torch.randint(0, n, (batch, 1, 1), generator=rng).to(images.device) for n in (height, width)
    )
    rows = torch.arange(height, device=images.device)[None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, :]
    inside = ((rows - centre_y).abs() <= height // 4) & ((columns - centre_x).abs() <= width // 4)
    return images * (~inside)[:, None]


def stain_and_blur(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return images with jittered stain (per-channel optical density) and, half of them, blurred.

    A classifier that never saw this judges by mean colour or by sharpness alone.
    """
    each = (len(images), 3, 1, 1)
    transmitted = (images.clamp(-1, 1) + 1) / 2
    density = -torch.log(transmitted.clamp_min(1 / 255))
    density = density * _uniform(each, 0.75, 1.33, rng, images) + _uniform(each, -0.05, 0.1, rng, images)
    jittered = torch.exp(-density.clamp_min(0)) * 2 - 1
    blurred = nn.functional.avg_pool2d(nn.functional.pad(jittered, (1,) * 4, mode="replicate"), 3, stride=1)
    share = _uniform((len(images), 1, 1, 1), -1, 1, rng, images).clamp_min(0)
    return jittered + share * (blurred - jittered)
