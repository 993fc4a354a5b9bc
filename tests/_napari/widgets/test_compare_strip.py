from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._napari.widgets.compare_strip import COLUMNS, ROWS, CompareStrip

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


@pytest.fixture
def strip(qtbot: Any) -> CompareStrip:
    widget = CompareStrip()
    qtbot.addWidget(widget)
    return widget


def test_three_pictures_over_three_heatmaps(strip: CompareStrip, noise: Callable[..., np.ndarray]) -> None:
    for row in ROWS:
        for column in COLUMNS:
            strip.set_picture(row, column, noise(8, 8))
            assert not strip.pictures[row, column].pixmap().isNull()
    strip.set_picture("pixels", "edit", None)
    assert strip.pictures["pixels", "edit"].pixmap().isNull()
    assert not strip.pictures["heatmap", "edit"].pixmap().isNull()
    strip.clear()
    assert all(label.pixmap().isNull() for label in strip.pictures.values())


def test_what_was_generated_says_so_in_its_caption(strip: CompareStrip) -> None:
    assert [label.text() for label in strip.captions.values()] == [
        "tile",
        "reconstruction\n(SYNTHETIC)",
        "edit\n(SYNTHETIC)",
    ]
    strip.set_captions(is_drawn=True)
    assert strip.captions["tile"].text() == "no real tile"
    assert strip.captions["reconstruction"].text() == "start\n(SYNTHETIC)"
