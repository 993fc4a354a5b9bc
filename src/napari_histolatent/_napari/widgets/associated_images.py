from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QTextDocument, QTextOption
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import note, pixmap_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from qtpy.QtGui import QWheelEvent

_SHOWN_PX = QSize(240, 200)
_STYLE_PX = 4  # what napari's theme takes around a text


class WrappedText(QPlainTextEdit):
    """Text to read and to copy that wraps anywhere: a QLabel would be as wide as the longest file name."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setAcceptDrops(False)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.viewport().setAutoFillBackground(False)
        self.document().setDocumentMargin(0)
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def text(self) -> str:
        """Return what is shown."""
        return str(self.toPlainText())

    def set_text(self, text: str) -> None:
        """Show text, as it is: never markup."""
        if text != self.text():
            self.setPlainText(text)
            self.updateGeometry()

    def heightForWidth(self, width: int) -> int:
        """Return the height of all its lines."""
        document = QTextDocument(self.text())
        document.setDefaultFont(self.font())
        document.setDocumentMargin(0)
        document.setDefaultTextOption(self.document().defaultTextOption())
        document.setTextWidth(max(1, width - _STYLE_PX))
        return int(document.size().height()) + _STYLE_PX

    def sizeHint(self) -> QSize:
        """Ask for the text on one line, within reason."""
        width = min(max(self.fontMetrics().horizontalAdvance(self.text()) + 2, 40), 200)
        return QSize(width, self.heightForWidth(width))

    def minimumSizeHint(self) -> QSize:
        """Fit the narrowest column."""
        return QSize(40, self.fontMetrics().height())

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Leave the wheel to the dock."""
        event.ignore()


def size_in_px(width: int, height: int) -> str:
    """Return a size as it is shown."""
    return f"{width:,} × {height:,} px"


def _words_of(name: str) -> tuple[str, str] | None:
    """Return (what the button says, what may be seen) of an image that is shown only when asked for."""
    name = name.casefold()
    if "label" in name:
        return "label", "The label may name the patient."
    if "macro" in name:
        return "macro", "The macro may show the label."
    if "thumbnail" in name:
        return None
    return "image", "This image may show the label."


class _Image(QWidget):
    """One image: its name and size, its picture or why there is none, and a button where it is private."""

    switched = Signal(bool)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.is_shown = False
        """Whether it was asked for, and may be seen when it arrives."""
        self._words = _words_of(name)
        self.is_private = self._words is not None
        self.title = WrappedText(name)
        self.button = QPushButton()
        self.button.setCheckable(True)
        self.button.setVisible(self.is_private)
        self.warning = note("" if self._words is None else self._words[1])
        self.warning.setVisible(self.is_private)
        self.picture = QLabel()
        self.state = WrappedText()
        private = QHBoxLayout()
        private.addWidget(self.warning, 1)
        private.addWidget(self.button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.setSpacing(3)
        layout.addWidget(self.title)
        layout.addLayout(private)
        layout.addWidget(self.picture)
        layout.addWidget(self.state)
        self.button.clicked.connect(self.switched)
        self.forget()

    def ask(self) -> None:
        """Show that the image is on its way."""
        self.is_shown = True
        self._set_button()
        self._set_state("Reading…")

    def forget(self) -> None:
        """Show and keep nothing of the image."""
        self.is_shown = False
        self._set_button()
        self.picture.clear()
        self.picture.hide()
        self.title.set_text(self.name)
        self._set_state("")

    def set_image(self, pixels: NDArray[np.uint8]) -> None:
        """Show the image."""
        pixmap = pixmap_of(pixels)
        self.title.set_text(f"{self.name}, {size_in_px(pixmap.width(), pixmap.height())}")
        if pixmap.width() > _SHOWN_PX.width() or pixmap.height() > _SHOWN_PX.height():
            pixmap = pixmap.scaled(
                _SHOWN_PX, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
        self.picture.setPixmap(pixmap)
        self.picture.setAccessibleName(self.name)
        self.picture.show()
        self._set_state("")

    def set_failed(self, sentence: str) -> None:
        """Show why there is no picture."""
        self.picture.clear()
        self.picture.hide()
        self._set_state(sentence)

    def _set_button(self) -> None:
        self.button.setChecked(self.is_shown)
        if self._words is not None:
            self.button.setText(f"{'Hide' if self.is_shown else 'Show'} {self._words[0]}")

    def _set_state(self, text: str) -> None:
        self.state.set_text(text)
        self.state.setVisible(bool(text))


class AssociatedImages(QWidget):
    """The small images in a slide file. What may name the patient is neither read nor shown unasked."""

    wanted = Signal(str)
    """The name of an image that is to be shown now: answer with `set_image` or `set_failed`."""

    def __init__(self) -> None:
        super().__init__()
        self.opener = QToolButton()
        self.opener.setCheckable(True)
        self.opener.setAutoRaise(True)
        self.opener.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.images: dict[str, _Image] = {}
        self._content = QWidget()
        self._column = QVBoxLayout(self._content)
        self._column.setContentsMargins(8, 0, 0, 0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.opener)
        layout.addWidget(self._content)
        self.opener.clicked.connect(self._set_open)
        self.set_names([])

    def set_names(self, names: Sequence[str]) -> None:
        """Show another slide's list, closed; whatever was shown of the last one is forgotten."""
        for image in self.images.values():
            image.forget()
            self._column.removeWidget(image)
            image.setParent(None)
            image.deleteLater()
        self.images = {name: _Image(name) for name in names}
        for image in self.images.values():
            self._column.addWidget(image)
            image.switched.connect(lambda on, image=image: self._switch(image, on))
        self.opener.setText(f"Other images in the file ({len(self.images)})")
        self.setVisible(bool(self.images))
        self._set_open(False)

    def set_image(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Show an image that was asked for; one that was hidden meanwhile is dropped."""
        image = self.images.get(name)
        if image is not None and image.is_shown:
            image.set_image(pixels)

    def set_failed(self, name: str, sentence: str) -> None:
        """Show why an image that was asked for cannot be shown."""
        image = self.images.get(name)
        if image is not None and image.is_shown:
            image.set_failed(sentence)

    def _set_open(self, is_open: bool) -> None:
        self.opener.setChecked(is_open)
        self.opener.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self._content.setVisible(is_open)
        for image in self.images.values():
            if not is_open:
                image.forget()
            elif not image.is_private:
                self._switch(image, True)

    def _switch(self, image: _Image, on: bool) -> None:
        if on:
            image.ask()
            self.wanted.emit(image.name)
        else:
            image.forget()
