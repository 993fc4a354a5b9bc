"""What is done with a trained generator and a classifier: the command line, the demo and the docks share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.explain import gradcam
from napari_histolatent.jobs.tiles import Tile
from napari_histolatent.latent import Inversion, class_vector, flipped, interpolated, random_points
from napari_histolatent.latent.draw import draw
from napari_histolatent.latent.invert import invert
from napari_histolatent.models.images import to_pixels, to_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.latent import LatentPoint
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator


_SEARCHED_AT_ONCE = 64


@dataclass(frozen=True)
class ReverseSearch:
    """A tile, the point that was found for it, and that point's image."""

    tile: Tile
    inversion: Inversion
    reconstruction: Tile


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
    steps: int = 500,
    seed: int = 0,
    on_step: Callable[[int, NDArray[np.uint8]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[ReverseSearch]:
    """Find the latent point of each tile.

    Without a label, each tile is searched in every class and the nearest image wins.

    Parameters
    ----------
    generator
        Whose latent space is searched.
    tiles
        Of the generator's size.
    label
        The tiles' class, where it is known.
    method, steps, seed
        See `latent.invert`.
    on_step
        Called now and then with (steps done, images so far, uint8, one per tile in its first class).
    should_stop
        Asked each step.
    """
    classes = generator.checkpoint.classes
    candidates = [label] if label else list(classes)
    weights = [class_vector(classes, name) for name in candidates]
    images = to_tensor(_stacked(tiles)).to(generator.device)
    report = (lambda step, drawn: on_step(step, to_pixels(drawn[: len(tiles)]))) if on_step else None
    repeated = images.repeat(len(candidates), 1, 1, 1)
    wanted = [weight for weight in weights for _ in tiles]
    origins = [f"reverse search of {tile.name}" for _ in candidates for tile in tiles]
    found = [
        item
        for start in range(0, len(wanted), _SEARCHED_AT_ONCE)
        for item in invert(
            generator.network,
            repeated[start : start + _SEARCHED_AT_ONCE],
            wanted[start : start + _SEARCHED_AT_ONCE],
            checkpoint_digest=generator.checkpoint.digest,
            origins=origins[start : start + _SEARCHED_AT_ONCE],
            method=method,
            steps=steps,
            seed=seed,
            on_step=report,
            should_stop=should_stop,
        )
    ]
    best = [min(found[i :: len(tiles)], key=lambda item: item.rmse) for i in range(len(tiles))]
    pixels = draw(generator.network, [item.point for item in best], device=generator.device)
    return [
        ReverseSearch(tile, item, tile.redrawn(pixels[i], item.point, "reconstruction", seed=seed))
        for i, (tile, item) in enumerate(zip(tiles, best, strict=True))
    ]


def flip_tile(generator: LoadedGenerator, tile: Tile, *, to: str) -> Tile:
    """Return the tile's image in another class, z fixed; the tile has a point already."""
    point = flipped(_point_of(tile), to, generator.checkpoint.classes)
    return tile.redrawn(draw(generator.network, [point], device=generator.device)[0], point, f"flip_{to}")


def interpolate_tiles(generator: LoadedGenerator, a: Tile, b: Tile, *, frames: int) -> list[Tile]:
    """Return the images between two tiles that have a point already, both ends included."""
    points = interpolated(_point_of(a), _point_of(b), frames)
    pixels = draw(generator.network, points, device=generator.device)
    return [a.redrawn(pixels[i], point, f"frame_{i:03d}") for i, point in enumerate(points)]


def heatmaps_of(
    classifier: LoadedClassifier, tiles: Sequence[Tile], *, target: str | None = None
) -> list[Heatmap]:
    """Return the Grad-CAM of each tile, for `target` or else for the class the classifier sees in it."""
    images = to_tensor(_stacked(tiles)).to(classifier.device)
    classes = classifier.checkpoint.classes
    seen = gradcam.probabilities(classifier.network, images).argmax(1).tolist()
    targets = [target or classes[i] for i in seen]
    boxes = [tile.level0_box for tile in tiles]
    return gradcam.grad_cam(classifier.network, images, targets, level0_boxes=boxes)


def probabilities_of(classifier: LoadedClassifier, tiles: Sequence[Tile]) -> list[dict[str, float]]:
    """Return the probability of each class for each tile."""
    images = to_tensor(_stacked(tiles)).to(classifier.device)
    rows = gradcam.probabilities(classifier.network, images).tolist()
    return [dict(zip(classifier.checkpoint.classes, row, strict=True)) for row in rows]


def require_same_classes(generator: LoadedGenerator, classifier: LoadedClassifier) -> None:
    """Refuse a classifier that was trained on other classes than the generator.

    Raises
    ------
    UserError
        If their classes differ.
    """
    ours, theirs = generator.checkpoint.classes, classifier.checkpoint.classes
    if set(ours) != set(theirs):
        msg = f"The generator knows the classes {', '.join(ours)}, the classifier {', '.join(theirs)}; choose two of the same dataset."
        raise UserError(msg)


def has_point_of(generator: LoadedGenerator, tile: Tile) -> bool:
    """Return whether a tile has a latent point that this generator can draw.

    Raises
    ------
    UserError
        If it names this generator and yet has another length: the file was edited.
    """
    point, checkpoint = tile.point, generator.checkpoint
    if point is None or point.checkpoint_digest != checkpoint.digest:
        return False
    if (len(point.values), len(point.class_weights)) != (generator.network.z_dim, len(checkpoint.classes)):
        msg = f"The latent point in {tile.name} has {len(point.values)} values, the generator takes {generator.network.z_dim}; search the tile again."
        raise UserError(msg)
    return True


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
    return tile.point


def _stacked(tiles: Sequence[Tile]) -> NDArray[np.uint8]:
    return np.stack([tile.pixels for tile in tiles])
