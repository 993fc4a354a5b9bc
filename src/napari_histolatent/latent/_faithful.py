"""Reverse search that keeps what z cannot hold: a copy of the generator is tuned to the tile."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from napari_histolatent.latent._fast import search_fast
from napari_histolatent.latent._search import Mismatch, require_numbers
from napari_histolatent.latent.search_options import OWN_STEPS
from napari_histolatent.latent.tuned import TunedWeights

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histolatent.latent._search import Found, Search

_LEARNING_RATE = 2e-3
_ANCHOR_WEIGHT = 0.05
"""Of the pictures in the other classes: with 0 a flip runs off to colours that no tissue has."""
_KEPT_SHARE = 0.5
"""Of what the generator cannot draw of the tile, in those pictures: 0 flips into a picture that shows nothing of the tile,
1 into the tile in another stain (figures in docs/editing.md)."""
_TELL_EVERY = 5


def search_faithful(search: Search) -> Found:
    """Tune a copy of the generator for each tile, so that it draws the tile from the point of fast.

    Pivotal tuning (Roich et al. 2021, section 3.2): the latent is held, the weights of `synthesize` are moved by
    Adam to make the mismatch small. Their locality regularisation (section 3.3) holds the copy at random points near
    the pivot, to what the generator draws there. Here it is held at the pivot's own points in the other classes, in
    turns, as that is where a class flip goes; to the generator's picture there and half of what the copy learns of
    the tile, G(z, y') + (x - G(z, y)) / 2, so that a flip goes on showing this tile.
    """
    options = search.options
    found = search_fast(replace(search, options=replace(options, steps=None, learning_rate=None)))
    steps = options.steps or OWN_STEPS["faithful"]
    with torch.no_grad():
        shown = search.drawn(found.z, found.y)
    tuned: list[TunedWeights | None] = []
    for i in range(len(search)):
        if search.is_over():
            break
        tuned.append(_tuned_to(search, found, i, shown, steps=steps))
    tuned += [None] * (len(search) - len(tuned))
    return replace(found, tuned=tuple(tuned), steps=found.steps + steps)


def _tuned_to(search: Search, found: Found, i: int, shown: Tensor, *, steps: int) -> TunedWeights:
    """Return the weights that draw tile i; `shown` is told with the image of tile i renewed."""
    options, row = search.options, slice(i, i + 1)
    network: Any = copy.deepcopy(search.generator)
    # Its statistics stay those of the generator: in evaluation mode a single image is drawn as in a batch.
    network.eval().requires_grad_(True)
    with torch.no_grad():
        w = search.generator.map(found.z[row], found.y[row])
        w_others = _in_other_classes(search, found.z[row], found.y[row])
        held = _in_their_place(search, i, w, w_others)
    mismatch = Mismatch(replace(search, images=search.images[row], y=search.y[row]))
    parameters = dict(network.named_parameters())
    rate = options.learning_rate or _LEARNING_RATE
    optimizer = torch.optim.Adam(parameters.values(), lr=rate)
    moved: set[str] = set()
    for step in range(steps):
        turn = [step % len(held)] if len(held) else []
        with torch.enable_grad():
            drawn = network.synthesize(torch.cat([w, w_others[turn]]))
            loss = mismatch(drawn[:1]).sum()
            if turn:
                loss = loss + _ANCHOR_WEIGHT * (drawn[1:] - held[turn]).square().mean()
            slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        require_numbers(loss.detach())
        for (name, parameter), slope in zip(parameters.items(), slopes, strict=True):
            parameter.grad = slope
            if slope is not None:
                moved.add(name)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimizer.step()
        shown[row] = drawn[:1].detach()
        done = i * steps + step
        if done % (_TELL_EVERY * len(search)) == 0:
            # Told are those of the average tile: they never go back.
            search.tell(found.steps + done // len(search), shown, every=1)
        if search.is_over():
            break
    state = {name: parameters[name].detach().cpu().numpy() for name in sorted(moved)}
    return TunedWeights.of(state, checkpoint_digest=search.checkpoint_digest)


def _in_their_place(search: Search, i: int, w: Tensor, w_others: Tensor) -> Tensor:
    """Return what the copy is to draw of w_others, (n, 3, size_px, size_px)."""
    drawn = search.generator.synthesize(torch.cat([w, w_others]))
    return (drawn[1:] + _KEPT_SHARE * (search.images[i : i + 1] - drawn[:1])).clamp(-1, 1)


def _in_other_classes(search: Search, z: Tensor, y: Tensor) -> Tensor:
    """Return w (n, num_ws, w_dim) of z (1, z_dim) in each class that y (1, K) is not; none without classes."""
    k = y.shape[1]
    if k < 2:
        return search.generator.map(z, y)[:0]
    classes = torch.arange(k, device=y.device)
    others = torch.eye(k, device=y.device, dtype=y.dtype)[classes != y.argmax(dim=1)]
    return search.generator.map(z.expand(k - 1, -1), others)
