from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QStringListModel, Qt, Signal
from qtpy.QtGui import QColor, QTextCharFormat, QTextCursor
from qtpy.QtWidgets import QCompleter, QPlainTextEdit, QTextEdit

from napari_histolatent._napari.editing._expressions import completions, fragment_at

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINES = 3
_RED = QColor(255, 80, 80)
_ENTER = (Qt.Key.Key_Return, Qt.Key.Key_Enter)


class ExpressionField(QPlainTextEdit):
    """A field for an expression of names: it offers names while they are typed, and can mark the place of an error.

    Enter takes the expression; in the list of names it takes the name, as Tab does. Escape closes the list.
    """

    entered = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setTabChangesFocus(True)
        self.setStyleSheet(
            "QPlainTextEdit { border: 1px solid gray; border-radius: 2px; }"
        )  # napari's has none
        self.setFixedHeight(_LINES * self.fontMetrics().lineSpacing() + 14)
        self._points: tuple[str, ...] = ()
        self._groups: tuple[str, ...] = ()
        self._offered: dict[str, str] = {}
        self._model = QStringListModel(self)
        self.completer = QCompleter(self._model, self)
        self.completer.setWidget(self)
        # What fits is found here: names hold spaces, and a group is written in another way than it is shown.
        self.completer.setCompletionMode(QCompleter.CompletionMode.UnfilteredPopupCompletion)
        self.completer.activated.connect(self._complete)
        self.textChanged.connect(self.clear_mark)

    @property
    def text(self) -> str:
        """The expression, on one line."""
        return " ".join(self.toPlainText().split("\n"))

    def set_names(self, points: Sequence[str], groups: Sequence[str]) -> None:
        """Offer these names of points and of groups."""
        self._points, self._groups = tuple(points), tuple(groups)

    def mark(self, column: int) -> None:
        """Mark the place of an error, counted from 1; after the end of the text its last character is marked."""
        n = len(self.toPlainText())
        if n == 0:
            return
        start = min(max(column - 1, 0), n - 1)
        form = QTextCharFormat()
        form.setUnderlineStyle(QTextCharFormat.UnderlineStyle.WaveUnderline)
        form.setUnderlineColor(_RED)
        form.setBackground(QColor(_RED.red(), _RED.green(), _RED.blue(), 90))
        selection = QTextEdit.ExtraSelection()
        selection.cursor = QTextCursor(self.document())
        selection.cursor.setPosition(start)
        selection.cursor.setPosition(start + 1, QTextCursor.MoveMode.KeepAnchor)
        selection.format = form
        self.setExtraSelections([selection])

    @property
    def marked_column(self) -> int | None:
        """The place that is marked, counted from 1."""
        marks = self.extraSelections()
        return marks[0].cursor.selectionStart() + 1 if marks else None

    def clear_mark(self) -> None:
        """Mark nothing."""
        self.setExtraSelections([])

    def keyPressEvent(self, event: Any) -> None:
        """Take the expression on Enter, else type, and offer what could be meant."""
        if self.completer.popup().isVisible():
            if event.key() in (*_ENTER, Qt.Key.Key_Tab):
                self._take_chosen()
                return
            if event.key() == Qt.Key.Key_Escape:
                self.completer.popup().hide()
                return
        elif event.key() in _ENTER:
            self.entered.emit()
            return
        super().keyPressEvent(event)
        if event.text() or event.key() in (Qt.Key.Key_Backspace, Qt.Key.Key_Delete):
            self._offer()

    def focusNextPrevChild(self, forward: bool) -> bool:
        """Keep Tab for the list of names while that is open."""
        if self.completer.popup().isVisible():
            return False
        return bool(super().focusNextPrevChild(forward))

    def focusOutEvent(self, event: Any) -> None:
        """Leave no list open."""
        super().focusOutEvent(event)
        if event.reason() not in (Qt.FocusReason.PopupFocusReason, Qt.FocusReason.ActiveWindowFocusReason):
            self.completer.popup().hide()

    def changeEvent(self, event: Any) -> None:
        """Follow the font of the theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self.setFixedHeight(_LINES * self.fontMetrics().lineSpacing() + 14)

    def _offer(self) -> None:
        fragment = fragment_at(self.toPlainText(), self.textCursor().position())
        found = completions(self._points, self._groups, fragment)
        popup = self.completer.popup()
        if not found:
            popup.hide()
            return
        self._offered = dict(found)
        self._model.setStringList(list(self._offered))
        place = self.cursorRect()
        place.setWidth(min(self.width(), popup.sizeHintForColumn(0) + 30))
        self.completer.complete(place)
        popup.setCurrentIndex(self._model.index(0, 0))

    def _take_chosen(self) -> None:
        popup = self.completer.popup()
        chosen = popup.currentIndex()
        popup.hide()
        if chosen.isValid():
            self._complete(str(chosen.data()))

    def _complete(self, shown: str) -> None:
        """Write a name in the place of what was typed of it."""
        cursor = self.textCursor()
        fragment = fragment_at(self.toPlainText(), cursor.position())
        cursor.setPosition(fragment.start)
        cursor.setPosition(fragment.end, QTextCursor.MoveMode.KeepAnchor)
        cursor.insertText(self._offered.get(shown, shown))
        self.setTextCursor(cursor)
