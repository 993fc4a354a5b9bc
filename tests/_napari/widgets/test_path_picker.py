from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_histolatent._napari.widgets.path_picker import PathPicker


@pytest.fixture
def picked() -> list[str]:
    return []


@pytest.fixture
def picker(qtbot: Any, picked: list[str]) -> PathPicker:
    widget = PathPicker("Open a slide", pattern="Slides (*.svs)", picks_on_leaving=True)
    widget.picked.connect(picked.append)
    qtbot.addWidget(widget)
    return widget


def test_a_typed_path_is_picked_on_enter(qtbot: Any, picker: PathPicker, picked: list[str]) -> None:
    qtbot.keyClicks(picker.edit, " /slides/a b.svs ")
    assert picked == []
    assert picker.path == Path("/slides/a b.svs")
    qtbot.keyClick(picker.edit, Qt.Key.Key_Return)
    assert picked == ["/slides/a b.svs"], "once: Enter is the end of the typing, too"
    assert picker.edit.toolTip() == "/slides/a b.svs"


def test_nothing_typed_is_nothing_picked(qtbot: Any, picker: PathPicker, picked: list[str]) -> None:
    picker.edit.setText("  ")
    qtbot.keyClick(picker.edit, Qt.Key.Key_Return)
    assert picker.path is None
    assert picked == []


def test_a_path_is_shown_without_a_signal(picker: PathPicker, picked: list[str]) -> None:
    picker.set_path(Path("/data/set"))
    assert picker.path == Path("/data/set")
    assert picker.edit.toolTip() == "/data/set"
    assert picked == []


def test_the_home_folder_is_known(picker: PathPicker) -> None:
    picker.edit.setText("~/a.svs")
    assert picker.path == Path.home() / "a.svs"


def test_a_chosen_file_is_picked(
    qtbot: Any, picker: PathPicker, picked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def choose(parent: Any, title: str, start: str, pattern: str) -> tuple[str, str]:
        asked.append((title, start, pattern))
        return "/slides/chosen.svs", ""

    monkeypatch.setattr(QFileDialog, "getOpenFileName", choose)
    picker.edit.setText("/slides/before.svs")
    qtbot.mouseClick(picker.button, Qt.MouseButton.LeftButton)
    assert asked == [("Open a slide", "/slides/before.svs", "Slides (*.svs)")]
    assert picked == ["/slides/chosen.svs"]
    assert picker.path == Path("/slides/chosen.svs")


def test_a_dialog_that_is_closed_changes_nothing(
    qtbot: Any, picker: PathPicker, picked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    picker.edit.setText("/slides/before.svs")
    qtbot.mouseClick(picker.button, Qt.MouseButton.LeftButton)
    assert picked == []
    assert picker.path == Path("/slides/before.svs")


def test_a_chosen_folder_is_picked(qtbot: Any, picked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "/data/set")
    picker = PathPicker("Dataset folder", is_folder=True)
    picker.picked.connect(picked.append)
    qtbot.addWidget(picker)
    qtbot.mouseClick(picker.button, Qt.MouseButton.LeftButton)
    assert picked == ["/data/set"]


def test_a_typed_path_is_picked_on_leaving_the_line(
    qtbot: Any, picker: PathPicker, picked: list[str]
) -> None:
    picker.set_path(Path("/slides/a"))
    picker.edit.editingFinished.emit()
    assert picked == [], "it was shown, not typed"
    qtbot.keyClicks(picker.edit, "b")
    picker.edit.editingFinished.emit()
    picker.edit.editingFinished.emit()
    assert picked == ["/slides/ab"]


def test_on_the_way_to_the_button_nothing_is_picked(
    qtbot: Any, picker: PathPicker, picked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("", ""))
    qtbot.keyClicks(picker.edit, "/slid")
    picker.button.pressed.connect(picker.edit.editingFinished)
    qtbot.mouseClick(picker.button, Qt.MouseButton.LeftButton)
    assert picked == []


def test_to_leave_the_line_picks_nothing_where_that_is_not_wished(qtbot: Any, picked: list[str]) -> None:
    picker = PathPicker("Import regions")
    picker.picked.connect(picked.append)
    qtbot.addWidget(picker)
    qtbot.keyClicks(picker.edit, "/a")
    picker.edit.editingFinished.emit()
    assert picked == []
