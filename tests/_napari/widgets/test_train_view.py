from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QColor, QPalette, QWheelEvent
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari.widgets.runs_list import RunRow
from napari_histolatent._napari.widgets.train_view import TrainView
from napari_histolatent._napari.widgets.training_form import CLASSIFIER, GENERATOR

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def view(qtbot: Any) -> TrainView:
    widget = TrainView()
    qtbot.addWidget(widget)
    return widget


def row(name: str) -> RunRow:
    return RunRow(Path(f"/runs/{name}"), "generator", "modern", "set", "running", 1, 2, 3.0)


def test_what_the_user_does_goes_out(qtbot: Any, view: TrainView) -> None:
    told: list[Any] = []
    buttons = {
        "start": view.start_button,
        "estimate": view.estimate_button,
        "pause": view.pause_button,
        "stop": view.stop_button,
        "resume": view.resume_button,
        "fork": view.fork_button,
        "compare": view.compare_button,
    }
    for name in buttons:
        getattr(view, f"{name}_requested").connect(lambda name=name: told.append(name))
    view.dataset_chosen.connect(told.append)
    view.dataset_picker.edit.setText("/data/set")
    qtbot.keyClick(view.dataset_picker.edit, Qt.Key.Key_Return)
    for name in ("estimate", "start", "pause", "stop", "resume", "fork"):
        qtbot.mouseClick(buttons[name], LEFT)
    assert told == ["/data/set", "estimate", "start"], "without a run there is nothing to stop or resume"
    told.clear()
    view.set_state("Running", can_stop=True, can_resume=False, can_fork=True)
    for name in ("pause", "stop", "resume", "fork"):
        qtbot.mouseClick(buttons[name], LEFT)
    view.set_state("Stopped", can_stop=False, can_resume=True)
    for name in ("pause", "stop", "resume", "fork", "compare"):
        qtbot.mouseClick(buttons[name], LEFT)
    assert told == ["pause", "stop", "fork", "resume", "compare"]


def test_to_name_the_run_starts_nothing(qtbot: Any, view: TrainView) -> None:
    with qtbot.assertNotEmitted(view.start_requested):
        view.out_picker.edit.setText("/runs/new")
        qtbot.keyClick(view.out_picker.edit, Qt.Key.Key_Return)


def test_the_state_is_shown(view: TrainView) -> None:
    assert view.state_note.text() == "No run selected."
    assert view.progress.isHidden()
    view.set_state("Running: step 3 of 10", can_stop=True, can_resume=False)
    assert view.state_note.text() == "Running: step 3 of 10"
    assert not view.progress.isHidden()


def test_progress_is_in_steps(view: TrainView) -> None:
    view.set_progress(0, 0)
    assert (view.progress.minimum(), view.progress.maximum()) == (0, 0), "the process starts"
    view.set_progress(30, 120)
    assert (view.progress.value(), view.progress.maximum()) == (30, 120)
    assert view.progress.text() == "30 of 120 steps"


def test_warnings_are_sentences_below_each_other(view: TrainView) -> None:
    assert view.warnings_note.isHidden()
    view.set_health("KID 0.1", ["One <b>thing</b>.", "Another."])
    assert view.health_note.text().endswith("patches: 0.1 (KID; lower is better).")
    first, second = view.warnings_note.text().splitlines()
    assert first.endswith("One <b>thing</b>.")
    assert view.warnings_note.textFormat() == Qt.TextFormat.PlainText, "it comes from a file"
    assert second.endswith("Another.")
    view.set_health("", [])
    assert view.warnings_note.isHidden()
    assert view.health_note.isHidden()


def test_an_estimate_can_be_cancelled(view: TrainView) -> None:
    view.set_estimate("Measuring…", is_busy=True)
    assert view.estimate_button.text() == "Cancel"
    assert not view.estimate_note.isHidden()
    view.set_estimate("")
    assert view.estimate_button.text() == "Estimate"
    assert view.estimate_note.isHidden()


def test_two_runs_can_be_compared(qtbot: Any, view: TrainView) -> None:
    view.set_runs([row("a"), row("b"), row("c")], "/runs/a")
    assert view.compare_button.isHidden()
    view.runs_list.topLevelItem(1).setSelected(True)
    assert not view.compare_button.isHidden()
    assert view.runs_list.selected == ["/runs/a", "/runs/b"]
    view.runs_list.topLevelItem(2).setSelected(True)
    assert view.compare_button.isHidden()


def test_the_form_is_that_of_the_kind(view: TrainView) -> None:
    view.kind_box.setCurrentText(CLASSIFIER)
    assert not view.wants_generator
    assert view.form is view.options.forms[CLASSIFIER]
    view.kind_box.setCurrentText(GENERATOR)
    assert view.wants_generator
    assert view.form is view.options.forms[GENERATOR]


def test_nothing_asks_for_more_width_than_a_dock_has(qtbot: Any, view: TrainView) -> None:
    view.set_runs([row("a-run-with-a-name-that-is-much-too-long-for-any-dock")], None)
    view.set_estimate("About " + "very " * 40 + "long")
    view.samples.set_steps([1, 200_000])
    view.options.more.expand(animate=False)
    view.resize(360, 600)
    view.show()
    qtbot.waitExposed(view)
    assert view.widget().minimumSizeHint().width() <= view.viewport().width()


def test_the_wheel_scrolls_the_dock_and_changes_no_setting(qtbot: Any, view: TrainView) -> None:
    view.options.more.expand(animate=False)
    view.samples.set_steps([1, 2, 3])
    view.resize(360, 400)
    view.show()
    qtbot.waitExposed(view)
    view.start_button.setFocus()
    before = (view.options.values(), view.options.preset, view.wants_generator, view.samples.index)
    knobs = [view.form[name].native for name in ("steps", "learning_rate", "design")]
    for knob in (*knobs, view.kind_box, view.preset_box, view.options.device_box, view.samples.slider):
        place = QPointF(5, 5)
        event = QWheelEvent(
            place,
            place,
            QPoint(),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(knob, event)
        assert not event.isAccepted(), "the dock behind it gets it"
    assert (view.options.values(), view.options.preset, view.wants_generator, view.samples.index) == before


def test_how_good_it_is_is_a_sentence_with_its_numbers_in_the_tooltip(view: TrainView) -> None:
    view.set_health("KID 0.1; KID in random features 0.2; contrast <90%>", [])
    assert view.health_note.text().endswith("patches: 0.1 (KID; lower is better).")
    assert view.health_note.toolTip() == "KID 0.1<br>KID in random features 0.2<br>contrast &lt;90%&gt;"
    view.set_health("Accuracy 0.875 on 16 held-out patches", [])
    assert view.health_note.text() == "Accuracy 0.875 on 16 held-out patches"
    assert view.health_note.toolTip() == ""


def test_warnings_can_be_read_in_every_theme(view: TrainView) -> None:
    def luminance(color: QColor) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color.getRgbF()[:3]]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for background in ("#262930", "#efebe9"):  # napari's
        palette = QPalette()
        palette.setColor(QPalette.ColorRole.Window, QColor(background))
        view.setPalette(palette)
        text = QColor(view.warnings_note.styleSheet().removeprefix("color: ").rstrip(";"))
        dark, light = sorted((luminance(text), luminance(QColor(background))))
        assert (light + 0.05) / (dark + 0.05) > 4.5
