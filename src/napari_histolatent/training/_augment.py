"""Augmentation of image tensors (B, C, H, W) in [-1, 1]. Chance comes from the generator that is passed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_histolatent.training._data import WHOLE, Part


def _uniform(
    shape: tuple[int, ...], low: float, high: float, rng: torch.Generator, like: Tensor, part: Part = WHOLE
) -> Tensor:
    # Drawn on the CPU, so that every device sees the same numbers.
    drawn = torch.rand((shape[0] * part.of, *shape[1:]), generator=rng)
    return (part.cut(drawn) * (high - low) + low).to(like)


def _whole_numbers(below: int, rows: int, images: Tensor, rng: torch.Generator, part: Part) -> Tensor:
    """Return random whole numbers (rows, B)."""
    return part.cut(torch.randint(0, below, (rows, len(images) * part.of), generator=rng), dim=1)


def dihedral(images: Tensor, rng: torch.Generator, part: Part = WHOLE) -> Tensor:
    """Return each image in one of the eight symmetries of the square: tissue has no upright."""
    flip_x, flip_y, transpose = _whole_numbers(2, 3, images, rng, part)[:, :, None, None, None].bool()
    images = torch.where(flip_x.to(images.device), images.flip(3), images)
    images = torch.where(flip_y.to(images.device), images.flip(2), images)
    return torch.where(transpose.to(images.device), images.transpose(2, 3), images)


def jitter_stain(images: Tensor, rng: torch.Generator, spread: float, part: Part = WHOLE) -> Tensor:
    """Return images whose optical density is multiplied, per image and channel, by 1 - spread to 1 + spread.

    Stains differ between laboratories as factors on optical density (Beer-Lambert; Ruifrok & Johnston 2001).
    """
    transmitted = ((images.clamp(-1, 1) + 1) / 2).clamp_min(1 / 255)
    factors = _uniform((len(images), 3, 1, 1), 1 - spread, 1 + spread, rng, images, part)
    return transmitted**factors * 2 - 1


def add_noise(images: Tensor, rng: torch.Generator, deviation: float, part: Part = WHOLE) -> Tensor:
    """Return images with Gaussian noise."""
    # As many numbers as pixels: they are drawn where the images are, from a seed that comes from `rng`.
    (seed,) = torch.randint(0, 2**63 - 1, (1,), generator=rng).tolist()
    there = torch.Generator(images.device).manual_seed(seed)
    noise = torch.randn(
        (len(images) * part.of, *images.shape[1:]), generator=there, device=images.device, dtype=images.dtype
    )
    return images + deviation * part.cut(noise)


def differentiable_augment(images: Tensor, rng: torch.Generator, part: Part = WHOLE) -> Tensor:
    """Return images with changed colour, shifted, and with a square cut out (Zhao et al. 2020, DiffAugment).

    Gradients flow through it: the generator is not taught to draw the augmentation.
    """
    return _cutout(_shift(_recolour(images, rng, part), rng, part), rng, part)


def _recolour(images: Tensor, rng: torch.Generator, part: Part = WHOLE) -> Tensor:
    each = (len(images), 1, 1, 1)
    images = images + _uniform(each, -0.5, 0.5, rng, images, part)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * _uniform(each, 0, 2, rng, images, part) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * _uniform(each, 0.5, 1.5, rng, images, part) + mean


def _shift(images: Tensor, rng: torch.Generator, part: Part = WHOLE) -> Tensor:
    """Shift by up to an eighth of the side; what comes in is 0 (grey)."""
    batch, _, height, width = images.shape
    reach = max(1, height // 8)
    dy, dx = _whole_numbers(2 * reach + 1, 2, images, rng, part)[:, :, None].to(images.device)
    padded = nn.functional.pad(images, (reach,) * 4)
    rows = (dy + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (dx + torch.arange(width, device=images.device))[:, None, None, :]
    sample = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[sample, channel, rows, columns]


def _cutout(images: Tensor, rng: torch.Generator, part: Part = WHOLE) -> Tensor:
    """Set a square of half the side, somewhere over the image, to 0."""
    height, width = images.shape[2:]
    centre_y, centre_x = (
        _whole_numbers(n, 1, images, rng, part)[0, :, None, None].to(images.device) for n in (height, width)
    )
    rows = torch.arange(height, device=images.device)[None, :, None]
    columns = torch.arange(width, device=images.device)[None, None, :]
    inside = ((rows - centre_y).abs() <= height // 4) & ((columns - centre_x).abs() <= width // 4)
    return images * (~inside)[:, None]
