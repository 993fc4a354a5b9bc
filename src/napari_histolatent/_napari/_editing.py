"""What the Edit dock computes: no Qt and no napari, run in threads, tested without either."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_histolatent.errors import UserError
from napari_histolatent.runs import Run, known_runs
from napari_histolatent.training.shipped import COLOUR_JUDGE, GENERATOR, ROBUST_JUDGE, shipped_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.training.checkpoint import Checkpoint
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator


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


@dataclass(frozen=True)
class Seen:
    """What a classifier makes of a tile; both None without a classifier."""

    heatmap: Heatmap | None = None
    probabilities: dict[str, float] | None = None


@dataclass(frozen=True)
class Route:
    """The images from a reconstruction to its flip, or to another tile, and what is seen in each."""

    frames: tuple[Tile, ...]
    seen: tuple[Seen, ...]


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
    judges = {ROBUST_JUDGE: "lung classifier, by structure", COLOUR_JUDGE: "lung classifier, by colour too"}
    return generators, [*found["classifier"], *_of_package("classifier", judges)]


def _of_package(kind: str, captions: Mapping[str, str]) -> Iterator[ModelRun]:
    from napari_histolatent.training.checkpoint import Checkpoint

    for part, caption in captions.items():
        folder = shipped_folder(part)
        if folder is not None:
            checkpoint = Checkpoint.open(folder)
            said = f"{caption} (comes with the plugin)"
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
    """Load the networks of two runs.

    Raises
    ------
    UserError
        If one cannot be loaded, or they know different classes.
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.training.load import load_classifier, load_generator

    models = Models(load_generator(generator), load_classifier(classifier) if classifier else None)
    if models.classifier:
        edits.require_same_classes(models.generator, models.classifier)
    return models


def seen_in(models: Models, tiles: list[Tile], evidence_for: str | None) -> tuple[Seen, ...]:
    """Return heatmap and probabilities of each tile."""
    from napari_histolatent.jobs import edits

    if models.classifier is None or not tiles:
        return tuple(Seen() for _ in tiles)
    heatmaps = edits.heatmaps_of(models.classifier, tiles, target=evidence_for)
    chances = edits.probabilities_of(models.classifier, tiles)
    return tuple(Seen(heatmap, chance) for heatmap, chance in zip(heatmaps, chances, strict=True))


def route_to(
    models: Models, reconstruction: Tile, towards: str | Tile, *, frames: int, evidence_for: str | None
) -> Route:
    """Return the images from a reconstruction to a class (its flip) or to another tile.

    A tile without a latent point of this generator is searched first.
    """
    from napari_histolatent.jobs import edits

    generator = models.generator
    if isinstance(towards, str):
        end = edits.flip_tile(generator, reconstruction, to=towards)
    elif towards.point is not None and towards.point.checkpoint_digest == generator.checkpoint.digest:
        end = towards
    else:
        known = towards.label if towards.label in generator.checkpoint.classes else None
        (search,) = edits.reverse_search(generator, [towards], label=known)
        end = search.reconstruction
    drawn = edits.interpolate_tiles(generator, reconstruction, end, frames=frames)
    return Route(tuple(drawn), seen_in(models, drawn, evidence_for))
