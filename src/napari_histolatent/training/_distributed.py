"""The processes of one training: one, or several that divide each batch. By Lightning Fabric.

Every process draws the same chance for the whole batch and takes its part, so that noise and augmentation belong
to a patch and not to a process; gradients are averaged. Several processes then learn what one would.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.models.devices import resolve_device
from napari_histolatent.training._data import Part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor
    from torch.optim import Optimizer


class Processes:
    """The process itself, and those it trains with."""

    def __init__(self, fabric: Fabric, precision: Precision) -> None:
        self._fabric, self._precision = fabric, precision
        self.device: torch.device = fabric.device
        self.part = Part(fabric.global_rank, fabric.world_size)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and is asked to stop."""
        return self.part.index == 0

    def agree(self, value: int) -> int:
        """Return the first process's value, once all are here."""
        if self.part.of == 1:
            return value
        said = torch.tensor(value, device=self.device)
        torch.distributed.broadcast(said, src=0)
        return int(said)

    def mean(self, losses: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Return the losses of the whole batch."""
        if self.part.of == 1 or not losses:
            return {name: float(value) for name, value in losses.items()}
        # float64, as a Python number is; not on MPS, which has none and is one device anyway.
        values = torch.tensor([float(value) for value in losses.values()], device=self.device).double()
        reduced = self._fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(reduced, torch.Tensor)
        return dict(zip(losses, reduced.tolist(), strict=True))

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for the networks' forward passes: lower precision where it was asked for."""
        return self._precision.forward_context()

    def update(self, optimizer: Optimizer, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Step along the gradient of the whole batch's mean loss."""
        optimizer.zero_grad(set_to_none=True)
        # Only these gradients: those of other networks would be computed and thrown away.
        self._precision.backward(loss, None, inputs=list(parameters))
        if self.part.of > 1:
            self._average(parameters)
        self._precision.optimizer_step(optimizer)

    def _average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients over the processes: one exchange for all of them."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.part.of
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()

    def scaling(self) -> dict[str, nn.Module]:
        """Return what of the precision has to be kept in a checkpoint, as a module to go with the others."""
        scaler = self._precision.scaler if isinstance(self._precision, MixedPrecision) else None
        return {} if scaler is None else {"loss_scale": _LossScale(scaler)}


class _LossScale(nn.Module):
    """The state of a gradient scaler as a tensor: in fp16 the next step depends on it."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        super().__init__()
        self._scaler = scaler

    def get_extra_state(self) -> Tensor:
        state = self._scaler.state_dict()
        return torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        scale, tracker = state.tolist()
        self._scaler.load_state_dict(
            self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)}
        )


def join(*, device: str = "cpu", devices: int = 1, nodes: int = 1, precision: str = "fp32") -> Processes:
    """Become one of the processes of a training; the first of a machine starts the others there.

    Those run the same command again. On further machines the command is started with NODE_RANK, MASTER_ADDR and
    MASTER_PORT set, or by the cluster (SLURM, torchrun).

    Raises
    ------
    UserError
        If a device is not there, or the cluster was told of another number of processes.
    """
    place = resolve_device(device)
    _require_devices(device, place, devices)
    plugin: Precision = Precision()
    if precision != "fp32":
        plugin = MixedPrecision("bf16-mixed" if precision == "bf16" else "16-mixed", place.type)
    several = devices * nodes > 1
    if several and sys.flags.safe_path:
        # The processes that are started import nothing from the working folder either.
        os.environ["PYTHONSAFEPATH"] = "1"
    try:
        fabric = Fabric(
            accelerator=place.type,
            devices=devices if several or place.type != "cuda" else [place.index or 0],
            num_nodes=nodes,
            strategy="ddp" if several else "auto",
            # One process has nobody to find, also where it is one of many that a cluster runs side by side.
            plugins=[plugin] if several else [plugin, LightningEnvironment()],
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        if not several:
            raise
        msg = f"The training's {devices * nodes} processes could not be brought together ({error}); check --devices, --nodes and what the cluster was told."
        raise UserError(msg) from error
    if place.type == "cuda":
        torch.backends.cudnn.benchmark = True  # every step has the same shapes
    return Processes(fabric, plugin)


def _require_devices(name: str, place: torch.device, devices: int) -> None:
    if devices == 1 or place.type == "cpu":
        return
    there = torch.cuda.device_count() if place.type == "cuda" else 1
    if place.index is not None or devices > there:
        msg = f"{devices} devices were asked for, {name!r} names {1 if place.index is not None else there}; train with --devices {there} or --device cpu."
        raise UserError(msg)
