"""How different two images look: a distance in the maps of a frozen network that needs no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from napari_histolatent.models.metrics import RandomFeatures, digest_of_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_histolatent.models.protocols import Classifier

_EPSILON = 1e-8


class FeatureStack(Protocol):
    """A frozen network that shows what several of its layers see."""

    @property
    def digest(self) -> str:
        """sha256 of its weights: two stacks of one digest measure alike."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Return the maps of each layer, (B, C_l, H_l, W_l), of images (B, 3, H, W); gradients pass through."""


class RandomStack:
    """The three layers of `models.metrics.RandomFeatures`: seeded random convolutions, the same everywhere."""

    def __init__(self, *, seed: int = 0) -> None:
        self._network = RandomFeatures(seed=seed)
        self.digest = digest_of_network(self._network)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return maps of 32, 64 and 128 channels, each of half the side of the one before."""
        maps = [images]
        self._network.to(images.device)
        for weight in self._network.weights:
            maps.append(torch.relu(nn.functional.conv2d(maps[-1], weight, stride=2, padding=1)))
        return maps[1:]


class ClassifierStack:
    """What a classifier sees at each size of its maps: the output of the last layer of that size.

    The classifier is put in evaluation mode and frozen; which of its layers count is found by a trial pass.
    """

    def __init__(self, classifier: Classifier) -> None:
        assert isinstance(classifier, nn.Module)
        self._network = classifier.eval().requires_grad_(False)
        self.digest = digest_of_network(self._network)
        self._layers = _last_of_each_size(self._network, classifier.size_px)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the maps of each of those layers."""
        maps: dict[int, Tensor] = {}
        hooks = [
            layer.register_forward_hook(lambda _, __, output, i=i: maps.__setitem__(i, output))
            for i, layer in enumerate(self._layers)
        ]
        try:
            self._network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return [maps[i] for i in range(len(self._layers))]


def _last_of_each_size(network: nn.Module, size_px: int) -> list[nn.Module]:
    last: dict[int, nn.Module] = {}

    def see(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[-1] > 1:
            last[output.shape[-1]] = layer

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(see) for leaf in leaves]
    place = next(network.parameters()).device
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, size_px, size_px, device=place))
    finally:
        for hook in hooks:
            hook.remove()
    # One layer may be used at several sizes: its last maps are those that the hook will see.
    return list(dict.fromkeys(last.values()))


class PerceptualDistance:
    """The distance of Zhang et al. 2018 (LPIPS), equation 1, with all channels weighed alike.

    Of each layer the channels of a place are brought to length 1; their squared difference is averaged over places
    and summed over layers. What the places show has to agree, not how bright it is. Not comparable with figures
    of the trained LPIPS, nor between stacks of different digests.
    """

    def __init__(self, features: FeatureStack | None = None) -> None:
        self._features: FeatureStack = RandomStack() if features is None else features

    @property
    def digest(self) -> str:
        """Of the frozen network."""
        return self._features.digest

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance of each pair, shape (B,), of images (B, 3, H, W) in [-1, 1]; differentiable."""
        return self.between(self.of(a), self.of(b))

    def of(self, images: Tensor) -> list[Tensor]:
        """Return the normalised maps of images, to be compared with several others."""
        return [_unit(maps) for maps in self._features(images)]

    def between(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return the distance, shape (B,), of what `of` returned of two batches."""
        layers = [(one - other).square().sum(dim=1).mean(dim=(1, 2)) for one, other in zip(a, b, strict=True)]
        return torch.stack(layers).sum(dim=0)


def _unit(maps: Tensor) -> Tensor:
    # Under the root, so that its slope is finite where all channels are 0.
    return maps * torch.rsqrt(maps.square().sum(dim=1, keepdim=True) + _EPSILON)
