"""Directions of a generator: found from what it draws, tried on new points, and used on tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.jobs.edits import sample_tiles
from napari_histolatent.latent.directions import (
    Direction,
    Monotonicity,
    along_measure,
    apply,
    components,
    monotonicity,
    require_not_stopped,
)
from napari_histolatent.latent.draw import draw, tuned_copy
from napari_histolatent.latent.measured import function_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent import LatentPoint
    from napari_histolatent.training.load import LoadedGenerator

STRENGTHS: tuple[float, ...] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""Where a direction is tried, in standard deviations of a normal prior."""
_SAMPLES = 512
_AT_ONCE = 64
_NEXT_SEED = 1_000_003
"""From one batch to the next: far from the seeds that are asked for."""
_TRIED = 64
_FEATURE_SIDE = 16


def direction_of_measure(
    generator: LoadedGenerator,
    feature: str,
    *,
    name: str = "",
    label: str | None = None,
    n: int = _SAMPLES,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Direction:
    """Return the direction along which a measured feature of the generator's images grows.

    Parameters
    ----------
    generator
        Draws n images from its prior, which are measured.
    feature
        One of `latent.measured.FEATURES`.
    name
        Of the direction; the feature's if empty.
    label
        Draw in this class; None: the classes take turns, and their means are taken out first, as a class is no
        direction of z.
    n, seed
        Of the images.
    on_progress
        Called with (images drawn, images in all).
    should_stop
        Asked between batches of images.

    Raises
    ------
    UserError
        If there is no such feature or class, the feature does not vary, or it was stopped.
    """
    measure = function_named(feature)
    tiles = _samples(generator, n, label, seed, on_progress, should_stop)
    points = [tile.point for tile in tiles if tile.point is not None]
    values = _without_class_means(measure(np.stack([tile.pixels for tile in tiles])), tiles)
    return along_measure(name or feature, points, values, feature=feature, should_stop=should_stop)


def main_directions(
    generator: LoadedGenerator,
    n: int,
    *,
    name: str = "component",
    label: str | None = None,
    samples: int = _SAMPLES,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Direction]:
    """Return the n directions of z along which the generator's images change most.

    z is drawn alike in all directions, so a PCA of z itself has nothing to find: the PCA is of the images, each at
    16 x 16 px, and its components are regressed on z (GANSpace's way, Härkönen et al. 2020, section 3.2).

    Parameters
    ----------
    generator
        Draws the samples.
    n
        How many directions.
    name
        Of them; a number is added.
    label, samples, seed, on_progress, should_stop
        See `direction_of_measure`.

    Raises
    ------
    UserError
        If there is no such class, the images do not differ in n ways, or it was stopped.
    """
    tiles = _samples(generator, samples, label, seed, on_progress, should_stop)
    points = [tile.point for tile in tiles if tile.point is not None]
    images = np.stack([tile.pixels for tile in tiles]).astype(np.float32)
    side = images.shape[1]
    if side > _FEATURE_SIDE and side % _FEATURE_SIDE == 0:
        part = side // _FEATURE_SIDE
        images = images.reshape(len(images), _FEATURE_SIDE, part, _FEATURE_SIDE, part, 3).mean(axis=(2, 4))
    features = _without_class_means(images.reshape(len(images), -1), tiles)
    return components(name, points, n, features=features, should_stop=should_stop)


def tried(
    generator: LoadedGenerator,
    direction: Direction,
    feature: str,
    *,
    n: int = _TRIED,
    strengths: Sequence[float] = STRENGTHS,
    label: str | None = None,
    seed: int = 1,
    should_stop: Callable[[], bool] | None = None,
) -> Monotonicity:
    """Return whether a measured feature moves one way along a direction, on points that did not make it.

    Parameters
    ----------
    generator
        Draws n points at every strength.
    direction
        To try.
    feature
        One of `latent.measured.FEATURES`.
    n, strengths, label
        Of the points, where each is drawn, and the class to draw them in (None: the classes take turns).
    seed
        Of the points: another than the direction was made with.
    should_stop
        Asked before each strength.

    Raises
    ------
    UserError
        If the direction is of another generator, there is no such feature or class, or it was stopped.
    """
    return tried_on(
        generator,
        direction,
        [feature],
        n=n,
        strengths=strengths,
        label=label,
        seed=seed,
        should_stop=should_stop,
    )[feature]


def tried_on(
    generator: LoadedGenerator,
    direction: Direction,
    features: Sequence[str],
    *,
    n: int = _TRIED,
    strengths: Sequence[float] = STRENGTHS,
    label: str | None = None,
    seed: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Monotonicity]:
    """Return for several features what `tried` says of each; the images are drawn once for all.

    Parameters
    ----------
    generator, direction, n, strengths, label, seed, should_stop
        See `tried`.
    features
        Of `latent.measured.FEATURES`.
    on_progress
        Called with (strengths done, strengths in all).

    Raises
    ------
    UserError
        As `tried`.
    """
    measures = {feature: function_named(feature) for feature in features}
    points = [tile.point for tile in sample_tiles(generator, n, label=label, seed=seed) if tile.point]
    columns: dict[str, list[NDArray[np.float64]]] = {feature: [] for feature in features}
    for i, strength in enumerate(strengths):
        if should_stop and should_stop():
            msg = f"The trial of {direction.name!r} was stopped; start it again."
            raise UserError(msg)
        moved: list[LatentPoint] = [apply(point, direction, strength) for point in points]
        images = draw(generator.network, moved, device=generator.device)
        for feature, measure in measures.items():
            columns[feature].append(measure(images))
        if on_progress:
            on_progress(i + 1, len(strengths))
    return {name: monotonicity(strengths, np.stack(values, axis=1)) for name, values in columns.items()}


def steered(
    generator: LoadedGenerator, tile: Tile, direction: Direction, strengths: Sequence[float]
) -> list[Tile]:
    """Return a tile that has a point, moved along a direction by each strength.

    Raises
    ------
    UserError
        If it has no point, or one of another generator than the direction.
    """
    if tile.point is None:
        msg = f"{tile.name} has no latent point yet; search it first with `histolatent invert`."
        raise UserError(msg)
    points = [apply(tile.point, direction, strength) for strength in strengths]
    network = tuned_copy(generator.network, tile.tuned) if tile.tuned else generator.network
    pixels = draw(network, points, device=generator.device)
    return [
        tile.redrawn(pixels[i], point, f"{direction.name}_{strength:+g}", tuned=tile.tuned)
        for i, (point, strength) in enumerate(zip(points, strengths, strict=True))
    ]


def _samples(
    generator: LoadedGenerator,
    n: int,
    label: str | None,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
    should_stop: Callable[[], bool] | None,
) -> list[Tile]:
    """Return n random images, drawn some at a time."""
    tiles: list[Tile] = []
    while len(tiles) < n:
        require_not_stopped(should_stop)
        part = min(_AT_ONCE, n - len(tiles))
        batch = len(tiles) // _AT_ONCE
        tiles += sample_tiles(generator, part, label=label, seed=seed + batch * _NEXT_SEED)
        if on_progress:
            on_progress(len(tiles), n)
    return tiles


def _without_class_means(values: NDArray[np.floating[Any]], tiles: Sequence[Tile]) -> NDArray[np.float64]:
    """Return values (n, ...) less the mean of those of the same class."""
    centred = np.asarray(values, np.float64).copy()
    labels = np.array([tile.label or "" for tile in tiles])
    for label in set(labels.tolist()):
        centred[labels == label] -= centred[labels == label].mean(axis=0)
    return centred
