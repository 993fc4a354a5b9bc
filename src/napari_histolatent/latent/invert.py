"""Reverse search: which latent point is this tile."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from napari_histolatent.errors import UserError
from napari_histolatent.latent._faithful import search_faithful
from napari_histolatent.latent._fast import search_fast
from napari_histolatent.latent._layers import search_layers
from napari_histolatent.latent._s1 import search_s1
from napari_histolatent.latent._search import Search, require_numbers
from napari_histolatent.latent.points import Inversion, LatentPoint
from napari_histolatent.latent.search_options import METHODS, SearchOptions, steps_in_all
from napari_histolatent.models.metrics import psnr_db, rmse, ssim
from napari_histolatent.models.priors import prior_percentile, prior_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from napari_histolatent.latent._search import Found
    from napari_histolatent.latent.perceptual import PerceptualDistance
    from napari_histolatent.models.protocols import Encoder, Generator

__all__ = ["METHODS", "SearchOptions", "invert", "steps_in_all"]

_SEARCHES: Mapping[str, Callable[[Search], Found]] = {
    "s1": search_s1,
    "fast": search_fast,
    "layers": search_layers,
    "faithful": search_faithful,
}


def invert(
    generator: Generator,
    images: Tensor,
    class_weights: Sequence[tuple[float, ...]],
    *,
    checkpoint_digest: str,
    origins: Sequence[str],
    method: str = "s1",
    encoder: Encoder | None = None,
    perceptual: PerceptualDistance | None = None,
    options: SearchOptions | None = None,
    steps: int | None = None,
    seed: int | None = None,
    learning_rate: float | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Inversion]:
    """Find the latent point whose image is nearest to each tile. What a tile gives does not depend on its neighbours.

    Parameters
    ----------
    generator
        Whose latent space is searched; in evaluation mode. It stays as it is.
    images
        Tiles, shape (B, 3, size_px, size_px), in [-1, 1], on the generator's device.
    class_weights
        The class vector of each tile; held fixed unless options.free_class.
    checkpoint_digest
        Of the generator; kept in the points.
    origins
        What each tile is, kept in the points.
    method
        One of `METHODS`.
    encoder
        Of this generator, on its device: where all methods but s1 start.
    perceptual
        Distance to report, and to make small with options.perceptual_weight.
    options
        What else may be asked for.
    steps, seed, learning_rate
        Over those of the options, where given.
    on_step
        Called now and then with (steps done, images so far).
    should_stop
        Asked each step; a search that was stopped returns the best so far.

    Raises
    ------
    UserError
        If the method is unknown, the tiles have another size, the encoder is another generator's, a perceptual
        weight has no distance to weigh, or the search diverges.
    """
    if method not in METHODS:
        msg = f"There is no reverse search named {method!r}; choose one of {', '.join(METHODS)}."
        raise UserError(msg)
    if images.shape[-2:] != (generator.size_px, generator.size_px):
        msg = f"The tile is {images.shape[-1]} x {images.shape[-2]} px, the generator draws {generator.size_px} px; give a tile of that size."
        raise UserError(msg)
    given: dict[str, Any] = {"steps": steps, "seed": seed, "learning_rate": learning_rate}
    options = replace(
        options or SearchOptions(), **{name: value for name, value in given.items() if value is not None}
    )
    if options.perceptual_weight and perceptual is None:
        msg = f"A perceptual_weight of {options.perceptual_weight:g} needs a perceptual distance to weigh; give one, or set it to 0."
        raise UserError(msg)
    started = time.perf_counter()
    search = Search(
        generator=generator,
        images=images,
        y=torch.tensor(list(class_weights), device=images.device),
        checkpoint_digest=checkpoint_digest,
        options=options,
        encoder=encoder,
        perceptual=perceptual,
        on_step=on_step,
        should_stop=should_stop,
    )
    found = _SEARCHES[method](search)
    drawn, at_z = _images_of(search, found)
    seconds = (time.perf_counter() - started) / len(images)
    return _told(search, found, drawn, at_z, origins=origins, method=method, seconds=seconds)


@torch.no_grad()
def _images_of(search: Search, found: Found) -> tuple[Tensor, Tensor]:
    """Return the images of what was found, and those of z alone, drawn by the generator itself."""
    w = search.generator.map(found.z, found.y)
    at_z = search.generator.synthesize(w)
    if found.offsets is not None:
        return search.generator.synthesize(w + found.offsets), at_z
    drawn = at_z.clone()
    for i, tuned in enumerate(found.tuned):
        if tuned is not None:
            drawn[i] = tuned.applied(search.generator).synthesize(w[i : i + 1])[0]
    return drawn, at_z


@torch.no_grad()
def _told(
    search: Search,
    found: Found,
    drawn: Tensor,
    at_z: Tensor,
    *,
    origins: Sequence[str],
    method: str,
    seconds: float,
) -> list[Inversion]:
    generator, tiles = search.generator, search.images
    errors = rmse(drawn, tiles)
    require_numbers(errors)
    seen = search.perceptual.of(tiles) if search.perceptual else None

    def perceptual_of(images: Tensor) -> list[float | None]:
        if search.perceptual is None or seen is None:
            return [None] * len(images)
        return list(search.perceptual.between(search.perceptual.of(images), seen).tolist())

    is_at_z = found.offsets is None and not any(found.tuned)
    distances = perceptual_of(drawn)
    columns = zip(
        errors.tolist(),
        psnr_db(drawn, tiles).tolist(),
        ssim(drawn, tiles).tolist(),
        distances,
        rmse(at_z, tiles).tolist(),
        distances if is_at_z else perceptual_of(at_z),
        strict=True,
    )
    scale = prior_scale(generator.prior) * math.sqrt(generator.z_dim)
    lengths = found.z.norm(dim=1).tolist()
    spreads = [None] * len(tiles) if found.spread is None else found.spread.tolist()
    inversions = []
    for i, (error, psnr, similarity, distance, error_at_z, distance_at_z) in enumerate(columns):
        tuned = found.tuned[i] if found.tuned else None
        point = LatentPoint(
            values=tuple(found.z[i].tolist()),
            class_weights=tuple(found.y[i].tolist()),
            checkpoint_digest=search.checkpoint_digest,
            origin=origins[i],
            offsets=() if found.offsets is None else tuple(map(tuple, found.offsets[i].tolist())),
            tuned_digest=tuned.digest if tuned else "",
        )
        inversions.append(
            Inversion(
                point=point,
                rmse=error,
                psnr_db=psnr,
                ssim=similarity,
                seconds=seconds,
                perceptual=distance,
                spread=spreads[i],
                prior_percentile=prior_percentile(lengths[i], generator.prior, generator.z_dim),
                z_ratio=lengths[i] / scale,
                method=method,
                steps=found.steps,
                tuned=tuned,
                rmse_at_z=error_at_z,
                perceptual_at_z=distance_at_z,
            )
        )
    return inversions
