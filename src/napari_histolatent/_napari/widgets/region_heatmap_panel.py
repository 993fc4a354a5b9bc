from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_histolatent._napari.widgets._qt import note, row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtGui import QShowEvent
    from qtpy.QtWidgets import QLabel

SCREEN, SELECTED, TISSUE = "screen", "selected", "tissue"
"""Which region: what the canvas shows, the regions that are selected, or all the tissue."""

IDLE, STARTING, RUNNING, STOPPING = "idle", "starting", "running", "stopping"

_LEAST_BUTTON_PX = 52
_WHERE = {
    SCREEN: "what is on the screen now",
    SELECTED: "the regions selected on the slide",
    TISSUE: "all tissue of the slide",
}


class RegionHeatmapPanel(QWidget):
    """Controls of mapping a region: which, how much that is, and how far it is."""

    where_chosen = Signal()
    map_requested = Signal()
    cancel_requested = Signal()
    show_requested = Signal(str)
    """Folder of a finished run."""
    opened = Signal()
    """It is seen now, and was not before."""

    def __init__(self) -> None:
        super().__init__()
        self.where_box = QComboBox()
        for name, caption in _WHERE.items():
            self.where_box.addItem(caption, name)
        _make_narrow(self.where_box)
        self.where_box.setToolTip(
            "Which part of the slide is mapped, tile after tile. Regions are those selected in the layer of regions."
        )
        self.evidence_note, self.plan_note, self.result_note = note(), note(), note()
        self.map_button = QPushButton("Map the region")
        self.map_button.setToolTip(
            "Compute Grad-CAM for every tile of the region, and show it as one layer over the slide. It is computed beside "
            "napari, and goes on when this dock or napari is closed. What was mapped before is opened at once."
        )
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop. What is mapped is kept: the same region goes on from there.")
        self.progress = QProgressBar()
        self.progress.setFormat("%v of %m tiles")
        self.made_box = QComboBox()
        _make_narrow(self.made_box)
        self.made_box.setToolTip("Regions of this slide that were mapped before, the newest first.")
        self.show_button = QPushButton("Show")
        self.show_button.setToolTip("Show this heatmap over the slide.")
        # Qt makes no button narrower than 80 px by itself.
        self.show_button.setMinimumWidth(_LEAST_BUTTON_PX)
        self.made_row = row(self.made_box, self.show_button, stretch=0)
        self._made_caption = note("Mapped before on this slide:")
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Region", self.where_box)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        for part in (
            self.evidence_note,
            self.plan_note,
            self.map_button,
            row(self.progress, self.cancel_button, stretch=0),
            self.result_note,
            self._made_caption,
            self.made_row,
        ):
            layout.addWidget(part)
        self.where_box.activated.connect(lambda _: self.where_chosen.emit())
        self.map_button.clicked.connect(self.map_requested)
        self.cancel_button.clicked.connect(self.cancel_requested)
        self.show_button.clicked.connect(lambda: self.show_requested.emit(self.made_box.currentData()))
        self.set_made([])
        self.set_state(IDLE)
        self.set_plan("", can_map=False)

    @property
    def where(self) -> str:
        """Which region is wanted."""
        return str(self.where_box.currentData())

    def set_evidence(self, said: str) -> None:
        """Say what is mapped."""
        _say(self.evidence_note, said)

    def set_plan(self, said: str, *, can_map: bool) -> None:
        """Say how much the region is, or why it cannot be mapped."""
        _say(self.plan_note, said)
        self.map_button.setEnabled(can_map)

    def set_state(self, state: str, said: str = "") -> None:
        """Show whether a region is being mapped, and what is to be said of it."""
        is_idle = state == IDLE
        self.where_box.setEnabled(is_idle)
        self.map_button.setVisible(is_idle)
        self.progress.setVisible(not is_idle)
        self.cancel_button.setVisible(not is_idle)
        self.cancel_button.setEnabled(state == RUNNING)
        if state == STARTING:
            self.progress.setRange(0, 0)
        self.set_result(said)

    def set_progress(self, done: int, total: int) -> None:
        """Show how many tiles are done; 0 of 0 is a beginning of unknown length."""
        self.progress.setRange(0, total)
        self.progress.setValue(done)

    def set_result(self, said: str) -> None:
        """Say what came of it, or how it goes."""
        _say(self.result_note, said)

    def set_made(self, made: Sequence[tuple[str, str]]) -> None:
        """Offer (caption, folder) of what was mapped before."""
        before = self.made_box.currentData()
        self.made_box.clear()
        for caption, folder in made:
            self.made_box.addItem(caption, folder)
        self.made_box.setCurrentIndex(max(0, self.made_box.findData(before)) if made else -1)
        self.made_row.setVisible(bool(made))
        self._made_caption.setVisible(bool(made))

    def showEvent(self, event: QShowEvent) -> None:
        """Tell that it is seen."""
        super().showEvent(event)
        self.opened.emit()


def _say(label: QLabel, said: str) -> None:
    label.setText(said)
    label.setVisible(bool(said))


def _make_narrow(box: QComboBox) -> None:
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
