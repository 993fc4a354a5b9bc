from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QComboBox,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledSlider

from napari_histolatent._napari.editing._path import FRAMES
from napari_histolatent._napari.widgets._qt import note, pixmap_of, row
from napari_histolatent._napari.widgets.collapsible import Collapsible
from napari_histolatent._napari.widgets.probability_curve import ProbabilityCurve
from napari_histolatent._napari.widgets.ready_marks import ReadyMarks

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    from numpy.typing import NDArray

TIMINGS = {
    "pixels": (
        "the picture",
        "From step to step the picture changes by the same amount.",
    ),
    "perceptual": (
        "the texture",
        "From step to step the texture changes by the same amount, as a network sees it that was not trained on tissue.",
    ),
    "probability": (
        "the probability",
        "From step to step the classifier's probability changes by the same amount; the picture may then jump.",
    ),
}
"""Caption and help of each."""

EXPORTS = {
    ("mp4",): ("Film (MP4)…", "A film that plays everywhere, the word SYNTHETIC in its corner."),
    ("gif",): (
        "Film (GIF)…",
        "A film for slides and web pages, in 256 colours, the word SYNTHETIC in its corner.",
    ),
    ("strip",): ("Picture strip (PNG)…", "All steps side by side in one picture, for a figure."),
    ("csv",): (
        "Table of probabilities (CSV)…",
        "A line a step: what the classifier sees, and the latent vector.",
    ),
    ("mp4", "gif", "strip", "csv"): ("All of these…", "All four, under one name."),
}
"""Caption and help of each, by the formats of `jobs.exporting`."""

FEWEST_KEYS = 2
_THUMBNAIL_PX = 28
_KEYS_HEIGHT_PX = 110


class PathPanel(QWidget):
    """The slider along a path, the probability along it, its export, and the tiles it goes through."""

    moved = Signal(int)
    timing_chosen = Signal(str)
    play_switched = Signal(bool)
    export_requested = Signal(object)
    """Formats, a tuple of names."""
    key_added = Signal()
    key_removed = Signal(int)
    key_moved = Signal(int, int)
    """From which place in the list to which."""
    keys_cleared = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.slider = QLabeledSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, FRAMES - 1)
        self.slider.setToolTip(
            "Drag to go along the path. Left end: the tile as the generator draws it. Right end: the other class, or "
            "the other tile. Between them lie images that no slide shows: they are SYNTHETIC."
        )
        self.marks = ReadyMarks(self.slider.findChild(QSlider))
        self.step_note, self.note = note(), note()
        self.play_button = QPushButton("Play")
        self.play_button.setCheckable(True)
        self.play_button.setToolTip("Let the slider go to and fro by itself, until this is pressed again.")
        self.timing_box = QComboBox()
        self.timing_box.setToolTip(
            "What changes by the same amount from each step of the slider to the next. Without such timing most of the "
            "change happens at once, somewhere on the way."
        )
        for name, (caption, help_text) in TIMINGS.items():
            self.timing_box.addItem(caption, name)
            self.timing_box.setItemData(self.timing_box.count() - 1, help_text, Qt.ItemDataRole.ToolTipRole)
        self.curve = ProbabilityCurve()
        self.export_button = QPushButton("Export")
        self.export_button.setToolTip(
            "Save the path as a film, a picture strip or a table, in a folder of your choice. Possible as soon as all "
            "steps are ready. Every file says that it is SYNTHETIC and what it was made from."
        )
        self.export_button.setMenu(self._export_menu())
        self.keys_list = QListWidget()
        self.keys_list.setIconSize(QSize(_THUMBNAIL_PX, _THUMBNAIL_PX))
        self.keys_list.setFixedHeight(_KEYS_HEIGHT_PX)
        self.keys_list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.keys_list.setToolTip(
            "The images that the path goes through, first to last. With two or more, the slider goes along them, and not "
            "from the tile to its edit."
        )
        self.add_key_button = _button(
            "Add", "Put the image that is shown at the end of the list: the path will go through it."
        )
        self.remove_key_button = _button("Remove", "Take the chosen image out of the list.")
        self.up_button = _button("Up", "Have the path come to the chosen image earlier.")
        self.down_button = _button("Down", "Have the path come to the chosen image later.")
        self.clear_keys_button = _button(
            "Clear", "Empty the list: the slider goes from the tile to its edit again."
        )
        self.keys_note = note()
        self.keys_part = self._keys_part()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (
            row(self.slider, self.play_button, stretch=0),
            self.marks,
            self.step_note,
            self.curve,
            row(QLabel("Even steps of"), self.timing_box, self.export_button, stretch=1),
            self.note,
            self.keys_part,
        ):
            layout.addWidget(widget)
        self.slider.valueChanged.connect(self._on_moved)
        self.slider.sliderPressed.connect(lambda: self.play_button.setChecked(False))
        self.play_button.toggled.connect(self.play_switched)
        self.timing_box.activated.connect(lambda _: self.timing_chosen.emit(self.timing))
        self.add_key_button.clicked.connect(lambda: self.key_added.emit())
        self.remove_key_button.clicked.connect(self._remove_key)
        self.up_button.clicked.connect(lambda: self._move_key(-1))
        self.down_button.clicked.connect(lambda: self._move_key(1))
        self.clear_keys_button.clicked.connect(lambda: self.keys_cleared.emit())
        self.keys_list.currentRowChanged.connect(lambda _: self._enable_keys())
        self._has_frame = False
        self.set_path(0, has_classifier=False)
        self.set_keys([])

    @property
    def timing(self) -> str:
        """The timing that is chosen."""
        return str(self.timing_box.currentData())

    def set_timing(self, timing: str) -> None:
        """Choose a timing, without a signal."""
        self.timing_box.setCurrentIndex(self.timing_box.findData(timing))

    def set_path(self, n_frames: int, *, has_classifier: bool) -> None:
        """Show a path of which nothing is ready; 0 frames: none."""
        self._n_frames, self._has_frame = n_frames, False
        has_path = n_frames > 0
        for widget in (self.slider, self.play_button, self.timing_box):
            widget.setEnabled(has_path)
        if not has_path:
            self.play_button.setChecked(False)
        item = self.timing_box.model().item(self.timing_box.findData("probability"))
        item.setEnabled(has_classifier)
        self.curve.set_steps(n_frames)
        self.curve.setVisible(has_path and has_classifier)
        self.marks.setVisible(has_path)
        self.step_note.setText("")
        self.note.setText("")
        self.set_ready(())

    def set_ready(self, ready: Collection[int]) -> None:
        """Show which frames are ready, and how many."""
        self.marks.set_ready(ready, self._n_frames)
        is_complete = 0 < self._n_frames == len(ready)
        self.export_button.setEnabled(is_complete)
        if self._n_frames:
            done = f"{len(ready)} of {self._n_frames} images are ready."
            self.note.setText("" if is_complete else done)

    def set_step(self, index: int, text: str) -> None:
        """Show where the handle is, and what is seen there; without a signal."""
        self.slider.blockSignals(True)
        self.slider.setValue(index)
        self.slider.blockSignals(False)
        self.curve.move_handle(index)
        self.step_note.setText(text)
        if not self._has_frame:
            self._has_frame = True
            self._enable_keys()

    def set_keys(self, keys: Sequence[tuple[str, NDArray[np.uint8]]], current: int = -1) -> None:
        """Show caption and pixels of each image that the path goes through."""
        self.keys_list.blockSignals(True)
        self.keys_list.clear()
        for i, (caption, pixels) in enumerate(keys):
            item = QListWidgetItem(QIcon(pixmap_of(pixels, _THUMBNAIL_PX)), f"{i + 1}. {caption}")
            self.keys_list.addItem(item)
        self.keys_list.setCurrentRow(current)
        self.keys_list.blockSignals(False)
        self.keys_note.setText(
            {
                0: "The slider goes from the tile to its edit. Add images to go through several of them.",
                1: "Add another one: a path needs two.",
            }.get(len(keys), f"The slider goes through these {len(keys)} images.")
        )
        self._enable_keys()

    def _on_moved(self, index: int) -> None:
        self.moved.emit(index)

    def _export_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        for formats, (caption, help_text) in EXPORTS.items():
            action = menu.addAction(caption)
            action.setToolTip(help_text)
            action.triggered.connect(lambda _=False, formats=formats: self.export_requested.emit(formats))
        return menu

    def _keys_part(self) -> Collapsible:
        part = Collapsible("Path through several images")
        part.layout().setContentsMargins(0, 0, 0, 0)
        buttons = (
            self.add_key_button,
            self.remove_key_button,
            self.up_button,
            self.down_button,
            self.clear_keys_button,
        )
        for widget in (self.keys_list, row(*buttons), self.keys_note):
            part.addWidget(widget)
        return part

    def _enable_keys(self) -> None:
        current, n = self.keys_list.currentRow(), self.keys_list.count()
        self.add_key_button.setEnabled(self._has_frame)
        self.remove_key_button.setEnabled(current >= 0)
        self.up_button.setEnabled(current > 0)
        self.down_button.setEnabled(0 <= current < n - 1)
        self.clear_keys_button.setEnabled(n > 0)

    def _remove_key(self) -> None:
        self.key_removed.emit(self.keys_list.currentRow())

    def _move_key(self, by: int) -> None:
        current = self.keys_list.currentRow()
        self.key_moved.emit(current, current + by)


def _button(caption: str, tooltip: str) -> QPushButton:
    button = QPushButton(caption)
    button.setToolTip(tooltip)
    return button
