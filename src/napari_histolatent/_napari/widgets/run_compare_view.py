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
from napari_histolatent._napari.widgets.training_form import label_of, with_unit
from napari_histolatent._napari.widgets.training_plots import TrainingPlots
from napari_histolatent._napari.widgets.training_words import HELP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_histolatent.training.compare import RunComparison

SETTINGS, STANDING = "Settings that differ", "Where they stand"
_NOTHING = "–"
_HIDDEN = ("dataset_digest",)
"""Said in a sentence above the table."""


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
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        header = self.table.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.plots = TrainingPlots("loss of the generator", "KID, random features")
        layout = QVBoxLayout(self)
        layout.addWidget(self.data_note)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.plots)
        self.resize(640, 720)
        self._names = ("", "")
        self._lines: dict[str, list[tuple[str, str, str]]] = {}

    @property
    def names(self) -> tuple[str, str]:
        """What the two runs are called here."""
        return self._names

    def begin(self, paths: Sequence[str | Path]) -> None:
        """Forget what is shown; the next is of these two run folders."""
        self._names = names_of(Path(paths[0]), Path(paths[1]))
        self._lines = {}
        self.table.clear()
        self.table.setHeaderLabels(["", *self._names])
        for column, path in enumerate(paths, start=1):
            self.table.headerItem().setToolTip(column, str(path))
        self.plots.clear()
        for plot in (self.plots.losses, self.plots.kid):
            for name in self._names:
                plot.declare(name)  # the same colour in both

    def set_comparison(self, comparison: RunComparison, standing: Sequence[Mapping[str, str]]) -> None:
        """Show in what the two differ and where each stands, the latter as label -> text (`standing_words`)."""
        self.data_note.setText(
            {
                True: "Both learnt from the same dataset.",
                False: "They learnt from different datasets: their numbers cannot be compared.",
                None: "It is not known whether they learnt from the same dataset.",
            }[comparison.same_dataset]
        )
        settings = [
            (label_of(line.name), setting_text(line.name, line.a), setting_text(line.name, line.b))
            for line in comparison.settings
            if line.name not in _HIDDEN and (line.a is not None or line.b is not None)
        ]
        a, b = standing
        labels = [*a, *(label for label in b if label not in a)]
        stands = [(label, a.get(label, _NOTHING), b.get(label, _NOTHING)) for label in labels]
        self._show({SETTINGS: settings, STANDING: stands})

    def add_points(
        self, name: str, points: Sequence[tuple[int, Mapping[str, float], Mapping[str, Any]]]
    ) -> None:
        """Add what is new of a run's curves: (step, losses, metrics) each; of the losses, the generator's.

        The distance is that in random features, which is measured alike in each run, whatever its judge.
        """
        for step, losses, metrics in points:
            one = losses.get("generator", next(iter(losses.values()), None))
            self.plots.losses.add_losses(step, {} if one is None else {name: one})
            kid = metrics.get("kid_random")
            if isinstance(kid, (int, float)):
                self.plots.kid.add_losses(step, {name: float(kid)})

    def redraw(self) -> None:
        """Show the points added since."""
        self.plots.redraw()

    def _show(self, lines: dict[str, list[tuple[str, str, str]]]) -> None:
        if lines == self._lines:
            return
        if _labels(lines) != _labels(self._lines):
            self._build(lines)
        else:  # in place: whoever has scrolled stays where he is
            for i, group in enumerate(lines.values()):
                for j, (_, *values) in enumerate(group):
                    _fill(self.table.topLevelItem(i).child(j), values)
        self._lines = lines

    def _build(self, lines: dict[str, list[tuple[str, str, str]]]) -> None:
        place = self.table.verticalScrollBar().value()
        self.table.clear()
        for title, group in lines.items():
            parent = QTreeWidgetItem([title])
            self.table.addTopLevelItem(parent)
            parent.setFirstColumnSpanned(True)
            for label, *values in group:
                item = QTreeWidgetItem([label])
                item.setToolTip(0, HELP.get(label, ""))
                parent.addChild(item)
                _fill(item, values)
            if not group:
                parent.addChild(QTreeWidgetItem(["none"]))
        self.table.expandAll()
        self.table.verticalScrollBar().setValue(place)


def _labels(lines: Mapping[str, Sequence[tuple[str, str, str]]]) -> list[tuple[str, str]]:
    return [(title, label) for title, group in lines.items() for label, _, _ in group]


def _fill(item: QTreeWidgetItem, values: Sequence[str]) -> None:
    for column, text in enumerate(values, start=1):
        item.setText(column, text)
        item.setToolTip(column, text)  # for where it is cut


def names_of(a: Path, b: Path) -> tuple[str, str]:
    """Return what tells two folders apart: their names, with so many folders above them as it takes."""
    for n in range(1, max(len(a.parts), len(b.parts))):
        names = "/".join(a.parts[-n:]), "/".join(b.parts[-n:])
        if names[0] != names[1]:
            return names
    return str(a), str(b)


def setting_text(name: str, value: Any) -> str:
    """Return a setting's value with its unit; where a fork comes from, in words."""
    if value is None:
        return _NOTHING
    if isinstance(value, dict):
        return (
            f"{Path(str(value['run'])).name}, step {value.get('step', '?')}"
            if "run" in value
            else ", ".join(f"{key} {item}" for key, item in value.items())
        )
    return with_unit(name, value)
