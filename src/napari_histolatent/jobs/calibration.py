"""Find out what reverse search reaches on held-out tiles, so that it can say how far to believe it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from napari_histolatent._files import data_folder, file_name_of
from napari_histolatent.errors import DatasetError, RunError, UserError, writing_to
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import Run, RunEvent
from napari_histolatent.training.chosen import chosen_checkpoint
from napari_histolatent.training.shipped import SHIPPED, shipped_of_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.latent import Inversion
    from napari_histolatent.latent.verdict import Calibration, Verdict
    from napari_histolatent.training.checkpoint import Checkpoint
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator

CALIBRATE = "calibrate"

LEAST_TILES = 64
"""Of fewer held-out tiles the rarest 1 % is guesswork."""
TILES = 256
_KNOWN_TILES = 512


@dataclass(frozen=True)
class Calibrated:
    """What was measured, and where it was written."""

    path: Path
    calibration: Calibration

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `histolatent calibrate --json` reports."""
        found = self.calibration
        return {
            "calibration": str(self.path),
            "checkpoint_digest": found.checkpoint_digest,
            "dataset_digest": found.dataset_digest,
            "n": found.n,
            "bounds": {name: {"q90": b.trusted, "q99": b.known} for name, b in found.bounds.items()},
            "class_agreement": found.class_agreement,
        }


def calibrate(
    named: str | Path,
    *,
    dataset: str | Path | None = None,
    classifier: str | Path | None = None,
    tiles: int = TILES,
    device: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Calibrated:
    """Search held-out tiles of a generator's dataset and write calibration.json beside its checkpoint.json.

    Parameters
    ----------
    named
        A generator's run, checkpoint or exported folder; with its encoder, if it has one, as searches will be.
    dataset
        What it learnt from; None: the one that its run names.
    classifier
        A classifier's run of the same classes, for the share of tiles in which it agrees; None: not measured.
    tiles
        Most held-out tiles to search.
    device
        Where to compute.
    on_progress, should_stop
        As of `latent.calibrating.calibrated`.

    Raises
    ------
    UserError
        If something cannot be read, the dataset is another one or holds too few held-out patches, the checkpoint's
        folder cannot be written, or it was stopped.
    """
    from napari_histolatent.latent.calibrating import calibrated
    from napari_histolatent.models.images import to_tensor
    from napari_histolatent.training.load import load_classifier, load_encoder, load_generator

    generator = load_generator(named, device=device)
    data = dataset_of(generator.checkpoint, dataset)
    rows = held_out_rows(data, tiles)
    known = _spread(data.rows_of("train"), _KNOWN_TILES)
    encoder = load_encoder(generator.checkpoint.path, device=device)
    judge = load_classifier(classifier, device=device) if classifier else None
    if judge is not None:
        require_judge(judge, generator.checkpoint)
    found = calibrated(
        generator.network,
        checkpoint_digest=generator.checkpoint.digest,
        dataset_digest=data.digest,
        known=to_tensor(data.read(known)).to(generator.device) if len(known) >= LEAST_TILES else None,
        held_out=to_tensor(data.read(rows)).to(generator.device),
        class_weights=class_vectors(data, rows, generator.checkpoint.classes),
        encoder=encoder.network if encoder else None,
        encoder_digest=encoder.checkpoint.digest if encoder else "",
        classifier=judge.network if judge else None,
        classifier_digest=judge.checkpoint.digest if judge else "",
        on_progress=on_progress,
        should_stop=should_stop,
    )
    return Calibrated(found.save(generator.checkpoint.path), found)


def calibration_of(checkpoint: Checkpoint) -> Calibration | None:
    """Return the calibration of a generator's checkpoint, or None where none was made.

    Raises
    ------
    CheckpointError
        If its file is damaged.
    """
    from napari_histolatent.latent.verdict import Calibration

    return Calibration.load(checkpoint.path, checkpoint_digest=checkpoint.digest)


@dataclass(frozen=True)
class Judged:
    """How far to believe the inversion of a tile, and why, in plain sentences."""

    verdict: Verdict | None
    reasons: tuple[str, ...]


def judged(
    generator: LoadedGenerator,
    pixels: NDArray[np.uint8],
    inversions: Sequence[Inversion],
    *,
    calibration: Calibration | None,
    classifier: LoadedClassifier | None = None,
) -> list[Judged]:
    """Return the verdict on each tile (n, size_px, size_px, 3) and its inversion.

    Parameters
    ----------
    generator
        That the inversions belong to.
    pixels
        The tiles.
    inversions
        One a tile; with `perceptual=PerceptualDistance()`, or that measure is passed over.
    calibration
        See `calibration_of`; None gives no verdict, and a sentence that says how to make one.
    classifier
        Of the same classes and size, to compare what it sees in tile and reconstruction.
    """
    from napari_histolatent.latent.calibrating import measures_of
    from napari_histolatent.latent.verdict import verdict_of
    from napari_histolatent.models.images import to_tensor

    digest = classifier.checkpoint.digest if classifier else ""
    measures = measures_of(
        generator.network,
        to_tensor(pixels).to(generator.device),
        inversions,
        calibration=calibration,
        classifier=classifier.network if classifier else None,
    )
    return [
        Judged(*verdict_of(inversion, replace(measure, classifier_digest=digest), calibration))
        for inversion, measure in zip(inversions, measures, strict=True)
    ]


def new_calibration(
    named: str | Path, *, dataset: str | Path | None = None, classifier: str | Path | None = None
) -> Run:
    """Make a run that will calibrate a generator; `runs.launch` starts it.

    Raises
    ------
    UserError
        If there is no such generator, its dataset is not there or has too few held-out patches, or the run's folder
        cannot be made.
    """
    from napari_histolatent.training.load import find_checkpoint

    checkpoint = find_checkpoint(named)
    # The process would find out too, seconds later.
    data = dataset_of(checkpoint, dataset)
    held_out_rows(data, TILES)
    folder = data_folder() / "calibrations" / f"{file_name_of(Path(named).name)}-{uuid4().hex[:8]}"
    spec = {"run": str(checkpoint.path), "dataset": str(data.path.absolute())}
    if classifier is not None:
        spec["classifier"] = str(classifier)
    return Run.create(folder, kind=CALIBRATE, spec=spec)


def run_calibration(run: Run) -> None:
    """Do the work of a calibration's run folder, telling how it goes in its events."""
    from napari_histolatent.latent.calibrating import StoppedError

    done = total = 0

    def tell(now: int, of: int) -> None:
        nonlocal done, total
        done, total = now, of
        with writing_to(run.path):
            run.append(RunEvent("progress", done, total))

    run.append(RunEvent("started", message="Searching held-out tiles"))
    try:
        found = calibrate(
            run.spec["run"],
            dataset=run.spec.get("dataset"),
            classifier=run.spec.get("classifier"),
            on_progress=tell,
            should_stop=lambda: run.stop_requested,
        )
    except StoppedError as error:
        run.append(RunEvent("stopped", done, total, message=str(error)))
        return
    run.append(RunEvent("finished", total, total, data={"report": found.to_json()}))


def dataset_of(checkpoint: Checkpoint, dataset: str | Path | None) -> PatchDataset:
    """Return the dataset that is named, else the one that a checkpoint's run learnt from.

    Raises
    ------
    DatasetError
        If none is named and the checkpoint lies in no run that names one, or it is of another size or classes.
    """
    if dataset is None:
        in_run = checkpoint.path.parent.name == "checkpoints"
        try:
            dataset = Run(checkpoint.path.parent.parent).spec["dataset"] if in_run else None
        except (RunError, KeyError):
            dataset = None
    if dataset is None:
        msg = f"Which dataset {checkpoint.path} learnt from is not known; name it with --dataset."
        raise DatasetError(msg)
    data = PatchDataset(dataset)
    if data.size_px != checkpoint.size_px:
        msg = f"The dataset {data.path} has patches of {data.size_px} px, the generator draws {checkpoint.size_px} px; name the one that it learnt from."
        raise DatasetError(msg)
    if checkpoint.classes and not set(data.classes) <= set(checkpoint.classes):
        msg = f"The dataset {data.path} has the classes {', '.join(data.classes)}, the generator {', '.join(checkpoint.classes)}; name the one that it learnt from."
        raise DatasetError(msg)
    return data


def held_out_rows(data: PatchDataset, most: int) -> NDArray[np.int64]:
    """Return at most so many patches of val, else of test, evenly over the split.

    Raises
    ------
    DatasetError
        If there are fewer than `LEAST_TILES`.
    """
    rows = max(
        (data.rows_of(split) for split in ("val", "test")), key=lambda found: len(found) >= LEAST_TILES
    )
    if len(rows) < LEAST_TILES:
        msg = f"The dataset {data.path} holds out {len(rows)} patches, a calibration needs {LEAST_TILES}; hold out more patients."
        raise DatasetError(msg)
    return _spread(rows, most)


def class_vectors(
    data: PatchDataset, rows: NDArray[np.int64], classes: tuple[str, ...]
) -> list[tuple[float, ...]]:
    """Return the one-hot class vector of each patch, in the generator's order of classes; () without classes."""
    from napari_histolatent.latent import class_vector

    if not classes:
        return [()] * len(rows)
    by_label = [class_vector(classes, name) for name in data.classes]
    return [by_label[label] for label in data.labels[rows]]


def require_judge(judge: LoadedClassifier, checkpoint: Checkpoint) -> None:
    """Refuse a classifier of another size or other classes than the generator.

    Raises
    ------
    UserError
        If it is.
    """
    own = judge.network
    if set(own.classes) != set(checkpoint.classes) or own.size_px != checkpoint.size_px:
        msg = (
            f"The classifier knows {', '.join(own.classes)} at {own.size_px} px, the generator {', '.join(checkpoint.classes)} "
            f"at {checkpoint.size_px} px; choose two of the same dataset."
        )
        raise UserError(msg)


def fitting_judge(checkpoint: Checkpoint) -> str | None:
    """Return the classifier to calibrate a generator with: its run's judge, else the shipped one; None if none fits.

    Which one fits is in their descriptions: nothing is loaded.
    """
    for named in (checkpoint.config.get("judge"), SHIPPED):
        if not isinstance(named, str) or not named or not checkpoint.classes:
            continue
        try:
            judge = chosen_checkpoint(shipped_of_kind("classifier") if named == SHIPPED else named)
        except UserError:  # not there (any more): nobody asked for it
            continue
        is_alike = set(judge.classes) == set(checkpoint.classes) and judge.size_px == checkpoint.size_px
        if judge.kind == "classifier" and is_alike:
            return named
    return None


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(rows) <= most:
        return rows
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(np.int64))]
