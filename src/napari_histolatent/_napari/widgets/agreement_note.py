from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_histolatent._napari.editing._agreement import AGREEMENT_TIP
from napari_histolatent._napari.widgets._qt import note

if TYPE_CHECKING:
    from collections.abc import Sequence


class AgreementNote(QWidget):
    """How much the heatmaps of tile, reconstruction and edit agree: a line a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = note()
        self.lines.setToolTip(AGREEMENT_TIP)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.lines)
        self._is_wanted = True
        self.show_lines(())

    def show_lines(self, lines: Sequence[str]) -> None:
        """Show a line a pair; none: nothing is compared."""
        self.lines.setText("\n".join(lines))
        self._show_if_wanted()

    def set_wanted(self, wanted: bool) -> None:
        """Show the lines, or hide them with the heatmaps that they are about."""
        self._is_wanted = wanted
        self._show_if_wanted()

    def _show_if_wanted(self) -> None:
        self.setVisible(self._is_wanted and bool(self.lines.text()))
