from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.widgets import extraction_binding
from napari_histolatent._napari.widgets.extraction_binding import (
    ExtractionBinding,
    cancelled_text,
    described,
    in_panel,
    result_text,
    time_left,
)
from napari_histolatent._napari.widgets.extraction_panel import ExtractionPanel
from napari_histolatent.errors import DatasetError
from napari_histolatent.jobs import follow
from napari_histolatent.jobs.extraction import new_extraction, open_extractions, run_extraction
from napari_histolatent.patches import GridSpec, PatchDataset, Recipe, SlideSource, SplitSpec, working_folder
from napari_histolatent.runs import Run, RunEvent, RunStatus
from tests.runs.processes import end_processes_below, owner_of, wait_for_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LEFT = Qt.MouseButton.LeftButton
RECIPE = Recipe(grid=GridSpec(size_px=32, mpp=1.0, stride_px=16), split=SplitSpec(block_patches=2))
MANY = RECIPE.changed(grid={"size_px": 64, "mpp": None, "level": 0, "stride_px": 4})
"""Six shards, cut in some seconds."""


@dataclass
class Asked:
    """What a dock is set to."""

    source: SlideSource
    recipe: Recipe = RECIPE
    error: Exception | None = None
    resolved: list[bool] = field(default_factory=list)

    def resolve(self) -> tuple[SlideSource, Recipe]:
        from qtpy.QtCore import QThread
        from qtpy.QtWidgets import QApplication

        self.resolved.append(QThread.currentThread() is QApplication.instance().thread())
        if self.error is not None:
            raise self.error
        return self.source, self.recipe


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction_binding, "_POLL_SECONDS", 0.005)


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of all notifications."""
    from napari.utils.notifications import notification_manager

    said: list[str] = []
    monkeypatch.setattr(
        notification_manager, "dispatch", lambda notification: said.append(notification.message)
    )
    return said


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that were launched; this process passes for theirs."""
    runs: list[Run] = []

    def launch(run: Run) -> int:
        run.clear_stop()
        run.claim()
        run.append(RunEvent("started"))
        runs.append(run)  # last: a test that sees it here goes on with events of its own
        return 0

    monkeypatch.setattr(extraction_binding, "launch", launch)
    monkeypatch.setattr(follow, "launch", launch)
    return runs


@pytest.fixture
def asked(tiny_slide: Path, tiny_regions: Path) -> Asked:
    return Asked(SlideSource(tiny_slide, tiny_regions))


@pytest.fixture
def panel(qtbot: Any) -> ExtractionPanel:
    widget = ExtractionPanel()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def bind(
    proxy: Any, qtbot: Any, asked: Asked, own_data_dir: Path
) -> Iterator[Callable[..., ExtractionBinding]]:
    """A function that binds a panel as a dock does."""
    made: list[ExtractionBinding] = []

    def do(panel: ExtractionPanel, **more: Any) -> ExtractionBinding:
        made.append(ExtractionBinding(proxy, panel, lambda: asked, **more))
        return made[-1]

    yield do
    for binding in made:
        binding.close()
    end_processes_below(own_data_dir)
    for file in own_data_dir.rglob("owner.json"):
        file.unlink()  # what this process passed for has ended


@pytest.fixture
def binding(bind: Callable[..., ExtractionBinding], panel: ExtractionPanel, qtbot: Any) -> ExtractionBinding:
    made = bind(panel)
    idle(qtbot, made)
    return made


def idle(qtbot: Any, binding: ExtractionBinding) -> None:
    workers = [item for item in vars(binding).values() if isinstance(item, LatestWorker)]
    assert workers
    qtbot.waitUntil(lambda: not any(worker.is_busy for worker in workers), timeout=10_000)


def says(qtbot: Any, panel: ExtractionPanel, text: str, *, timeout: int = 10_000) -> None:
    qtbot.waitUntil(
        lambda: text in panel.state_note.text() or text in panel.result_note.text(), timeout=timeout
    )


def start(qtbot: Any, panel: ExtractionPanel, launched: list[Run], out: Path) -> Run:
    """Press Extract, and say that a third is cut."""
    n = len(launched)
    panel.out_picker.set_path(out)
    qtbot.mouseClick(panel.extract_button, LEFT)
    qtbot.waitUntil(lambda: len(launched) == n + 1)
    says(qtbot, panel, "looking at tissue")
    go(launched[-1])
    says(qtbot, panel, "150 patches/s")
    return launched[-1]


def go(run: Run) -> None:
    run.append(RunEvent("progress", 300, 900, data={"patches_per_second": 150.0}))


def end(run: Run, kind: str | None, message: str = "") -> None:
    """Say how the run ended (None: not at all, it was killed), and take its process away."""
    status = run.status()
    if kind:
        run.append(RunEvent(kind, status.step, status.steps, message=message))
    (run.path / "owner.json").unlink(missing_ok=True)


def captions(panel: ExtractionPanel) -> tuple[str, str, bool]:
    return panel.pause_button.text(), panel.cancel_button.text(), panel.extract_button.isEnabled()


# Starting


def test_extract_starts_a_run_of_what_the_dock_is_set_to(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    launched: list[Run],
    asked: Asked,
    tmp_path: Path,
) -> None:
    panel.overwrite_check.setChecked(True)
    run = start(qtbot, panel, launched, tmp_path / "patches")
    assert Recipe.from_json(run.spec["recipe"]) == RECIPE
    assert [SlideSource.from_json(v) for v in run.spec["sources"]] == [asked.source]
    assert (run.spec["out"], run.spec["overwrite"]) == (str(tmp_path / "patches"), True)
    assert asked.resolved == [False], "resolved in a thread"
    assert panel.state_note.text() == "patches: 150 patches/s, 4 s left"
    assert panel.progress.text() == "300 of 900 patches"
    assert captions(panel) == ("Pause", "Cancel", False)


def test_without_a_folder_nothing_is_started(
    qtbot: Any, panel: ExtractionPanel, binding: ExtractionBinding, launched: list[Run], shown: list[str]
) -> None:
    qtbot.mouseClick(panel.extract_button, LEFT)
    idle(qtbot, binding)
    assert launched == []
    assert shown == ["The dataset has no folder yet; name one that does not exist, such as patches."]


def test_what_cannot_be_cut_is_one_sentence(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    asked: Asked,
    shown: list[str],
    tmp_path: Path,
) -> None:
    asked.error = DatasetError("There is no slide open.")
    panel.out_picker.set_path(tmp_path / "patches")
    qtbot.mouseClick(panel.extract_button, LEFT)
    idle(qtbot, binding)
    assert shown == ["There is no slide open."]
    assert panel.extract_button.isEnabled()
    assert open_extractions() == []


def test_a_folder_that_is_there_is_refused(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    launched: list[Run],
    shown: list[str],
    tmp_path: Path,
) -> None:
    panel.out_picker.set_path(tmp_path)
    qtbot.mouseClick(panel.extract_button, LEFT)
    idle(qtbot, binding)
    assert launched == []
    assert len(shown) == 1
    assert "exists already" in shown[0]
    assert panel.extract_button.isEnabled()


# How it goes and ends


def test_paused_it_goes_on_where_it_was(
    qtbot: Any, panel: ExtractionPanel, binding: ExtractionBinding, launched: list[Run], tmp_path: Path
) -> None:
    run = start(qtbot, panel, launched, tmp_path / "patches")
    qtbot.mouseClick(panel.pause_button, LEFT)
    qtbot.waitUntil(lambda: run.stop_requested)
    says(qtbot, panel, "stopping; what is cut is kept")
    assert not panel.pause_button.isEnabled()
    end(run, "stopped")
    says(qtbot, panel, "patches is paused after 300 of 900 patches.")
    assert captions(panel) == ("Go on", "Forget", True)
    qtbot.mouseClick(panel.pause_button, LEFT)
    qtbot.waitUntil(lambda: len(launched) == 2)
    assert launched[1].path == run.path
    go(run)
    says(qtbot, panel, "150 patches/s")
    assert captions(panel) == ("Pause", "Cancel", False)


def test_killed_it_is_said_and_can_go_on(
    qtbot: Any, panel: ExtractionPanel, binding: ExtractionBinding, launched: list[Run], tmp_path: Path
) -> None:
    run = start(qtbot, panel, launched, tmp_path / "patches")
    end(run, None)
    says(qtbot, panel, "patches was interrupted after 300 of 900 patches: its process ended.")
    assert captions(panel) == ("Go on", "Forget", True)


def test_cancelled_it_says_what_is_kept_and_is_offered_no_more(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    bind: Callable[..., ExtractionBinding],
    launched: list[Run],
    tmp_path: Path,
) -> None:
    run = start(qtbot, panel, launched, tmp_path / "patches")
    working_folder(tmp_path / "patches").mkdir()
    qtbot.mouseClick(panel.cancel_button, LEFT)
    qtbot.waitUntil(lambda: run.stop_requested)
    end(run, "stopped")
    says(qtbot, panel, "Cancelled after 300 of 900 patches.")
    assert str(tmp_path / "patches.part") in panel.result_note.text()
    idle(qtbot, binding)
    assert open_extractions() == []
    assert working_folder(tmp_path / "patches").is_dir()
    assert captions(panel) == ("Pause", "Cancel", True)


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_failure_is_one_sentence_and_can_go_on_where_something_was_cut(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    launched: list[Run],
    shown: list[str],
    tmp_path: Path,
    has_begun: bool,
) -> None:
    if has_begun:
        run = start(qtbot, panel, launched, tmp_path / "patches")
    else:
        panel.out_picker.set_path(tmp_path / "patches")
        qtbot.mouseClick(panel.extract_button, LEFT)
        qtbot.waitUntil(lambda: len(launched) == 1)
        (run,) = launched
    end(run, "failed", "Cannot write: the disk is full; free some space.")
    says(qtbot, panel, "the disk is full")
    qtbot.waitUntil(lambda: panel.extract_button.isEnabled())
    assert shown == ["Cannot write: the disk is full; free some space."]
    assert panel.pause_button.isEnabled() is has_begun


def test_the_end_gives_the_dataset_to_all_docks_and_counts_it(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    viewer: Any,
    launched: list[Run],
    shown: list[str],
    tmp_path: Path,
) -> None:
    run = start(qtbot, panel, launched, tmp_path / "patches")
    run_extraction(run)
    end(run, None)
    qtbot.waitUntil(lambda: session_of(viewer).dataset == tmp_path / "patches")
    settings = PatchDataset(tmp_path / "patches").settings
    text = panel.result_note.text()
    assert f"patches: {settings['patches']:,} patches" in text
    n = settings["counts"]["train"]
    assert f"train: {n['epithelium']:,} epithelium, {n['stroma']:,} stroma" in text
    assert "left out: " in text
    assert "(split border)" in text
    assert shown == [f"patches: {settings['patches']:,} patches are cut."]
    assert panel.open_button.text() == "Open patches as stack"
    assert captions(panel) == ("Pause", "Cancel", True)


# Opening the dock again


def test_a_dock_that_is_opened_attaches_to_what_runs(
    qtbot: Any, bind: Callable[..., ExtractionBinding], launched: list[Run], asked: Asked, tmp_path: Path
) -> None:
    stopped, running = (new_extraction([asked.source], tmp_path / name, RECIPE) for name in ("b", "a"))
    go(stopped)
    end(stopped, "stopped")
    extraction_binding.launch(running)
    go(running)
    panel = ExtractionPanel()
    qtbot.addWidget(panel)
    bind(panel)
    says(qtbot, panel, "a: 150 patches/s")
    assert panel.out == tmp_path / "a"


def test_what_finished_meanwhile_is_told_once_and_what_was_left_is_offered_then(
    qtbot: Any,
    panel: ExtractionPanel,
    bind: Callable[..., ExtractionBinding],
    viewer: Any,
    asked: Asked,
    shown: list[str],
    tmp_path: Path,
) -> None:
    left = new_extraction([asked.source], tmp_path / "left", RECIPE)
    go(left)
    end(left, "stopped")
    run_extraction(new_extraction([asked.source], tmp_path / "patches", RECIPE))
    bind(panel)
    says(qtbot, panel, "left is paused after 300 of 900 patches.")
    assert panel.result_note.text().startswith("patches: ")
    assert session_of(viewer).dataset == tmp_path / "patches"
    assert len(shown) == 1
    again = ExtractionPanel()
    qtbot.addWidget(again)
    bind(again)
    says(qtbot, again, "left is paused")
    assert again.result_note.text() == ""
    assert len(shown) == 1


def test_what_was_left_is_offered_until_it_is_forgotten(
    qtbot: Any,
    panel: ExtractionPanel,
    bind: Callable[..., ExtractionBinding],
    asked: Asked,
    shown: list[str],
    tmp_path: Path,
) -> None:
    for name, kind in (("a", "stopped"), ("b", "failed")):
        run = new_extraction([asked.source], tmp_path / name, RECIPE)
        go(run)
        end(run, kind, "The disk is full.")
    bind(panel)
    said = []
    for _ in range(2):
        qtbot.waitUntil(lambda: panel.pause_button.text() == "Go on" and panel.pause_button.isEnabled())
        said.append(panel.state_note.text())
        qtbot.mouseClick(panel.cancel_button, LEFT)
        qtbot.waitUntil(lambda: panel.state_note.text() != said[-1])
    assert sorted(text.partition(" after")[0] for text in said) == ["a is paused", "b failed"]
    qtbot.waitUntil(lambda: open_extractions() == [])
    assert captions(panel) == ("Pause", "Cancel", True)
    assert shown == [], "what failed days ago is no news"


def test_a_process_outlives_the_dock_and_the_next_one_pauses_and_ends_it(
    qtbot: Any,
    panel: ExtractionPanel,
    bind: Callable[..., ExtractionBinding],
    viewer: Any,
    asked: Asked,
    tmp_path: Path,
) -> None:
    asked.recipe = MANY
    first = bind(panel)
    idle(qtbot, first)
    panel.out_picker.set_path(tmp_path / "patches")
    qtbot.mouseClick(panel.extract_button, LEFT)
    qtbot.waitUntil(lambda: panel.pause_button.isEnabled(), timeout=20_000)
    (run,) = open_extractions()
    process = owner_of(run.path)
    assert process is not None
    first.close()
    assert process.is_running()
    assert process.ppid() == psutil.Process().pid, "a real process"

    again = ExtractionPanel()
    qtbot.addWidget(again)
    bind(again)
    says(qtbot, again, "patches/s", timeout=60_000)
    qtbot.mouseClick(again.pause_button, LEFT)
    says(qtbot, again, "patches is paused", timeout=60_000)
    assert run.status().state == "stopped"
    wait_for_exit(process.pid)
    qtbot.mouseClick(again.pause_button, LEFT)
    qtbot.waitUntil(lambda: session_of(viewer).dataset == tmp_path / "patches", timeout=60_000)
    assert len(PatchDataset(tmp_path / "patches")) > 4_000


# A batch


def test_a_batch_takes_the_docks_recipe_and_lists_what_it_leaves_out(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    launched: list[Run],
    tiny_slide: Path,
    tiny_regions: Path,
    shown: list[str],
    tmp_path: Path,
) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,annotation\n{tiny_slide},{tiny_regions}\ngone.svs,{tiny_regions}\n")
    panel.batch_kind.setCurrentIndex(1)
    panel.table_picker.set_path(table)
    panel.out_picker.set_path(tmp_path / "patches")
    panel.batch_button.click()
    qtbot.waitUntil(lambda: len(launched) == 1)
    (run,) = launched
    assert [v["slide"] for v in run.spec["sources"]] == [str(tiny_slide), str(tmp_path / "gone.svs")]
    assert Recipe.from_json(run.spec["recipe"]) == RECIPE
    run_extraction(run)
    end(run, None)
    says(qtbot, panel, "1 of 2 slides left out:")
    assert "gone.svs" in panel.result_note.text()
    assert shown[-1].endswith("1 slide was left out; the Patches dock says why.")


def test_a_batch_needs_no_open_slide_where_the_dock_gives_its_recipe(
    qtbot: Any,
    panel: ExtractionPanel,
    bind: Callable[..., ExtractionBinding],
    launched: list[Run],
    asked: Asked,
    tiny_slide: Path,
    tiny_regions: Path,
    tmp_path: Path,
) -> None:
    asked.error = DatasetError("There is no slide open.")
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "tiny.tiff").symlink_to(tiny_slide)
    binding = bind(panel, recipe=lambda: MANY)
    idle(qtbot, binding)
    panel.slides_picker.set_path(tmp_path / "slides")
    panel.annotations_picker.set_path(tiny_regions.parent)
    panel.out_picker.set_path(tmp_path / "patches")
    panel.batch_button.click()
    qtbot.waitUntil(lambda: len(launched) == 1)
    assert Recipe.from_json(launched[0].spec["recipe"]) == MANY
    assert launched[0].spec["sources"][0]["annotations"] == str(tiny_regions)


def test_a_batch_of_nothing_is_one_sentence(
    qtbot: Any, panel: ExtractionPanel, binding: ExtractionBinding, shown: list[str], tmp_path: Path
) -> None:
    panel.batch_button.click()
    assert len(shown) == 1
    assert "choose a folder of slides or a CSV table" in shown[0]
    panel.slides_picker.set_path(tmp_path)
    panel.out_picker.set_path(tmp_path / "patches")
    panel.batch_button.click()
    idle(qtbot, binding)
    assert "holds no slide" in shown[1]


# The dataset


def test_the_newest_dataset_is_opened_and_exported(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    viewer: Any,
    tiny_dataset: Path,
    shown: list[str],
    tmp_path: Path,
) -> None:
    session_of(viewer).set_dataset(tiny_dataset)
    panel.open_button.click()
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["tiny"])
    panel.export_button.click()
    assert "The export has no folder yet" in shown[0]
    panel.export_box.setCurrentText("imagefolder-png")
    panel.export_picker.set_path(tmp_path / "tiles")
    panel.export_button.click()
    qtbot.waitUntil(lambda: "tiles" in panel.export_note.text(), timeout=20_000)
    assert len(list((tmp_path / "tiles").rglob("*.png"))) == len(PatchDataset(tiny_dataset))
    panel.export_button.click()
    idle(qtbot, binding)
    assert "exists already" in shown[-1]
    assert panel.export_button.text() == "Export"


def test_a_cancelled_export_leaves_nothing(
    qtbot: Any,
    panel: ExtractionPanel,
    binding: ExtractionBinding,
    viewer: Any,
    tiny_dataset: Path,
    endless: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Format:
        @staticmethod
        def function(dataset: PatchDataset, out: Path, *, on_progress: Any, should_stop: Any) -> None:
            on_progress(3, 9)
            endless.wait(should_stop)

    monkeypatch.setattr(extraction_binding, "export_format", lambda name: Format)
    session_of(viewer).set_dataset(tiny_dataset)
    panel.export_picker.set_path(tmp_path / "tiles")
    panel.export_button.click()
    qtbot.waitUntil(lambda: panel.export_progress.value() == 3)
    panel.export_button.click()
    qtbot.waitUntil(endless.stopped.is_set)
    assert panel.export_note.text() == "Export cancelled; nothing was kept."
    idle(qtbot, binding)


# Words


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (240, "4 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_time_left_is_as_a_person_says_it(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


def test_a_state_in_words(tmp_path: Path) -> None:
    out = tmp_path / "patches"
    status = RunStatus("running", 1_000, 85_000, data={"patches_per_second": 350.0})
    assert described(status, out) == "patches: 350 patches/s, 4 min left"
    assert described(RunStatus("stopped"), out) == "patches is paused before the first patch."
    assert cancelled_text(RunStatus("stopped"), out) == "Cancelled before the first patch of patches was cut."


def test_a_result_in_words(tmp_path: Path) -> None:
    report = {
        "patches": 1234,
        "taken_up": 1000,
        "seconds": 12.3,
        "counts": {"train": {"a": 1000, "b": 34}, "": {"a": 200, "b": 0}},
        "left_out": {"no label": 5, "split border": 6000},
        "failed": ["x.svs is gone."],
        "slides": 2,
        "messages": ["The patients 'A' and 'a' differ in case only."],
    }
    assert result_text(tmp_path / "patches", report).splitlines() == [
        "patches: 1,234 patches in 12 s (1,000 were cut before)",
        "train: 1,000 a, 34 b",
        "no split: 200 a, 0 b",
        "left out: 5 (no label), 6,000 (split border)",
        "1 of 3 slides left out:",
        "  x.svs is gone.",
        "The patients 'A' and 'a' differ in case only.",
    ]
    assert result_text(tmp_path / "patches", {"patches": 1}) == "patches: 1 patch"


def test_the_panel_names_its_own_box_and_no_option_of_the_command_line() -> None:
    sentence = "ds exists already; choose another output folder, or allow it to be replaced with --overwrite."
    assert (
        in_panel(sentence)
        == "ds exists already; choose another output folder, or tick “Replace it if it is there”."
    )
    assert "--" not in in_panel("finish it with those, or begin anew with --overwrite.")
