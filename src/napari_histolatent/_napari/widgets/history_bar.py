from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QMenu, QPushButton, QWidget

if TYPE_CHECKING:
    from napari_histolatent._napari.editing._history import Branch, History

_MOST_SHOWN = 30
_LONGEST = 60
_NOTHING_TO_UNDO = "Go back one step. Nothing was done yet."
_NOTHING_TO_REDO = "Do again what was undone. Nothing is undone now."


class HistoryBar(QWidget):
    """Undo, redo, and a menu of the branches: what was undone before something else was done is in there."""

    undo_requested = Signal()
    redo_requested = Signal()
    branch_requested = Signal(int)
    """The step to go to, as `History.branches` names it."""

    def __init__(self) -> None:
        super().__init__()
        self.undo_button, self.redo_button = QPushButton("Undo"), QPushButton("Redo")
        self.branches_button = QPushButton("Branches")
        self.branches_menu = QMenu(self)
        self.branches_menu.setToolTipsVisible(True)
        self.branches_button.setMenu(self.branches_menu)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for button in (self.undo_button, self.redo_button, self.branches_button):
            layout.addWidget(button, 1)
        self.undo_button.clicked.connect(self.undo_requested)
        self.redo_button.clicked.connect(self.redo_requested)
        self.branches_menu.aboutToShow.connect(self._fill)
        self.branches_menu.triggered.connect(lambda action: self.branch_requested.emit(action.data()))
        self._history: History[Any] | None = None
        self.show_history(None)

    def show_history(self, history: History[Any] | None) -> None:
        """Show what can be undone and redone now; None: nothing yet. To be called after each change."""
        self._history = history
        undo, redo = (history.undo_label, history.redo_label) if history else (None, None)
        _offer(self.undo_button, None if undo is None else f"Take back: {undo}", _NOTHING_TO_UNDO)
        _offer(self.redo_button, None if redo is None else f"Do again: {redo}", _NOTHING_TO_REDO)
        n = len(history.branches()) if history else 0
        self.branches_button.setEnabled(n > 1)
        self.branches_button.setText(f"Branches ({n})" if n > 1 else "Branches")
        self.branches_button.setToolTip(
            "Go to another line of edits: whenever you undo something and then do something else, "
            "what was undone is kept here."
        )

    def _fill(self) -> None:
        """Build the menu when it is asked for."""
        self.branches_menu.clear()
        for branch in (self._history.branches() if self._history else [])[:_MOST_SHOWN]:
            self._add(branch)

    def _add(self, branch: Branch) -> None:
        label = branch.label if len(branch.label) <= _LONGEST else f"…{branch.label[-_LONGEST:]}"
        action = self.branches_menu.addAction(label.replace("&", "&&"))
        action.setData(branch.id)
        action.setCheckable(True)
        action.setChecked(branch.is_current)
        action.setToolTip(f"<qt>{escape(branch.label)}<br>{branch.steps} states</qt>")


def _offer(button: QPushButton, what: str | None, otherwise: str) -> None:
    button.setEnabled(what is not None)
    # Rich text, so that what may come from a file's name stays text.
    button.setToolTip(otherwise if what is None else f"<qt>{escape(what)}</qt>")
