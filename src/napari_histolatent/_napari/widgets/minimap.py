from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPalette, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_histolatent._napari.widgets._qt import pixmap_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qtpy.QtGui import QFocusEvent, QKeyEvent, QMouseEvent, QPaintEvent, QPixmap

Point: TypeAlias = tuple[float, float]
Rect: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom."""

LEAST_BOX_PX = 9
"""A box smaller than this on the screen could not be seen, nor gripped."""
MAX_HEIGHT_PX = 220
_LEAST_HEIGHT_PX = 24
_USUAL_WIDTH_PX = 300

_STEPS = {
    Qt.Key.Key_Left: (-0.25, 0.0),
    Qt.Key.Key_Right: (0.25, 0.0),
    Qt.Key.Key_Up: (0.0, -0.25),
    Qt.Key.Key_Down: (0.0, 0.25),
}


@dataclass(frozen=True)
class MapPlace:
    """Where on the widget the slide is drawn, in screen pixels, and how large the slide is."""

    left: float
    top: float
    width: float
    height: float
    slide_size_px: tuple[int, int]
    """Width and height of level 0."""

    def to_map(self, x: float, y: float) -> Point:
        """Return the screen point of a level-0 point."""
        slide_width, slide_height = self.slide_size_px
        return self.left + x * self.width / slide_width, self.top + y * self.height / slide_height

    def to_level0(self, x: float, y: float) -> Point:
        """Return the level-0 point of a screen point."""
        slide_width, slide_height = self.slide_size_px
        return (x - self.left) * slide_width / self.width, (y - self.top) * slide_height / self.height

    def contains(self, x: float, y: float) -> bool:
        """Return whether a screen point is on the slide's picture."""
        return 0 <= x - self.left <= self.width and 0 <= y - self.top <= self.height


def place_of(slide_size_px: tuple[int, int], area_px: tuple[float, float]) -> MapPlace | None:
    """Return the largest place with the slide's aspect in the middle of an area, or None where there is none."""
    (slide_width, slide_height), (area_width, area_height) = slide_size_px, area_px
    if min(slide_width, slide_height, area_width, area_height) <= 0:
        return None
    factor = min(area_width / slide_width, area_height / slide_height)
    width, height = slide_width * factor, slide_height * factor
    return MapPlace((area_width - width) / 2, (area_height - height) / 2, width, height, slide_size_px)


def box_on_map(place: MapPlace, box: Rect) -> Rect:
    """Return a level-0 box as it is drawn: clipped to the map, and never too small to be seen."""
    left, top = place.to_map(box[0], box[1])
    right, bottom = place.to_map(box[2], box[3])
    left, right = _visible_span(left - place.left, right - place.left, place.width)
    top, bottom = _visible_span(top - place.top, bottom - place.top, place.height)
    return place.left + left, place.top + top, place.left + right, place.top + bottom


def _visible_span(first: float, last: float, end: float) -> tuple[float, float]:
    least = min(LEAST_BOX_PX, end)
    first, last = max(first, 0), min(last, end)
    if last - first >= least:
        return first, last
    middle = min(max((first + last) / 2, least / 2), end - least / 2)
    return middle - least / 2, middle + least / 2


def within(slide_size_px: tuple[int, int], point: Point) -> Point:
    """Return the point of the slide that is nearest to a level-0 point."""
    return min(max(point[0], 0.0), float(slide_size_px[0])), min(max(point[1], 0.0), float(slide_size_px[1]))


def centre_of(box: Rect) -> Point:
    """Return the middle of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def centred_at(box: Rect, centre: Point) -> Rect:
    """Return a box of the same size around another middle."""
    half_width, half_height = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    return centre[0] - half_width, centre[1] - half_height, centre[0] + half_width, centre[1] + half_height


class Minimap(QWidget):
    """A small picture of the whole slide with a box around what the view shows."""

    centre_requested = Signal(float, float)
    """Level-0 (x, y) that the user wants in the middle of the view."""

    def __init__(self) -> None:
        super().__init__()
        self._pixmap: QPixmap | None = None
        self._scaled: QPixmap | None = None  # the picture as it was last drawn
        self._slide_size_px = (0, 0)
        self._box: Rect | None = None
        self._grip: Point | None = None  # from the box's middle to the cursor, level-0 px, while dragging
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setAccessibleName("Map of the slide")
        self.setAccessibleDescription("Drag the box, or press the arrow keys, to move the view")
        self.setToolTip("Drag the box to move the view")
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    @property
    def place(self) -> MapPlace | None:
        """Where the slide is drawn now, or None without a slide."""
        return place_of(self._slide_size_px, (self.width(), min(self.height(), MAX_HEIGHT_PX)))

    @property
    def box(self) -> Rect | None:
        """What the view shows, level-0 px, or None before that is known."""
        return self._box

    def set_picture(self, pixels: NDArray[np.uint8] | None, slide_size_px: tuple[int, int]) -> None:
        """Show a slide of this level-0 size; without pixels an empty map, without a size nothing."""
        if slide_size_px != self._slide_size_px:
            self._box = self._grip = None
        self._pixmap = None if pixels is None else pixmap_of(pixels)
        self._scaled = None
        self._slide_size_px = slide_size_px
        self.updateGeometry()
        self.update()

    def set_box(self, left: float, top: float, right: float, bottom: float) -> None:
        """Show what the view shows, in level-0 px; it may reach beyond the slide."""
        self._box = (left, top, right, bottom)
        self.update()

    def heightForWidth(self, width: int) -> int:
        """Keep the slide's aspect, within bounds."""
        place = place_of(self._slide_size_px, (width, MAX_HEIGHT_PX))
        return 0 if place is None else max(math.ceil(place.height), _LEAST_HEIGHT_PX)

    def sizeHint(self) -> QSize:
        """Ask for a column's width."""
        return QSize(_USUAL_WIDTH_PX, self.heightForWidth(_USUAL_WIDTH_PX))

    def minimumSizeHint(self) -> QSize:
        """Fit the narrowest dock."""
        return QSize(80, 0)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw the picture, then the box over it, nothing beside it."""
        place = self.place
        if place is None:
            return
        painter = QPainter(self)
        frame = QRectF(place.left, place.top, place.width, place.height)
        painter.setClipRect(frame)
        if self._pixmap is None:
            painter.fillRect(frame, self.palette().color(QPalette.ColorRole.Base))
        else:
            painter.drawPixmap(frame.topLeft(), self._picture_at(frame, self._pixmap))
        role = QPalette.ColorRole.Highlight if self.hasFocus() else QPalette.ColorRole.Mid
        painter.setPen(QPen(self.palette().color(role), 2 if self.hasFocus() else 1))
        painter.drawRect(frame.adjusted(0.5, 0.5, -0.5, -0.5))
        if self._box is not None:
            left, top, right, bottom = box_on_map(place, self._box)
            shown = QRectF(QPointF(left, top), QPointF(right, bottom)).adjusted(1.5, 1.5, -1.5, -1.5)
            for color, width in (("black", 3), ("#ffd400", 1)):  # seen on glass, on tissue and on black
                painter.setPen(QPen(QColor(color), width))
                painter.drawRect(shown)
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Grip the box, or let it jump to the cursor."""
        place, x, y = self.place, event.position().x(), event.position().y()
        if event.button() != Qt.MouseButton.LeftButton or place is None or not place.contains(x, y):
            super().mousePressEvent(event)
            return
        at = place.to_level0(x, y)
        if self._box and self._box[0] <= at[0] <= self._box[2] and self._box[1] <= at[1] <= self._box[3]:
            centre = centre_of(self._box)
            self._grip = (at[0] - centre[0], at[1] - centre[1])
        else:
            self._grip = (0.0, 0.0)
            self._go_to(at)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Move the box with the cursor."""
        place = self.place
        if self._grip is None or place is None:
            super().mouseMoveEvent(event)
            return
        x, y = place.to_level0(event.position().x(), event.position().y())
        self._go_to((x - self._grip[0], y - self._grip[1]))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Let go of the box."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._grip = None
        super().mouseReleaseEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move by a quarter of the box on an arrow key."""
        step = _STEPS.get(event.key())
        if step is None or self._box is None or self.place is None:
            super().keyPressEvent(event)
            return
        left, top, right, bottom = self._box
        x, y = centre_of(self._box)
        self._go_to((x + step[0] * (right - left), y + step[1] * (bottom - top)))

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Show that the arrow keys go here."""
        super().focusInEvent(event)
        self.update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Show that the arrow keys no longer go here."""
        super().focusOutEvent(event)
        self.update()

    def _go_to(self, point: Point) -> None:
        centre = within(self._slide_size_px, point)
        if self._box is not None:
            if centre == centre_of(self._box):
                return
            self.set_box(*centred_at(self._box, centre))
        self.centre_requested.emit(*centre)

    def _picture_at(self, frame: QRectF, pixmap: QPixmap) -> QPixmap:
        ratio = self.devicePixelRatioF()
        size = QSize(max(1, round(frame.width() * ratio)), max(1, round(frame.height() * ratio)))
        if self._scaled is None or self._scaled.size() != size:
            self._scaled = pixmap.scaled(
                size, Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
            self._scaled.setDevicePixelRatio(ratio)
        return self._scaled
