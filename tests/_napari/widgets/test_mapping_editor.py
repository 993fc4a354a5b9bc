from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDialogButtonBox

from napari_histolatent._napari.widgets.mapping_editor import (
    A_CLASS,
    HOLES,
    KEEP,
    LEFT_OUT,
    GroupRow,
    MappingEditor,
)
from napari_histolatent.annotations._mapping import (
    AS_IN_FILE,
    GROUPS_AS_HOLES,
    HOLE,
    IGNORED,
    PRESETS,
    ClassMapping,
    Target,
    find_mapping,
    mapping_names,
    save_mapping,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEFT = Qt.MouseButton.LeftButton
GROUPS = [("Tumor", 12), ("_2", 3), ("tumor", 1), ("Lymphocytes", 2000), ("", 4)]


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(tmp_path))


@pytest.fixture
def editor(qtbot: Any) -> Callable[..., MappingEditor]:
    def make(mapping: ClassMapping = AS_IN_FILE, **options: Any) -> MappingEditor:
        dialog = MappingEditor(GROUPS, mapping, **options)
        qtbot.addWidget(dialog)
        dialog.resize(680, 520)
        dialog.open()
        QApplication.processEvents()
        return dialog

    return make


def row_of(dialog: MappingEditor, title: str) -> GroupRow:
    return next(row for row in dialog.group_rows if row.title == title)


def choose(qtbot: Any, row: GroupRow, choice: int) -> None:
    """Go to a choice with the arrow keys."""
    step = Qt.Key.Key_Down if choice > row.choice else Qt.Key.Key_Up
    for _ in range(4):
        if row.choice != choice:
            qtbot.keyClick(row.choice_box, step)
    assert row.choice == choice


def press(qtbot: Any, dialog: MappingEditor, button: QDialogButtonBox.StandardButton) -> None:
    qtbot.mouseClick(dialog.buttons.button(button), LEFT)


def test_a_row_for_each_group(editor: Callable[..., MappingEditor]) -> None:
    dialog = editor(PRESETS["camelyon16"])
    assert not dialog.isModal() or dialog.windowModality() != Qt.WindowModality.ApplicationModal
    shown = [
        (row.title, row.count, row.choice, row.class_edit.text(), row.cut_check.isChecked())
        for row in dialog.group_rows
    ]
    assert shown == [
        ("Tumor, tumor", 13, A_CLASS, "tumour", False),
        ("_2", 3, HOLES, "", True),
        ("Lymphocytes", 2000, KEEP, "", False),
        ("(no group)", 4, KEEP, "", False),
    ]
    assert dialog.table.item(2, 1).text() == "2,000"
    assert dialog.mapping_box.currentText() == "camelyon16"
    assert dialog.mapping() == PRESETS["camelyon16"]


def test_what_is_not_touched_stays_as_it_was(editor: Callable[..., MappingEditor]) -> None:
    mapping = ClassMapping("mine", {"Lymphocytes": Target("Lymphocytes"), "elsewhere": IGNORED})
    assert editor(mapping).mapping() == mapping


def test_a_group_gets_a_class(qtbot: Any, editor: Callable[..., MappingEditor]) -> None:
    dialog = editor()
    row = row_of(dialog, "Lymphocytes")
    assert not row.class_edit.isVisible()
    choose(qtbot, row, A_CLASS)
    assert row.class_edit.text() == "Lymphocytes"
    assert row.class_edit.hasSelectedText(), "typing replaces it"
    qtbot.keyClicks(row.class_edit, "TIL")
    qtbot.mouseClick(row.cut_check, LEFT, pos=row.cut_check.rect().center())
    mapping = dialog.mapping()
    assert mapping.of("lymphocytes") == Target("TIL", cuts=True)
    assert mapping.of("other") == Target("other")
    assert mapping.name == "as in the file, changed"


def test_a_group_becomes_holes_or_nothing_or_itself(qtbot: Any, editor: Callable[..., MappingEditor]) -> None:
    dialog = editor(PRESETS["camelyon16"])
    lymphocytes, tumour = row_of(dialog, "Lymphocytes"), row_of(dialog, "Tumor, tumor")
    choose(qtbot, lymphocytes, HOLES)
    assert lymphocytes.cut_check.isChecked()
    assert not lymphocytes.cut_check.isEnabled()
    assert dialog.mapping().of("Lymphocytes") == HOLE
    choose(qtbot, lymphocytes, LEFT_OUT)
    assert not lymphocytes.cut_check.isChecked()
    assert dialog.mapping().of("Lymphocytes") == IGNORED
    choose(qtbot, lymphocytes, KEEP)
    assert dialog.mapping() == PRESETS["camelyon16"]
    qtbot.mouseClick(lymphocytes.cut_check, LEFT, pos=lymphocytes.cut_check.rect().center())
    assert dialog.mapping().of("Lymphocytes") == Target("Lymphocytes", cuts=True)
    choose(qtbot, tumour, KEEP)
    assert dialog.mapping().of("Tumor") == Target("Tumor")
    assert dialog.mapping().of("tumor") == Target("tumor")
    assert dialog.mapping().of("_0") == Target("tumour"), "groups that the file lacks are kept"


def test_shapes_without_a_group(qtbot: Any, editor: Callable[..., MappingEditor]) -> None:
    dialog = editor()
    row = row_of(dialog, "(no group)")
    assert row.choice_box.currentText() == "no class"
    assert not row.choice_box.model().item(LEFT_OUT).isEnabled()
    assert not row.cut_check.isEnabled()
    choose(qtbot, row, A_CLASS)
    assert row.class_edit.text() == ""
    qtbot.keyClicks(row.class_edit, "Tumour")
    assert dialog.mapping().of("") == Target("Tumour")


def test_a_preset_fills_the_table(qtbot: Any, editor: Callable[..., MappingEditor]) -> None:
    dialog = editor()
    assert [dialog.mapping_box.itemText(i) for i in range(4)] == [
        AS_IN_FILE.name,
        GROUPS_AS_HOLES.name,
        "camelyon16",
        "camelyon17",
    ]
    dialog.mapping_box.setFocus()
    for _ in range(2):
        qtbot.keyClick(dialog.mapping_box, Qt.Key.Key_Down)
    assert dialog.mapping() == PRESETS["camelyon16"]
    assert row_of(dialog, "_2").choice == HOLES


def test_a_saved_table_that_is_damaged_is_told(qtbot: Any, editor: Callable[..., MappingEditor]) -> None:
    path = save_mapping(ClassMapping("mine", {"a": HOLE}))
    dialog = editor()
    path.write_text("{", encoding="utf-8")
    dialog.mapping_box.setFocus()
    qtbot.keyClick(dialog.mapping_box, Qt.Key.Key_End)
    assert dialog.mapping_box.currentText() == "mine"
    assert "mine.json is no class mapping" in dialog.error_note.text()
    assert dialog.error_note.isVisible()
    assert dialog.mapping() == AS_IN_FILE


def test_a_table_is_saved(qtbot: Any, editor: Callable[..., MappingEditor]) -> None:
    dialog = editor()
    choose(qtbot, row_of(dialog, "_2"), HOLES)
    qtbot.mouseClick(dialog.save_button, LEFT)
    assert "Type a name" in dialog.error_note.text()
    qtbot.keyClicks(dialog.name_edit, "camelyon16")
    assert not dialog.error_note.isVisible()
    qtbot.mouseClick(dialog.save_button, LEFT)
    assert "built-in" in dialog.error_note.text()
    dialog.name_edit.clear()
    qtbot.keyClicks(dialog.name_edit, "ours")
    qtbot.mouseClick(dialog.save_button, LEFT)
    assert not dialog.error_note.isVisible()
    assert "ours" in mapping_names()
    assert find_mapping("ours").targets == {"_2": HOLE}
    assert dialog.mapping_box.currentText() == "ours"
    assert dialog.mapping().name == "ours"


def test_a_saved_table_is_replaced_only_when_asked_twice(
    qtbot: Any, editor: Callable[..., MappingEditor]
) -> None:
    save_mapping(ClassMapping("ours", {"a": HOLE}))
    dialog = editor()
    qtbot.keyClicks(dialog.name_edit, "ours")
    qtbot.keyClick(dialog.name_edit, Qt.Key.Key_Return)
    assert dialog.isVisible(), "Enter saves, and closes nothing"
    assert "already" in dialog.error_note.text()
    assert find_mapping("ours").targets == {"a": HOLE}
    qtbot.mouseClick(dialog.save_button, LEFT)
    assert find_mapping("ours").targets == {}


def test_ok_and_cancel(qtbot: Any, editor: Callable[..., MappingEditor]) -> None:
    dialog = editor()
    with qtbot.waitSignal(dialog.accepted, timeout=1000):
        press(qtbot, dialog, QDialogButtonBox.StandardButton.Ok)
    dialog = editor()
    with qtbot.waitSignal(dialog.rejected, timeout=1000):
        press(qtbot, dialog, QDialogButtonBox.StandardButton.Cancel)


def test_ok_waits_for_a_class_name(qtbot: Any, editor: Callable[..., MappingEditor]) -> None:
    dialog = editor()
    row = row_of(dialog, "_2")
    choose(qtbot, row, A_CLASS)
    row.class_edit.clear()
    press(qtbot, dialog, QDialogButtonBox.StandardButton.Ok)
    assert dialog.isVisible()
    assert dialog.error_note.text() == 'Type the class that the group "_2" stands for.'
    qtbot.keyClicks(row.class_edit, "Normal")
    press(qtbot, dialog, QDialogButtonBox.StandardButton.Ok)
    assert not dialog.isVisible()
    assert dialog.mapping().of("_2") == Target("Normal")


def test_class_names_are_proposed(editor: Callable[..., MappingEditor]) -> None:
    completer = row_of(editor(classes=["Tumour", "Stroma"]), "_2").class_edit.completer()
    assert completer is not None
    completer.setCompletionPrefix("tu")
    assert completer.currentCompletion() == "Tumour"


def test_nothing_is_cut_off(editor: Callable[..., MappingEditor]) -> None:
    dialog = editor(PRESETS["camelyon16"])
    header = dialog.table.horizontalHeader()
    assert header.length() <= dialog.table.viewport().width()
    for column in range(5):
        assert header.sectionSize(column) >= header.sectionSizeHint(column)
    for row in dialog.group_rows:
        assert row.choice_box.width() >= row.choice_box.sizeHint().width()
        assert row.choice_box.height() >= row.choice_box.sizeHint().height()
    for button in (dialog.save_button, *dialog.buttons.buttons()):
        assert button.width() >= button.sizeHint().width()
