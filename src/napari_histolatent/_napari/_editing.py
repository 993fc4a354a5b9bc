"""What the Edit dock computes: no Qt and no napari, run in threads, tested without either."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histolatent.errors import UserError
from napari_histolatent.runs import Run, known_runs
from napari_histolatent.training.shipped import COLOUR_JUDGE, GENERATOR, ROBUST_JUDGE, shipped_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.jobs.stains import KnownStain
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent.verdict import Calibration
    from napari_histolatent.training.checkpoint import Checkpoint
    from napari_histolatent.training.load import LoadedClassifier, LoadedEncoder, LoadedGenerator


_STAIN_SAMPLES = 24


@dataclass(frozen=True)
class ModelRun:
    """A run whose network can be chosen. Equal to another while its newest checkpoint is the same."""

    kind: str
    path: str
    checkpoint: str
    """Name of its newest checkpoint; a run that goes on training gets a new one."""
    classes: tuple[str, ...]
    caption: str = field(compare=False)


@dataclass(frozen=True)
class Models:
    """The networks an edit works with; a classifier is not needed for drawing."""

    generator: LoadedGenerator
    classifier: LoadedClassifier | None
    encoder: LoadedEncoder | None = None
    """Of this generator; a search without one takes a random start."""
    calibration: Calibration | None = None
    stain: KnownStain | None = None
    """The colours that the generator draws; None where its samples hold too little tissue."""
    layers: tuple[str, ...] = ()
    """Of the classifier, that can be mapped."""
    remarks: tuple[str, ...] = ()
    """What of it could not be read."""


@dataclass(frozen=True)
class Seen:
    """What a classifier makes of a tile; both None without a classifier."""

    heatmap: Heatmap | None = None
    probabilities: dict[str, float] | None = None


def runs_with_models() -> tuple[list[ModelRun], list[ModelRun]]:
    """Return the generators and the classifiers that have a checkpoint, newest first, those of the package last."""
    found: dict[str, list[ModelRun]] = {"train": [], "classifier": []}
    for path in known_runs():
        try:
            run = Run(path)
        except UserError:
            continue
        newest = _newest_checkpoint(run) if run.kind in found else None
        if newest is not None:
            caption = f"{path.name} ({run.status().state})"
            found[run.kind].append(ModelRun(run.kind, str(path), newest.path.name, newest.classes, caption))
    generators = [*found["train"], *_of_package("train", {GENERATOR: "lung generator"})]
    judges = {ROBUST_JUDGE: "lung, by structure", COLOUR_JUDGE: "lung, by colour too"}
    return generators, [*found["classifier"], *_of_package("classifier", judges)]


def judge_name(run: ModelRun) -> str:
    """Return in a few words which classifier it is: what a probability is by."""
    for part, words in ((ROBUST_JUDGE, "by structure"), (COLOUR_JUDGE, "by colour too")):
        folder = shipped_folder(part)
        if folder is not None and str(folder) == run.path:
            return words
    return f"by the classifier {Path(run.path).name}"


def _of_package(kind: str, captions: Mapping[str, str]) -> Iterator[ModelRun]:
    from napari_histolatent.training.checkpoint import Checkpoint

    for part, caption in captions.items():
        folder = shipped_folder(part)
        if folder is not None:
            checkpoint = Checkpoint.open(folder)
            said = f"{caption} (built in)"
            yield ModelRun(kind, str(folder), checkpoint.digest, checkpoint.classes, said)


def _newest_checkpoint(run: Run) -> Checkpoint | None:
    from napari_histolatent.training.checkpoint import Checkpoint, checkpoints_in

    for path in reversed(checkpoints_in(run.checkpoints_folder)):
        try:
            return Checkpoint.open(path)
        except UserError:
            continue
    return None


def paired_classifier(
    classes: tuple[str, ...], classifiers: list[ModelRun], before: ModelRun | None
) -> ModelRun | None:
    """Return the classifier to go with a generator of these classes: the one before if it fits, else the newest that does."""
    fitting = [run for run in classifiers if set(run.classes) == set(classes)]
    for run in fitting:
        if before is not None and run.path == before.path:
            return run
    return fitting[0] if fitting else None


def load_models(generator: str, classifier: str | None) -> Models:
    """Load the networks of two runs, and what goes with the generator.

    Raises
    ------
    UserError
        If one cannot be loaded, or they know different classes or pixels more than 4 times apart.
    """
    from napari_histolatent.explain import gradcam
    from napari_histolatent.jobs import edits, seeing, stains
    from napari_histolatent.jobs.calibration import calibration_of
    from napari_histolatent.jobs.companions import encoder_of
    from napari_histolatent.training.load import load_classifier, load_generator

    drawing = load_generator(generator)
    judge = load_classifier(classifier) if classifier else None
    if judge:
        seeing.require_match(drawing, judge)
    encoder, sentence = encoder_of(drawing)
    remarks = [sentence] if sentence else []
    try:
        calibration = calibration_of(drawing.checkpoint)
    except UserError as error:  # a search needs none
        calibration = None
        remarks.append(str(error))
    samples = edits.sample_tiles(drawing, _STAIN_SAMPLES, label=None, seed=0)
    if judge:
        remarks += seeing.remarks_on(judge, samples[:1])
    return Models(
        drawing,
        judge,
        encoder=encoder,
        calibration=calibration,
        stain=stains.known_stain(stains.stacked(samples)),
        layers=gradcam.layers_of(judge.network) if judge else (),
        remarks=tuple(remarks),
    )


def seen_in(
    models: Models, tiles: Sequence[Tile], evidence_for: str | None, *, layer: str | None = None
) -> tuple[Seen, ...]:
    """Return heatmap and probabilities of each tile; the map of a tile without a place lies in the tile's own pixels.

    Parameters
    ----------
    models
        Without a classifier nothing is seen.
    tiles
        Of the generator's size.
    evidence_for
        The class whose evidence is mapped; None: the one that the classifier sees in each tile.
    layer
        The classifier's layer that is mapped; None: its own choice.
    """
    from napari_histolatent.jobs import edits

    if models.classifier is None or not tiles:
        return tuple(Seen() for _ in tiles)
    # Where a classifier is shown a part of the tile, the map's box says which part; so it does of a tile without a place.
    tiles = [tile if tile.level0_box else replace(tile, level0_box=_own_box(tile)) for tile in tiles]
    heatmaps = edits.heatmaps_of(models.classifier, tiles, target=evidence_for, layer=layer)
    chances = edits.probabilities_of(models.classifier, tiles)
    return tuple(Seen(heatmap, chance) for heatmap, chance in zip(heatmaps, chances, strict=True))


def _own_box(tile: Tile) -> tuple[float, float, float, float]:
    height, width = tile.pixels.shape[:2]
    return 0.0, 0.0, float(width), float(height)
