from __future__ import annotations

import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models._encoder import ConvEncoder, build
from napari_histolatent.models.protocols import Encoder


def encoder(
    size_px: int = 16, n_classes: int = 2, *, prior: str = "normal", base_channels: int = 4
) -> ConvEncoder:
    torch.manual_seed(0)
    return build(
        classes=tuple("abc"[:n_classes]), size_px=size_px, z_dim=5, prior=prior, base_channels=base_channels
    )


def random_images(n: int, size_px: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size_px, size_px, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_protocol() -> None:
    assert isinstance(encoder(), Encoder)


@pytest.mark.parametrize("n_classes", [0, 1, 3])
@pytest.mark.parametrize("size_px", [16, 24, 33, 64])
def test_a_z_and_a_logit_a_class(size_px: int, n_classes: int) -> None:
    network = encoder(size_px, n_classes)
    assert (network.classes, network.size_px, network.z_dim) == (tuple("abc"[:n_classes]), size_px, 5)
    z, logits = network(random_images(3, size_px))
    assert (z.shape, logits.shape) == ((3, 5), (3, n_classes))
    assert z.dtype == logits.dtype == torch.float32


@pytest.mark.parametrize(("size_px", "side"), [(16, 4), (31, 7), (32, 4), (48, 6), (64, 4)])
def test_the_last_maps_keep_where_things_lie(size_px: int, side: int) -> None:
    assert encoder(size_px).features(random_images(1, size_px)).shape[2:] == (side, side)


def test_at_64_px_it_is_small() -> None:
    network = build(classes=("a", "b"), size_px=64, z_dim=64)
    # Four convolutions of 4 x 4 with biases from 3 channels to 16, 32, 64, 128; 128 x 4 x 4 features to 64 + 2.
    widths = [(3, 16), (16, 32), (32, 64), (64, 128)]
    expected = sum(16 * before * after + after for before, after in widths) + 2048 * 66 + 66
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == expected < 500_000
    values = sum(value.numel() for value in network.state_dict().values())
    assert 2 * values < 1_000_000  # bytes in half precision


def test_every_parameter_gets_a_gradient() -> None:
    network = encoder()
    z, logits = network(random_images(4))
    (z.square().sum() + logits.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_under_a_uniform_prior_z_stays_in_its_cube() -> None:
    bounded, free = (encoder(prior=prior) for prior in ("uniform", "normal"))
    for network in (bounded, free):
        with torch.no_grad():
            network.head.weight *= 100
    with torch.no_grad():
        (inside, _), (outside, _) = (network(random_images(8)) for network in (bounded, free))
    assert float(inside.abs().max()) <= 1 < float(outside.abs().max())
    torch.testing.assert_close(inside, torch.tanh(outside))


def test_an_answer_does_not_depend_on_the_batch_nor_on_the_mode() -> None:
    network, images = encoder(), random_images(4)
    trained, used = network.train()(images), network.eval()(images[1:2])
    for part, alone in zip(trained, used, strict=True):
        torch.testing.assert_close(part[1:2], alone)


@pytest.mark.parametrize("size_px", [-16, 0, 8, 15])
def test_images_that_are_too_small_are_refused(size_px: int) -> None:
    with pytest.raises(UserError, match=rf"at least 16 px, not {size_px}; use a larger generator\.$"):
        build(classes=("a", "b"), size_px=size_px, z_dim=4)
