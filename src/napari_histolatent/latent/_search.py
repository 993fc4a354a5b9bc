"""What the methods of reverse search share: the question, what is made small, and gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models.priors import draw_latents, length_of_share, prior_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from napari_histolatent.latent.perceptual import PerceptualDistance
    from napari_histolatent.latent.search_options import SearchOptions
    from napari_histolatent.latent.tuned import TunedWeights
    from napari_histolatent.models.protocols import Encoder, Generator

_INSIDE = 0.95
"""Share of drawn vectors that count as within the prior's shell."""
_FARTHEST = 4.0
"""Deviations of a normal prior beyond which a coordinate counts as outside: of 16,000 drawn ones, one."""


@dataclass(frozen=True)
class Search:
    """What is searched, and who is told. A row of `images` and of `y` is a tile."""

    generator: Generator
    images: Tensor
    y: Tensor
    checkpoint_digest: str
    options: SearchOptions
    encoder: Encoder | None = None
    perceptual: PerceptualDistance | None = None
    on_step: Callable[[int, Tensor], None] | None = None
    should_stop: Callable[[], bool] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def drawn(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the generator's images of z and y."""
        return self.generator.synthesize(self.generator.map(z, y))

    def is_over(self) -> bool:
        """Return whether it was asked to stop."""
        return self.should_stop is not None and self.should_stop()

    def tell(self, step: int, drawn: Tensor, *, every: int) -> None:
        """Show the images so far, every so many steps."""
        if self.on_step and step % every == 0:
            self.on_step(step, drawn.detach()[: len(self)])

    def random_starts(self, n: int, chance: torch.Generator) -> Tensor:
        """Return z of n starts for each tile, (n * tiles, z_dim), start by start; the same for every tile.

        What a tile's search finds so does not depend on its neighbours in the batch.
        """
        # One by one: the first of several is then the one that a single start has.
        z_dim = self.generator.z_dim
        each = [draw_latents(self.generator.prior, 1, z_dim, chance) for _ in range(n)]
        return torch.cat([z.expand(len(self), -1) for z in each]).to(self.images.device)


@dataclass
class Found:
    """What a method found, a row a tile."""

    z: Tensor
    y: Tensor
    steps: int
    offsets: Tensor | None = None
    spread: Tensor | None = None
    tuned: tuple[TunedWeights | None, ...] = ()


class Mismatch:
    """How far images are from the tiles: mean squared error, and the perceptual distance if that is asked for."""

    def __init__(self, search: Search, *, starts: int = 1) -> None:
        self._tiles = search.images.repeat(starts, 1, 1, 1)
        self._weight = search.options.perceptual_weight
        self._perceptual = search.perceptual if self._weight else None
        self._seen = self._perceptual.of(self._tiles) if self._perceptual else []

    def __call__(self, drawn: Tensor) -> Tensor:
        """Return the mismatch of each image, (B,)."""
        error = (drawn - self._tiles).square().mean(dim=(1, 2, 3))
        if self._perceptual is None:
            return error
        return error + self._weight * self._perceptual.between(self._perceptual.of(drawn), self._seen)


def beyond_prior(z: Tensor, prior: str) -> Tensor:
    """Return what the mean square of z exceeds that of a long drawn one by, over the prior's variance, (B,).

    A long one is as 95 % of drawn vectors at most (at 64 numbers 1.14 times as long as a typical one); within, it
    is 0. Drawn vectors lie about a shell, and what lies within it is drawn well, too: to pull everything towards 0
    would take generated tiles from the vector that they were drawn from.
    """
    z_dim = z.shape[1]
    limit = length_of_share(_INSIDE, prior, z_dim) ** 2 / z_dim
    return (z.square().mean(dim=1) - limit).clamp_min(0) / prior_scale(prior) ** 2


def resample_outside(z: Tensor, prior: str, chance: torch.Generator) -> Tensor:
    """Draw the coordinates of z that have left the prior anew, in place; return which they were, bool (B, z_dim).

    Lipton & Tripathi 2017 ("Precise recovery of latent vectors from generative adversarial networks"): a clamped
    coordinate stays at the wall. Outside is beyond 1 of the uniform prior, beyond 4 deviations of the normal one.
    """
    limit = 1.0 if prior == "uniform" else _FARTHEST
    outside = z.abs() > limit
    # The same numbers for every tile: no search depends on its neighbours.
    anew = draw_latents(prior, 1, z.shape[1], chance).clamp(-limit, limit).to(z.device)
    z.copy_(torch.where(outside, anew, z))
    return outside


def descend(
    variables: Sequence[Tensor],
    loss_of: Callable[[], tuple[Tensor, Tensor]],
    search: Search,
    *,
    steps: int,
    learning_rate: float,
    tell_every: int,
    steps_before: int = 0,
    resample: Callable[[], Tensor] | None = None,
) -> tuple[list[Tensor], Tensor, int]:
    """Minimise by Adam, each row for itself; the rate falls in the second half, so that it settles.

    Parameters
    ----------
    variables
        Leaves that want gradients; their first axis is that of the rows.
    loss_of
        Returns losses (B,) of the variables as they are, and the images that belong to them.
    search
        Whom to tell, and whom to ask whether to stop.
    steps, learning_rate
        Adam's.
    tell_every
        Steps between two reports.
    steps_before
        Of earlier stages, for the reports.
    resample
        Draws coordinates of the first variable anew and returns which.

    Returns
    -------
    tuple
        The best values of each variable, their losses (B,), and the steps done.

    Raises
    ------
    UserError
        If a row has no loss that is a number, or lost it on the way.
    """
    optimizer = torch.optim.Adam(list(variables), lr=learning_rate)
    best = [variable.detach().clone() for variable in variables]
    rows = len(variables[0])
    lowest = torch.full((rows,), torch.inf, device=variables[0].device)
    lost = torch.zeros_like(lowest, dtype=torch.bool)
    done = 0
    for step in range(steps):
        with torch.enable_grad():
            loss, drawn = loss_of()
            # Summing keeps each row's search its own.
            slopes = torch.autograd.grad(loss.sum(), list(variables))
        value = loss.detach()
        # What was found exactly has no slope where the loss is a root.
        lost |= ~torch.isfinite(value) & (lowest > 0)
        improved = value < lowest
        lowest[improved] = value[improved]
        for kept, variable, slope in zip(best, variables, slopes, strict=True):
            kept[improved] = variable.detach()[improved]
            variable.grad = slope
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, 2 * (1 - step / steps))
        optimizer.step()
        if resample is not None:
            with torch.no_grad():
                moved = resample()
            # What it had learnt of the place it left says nothing of the new one.
            for moment in ("exp_avg", "exp_avg_sq"):
                optimizer.state[variables[0]][moment].masked_fill_(moved, 0)
        done = step + 1
        search.tell(steps_before + step, drawn, every=tell_every)
        if search.is_over():
            break
    require_numbers(torch.where(lost, torch.nan, lowest))
    return best, lowest, done


def require_numbers(values: Tensor) -> None:
    """Refuse a search whose error is no longer a number.

    Raises
    ------
    UserError
        If a value is not finite.
    """
    if not bool(torch.isfinite(values).all()):
        msg = "The reverse search diverged (its error is no longer a number); try another seed."
        raise UserError(msg)
