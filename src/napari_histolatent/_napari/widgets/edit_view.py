from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QWidget,
)
from superqt import QLabeledSlider

from napari_histolatent._napari.widgets._qt import ScrollingDock, note, pixmap_of, row, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

FRAMES = 17
"""Images along the slider, both ends included."""

NO_CLASSIFIER = "none: no Grad-CAM"
CLASS_SEEN = "the class it sees"
_SHOWN_PX = 92
COLUMNS = ("tile", "reconstruction", "edit")


class EditView(ScrollingDock):
    """Controls of the Edit dock."""

    generator_chosen = Signal(str)
    classifier_chosen = Signal(str)
    picking_switched = Signal(bool)
    from_tray_requested = Signal()
    zoom_requested = Signal()
    search_requested = Signal()
    cancel_requested = Signal()
    target_chosen = Signal()
    slider_moved = Signal(int)
    heatmaps_switched = Signal()

    def __init__(self) -> None:
        self.generator_box, self.classifier_box = _wide_box(), _wide_box()
        self.models_note = note()
        self.pick_button = QPushButton("Pick on slide")
        self.pick_button.setCheckable(True)
        self.pick_button.setToolTip("While this is on, a click on the slide picks the tile under it")
        self.tray_button = QPushButton("From tray")
        self.tray_button.setToolTip("Take the newest patch of the Patches dock's tray")
        self.zoom_button = QPushButton("Zoom to it")
        self.search_button = QPushButton("Reverse search: find its latent vector")
        self.cancel_button = QPushButton("Cancel")
        self.progress = QProgressBar()
        self.search_note = note()
        self.target_box = QComboBox()
        self.flip_button = QPushButton("Flip the class")
        self.slider = QLabeledSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, FRAMES - 1)
        self.slider.setToolTip("0: the reconstruction. Right end: the other class, or the other tile.")
        self.edit_note = note()
        self.heatmap_check = QCheckBox("Show where the classifier looks")
        self.heatmap_check.setChecked(True)
        self.heatmap_class_box = QComboBox()
        self._pictures = {(row, name): QLabel() for row in ("pixels", "heatmap") for name in COLUMNS}
        models = QWidget()
        form = QFormLayout(models)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Generator", self.generator_box)
        form.addRow("Classifier", self.classifier_box)
        super().__init__(
            section("Models", models, self.models_note),
            section("Tile", row(self.pick_button, self.tray_button, self.zoom_button), self._strip()),
            section(
                "Reverse search",
                self.search_button,
                row(self.progress, self.cancel_button, stretch=0),
                self.search_note,
            ),
            section(
                "Edit",
                row(QLabel("Towards"), self.target_box, stretch=1),
                row(self.slider, self.flip_button, stretch=0),
                self.edit_note,
            ),
            section(
                "Grad-CAM", self.heatmap_check, row(QLabel("Evidence for"), self.heatmap_class_box, stretch=1)
            ),
        )
        self.generator_box.activated.connect(
            lambda i: self.generator_chosen.emit(self.generator_box.itemData(i))
        )
        self.classifier_box.activated.connect(
            lambda i: self.classifier_chosen.emit(self.classifier_box.itemData(i))
        )
        self.pick_button.toggled.connect(self.picking_switched)
        self.tray_button.clicked.connect(self.from_tray_requested)
        self.zoom_button.clicked.connect(self.zoom_requested)
        self.search_button.clicked.connect(self.search_requested)
        self.cancel_button.clicked.connect(self.cancel_requested)
        self.target_box.activated.connect(lambda _: self.target_chosen.emit())
        self.flip_button.clicked.connect(lambda: self.slider.setValue(FRAMES - 1))
        self.slider.valueChanged.connect(self.slider_moved)
        self.heatmap_check.toggled.connect(lambda _: self.heatmaps_switched.emit())
        self.heatmap_class_box.activated.connect(lambda _: self.heatmaps_switched.emit())
        self.set_searching(False)
        self.set_ready(has_tile=False, has_point=False)

    def set_models(self, box: QComboBox, models: Sequence[tuple[str, str]], current: str | None) -> None:
        """Show (caption, path) of the runs that have a checkpoint."""
        box.blockSignals(True)
        box.clear()
        for caption, path in models:
            box.addItem(caption, path)
        box.setCurrentIndex(-1 if current is None else box.findData(current))
        box.setPlaceholderText("choose a run" if models else "none trained yet: use the Train dock")
        box.blockSignals(False)

    def set_targets(self, targets: Sequence[tuple[str, object]], current: int) -> None:
        """Show what the slider can go towards."""
        self.target_box.blockSignals(True)
        self.target_box.clear()
        for caption, value in targets:
            self.target_box.addItem(caption, value)
        self.target_box.setCurrentIndex(current)
        self.target_box.blockSignals(False)

    def set_heatmap_classes(self, classes: Sequence[str]) -> None:
        """Show which class's evidence can be mapped."""
        entries = [CLASS_SEEN, *classes]
        if [self.heatmap_class_box.itemText(i) for i in range(self.heatmap_class_box.count())] != entries:
            self.heatmap_class_box.clear()
            self.heatmap_class_box.addItem(CLASS_SEEN, None)
            for name in classes:
                self.heatmap_class_box.addItem(name, name)

    def set_searching(self, searching: bool) -> None:
        """Show whether a search runs."""
        self.progress.setVisible(searching)
        self.cancel_button.setVisible(searching)
        self.search_button.setVisible(not searching)

    def set_progress(self, done: int, total: int) -> None:
        """Show how far the search is."""
        self.progress.setRange(0, total)
        self.progress.setValue(done)

    def set_ready(self, *, has_tile: bool, has_point: bool) -> None:
        """Switch on what has a meaning now."""
        self.search_button.setEnabled(has_tile)
        self.zoom_button.setEnabled(has_tile)
        for widget in (self.target_box, self.flip_button, self.slider):
            widget.setEnabled(has_point)

    def set_picture(self, row: str, column: str, pixels: NDArray[np.uint8] | None) -> None:
        """Show a tile or its heatmap in the strip; None clears it."""
        label = self._pictures[row, column]
        if pixels is None:
            label.clear()
        else:
            label.setPixmap(pixmap_of(pixels, _SHOWN_PX))

    def _strip(self) -> QWidget:
        strip = QWidget()
        grid = QGridLayout(strip)
        grid.setContentsMargins(0, 0, 0, 0)
        for i, name in enumerate(COLUMNS):
            caption = QLabel(name if name == "tile" else f"{name}\n(SYNTHETIC)")
            caption.setAlignment(Qt.AlignmentFlag.AlignCenter)
            grid.addWidget(caption, 0, i)
            for line, key in enumerate(("pixels", "heatmap"), start=1):
                label = self._pictures[key, name]
                label.setFixedSize(_SHOWN_PX, _SHOWN_PX)
                grid.addWidget(label, line, i, Qt.AlignmentFlag.AlignCenter)
        return strip


def _wide_box() -> QComboBox:
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(20)
    return box
