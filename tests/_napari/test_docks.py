"""The docks in a real window."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from napari_histolatent._napari import _docks
from napari_histolatent._napari._docks import EditDock, PatchesDock, TrainDock
from napari_histolatent._napari._layers import slide_layer
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.widgets import train_binding
from napari_histolatent.jobs.follow import new_training
from napari_histolatent.runs import Run, launch
from tests._napari.conftest import GAN
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_histolatent.slides import Slide
    from tests._napari.conftest import Trained

ROOT = Path(__file__).parents[2]
WIDGETS = "napari_histolatent._napari.widgets"
DOCKS = {"Patches": PatchesDock, "Train": TrainDock, "Edit": EditDock}
ENDLESS = GAN.with_changes(steps=1_000_000, checkpoint_every=500_000, log_every=10)


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield make_napari_viewer()


def open_docks(viewer: Any) -> dict[str, Any]:
    return {
        name: viewer.window.add_plugin_dock_widget("napari-histolatent", name, tabify=True) for name in DOCKS
    }


def close_with_x(qtbot: Any, dock: Any) -> None:
    with qtbot.waitSignal(dock.destroyed):
        qtbot.mouseClick(dock.title.close_button, Qt.MouseButton.LeftButton)


def listeners(viewer: Any) -> list[int]:
    session = session_of(viewer)
    signals = (
        session.tray_changed,
        session.annotations_changed,
        session.dataset_changed,
        session.runs_changed,
    )
    emitters = (
        viewer.layers.events.inserted,
        viewer.layers.events.removed,
        viewer.layers.selection.events.active,
    )
    return [len(signal) for signal in signals] + [len(emitter.callbacks) for emitter in emitters]


@pytest.mark.parametrize("name", DOCKS)
def test_a_dock_is_a_view_with_its_binding(qtbot: Any, proxy: Any, name: str) -> None:
    dock = DOCKS[name](proxy)
    qtbot.addWidget(dock)
    assert dock.binding is not None
    assert dock.widget().layout().count() > 1


OPENED = """
import sys
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
app = QApplication([])
from napari_histolatent._napari._docks import SlideDock
dock = SlideDock(ViewerModel())
print(*(name for name in sys.modules if name.startswith("napari_histolatent.")))
dock.binding.close()
"""


def test_a_dock_that_is_opened_loads_no_other() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENED],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "napari_histolatent._napari.widgets.slide_view" in loaded
    others = ("train", "run_", "edit_", "regions_", "patches_", "patch_")
    assert not [name for name in loaded if name.startswith(tuple(f"{WIDGETS}.{other}" for other in others))]
    assert not [
        name for name in loaded if name.startswith(("napari_histolatent.training", "napari_histolatent.jobs"))
    ]


def test_there_are_the_docks_of_the_manifest_and_no_others() -> None:
    names = re.findall(r"_docks:(\w+)", (ROOT / "napari.yaml").read_text(encoding="utf-8"))
    assert len(names) == 5
    for name in names:
        assert issubclass(getattr(_docks, name), QWidget)
    with pytest.raises(AttributeError, match="no attribute 'OtherDock'"):
        _docks.__getattr__("OtherDock")


@pytest.mark.gui
def test_docks_that_are_closed_leave_the_run_and_come_back(
    window: Any,
    qtbot: Any,
    tiny_dataset: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(train_binding, "_POLL_SECONDS", 0.02)
    before, callbacks = listeners(window), list(window.mouse_drag_callbacks)
    docks = open_docks(window)
    for name, (_, widget) in docks.items():
        assert isinstance(widget, DOCKS[name])
    patches, train, edit = (widget for _, widget in docks.values())
    patches.set_mode("extract")
    edit.pick_button.click()

    run = new_training(tiny_dataset, folder / "run", ENDLESS)
    launch(run)
    train.binding.watch(run.path)
    qtbot.waitUntil(lambda: "Running: step " in train.state_note.text(), timeout=60_000)

    assert listeners(window) != before
    del patches, train, edit, widget
    for dock, _ in docks.values():
        close_with_x(qtbot, dock)
    docks.clear()
    del dock
    gc.collect()
    assert listeners(window) == before
    assert window.mouse_drag_callbacks == callbacks
    step = run.status().step
    qtbot.waitUntil(lambda: run.status().step > step, timeout=60_000)
    assert not run.stop_requested

    dock, train = window.window.add_plugin_dock_widget("napari-histolatent", "Train")
    qtbot.waitUntil(lambda: len(train.runs_list.rows) == 1)
    train.run_selected.emit(str(train.runs_list.rows[0].path))
    qtbot.waitUntil(train.stop_button.isEnabled, timeout=20_000)
    qtbot.mouseClick(train.stop_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: train.state_note.text().startswith("Stopped"), timeout=60_000)
    assert any(run.checkpoints_folder.glob("step-*"))
    close_with_x(qtbot, dock)


@pytest.mark.gui
def test_a_window_is_closed_while_its_docks_work(
    make_napari_viewer: Callable[..., Any],
    npe2pm: Any,
    qtbot: Any,
    slide: Slide,
    listed: Trained,
    folder: Path,
    errors: list[str],
) -> None:
    """The fixture finds what a closed window leaves behind."""
    run = Run.create(folder / "run", kind="train", spec={})
    run.claim()
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        viewer = make_napari_viewer()
        add(viewer, slide_layer(slide))
        docks = open_docks(viewer)
        docks["Train"][1].binding.watch(run.path)
        docks["Patches"][1].set_mode("extract")
        docks.clear()
        viewer.close()
        qtbot.wait(50)
    assert run.status().state == "starting", "the run is not the window's"
    assert errors == []
    (run.path / "owner.json").unlink()


@pytest.mark.gui
def test_the_layers_of_ours_are_drawn(window: Any, qtbot: Any, slide: Slide) -> None:
    """Each level of the pyramid, through napari's own slicing and OpenGL."""
    layer = add(window, slide_layer(slide))
    window.window._qt_window.resize(700, 600)
    window.window._qt_window.show()
    qtbot.waitExposed(window.window._qt_window)
    for zoom in (0.2, 8.0):
        window.scene.camera.zoom = zoom
        window.scene.camera.center = (0.0, *layer.data_to_world((300, 200)))
        qtbot.wait(100)
        drawn = window.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        middle = drawn[drawn.shape[0] // 2 - 10 :, drawn.shape[1] // 2 - 10 :][:20, :20]
        assert np.ptp(middle, axis=(0, 1)).min() > 5, "tissue, not a black canvas"
