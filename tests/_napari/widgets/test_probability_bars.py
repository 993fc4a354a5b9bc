from __future__ import annotations

from typing import Any

import pytest

from napari_histolatent._napari.widgets.probability_bars import COLUMNS, ProbabilityBars


@pytest.fixture
def bars(qtbot: Any) -> ProbabilityBars:
    widget = ProbabilityBars()
    qtbot.addWidget(widget)
    widget.set_judge("by structure", ["a", "b"])
    return widget


def test_a_bar_for_each_class_and_picture(bars: ProbabilityBars) -> None:
    assert set(bars.bars) == {(label, column) for label in "ab" for column in COLUMNS}
    assert "by structure" in bars.judge_note.text()
    bars.set_probabilities("tile", {"a": 0.25, "b": 0.75})
    assert [bars.bars[label, "tile"].format() for label in "ab"] == ["0.25", "0.75"]
    assert bars.bars["b", "tile"].value() == 3 * bars.bars["a", "tile"].value()
    assert bars.bars["a", "edit"].format() == ""
    bars.set_probabilities("tile", None)
    assert bars.bars["a", "tile"].value() == 0


def test_without_a_judge_there_are_none(bars: ProbabilityBars) -> None:
    bars.set_judge(None)
    assert bars.isHidden()
    bars.set_probabilities("tile", {"a": 1.0})
    bars.set_judge("my-run", ["c"])
    assert not bars.isHidden()
    assert set(bars.bars) == {("c", column) for column in COLUMNS}


def test_a_class_is_text_not_markup(bars: ProbabilityBars) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QLabel

    bars.set_judge("x", ["<b>bold</b>"])
    (label,) = [item for item in bars.findChildren(QLabel) if item.text() == "<b>bold</b>"]
    assert label.textFormat() == Qt.TextFormat.PlainText


def test_two_classes_are_no_wider_than_a_dock(qtbot: Any) -> None:
    from napari._qt.qt_resources import get_stylesheet

    widget = ProbabilityBars()
    qtbot.addWidget(widget)
    widget.setStyleSheet(get_stylesheet("dark"))
    widget.set_judge("by structure", ["normal", "adenocarcinoma"])
    widget.show()
    assert widget.minimumSizeHint().width() <= 317, "what a column of 360 px leaves inside a section"
