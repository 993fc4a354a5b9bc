from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QCompleter,
    QDialog,
    QDialogButtonBox,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_histolatent._files import file_name_of
from napari_histolatent._napari.widgets._qt import note, row
from napari_histolatent.annotations._mapping import (
    AS_IN_FILE,
    GROUPS_AS_HOLES,
    HOLE,
    IGNORED,
    ClassMapping,
    Target,
    find_mapping,
    mapping_names,
    mappings_folder,
    save_mapping,
)
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtGui import QKeyEvent

KEEP, HOLES, LEFT_OUT, A_CLASS = range(4)
"""What can become of a group, as the entries of its combobox."""

CHOICES = ("keep its name", "holes", "left out", "a class…")
_HEADERS = ("Group", "Shapes", "Becomes", "Class", "Cut out of the others")
_NO_GROUP = "(no group)"
_INTRO = "What each group of the file stands for. Holes are cut out of the regions that they lie in."
_CUT_TIP = "What these regions cover is taken away from the regions of other classes"
_CHANGED = ", changed"


class MappingEditor(QDialog):
    """Says which class each group of a file stands for. Show it with `open()`, read it when `accepted`.

    Parameters
    ----------
    groups
        The file's groups with the number of their shapes. Groups that differ in case only are one row: a
        mapping does not tell them apart.
    mapping
        What is shown first. Its groups that the file lacks are kept.
    classes
        Class names that are proposed while one is typed.
    parent
        The window that it lies over.
    """

    def __init__(
        self,
        groups: Sequence[tuple[str, int]],
        mapping: ClassMapping,
        *,
        classes: Sequence[str] = (),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Groups of the file")
        self._loaded = mapping
        self._asked = ""  # the name of a table that the user was asked about: may it be replaced?
        self.mapping_box = QComboBox()
        self.mapping_box.setAccessibleName("Table of groups")
        self.group_rows = [GroupRow(names, n, classes) for names, n in _joined(groups)]
        self.table = self._make_table()
        self.name_edit = QLineEdit()
        self.name_edit.setPlaceholderText("name of the table")
        self.name_edit.setAccessibleName("Name to save the table under")
        self.save_button = QPushButton("Save as…")
        self.save_button.setAutoDefault(False)
        self.save_button.setToolTip("Keep this table for other files, on this computer")
        self.error_note = note()
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        layout = QVBoxLayout(self)
        layout.addWidget(note(_INTRO))
        layout.addWidget(row(QLabel("Fill in from"), self.mapping_box, stretch=1))
        layout.addWidget(self.table, 1)
        layout.addWidget(row(self.name_edit, self.save_button, stretch=0))
        layout.addWidget(self.error_note)
        layout.addWidget(self.buttons)
        self._set_mappings(mapping)
        self._fill(mapping)
        self._set_error("")
        self.mapping_box.activated.connect(self._choose)
        self.save_button.clicked.connect(self._save)
        self.name_edit.returnPressed.connect(self._save)
        self.name_edit.textEdited.connect(lambda _: self._set_error(""))
        self.buttons.accepted.connect(self._accept)
        self.buttons.rejected.connect(self.reject)
        self.buttons.button(QDialogButtonBox.StandardButton.Ok).setAutoDefault(False)
        self.buttons.button(QDialogButtonBox.StandardButton.Cancel).setAutoDefault(False)

    def mapping(self) -> ClassMapping:
        """Return what the table says. It has the name of the chosen mapping as long as it says the same."""
        result = self._loaded
        for group_row in self.group_rows:
            result = group_row.put_into(result)
        if result.targets == self._loaded.targets:
            return self._loaded
        return ClassMapping(self._loaded.name.removesuffix(_CHANGED) + _CHANGED, result.targets)

    def sizeHint(self) -> QSize:
        """Ask for room for all columns and a dozen groups."""
        return QSize(680, 420)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Let Enter finish a name, not the dialog."""
        is_enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
        ok = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        if not is_enter or self.focusWidget() is ok:
            super().keyPressEvent(event)

    def _make_table(self) -> QTableWidget:
        table = QTableWidget(len(self.group_rows), len(_HEADERS))
        table.setHorizontalHeaderLabels(_HEADERS)
        table.verticalHeader().hide()
        table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        table.setTabKeyNavigation(False)
        table.setShowGrid(False)
        table.setAccessibleName("Groups of the file")
        for i, line in enumerate(self.group_rows):
            name = QTableWidgetItem(line.title)
            name.setFlags(Qt.ItemFlag.ItemIsEnabled)
            count = QTableWidgetItem(f"{line.count:,}")
            count.setFlags(Qt.ItemFlag.ItemIsEnabled)
            count.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            table.setItem(i, 0, name)
            table.setItem(i, 1, count)
            for column, widget in enumerate(line.cells, start=2):
                table.setCellWidget(i, column, widget)
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionsClickable(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        for column in (0, 3):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
        if self.group_rows:
            height = max(self.group_rows[0].choice_box.sizeHint().height(), 26) + 6
            table.verticalHeader().setDefaultSectionSize(height)
        return table

    def _set_mappings(self, current: ClassMapping) -> None:
        self.mapping_box.clear()
        built_in = {mapping.name: mapping for mapping in (AS_IN_FILE, GROUPS_AS_HOLES)}
        names = [*built_in, *mapping_names()]
        if current.name not in names:
            self.mapping_box.addItem(current.name, current)
        for name in names:
            is_it = name == current.name
            self.mapping_box.addItem(name, current if is_it else built_in.get(name))
        self.mapping_box.setCurrentText(current.name)

    def _choose(self, index: int) -> None:
        mapping = self.mapping_box.itemData(index)
        try:
            chosen = mapping or find_mapping(self.mapping_box.itemText(index))
        except UserError as error:
            self._set_error(str(error))
            return
        self._set_error("")
        self._loaded = chosen
        self._fill(chosen)

    def _fill(self, mapping: ClassMapping) -> None:
        for group_row in self.group_rows:
            group_row.show_target_of(mapping)

    def _save(self) -> None:
        name = self.name_edit.text().strip()
        if not name:
            self._set_error("Type a name to save the table under.")
            return
        if not self._is_complete():
            return
        path = mappings_folder() / f"{file_name_of(name)}.json"
        if path.is_file() and self._asked != name:
            self._set_error(f'There is a table "{path.stem}" already; press "Save as…" again to replace it.')
            self._asked = name
            return
        mapping = ClassMapping(name, self.mapping().targets)
        try:
            save_mapping(mapping)
        except UserError as error:
            self._set_error(str(error))
            return
        self._loaded = mapping
        self._set_mappings(mapping)
        self._set_error("")

    def _is_complete(self) -> bool:
        for group_row in self.group_rows:
            if group_row.choice == A_CLASS and not group_row.class_edit.text().strip():
                self._set_error(f'Type the class that the group "{group_row.title}" stands for.')
                group_row.class_edit.setFocus()
                return False
        return True

    def _accept(self) -> None:
        if self._is_complete():
            self.accept()

    def _set_error(self, text: str) -> None:
        self._asked = ""
        self.error_note.setText(text)
        self.error_note.setVisible(bool(text))


class GroupRow:
    """The controls of one group, or of several that differ in case only."""

    def __init__(self, names: Sequence[str], count: int, classes: Sequence[str]) -> None:
        self.names, self.count = tuple(names), count
        self.title = ", ".join(name.strip() for name in names) or _NO_GROUP
        self.choice_box = QComboBox()
        self.choice_box.addItems(CHOICES)
        self.choice_box.setAccessibleName(f"What {self.title} becomes")
        if not self._is_named:  # shapes without a group are regions without a class, never left out
            self.choice_box.model().item(LEFT_OUT).setEnabled(False)
            self.choice_box.setItemText(KEEP, "no class")
        self.class_edit = QLineEdit()
        self.class_edit.setPlaceholderText("type a class")
        self.class_edit.setAccessibleName(f"Class of {self.title}")
        if classes:
            completer = QCompleter(list(classes), self.class_edit)
            completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
            self.class_edit.setCompleter(completer)
        self.cut_check = QCheckBox()
        self.cut_check.setAccessibleName(f"Cut {self.title} out of the others")
        self.cut_check.setToolTip(_CUT_TIP)
        # A table shows its cells' widgets whenever it likes: what is hidden at times lies in another.
        self.cells = tuple(_cell(widget) for widget in (self.choice_box, self.class_edit, self.cut_check))
        self.cells[-1].layout().setAlignment(self.cut_check, Qt.AlignmentFlag.AlignCenter)
        self.choice_box.activated.connect(self._follow_choice)

    @property
    def choice(self) -> int:
        """One of KEEP, HOLES, LEFT_OUT, A_CLASS."""
        return int(self.choice_box.currentIndex())

    @property
    def _is_named(self) -> bool:
        return bool(self.names[0].strip())

    def show_target_of(self, mapping: ClassMapping) -> None:
        """Show what a mapping makes of the group."""
        targets = [mapping.of(name) for name in self.names]
        target, typed = targets[0], ""
        if all(t.class_name == (name.strip() or None) for t, name in zip(targets, self.names, strict=True)):
            choice = HOLES if target == HOLE else KEEP
        elif target.class_name is None:
            choice = HOLES if target.cuts else LEFT_OUT
        else:
            choice, typed = A_CLASS, target.class_name
        self.choice_box.setCurrentIndex(choice)
        self.class_edit.setText(typed)
        self._enable()
        if self.cut_check.isEnabled():
            self.cut_check.setChecked(target.cuts)

    def put_into(self, mapping: ClassMapping) -> ClassMapping:
        """Return the mapping with what is shown here."""
        wanted = self._target()
        if all(mapping.of(name) == (wanted or Target(name.strip() or None)) for name in self.names):
            return mapping
        if wanted is not None:
            return mapping.with_target(self.names[0], wanted)
        own = _folded(self.names[0])
        return ClassMapping(mapping.name, {g: t for g, t in mapping.targets.items() if g != own})

    def _target(self) -> Target | None:
        """Return what is shown; None for a group that keeps its name and cuts nothing."""
        cuts, typed = bool(self.cut_check.isChecked()), self.class_edit.text().strip()
        if self.choice == HOLES:
            return HOLE
        if self.choice == LEFT_OUT:
            return IGNORED
        if self.choice == A_CLASS and typed:
            return Target(typed, cuts=cuts)
        return Target(self.names[0].strip(), cuts=True) if cuts and self._is_named else None

    def _follow_choice(self) -> None:
        self._enable()
        if self.choice == A_CLASS:
            if not self.class_edit.text():
                self.class_edit.setText(self.names[0].strip())
            self.class_edit.selectAll()
            self.class_edit.setFocus()

    def _enable(self) -> None:
        is_class = self.choice == A_CLASS
        self.class_edit.setVisible(is_class)
        if not is_class:
            self.class_edit.clear()
        can_cut = is_class or (self.choice == KEEP and self._is_named)
        if not can_cut or not self.cut_check.isEnabled():
            self.cut_check.setChecked(self.choice == HOLES)
        self.cut_check.setEnabled(can_cut)


def _cell(widget: QWidget) -> QWidget:
    cell = row(widget)
    cell.setObjectName("cell")
    cell.setStyleSheet("#cell { background: transparent }")
    cell.layout().setContentsMargins(2, 2, 2, 2)
    return cell


def _joined(groups: Sequence[tuple[str, int]]) -> list[tuple[list[str], int]]:
    """Return the groups with those joined that a mapping does not tell apart, in order."""
    rows: dict[str, tuple[list[str], int]] = {}
    for name, n in groups:
        names, total = rows.get(_folded(name), ([], 0))
        rows[_folded(name)] = ([*names, name], total + n)
    return list(rows.values())


def _folded(group: str) -> str:
    return group.strip().casefold()
