from __future__ import annotations

from html import escape
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget


class PathPicker(QWidget):
    """A path to type or to choose. `picked` is emitted with it on Enter and after choosing.

    With `picks_on_leaving` also when the line is left changed: for a path that something beside it then uses.
    """

    picked = Signal(str)

    def __init__(
        self, title: str, *, pattern: str = "", is_folder: bool = False, picks_on_leaving: bool = False
    ) -> None:
        super().__init__()
        self._title, self._pattern, self._is_folder = title, pattern, is_folder
        self.edit = QLineEdit()
        self.edit.setPlaceholderText(title)
        self._told = ""
        """What was picked or shown last: to leave the line without a change picks nothing."""
        self.edit.returnPressed.connect(self._emit)
        if picks_on_leaving:
            self.edit.editingFinished.connect(self._on_left)
        self.button = QPushButton("Choose…")
        self.button.clicked.connect(self._choose)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.edit, 1)
        layout.addWidget(self.button)

    @property
    def path(self) -> Path | None:
        """What is typed, or None."""
        text = self.edit.text().strip()
        return Path(text).expanduser() if text else None

    def set_path(self, path: Path) -> None:
        """Show a path, without a signal."""
        self._told = str(path)
        self.edit.setText(str(path))
        self.edit.setToolTip(escape(str(path)))

    def _on_left(self) -> None:
        # On the way to Choose, what is typed is no answer yet.
        is_choosing = self.button.hasFocus() or self.button.isDown()
        if self.edit.text().strip() != self._told and not is_choosing:
            self._emit()

    def _emit(self) -> None:
        self._told = self.edit.text().strip()
        if self.path:
            self.edit.setToolTip(escape(str(self.path)))
            self.picked.emit(str(self.path))

    def _choose(self) -> None:
        start = self.edit.text() or str(Path.home())
        if self._is_folder:
            chosen = QFileDialog.getExistingDirectory(self, self._title, start)
        else:
            chosen, _ = QFileDialog.getOpenFileName(self, self._title, start, self._pattern)
        if chosen:
            self.edit.setText(chosen)
            self._emit()
