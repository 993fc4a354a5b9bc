"""The demo end to end on a drawn slide: interrupted, gone on with, kept, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from napari_histolatent.errors import RunError, UserError
from napari_histolatent.jobs import demo as demo_module
from napari_histolatent.jobs import edits
from napari_histolatent.jobs import follow as follow_module
from napari_histolatent.jobs.demo import DemoResult, run_demo
from napari_histolatent.runs import Run, RunEvent, RunStatus
from tests.jobs.tiny import CLASSIFIER, GAN
from tests.runs.processes import end_processes_below

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = 200
"""Enough that a stop comes in before the end."""
TITLES = [
    "open the slide and its regions",
    "cut labelled patches",
    "train the generator",
    "train the classifier",
    "load the networks",
    "reverse-search tiles",
    "flip the class",
    "interpolate between two tiles",
    "see where the classifier looks",
    "write the report",
]


@dataclass
class Listener:
    """A console that keeps what it is told, and can be interrupted in a step."""

    interrupt_in: str = ""
    said: dict[str, str] = field(default_factory=dict)
    updates: dict[str, list[tuple[int, int, str]]] = field(default_factory=dict)
    title: str = ""

    def begin(self, title: str) -> None:
        self.title = title

    def update(self, done: int, total: int, text: str = "") -> None:
        self.updates.setdefault(self.title, []).append((done, total, text))
        if self.title == self.interrupt_in:
            self.interrupt_in = ""
            raise KeyboardInterrupt

    def end(self, text: str, seconds: float) -> None:
        assert seconds >= 0
        self.said[self.title] = text


@dataclass(frozen=True)
class Story:
    """A demo that was interrupted while it trained, and gone on with."""

    out: Path
    status_when_interrupted: RunStatus
    said_when_interrupted: dict[str, str]
    result: DemoResult
    listener: Listener


class Page(HTMLParser):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.pictures += [value or "" for name, value in attrs if tag == "img" and name == "src"]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module", autouse=True)
def _small_and_watched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "preset", lambda _: GAN.with_changes(steps=STEPS, checkpoint_every=STEPS))
        config = partial(CLASSIFIER.with_changes)
        patch.setattr(demo_module, "ClassifierConfig", lambda **options: config(**options))
        patch.setattr(edits, "reverse_search", partial(edits.reverse_search, steps=60))
        patch.setattr(follow_module, "_POLL_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_slide: Path, tiny_regions: Path) -> Iterator[Story]:
    out = tmp_path_factory.mktemp("demo") / "out"
    options: dict[str, Any] = {
        "slide": tiny_slide,
        "annotations": tiny_regions,
        "out": out,
        "preset_name": "demo",
        "device": "cpu",
    }
    try:
        first = Listener(interrupt_in="train the generator")
        with pytest.raises(KeyboardInterrupt):
            run_demo(**options, console=first)
        status = Run(out / "gan").status()
        second = Listener()
        result = run_demo(**options, console=second)
        yield Story(out, status, first.said, result, second)
    finally:
        end_processes_below(out)


def again(story: Story, **changes: Any) -> tuple[DemoResult, Listener]:
    listener = Listener()
    options: dict[str, Any] = {
        "slide": story.result.source.slide,
        "annotations": story.result.source.annotations,
        "out": story.out,
        "preset_name": "demo",
        "device": "cpu",
        "console": listener,
    }
    return run_demo(**options | changes), listener


def test_an_interrupted_demo_leaves_a_stopped_run_with_a_checkpoint(story: Story) -> None:
    assert story.status_when_interrupted.state == "stopped"
    assert 0 < story.status_when_interrupted.step < STEPS
    assert "checkpoint" in story.status_when_interrupted.data
    assert list(story.said_when_interrupted) == TITLES[:2]


def test_the_second_call_finishes_what_the_first_began(story: Story) -> None:
    assert list(story.listener.said) == list(story.result.seconds) == TITLES
    assert story.listener.said["cut labelled patches"].startswith("kept from the demo that was interrupted:")
    run = Run(story.out / "gan")
    assert (run.status().state, run.status().step) == ("finished", STEPS)
    starts = [event.step for event in run.events()[0] if event.kind == "started"]
    assert starts == [0, story.status_when_interrupted.step]
    trained = [done for done, _, _ in story.listener.updates["train the generator"]]
    assert trained[0] == story.status_when_interrupted.step
    assert trained[-1] == STEPS
    assert story.listener.updates["reverse-search tiles"]


def test_what_it_reports_is_what_it_made(story: Story) -> None:
    report = story.result.to_json()
    written = json.loads((story.out / "report.json").read_text())
    later = {"seconds", "seconds_in_all"}  # the report cannot know how long it took itself
    assert {k: v for k, v in written.items() if k not in later} == {
        k: v for k, v in report.items() if k not in later
    }
    assert report["report"] == str(story.out / "report.html")
    assert report["classes"].keys() == {"epithelium", "stroma"}
    assert report["patches"] == sum(report["classes"].values()) == sum(report["splits"].values())
    assert report["regions"] == {"epithelium": 1, "stroma": 1}
    assert report["gan"]["steps"] == STEPS
    assert 0 <= report["classifier"]["accuracy"] <= 1
    for name in ("rmse_real", "rmse_generated", "rmse_other"):
        assert 0 < report[name] < 2
    for chances in report["probability"].values():
        assert sum(chances.values()) == pytest.approx(1)
    assert set(report["seconds"]) == set(TITLES)


def test_the_report_shows_every_figure_it_names_and_nothing_from_elsewhere(story: Story) -> None:
    page = Page(story.out / "report.html")
    assert len(set(page.pictures)) == 13
    for name in page.pictures:
        with Image.open(story.out / name) as image:
            assert image.format == "PNG"
            image.load()
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert set(page.addresses) == set(page.pictures)
    assert not any("://" in address for address in page.addresses)
    assert story.result.source.description in page.words
    assert f"{story.result.facts['rmse_real']:.3f}" in page.words
    assert "{{" not in page.words
    assert "nan" not in page.words.split()


def test_what_was_drawn_is_marked_in_every_file(story: Story) -> None:
    synthetic = {}
    for file in (story.out / "figures").glob("*.png"):
        with Image.open(file) as image:
            chunk = json.loads(image.text["histolatent"])  # type: ignore[attr-defined]
            synthetic[file.stem] = chunk["synthetic"]
            assert ("Comment" in image.text) == chunk["synthetic"]  # type: ignore[attr-defined]
    drawn = {"samples", "reconstruction", "flip", "generated", "generated_reconstruction", "interpolation"}
    drawn |= {"gradcam_reconstruction", "gradcam_flip"}
    scanned = {"overview", "patches", "real", "other", "gradcam_real"}
    assert {name for name, value in synthetic.items() if value} == drawn
    assert {name for name, value in synthetic.items() if not value} == scanned
    for name in synthetic:
        with Image.open(story.out / "figures" / f"{name}.png") as image:
            corner = np.asarray(image.convert("RGB"))[-20:, :20]
        # The word stands on a dark ground in the lower left corner.
        assert ((corner < 80).all(axis=2).mean() > 0.2) == (name in drawn), name
    tiles = list((story.out / "tiles").glob("*.png"))
    frames = [tile for tile in tiles if "_frame_" in tile.name]
    assert len(frames) == 9
    for tile in tiles:
        with Image.open(tile) as image:
            chunk = json.loads(image.text["histolatent"])  # type: ignore[attr-defined]
            assert chunk["synthetic"] == (chunk["latent_point"] is not None) == ("Comment" in image.text)  # type: ignore[attr-defined]
            if not chunk["synthetic"]:
                assert chunk["slide_digest"]


def test_no_half_written_file_stays(story: Story) -> None:
    assert [path for path in story.out.rglob("*") if path.name.endswith(".tmp")] == []


def test_a_second_demo_keeps_the_dataset_and_the_networks(story: Story, tmp_path: Path) -> None:
    copied = tmp_path / "out"
    shutil.copytree(story.out, copied)
    note = json.loads((copied / "demo.json").read_text())
    del note["training"]["calibrate"]  # of a version that did not know this setting
    (copied / "demo.json").write_text(json.dumps(note))
    before = {path: path.stat().st_mtime_ns for path in (copied / "dataset").rglob("*")}
    result, listener = again(story, out=copied)
    assert {path: path.stat().st_mtime_ns for path in (copied / "dataset").rglob("*")} == before
    for name in ("train the generator", "train the classifier"):
        assert listener.said[name].startswith("kept from before: ")
        assert name not in listener.updates
    assert result.facts["rmse_real"] == pytest.approx(story.result.facts["rmse_real"])
    for run in ("gan", "classifier"):
        events, _ = Run(copied / run).events()
        assert events == Run(story.out / run).events()[0]


def test_other_regions_are_refused_and_change_nothing(story: Story, tmp_path: Path) -> None:
    other = tmp_path / "other.geojson"
    document = json.loads(story.result.source.annotations.read_text())
    document["features"][0]["geometry"]["coordinates"][0][0] = [70, 70]
    document["features"][0]["geometry"]["coordinates"][0][-1] = [70, 70]
    other.write_text(json.dumps(document))
    before = {path: path.stat().st_mtime_ns for path in story.out.rglob("*")}
    with pytest.raises(UserError, match="a demo of another slide, other regions or other settings"):
        again(story, annotations=other)
    assert {path: path.stat().st_mtime_ns for path in story.out.rglob("*")} == before


def test_a_training_that_fails_is_one_sentence(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(story.out / "dataset", out / "dataset")
    shutil.copyfile(story.out / "demo.json", out / "demo.json")

    def launch(run: Run) -> None:
        run.append(RunEvent("failed", 7, STEPS, message="The disk is full; free some space."))

    monkeypatch.setattr(demo_module, "launch", launch)
    words = "Train the generator ended as failed at step 7: The disk is full; free some space."
    with pytest.raises(RunError) as caught:
        again(story, out=out)
    assert str(caught.value) == words
    assert not (out / "report.html").exists()


@pytest.mark.parametrize("changes", [{"steps": STEPS + 1}, {"seed": 1}])
def test_networks_of_other_settings_are_not_taken_for_these(story: Story, changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="other regions or other settings; choose another folder"):
        again(story, **changes)
    assert Run(story.out / "gan").status().step == STEPS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "abacus"}, "device"),
        ({"device": "cuda:99"}, "device"),
        ({"steps": 0}, "steps has to be at least 1"),
        ({"annotations": Path("nowhere.geojson")}, "does not exist"),
        ({"slide": Path("nowhere.svs")}, "does not exist"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_made(
    story: Story, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    out = tmp_path / "out"
    try:
        with pytest.raises(UserError, match=words):
            again(story, out=out, **changes)
    finally:
        end_processes_below(out)
    assert not out.exists()


def test_losses_are_shown_while_it_trains(story: Story) -> None:
    texts = [text for _, _, text in story.listener.updates["train the generator"]]
    assert any(text.startswith("discriminator ") and "generator " in text for text in texts)
