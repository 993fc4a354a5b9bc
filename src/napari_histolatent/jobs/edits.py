"""What is done with a trained generator and a classifier: the command line, the demo and the docks share it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.jobs.seeing import heatmaps_of, probabilities_of, require_match, require_same_classes
from napari_histolatent.jobs.tiles import Tile
from napari_histolatent.latent import Inversion, class_vector, flipped, random_points
from napari_histolatent.latent.arithmetic import combine
from napari_histolatent.latent.blend import (
    TIMINGS,
    effect_of,
    require_classes,
    residual_edit,
    retimed,
    retimed_by_steps,
)
from napari_histolatent.latent.draw import draw, tuned_copy
from napari_histolatent.latent.invert import invert
from napari_histolatent.latent.paths import path_for, path_through, point_at, weights_between
from napari_histolatent.latent.perceptual import PerceptualDistance
from napari_histolatent.models.images import to_pixels, to_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.latent import LatentPoint
    from napari_histolatent.latent.arithmetic import Combination
    from napari_histolatent.latent.blend import EditEffect
    from napari_histolatent.latent.library import Library, LibraryEntry
    from napari_histolatent.latent.search_options import SearchOptions
    from napari_histolatent.latent.tuned import TunedWeights
    from napari_histolatent.training.load import LoadedClassifier, LoadedEncoder, LoadedGenerator

__all__ = [
    "Flip",
    "ReverseSearch",
    "add_to_library",
    "arithmetic_tile",
    "drawn_tiles",
    "flip",
    "flip_tile",
    "has_point_of",
    "heatmap_report",
    "heatmaps_of",
    "interpolate_tiles",
    "path_tiles",
    "path_times",
    "probabilities_of",
    "require_match",
    "require_other_class",
    "require_same_classes",
    "reverse_search",
    "sample_tiles",
    "tile_of_entry",
]

_SEARCHED_AT_ONCE = 64
_PROBES = 33
"""Places where a path is looked at before its frames are spaced evenly."""


@dataclass(frozen=True)
class ReverseSearch:
    """A tile, the point that was found for it, and that point's image."""

    tile: Tile
    inversion: Inversion
    reconstruction: Tile


@dataclass(frozen=True)
class Flip:
    """A tile in another class."""

    before: Tile
    """The generator's image of the tile's point."""
    after: Tile
    """The same point in the other class; of a residual edit, its change put onto the tile."""
    effect: EditEffect


def sample_tiles(generator: LoadedGenerator, n: int, *, label: str | None, seed: int) -> list[Tile]:
    """Return n random images; without a label the classes take turns."""
    classes = generator.checkpoint.classes
    if label and not classes:
        msg = f"The model has no classes, so none named {label!r}; leave --label out."
        raise UserError(msg)
    # One turn without a class where the model has none.
    turns: list[str | None] = [label] if label else [*classes] or [None]
    points = [
        random_points(
            n,
            z_dim=generator.network.z_dim,
            class_weights=() if name is None else class_vector(classes, name),
            checkpoint_digest=generator.checkpoint.digest,
            seed=seed,
            prior=generator.network.prior,
        )
        for name in turns
    ]
    # The same z in every class, so that neighbours differ by their class alone.
    ordered = [points[i % len(turns)][i // len(turns)] for i in range(n)]
    pixels = draw(generator.network, ordered, device=generator.device)
    return [
        Tile(
            name=f"sample_{i:04d}",
            pixels=pixels[i],
            mpp=generator.checkpoint.mpp,
            point=point,
            synthetic=True,
            label=turns[i % len(turns)],
            source=point.origin,
            seed=seed,
        )
        for i, point in enumerate(ordered)
    ]


def reverse_search(
    generator: LoadedGenerator,
    tiles: Sequence[Tile],
    *,
    label: str | None = None,
    method: str = "s1",
    steps: int | None = None,
    seed: int = 0,
    encoder: LoadedEncoder | None = None,
    perceptual: PerceptualDistance | None = None,
    options: SearchOptions | None = None,
    on_step: Callable[[int, NDArray[np.uint8]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[ReverseSearch]:
    """Find the latent point of each tile.

    Without a label, each tile is searched in every class and the nearest image wins; before `layers` and `faithful`,
    which come near in any class, `fast` makes the choice.

    Parameters
    ----------
    generator
        Whose latent space is searched.
    tiles
        Of the generator's size.
    label
        The tiles' class, where it is known.
    method, steps, seed, options
        See `latent.invert`; steps None: the method's own number.
    encoder
        Of this generator, where there is one: searches other than s1 start from its guess.
    perceptual
        A distance to measure besides.
    on_step
        Called now and then with (steps done, images so far, uint8, one per tile in its first class).
    should_stop
        Asked each step; a search that was stopped returns the best so far.

    Raises
    ------
    UserError
        If the model has no such class, a tile has another size, or as `latent.invert.invert`.
    """
    if not tiles:
        return []
    classes = generator.checkpoint.classes
    if label is not None and not classes:
        msg = f"The model has no classes, so none named {label!r}; leave --label out."
        raise UserError(msg)
    candidates = [class_vector(classes, name) for name in ([label] if label else classes)] or [()]
    images = to_tensor(_stacked(tiles, generator.network.size_px)).to(generator.device)
    names = [f"reverse search of {tile.name}" for tile in tiles]

    def searched(
        weights: Sequence[tuple[float, ...]], method: str, steps: int | None, *, is_told: bool
    ) -> list[Inversion]:
        """Search all tiles in as many classes as there are times more weights than tiles."""
        times = len(weights) // len(tiles)
        report = (lambda step, drawn: on_step(step, to_pixels(drawn[: len(tiles)]))) if on_step else None
        repeated = images.repeat(times, 1, 1, 1)
        return [
            item
            for start in range(0, len(weights), _SEARCHED_AT_ONCE)
            for item in invert(
                generator.network,
                repeated[start : start + _SEARCHED_AT_ONCE],
                weights[start : start + _SEARCHED_AT_ONCE],
                checkpoint_digest=generator.checkpoint.digest,
                origins=(names * times)[start : start + _SEARCHED_AT_ONCE],
                method=method,
                encoder=encoder.network if encoder else None,
                perceptual=perceptual,
                options=options,
                steps=steps,
                seed=seed,
                on_step=report if is_told else None,
                should_stop=should_stop,
            )
        ]

    def best_of(found: list[Inversion]) -> list[Inversion]:
        return [min(found[i :: len(tiles)], key=lambda item: item.rmse) for i in range(len(tiles))]

    every = [weights for weights in candidates for _ in tiles]
    if len(candidates) > 1 and method in ("layers", "faithful"):
        every = [item.point.class_weights for item in best_of(searched(every, "fast", None, is_told=False))]
    best = best_of(searched(every, method, steps, is_told=True))
    points, copies = [item.point for item in best], [item.tuned for item in best]
    pixels = _drawn(generator, points, copies, is_once=len(best) > 1)
    return [
        ReverseSearch(
            tile, item, tile.redrawn(pixels[i], item.point, "reconstruction", seed=seed, tuned=item.tuned)
        )
        for i, (tile, item) in enumerate(zip(tiles, best, strict=True))
    ]


def flip_tile(generator: LoadedGenerator, tile: Tile, *, to: str) -> Tile:
    """Return the tile's image in another class, z fixed; the tile has a point already.

    Raises
    ------
    UserError
        If it has none, the generator has no (such) classes, or the tile is of that class already.
    """
    require_classes(generator.checkpoint.classes)
    require_other_class(generator, tile, to=to)
    point = flipped(_point_of(tile), to, generator.checkpoint.classes)
    pixels = _drawn(generator, [point], [tile.tuned])[0]
    return tile.redrawn(pixels, point, f"flip_{to}", tuned=tile.tuned)


def require_other_class(generator: LoadedGenerator, tile: Tile, *, to: str) -> None:
    """Refuse a flip that would return the same picture.

    Raises
    ------
    UserError
        If the tile's point is of the class `to` already, or it has none, or the generator has no such class.
    """
    classes, weights = generator.checkpoint.classes, _point_of(tile).class_weights
    there = class_vector(classes, to)
    if len(weights) != len(there) or not np.allclose(weights, there, atol=1e-6):
        return
    others = " or ".join(name for name in classes if name != to)
    msg = f"{tile.name} is drawn as {to} already, so a flip to {to} would change nothing; flip it to {others}, or name its own class with --label if the search took the wrong one."
    raise UserError(msg)


def flip(
    generator: LoadedGenerator,
    tile: Tile,
    *,
    to: str,
    real: Tile | None = None,
    residual: bool = False,
    strength: float = 1.0,
) -> Flip:
    """Flip a tile that has a point, and say how much that changed.

    Parameters
    ----------
    generator
        Of the point.
    tile
        As the generator draws it: a reconstruction, or an image of its own.
    to
        The other class.
    real
        The tile that was searched, if it was.
    residual
        Whether to put the change onto the real tile: x + strength (G(z, y') - G(z, y)).
    strength
        Of a residual edit.

    Raises
    ------
    UserError
        As `flip_tile`.
    """
    # A picture of the point that went through a file or a viewer may differ from what is drawn.
    before = tile.redrawn(
        _drawn(generator, [_point_of(tile)], [tile.tuned])[0], _point_of(tile), "", tuned=tile.tuned
    )
    before = replace(before, name=tile.name)
    after = flip_tile(generator, tile, to=to)
    effect = effect_of(before.pixels, after.pixels, real=real.pixels if real else None)
    if residual:
        after = _residual_of(real or before, before, after, strength)
    return Flip(before, after, effect)


def interpolate_tiles(generator: LoadedGenerator, a: Tile, b: Tile, *, frames: int) -> list[Tile]:
    """Return the images between two tiles that have a point already, both ends included, evenly spaced in z."""
    return path_tiles(generator, [a, b], frames=frames)


def path_tiles(
    generator: LoadedGenerator,
    keys: Sequence[Tile],
    *,
    frames: int,
    kind: str | None = None,
    timing: str = "even",
    classifier: LoadedClassifier | None = None,
    residual_on: Tile | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Tile]:
    """Return the images of a path through tiles that have a point already, both ends included.

    Tiles that were found with different tuned copies of the generator are drawn with weights blended between them,
    so that both ends look as they were found.

    Parameters
    ----------
    generator
        Of the points.
    keys
        Two tiles or more; a tile and its flip make a class blend.
    frames
        How many, both ends included.
    kind
        spherical or linear; None: what suits the generator's prior.
    timing
        One of `latent.blend.TIMINGS`: what changes by the same amount from frame to frame.
    classifier
        Whose probabilities change evenly; only for the timing "probability".
    residual_on
        A real tile onto which each frame's change from the first is put, so that what the generator cannot draw
        of it is kept.
    should_stop
        Asked between batches of frames; a path that was stopped has fewer of them.

    Raises
    ------
    UserError
        If a tile has no point, or one of another generator, or the timing is unknown or lacks its classifier.
    """
    ts = path_times(
        generator,
        keys,
        frames=frames,
        kind=kind,
        timing=timing,
        classifier=classifier,
        should_stop=should_stop,
    )
    drawn = drawn_tiles(generator, keys, ts, kind=kind, should_stop=should_stop)
    if residual_on is not None and drawn:
        first = drawn[0]
        drawn = [_residual_of(residual_on, first, frame, 1.0, suffix="") for frame in drawn]
    return drawn


def path_times(
    generator: LoadedGenerator,
    keys: Sequence[Tile],
    *,
    frames: int,
    kind: str | None = None,
    timing: str = "even",
    classifier: LoadedClassifier | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[float]:
    """Return the places of a path's frames, from 0 to 1, so that what the timing names changes evenly.

    The parameters are those of `path_tiles`. Timings other than even draw the path once to see how it changes; one
    that was stopped meanwhile has no places.

    Raises
    ------
    UserError
        As `path_tiles`.
    """
    if timing not in TIMINGS:
        msg = f"There is no timing named {timing!r}; choose one of: {', '.join(TIMINGS)}."
        raise UserError(msg)
    if timing == "probability" and classifier is None:
        msg = "Timing by probability needs a classifier; give one with --classifier, or choose the timing pixels."
        raise UserError(msg)
    kind = kind or path_for(generator.network.prior)
    points = [_point_of(tile) for tile in keys]
    path_through(points, max(2, frames), kind=kind)  # refuses what is no path before anything is drawn
    if frames < 2:
        path_through(points, frames, kind=kind)
    if timing == "even":
        return list(map(float, np.linspace(0, 1, frames)))
    probes = np.linspace(0, 1, max(_PROBES, frames))
    looked_at = drawn_tiles(generator, keys, probes.tolist(), kind=kind, should_stop=should_stop)
    if len(looked_at) < len(probes):
        return []
    return list(map(float, _timed(generator, probes, looked_at, frames, timing, classifier)))


def drawn_tiles(
    generator: LoadedGenerator,
    keys: Sequence[Tile],
    ts: Sequence[float],
    *,
    kind: str | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Tile]:
    """Return the images at places of a path, in the order asked for: a slider asks from its handle outwards.

    Parameters
    ----------
    generator, keys, kind, should_stop
        See `path_tiles`.
    ts
        From 0 (the first key) to 1 (the last).
    """
    kind = kind or path_for(generator.network.prior)
    points = [_point_of(tile) for tile in keys]
    pieces = len(keys) - 1
    is_blended = len({key.tuned.digest if key.tuned else "" for key in keys}) > 1
    found: list[Tile] = []
    for start in range(0, len(ts), _SEARCHED_AT_ONCE):
        if should_stop and should_stop():
            break
        part = ts[start : start + _SEARCHED_AT_ONCE]
        tuned = []
        for t in part:
            piece = min(int(t * pieces), pieces - 1)
            tuned.append(
                weights_between(
                    keys[piece].tuned, keys[piece + 1].tuned, t * pieces - piece, generator.network
                )
            )
        between = [
            replace(point_at(points, t, kind=kind), tuned_digest=weights.digest if weights else "")
            for t, weights in zip(part, tuned, strict=True)
        ]
        pixels = _drawn(generator, between, tuned, is_once=is_blended)
        found += [
            keys[0].redrawn(pixels[i], between[i], f"frame_{start + i:03d}", tuned=tuned[i])
            for i in range(len(part))
        ]
    return found


def _timed(
    generator: LoadedGenerator,
    ts: NDArray[np.float64],
    tiles: Sequence[Tile],
    frames: int,
    timing: str,
    classifier: LoadedClassifier | None,
) -> NDArray[np.float64]:
    """Return the places of the frames, from what was drawn at many."""
    if timing == "probability":
        assert classifier is not None
        rows = probabilities_of(classifier, tiles)
        return retimed(ts, np.array([list(row.values()) for row in rows]), frames=frames)
    pixels = _stacked(tiles, generator.network.size_px)
    if timing == "pixels":
        return retimed(ts, pixels.reshape(len(tiles), -1).astype(np.float32), frames=frames)
    distance = PerceptualDistance()
    images = to_tensor(pixels).to(generator.device)
    steps = distance(images[1:], images[:-1]).tolist()
    # The distance is a mean square; lengths of a path are roots of it.
    return retimed_by_steps(ts, np.sqrt(np.maximum(steps, 0)), frames=frames)


def arithmetic_tile(
    generator: LoadedGenerator, expression: str, library: Library, *, label: str | None = None
) -> tuple[Tile, Combination]:
    """Return the image of an expression of a library's points and tags, and what the expression came to.

    Raises
    ------
    UserError
        As `latent.arithmetic.combine`, or if the points belong to another generator.
    """
    checkpoint = generator.checkpoint
    combination = combine(
        expression,
        points=library.points(),
        groups=library.groups(),
        prior=generator.network.prior,
        classes=checkpoint.classes,
        label=label,
    )
    point = combination.point
    if point.checkpoint_digest != checkpoint.digest:
        msg = f"The points of {library.folder} belong to the generator {point.checkpoint_digest[:12]}, this one is {checkpoint.digest[:12]}; choose the generator they were found with."
        raise UserError(msg)
    tile = Tile(
        name="arithmetic",
        pixels=_drawn(generator, [point], [None])[0],
        mpp=checkpoint.mpp,
        point=point,
        synthetic=True,
        source=point.origin,
    )
    _require_length(generator, tile)
    return tile, combination


def add_to_library(library: Library, tile: Tile, *, name: str, tags: Sequence[str] = ()) -> LibraryEntry:
    """Add the point of a tile to a library, with the tile's pixels as its thumbnail.

    Raises
    ------
    UserError
        If the tile has no point, or the library cannot take it (`Library.add`).
    """
    return library.add(
        name, _point_of(tile), tile.pixels, tags=tags, tuned=tile.tuned, provenance=tile.provenance
    )


def tile_of_entry(generator: LoadedGenerator, library: Library, entry: LibraryEntry) -> Tile:
    """Return the image of a library's point, drawn anew.

    Raises
    ------
    UserError
        If it belongs to another generator, or its tuned weights are missing.
    """
    point = entry.point
    if point.checkpoint_digest != generator.checkpoint.digest:
        msg = f"The point {entry.name!r} belongs to the generator {point.checkpoint_digest[:12]}, this one is {generator.checkpoint.digest[:12]}; choose the generator it was found with."
        raise UserError(msg)
    tuned = library.tuned(entry)
    blank = Tile(
        name=entry.name,
        pixels=np.zeros((1, 1, 3), np.uint8),
        mpp=generator.checkpoint.mpp,
        slide_digest=entry.slide_digest,
        centre=entry.centre,
        point=point,
        tuned=tuned,
        synthetic=True,
        source=entry.source,
    )
    _require_length(generator, blank)
    return replace(blank, pixels=_drawn(generator, [point], [tuned])[0])


def has_point_of(generator: LoadedGenerator, tile: Tile) -> bool:
    """Return whether a tile has a latent point that this generator can draw.

    Raises
    ------
    UserError
        If it names this generator and yet has another length: the file was edited.
    """
    if tile.point is None or tile.point.checkpoint_digest != generator.checkpoint.digest:
        return False
    _require_length(generator, tile)
    return True


def _require_length(generator: LoadedGenerator, tile: Tile) -> None:
    point, classes = _point_of(tile), generator.checkpoint.classes
    if (len(point.values), len(point.class_weights)) != (generator.network.z_dim, len(classes)):
        msg = f"The latent point in {tile.name} has {len(point.values)} values, the generator takes {generator.network.z_dim}; search the tile again."
        raise UserError(msg)


def heatmap_report(classifier: LoadedClassifier, tile: Tile, heatmap: Heatmap) -> dict[str, Any]:
    """Return what files and reports say of a heatmap."""
    return {
        **heatmap.to_json(),
        "image": tile.opened_as or tile.name,
        "classifier_digest": classifier.checkpoint.digest,
    }


def _point_of(tile: Tile) -> LatentPoint:
    if tile.point is None:
        msg = f"{tile.name} has no latent point yet; search it first with `histolatent invert`."
        raise UserError(msg)
    if tile.point.tuned_digest != (tile.tuned.digest if tile.tuned else ""):
        msg = f"{tile.name} is drawn by a tuned copy of its generator, whose weights are not with it; search it again with `histolatent invert`."
        raise UserError(msg)
    return tile.point


def _residual_of(
    real: Tile, before: Tile, after: Tile, strength: float, *, suffix: str = "_residual"
) -> Tile:
    """Return the change from before to after, put onto the real tile."""
    pixels = residual_edit(real.pixels, before.pixels, after.pixels, strength=strength)
    return replace(after, name=f"{after.name}{suffix}", pixels=pixels, residual=strength)


def _drawn(
    generator: LoadedGenerator,
    points: Sequence[LatentPoint],
    tuned: Sequence[TunedWeights | None],
    *,
    is_once: bool = False,
) -> NDArray[np.uint8]:
    """Return the images of points, each drawn by its own copy of the generator, those of one copy together.

    Copies that are used this once are not made ready for drawing many images.
    """
    size = generator.network.size_px
    pixels = np.empty((len(points), size, size, 3), np.uint8)
    copies = {weights.digest if weights else "": weights for weights in tuned}
    for digest, weights in copies.items():
        mine = [i for i, item in enumerate(tuned) if (item.digest if item else "") == digest]
        network, folds = generator.network, True
        if weights is not None:
            network = weights.applied(network) if is_once else tuned_copy(network, weights)
            folds = not is_once
        pixels[mine] = draw(network, [points[i] for i in mine], device=generator.device, folds=folds)
    return pixels


def _stacked(tiles: Sequence[Tile], size_px: int) -> NDArray[np.uint8]:
    for tile in tiles:
        height, width = tile.pixels.shape[:2]
        if (height, width) != (size_px, size_px):
            msg = f"{tile.name} is {width} x {height} px, the generator draws {size_px} px; cut a tile of that size."
            raise UserError(msg)
    return np.stack([tile.pixels for tile in tiles])
