from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QPoint, QRectF
from qtpy.QtGui import QPainter, QPalette
from qtpy.QtWidgets import QWidget

if TYPE_CHECKING:
    from collections.abc import Collection

_HEIGHT_PX = 5
_HANDLE_PX = 14
"""The middle of a slider's handle stays half of this away from the slider's ends."""
_READY_ALPHA, _WAITING_ALPHA = 220, 50


class ReadyMarks(QWidget):
    """A row of marks, one under each step of a slider: bright where the image is ready.

    Parameters
    ----------
    groove
        The slider's own widget, in whose columns the marks lie; None: as wide as this is.
    """

    def __init__(self, groove: QWidget | None = None) -> None:
        super().__init__()
        self.setFixedHeight(_HEIGHT_PX)
        self._groove = groove
        self._n, self._ready = 0, frozenset[int]()
        self.setToolTip("Bright marks are steps whose image is ready; the others are being drawn.")

    @property
    def ready(self) -> frozenset[int]:
        """Steps that are marked."""
        return self._ready

    def set_ready(self, ready: Collection[int], n: int) -> None:
        """Mark some of n steps."""
        self._n, self._ready = n, frozenset(ready)
        self.update()

    def paintEvent(self, _: Any) -> None:
        """Draw the marks in the theme's colour of text."""
        if not self._n:
            return
        left, width = self._span()
        step = (width - _HANDLE_PX) / max(1, self._n - 1)
        painter, color = QPainter(self), self.palette().color(QPalette.ColorRole.WindowText)
        for index in range(self._n):
            color.setAlpha(_READY_ALPHA if index in self._ready else _WAITING_ALPHA)
            middle = left + _HANDLE_PX / 2 + index * step
            size = max(1.0, step - 1)
            painter.fillRect(QRectF(middle - size / 2, 0, size, self.height()), color)
        painter.end()

    def _span(self) -> tuple[int, int]:
        if self._groove is None:
            return 0, self.width()
        corner = self.mapFromGlobal(self._groove.mapToGlobal(QPoint(0, 0)))
        return corner.x(), self._groove.width()
