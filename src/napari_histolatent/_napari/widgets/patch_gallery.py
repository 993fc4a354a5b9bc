from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import contextmanager
from html import escape
from math import ceil, floor, isfinite, log10
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from qtpy.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QIcon, QImage, QPainter, QPalette, QPen, QPixmap
from qtpy.QtWidgets import (
    QAbstractScrollArea,
    QComboBox,
    QDoubleSpinBox,
    QFrame,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import pixmap_of, row
from napari_histolatent._napari.widgets.patch_model import (
    NO_CLASS,
    Card,
    CardFilter,
    CardOrder,
    CardTable,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from qtpy.QtGui import QFocusEvent, QKeyEvent, QMouseEvent, QPaintEvent, QResizeEvent, QShowEvent

    _Item = tuple[str, str, tuple[int, int, int] | None]  # text, what it stands for, colour

MOST_THUMBNAILS = 2000
MOST_THUMBNAIL_BYTES = 64 * 2**20
SIDES_PX = {"Small": 56, "Medium": 80, "Large": 124}
"""Side of a thumbnail by size of card: 4, 3 and 2 cards fit side by side into the narrowest dock."""

HELP = (
    "Double-click or Enter: show the patch on the slide\n"
    "1 to 9: put the selected patches into a class; 0: into none\n"
    "Space: take them into the dataset or leave them out\n"
    "Delete: take them out of the list\n"
    "Ctrl+A, Shift and Ctrl with a click or an arrow: select several"
)

_WAIT_MS = 50  # between two requests for pixels
_PAD_PX, _GAP_PX, _BAR_PX, _ROUND_PX = 4, 4, 4, 4
_SHRINK_S = 0.01  # at a time
_BOX_PX = 240  # a choice is no wider
_NAMES_AT_ONCE = 5_000  # cards looked through for names of values: some 3 ms
_ANY = "any"
_VALUE = "value "  # before a value's name, which may be that of an order
_ORDERS: dict[str, Literal["added", "class", "slide"]] = {
    "order added": "added",
    "class": "class",
    "slide": "slide",
}
_LABEL = "label "  # before a class's name, which may be "any"
_NO_CLASS_TEXT = "no class"
_UNFIT = "No patch passes the filter."
_DIGITS = {getattr(Qt.Key, f"Key_{digit}"): digit for digit in range(10)}
_REMOVING = (Qt.Key.Key_Delete, Qt.Key.Key_Backspace)
_OPENING = (Qt.Key.Key_Return, Qt.Key.Key_Enter)


def tooltip_of(card: Card) -> str:
    """Return all that is known of a patch, as rich text in which names are plain."""
    lines = [f"<b>{escape(card.label or _NO_CLASS_TEXT)}</b>"]
    if card.is_left_out:
        lines[0] += " (left out)"
    if card.slide:
        lines.append(escape(card.slide))
    if card.xy is not None:
        lines.append(f"x {card.xy[0]:,}, y {card.xy[1]:,}")
    if card.note:
        lines.append(escape(card.note))
    rows = "".join(
        f"<tr><td>{escape(name)}&nbsp;&nbsp;</td><td align=right>{value_text(value)}</td></tr>"
        for name, value in card.values.items()
    )
    return f"<qt>{'<br>'.join(lines)}{f'<table>{rows}</table>' if rows else ''}</qt>"


def value_text(value: float) -> str:
    """Return a value with three significant digits: `0.42`, `1,230`; a dash if it was not measured."""
    if not isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


class Thumbnails:
    """Small pictures by key. The ones not asked for longest go, where there are too many.

    Parameters
    ----------
    most, most_bytes
        How many are kept at once, and how much memory they take together.
    """

    def __init__(self, most: int = MOST_THUMBNAILS, most_bytes: int = MOST_THUMBNAIL_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self.n_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[QPixmap, bool]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> QPixmap | None:
        """Return a picture, None if there is none."""
        kept = self._kept.get(key)
        return kept[0] if kept else None

    def is_sharp(self, key: Hashable, side_px: int) -> bool:
        """Whether there is a picture, and one that is not enlarged where a larger one could be had."""
        kept = self._kept.get(key)
        return kept is not None and (kept[1] or max(kept[0].width(), kept[0].height()) >= side_px)

    def touch(self, key: Hashable) -> None:
        """Count a picture as asked for now."""
        if key in self._kept:
            self._kept.move_to_end(key)

    def fitting(self, side_px: int) -> int:
        """Return how many pictures of a side can be kept at once."""
        return max(1, min(self.most, self.most_bytes // (4 * side_px * side_px)))

    def put(self, key: Hashable, pixels: NDArray[np.uint8], side_px: int) -> None:
        """Keep pixels (height, width, 3), shrunk to `side_px` if they are larger."""
        self.drop(key)
        pixmap = _shrunk(pixels, side_px)
        is_whole = max(pixels.shape[:2]) <= side_px
        self._kept[key] = (pixmap, is_whole)
        self.n_bytes += _n_bytes(pixmap)
        while len(self._kept) > 1 and (len(self._kept) > self.most or self.n_bytes > self.most_bytes):
            _, (gone, _) = self._kept.popitem(last=False)
            self.n_bytes -= _n_bytes(gone)

    def drop(self, key: Hashable) -> None:
        """Forget a picture."""
        kept = self._kept.pop(key, None)
        if kept:
            self.n_bytes -= _n_bytes(kept[0])

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.n_bytes = 0


class CardsView(QAbstractScrollArea):
    """Cards in rows under a scroll bar. Places are computed, so that their number costs nothing."""

    pixels_wanted = Signal(object)
    opened = Signal(object)
    selection_changed = Signal(object)
    removed = Signal(object)
    class_chosen = Signal(object, int)
    toggled = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.table = CardTable()
        self.shown: NDArray[np.intp] = np.zeros(0, np.intp)
        """Slots of the cards that are shown, in order."""
        self.thumbnails = Thumbnails()
        self.side_px = SIDES_PX["Medium"]
        self.empty_note = ""
        self.current = -1
        """Slot of the card that keys act from, -1: none."""
        self._anchor = -1
        self._selected = np.zeros(0, np.bool_)  # by slot
        self._told = self.shown
        self._asked: list[Any] = []
        self._is_upwards = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_WAIT_MS)
        self._timer.timeout.connect(self._ask)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setAccessibleName("Patches")
        self.setAccessibleDescription(HELP)

    # -- what is shown --------------------------------------------------------------------------------------

    def set_table(self, table: CardTable, *, keeps_pixels: bool) -> None:
        """Take other cards; none is shown until `set_shown`."""
        self.table = table
        self.shown = np.zeros(0, np.intp)
        self._selected = np.zeros(table.n_slots, np.bool_)
        self.current = self._anchor = -1
        self._asked = []
        if self._told.size:
            self._told = self.shown
            self.selection_changed.emit([])
        if not keeps_pixels:
            self.thumbnails.clear()

    def set_shown(self, slots: NDArray[np.intp], *, follows: bool, from_top: bool = False) -> None:
        """Show the cards of these slots.

        Parameters
        ----------
        slots
            In order.
        follows
            Whether, where all selected cards went, the one that took the current one's place is selected: the
            next key acts on it.
        from_top
            Whether to scroll to the current card, else to the first one, rather than staying.
        """
        had_any = bool(self._selected.any())
        was_selected = np.zeros(self.table.n_slots, np.bool_)  # there may be more slots now
        was_selected[: len(self._selected)] = self._selected
        is_shown = np.zeros_like(was_selected)
        is_shown[slots] = True
        place, before = self.place_of(self.current), self.shown
        self.shown, self._selected = slots, was_selected & is_shown
        if self.place_of(self.current) < 0:
            n_before = int(np.count_nonzero(is_shown[before[: max(place, 0)]]))
            heir = int(slots[min(n_before, len(slots) - 1)]) if place >= 0 and len(slots) else -1
            self.current = heir
            if follows and had_any and heir >= 0 and not self._selected.any():
                self._selected[heir] = True
        if self.place_of(self._anchor) < 0:
            self._anchor = self.current
        self._fit_scroll_bar()
        if from_top:
            self.verticalScrollBar().setValue(0)
            if self.current >= 0 and self._selected[self.current]:
                self.scroll_to(self.current)
        self.refresh()
        self._tell_selection()

    def refresh(self) -> None:
        """Draw again, and ask for pixels that are missing."""
        self.viewport().update()
        if not self._timer.isActive():
            self._timer.start()

    def redraw(self, slot: int) -> None:
        """Draw one card again, if it is in view."""
        places = self._places(self.viewport().rect())
        found = np.flatnonzero(self.shown[places.start : places.stop] == slot)
        if found.size:
            self.viewport().update(self.card_rect(places.start + int(found[0])))

    def set_side(self, side_px: int) -> None:
        """Draw thumbnails with this side, the first card in view staying there."""
        place = self._first_place()
        self.side_px = side_px
        self._asked = []
        self._return_to(place)
        self.refresh()
        self.updateGeometry()

    # -- selection ------------------------------------------------------------------------------------------

    def selected_keys(self) -> list[Any]:
        """Return the keys of the selected cards in the order shown."""
        return self.table.keys(self.shown[self._selected[self.shown]])

    def n_selected(self) -> int:
        """Return how many cards are selected."""
        return int(np.count_nonzero(self._selected))

    def is_selected(self, slot: int) -> bool:
        """Whether a card is selected."""
        return bool(self._selected[slot])

    def select(self, slots: Iterable[int]) -> None:
        """Select these of the shown cards and no other; the last becomes the current one."""
        is_shown = np.zeros_like(self._selected)
        is_shown[self.shown] = True
        chosen = [slot for slot in slots if slot >= 0 and is_shown[slot]]
        self._selected[:] = False
        self._selected[chosen] = True
        if chosen:
            self.current = self._anchor = chosen[-1]
        self._after_selecting()

    def scroll_to(self, slot: int) -> None:
        """Bring a card into view, if it is shown."""
        place = self.place_of(slot)
        if place < 0:
            return
        bar = self.verticalScrollBar()
        top = _GAP_PX + place // self.n_columns() * self.cell_height()
        bottom = top + self.cell_height() - self.viewport().height()
        if bar.value() > top - _GAP_PX:
            bar.setValue(top - _GAP_PX)
        elif bar.value() < bottom:
            bar.setValue(bottom)

    def place_of(self, slot: int) -> int:
        """Return where a card stands among those shown, -1 if it is not."""
        if slot < 0:
            return -1
        found = np.flatnonzero(self.shown == slot)
        return int(found[0]) if found.size else -1

    def _move(self, place: int, modifiers: Any) -> None:
        """Make the card at a place current, and select as keys and clicks do."""
        slot = int(self.shown[place])
        if modifiers & Qt.KeyboardModifier.ShiftModifier:
            anchor = self.place_of(self._anchor)
            first, last = sorted((place if anchor < 0 else anchor, place))
            if not modifiers & Qt.KeyboardModifier.ControlModifier:
                self._selected[:] = False
            self._selected[self.shown[first : last + 1]] = True
        else:
            self._selected[:] = False
            self._selected[slot] = True
            self._anchor = slot
        self.current = slot
        self.scroll_to(slot)
        self._after_selecting()

    def _turn(self, place: int) -> None:
        slot = int(self.shown[place])
        self._selected[slot] ^= True
        self.current = self._anchor = slot
        self._after_selecting()

    def _after_selecting(self) -> None:
        self.viewport().update()
        self._tell_selection()

    def _tell_selection(self) -> None:
        slots = self.shown[self._selected[self.shown]]
        if not np.array_equal(slots, self._told):
            self._told = slots
            self.selection_changed.emit(self.table.keys(slots))

    # -- geometry -------------------------------------------------------------------------------------------

    def n_columns(self) -> int:
        """Return how many cards stand side by side."""
        room: int = self.viewport().width() - _GAP_PX
        return max(1, room // (self.side_px + 2 * _PAD_PX + _GAP_PX))

    def cell_height(self) -> int:
        """Return the height of a row with the gap below it."""
        name: int = self.fontMetrics().height() + 3
        return _PAD_PX + self.side_px + _BAR_PX + name + _PAD_PX + _GAP_PX

    def card_rect(self, place: int) -> QRect:
        """Return where the card at a place is, in the viewport; it may be out of view."""
        n = self.n_columns()
        width = (self.viewport().width() - _GAP_PX) / n  # what room is left goes between the columns
        card = self.side_px + 2 * _PAD_PX
        left = _GAP_PX / 2 + place % n * width + (width - card) / 2
        top = _GAP_PX + place // n * self.cell_height() - self.verticalScrollBar().value()
        return QRect(round(left), top, card, self.cell_height() - _GAP_PX)

    def place_at(self, position: QPoint) -> int:
        """Return the place of the card at a point of the viewport, -1 if there is none."""
        return next((place for place, _ in self._in_view(QRect(position, QSize(1, 1)))), -1)

    def _places(self, rect: QRect) -> range:
        """Return the places in the rows that a part of the viewport meets."""
        n, height, offset = self.n_columns(), self.cell_height(), self.verticalScrollBar().value() - _GAP_PX
        last = min(((rect.bottom() + offset) // height + 1) * n, len(self.shown))
        return range(min(max(0, (rect.top() + offset) // height) * n, last), last)

    def _in_view(self, rect: QRect) -> Iterator[tuple[int, QRect]]:
        """Yield places and rectangles of the cards that a part of the viewport meets."""
        for place in self._places(rect):
            card = self.card_rect(place)
            if card.intersects(rect):
                yield place, card

    def _first_place(self) -> int:
        scrolled: int = self.verticalScrollBar().value()
        return scrolled // self.cell_height() * self._n_laid

    def _return_to(self, place: int) -> None:
        self._fit_scroll_bar()
        self.verticalScrollBar().setValue(place // self.n_columns() * self.cell_height())

    _n_laid = 1  # columns that the scroll bar was last fitted to

    def _fit_scroll_bar(self) -> None:
        # With any card it stays, so that the columns do not come and go with it.
        policy = Qt.ScrollBarPolicy
        self.setVerticalScrollBarPolicy(
            policy.ScrollBarAlwaysOn if len(self.shown) else policy.ScrollBarAlwaysOff
        )
        n, page = self.n_columns(), self.viewport().height()
        height = -(-len(self.shown) // n) * self.cell_height() + _GAP_PX
        bar = self.verticalScrollBar()
        self._n_laid = n
        bar.setPageStep(page)
        bar.setSingleStep(max(1, self.cell_height() // 3))  # a wheel's notch is three
        bar.setRange(0, max(0, height - page))

    def sizeHint(self) -> QSize:
        """Ask for three rows."""
        return QSize(300, 3 * self.cell_height() + _GAP_PX)

    def minimumSizeHint(self) -> QSize:
        """Keep a row in view."""
        return QSize(self.side_px + 40, self.cell_height() + 2 * _GAP_PX)

    # -- pixels ---------------------------------------------------------------------------------------------

    def wanted(self) -> list[Any]:
        """Return the keys of the cards without pixels in view, and then of those a page further on."""
        page = self.viewport().rect()
        seen = [place for place, _ in self._in_view(page)]
        if not seen:
            return []
        step = len(seen)
        further = range(seen[-1] + 1, min(seen[-1] + 1 + step, len(self.shown)))
        if self._is_upwards:
            further = range(seen[0] - 1, max(seen[0] - 1 - step, -1), -1)
        side = self.pixel_side()
        slots = self.shown[[*seen, *further][: self.thumbnails.fitting(side)]]
        keys = self.table.keys(slots)
        for key in reversed(keys):
            self.thumbnails.touch(key)
        return [key for key in keys if not self.thumbnails.is_sharp(key, side)]

    def put_pixels(self, key: Hashable, pixels: NDArray[np.uint8]) -> None:
        """Keep a card's pixels, and show them."""
        self.thumbnails.put(key, pixels, self.pixel_side())
        self.redraw(self.table.slot(key))

    def pixel_side(self) -> int:
        """Return the side of a thumbnail in px of the screen."""
        ratio: float = self.devicePixelRatioF()
        return ceil(self.side_px * ratio)

    def _ask(self) -> None:
        if not self.isVisible():
            return
        keys = self.wanted()
        if keys and keys != self._asked:
            self._asked = keys
            self.pixels_wanted.emit(list(keys))

    # -- events ---------------------------------------------------------------------------------------------

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the cards in view."""
        painter = QPainter(self.viewport())
        if not len(self.shown):
            note = _UNFIT if self.table.n_cards else self.empty_note
            painter.setPen(_faint(self.palette().color(QPalette.ColorRole.Text), 170))
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(self.viewport().rect().adjusted(16, 8, -16, -8), flags, note)
            return
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for place, rect in self._in_view(event.rect()):
            self._paint_card(painter, rect, int(self.shown[place]))

    def _paint_card(self, painter: QPainter, rect: QRect, slot: int) -> None:
        card, palette = self.table.cards[slot], self.palette()
        text = palette.color(QPalette.ColorRole.Text)
        is_selected = bool(self._selected[slot])
        if is_selected:
            text = palette.color(QPalette.ColorRole.HighlightedText)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(palette.color(QPalette.ColorRole.Highlight))
            painter.drawRoundedRect(rect, _ROUND_PX, _ROUND_PX)
        square = QRect(rect.left() + _PAD_PX, rect.top() + _PAD_PX, self.side_px, self.side_px)
        pixmap = self.thumbnails.get(card.key)
        if card.is_left_out:
            painter.setOpacity(0.3)
        if pixmap is None:
            painter.fillRect(square, _faint(text, 28))
        else:
            is_enlarged = pixmap.width() < square.width() and pixmap.height() < square.height()
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, not is_enlarged)
            painter.drawPixmap(_fitted(pixmap.size(), square), pixmap)
        painter.setOpacity(1.0)
        if card.is_left_out:
            painter.setPen(QPen(text, 1.5))
            inner = QRectF(square).adjusted(6, 6, -6, -6)
            painter.drawLine(inner.topLeft(), inner.bottomRight())
            painter.drawLine(inner.topRight(), inner.bottomLeft())
        bar = QRect(square.left(), square.bottom() + 1, square.width(), _BAR_PX)
        if card.label != NO_CLASS:
            painter.fillRect(bar, QColor(*card.color))
        below = QRect(bar.left(), bar.bottom() + 1, bar.width(), rect.bottom() - bar.bottom() - 1)
        name = card.label or _NO_CLASS_TEXT
        name = self.fontMetrics().elidedText(name, Qt.TextElideMode.ElideRight, below.width())
        is_faint = not is_selected and (card.label == NO_CLASS or card.is_left_out)
        painter.setPen(_faint(text, 150) if is_faint else text)
        painter.drawText(below, Qt.AlignmentFlag.AlignCenter, name)
        if slot == self.current and self.hasFocus():
            painter.setPen(QPen(palette.color(QPalette.ColorRole.Text), 1.5))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(rect).adjusted(0.75, 0.75, -0.75, -0.75), _ROUND_PX, _ROUND_PX)

    def scrollContentsBy(self, dx: int, dy: int) -> None:
        """Draw what came into view, and ask for its pixels."""
        self._is_upwards = dy > 0
        self.refresh()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Lay the cards out again, the first one in view staying there."""
        super().resizeEvent(event)
        if self.n_columns() == self._n_laid:
            self._fit_scroll_bar()
        else:
            self._return_to(self._first_place())
        self.refresh()

    def showEvent(self, event: QShowEvent) -> None:
        """Ask for pixels now that they are seen."""
        super().showEvent(event)
        self.refresh()

    def changeEvent(self, event: QEvent) -> None:
        """Follow another font or theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange, QEvent.Type.PaletteChange):
            self._fit_scroll_bar()
            self.refresh()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Show on which card keys act."""
        super().focusInEvent(event)
        self.viewport().update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Show on no card that keys act on it."""
        super().focusOutEvent(event)
        self.viewport().update()

    def viewportEvent(self, event: QEvent) -> bool:
        """Show what is known of the card under the cursor."""
        if event.type() == QEvent.Type.ToolTip:
            place = self.place_at(event.pos())
            if place < 0:
                QToolTip.hideText()
            else:
                card = self.table.cards[int(self.shown[place])]
                QToolTip.showText(event.globalPos(), tooltip_of(card), self, self.card_rect(place))
            return True
        return bool(super().viewportEvent(event))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Select the card; with Ctrl turn it, with Shift all up to it."""
        if event.button() != Qt.MouseButton.LeftButton:
            event.ignore()
            return
        place, modifiers = self.place_at(event.pos()), event.modifiers()
        extends = bool(modifiers & Qt.KeyboardModifier.ShiftModifier)
        turns = bool(modifiers & Qt.KeyboardModifier.ControlModifier) and not extends
        if place < 0:
            if not extends and not turns:
                self._selected[:] = False
                self._after_selecting()
        elif turns:
            self._turn(place)
        else:
            self._move(place, modifiers)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Go to the card's patch; with a modifier it is a second click."""
        place = self.place_at(event.pos())
        if event.button() != Qt.MouseButton.LeftButton or event.modifiers() & _MODIFIERS:
            self.mousePressEvent(event)
        elif place >= 0:
            self.opened.emit(self.table.cards[int(self.shown[place])].key)

    def event(self, event: QEvent) -> bool:
        """Take the keys that mean something here before a shortcut of the window does."""
        if event.type() == QEvent.Type.ShortcutOverride and self._meaning(event) is not None:
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move, select, or act on what is selected."""
        meaning = self._meaning(event)
        if meaning is None:
            event.ignore()
            return
        if meaning == "all":
            self._selected[:] = False
            self._selected[self.shown] = True
            self._after_selecting()
        elif meaning == "move":
            self._step(event)
        elif meaning == "open":
            if self.place_of(self.current) >= 0:
                self.opened.emit(self.table.cards[self.current].key)
        elif keys := self.selected_keys():
            if meaning == "remove":
                self.removed.emit(keys)
            elif meaning == "toggle":
                self.toggled.emit(keys)
            else:
                self.class_chosen.emit(keys, _DIGITS[event.key()])

    def _meaning(self, event: Any) -> Literal["all", "move", "open", "remove", "toggle", "class"] | None:
        key, modifiers = event.key(), event.modifiers() & _MODIFIERS
        if key == Qt.Key.Key_A and modifiers == Qt.KeyboardModifier.ControlModifier:
            return "all"
        if key in _STEPS and not modifiers & ~Qt.KeyboardModifier.ShiftModifier:
            return "move"
        if modifiers:
            return None
        if key in _OPENING:
            return "open"
        if key in _REMOVING:
            return "remove"
        if key == Qt.Key.Key_Space:
            return "toggle"
        return "class" if key in _DIGITS else None

    def _step(self, event: QKeyEvent) -> None:
        n = len(self.shown)
        if not n:
            return
        columns = self.n_columns()
        page = max(1, self.viewport().height() // self.cell_height()) * columns
        place, key = self.place_of(self.current), event.key()
        if place < 0:
            place = 0
        elif key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            place = 0 if key == Qt.Key.Key_Home else n - 1
        else:
            by = {"one": 1, "row": columns, "page": page}[_STEPS[key][0]] * _STEPS[key][1]
            to = place + by
            if 0 <= to < n:
                place = to
            elif _STEPS[key][0] == "page":  # as far as it goes, in the same column
                place = place % columns if by < 0 else place + (n - 1 - place) // columns * columns
            elif _STEPS[key][0] == "row" and by > 0 and place // columns < (n - 1) // columns:
                place = n - 1
        self._move(place, event.modifiers())


_MODIFIERS = (
    Qt.KeyboardModifier.ShiftModifier
    | Qt.KeyboardModifier.ControlModifier
    | Qt.KeyboardModifier.AltModifier
    | Qt.KeyboardModifier.MetaModifier
)
_STEPS = {
    Qt.Key.Key_Left: ("one", -1),
    Qt.Key.Key_Right: ("one", 1),
    Qt.Key.Key_Up: ("row", -1),
    Qt.Key.Key_Down: ("row", 1),
    Qt.Key.Key_PageUp: ("page", -1),
    Qt.Key.Key_PageDown: ("page", 1),
    Qt.Key.Key_Home: ("end", -1),
    Qt.Key.Key_End: ("end", 1),
}


class PatchGallery(QWidget):
    """Thousands of patches as cards, to look through, filter, sort and put into classes.

    It shows what it is told: a key or a click is told as a signal, and shown once the owner brings the change
    back with `update_card` or `remove`. Only cards in view have pixels.
    """

    pixels_wanted = Signal(object)
    """list of keys: the cards in view, then those a page further on, that have no pixels yet. It replaces
    what was asked for before; answer with `set_pixels`, best from a worker that shrinks to `side_px`."""
    opened = Signal(object)
    """key: the user wants to see the patch on its slide."""
    selection_changed = Signal(object)
    """list of keys, in the order shown."""
    removed = Signal(object)
    """list of keys: the user wants to take these patches out."""
    class_chosen = Signal(object, int)
    """list of keys, digit: the user puts these patches into the class with this key; 0: into none."""
    toggled = Signal(object)
    """list of keys: the user takes these patches into the dataset, or leaves them out."""

    def __init__(self) -> None:
        super().__init__()
        self.view = CardsView()
        self.class_box, self.slide_box = _box("Class"), _box("Slide")
        self.value_box, self.side_box = _box("Value to filter by"), _box("Least or greatest")
        self.side_box.addItem("at least", True)
        self.side_box.addItem("at most", False)
        self.bound_box = QDoubleSpinBox()
        self.bound_box.setMaximumWidth(_BOX_PX // 2)
        self.bound_box.setToolTip("Patches without this value are not shown either")
        self.order_box, self.size_box = _box("Sort by"), _box("Size of the cards")
        self.descending_button = QPushButton()
        self.descending_button.setCheckable(True)
        self.descending_button.setFixedWidth(30)
        for name in SIDES_PX:
            self.size_box.addItem(name)
        self.size_box.setCurrentText("Medium")
        self.count_label = QLabel()
        self.count_label.setToolTip(HELP)
        self.all_button = QPushButton("Show all")
        self.all_button.setToolTip("Clear the filter")
        self._reveals: Hashable = None
        self._follows = self._from_top = False
        self._colors: tuple[Any, ...] = ()
        self._heights_px: tuple[int, int] | None = None
        self._later = _timer(self, 0, self._refresh)
        self._learning = _timer(self, 0, self._learn)
        self._arrived: deque[tuple[Hashable, NDArray[np.uint8]]] = deque()
        self._shrinking = _timer(self, 0, self._shrink)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 2)
        layout.setSpacing(4)
        layout.addWidget(_left(row(self.class_box, self.slide_box)))
        layout.addWidget(_left(row(self.value_box, self.side_box, self.bound_box)))
        layout.addWidget(_left(row(QLabel("Sort by"), self.order_box, self.descending_button, stretch=1)))
        layout.addWidget(self.view, 1)
        layout.addWidget(row(self.count_label, self.all_button, self.size_box, stretch=0))

        for box in (self.class_box, self.slide_box, self.side_box, self.order_box):
            box.currentIndexChanged.connect(self._refilter)
        self.value_box.currentIndexChanged.connect(self._choose_value)
        self.bound_box.valueChanged.connect(self._refilter)
        self.descending_button.toggled.connect(self._refilter)
        self.all_button.clicked.connect(self.clear_filter)
        self.size_box.currentTextChanged.connect(lambda name: self.view.set_side(SIDES_PX[name]))
        for name in ("pixels_wanted", "opened", "selection_changed", "removed", "class_chosen", "toggled"):
            getattr(self.view, name).connect(getattr(self, name))
        self.view.selection_changed.connect(self._show_counts)
        self.setFocusProxy(self.view)
        self._refresh()

    # -- what the owner tells -------------------------------------------------------------------------------

    def set_cards(self, cards: Sequence[Card] | CardTable, *, keeps_pixels: bool = False) -> None:
        """Show other cards.

        Parameters
        ----------
        cards
            In the order added, each with a key of its own; or a table of them, made and prepared in a worker
            where there are hundreds of thousands.
        keeps_pixels
            Whether a key that was shown before still means the same pixels.
        """
        table = cards if isinstance(cards, CardTable) else CardTable(cards)
        table.learn_names(1000)
        if not keeps_pixels:
            self._arrived.clear()
        self.view.set_table(table, keeps_pixels=keeps_pixels)
        self._from_top = True
        self._refresh()
        self._learning.start()

    def add(self, card: Card, pixels: NDArray[np.uint8] | None = None) -> None:
        """Append a card, or change the one that has its key; it is selected and brought into view.

        Parameters
        ----------
        card
            The card.
        pixels
            uint8 (height, width, 3); None: they are asked for.
        """
        self.view.table.add(card)
        if pixels is not None:
            self.view.put_pixels(card.key, pixels)
        self._reveals = card.key
        self._later.start()

    def update_card(self, key: Hashable, card: Card) -> None:
        """Change what a card shows; a key that has gone meanwhile is no error.

        Raises
        ------
        ValueError
            The card has another key.
        """
        if card.key != key:
            raise ValueError(f"the card of {key!r} has the key {card.key!r}: remove the one, add the other.")
        if self.view.table.update(card) >= 0:
            self._follows = True
            self._later.start()

    def remove(self, *keys: Hashable) -> None:
        """Take cards out; a key that has gone already is no error."""
        for key in keys:
            if self.view.table.remove(key) >= 0:
                self.view.thumbnails.drop(key)
                self._follows = True
                self._later.start()

    def set_pixels(self, key: Hashable, pixels: NDArray[np.uint8]) -> None:
        """Show a card's pixels, uint8 (height, width, 3); a key that has gone meanwhile is no error.

        Hundreds may be given at once: they are shown some at a time. The array is not to be changed after.
        """
        self._arrived.append((key, pixels))
        self._shrinking.start()

    def set_heights(self, *, empty_px: int, filled_px: int) -> None:
        """Ask for less height while there is no card."""
        self._heights_px = empty_px, filled_px
        self._later.start()

    def set_empty_note(self, text: str) -> None:
        """Say in a sentence how cards come here, for as long as there is none."""
        self.view.empty_note = text
        self.view.viewport().update()

    def select(self, keys: Iterable[Hashable]) -> None:
        """Select cards that are shown and no other, and bring the last into view."""
        self._settle()
        self.view.select([self.view.table.slot(key) for key in keys])
        self.view.scroll_to(self.view.current)

    def clear_filter(self) -> None:
        """Show all cards."""
        for box in (self.class_box, self.slide_box, self.value_box):
            box.setCurrentIndex(0)

    # -- what the owner asks --------------------------------------------------------------------------------

    @property
    def side_px(self) -> int:
        """Side at which pixels are drawn, px of the screen: what is larger is shrunk to it."""
        return self.view.pixel_side()

    def card(self, key: Hashable) -> Card | None:
        """Return a card, None if there is none."""
        slot = self.view.table.slot(key)
        return self.view.table.cards[slot] if slot >= 0 else None

    def shown_keys(self) -> list[Any]:
        """Return the keys of the cards that pass the filter, in the order shown."""
        self._settle()
        return self.view.table.keys(self.view.shown)

    def selected_keys(self) -> list[Any]:
        """Return the keys of the selected cards, in the order shown."""
        self._settle()
        return self.view.selected_keys()

    def chosen_filter(self) -> CardFilter:
        """Return which cards the user wants to see."""
        label, slide = self.class_box.currentData(), self.slide_box.currentData()
        value = self.value_box.currentData()
        return CardFilter(
            label=None if label in (None, _ANY) else label.removeprefix(_LABEL),
            slide=None if slide in (None, _ANY) else slide.removeprefix(_LABEL),
            value=None if value in (None, _ANY) else value.removeprefix(_VALUE),
            bound=self.bound_box.value(),
            is_least=bool(self.side_box.currentData()),
        )

    def chosen_order(self) -> CardOrder:
        """Return how the user sorts the cards."""
        chosen, falls = self.order_box.currentData() or "order added", self.descending_button.isChecked()
        if chosen.startswith(_VALUE):
            return CardOrder("value", chosen.removeprefix(_VALUE), is_descending=falls)
        return CardOrder(_ORDERS[chosen], is_descending=falls)

    # -- within ---------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Show changes that wait for the event loop."""
        if self._later.isActive():
            self._refresh()

    def _refilter(self, *_: Any) -> None:
        self._from_top = True
        self._later.start()

    def _refresh(self) -> None:
        self._later.stop()
        if self._heights_px is not None:
            self.setMinimumHeight(self._heights_px[bool(self.view.table.n_cards)])
        self._fill_boxes()
        wanted, table = self.chosen_filter(), self.view.table
        follows, from_top = self._follows, self._from_top
        self._follows = self._from_top = False
        self.view.set_shown(
            table.rows(wanted, self.chosen_order()), follows=follows and not from_top, from_top=from_top
        )
        if self._reveals is not None:
            slot, self._reveals = table.slot(self._reveals), None
            if self.view.place_of(slot) >= 0:
                self.view.select([slot])
                self.view.scroll_to(slot)
        self._fit_bound()
        has_value = wanted.value is not None
        self.side_box.setVisible(has_value)
        self.bound_box.setVisible(has_value)
        self.all_button.setVisible(wanted.is_set)
        falls = self.descending_button.isChecked()
        self.descending_button.setText("↓" if falls else "↑")
        self.descending_button.setToolTip("Greatest or last first" if falls else "Least or first first")
        self._show_counts()

    def _show_counts(self, *_: Any) -> None:
        n, n_selected = len(self.view.shown), self.view.n_selected()
        text = f"{n:,} of {self.view.table.n_cards:,}"
        self.count_label.setText(f"{text}, {n_selected:,} selected" if n_selected > 1 else text)

    def _shrink(self) -> None:
        """Show pixels that arrived, for a moment only: the rest waits for the user's turn."""
        stop = perf_counter() + _SHRINK_S
        while self._arrived and perf_counter() < stop:
            key, pixels = self._arrived.popleft()
            if self.view.table.slot(key) >= 0:
                self.view.put_pixels(key, pixels)
        if self._arrived:
            self._shrinking.start()

    def _learn(self) -> None:
        """Make what the user may ask for next, a part at a time."""
        table = self.view.table
        had_all_labels = table.has_all_labels
        is_more = table.prepare_some(_NAMES_AT_ONCE)
        if is_more:
            self._learning.start()
        if not is_more or had_all_labels != table.has_all_labels:
            self._fill_boxes()

    def _fill_boxes(self) -> None:
        """Offer the classes, slides and values that there are; what is chosen stays, even with no card."""
        table, wanted = self.view.table, self.chosen_filter()
        if not table.has_all_labels and table.n_slots > _NAMES_AT_ONCE:
            return  # a moment later: `_learn`
        labels, slides = table.labels(), table.slides()
        if wanted.label and wanted.label not in labels:
            labels = (*labels, wanted.label)
        if wanted.slide is not None and wanted.slide not in slides:
            slides = (*slides, wanted.slide)
        colors = tuple(table.color(label) for label in labels)
        if colors != self._colors:
            self._colors = colors
            self.class_box.setProperty("offered", None)
        items: list[_Item] = [("All classes", _ANY, None)]
        items += [(label, _LABEL + label, color) for label, color in zip(labels, colors, strict=True)]
        _offer(self.class_box, [*items, ("No class", _LABEL + NO_CLASS, None)])
        _offer(self.slide_box, [("All slides", _ANY, None), *((s, _LABEL + s, None) for s in slides)])
        self.slide_box.setVisible(len(slides) > 1)
        values: list[_Item] = [(name, _VALUE + name, None) for name in table.value_names]
        _offer(self.value_box, [("Any value", _ANY, None), *values])
        self.value_box.setVisible(bool(values))
        orders: list[_Item] = [(name, name, None) for name in _ORDERS if name != "slide" or len(slides) > 1]
        _offer(self.order_box, [*orders, *values])

    def _choose_value(self, *_: Any) -> None:
        """Let a bound be chosen within the values that there are, from where it hides nothing."""
        wanted = self.chosen_filter()
        limits = self.view.table.range_of(wanted.value) if wanted.value is not None else None
        span = limits[1] - limits[0] if limits else 0.0
        with _quiet(self.bound_box):
            self.bound_box.setDecimals(min(6, max(0, 2 - floor(log10(span)))) if span > 0 else 3)
            self.bound_box.setSingleStep(10.0 ** (floor(log10(span)) - 1) if span > 0 else 0.1)
            self.bound_box.setRange(0, 0)
        self._fit_bound()
        with _quiet(self.bound_box):
            box = self.bound_box
            box.setValue(box.minimum() if wanted.is_least else box.maximum())
        self._refilter()

    def _fit_bound(self) -> None:
        """Widen the choice of a bound to values that came since."""
        value, box = self.chosen_filter().value, self.bound_box
        limits = self.view.table.range_of(value) if value is not None else None
        if limits:
            unit = 10.0 ** box.decimals()
            is_new = box.minimum() == box.maximum()
            low, high = floor(limits[0] * unit) / unit, ceil(limits[1] * unit) / unit
            with _quiet(box):
                box.setRange(
                    low if is_new else min(low, box.minimum()), high if is_new else max(high, box.maximum())
                )


def _timer(parent: QWidget, ms: int, slot: Any) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(slot)
    return timer


def _box(name: str) -> QComboBox:
    """Return a choice that long names do not widen."""
    box = QComboBox()
    box.setAccessibleName(name)
    box.setToolTip(name)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(7)
    box.setMaximumWidth(_BOX_PX)
    return box


def _left(bar: QWidget) -> QWidget:
    """Return a row with its widgets to the left where there is more room than they take."""
    bar.layout().addStretch(0)
    return bar


def _offer(box: QComboBox, items: Sequence[_Item]) -> None:
    """Offer items. What is chosen stays, without a signal."""
    offered = [data for _, data, _ in items]
    if box.property("offered") == offered:
        return
    chosen = box.currentData()
    with _quiet(box):
        box.clear()
        for text, data, color in items:
            if color is None:
                box.addItem(text, data)
            else:
                box.addItem(_swatch(color), text, data)
        box.setCurrentIndex(max(0, offered.index(chosen) if chosen in offered else 0))
    box.setProperty("offered", offered)


@contextmanager
def _quiet(widget: QWidget) -> Iterator[None]:
    was = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(was)


def _swatch(color: tuple[int, int, int]) -> QIcon:
    pixmap = QPixmap(12, 12)
    pixmap.fill(QColor(*color))
    return QIcon(pixmap)


def _shrunk(pixels: NDArray[np.uint8], side_px: int) -> QPixmap:
    """Return pixels as a pixmap whose longer side is at most `side_px`."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side_px:
        return pixmap_of(pixels)
    # Some pixels are skipped first: Qt's smooth shrinking of a large picture is slow.
    step = max(1, max(height, width) // (2 * side_px))
    pixels = pixels[::step, ::step]
    height, width = pixels.shape[:2]
    image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    keeps, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    return QPixmap.fromImage(image.scaled(side_px, side_px, keeps, smooth))


def _n_bytes(pixmap: QPixmap) -> int:
    return int(4 * pixmap.width() * pixmap.height())


def _fitted(size: QSize, square: QRect) -> QRect:
    """Return the middle of a square that a picture of another shape fills."""
    fitted = QRect(QPoint(0, 0), size.scaled(square.size(), Qt.AspectRatioMode.KeepAspectRatio))
    fitted.moveCenter(square.center())
    return fitted


def _faint(color: QColor, alpha: int) -> QColor:
    faint = QColor(color)
    faint.setAlpha(alpha)
    return faint
