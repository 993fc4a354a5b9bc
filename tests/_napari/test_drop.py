"""What happens to files that are dropped on a real window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QApplication

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield make_napari_viewer()


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


def drop(viewer: Any, *paths: Path) -> None:
    """Drop files on the canvas, as a file manager does."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    event = QDropEvent(
        QPointF(50, 50),
        Qt.DropAction.CopyAction,
        mime,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    viewer.window._qt_viewer.dropEvent(event)


@pytest.mark.gui
@pytest.mark.parametrize("name", ["broken.svs", "unreadable.svs"])
def test_a_file_that_cannot_be_read_is_one_sentence_and_no_dialog(
    window: Any, qtbot: Any, data_dir: Path, errors: list[str], dialogs: list[str], name: str
) -> None:
    drop(window, data_dir / "slides" / "fixtures" / name)
    qtbot.wait(200)
    assert dialogs == []
    assert len(errors) == 1
    assert name in errors[0]
    assert len(window.layers) == 0


@pytest.mark.gui
def test_the_good_slides_of_a_drop_are_opened(
    window: Any, qtbot: Any, data_dir: Path, tmp_path: Path, errors: list[str], dialogs: list[str]
) -> None:
    (tmp_path / "text.svs").write_text("nothing")
    good = data_dir / "slides" / "CMU-1-Small-Region.svs"
    drop(window, tmp_path / "text.svs", good, data_dir / "slides" / "fixtures" / "broken.svs")
    qtbot.wait(200)
    assert dialogs == []
    assert [sentence.split(" ")[0] for sentence in errors] == ["text.svs", "broken.svs"]
    assert [layer.name for layer in window.layers] == [good.name]
