from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from napari_histolatent._napari.widgets._qt import note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS = ("tile", "reconstruction", "edit")
_STEPS = 1000
_HEIGHT_PX = 16
_LEAST_WIDTH_PX = 36
"""Of a bar; by itself it asks for 95, and three of them for more than a dock has."""


class ProbabilityBars(QWidget):
    """What a classifier sees in tile, reconstruction and edit: a bar a class and picture, and which classifier it is."""

    def __init__(self) -> None:
        super().__init__()
        self.judge_note = note()
        self._grid_box = QWidget()
        self._grid = QGridLayout(self._grid_box)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(2)
        self._grid.setHorizontalSpacing(4)
        self._classes: tuple[str, ...] = ()
        self.bars: dict[tuple[str, str], QProgressBar] = {}
        """By class and picture."""
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.judge_note)
        layout.addWidget(self._grid_box)
        self.setVisible(False)

    def set_judge(self, name: str | None, classes: Sequence[str] = ()) -> None:
        """Say which classifier it is, and what it knows; None: there is none."""
        self.setVisible(name is not None)
        self.judge_note.setText(f"Class probabilities, judged {name}:" if name else "")
        self.judge_note.setToolTip(
            "“By structure”: a classifier that was trained not to rely on colour. “By colour too”: one that may. "
            "Another name is the folder of your own classifier's run."
        )
        if tuple(classes) == self._classes:
            return
        while self._grid.count():
            item = self._grid.takeAt(0).widget()
            if item is not None:
                item.deleteLater()
        self._classes = tuple(classes)
        self.bars = {}
        for i, column in enumerate(COLUMNS, start=1):
            self._grid.addWidget(QLabel(column), 0, i, Qt.AlignmentFlag.AlignCenter)
            self._grid.setColumnStretch(i, 1)
        for line, label in enumerate(self._classes, start=1):
            caption = QLabel(label)
            caption.setTextFormat(Qt.TextFormat.PlainText)
            caption.setWordWrap(True)
            self._grid.addWidget(caption, line, 0)
            for i, column in enumerate(COLUMNS, start=1):
                bar = QProgressBar()
                bar.setRange(0, _STEPS)
                bar.setFixedHeight(_HEIGHT_PX)
                bar.setMinimumWidth(_LEAST_WIDTH_PX)
                bar.setToolTip(f"How probable the classifier takes it that the {column} is {label}.")
                self.bars[label, column] = bar
                self._grid.addWidget(bar, line, i)
                self._set_bar(bar, None)

    def set_probabilities(self, column: str, chances: Mapping[str, float] | None) -> None:
        """Show the probability of each class in a picture; None: not known."""
        for label in self._classes:
            self._set_bar(self.bars[label, column], None if chances is None else chances.get(label))

    def _set_bar(self, bar: QProgressBar, chance: float | None) -> None:
        # Qt paints a bar that is given a value at once, and the canvas with it: 60 ms each, while a slider moves.
        bar.setUpdatesEnabled(False)
        bar.setValue(0 if chance is None else round(chance * _STEPS))
        bar.setFormat("" if chance is None else f"{chance:.2f}")
        bar.setUpdatesEnabled(True)
