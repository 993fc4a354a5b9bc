from __future__ import annotations

import pytest
import torch

from napari_histolatent.latent.perceptual import ClassifierStack, PerceptualDistance, RandomStack
from napari_histolatent.models import build_classifier
from napari_histolatent.models.metrics import RandomFeatures, digest_of_network
from tests.latent.searching import noise


def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_classifier("convnet", classes=("a", "b"), size_px=16, base_channels=4)
    assert isinstance(network, torch.nn.Module)
    return network


def test_the_formula() -> None:
    class Two:
        digest = "two"

        def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images[:, :2], 5 * images[:, :2, :1, :1]]

    a = torch.tensor([[[[3.0, 1.0]], [[4.0, 0.0]], [[0.0, 0.0]]]])
    b = torch.tensor([[[[4.0, 2.0]], [[3.0, 0.0]], [[0.0, 0.0]]]])
    # (.6, .8) and (.8, .6) at the first place, the same direction at the second.
    expected = (0.08 + 0.0) / 2 + 0.08
    assert PerceptualDistance(Two())(a, b).tolist() == pytest.approx([expected], abs=1e-6)


def test_an_image_is_nearest_to_itself_and_symmetric() -> None:
    distance, (a, b) = PerceptualDistance(), noise(4).chunk(2)
    assert distance(a, a).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert distance(a, b).tolist() == pytest.approx(distance(b, a).tolist())
    near, far = distance(a, a + 0.02 * b), distance(a, a + 0.3 * b)
    assert (near < far).all()


def test_gradients_reach_the_images_and_no_weight() -> None:
    distance, (a, b) = PerceptualDistance(), noise(2).chunk(2)
    leaf = a.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(distance(leaf, b).sum(), leaf)
    assert bool(torch.isfinite(slope).all())
    assert float(slope.abs().max()) > 0
    assert float(distance(a - 0.1 * slope / slope.abs().max(), b)) < float(distance(a, b))


def test_a_black_image_has_a_slope_that_is_a_number() -> None:
    leaf = torch.zeros(1, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(PerceptualDistance()(leaf, noise(1)).sum(), leaf)
    assert bool(torch.isfinite(slope).all())


def test_the_random_stack_is_the_same_everywhere() -> None:
    torch.manual_seed(1)
    one = RandomStack()
    torch.manual_seed(2)
    assert (
        one.digest
        == RandomStack().digest
        == digest_of_network(RandomFeatures())
        == PerceptualDistance().digest
    )
    assert one.digest != RandomStack(seed=1).digest
    maps = one(noise(2))
    assert [tuple(item.shape) for item in maps] == [(2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]


def test_the_stack_of_a_classifier_has_one_layer_of_each_size() -> None:
    network = classifier()
    stack = ClassifierStack(network)  # type: ignore[arg-type]
    maps = stack(noise(2))
    assert [tuple(item.shape) for item in maps] == [
        (2, 4, 16, 16),
        (2, 8, 8, 8),
        (2, 12, 4, 4),
        (2, 16, 2, 2),
    ]
    assert stack.digest == digest_of_network(network)
    assert all(float(item.min()) >= 0 for item in maps), "behind the ReLU"
    assert not network.training
    leaf = noise(1).requires_grad_(True)
    (slope,) = torch.autograd.grad(PerceptualDistance(stack)(leaf, noise(1, seed=1)).sum(), leaf)
    assert float(slope.abs().max()) > 0
    assert not any(module._forward_hooks for module in network.modules())
