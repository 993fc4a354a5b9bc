from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.expression_field import ExpressionField

ENTER, TAB, ESCAPE = Qt.Key.Key_Return, Qt.Key.Key_Tab, Qt.Key.Key_Escape


@pytest.fixture
def field(qtbot: Any) -> ExpressionField:
    widget = ExpressionField()
    qtbot.addWidget(widget)
    widget.show()
    qtbot.waitExposed(widget)
    widget.set_names(["tumour 3", "gland-2"], ["tumour", "healthy"])
    return widget


def offered(field: ExpressionField) -> list[str]:
    popup = field.completer.popup()
    return field._model.stringList() if popup.isVisible() else []


def test_names_are_offered_while_they_are_typed(qtbot: Any, field: ExpressionField) -> None:
    qtbot.keyClicks(field, "2 * tu")
    assert offered(field) == ["tumour 3", "mean(tumour)"]
    qtbot.keyClick(field, Qt.Key.Key_Backspace)
    qtbot.keyClick(field, Qt.Key.Key_Backspace)
    assert offered(field) == []


@pytest.mark.parametrize("key", [ENTER, TAB])
def test_a_name_that_is_taken_stands_in_the_place_of_what_was_typed(
    qtbot: Any, field: ExpressionField, key: Any
) -> None:
    qtbot.keyClicks(field, "mean(heal")
    with qtbot.assertNotEmitted(field.entered):
        qtbot.keyClick(field, key)
    assert field.text == "mean(healthy"
    assert offered(field) == []
    qtbot.keyClicks(field, ") + gl")
    qtbot.keyClick(field, key)
    assert field.text == 'mean(healthy) + "gland-2"'


def test_enter_takes_the_expression_and_makes_no_line(qtbot: Any, field: ExpressionField) -> None:
    qtbot.keyClicks(field, "gl")
    qtbot.keyClick(field, ESCAPE)
    assert offered(field) == []
    with qtbot.waitSignal(field.entered):
        qtbot.keyClick(field, ENTER)
    assert field.text == "gl"
    field.setPlainText("a\n+ b")
    assert field.text == "a + b"


def test_the_place_of_an_error_is_marked_until_something_is_typed(qtbot: Any, field: ExpressionField) -> None:
    field.mark(3)
    assert field.marked_column is None
    field.setPlainText("a + nobody")
    field.mark(5)
    assert field.marked_column == 5
    field.mark(99)  # it ends too soon: the last character
    assert field.marked_column == 10
    qtbot.keyClicks(field, "x")
    assert field.marked_column is None
