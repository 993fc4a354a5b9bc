"""The networks that go with a generator where none is named: its encoder, and a classifier of its classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histolatent.errors import CheckpointError, UserError
from napari_histolatent.jobs.seeing import require_match
from napari_histolatent.training.load import load_classifier, load_encoder
from napari_histolatent.training.shipped import SHIPPED

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.training.load import LoadedClassifier, LoadedEncoder, LoadedGenerator


def encoder_of(generator: LoadedGenerator) -> tuple[LoadedEncoder | None, str | None]:
    """Return the encoder of a generator, or None and, where there is one that cannot be used, a sentence why."""
    try:
        found = load_encoder(
            generator.checkpoint.path,
            generator_digest=generator.checkpoint.digest,
            device=str(generator.device),
        )
    except CheckpointError as error:
        return None, f"Reverse search does without an encoder: {error}"
    return found, None


def classifier_for(
    generator: LoadedGenerator, named: str | Path | None = None, *, device: str = "auto"
) -> tuple[LoadedClassifier | None, str | None]:
    """Return the classifier that judges a generator's images, and a sentence on which it is if it was not named.

    Without a name it is the one that the generator's training names, else the shipped one, if it knows the same
    classes at a pixel size not more than 4 times apart; else None.

    Raises
    ------
    UserError
        If the named one cannot be loaded, knows other classes, or pixels more than 4 times apart.
    """
    if named:
        classifier = load_classifier(named, device=device)
        require_match(generator, classifier)
        return classifier, None
    judge = generator.checkpoint.config.get("judge")
    for candidate in (judge, SHIPPED):
        if not candidate or not isinstance(candidate, str):
            continue
        try:
            classifier = load_classifier(candidate, device=device)
            require_match(generator, classifier)
        except UserError:  # not there (any more), or no match: nobody asked for it
            continue
        if generator.checkpoint.classes:
            return classifier, f"Probabilities are those of the classifier {candidate}."
    return None, None
