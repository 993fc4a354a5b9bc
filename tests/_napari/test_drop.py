"""What happens to files that are dropped on a real window."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari import _opening, _readers
from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari.viewing import cache, is_settled
from napari_histolatent.slides import open_slide, write_synthetic_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.gui

ROOT = Path(__file__).parents[2]


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield make_napari_viewer(show=True)
    cache().clear()


@pytest.fixture
def dialogs() -> Iterator[list[str]]:
    """The modal dialogs that came up: each is closed, for it would wait for ever."""
    met: list[str] = []

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        if dialog is not None:
            met.append(type(dialog).__name__)
            dialog.close()

    guard = QTimer()
    guard.timeout.connect(look)
    guard.start(50)
    yield met
    guard.stop()


def drop(qtbot: Any, viewer: Any, *paths: Path) -> float:
    """Drop files on the canvas while the event loop runs, as a file manager does; return the seconds it took."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    event = QDropEvent(
        QPointF(50, 50),
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    took: list[float] = []

    def let_go() -> None:
        started = time.perf_counter()
        viewer.window._qt_viewer.dropEvent(event)
        took.append(time.perf_counter() - started)

    QTimer.singleShot(0, let_go)
    qtbot.waitUntil(lambda: bool(took), timeout=20_000)
    return took[0]


def names(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers]


def nothing_is_opened() -> bool:
    return not _opening._openings


def test_a_drop_returns_at_once_and_the_slide_appears_when_it_is_there(
    window: Any, qtbot: Any, tiny_slide: Path, monkeypatch: pytest.MonkeyPatch, dialogs: list[str]
) -> None:
    come = threading.Event()
    slide = tiny_slide.with_name("tiny.svs")
    slide.write_bytes(tiny_slide.read_bytes())
    monkeypatch.setattr(_opening, "open_slide", lambda _: come.wait(20) and open_slide(slide))
    ours: list[float] = []
    read = _readers.read_slides

    def timed(path: str | list[str]) -> Any:
        started = time.perf_counter()
        try:
            return read(path)
        finally:
            ours.append(time.perf_counter() - started)

    monkeypatch.setattr(_readers, "read_slides", timed)
    _opening.prepare(window)  # napari makes a scale bar once per window, and takes its time
    qtbot.wait(100)
    assert drop(qtbot, window, slide) < 2, "napari draws the whole window in between"
    assert len(ours) == 1
    assert ours[0] < 0.05
    qtbot.wait(200)
    assert names(window) == []
    come.set()
    qtbot.waitUntil(lambda: len(window.layers) == 2, timeout=10_000)
    assert names(window) == ["tiny.svs overview", "tiny.svs"]
    assert window.canvas.overlays.scale_bar.visible
    assert dialogs == []


def test_a_script_without_a_running_loop_gets_its_layers_at_once(
    window: Any, cmu_slide: Path, dialogs: list[str]
) -> None:
    layers = window.open(str(cmu_slide), plugin="napari-histolatent")
    assert [layer.metadata[KEY]["role"] for layer in layers] == ["overview", "slide"]
    assert list(window.layers) == layers
    assert all(layer.visible for layer in layers)
    assert dialogs == []


def test_a_file_that_is_no_slide_is_one_sentence_and_no_dialog(
    window: Any, qtbot: Any, data_dir: Path, errors: list[str], dialogs: list[str]
) -> None:
    drop(qtbot, window, data_dir / "slides" / "fixtures" / "broken.svs")
    qtbot.waitUntil(lambda: bool(errors), timeout=10_000)
    qtbot.wait(200)
    assert dialogs == []
    assert len(errors) == 1
    assert errors[0].startswith("broken.svs ")
    assert names(window) == []
    assert nothing_is_opened()


def test_a_slide_whose_pixels_cannot_be_read_is_striped_and_told_of_once(
    window: Any, qtbot: Any, data_dir: Path, errors: list[str], dialogs: list[str]
) -> None:
    drop(qtbot, window, data_dir / "slides" / "fixtures" / "unreadable.svs")
    qtbot.waitUntil(lambda: len(window.layers) == 2 and bool(errors), timeout=10_000)
    layer = window.layers["unreadable.svs"]
    qtbot.waitUntil(lambda: is_settled(layer), timeout=10_000)
    qtbot.wait(1200)  # longer than the watch's turn: it would say it again now
    assert dialogs == []
    assert len(errors) == 1
    assert "unreadable.svs" in errors[0]
    assert "striped" in errors[0]
    picture = window.layers[0].data
    inside = picture[:8, :8, :3].reshape(-1, 3)
    assert {tuple(rgb) for rgb in inside.tolist()} <= {(226, 120, 40), (60, 60, 60)}
    window.scene.camera.zoom *= 2
    qtbot.wait(100)
    assert names(window) == ["unreadable.svs overview", "unreadable.svs"], "the view stays"


def test_the_good_slides_of_a_mixed_drop_are_opened(
    window: Any, qtbot: Any, data_dir: Path, tmp_path: Path, errors: list[str], dialogs: list[str]
) -> None:
    (tmp_path / "text.svs").write_text("nothing")
    write_synthetic_slide(tmp_path / "drawn.svs", size_px=(512, 512))
    good = data_dir / "slides" / "CMU-1-Small-Region.svs"
    broken = data_dir / "slides" / "fixtures" / "broken.svs"
    drop(qtbot, window, tmp_path / "text.svs", good, broken, tmp_path / "drawn.svs")
    qtbot.waitUntil(nothing_is_opened, timeout=20_000)
    qtbot.wait(100)
    assert dialogs == []
    assert sorted(sentence.split(" ")[0] for sentence in errors) == ["broken.svs", "text.svs"]
    assert sorted(names(window)) == sorted(
        name for v in (good.name, "drawn.svs") for name in (f"{v} overview", v)
    )
    roles = [layer.metadata[KEY]["role"] for layer in window.layers]
    assert roles == ["overview", "slide"] * 2, "each slide over its own overview"
