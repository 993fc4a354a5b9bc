"""Start runs and watch them: what the command line, the demo and the docks share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histolatent.errors import RunError
from napari_histolatent.jobs.kinds import CLASSIFIER, TRAIN
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import ENDED, Run, RunStatus, launch
from napari_histolatent.training import ClassifierConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.runs import RunEvent

_POLL_SECONDS = 0.2


def new_training(dataset: str | Path, out: str | Path, config: TrainingConfig | ClassifierConfig) -> Run:
    """Make a run that will train on a dataset; `launch` starts it.

    Raises
    ------
    UserError
        If the dataset is not one or does not fit the config, the device is absent, or the folder cannot be made.
    """
    opened = PatchDataset(Path(dataset).absolute())
    _require_size(opened, config.size_px)
    require_device(config.device)
    kind = TRAIN if isinstance(config, TrainingConfig) else CLASSIFIER
    return Run.create(
        out,
        kind=kind,
        spec={
            "dataset": str(opened.path),
            "dataset_digest": opened.digest,
            "config": config.to_json(),
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


def _require_size(dataset: PatchDataset, size_px: int) -> None:
    # The process would find out too, seconds later.
    if dataset.size_px != size_px:
        msg = f"The dataset has patches of {dataset.size_px} px, the training is set to {size_px} px; train with --size {dataset.size_px}."
        raise RunError(msg)


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


def resume(run: Run) -> int:
    """Start a run that was stopped, failed or was killed again, from its newest checkpoint; return its offset.

    Raises
    ------
    RunError
        If it has finished, or is running.
    """
    state = run.status().state
    if state == "finished":
        msg = f"{run.path} has finished; there is nothing to resume."
        raise RunError(msg)
    _, offset = run.events()
    launch(run)
    return offset
