from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from qtpy.QtCore import Qt

from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.widgets import train_binding
from napari_histolatent._napari.widgets.train_binding import TrainBinding, described
from napari_histolatent._napari.widgets.train_view import CLASSIFIER, TrainView
from napari_histolatent.errors import RunError
from napari_histolatent.jobs import follow
from napari_histolatent.runs import Run, RunEvent, RunStatus, known_runs
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
    workers = [item for item in vars(binding).values() if isinstance(item, LatestWorker)]
    assert workers
    qtbot.waitUntil(lambda: not any(worker.is_busy for worker in workers), timeout=10_000)


def listed_runs(view: TrainView) -> list[str]:
    return [view.runs_box.itemText(i) for i in range(view.runs_box.count())]


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
    qtbot: Any, view: TrainView, binding: TrainBinding, tmp_path: Path, errors: list[str]
) -> None:
    choose_dataset(qtbot, view, tmp_path)
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "is not a patch dataset" in errors[0]


def test_the_folder_that_is_offered_is_free(
    qtbot: Any, view: TrainView, binding: TrainBinding, tmp_path: Path
) -> None:
    Run.create(tmp_path / "elsewhere" / "set-gan-1", kind="train", spec={})
    (tmp_path / "set-gan-2").mkdir()
    view.dataset_picker.set_path(tmp_path / "set")
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
    view.preset_box.setCurrentIndex(1)
    view.form["steps"].value, view.more_form["seed"].value = 7, 3
    view.more_form["device"].value = "cpu"
    view.out_picker.edit.setText(str(tmp_path / "mine"))
    qtbot.mouseClick(view.start_button, LEFT)
    assert not view.start_button.isEnabled(), "a second click starts no second run"
    qtbot.waitUntil(lambda: told == ["runs"], timeout=10_000)
    (run,) = launched
    assert run.path == tmp_path / "mine"
    assert run.kind == "train"
    config = TrainingConfig.from_json(run.spec["config"])
    assert (config.steps, config.seed, config.device, config.size_px) == (7, 3, "cpu", 32)
    assert config.preset == "lean"
    assert run.spec["dataset"] == str(tiny_dataset)
    assert view.start_button.isEnabled()
    says(qtbot, view, "Running")
    qtbot.waitUntil(lambda: view.runs_box.currentData() == str(run.path))


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
    says(qtbot, view, "Running: step 20 of 100; generator 2.00; 12.5 images/s on cpu")
    assert view.plot.points == {"generator": ([10, 20], [1, 2])}
    assert (view.progress.value(), view.progress.maximum()) == (20, 100)
    (run.path / "samples").mkdir()
    Image.fromarray(noise(64, 64)).save(run.path / "samples" / "a.png")
    run.append(RunEvent("sample", 20, 100, data={"sample": "samples/a.png"}))
    qtbot.waitUntil(lambda: not view.sample_label.pixmap().isNull())
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
    says(qtbot, view, "Finished: step 100 of 100; accuracy 0.875 on 16 held-out patches")
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
    assert not view.sample_label.pixmap().isNull()
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
    qtbot.waitUntil(lambda: view.runs_box.count() == 3)
    index = view.runs_box.findData(str(listed.classifier))
    view.runs_box.setCurrentIndex(index)
    view.runs_box.activated.emit(index)
    says(qtbot, view, "Finished: step 2 of 2")
    assert "mine" not in view.plot.points, "the other run's losses are gone"
    assert view.sample_label.pixmap().isNull(), "a classifier draws nothing"
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
    qtbot.waitUntil(lambda: view.runs_box.count() == 2)
    assert sorted(listed_runs(view)) == ["classifier (classifier, finished)", "gan (generator, finished)"]
    assert view.runs_box.currentIndex() == -1
    assert view.state_note.text() == "No run selected."


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


# Words


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (RunStatus("starting"), "Starting"),
        (RunStatus("running", 5, 10), "Running: step 5 of 10"),
        (
            RunStatus("running", 5, 10, {"a": 1.234, "b": 0.5}, {"images_per_second": 80.0, "device": "cpu"}),
            "Running: step 5 of 10; a 1.23, b 0.50; 80 images/s on cpu",
        ),
        (RunStatus("finished", 10, 10, {}, {"images_per_second": 80.0}), "Finished: step 10 of 10"),
        (
            RunStatus("finished", 10, 10, {}, {"metrics": {"accuracy": 0.9, "n": 20}}),
            "Finished: step 10 of 10; accuracy 0.900 on 20 held-out patches",
        ),
        (RunStatus("failed", 3, 10, message="No device."), "Failed: step 3 of 10; No device."),
    ],
)
def test_a_state_in_words(status: RunStatus, words: str) -> None:
    assert described(status) == words


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
    watcher = binding._watcher
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
    again.run_selected.emit(again.runs_box.itemData(0))
    says(qtbot, again, "Running")
    second.close()
