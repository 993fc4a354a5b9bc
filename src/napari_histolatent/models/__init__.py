"""Networks by protocol, and how they are told apart by name. Importing this costs no torch."""

from napari_histolatent.models._registry import CLASSIFIERS, GENERATORS, build_classifier, build_gan

__all__ = ["CLASSIFIERS", "GENERATORS", "build_classifier", "build_gan"]
