"""The one loop: any task, from a config and a dataset, with checkpoints that a killed run goes on from."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from napari_histolatent._pictures import save_picture
from napari_histolatent.errors import CheckpointError, UserError, writing_to
from napari_histolatent.models.devices import resolve_device
from napari_histolatent.runs import RunEvent
from napari_histolatent.training._classifier_task import ClassifierTask
from napari_histolatent.training._data import require_trainable
from napari_histolatent.training._gan_task import GanTask
from napari_histolatent.training.checkpoint import Checkpoint, checkpoints_in, restore, save_checkpoint
from napari_histolatent.training.config import ClassifierConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training._task import TrainingTask


def train(
    config: TrainingConfig | ClassifierConfig,
    dataset: PatchDataset,
    *,
    folder: Path,
    on_event: Callable[[RunEvent], None],
    should_stop: Callable[[], bool],
    resume: bool = False,
) -> Checkpoint:
    """Train until the last step or until asked to stop, and return the last checkpoint.

    Parameters
    ----------
    config
        A GAN's or a classifier's.
    dataset
        Patches of the config's size, two classes or more.
    folder
        Where checkpoints and previews go (folder/checkpoints, folder/samples).
    on_event
        Called with what happens.
    should_stop
        Asked after each step.
    resume
        Go on from the newest checkpoint in the folder, if there is one. The result equals that of a run that
        was never stopped, bit for bit on one machine with one thread count.

    Raises
    ------
    UserError
        If the device is absent, the dataset does not fit, a checkpoint is broken or of another run, the folder
        cannot be written, or a loss is no longer a number.
    """
    device = resolve_device(config.device)
    require_trainable(dataset, config.size_px)
    is_gan = isinstance(config, TrainingConfig)
    task: TrainingTask = (
        GanTask(config, dataset, device)
        if isinstance(config, TrainingConfig)
        else ClassifierTask(config, dataset, device)
    )
    facts = {
        "kind": "gan" if is_gan else "classifier",
        "steps": config.steps,
        "config": config.to_json(),
        "classes": list(dataset.classes),
        "size_px": dataset.size_px,
        "mpp": dataset.mpp,
        "dataset_digest": dataset.digest,
    }
    checkpoint = _resume_from(folder, facts, task, device) if resume else None
    done = checkpoint.step if checkpoint else 0
    on_event(RunEvent("started", done, config.steps, data={"device": str(device)}))

    def keep(step: int) -> Checkpoint:
        _require_finite_weights(task, step)
        saved = save_checkpoint(
            folder / "checkpoints", task, step=step, facts={**facts, "metrics": task.finish()}
        )
        data: dict[str, Any] = {
            "checkpoint": saved.path.relative_to(folder).as_posix(),
            "digest": saved.digest,
            "metrics": saved.metrics,
        }
        preview = _save_preview(folder, task, saved)
        if preview:
            on_event(RunEvent("sample", step, config.steps, data={"sample": preview}))
        on_event(RunEvent("checkpoint", step, config.steps, data=data))
        return saved

    started, first = perf_counter(), done
    with writing_to(folder):
        while done < config.steps:
            losses = task.step(done)
            done += 1
            _require_finite(losses, done)
            stop = should_stop()
            if done % config.log_every == 0 or done == config.steps:
                rate = (done - first) * config.batch_size / (perf_counter() - started)
                on_event(
                    RunEvent(
                        "progress", done, config.steps, losses, data={"images_per_second": round(rate, 1)}
                    )
                )
            if stop or done % config.checkpoint_every == 0 or done == config.steps:
                checkpoint = keep(done)
            if stop and done < config.steps:
                on_event(RunEvent("stopped", done, config.steps, losses))
                return checkpoint or keep(done)
        checkpoint = checkpoint or keep(done)
    on_event(RunEvent("finished", done, config.steps))
    return checkpoint


def _resume_from(folder: Path, facts: dict[str, Any], task: TrainingTask, device: Any) -> Checkpoint | None:
    """Return the newest checkpoint that can be read, with the task set back to it; None if there is none."""
    broken: CheckpointError | None = None
    for path in reversed(checkpoints_in(folder / "checkpoints")):
        try:
            checkpoint = Checkpoint.open(path)
            _require_same(checkpoint, facts)
            restore(checkpoint, task, device)
        except CheckpointError as error:
            broken = broken or error
            continue
        return checkpoint
    if broken:
        raise broken
    return None


def _require_same(checkpoint: Checkpoint, facts: dict[str, Any]) -> None:
    if checkpoint.dataset_digest != facts["dataset_digest"]:
        msg = f"{checkpoint.path} was trained on another dataset (digest {checkpoint.dataset_digest[:12]}, now {facts['dataset_digest'][:12]}); start a new run."
        raise CheckpointError(msg)


def _require_finite(losses: dict[str, float], step: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            msg = f"The {name} loss is {value} at step {step}: training diverged; the last checkpoint is kept, start again with a lower learning rate."
            raise UserError(msg)


def _require_finite_weights(task: TrainingTask, step: int) -> None:
    # A loss is that of the weights before the step: the step itself can be the one that broke them.
    for name, value in task.model.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            msg = f"The weights {name} are no longer numbers at step {step}: training diverged; the last checkpoint is kept, start again with a lower learning rate."
            raise UserError(msg)


def _save_preview(folder: Path, task: TrainingTask, saved: Checkpoint) -> str | None:
    picture = task.preview()
    if picture is None:
        return None
    path = folder / "samples" / f"step-{saved.step:08d}.png"
    provenance = {
        "synthetic": True,
        "model_digest": saved.digest,
        "step": saved.step,
        "seed": saved.config["seed"],
    }
    save_picture(path, picture, provenance)
    return path.relative_to(folder).as_posix()
