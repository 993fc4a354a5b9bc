"""A tool on the canvas of a real window, with real mouse events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from shapely.geometry import Polygon

from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari.regions import DrawingBoard
from tests._napari.regions.hand import SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_histolatent._napari.regions import Drawn
    from napari_histolatent.slides import Slide
    from tests._napari.regions.hand import Hand

pytestmark = pytest.mark.gui

CORNERS = [(200.0, 150.0), (600.0, 150.0), (600.0, 500.0), (200.0, 500.0)]


@pytest.fixture
def drawn(hand: Hand, slide: Slide) -> list[Drawn]:
    """What was handed out."""
    hand.show(slide)
    return []


@pytest.fixture
def board(window: Any, drawn: list[Drawn]) -> Iterator[DrawingBoard]:
    made = DrawingBoard(window, drawn.append)
    yield made
    made.put_down()


def scratch(window: Any) -> list[Any]:
    """The layer of what is being drawn, if there is anything in it."""
    layers = [v for v in window.layers if v.metadata.get(KEY, {}).get("role") == "drawing"]
    assert len(layers) <= 1
    return [v for v in layers if len(v.data)]


def view(window: Any) -> tuple[Any, ...]:
    return (*window.scene.camera.center, window.scene.camera.zoom)


def test_a_polygon_is_drawn_with_clicks(
    hand: Hand, board: DrawingBoard, window: Any, slide: Slide, drawn: list[Drawn]
) -> None:
    board.use("polygon", slide.info, brush_radius_px=10)
    before, active = view(window), window.layers.selection.active
    hand.click(*CORNERS)
    assert len(scratch(window)) == 1
    assert len(scratch(window)[0].data) == 1, "one shape, however many corners"
    assert window.layers.selection.active is active
    hand.click(CORNERS[0])
    (made,) = drawn
    assert made.tool == "polygon"
    assert made.points == pytest.approx(np.array(CORNERS), abs=hand.px(1))
    assert scratch(window) == []
    assert view(window) == before, "clicks do not move the view"
    hand.click(*CORNERS[:3])
    hand.double_click(CORNERS[3])
    assert len(drawn) == 2
    assert drawn[1].points == pytest.approx(np.array(CORNERS), abs=hand.px(1))
    assert view(window) == before, "a double click closes, and does not zoom"


def test_the_view_is_dragged_between_two_corners(
    hand: Hand, board: DrawingBoard, window: Any, slide: Slide, drawn: list[Drawn]
) -> None:
    board.use("polygon", slide.info, brush_radius_px=10)
    hand.click(*CORNERS[:2])
    before = view(window)
    hand.drag([(400, 300), (420, 300), (440, 310), (460, 320)])
    assert view(window)[:3] != before[:3]
    hand.click(*CORNERS[2:])
    assert board.finish()
    assert drawn[0].points == pytest.approx(np.array(CORNERS), abs=hand.px(1.5))


def test_corners_are_taken_back_and_given_up(
    hand: Hand, board: DrawingBoard, window: Any, slide: Slide, drawn: list[Drawn]
) -> None:
    board.use("polygon", slide.info, brush_radius_px=10)
    hand.click(*CORNERS)
    assert board.take_back()
    hand.hover((300, 620))
    assert len(scratch(window)[0].data[0]) == 4, "three corners and the mouse"
    assert board.finish()
    assert len(drawn[0].points) == 3
    hand.click(*CORNERS)
    assert board.cancel()
    assert scratch(window) == []
    assert not board.cancel()
    assert not board.finish()
    assert not board.take_back()
    assert len(drawn) == 1


@pytest.mark.parametrize("name", ["freehand", "split", "brush_add", "brush_subtract"])
def test_a_drag_is_the_path_of_the_mouse(
    hand: Hand, board: DrawingBoard, window: Any, slide: Slide, drawn: list[Drawn], name: str
) -> None:
    board.use(name, slide.info, brush_radius_px=10)
    before = view(window)
    angles = np.linspace(0, 1.8 * np.pi, 24)
    path = [(float(400 + 150 * np.cos(a)), float(300 + 150 * np.sin(a))) for a in angles]
    hand.drag(path)
    (made,) = drawn
    assert made.tool == name
    assert len(made.points) >= 20
    assert made.points[0] == pytest.approx(path[0], abs=hand.px(1))
    assert made.points[-1] == pytest.approx(path[-1], abs=hand.px(1))
    assert np.hypot(*(made.points - (400, 300)).T) == pytest.approx(150, abs=hand.px(1.5))
    assert view(window) == before, "the view stays while it is drawn"


@pytest.mark.parametrize("name", ["rectangle", "ellipse"])
def test_a_box_is_drawn_and_a_square_with_shift(
    hand: Hand, board: DrawingBoard, slide: Slide, drawn: list[Drawn], name: str
) -> None:
    board.use(name, slide.info, brush_radius_px=10)
    hand.drag([(200, 200), (300, 250), (500, 350)])
    hand.drag([(200, 200), (300, 250), (500, 350)], modifier=SHIFT)
    near = hand.px(2)
    assert Polygon(drawn[0].points).bounds == pytest.approx((200, 200, 500, 350), abs=near)
    assert Polygon(drawn[1].points).bounds == pytest.approx((200, 200, 500, 500), abs=near)


def test_a_measure_is_a_straight_line(
    hand: Hand, board: DrawingBoard, slide: Slide, drawn: list[Drawn]
) -> None:
    board.use("measure", slide.info, brush_radius_px=10)
    hand.drag([(100, 100), (150, 300), (400, 100)])
    assert drawn[0].points == pytest.approx(np.array([(100, 100), (400, 100)]), abs=hand.px(1))


def test_another_button_draws_nothing(
    hand: Hand, board: DrawingBoard, window: Any, slide: Slide, drawn: list[Drawn], qtbot: Any
) -> None:
    board.use("polygon", slide.info, brush_radius_px=10)
    qtbot.mouseClick(hand.canvas, Qt.MouseButton.MiddleButton, pos=hand.at((300, 300)))
    assert not board.take_back()
    assert drawn == []


def test_the_brush_shows_its_size_before_it_is_used(
    hand: Hand, board: DrawingBoard, window: Any, slide: Slide
) -> None:
    board.use("brush_add", slide.info, brush_radius_px=40)
    board.set_color((10, 20, 30))
    hand.hover((300, 300))
    (layer,) = scratch(window)
    assert np.ptp(layer.data[0], axis=0) == pytest.approx([80, 80], abs=1)
    assert layer.edge_color[0][:3] == pytest.approx(np.array((10, 20, 30)) / 255)
    board.set_brush_radius(60)
    assert np.ptp(layer.data[0], axis=0) == pytest.approx([120, 120], abs=1)
    board.put_down()
    assert scratch(window) == []


@pytest.mark.parametrize("name", ["polygon", "freehand"])
def test_the_viewer_is_as_before_once_the_tool_is_put_down(
    hand: Hand, board: DrawingBoard, window: Any, slide: Slide, drawn: list[Drawn], name: str
) -> None:
    lists = (window.mouse_drag_callbacks, window.mouse_move_callbacks, window.mouse_double_click_callbacks)
    before = [list(callbacks) for callbacks in lists]
    assert any("zoom" in callback.__name__ for callback in before[2]), "napari zooms on a double click"
    board.use(name, slide.info, brush_radius_px=10)
    board.use("split", slide.info, brush_radius_px=10)
    board.use(name, slide.info, brush_radius_px=10)
    assert board.tool == name
    hand.click(CORNERS[0], CORNERS[1])
    board.use("", None, brush_radius_px=10)
    assert board.tool == ""
    assert [list(callbacks) for callbacks in lists] == before
    assert window.scene.camera.mouse_pan
    assert scratch(window) == []
    center = view(window)
    hand.drag([(400, 300), (430, 300), (460, 320), (480, 330)])
    assert view(window)[:3] != center[:3]
    zoom = view(window)[3]
    hand.double_click((400, 300))
    hand.qtbot.waitUntil(lambda: view(window)[3] > 1.5 * zoom, timeout=3000)
    assert drawn == []


def test_a_scratch_layer_that_the_user_removes_comes_back(
    hand: Hand, board: DrawingBoard, window: Any, slide: Slide, drawn: list[Drawn]
) -> None:
    board.use("polygon", slide.info, brush_radius_px=10)
    hand.click(*CORNERS[:2])
    window.layers.remove(scratch(window)[0])
    hand.click(*CORNERS[2:])
    assert len(scratch(window)) == 1
    assert board.finish()
    assert len(drawn[0].points) == 4
