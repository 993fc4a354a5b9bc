from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import QPoint, Qt

from napari_histolatent._napari.widgets.sample_history import SAMPLE_PX, SampleHistory

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


@pytest.fixture
def history(qtbot: Any) -> SampleHistory:
    widget = SampleHistory()
    qtbot.addWidget(widget)
    return widget


def test_the_newest_is_followed_until_the_user_goes_back(qtbot: Any, history: SampleHistory) -> None:
    assert history.isHidden()
    with qtbot.assertNotEmitted(history.frame_chosen):
        history.set_steps([50])
        history.set_steps([50, 100])
    assert (history.index, history.caption.text()) == (1, "step 100")
    with qtbot.waitSignal(history.frame_chosen) as chosen:
        history.slider.setFocus()
        qtbot.keyClick(history.slider, Qt.Key.Key_Left)
    assert chosen.args == [0]
    history.set_steps([50, 100, 150])
    assert (history.index, history.caption.text()) == (0, "step 50"), "the user looks at the beginning"
    qtbot.keyClick(history.slider, Qt.Key.Key_End)
    history.set_steps([50, 100, 150, 2000])
    assert (history.index, history.caption.text()) == (3, "step 2,000")


def test_a_run_that_was_set_back_has_fewer_pictures(history: SampleHistory) -> None:
    history.set_steps([50, 100, 150])
    history.set_index(1)
    history.set_steps([50])
    assert history.index == 0
    history.set_steps([])
    assert history.isHidden()
    history.set_steps([10, 20])
    assert history.index == 1, "another run begins with its newest"


def test_the_layers_slider_moves_this_one(qtbot: Any, history: SampleHistory) -> None:
    history.set_steps([50, 100, 150])
    with qtbot.assertNotEmitted(history.frame_chosen):
        history.set_index(0)
    assert history.caption.text() == "step 50"


def test_a_picture_says_what_it_is(history: SampleHistory, noise: Callable[..., np.ndarray]) -> None:
    history.set_steps([50])
    history.set_picture(noise(64, 128))
    pixmap = history.picture.pixmap()
    assert (pixmap.width(), pixmap.height()) == (SAMPLE_PX, SAMPLE_PX // 2)
    assert history.picture.toolTip().startswith("SYNTHETIC")
    assert history.neighbours.isHidden()
    history.set_neighbours(noise(64, 128, seed=1))
    assert not history.neighbours.isHidden()
    assert "real" in history.neighbours_note.text()
    history.set_steps([])
    assert history.picture.pixmap().isNull()
    assert history.neighbours.isHidden()


def test_the_user_asks_for_the_layer(qtbot: Any, history: SampleHistory) -> None:
    told: list[bool] = []
    history.layer_switched.connect(told.append)
    history.set_has_layer(True)
    assert told == []
    assert history.layer_check.isChecked()
    qtbot.mouseClick(
        history.layer_check, Qt.MouseButton.LeftButton, pos=QPoint(8, history.layer_check.height() // 2)
    )
    assert told == [False]
