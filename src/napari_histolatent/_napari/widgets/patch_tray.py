from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_histolatent._napari.widgets._qt import pixmap_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from qtpy.QtGui import QKeyEvent

_ICON_PX = 72


class PatchTray(QListWidget):
    """Thumbnails with a caption. Double-click goes there, Delete takes out."""

    opened = Signal(int)
    removed = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.setViewMode(QListWidget.ViewMode.IconMode)
        self.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.setMovement(QListWidget.Movement.Static)
        self.setIconSize(QSize(_ICON_PX, _ICON_PX))
        self.setGridSize(QSize(_ICON_PX + 24, _ICON_PX + 28))
        self.setMinimumHeight(2 * (_ICON_PX + 28) + 8)
        self.setToolTip("Double-click: go to the patch. Delete: take it out.")
        self.itemDoubleClicked.connect(lambda item: self.opened.emit(self.row(item)))

    def set_patches(self, patches: Sequence[tuple[NDArray[np.uint8], str]]) -> None:
        """Show these pictures with their captions, the newest selected."""
        self.clear()
        for pixels, caption in patches:
            item = QListWidgetItem(QIcon(pixmap_of(pixels, _ICON_PX)), caption)
            item.setTextAlignment(Qt.AlignmentFlag.AlignHCenter)
            item.setToolTip(escape(caption))
            self.addItem(item)
        if patches:
            self.setCurrentRow(len(patches) - 1)
            self.scrollToBottom()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Take the selected patch out on Delete."""
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and self.currentRow() >= 0:
            self.removed.emit(self.currentRow())
            return
        super().keyPressEvent(event)
