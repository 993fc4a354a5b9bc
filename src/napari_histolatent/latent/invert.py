"""Reverse search: which latent point is this tile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from napari_histolatent.errors import UserError
from napari_histolatent.latent.points import Inversion, LatentPoint
from napari_histolatent.models.metrics import psnr_db, rmse, ssim
from napari_histolatent.models.priors import draw_latents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from napari_histolatent.models.protocols import Generator

METHODS = ("s1",)
"""Names of the searches there are."""


def invert(
    generator: Generator,
    images: Tensor,
    class_weights: Sequence[tuple[float, ...]],
    *,
    checkpoint_digest: str,
    origins: Sequence[str],
    method: str = "s1",
    steps: int = 500,
    learning_rate: float = 0.05,
    seed: int = 0,
    on_step: Callable[[int, Tensor], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Inversion]:
    """Find the z whose image is nearest to each tile, its class held fixed.

    Method "s1" is S1's reverse search: minimise RMSE(G(z, y), tile) by gradient descent from a random start
    (here with Adam, whose step size S1 leaves open).

    Parameters
    ----------
    generator
        Whose latent space is searched.
    images
        Tiles, shape (B, 3, size_px, size_px), in [-1, 1], on the generator's device.
    class_weights
        The class vector of each tile.
    checkpoint_digest
        Of the generator; kept in the points.
    origins
        What each tile is, kept in the points.
    method
        One of `METHODS`.
    steps
        Gradient steps.
    learning_rate
        Adam's, in units of z.
    seed
        Of the random start.
    on_step
        Called now and then with (steps done, images so far).
    should_stop
        Asked each step; a search that was stopped returns the best so far.

    Raises
    ------
    UserError
        If the method is unknown, the tiles have another size, or the search diverges.
    """
    if method not in METHODS:
        msg = f"There is no reverse search named {method!r}; choose one of {', '.join(METHODS)}."
        raise UserError(msg)
    if images.shape[-2:] != (generator.size_px, generator.size_px):
        msg = f"The tile is {images.shape[-1]} x {images.shape[-2]} px, the generator draws {generator.size_px} px; give a tile of that size."
        raise UserError(msg)
    started = time.perf_counter()
    y = torch.tensor(list(class_weights), device=images.device)
    chance = torch.Generator().manual_seed(seed)
    # One start for all: what a tile's search finds does not depend on its neighbours in the batch.
    start = draw_latents(generator.prior, 1, generator.z_dim, chance).expand(len(images), -1)
    z = start.clone().to(images.device).requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=learning_rate)
    best_z, best_error = z.detach().clone(), torch.full((len(images),), torch.inf, device=images.device)
    with torch.enable_grad():
        for step in range(steps):
            drawn = generator.synthesize(generator.map(z, y))
            error = rmse(drawn, images)
            optimizer.zero_grad()
            # The gradient reaches z only: summing keeps each tile's search its own.
            (z.grad,) = torch.autograd.grad(error.sum(), z)
            improved = error.detach() < best_error
            best_z[improved], best_error[improved] = z.detach()[improved], error.detach()[improved]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * min(1.0, 2 * (1 - step / steps))  # settles in the second half
            optimizer.step()
            if on_step and step % 25 == 0:
                on_step(step, drawn.detach())
            if should_stop and should_stop():
                break
    if not bool(torch.isfinite(best_error).all()):
        msg = "The reverse search diverged (its error is no longer a number); try another seed."
        raise UserError(msg)
    with torch.no_grad():
        drawn = generator.synthesize(generator.map(best_z, y))
        errors = [
            values.tolist() for values in (rmse(drawn, images), psnr_db(drawn, images), ssim(drawn, images))
        ]
    seconds = (time.perf_counter() - started) / len(images)
    return [
        Inversion(
            point=LatentPoint(
                values=tuple(best_z[i].tolist()),
                class_weights=tuple(class_weights[i]),
                checkpoint_digest=checkpoint_digest,
                origin=origins[i],
            ),
            rmse=errors[0][i],
            psnr_db=errors[1][i],
            ssim=errors[2][i],
            seconds=seconds,
        )
        for i in range(len(images))
    ]
