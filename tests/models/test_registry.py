from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.models import CLASSIFIERS, GENERATORS, build_classifier, build_gan
from napari_histolatent.models.protocols import Classifier, Discriminator, Generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CLASSES = ("epithelium", "stroma")


@pytest.mark.parametrize("module", [*GENERATORS.values(), *CLASSIFIERS.values()])
def test_every_name_leads_to_a_module_that_builds(module: str) -> None:
    assert callable(import_module(module).build)


@pytest.mark.parametrize("classes", [CLASSES, list(CLASSES)])
@pytest.mark.parametrize("name", GENERATORS)
def test_every_gan_keeps_the_protocols(name: str, classes: Sequence[str]) -> None:
    generator, discriminator = build_gan(name, classes=classes, size_px=16)
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    assert (generator.classes, generator.size_px) == (CLASSES, 16)


@pytest.mark.parametrize("classes", [CLASSES, list(CLASSES)])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_keeps_the_protocol(name: str, classes: Sequence[str]) -> None:
    classifier = build_classifier(name, classes=classes, size_px=16)
    assert isinstance(classifier, Classifier)
    assert (classifier.classes, classifier.size_px) == (CLASSES, 16)


def test_options_reach_the_network() -> None:
    generator, _ = build_gan("cdcgan", classes=CLASSES, size_px=16, z_dim=5)
    assert generator.z_dim == 5


@pytest.mark.parametrize("name", ["stylegan9", "", "CDCGAN", "napari_histolatent.models._cdcgan"])
@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (build_gan, r"^There is no network named '{}'; choose one of cdcgan\.$"),
        (build_classifier, r"^There is no classifier named '{}'; choose one of convnet\.$"),
    ],
)
def test_an_unknown_name_is_refused(build: Callable[..., object], sentence: str, name: str) -> None:
    with pytest.raises(UserError, match=sentence.format(name)):
        build(name, classes=CLASSES, size_px=16)
