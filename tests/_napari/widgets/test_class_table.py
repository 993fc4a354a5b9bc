from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QApplication, QComboBox, QLineEdit

from napari_histolatent._napari.widgets.class_table import (
    AREA,
    COLOR,
    COUNT,
    KEY,
    LOCKED,
    NAME,
    SHOWN,
    ClassRow,
    ClassTableView,
    area_text,
)
from napari_histolatent.annotations._classes import RegionClass

LEFT = Qt.MouseButton.LeftButton
TUMOUR = RegionClass("Tumour", (200, 30, 40), key="1")
STROMA = RegionClass("Tumour-associated stroma", (230, 150, 40), key="2", is_locked=True)
NECROSIS = RegionClass("Necrosis", (60, 60, 70), is_visible=False)
ROWS = [ClassRow(TUMOUR, 12, 0.3412), ClassRow(STROMA, 1280, 12.34), ClassRow(NECROSIS, 0, None)]


@pytest.fixture
def table(qtbot: Any) -> ClassTableView:
    view = ClassTableView()
    qtbot.addWidget(view)
    view.resize(296, 300)
    view.show()
    view.set_rows(ROWS)
    return view


@pytest.fixture
def told(table: ClassTableView) -> list[tuple[Any, ...]]:
    """What the table tells: (signal, values...)."""
    events: list[tuple[Any, ...]] = []
    for name in ("picked", "renamed", "changed"):
        getattr(table, name).connect(lambda *values, name=name: events.append((name, *values)))
    return events


def place(table: ClassTableView, row: int, column: int) -> QPoint:
    return table.visualRect(table.model().index(row, column)).center()


def click(qtbot: Any, table: ClassTableView, row: int, column: int) -> None:
    qtbot.mouseClick(table.viewport(), LEFT, pos=place(table, row, column))


def double_click(qtbot: Any, table: ClassTableView, row: int, column: int) -> None:
    click(qtbot, table, row, column)
    qtbot.mouseDClick(table.viewport(), LEFT, pos=place(table, row, column))


def editor_of(table: ClassTableView, kind: type) -> Any:
    found = [w for w in table.viewport().findChildren(kind) if w.isVisible()]
    assert len(found) == 1
    return found[0]


def enter(qtbot: Any, edit: QLineEdit) -> None:
    qtbot.keyClick(edit, Qt.Key.Key_Return)
    QApplication.processEvents()  # Qt commits an editor from its event queue


def shown(table: ClassTableView, column: int) -> list[Any]:
    return [table.model().index(i, column).data() for i in range(table.model().rowCount())]


@pytest.mark.parametrize(
    ("area", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.00002, "<0.0001"),
        (0.0012345, "0.00123"),
        (0.34, "0.340"),
        (0.9999, "1.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234.5, "1,230"),
        (45_678.0, "45.7 k"),
        (12_345_678.0, "12.3 M"),
        (2.5e9, "2.50 G"),
        (123_456.0, "123 k"),
    ],
)
def test_areas_have_three_digits(area: float | None, text: str) -> None:
    assert area_text(area) == text


def test_a_row_shows_its_class(table: ClassTableView) -> None:
    assert shown(table, NAME) == ["Tumour", "Tumour-associated stroma", "Necrosis"]
    assert shown(table, KEY) == ["1", "2", ""]
    assert shown(table, COUNT) == ["12", "1,280", "0"]
    assert shown(table, AREA) == ["0.341", "12.3", "–"]
    ticked = [
        [
            table.model().index(i, column).data(Qt.ItemDataRole.CheckStateRole) == Qt.CheckState.Checked
            for i in range(3)
        ]
        for column in (SHOWN, LOCKED)
    ]
    assert ticked == [[True, True, False], [False, True, False]]
    drawn = table.viewport().grab().toImage().pixelColor(place(table, 0, COLOR))
    assert drawn.getRgb()[:3] == TUMOUR.color


def test_the_header_names_the_unit(table: ClassTableView) -> None:
    def header(column: int) -> str:
        return str(table.model().headerData(column, Qt.Orientation.Horizontal))

    assert [header(c) for c in (SHOWN, AREA)] == ["Shown", "mm²"]
    table.set_area_unit("px²")
    assert header(AREA) == "px²"


def test_a_click_on_a_name_chooses_the_class(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    assert table.current == ""
    click(qtbot, table, 1, NAME)
    click(qtbot, table, 1, NAME)
    assert told == [("picked", "Tumour-associated stroma")], "once"
    assert table.current == "Tumour-associated stroma"
    click(qtbot, table, 2, COUNT)
    assert told[1:] == [("picked", "Necrosis")]


def test_the_arrow_keys_choose(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    click(qtbot, table, 0, NAME)
    qtbot.keyClick(table, Qt.Key.Key_Down)
    assert told == [("picked", "Tumour"), ("picked", "Tumour-associated stroma")]


def test_letters_search_no_class(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    click(qtbot, table, 0, NAME)
    qtbot.keyClicks(table, "n2")
    assert told == [("picked", "Tumour")]


def test_a_class_cannot_be_unchosen(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    click(qtbot, table, 0, NAME)
    control = Qt.KeyboardModifier.ControlModifier
    qtbot.mouseClick(table.viewport(), LEFT, control, place(table, 0, NAME))
    assert table.current == "Tumour"
    assert [i.row() for i in table.selectionModel().selectedRows()] == [0]
    assert told == [("picked", "Tumour")]


def test_the_current_class_is_set_without_a_signal(table: ClassTableView, told: list[Any]) -> None:
    table.set_current("Necrosis")
    assert table.current == "Necrosis"
    assert [i.row() for i in table.selectionModel().selectedRows()] == [2]
    table.set_current("no such class")
    assert table.current == ""
    assert not table.selectionModel().selectedRows()
    assert told == []


@pytest.mark.parametrize(
    ("row", "column", "wanted"),
    [
        (0, SHOWN, replace(TUMOUR, is_visible=False)),
        (2, SHOWN, replace(NECROSIS, is_visible=True)),
        (0, LOCKED, replace(TUMOUR, is_locked=True)),
        (1, LOCKED, replace(STROMA, is_locked=False)),
    ],
)
def test_a_tick_tells_and_chooses_no_class(
    qtbot: Any, table: ClassTableView, told: list[Any], row: int, column: int, wanted: RegionClass
) -> None:
    table.set_current("Tumour")
    click(qtbot, table, row, column)
    assert told == [("changed", wanted.name, wanted)]
    assert table.current == "Tumour"
    state = table.model().index(row, column).data(Qt.ItemDataRole.CheckStateRole)
    is_on = ROWS[row].region_class.is_visible if column == SHOWN else ROWS[row].region_class.is_locked
    assert (state == Qt.CheckState.Checked) == is_on, "what is shown waits for set_rows"


def test_a_tick_that_is_left_while_pressed_is_not_turned(
    qtbot: Any, table: ClassTableView, told: list[Any]
) -> None:
    qtbot.mousePress(table.viewport(), LEFT, pos=place(table, 0, SHOWN))
    qtbot.mouseRelease(table.viewport(), LEFT, pos=place(table, 1, NAME))
    assert told == []


def test_two_quick_clicks_turn_a_tick_twice(qtbot: Any, table: ClassTableView) -> None:
    def obey(name: str, new: RegionClass) -> None:
        table.set_rows([replace(r, region_class=new) if r.region_class.name == name else r for r in ROWS])

    heard: list[bool] = []
    table.changed.connect(obey)
    table.changed.connect(lambda _, new: heard.append(new.is_visible))
    click(qtbot, table, 0, SHOWN)
    qtbot.mouseDClick(table.viewport(), LEFT, pos=place(table, 0, SHOWN))
    qtbot.mouseRelease(table.viewport(), LEFT, pos=place(table, 0, SHOWN))
    assert heard[:2] == [False, True]


def test_the_space_bar_turns_a_tick(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    table.setCurrentIndex(table.model().index(0, LOCKED))
    told.clear()
    qtbot.keyClick(table, Qt.Key.Key_Space)
    assert told == [("changed", "Tumour", replace(TUMOUR, is_locked=True))]


def test_a_colour_is_asked_for(
    qtbot: Any, table: ClassTableView, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(name: str, color: QColor) -> QColor | None:
        asked.append((name, color.getRgb()[:3]))
        return QColor(1, 2, 3) if len(asked) == 1 else None

    monkeypatch.setattr(table, "ask_color", ask)
    click(qtbot, table, 0, COLOR)
    click(qtbot, table, 1, COLOR)
    assert asked == [("Tumour", TUMOUR.color), ("Tumour-associated stroma", STROMA.color)]
    assert told == [("changed", "Tumour", replace(TUMOUR, color=(1, 2, 3)))], "giving up changes nothing"


def test_a_class_that_went_while_its_colour_was_asked_for(
    qtbot: Any, table: ClassTableView, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(name: str, color: QColor) -> QColor:
        table.set_rows(ROWS[1:])
        return QColor(1, 2, 3)

    monkeypatch.setattr(table, "ask_color", ask)
    click(qtbot, table, 0, COLOR)
    assert told == []


def test_a_name_is_edited_in_place(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    double_click(qtbot, table, 0, NAME)
    edit = editor_of(table, QLineEdit)
    assert edit.text() == "Tumour"
    assert edit.width() >= 150, "there is room to type"
    qtbot.keyClicks(edit, "  Invasive tumour ")
    enter(qtbot, edit)
    assert told == [("picked", "Tumour"), ("renamed", "Tumour", "Invasive tumour")]
    assert shown(table, NAME)[0] == "Tumour", "until set_rows says so"


def test_a_bad_name_is_told_too_and_the_same_is_not(
    qtbot: Any, table: ClassTableView, told: list[Any]
) -> None:
    for text in ("Necrosis", "   ", "Tumour"):
        double_click(qtbot, table, 0, NAME)
        edit = editor_of(table, QLineEdit)
        edit.clear()
        qtbot.keyClicks(edit, text)
        enter(qtbot, edit)
    assert told[1:] == [("renamed", "Tumour", "Necrosis"), ("renamed", "Tumour", "")]


def test_escape_gives_a_name_up(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    table.set_current("Tumour")
    double_click(qtbot, table, 0, NAME)
    edit = editor_of(table, QLineEdit)
    qtbot.keyClicks(edit, "x")
    qtbot.keyClick(edit, Qt.Key.Key_Escape)
    assert told == []


def test_an_open_editor_outlives_new_counts(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    table.set_current("Necrosis")
    double_click(qtbot, table, 2, NAME)
    edit = editor_of(table, QLineEdit)
    qtbot.keyClicks(edit, "Ne")
    table.set_rows([replace(row, count=row.count + 1) for row in ROWS])
    assert editor_of(table, QLineEdit) is edit
    assert edit.text() == "Ne"
    table.set_rows([ClassRow(RegionClass("new", (1, 2, 3)), 0, None), *ROWS])
    assert editor_of(table, QLineEdit).text() == "Ne"
    qtbot.keyClicks(edit, "w")
    enter(qtbot, edit)
    assert told == [("renamed", "Necrosis", "New")]


def test_a_digit_becomes_the_key(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    click(qtbot, table, 2, KEY)
    qtbot.keyClick(table, Qt.Key.Key_7)
    assert told == [("picked", "Necrosis"), ("changed", "Necrosis", replace(NECROSIS, key="7"))]
    click(qtbot, table, 0, KEY)
    told.clear()
    qtbot.keyClick(table, Qt.Key.Key_1)
    assert told == [], "it has that key"
    qtbot.keyClick(table, Qt.Key.Key_Backspace)
    assert told == [("changed", "Tumour", replace(TUMOUR, key=""))]


def test_a_key_is_chosen_from_a_list(qtbot: Any, table: ClassTableView, told: list[Any]) -> None:
    double_click(qtbot, table, 0, KEY)
    box = editor_of(table, QComboBox)
    assert [box.itemText(i) for i in range(box.count())] == ["none", *"123456789"]
    assert box.currentText() == "1"
    assert table.viewport().rect().contains(box.geometry())
    qtbot.keyClick(box, Qt.Key.Key_Down)
    assert told == [("picked", "Tumour"), ("changed", "Tumour", replace(TUMOUR, key="2"))]


def test_what_is_chosen_stays_when_rows_come_and_go(table: ClassTableView, told: list[Any]) -> None:
    table.set_current("Tumour-associated stroma")
    new = ClassRow(RegionClass("new", (1, 2, 3)), 0, None)
    for rows in ([new, *ROWS], ROWS, ROWS[::-1], ROWS[1:], ROWS):
        table.set_rows(rows)
        assert table.current == "Tumour-associated stroma"
        [index] = table.selectionModel().selectedRows(NAME)
        assert index.data() == "Tumour-associated stroma"
        assert shown(table, NAME) == [row.region_class.name for row in rows]
        assert shown(table, COUNT) == [f"{row.count:,}" for row in rows]
    table.set_rows([ROWS[0], ROWS[2]])
    assert table.current == ""
    assert not table.selectionModel().selectedRows()
    assert told == []


def test_a_renamed_class_stays_chosen(table: ClassTableView) -> None:
    table.set_current("Tumour")
    table.set_rows([replace(ROWS[0], region_class=replace(TUMOUR, name="Carcinoma")), *ROWS[1:]])
    assert table.current == "Carcinoma"
    table.set_rows(ROWS)
    assert table.current == "Tumour"


def test_only_what_differs_is_drawn_anew(qtbot: Any, table: ClassTableView) -> None:
    cells = []
    table.model().dataChanged.connect(
        lambda a, b, *_: cells.append((a.row(), a.column(), b.row(), b.column()))
    )
    table.set_rows(ROWS)
    assert cells == []
    table.set_rows([ROWS[0], replace(ROWS[1], count=5, area=1.0), ROWS[2]])
    assert cells == [(1, COUNT, 1, COUNT), (1, AREA, 1, AREA)]


def test_the_scroll_position_stays(qtbot: Any, table: ClassTableView) -> None:
    many = [ClassRow(RegionClass(f"class {i}", (i, 2, 3)), i, None) for i in range(60)]
    table.setFixedHeight(200)
    table.set_rows(many)
    QApplication.processEvents()
    bar = table.verticalScrollBar()
    assert bar.maximum() > 300
    bar.setValue(300)
    table.set_rows([replace(row, count=7) for row in many])
    assert bar.value() == 300
    table.set_rows([*many, ROWS[0]])
    assert bar.value() == 300


@pytest.mark.parametrize("width", [270, 296, 380])
def test_nothing_is_cut_off(table: ClassTableView, width: int) -> None:
    table.resize(width, 300)
    QApplication.processEvents()
    metrics = table.fontMetrics()
    header = table.horizontalHeader()
    assert header.length() <= table.viewport().width()
    for column in range(AREA + 1):
        title = table.model().headerData(column, Qt.Orientation.Horizontal)
        assert table.columnWidth(column) >= header.fontMetrics().horizontalAdvance(title)
    for row in range(3):
        for column in (COUNT, AREA):
            text = table.model().index(row, column).data()
            assert table.columnWidth(column) >= metrics.horizontalAdvance(text) + 4
        name = table.folded_name(shown(table, NAME)[row])
        assert "…" not in name
        assert name.replace("\n", "").replace(" ", "") == shown(table, NAME)[row].replace(" ", "")
        assert table.rowHeight(row) >= metrics.lineSpacing() * (name.count("\n") + 1) * 0.85
    assert "stroma" in table.folded_name("Tumour-associated stroma").split(), "words are whole"
