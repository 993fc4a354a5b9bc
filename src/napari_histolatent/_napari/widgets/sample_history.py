from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QLabel, QSlider, QVBoxLayout, QWidget

from napari_histolatent._napari.widgets._qt import note, pixmap_of, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

SAMPLE_PX = 300
"""Longer side of a sample picture as it is shown."""


class SampleHistory(QWidget):
    """What the network draws from fixed latent vectors, with a slider over training time."""

    frame_chosen = Signal(int)
    """Number of the picture that the user moved to."""
    layer_switched = Signal(bool)
    """The user wants the pictures as a layer, or no more."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.neighbours = QLabel(), QLabel()
        for label in (self.picture, self.neighbours):
            label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self.caption, self.neighbours_note = (
            note(),
            note("Above SYNTHETIC samples, below the real training patches nearest to them:"),
        )
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setToolTip("Go back in training time; at the right end the newest picture is followed.")
        self.layer_check = QCheckBox("Show in the viewer")
        self.layer_check.setToolTip(
            "Show the pictures as an image layer, whose slider goes through training time."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (
            self.picture,
            row(self.slider, self.caption, stretch=0),
            self.neighbours_note,
            self.neighbours,
            self.layer_check,
        ):
            layout.addWidget(widget)
        self.caption.setWordWrap(False)
        self._steps: list[int] = []
        self._follows = True
        self.slider.valueChanged.connect(self._on_moved)
        self.layer_check.clicked.connect(self.layer_switched)
        self.set_steps([])

    @property
    def steps(self) -> list[int]:
        """The steps of which there are pictures."""
        return list(self._steps)

    @property
    def index(self) -> int:
        """Number of the picture that is asked for."""
        return int(self.slider.value())

    def set_steps(self, steps: Sequence[int]) -> None:
        """Offer pictures of these steps; the newest is shown as long as the user has not gone back. No signal."""
        index = len(steps) - 1 if self._follows or not steps else min(self.index, len(steps) - 1)
        self._steps = list(steps)
        if not steps:
            self._follows = True
            self.set_picture(None)
            self.set_neighbours(None)
        self.setVisible(bool(steps))
        self.slider.blockSignals(True)
        self.slider.setRange(0, max(0, len(steps) - 1))
        self.slider.setValue(max(0, index))
        self.slider.blockSignals(False)
        self.slider.setEnabled(len(steps) > 1)
        self._show_caption()

    def set_index(self, index: int) -> None:
        """Show another picture's number, without a signal: the layer's slider was moved."""
        self.slider.blockSignals(True)
        self.slider.setValue(index)
        self.slider.blockSignals(False)
        self._note_place()

    def set_picture(self, pixels: NDArray[np.uint8] | None) -> None:
        """Show a picture; it says SYNTHETIC itself."""
        if pixels is None:
            self.picture.clear()
            return
        self.picture.setPixmap(pixmap_of(pixels, SAMPLE_PX))
        self.picture.setToolTip("SYNTHETIC: a row a class, the same latent vector in each column")

    def set_neighbours(self, pixels: NDArray[np.uint8] | None) -> None:
        """Show the real patches that are nearest to the samples, or that there are none."""
        self.neighbours.setVisible(pixels is not None)
        self.neighbours_note.setVisible(pixels is not None)
        if pixels is None:
            self.neighbours.clear()
        else:
            self.neighbours.setPixmap(pixmap_of(pixels, SAMPLE_PX))

    def set_has_layer(self, has: bool) -> None:
        """Show whether the pictures are a layer now, without a signal."""
        self.layer_check.setChecked(has)

    def _on_moved(self, index: int) -> None:
        self._note_place()
        self.frame_chosen.emit(index)

    def _note_place(self) -> None:
        self._follows = self.index >= len(self._steps) - 1
        self._show_caption()

    def _show_caption(self) -> None:
        self.caption.setText(f"step {self._steps[self.index]:,}" if self._steps else "")
