from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_histolatent.explain.gradcam import grad_cam, layers_of, probabilities
from napari_histolatent.latent.calibrating import classes_seen
from napari_histolatent.models import build_classifier
from napari_histolatent.models.turns import CLASSIFYING

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = ("normal", "tumour")


@pytest.fixture(scope="module")
def classifier() -> Any:
    torch.manual_seed(0)
    network: Any = build_classifier("convnet", classes=CLASSES, size_px=16, base_channels=4)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    "ask",
    [
        probabilities,
        lambda network, x: grad_cam(network, x, ["tumour"] * len(x)),
        lambda network, _: layers_of(network),
        classes_seen,
    ],
    ids=["probabilities", "grad_cam", "layers_of", "classes_seen"],
)
def test_whoever_asks_a_classifier_waits_for_its_turn(
    classifier: Any, images: torch.Tensor, ask: Callable[..., Any]
) -> None:
    answered = threading.Event()
    thread = threading.Thread(target=lambda: (ask(classifier, images), answered.set()))
    with CLASSIFYING:
        thread.start()
        assert not answered.wait(0.1)
    assert answered.wait(20)
    thread.join()


def test_maps_are_the_same_while_others_ask(classifier: Any, images: torch.Tensor) -> None:
    alone = [item.values for item in grad_cam(classifier, images, ["tumour"] * 3)]
    ends, faults = threading.Event(), []

    def others() -> None:
        other = images[:2].flip(0)
        try:
            while not ends.is_set():
                grad_cam(classifier, other, ["normal"] * 2)
                probabilities(classifier, other)
        except RuntimeError as error:
            faults.append(error)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for _ in range(20):
            found = [item.values for item in grad_cam(classifier, images, ["tumour"] * 3)]
            assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(found, alone, strict=True))
    finally:
        ends.set()
        thread.join()
    assert faults == []
