"""A dock that is closed lets go at once, not when Python happens to collect it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._napari._layers import slide_layer, world_of
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import thread_pool
from napari_histolatent._napari.widgets import train_binding
from napari_histolatent.jobs import edits
from napari_histolatent.runs import Run
from tests._napari.helpers import add, click

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide
    from tests._napari.conftest import Endless, Trained

ROOT = Path(__file__).parents[2]


def kept_layers(viewer: Any) -> list[Any]:
    """Return the layers that a dock does not take along."""
    gone = ("grid", "picked", "size box")
    return [layer for layer in viewer.layers if layer.metadata["histolatent"]["role"] not in gone]


@pytest.mark.gui
@pytest.mark.parametrize("collect", [False, True])
def test_closed_docks_hear_no_click_and_watch_no_run(
    make_napari_viewer: Callable[..., Any],
    npe2pm: Any,
    qtbot: Any,
    slide: Slide,
    listed: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    collect: bool,
) -> None:
    monkeypatch.setattr(train_binding, "_POLL_SECONDS", 0.02)
    run = Run.create(tmp_path / "run", kind="train", spec={})
    run.claim()
    polls: list[str] = []
    status = Run.status
    monkeypatch.setattr(Run, "status", lambda self: polls.append(self.path.name) or status(self))
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        viewer = make_napari_viewer()
        add(viewer, slide_layer(slide))
        docks = {
            name: viewer.window.add_plugin_dock_widget("napari-histolatent", name, tabify=True)
            for name in ("Patches", "Train", "Edit")
        }
        docks["Train"][1].binding.watch(run.path)
        docks["Patches"][1].set_mode("extract")
        docks["Edit"][1].pick_button.click()
        edit = docks["Edit"][1].binding
        qtbot.waitUntil(lambda: edit.models is not None and len(polls) > 5, timeout=60_000)
        click(viewer, world_of((120.5, 200.5), slide.info))
        qtbot.waitUntil(lambda: len(session_of(viewer).tray) == 1 and edit._state.tile is not None)
        layers = kept_layers(viewer)
        for dock, _ in docks.values():
            dock.destroyOnClose()
        if collect:
            del dock, edit
            docks.clear()
            gc.collect()
        qtbot.waitUntil(lambda: thread_pool().activeThreadCount() == 0, timeout=20_000)
        polls.clear()
        click(viewer, world_of((550.5, 300.5), slide.info))
        qtbot.wait(200)
        assert len(session_of(viewer).tray) == 1
        assert list(viewer.layers) == layers, "what only the Patches dock showed goes with it"
        assert polls == []
    assert not run.stop_requested
    assert run.status().state == "starting", "the run goes on"
    (run.path / "owner.json").unlink()


@pytest.mark.gui
def test_a_window_that_is_closed_ends_the_reverse_search(
    make_napari_viewer: Callable[..., Any],
    npe2pm: Any,
    qtbot: Any,
    slide: Slide,
    listed: Trained,
    endless: Endless,
    errors: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def search(*_: Any, should_stop: Callable[[], bool], **__: Any) -> list[None]:
        endless.wait(should_stop)
        return [None]

    monkeypatch.setattr(edits, "reverse_search", search)
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        viewer = make_napari_viewer()
        add(viewer, slide_layer(slide))
        _, view = viewer.window.add_plugin_dock_widget("napari-histolatent", "Edit")
        edit = view.binding
        qtbot.waitUntil(lambda: edit.models is not None, timeout=60_000)
        view.pick_button.click()
        click(viewer, world_of((120.5, 200.5), slide.info))
        qtbot.waitUntil(lambda: edit._state.tile is not None and view.search_button.isEnabled())
        view.search_button.click()
        qtbot.waitUntil(endless.entered.is_set)
    # The plugin has gone by now: npe2 would tell a window that is closed.
    viewer.window._qt_window._save_current_window_settings = lambda: None
    viewer.close()
    qtbot.waitUntil(endless.stopped.is_set)
    assert errors == []
