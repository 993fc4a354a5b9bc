"""The Slide dock in a window as small as a laptop's: nothing of it is cut off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtWidgets import QAbstractButton, QComboBox, QGroupBox, QLabel, QWidget

from napari_histolatent._napari._layers import slide_layers
from napari_histolatent._napari.viewing import add_slide, cache
from napari_histolatent._napari.widgets.associated_images import WrappedText
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.gui

ROOT = Path(__file__).parents[2]
SIZE_PX = (1280, 800)
SLIDES = ("TCGA-CR-7395-01A-01-TS1.svs", "CMU-1-Small-Region.svs")


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(*SIZE_PX)
        yield viewer
    cache().clear()


def cut_off(dock: QWidget) -> list[str]:
    """Return what is narrower or lower than its text, or reaches beyond the dock."""
    wrong = []
    width = dock.viewport().width()
    for widget in dock.findChildren(QWidget):
        if not widget.isVisibleTo(dock):
            continue
        if isinstance(widget, WrappedText) or (isinstance(widget, QLabel) and widget.wordWrap()):
            is_cut = widget.height() < widget.heightForWidth(widget.width())
        elif isinstance(widget, QLabel | QAbstractButton | QGroupBox | QComboBox):
            is_cut = widget.width() < widget.minimumSizeHint().width()
        else:
            continue
        right = widget.mapTo(dock.widget(), widget.rect().bottomRight()).x()
        if is_cut or right > width:
            text = widget.title() if isinstance(widget, QGroupBox) else getattr(widget, "text", str)()
            wrong.append(f"{type(widget).__name__} {text!r}: {widget.width()} x {widget.height()}")
    return wrong


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_label_of_the_dock_is_cut_off(window: Any, qtbot: Any, data_dir: Path, theme: str) -> None:
    window.theme = theme
    _, view = window.window.add_plugin_dock_widget("napari-histolatent", "Slide")
    qtbot.wait(200)
    assert cut_off(view) == []
    for count, name in enumerate(SLIDES, start=1):
        add_slide(window, slide_layers(open_slide(data_dir / "slides" / name)))
        view.set_opening("Opening a slide with a long name, and of another scanner.ndpi …")
        view.set_trouble("3 places could not be read: the file is damaged there; copy it again.")
        if view.associated.images:
            view.associated.opener.click()
        qtbot.wait(300)
        assert view.slides_box.count() == count
        # Qt lays out in turns of its own: a busy machine needs some more of them.
        qtbot.waitUntil(lambda: cut_off(view) == [], timeout=5000)
    wide, high = window.window._qt_window.width(), window.window._qt_window.height()
    assert (wide, high) <= SIZE_PX, "the dock does not make the window larger than the screen"
