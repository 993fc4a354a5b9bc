"""What the Edit dock computes: no Qt and no napari, run in threads, tested without either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_histolatent.errors import UserError
from napari_histolatent.runs import Run, known_runs

if TYPE_CHECKING:
    from napari_histolatent.explain import Heatmap
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator


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


def runs_with_models() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (caption, path) of the generators and of the classifiers that have a checkpoint, newest first."""
    found: dict[str, list[tuple[str, str]]] = {"train": [], "classifier": []}
    for path in known_runs():
        try:
            run = Run(path)
        except UserError:
            continue
        if run.kind in found and any(run.checkpoints_folder.glob("step-*/checkpoint.json")):
            found[run.kind].append((f"{path.name} ({run.status().state})", str(path)))
    return found["train"], found["classifier"]


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
