from __future__ import annotations

from typing import Any

import torch

from napari_histolatent.models.protocols import Classifier, Discriminator, Encoder, Generator


class AnotherGenerator:
    """Of no family that the package knows."""

    classes = ("a", "b")
    size_px, z_dim, num_ws, w_dim = 16, 4, 1, 6
    prior = "normal"

    def map(self, z: torch.Tensor, y: torch.Tensor, *, psi: float = 1.0) -> torch.Tensor:
        return torch.cat([z * psi, y], 1)[:, None]

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        return w.mean() * torch.ones(len(w), 3, 16, 16)


class AnotherClassifier:
    classes = ("a", "b")
    size_px = 16
    cam_layer = torch.nn.Identity()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))[:, :2]


class AnotherEncoder:
    classes = ("a", "b")
    size_px, z_dim = 16, 3

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = images.mean((2, 3))
        return means, means[:, :2]


def lacking(source: type, name: str) -> Any:
    return type("Lacking", (), {k: v for k, v in vars(source).items() if k != name})()


def test_a_generator_of_another_make_is_one() -> None:
    assert isinstance(AnotherGenerator(), Generator)


def test_a_generator_lacks_nothing() -> None:
    for name in ("classes", "size_px", "z_dim", "num_ws", "w_dim", "prior", "map", "synthesize"):
        assert not isinstance(lacking(AnotherGenerator, name), Generator), name


def test_a_classifier_lacks_nothing() -> None:
    assert isinstance(AnotherClassifier(), Classifier)
    for name in ("classes", "size_px", "cam_layer", "__call__"):
        assert not isinstance(lacking(AnotherClassifier, name), Classifier), name


def test_an_encoder_lacks_nothing() -> None:
    assert isinstance(AnotherEncoder(), Encoder)
    for name in ("classes", "size_px", "z_dim", "__call__"):
        assert not isinstance(lacking(AnotherEncoder, name), Encoder), name


def test_a_discriminator_is_called() -> None:
    assert isinstance(lambda images, y: images, Discriminator)
    assert not isinstance("images", Discriminator)
