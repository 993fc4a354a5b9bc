"""A dataset cut in a process of its own, which may be stopped or killed at any time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from napari_histolatent.errors import DatasetError, RunError
from napari_histolatent.jobs import extraction
from napari_histolatent.jobs.extraction import (
    batch_sources,
    forget,
    mark_told,
    new_extraction,
    open_extractions,
    out_of,
    run_extraction,
)
from napari_histolatent.jobs.follow import resume, stop
from napari_histolatent.patches import (
    GridSpec,
    PatchDataset,
    Recipe,
    SlideSource,
    SplitSpec,
    extract,
    working_folder,
)
from napari_histolatent.runs import Run, RunEvent, launch
from tests.runs.processes import end_processes_below, wait_for_end, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

RECIPE = Recipe(grid=GridSpec(size_px=32, mpp=1.0, stride_px=16), split=SplitSpec(block_patches=2))
MANY = Recipe(grid=GridSpec(size_px=64, level=0, stride_px=4), split=SplitSpec(block_patches=2))
"""Six shards of `tiny_slide`, cut in some seconds: time enough to interrupt."""


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty list of runs, whose processes are ended after the test."""
    folder = tmp_path / "data"
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(folder))
    yield folder
    end_processes_below(folder)


@pytest.fixture
def source(tiny_slide: Path, tiny_regions: Path) -> SlideSource:
    return SlideSource(tiny_slide, tiny_regions)


def end(run: Run, kind: str, *, step: int = 0) -> None:
    """Write down that a run has ended."""
    run.append(RunEvent(kind, step, 100, message="No."))


def contents(folder: Path) -> dict[str, bytes]:
    """Return all bytes of a dataset that are to be the same each time."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "provenance.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def some_are_cut(run: Run, *, more_than: int = 0) -> int:
    """Wait until shards are on the disk, and return how many patches that are."""
    parts = working_folder(Path(run.spec["out"])) / "parts"

    def kept() -> int:
        return sum(json.loads(file.read_text())["n_patches"] for file in parts.glob("*.json"))

    wait_until(
        # An event of its own, too: until then a resumed process counts as what it was before.
        lambda: (kept() > more_than and run.status().state == "running") or run.status().state == "finished",
        f"progress of {run.path}",
        folder=run.path,
    )
    assert run.status().state != "finished", "there was no time to interrupt it; cut more patches"
    return kept()


def test_paused_then_killed_it_ends_with_the_bytes_of_one_that_never_was(
    source: SlideSource, tmp_path: Path
) -> None:
    extract([source], tmp_path / "whole", recipe=MANY, workers=2)
    run = new_extraction([source], tmp_path / "cut", MANY)
    launch(run)
    some_are_cut(run)
    assert stop(run).state == "stopped"
    assert not (tmp_path / "cut").exists()
    paused_at = run.status().step
    assert 0 < paused_at < run.status().steps
    assert [v.path for v in open_extractions()] == [run.path]

    resume(run)
    some_are_cut(run, more_than=paused_at)
    process = psutil.Process(json.loads((run.path / "owner.json").read_text())["pid"])
    process.kill()
    process.wait(10)
    assert run.status().state == "interrupted"
    assert [v.path for v in open_extractions()] == [run.path]

    resume(run)
    status = wait_for_end(run)
    assert status.state == "finished", status.message
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "cut")) > 8, "index, settings, array and six shards"
    report = status.data["report"]
    assert report["taken_up"] >= paused_at
    assert report["patches"] == len(PatchDataset(tmp_path / "whole"))


def test_a_process_that_ends_between_the_dataset_and_its_word_loses_nothing(
    source: SlideSource, tmp_path: Path
) -> None:
    run = new_extraction([source], tmp_path / "cut", RECIPE, overwrite=True)
    run_extraction(run)
    first = run.status().data["report"]
    made = (tmp_path / "cut" / "dataset.json").stat().st_mtime_ns
    (run.path / "events.jsonl").unlink()
    again = Run(run.path)
    run_extraction(again)
    assert again.status().state == "finished"
    assert again.status().data["report"]["counts"] == first["counts"]
    assert (tmp_path / "cut" / "dataset.json").stat().st_mtime_ns == made, "it was not cut a second time"


def test_a_dataset_that_another_made_meanwhile_is_not_taken_for_its_own(
    source: SlideSource, tmp_path: Path
) -> None:
    # BUG: it said that it had finished.
    run = new_extraction([source], tmp_path / "cut", RECIPE, overwrite=True)
    extract([source], tmp_path / "cut", recipe=RECIPE.changed(grid={"size_px": 48}))
    run_extraction(run)
    assert run.status().state == "finished"
    assert PatchDataset(tmp_path / "cut").size_px == 32


def test_a_dataset_of_before_is_cut_anew_where_it_may_be_replaced(
    source: SlideSource, tmp_path: Path
) -> None:
    extract([source], tmp_path / "cut", recipe=MANY.changed(grid={"stride_px": 64}))
    run = new_extraction([source], tmp_path / "cut", RECIPE, overwrite=True)
    run_extraction(run)
    assert PatchDataset(tmp_path / "cut").size_px == 32


def test_the_report_counts_per_split_and_class_and_says_what_is_left_out(
    source: SlideSource, tmp_path: Path
) -> None:
    run = new_extraction([source], tmp_path / "cut", RECIPE)
    run_extraction(run)
    status = run.status()
    report, table = status.data["report"], PatchDataset(tmp_path / "cut").columns
    for split, classes in report["counts"].items():
        for name, n in classes.items():
            assert n == ((table["split"] == split) & (table["label"] == name)).sum()
    assert report["patches"] == sum(sum(v.values()) for v in report["counts"].values()) > 100
    assert report["left_out"]["split border"] > 0
    assert status.step == status.steps >= report["patches"]


def test_a_folder_that_is_there_is_refused_before_anything_is_made(
    source: SlideSource, tmp_path: Path, data_folder: Path
) -> None:
    (tmp_path / "cut").mkdir()
    with pytest.raises(DatasetError, match="exists already and is no dataset; name another folder"):
        new_extraction([source], tmp_path / "cut", RECIPE)
    with pytest.raises(DatasetError, match="is not a patch dataset, so it is not overwritten"):
        new_extraction([source], tmp_path / "cut", RECIPE, overwrite=True)
    assert not data_folder.exists()


def test_the_speed_is_that_of_late_also_where_a_shard_takes_long(
    source: SlideSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_extraction([source], tmp_path / "cut", RECIPE)
    now = 0.0
    monkeypatch.setattr(extraction.time, "monotonic", lambda: now)
    told = extraction._Told(run)
    for now, done in ((100.0, 0), (101.0, 1000), (131.0, 1300), (161.0, 1900)):  # noqa: B007  # read by the clock
        told.progress(done, 5000)
    rates = [event.data.get("patches_per_second") for event in run.events()[0]]
    assert rates == [None, 1000.0, 10.0, 20.0]


# A batch


def test_a_slide_of_a_table_that_is_missing_is_listed_and_the_rest_is_done(
    tiny_slide: Path, tiny_regions: Path, tmp_path: Path
) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,annotation,patient\n{tiny_slide},{tiny_regions},a\ngone.svs,{tiny_regions},b\n")
    sources, failed = batch_sources(table)
    assert failed == []
    run = new_extraction(sources, tmp_path / "cut", RECIPE)
    run_extraction(run)
    report = run.status().data["report"]
    assert run.status().state == "finished"
    (sentence,) = report["failed"]
    assert "gone.svs" in sentence
    assert (report["slides"], report["patches"] > 100) == (1, True)


def test_a_slide_of_a_folder_without_annotations_is_listed_and_the_rest_is_done(
    tiny_slide: Path, tiny_regions: Path, tmp_path: Path
) -> None:
    slides, annotations = tmp_path / "slides", tmp_path / "annotations"
    for folder in (slides, annotations):
        folder.mkdir()
    for name in ("a", "b"):
        (slides / f"{name}.tiff").symlink_to(tiny_slide)
    (annotations / "b.geojson").symlink_to(tiny_regions)
    sources, failed = batch_sources(slides, annotations)
    assert [v.slide.name for v in sources] == ["b.tiff"]
    assert len(failed) == 1
    assert "no annotations of a.tiff" in failed[0]
    run = new_extraction(sources, tmp_path / "cut", RECIPE, failed=failed)
    run_extraction(run)
    assert run.status().data["report"]["failed"] == failed


def test_a_batch_of_nothing_is_one_sentence(tiny_slide: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no slide"):
        batch_sources(tmp_path)
    (tmp_path / "a.tiff").symlink_to(tiny_slide)
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match=r"None of the slides .* can be used; the first: .*a\.tiff"):
        batch_sources(tmp_path, tmp_path / "none")


# What can go on


@pytest.mark.parametrize(
    ("kind", "step", "is_offered"),
    [
        ("stopped", 5, True),
        ("progress", 5, True),
        ("failed", 5, True),
        ("failed", 0, False),
        ("finished", 100, False),
    ],
)
def test_what_was_stopped_killed_or_failed_on_its_way_is_offered(
    source: SlideSource, tmp_path: Path, kind: str, step: int, is_offered: bool
) -> None:
    run = new_extraction([source], tmp_path / "cut", RECIPE)
    run.claim()
    end(run, kind, step=step)
    (run.path / "owner.json").unlink()
    assert [v.path for v in open_extractions()] == ([run.path] if is_offered else [])


def test_one_that_finished_while_nobody_watched_is_told_once(source: SlideSource, tmp_path: Path) -> None:
    stopped = new_extraction([source], tmp_path / "stopped", RECIPE)
    end(stopped, "stopped", step=5)
    run = new_extraction([source], tmp_path / "cut", RECIPE)
    run_extraction(run)
    assert [v.path for v in open_extractions()] == [run.path, stopped.path]
    mark_told(run)
    assert [v.path for v in open_extractions()] == [stopped.path]


def test_one_that_was_not_started_and_other_work_are_not_offered(source: SlideSource, tmp_path: Path) -> None:
    new_extraction([source], tmp_path / "cut", RECIPE)
    end(Run.create(tmp_path / "run", kind="train", spec={"out": "x"}), "stopped")
    assert open_extractions() == []


@pytest.mark.parametrize(
    ("newer", "offered"), [("finished", []), ("stopped", ["newer"]), ("failed", ["older"])]
)
def test_a_folder_is_offered_once(
    source: SlideSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newer: str, offered: list[str]
) -> None:
    runs = {name: new_extraction([source], tmp_path / "cut", RECIPE) for name in ("newer", "older")}
    end(runs["older"], "stopped", step=5)
    end(runs["newer"], newer, step=7 if newer == "stopped" else 0)
    monkeypatch.setattr(extraction, "known_runs", lambda: [run.path for run in runs.values()])
    assert [v.path for v in open_extractions()] == [runs[name].path for name in offered]


def test_what_is_forgotten_is_off_the_list_and_its_patches_are_kept(
    source: SlideSource, tmp_path: Path
) -> None:
    run = new_extraction([source], tmp_path / "cut", RECIPE)
    end(run, "stopped", step=5)
    working_folder(out_of(run)).mkdir()
    forget(run)
    assert open_extractions() == []
    assert not run.path.exists()
    assert working_folder(out_of(run)).is_dir()


def test_one_that_runs_is_not_forgotten(source: SlideSource, tmp_path: Path) -> None:
    run = new_extraction([source], tmp_path / "cut", RECIPE)
    run.append(RunEvent("started"))
    run.claim()
    try:
        with pytest.raises(RunError, match="is running; cancel it first"):
            forget(run)
        assert run.path.is_dir()
    finally:
        (run.path / "owner.json").unlink()
