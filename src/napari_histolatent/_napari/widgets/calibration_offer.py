from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_histolatent._napari.widgets._qt import note, row

_TIP = (
    "Search some held-out patches, which the generator never learnt from, in the background: how well that goes is what the "
    "verdict on a tile is measured by. It takes a minute or more and is kept with the generator."
)
_MISSING = "No verdict yet: this generator was not tried on held-out patches."


class CalibrationOffer(QWidget):
    """Where a generator has no calibration: says so, and offers to make it, with how far that is."""

    requested = Signal()
    cancelled = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.note = note()
        self.button = QPushButton("Calibrate the verdict")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("End the calibration; nothing is kept of it.")
        self.progress = QProgressBar()
        self._progress_row = row(self.progress, self.cancel_button, stretch=0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.note, self.button, self._progress_row):
            layout.addWidget(widget)
        self.button.clicked.connect(self.requested)
        self.cancel_button.clicked.connect(self.cancelled)
        self.hide_offer()

    def hide_offer(self) -> None:
        """Show nothing: there is a calibration, or no generator."""
        self.setVisible(False)

    def show_offer(self, why_not: str = "", *, said: str = "") -> None:
        """Offer a calibration; `why_not` says why none can be made, `said` how the last one ended."""
        self.note.setText("\n".join(sentence for sentence in (said, _MISSING, why_not) if sentence))
        self.button.setEnabled(not why_not)
        self.button.setToolTip(why_not or _TIP)
        self._show(is_running=False)

    def show_running(self, said: str) -> None:
        """Show that a calibration runs."""
        self.note.setText(said)
        self.cancel_button.setEnabled(True)
        self.progress.setRange(0, 0)
        self._show(is_running=True)

    def show_progress(self, done: int, total: int) -> None:
        """Show how many patches are searched; 0 of 0 while that is not known."""
        self.progress.setRange(0, total)
        self.progress.setValue(min(done, total))

    def show_stopping(self) -> None:
        """Show that it was asked to stop."""
        self.note.setText("The calibration is being ended.")
        self.cancel_button.setEnabled(False)

    def _show(self, *, is_running: bool) -> None:
        self.button.setVisible(not is_running)
        self._progress_row.setVisible(is_running)
        self.setVisible(True)
