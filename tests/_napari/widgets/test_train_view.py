from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.train_view import CLASSIFIER, GENERATOR, TrainView
from napari_histolatent.training import PRESETS, ClassifierConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

LEFT = Qt.MouseButton.LeftButton
RUNS = [("new (generator, running)", "/runs/new"), ("old (classifier, finished)", "/runs/old")]


@pytest.fixture
def view(qtbot: Any) -> TrainView:
    widget = TrainView()
    qtbot.addWidget(widget)
    return widget


def test_what_the_user_does_goes_out(qtbot: Any, view: TrainView) -> None:
    told: list[Any] = []
    view.dataset_chosen.connect(told.append)
    view.start_requested.connect(lambda: told.append("start"))
    view.stop_requested.connect(lambda: told.append("stop"))
    view.resume_requested.connect(lambda: told.append("resume"))
    view.dataset_picker.edit.setText("/data/set")
    qtbot.keyClick(view.dataset_picker.edit, Qt.Key.Key_Return)
    qtbot.mouseClick(view.start_button, LEFT)
    qtbot.mouseClick(view.stop_button, LEFT)
    qtbot.mouseClick(view.resume_button, LEFT)
    assert told == ["/data/set", "start"], "without a run there is nothing to stop or resume"
    view.set_state("Running", can_stop=True, can_resume=False)
    qtbot.mouseClick(view.stop_button, LEFT)
    qtbot.mouseClick(view.resume_button, LEFT)
    view.set_state("Stopped", can_stop=False, can_resume=True)
    qtbot.mouseClick(view.stop_button, LEFT)
    qtbot.mouseClick(view.resume_button, LEFT)
    assert told[2:] == ["stop", "resume"]


def test_to_name_the_run_starts_nothing(qtbot: Any, view: TrainView) -> None:
    with qtbot.assertNotEmitted(view.start_requested):
        view.out_picker.edit.setText("/runs/new")
        qtbot.keyClick(view.out_picker.edit, Qt.Key.Key_Return)


def test_the_state_is_shown(view: TrainView) -> None:
    assert view.state_note.text() == "No run selected."
    view.set_state("Running: step 3 of 10", can_stop=True, can_resume=False)
    assert view.state_note.text() == "Running: step 3 of 10"
    assert (view.stop_button.isEnabled(), view.resume_button.isEnabled()) == (True, False)


def test_a_run_is_chosen_by_the_user_alone(qtbot: Any, view: TrainView) -> None:
    with qtbot.assertNotEmitted(view.run_selected):
        view.set_runs(RUNS, "/runs/old")
        view.set_runs(RUNS, None)
        view.set_runs(RUNS, "/runs/old")
    assert view.runs_box.currentData() == "/runs/old"
    assert [view.runs_box.itemText(i) for i in range(2)] == [caption for caption, _ in RUNS]
    with qtbot.waitSignal(view.run_selected) as chosen:
        view.runs_box.setFocus()
        qtbot.keyClick(view.runs_box, Qt.Key.Key_Up)
    assert chosen.args == ["/runs/new"]


@pytest.mark.parametrize("current", [None, "/runs/gone"])
def test_without_a_current_run_none_is_shown(view: TrainView, current: str | None) -> None:
    view.set_runs(RUNS, current)
    assert view.runs_box.currentIndex() == -1
    view.set_runs([], None)
    assert view.runs_box.count() == 0


def test_the_steps_are_those_of_the_preset_or_the_kind(view: TrainView) -> None:
    assert view.wants_generator
    assert view.preset == "demo"
    assert view.form_values() == {"steps": PRESETS["demo"].steps, "device": "auto", "seed": 0}
    view.preset_box.setCurrentIndex(1)
    assert view.preset == "lean"
    assert view.form_values()["steps"] == PRESETS["lean"].steps
    view.kind_box.setCurrentText(CLASSIFIER)
    assert not view.wants_generator
    assert not view.preset_box.isEnabled(), "presets are a generator's"
    assert view.form_values()["steps"] == ClassifierConfig().steps
    view.kind_box.setCurrentText(GENERATOR)
    assert view.preset_box.isEnabled()
    assert view.form_values()["steps"] == PRESETS["lean"].steps


def test_each_preset_that_is_offered_exists(view: TrainView) -> None:
    offered = [view.preset_box.itemData(i) for i in range(view.preset_box.count())]
    assert set(offered) <= set(PRESETS)
    assert offered


def test_what_is_set_is_a_config(view: TrainView) -> None:
    view.form["steps"].value, view.more_form["seed"].value = 7, 3
    view.more_form["device"].value = "cpu"
    config = PRESETS[view.preset].with_changes(**view.form_values())
    assert (config.steps, config.seed, config.device) == (7, 3, "cpu")


def test_progress_is_in_steps(view: TrainView) -> None:
    view.set_progress(0, 0)
    assert (view.progress.minimum(), view.progress.maximum()) == (0, 0), "the process starts"
    view.set_progress(30, 120)
    assert (view.progress.value(), view.progress.maximum()) == (30, 120)
    assert view.progress.text() == "30 of 120 steps"


def test_a_sample_is_shown_and_says_what_it_is(view: TrainView, noise: Callable[..., np.ndarray]) -> None:
    view.set_sample(noise(64, 128))
    pixmap = view.sample_label.pixmap()
    assert (pixmap.width(), pixmap.height()) == (320, 160)
    assert view.sample_label.toolTip().startswith("SYNTHETIC")
    view.set_sample(None)
    assert view.sample_label.pixmap().isNull()
