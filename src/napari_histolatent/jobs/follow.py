"""Start runs and watch them: what the command line, the demo and the docks share."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import write_json
from napari_histolatent.errors import DatasetError, RunError, writing_to
from napari_histolatent.jobs.kinds import CLASSIFIER, TRAIN
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import ENDED, Run, RunStatus, launch
from napari_histolatent.training import ClassifierConfig, TrainingConfig
from napari_histolatent.training.checkpoint import Checkpoint, checkpoints_in
from napari_histolatent.training.chosen import chosen_checkpoint
from napari_histolatent.training.forking import KEPT_BY_A_FORK, fork_checkpoint
from napari_histolatent.training.suitable import require_possible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_histolatent.runs import RunEvent

_POLL_SECONDS = 0.2
_CONFIGS: Mapping[str, type[TrainingConfig] | type[ClassifierConfig]] = {
    TRAIN: TrainingConfig,
    CLASSIFIER: ClassifierConfig,
}
"""Kinds of runs that train from a config, and so can be forked and extended."""


def new_training(dataset: str | Path, out: str | Path, config: TrainingConfig | ClassifierConfig) -> Run:
    """Make a run that will train on a dataset; `launch` starts it.

    Raises
    ------
    UserError
        If the dataset is not one or does not fit the config, the device is absent, or the folder cannot be made.
    """
    opened = PatchDataset(Path(dataset).absolute())
    return _create(opened, out, TRAIN if isinstance(config, TrainingConfig) else CLASSIFIER, config)


def _create(
    dataset: PatchDataset,
    out: str | Path,
    kind: str,
    config: TrainingConfig | ClassifierConfig,
    **more: Any,
) -> Run:
    # The process would find out too, seconds later.
    require_possible(config, dataset)
    require_device(config.device)
    return Run.create(
        out,
        kind=kind,
        spec={
            "dataset": str(dataset.path),
            "dataset_digest": dataset.digest,
            "config": config.to_json(),
            **more,
        },
    )


def require_device(name: str) -> None:
    """Refuse a device that is not here, before anything is made; the process would find out only later.

    Raises
    ------
    UserError
        If the device is not on this machine, or the name means nothing.
    """
    if name in ("auto", "cpu"):  # always there: no need to import torch
        return
    from napari_histolatent.models.devices import resolve_device

    resolve_device(name)


def follow(
    run: Run,
    *,
    on_event: Callable[[RunEvent], None] | None = None,
    offset: int = 0,
    timeout_seconds: float | None = None,
) -> RunStatus:
    """Wait until a run has ended, passing on its events, and return where it stands.

    Parameters
    ----------
    run
        A run that was launched, by whomever.
    on_event
        Called with each event after `offset`.
    offset
        Byte of events.jsonl to start at: the end so far, for a run that is resumed.
    timeout_seconds
        Give up after this long and return where it stands then.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    while True:
        # The state is asked first: what an ended run wrote is then all there.
        status = run.status()
        events, offset = run.events(offset)
        for event in events:
            if on_event:
                on_event(event)
        if status.state in ENDED or (deadline is not None and time.monotonic() > deadline):
            return status
        time.sleep(_POLL_SECONDS)


def stop(run: Run, *, timeout_seconds: float = 60.0) -> RunStatus:
    """Ask a run to stop, wait until it has kept its checkpoint, and return where it stands."""
    run.request_stop()
    return follow(run, timeout_seconds=timeout_seconds)


def resume(run: Run, *, steps: int | None = None) -> int:
    """Start a run that was stopped, failed or was killed again, from its newest checkpoint; return its offset.

    Parameters
    ----------
    run
        A run that has ended.
    steps
        Steps of the whole run from now on; with more of them a finished run trains on. What falls or rises over
        the run (instance noise, a classifier's learning rate) follows the new number: an extended run is not,
        bit for bit, the run that had this many steps from its start.

    Raises
    ------
    UserError
        If it has finished and is not extended, is running, or has done as many steps already; if its dataset is gone
        or another one by now, or the device or something else that it needs is absent.
    """
    if steps is None and run.status().state == "finished":
        msg = f"{run.path} has finished; there is nothing to resume: give more --steps than it has done to train on."
        raise RunError(msg)
    _require_ended(run)
    config = None if steps is None else _extended(run, steps)
    _require_ready(run, config)
    if config is not None:
        _write_config(run, config)
    _, offset = run.events()
    launch(run)
    return offset


def _extended(run: Run, steps: int) -> TrainingConfig | ClassifierConfig:
    """Return what the run is to do, with another number of steps; all else stays."""
    config = _config_of(run).with_changes(steps=steps)
    kept = checkpoints_in(run.checkpoints_folder)
    done = Checkpoint.open(kept[-1]).step if kept else 0
    if steps <= done:
        msg = f"{run.path} has done {done} steps already; give more --steps than that, not {steps}."
        raise RunError(msg)
    return config


def _write_config(run: Run, config: TrainingConfig | ClassifierConfig) -> None:
    spec = {**run.spec, "config": config.to_json()}
    with writing_to(run.path):
        file = run.path / "run.json"
        write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "spec": spec})
    run.spec = spec


def _require_ready(run: Run, config: TrainingConfig | ClassifierConfig | None) -> None:
    """Refuse to start a training that would fail at once: the process would find out seconds later.

    What does not train from a config and a dataset is left to its process, as is a run.json that lacks them.
    """
    if run.kind not in _CONFIGS or not {"config", "dataset"} <= run.spec.keys():
        return
    place = Path(run.spec["dataset"])
    if not place.exists():
        msg = f"The dataset of {run.path} is gone ({place}); bring it back, or go on with another: `histolatent fork {run.path} --dataset DS --out RUN`."
        raise DatasetError(msg)
    dataset = PatchDataset(place)
    was = str(run.spec.get("dataset_digest", dataset.digest))
    if dataset.digest != was:
        msg = f"{place} is not what {run.path} learnt from (digest {dataset.digest[:12]}, the run names {was[:12]}); bring the old one back, or go on with this one: `histolatent fork {run.path} --dataset {place} --out RUN`."
        raise DatasetError(msg)
    config = config or _config_of(run)
    require_possible(config, dataset)
    require_device(config.device)


def _require_ended(run: Run) -> None:
    if run.status().state not in (*ENDED, "new"):
        msg = f"{run.path} is running already; stop it first with `histolatent stop {run.path}`."
        raise RunError(msg)


def _config_of(run: Run) -> TrainingConfig | ClassifierConfig:
    if run.kind not in _CONFIGS:
        msg = f"{run.path} is a run of the kind {run.kind!r}, which has no training to go on with; name a run of `histolatent train` or `histolatent classifier train`."
        raise RunError(msg)
    return _CONFIGS[run.kind].from_json(run.spec["config"])


def fork(
    run: Run,
    out: str | Path,
    *,
    step: int | None = None,
    best: bool = False,
    dataset: str | Path | None = None,
    **changes: Any,
) -> Run:
    """Make a new run that goes on from a checkpoint of another; `launch` starts it, the other stays as it is.

    Parameters
    ----------
    run
        The run to fork, running or not.
    out
        Folder of the new run.
    step, best
        Which checkpoint, see `chosen_checkpoint`; default: the newest.
    dataset
        Another dataset of the same classes and size; default: the run's.
    **changes
        Settings to change, by their names in the config; None leaves one as it is. Without any the fork ends as the
        run itself would have, bit for bit. `steps` count from the first run's start.

    Raises
    ------
    UserError
        If there is no such checkpoint, it has done all the steps already, a change is of the network itself, the
        dataset is gone or another one, the device is absent, or the folder cannot be made.
    """
    kind = type(_config_of(run))
    if best and run.kind == CLASSIFIER:
        msg = f"{run.path} trains a classifier, and the best checkpoint is that of the lowest KID, which generators have; choose one with --step, or leave --best out."
        raise RunError(msg)
    checkpoint = chosen_checkpoint(run.path, step=step, best=best)
    before = kind.from_json(checkpoint.config)
    # The goal is the run's own, which may have been extended since this checkpoint.
    config = before.with_changes(**{"steps": run.spec["config"].get("steps"), **changes})
    for name in KEPT_BY_A_FORK:
        old, new = (getattr(item, name, None) for item in (before, config))
        if old != new:
            msg = f"A fork keeps its checkpoint's {name} {old!r}, it cannot become {new!r}; start a new run instead."
            raise RunError(msg)
    if config.steps <= checkpoint.step:
        msg = f"The checkpoint has done {checkpoint.step} steps of {config.steps} already; give more --steps than {checkpoint.step}."
        raise RunError(msg)
    opened = PatchDataset(Path(dataset or run.spec["dataset"]).absolute())
    _require_same_data(opened, checkpoint, named=dataset is not None)
    forked_from = {
        "run": str(run.path),
        "step": checkpoint.step,
        "digest": checkpoint.digest,
        "dataset_digest": checkpoint.dataset_digest,
    }
    made = _create(opened, out, run.kind, config, forked_from=forked_from)
    try:
        with writing_to(made.path):
            fork_checkpoint(
                checkpoint,
                made.checkpoints_folder,
                config=config,
                dataset_digest=opened.digest,
                forked_from=forked_from,
            )
    except BaseException:
        shutil.rmtree(made.path, ignore_errors=True)  # without the checkpoint it would start from nothing
        raise
    return made


def _require_same_data(dataset: PatchDataset, checkpoint: Checkpoint, *, named: bool) -> None:
    # A network without classes has learnt from whatever classes there were.
    if checkpoint.classes and dataset.classes != checkpoint.classes:
        msg = f"The dataset has the classes {', '.join(dataset.classes)}, the checkpoint {', '.join(checkpoint.classes)}; a fork needs the same in the same order."
        raise DatasetError(msg)
    if not named and dataset.digest != checkpoint.dataset_digest:
        msg = f"{dataset.path} is not what the run learnt from (digest {dataset.digest[:12]}, the checkpoint names {checkpoint.dataset_digest[:12]}); name a dataset with --dataset to go on with it all the same."
        raise DatasetError(msg)
