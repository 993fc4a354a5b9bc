"""Names of the networks, and where each is built. A new system adds a line here and a module beside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_histolatent.models.protocols import Classifier, Discriminator, Generator

GENERATORS: Mapping[str, str] = {"cdcgan": "napari_histolatent.models._cdcgan"}
"""Name -> module with build(classes, size_px, **options) -> (Generator, Discriminator)."""

CLASSIFIERS: Mapping[str, str] = {"convnet": "napari_histolatent.models._convnet"}
"""Name -> module with build(classes, size_px, **options) -> Classifier."""


def build_gan(
    name: str, *, classes: Sequence[str], size_px: int, **options: Any
) -> tuple[Generator, Discriminator]:
    """Build a generator and its discriminator with fresh (random) weights.

    Raises
    ------
    UserError
        If there is no such network, or it cannot have this size.
    """
    generator, discriminator = _module(GENERATORS, name, "network").build(
        classes=tuple(classes), size_px=size_px, **options
    )
    return generator, discriminator


def build_classifier(name: str, *, classes: Sequence[str], size_px: int, **options: Any) -> Classifier:
    """Build a classifier with fresh (random) weights.

    Raises
    ------
    UserError
        If there is no such network, or it cannot have this size.
    """
    classifier: Classifier = _module(CLASSIFIERS, name, "classifier").build(
        classes=tuple(classes), size_px=size_px, **options
    )
    return classifier


def _module(names: Mapping[str, str], name: str, what: str) -> Any:
    if name not in names:
        msg = f"There is no {what} named {name!r}; choose one of {', '.join(names)}."
        raise UserError(msg)
    return import_module(names[name])
