from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.models._convnet import ConvNet, build
from napari_histolatent.models.protocols import Classifier


def convnet(size_px: int = 16, n_classes: int = 2) -> ConvNet:
    torch.manual_seed(0)
    return build(classes=tuple("abc"[:n_classes]), size_px=size_px, base_channels=4)


def random_images(n: int, size_px: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size_px, size_px, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_protocol() -> None:
    assert isinstance(convnet(), Classifier)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("size_px", [16, 24, 33])
def test_a_logit_a_class(size_px: int, n_classes: int) -> None:
    logits = convnet(size_px, n_classes)(random_images(5, size_px))
    assert logits.shape == (5, n_classes)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("size_px", [16, 32])
def test_the_layer_of_grad_cam_has_a_spatial_extent_and_is_what_the_head_sees(size_px: int) -> None:
    network, seen = convnet(size_px).eval(), []
    assert any(module is network.cam_layer for module in network.modules())
    handle = network.cam_layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    logits = network(random_images(2, size_px))
    handle.remove()
    assert seen[0].shape == (2, 16, size_px // 8, size_px // 8)
    torch.testing.assert_close(network.head(seen[0].mean((2, 3))), logits)


def test_every_parameter_gets_a_gradient() -> None:
    network = convnet()
    nn.functional.cross_entropy(network(random_images(8)), torch.arange(8) % 2).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_ready_for_use_a_logit_does_not_depend_on_the_batch() -> None:
    network, images = convnet().eval(), random_images(4)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]))


@pytest.mark.parametrize("size_px", [-16, 0, 1, 8, 15])
def test_patches_that_are_too_small_are_refused(size_px: int) -> None:
    with pytest.raises(UserError, match=rf"at least 16 px, not {size_px}; cut larger patches\.$"):
        build(classes=("a", "b"), size_px=size_px)


def test_the_judges_stay_small() -> None:
    network = build(classes=("a", "b"), size_px=64)
    n = sum(parameter.numel() for parameter in network.parameters())
    # Four 3 x 3 convolutions without bias, two numbers a channel of batch normalisation, and the head.
    widths = [3, 24, 48, 72, 96]
    assert n == sum(9 * a * b + 2 * b for a, b in pairwise(widths)) + 2 * 96 + 2
    assert n <= 150_000
    assert sum(value.numel() for value in network.state_dict().values()) * 2 <= 300_000, (
        "bytes in half precision"
    )


def test_channels_lie_innermost_whatever_comes_in() -> None:
    network, seen = convnet().eval(), []
    network.features[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    images = random_images(3)
    assert torch.equal(network(images), network(images.contiguous(memory_format=torch.channels_last)))
    innermost = torch.channels_last
    assert all(given.is_contiguous(memory_format=innermost) for given in seen)
    assert network.features[0].weight.is_contiguous(memory_format=innermost)


def test_it_cannot_start_from_weights() -> None:
    with pytest.raises(
        UserError, match=r"cannot start from w\.safetensors; leave weights empty or choose inception_v3\.$"
    ):
        build(classes=("a", "b"), size_px=16, weights="w.safetensors", weights_sha256="0" * 64)
