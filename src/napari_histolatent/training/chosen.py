"""Which checkpoint of a run is meant: the newest, the one of a step, or the best. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from napari_histolatent._files import DamagedJsonError, json_field, read_json_object
from napari_histolatent.errors import CheckpointError
from napari_histolatent.runs import Run
from napari_histolatent.training._keeping import BEST_FILE
from napari_histolatent.training.checkpoint import INFO_FILE, Checkpoint, checkpoints_in, latest_checkpoint


def chosen_checkpoint(run: str | Path, *, step: int | None = None, best: bool = False) -> Checkpoint:
    """Return a checkpoint of a run.

    Parameters
    ----------
    run
        A run folder, or a checkpoint's own folder (an exported one is such).
    step
        The checkpoint after this many steps, instead of the newest.
    best
        The one with the lowest KID, instead of the newest.

    Raises
    ------
    CheckpointError
        If both are asked for, there is no such checkpoint, or it cannot be read.
    RunError
        If the folder is neither.
    """
    if step is not None and best:
        msg = f"Give --step {step} or --best, not both: the best checkpoint has a step of its own."
        raise CheckpointError(msg)
    path = Path(run)
    if (path / INFO_FILE).is_file():
        return _only(Checkpoint.open(path), step, best=best)
    opened = Run(path)
    if best:
        step = _step_of_best(opened)
    if step is None:
        return latest_checkpoint(opened.checkpoints_folder)
    chosen = opened.checkpoints_folder / f"step-{step:08d}"
    if not (chosen / INFO_FILE).is_file():
        kept = ", ".join(str(int(item.name[5:])) for item in checkpoints_in(opened.checkpoints_folder))
        msg = f"{path} keeps no checkpoint of step {step}; it keeps those of the steps {kept or 'none yet'}."
        raise CheckpointError(msg)
    return Checkpoint.open(chosen)


def _only(checkpoint: Checkpoint, step: int | None, *, best: bool) -> Checkpoint:
    if best or step not in (None, checkpoint.step):
        wanted = "the best one" if best else f"step {step}"
        msg = f"{checkpoint.path} is a single checkpoint, of step {checkpoint.step}, where {wanted} is asked for; name the run's folder."
        raise CheckpointError(msg)
    return checkpoint


def _step_of_best(run: Run) -> int:
    try:
        return json_field(read_json_object(run.path / BEST_FILE), "step", int, least=0)
    except ValueError as error:
        why = error if isinstance(error, DamagedJsonError) else f"lacks or garbles {error}"
        msg = f"{run.path} has measured no best checkpoint yet ({BEST_FILE} {why}); leave --best out, or let it train on."
        raise CheckpointError(msg) from error
