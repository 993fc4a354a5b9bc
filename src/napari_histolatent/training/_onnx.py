"""Generators as ONNX files, each compared with torch before anybody gets it."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from napari_histolatent.training.load import LoadedGenerator

TOLERANCE = 1e-4
"""Largest difference of a pixel, in units of [-1, 1]."""
_CHECKED_BATCHES = (1, 3)
"""Neither is the batch that the network is traced with."""


class _Drawing(nn.Module):
    """A generator as one function of z and y (without classes: of z), whatever its network is made of."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        y = z[:, :0] if y is None else y
        images: Tensor = self.generator.synthesize(self.generator.map(z, y))
        return images


def write_generator_onnx(
    loaded: LoadedGenerator, path: Path, *, metadata: Mapping[str, str], seed: int = 0
) -> float:
    """Write a generator as ONNX and return the largest difference of a pixel from torch.

    Inputs z (batch, z_dim) and y (batch, K), output images (batch, 3, size_px, size_px) in [-1, 1], all float32;
    the batch is free. A generator without classes has no input y.

    Parameters
    ----------
    loaded
        On the CPU.
    path
        The file to write.
    metadata
        Put into the file's own metadata.
    seed
        Of the latent vectors that the two are compared on.

    Raises
    ------
    UserError
        If the packages are missing, the network cannot be exported, or the two differ by more than `TOLERANCE`.
    """
    onnx, _ = _packages()
    network = _Drawing(loaded.network).eval()
    names = ("z", "y") if loaded.network.classes else ("z",)
    try:
        with _quiet():
            graph = torch.export.export(
                network,
                _inputs(loaded, 2, torch.Generator().manual_seed(seed)),  # one would be taken for a constant
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) * len(names),
                # Else `len(z)` is taken for a constant, and the exporter quietly goes on with a fixed batch.
                strict=True,
            )
            program = torch.onnx.export(
                graph,
                input_names=list(names),
                output_names=["images"],
                dynamic_shapes=({0: "batch"},) * len(names),  # as whoever reads the file sees it
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(str(path))
    except RuntimeError as error:  # all that torch's exporters say is of this kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        msg = f"The network cannot be written as ONNX ({reason}); leave --onnx out, the safetensors file holds it too."
        raise UserError(msg) from error
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))
    return require_equal(path, loaded, seed=seed)


def require_equal(path: Path, loaded: LoadedGenerator, *, seed: int = 0) -> float:
    """Return the largest difference of a pixel between an ONNX file's images and torch's.

    Raises
    ------
    UserError
        If it is more than `TOLERANCE`.
    """
    _, runtime = _packages()
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    chance = torch.Generator().manual_seed(seed)
    network = _Drawing(loaded.network).eval()
    difference = 0.0
    for n in _CHECKED_BATCHES:
        given = _inputs(loaded, n, chance)
        with torch.no_grad():
            expected = network(*given)
        # A generator without classes has one input: the shorter list decides.
        fed = {name: value.numpy() for name, value in zip(("z", "y"), given, strict=False)}
        (found,) = session.run(["images"], fed)
        difference = max(difference, float((torch.from_numpy(found) - expected).abs().max()))
    if not difference <= TOLERANCE:
        msg = f"The ONNX file differs from torch by {difference:.1e}, more than {TOLERANCE:g}; leave --onnx out, and report this network."
        raise UserError(msg)
    return difference


def _inputs(loaded: LoadedGenerator, n: int, chance: torch.Generator) -> tuple[Tensor, ...]:
    # Within [-1, 1], where every prior has points.
    z = 2 * torch.rand(n, loaded.network.z_dim, generator=chance) - 1
    n_classes = len(loaded.network.classes)
    return (z, torch.rand(n, n_classes, generator=chance).softmax(dim=1)) if n_classes else (z,)


def _packages() -> tuple[Any, Any]:
    try:
        # torch's exporter needs onnxscript, and would say so only later.
        onnx, runtime, _ = map(import_module, ("onnx", "onnxruntime", "onnxscript"))
    except (ImportError, RuntimeError) as error:  # a broken build of one says it either way
        msg = f"An ONNX file needs onnx, onnxscript and onnxruntime ({error}); install them with `pip install 'napari-histolatent[onnx]'`, or leave --onnx out."
        raise UserError(msg) from error
    return onnx, runtime


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from telling the user about packages and axes that concern nobody here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
