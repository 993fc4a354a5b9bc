from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari.widgets.versions_dialog import VersionsDialog, time_text
from napari_histolatent.annotations._autosave import StoredVersion

LEFT = Qt.MouseButton.LeftButton
NOON = datetime(2026, 7, 14, 12, 3, 10).timestamp()
VERSIONS = [
    StoredVersion(1, NOON, "Import tumor_001.xml", 1174),
    StoredVersion(7, NOON + 60, "Draw <b>polygon</b>", 1),
]


@pytest.fixture
def dialog(qtbot: Any) -> VersionsDialog:
    widget = VersionsDialog(VERSIONS)
    qtbot.addWidget(widget)
    widget.open()
    QApplication.processEvents()
    return widget


def cells(dialog: VersionsDialog) -> list[list[str]]:
    model = dialog.table.model()
    return [[model.index(i, j).data() for j in range(model.columnCount())] for i in range(model.rowCount())]


def click(qtbot: Any, dialog: VersionsDialog, row: int) -> None:
    place = dialog.table.visualRect(dialog.table.model().index(row, 1)).center()
    qtbot.mouseClick(dialog.table.viewport(), LEFT, pos=place)


def test_time_is_local() -> None:
    assert time_text(NOON) == "2026-07-14 12:03:10"


def test_the_newest_is_first(dialog: VersionsDialog) -> None:
    assert cells(dialog) == [
        ["2026-07-14 12:04:10", "Draw <b>polygon</b>", "1"],
        ["2026-07-14 12:03:10", "Import tumor_001.xml", "1,174"],
    ]
    tip = dialog.table.model().index(0, 1).data(Qt.ItemDataRole.ToolTipRole)
    assert tip == "<qt>Draw &lt;b&gt;polygon&lt;/b&gt;</qt>"


def test_the_chosen_version_is_restored(qtbot: Any, dialog: VersionsDialog) -> None:
    told: list[int] = []
    dialog.restore_requested.connect(told.append)
    assert not dialog.restore_button.isEnabled()
    qtbot.mouseClick(dialog.restore_button, LEFT)
    qtbot.keyClick(dialog, Qt.Key.Key_Return)
    assert told == [], "nothing is chosen"
    click(qtbot, dialog, 1)
    qtbot.keyClick(dialog, Qt.Key.Key_Return)
    assert told == [], "Enter restores nothing by accident"
    qtbot.mouseClick(dialog.restore_button, LEFT)
    assert told == [1]
    assert not dialog.isVisible()


def test_it_can_be_closed(qtbot: Any, dialog: VersionsDialog) -> None:
    told: list[int] = []
    dialog.restore_requested.connect(told.append)
    click(qtbot, dialog, 0)
    with qtbot.waitSignal(dialog.rejected, timeout=1000):
        qtbot.mouseClick(dialog.close_button, LEFT)
    assert told == []


def test_no_versions(qtbot: Any) -> None:
    dialog = VersionsDialog([])
    qtbot.addWidget(dialog)
    dialog.open()
    assert "no earlier versions" in dialog.intro.text()
    assert not dialog.table.isVisible()


def test_nothing_is_cut_off(dialog: VersionsDialog) -> None:
    header = dialog.table.horizontalHeader()
    assert header.length() <= dialog.table.viewport().width()
    for column in range(3):
        assert header.sectionSize(column) >= header.sectionSizeHint(column)
    for button in (dialog.restore_button, dialog.close_button):
        assert button.width() >= button.sizeHint().width()
