"""From points to pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_histolatent.models.images import to_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.latent.points import LatentPoint
    from napari_histolatent.models.protocols import Generator


@torch.no_grad()
def draw(generator: Generator, points: Sequence[LatentPoint], *, device: torch.device) -> NDArray[np.uint8]:
    """Return the generator's images of points, uint8, shape (n, size_px, size_px, 3)."""
    z = torch.tensor([point.values for point in points], device=device)
    y = torch.tensor([point.class_weights for point in points], device=device)
    images = [
        to_pixels(generator.synthesize(generator.map(part_z, part_y)))
        for part_z, part_y in zip(torch.split(z, 64), torch.split(y, 64), strict=True)
    ]
    return np.concatenate(images)
