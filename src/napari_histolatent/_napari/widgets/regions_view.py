from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import ScrollingDock, row, section
from napari_histolatent._napari.widgets.associated_images import WrappedText
from napari_histolatent._napari.widgets.class_table import ClassTableView, folded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtGui import QResizeEvent, QWheelEvent

    from napari_histolatent._napari.widgets.class_table import ClassRow

TOOLS = {
    "polygon": ("Polygon", "Draw a region corner by corner"),
    "freehand": ("Freehand", "Draw a region's outline with the button held down"),
    "rectangle": ("Rectangle", "Draw a rectangle"),
    "ellipse": ("Ellipse", "Draw an ellipse"),
    "brush_add": ("Brush +", "Paint a region, or more of the selected one"),
    "brush_subtract": ("Brush −", "Paint away from the selected region"),
    "split": ("Split", "Draw a line that cuts a region in two"),
    "measure": ("Measure", "Measure a length on the slide"),
    "pick": ("Pick", "Click a region to select it"),
}
"""The drawing tools: title, and what they are for."""

ACTIONS = {
    "undo": ("Undo", "Take the last change back"),
    "redo": ("Redo", "Make the change again that was taken back"),
    "merge": ("Merge", "Make one region of the selected ones"),
    "fill_holes": ("Fill holes", "Fill the holes of the selected regions"),
    "simplify": ("Simplify", "Leave out corners, within the tolerance above"),
    "assign": ("Set class", "Give the selected regions the class that is chosen above"),
    "delete": ("Delete", "Remove the selected regions; it can be undone"),
}
"""What can be done: title, and what it does."""

RINGS = (("Changed outlines: as repaired", "repaired"), ("Changed outlines: as in their file", "source"))
"""How outlines that the repair changed are written: title, and `WriteOptions.rings`."""

IMPORTED_FILES = "All files (*)"
REPORT_LINES = 200
"""Lines of a report that are shown."""

_NO_SLIDE = "No slide yet: open one in the Slide dock."
_NONE_SELECTED = "No region selected."
_PER_ROW = 3
_REPORT_ROWS = 8


class RegionsView(ScrollingDock):
    """Controls of the Regions dock."""

    versions_requested = Signal()
    class_added = Signal(str)
    class_removed = Signal(str)
    tool_chosen = Signal(str)
    """A name of `TOOLS`, or empty: no tool."""
    brush_changed = Signal(float)
    tolerance_changed = Signal(float)
    action = Signal(str)
    """A name of `ACTIONS`."""
    edit_in_view_requested = Signal()
    put_back_requested = Signal()
    import_chosen = Signal(str)
    export_chosen = Signal(str, str, str)
    """The path, the format's name, and "repaired" or "source"."""
    groups_requested = Signal()
    proposal_accepted = Signal(int)
    cancel_requested = Signal()

    import_filter = IMPORTED_FILES
    """Files that the dialog for importing shows, as Qt writes it: `Regions (*.xml *.geojson);;All files (*)`."""
    import_start = ""
    """Folder, or file, where that dialog starts."""
    export_start = ""
    """Folder, or file, that the dialog for exporting proposes."""

    def __init__(self) -> None:
        self._formats: tuple[tuple[str, str, str], ...] = ()
        self._added = ""  # the class that was asked for, until it is there
        self._n_selected = 0
        self._report: tuple[str, ...] = ()
        self._report_section: QWidget
        self._proposals: QWidget
        self.proposal_buttons: list[FoldedButton] = []
        self._make_header()
        self._make_class_controls()
        self._make_drawing_controls()
        self._make_change_controls()
        self._make_many_controls()
        self._make_file_controls()
        self._make_report()
        saved = row(self.autosave_note, self.versions_button, stretch=0)
        saved.layout().setAlignment(self.autosave_note, Qt.AlignmentFlag.AlignVCenter)
        super().__init__(
            section("Slide", self.slide_note, saved),
            section(
                "Classes", self.classes, row(self.class_edit, self.add_button, self.remove_button, stretch=0)
            ),
            section("Draw", self._tools, self.hint_note, self._parameters, self.measure_note),
            section("Change", self._history, self.selection_note, self._changes),
            self._many_section,
            section(
                "Files",
                row(self.import_button, self.export_button, self.groups_button),
                self.rings_box,
                self.crop_box,
                self._busy,
            ),
            self._report_section,
        )
        self.setMinimumWidth(320)  # what napari's theme needs beside a scroll bar
        self._connect()
        self.set_slide_note("")
        self.set_autosave_note("")
        self.set_classes([])
        self.set_length_unit("px")
        self.set_hint("")
        self.set_measure("")
        self.set_history("", "")
        self.set_selection(0, "")
        self.set_many("")
        self.set_export_formats([])
        self.set_groups_enabled(False)
        self.set_busy("")
        self.set_report([])
        self.set_proposals([])

    def set_slide_note(self, text: str) -> None:
        """Show which slide's regions these are, and how many; no slide, if the text is empty."""
        self.slide_note.set_text(text or _NO_SLIDE)

    def set_autosave_note(self, text: str) -> None:
        """Show whether the regions are saved."""
        self.autosave_note.set_text(text)

    def set_classes(self, rows: Sequence[ClassRow]) -> None:
        """Show the classes; the name in the line is cleared once the class that it asked for is there."""
        self.classes.set_rows(rows)
        if self._added and any(row.region_class.name == self._added for row in rows):
            if self.class_edit.text().strip() == self._added:
                self.class_edit.clear()
            self._added = ""
        self._enable_classes()

    def set_current_class(self, name: str) -> None:
        """Show which class is drawn with, without a signal."""
        self.classes.set_current(name)
        self._enable_classes()

    def set_area_unit(self, unit: str) -> None:
        """Show in which unit the classes' areas are: `mm²` or `px²`."""
        self.classes.set_area_unit(unit)

    def set_tool(self, name: str) -> None:
        """Show which tool is in the hand, without a signal; none, if the name is empty."""
        for tool, button in self.tool_buttons.items():
            button.setChecked(tool == name)

    def set_tool_key(self, name: str, key: str) -> None:
        """Show in a tool's tooltip which key takes it."""
        self.tool_buttons[name].setToolTip(_tip(TOOLS[name][1], key))

    def set_action_key(self, name: str, key: str) -> None:
        """Show in a tooltip which key does what the button does."""
        self._action_keys[name] = key
        self.action_buttons[name].setToolTip(_tip(ACTIONS[name][1], key))

    def set_hint(self, text: str) -> None:
        """Show how the tool in the hand works."""
        _set_note(self.hint_note, text)

    def set_brush(self, size: float) -> None:
        """Show the size of the brush, without a signal."""
        _set_value(self.brush_spin, size)

    def set_tolerance(self, tolerance: float) -> None:
        """Show the tolerance, without a signal."""
        _set_value(self.tolerance_spin, tolerance)

    def set_length_unit(self, unit: str) -> None:
        """Show in which unit the lengths are: `µm` or `px`. The numbers stay as they are."""
        for spin in (self.brush_spin, self.tolerance_spin):
            spin.setSuffix(f" {unit}")

    def set_measure(self, text: str) -> None:
        """Show what was measured."""
        _set_note(self.measure_note, text)

    def set_history(self, undo_title: str, redo_title: str) -> None:
        """Show which change can be taken back, and which made again; none, if the title is empty."""
        for name, title in (("undo", undo_title), ("redo", redo_title)):
            button, (word, tip) = self.action_buttons[name], ACTIONS[name]
            text = f"{word}: {title}" if title else word
            button.set_full_text(text)
            button.setEnabled(bool(title))
            button.setToolTip(_tip(text if title else tip, self._action_keys.get(name, "")))

    def set_selection(self, n: int, text: str) -> None:
        """Show how many regions are selected, and what is known of them."""
        self._n_selected = n
        self.selection_note.set_text(text or (_NONE_SELECTED if n == 0 else ""))
        self._enable_changes()

    def set_many(self, text: str) -> None:
        """Show that not all regions can be edited at once; they can, if the text is empty."""
        self.many_note.set_text(text)
        self._many_section.setVisible(bool(text))

    def set_export_formats(self, formats: Sequence[tuple[str, str, str]]) -> None:
        """Offer formats to write: name, title and suffix, the first proposed first."""
        self._formats = tuple((name, title, suffix.lstrip(".")) for name, title, suffix in formats)
        self._enable_files()

    def set_groups_enabled(self, enabled: bool) -> None:
        """Show whether a file was imported whose groups can be mapped to classes."""
        self._has_groups = enabled
        self._enable_files()

    def set_busy(self, text: str, done: int = 0, total: int = 0) -> None:
        """Show what is being done and how far it is; nothing is, if the text is empty. No file is opened meanwhile."""
        self.busy_note.set_text(text)
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self._busy.setVisible(bool(text))
        self._enable_files()

    def set_report(self, lines: Sequence[str]) -> None:
        """Show what an import or an export had to say, the first lines of it; nothing, if there are none."""
        self._report = tuple(lines)
        shown = list(self._report[:REPORT_LINES])
        left = len(self._report) - len(shown)
        if left:
            shown.append(f"… and {left:,} more")
        self.report_edit.setPlainText("\n".join(shown))
        self._show_report()

    def set_proposals(self, texts: Sequence[str]) -> None:
        """Offer what would mend what the report says, one button for each."""
        for button in self.proposal_buttons:
            self._proposals.layout().removeWidget(button)
            button.hide()
            button.deleteLater()
        self.proposal_buttons = [FoldedButton(text) for text in texts]
        for i, button in enumerate(self.proposal_buttons):
            self._proposals.layout().addWidget(button)
            button.clicked.connect(lambda _, i=i: self.proposal_accepted.emit(i))
        self._show_report()

    def ask_open_file(self) -> str:
        """Ask for a file to import; empty if the user gives up."""
        chosen, _ = QFileDialog.getOpenFileName(
            self, "Import regions", self.import_start or str(Path.home()), self.import_filter
        )
        return str(chosen)

    def ask_save_file(self) -> tuple[str, str]:
        """Ask for a path to export to; return it with the format's name, both empty if the user gives up."""
        dialog = QFileDialog(self, "Export regions", self.export_start or str(Path.home()))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setNameFilters([f"{title} (*.{suffix})" for _, title, suffix in self._formats])
        start = Path(self.export_start)
        if self.export_start and not start.is_dir():
            dialog.setDirectory(str(start.parent))
            dialog.selectFile(start.name)
        names = dialog.nameFilters()

        def follow(name_filter: str) -> None:
            # The dialog itself adds the suffix: only so does it ask before a file is replaced.
            if name_filter in names:
                dialog.setDefaultSuffix(self._formats[names.index(name_filter)][2])

        dialog.filterSelected.connect(follow)
        follow(names[0])
        accepted = dialog.exec()
        chosen, name_filter = dialog.selectedFiles(), dialog.selectedNameFilter()
        dialog.deleteLater()
        if not accepted or not chosen:
            return "", ""
        return str(chosen[0]), self._formats[max(names.index(name_filter), 0)][0]

    def _make_header(self) -> None:
        self.slide_note, self.autosave_note = WrappedText(), WrappedText()
        self.versions_button = QPushButton("Earlier versions…")
        self.versions_button.setToolTip("Go back to what the regions were")

    def _make_class_controls(self) -> None:
        self.classes = ClassTableView()
        self.class_edit = QLineEdit()
        self.class_edit.setPlaceholderText("New class")
        self.class_edit.setAccessibleName("Name of a new class")
        self.add_button = QPushButton("Add")
        self.remove_button = QPushButton("Remove")
        self.remove_button.setToolTip("Remove the class that is chosen")

    def _make_drawing_controls(self) -> None:
        self.tool_buttons: dict[str, QPushButton] = {}
        for name, (title, tip) in TOOLS.items():
            button = QPushButton(title)
            button.setCheckable(True)
            button.setToolTip(_tip(tip, ""))
            self.tool_buttons[name] = button
        self._tools = _grid(list(self.tool_buttons.values()))
        self.hint_note, self.measure_note = WrappedText(), WrappedText()
        self.brush_spin = _length(20.0, 0.1, 100_000.0, "Brush size", "Width of the brush on the slide")
        self.tolerance_spin = _length(
            1.0,
            0.0,
            10_000.0,
            "Tolerance",
            "How far an outline may lie from what was drawn: freehand and Simplify leave out corners within it",
        )
        self._parameters = QWidget()
        grid = QGridLayout(self._parameters)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(6)
        for column, spin in enumerate((self.brush_spin, self.tolerance_spin)):
            label = QLabel(spin.accessibleName())
            label.setToolTip(spin.toolTip())
            label.setBuddy(spin)
            grid.addWidget(label, 0, column)
            grid.addWidget(spin, 1, column)
            grid.setColumnStretch(column, 1)

    def _make_change_controls(self) -> None:
        self._action_keys: dict[str, str] = {}
        self.action_buttons: dict[str, QPushButton] = {}
        for name, (title, tip) in ACTIONS.items():
            button = ElidedButton(title) if name in ("undo", "redo") else QPushButton(title)
            button.setToolTip(_tip(tip, ""))
            self.action_buttons[name] = button
        undo, redo, *others = self.action_buttons.values()
        self._history, self._changes = row(undo, redo), _grid(others)
        self.selection_note = WrappedText()

    def _make_many_controls(self) -> None:
        self.many_note = WrappedText()
        self.in_view_button = QPushButton("Edit those in view")
        self.in_view_button.setToolTip("Make the regions that are in view now ready to be changed")
        self.put_back_button = QPushButton("Put all back")
        self.put_back_button.setToolTip("Stop editing them: show all regions as a picture again")
        self._many_section = section(
            "Many regions", self.many_note, row(self.in_view_button, self.put_back_button)
        )

    def _make_file_controls(self) -> None:
        self._has_groups = False
        self.import_button = QPushButton("Import…")
        self.import_button.setToolTip("Read regions from a file into this slide")
        self.export_button = QPushButton("Export…")
        self.export_button.setToolTip("Write the regions into a file for another program")
        self.groups_button = QPushButton("Groups…")
        self.groups_button.setToolTip("Say which class each group of the imported file stands for")
        self.crop_box = QCheckBox("GeoJSON for QuPath's cropped image")
        self.crop_box.setToolTip(
            "Count from the scanned part, as QuPath does when it opens this slide; off, from the slide's corner"
        )
        self.crop_box.hide()
        self.rings_box = QuietBox()
        for title, name in RINGS:
            self.rings_box.addItem(title, name)
        self.rings_box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.rings_box.setMinimumContentsLength(14)
        self.rings_box.setAccessibleName("How outlines that were repaired are exported")
        self.rings_box.setToolTip(
            _tip(
                "For export: outlines that crossed themselves were repaired on import. Either can be written.",
                "",
            )
        )
        self.busy_note = WrappedText()
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.cancel_button = QPushButton("Cancel")
        self._busy = QWidget()
        layout = QVBoxLayout(self._busy)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.busy_note)
        layout.addWidget(row(self.progress, self.cancel_button, stretch=0))

    def _make_report(self) -> None:
        self.report_edit = _Report()
        self.copy_button = QPushButton("Copy")
        self.copy_button.setToolTip("Copy the whole report")
        self.hide_button = QPushButton("Hide")
        self.hide_button.setToolTip("Put the report away")
        self._report_part = QWidget()
        layout = QVBoxLayout(self._report_part)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.report_edit)
        layout.addWidget(row(self.copy_button, self.hide_button))
        self._proposals = QWidget()
        proposals = QVBoxLayout(self._proposals)
        proposals.setContentsMargins(0, 0, 0, 0)
        proposals.setSpacing(6)
        self._report_section = section("Report", self._report_part, self._proposals)

    def _connect(self) -> None:
        self.versions_button.clicked.connect(self.versions_requested)
        self.add_button.clicked.connect(self._emit_added)
        self.class_edit.returnPressed.connect(self._emit_added)
        self.remove_button.clicked.connect(self._emit_removed)
        self.classes.picked.connect(lambda _: self._enable_classes())
        for name, button in self.tool_buttons.items():
            button.clicked.connect(lambda checked, name=name: self._choose_tool(name if checked else ""))
        self.brush_spin.valueChanged.connect(self.brush_changed)
        self.tolerance_spin.valueChanged.connect(self.tolerance_changed)
        for name, button in self.action_buttons.items():
            button.clicked.connect(lambda _, name=name: self.action.emit(name))
        self.in_view_button.clicked.connect(self.edit_in_view_requested)
        self.put_back_button.clicked.connect(self.put_back_requested)
        self.import_button.clicked.connect(self._import)
        self.export_button.clicked.connect(self._export)
        self.groups_button.clicked.connect(self.groups_requested)
        self.cancel_button.clicked.connect(self.cancel_requested)
        self.copy_button.clicked.connect(lambda: QApplication.clipboard().setText("\n".join(self._report)))
        self.hide_button.clicked.connect(lambda: self.set_report([]))

    def _emit_added(self) -> None:
        name = self.class_edit.text().strip()
        if name:
            self._added = name
            self.class_added.emit(name)

    def _emit_removed(self) -> None:
        if self.classes.current:
            self.class_removed.emit(self.classes.current)

    def _choose_tool(self, name: str) -> None:
        self.set_tool(name)
        self.tool_chosen.emit(name)

    def _import(self) -> None:
        path = self.ask_open_file()
        if path:
            self.import_chosen.emit(path)

    def _export(self) -> None:
        path, name = self.ask_save_file()
        if path:
            self.export_chosen.emit(path, name, self.rings_box.currentData())

    def _enable_classes(self) -> None:
        self.remove_button.setEnabled(bool(self.classes.current))
        self._enable_changes()

    def _enable_changes(self) -> None:
        n = self._n_selected
        for name in ("fill_holes", "simplify", "delete"):
            self.action_buttons[name].setEnabled(n > 0)
        self.action_buttons["merge"].setEnabled(n > 1)
        self.action_buttons["assign"].setEnabled(n > 0 and bool(self.classes.current))

    def _enable_files(self) -> None:
        is_free = not self.busy_note.text()
        self.import_button.setEnabled(is_free)
        self.export_button.setEnabled(is_free and bool(self._formats))
        self.groups_button.setEnabled(is_free and self._has_groups)

    def _show_report(self) -> None:
        self._report_part.setVisible(bool(self._report))
        self._proposals.setVisible(bool(self.proposal_buttons))
        self._report_section.setVisible(bool(self._report or self.proposal_buttons))


class QuietBox(QComboBox):
    """A combobox that the wheel turns only where it was clicked: else the dock is scrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Leave the wheel to the dock."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class QuietSpin(QDoubleSpinBox):
    """A spin box that the wheel turns only where it was clicked: else the dock is scrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setKeyboardTracking(False)  # one signal for a number, not one for each of its digits

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Leave the wheel to the dock."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class ElidedButton(QPushButton):
    """A button whose text loses its middle where there is no room for it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._full, self._least = text, text

    def full_text(self) -> str:
        """Return the whole text."""
        return self._full

    def set_full_text(self, text: str) -> None:
        """Show a text, as much of it as there is room for."""
        self._full = text
        self._fit()

    def sizeHint(self) -> QSize:
        """Ask for the room of the short text, whatever is shown."""
        shown = super().sizeHint()
        return QSize(self._frame_width() + self._advance(self._least), shown.height())

    def minimumSizeHint(self) -> QSize:
        """Ask for the room of the short text, whatever is shown."""
        return self.sizeHint()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as much as there is room for."""
        super().resizeEvent(event)
        self._fit()

    def _advance(self, text: str) -> int:
        return int(self.fontMetrics().horizontalAdvance(text))

    def _frame_width(self) -> int:
        return int(super().sizeHint().width()) - self._advance(self.text().replace("&&", "&"))

    def _fit(self) -> None:
        room = self.width() - self._frame_width()
        text = self.fontMetrics().elidedText(self._full, Qt.TextElideMode.ElideMiddle, room)
        if _as_button(text) != self.text():
            self.setText(_as_button(text))


class FoldedButton(QPushButton):
    """A button whose text goes over several lines where the dock is narrow."""

    def __init__(self, text: str) -> None:
        super().__init__(_as_button(text))
        self._full = text
        self.setStyleSheet("text-align: left")
        # A button is never narrower than it asks for, unless its policy says so.
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def full_text(self) -> str:
        """Return the text without its line breaks."""
        return self._full

    def minimumSizeHint(self) -> QSize:
        """Fit the narrowest column."""
        return QSize(80, self.sizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fold the text anew."""
        super().resizeEvent(event)
        metrics = self.fontMetrics()
        shown = self.text().replace("&&", "&")
        frame = self.sizeHint().width() - max(metrics.horizontalAdvance(line) for line in shown.split("\n"))
        text = _as_button(folded(self._full, metrics, self.width() - frame))
        if text != self.text():
            self.setText(text)


class _Report(QPlainTextEdit):
    """Text to read that is as high as its lines, within reason."""

    def __init__(self) -> None:
        super().__init__()
        self.setReadOnly(True)
        self.setAccessibleName("Report")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.textChanged.connect(self.updateGeometry)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fold the lines anew."""
        super().resizeEvent(event)
        self.updateGeometry()

    def sizeHint(self) -> QSize:
        """Ask for whole lines."""
        lines = min(max(int(self.document().size().height()), 1), _REPORT_ROWS)
        around = 2 * (self.document().documentMargin() + self.frameWidth() + 1)
        return QSize(200, int(lines * self.fontMetrics().lineSpacing() + around))

    def minimumSizeHint(self) -> QSize:
        """Ask for whole lines."""
        return QSize(80, self.sizeHint().height())


def _grid(buttons: Sequence[QPushButton]) -> QWidget:
    box = QWidget()
    layout = QGridLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    for i, button in enumerate(buttons):
        layout.addWidget(button, i // _PER_ROW, i % _PER_ROW)
    for column in range(_PER_ROW):
        layout.setColumnStretch(column, 1)
    return box


def _length(value: float, least: float, most: float, name: str, tip: str) -> QuietSpin:
    spin = QuietSpin()
    spin.setDecimals(1)
    spin.setRange(least, most)
    spin.setValue(value)
    spin.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
    spin.setAccessibleName(name)
    spin.setToolTip(_tip(tip, ""))
    return spin


def _set_note(label: WrappedText, text: str) -> None:
    label.set_text(text)
    label.setVisible(bool(text))


def _set_value(spin: QDoubleSpinBox, value: float) -> None:
    spin.blockSignals(True)
    spin.setValue(value)
    spin.blockSignals(False)


def _tip(text: str, key: str) -> str:
    """Return a tooltip: text, not markup, that wraps, with the key that does the same."""
    return f"<qt>{escape(text)}{f' ({escape(key)})' if key else ''}</qt>"


def _as_button(text: str) -> str:
    """Return text as a button takes it, without mnemonics."""
    return text.replace("&", "&&")
