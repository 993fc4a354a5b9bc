from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QComboBox, QFileDialog, QPushButton

from napari_histolatent._napari.widgets.class_table import NAME, SHOWN, ClassRow
from napari_histolatent._napari.widgets.regions_view import (
    ACTIONS,
    TOOLS,
    ElidedButton,
    FoldedButton,
    RegionsView,
)
from napari_histolatent.annotations._classes import RegionClass

LEFT = Qt.MouseButton.LeftButton
SIGNALS = (
    "versions_requested",
    "class_added",
    "class_removed",
    "tool_chosen",
    "brush_changed",
    "tolerance_changed",
    "action",
    "edit_in_view_requested",
    "put_back_requested",
    "import_chosen",
    "export_chosen",
    "groups_requested",
    "proposal_accepted",
    "cancel_requested",
)
ROWS = [
    ClassRow(RegionClass("Tumour", (200, 30, 40), key="1"), 12, 0.3412),
    ClassRow(RegionClass("Tumour-associated stroma", (230, 150, 40), key="2"), 1280, 12.34),
]
FORMATS = [("geojson", "QuPath GeoJSON", ".geojson"), ("asap-xml", "ASAP XML", "xml")]
LONG = "Set class of 12 regions to Tumour-associated stroma"
PROPOSALS = ["Multiply by 4: all regions lie in the upper left quarter of the slide", "Move by 12, 8 px: R&D"]


@pytest.fixture
def view(qtbot: Any) -> RegionsView:
    widget = RegionsView()
    qtbot.addWidget(widget)
    widget.resize(340, 1600)
    widget.show()
    return widget


@pytest.fixture
def told(view: RegionsView) -> list[tuple[Any, ...]]:
    """What the dock tells: (signal, values...)."""
    events: list[tuple[Any, ...]] = []
    for name in SIGNALS:
        getattr(view, name).connect(lambda *values, name=name: events.append((name, *values)))
    return events


def fill(view: RegionsView) -> None:
    view.set_slide_note("TCGA-AB-1234-01A-01-TS1.0d1a7f2e-77.svs: 1,174 regions")
    view.set_autosave_note("Saved 12:03:10")
    view.set_length_unit("µm")
    view.set_classes(ROWS)
    view.set_current_class("Tumour")
    view.set_hint("Click corners; double-click, Enter or the first corner closes; Esc gives up")
    view.set_measure("1.23 mm")
    view.set_history("Draw polygon", LONG)
    view.set_selection(2, "2 regions, 0.34 mm², perimeter 1.2 mm")
    view.set_many("48,210 regions: only 2,000 can be edited at once.")
    view.set_export_formats(FORMATS)
    view.set_groups_enabled(True)
    view.set_busy("Importing tumor_001.xml", 812, 1174)
    view.set_report([f"Annotation {i} was repaired: its outline crossed itself" for i in range(8)])
    view.set_proposals(PROPOSALS)


def enabled(view: RegionsView) -> set[str]:
    return {name for name, button in view.action_buttons.items() if button.isEnabled()}


def checked(view: RegionsView) -> list[str]:
    return [name for name, button in view.tool_buttons.items() if button.isChecked()]


def test_an_empty_dock_offers_nothing_that_has_no_meaning(view: RegionsView) -> None:
    assert "No slide yet" in view.slide_note.text()
    assert enabled(view) == set()
    assert not view.remove_button.isEnabled()
    assert view.import_button.isEnabled()
    assert not view.export_button.isEnabled()
    assert not view.groups_button.isEnabled()
    for part in (view.many_note, view.report_edit, view.cancel_button, view.hint_note, view.measure_note):
        assert not part.isVisible()
    titles = [box.title() for box in view.widget().children() if hasattr(box, "title")]
    assert titles == ["Slide", "Classes", "Draw", "Change", "Many regions", "Files", "Report"]


def test_the_header(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    view.set_slide_note("tumor_001.tif: 12 regions")
    view.set_autosave_note("Unsaved changes")
    assert view.slide_note.text() == "tumor_001.tif: 12 regions"
    assert view.autosave_note.text() == "Unsaved changes"
    qtbot.mouseClick(view.versions_button, LEFT)
    assert told == [("versions_requested",)]


def test_a_class_is_added_by_its_name(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    qtbot.mouseClick(view.add_button, LEFT)
    qtbot.keyClicks(view.class_edit, " Necrosis ")
    qtbot.mouseClick(view.add_button, LEFT)
    assert told == [("class_added", "Necrosis")], "an empty line is no class"
    view.set_classes(ROWS)
    assert view.class_edit.text() == " Necrosis ", "a refused name can be mended"
    view.set_classes([*ROWS, ClassRow(RegionClass("Necrosis", (1, 2, 3)), 0, None)])
    assert view.class_edit.text() == ""
    qtbot.keyClicks(view.class_edit, "Tumour")
    view.set_classes(ROWS)
    assert view.class_edit.text() == "Tumour", "what is being typed is left alone"
    qtbot.keyClick(view.class_edit, Qt.Key.Key_Return)
    assert told[1:] == [("class_added", "Tumour")]


def test_the_chosen_class_is_removed(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    view.set_classes(ROWS)
    qtbot.mouseClick(view.remove_button, LEFT)
    assert told == []
    table = view.classes
    place = table.visualRect(table.model().index(1, NAME)).center()
    qtbot.mouseClick(table.viewport(), LEFT, pos=place)
    qtbot.mouseClick(view.remove_button, LEFT)
    assert told == [("class_removed", "Tumour-associated stroma")]
    view.set_classes(ROWS[:1])
    assert not view.remove_button.isEnabled()


def test_tools_exclude_each_other_and_can_be_put_away(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    assert list(view.tool_buttons) == list(TOOLS)
    for name, button in view.tool_buttons.items():
        qtbot.mouseClick(button, LEFT)
        assert told[-1] == ("tool_chosen", name)
        assert checked(view) == [name]
    qtbot.mouseClick(view.tool_buttons["pick"], LEFT)
    assert told[-1] == ("tool_chosen", "")
    assert checked(view) == []
    assert len(told) == len(TOOLS) + 1


def test_a_tool_is_set_without_a_signal(view: RegionsView, told: list[Any]) -> None:
    view.set_tool("split")
    assert checked(view) == ["split"]
    view.set_tool("")
    assert checked(view) == []
    assert told == []


def test_tooltips_name_the_keys(view: RegionsView) -> None:
    view.set_tool_key("polygon", "P")
    assert view.tool_buttons["polygon"].toolTip() == "<qt>Draw a region corner by corner (P)</qt>"
    view.set_action_key("undo", "Ctrl+Z")
    view.set_history("Draw <b>", "")
    assert view.action_buttons["undo"].toolTip() == "<qt>Undo: Draw &lt;b&gt; (Ctrl+Z)</qt>"
    assert all(button.toolTip() for button in view.tool_buttons.values())


def test_lengths_are_told_once_and_set_in_silence(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    view.set_length_unit("µm")
    for spin in (view.brush_spin, view.tolerance_spin):
        assert spin.suffix() == " µm"
        spin.setFocus()
        spin.selectAll()
        qtbot.keyClicks(spin, "125")
        qtbot.keyClick(spin, Qt.Key.Key_Return)
    assert told == [("brush_changed", 125.0), ("tolerance_changed", 125.0)]
    view.set_brush(50.0)
    view.set_tolerance(2.5)
    view.set_length_unit("px")
    assert (view.brush_spin.value(), view.tolerance_spin.value()) == (50.0, 2.5)
    assert view.brush_spin.text() == "50.0 px"
    assert len(told) == 2


def test_the_wheel_scrolls_the_dock_and_turns_no_number(view: RegionsView, told: list[Any]) -> None:
    for widget in (view.brush_spin, view.rings_box):
        widget.clearFocus()
        event = QWheelEvent(
            QPointF(5, 5),
            QPointF(widget.mapToGlobal(QPoint(5, 5))),
            QPoint(),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(widget, event)
    assert told == []
    assert view.rings_box.currentIndex() == 0


def test_notes_come_and_go(view: RegionsView) -> None:
    view.set_hint("Click corners")
    view.set_measure("1.23 mm")
    assert view.hint_note.isVisible()
    assert view.measure_note.text() == "1.23 mm"
    view.set_hint("")
    view.set_measure("")
    assert not view.hint_note.isVisible()
    assert not view.measure_note.isVisible()


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (0, set()),
        (1, {"fill_holes", "simplify", "delete", "assign"}),
        (2, {"merge", "fill_holes", "simplify", "delete", "assign"}),
    ],
)
def test_the_selection_enables_what_makes_sense(view: RegionsView, n: int, names: set[str]) -> None:
    view.set_classes(ROWS)
    view.set_current_class("Tumour")
    view.set_selection(n, f"{n} regions")
    assert enabled(view) == names
    assert view.selection_note.text() == f"{n} regions"
    view.set_current_class("")
    assert enabled(view) == names - {"assign"}, "there is no class to give"


def test_each_button_tells_its_action(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    fill(view)
    for name in ACTIONS:
        qtbot.mouseClick(view.action_buttons[name], LEFT)
    assert told == [("action", name) for name in ACTIONS]


def test_undo_and_redo_say_what(qtbot: Any, view: RegionsView) -> None:
    undo, redo = view.action_buttons["undo"], view.action_buttons["redo"]
    view.set_history("Draw R&D", LONG)
    assert isinstance(undo, ElidedButton)
    assert undo.full_text() == "Undo: Draw R&D"
    QApplication.processEvents()
    assert undo.text() == "Undo: Draw R&&D", "no mnemonic"
    assert "…" in redo.text()
    assert redo.text().startswith("Redo: ")
    assert LONG in redo.toolTip()
    view.resize(1000, 900)
    QApplication.processEvents()
    assert redo.text() == f"Redo: {LONG}"
    view.set_history("", "")
    assert (undo.text(), redo.text()) == ("Undo", "Redo")
    assert not undo.isEnabled()
    assert not redo.isEnabled()


def test_many_regions(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    view.set_many("48,210 regions")
    qtbot.mouseClick(view.in_view_button, LEFT)
    qtbot.mouseClick(view.put_back_button, LEFT)
    assert told == [("edit_in_view_requested",), ("put_back_requested",)]
    view.set_many("")
    assert not view.in_view_button.isVisible()


def test_a_file_is_imported(
    qtbot: Any, view: RegionsView, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["/a/b.xml", ""])
    monkeypatch.setattr(view, "ask_open_file", lambda: next(answers))
    qtbot.mouseClick(view.import_button, LEFT)
    qtbot.mouseClick(view.import_button, LEFT)
    assert told == [("import_chosen", "/a/b.xml")]


def test_the_dialog_for_importing_shows_the_filter(
    view: RegionsView, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(parent: object, title: str, start: str, pattern: str) -> tuple[str, str]:
        asked.append((title, start, pattern))
        return "/a.xml", pattern

    monkeypatch.setattr(QFileDialog, "getOpenFileName", ask)
    view.import_filter, view.import_start = "Regions (*.xml)", "/slides"
    assert view.ask_open_file() == "/a.xml"
    assert asked == [("Import regions", "/slides", "Regions (*.xml)")]


def test_regions_are_exported(
    qtbot: Any, view: RegionsView, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    view.set_export_formats(FORMATS)
    answers = iter([("/a.xml", "asap-xml"), ("/b.geojson", "geojson"), ("", "")])
    monkeypatch.setattr(view, "ask_save_file", lambda: next(answers))
    qtbot.mouseClick(view.export_button, LEFT)
    view.rings_box.setFocus()
    qtbot.keyClick(view.rings_box, Qt.Key.Key_Down)
    assert view.rings_box.currentText() == "Changed outlines: as in their file"
    qtbot.mouseClick(view.export_button, LEFT)
    qtbot.mouseClick(view.export_button, LEFT)
    assert told == [
        ("export_chosen", "/a.xml", "asap-xml", "repaired"),
        ("export_chosen", "/b.geojson", "geojson", "source"),
    ]


def test_the_dialog_for_exporting_knows_the_formats(
    view: RegionsView, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    view.set_export_formats(FORMATS)
    view.export_start = str(tmp_path / "tumor_001")
    seen = []

    def accept(dialog: QFileDialog) -> int:
        seen.append((dialog.nameFilters(), dialog.defaultSuffix()))
        dialog.selectNameFilter("ASAP XML (*.xml)")
        dialog.filterSelected.emit("ASAP XML (*.xml)")
        seen.append(dialog.selectedFiles())
        return 1

    monkeypatch.setattr(QFileDialog, "exec", accept)
    path, name = view.ask_save_file()
    assert seen[0] == (["QuPath GeoJSON (*.geojson)", "ASAP XML (*.xml)"], "geojson")
    assert (Path(path), name) == (tmp_path / "tumor_001.xml", "asap-xml")
    monkeypatch.setattr(QFileDialog, "exec", lambda dialog: 0)
    assert view.ask_save_file() == ("", "")


def test_groups(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    qtbot.mouseClick(view.groups_button, LEFT)
    view.set_groups_enabled(True)
    qtbot.mouseClick(view.groups_button, LEFT)
    assert told == [("groups_requested",)]


def test_what_is_being_done_can_be_cancelled(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    view.set_export_formats(FORMATS)
    view.set_groups_enabled(True)
    buttons = (view.import_button, view.export_button, view.groups_button)
    view.set_busy("Importing", 3, 10)
    assert (view.progress.value(), view.progress.maximum()) == (3, 10)
    assert not any(button.isEnabled() for button in buttons)
    qtbot.mouseClick(view.cancel_button, LEFT)
    assert told == [("cancel_requested",)]
    view.set_busy("Reading")
    assert view.progress.maximum() == 0, "nobody knows how long"
    view.set_busy("")
    assert not view.cancel_button.isVisible()
    assert all(button.isEnabled() for button in buttons)


def test_a_report_is_shown_in_part_and_copied_whole(qtbot: Any, view: RegionsView) -> None:
    lines = [f"<b>line</b> {i}" for i in range(1250)]
    view.set_report(lines)
    shown = view.report_edit.toPlainText().split("\n")
    assert shown == [*lines[:200], "… and 1,050 more"]
    qtbot.mouseClick(view.copy_button, LEFT)
    assert QApplication.clipboard().text() == "\n".join(lines)
    view.set_report(lines[:200])
    assert view.report_edit.toPlainText().split("\n") == lines[:200]
    view.set_report([])
    assert not view.report_edit.isVisible()
    assert not view.copy_button.isVisible()


def test_a_report_is_put_away_and_what_it_proposes_stays(qtbot: Any, view: RegionsView) -> None:
    view.set_report(["one"])
    view.set_proposals(PROPOSALS)
    qtbot.mouseClick(view.hide_button, LEFT)
    assert not view.report_edit.isVisible()
    assert view.proposal_buttons[0].isVisible()


def test_proposals(qtbot: Any, view: RegionsView, told: list[Any]) -> None:
    view.set_proposals(PROPOSALS)
    assert [button.full_text() for button in view.proposal_buttons] == PROPOSALS
    first, second = view.proposal_buttons
    QApplication.processEvents()
    assert "\n" in first.text(), "folded"
    assert second.text() == "Move by 12, 8 px: R&&D"
    qtbot.mouseClick(second, LEFT)
    view.set_proposals(PROPOSALS[:1])
    qtbot.mouseClick(view.proposal_buttons[0], LEFT)
    assert told == [("proposal_accepted", 1), ("proposal_accepted", 0)]
    view.set_proposals([])
    assert not view.findChildren(FoldedButton) or not any(
        button.isVisible() for button in view.findChildren(FoldedButton)
    )


@pytest.mark.parametrize("theme", [None, "dark"])
@pytest.mark.parametrize("width", [320, 400])
def test_nothing_is_cut_off(qtbot: Any, view: RegionsView, width: int, theme: str | None) -> None:
    if theme:
        napari_qt = pytest.importorskip("napari.qt")
        view.setStyleSheet(napari_qt.get_stylesheet(theme))
    fill(view)
    view.resize(width, 700)
    for _ in range(5):
        QApplication.processEvents()
    assert view.verticalScrollBar().maximum() > 0, "so the scroll bar takes its share"
    assert view.widget().width() == view.viewport().width()
    assert view.widget().minimumSizeHint().width() <= view.viewport().width()
    for button in view.findChildren(QPushButton):
        lines = button.text().replace("&&", "&").split("\n")
        longest = max(button.fontMetrics().horizontalAdvance(line) for line in lines)
        assert longest + 4 <= button.width(), button.text()
        assert button.height() >= button.sizeHint().height(), button.text()
        if not isinstance(button, FoldedButton):
            assert button.width() >= button.sizeHint().width(), button.text()
    for box in view.findChildren(QComboBox):
        if box.isVisible():
            assert box.fontMetrics().horizontalAdvance(box.currentText()) + 30 <= box.width()
    for note in (view.slide_note, view.hint_note, view.selection_note, view.many_note):
        assert note.height() >= note.heightForWidth(note.width())
    table = view.classes
    assert table.horizontalHeader().length() <= table.viewport().width()
    assert table.height() == table.sizeHint().height()
    assert table.visualRect(table.model().index(1, SHOWN)).bottom() <= table.viewport().height()
