from __future__ import annotations

import gc
import shutil
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt, QThreadPool
from superqt.utils import create_worker

from napari_histolatent._napari.widgets import run_binding
from napari_histolatent._napari.widgets.run_binding import RunBinding
from napari_histolatent._napari.widgets.runs_list import row_of
from napari_histolatent._napari.widgets.train_view import TrainView
from napari_histolatent._pictures import save_picture
from napari_histolatent.jobs import follow
from napari_histolatent.runs import Run, RunEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def view(qtbot: Any) -> TrainView:
    widget = TrainView()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def started() -> list[Run]:
    """The runs that the dock said it had started."""
    return []


@pytest.fixture
def binding(proxy: Any, view: TrainView, started: list[Run]) -> Iterator[RunBinding]:
    made = RunBinding(
        proxy,
        view,
        on_followed=lambda: None,
        on_ended=lambda: None,
        on_started=started.append,
        free_folder=lambda path: path.with_name("fork"),
        poll_seconds=lambda: 0.005,
    )
    yield made
    made.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tmp_path / "run", kind="train", spec={})
    yield made
    shutil.rmtree(made.path, ignore_errors=True)


def begin(run: Run, step: int = 0) -> None:
    run.claim()
    run.append(RunEvent("started", step, 100, data={"device": "cpu"}))


def end(run: Run, kind: str, message: str = "") -> None:
    run.append(RunEvent(kind, run.status().step, 100, message=message))
    (run.path / "owner.json").unlink()


def says(qtbot: Any, view: TrainView, text: str) -> None:
    qtbot.waitUntil(lambda: text in view.state_note.text(), timeout=10_000)


def click_on(qtbot: Any, view: TrainView, run: Run) -> None:
    """Click on the line of the run that is looked at."""
    view.runs_list.set_rows([row_of(run, run.status(), now=run.created)], str(run.path))
    view.show()
    qtbot.waitExposed(view)
    place = view.runs_list.visualItemRect(view.runs_list.topLevelItem(0)).center()
    qtbot.mouseClick(view.runs_list.viewport(), LEFT, pos=place)


def buttons(view: TrainView) -> list[bool]:
    """Return whether Pause, Stop, Resume and Fork can be clicked."""
    made = (view.pause_button, view.stop_button, view.resume_button, view.fork_button)
    return [button.isEnabled() for button in made]


def draw(run: Run, *steps: int) -> None:
    for step in steps:
        name = f"samples/step-{step:08d}.png"
        save_picture(run.path / name, np.full((8, 16, 3), step, np.uint8), {})
        run.append(RunEvent("sample", step, 100, data={"sample": name}))


def test_stop_waits_for_no_thread_of_others(
    qtbot: Any, view: TrainView, binding: RunBinding, run: Run
) -> None:
    begin(run)
    goes_on = [True]

    def watch() -> Iterator[None]:
        while goes_on[0]:
            yield

    others = [create_worker(watch) for _ in range(QThreadPool.globalInstance().maxThreadCount())]
    try:
        for other in others:
            other.start()
        qtbot.waitUntil(lambda: all(other.is_running for other in others))
        binding.watch(run.path)
        says(qtbot, view, "Running")
        qtbot.mouseClick(view.stop_button, LEFT)
        qtbot.waitUntil(lambda: run.stop_requested)
    finally:
        goes_on[0] = False


def test_a_run_that_is_resumed_elsewhere_is_shown_to_go_on(
    qtbot: Any, view: TrainView, binding: RunBinding, run: Run
) -> None:
    begin(run)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    end(run, "stopped")
    says(qtbot, view, "Stopped")
    qtbot.wait(50)
    begin(run, 7)
    says(qtbot, view, "Running: step 7 of 100")
    assert buttons(view) == [True, True, False, False]


def test_a_folder_that_is_gone_is_said_and_a_click_looks_again(
    qtbot: Any, view: TrainView, binding: RunBinding, run: Run
) -> None:
    begin(run)
    run.append(RunEvent("checkpoint", 5, 100, data={"checkpoint": "checkpoints/step-00000005"}))
    binding.watch(run.path)
    says(qtbot, view, "Running")
    away = run.path.with_name("away")
    run.path.rename(away)
    says(qtbot, view, "Its folder is gone.")
    assert buttons(view) == [False] * 4
    watcher = binding.watcher
    away.rename(run.path)
    end(run, "stopped")
    click_on(qtbot, view, run)
    assert binding.watcher is not watcher
    says(qtbot, view, "Stopped: step 5 of 100")


def test_a_watcher_that_breaks_says_so_and_a_click_looks_again(
    qtbot: Any, view: TrainView, binding: RunBinding, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(run)

    def broken(_: Run, *, poll_seconds: float) -> Iterator[None]:
        yield None
        msg = "a bug"
        raise KeyError(msg)

    with monkeypatch.context() as patch, qtbot.capture_exceptions() as raised:
        patch.setattr(run_binding, "news_of", broken)
        binding.watch(run.path)
        says(qtbot, view, "could not be read on. Click it in the list")
        qtbot.wait(20)
    assert [kind for kind, _, _ in raised] == [KeyError]
    click_on(qtbot, view, run)
    says(qtbot, view, "Running")


def test_a_new_run_is_not_busy_and_resume_starts_it(
    qtbot: Any,
    view: TrainView,
    binding: RunBinding,
    run: Run,
    started: list[Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "launch", begin)
    binding.watch(run.path)
    says(qtbot, view, "New")
    assert "Resume starts it." in view.state_note.text()
    assert view.progress.maximum() > 0, "no bar without an end"
    assert buttons(view) == [False, False, True, False]
    qtbot.mouseClick(view.resume_button, LEFT)
    says(qtbot, view, "Running")
    assert [one.path for one in started] == [run.path]


def test_a_pause_is_one_after_looking_at_another_run(
    qtbot: Any, view: TrainView, binding: RunBinding, run: Run, tmp_path: Path
) -> None:
    begin(run)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    qtbot.mouseClick(view.pause_button, LEFT)
    qtbot.waitUntil(lambda: run.stop_requested)
    end(run, "stopped")
    says(qtbot, view, "Paused")
    other = Run.create(tmp_path / "other", kind="train", spec={})
    binding.watch(other.path)
    says(qtbot, view, "New")
    binding.watch(run.path)
    says(qtbot, view, "Paused")
    run.clear_stop()
    begin(run)
    says(qtbot, view, "Running")
    end(run, "stopped")
    says(qtbot, view, "Stopped")


def test_the_layer_of_samples_stays_when_another_run_is_looked_at(
    qtbot: Any, view: TrainView, binding: RunBinding, viewer: Any, run: Run, tmp_path: Path
) -> None:
    draw(run, 10, 20)
    other = Run.create(tmp_path / "other", kind="train", spec={})
    draw(other, 10, 20, 30)
    binding.watch(run.path)
    qtbot.waitUntil(lambda: len(view.samples.steps) == 2)
    view.samples.layer_check.click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    layer = viewer.layers[0]
    binding.watch(other.path)
    qtbot.waitUntil(lambda: layer.data.shape[0] == 3)
    assert list(viewer.layers) == [layer]
    assert layer.name == "SYNTHETIC samples other"
    assert view.samples.layer_check.isChecked()
    classifier = Run.create(tmp_path / "judge", kind="classifier", spec={})
    binding.watch(classifier.path)
    qtbot.waitUntil(lambda: len(viewer.layers) == 0)
    assert not view.samples.layer_check.isChecked()


def test_errors_name_the_docks_own_controls(
    qtbot: Any, view: TrainView, binding: RunBinding, run: Run, errors: list[str]
) -> None:
    end_message = (
        "d is not a patch dataset; make one with `histolatent extract SLIDE --annotations FILE --out FOLDER`."
    )
    begin(run)
    binding.watch(run.path)
    says(qtbot, view, "Running")
    end(run, "failed", end_message)
    says(qtbot, view, "cut one in the Patches dock")
    binding.watch(run.path.with_name("none"))
    qtbot.waitUntil(lambda: len(errors) == 2)
    assert not any("histolatent " in sentence or "--" in sentence for sentence in errors), errors


def test_a_watcher_keeps_no_dock_and_ends_with_it(qtbot: Any, proxy: Any, view: TrainView, run: Run) -> None:
    run.append(RunEvent("stopped", 5, 100))
    made = RunBinding(
        proxy,
        view,
        on_followed=lambda: None,
        on_ended=lambda: None,
        on_started=lambda _: None,
        free_folder=lambda path: path,
        poll_seconds=lambda: 0.005,
    )
    made.watch(run.path)
    says(qtbot, view, "Stopped")
    watcher, kept = made.watcher, weakref.ref(made)
    del made
    qtbot.waitUntil(lambda: gc.collect() >= 0 and kept() is None)
    qtbot.waitUntil(lambda: not watcher.is_running)
