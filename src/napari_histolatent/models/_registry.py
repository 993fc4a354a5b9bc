"""Names of the networks, and where each is built. A new system adds a line here and a module beside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_histolatent.models.protocols import Classifier, Discriminator, Encoder, Generator

GENERATORS: Mapping[str, str] = {
    "cdcgan": "napari_histolatent.models._dcgan_family",
    "dcgan": "napari_histolatent.models._dcgan_family",
}
"""Name -> module with build(classes, size_px, **options) -> (Generator, Discriminator)."""

WITHOUT_CLASSES: frozenset[str] = frozenset({"dcgan"})
"""The generators that draw tissue of no class: they are built with classes ()."""

CLASSIFIERS: Mapping[str, str] = {
    "convnet": "napari_histolatent.models._convnet",
    "inception_v3": "napari_histolatent.models._inception",
}
"""Name -> module with build(classes, size_px, **options) -> Classifier."""

ENCODERS: Mapping[str, str] = {"convnet": "napari_histolatent.models._encoder"}
"""Name -> module with build(classes, size_px, z_dim, prior, **options) -> Encoder."""

LARGEST: Mapping[str, int] = {"size_px": 2048, "z_dim": 4096, "base_channels": 1024}
"""What a network may be asked for, whoever asks: a file that was opened, say. Beyond it only memory would be taken."""
MOST_CLASSES = 1000


def build_gan(
    name: str, *, classes: Sequence[str], size_px: int, **options: Any
) -> tuple[Generator, Discriminator]:
    """Build a generator and its discriminator with fresh (random) weights.

    Raises
    ------
    UserError
        If there is no such network, it cannot have this size or width, or has no use for classes, or needs them.
    """
    module = _module(GENERATORS, name, "network")
    _require_feasible(classes, size_px=size_px, **options)
    if classes and name in WITHOUT_CLASSES:
        msg = f"The network {name} has no classes, but was given {', '.join(classes)}; use cdcgan or leave them out."
        raise UserError(msg)
    if not classes and name not in WITHOUT_CLASSES:
        msg = f"The network {name} needs classes, and there are none; label the patches or use dcgan."
        raise UserError(msg)
    generator, discriminator = module.build(classes=tuple(classes), size_px=size_px, **options)
    return generator, discriminator


def build_classifier(name: str, *, classes: Sequence[str], size_px: int, **options: Any) -> Classifier:
    """Build a classifier with fresh (random) weights.

    Raises
    ------
    UserError
        If there is no such network, it cannot have this size or width, or there are no classes.
    """
    module = _module(CLASSIFIERS, name, "classifier")
    if not classes:
        msg = f"The classifier {name} needs classes, and there are none; label the patches."
        raise UserError(msg)
    _require_feasible(classes, size_px=size_px, **options)
    classifier: Classifier = module.build(classes=tuple(classes), size_px=size_px, **options)
    return classifier


def build_encoder(
    name: str, *, classes: Sequence[str], size_px: int, z_dim: int, prior: str = "normal", **options: Any
) -> Encoder:
    """Build an encoder for a generator of these classes, size and latent space, with fresh (random) weights.

    Raises
    ------
    UserError
        If there is no such network, or it cannot have this size or width.
    """
    module = _module(ENCODERS, name, "encoder")
    _require_feasible(classes, size_px=size_px, z_dim=z_dim, **options)
    encoder: Encoder = module.build(
        classes=tuple(classes), size_px=size_px, z_dim=z_dim, prior=prior, **options
    )
    return encoder


def _require_feasible(classes: Sequence[str], **options: Any) -> None:
    """Refuse what no network here is built for, before anything is allocated."""
    for name, most in LARGEST.items():
        # None and 0: the design's own.
        if (options.get(name) or 0) > most:
            msg = f"{name} has to be at most {most}, not {options[name]}; choose a smaller network."
            raise UserError(msg)
    if len(classes) > MOST_CLASSES:
        msg = f"A network has at most {MOST_CLASSES} classes, not {len(classes)}; choose fewer."
        raise UserError(msg)


def _module(names: Mapping[str, str], name: str, what: str) -> Any:
    if name not in names:
        msg = f"There is no {what} named {name!r}; choose one of {', '.join(names)}."
        raise UserError(msg)
    return import_module(names[name])
