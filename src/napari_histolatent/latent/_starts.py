"""Several searches of each tile: which of them is kept, and how far they are from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histolatent.latent._search import Search

_AS_NEAR = 1.05
"""Starts count for the spread up to so many times the lowest loss; and the two lowest in any case."""


def nearest_start(losses: Tensor, starts: int) -> Tensor:
    """Return the row of the lowest loss of each tile; rows are start by start, shape (starts * tiles,)."""
    by_start = losses.view(starts, -1)
    tiles = by_start.shape[1]
    return by_start.argmin(dim=0) * tiles + torch.arange(tiles, device=losses.device)


@torch.no_grad()
def spread_over(search: Search, z: Tensor, y: Tensor, losses: Tensor) -> Tensor:
    """Return the standard deviation over the starts that ended about as near, the mean over pixels, (tiles,)."""
    tiles = len(search)
    drawn = torch.cat(
        [search.drawn(*part) for part in zip(torch.split(z, tiles), torch.split(y, tiles), strict=True)]
    )
    images = drawn.view(-1, tiles, *drawn.shape[1:])
    by_start = losses.view(-1, tiles)
    second = by_start.sort(dim=0).values[1]
    counts = (by_start <= torch.maximum(second, _AS_NEAR * by_start.min(dim=0).values))[..., None, None, None]
    n = counts.sum(dim=0)
    mean = (images * counts).sum(dim=0) / n
    variance = ((images - mean).square() * counts).sum(dim=0) / (n - 1)
    return variance.sqrt().mean(dim=(1, 2, 3))
