from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_histolatent.runs import Run, RunStatus

KIND_NAMES = {"train": "generator", "classifier": "classifier", "encoder": "encoder"}
_STATE_MARKS = {
    "running": "▶",
    "starting": "▶",
    "stopping": "◼",
    "stopped": "❚❚",
    "finished": "✓",
    "failed": "✗",
    "interrupted": "✗",
}
_ROWS_SHOWN = 4


@dataclass(frozen=True)
class RunRow:
    """A line of the list: what a run is, and where it stands."""

    path: Path
    kind: str
    preset: str
    dataset: str
    state: str
    step: int
    steps: int
    age_seconds: float
    """Since it was made."""

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1; None as long as nobody knows of how much."""
        return self.step / self.steps if self.steps else None


def row_of(run: Run, status: RunStatus, *, now: float) -> RunRow:
    """Return the line of a run that stands so, at a time in seconds since 1970."""
    config = run.spec.get("config") or {}
    steps = status.steps or config.get("steps") or 0
    return RunRow(
        path=run.path,
        kind=KIND_NAMES.get(run.kind, run.kind),
        preset=str(config.get("preset", "")),
        dataset=str(run.spec.get("dataset", "")).rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1],
        state=status.state,
        step=int(status.step),
        steps=int(steps),
        age_seconds=max(0.0, now - run.created),
    )


def age(seconds: float) -> str:
    """Return how long ago something was, in the largest unit that fits."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


class RunsList(QTreeWidget):
    """The runs there are, newest first: name, state and progress, age; below the name dataset and preset."""

    run_selected = Signal(str)
    """The user chose one run to look at."""
    pair_selected = Signal(bool)
    """Whether two runs are selected, which can be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.setColumnCount(3)
        self.setHeaderLabels(["Run", "State", "Age"])
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setWordWrap(False)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(30)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.setToolTip("Click a run to look at it; Ctrl+click a second one to compare the two.")
        self._rows: list[RunRow] = []
        self._set_height()
        self.itemSelectionChanged.connect(self._on_selection)

    @property
    def rows(self) -> list[RunRow]:
        """What is shown."""
        return list(self._rows)

    @property
    def selected(self) -> list[str]:
        """Paths of the selected runs, from top to bottom."""
        chosen = [
            item for i in range(self.topLevelItemCount()) if (item := self.topLevelItem(i)).isSelected()
        ]
        return [str(item.data(0, Qt.ItemDataRole.UserRole)) for item in chosen]

    def set_rows(self, rows: Sequence[RunRow], current: str | None) -> None:
        """Show runs; no signal. What the user had selected stays selected, else `current` is."""
        before = [path for path in self.selected if path in {str(row.path) for row in rows}]
        wanted = set(before if len(before) > 1 or current is None else [current])
        self.blockSignals(True)
        while self.topLevelItemCount() > len(rows):
            self.takeTopLevelItem(self.topLevelItemCount() - 1)
        while self.topLevelItemCount() < len(rows):
            self.addTopLevelItem(QTreeWidgetItem())
        for i, row in enumerate(rows):
            item = self.topLevelItem(i)
            if i >= len(self._rows) or self._rows[i] != row:
                _fill(item, row)
            item.setSelected(str(row.path) in wanted)
        self._rows = list(rows)
        self.blockSignals(False)
        self._set_height()
        self.pair_selected.emit(len(wanted) == 2)

    def _on_selection(self) -> None:
        selected = self.selected
        self.pair_selected.emit(len(selected) == 2)
        if len(selected) == 1:
            self.run_selected.emit(selected[0])

    def _set_height(self) -> None:
        # As high as its lines, within reason: an empty list takes no room, a long one scrolls.
        n = min(max(1, len(self._rows)), _ROWS_SHOWN)
        line = self.sizeHintForRow(0) if self._rows else 2 * self.fontMetrics().height()
        self.setFixedHeight(self.header().sizeHint().height() + n * max(line, 20) + 2 * self.frameWidth() + 2)

    def changeEvent(self, event: Any) -> None:
        """Follow the font of the theme."""
        super().changeEvent(event)
        if event.type() in (event.Type.StyleChange, event.Type.FontChange) and hasattr(self, "_rows"):
            self._set_height()


def _fill(item: QTreeWidgetItem, row: RunRow) -> None:
    what = ", ".join(part for part in (row.dataset, row.preset or row.kind) if part)
    share = "" if row.share is None else f"{row.share:.0%}"
    item.setText(0, f"{row.path.name}\n{what}")
    item.setText(1, f"{_STATE_MARKS.get(row.state, '·')} {row.state}\n{share}")
    item.setText(2, age(row.age_seconds))
    item.setData(0, Qt.ItemDataRole.UserRole, str(row.path))
    tip = f"{row.path}\n{row.kind} on {row.dataset or '?'}; step {row.step:,} of {row.steps:,}"
    for column in range(3):
        item.setToolTip(column, escape(tip).replace("\n", "<br>"))
        item.setTextAlignment(column, Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
