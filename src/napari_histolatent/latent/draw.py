"""From points to pixels."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.models.folding import kept_folded
from napari_histolatent.models.images import to_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.latent.points import LatentPoint
    from napari_histolatent.latent.tuned import TunedWeights
    from napari_histolatent.models.protocols import Generator

_AT_ONCE = 64
_MOST_COPIES = 2
"""Tuned copies of a generator that are kept: that of the tile before too, for going back and forth."""

_copies: WeakKeyDictionary[nn.Module, OrderedDict[str, Any]] = WeakKeyDictionary()
_one_at_a_time = Lock()


def draw(
    generator: Generator,
    points: Sequence[LatentPoint],
    *,
    device: torch.device,
    folds: bool = True,
) -> NDArray[np.uint8]:
    """Return the generator's images of points, uint8, shape (n, size_px, size_px, 3).

    A point of a tuned copy has to be drawn by that copy (`tuned_copy`).

    Parameters
    ----------
    generator
        In evaluation mode.
    points
        Of its latent space.
    device
        It lies on.
    folds
        Whether its folded copy draws, the same to 1e-4 of a range from -1 to 1: not worth it for a network that is gone
        after a few pictures.

    Raises
    ------
    UserError
        If a point's offsets are not of this generator's layers.
    """
    network = kept_folded(generator) if folds else generator
    return np.concatenate([to_pixels(part) for part in _parts(network, points, device)])


def tuned_copy(generator: Generator, weights: TunedWeights) -> Generator:
    """Return the copy of a generator with tuned weights, the same until two others were asked for.

    For copies that draw again and again, as of a tile that is edited; others are made by `TunedWeights.applied`. The
    generator has to keep its weights.

    Raises
    ------
    CheckpointError
        If the weights are not of this network.
    """
    if not isinstance(generator, nn.Module):
        return weights.applied(generator)
    with _one_at_a_time:
        copies = _copies.setdefault(generator, OrderedDict())
        if weights.digest not in copies:
            copies[weights.digest] = weights.applied(generator)
        copies.move_to_end(weights.digest)
        while len(copies) > _MOST_COPIES:
            copies.popitem(last=False)
        result: Generator = copies[weights.digest]
    return result


def drawn_float(generator: Generator, points: Sequence[LatentPoint], device: torch.device) -> Tensor:
    """Return the images as floats (n, 3, size_px, size_px) in [-1, 1], on the device, drawn by the network as it is.

    Raises
    ------
    UserError
        If a point's offsets are not of this generator's layers.
    """
    return torch.cat(list(_parts(generator, points, device)))


def _parts(generator: Generator, points: Sequence[LatentPoint], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(points), _AT_ONCE):
        part = points[start : start + _AT_ONCE]
        with torch.no_grad():  # around each pass alone: a generator function keeps the caller's mode else
            yield generator.synthesize(latents_of(generator, part, device))


def latents_of(generator: Generator, points: Sequence[LatentPoint], device: torch.device) -> Tensor:
    """Return w (n, num_ws, w_dim) of points: map(z, y) and each layer's offset.

    Raises
    ------
    UserError
        If a point's offsets are not of this generator's layers.
    """
    z = torch.tensor([point.values for point in points], device=device)
    y = torch.tensor([point.class_weights for point in points], device=device)
    w = generator.map(z, y)
    if not any(point.offsets for point in points):
        return w
    offsets = torch.zeros(w.shape, device=device)
    for i, point in enumerate(points):
        if not point.offsets:
            continue
        shape = (len(point.offsets), len(point.offsets[0]))
        if shape != tuple(w.shape[1:]):
            msg = f"The point has offsets for {shape[0]} layers of {shape[1]} numbers, the generator has {w.shape[1]} of {w.shape[2]}; search the tile again."
            raise UserError(msg)
        offsets[i] = torch.tensor(point.offsets, device=device)
    return w + offsets
