"""The box under the mouse, and the outlines of a few patches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari._layers import KEY, slide_layers, world_of, xy_of
from napari_histolatent._napari.patches import PatchOutline, SizeBox
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide
    from tests._napari.patches.conftest import Canvas

BOXES = [(10.0, 20.0, 74.0, 84.0), (100.5, 20.0, 164.5, 84.0)]
RED, BLUE = (230, 10, 20), (10, 40, 240)
GREY = 128


@pytest.fixture
def shown(viewer: Any, plain: Callable[..., Slide]) -> Slide:
    slide = plain()
    for layer in slide_layers(slide):
        add(viewer, layer)
    return slide


def with_role(viewer: Any, role: str) -> list[Any]:
    return [v for v in viewer.layers if v.metadata.get(KEY, {}).get("role") == role]


def boxes_in(layer: Any) -> np.ndarray:
    """Return the boxes a layer shows, in level-0 pixels, shape (n, 4)."""
    corners = [xy_of(np.asarray(shape)) for shape in layer.data]
    return np.array([(*v.min(axis=0), *v.max(axis=0)) for v in corners])


def move(viewer: Any, slide: Slide, place: tuple[float, float]) -> None:
    """Tell the viewer that the mouse moved to a level-0 place."""
    event = SimpleNamespace(position=world_of(place, slide.info), type="mouse_move", is_dragging=False)
    for callback in list(viewer.mouse_move_callbacks):
        callback(viewer, event)


def settle(qtbot: Any, box: SizeBox) -> None:
    qtbot.waitUntil(lambda: not box._pace.isActive(), timeout=2000)


# Outlines


def test_patches_are_outlined_in_their_colours(viewer: Any, shown: Slide, qtbot: Any) -> None:
    active = viewer.layers.selection.active
    outline = PatchOutline(viewer, shown)
    outline.clear()
    assert outline.layer is None
    assert outline.show(BOXES, [RED, BLUE]) == 2
    (layer,) = with_role(viewer, "picked")
    assert layer.name == "outlined patches of a.tiff"
    assert viewer.layers[-1] is layer
    assert viewer.layers.selection.active is active
    assert boxes_in(layer) == pytest.approx(np.array(BOXES))
    assert layer.edge_color == pytest.approx(np.array([[*RED, 255], [*BLUE, 255]]) / 255)
    outline.show(BOXES[1:], [BLUE])
    assert with_role(viewer, "picked") == [layer]
    assert boxes_in(layer) == pytest.approx(np.array(BOXES[1:]))
    outline.clear()
    assert len(layer.data) == 0
    viewer.layers.remove(layer)
    outline.show(BOXES, np.array([RED, BLUE], np.uint8))
    assert boxes_in(outline.layer) == pytest.approx(np.array(BOXES))
    outline.close()
    assert with_role(viewer, "picked") == []


def test_only_so_many_are_outlined(viewer: Any, shown: Slide, qtbot: Any) -> None:
    outline = PatchOutline(viewer, shown)
    boxes = np.array([(i, 0, i + 5, 5) for i in range(230)], float)
    assert outline.show(boxes, np.full((230, 3), 200, np.uint8)) == 200
    assert boxes_in(outline.layer)[-1] == pytest.approx((199, 0, 204, 5))
    outline.close()


def test_an_outline_is_as_thin_at_every_zoom(viewer: Any, shown: Slide, qtbot: Any) -> None:
    viewer.scene.camera.zoom = 2
    outline = PatchOutline(viewer, shown)
    outline.show(BOXES, [RED, BLUE])
    wide = outline.layer.edge_width[0]
    assert wide == pytest.approx(2 / (2 * 0.2527))
    viewer.scene.camera.zoom = 20
    qtbot.waitUntil(lambda: outline.layer.edge_width[0] == pytest.approx(wide / 10), timeout=2000)
    assert boxes_in(outline.layer) == pytest.approx(np.array(BOXES))
    outline.close()


# The box under the mouse


def test_the_box_follows_the_mouse(viewer: Any, shown: Slide, qtbot: Any) -> None:
    active, before = viewer.layers.selection.active, list(viewer.mouse_move_callbacks)
    size_box = SizeBox(viewer)
    move(viewer, shown, (300, 200))
    assert not size_box.is_on
    size_box.switch_on(shown, size_level0_xy=(64.0, 50.0))
    assert with_role(viewer, "size box") == [], "there is no mouse yet"
    move(viewer, shown, (300.2, 200.2))
    # The corner on a whole pixel, as that of a patch that is cut there.
    assert size_box.box == (268, 175, 332, 225)
    (layer,) = with_role(viewer, "size box")
    assert boxes_in(layer) == pytest.approx(np.array([size_box.box]))
    assert viewer.layers.selection.active is active
    settle(qtbot, size_box)
    size_box.set_size((20.0, 20.0))
    assert boxes_in(layer) == pytest.approx(np.array([(290, 190, 310, 210)]))
    settle(qtbot, size_box)
    size_box.set_color(RED)
    assert layer.edge_color[0] == pytest.approx(np.array([*RED, 255]) / 255)
    size_box.switch_off()
    assert with_role(viewer, "size box") == []
    assert list(viewer.mouse_move_callbacks) == before
    assert size_box.box is None
    size_box.set_size((10.0, 10.0))
    assert with_role(viewer, "size box") == []


def test_of_many_moves_at_once_the_last_is_drawn(viewer: Any, shown: Slide, qtbot: Any) -> None:
    size_box = SizeBox(viewer)
    size_box.switch_on(shown, size_level0_xy=(10.0, 10.0))
    drawn = []
    move(viewer, shown, (100, 100))
    size_box.layer.events.set_data.connect(lambda: drawn.append(size_box.box))
    for x in range(101, 140):
        move(viewer, shown, (x, 100))
    assert drawn == []
    qtbot.waitUntil(lambda: size_box.box == (134, 95, 144, 105), timeout=2000)
    assert boxes_in(size_box.layer) == pytest.approx(np.array([(134, 95, 144, 105)]))
    assert set(drawn) == {(134, 95, 144, 105)}
    size_box.switch_off()


def test_the_box_snaps_and_may_be_nowhere(viewer: Any, shown: Slide, qtbot: Any) -> None:
    def snap(xy: tuple[float, float]) -> tuple[float, float, float, float] | None:
        column, row = (int(v // 50) for v in xy)
        return (column * 50, row * 50, column * 50 + 60, row * 50 + 60) if column < 4 else None

    size_box = SizeBox(viewer)
    size_box.switch_on(shown, size_level0_xy=(10.0, 10.0), snap=snap)
    move(viewer, shown, (120, 60))
    assert boxes_in(size_box.layer) == pytest.approx(np.array([(100, 50, 160, 110)]))
    settle(qtbot, size_box)
    move(viewer, shown, (220, 60))
    assert size_box.box is None
    assert len(size_box.layer.data) == 0
    settle(qtbot, size_box)
    size_box.switch_on(shown, size_level0_xy=(10.0, 10.0))
    assert size_box.box == (215, 55, 225, 65), "without a grid it is where the mouse is"
    size_box.switch_off()


def test_the_box_survives_its_layer_and_changes_slides(
    viewer: Any, shown: Slide, plain: Callable[..., Slide], qtbot: Any
) -> None:
    size_box = SizeBox(viewer)
    size_box.switch_on(shown, size_level0_xy=(10.0, 10.0))
    move(viewer, shown, (100, 100))
    viewer.layers.remove(size_box.layer)
    settle(qtbot, size_box)
    move(viewer, shown, (120, 100))
    assert boxes_in(size_box.layer) == pytest.approx(np.array([(115, 95, 125, 105)]))
    other = plain("b")
    for layer in slide_layers(other):
        add(viewer, layer)
    size_box.switch_on(other, size_level0_xy=(10.0, 10.0))
    settle(qtbot, size_box)
    move(viewer, other, (130, 100))
    (layer,) = with_role(viewer, "size box")
    assert layer.metadata[KEY]["slide_digest"] == "b" * 64
    viewer.layers.remove(viewer.layers["b.tiff"])
    qtbot.waitUntil(lambda: with_role(viewer, "size box") == [], timeout=2000)
    move(viewer, other, (140, 100))
    settle(qtbot, size_box)
    assert with_role(viewer, "size box") == []
    size_box.switch_off()


@pytest.mark.gui
def test_the_box_is_seen_under_the_mouse(canvas: Canvas, plain: Callable[..., Slide], qtbot: Any) -> None:
    slide = plain()
    canvas.show(slide)
    viewer = canvas.viewer
    active = viewer.layers.selection.active
    size_box = SizeBox(viewer)
    size_box.set_color(RED)
    size_box.switch_on(slide, size_level0_xy=(100.0, 80.0))
    for place in ((150, 120), (420, 260)):
        settle(qtbot, size_box)
        canvas.hover(place)
        settle(qtbot, size_box)
        assert size_box.box is not None
        left, top, right, bottom = size_box.box
        # Within a canvas pixel of the mouse.
        assert abs((left + right) / 2 - place[0]) <= 1.5
        pixels = canvas.see()
        red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
        rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
        at, to = canvas.at((left, top)), canvas.at((right, bottom))
        assert np.abs([columns[0] - at.x(), columns[-1] - to.x()]).max() <= 2
        assert np.abs([rows[0] - at.y(), rows[-1] - to.y()]).max() <= 2
        assert canvas.color_at(place, pixels) == pytest.approx([GREY] * 3, abs=2)
    assert viewer.layers.selection.active is active
    # The mouse still moves the view.
    centre = viewer.scene.camera.center
    canvas.drag([(300, 200), (340, 220), (380, 240)])
    assert viewer.scene.camera.center != centre
    size_box.switch_off()
    pixels = canvas.see()
    assert not ((pixels[..., 0] > 180) & (pixels[..., 1] < 90)).any()
