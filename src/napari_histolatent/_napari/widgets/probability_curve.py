from __future__ import annotations

from typing import TYPE_CHECKING

import pyqtgraph as pg
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.loss_plot import LossPlot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEIGHT_PX = 150
_HANDLE_COLOR = (150, 150, 150)


class ProbabilityCurve(LossPlot):
    """The probability of each class along a path, and where on it the handle is."""

    def __init__(self) -> None:
        super().__init__("probability", with_points=True)
        self.setLabel("bottom", "step of the slider")
        self.setFixedHeight(_HEIGHT_PX)
        self.setMouseEnabled(x=False, y=False)
        self.setMenuEnabled(False)
        self.hideButtons()
        self.setYRange(0, 1, padding=0.02)
        self.setToolTip(
            "How sure the classifier is of each class at each step of the slider; the upright line is the handle. A "
            "smooth slope means that the tissue changes by degrees, a cliff that the classifier changes its mind at once."
        )
        self.handle = pg.InfiniteLine(
            pos=0, angle=90, pen=pg.mkPen(_HANDLE_COLOR, style=Qt.PenStyle.DashLine)
        )
        self.addItem(self.handle)

    def set_steps(self, n: int) -> None:
        """Show so many steps, and forget what was shown."""
        self.clear_losses()
        self.setXRange(0, max(1, n - 1), padding=0.02)

    def show_values(self, values: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
        """Show the steps that are known and the probability there, by class."""
        for name, (steps, chances) in values.items():
            self._points[name] = (list(map(float, steps)), list(map(float, chances)))
            self._stale.add(name)
        self.redraw()

    def move_handle(self, step: int) -> None:
        """Mark the handle's place."""
        self.handle.setValue(step)
