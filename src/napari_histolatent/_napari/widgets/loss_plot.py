from __future__ import annotations

from html import escape
from typing import Any

import pyqtgraph as pg

_COLORS = (
    (70, 140, 230),
    (235, 135, 40),
    (70, 165, 85),
    (195, 100, 210),
    (225, 75, 75),
    (0, 165, 175),
    (150, 110, 75),
    (240, 120, 170),
    (140, 145, 30),
    (130, 130, 140),
)
"""Told apart on light and dark; a GAN with an encoder has six losses."""
_LEGEND_COLUMNS = 2
_LEGEND_LINE_PX = 19
_LABEL_PX = 6
"""pyqtgraph draws an axis' label five pixels outside of it."""
_MOST_POINTS = 2000
"""Points of a line that are drawn: more cannot be told apart, and each costs time on the UI thread."""


LEAST_LOGARITHMIC = 1e-3


class LossPlot(pg.PlotWidget):  # type: ignore[misc, unused-ignore]
    """Numbers over steps, one line each, in the window's own colours.

    Parameters
    ----------
    label
        What the numbers are.
    with_points
        Mark each point: for numbers that are measured now and then.
    logarithmic
        Show values on a logarithmic axis: for numbers that fall by orders of magnitude. What is below
        `LEAST_LOGARITHMIC`, or not above 0, is drawn there.
    """

    def __init__(self, label: str = "loss", *, with_points: bool = False, logarithmic: bool = False) -> None:
        super().__init__()
        self._logarithmic = logarithmic
        self.setLogMode(x=False, y=logarithmic)
        self.setMinimumHeight(150)
        self.setLabel("bottom", "step")
        self.setLabel("left", label)
        self._with_points = with_points
        # In the margin above the curves: it hides none of them.
        self._legend = self.addLegend(offset=None, labelTextSize="8pt", colCount=_LEGEND_COLUMNS)
        self._legend.setParentItem(self.getPlotItem())
        self._legend.anchor(itemPos=(1, 0), parentPos=(1, 0), offset=(-4, 0))
        self._legend.layout.setContentsMargins(2, 0, 2, 0)
        self._legend.layout.setVerticalSpacing(0)
        self._lines: dict[str, Any] = {}
        self._points: dict[str, tuple[list[float], list[float]]] = {}
        self._stale: set[str] = set()
        self._make_room()
        self._apply_palette()

    def _make_room(self) -> None:
        rows = -(-len(self._lines) // _LEGEND_COLUMNS)
        top = rows * _LEGEND_LINE_PX + (4 if rows else 0)
        self.getPlotItem().layout.setContentsMargins(_LABEL_PX, top, 4, _LABEL_PX)

    def wheelEvent(self, event: Any) -> None:
        """Leave the wheel to what the plot is in, which scrolls."""
        event.ignore()

    def clear_losses(self) -> None:
        """Forget all lines."""
        for line in self._lines.values():
            self.removeItem(line)
        self._legend.clear()
        self._lines.clear()
        self._points.clear()
        self._stale.clear()
        self._make_room()

    def declare(self, name: str) -> None:
        """Have a line, though it has no point yet: lines get their colours in this order."""
        self._points.setdefault(name, ([], []))
        self._stale.add(name)

    def add_losses(self, step: int, losses: dict[str, float]) -> None:
        """Add a point to each line; a step that was taken again (after a crash) replaces what followed it."""
        for name, value in losses.items():
            steps, values = self._points.setdefault(name, ([], []))
            while steps and steps[-1] >= step:
                steps.pop()
                values.pop()
            steps.append(float(step))
            values.append(value)
            self._stale.add(name)

    def redraw(self) -> None:
        """Show the points added since."""
        for name in list(self._points):
            if name not in self._stale:
                continue
            steps, values = self._points[name]
            if name not in self._lines:
                color = _COLORS[len(self._lines) % len(_COLORS)]
                marks = {"symbol": "o", "symbolSize": 5, "symbolBrush": color, "symbolPen": None}
                self._lines[name] = self.plot(
                    pen=pg.mkPen(color, width=2),
                    name=escape(name),  # a legend renders HTML
                    **(marks if self._with_points else {}),
                )
            if self._logarithmic:
                values = [max(value, LEAST_LOGARITHMIC) for value in values]
            every = -(-len(steps) // _MOST_POINTS)
            self._lines[name].setData(_thinned(steps, every), _thinned(values, every))
        self._stale.clear()
        self._make_room()

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
        for _, label in self._legend.items:
            label.setText(label.text)  # else those that are there keep the colour of the theme before


def _thinned(values: list[float], every: int) -> list[float]:
    """Return each `every`-th value, and the last one: where the run stands has to be seen."""
    if every <= 1 or not values:
        return values
    return [*values[:-1:every], values[-1]]
