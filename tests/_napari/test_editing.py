from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from napari_histolatent._napari._editing import (
    ModelRun,
    Models,
    Seen,
    load_models,
    paired_classifier,
    runs_with_models,
    seen_in,
)
from napari_histolatent.errors import CheckpointError, RunError, UserError
from napari_histolatent.jobs.tiles import Tile, cut_tile
from napari_histolatent.runs import Run, RunEvent
from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.slides import Slide
    from tests._napari.conftest import Trained

CLASSES = ("epithelium", "stroma")


@pytest.fixture
def models(trained: Trained) -> Models:
    return load_models(str(trained.generator), str(trained.classifier))


@pytest.fixture
def tile(slide: Slide) -> Tile:
    return replace(cut_tile(slide, (200, 300), size_px=32, mpp=1.0), label="epithelium")


@pytest.fixture
def other(slide: Slide) -> Tile:
    return replace(cut_tile(slide, (500, 300), size_px=32, mpp=1.0), label="stroma")


# The runs there are


def test_without_runs_there_is_nothing_to_choose() -> None:
    assert runs_with_models() == ([], [])


def test_runs_are_told_apart_by_what_they_trained(listed: Trained) -> None:
    (generator,), (classifier,) = runs_with_models()
    assert (generator.kind, generator.path) == ("train", str(listed.generator))
    assert (classifier.kind, classifier.path) == ("classifier", str(listed.classifier))
    for run in (generator, classifier):
        assert run.classes == CLASSES
        assert run.checkpoint == "step-00000002"
    assert [generator.caption, classifier.caption] == ["gan (finished)", "classifier (finished)"]


def test_a_run_without_a_checkpoint_cannot_be_chosen(listed: Trained, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "young", kind="train", spec={})
    run.append(RunEvent("started", steps=10))
    half = run.checkpoints_folder / ".step-00000002.1-abc.tmp"
    half.mkdir(parents=True)
    (half / "checkpoint.json").write_text("{}")
    (run.checkpoints_folder / "step-00000002").mkdir()
    generators, _ = runs_with_models()
    assert [run.path for run in generators] == [str(listed.generator)]


def test_a_broken_run_hides_no_other(listed: Trained, tmp_path: Path) -> None:
    Run.create(tmp_path / "broken", kind="train", spec={})
    (tmp_path / "broken" / "run.json").write_text("{")
    Run.create(tmp_path / "strange", kind="knitting", spec={})
    generators, classifiers = runs_with_models()
    assert [len(generators), len(classifiers)] == [1, 1]


def copied(run: Path, to: Path) -> Path:
    """Return a run of another name with the same checkpoint."""
    made = Run.create(to, kind=Run(run).kind, spec={})
    shutil.copytree(run / "checkpoints", made.checkpoints_folder)
    return to


def test_a_broken_checkpoint_gives_way_to_the_one_before(trained: Trained, tmp_path: Path) -> None:
    run = copied(trained.generator, tmp_path / "run")
    broken = run / "checkpoints" / "step-00000009"
    broken.mkdir()
    (broken / "checkpoint.json").write_text("{}")
    (generator,), _ = runs_with_models()
    assert generator.checkpoint == "step-00000002"


def test_the_newest_run_comes_first(trained: Trained, tmp_path: Path) -> None:
    for age, name in ((300, "old"), (100, "new"), (200, "between")):
        file = copied(trained.generator, tmp_path / name) / "run.json"
        made = file.stat().st_mtime - age
        os.utime(file, (made, made))
    generators, _ = runs_with_models()
    assert [run.caption for run in generators] == ["new (new)", "between (new)", "old (new)"]


def test_a_run_that_learns_on_is_not_what_it_was(trained: Trained, tmp_path: Path) -> None:
    run = copied(trained.generator, tmp_path / "run")
    (before,), _ = runs_with_models()
    Run(run).append(RunEvent("started", 0, 9))
    (started,), _ = runs_with_models()
    assert started == before, "its words are another, its network is the same"
    assert started.caption != before.caption
    shutil.copytree(run / "checkpoints" / "step-00000002", run / "checkpoints" / "step-00000004")
    (after,), _ = runs_with_models()
    assert after != before


def classifier_of(name: str, *classes: str) -> ModelRun:
    return ModelRun("classifier", f"/runs/{name}", "step-1", classes, name)


@pytest.mark.parametrize(
    ("before", "expected"),
    [(None, "newer"), ("newer", "newer"), ("older", "older"), ("fat", "newer"), ("gone", "newer")],
)
def test_a_generator_gets_a_classifier_of_its_classes(before: str | None, expected: str) -> None:
    runs = {
        "fat": classifier_of("fat", "fat", "stroma"),
        "newer": classifier_of("newer", "stroma", "epithelium"),
        "older": classifier_of("older", "epithelium", "stroma"),
    }
    last = None if before is None else runs.get(before, classifier_of("gone", *CLASSES))
    assert paired_classifier(CLASSES, list(runs.values()), last) == runs[expected]
    assert paired_classifier(("fat",), list(runs.values()), last) is None
    assert paired_classifier(CLASSES, [], last) is None


# Networks


def test_networks_come_ready_to_use(models: Models) -> None:
    assert isinstance(models.generator, LoadedGenerator)
    assert isinstance(models.classifier, LoadedClassifier)
    assert models.generator.checkpoint.classes == CLASSES
    assert not models.generator.network.training
    assert not models.classifier.network.training


def test_a_classifier_is_not_needed(trained: Trained) -> None:
    assert load_models(str(trained.generator), None).classifier is None


def test_networks_of_other_classes_do_not_go_together(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.classifier, tmp_path / "copy")
    (info,) = (tmp_path / "copy").glob("checkpoints/*/checkpoint.json")
    info.write_text(info.read_text().replace("stroma", "fat"))
    with pytest.raises(UserError, match="generator knows the classes epithelium, stroma"):
        load_models(str(trained.generator), str(tmp_path / "copy"))


def test_what_is_no_generator_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a classifier, where a generator is needed"):
        load_models(str(trained.classifier), None)
    with pytest.raises(CheckpointError, match="holds a gan, where a classifier is needed"):
        load_models(str(trained.generator), str(trained.generator))
    with pytest.raises(RunError, match="is not a run folder"):
        load_models(str(tmp_path), None)


# What a classifier sees


def test_each_tile_is_seen(models: Models, tile: Tile, other: Tile) -> None:
    seen = seen_in(models, [tile, other], "stroma")
    assert len(seen) == 2
    for item, looked_at in zip(seen, (tile, other), strict=True):
        assert item.heatmap is not None
        assert item.heatmap.target == "stroma"
        assert item.heatmap.values.shape == (32, 32)
        assert item.heatmap.level0_box == looked_at.level0_box
        assert item.probabilities is not None
        assert set(item.probabilities) == set(CLASSES)
        assert sum(item.probabilities.values()) == pytest.approx(1)
        assert item.heatmap.probability == pytest.approx(item.probabilities["stroma"])
    assert seen[0].probabilities != seen[1].probabilities


def test_without_a_class_the_one_it_sees_is_shown(models: Models, tile: Tile) -> None:
    (seen,) = seen_in(models, [tile], None)
    assert seen.heatmap is not None
    assert seen.probabilities is not None
    assert seen.heatmap.target == max(seen.probabilities, key=lambda name: seen.probabilities[name])


def test_without_a_classifier_nothing_is_seen(models: Models, tile: Tile) -> None:
    alone = replace(models, classifier=None)
    assert seen_in(alone, [tile, tile], "stroma") == (Seen(), Seen())
    assert seen_in(models, [], None) == ()


def test_no_gradient_is_left_behind(models: Models, tile: Tile) -> None:
    seen_in(models, [tile], None)
    assert not any(v.requires_grad or v.grad is not None for v in models.classifier.network.parameters())
    assert torch.is_grad_enabled()
