from __future__ import annotations

from html import escape
from typing import Any

import pyqtgraph as pg

_COLORS = ((90, 160, 240), (240, 150, 60), (110, 200, 120))


class LossPlot(pg.PlotWidget):  # type: ignore[misc, unused-ignore]
    """Losses over steps, one line each, in the window's own colours."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(150)
        self.setLabel("bottom", "step")
        self.setLabel("left", "loss")
        self._legend = self.addLegend(offset=(-10, 5), labelTextSize="8pt")
        self._lines: dict[str, Any] = {}
        self._points: dict[str, tuple[list[float], list[float]]] = {}
        self._apply_palette()

    def clear_losses(self) -> None:
        """Forget all lines."""
        for line in self._lines.values():
            self.removeItem(line)
        self._legend.clear()
        self._lines.clear()
        self._points.clear()

    def add_losses(self, step: int, losses: dict[str, float]) -> None:
        """Add a point to each line."""
        for name, value in losses.items():
            steps, values = self._points.setdefault(name, ([], []))
            steps.append(float(step))
            values.append(value)

    def redraw(self) -> None:
        """Show the points added since."""
        for name, (steps, values) in self._points.items():
            if name not in self._lines:
                pen = pg.mkPen(_COLORS[len(self._lines) % len(_COLORS)], width=2)
                self._lines[name] = self.plot(pen=pen, name=escape(name))  # a legend renders HTML
            self._lines[name].setData(steps, values)

    @property
    def points(self) -> dict[str, tuple[list[float], list[float]]]:
        """Steps and values of each line."""
        return self._points

    def changeEvent(self, event: Any) -> None:
        """Follow the theme."""
        super().changeEvent(event)
        # Qt sends the first ones while the widget is still being made.
        if event.type() in (event.Type.PaletteChange, event.Type.StyleChange) and hasattr(self, "_points"):
            self._apply_palette()

    def _apply_palette(self) -> None:
        self.ensurePolished()
        palette = self.palette()
        self.setBackground(palette.window().color())
        for side in ("bottom", "left"):
            axis = self.getAxis(side)
            axis.setPen(palette.windowText().color())
            axis.setTextPen(palette.windowText().color())
        self._legend.setLabelTextColor(palette.windowText().color())
