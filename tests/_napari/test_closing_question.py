from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QDockWidget, QLabel, QMainWindow, QMessageBox, QWidget

from napari_histolatent._napari._closing_question import (
    CANCEL,
    KEEP,
    STOP,
    ClosingQuestion,
    closing_question_of,
    question,
)
from napari_histolatent.runs import Run, RunEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def window(qtbot: Any) -> QMainWindow:
    made = QMainWindow()
    made.setCentralWidget(QLabel("a viewer"))
    qtbot.addWidget(made)
    made.show()
    qtbot.waitExposed(made)
    return made


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run that this process works on."""
    made = Run.create(tmp_path / "mine", kind="train", spec={})
    made.claim()
    made.append(RunEvent("started", 0, 10))
    yield made
    (made.path / "owner.json").unlink(missing_ok=True)


def stops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "stop runs"]


@pytest.mark.parametrize(
    ("answer", "is_open", "is_stopped"), [(KEEP, False, False), (STOP, False, True), (CANCEL, True, False)]
)
def test_the_user_decides_what_becomes_of_a_run(
    window: QMainWindow,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    is_open: bool,
    is_stopped: bool,
) -> None:
    asked: list[list[Run]] = []
    monkeypatch.setattr(ClosingQuestion, "ask", lambda _, running: asked.append(list(running)) or answer)
    guard = ClosingQuestion(window)
    guard.add(run)
    guard.add(run)
    assert window.close() is not is_open
    assert window.isVisible() is is_open
    for thread in stops():
        thread.join(10)
    assert asked == [[run]]
    assert run.stop_requested is is_stopped


def test_a_run_that_has_ended_is_no_question(
    window: QMainWindow, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClosingQuestion, "ask", lambda *_: pytest.fail("asked"))
    ClosingQuestion(window).add(run)
    run.append(RunEvent("finished", 10, 10))
    assert window.close()


def test_a_script_that_closes_its_viewer_is_not_asked(
    window: QMainWindow, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """napari closes what is in the window first, and then cannot go back."""
    monkeypatch.setattr(ClosingQuestion, "ask", lambda *_: pytest.fail("asked"))
    central = QWidget()
    inner = QLabel("canvas", central)
    window.setCentralWidget(central)
    ClosingQuestion(window).add(run)
    inner.close()
    assert window.close()
    assert not run.stop_requested


def test_a_window_has_one_question_whatever_dock_asks_for_it(window: QMainWindow, qtbot: Any) -> None:
    widgets = [QLabel("a"), QLabel("b")]
    for widget in widgets:
        dock = QDockWidget(window)
        dock.setWidget(widget)
        dock.setFloating(True)
    first, second = (closing_question_of(widget) for widget in widgets)
    assert first is second is not None
    alone = QLabel("c")
    qtbot.addWidget(alone)
    assert closing_question_of(alone) is None


@pytest.mark.parametrize(
    ("word", "expected"), [("Keep training", KEEP), ("Stop and save", STOP), ("Cancel", CANCEL)]
)
def test_the_question_has_three_answers(window: QMainWindow, run: Run, word: str, expected: str) -> None:
    seen: list[str] = []

    def press() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        seen.append(box.text())
        next(button for button in box.buttons() if button.text().replace("&", "") == word).click()

    QTimer.singleShot(50, press)
    assert ClosingQuestion(window).ask([run]) == expected
    assert seen == [question([run])] == ["mine is still training."]


def test_several_runs_are_one_question(run: Run) -> None:
    assert question([run, run]) == "2 runs are still training: mine, mine."


def test_the_answer_is_carried_out_only_when_the_window_goes(
    qtbot: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hesitant(QMainWindow):
        """As napari's: asks something itself."""

        stays = True

        def closeEvent(self, event: Any) -> None:
            event.setAccepted(not self.stays)

    window = Hesitant()
    window.setCentralWidget(QLabel("a viewer"))
    qtbot.addWidget(window)
    window.show()
    asked: list[Any] = []
    monkeypatch.setattr(ClosingQuestion, "ask", lambda *_: asked.append(1) or STOP)
    ClosingQuestion(window).add(run)
    assert not window.close()
    for thread in stops():
        thread.join(10)
    assert window.isVisible()
    assert not run.stop_requested
    window.stays = False
    assert window.close()
    for thread in stops():
        thread.join(10)
    assert run.stop_requested
    assert len(asked) == 2, "it is another closing"


def test_a_run_that_is_being_started_is_asked_about(
    window: QMainWindow, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Run]] = []
    monkeypatch.setattr(ClosingQuestion, "ask", lambda _, running: asked.append(list(running)) or KEEP)
    guard = ClosingQuestion(window)
    pending = [True]

    def is_starting() -> bool:
        return bool(pending)

    def started() -> None:
        assert window.isVisible()
        guard.add(run)
        pending.clear()

    guard.add_starts(is_starting)
    QTimer.singleShot(50, started)
    assert window.close()
    assert asked == [[run]]
    guard.remove_starts(is_starting)
    assert guard._starts == []
