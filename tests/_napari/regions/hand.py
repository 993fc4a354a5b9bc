"""A user's hand in a real window: real mouse and key events on the canvas, at level-0 places of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari._layers import slide_layers, world_of
from napari_histolatent._napari.viewing import add_slide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.slides import Slide

LEFT = Qt.MouseButton.LeftButton
NONE, SHIFT, CONTROL = (
    Qt.KeyboardModifier.NoModifier,
    Qt.KeyboardModifier.ShiftModifier,
    Qt.KeyboardModifier.ControlModifier,
)

Place = tuple[float, float]


class Hand:
    """Mouse and keyboard."""

    def __init__(self, qtbot: Any, viewer: Any) -> None:
        self.qtbot, self.viewer = qtbot, viewer
        self.slide: Slide | None = None

    @property
    def canvas(self) -> Any:
        """The widget that gets the events."""
        return self.viewer.window._qt_viewer.canvas.native

    def show(self, slide: Slide) -> Any:
        """Show a slide, all of it; return its layer."""
        self.slide = slide
        layer = add_slide(self.viewer, slide_layers(slide))
        self.viewer.reset_view()
        self.qtbot.wait(50)
        return layer

    def at(self, place: Place) -> QPoint:
        """Return where on the canvas a level-0 place is."""
        assert self.slide is not None
        y, x = world_of(place, self.slide.info)
        camera = self.viewer.scene.camera
        return QPoint(
            round(self.canvas.width() / 2 + (x - camera.center[-1]) * camera.zoom),
            round(self.canvas.height() / 2 + (y - camera.center[-2]) * camera.zoom),
        )

    def click(self, *places: Place) -> None:
        """Click at places, one after the other."""
        for place in places:
            self.hover(place)
            QTest.mouseClick(self.canvas, LEFT, NONE, self.at(place))
            QApplication.processEvents()

    def double_click(self, place: Place) -> None:
        """Press twice, as Qt tells it."""
        QTest.mouseClick(self.canvas, LEFT, NONE, self.at(place))
        QTest.mouseDClick(self.canvas, LEFT, NONE, self.at(place))
        QApplication.processEvents()

    def hover(self, place: Place) -> None:
        """Move the mouse without a button."""
        self._move(self.at(place), Qt.MouseButton.NoButton, NONE)

    def drag(self, places: Sequence[Place], *, modifier: Any = NONE) -> None:
        """Press at the first place, move along, let go at the last."""
        self.hover(places[0])
        QTest.mousePress(self.canvas, LEFT, modifier, self.at(places[0]))
        for place in places[1:]:
            self._move(self.at(place), LEFT, modifier)
        QTest.mouseRelease(self.canvas, LEFT, modifier, self.at(places[-1]))
        QApplication.processEvents()

    def _move(self, to: QPoint, button: Any, modifier: Any) -> None:
        event = QMouseEvent(
            QEvent.Type.MouseMove,
            QPointF(to),
            QPointF(self.canvas.mapToGlobal(to)),
            Qt.MouseButton.NoButton,
            button,
            modifier,
        )
        QApplication.sendEvent(self.canvas, event)
        QApplication.processEvents()

    def key(self, key: Any, modifier: Any = NONE) -> None:
        """Press a key on the canvas."""
        QTest.keyClick(self.canvas, key, modifier)
        QApplication.processEvents()

    def px(self, n: float = 1.0) -> float:
        """Return how many level-0 pixels so many pixels of the canvas are."""
        assert self.slide is not None
        return n / self.viewer.scene.camera.zoom / (self.slide.info.mpp_x or 1.0)
