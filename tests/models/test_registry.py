from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models import (
    CLASSIFIERS,
    GENERATORS,
    build_classifier,
    build_encoder,
    build_gan,
)
from napari_histolatent.models._dcgan_family import DESIGNS
from napari_histolatent.models._registry import LARGEST, MOST_CLASSES, WITHOUT_CLASSES
from napari_histolatent.models.priors import PRIORS
from napari_histolatent.models.protocols import Classifier, Discriminator, Generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CLASSES = ("epithelium", "stroma")


@pytest.mark.parametrize("module", [*GENERATORS.values(), *CLASSIFIERS.values()])
def test_every_name_leads_to_a_module_that_builds(module: str) -> None:
    assert callable(import_module(module).build)


def classes_for(name: str) -> tuple[str, ...]:
    return () if name in WITHOUT_CLASSES else CLASSES


@pytest.mark.parametrize("kind", [tuple, list])
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", GENERATORS)
def test_every_gan_keeps_the_protocols(
    name: str, design: str, kind: Callable[[Sequence[str]], Sequence[str]]
) -> None:
    classes = classes_for(name)
    generator, discriminator = build_gan(
        name, classes=kind(classes), size_px=16, design=design, base_channels=2
    )
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    assert (generator.classes, generator.size_px) == (classes, 16)
    assert generator.prior in PRIORS
    z, y = torch.zeros(4, generator.z_dim), torch.ones(4, len(classes))
    images = generator.synthesize(generator.map(z, y))
    assert (images.shape, discriminator(images, y).shape) == ((4, 3, 16, 16), (4,))


@pytest.mark.parametrize("classes", [CLASSES, list(CLASSES)])
def test_a_classifier_keeps_the_protocol(classes: Sequence[str]) -> None:
    classifier = build_classifier("convnet", classes=classes, size_px=16)
    assert isinstance(classifier, Classifier)
    assert (classifier.classes, classifier.size_px) == (CLASSES, 16)


@pytest.mark.parametrize(
    ("options", "z_dim", "prior", "parameters"),
    [
        ({}, 64, "normal", 348_083),
        ({"design": "modern", "z_dim": None, "base_channels": None}, 64, "normal", 348_083),
        ({"design": "modern", "z_dim": 0, "base_channels": 0}, 64, "normal", 348_083),
        ({"design": "s1"}, 100, "uniform", 103 * 512 * 16 + 4_305_600 + 1920 + 3),
        (
            {"design": "s1", "z_dim": 0, "base_channels": 0},
            100,
            "uniform",
            103 * 512 * 16 + 4_305_600 + 1920 + 3,
        ),
    ],
)
def test_a_design_brings_its_own_sizes(
    options: dict[str, Any], z_dim: int, prior: str, parameters: int
) -> None:
    generator, _ = build_gan("cdcgan", classes=CLASSES, size_px=64, **options)
    assert isinstance(generator, torch.nn.Module)
    assert (generator.z_dim, generator.prior) == (z_dim, prior)
    assert sum(parameter.numel() for parameter in generator.parameters()) == parameters


@pytest.mark.parametrize("design", DESIGNS)
def test_options_reach_the_network(design: str) -> None:
    generator, _ = build_gan("cdcgan", classes=CLASSES, size_px=16, design=design, z_dim=5, base_channels=3)
    assert isinstance(generator, torch.nn.Module)
    assert generator.z_dim == 5
    assert generator.stages[-1].in_channels == 3


def test_another_design_is_refused() -> None:
    with pytest.raises(UserError, match=r"^There is no design named 's2'; choose one of modern, s1\.$"):
        build_gan("dcgan", classes=(), size_px=16, design="s2")


def test_classes_where_there_are_to_be_none_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^The network dcgan has no classes, but was given epithelium, stroma; "
    ):
        build_gan("dcgan", classes=CLASSES, size_px=16)


def test_no_classes_where_there_are_to_be_some_are_refused() -> None:
    with pytest.raises(UserError, match=r"^The network cdcgan needs classes, and there are none; "):
        build_gan("cdcgan", classes=(), size_px=16)


@pytest.mark.parametrize("name", ["stylegan9", "", "CDCGAN", "napari_histolatent.models._dcgan_s1"])
@pytest.mark.parametrize(
    ("build", "what", "names"),
    [(build_gan, "network", GENERATORS), (build_classifier, "classifier", CLASSIFIERS)],
)
def test_an_unknown_name_is_refused(
    build: Callable[..., object], what: str, names: Sequence[str], name: str
) -> None:
    sentence = f"There is no {what} named '{name}'; choose one of {', '.join(names)}."
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        build(name, classes=CLASSES, size_px=16)


def builder(name: str) -> Callable[..., object]:
    """Return what builds a network of a kind, of the least there has to be said."""
    if name == "encoder":
        return lambda **given: build_encoder(
            "convnet", **{"classes": CLASSES, "size_px": 16, "z_dim": 4} | given
        )
    if name == "classifier":
        return lambda **given: build_classifier("convnet", **{"classes": CLASSES, "size_px": 16} | given)
    return lambda **given: build_gan("cdcgan", **{"classes": CLASSES, "size_px": 16} | given)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("gan", "classifier", "encoder")
        for name in LARGEST
        if (kind, name) != ("classifier", "z_dim")
    ],
)
@pytest.mark.parametrize("factor", [2, 10**6])
def test_what_only_takes_memory_is_refused(kind: str, name: str, factor: int) -> None:
    value = LARGEST[name] * factor
    sentence = rf"^{name} has to be at most {LARGEST[name]}, not {value}; choose a smaller network\.$"
    with pytest.raises(UserError, match=sentence):
        builder(kind)(**{name: value})


@pytest.mark.parametrize("kind", ["gan", "classifier", "encoder"])
def test_too_many_classes_are_refused(kind: str) -> None:
    classes = [str(i) for i in range(MOST_CLASSES + 1)]
    with pytest.raises(UserError, match=r"^A network has at most 1000 classes, not 1001; choose fewer\.$"):
        builder(kind)(classes=classes)
    with torch.device("meta"):
        assert builder(kind)(classes=classes[1:])


def test_a_classifier_without_classes_is_refused() -> None:
    with pytest.raises(UserError, match=r"^The classifier convnet needs classes, and there are none; "):
        build_classifier("convnet", classes=(), size_px=16)
