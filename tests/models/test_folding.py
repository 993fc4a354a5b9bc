from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from napari_histolatent.models import build_gan, folding
from napari_histolatent.models.folding import SAME, folded, kept_folded

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = ("epithelium", "stroma")


def generator(design: str, *, network: str = "cdcgan", seed: int = 0) -> Any:
    """A generator whose normalisations have statistics, gains and shifts of their own, as after a training."""
    torch.manual_seed(seed)
    classes = CLASSES if network == "cdcgan" else ()
    net: Any = build_gan(network, classes=classes, size_px=16, design=design, z_dim=6, base_channels=4)[0]
    for parameter in net.parameters():
        if parameter.ndim > 1:  # s1's first weights draw grey
            nn.init.normal_(parameter, std=(parameter[0].numel() / 4) ** -0.5)
    for norm in norms_of(net):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 2)
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return net.eval()


def norms_of(net: nn.Module) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def latents(net: Any, n: int = 3) -> torch.Tensor:
    z = torch.rand(n, net.z_dim) * 2 - 1
    return net.map(z, torch.eye(len(net.classes))[torch.arange(n) % max(1, len(net.classes))][:n])


@pytest.mark.parametrize("design", ["s1", "modern"])
@pytest.mark.parametrize("network", ["cdcgan", "dcgan"])
def test_the_same_pictures_without_any_normalisation(design: str, network: str) -> None:
    net = generator(design, network=network)
    w = latents(net) if network == "cdcgan" else net.map(torch.rand(3, 6) * 2 - 1, torch.zeros(3, 0))
    result = folded(net)
    assert not norms_of(result)
    with torch.no_grad():
        expected = net.synthesize(w)
        torch.testing.assert_close(result.synthesize(w), expected, rtol=0, atol=SAME)
    assert expected.std() > 0.05, "compared more than grey"


@pytest.mark.parametrize("design", ["s1", "modern"])
def test_offsets_of_single_layers_mean_what_they_did(design: str) -> None:
    net = generator(design)
    w = latents(net).contiguous()
    w[:, 2] += torch.randn(w[:, 2].shape)
    with torch.no_grad():
        expected, plain = net.synthesize(w), net.synthesize(latents(net))
        torch.testing.assert_close(folded(net).synthesize(w), expected, rtol=0, atol=SAME)
    assert (expected - plain).abs().max() > 0.01


@pytest.mark.parametrize("design", ["s1", "modern"])
def test_the_network_given_stays_as_it_is(design: str) -> None:
    net = generator(design)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    wanted_gradients = [parameter.requires_grad for parameter in net.parameters()]
    result = folded(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [parameter.requires_grad for parameter in net.parameters()] == wanted_gradients
    assert not any(module._forward_hooks for module in net.modules())
    assert not any(module._forward_hooks for module in result.modules())
    shared = {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in result.parameters()}
    assert not shared, "a copy"
    assert (result.size_px, result.classes, result.prior) == (net.size_px, net.classes, net.prior)


def test_a_network_in_training_mode_is_folded_as_it_evaluates() -> None:
    net = generator("s1")
    w = latents(net)
    with torch.no_grad():
        expected = net.synthesize(w)
        net.train()
        result = folded(net)
        assert net.training
        assert not result.training
        torch.testing.assert_close(result.synthesize(w), expected, rtol=0, atol=SAME)


class Small(nn.Module):
    """A generator of 8 px whose middle is given."""

    classes, size_px, z_dim, num_ws, w_dim, prior = ("a",), 8, 3, 1, 4, "normal"

    def __init__(self, middle: Callable[[Small, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.seed = nn.Linear(4, 6 * 16)
        self.stage = nn.ConvTranspose2d(6, 3, 4, stride=2, padding=1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in (self.norm, self.other):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.2, 2)
        self.middle = middle
        self.eval()

    def map(self, z: torch.Tensor, y: torch.Tensor, *, psi: float = 1.0) -> torch.Tensor:
        return torch.cat([z * psi, y], 1)[:, None]

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.middle(self, self.stage(self.seed(w[:, 0]).unflatten(1, (6, 4, 4)))))


MIDDLES: dict[str, tuple[Callable[[Small, torch.Tensor], torch.Tensor], int]] = {
    "alone": (lambda net, x: net.norm(x), 1),
    "beside what goes around it": (lambda net, x: net.norm(x) + x, 2),
    "two of one layer": (lambda net, x: net.norm(x) + net.other(x), 2),
    "used twice": (lambda net, x: net.norm(net.norm(x)), 2),
    "after something else": (lambda net, x: net.norm(torch.relu(x)), 2),
    "of another layout": (lambda net, x: net.norm(x.transpose(2, 3).contiguous()), 2),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_what_cannot_be_folded_is_drawn_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    middle, left = MIDDLES[name]
    net = Small(middle)
    result = folded(net)
    assert len(norms_of(result)) == left
    w = torch.randn(2, 1, 4)
    with torch.no_grad():
        torch.testing.assert_close(result.synthesize(w), net.synthesize(w), rtol=0, atol=SAME)


def test_a_generator_that_is_no_module_is_left_alone() -> None:
    class Plain:
        pass

    plain = Plain()
    assert folded(plain) is plain  # type: ignore[type-var]


def test_a_network_is_folded_once_by_however_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    net, calls, real = generator("modern"), [], folded
    monkeypatch.setattr(folding, "folded", lambda item: calls.append(item) or real(item))
    with ThreadPoolExecutor(4) as threads:
        copies = set(threads.map(kept_folded, [net] * 8))
    assert len(calls) == len(copies) == 1
    assert not norms_of(copies.pop())


def test_a_network_that_changed_is_folded_anew() -> None:
    net = generator("s1")
    before, w = kept_folded(net), latents(net)
    with torch.no_grad():
        next(net.parameters()).mul_(1.5)
        after = kept_folded(net)
        assert after is not before
        torch.testing.assert_close(after.synthesize(w), net.synthesize(w), rtol=0, atol=SAME)
        norms_of(net)[0].running_mean.add_(1)
        torch.testing.assert_close(kept_folded(net).synthesize(w), net.synthesize(w), rtol=0, atol=SAME)


def test_a_network_that_learns_or_lies_elsewhere_draws_for_itself() -> None:
    net = generator("s1")
    assert kept_folded(net.train()) is net
    elsewhere = net.eval().to("meta")
    assert kept_folded(elsewhere) is elsewhere


def test_a_folded_copy_goes_with_its_network() -> None:
    net = generator("s1")
    ends = weakref.ref(net), weakref.ref(kept_folded(net))
    del net
    gc.collect()
    assert [end() for end in ends] == [None, None]
