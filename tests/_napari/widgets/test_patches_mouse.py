"""A real hand at the Patches dock: mouse and keys in a real window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.viewing import cache
from napari_histolatent.annotations import read_annotations
from tests._napari.helpers import give_regions
from tests._napari.regions.hand import CONTROL, Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_histolatent.slides import Slide

ROOT = Path(__file__).parents[3]
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1280, 800)
        yield viewer
    cache().clear()


@pytest.mark.gui
def test_toggle_extract_digit_undo_and_jump(
    qtbot: Any, window: Any, slide: Slide, tiny_regions: Path
) -> None:
    for name in ("Regions", "Patches"):  # the other dock has keys of its own
        dock, view = window.window.add_plugin_dock_widget("napari-histolatent", name, tabify=True)
    dock.raise_()
    view.form.size_spin.setValue(64)
    hand = Hand(qtbot, window)
    hand.show(slide)
    regions = give_regions(window, slide, read_annotations(tiny_regions))
    n_regions = len(regions.document.regions)

    def idle() -> None:
        qtbot.wait(20)
        qtbot.waitUntil(lambda: not view.binding.is_busy, timeout=20_000)

    idle()
    marks = view.binding.state.keeper().marks
    QTest.mouseClick(view.mode_buttons["toggle"], LEFT)
    hand.click((550.0, 300.0))
    idle()
    (mark,) = marks.items()
    assert (mark[0].x, mark[0].y, mark[1].is_in) == (512, 256, False)
    hand.key(Qt.Key.Key_Z, CONTROL)
    assert len(marks) == 0
    assert len(regions.document.regions) == n_regions, "the regions' own undo was not asked"

    QTest.mouseClick(view.mode_buttons["extract"], LEFT)
    hand.click((120.0, 200.0))
    idle()
    ((patch, picked),) = marks.items()
    assert picked.is_picked
    assert abs(patch.x + 32 - 120) <= 1 + hand.px()
    assert abs(patch.y + 32 - 200) <= 1 + hand.px()
    (card,) = (view.gallery.card(key) for key in view.gallery.shown_keys())
    assert card.label == "epithelium"
    digit = next(item.key for item in view.binding.state.classes() if item.name == "stroma")
    hand.key(getattr(Qt.Key, f"Key_{digit}"))
    idle()
    assert [tile.label for tile in session_of(window).tray] == ["stroma"]
    hand.key(Qt.Key.Key_Z, CONTROL)
    idle()
    assert [tile.label for tile in session_of(window).tray] == ["epithelium"]
    hand.key(Qt.Key.Key_Escape)
    assert view.mode == "look"

    view.ensureWidgetVisible(view.gallery)
    cards = view.gallery.view
    QTest.mouseDClick(cards.viewport(), LEFT, pos=cards.card_rect(0).center())
    qtbot.wait(50)
    at = hand.at((patch.x + 32.0, patch.y + 32.0))
    assert abs(at.x() - hand.canvas.width() / 2) <= 1
    assert abs(at.y() - hand.canvas.height() / 2) <= 1
    shown_px = 64 / hand.px()
    assert shown_px == pytest.approx(min(hand.canvas.width(), hand.canvas.height()) / 3, rel=0.05)
    idle()
