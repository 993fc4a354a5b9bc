"""The one loop: any task, from a config and a dataset, with checkpoints that a killed run goes on from."""

from __future__ import annotations

import math
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from napari_histolatent._files import write_json
from napari_histolatent._pictures import save_picture
from napari_histolatent.errors import CheckpointError, UserError, passing_through, writing_to
from napari_histolatent.models.devices import resolve_device
from napari_histolatent.runs import RunEvent
from napari_histolatent.training._classifier_task import ClassifierTask
from napari_histolatent.training._distributed import Processes, join
from napari_histolatent.training._gan_task import GanTask
from napari_histolatent.training._health import warnings_of
from napari_histolatent.training._keeping import BEST_FILE, best_in
from napari_histolatent.training._memory import batch_that_fits, is_out_of_memory, out_of_memory, release
from napari_histolatent.training._settling import SETTLED, is_settled
from napari_histolatent.training._task import JudgedTask
from napari_histolatent.training._tensorboard import TensorBoard
from napari_histolatent.training.checkpoint import Checkpoint, checkpoints_in, restore, save_checkpoint
from napari_histolatent.training.config import ClassifierConfig, EncoderConfig, TrainingConfig
from napari_histolatent.training.suitable import require_possible

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training._task import TrainingTask

_SILENCE_SECONDS = 10.0
"""Where steps are slow, progress is told after this long, whatever `log_every` says."""

_NOT_MEASURED = "There was not enough memory to measure the samples, which was skipped; the training goes on."
_MAY_CHANGE = frozenset(
    {
        "calibrate",
        "channels_last",
        "checkpoint_every",
        "compile",
        "device",
        "devices",
        "encoder_steps",
        "halve_batch_if_out_of_memory",
        "judge",
        "keep_checkpoints",
        "log_every",
        "metrics_every",
        "milestone_every",
        "nodes",
        "preset",
        "steps",
        "tensorboard",
        "weights",
    }
)
"""Settings with which a training can go on that began with others: where, how long, and what is told and kept."""


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

    Where the config asks for several processes, this one starts the others, which run the same command and end
    up here too; they write nothing, are not asked to stop, and report nothing.

    Parameters
    ----------
    config
        A GAN's or a classifier's.
    dataset
        Patches of the config's size; two classes or more, except for a GAN without classes.
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
    resolve_device(config.device)
    told = _Told(on_event, TensorBoard(folder) if getattr(config, "tensorboard", False) else None)
    should_stop = passing_through(should_stop)
    encoder_steps = config.encoder_steps if isinstance(config, TrainingConfig) else 0
    with told:
        tell = _before_encoder(encoder_steps, told) if encoder_steps else told
        while True:
            try:
                checkpoint, is_first = _train(
                    config, dataset, folder=folder, on_event=tell, should_stop=should_stop, resume=resume
                )
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here, where the error's frames are gone and with them the memory that they held.
            config = _with_less_memory(config, dataset, told)
            resume = resume or told.checkpoints > 0
        if encoder_steps and is_first and checkpoint.step == config.steps:
            assert isinstance(config, TrainingConfig)
            _train_encoder(config, checkpoint, dataset, folder=folder, told=told, should_stop=should_stop)
    return checkpoint


def _train_encoder(
    config: TrainingConfig,
    checkpoint: Checkpoint,
    dataset: PatchDataset,
    *,
    folder: Path,
    told: _Told,
    should_stop: Callable[[], bool],
) -> None:
    """Train the encoder of a run, with half of the batch and again where memory does not suffice and that is allowed.

    Raises
    ------
    UserError
        If memory does not suffice and a smaller batch is not allowed, or would be too small.
    """
    from napari_histolatent.training._encoder_task import batch_of_phase, train_encoder_of_run  # need `learn`

    batch_size = batch_of_phase(config)
    while True:
        try:
            train_encoder_of_run(
                config,
                checkpoint,
                dataset,
                folder=folder,
                on_event=told,
                should_stop=should_stop,
                batch_size=batch_size,
            )
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Out here, where the error's frames are gone and with them the memory that they held.
        release()
        smaller = batch_size // 2
        device = str(resolve_device(config.device))
        said = out_of_memory(batch_size, None, size_px=config.size_px, device=device, tried=smaller < 2)
        if smaller < 2 or not config.halve_batch_if_out_of_memory:
            msg = f"The generator is done, its encoder is not. {said}"
            raise UserError(msg)
        warning = f"{said.partition(';')[0]}; its encoder is trained with a batch of {smaller}."
        steps = config.steps + config.encoder_steps
        told(RunEvent("metrics", told.step, steps, data={"metrics": {"warnings": [warning]}}))
        batch_size = smaller


def _train(
    config: TrainingConfig | ClassifierConfig,
    dataset: PatchDataset,
    *,
    folder: Path,
    on_event: Callable[[RunEvent], None],
    should_stop: Callable[[], bool],
    resume: bool,
) -> tuple[Checkpoint, bool]:
    """Return the last checkpoint, and whether this process is the first of those that train together."""
    needs_classes = not isinstance(config, TrainingConfig) or config.has_classes
    require_possible(config, dataset)
    if isinstance(config, TrainingConfig):
        processes = join(
            device=config.device, devices=config.devices, nodes=config.nodes, precision=config.precision
        )
        task: TrainingTask = GanTask(config, dataset, processes.device, processes)
    else:
        processes = join(device=config.device)
        task = ClassifierTask(config, dataset, processes.device)
    facts = {
        "kind": "gan" if isinstance(config, TrainingConfig) else "classifier",
        "steps": config.steps,
        "config": config.to_json(),
        "classes": list(dataset.classes) if needs_classes else [],
        "size_px": dataset.size_px,
        "mpp": dataset.mpp,
        "dataset_digest": dataset.digest,
    }
    checkpoint = learn(
        task,
        config,
        facts,
        processes=processes,
        folder=folder,
        on_event=on_event if processes.is_first else _keep_silent,
        should_stop=should_stop,
        resume=resume,
    )
    return checkpoint, processes.is_first


def learn(
    task: TrainingTask,
    config: TrainingConfig | ClassifierConfig | EncoderConfig,
    facts: dict[str, Any],
    *,
    processes: Processes,
    folder: Path,
    on_event: Callable[[RunEvent], None],
    should_stop: Callable[[], bool],
    resume: bool,
) -> Checkpoint:
    """Do a task's steps; see `train`. `facts` is what a checkpoint says besides its step and metrics."""
    checkpoint = _resume_from(folder, facts, task, processes.device) if resume else None
    done = checkpoint.step if checkpoint else 0
    is_ready = checkpoint is not None and is_settled(checkpoint)
    if processes.agree(done) != done:
        msg = f"Process {processes.part.index} finds another newest checkpoint in {folder} than the first one; put the run where all machines see it."
        raise CheckpointError(msg)
    judges = getattr(task, "judges", {})
    data = {"device": str(processes.device)} | ({"judges": judges} if judges else {})
    on_event(RunEvent("started", done, config.steps, data=data))

    def report(step: int, metrics: dict[str, Any]) -> None:
        if isinstance(task, JudgedTask) and metrics:
            metrics = metrics | task.balance.take()
            gan = config if isinstance(config, TrainingConfig) else None
            told = {"metrics": metrics | {"warnings": warnings_of(metrics, gan, step=step)}}
            on_event(RunEvent("metrics", step, config.steps, data=told))

    def measured(step: int, measure: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Return the metrics; None where memory does not suffice, which is no reason to end a training."""
        try:
            return measure()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release()
        on_event(RunEvent("metrics", step, config.steps, data={"metrics": {"warnings": [_NOT_MEASURED]}}))
        return None

    def keep(step: int, *, at_once: bool = False) -> Checkpoint:
        """Write a checkpoint; `at_once`: as it is, nothing measured. Whoever loads it makes the model ready."""
        _require_finite_weights(task, step)
        metrics = None if at_once else measured(step, task.finish)
        if metrics is not None:
            _require_finite_weights(task, step)  # the statistics too
            report(step, metrics)
        if processes.is_first:
            saved = save_checkpoint(
                folder / "checkpoints",
                task,
                step=step,
                facts=facts | {"metrics": metrics or {}, SETTLED: metrics is not None},
                keep=getattr(config, "keep_checkpoints", 2),
                milestone_every=getattr(config, "milestone_every", 0),
                best_file=folder / BEST_FILE,
            )
            preview = None if metrics is None else _save_preview(folder, task, saved)
            if preview:
                on_event(RunEvent("sample", step, config.steps, data={"sample": preview, "step": step}))
            data = {
                "checkpoint": saved.path.relative_to(folder).as_posix(),
                "digest": saved.digest,
                "metrics": saved.metrics,
                "best": best_in(folder),
            }
            on_event(RunEvent("checkpoint", step, config.steps, data=data))
        processes.agree(step)  # it is written
        return saved if processes.is_first else Checkpoint.open(folder / "checkpoints" / f"step-{step:08d}")

    pace, metrics_every = _Pace(task, config.batch_size, done), getattr(config, "metrics_every", 0)
    with writing_to(folder):
        if processes.is_first:
            _write_config(folder, facts, judges)
        while done < config.steps:
            losses = task.step(done)
            done += 1
            is_last = done == config.steps
            # The first process decides for all: clocks and files are read at different moments elsewhere.
            stop, slow = divmod(
                processes.agree(2 * (processes.is_first and should_stop()) + pace.is_slow()), 2
            )
            is_kept = bool(stop) or is_last or done % config.checkpoint_every == 0
            is_told = bool(slow) or is_last or done % config.log_every == 0
            is_measured = metrics_every > 0 and done % metrics_every == 0
            if is_kept or is_told:
                told = processes.mean(losses)
                _require_finite(told, done)
            if is_told:
                on_event(RunEvent("progress", done, config.steps, told, data=pace.until(done)))
            if is_measured and not is_kept and isinstance(task, JudgedTask):
                report(done, measured(done, task.measure) or {})
                pace = _Pace(task, config.batch_size, done)
            if is_kept:
                checkpoint, is_ready = keep(done, at_once=bool(stop) and not is_last), True
                pace = _Pace(task, config.batch_size, done)
            if stop and not is_last:
                on_event(RunEvent("stopped", done, config.steps, told))
                return checkpoint or keep(done)
        if checkpoint is None or not is_ready:
            checkpoint = keep(done)
    on_event(RunEvent("finished", done, config.steps))
    return checkpoint


def _before_encoder(steps: int, on_event: Callable[[RunEvent], None]) -> Callable[[RunEvent], None]:
    """Return what is to be told of a GAN's events: where its encoder is to follow, its end is not the run's."""

    def tell(event: RunEvent) -> None:
        if event.kind != "finished":
            on_event(replace(event, steps=event.steps + steps))

    return tell


class _Told:
    """Passes events on, to TensorBoard too where it is wanted, and knows how far the training has come."""

    def __init__(self, on_event: Callable[[RunEvent], None], board: TensorBoard | None) -> None:
        self._on_event, self._board = passing_through(on_event), board
        self.step = self.checkpoints = 0

    def __call__(self, event: RunEvent) -> None:
        self.step = event.step
        self.checkpoints += event.kind == "checkpoint"
        self._on_event(event)
        if self._board:
            self._board.write(event)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._board:
            self._board.close()


def _with_less_memory(
    config: TrainingConfig | ClassifierConfig, dataset: PatchDataset, told: _Told
) -> TrainingConfig | ClassifierConfig:
    """Return the config with the largest batch that fits, where that is allowed; else say which it is.

    Raises
    ------
    UserError
        If it is not allowed, no batch fits, or several processes train together.
    """
    device = resolve_device(config.device)

    def trial(batch_size: int) -> None:
        smaller = config.with_changes(batch_size=batch_size)
        task: TrainingTask = (
            GanTask(smaller, dataset, device)
            if isinstance(smaller, TrainingConfig)
            else ClassifierTask(smaller, dataset, device)
        )
        task.step(0)
        if isinstance(task, GanTask):
            task.settle()

    # Several processes cannot try one after the other: each waits for the others at every step.
    alone = not isinstance(config, TrainingConfig) or config.processes == 1
    fits = batch_that_fits(config.batch_size, trial, least=2) if alone else None
    said = out_of_memory(config.batch_size, fits, size_px=config.size_px, device=str(device), tried=alone)
    if fits is None or not getattr(config, "halve_batch_if_out_of_memory", False):
        raise UserError(said)
    warning = f"{said.partition(';')[0]}; the training goes on with a batch of {fits}."
    told(RunEvent("metrics", told.step, config.steps, data={"metrics": {"warnings": [warning]}}))
    return config.with_changes(batch_size=fits)


def _write_config(folder: Path, facts: dict[str, Any], judges: dict[str, str]) -> None:
    """Write down what is trained, on what, and which frozen networks judge it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", facts | {"judges": judges})


class _Pace:
    """How fast steps are done since the last report or checkpoint."""

    def __init__(self, task: TrainingTask, batch_size: int, done: int) -> None:
        self._task, self._batch_size = task, batch_size
        self._begin(done)

    def _begin(self, done: int) -> None:
        self._done, self._started = done, perf_counter()
        self._waited = self._waited_seconds()

    def _waited_seconds(self) -> float:
        return float(getattr(self._task, "waited_seconds", 0.0))

    def is_slow(self) -> bool:
        return perf_counter() - self._started > _SILENCE_SECONDS

    def until(self, done: int) -> dict[str, float]:
        """Return what a progress event says of the steps up to here, and begin anew."""
        seconds, steps = max(perf_counter() - self._started, 1e-9), done - self._done
        pace = {
            "images_per_second": round(steps * self._batch_size / seconds, 1),
            "seconds_per_step": round(seconds / steps, 4),
            "data_share": round((self._waited_seconds() - self._waited) / seconds, 4),
        }
        self._begin(done)
        return pace


def _keep_silent(event: RunEvent) -> None:
    """Report nothing: another process does."""


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
    before, now = checkpoint.config, facts["config"]
    free = _MAY_CHANGE | ({"batch_size"} if now.get("halve_batch_if_out_of_memory") else set())
    # What an older version did not write was at its default.
    for name in sorted((before.keys() & now.keys()) - free):
        if before[name] != now[name]:
            msg = f"{checkpoint.path} was trained with {name} {before[name]!r}, now it is {now[name]!r}; set it back, fork the checkpoint or start a new run."
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
    beside = task.neighbours() if isinstance(task, JudgedTask) else None
    if beside is not None:
        rows = {"rows": ["samples", "nearest training patches"]}
        save_picture(path.with_name(f"neighbours-{saved.step:08d}.png"), beside, provenance | rows)
    return path.relative_to(folder).as_posix()
