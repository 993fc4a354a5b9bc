"""Networks by protocol, and how they are told apart by name. Importing this costs no torch."""

from napari_histolatent.models._registry import (
    CLASSIFIERS,
    ENCODERS,
    GENERATORS,
    WITHOUT_CLASSES,
    build_classifier,
    build_encoder,
    build_gan,
)

__all__ = [
    "CLASSIFIERS",
    "ENCODERS",
    "GENERATORS",
    "WITHOUT_CLASSES",
    "build_classifier",
    "build_encoder",
    "build_gan",
]
