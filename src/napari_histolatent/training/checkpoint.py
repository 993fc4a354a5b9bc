"""Checkpoints: safetensors and JSON, whole or not there. Nothing is ever unpickled."""

from __future__ import annotations

import os
import re
import reprlib
import shutil
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from napari_histolatent._files import (
    DamagedJsonError,
    digest_of_file,
    json_field,
    read_json_object,
    replacing,
    write_json,
)
from napari_histolatent.errors import CheckpointError
from napari_histolatent.training._keeping import Measured, best_of, steps_to_drop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from napari_histolatent.training._task import TrainingTask

FORMAT_VERSION = 1
MODEL_FILE, STATE_FILE, INFO_FILE = "model.safetensors", "training.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder's facts; the weights stay on disk until they are asked for. Needs no torch."""

    path: Path
    kind: str
    """What was trained: gan, classifier or encoder."""
    step: int
    steps: int
    config: dict[str, Any]
    classes: tuple[str, ...]
    size_px: int
    mpp: float | None
    """Micrometres per pixel of the patches it learnt from, where known."""
    dataset_digest: str
    digest: str
    """sha256 of the weights that are used: the name of this model wherever it is cited."""
    metrics: dict[str, Any]
    state_digest: str = ""
    """sha256 of what a training needs besides to go on; empty: it was not written down."""

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read a checkpoint's facts.

        Raises
        ------
        CheckpointError
            If it is not one, is incomplete, or was written by a newer version.
        """
        try:
            info = read_json_object(path / INFO_FILE)
        except DamagedJsonError as error:
            msg = f"{path} is not a checkpoint ({INFO_FILE} {error}); choose a run folder or another checkpoint."
            raise CheckpointError(msg) from error
        version = info.get("format_version")
        if version != FORMAT_VERSION:
            msg = f"{path} has checkpoint format {reprlib.repr(version)}, this version reads {FORMAT_VERSION}; update napari-histolatent."
            raise CheckpointError(msg)
        try:
            return cls(
                path=path,
                kind=json_field(info, "kind", str),
                step=json_field(info, "step", int, least=0),
                steps=json_field(info, "steps", int, least=0),
                config=json_field(info, "config", dict),
                classes=_classes_of(info),
                size_px=json_field(info, "size_px", int, least=1),
                mpp=None if info.get("mpp", 0) is None else json_field(info, "mpp", float, least=1e-6),
                dataset_digest=json_field(info, "dataset_digest", str),
                digest=json_field(info, "digest", str),
                metrics=_metrics_of(info),
                state_digest=json_field({"state_digest": "", **info}, "state_digest", str),
            )
        except ValueError as error:
            msg = f"{path / INFO_FILE} lacks or garbles {error}; choose another checkpoint of the run."
            raise CheckpointError(msg) from error


def _classes_of(info: Mapping[str, Any]) -> tuple[str, ...]:
    names = json_field(info, "classes", list)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"'classes' ({reprlib.repr(names)})")
    return tuple(names)


def _metrics_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics, in which the next checkpoint looks for the KID; null: it was not measured, or no number."""
    metrics: dict[str, Any] = json_field(info, "metrics", dict)
    if metrics.get("kid") is not None:
        json_field(metrics, "kid", float)
    return metrics


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest step first. Half-written ones have other names."""
    _put_back_orphans(folder)
    return sorted(
        path
        for path in folder.glob("step-*")
        if path.name.removeprefix("step-").isdecimal() and (path / INFO_FILE).is_file()
    )


def latest_checkpoint(folder: Path) -> Checkpoint:
    """Return the newest checkpoint of a run's checkpoints folder whose files can be read.

    Raises
    ------
    CheckpointError
        If there is none yet, or none can be read.
    """
    broken: CheckpointError | None = None
    for path in reversed(checkpoints_in(folder)):
        try:
            checkpoint = Checkpoint.open(path)
            _require_whole(path / MODEL_FILE)
        except CheckpointError as error:
            broken = broken or error
            continue
        return checkpoint
    if broken:
        raise broken
    msg = f"{folder.parent} has no checkpoint yet; let it train on, or choose another run."
    raise CheckpointError(msg)


def save_checkpoint(
    folder: Path,
    task: TrainingTask,
    *,
    step: int,
    facts: dict[str, Any],
    keep: int = 2,
    milestone_every: int = 0,
    best_file: Path | None = None,
) -> Checkpoint:
    """Write a checkpoint after `step` steps, then drop those that need not stay.

    Whatever goes wrong while it is written, those there were before are whole.

    Parameters
    ----------
    folder
        The run's checkpoints folder.
    task
        Whose weights, optimisers and source of chance are saved.
    step
        Steps done.
    facts
        kind, steps, config, classes, size_px, mpp, dataset_digest and metrics.
    keep
        Newest checkpoints to keep.
    milestone_every
        Every so many steps a checkpoint is kept for good; 0: none.
    best_file
        Where the one with the lowest KID is named, which is kept too; None: it is not looked for.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}"
    with _aside(path), replacing(path) as temporary:
        temporary.mkdir()
        # By way of bytes: safetensors' own writer hides the system's reason when a disk is full.
        (temporary / MODEL_FILE).write_bytes(save(_contiguous(task.model.state_dict())))
        (temporary / STATE_FILE).write_bytes(save(_training_state(task)))
        digest = digest_of_file(temporary / MODEL_FILE)
        info = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "digest": digest,
            "state_digest": digest_of_file(temporary / STATE_FILE),
            **facts,
        }
        write_json(temporary / INFO_FILE, info)
    saved = Checkpoint.open(path)
    there = {_step_of(other): other for other in checkpoints_in(folder)}
    best = _note_best(best_file, saved, there) if best_file else None
    for old in steps_to_drop(there, at=step, newest=keep, milestone_every=milestone_every, best=best):
        shutil.rmtree(there[old])
    return saved


@contextmanager
def _aside(path: Path) -> Iterator[None]:
    """Put a checkpoint of the same step out of the way; back again if its successor could not be written.

    There is one after a run was set back and came to this step again.
    """
    if not path.exists():
        yield
        return
    for left in _set_aside(path.parent, path.name):
        shutil.rmtree(left, ignore_errors=True)
    # The name says whose it is: as long as that process lives, it is no orphan.
    old = path.with_name(f".{path.name}.{_host()}-{os.getpid()}.old")
    path.rename(old)
    try:
        yield
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back_orphans(folder: Path) -> None:
    """Give checkpoints their names back that a killed process had put out of the way for a successor."""
    for old in _set_aside(folder, "step-*"):
        step, _, whose = old.name.removeprefix(".").removesuffix(".old").partition(".")
        host, _, process = whose.rpartition("-")
        # Of another host's processes nothing is known: the disk may be shared.
        if host == _host() and process.isdecimal() and not psutil.pid_exists(int(process)):
            # Another reader may have been quicker, or the successor is there after all.
            with suppress(OSError):
                old.rename(folder / step)


def _set_aside(folder: Path, name: str) -> list[Path]:
    return list(folder.glob(f".{name}.*.old"))


def _host() -> str:
    return re.sub(r"[^\w]+", "_", socket.gethostname())


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _note_best(file: Path, saved: Checkpoint, there: dict[int, Path]) -> int | None:
    """Write down which checkpoint has the lowest KID, and return its step."""
    others = []
    for step, path in there.items():
        # Nobody can use a broken one, however good it was.
        with suppress(CheckpointError):
            if step < saved.step:
                others.append(Measured.of(step, Checkpoint.open(path).metrics))
    best = best_of(Measured.of(saved.step, saved.metrics), others)
    if best is None:
        return None
    noted = {
        "checkpoint": there[best.step].relative_to(file.parent).as_posix(),
        "kid": best.kid,
        "step": best.step,
        "kid_features": best.kid_features,
        "kid_space": best.kid_space,
    }
    write_json(file, noted)
    return best.step


def require_fitting(checkpoint: Checkpoint, module: nn.Module) -> None:
    """Compare a network's weights with what the header of a checkpoint's weights file says, without reading those.

    Parameters
    ----------
    checkpoint
        Whose facts say how large the network is; anybody may have written them.
    module
        The network of these facts, on the meta device: as large as it may be, it takes no memory there.

    Raises
    ------
    CheckpointError
        If the file is broken, is not safetensors, or belongs to another network.
    """
    shapes = _shapes_in(checkpoint.path / MODEL_FILE)
    _require_same(shapes, module, checkpoint)


def load_weights(checkpoint: Checkpoint, module: nn.Module, device: torch.device) -> None:
    """Put the weights that are used into a network of the same make.

    Raises
    ------
    CheckpointError
        If the file is broken, is not safetensors, or belongs to another network.
    """
    path = checkpoint.path / MODEL_FILE
    state = _matching(_load(path, device), module, checkpoint)
    if digest_of_file(path) != checkpoint.digest:
        msg = f"{path} is not the file its checkpoint.json names (digest {checkpoint.digest[:12]}); it is damaged: choose another checkpoint."
        raise CheckpointError(msg)
    module.load_state_dict(state)


def restore(checkpoint: Checkpoint, task: TrainingTask, device: torch.device) -> None:
    """Set a task back to where the checkpoint was written.

    Raises
    ------
    CheckpointError
        If a file is broken or belongs to another network.
    """
    from napari_histolatent.training._memory import is_out_of_memory

    path = checkpoint.path / STATE_FILE
    load_weights(checkpoint, task.model, device)
    state = _load(checkpoint.path / STATE_FILE, device)
    if "rng" not in state:
        msg = f"{checkpoint.path / STATE_FILE} lacks the state of chance; choose another checkpoint."
        raise CheckpointError(msg)
    if checkpoint.state_digest and digest_of_file(path) != checkpoint.state_digest:
        msg = f"{path} is not the file its checkpoint.json names (digest {checkpoint.state_digest[:12]}); it is damaged: choose another checkpoint."
        raise CheckpointError(msg)
    try:
        _set_back(task, state, checkpoint)
    except (ValueError, RuntimeError, LookupError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        msg = f"{path} does not fit its training ({error}); choose another checkpoint."
        raise CheckpointError(msg) from error


def _set_back(task: TrainingTask, state: dict[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    for name, module in task.modules.items():
        module.load_state_dict(_matching(_under(state, f"module.{name}."), module, checkpoint))
    for name, optimizer in task.optimizers.items():
        own = optimizer.state_dict()
        shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
        per_parameter: dict[int, dict[str, Any]] = {}
        for key, value in _under(state, f"optimizer.{name}.").items():
            index, quantity = key.split(".", 1)
            # torch looks at shapes at the first step only; a count has none.
            if value.dim() and value.shape != shapes[int(index)]:
                raise ValueError(f"{key} is of another shape")
            # Adam counts its steps on the CPU whatever the device of its parameters.
            per_parameter.setdefault(int(index), {})[quantity] = value.cpu() if quantity == "step" else value
        optimizer.load_state_dict({"state": per_parameter, "param_groups": own["param_groups"]})
    task.rng.set_state(state["rng"].cpu())


def _training_state(task: TrainingTask) -> dict[str, torch.Tensor]:
    state = {"rng": task.rng.get_state()}
    for name, module in task.modules.items():
        state |= {f"module.{name}.{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in task.optimizers.items():
        for index, quantities in optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{name}.{index}.{key}": value for key, value in quantities.items()}
    return _contiguous(state)


def _contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # safetensors refuses views and shared storage.
    return {key: value.detach().contiguous().clone() for key, value in state.items()}


def _under(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _load(path: Path, device: torch.device) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, torch.Tensor] = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        msg = f"{path} cannot be read as safetensors ({error}); it is truncated or of another format: choose another checkpoint."
        raise CheckpointError(msg) from error
    return state


def _require_whole(path: Path) -> None:
    """Refuse a safetensors file that is cut off: its header says how long it has to be."""
    _shapes_in(path)


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a safetensors file: of the file, only the header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        msg = f"{path} cannot be read as safetensors ({error}); it is truncated or of another format: choose another checkpoint."
        raise CheckpointError(msg) from error


def _matching(
    state: dict[str, torch.Tensor], module: nn.Module, checkpoint: Checkpoint
) -> dict[str, torch.Tensor]:
    _require_same({name: tuple(value.shape) for name, value in state.items()}, module, checkpoint)
    return state


def _require_same(shapes: dict[str, tuple[int, ...]], module: nn.Module, checkpoint: Checkpoint) -> None:
    if shapes != {name: tuple(value.shape) for name, value in module.state_dict().items()}:
        network = reprlib.repr(checkpoint.config.get("network"))
        msg = f"The weights of {checkpoint.path} are not those of the network {network} that it names; choose another checkpoint."
        raise CheckpointError(msg)
