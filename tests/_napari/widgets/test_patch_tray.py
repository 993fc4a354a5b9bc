from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.patch_tray import PatchTray

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


@pytest.fixture
def tray(qtbot: Any, noise: Callable[..., np.ndarray]) -> PatchTray:
    widget = PatchTray()
    qtbot.addWidget(widget)
    widget.set_patches([(noise(32, 32, seed=i), name) for i, name in enumerate(("a", "b", "c"))])
    return widget


def test_patches_are_shown_with_their_captions(tray: PatchTray) -> None:
    assert [tray.item(i).text() for i in range(tray.count())] == ["a", "b", "c"]
    assert not any(tray.item(i).icon().isNull() for i in range(3))
    assert tray.currentRow() == 2, "the newest is selected"


def test_a_new_list_takes_the_place_of_the_old(tray: PatchTray, noise: Callable[..., np.ndarray]) -> None:
    tray.set_patches([(noise(16, 16), "z")])
    assert [tray.item(i).text() for i in range(tray.count())] == ["z"]
    tray.set_patches([])
    assert tray.count() == 0


@pytest.mark.parametrize("key", [Qt.Key.Key_Delete, Qt.Key.Key_Backspace])
def test_delete_asks_to_take_the_selected_patch_out(qtbot: Any, tray: PatchTray, key: Any) -> None:
    tray.setCurrentRow(1)
    with qtbot.waitSignal(tray.removed) as asked:
        qtbot.keyClick(tray, key)
    assert asked.args == [1]
    assert tray.count() == 3, "it only asks"


def test_delete_in_an_empty_tray_asks_nothing(qtbot: Any, tray: PatchTray) -> None:
    tray.set_patches([])
    with qtbot.assertNotEmitted(tray.removed):
        qtbot.keyClick(tray, Qt.Key.Key_Delete)


def test_other_keys_move_the_selection(qtbot: Any, tray: PatchTray) -> None:
    with qtbot.assertNotEmitted(tray.removed):
        qtbot.keyClick(tray, Qt.Key.Key_Home)
    assert tray.currentRow() == 0


def test_a_double_click_goes_there(qtbot: Any, tray: PatchTray) -> None:
    tray.resize(400, 300)
    with qtbot.waitExposed(tray):
        tray.show()
    middle = tray.visualItemRect(tray.item(1)).center()
    with qtbot.waitSignal(tray.opened) as asked:
        qtbot.mouseClick(tray.viewport(), Qt.MouseButton.LeftButton, pos=middle)
        qtbot.mouseDClick(tray.viewport(), Qt.MouseButton.LeftButton, pos=middle)
    assert asked.args == [1]
