from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from napari_histolatent._napari.widgets._qt import note

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHOWN = {
    "trust": (
        "Trust",
        "#1b7f3b",
        "The search reached what it reaches on 90 % of held-out real tiles: edits of this tile are as good as they get.",
    ),
    "caution": (
        "Caution",
        "#9a6700",
        "The search did worse than on 90 % of held-out real tiles, or the classifier changed its mind: look twice.",
    ),
    "outside": (
        "Outside what the generator knows",
        "#b42318",
        "The tile is unlike what the generator learnt from: its edits say little about this tissue.",
    ),
    "": (
        "Not calibrated",
        "#5f6670",
        "How far to believe the search is not known: this generator was not tried on held-out tiles.",
    ),
    "drawn": (
        "Drawn, not searched",
        "#5f6670",
        "The generator drew this start itself, so nothing of it was lost in a search.",
    ),
}
DRAWN = "drawn"


class VerdictBadge(QWidget):
    """How far to believe a reverse search: a word in colour, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.badge = QLabel()
        self.badge.setTextFormat(Qt.TextFormat.PlainText)
        self.badge.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.reasons = note()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.badge)
        layout.addWidget(self.reasons)
        self.clear()

    def show_verdict(self, verdict: str | None, reasons: Sequence[str] = ()) -> None:
        """Show a verdict: trust, caution, outside, drawn, or None where there is no calibration."""
        word, color, tip = _SHOWN[verdict or ""]
        self.badge.setText(word)
        self.badge.setToolTip(tip)
        self.badge.setStyleSheet(
            f"background: {color}; color: white; border-radius: 4px; padding: 2px 8px; font-weight: bold;"
        )
        self.reasons.setText("\n".join(reasons))
        self.reasons.setVisible(bool(reasons))
        self.setVisible(True)

    def clear(self) -> None:
        """Show nothing: nothing was searched."""
        self.badge.setText("")
        self.reasons.setText("")
        self.setVisible(False)
