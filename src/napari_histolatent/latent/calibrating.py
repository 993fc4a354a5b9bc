"""Measure what a verdict compares: of a tile, and of held-out tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.latent.invert import invert
from napari_histolatent.latent.perceptual import PerceptualDistance
from napari_histolatent.latent.verdict import Calibration, FamiliarTissue, Measures, bounds_of
from napari_histolatent.models.metrics import RandomFeatures, digest_of_network
from napari_histolatent.models.turns import CLASSIFYING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.latent.points import Inversion
    from napari_histolatent.models.protocols import Classifier, Encoder, Generator

_AT_ONCE = 64
_SEARCHED_PIXELS = _AT_ONCE * 64**2
"""In one search without a GPU: of large tiles there are fewer, so that a step, after which it can be stopped, is short."""


class StoppedError(UserError):
    """A calibration that was asked to stop; nothing is kept of it."""


def features_of(images: Tensor) -> NDArray[np.float32]:
    """Return the features (B, 448) in which tissue is known: of a seeded random network, the same everywhere."""
    network = RandomFeatures().to(images.device)
    parts = [network(part) for part in torch.split(images, _AT_ONCE)]
    return np.asarray(torch.cat(parts).cpu().numpy(), np.float32)


def features_digest() -> str:
    """Return the digest of that network."""
    return digest_of_network(RandomFeatures())


@torch.no_grad()
def classes_seen(classifier: Classifier, images: Tensor) -> list[str]:
    """Return the class that a classifier sees in each image."""
    with CLASSIFYING:
        parts = [classifier(part).argmax(dim=1) for part in torch.split(images, _AT_ONCE)]
    return [classifier.classes[i] for i in torch.cat(parts).tolist()]


@torch.no_grad()
def images_at_z(generator: Generator, inversions: Sequence[Inversion], device: torch.device) -> Tensor:
    """Return the images (n, 3, size_px, size_px) of z and y alone, drawn by the generator itself."""
    z = torch.tensor([item.point.values for item in inversions], device=device)
    y = torch.tensor([item.point.class_weights for item in inversions], device=device)
    parts = zip(torch.split(z, _AT_ONCE), torch.split(y, _AT_ONCE), strict=True)
    return torch.cat([generator.synthesize(generator.map(*part)) for part in parts])


def measures_of(
    generator: Generator,
    images: Tensor,
    inversions: Sequence[Inversion],
    *,
    calibration: Calibration | None,
    classifier: Classifier | None = None,
) -> list[Measures]:
    """Return what `verdict_of` has to know of tiles (B, 3, size_px, size_px) besides their inversions.

    Parameters
    ----------
    generator
        That the inversions belong to.
    images
        The tiles, in [-1, 1].
    inversions
        One a tile.
    calibration
        Of the generator; without one the distance of the features is not measured.
    classifier
        Of the tiles' size; without one the classes are not looked at.
    """
    distances: Sequence[float | None] = [None] * len(images)
    if calibration is not None and calibration.features_digest == features_digest():
        distances = calibration.familiar.distances(features_of(images)).tolist()
    real: Sequence[str | None] = [None] * len(images)
    drawn: Sequence[str | None] = [None] * len(images)
    if classifier is not None:
        real = classes_seen(classifier, images)
        drawn = classes_seen(classifier, images_at_z(generator, inversions, images.device))
    return [Measures(*values) for values in zip(distances, real, drawn, strict=True)]


def calibrated(
    generator: Generator,
    *,
    checkpoint_digest: str,
    dataset_digest: str,
    known: Tensor | None,
    held_out: Tensor,
    class_weights: Sequence[tuple[float, ...]],
    encoder: Encoder | None = None,
    encoder_digest: str = "",
    classifier: Classifier | None = None,
    classifier_digest: str = "",
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Calibration:
    """Search held-out tiles by the method fast, and return what its figures are for them.

    Parameters
    ----------
    generator
        In evaluation mode.
    checkpoint_digest, dataset_digest, encoder_digest, classifier_digest
        Kept in the calibration.
    known
        Tiles that the generator learnt from, (n, 3, size_px, size_px): familiar tissue. None: the held-out tiles
        stand for them, each compared with the others.
    held_out
        Tiles of other patients, (m, 3, size_px, size_px).
    class_weights
        The class vector of each of those.
    encoder
        Of the generator.
    classifier
        Whether its classes agree is told, as a share.
    on_progress
        Called with (tiles done, tiles in all).
    should_stop
        Asked at each step of the searches, and between parts of what follows.

    Raises
    ------
    StoppedError
        If it was asked to stop.
    UserError
        If a search diverges.
    """
    perceptual = PerceptualDistance()
    inversions: list[Inversion] = []

    def stop_if_asked() -> None:
        if should_stop and should_stop():
            msg = f"The calibration was stopped after {len(inversions)} of {len(held_out)} tiles; nothing is kept of it."
            raise StoppedError(msg)

    at_once = _AT_ONCE
    if not held_out.is_cuda:
        at_once = max(1, min(at_once, _SEARCHED_PIXELS // (held_out.shape[-1] * held_out.shape[-2])))
    for start in range(0, len(held_out), at_once):
        part = slice(start, start + at_once)
        stop_if_asked()
        found = invert(
            generator,
            held_out[part],
            class_weights[part],
            checkpoint_digest=checkpoint_digest,
            origins=[""] * len(held_out[part]),
            method="fast",
            encoder=encoder,
            perceptual=perceptual,
            should_stop=should_stop,
        )
        stop_if_asked()  # of a search that was stopped the figures are no measure of anything
        inversions += found
        if on_progress:
            on_progress(len(inversions), len(held_out))

    def features(images: Tensor) -> NDArray[np.float32]:
        parts = []
        for part in torch.split(images, _AT_ONCE):
            stop_if_asked()
            parts.append(features_of(part))
        return np.concatenate(parts)

    of_held_out = features(held_out)
    familiar = FamiliarTissue.of(of_held_out if known is None else features(known))
    agreement = None
    stop_if_asked()
    if classifier is not None:
        drawn = classes_seen(classifier, images_at_z(generator, inversions, held_out.device))
        same = [a == b for a, b in zip(classes_seen(classifier, held_out), drawn, strict=True)]
        agreement = sum(same) / len(same)
    return Calibration(
        checkpoint_digest=checkpoint_digest,
        dataset_digest=dataset_digest,
        n=len(held_out),
        bounds=bounds_of(
            {
                "rmse": [item.rmse for item in inversions],
                "perceptual": [item.perceptual or 0.0 for item in inversions],
                "z_ratio": [item.z_ratio for item in inversions],
                "feature_distance": familiar.distances(of_held_out, own=known is None).tolist(),
            }
        ),
        perceptual_digest=perceptual.digest,
        features_digest=features_digest(),
        familiar=familiar,
        encoder_digest=encoder_digest,
        classifier_digest=classifier_digest,
        class_agreement=agreement,
    )
