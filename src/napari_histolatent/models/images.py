"""Between pixels (uint8, height x width x 3) and what networks see (float, 3 x height x width, [-1, 1])."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Return (B, 3, H, W) float32 in [-1, 1] of pixels (B, H, W, 3) uint8."""
    return torch.from_numpy(np.array(pixels, order="C")).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Return (B, H, W, 3) uint8 of images (B, 3, H, W) in [-1, 1]."""
    scaled = images.detach().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).cpu().numpy())
