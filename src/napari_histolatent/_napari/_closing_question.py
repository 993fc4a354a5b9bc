"""Asks on closing the window whether runs that were started in it go on, or stop and save."""

from __future__ import annotations

from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any
from weakref import ref

from qtpy.QtCore import QEvent, QEventLoop, QObject, QTimer
from qtpy.QtWidgets import QMainWindow, QMessageBox, QWidget

from napari_histolatent.errors import UserError
from napari_histolatent.runs import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_histolatent.runs import Run

_NAME = "histolatent closing question"
_LOOK_SECONDS = 1.0
"""A disk that does not answer by then does not keep the window open."""
_START_SECONDS = 20.0
"""How long the closing waits for a run that is just being started."""

KEEP, STOP, CANCEL = "keep", "stop", "cancel"


class ClosingQuestion(QObject):
    """Asks, when the user closes the window, what becomes of the runs that were started in it.

    The answer is carried out when the window really goes: another question may keep it open.

    A script that closes its viewer is not asked, and its runs go on; nor is anybody about runs of other windows
    or of the command line. It belongs to the window: closing a dock changes nothing.
    """

    def __init__(self, window: QMainWindow) -> None:
        super().__init__(window)
        self.setObjectName(_NAME)
        self._its_window = ref(window)  # held, it would never be let go: it holds this
        self._runs: list[Run] = []
        self._starts: list[Callable[[], bool]] = []
        self._is_gone = False
        window.installEventFilter(self)

    @property
    def _window(self) -> QMainWindow | None:
        return self._its_window()

    def add(self, run: Run) -> None:
        """Ask about this run, too."""
        self._runs = [known for known in self._runs if known.path != run.path] + [run]
        self._is_gone = False

    def add_starts(self, is_starting: Callable[[], bool]) -> None:
        """Wait for a run that is being started, which is then asked about, too.

        Parameters
        ----------
        is_starting
            Returns whether one is being started; once it is False again, the run was added.
        """
        self._starts.append(is_starting)

    def remove_starts(self, is_starting: Callable[[], bool]) -> None:
        """Ask it no more."""
        self._starts = [known for known in self._starts if known != is_starting]

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Hold the closing back until there is an answer, and carry it out once the window goes."""
        window = self._window
        if window is None or watched is not window or event.type() != QEvent.Type.Close or self._is_gone:
            return False
        if not event.spontaneous() and not _shows_something(window):
            return False  # a script has closed the viewer already
        self._wait_for_starts()
        running = _running(self._runs)
        if not running:
            return False
        answer = self.ask(running)
        if answer == CANCEL:
            event.ignore()
            return True
        # Delivered from here, to see whether the window goes: it may ask something itself, and stay.
        window.event(event)
        self._is_gone = event.isAccepted()
        if self._is_gone and answer == STOP:
            # Not a daemon: Python waits for it. The processes save by themselves.
            Thread(target=_stop_all, args=(running,), name="stop runs").start()
        return True

    def _wait_for_starts(self) -> None:
        """Go on with the events until no run is being started any more, within reason."""
        if not any(is_starting() for is_starting in self._starts):
            return
        loop, poll, limit = QEventLoop(), QTimer(), QTimer()
        poll.timeout.connect(
            lambda: None if any(is_starting() for is_starting in self._starts) else loop.quit()
        )
        limit.setSingleShot(True)
        limit.timeout.connect(loop.quit)
        poll.start(20)
        limit.start(round(1000 * _START_SECONDS))
        loop.exec_()
        poll.stop()
        limit.stop()

    def ask(self, running: Sequence[Run]) -> str:
        """Return keep, stop or cancel."""
        box = QMessageBox(self._window)
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle("Training goes on")
        box.setText(question(running))
        box.setInformativeText(
            "Keep training: it goes on without this window, and the Train dock of the next one finds it.\n"
            "Stop and save: it ends after its current step with a checkpoint, and can be resumed."
        )
        keep = box.addButton("Keep training", QMessageBox.ButtonRole.AcceptRole)
        stop = box.addButton("Stop and save", QMessageBox.ButtonRole.DestructiveRole)
        cancel = box.addButton(QMessageBox.StandardButton.Cancel)
        box.setDefaultButton(keep)
        box.setEscapeButton(cancel)
        box.exec_()
        return {keep: KEEP, stop: STOP}.get(box.clickedButton(), CANCEL)


def closing_question_of(widget: QWidget) -> ClosingQuestion | None:
    """Return the question of the window that a widget is in, None where it is in none."""
    found: Any = widget
    while found is not None and not (isinstance(found, QMainWindow) and found.parentWidget() is None):
        found = found.parentWidget()
    if found is None:
        return None
    return found.findChild(ClosingQuestion, _NAME) or ClosingQuestion(found)


def question(running: Sequence[Run]) -> str:
    """Return which runs are still training, in words."""
    names = ", ".join(run.path.name for run in running)
    return (
        f"{len(running)} runs are still training: {names}."
        if len(running) > 1
        else f"{names} is still training."
    )


def _shows_something(window: QMainWindow) -> bool:
    central = window.centralWidget()
    if central is None:
        return bool(window.isVisible())
    children = [child for child in central.children() if isinstance(child, QWidget)]
    return any(not child.isHidden() for child in children or [central])


def _running(runs: Sequence[Run]) -> list[Run]:
    """Return those that train now; read in a thread, so that a disk that hangs does not hang the window."""
    found: list[Run] = []

    def look() -> None:
        for run in runs:
            with suppress(OSError, UserError):
                if run.status().state not in (*ENDED, "new", "stopping"):
                    found.append(run)

    thread = Thread(target=look, name="look at runs", daemon=True)
    thread.start()
    thread.join(_LOOK_SECONDS)
    return list(found)


def _stop_all(runs: Sequence[Run]) -> None:
    for run in runs:
        with suppress(OSError, UserError):
            run.request_stop()
