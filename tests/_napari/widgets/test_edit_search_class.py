from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_histolatent._napari.widgets.edit_search_class import EditSearchClass
from napari_histolatent._napari.widgets.edit_view import EVERY_CLASS, EditView
from napari_histolatent.jobs.tiles import Tile

CLASSES = ("benign", "cancer")
TILE = Tile("tile", np.zeros((8, 8, 3), np.uint8), mpp=1.0)
SEES = {"benign": 0.1, "cancer": 0.9}


@pytest.fixture
def view(qtbot: Any) -> EditView:
    widget = EditView()
    qtbot.addWidget(widget)
    widget.set_search_classes(CLASSES)
    return widget


def choose(view: EditView, text: str) -> None:
    index = view.search_class_box.findText(text)
    view.search_class_box.setCurrentIndex(index)
    view.search_class_box.activated.emit(index)


def show(shown: EditSearchClass, tile: Tile | None, chances: dict[str, float] | None = None) -> None:
    shown.show(tile, classes=CLASSES, chances=chances, judge="by structure")


def test_what_the_classifier_sees_comes_later_and_a_choice_stays(view: EditView) -> None:
    shown = EditSearchClass(view)
    show(shown, TILE)
    assert view.search_class_box.currentText() == EVERY_CLASS
    assert view.search_class is None
    show(shown, TILE, SEES)
    assert view.search_class == "cancer"
    assert "sees cancer" in view.search_class_note.text()
    choose(view, "benign")
    assert view.search_class_note.text().startswith("Your choice.")
    show(shown, TILE, SEES)
    assert view.search_class == "benign", "it stays with its tile"
    view.set_search_classes(CLASSES)  # as another classifier does
    show(shown, TILE, SEES)
    assert view.search_class == "benign"
    assert view.search_class_note.text().startswith("Your choice.")
    choose(view, "cancer")
    assert not view.search_class_note.text().startswith("Your choice.")
    show(shown, replace(TILE, label="benign"), SEES)
    assert view.search_class == "benign"
    assert "annotated" in view.search_class_note.text()
    show(shown, None)
    assert view.search_class_note.text() == ""


def test_without_classes_there_is_nothing_to_choose(view: EditView) -> None:
    assert not view.search_class_row.isHidden()
    view.set_search_classes(())
    assert view.search_class_row.isHidden()
    assert view.search_class is None
