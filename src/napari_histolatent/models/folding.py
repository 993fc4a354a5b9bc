"""A copy of a trained network that draws faster: normalisation folded into the layers before it, channels innermost.

In evaluation mode batch normalisation is one factor and one summand a channel (Ioffe & Szegedy 2015, algorithm 2), which
the convolution or the linear layer before it can do as well. Which layer that is, is seen in one pass of the
network itself, so that this knows no network by name. Channels innermost in memory is how a CPU's convolutions compute
anyway: without it they spend a sixth of the time on putting maps in order (s1 at 256 px), and elementwise work is as quick.
"""

from __future__ import annotations

import copy
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histolatent.models.protocols import Generator

_Network = TypeVar("_Network", bound="Generator")

SAME = 1e-4
"""By how much a pixel may differ from the network's own, of values from -1 to 1."""
_CHECKED = 2
_SEED = 0

_FOLDABLE = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

_kept: WeakKeyDictionary[nn.Module, tuple[object, Any]] = WeakKeyDictionary()
"""Of each network: what its weights were, and its folded copy. A copy holds nothing of its network."""
_one_at_a_time = Lock()


def kept_folded(generator: _Network) -> _Network:
    """Return what draws a generator's pictures soonest: its folded copy, made once and kept as long as the generator.

    A network whose weights changed since, in place or by moving, is folded anew. One that is learning, or lies on another
    device than the CPU, draws for itself. May be called by several threads.

    Parameters
    ----------
    generator
        That draws more than a few pictures: folding costs as much time as some ten of them.
    """
    if not isinstance(generator, nn.Module) or generator.training:
        return generator
    if next(generator.parameters(), torch.empty(0)).device.type != "cpu":
        return generator
    weights = _weights_now(generator)
    with _one_at_a_time:
        before, found = _kept.get(generator, (None, None))
        if before != weights:
            found = folded(generator)
            _kept[generator] = weights, found
    result: _Network = found
    return result


def _weights_now(network: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what is another whenever weights are: where they lie, and how often they were written to."""
    held = (*network.parameters(), *network.buffers())
    return tuple((value.data_ptr(), value._version) for value in held)


def folded(generator: _Network) -> _Network:
    """Return a copy of a generator that draws the same pictures (to 1e-4) in less time: 0.8 x (s1), 0.65 x (modern).

    For drawing alone: the copy is in evaluation mode and has no normalisation to learn or settle any more. The network
    that is given stays as it is. Where a normalisation cannot be folded it stays, too; where the copy would draw
    anything else (two paths that share a layer, say), the copy is not folded. Its pictures are channels-last tensors.

    Parameters
    ----------
    generator
        In evaluation mode, with the weights it is to draw with: later changes do not reach the copy.
    """
    if not isinstance(generator, nn.Module):
        return generator
    result = _copied(generator)
    w = _latents(generator)
    expected = _pictures(result, w)
    for name, before in _pairs(result, w):
        _fold(before, result.get_submodule(name))
        parent, _, own = name.rpartition(".")
        # By name in the table of modules: a list takes no attributes.
        result.get_submodule(parent)._modules[own] = nn.Identity()
    # Pictures that are all but grey (of a network that has learnt nothing) are to differ as much less.
    limit = SAME * min(1.0, float(expected.std()))
    if not float((_pictures(result, w) - expected).abs().max()) <= limit:
        return _copied(generator)
    return result


def _copied(generator: Any) -> Any:
    return copy.deepcopy(generator).eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _latents(generator: Generator) -> Tensor:
    """Return some latents w, with another one in each layer, so that no path of the network is left out."""
    assert isinstance(generator, nn.Module)
    place = next(generator.parameters())
    chance = torch.Generator().manual_seed(_SEED)
    shape = (_CHECKED, generator.num_ws, generator.w_dim)
    return torch.rand(shape, generator=chance).mul(2).sub(1).to(place.device, place.dtype)


@torch.no_grad()
def _pictures(generator: Generator, w: Tensor) -> Tensor:
    """Return what is drawn of latents that are alike in all layers, and of such that are not."""
    alike = w[:, :1].expand(-1, w.shape[1], -1)
    return torch.cat([generator.synthesize(alike), generator.synthesize(w)])


@torch.no_grad()
def _pairs(generator: Generator, w: Tensor) -> list[tuple[str, nn.Module]]:
    """Return the normalisations that see one layer's output and nothing else, by name, with that layer."""
    assert isinstance(generator, nn.Module)
    made: dict[tuple[int, int], nn.Module] = {}
    kept: list[Tensor] = []
    befores: dict[nn.Module, set[nn.Module | None]] = {}
    afters: dict[nn.Module, set[nn.Module]] = {}

    def remember(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        kept.append(output)  # while it is there, no other tensor lies in its place
        made[output.data_ptr(), output.numel()] = module

    def look(module: nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> None:
        # A view of what was put out (unflattened, say) lies in the same place.
        before = made.get((inputs[0].data_ptr(), inputs[0].numel()))
        befores.setdefault(module, set()).add(before)
        if before is not None:
            afters.setdefault(before, set()).add(module)

    hooks = []
    for module in generator.modules():
        if isinstance(module, _FOLDABLE):
            hooks.append(module.register_forward_hook(remember))
        elif _is_foldable(module):
            hooks.append(module.register_forward_hook(look))
    try:
        generator.synthesize(w[:1, :1].expand(-1, w.shape[1], -1))
    finally:
        for hook in hooks:
            hook.remove()
    names = {module: name for name, module in generator.named_modules()}
    pairs = []
    for module, found in befores.items():
        (before, *others) = found
        if before is None or others or len(afters[before]) > 1 or not _fit(before, module):
            continue
        pairs.append((names[module], before))
    return pairs


def _is_foldable(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is not None


def _fit(before: Any, norm: Any) -> bool:
    if isinstance(before, nn.Linear):
        return bool(before.out_features % norm.num_features == 0)
    is_grouped = isinstance(before, nn.ConvTranspose2d) and before.groups > 1
    return bool(before.out_channels == norm.num_features and not is_grouped)


def _fold(before: Any, norm: Any) -> None:
    """Have a layer put out what a normalisation makes of its output: computed in float64."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    weight = before.weight
    axis = 1 if isinstance(before, nn.ConvTranspose2d) else 0
    if isinstance(before, nn.Linear):
        # Unflattened to maps: the places of a channel lie beside each other.
        places = before.out_features // len(scale)
        scale, shift = scale.repeat_interleave(places), shift.repeat_interleave(places)
    shape = [1] * weight.ndim
    shape[axis] = -1
    bias = shift if before.bias is None else shift + before.bias.double() * scale
    before.weight = nn.Parameter((weight.double() * scale.view(shape)).to(weight.dtype), requires_grad=False)
    before.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
