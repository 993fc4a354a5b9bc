"""What a classifier sees in tiles, also in those of another pixel size than it learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.explain import gradcam
from napari_histolatent.jobs.tiles import MAX_RESAMPLING, SAME_SIZE, Tile, is_too_far
from napari_histolatent.models.images import to_tensor
from napari_histolatent.slides import area_averaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator


@dataclass(frozen=True)
class View:
    """The part of a tile that a classifier is shown."""

    pixels: NDArray[np.uint8]
    """Of the classifier's own size."""
    level0_box: tuple[float, float, float, float] | None
    """Where that part lies on the slide, where known."""
    remark: str | None
    """What was done to the tile for it; None: nothing."""


def view_of(classifier: LoadedClassifier, tile: Tile) -> View:
    """Return what a classifier is shown of a tile: its middle, as wide as the classifier's own patches were.

    Where a pixel size is not known, the tile is taken to be as wide as the classifier's patches.

    Raises
    ------
    UserError
        If the pixel sizes are more than 4 times apart.
    """
    size, mpp = classifier.checkpoint.size_px, classifier.checkpoint.mpp
    side = tile.pixels.shape[0]
    own = tile.mpp
    if own and mpp:
        is_assumed = bool(classifier.checkpoint.metrics.get("mpp_is_assumed"))
        return _of_known_size(tile, own, size, mpp, is_assumed=is_assumed)
    if side == size:
        return View(tile.pixels, tile.level0_box, None)
    if is_too_far(side / size):
        msg = f"The classifier was trained on {size} px, {tile.name} has {side} px of unknown size in µm, more than 4 times apart; choose a classifier of nearly that size."
        raise UserError(msg)
    remark = f"A pixel size is not known, so tiles of {side} px are taken to show as much tissue as the classifier's own {size} px."
    return View(_resized(tile.pixels, float(side), size), tile.level0_box, remark)


def _of_known_size(tile: Tile, own: float, size: int, mpp: float, *, is_assumed: bool) -> View:
    side = tile.pixels.shape[0]
    is_same_scale = abs(own / mpp - 1) <= SAME_SIZE
    if is_same_scale and side == size:
        return View(tile.pixels, tile.level0_box, None)
    if is_too_far(own / mpp):
        msg = f"The classifier was trained on {mpp:g} µm per px, {tile.name} has {own:g}, more than 4 times apart; choose a classifier of nearly that pixel size."
        raise UserError(msg)
    wanted = size * mpp / own  # what the classifier's field of view is in the tile's pixels
    if wanted > side * MAX_RESAMPLING * (1 + SAME_SIZE):
        msg = f"The classifier sees {size * mpp:g} µm at once, {tile.name} shows {side * own:g} µm, less than a quarter; choose a classifier of a smaller field of view."
        raise UserError(msg)
    if wanted > side * (1 + SAME_SIZE):
        remark = f"Tiles show {side * own:g} µm, less than the {size * mpp:g} µm the classifier learnt from, so it sees them {wanted / side:.2g} times too large."
        return View(_resized(tile.pixels, float(side), size), tile.level0_box, remark)
    wanted = min(wanted, float(side))
    said = (
        ""
        if is_same_scale
        else f", resampled from {own:g} to {mpp:g} µm per px{', which its card assumes' if is_assumed else ''}"
    )
    remark = f"The classifier is shown the middle {size * mpp:g} µm of tiles of {side * own:g} µm{said}."
    box = tile.level0_box
    if box is not None:
        left, top, right, bottom = box
        x, y = (right - left) * (1 - wanted / side) / 2, (bottom - top) * (1 - wanted / side) / 2
        box = (left + x, top + y, right - x, bottom - y)
    return View(_resized(tile.pixels, wanted, size), box, remark)


def _resized(pixels: NDArray[np.uint8], part_px: float, size: int) -> NDArray[np.uint8]:
    """Return the middle `part_px` of a tile at `size` px."""
    corner = (pixels.shape[0] - part_px) / 2
    return area_averaged(pixels, (corner, corner), (part_px, part_px), (size, size))


def remarks_on(classifier: LoadedClassifier, tiles: Sequence[Tile]) -> tuple[str, ...]:
    """Return what is done to tiles before the classifier sees them, each sentence once."""
    said = [view_of(classifier, tile).remark for tile in tiles]
    return tuple(dict.fromkeys(sentence for sentence in said if sentence))


def heatmaps_of(
    classifier: LoadedClassifier,
    tiles: Sequence[Tile],
    *,
    target: str | None = None,
    layer: str | None = None,
) -> list[Heatmap]:
    """Return the Grad-CAM of each tile, for `target` or else for the class the classifier sees in it.

    Parameters
    ----------
    classifier
        Whose view it is.
    tiles
        What it is shown of them lies at each map's place on the slide.
    target
        A class.
    layer
        One of `explain.gradcam.layers_of`; None: the classifier's own.

    Raises
    ------
    UserError
        If the classifier has no such class or layer, or a tile's pixel size is too far from its own.
    """
    if not tiles:
        return []
    views = [view_of(classifier, tile) for tile in tiles]
    images = to_tensor(np.stack([view.pixels for view in views])).to(classifier.device)
    classes = classifier.checkpoint.classes
    if target is None:
        seen = gradcam.probabilities(classifier.network, images).argmax(1).tolist()
        targets = [classes[i] for i in seen]
    else:
        targets = [target] * len(tiles)
    boxes = [view.level0_box for view in views]
    return gradcam.grad_cam(classifier.network, images, targets, level0_boxes=boxes, layer=layer)


def probabilities_of(classifier: LoadedClassifier, tiles: Sequence[Tile]) -> list[dict[str, float]]:
    """Return the probability of each class for each tile.

    Raises
    ------
    UserError
        If a tile's pixel size is too far from the classifier's.
    """
    if not tiles:
        return []
    views = [view_of(classifier, tile) for tile in tiles]
    images = to_tensor(np.stack([view.pixels for view in views])).to(classifier.device)
    rows = gradcam.probabilities(classifier.network, images).tolist()
    return [dict(zip(classifier.checkpoint.classes, row, strict=True)) for row in rows]


def require_match(generator: LoadedGenerator, classifier: LoadedClassifier) -> None:
    """Refuse a classifier that cannot judge what a generator draws.

    Raises
    ------
    UserError
        If it was trained on other classes, both models are named then, or on pixels more than 4 times apart.
    """
    require_same_classes(generator, classifier)
    size = generator.checkpoint.size_px
    blank = Tile("the generator", np.zeros((size, size, 3), np.uint8), mpp=generator.checkpoint.mpp)
    view_of(classifier, blank)


def require_same_classes(generator: LoadedGenerator, classifier: LoadedClassifier) -> None:
    """Refuse a classifier that was trained on other classes than the generator.

    A generator without classes goes with any.

    Raises
    ------
    UserError
        If their classes differ; both models are named.
    """
    ours, theirs = generator.checkpoint.classes, classifier.checkpoint.classes
    if ours and set(ours) != set(theirs):
        msg = (
            f"The generator knows the classes {', '.join(ours)}, the classifier {', '.join(theirs)}; choose two of the "
            f"same dataset (they are {generator.checkpoint.path} and {classifier.checkpoint.path})."
        )
        raise UserError(msg)
