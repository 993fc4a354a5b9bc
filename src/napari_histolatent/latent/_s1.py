"""The reverse search of S1 (Fernandez et al.), as it is in the paper: the reference for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_histolatent.latent._search import Found, descend
from napari_histolatent.latent._starts import nearest_start, spread_over
from napari_histolatent.latent.search_options import OWN_STEPS
from napari_histolatent.models.metrics import rmse

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histolatent.latent._search import Search

_LEARNING_RATE = 0.05
_TELL_EVERY = 25


def search_s1(search: Search) -> Found:
    """Minimise RMSE(G(z, y), tile) over z by gradient descent from a random start, without any prior.

    S1 leaves the optimiser and its step size open: here Adam with 0.05, in units of z.
    """
    options, starts = search.options, search.options.starts
    chance = torch.Generator().manual_seed(options.seed)
    z = search.random_starts(starts, chance).clone().requires_grad_(True)
    y = search.y.repeat(starts, 1)
    tiles = search.images.repeat(starts, 1, 1, 1)

    def loss_of() -> tuple[Tensor, Tensor]:
        drawn = search.drawn(z, y)
        return rmse(drawn, tiles), drawn

    (best,), losses, done = descend(
        [z],
        loss_of,
        search,
        steps=options.steps or OWN_STEPS["s1"],
        learning_rate=options.learning_rate or _LEARNING_RATE,
        tell_every=_TELL_EVERY,
    )
    chosen = nearest_start(losses, starts)
    spread = spread_over(search, best, y, losses) if starts > 1 else None
    return Found(best[chosen], y[chosen], done, spread=spread)
