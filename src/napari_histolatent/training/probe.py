"""A few steps of a training, timed: what the whole of it would take on this machine."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psutil
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models import build_classifier, build_gan
from napari_histolatent.training.config import ClassifierConfig, TrainingConfig
from napari_histolatent.training.loop import train

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.runs import RunEvent

_WARM_UP_STEPS = 2
_MOST_STEPS = 40
_NEVER = 10**9
_COPIES = {"model": 1, "trained": 3}
"""Of its weights a checkpoint holds the used ones once, and each trained network with Adam's two moments."""


class _EnoughError(Exception):
    """Ends the loop before it writes anything."""


def measure(
    config: TrainingConfig | ClassifierConfig, dataset: PatchDataset, *, folder: Path, seconds: float = 8.0
) -> dict[str, Any]:
    """Train for a few steps and return what was seen; nothing is kept.

    Parameters
    ----------
    config
        What is to be trained. Several processes are measured as one, with its share of the batch.
    dataset
        Patches of its size.
    folder
        An empty folder; nothing is written into it, unless the loop fails.
    seconds
        Stop after this long (or a step, where one takes longer), the first two steps not counted.

    Returns
    -------
    dict
        `seconds_per_step` (mean of the steps after the first two: lazy penalties come at some of them only),
        `seconds_per_step_median`, `steps`, `device`, `checkpoint_bytes`, `memory_bytes` (of the device, on the
        processor of the process, at its highest). For measurements, checkpoints and the encoder's steps see
        `beside_steps`; they draw no more images at once than a step has.

    Raises
    ------
    UserError
        If the config does not fit the dataset or the device is absent.
    """
    ends: list[float] = []
    devices: list[str] = []

    def on_event(event: RunEvent) -> None:
        if event.kind == "started":
            devices.append(str(event.data.get("device", "cpu")))
        if event.kind != "progress":
            return
        ends.append(perf_counter())
        n = len(ends) - _WARM_UP_STEPS
        if n > _MOST_STEPS or (n > 1 and ends[-1] - ends[_WARM_UP_STEPS - 1] > seconds):
            raise _EnoughError

    with suppress(_EnoughError):
        train(_short(config), dataset, folder=folder, on_event=on_event, should_stop=lambda: False)
    spans = [b - a for a, b in pairwise(ends)][_WARM_UP_STEPS - 1 :]
    if not spans:
        msg = "No step was done that could be timed; start the training and watch its speed."
        raise UserError(msg)
    device = torch.device(devices[0])
    return {
        "seconds_per_step": sum(spans) / len(spans),
        "seconds_per_step_median": median(spans),
        "steps": len(spans),
        "device": str(device),
        "checkpoint_bytes": checkpoint_bytes(config, dataset.classes),
        "memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_bytes(),
    }


def _peak_bytes() -> int:
    """Return the most memory that this process has held so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def checkpoint_bytes(config: TrainingConfig | ClassifierConfig, classes: tuple[str, ...]) -> int:
    """Return about how large a checkpoint is: weights, moving average and Adam's moments in float32."""
    if isinstance(config, ClassifierConfig):
        network: Any = build_classifier(
            config.network, classes=classes, size_px=config.size_px, base_channels=config.base_channels
        )
        return sum(_COPIES.values()) * _bytes_of(network)
    used = () if config.network == "dcgan" else classes
    generator, discriminator = build_gan(
        config.network, classes=used, size_px=config.size_px, **config.network_options
    )
    trained = _bytes_of(generator) + _bytes_of(discriminator)
    return _COPIES["model"] * _bytes_of(generator) + _COPIES["trained"] * trained


def _short(config: TrainingConfig | ClassifierConfig) -> TrainingConfig | ClassifierConfig:
    """Return the config with nothing between the steps: no checkpoint, no measurement, no second process."""
    changes: dict[str, Any] = {
        "steps": _NEVER,
        "log_every": 1,
        "checkpoint_every": _NEVER,
        "metrics_every": 0,
        "encoder_steps": 0,
        "devices": 1,
        "nodes": 1,
        "tensorboard": False,
        "halve_batch_if_out_of_memory": False,
    }
    if isinstance(config, TrainingConfig):
        changes["batch_size"] = config.batch_size // config.processes
    known = {item.name for item in fields(config)}
    return config.with_changes(**{name: value for name, value in changes.items() if name in known})


def _bytes_of(network: Any) -> int:
    return sum(4 * tensor.numel() for tensor in network.state_dict().values())
