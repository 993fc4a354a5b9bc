"""Calibrating the verdict from the dock: what it needs, and following its run. No Qt and no napari, run in threads."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.runs import ENDED, Run, known_runs, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from pathlib import Path

    from napari_histolatent.latent.verdict import Calibration
    from napari_histolatent.runs import RunStatus
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


def running_calibration(checkpoint: Checkpoint, *, but: Container[Path] = ()) -> Run | None:
    """Return the run that calibrates a generator now, whoever started it; None where none does.

    Parameters
    ----------
    checkpoint
        Of the generator.
    but
        Folders of runs that are passed over.

    Raises
    ------
    UserError
        If the training that made the generator does it, as its own last phase.
    """
    from napari_histolatent.jobs.calibration import CALIBRATE

    training = checkpoint.path.parent.parent
    for path in known_runs():
        try:
            run = Run(path)
        except UserError:
            continue
        calibrates = run.kind == CALIBRATE and run.spec.get("run") == str(checkpoint.path)
        if path in but or not (calibrates or path == training):
            continue
        status = run.status()
        if status.state in (*ENDED, "new"):
            continue
        if calibrates:
            return run
        if "calibrating" in status.data and status.step >= status.steps:
            msg = (
                "The verdict is being calibrated now, at the end of this generator's training; wait for that."
            )
            raise UserError(msg)
    return None


def calibration_made(checkpoint: Checkpoint) -> Calibration | None:
    """Return the calibration that a generator has by now; None where there is none, or it cannot be read."""
    from napari_histolatent.jobs.calibration import calibration_of

    with suppress(UserError):  # whoever loads the generator says it
        return calibration_of(checkpoint)
    return None


def start_calibration(checkpoint: Checkpoint, dataset: Path) -> Run:
    """Start a calibration in a process of its own, with the classifier of the generator's run if one fits.

    Where one is running already, that one is returned.

    Raises
    ------
    UserError
        As `jobs.calibration.new_calibration` and `running_calibration`.
    """
    from napari_histolatent.jobs.calibration import fitting_judge, new_calibration

    running = running_calibration(checkpoint)
    if running is not None:
        return running
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
