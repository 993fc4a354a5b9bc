"""The Edit dock by real mouse clicks in a real window: pick, search, flip, slider, heatmap, wipe, side by side.

HISTOLATENT_SCREENSHOTS names a folder for the pictures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_histolatent._napari._layers import KEY, slide_layer, world_of
from napari_histolatent._napari.widgets.collapsible import Collapsible
from napari_histolatent._napari.widgets.edit_view import EditView
from napari_histolatent.latent.search_options import OWN_STEPS, SearchOptions
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_histolatent.slides import Slide
    from tests._napari.conftest import Trained

ROOT = Path(__file__).parents[2]
LEFT = Qt.MouseButton.LeftButton
PLACE_XY = (120.5, 200.5)


@pytest.fixture(autouse=True)
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EditView, "options", lambda _: SearchOptions(steps=3))
    monkeypatch.setitem(OWN_STEPS, "fast", 2)


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1280, 900)
        yield viewer


@pytest.fixture
def dock(qtbot: Any, window: Any, slide: Slide, listed: Trained) -> Any:
    add(window, slide_layer(slide))
    window.reset_view()
    _, widget = window.window.add_plugin_dock_widget("napari-histolatent", "Edit")
    qtbot.waitUntil(lambda: widget.binding.models is not None, timeout=60_000)
    return widget


@pytest.fixture
def picture(qtbot: Any, window: Any, tmp_path: Path) -> Callable[[str], None]:
    folder = Path(os.environ.get("HISTOLATENT_SCREENSHOTS", tmp_path))

    def take(name: str) -> None:
        qtbot.wait(200)
        folder.mkdir(parents=True, exist_ok=True)
        window.screenshot(str(folder / f"edit-{name}.png"), canvas_only=False, flash=False)

    return take


def press(qtbot: Any, dock: Any, widget: Any, *, at: float | None = None) -> None:
    """Scroll the dock to a control and click it: at its middle, or at a share of its width."""
    dock.ensureWidgetVisible(widget)
    qtbot.wait(20)
    where = widget.rect().center()
    if at is not None:
        where = QPoint(round(at * widget.width()), where.y())
    elif hasattr(widget, "isCheckable") and widget.isCheckable():
        where = QPoint(8, where.y())  # a tick box is wider than its words
    qtbot.mouseClick(widget, LEFT, pos=where)


def unfold(qtbot: Any, dock: Any, title: str) -> None:
    """Open a part of the dock by a click on its title."""
    (part,) = [part for part in dock.findChildren(Collapsible) if part.text() == title]
    assert not part.isExpanded()
    press(qtbot, dock, part.toggleButton())
    qtbot.waitUntil(part.isExpanded)
    qtbot.wait(300)  # it opens slowly


def enter(qtbot: Any, dock: Any, line: Any, words: str) -> None:
    """Click a line and type."""
    press(qtbot, dock, line)
    line.selectAll()
    qtbot.keyClicks(line, words)


def click_on_slide(qtbot: Any, viewer: Any, slide: Slide, level0_xy: tuple[float, float]) -> None:
    canvas, camera = viewer.window._qt_viewer.canvas, viewer.scene.camera
    width, height = canvas._scene_canvas.size
    world = np.array(world_of(level0_xy, slide.info))
    row, column = (world - np.array(camera.center[-2:])) * camera.zoom + np.array([height, width]) / 2
    qtbot.mouseClick(canvas.native, LEFT, pos=QPoint(round(column), round(row)))


def ready(qtbot: Any, dock: Any) -> None:
    qtbot.waitUntil(lambda: dock.binding.is_ready, timeout=60_000)


@pytest.mark.gui
def test_an_edit_by_the_mouse_alone(
    qtbot: Any, window: Any, dock: Any, slide: Slide, picture: Callable[[str], None]
) -> None:
    press(qtbot, dock, dock.pick_button)
    click_on_slide(qtbot, window, slide, PLACE_XY)
    qtbot.waitUntil(dock.search_button.isEnabled, timeout=20_000)
    press(qtbot, dock, dock.pick_button)
    assert not dock.pick_button.isChecked()
    tile = dock.binding._state.tile
    assert abs(tile.centre[0] - PLACE_XY[0]) < 8, "the tile under the click"

    press(qtbot, dock, dock.search_button)
    qtbot.waitUntil(lambda: "Found by faithful" in dock.search_note.text(), timeout=60_000)
    ready(qtbot, dock)
    assert dock.badge.isVisibleTo(dock)
    edit = window.layers["SYNTHETIC edit"]
    start = edit.data.copy()

    press(qtbot, dock, dock.flip_button)
    assert dock.path_panel.slider.value() == dock.path_panel.slider.maximum()
    flip = edit.data.copy()
    assert (flip != start).any()
    press(qtbot, dock, dock.path_panel.slider._slider, at=0.1)
    assert dock.path_panel.slider.value() < dock.path_panel.slider.maximum()
    assert (edit.data != flip).any()
    press(qtbot, dock, dock.flip_button)
    press(qtbot, dock, dock.zoom_button)
    picture("flip")

    heatmap = next(layer for layer in window.layers if layer.name.startswith("Grad-CAM edit"))
    assert heatmap.visible
    press(qtbot, dock, dock.heatmap_check)
    assert not heatmap.visible
    press(qtbot, dock, dock.heatmap_check)
    assert heatmap.visible

    dock.ensureWidgetVisible(dock.wipe_slider)
    press(qtbot, dock, dock.wipe_slider, at=0.9)
    assert dock.wipe_slider.value() > 0
    assert np.array_equal(edit.data[:, 0], tile.pixels[:, 0]), "the left edge shows the real tile"
    picture("wipe")
    dock.wipe_slider.setValue(0)

    corner = np.array(edit.translate)
    press(qtbot, dock, dock.beside_check)
    assert edit.translate[1] - corner[1] == pytest.approx(2 * 32, rel=0.01), "two tiles of 32 µm further"
    press(qtbot, dock, dock.zoom_button)
    picture("beside")
    press(qtbot, dock, dock.beside_check)
    assert np.allclose(edit.translate, corner)

    press(qtbot, dock, dock.residual_check)
    ready(qtbot, dock)
    dock.path_panel.slider.setValue(0)
    assert np.array_equal(edit.data, tile.pixels), "no change yet: the tile itself"
    press(qtbot, dock, dock.history_bar.undo_button)
    ready(qtbot, dock)
    assert not dock.residual_check.isChecked()

    press(qtbot, dock, dock.random_button)
    qtbot.waitUntil(lambda: dock.tile_note.text().startswith("SYNTHETIC"), timeout=20_000)
    ready(qtbot, dock)
    synthetic = [layer for layer in window.layers if layer.name.startswith("SYNTHETIC")]
    assert len(synthetic) == 2
    assert all(layer.metadata[KEY]["synthetic"] for layer in synthetic)
    assert all(layer.extent.world[1, 1] <= 0 for layer in synthetic), "left of the slide"
    picture("random")


@pytest.mark.gui
def test_library_arithmetic_and_a_path_by_the_mouse_alone(
    qtbot: Any, window: Any, dock: Any, picture: Callable[[str], None]
) -> None:
    def draw() -> Any:
        before = dock.binding._state.base
        press(qtbot, dock, dock.random_button)
        qtbot.waitUntil(lambda: dock.binding._state.base is not before, timeout=20_000)
        ready(qtbot, dock)
        return dock.binding._state.base

    library = dock.library_panel
    unfold(qtbot, dock, "Latent library")
    points = []
    for name in ("one", "two"):
        points.append(np.array(draw().point.values))
        enter(qtbot, dock, library.name_edit, name)
        press(qtbot, dock, library.add_button)
        qtbot.waitUntil(lambda: library.list.count() == len(points), timeout=20_000)
    picture("library")

    arithmetic = dock.arithmetic_panel
    unfold(qtbot, dock, "Arithmetic of latent vectors")
    enter(qtbot, dock, arithmetic.field, "two - 0.5 * one")
    before = dock.binding._state.base
    press(qtbot, dock, arithmetic.make_button)
    qtbot.waitUntil(lambda: dock.binding._state.base is not before, timeout=20_000)
    ready(qtbot, dock)
    wanted, found = points[1] - 0.5 * points[0], np.array(dock.binding._state.base.point.values)
    assert np.corrcoef(wanted, found)[0, 1] > 0.999, "the sum, brought back to the prior's shell"
    picture("arithmetic")

    press(qtbot, dock, dock.history_bar.undo_button)
    ready(qtbot, dock)
    assert dock.binding._state.base is before
    press(qtbot, dock, dock.history_bar.redo_button)
    ready(qtbot, dock)
    assert dock.binding._state.base is not before

    unfold(qtbot, dock, "Path through several images")
    path = dock.path_panel
    press(qtbot, dock, path.add_key_button)
    press(qtbot, dock, dock.history_bar.undo_button)
    ready(qtbot, dock)
    press(qtbot, dock, path.add_key_button)
    assert path.keys_list.count() == 2
    ready(qtbot, dock)
    press(qtbot, dock, path.slider._slider, at=0.95)
    assert path.slider.value() > 0
    assert any(layer.name.startswith("SYNTHETIC edit") and layer.visible for layer in window.layers)
    picture("path")
