from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_histolatent._napari.widgets.minimap import (
    LEAST_BOX_PX,
    MAX_HEIGHT_PX,
    MapPlace,
    Minimap,
    box_on_map,
    centre_of,
    centred_at,
    place_of,
    within,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LEFT = Qt.MouseButton.LeftButton
SIZE = (30_000, 20_000)
PLACE = MapPlace(10, 20, 300, 200, SIZE)  # 100 slide pixels per screen pixel


@pytest.mark.parametrize("size", [SIZE, (1, 1), (500, 90_000), (90_000, 500)])
def test_the_map_is_as_large_as_fits_and_keeps_the_aspect(size: tuple[int, int]) -> None:
    place = place_of(size, (320, 220))
    assert place is not None
    assert place.width / place.height == pytest.approx(size[0] / size[1])
    assert place.width <= 320
    assert place.height <= 220
    assert place.width == pytest.approx(320) or place.height == pytest.approx(220)
    assert place.to_map(size[0] / 2, size[1] / 2) == pytest.approx((160, 110)), "in the middle"


@pytest.mark.parametrize(("size", "area"), [((0, 0), (320, 220)), (SIZE, (0, 220)), (SIZE, (320, 0))])
def test_without_a_slide_or_room_there_is_no_place(size: tuple[int, int], area: tuple[int, int]) -> None:
    assert place_of(size, area) is None


def test_there_and_back_again() -> None:
    assert PLACE.to_map(0, 0) == (10, 20)
    assert PLACE.to_map(*SIZE) == (310, 220)
    assert PLACE.to_level0(160, 120) == (15_000, 10_000)
    assert PLACE.to_level0(*PLACE.to_map(123.5, 4567.8)) == pytest.approx((123.5, 4567.8))
    assert PLACE.contains(10, 20)
    assert not PLACE.contains(9, 20)
    assert not PLACE.contains(10, 221)


@pytest.mark.parametrize(
    ("box", "drawn"),
    [
        ((3_000, 2_000, 9_000, 8_000), (40, 40, 100, 100)),
        ((-5_000, -5_000, 40_000, 40_000), (10, 20, 310, 220)),
        ((-5_000, 2_000, 9_000, 8_000), (10, 40, 100, 100)),
        ((15_000, 10_000, 15_000, 10_000), (155.5, 115.5, 164.5, 124.5)),
        ((0, 0, 10, 10), (10, 20, 19, 29)),
        ((90_000, 90_000, 99_000, 99_000), (301, 211, 310, 220)),
        ((-9_000, -9_000, -5_000, -5_000), (10, 20, 19, 29)),
    ],
    ids=["inside", "all around", "over an edge", "a point", "in a corner", "beyond", "before"],
)
def test_a_box_is_clipped_and_never_too_small_to_see(box: Any, drawn: Any) -> None:
    assert box_on_map(PLACE, box) == pytest.approx(drawn)


def test_on_a_thin_map_the_smallest_box_is_as_thin() -> None:
    assert box_on_map(MapPlace(0, 0, 300, 4, (75_000, 1_000)), (0, 0, 1, 1)) == (0, 0, LEAST_BOX_PX, 4)


def test_a_box_moves_without_a_change_of_size() -> None:
    assert centre_of((0, 0, 10, 20)) == (5, 10)
    assert centred_at((0, 0, 10, 20), (100, 100)) == (95, 90, 105, 110)
    assert within(SIZE, (-1, 20_001)) == (0, 20_000)


@pytest.fixture
def minimap(qtbot: Any, noise: Callable[..., np.ndarray]) -> Minimap:
    """A map of 300 by 200 screen pixels, 100 slide pixels each."""
    widget = Minimap()
    qtbot.addWidget(widget)
    widget.set_picture(noise(40, 60), SIZE)
    widget.resize(300, 200)
    widget.show()
    qtbot.waitExposed(widget)
    return widget


@pytest.fixture
def told(minimap: Minimap) -> list[tuple[float, float]]:
    """What the map asks for."""
    points: list[tuple[float, float]] = []
    minimap.centre_requested.connect(lambda x, y: points.append((x, y)))
    return points


def test_its_height_follows_the_slide_within_bounds(minimap: Minimap) -> None:
    assert minimap.heightForWidth(300) == 200
    assert minimap.heightForWidth(600) == MAX_HEIGHT_PX
    minimap.set_picture(None, (0, 0))
    assert minimap.heightForWidth(300) == 0


def test_a_press_beside_the_box_lets_it_jump_there(qtbot: Any, minimap: Minimap, told: list[Any]) -> None:
    minimap.set_box(0, 0, 6_000, 4_000)
    qtbot.mouseClick(minimap, LEFT, pos=QPoint(150, 100))
    assert told == [(15_000, 10_000)]
    assert minimap.box == (12_000, 8_000, 18_000, 12_000)


def test_a_box_is_dragged_by_where_it_was_gripped(qtbot: Any, minimap: Minimap, told: list[Any]) -> None:
    minimap.set_box(10_000, 10_000, 16_000, 14_000)  # its middle is at (130, 120) on the screen
    qtbot.mousePress(minimap, LEFT, pos=QPoint(150, 110))
    assert told == [], "to grip is not to move"
    for x, y in ((160, 110), (170, 100)):
        qtbot.mouseMove(minimap, QPoint(x, y))
    assert told == [(14_000, 12_000), (15_000, 11_000)]
    qtbot.mouseRelease(minimap, LEFT, pos=QPoint(170, 100))
    qtbot.mouseMove(minimap, QPoint(20, 20))
    assert len(told) == 2
    assert minimap.box == (12_000, 9_000, 18_000, 13_000)


def test_a_drag_ends_at_the_edge_of_the_slide(qtbot: Any, minimap: Minimap, told: list[Any]) -> None:
    minimap.set_box(10_000, 8_000, 12_000, 10_000)
    qtbot.mousePress(minimap, LEFT, pos=QPoint(110, 90))
    qtbot.mouseMove(minimap, QPoint(-40, 400))
    qtbot.mouseMove(minimap, QPoint(-50, 500))
    assert told == [(0, 20_000)], "once: the second move changes nothing"


def test_only_the_left_button_on_the_picture_asks(qtbot: Any, minimap: Minimap, told: list[Any]) -> None:
    minimap.resize(500, 200)
    minimap.set_box(0, 0, 10, 10)
    qtbot.mouseClick(minimap, Qt.MouseButton.RightButton, pos=QPoint(250, 100))
    qtbot.mouseClick(minimap, LEFT, pos=QPoint(50, 100))
    assert told == []


@pytest.mark.parametrize(
    ("key", "centre"),
    [
        (Qt.Key.Key_Left, (14_000, 10_000)),
        (Qt.Key.Key_Right, (16_000, 10_000)),
        (Qt.Key.Key_Up, (15_000, 9_500)),
        (Qt.Key.Key_Down, (15_000, 10_500)),
    ],
)
def test_an_arrow_key_moves_by_a_quarter_of_the_box(
    qtbot: Any, minimap: Minimap, told: list[Any], key: Any, centre: Any
) -> None:
    qtbot.keyClick(minimap, key)
    assert told == [], "there is no box yet"
    minimap.set_box(13_000, 9_000, 17_000, 11_000)
    qtbot.keyClick(minimap, key)
    qtbot.keyClick(minimap, Qt.Key.Key_A)
    assert told == [centre]


def test_setters_ask_for_nothing(minimap: Minimap, told: list[Any], noise: Callable[..., np.ndarray]) -> None:
    minimap.set_box(0, 0, 100, 100)
    minimap.set_picture(noise(10, 10), (100, 100))
    assert minimap.box is None, "it was another slide's"
    assert told == []


def test_the_picture_of_a_slide_may_come_after_the_box(
    minimap: Minimap, noise: Callable[..., np.ndarray]
) -> None:
    minimap.set_box(0, 0, 100, 100)
    minimap.set_picture(noise(10, 10), SIZE)
    assert minimap.box == (0, 0, 100, 100)


def test_the_box_is_drawn_over_the_picture_and_nothing_beside_it(minimap: Minimap) -> None:
    minimap.set_picture(np.full((40, 60, 3), 255, np.uint8), SIZE)
    minimap.resize(400, 200)  # 50 screen pixels stay empty on either side
    minimap.set_box(-9_000, 5_000, -8_000, 15_000)
    image = minimap.grab().toImage()
    outside = minimap.palette().color(minimap.backgroundRole()).rgb()
    assert {image.pixel(x, y) for x in range(49) for y in range(200)} == {outside}
    assert image.pixelColor(51, 100).name() == "#ffd400" or image.pixelColor(52, 100).name() == "#000000"
    assert image.pixelColor(200, 100).name() == "#ffffff"


def test_it_says_what_it_is(minimap: Minimap) -> None:
    assert minimap.accessibleName()
    assert minimap.toolTip() == "Drag the box to move the view"
