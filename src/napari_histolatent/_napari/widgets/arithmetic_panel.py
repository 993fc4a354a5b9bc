from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_histolatent._napari.widgets._qt import note, pixmap_of, row
from napari_histolatent._napari.widgets.expression_field import ExpressionField
from napari_histolatent._napari.widgets.library_panel import narrow

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_SHOWN_PX = 96
_NEAREST_CLASS = "class as it comes out"
_EXAMPLE = "mean(tumour with lumen) - mean(tumour) + mean(healthy)"


class ArithmeticPanel(QWidget):
    """A field for an expression of the library's names, what it comes to, and its picture."""

    changed = Signal()
    """The expression or the class is another one."""
    make_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.field = ExpressionField()
        self.field.setPlaceholderText(_EXAMPLE)
        self.field.setToolTip(
            "Add and subtract points of the library by name, multiply them with numbers, and take the mean of all "
            "points with a tag: mean(tumour with lumen) - mean(tumour) + mean(healthy) is healthy tissue with a "
            "lumen. Names are offered while you type; Enter draws the result."
        )
        self.class_box = QComboBox()
        self.class_box.setToolTip(
            "The class in which the result is drawn; as it comes out: the class that weighs most in the expression."
        )
        narrow(self.class_box)
        self.make_button = QPushButton("Draw it")
        self.make_button.setToolTip("Draw what the expression comes to, and work on it in this dock.")
        self.state = note()
        self.picture = QLabel()
        self.picture.setToolTip("SYNTHETIC: drawn from the expression's latent vector")
        self.result = note()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (
            self.field,
            self.state,
            row(self.class_box, self.make_button, stretch=0),
            row(self.picture, self.result, stretch=1),
        ):
            layout.addWidget(widget)
        self.field.textChanged.connect(self.changed)
        self.field.entered.connect(self.make_button.click)
        self.class_box.activated.connect(lambda _: self.changed.emit())
        self.make_button.clicked.connect(self.make_requested)
        self.set_classes([])
        self.set_state("")
        self.set_result(None, "")
        self.set_ready(has_generator=False)

    @property
    def expression(self) -> str:
        """What is typed."""
        return self.field.text

    @property
    def label(self) -> str | None:
        """The class to draw in, None for the one that comes out."""
        return self.class_box.currentData() if self.class_box.count() else None

    def set_names(self, points: Sequence[str], groups: Sequence[str]) -> None:
        """Offer names of points and of groups (tags)."""
        self.field.set_names(points, groups)

    def set_classes(self, classes: Sequence[str]) -> None:
        """Offer the generator's classes. No signal."""
        before = self.label
        self.class_box.clear()
        self.class_box.addItem(_NEAREST_CLASS, None)
        for name in classes:
            self.class_box.addItem(name, name)
        self.class_box.setCurrentIndex(max(0, self.class_box.findData(before)))
        self.class_box.setVisible(bool(classes))

    def set_ready(self, *, has_generator: bool) -> None:
        """Switch drawing on or off."""
        self.make_button.setEnabled(has_generator)

    def set_state(self, sentence: str, column: int | None = None) -> None:
        """Say what the expression comes to, or what is wrong with it and at which column (from 1)."""
        self.state.setText(sentence)
        self.state.setVisible(bool(sentence))
        if column is None:
            self.field.clear_mark()
        else:
            self.field.mark(column)

    def set_result(self, pixels: NDArray[np.uint8] | None, words: str) -> None:
        """Show the picture, which says SYNTHETIC itself, and what it is."""
        self.picture.setVisible(pixels is not None)
        if pixels is not None:
            self.picture.setPixmap(pixmap_of(pixels, _SHOWN_PX))
        self.result.setText(words)
        self.result.setVisible(bool(words))
