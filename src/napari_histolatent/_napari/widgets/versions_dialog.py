from __future__ import annotations

from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSize, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.annotations._autosave import StoredVersion

_HEADERS = ("Saved", "What was done", "Regions changed")
_INTRO = "Choose what the regions shall be again. What there is now stays in this list."
_NONE = "There are no earlier versions yet: every change is saved here as it is made."


def time_text(seconds: float) -> str:
    """Return seconds since 1970 as local time, `2026-07-14 12:03:10`."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


class VersionsModel(QAbstractTableModel):
    """The versions as rows, the newest first."""

    def __init__(self, versions: Sequence[StoredVersion]) -> None:
        super().__init__()
        self.versions = sorted(versions, key=lambda version: version.version, reverse=True)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of versions."""
        return 0 if parent is not None and parent.isValid() else len(self.versions)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(_HEADERS)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return a column's title."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _aligned(section)
        return _HEADERS[section] if role == Qt.ItemDataRole.DisplayRole else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows."""
        if not index.isValid():
            return None
        version = self.versions[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return (time_text(version.time), version.title, f"{version.n_changed:,}")[index.column()]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _aligned(index.column())
        return f"<qt>{escape(version.title)}</qt>" if role == Qt.ItemDataRole.ToolTipRole else None


class VersionsDialog(QDialog):
    """The versions of a slide's regions that can be gone back to. Show it with `open()`.

    Parameters
    ----------
    versions
        In any order; the newest is listed first.
    parent
        The window that it lies over.
    """

    restore_requested = Signal(int)
    """The number of the version to go back to; the dialog closes."""

    def __init__(self, versions: Sequence[StoredVersion], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Earlier versions of the regions")
        self.rows_model = VersionsModel(versions)
        self.intro = note(_INTRO if versions else _NONE)
        self.table = QTableView()
        self.table.setModel(self.rows_model)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setShowGrid(False)
        self.table.setTabKeyNavigation(False)
        self.table.setWordWrap(False)
        self.table.setAccessibleName("Earlier versions")
        self.table.setVisible(bool(versions))
        self.table.verticalHeader().hide()
        header = self.table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionsClickable(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.restore_button = QPushButton("Restore")
        self.restore_button.setToolTip("Make the regions what they were then; this can be undone")
        self.restore_button.setEnabled(False)
        self.restore_button.setAutoDefault(False)  # Enter shall not change a slide's regions by accident
        self.close_button = QPushButton("Close")
        self.close_button.setAutoDefault(False)
        buttons = QHBoxLayout()
        buttons.addStretch(1)
        buttons.addWidget(self.restore_button)
        buttons.addWidget(self.close_button)
        layout = QVBoxLayout(self)
        layout.addWidget(self.intro)
        layout.addWidget(self.table, 1)
        layout.addLayout(buttons)
        self.table.selectionModel().selectionChanged.connect(
            lambda *_: self.restore_button.setEnabled(bool(self.table.selectionModel().selectedRows()))
        )
        self.restore_button.clicked.connect(self._restore)
        self.close_button.clicked.connect(self.reject)

    def sizeHint(self) -> QSize:
        """Ask for room for a sentence and a dozen rows."""
        return QSize(560, 420 if self.rows_model.rowCount() else 120)

    def _restore(self) -> None:
        rows = self.table.selectionModel().selectedRows()
        if rows:
            number = self.rows_model.versions[rows[0].row()].version
            self.accept()
            self.restore_requested.emit(number)


def _aligned(column: int) -> Any:
    across = Qt.AlignmentFlag.AlignRight if column == 2 else Qt.AlignmentFlag.AlignLeft
    return across | Qt.AlignmentFlag.AlignVCenter
