"""A generator's weights, changed for one tile: kept with the tile, never in the place of the checkpoint's.

Importing this costs no torch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._files import replacing
from napari_histolatent.errors import CheckpointError, writing_to

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.models.protocols import Generator

_OWNER = "checkpoint_digest"
_LEAST_AXES = 2
"""Tensors of fewer are kept whole: they are small."""


@dataclass(frozen=True, eq=False)
class TunedWeights:
    """The parameters of a copy of a generator, tuned to one tile (pivotal tuning, Roich et al. 2021)."""

    digest: str
    """sha256 of the names, shapes and values: the name that points carry."""
    checkpoint_digest: str
    """Of the generator that it is a copy of."""
    state: Mapping[str, NDArray[Any]]
    """Parameter name -> values; matrices and larger ones in half precision, which a saved file has too."""

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]], *, checkpoint_digest: str) -> TunedWeights:
        """Return the weights of a tuned copy, rounded to half precision where that holds them."""
        kept = {name: _halved(value) for name, value in sorted(state.items())}
        return cls(digest_of_state(kept), checkpoint_digest, kept)

    def save(self, path: Path) -> None:
        """Write the weights as safetensors, whole or not at all.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        from safetensors.numpy import save

        with writing_to(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(save(dict(self.state), metadata={_OWNER: self.checkpoint_digest}))

    @classmethod
    def load(
        cls, path: Path, *, checkpoint_digest: str | None = None, network: Generator | None = None
    ) -> TunedWeights:
        """Read the weights of a tuned copy. Nothing is unpickled.

        Parameters
        ----------
        path
            A file that `save` wrote.
        checkpoint_digest
            Of the generator that it has to be a copy of; None: any.
        network
            That generator; the shapes in the file's header have to be its own, before any value is read.

        Raises
        ------
        CheckpointError
            If it cannot be read, or is not a copy of this generator.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                owner = (file.metadata() or {}).get(_OWNER, "")
                names = list(file.keys())
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
                _require_owner(owner, checkpoint_digest, str(path))
                if network is not None:
                    _require_shapes(shapes, network, str(path))
                state = {name: file.get_tensor(name) for name in sorted(names)}
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            msg = f"{path} cannot be read as the weights of a tuned copy ({error}); search its tile again with the method faithful."
            raise CheckpointError(msg) from error
        if not all(value.dtype.kind == "f" and np.isfinite(value).all() for value in state.values()):
            msg = (
                f"{path} holds weights that are not numbers; search its tile again with the method faithful."
            )
            raise CheckpointError(msg)
        return cls(digest_of_state(state), owner, state)

    def applied(self, network: Generator) -> Generator:
        """Return a copy of the generator with these weights, in evaluation mode and frozen; it stays as it is.

        Raises
        ------
        CheckpointError
            If they are not of this network.
        """
        import torch

        _require_shapes({name: value.shape for name, value in self.state.items()}, network, "The tuned copy")
        changed: Any = copy.deepcopy(network)
        parameters = dict(changed.named_parameters())
        with torch.no_grad():
            for name, value in self.state.items():
                parameters[name].copy_(torch.from_numpy(np.array(value, np.float32)))
        tuned: Generator = changed.eval().requires_grad_(False)
        return tuned


def _halved(value: NDArray[Any]) -> NDArray[Any]:
    if value.ndim < _LEAST_AXES:
        return np.ascontiguousarray(value)
    with np.errstate(over="ignore"):
        small = value.astype(np.float16)
    return np.ascontiguousarray(small if np.isfinite(small).all() else value)


def digest_of_state(state: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 of the names, shapes, types and values of weights."""
    hasher = sha256()
    for name, value in sorted(state.items()):
        hasher.update(f"{name} {value.shape} {value.dtype};".encode())
        hasher.update(np.ascontiguousarray(value).tobytes())
    return hasher.hexdigest()


def _require_owner(owner: str, wanted: str | None, what: str) -> None:
    if not owner:
        msg = f"{what} does not say which generator it is a copy of; search its tile again with the method faithful."
        raise CheckpointError(msg)
    if wanted is not None and owner != wanted:
        msg = f"{what} is a copy of another generator (digest {owner[:12]}, this one has {wanted[:12]}); search its tile again with this one."
        raise CheckpointError(msg)


def _require_shapes(shapes: Mapping[str, tuple[int, ...]], network: Any, what: str) -> None:
    own = {name: tuple(value.shape) for name, value in network.named_parameters()}
    for name, shape in shapes.items():
        if own.get(name) != tuple(shape):
            msg = f"{what} has weights {name} of shape {tuple(shape)}, the generator {own.get(name, 'none of that name')}; search its tile again with this generator."
            raise CheckpointError(msg)
