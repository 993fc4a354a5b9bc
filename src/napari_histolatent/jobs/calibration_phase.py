"""The last phase of a generator's run: its verdict is calibrated, and the run's end is told only then."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs.calibration import TILES, calibrate, dataset_of, fitting_judge, held_out_rows
from napari_histolatent.runs import RunEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.runs import Run
    from napari_histolatent.training import TrainingConfig
    from napari_histolatent.training.checkpoint import Checkpoint

WHAT = "the verdict of reverse search"
_LATER = "calibrate it later in the Edit dock or with `histolatent calibrate`"


class EndHeldBack:
    """Passes a training's events on, all but that it has finished: a phase is to follow, and the run's end is its.

    Parameters
    ----------
    on_event
        Who is told.
    """

    def __init__(self, on_event: Callable[[RunEvent], None]) -> None:
        self._on_event = on_event
        self.end: RunEvent | None = None
        """That the training has finished; None while it has not, or in one of its helping processes."""

    def __call__(self, event: RunEvent) -> None:
        """Pass an event on, or keep it, where it is the end."""
        if event.kind == "finished":
            self.end = event
        else:
            self._on_event(event)


def calibrate_at_the_end(
    run: Run,
    config: TrainingConfig,
    checkpoint: Checkpoint,
    end: RunEvent,
    *,
    on_event: Callable[[RunEvent], None],
) -> None:
    """Calibrate a trained generator on the held-out patches of its run, then tell that the run has finished.

    Where nothing is held out the end says so in a sentence. A calibration that fails is told as a warning and takes
    nothing from the run, whose generator is whole without. One that is stopped leaves a stopped run, which
    calibrates again when it is resumed.

    Parameters
    ----------
    run
        Whose dataset and STOP file are looked at.
    config
        What was trained; `calibrate` is on.
    checkpoint
        The generator's last one: calibration.json is written beside it.
    end
        What the training said when it had finished.
    on_event
        Called with what happens, `end` among it.
    """
    from napari_histolatent.latent.calibrating import StoppedError

    def finish(message: str = "", **data: Any) -> None:
        # When it was held back is not when the run ends.
        on_event(replace(end, time=time.time(), message=message or end.message, data={**end.data, **data}))

    def tell(done: int, tiles: int) -> None:
        said = f"Calibrating {WHAT}: {done} of {tiles} held-out patches searched."
        data = {"calibrating": {"done": done, "tiles": tiles}}
        on_event(RunEvent("progress", end.step, end.steps, data=data, message=said))

    def should_stop() -> bool:
        return run.stop_requested

    try:
        rows = held_out_rows(dataset_of(checkpoint, run.spec["dataset"]), TILES)
    except DatasetError as error:
        finish(f"{_capital(WHAT)} is not calibrated: {error}")
        return
    try:
        tell(0, len(rows))
        found = calibrate(
            checkpoint.path,
            dataset=run.spec["dataset"],
            classifier=fitting_judge(checkpoint),
            tiles=TILES,
            device=config.device,
            on_progress=tell,
            should_stop=should_stop,
        )
    except StoppedError as error:
        said = f"The generator is trained. {error}"
        on_event(RunEvent("stopped", end.step, end.steps, message=said))
        return
    except UserError as error:
        _warn(run, config, str(error), on_event)
        finish()
    except Exception as error:  # noqa: BLE001  # whatever it is, the generator is trained and kept
        traceback.print_exc()  # into log.txt
        _warn(run, config, f"{type(error).__name__}: {error} (details in {run.log_file})", on_event)
        finish()
    else:
        place = found.path.relative_to(run.path).as_posix()
        finish(calibration=found.to_json() | {"calibration": place})


def _warn(run: Run, config: TrainingConfig, why: str, on_event: Callable[[RunEvent], None]) -> None:
    """Say in the run's metrics, where its other warnings are, that there is no calibration."""
    why = why.rstrip(".")
    warning = f"The generator is trained, but {WHAT} could not be calibrated: {why}; {_LATER}."
    metrics: dict[str, Any] = run.status().data.get("metrics") or {}
    before = metrics.get("warnings")
    warnings = [*(before if isinstance(before, list) else []), warning]
    # At the step of what was measured last, and with it: later metrics take the place of earlier ones.
    on_event(
        RunEvent(
            "metrics", config.steps, run.status().steps, data={"metrics": metrics | {"warnings": warnings}}
        )
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
