from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.calibration_offer import CalibrationOffer

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def offer(qtbot: Any) -> CalibrationOffer:
    widget = CalibrationOffer()
    qtbot.addWidget(widget)
    assert widget.isHidden()
    return widget


def test_it_says_what_is_missing_and_offers_to_make_it(qtbot: Any, offer: CalibrationOffer) -> None:
    offer.show_offer()
    assert "was not tried on held-out patches" in offer.note.text()
    assert not offer.isHidden()
    assert not offer.button.isHidden()
    assert offer.progress.parentWidget().isHidden()
    with qtbot.waitSignal(offer.requested):
        qtbot.mouseClick(offer.button, LEFT)
    offer.hide_offer()
    assert offer.isHidden()


def test_where_it_cannot_be_made_the_reason_is_told_twice(offer: CalibrationOffer) -> None:
    offer.show_offer("The dataset is gone.", said="It failed.")
    assert not offer.button.isEnabled()
    assert offer.button.toolTip() == "The dataset is gone."
    lines = offer.note.text().splitlines()
    assert (lines[0], lines[-1]) == ("It failed.", "The dataset is gone.")
    offer.show_offer()
    assert offer.button.isEnabled()
    assert "held-out" in offer.button.toolTip()


def test_while_it_is_made_its_progress_stands_in_place_of_the_button(
    qtbot: Any, offer: CalibrationOffer
) -> None:
    offer.show_running("Searching.")
    assert offer.button.isHidden()
    assert (offer.progress.minimum(), offer.progress.maximum()) == (0, 0)
    offer.show_progress(6, 8)
    assert (offer.progress.value(), offer.progress.maximum()) == (6, 8)
    with qtbot.waitSignal(offer.cancelled):
        qtbot.mouseClick(offer.cancel_button, LEFT)
    offer.show_stopping()
    assert not offer.cancel_button.isEnabled()
    offer.show_running("Again.")
    assert offer.cancel_button.isEnabled()
