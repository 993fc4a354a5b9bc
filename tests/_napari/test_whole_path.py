"""The whole path with the mouse, in a real window: slide, regions, patches, training, reverse search, flip, Grad-CAM.

Two environment variables make it draw the pictures of docs/tutorial.md:
HISTOLATENT_SCREENSHOTS names the folder for them, HISTOLATENT_GUI_STEPS the steps to train the generator.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_histolatent._napari._layers import world_of
from napari_histolatent._napari._session import session_of
from napari_histolatent.annotations import write_annotations
from napari_histolatent.jobs.demo_slide import drawn_regions, shipped_regions
from napari_histolatent.jobs.follow import stop
from napari_histolatent.runs import ENDED, Run, known_runs
from napari_histolatent.slides import write_synthetic_slide

ROOT = Path(__file__).parents[2]
STEPS = int(os.environ.get("HISTOLATENT_GUI_STEPS", "60"))
TRAINING_TIMEOUT_MS = 60_000 + STEPS * 250


@dataclass(frozen=True)
class Place:
    """A slide to drop, its regions, and a point in each class, in level-0 pixels."""

    slide: Path
    regions: Path
    mpp: float
    epithelium: tuple[float, float]
    stroma: tuple[float, float]


@pytest.fixture
def place(request, tmp_path):
    """The real slide where the data is, else a drawn one: this test is never skipped."""
    try:
        slide = request.getfixturevalue("cmu_slide")
    except pytest.skip.Exception:
        slide, regions = tmp_path / "SYNTHETIC.svs", tmp_path / "SYNTHETIC.geojson"
        write_synthetic_slide(slide)
        write_annotations(regions, drawn_regions(slide))
        return Place(slide, regions, 0.5, (500.5, 700.5), (1000.5, 700.5))
    return Place(slide, shipped_regions(), 0.499, (1200.5, 1900.5), (1550.5, 2300.5))


@pytest.fixture
def screenshots(tmp_path):
    return Path(os.environ.get("HISTOLATENT_SCREENSHOTS", tmp_path))


@pytest.fixture
def window(make_napari_viewer, npe2pm):
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1280, 800)
        yield viewer
    for path in known_runs():  # whatever a failed test left running
        run = Run(path)
        if run.status().state not in (*ENDED, "new"):
            stop(run)


def drop(viewer, path):
    """Drop a file on the canvas, as a file manager does."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(50, 50),
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    viewer.window._qt_viewer.dropEvent(event)


def click_on_slide(qtbot, viewer, level0_xy):
    """Click the canvas where a level-0 point is shown."""
    canvas = viewer.window._qt_viewer.canvas
    info = session_of(viewer).slide().info
    world, camera = np.array(world_of(level0_xy, info)), viewer.scene.camera
    width, height = canvas._scene_canvas.size
    row, column = (world - np.array(camera.center[-2:])) * camera.zoom + np.array([height, width]) / 2
    qtbot.mouseClick(canvas.native, Qt.MouseButton.LeftButton, pos=QPoint(round(column), round(row)))


def open_dock(viewer, name):
    dock, widget = viewer.window.add_plugin_dock_widget("napari-histolatent", name, tabify=True)
    dock.show()
    dock.raise_()
    return widget


def picture(viewer, qtbot, path):
    """Save the window, and return the canvas's pixels as they are drawn."""
    qtbot.wait(300)
    path.parent.mkdir(parents=True, exist_ok=True)
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)


def train(qtbot, dock, kind_index, steps):
    dock.kind_box.setCurrentIndex(kind_index)
    dock.form["steps"].value = steps
    qtbot.waitUntil(lambda: dock.out_picker.path is not None, timeout=20_000)
    out = dock.out_picker.path
    qtbot.mouseClick(dock.start_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: (out / "run.json").exists(), timeout=20_000)
    return Run(out)


@pytest.mark.gui
def test_the_whole_path_with_the_mouse(window, qtbot, place, tmp_path, screenshots):
    viewer, left = window, Qt.MouseButton.LeftButton

    drop(viewer, place.slide)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=20_000)
    slide_layer = viewer.layers[1]
    assert slide_layer.multiscale
    assert slide_layer.rgb
    assert np.allclose(slide_layer.scale, place.mpp)
    assert {str(unit) for unit in slide_layer.units} == {"micrometer"}

    patches = open_dock(viewer, "Patches")
    patches.regions_picker.edit.setText(str(place.regions))
    qtbot.keyClick(patches.regions_picker.edit, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: " epithelium" in patches.regions_note.text(), timeout=20_000)
    viewer.reset_view()
    qtbot.wait(200)

    patches.form.size_spin.setValue(64)
    qtbot.mouseClick(patches.mode_buttons["extract"], left)
    for count, label in enumerate(("epithelium", "stroma"), start=1):
        click_on_slide(qtbot, viewer, getattr(place, label))
        qtbot.waitUntil(lambda count=count: len(patches.gallery.shown_keys()) == count, timeout=20_000)
        assert patches.gallery.card(patches.gallery.shown_keys()[-1]).label == label
    qtbot.mouseClick(patches.mode_buttons["look"], left)
    click_on_slide(qtbot, viewer, place.stroma)
    qtbot.wait(300)
    assert len(patches.gallery.shown_keys()) == 2, "picking is switched off"
    picked = session_of(viewer).tray[0]
    x, y = (int(v) for v in picked.level0_box[:2])
    assert abs(x + 32 - place.epithelium[0]) < 8, (
        "the patch is the one under the click, within a canvas pixel"
    )
    exact = session_of(viewer).slide().read_region((x, y), size_px=(64, 64), level=0)
    assert np.array_equal(picked.pixels, exact)

    patches.form.step_spin.setValue(16)
    qtbot.waitUntil(lambda: not patches.binding.is_busy, timeout=20_000)
    patches.extraction.out_picker.edit.setText(str(tmp_path / "patches"))
    qtbot.mouseClick(patches.extraction.extract_button, left)
    qtbot.waitUntil(lambda: session_of(viewer).dataset == tmp_path / "patches", timeout=60_000)
    whole = picture(viewer, qtbot, screenshots / "patches.png")
    assert whole.std(axis=(0, 1)).min() > 20, "the slide is drawn, not a black canvas"

    trainer = open_dock(viewer, "Train")
    assert trainer.dataset_picker.path == tmp_path / "patches"
    classifier = train(qtbot, trainer, 1, 300 if STEPS > 500 else 40)
    qtbot.waitUntil(lambda: classifier.status().state == "finished", timeout=TRAINING_TIMEOUT_MS)
    trainer.kind_box.setCurrentIndex(0)
    if STEPS <= 500:  # so little is not worth a verdict, which takes longer than the training
        trainer.form["calibrate"].value = False
    generator = train(qtbot, trainer, 0, STEPS)
    qtbot.waitUntil(lambda: generator.status().step > 0, timeout=TRAINING_TIMEOUT_MS)
    qtbot.waitUntil(lambda: "step" in trainer.state_note.text() and bool(trainer.plot.points), timeout=20_000)
    if STEPS > 500:
        qtbot.waitUntil(lambda: generator.status().step >= STEPS // 2, timeout=TRAINING_TIMEOUT_MS)
    picture(viewer, qtbot, screenshots / "train.png")
    qtbot.waitUntil(lambda: generator.status().state == "finished", timeout=TRAINING_TIMEOUT_MS)
    assert generator.status().step == STEPS
    qtbot.waitUntil(lambda: trainer.state_note.text().startswith("Finished"), timeout=20_000)

    editor = open_dock(viewer, "Edit")
    qtbot.waitUntil(lambda: "Draws epithelium, stroma" in editor.models_note.text(), timeout=60_000)
    assert "no classifier" not in editor.models_note.text()
    qtbot.mouseClick(editor.pick_button, left)
    click_on_slide(qtbot, viewer, place.epithelium)
    qtbot.waitUntil(editor.search_button.isEnabled, timeout=20_000)
    qtbot.mouseClick(editor.pick_button, left)
    qtbot.waitUntil(lambda: any("Grad-CAM tile" in layer.name for layer in viewer.layers), timeout=20_000)
    qtbot.mouseClick(editor.search_button, left)
    qtbot.waitUntil(lambda: "Found by" in editor.search_note.text(), timeout=60_000)
    path = editor.path_panel
    qtbot.waitUntil(lambda: editor.binding.is_ready, timeout=60_000)

    synthetic = viewer.layers["SYNTHETIC edit"]
    before = synthetic.data.copy()
    qtbot.mouseClick(editor.flip_button, left)
    qtbot.waitUntil(lambda: path.slider.value() == path.slider.maximum(), timeout=5_000)
    flipped = synthetic.data.copy()
    assert np.abs(flipped.astype(int) - before).mean() > 1, "the flip changes the image"
    path.slider.setFocus()
    qtbot.keyClick(path.slider._slider, Qt.Key.Key_Left)
    assert (
        0 < np.abs(synthetic.data.astype(int) - flipped).mean() < np.abs(flipped.astype(int) - before).mean()
    )
    qtbot.mouseClick(editor.flip_button, left)

    tile_of = {
        name: next(v for v in viewer.layers if v.name.startswith(name))
        for name in ("SYNTHETIC edit", "Grad-CAM edit")
    }
    for layer in tile_of.values():
        corner = layer.data_to_world((-0.5, -0.5))
        assert np.allclose(slide_layer.world_to_data(corner)[-2:], np.array([y, x]) - 0.5, atol=12)
        assert layer.visible
    assert tile_of["SYNTHETIC edit"].metadata["histolatent"]["synthetic"] is True
    assert tile_of["SYNTHETIC edit"].metadata["histolatent"]["model_digest"]
    assert tile_of["Grad-CAM edit"].data[..., 3].max() > 0

    qtbot.mouseClick(editor.zoom_button, left)
    close = picture(viewer, qtbot, screenshots / "edit.png")
    assert close.std(axis=(0, 1)).min() > 10

    assert Run(generator.path).status().state == "finished"
