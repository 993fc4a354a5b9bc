from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.editing._history import History
from napari_histolatent._napari.widgets.history_bar import HistoryBar

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def bar(qtbot: Any) -> HistoryBar:
    widget = HistoryBar()
    qtbot.addWidget(widget)
    widget.show()
    return widget


def test_without_a_history_nothing_can_be_done(bar: HistoryBar) -> None:
    buttons = (bar.undo_button, bar.redo_button, bar.branches_button)
    assert not any(button.isEnabled() for button in buttons)
    assert all(button.toolTip() for button in buttons)


def test_buttons_say_what_they_would_do(bar: HistoryBar) -> None:
    history = History("a", "pick")
    history.do("b", "flip to <b>tumour</b>")
    bar.show_history(history)
    assert (bar.undo_button.isEnabled(), bar.redo_button.isEnabled()) == (True, False)
    assert "Take back: flip to &lt;b&gt;tumour" in bar.undo_button.toolTip()
    history.undo()
    bar.show_history(history)
    assert (bar.undo_button.isEnabled(), bar.redo_button.isEnabled()) == (False, True)
    assert "Do again: flip" in bar.redo_button.toolTip()


def test_a_click_asks_and_changes_nothing_itself(qtbot: Any, bar: HistoryBar) -> None:
    history = History("a", "pick")
    history.do("b", "flip")
    history.do("c", "move")
    history.undo()
    bar.show_history(history)
    with qtbot.waitSignal(bar.undo_requested):
        qtbot.mouseClick(bar.undo_button, LEFT)
    with qtbot.waitSignal(bar.redo_requested):
        qtbot.mouseClick(bar.redo_button, LEFT)
    assert history.current == "b"


def test_the_menu_lists_the_branches_and_asks_for_the_chosen_one(qtbot: Any, bar: HistoryBar) -> None:
    history = History("a", "pick")
    history.do("b", "flip")
    bar.show_history(history)
    assert not bar.branches_button.isEnabled()
    history.undo()
    history.do("c", "R&D " + "very long " * 10)
    bar.show_history(history)
    assert bar.branches_button.text() == "Branches (2)"
    bar.branches_menu.aboutToShow.emit()
    new, old = bar.branches_menu.actions()
    assert (new.isChecked(), old.isChecked(), old.text()) == (True, False, "flip")
    assert len(new.text()) < 70
    assert "R&amp;D" in new.toolTip()
    with qtbot.waitSignal(bar.branch_requested) as asked:
        old.trigger()
    assert history.go(asked.args[0]) == "b"
