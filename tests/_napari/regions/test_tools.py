"""The drawing tools as state machines: no window, no layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely.geometry import Polygon

from napari_histolatent._napari.regions import HINTS, TOOL_NAMES
from napari_histolatent._napari.regions._tools import make_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent._napari.regions._tools import Drawn, Point, Tool


def tool_of(name: str, radius: float = 10.0) -> Tool:
    return make_tool(name, brush_radius_px=radius)


def press(tool: Tool, *points: Point, near_px: float = 4.0) -> Drawn | None:
    drawn = None
    for xy in points:
        assert drawn is None
        drawn = tool.press(xy, near_px=near_px)
    return drawn


def drag(tool: Tool, points: Sequence[Point], *, keeps_ratio: bool = False) -> Drawn | None:
    assert tool.press(points[0], near_px=4.0) is None
    for xy in points[1:]:
        tool.drag(xy, keeps_ratio=keeps_ratio)
    return tool.release()


def test_there_is_a_tool_and_a_hint_for_each_name() -> None:
    assert set(HINTS) == set(TOOL_NAMES)
    assert [tool_of(name).name for name in TOOL_NAMES] == list(TOOL_NAMES)
    with pytest.raises(ValueError, match="lasso"):
        tool_of("lasso")


@pytest.mark.parametrize("name", TOOL_NAMES)
def test_a_tool_that_was_not_used_has_nothing_to_show_or_hand_out(name: str) -> None:
    tool = tool_of(name)
    assert tool.preview() is None
    assert not tool.take_back()
    assert tool.finish() is None
    tool.cancel()
    assert tool.preview() is None


# Polygon


CORNERS = [(0.0, 0.0), (100.0, 0.0), (100.0, 80.0), (0.0, 80.0)]


def test_a_polygon_is_closed_by_enter() -> None:
    tool = tool_of("polygon")
    assert tool.pans
    assert press(tool, *CORNERS) is None
    drawn = tool.finish()
    assert drawn is not None
    assert (drawn.tool, drawn.points.tolist()) == ("polygon", [list(p) for p in CORNERS])
    assert tool.preview() is None
    assert tool.finish() is None, "it is handed out once"


@pytest.mark.parametrize(("last", "closes"), [((3.0, 2.0), True), ((0.0, 4.0), True), ((3.0, 3.0), False)])
def test_a_click_near_the_first_corner_closes(last: Point, closes: bool) -> None:
    tool = tool_of("polygon")
    drawn = press(tool, *CORNERS, last, near_px=4.0)
    assert (drawn is not None) == closes
    if drawn is not None:
        assert drawn.points.tolist() == [list(p) for p in CORNERS]


def test_the_first_corner_does_not_close_what_has_no_area_yet() -> None:
    tool = tool_of("polygon")
    assert press(tool, (0, 0), (100, 0), (1, 1)) is None
    assert tool.take_back()
    assert tool.finish() is None, "two corners are no polygon"
    assert press(tool, (100, 80)) is None
    drawn = tool.finish()
    assert drawn is not None
    assert len(drawn.points) == 3


def test_the_second_press_of_a_double_click_is_no_corner() -> None:
    tool = tool_of("polygon")
    press(tool, *CORNERS, (0.0, 80.0), (0.5, 80.5))
    drawn = tool.finish()
    assert drawn is not None
    assert drawn.points.tolist() == [list(p) for p in CORNERS]


def test_corners_are_taken_back_one_by_one() -> None:
    tool = tool_of("polygon")
    press(tool, *CORNERS)
    assert tool.take_back()
    press(tool, (50.0, 120.0))
    drawn = tool.finish()
    assert drawn is not None
    assert drawn.points.tolist() == [[0, 0], [100, 0], [100, 80], [50, 120]]
    press(tool, *CORNERS[:2])
    assert [tool.take_back() for _ in range(3)] == [True, True, False]
    assert tool.preview() is None


def test_a_polygon_shows_the_edge_to_the_mouse() -> None:
    tool = tool_of("polygon")
    tool.hover((9.0, 9.0))
    assert tool.preview() is None
    press(tool, (0.0, 0.0))
    tool.hover((30.0, 40.0))
    shown = tool.preview()
    assert shown is not None
    assert shown[0] == "path"
    assert shown[1].tolist() == [[0, 0], [30, 40]]
    tool.cancel()
    assert tool.preview() is None
    tool.drag((5, 5), keeps_ratio=False)
    assert tool.release() is None, "dragging moves the view"


# Drags


def test_freehand_is_the_path_of_the_mouse() -> None:
    tool = tool_of("freehand")
    assert not tool.pans
    path = [(0.0, 0.0), (10.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)]
    drawn = drag(tool, path)
    assert drawn is not None
    assert drawn.points.tolist() == [[0, 0], [10, 0], [10, 10], [0, 10]]


@pytest.mark.parametrize("path", [[(5.0, 5.0)], [(5.0, 5.0), (5.0, 5.0)], [(5.0, 5.0), (6.0, 5.0)]])
@pytest.mark.parametrize("name", ["freehand", "rectangle", "ellipse", "split", "measure"])
def test_a_click_draws_nothing(name: str, path: list[Point]) -> None:
    tool = tool_of(name)
    drawn = drag(tool, path)
    if name == "freehand" or (name == "split" and len(set(path)) == 1):
        assert drawn is None
    elif drawn is not None and name in ("rectangle", "ellipse"):
        assert Polygon(drawn.points).area == 0, "the dock says that it encloses nothing"
    elif drawn is not None:
        assert np.ptp(drawn.points, axis=0).max() == len(set(path)) - 1
    assert tool.preview() is None
    assert tool.release() is None


@pytest.mark.parametrize("end", [(60.0, 40.0), (-60.0, 40.0), (60.0, -40.0), (-60.0, -40.0)])
def test_a_box_is_drawn_towards_any_corner(end: Point) -> None:
    drawn = drag(tool_of("rectangle"), [(10, 10), (20, 20), (10 + end[0], 10 + end[1])])
    assert drawn is not None
    assert Polygon(drawn.points).area == pytest.approx(2400)
    assert Polygon(drawn.points).bounds == pytest.approx(
        (min(10, 10 + end[0]), min(10, 10 + end[1]), max(10, 10 + end[0]), max(10, 10 + end[1]))
    )
    square = drag(tool_of("rectangle"), [(10, 10), (10 + end[0], 10 + end[1])], keeps_ratio=True)
    assert square is not None
    left, top, right, bottom = Polygon(square.points).bounds
    assert (right - left, bottom - top) == pytest.approx((60, 60))
    assert (right > 10) == (end[0] > 0)
    assert (bottom > 10) == (end[1] > 0)


def test_an_ellipse_fills_its_box_and_a_circle_with_shift() -> None:
    drawn = drag(tool_of("ellipse"), [(0, 0), (80, 40)])
    assert drawn is not None
    assert Polygon(drawn.points).area == pytest.approx(np.pi * 40 * 20, rel=0.002)
    assert Polygon(drawn.points).bounds == pytest.approx((0, 0, 80, 40), abs=0.1)
    circle = drag(tool_of("ellipse"), [(0, 0), (80, 40)], keeps_ratio=True)
    assert circle is not None
    assert Polygon(circle.points).bounds == pytest.approx((0, 0, 80, 80), abs=0.2)


def test_a_box_shows_what_it_will_be() -> None:
    tool = tool_of("rectangle")
    tool.press((0, 0), near_px=4)
    assert tool.preview() is None
    tool.drag((30, 20), keeps_ratio=False)
    shown = tool.preview()
    assert shown is not None
    assert shown[0] == "polygon"
    assert Polygon(shown[1]).area == 600
    tool.cancel()
    assert tool.release() is None


def test_a_brush_leaves_out_steps_that_do_not_show() -> None:
    tool = tool_of("brush_add", radius=10.0)
    drawn = drag(tool, [(0, 0), (0.5, 0), (0.9, 0), (1.5, 0), (1.6, 0), (40, 0)])
    assert drawn is not None
    assert drawn.tool == "brush_add"
    assert drawn.points.tolist() == [[0, 0], [1.5, 0], [40, 0]]


def test_a_click_of_a_brush_is_a_dot() -> None:
    drawn = drag(tool_of("brush_subtract"), [(7, 8)])
    assert drawn is not None
    assert drawn.points.tolist() == [[7, 8]]


def test_a_brush_shows_its_size_where_the_mouse_is() -> None:
    tool = tool_of("brush_add", radius=10.0)
    tool.hover((100, 50))
    shown = tool.preview()
    assert shown is not None
    assert Polygon(shown[1]).bounds == pytest.approx((90, 40, 110, 60), abs=0.01)


def test_a_split_follows_the_mouse_and_a_measure_is_straight() -> None:
    path = [(0.0, 0.0), (10.0, 50.0), (100.0, 0.0)]
    split = drag(tool_of("split"), path)
    measure = drag(tool_of("measure"), path)
    assert split is not None
    assert measure is not None
    assert split.points.tolist() == [[0, 0], [10, 50], [100, 0]]
    assert measure.points.tolist() == [[0, 0], [100, 0]]


def test_a_pick_is_a_click() -> None:
    tool = tool_of("pick")
    assert tool.pans
    drawn = press(tool, (3.5, 4.5))
    assert drawn is not None
    assert (drawn.tool, drawn.points.tolist()) == ("pick", [[3.5, 4.5]])
    assert tool.preview() is None


@pytest.mark.parametrize("name", ["freehand", "rectangle", "ellipse", "brush_add", "split", "measure"])
def test_giving_up_in_the_middle_of_a_drag_draws_nothing(name: str) -> None:
    tool = make_tool(name, brush_radius_px=5)
    tool.press((0, 0), near_px=1)
    tool.drag((50, 40), keeps_ratio=False)
    assert tool.has_begun
    tool.cancel()
    assert not tool.has_begun
    tool.drag((60, 50), keeps_ratio=False)
    assert tool.release() is None
