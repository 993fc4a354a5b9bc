"""Small things that several docks draw alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, QSize, Qt, Signal
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QFrame,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QScrollBar,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def pixmap_of(pixels: NDArray[np.uint8], side_px: int | None = None) -> QPixmap:
    """Return RGB pixels as a pixmap, enlarged without smoothing to `side_px` on the longer side."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    pixmap = QPixmap.fromImage(image)
    if side_px is None:
        return pixmap
    return pixmap.scaled(
        side_px, side_px, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.FastTransformation
    )


def section(title: str, *widgets: QWidget) -> QGroupBox:
    """Return a titled box of widgets, one under the other."""
    box = QGroupBox(title)
    layout = QVBoxLayout(box)
    layout.setContentsMargins(8, 14, 8, 8)
    layout.setSpacing(6)
    for widget in widgets:
        layout.addWidget(widget)
    return box


def row(*widgets: QWidget, stretch: int | None = None) -> QWidget:
    """Return widgets side by side; the one at index `stretch` takes what room there is."""
    box = QWidget()
    layout = QHBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    for i, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if stretch in (None, i) else 0)
    return box


def note(text: str = "") -> QLabel:
    """Return a label that wraps. Plain: what is shown may come from a file, and is text, not markup."""
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


class ScrollingDock(QScrollArea):
    """A dock's content under a scroll bar where the window is too low: nothing is cut off."""

    closed = Signal()
    """The dock was closed with its x. napari then takes the widget out of it, and never destroys it."""

    def __init__(self, *parts: QWidget) -> None:
        super().__init__()
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.setContentsMargins(4, 4, 4, 4)
        for part in parts:
            layout.addWidget(part)
        layout.addStretch(1)
        self.setWidget(content)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(300)

    def changeEvent(self, event: QEvent) -> None:
        """Notice that napari takes the widget out of its dock."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.closed.emit()

    def sizeHint(self) -> QSize:
        """Ask for a column, not for half the window."""
        return QSize(360, 600)


class WheelScrolls(QObject):
    """Lets the wheel scroll the dock, not turn the knob that happens to come under the mouse."""

    def watch(self, content: QWidget) -> None:
        """Watch the knobs of a widget; one that was clicked is turned."""
        for kind in (QAbstractSpinBox, QComboBox, QAbstractSlider):
            for knob in content.findChildren(kind):
                if not isinstance(knob, QScrollBar):
                    knob.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                    knob.installEventFilter(self)

    def eventFilter(self, knob: QObject, event: QEvent) -> bool:
        """Hand the wheel on to the dock."""
        if event.type() == QEvent.Type.Wheel and not knob.hasFocus():
            event.ignore()
            return True
        return False


def native(form: Any) -> QWidget:
    """Return the Qt widget of a magicgui form, without its margins."""
    widget: QWidget = form.native
    layout = widget.layout()
    if layout is not None:
        layout.setContentsMargins(0, 0, 0, 0)
    return widget
