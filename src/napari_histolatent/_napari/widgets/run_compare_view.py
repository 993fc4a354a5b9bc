from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHeaderView,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import note
from napari_histolatent._napari.widgets.training_form import label_of, shown
from napari_histolatent._napari.widgets.training_plots import TrainingPlots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_histolatent.training.compare import Difference, RunComparison

_METRICS = {
    "kid": "KID",
    "kid_random": "KID, random features",
    "pixel_sd": "Pixel SD of samples",
    "pixel_sd_real": "Pixel SD of real patches",
    "images_per_second": "Images per second",
}


class RunCompareView(QDialog):
    """Two runs side by side: in what they differ, where they stand, and their curves."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Compare two runs")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)
        self.data_note = note()
        self.table = QTreeWidget()
        self.table.setColumnCount(3)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.table.header().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.plots = TrainingPlots()
        layout = QVBoxLayout(self)
        layout.addWidget(self.data_note)
        layout.addWidget(self.table, 3)
        layout.addWidget(self.plots, 2)
        self.resize(620, 640)

    def set_comparison(self, comparison: RunComparison) -> None:
        """Show two runs."""
        names = [Path(path).name for path in (comparison.a, comparison.b)]
        self.data_note.setText(
            {
                True: "Both learnt from the same dataset.",
                False: "They learnt from different datasets: their numbers cannot be compared.",
                None: "It is not known whether they learnt from the same dataset.",
            }[comparison.same_dataset]
        )
        self.table.clear()
        self.table.setHeaderLabels(["", *names])
        self._add("Settings that differ", comparison.settings)
        self._add("Where they stand", comparison.results)
        self.table.expandAll()

    def set_curves(
        self, curves: Sequence[tuple[str, Sequence[tuple[int, Mapping[str, float], Mapping[str, Any]]]]]
    ) -> None:
        """Show the curves of runs: (name, [(step, losses, metrics), ...]) each; of the losses, the generator's."""
        self.plots.clear()
        for name, points in curves:
            for plot in (self.plots.losses, self.plots.kid):
                plot.declare(name)  # the same colour in both
            for step, losses, metrics in points:
                one = losses.get("generator", next(iter(losses.values()), None))
                self.plots.losses.add_losses(step, {} if one is None else {name: one})
                if isinstance(metrics.get("kid"), (int, float)):
                    self.plots.kid.add_losses(step, {name: float(metrics["kid"])})
        self.plots.redraw()

    def _add(self, title: str, lines: Sequence[Difference]) -> None:
        group = QTreeWidgetItem([title])
        self.table.addTopLevelItem(group)
        group.setFirstColumnSpanned(True)
        for line in lines:
            if line.a is None and line.b is None:
                continue
            name = _METRICS.get(line.name) or label_of(line.name)
            values = ["–" if v is None else shown_number(v) for v in (line.a, line.b)]
            item = QTreeWidgetItem([name, *values])
            group.addChild(item)
        if not group.childCount():
            group.addChild(QTreeWidgetItem(["none"]))


def shown_number(value: Any) -> str:
    """Return a value in few digits; where a fork comes from, in words."""
    if isinstance(value, dict) and "run" in value:
        return f"{Path(str(value['run'])).name}, step {value.get('step', '?')}"
    return f"{value:.4g}" if isinstance(value, float) else shown(value)
