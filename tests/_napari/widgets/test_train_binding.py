from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QMainWindow

from napari_histolatent._napari._closing_question import ClosingQuestion
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.widgets import run_binding, train_binding
from napari_histolatent._napari.widgets.fork_dialog import ForkDialog
from napari_histolatent._napari.widgets.run_compare_view import RunCompareView
from napari_histolatent._napari.widgets.train_binding import TrainBinding
from napari_histolatent._napari.widgets.train_view import TrainView
from napari_histolatent._napari.widgets.training_form import CLASSIFIER
from napari_histolatent._pictures import save_picture
from napari_histolatent.errors import RunError
from napari_histolatent.jobs import follow
from napari_histolatent.jobs.probe import Device, Estimate
from napari_histolatent.runs import Run, RunEvent, known_runs
from napari_histolatent.training import ClassifierConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np

    from tests._napari.conftest import Trained

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_binding, "_POLL_SECONDS", 0.005)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose devices are known: no process has to look."""
    monkeypatch.setattr(train_binding, "_devices", [(Device("cpu", "processor, 2 threads", 8 << 30, None),)])


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that were launched; this process passes for theirs."""
    runs: list[Run] = []

    def launch(run: Run) -> int:
        if run.is_alive():
            msg = f"{run.path} is running already; stop it first."
            raise RunError(msg)
        runs.append(run)
        run.clear_stop()
        begin(run)
        return 0

    monkeypatch.setattr(train_binding, "launch", launch)
    monkeypatch.setattr(follow, "launch", launch)
    monkeypatch.setattr(run_binding, "launch", launch)
    return runs


@pytest.fixture
def view(qtbot: Any) -> TrainView:
    widget = TrainView()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def binding(proxy: Any, view: TrainView, qtbot: Any) -> Iterator[TrainBinding]:
    made = TrainBinding(proxy, view)
    yield made
    made.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tmp_path / "run", kind="train", spec={})
    yield made
    (made.path / "owner.json").unlink(missing_ok=True)  # nobody is left to watch


def begin(run: Run) -> None:
    run.claim()
    run.append(RunEvent("started", 0, 100, data={"device": "cpu"}))


def end(run: Run, kind: str, message: str = "") -> None:
    """Say how the run ended, and take its process away."""
    run.append(RunEvent(kind, run.status().step, 100, message=message))
    (run.path / "owner.json").unlink(missing_ok=True)


def choose_dataset(qtbot: Any, view: TrainView, path: Path) -> None:
    """Choose a dataset; a folder for the run is offered soon after."""
    view.dataset_picker.edit.setText(str(path))
    qtbot.keyClick(view.dataset_picker.edit, Qt.Key.Key_Return)


def says(qtbot: Any, view: TrainView, text: str) -> None:
    qtbot.waitUntil(lambda: text in view.state_note.text(), timeout=10_000)


def idle(qtbot: Any, binding: TrainBinding) -> None:
    qtbot.waitUntil(lambda: not any(worker.is_busy for worker in binding.workers), timeout=10_000)


def listed_runs(view: TrainView) -> list[str]:
    return [f"{row.path.name} ({row.kind}, {row.state})" for row in view.runs_list.rows]


def click_on_run(qtbot: Any, view: TrainView, path: Path, *, ctrl: bool = False) -> None:
    """Click on a line of the list, as the mouse does."""
    view.show()
    qtbot.waitExposed(view)
    row = [row.path for row in view.runs_list.rows].index(path)
    place = view.runs_list.visualItemRect(view.runs_list.topLevelItem(row)).center()
    modifier = Qt.KeyboardModifier.ControlModifier if ctrl else Qt.KeyboardModifier.NoModifier
    qtbot.mouseClick(view.runs_list.viewport(), LEFT, modifier, place)


# The dataset


def test_a_dataset_that_is_chosen_is_the_sessions(
    qtbot: Any, view: TrainView, binding: TrainBinding, viewer: Any, tiny_dataset: Path
) -> None:
    assert view.dataset_note.text().startswith("No dataset yet")
    choose_dataset(qtbot, view, tiny_dataset)
    assert session_of(viewer).dataset == tiny_dataset
    qtbot.waitUntil(lambda: "patches of 32 px" in view.dataset_note.text())
    assert "epithelium" in view.dataset_note.text()
    qtbot.waitUntil(lambda: view.out_picker.path == tiny_dataset.parent / "tiny-gan-1")


def test_a_dataset_that_was_just_cut_is_taken(
    qtbot: Any, view: TrainView, binding: TrainBinding, viewer: Any, tiny_dataset: Path
) -> None:
    session_of(viewer).set_dataset(tiny_dataset)
    assert view.dataset_picker.path == tiny_dataset
    qtbot.waitUntil(lambda: "patches of 32 px" in view.dataset_note.text())


def test_a_dock_that_is_opened_later_shows_the_dataset(
    qtbot: Any, proxy: Any, viewer: Any, view: TrainView, tiny_dataset: Path
) -> None:
    session_of(viewer).set_dataset(tiny_dataset)
    made = TrainBinding(proxy, view)
    assert view.dataset_picker.path == tiny_dataset
    qtbot.waitUntil(lambda: "patches of 32 px" in view.dataset_note.text())
    made.close()


def test_a_folder_that_is_no_dataset_is_one_sentence(
    qtbot: Any, view: TrainView, binding: TrainBinding, tiny_dataset: Path, tmp_path: Path
) -> None:
    choose_dataset(qtbot, view, tiny_dataset)
    qtbot.waitUntil(lambda: view.out_picker.path is not None, timeout=10_000)
    choose_dataset(qtbot, view, tmp_path)
    assert "patches of 32 px" not in view.dataset_note.text()
    idle(qtbot, binding)
    assert "is not a patch dataset" in view.dataset_note.text()
    assert view.out_picker.path is None, "there is nothing to train on"


def test_a_dataset_that_is_typed_without_enter_is_the_one_that_is_trained_on(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    viewer: Any,
    tiny_dataset: Path,
    tmp_path: Path,
    launched: list[Run],
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(tiny_dataset)
    choose_dataset(qtbot, view, tmp_path / "a")
    qtbot.waitUntil(lambda: view.out_picker.path == tmp_path / "a-gan-1", timeout=10_000)
    view.dataset_picker.edit.setText(str(tmp_path / "b"))
    start(qtbot, view, binding)
    (run,) = launched
    assert (run.path, run.spec["dataset"]) == (tmp_path / "b-gan-1", str(tmp_path / "b"))
    assert session_of(viewer).dataset == tmp_path / "b"


def test_a_folder_that_the_user_named_stays(
    qtbot: Any, view: TrainView, binding: TrainBinding, tiny_dataset: Path, tmp_path: Path
) -> None:
    view.out_picker.edit.setText(str(tmp_path / "mine"))
    choose_dataset(qtbot, view, tiny_dataset)
    idle(qtbot, binding)
    view.kind_box.setCurrentText(CLASSIFIER)
    idle(qtbot, binding)
    assert view.out_picker.path == tmp_path / "mine"


def test_the_folder_that_is_offered_is_free(
    qtbot: Any, view: TrainView, binding: TrainBinding, tmp_path: Path, tiny_dataset: Path
) -> None:
    Run.create(tmp_path / "elsewhere" / "set-gan-1", kind="train", spec={})
    (tmp_path / "set-gan-2").mkdir()
    (tmp_path / "set").symlink_to(tiny_dataset)
    choose_dataset(qtbot, view, tmp_path / "set")
    view.kind_box.setCurrentText(CLASSIFIER)
    qtbot.waitUntil(lambda: view.out_picker.path == tmp_path / "set-classifier-1")
    view.kind_box.setCurrentIndex(0)
    qtbot.waitUntil(lambda: view.out_picker.path == tmp_path / "set-gan-3")


# Starting


def start(qtbot: Any, view: TrainView, binding: TrainBinding) -> None:
    qtbot.mouseClick(view.start_button, LEFT)
    idle(qtbot, binding)


def test_a_generator_is_trained_as_the_form_says(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    viewer: Any,
    tiny_dataset: Path,
    launched: list[Run],
    tmp_path: Path,
) -> None:
    told: list[str] = []
    session_of(viewer).runs_changed.connect(lambda: told.append("runs"))
    choose_dataset(qtbot, view, tiny_dataset)
    view.preset_box.setCurrentIndex(view.preset_box.findData("s1"))
    view.form["batch_size"].value = 4
    view.form["steps"].value, view.form["seed"].value = 7, 3
    view.options.set_devices([("auto", "auto"), ("cpu", "processor")], "")
    view.options.device_box.setCurrentIndex(1)
    view.out_picker.edit.setText(str(tmp_path / "mine"))
    qtbot.mouseClick(view.start_button, LEFT)
    assert not view.start_button.isEnabled(), "a second click starts no second run"
    assert binding._is_starting(), "the window waits for it before it asks"
    qtbot.waitUntil(lambda: told == ["runs"], timeout=10_000)
    (run,) = launched
    assert run.path == tmp_path / "mine"
    assert run.kind == "train"
    config = TrainingConfig.from_json(run.spec["config"])
    assert (config.steps, config.seed, config.device, config.size_px) == (7, 3, "cpu", 32)
    assert (config.preset, config.design, config.batch_size) == ("s1", "s1", 4)
    assert run.spec["dataset"] == str(tiny_dataset)
    assert view.start_button.isEnabled()
    says(qtbot, view, "Running")
    qtbot.waitUntil(lambda: view.runs_list.selected == [str(run.path)])


def test_a_classifier_is_trained(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    tiny_dataset: Path,
    launched: list[Run],
    tmp_path: Path,
) -> None:
    view.kind_box.setCurrentText(CLASSIFIER)
    choose_dataset(qtbot, view, tiny_dataset)
    view.form["steps"].value = 7
    view.out_picker.edit.setText(str(tmp_path / "mine"))
    start(qtbot, view, binding)
    (run,) = launched
    assert run.kind == "classifier"
    assert ClassifierConfig.from_json(run.spec["config"]).steps == 7


def test_without_a_folder_a_free_one_is_taken(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    tiny_dataset: Path,
    tmp_path: Path,
    launched: list[Run],
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_dataset)
    view.dataset_picker.set_path(tmp_path / "tiny")
    start(qtbot, view, binding)
    assert [run.path for run in launched] == [tmp_path / "tiny-gan-1"]


@pytest.mark.parametrize("has_folder", [False, True])
def test_without_a_dataset_it_is_one_sentence(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    tmp_path: Path,
    launched: list[Run],
    errors: list[str],
    has_folder: bool,
) -> None:
    if has_folder:
        view.out_picker.set_path(tmp_path / "mine")
    start(qtbot, view, binding)
    assert len(errors) == 1
    assert "needs a dataset" in errors[0]
    assert view.start_button.isEnabled(), "the user mends it and tries again"
    assert launched == known_runs() == []


def test_a_folder_in_use_is_one_sentence(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    tiny_dataset: Path,
    tmp_path: Path,
    launched: list[Run],
    errors: list[str],
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("years of work")
    choose_dataset(qtbot, view, tiny_dataset)
    view.out_picker.edit.setText(str(tmp_path / "mine"))
    start(qtbot, view, binding)
    assert len(errors) == 1
    assert "is not empty" in errors[0]
    assert view.start_button.isEnabled()
    assert launched == []
    view.out_picker.edit.setText(str(tmp_path / "free"))
    start(qtbot, view, binding)
    assert [run.path for run in launched] == [tmp_path / "free"]


def test_after_a_start_the_next_folder_is_offered(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    tiny_dataset: Path,
    tmp_path: Path,
    launched: list[Run],
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_dataset)
    choose_dataset(qtbot, view, tmp_path / "tiny")
    idle(qtbot, binding)
    start(qtbot, view, binding)
    assert [run.path.name for run in launched] == ["tiny-gan-1"]
    assert view.out_picker.path == tmp_path / "tiny-gan-2"


# Watching


def test_what_happens_in_a_run_is_shown(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, noise: Callable[..., np.ndarray]
) -> None:
    begin(run)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    assert (view.stop_button.isEnabled(), view.resume_button.isEnabled()) == (True, False)
    for step in (10, 20):
        run.append(
            RunEvent("progress", step, 100, {"generator": step / 10}, data={"images_per_second": 12.5})
        )
    says(qtbot, view, "Running: step 20 of 100\nLoss: generator 2.00\n12.5 images/s on cpu")
    assert view.plot.points == {"generator": ([10, 20], [1, 2])}
    assert (view.progress.value(), view.progress.maximum()) == (20, 100)
    (run.path / "samples").mkdir()
    Image.fromarray(noise(64, 64)).save(run.path / "samples" / "a.png")
    run.append(RunEvent("sample", 20, 100, data={"sample": "samples/a.png"}))
    qtbot.waitUntil(lambda: not view.samples.picture.pixmap().isNull())
    run.append(RunEvent("progress", 30, 100, {"generator": 0.5}))
    qtbot.waitUntil(lambda: view.plot.points == {"generator": ([10, 20, 30], [1, 2, 0.5])})


def test_the_end_of_a_run_is_told(
    qtbot: Any, view: TrainView, binding: TrainBinding, viewer: Any, run: Run, errors: list[str]
) -> None:
    told: list[str] = []
    session_of(viewer).runs_changed.connect(lambda: told.append("runs"))
    begin(run)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    assert told == []
    run.append(RunEvent("checkpoint", 100, 100, data={"metrics": {"accuracy": 0.875, "n": 16}}))
    end(run, "finished")
    says(qtbot, view, "Finished: step 100 of 100")
    assert view.health_note.text() == "Accuracy 0.875 on 16 held-out patches"
    assert told == ["runs"]
    assert errors == []
    assert (view.stop_button.isEnabled(), view.resume_button.isEnabled()) == (False, False)
    qtbot.waitUntil(lambda: listed_runs(view) == ["run (generator, finished)"])


def test_a_failing_run_is_one_sentence(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, errors: list[str]
) -> None:
    begin(run)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    end(run, "failed", "The disk is full; free some space.")
    says(qtbot, view, "Failed")
    qtbot.wait(50)
    assert errors == ["The run run failed: The disk is full; free some space."]
    assert "The disk is full" in view.state_note.text()
    assert (view.stop_button.isEnabled(), view.resume_button.isEnabled()) == (False, True)


def test_a_run_that_was_killed_can_be_resumed(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, errors: list[str]
) -> None:
    begin(run)
    run.append(RunEvent("progress", 40, 100, {"generator": 1.0}))
    owner = json.loads((run.path / "owner.json").read_text())
    binding.watch(run.path)
    says(qtbot, view, "Running: step 40")
    (run.path / "owner.json").write_text(json.dumps({**owner, "since": 1.0}))
    says(qtbot, view, "Interrupted: step 40 of 100")
    assert (view.stop_button.isEnabled(), view.resume_button.isEnabled()) == (False, True)
    assert errors == []


def test_a_run_that_is_over_is_shown_from_its_first_event(
    qtbot: Any, view: TrainView, binding: TrainBinding, trained: Trained
) -> None:
    binding.watch(trained.generator)
    says(qtbot, view, "Finished: step 2 of 2")
    assert {name: steps for name, (steps, _) in view.plot.points.items()} == {
        "discriminator": [1, 2],
        "generator": [1, 2],
    }
    qtbot.waitUntil(lambda: not view.samples.picture.pixmap().isNull())
    assert (view.progress.value(), view.progress.maximum()) == (2, 2)


def test_a_run_that_was_never_started_is_no_trouble(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, errors: list[str]
) -> None:
    binding.watch(run.path)
    says(qtbot, view, "New")
    assert not view.stop_button.isEnabled()
    assert errors == []


def test_the_user_goes_from_one_run_to_another(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, listed: Trained
) -> None:
    begin(run)
    run.append(RunEvent("progress", 40, 100, {"mine": 1.0}))
    binding.watch(run.path)
    says(qtbot, view, "Running: step 40")
    qtbot.waitUntil(lambda: len(view.runs_list.rows) == 3)
    click_on_run(qtbot, view, listed.classifier)
    says(qtbot, view, "Finished: step 2 of 2")
    assert "mine" not in view.plot.points, "the other run's losses are gone"
    assert view.samples.picture.pixmap().isNull(), "a classifier draws nothing"
    run.append(RunEvent("progress", 50, 100, {"mine": 2.0}))
    qtbot.wait(50)
    assert "mine" not in view.plot.points
    assert view.state_note.text().startswith("Finished")


def test_a_folder_that_is_no_run_is_one_sentence(
    qtbot: Any, view: TrainView, binding: TrainBinding, tmp_path: Path, errors: list[str]
) -> None:
    binding.watch(tmp_path)
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "is not a run folder" in errors[0]


def test_the_runs_there_are_are_listed(
    qtbot: Any, view: TrainView, binding: TrainBinding, proxy: Any, listed: Trained, run: Run
) -> None:
    (run.path / "run.json").write_text("{")
    binding._list_runs()
    qtbot.waitUntil(lambda: len(view.runs_list.rows) == 2)
    assert sorted(listed_runs(view)) == ["classifier (classifier, finished)", "gan (generator, finished)"]
    assert view.runs_list.selected == []
    assert view.state_note.text() == "No run selected."


@pytest.mark.parametrize("config", [[1], {"steps": "many"}, "x"])
def test_a_garbled_run_hides_none_of_the_others(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, tmp_path: Path, config: Any
) -> None:
    bad = Run.create(tmp_path / "bad", kind="train", spec={})
    known = json.loads((bad.path / "run.json").read_text())
    known["spec"]["config"] = config
    (bad.path / "run.json").write_text(json.dumps(known))
    binding._list_runs()
    qtbot.waitUntil(lambda: listed_runs(view) == ["run (generator, new)"], timeout=10_000)


# Stopping and going on


def test_stop_asks_the_run_to_stop(qtbot: Any, view: TrainView, binding: TrainBinding, run: Run) -> None:
    begin(run)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    qtbot.mouseClick(view.stop_button, LEFT)
    qtbot.waitUntil(lambda: run.stop_requested)
    says(qtbot, view, "Stopping")
    assert not view.stop_button.isEnabled()
    end(run, "stopped")
    says(qtbot, view, "Stopped")
    assert view.resume_button.isEnabled()


def test_without_a_run_stop_and_resume_do_nothing(
    view: TrainView, binding: TrainBinding, launched: list[Run], errors: list[str]
) -> None:
    view.stop_requested.emit()
    view.resume_requested.emit()
    assert launched == errors == []


def test_a_stopped_run_goes_on(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, launched: list[Run]
) -> None:
    begin(run)
    run.append(RunEvent("progress", 40, 100, {"generator": 1.0}))
    end(run, "stopped")
    binding.watch(run.path)
    says(qtbot, view, "Stopped: step 40 of 100")
    qtbot.mouseClick(view.resume_button, LEFT)
    qtbot.waitUntil(lambda: [item.path for item in launched] == [run.path])
    says(qtbot, view, "Running")
    assert view.plot.points == {"generator": ([40], [1])}, "what was before is still there"
    assert (view.stop_button.isEnabled(), view.resume_button.isEnabled()) == (True, False)


def test_a_double_click_on_resume_is_no_fault(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    run: Run,
    launched: list[Run],
    errors: list[str],
) -> None:
    begin(run)
    end(run, "stopped")
    binding.watch(run.path)
    says(qtbot, view, "Stopped")
    qtbot.mouseClick(view.resume_button, LEFT)
    qtbot.mouseClick(view.resume_button, LEFT)
    idle(qtbot, binding)
    says(qtbot, view, "Running")
    assert len(launched) == 1
    assert errors == []


def test_a_run_that_cannot_go_on_is_one_sentence(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, errors: list[str]
) -> None:
    begin(run)
    end(run, "stopped")
    binding.watch(run.path)
    says(qtbot, view, "Stopped")
    run.claim()  # another window was quicker
    view.resume_requested.emit()
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "is running already" in errors[0]


# Samples, health and words


def add_frames(run: Run, noise: Callable[..., np.ndarray], *steps: int) -> None:
    """Write sample pictures, and have the run tell of them."""
    for step in steps:
        path = run.path / "samples" / f"step-{step:08d}.png"
        save_picture(path, noise(32, 64, seed=step), {"synthetic": True, "seed": 0})
        run.append(RunEvent("sample", step, 100, data={"sample": path.relative_to(run.path).as_posix()}))


def test_the_pictures_of_a_run_can_be_gone_through(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    viewer: Any,
    run: Run,
    noise: Callable[..., np.ndarray],
) -> None:
    begin(run)
    add_frames(run, noise, 10, 20)
    save_picture(run.path / "samples" / "neighbours-00000010.png", noise(32, 64), {})
    binding.watch(run.path)
    qtbot.waitUntil(lambda: view.samples.steps == [10, 20])
    qtbot.waitUntil(lambda: not view.samples.picture.pixmap().isNull())
    assert view.samples.neighbours.isHidden()
    view.samples.layer_check.click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    assert viewer.layers[0].name == "SYNTHETIC samples run"
    assert viewer.dims.current_step[0] == 1
    view.samples.slider.setValue(0)
    qtbot.waitUntil(lambda: not view.samples.neighbours.isHidden())
    assert viewer.dims.current_step[0] == 0, "the layer goes along"
    viewer.dims.set_current_step(0, 1)
    qtbot.waitUntil(lambda: view.samples.neighbours.isHidden())
    assert view.samples.index == 1, "and the dock goes along with the layer"
    add_frames(run, noise, 30)
    qtbot.waitUntil(lambda: viewer.layers[0].data.shape[0] == 3)
    assert view.samples.index == 2
    viewer.layers.clear()
    assert not view.samples.layer_check.isChecked()
    add_frames(run, noise, 40)
    qtbot.waitUntil(lambda: len(view.samples.steps) == 4)
    assert len(viewer.layers) == 0


def test_what_was_measured_is_said_and_drawn(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run
) -> None:
    begin(run)
    metrics = {"kid": 0.5, "kid_random": 0.25, "warnings": ["The samples are all alike."]}
    run.append(RunEvent("metrics", 50, 100, data={"metrics": metrics}))
    binding.watch(run.path)
    qtbot.waitUntil(lambda: "The samples are all alike." in view.warnings_note.text())
    assert view.health_note.text().endswith("patches: 0.5 (KID; lower is better).")
    assert "KID in random features 0.25" in view.health_note.toolTip()
    assert view.plots.kid.points["KID"] == ([50], [0.5])
    run.append(RunEvent("metrics", 60, 100, data={"metrics": {**metrics, "kid": 0.125, "warnings": []}}))
    qtbot.waitUntil(view.warnings_note.isHidden)
    assert view.plots.kid.points["KID"] == ([50, 60], [0.5, 0.125])


def test_a_pause_goes_on_later(
    qtbot: Any, view: TrainView, binding: TrainBinding, run: Run, launched: list[Run]
) -> None:
    begin(run)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    qtbot.mouseClick(view.pause_button, LEFT)
    qtbot.waitUntil(lambda: run.stop_requested)
    end(run, "stopped")
    says(qtbot, view, "Paused: step 0 of 100")
    qtbot.mouseClick(view.resume_button, LEFT)
    says(qtbot, view, "Running")


# Forking, comparing, estimating


def test_a_run_is_forked_from_a_checkpoint(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    trained: Trained,
    launched: list[Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered: list[str] = []

    def answer(dialog: ForkDialog) -> QDialog.DialogCode:
        offered.extend(dialog.checkpoint_box.itemText(i) for i in range(dialog.checkpoint_box.count()))
        dialog.steps_spin.setValue(9)
        dialog.out_picker.set_path(tmp_path / "fork")
        return QDialog.DialogCode.Accepted

    monkeypatch.setattr(ForkDialog, "exec_", answer)
    binding.watch(trained.generator)
    qtbot.waitUntil(view.fork_button.isEnabled, timeout=10_000)
    qtbot.mouseClick(view.fork_button, LEFT)
    qtbot.waitUntil(lambda: len(launched) == 1, timeout=10_000)
    assert [text.split(" (")[0] for text in offered] == ["step 2"]
    (made,) = launched
    assert made.path == tmp_path / "fork"
    assert made.spec["config"]["steps"] == 9
    assert made.spec["forked_from"]["step"] == 2
    qtbot.waitUntil(lambda: binding.runs.path == made.path)
    says(qtbot, view, "Running")
    (made.path / "owner.json").unlink()


def test_two_runs_are_compared(qtbot: Any, view: TrainView, binding: TrainBinding, listed: Trained) -> None:
    qtbot.waitUntil(lambda: len(view.runs_list.rows) == 2)
    click_on_run(qtbot, view, listed.generator)
    click_on_run(qtbot, view, listed.classifier, ctrl=True)
    qtbot.mouseClick(view.compare_button, LEFT)
    qtbot.waitUntil(lambda: bool(view.findChildren(RunCompareView)), timeout=10_000)
    (shown,) = view.findChildren(RunCompareView)
    qtbot.waitUntil(shown.isVisible)
    names = {shown.table.headerItem().text(i) for i in (1, 2)}
    assert names == {"gan", "classifier"}
    assert set(shown.plots.losses.points) == names
    binding.close()
    assert not shown.isVisible()


def test_an_estimate_is_of_what_is_set(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    tiny_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def estimate(dataset: Path, config: TrainingConfig, *, should_stop: Any) -> Estimate:
        asked.append((dataset, config))
        made = Estimate(0.5, 32.0, "cpu", 10**6, 10**9, config.steps, 3 * 10**6)
        return replace(made, encoder_seconds=0.5 * config.encoder_steps)

    monkeypatch.setattr(train_binding.probe, "estimate", estimate)
    choose_dataset(qtbot, view, tiny_dataset)
    view.form["steps"].value = 240
    qtbot.mouseClick(view.estimate_button, LEFT)
    assert view.estimate_button.text() == "Cancel"
    qtbot.waitUntil(lambda: "About 2 min for 240 steps" in view.estimate_note.text(), timeout=10_000)
    ((dataset, config),) = asked
    assert (dataset, config.size_px, config.steps) == (tiny_dataset, 32, 240)
    view.form["batch_size"].value = 4
    assert view.estimate_note.isHidden(), "it was of other settings"
    view.form["encoder_steps"].value = 1500
    qtbot.mouseClick(view.estimate_button, LEFT)
    qtbot.waitUntil(lambda: "(12 min for the encoder among it)" in view.estimate_note.text(), timeout=10_000)


def test_an_estimate_is_cancelled(
    qtbot: Any,
    view: TrainView,
    binding: TrainBinding,
    tiny_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    endless: Any,
    errors: list[str],
) -> None:
    monkeypatch.setattr(train_binding.probe, "estimate", lambda *_, should_stop: endless.wait(should_stop))
    choose_dataset(qtbot, view, tiny_dataset)
    qtbot.mouseClick(view.estimate_button, LEFT)
    qtbot.waitUntil(endless.entered.is_set, timeout=10_000)
    qtbot.mouseClick(view.estimate_button, LEFT)
    qtbot.waitUntil(endless.stopped.is_set, timeout=10_000)
    assert view.estimate_button.text() == "Estimate"
    assert errors == []


def test_devices_are_looked_for_when_the_dock_is_seen(
    qtbot: Any, view: TrainView, binding: TrainBinding, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(train_binding, "_devices", found)
    here = (Device("cuda:0", "a GPU", None, None), Device("cpu", "processor", None, None))
    monkeypatch.setattr(train_binding.probe, "devices_here", lambda _: here)
    view.show()
    qtbot.waitUntil(lambda: view.options.device_box.count() == 3, timeout=10_000)
    assert found == [here]
    assert "cuda:0" in view.options.device_note.text()


def test_the_window_asks_about_the_runs_that_were_started_in_it(
    qtbot: Any, proxy: Any, view: TrainView, run: Run, launched: list[Run]
) -> None:
    window = QMainWindow()
    qtbot.addWidget(window)
    window.setCentralWidget(view)
    made = TrainBinding(proxy, view)
    begin(run)
    end(run, "stopped")
    made.watch(run.path)
    says(qtbot, view, "Stopped")
    assert window.findChildren(ClosingQuestion) == [], "it is not this window's"
    qtbot.mouseClick(view.resume_button, LEFT)
    says(qtbot, view, "Running")
    (asking,) = window.findChildren(ClosingQuestion)
    assert [is_starting() for is_starting in asking._starts] == [False]
    assert [known.path for known in asking._runs] == [run.path]
    made.close()
    assert asking._starts == []
    end(run, "stopped")  # else the window would ask when it is closed
    window.takeCentralWidget()  # which is let go now; the view is closed by itself


def test_the_list_sees_what_others_start(
    qtbot: Any, view: TrainView, binding: TrainBinding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle(qtbot, binding)
    binding._timer.setInterval(20)
    for kind in ("extract", "calibrate", "invert", "heatmap"):  # other docks' work
        Run.create(tmp_path / kind, kind=kind, spec={"out": "somewhere"})
    Run.create(tmp_path / "theirs", kind="train", spec={"config": {"preset": "s1"}})
    qtbot.waitUntil(lambda: listed_runs(view) == ["theirs (generator, new)"], timeout=10_000)
    assert view.runs_list.rows[0].preset == "s1"


# Closing the dock


@pytest.mark.parametrize("how", ["close", "x", "window"])
def test_a_closed_dock_leaves_the_run_alone(
    qtbot: Any,
    proxy: Any,
    viewer: Any,
    run: Run,
    tiny_dataset: Path,
    end_dock: Callable[[Any, str], None],
    how: str,
) -> None:
    session = session_of(viewer)
    signals = (
        session.dataset_changed,
        session.runs_changed,
        session.tray_changed,
        session.annotations_changed,
    )
    before = [len(signal) for signal in signals]
    begin(run)
    view = TrainView()
    binding = TrainBinding(proxy, view)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    watcher = binding.runs.watcher
    with qtbot.waitSignal(watcher.finished):
        if how == "close":
            binding.close()
            binding.close()
        else:
            end_dock(view, how)
    assert [len(signal) for signal in signals] == before
    assert not run.stop_requested
    assert run.status().state == "running"
    run.append(RunEvent("progress", 50, 100, {"generator": 2.0}))
    end(run, "failed", "Nobody looks.")
    session.set_dataset(tiny_dataset)
    qtbot.wait(50)
    if how == "close":
        assert view.state_note.text().startswith("Running"), "nothing more is shown"
        assert view.dataset_picker.path is None
        end_dock(view, "window")


def test_a_dock_that_is_opened_again_finds_the_run(qtbot: Any, proxy: Any, view: TrainView, run: Run) -> None:
    begin(run)
    first = TrainBinding(proxy, view)
    first.watch(run.path)
    says(qtbot, view, "Running")
    first.close()
    again = TrainView()
    qtbot.addWidget(again)
    second = TrainBinding(proxy, again)
    qtbot.waitUntil(lambda: listed_runs(again) == ["run (generator, running)"])
    says(qtbot, again, "Running")  # without a click
    second.close()
