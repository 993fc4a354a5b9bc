from __future__ import annotations

import re
from dataclasses import dataclass, replace
from html import escape
from math import floor, log10
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QEvent, QModelIndex, QPointF, QRect, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QFontMetrics, QPainter, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QComboBox,
    QHeaderView,
    QLineEdit,
    QSizePolicy,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from napari_histolatent.annotations._classes import KEYS, RegionClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtGui import QKeyEvent, QMouseEvent, QResizeEvent

SHOWN, COLOR, NAME, KEY, LOCKED, COUNT, AREA = range(7)
"""The columns."""

NO_AREA = "–"
_HEADERS = {SHOWN: "Shown", COLOR: "", NAME: "Class", KEY: "Key", LOCKED: "Lock", COUNT: "n"}
_TIPS = {
    SHOWN: "Whether the regions of this class are drawn on the slide",
    COLOR: "Click to choose another colour",
    NAME: "Click a class to draw with it; double-click to rename it",
    KEY: "The number key that chooses the class: type a digit, or double-click to choose it",
    LOCKED: "The regions of a locked class cannot be changed",
    COUNT: "How many regions the class has",
    AREA: "The area that they cover together",
}
_TICKS = (SHOWN, LOCKED)
_CLICKED = (SHOWN, COLOR, LOCKED)  # a click does something: it does not choose the class as well
_TICK_PX, _SWATCH_PX, _EDITOR_PX = 14, 16, 150
_ROW_PX = 26
_LEAST_ROWS, _MOST_ROWS = 3, 9  # more than that scroll
_MEASURED_ROWS = 500  # beyond that names stay on one line
_MARGIN_PX, _TITLE_MARGIN_PX = 2, 3
_NAME_SIZES = (1.0, 0.92, 0.85)  # of the font: smaller where a word would be broken else
_BREAKS = r"(?<=[\s-])"
_MOST_LINES = 4  # of one name
_HUGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class ClassRow:
    """What the table shows of one class."""

    region_class: RegionClass
    count: int
    """Number of its regions."""
    area: float | None
    """The area that they cover, in the table's unit; None if it is not known."""


def area_text(area: float | None) -> str:
    """Return an area with three significant digits, without its unit.

    Parameters
    ----------
    area
        In any unit; None if it is not known.

    Returns
    -------
    str
        `0.340`, `1,230`, `45.6 M`; below a ten-thousandth `<0.0001`.
    """
    if area is None:
        return NO_AREA
    if area <= 0:
        return "0"
    if area < 1e-4:
        return "<0.0001"
    decimals = 2 - floor(log10(float(f"{area:.2e}")))
    rounded = round(area, decimals)
    for size, letter in _HUGE:
        if rounded >= max(size, 1e4):
            return f"{rounded / size:#.3g}".rstrip(".") + f" {letter}"
    return f"{rounded:,.{max(decimals, 0)}f}"


class ClassTableModel(QAbstractTableModel):
    """The classes as rows. An edit is told as a signal and shown once `set_rows` brings it back."""

    renamed = Signal(str, str)
    changed = Signal(str, object)

    def __init__(self) -> None:
        super().__init__()
        self.rows: tuple[ClassRow, ...] = ()
        self.area_unit = "mm²"

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of classes."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else AREA + 1

    def flags(self, index: QModelIndex) -> Any:
        """Say which cells can be edited and which be ticked."""
        flags = super().flags(index)
        if index.column() in _TICKS:
            return flags | Qt.ItemFlag.ItemIsUserCheckable
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() in (NAME, KEY) else flags

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return a column's title or its meaning."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self.area_unit if section == AREA else _HEADERS.get(section)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _aligned(section)
        return _TIPS.get(section) if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows."""
        if not index.isValid() or index.row() >= len(self.rows):
            return None
        shown, column = self.rows[index.row()], index.column()
        item = shown.region_class
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole):
            texts = {NAME: item.name, KEY: item.key, COUNT: f"{shown.count:,}", AREA: area_text(shown.area)}
            return texts.get(column)
        if role == Qt.ItemDataRole.CheckStateRole and column in _TICKS:
            is_on = item.is_visible if column == SHOWN else item.is_locked
            return Qt.CheckState.Checked if is_on else Qt.CheckState.Unchecked
        if role == Qt.ItemDataRole.UserRole and column == COLOR:
            return QColor(*item.color)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _aligned(column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"<qt>{escape(item.name)}<br>{_TIPS[NAME]}</qt>" if column == NAME else _TIPS[column]
        if role == Qt.ItemDataRole.AccessibleTextRole and column in _CLICKED:
            return f"{_HEADERS[column] or 'Colour'}: {item.name}"
        return None

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Tell what the user wants; what is shown stays until the rows are set."""
        if not index.isValid() or index.row() >= len(self.rows):
            return False
        item, column = self.rows[index.row()].region_class, index.column()
        if role == Qt.ItemDataRole.CheckStateRole and column in _TICKS:
            is_on = Qt.CheckState(value) == Qt.CheckState.Checked
            new = replace(item, is_visible=is_on) if column == SHOWN else replace(item, is_locked=is_on)
            self._tell(item, new)
            return True
        if role != Qt.ItemDataRole.EditRole:
            return False
        if column == NAME:
            name = str(value).strip()
            if name != item.name:
                self.renamed.emit(item.name, name)
            return True
        if column == KEY and str(value) in ("", *KEYS):
            self._tell(item, replace(item, key=str(value)))
            return True
        return False

    def set_color(self, name: str, color: tuple[int, int, int]) -> None:
        """Tell that a class shall have another colour, unless the class has gone meanwhile."""
        row = self.row_of(name)
        if row >= 0:
            item = self.rows[row].region_class
            self._tell(item, replace(item, color=color))

    def row_of(self, name: str) -> int:
        """Return the row of a class, -1 if there is none."""
        return next((i for i, row in enumerate(self.rows) if row.region_class.name == name), -1)

    def set_rows(self, rows: Sequence[ClassRow]) -> tuple[str, str] | None:
        """Show rows, and tell the view only of the cells that differ; return the class renamed, old and new."""
        old, new = self.rows, tuple(rows)
        renamed = None
        old_names, new_names = _names(old), _names(new)
        if old_names != new_names:
            start = _common(old_names, new_names)
            end = _common(old_names[start:][::-1], new_names[start:][::-1])
            gone, come = len(old) - end - start, len(new) - end - start
            if gone == 1 == come:
                renamed = old_names[start], new_names[start]  # its row stays
            else:
                if gone:
                    self.beginRemoveRows(QModelIndex(), start, start + gone - 1)
                    self.rows = old[:start] + old[len(old) - end :]
                    self.endRemoveRows()
                if come:
                    self.beginInsertRows(QModelIndex(), start, start + come - 1)
                    kept = self.rows
                    self.rows = kept[:start] + new[start : start + come] + kept[start:]
                    self.endInsertRows()
                old = self.rows
        self.rows = new
        for i, (before, after) in enumerate(zip(old, new, strict=True)):
            if before != after:
                for column in _different(before, after):
                    self.dataChanged.emit(self.index(i, column), self.index(i, column))
        return renamed

    def set_area_unit(self, unit: str) -> None:
        """Show the unit of the areas."""
        self.area_unit = unit
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, AREA, AREA)

    def _tell(self, item: RegionClass, new: RegionClass) -> None:
        if new != item:
            self.changed.emit(item.name, new)


class ClassTableView(QTableView):
    """The classes of a slide's regions: the selected one is drawn with, the others can be set.

    A tick or a colour that is clicked does not choose its class. Nothing that the user edits is shown before
    `set_rows` says it: whoever listens refuses an edit by setting the rows as they are.
    """

    picked = Signal(str)
    """The class that the user chose to draw with."""
    renamed = Signal(str, str)
    """The class and the name it shall have, which may be empty or another's."""
    changed = Signal(str, object)
    """The class and the `RegionClass` it shall be: another colour, key, shown or hidden, locked or not."""

    def __init__(self) -> None:
        super().__init__()
        self.rows_model = ClassTableModel()
        self.setModel(self.rows_model)
        self.rows_model.renamed.connect(self.renamed)
        self.rows_model.changed.connect(self.changed)
        self.name_font = self.font()
        self._pressed: tuple[int, int] | None = None
        self._current = ""  # by name: it stays chosen when rows come and go
        self._is_quiet = False
        self._delegate = _Delegate(self)  # kept: a view does not own its delegate
        self.setItemDelegate(self._delegate)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setWordWrap(True)
        self.setAccessibleName("Classes")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.verticalHeader().hide()
        self.verticalHeader().setMinimumSectionSize(_ROW_PX)
        self.verticalHeader().setDefaultSectionSize(_ROW_PX)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionsClickable(False)
        header.setMinimumSectionSize(_SWATCH_PX)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        header.sectionResized.connect(lambda column, *_: self._fit_rows() if column == NAME else None)
        self.selectionModel().selectionChanged.connect(lambda *_: self._tell_picked())

    @property
    def current(self) -> str:
        """The class that is chosen, empty if none is."""
        return self._current

    def set_rows(self, rows: Sequence[ClassRow]) -> None:
        """Show these classes. What is chosen, the scroll position and an open editor stay."""
        names, scrolled = _names(self.rows_model.rows), self.verticalScrollBar().value()
        self._is_quiet = True
        renamed = self.rows_model.set_rows(rows)
        self._is_quiet = False
        self._fit_columns()
        if _names(rows) != names:
            # Where all rows are shown, a scroll bar would only take room from the names.
            scrolls = len(self.rows_model.rows) > _MOST_ROWS
            policy = Qt.ScrollBarPolicy
            self.setVerticalScrollBarPolicy(
                policy.ScrollBarAsNeeded if scrolls else policy.ScrollBarAlwaysOff
            )
            self._fit_rows()
            self.set_current(renamed[1] if renamed and renamed[0] == self._current else self._current)
            self.verticalScrollBar().setValue(scrolled)

    def set_current(self, name: str) -> None:
        """Choose a class, without a signal; none, if there is no such class."""
        row = self.rows_model.row_of(name)
        self._current = name if row >= 0 else ""
        selected = [index.row() for index in self.selectionModel().selectedRows()]
        if selected == ([row] if row >= 0 else []):
            return
        self._is_quiet = True
        if row < 0:
            self.selectionModel().clearSelection()
        elif self.state() == QAbstractItemView.State.EditingState:
            flags = self.selectionModel().SelectionFlag
            index = self.rows_model.index(row, NAME)
            self.selectionModel().select(index, flags.ClearAndSelect | flags.Rows)
        else:
            self.selectRow(row)
        self._is_quiet = False

    def set_area_unit(self, unit: str) -> None:
        """Show in which unit the areas are: `mm²`, or `px²` where the slide has no pixel size."""
        self.rows_model.set_area_unit(unit)
        self._fit_columns()

    def ask_color(self, name: str, color: QColor) -> QColor | None:
        """Ask for a class's colour; None if the user gives up."""
        chosen = QColorDialog.getColor(color, self, f"Colour of {name}")
        return chosen if chosen.isValid() else None

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Remember a tick or a colour that is pressed; it works on release."""
        index = self.indexAt(event.pos())
        self._pressed = None
        if event.button() == Qt.MouseButton.LeftButton and index.isValid() and index.column() in _CLICKED:
            self.setFocus(Qt.FocusReason.MouseFocusReason)  # closes an editor, which keeps what was typed
            self._pressed = (index.row(), index.column())
            return
        super().mousePressEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Turn a tick, or ask for a colour."""
        index, pressed = self.indexAt(event.pos()), self._pressed
        self._pressed = None
        if pressed is None:
            super().mouseReleaseEvent(event)
        elif (index.row(), index.column()) == pressed:
            self._turn(index)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Select nothing while a tick is pressed."""
        if self._pressed is None:
            super().mouseMoveEvent(event)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Count the second of two quick clicks on a tick."""
        if self.indexAt(event.pos()).column() in _CLICKED:
            self.mousePressEvent(event)
        else:
            super().mouseDoubleClickEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Take a digit as the key of the class where the key is current; letters search no class."""
        index = self.currentIndex()
        if index.isValid() and index.column() == KEY and event.text() in KEYS:
            self.rows_model.setData(index, event.text())
        elif index.isValid() and index.column() == KEY and event.key() in _CLEARING:
            self.rows_model.setData(index, "")
        elif index.isValid() and index.column() in _CLICKED and event.key() == Qt.Key.Key_Space:
            self._turn(index)
        elif event.text().strip() and event.text().isprintable():
            event.ignore()  # the search for a name would choose a class by accident
        else:
            super().keyPressEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fold long names into the room there is."""
        super().resizeEvent(event)
        self._fit_rows()

    def changeEvent(self, event: QEvent) -> None:
        """Follow another font or theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self._fit_columns()
            self._fit_rows()

    def sizeHint(self) -> QSize:
        """Ask for the rows there are, within reason."""
        n = self.rows_model.rowCount()
        heights = [self.rowHeight(i) for i in range(min(n, _MOST_ROWS))]
        heights += [_ROW_PX] * (_LEAST_ROWS - n)
        header = self.horizontalHeader().sizeHint().height()
        return QSize(260, sum(heights) + header + 2 * self.frameWidth())

    def minimumSizeHint(self) -> QSize:
        """Keep the rows that are asked for: the dock scrolls."""
        return QSize(200, self.sizeHint().height())

    def folded_name(self, name: str) -> str:
        """Return a class's name as it is drawn, with line breaks."""
        return folded(
            name, QFontMetrics(self.name_font), self.columnWidth(NAME) - 2 * _MARGIN_PX, _MOST_LINES
        )

    def _turn(self, index: QModelIndex) -> None:
        if index.column() == COLOR:
            item = self.rows_model.rows[index.row()].region_class
            color = self.ask_color(item.name, QColor(*item.color))
            if color is not None:
                self.rows_model.set_color(item.name, (color.red(), color.green(), color.blue()))
            return
        is_on = index.data(Qt.ItemDataRole.CheckStateRole) == Qt.CheckState.Checked
        state = Qt.CheckState.Unchecked if is_on else Qt.CheckState.Checked
        self.rows_model.setData(index, state, Qt.ItemDataRole.CheckStateRole)

    def _tell_picked(self) -> None:
        selected = self.selectionModel().selectedRows()
        if self._is_quiet:
            return
        if not selected:  # a click on it with Ctrl: the table has always one class to draw with
            self.set_current(self._current)
            return
        name = self.rows_model.rows[selected[0].row()].region_class.name
        if name != self._current:
            self._current = name
            self.picked.emit(name)

    def _fit_columns(self) -> None:
        """Give each column but the names' what its title and its numbers need, and no more."""
        header, metrics = self.horizontalHeader(), self.fontMetrics()
        for column in range(AREA + 1):
            if column == NAME:
                continue
            title = self.rows_model.headerData(column, Qt.Orientation.Horizontal)
            width = header.fontMetrics().horizontalAdvance(title) + 2 * _TITLE_MARGIN_PX
            if column in _CLICKED:
                width = max(width, _SWATCH_PX + 4)
            elif column != KEY:
                indexes = (
                    self.rows_model.index(i, column)
                    for i in range(min(self.rows_model.rowCount(), _MEASURED_ROWS))
                )
                widths = [metrics.horizontalAdvance(index.data()) for index in indexes]
                width = max([width, *(advance + 2 * _MARGIN_PX + 2 for advance in widths)])
            if self.columnWidth(column) != width:
                header.resizeSection(column, width)

    def _fit_rows(self) -> None:
        """Give each row the height of its name, folded at the width of its column."""
        width = self.columnWidth(NAME) - 2 * _MARGIN_PX
        words = {
            word.rstrip()
            for row in self.rows_model.rows[:_MEASURED_ROWS]
            for word in re.split(_BREAKS, row.region_class.name)
        }
        for size in _NAME_SIZES:
            self.name_font = QFont(self.font())
            if self.font().pointSizeF() > 0:
                self.name_font.setPointSizeF(size * self.font().pointSizeF())
            metrics = QFontMetrics(self.name_font)
            if all(metrics.horizontalAdvance(word) <= width for word in words):
                break
        for i, row in enumerate(self.rows_model.rows[:_MEASURED_ROWS]):
            n = self.folded_name(row.region_class.name).count("\n") + 1
            height = max(_ROW_PX, n * metrics.lineSpacing() + 8)
            if self.rowHeight(i) != height:
                self.setRowHeight(i, height)
        self.updateGeometry()


def folded(text: str, metrics: QFontMetrics, width_px: int, most_lines: int | None = None) -> str:
    """Return text with line breaks: after a blank or a hyphen, and within a word only where it has no room.

    Parameters
    ----------
    text
        One line.
    metrics
        Of the font that it is drawn with.
    width_px
        The room for a line.
    most_lines
        Of more lines the rest is an ellipsis.
    """
    lines = [""]
    for word in re.split(_BREAKS, text):
        if metrics.horizontalAdvance((lines[-1] + word).rstrip()) <= width_px:
            lines[-1] += word
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and metrics.horizontalAdvance(lines[-1] + letter.rstrip()) > width_px:
                lines.append("")
            lines[-1] += letter
    lines = [line.rstrip() for line in lines]
    if most_lines is not None and len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], f"{lines[most_lines - 1][:-1]}…"]
    return "\n".join(lines)


class _Delegate(QStyledItemDelegate):
    """Draws ticks and colours in the middle of their cells, and gives the editors room."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        column, view = index.column(), self.parent()
        bare = QStyleOptionViewItem(option)
        if column != KEY:  # where the focus is shown, a digit that is typed goes
            bare.state &= ~QStyle.StateFlag.State_HasFocus
        if column == KEY:
            super().paint(painter, bare, index)
            return
        bare.widget = view
        view.style().drawPrimitive(QStyle.PrimitiveElement.PE_PanelItemViewItem, bare, painter, view)
        is_selected = bool(option.state & QStyle.StateFlag.State_Selected)
        role = QPalette.ColorRole.HighlightedText if is_selected else QPalette.ColorRole.Text
        text = option.palette.color(role)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if column == NAME:
            rect = option.rect.adjusted(_MARGIN_PX, 0, -_MARGIN_PX, 0)
            painter.setFont(view.name_font)
            painter.setPen(text)
            flags = Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft
            painter.drawText(rect, flags, view.folded_name(index.data()))
        elif column in (COUNT, AREA):
            painter.setPen(text)
            rect = option.rect.adjusted(_MARGIN_PX, 0, -_MARGIN_PX, 0)
            painter.drawText(rect, _aligned(column), index.data())
        elif column == COLOR:
            painter.setPen(QPen(_faint(text), 1))
            painter.setBrush(index.data(Qt.ItemDataRole.UserRole))
            painter.drawRoundedRect(_middle(option.rect, _SWATCH_PX), 3, 3)
        else:
            box = _middle(option.rect, _TICK_PX)
            painter.setPen(QPen(_faint(text), 1))
            painter.drawRoundedRect(box, 2, 2)
            if index.data(Qt.ItemDataRole.CheckStateRole) == Qt.CheckState.Checked:
                painter.setPen(QPen(text, 2))
                at = box.topLeft()
                painter.drawPolyline(
                    QPolygonF([at + QPointF(*xy) for xy in ((3, 7.5), (6, 10.5), (11, 3.5))])
                )
        painter.restore()

    def createEditor(self, parent: QWidget, option: QStyleOptionViewItem, index: QModelIndex) -> QWidget:
        if index.column() == KEY:
            box = QComboBox(parent)
            box.addItem("none", "")
            for key in KEYS:
                box.addItem(key, key)
            box.activated.connect(lambda _: self._take(box))
            return box
        edit = QLineEdit(parent)
        edit.setFrame(False)
        return edit

    def setEditorData(self, editor: QWidget, index: QModelIndex) -> None:
        if isinstance(editor, QComboBox):
            editor.setCurrentIndex(editor.findData(index.data(Qt.ItemDataRole.EditRole)))
        else:
            super().setEditorData(editor, index)

    def setModelData(self, editor: QWidget, model: QAbstractTableModel, index: QModelIndex) -> None:
        value = editor.currentData() if isinstance(editor, QComboBox) else editor.text()
        model.setData(index, value, Qt.ItemDataRole.EditRole)

    def updateEditorGeometry(self, editor: QWidget, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        rect, room = QRect(option.rect), self.parent().viewport().width()
        least = editor.sizeHint().width() if isinstance(editor, QComboBox) else _EDITOR_PX
        rect.setWidth(min(max(rect.width(), least), room))
        rect.moveLeft(min(rect.left(), room - rect.width()))
        editor.setGeometry(rect)

    def _take(self, box: QComboBox) -> None:
        self.commitData.emit(box)
        self.closeEditor.emit(box)


_CLEARING = (Qt.Key.Key_Delete, Qt.Key.Key_Backspace, Qt.Key.Key_0)


def _middle(rect: QRect, side_px: int) -> QRectF:
    box = QRectF(0, 0, side_px, side_px)
    box.moveCenter(QRectF(rect).center())
    return box


def _faint(color: QColor) -> QColor:
    faint = QColor(color)
    faint.setAlpha(140)
    return faint


def _aligned(column: int) -> Any:
    across = {
        NAME: Qt.AlignmentFlag.AlignLeft,
        COUNT: Qt.AlignmentFlag.AlignRight,
        AREA: Qt.AlignmentFlag.AlignRight,
    }
    return across.get(column, Qt.AlignmentFlag.AlignHCenter) | Qt.AlignmentFlag.AlignVCenter


def _names(rows: Sequence[ClassRow]) -> list[str]:
    return [row.region_class.name for row in rows]


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many entries agree from the start."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def _different(before: ClassRow, after: ClassRow) -> list[int]:
    a, b = before.region_class, after.region_class
    pairs = (
        (a.is_visible, b.is_visible),
        (a.color, b.color),
        (a.name, b.name),
        (a.key, b.key),
        (a.is_locked, b.is_locked),
        (before.count, after.count),
        (before.area, after.area),
    )
    return [column for column, (x, y) in enumerate(pairs) if x != y]
