from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox, QFileDialog, QLineEdit

from napari_histolatent._napari.widgets.library_panel import EMPTY, NO_MATCH, LibraryPanel, Shelf, tags_of

LEFT = Qt.MouseButton.LeftButton
SHELVES = [
    Shelf("1", "first <i>", ("tumour", "lumen"), "slide.svs@3,4", "2026-01-02"),
    Shelf("2", "second", ("tumour",)),
    Shelf("3", "strange", (), is_own=False),
]
GREY = np.full((16, 16, 3), 128, np.uint8)


@pytest.fixture
def panel(qtbot: Any) -> LibraryPanel:
    widget = LibraryPanel()
    qtbot.addWidget(widget)
    widget.resize(340, 700)
    widget.show()
    qtbot.waitExposed(widget)
    widget.set_ready(has_generator=True, can_add=True)
    widget.set_entries(SHELVES, is_searched=False)
    return widget


def click(qtbot: Any, panel: LibraryPanel, i: int, *, double: bool = False, modifier: Any = None) -> None:
    place = panel.list.visualItemRect(panel.list.item(i)).center()
    viewport = panel.list.viewport()
    qtbot.mouseClick(viewport, LEFT, modifier or Qt.KeyboardModifier.NoModifier, place)
    if double:
        qtbot.mouseDClick(viewport, LEFT, pos=place)


def test_every_control_says_what_it_is_for(panel: LibraryPanel) -> None:
    controls = [*panel.findChildren(QAbstractButton), *panel.findChildren(QComboBox)]
    controls += [edit for edit in panel.findChildren(QLineEdit) if not isinstance(edit.parent(), QComboBox)]
    assert [c for c in controls if c.isVisibleTo(panel) and not c.toolTip() and not c.objectName()] == []


def test_tags_stand_between_commas() -> None:
    assert tags_of(" tumour,  with   lumen,, ") == ["tumour", "with lumen"]
    assert tags_of("") == []


def test_a_double_click_opens(qtbot: Any, panel: LibraryPanel) -> None:
    with qtbot.waitSignal(panel.opened) as opened:
        click(qtbot, panel, 1, double=True)
    assert opened.args == ["2"]


def test_what_can_be_done_depends_on_what_is_selected(qtbot: Any, panel: LibraryPanel) -> None:
    one = (panel.open_button, panel.rename_button, panel.neighbours_button)
    assert not any(button.isEnabled() for button in (*one, panel.remove_button))
    click(qtbot, panel, 0)
    assert all(button.isEnabled() for button in (*one, panel.remove_button))
    assert panel.own_tags_edit.text() == "tumour, lumen"
    click(qtbot, panel, 1, modifier=Qt.KeyboardModifier.ControlModifier)
    assert not any(button.isEnabled() for button in one)
    assert panel.remove_button.isEnabled()
    assert panel.own_tags_edit.text() == "tumour"
    click(qtbot, panel, 2)
    assert [button.isEnabled() for button in one] == [False, True, False]
    assert "another generator" in panel.list.item(2).toolTip()


def test_names_are_text_and_pictures_are_said_to_be_synthetic(panel: LibraryPanel) -> None:
    tip = panel.list.item(0).toolTip()
    assert "first &lt;i&gt;" in tip
    assert "SYNTHETIC" in tip
    assert "slide.svs@3,4" in tip


def test_renaming_asks_and_shows_the_old_name_until_it_is_done(qtbot: Any, panel: LibraryPanel) -> None:
    click(qtbot, panel, 1)
    qtbot.mouseClick(panel.rename_button, LEFT)
    editor = panel.list.viewport().findChild(QLineEdit)
    editor.selectAll()
    with qtbot.waitSignal(panel.renamed) as renamed:
        qtbot.keyClicks(editor, "other")
        qtbot.keyClick(editor, Qt.Key.Key_Return)
    assert renamed.args == ["2", "other"]
    assert panel.list.item(1).text() == "second"


def test_tags_of_several_are_changed_by_what_is_added_and_taken(qtbot: Any, panel: LibraryPanel) -> None:
    click(qtbot, panel, 0)
    click(qtbot, panel, 1, modifier=Qt.KeyboardModifier.ControlModifier)
    panel.own_tags_edit.setText("gland")
    with qtbot.waitSignal(panel.retagged) as retagged:
        qtbot.keyClick(panel.own_tags_edit, Qt.Key.Key_Return)
    assert retagged.args == [["1", "2"], ["gland"], ["tumour"]]
    panel.own_tags_edit.setText("tumour")
    with qtbot.assertNotEmitted(panel.retagged):
        qtbot.keyClick(panel.own_tags_edit, Qt.Key.Key_Return)


def test_a_new_list_keeps_selection_and_pictures(qtbot: Any, panel: LibraryPanel) -> None:
    panel.set_thumbnails({"2": GREY})
    click(qtbot, panel, 1)
    with qtbot.assertNotEmitted(panel.selection_changed):
        panel.set_entries(SHELVES[1:], is_searched=True)
    assert panel.selected == ["2"]
    assert not panel.list.item(0).icon().isNull()
    with qtbot.waitSignal(panel.selection_changed):
        panel.set_entries(SHELVES[:1], is_searched=True)
    assert panel.selected == []


def test_an_empty_list_says_why(panel: LibraryPanel) -> None:
    assert not panel.list_note.isVisible()
    panel.set_entries([], is_searched=True)
    assert panel.list_note.text() == NO_MATCH
    panel.set_entries([], is_searched=False)
    assert (panel.list_note.text(), panel.list_note.isVisible()) == (EMPTY, True)


def test_the_tag_that_is_asked_for_stays(panel: LibraryPanel) -> None:
    panel.set_tags({"tumour": 2, "lumen": 1})
    panel.tag_box.setCurrentIndex(2)
    assert panel.tag == "lumen"
    panel.set_tags({"gland": 1, "tumour": 2, "lumen": 3})
    assert (panel.tag, panel.tag_box.currentText()) == ("lumen", "lumen (3)")
    panel.set_tags({"gland": 1})
    assert panel.tag is None


def test_the_tray_and_long_work_are_shown_only_when_there_are_any(panel: LibraryPanel) -> None:
    assert not panel.tray_button.isVisible()
    panel.set_tray(3)
    assert (panel.tray_button.isVisible(), panel.tray_button.text()) == (True, "Add the tray (3)")
    assert not panel.cancel_button.isVisible()
    panel.set_progress((2, 5))
    assert (panel.cancel_button.isVisible(), panel.progress.value()) == (True, 2)


def test_another_folder_is_chosen_and_left_again(
    qtbot: Any, panel: LibraryPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel.set_folder("/here/mine", is_own=True)
    assert panel.folder_note.text() == "Library: your own"
    assert "/here/mine" in panel.folder_note.toolTip()
    assert not panel.own_button.isEnabled()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    with qtbot.assertNotEmitted(panel.folder_chosen):
        qtbot.mouseClick(panel.other_button, LEFT)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "/there")
    with qtbot.waitSignal(panel.folder_chosen) as chosen:
        qtbot.mouseClick(panel.other_button, LEFT)
    assert chosen.args == ["/there"]
    panel.set_folder("/there/of <b>", is_own=False)
    assert panel.folder_note.text() == "Library: of <b>"
    assert "/there/of &lt;b&gt;" in panel.folder_note.toolTip()
    with qtbot.waitSignal(panel.folder_chosen) as chosen:
        qtbot.mouseClick(panel.own_button, LEFT)
    assert chosen.args == [""]


def test_without_the_generators_own_patches_a_dataset_is_asked_for(
    qtbot: Any, panel: LibraryPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    click(qtbot, panel, 0)
    with qtbot.waitSignal(panel.neighbours_requested):
        qtbot.mouseClick(panel.neighbours_button, LEFT)
    panel.set_has_patches(False)
    assert panel.neighbours_button.text().endswith("…")
    assert "are not on this computer" in panel.neighbours_button.toolTip()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    with qtbot.assertNotEmitted(panel.patches_chosen), qtbot.assertNotEmitted(panel.neighbours_requested):
        qtbot.mouseClick(panel.neighbours_button, LEFT)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "/patches")
    with qtbot.waitSignal(panel.patches_chosen) as chosen:
        qtbot.mouseClick(panel.neighbours_button, LEFT)
    assert chosen.args == ["1", "/patches"]


def test_it_fits_into_the_narrowest_dock(panel: LibraryPanel) -> None:
    panel.set_tray(12)
    patch = (GREY, "real, adenocarcinoma of the lung\nunlike by 0.48", "slide.svs")
    panel.set_neighbours([patch] * 6, "Real patches most alike.")
    panel.set_tags({"a tag with a very long name, as users give them": 3})
    assert panel.minimumSizeHint().width() <= 270
