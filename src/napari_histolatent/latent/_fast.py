"""Reverse search from a good start: the encoder's guess, and a few steps that do not leave the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_histolatent.errors import UserError
from napari_histolatent.latent._lbfgs import minimise
from napari_histolatent.latent._search import Found, Mismatch, beyond_prior, descend, resample_outside
from napari_histolatent.latent._starts import nearest_start, spread_over
from napari_histolatent.latent.search_options import OWN_STEPS
from napari_histolatent.models.priors import draw_latents, prior_scale

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from napari_histolatent.latent._search import Search

_LEARNING_RATE = 0.35
"""Of z in deviations of its prior: 50 steps of 0.1 stopped on the way, with 0.4 generated tiles are found less exactly."""
_TELL_EVERY = 5
_CANDIDATES = 256
"""Drawn images of which the nearest is the start, where there is no encoder."""
_AT_ONCE = 64
_LEAST_SHARE = 0.02
"""Of a class, at the start of a search of the class vector: the logarithm of 0 is no number."""
_WALL = 0.999


def search_fast(search: Search) -> Found:
    """Minimise mean((G(z, y) - tile)^2) + prior_weight * what z lies beyond its prior, from the encoder's z.

    Further starts are drawn from the prior. Without an encoder the first start is the nearest of 256 drawn images
    (Zhu et al. 2016 start from an encoder, too, and then descend).
    """
    options, starts = search.options, search.options.starts
    chance = torch.Generator().manual_seed(options.seed)
    first = _first_start(search, chance)
    z = torch.cat([first, search.random_starts(starts - 1, chance)]) if starts > 1 else first
    z = z.clone().requires_grad_(True)
    y = search.y.repeat(starts, 1)
    is_free = options.free_class and y.shape[1] > 1
    logits = y.clamp_min(_LEAST_SHARE).log().requires_grad_(is_free)
    mismatch = Mismatch(search, starts=starts)
    prior = search.generator.prior

    def loss_of() -> tuple[Tensor, Tensor]:
        drawn = search.drawn(z, torch.softmax(logits, dim=1) if is_free else y)
        return mismatch(drawn) + options.prior_weight * beyond_prior(z, prior), drawn

    best, losses, done = descend(
        [z, logits] if is_free else [z],
        loss_of,
        search,
        steps=options.steps or OWN_STEPS["fast"],
        learning_rate=options.learning_rate or _LEARNING_RATE * prior_scale(prior),
        tell_every=_TELL_EVERY,
        resample=lambda: resample_outside(z, prior, chance),
    )
    y = torch.softmax(best[1], dim=1) if is_free else y
    spread = spread_over(search, best[0], y, losses) if starts > 1 else None
    chosen = nearest_start(losses, starts)
    found = Found(best[0][chosen], y[chosen], done, spread=spread)
    return (
        _polished(search, found, is_free=is_free) if options.polish_steps and not search.is_over() else found
    )


def _first_start(search: Search, chance: torch.Generator) -> Tensor:
    encoder, generator = search.encoder, search.generator
    if encoder is None:
        return _nearest_drawn(search, chance)
    if (encoder.size_px, encoder.z_dim) != (generator.size_px, generator.z_dim):
        msg = (
            f"The encoder takes {encoder.size_px} px and gives {encoder.z_dim} numbers, the generator draws {generator.size_px} px "
            f"from {generator.z_dim}; train an encoder for this generator."
        )
        raise UserError(msg)
    with torch.no_grad():
        z = encoder(search.images)[0]
        resample_outside(z, generator.prior, chance)
    return z


@torch.no_grad()
def _nearest_drawn(search: Search, chance: torch.Generator) -> Tensor:
    """Return z of the drawn image that is nearest to each tile, in the tile's own class."""
    z = draw_latents(search.generator.prior, _CANDIDATES, search.generator.z_dim, chance)
    z = z.to(search.images.device)
    chosen = torch.empty(len(search), z.shape[1], device=z.device)
    if search.y.shape[1]:
        vectors, of_tile = torch.unique(search.y, dim=0, return_inverse=True)
    else:  # no classes: all are of the one empty vector
        vectors, of_tile = search.y[:1], torch.zeros(len(search), dtype=torch.long, device=z.device)
    flat = search.images.flatten(1)
    for i, vector in enumerate(vectors):
        own = of_tile == i
        distances = [
            torch.cdist(flat[own], search.drawn(part, vector.expand(len(part), -1)).flatten(1))
            for part in torch.split(z, _AT_ONCE)
        ]
        chosen[own] = z[torch.cat(distances, dim=1).argmin(dim=1)]
    return chosen


def _polished(search: Search, found: Found, *, is_free: bool) -> Found:
    """Return the point after iterations of L-BFGS on the same loss."""
    options, prior = search.options, search.generator.prior
    mismatch, z_dim = Mismatch(search), found.z.shape[1]
    into, out_of = _without_walls(prior)

    def latents(x: Tensor) -> tuple[Tensor, Tensor]:
        return into(x[:, :z_dim]), torch.softmax(x[:, z_dim:], dim=1) if is_free else found.y

    def loss_of(x: Tensor) -> Tensor:
        z, y = latents(x)
        return mismatch(search.drawn(z, y)) + options.prior_weight * beyond_prior(z, prior)

    start = out_of(found.z)
    if is_free:
        start = torch.cat([start, found.y.clamp_min(1e-6).log()], dim=1)
    x, _ = minimise(loss_of, start, steps=options.polish_steps, should_stop=search.should_stop)
    with torch.no_grad():
        z, y = latents(x)
    return Found(z, y, found.steps + options.polish_steps, spread=found.spread)


def _without_walls(prior: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return what takes unbounded numbers into the prior, and what takes z back: L-BFGS cannot draw anew."""
    if prior == "uniform":
        return torch.tanh, lambda z: z.clamp(-_WALL, _WALL).atanh()
    return (lambda x: x), (lambda z: z)
