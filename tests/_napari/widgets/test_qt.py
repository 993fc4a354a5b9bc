from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QLineEdit, QPushButton

from napari_histolatent._napari.widgets._qt import ScrollingDock, note, pixmap_of, row, section

if TYPE_CHECKING:
    from collections.abc import Callable


def pixels_of(pixmap: Any) -> np.ndarray:
    image = pixmap.toImage()
    colors = [
        [image.pixelColor(x, y).getRgb()[:3] for x in range(image.width())] for y in range(image.height())
    ]
    return np.array(colors, np.uint8)


@pytest.mark.parametrize("shape", [(5, 7), (8, 8), (1, 3)])
def test_a_pixmap_has_the_pixels_it_was_made_of(
    qtbot: Any, noise: Callable[..., np.ndarray], shape: tuple[int, int]
) -> None:
    pixels = noise(*shape)
    assert np.array_equal(pixels_of(pixmap_of(pixels)), pixels)


def test_a_view_of_pixels_is_no_trouble(qtbot: Any, noise: Callable[..., np.ndarray]) -> None:
    pixels = noise(8, 12)[::-2, ::3]
    assert np.array_equal(pixels_of(pixmap_of(pixels)), pixels)


def test_pixels_are_enlarged_without_smoothing(qtbot: Any, noise: Callable[..., np.ndarray]) -> None:
    pixels = noise(4, 8)
    enlarged = pixels_of(pixmap_of(pixels, 32))
    assert np.array_equal(enlarged, pixels.repeat(4, axis=0).repeat(4, axis=1))


def test_a_pixmap_outlives_its_pixels(qtbot: Any, noise: Callable[..., np.ndarray]) -> None:
    pixels = noise(16, 16)
    kept = pixels.copy()
    pixmap = pixmap_of(pixels)
    pixels[:] = 0
    assert np.array_equal(pixels_of(pixmap), kept)


def test_a_section_holds_its_widgets_in_order(qtbot: Any) -> None:
    widgets = [QLabel("a"), QPushButton("b")]
    box = section("Title", *widgets)
    qtbot.addWidget(box)
    assert box.title() == "Title"
    assert [box.layout().itemAt(i).widget() for i in range(2)] == widgets


def test_one_widget_of_a_row_takes_the_room(qtbot: Any) -> None:
    line, button = QLineEdit(), QPushButton("b")
    box = row(line, button, stretch=0)
    qtbot.addWidget(box)
    assert [box.layout().stretch(i) for i in range(2)] == [1, 0]
    even = row(QPushButton("a"), QPushButton("b"))
    qtbot.addWidget(even)
    assert [even.layout().stretch(i) for i in range(2)] == [1, 1]


def test_a_note_wraps_and_can_be_copied(qtbot: Any) -> None:
    label = note("a long sentence")
    qtbot.addWidget(label)
    assert label.wordWrap()
    assert label.textInteractionFlags() & Qt.TextInteractionFlag.TextSelectableByMouse


def test_a_dock_that_is_too_low_scrolls(qtbot: Any) -> None:
    tall = QLabel("tall")
    tall.setMinimumHeight(2000)
    dock = ScrollingDock(tall, QPushButton("below"))
    qtbot.addWidget(dock)
    dock.resize(dock.sizeHint().width(), 400)
    with qtbot.waitExposed(dock):
        dock.show()
    assert dock.verticalScrollBar().maximum() > 0
    assert not dock.horizontalScrollBar().isVisible()
    assert dock.minimumSizeHint().height() < 400
