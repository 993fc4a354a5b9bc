"""Calibrating the verdict from the dock: what it needs, and following its run. No Qt and no napari, run in threads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.runs import ENDED, launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.runs import Run, RunStatus
    from napari_histolatent.training.checkpoint import Checkpoint

_POLL_SECONDS = 0.2


def dataset_to_calibrate_on(checkpoint: Checkpoint, opened: Path | None) -> Path:
    """Return the dataset that a generator learnt from: its run's own, else the one that is open, if it is that.

    Raises
    ------
    UserError
        If neither is, or it holds out too few patches.
    """
    from napari_histolatent.jobs.calibration import TILES, dataset_of, held_out_rows

    why: UserError | None = None
    for named in (None, opened):
        try:
            data = dataset_of(checkpoint, named)
        except UserError as error:
            why = why or error
            continue
        if data.digest == checkpoint.dataset_digest:
            held_out_rows(data, TILES)
            return data.path
    if why is None or checkpoint.path.parent.name != "checkpoints":
        msg = "The patches that this generator learnt from are not known here; choose their dataset in the Train dock."
        raise DatasetError(msg)
    msg = f"{why} Or choose the dataset that this generator learnt from in the Train dock."
    raise DatasetError(msg)


def start_calibration(checkpoint: Checkpoint, dataset: Path) -> Run:
    """Start a calibration in a process of its own, with the classifier of the generator's run if one fits.

    Raises
    ------
    UserError
        As `jobs.calibration.new_calibration`.
    """
    from napari_histolatent.jobs.calibration import fitting_judge, new_calibration

    run = new_calibration(checkpoint.path, dataset=dataset, classifier=fitting_judge(checkpoint))
    launch(run)
    return run


def followed(
    run: Run, *, on_progress: Callable[[int, int], None], should_stop: Callable[[], bool]
) -> RunStatus | None:
    """Wait until a calibration has ended, passing on how far it is; None where nobody waits for it any more."""
    while not should_stop():
        status = run.status()
        if status.state in ENDED:
            return status
        on_progress(status.step, status.steps)
        time.sleep(_POLL_SECONDS)
    return None
