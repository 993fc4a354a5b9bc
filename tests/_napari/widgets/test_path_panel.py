from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QAbstractButton, QAbstractSlider, QComboBox

from napari_histolatent._napari.editing._path import FRAMES
from napari_histolatent._napari.widgets.path_panel import EXPORTS, TIMINGS, PathPanel
from napari_histolatent._napari.widgets.ready_marks import ReadyMarks
from napari_histolatent.jobs.exporting import FORMATS
from napari_histolatent.latent.blend import TIMINGS as KNOWN_TIMINGS

LEFT = Qt.MouseButton.LeftButton
PIXELS = np.zeros((16, 16, 3), np.uint8)


@pytest.fixture
def panel(qtbot: Any) -> PathPanel:
    widget = PathPanel()
    qtbot.addWidget(widget)
    return widget


def test_without_a_path_nothing_can_be_moved(panel: PathPanel) -> None:
    for widget in (panel.slider, panel.play_button, panel.timing_box, panel.export_button):
        assert not widget.isEnabled()
    assert not panel.add_key_button.isEnabled()
    assert panel.curve.isHidden()
    assert panel.note.text() == ""


def test_every_control_says_what_it_does(panel: PathPanel) -> None:
    panel.set_path(FRAMES, has_classifier=True)
    own = [panel.slider, panel.curve, panel.marks, panel.keys_list]
    named = [v for v in panel.findChildren((QAbstractButton, QComboBox)) if v.objectName() != "qt_toolbar"]
    silent = [
        widget
        for widget in (*own, *named)
        if not widget.toolTip() and not isinstance(widget.parent(), QAbstractSlider)
    ]
    captions = [getattr(widget, "text", str)() for widget in silent]
    assert [c for c in captions if c and "several images" not in c] == []
    for i in range(panel.timing_box.count()):
        assert panel.timing_box.itemData(i, Qt.ItemDataRole.ToolTipRole)
    for action in panel.export_button.menu().actions():
        assert action.toolTip() not in ("", action.text())


def test_timings_and_formats_are_those_there_are() -> None:
    assert set(TIMINGS) < set(KNOWN_TIMINGS)
    assert set().union(*EXPORTS) == set(FORMATS)


def test_a_path_that_gets_ready_can_be_exported(panel: PathPanel) -> None:
    panel.set_path(FRAMES, has_classifier=True)
    assert panel.slider.isEnabled()
    assert not panel.curve.isHidden()
    assert panel.note.text() == "0 of 33 images are ready."
    panel.set_ready(range(12))
    assert panel.note.text() == "12 of 33 images are ready."
    assert panel.marks.ready == frozenset(range(12))
    assert not panel.export_button.isEnabled()
    panel.set_ready(range(FRAMES))
    assert panel.note.text() == ""
    assert panel.export_button.isEnabled()
    panel.set_path(0, has_classifier=False)
    assert not panel.export_button.isEnabled()


def test_without_a_classifier_there_is_no_probability(panel: PathPanel) -> None:
    at = panel.timing_box.findData("probability")
    for has_classifier in (False, True):
        panel.set_path(FRAMES, has_classifier=has_classifier)
        assert panel.timing_box.model().item(at).isEnabled() is has_classifier
        assert panel.curve.isHidden() is not has_classifier


def test_moving_the_slider_is_told_and_showing_a_step_is_not(qtbot: Any, panel: PathPanel) -> None:
    moved: list[int] = []
    panel.moved.connect(moved.append)
    panel.set_path(FRAMES, has_classifier=True)
    panel.slider.setValue(7)
    panel.set_step(9, "Step 9 of 32")
    assert moved == [7]
    assert panel.slider.value() == 9
    assert panel.curve.handle.value() == 9
    assert panel.step_note.text() == "Step 9 of 32"


def test_taking_the_handle_ends_the_playing(qtbot: Any, panel: PathPanel) -> None:
    switched: list[bool] = []
    panel.play_switched.connect(switched.append)
    panel.set_path(FRAMES, has_classifier=False)
    qtbot.mouseClick(panel.play_button, LEFT)
    panel.slider.sliderPressed.emit()
    qtbot.mouseClick(panel.play_button, LEFT)
    panel.set_path(0, has_classifier=False)
    assert switched == [True, False, True, False]


def test_a_timing_is_chosen_by_its_name(qtbot: Any, panel: PathPanel) -> None:
    panel.set_path(FRAMES, has_classifier=True)
    assert panel.timing == "pixels"
    panel.timing_box.setCurrentIndex(1)
    with qtbot.waitSignal(panel.timing_chosen) as told:
        panel.timing_box.activated.emit(1)
    assert told.args == ["perceptual"]
    panel.set_timing("probability")
    assert panel.timing == "probability"


def test_the_menu_names_the_formats(qtbot: Any, panel: PathPanel) -> None:
    asked: list[tuple[str, ...]] = []
    panel.export_requested.connect(asked.append)
    for action in panel.export_button.menu().actions():
        action.trigger()
    assert asked == list(EXPORTS)


def test_key_points_are_listed_chosen_and_moved(qtbot: Any, panel: PathPanel) -> None:
    asked: list[Any] = []
    panel.key_added.connect(lambda: asked.append("add"))
    panel.key_removed.connect(lambda at: asked.append(("remove", at)))
    panel.key_moved.connect(lambda at, to: asked.append((at, to)))
    panel.keys_cleared.connect(lambda: asked.append("clear"))
    panel.set_path(FRAMES, has_classifier=False)
    assert not panel.add_key_button.isEnabled(), "nothing is shown yet"
    panel.set_step(0, "")
    qtbot.mouseClick(panel.add_key_button, LEFT)
    panel.set_keys([("one", PIXELS)], 0)
    assert "a path needs two" in panel.keys_note.text()
    assert not panel.up_button.isEnabled()
    panel.set_keys([("one", PIXELS), ("two", PIXELS), ("three", PIXELS)], 1)
    assert [panel.keys_list.item(i).text() for i in range(3)] == ["1. one", "2. two", "3. three"]
    assert "these 3 images" in panel.keys_note.text()
    for button in (panel.up_button, panel.down_button, panel.remove_key_button, panel.clear_keys_button):
        qtbot.mouseClick(button, LEFT)
    assert asked == ["add", (1, 0), (1, 2), ("remove", 1), "clear"]
    panel.keys_list.setCurrentRow(2)
    assert not panel.down_button.isEnabled()
    panel.set_keys([])
    assert not panel.clear_keys_button.isEnabled()


def test_the_curve_shows_what_is_known(panel: PathPanel) -> None:
    panel.set_path(5, has_classifier=True)
    panel.curve.show_values({"<b>tumour": ([0, 4], [0.1, 0.9])})
    panel.curve.show_values({"<b>tumour": ([0, 2, 4], [0.1, 0.5, 0.9])})
    (item,) = panel.curve.getPlotItem().listDataItems()
    x, y = item.getData()
    assert (list(x), list(y)) == ([0, 2, 4], [0.1, 0.5, 0.9])
    assert item.name() == "&lt;b&gt;tumour", "a class's name is text"
    low, high = panel.curve.getPlotItem().viewRange()[1]
    assert low <= 0 < 1 <= high
    panel.set_path(5, has_classifier=True)
    assert panel.curve.getPlotItem().listDataItems() == []
    assert panel.curve.handle.scene() is not None, "the handle's line stays"


def test_marks_are_bright_where_an_image_is_ready(qtbot: Any) -> None:
    marks = ReadyMarks()
    qtbot.addWidget(marks)
    palette = QPalette()
    palette.setColor(QPalette.ColorRole.Window, QColor(0, 0, 0))
    palette.setColor(QPalette.ColorRole.WindowText, QColor(0, 255, 0))
    marks.setPalette(palette)
    marks.setAutoFillBackground(True)
    marks.resize(4 * 20, 5)
    marks.grab()  # nothing to draw yet
    marks.set_ready({1, 3}, 4)
    image = marks.grab().toImage()
    columns = [round((7 + i * (80 - 14) / 3) * image.width() / 80) for i in range(4)]
    seen = [image.pixelColor(x, image.height() // 2).green() for x in columns]
    assert [green > 180 for green in seen] == [False, True, False, True]
    assert all(green > 20 for green in seen), "the others are seen, too"


def test_marks_lie_under_the_slider(qtbot: Any, panel: PathPanel) -> None:
    panel.resize(300, 500)
    panel.set_path(FRAMES, has_classifier=False)
    with qtbot.waitExposed(panel):
        panel.show()
    left, width = panel.marks._span()
    assert left >= 0
    assert 50 < width < panel.marks.width() - panel.play_button.width()
