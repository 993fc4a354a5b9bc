"""Reverse search with an offset for the latent of each layer: a W+ (Abdal et al. 2019) for any generator."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from napari_histolatent.latent._fast import search_fast
from napari_histolatent.latent._search import Mismatch, descend
from napari_histolatent.latent.search_options import OWN_STEPS

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histolatent.latent._search import Found, Search

_LEARNING_RATE = 0.05
_WEIGHT = 0.01
"""Of the offsets' mean square: far from 0, a flip no longer does to the tile what the generator learnt."""
_TELL_EVERY = 5


def search_layers(search: Search) -> Found:
    """Minimise the mismatch plus 0.01 times the mean square of the offsets, over these, from the point of fast."""
    options = search.options
    found = search_fast(replace(search, options=replace(options, steps=None, learning_rate=None)))
    if search.is_over():
        return found
    with torch.no_grad():
        w = search.generator.map(found.z, found.y)
    offsets = torch.zeros(w.shape, device=w.device, requires_grad=True)
    mismatch = Mismatch(search)

    def loss_of() -> tuple[Tensor, Tensor]:
        drawn = search.generator.synthesize(w + offsets)
        return mismatch(drawn) + _WEIGHT * offsets.square().mean(dim=(1, 2)), drawn

    (best,), _, done = descend(
        [offsets],
        loss_of,
        search,
        steps=options.steps or OWN_STEPS["layers"],
        learning_rate=options.learning_rate or _LEARNING_RATE,
        tell_every=_TELL_EVERY,
        steps_before=found.steps,
    )
    return replace(found, offsets=best, steps=found.steps + done)
