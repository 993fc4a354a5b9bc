from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLineEdit, QPushButton, QSlider, QSpinBox

from napari_histolatent._napari.widgets.directions_panel import (
    BOUNDARY,
    COMPONENTS,
    DIFFERENCE,
    MEASURE,
    DirectionLine,
    DirectionsPanel,
)

LEFT = Qt.MouseButton.LeftButton
LINES = [
    DirectionLine("kept a", "lumen", "From 2 points.", True),
    DirectionLine("new 1", "<b>", "x < y", False),
]


@pytest.fixture
def panel(qtbot: Any) -> DirectionsPanel:
    widget = DirectionsPanel()
    qtbot.addWidget(widget)
    widget.resize(340, 700)
    widget.show()
    qtbot.waitExposed(widget)
    widget.set_features(["nuclei", "lumen"])
    widget.set_classes(["healthy", "tumour"])
    widget.set_tags(["healthy", "tumour"])
    widget.set_ready(has_generator=True, has_point=True)
    widget.set_lines(LINES)
    return widget


def choose(panel: DirectionsPanel, way: str) -> None:
    panel.way_box.setCurrentIndex(panel.way_box.findData(way))
    panel.way_box.activated.emit(panel.way_box.currentIndex())


def test_every_control_says_what_it_is_for(panel: DirectionsPanel) -> None:
    kinds = (QComboBox, QPushButton, QSlider, QSpinBox)
    controls = [control for kind in kinds for control in panel.findChildren(kind)]
    controls += [panel.name_edit]
    assert len(controls) > 12
    assert [control for control in controls if not control.toolTip()] == []
    assert isinstance(panel.name_edit, QLineEdit)


def test_only_what_a_way_needs_is_asked_for(panel: DirectionsPanel) -> None:
    def asked() -> set[str]:
        boxes = {
            "from": panel.from_box,
            "to": panel.to_box,
            "feature": panel.feature_box,
            "class": panel.class_box,
            "number": panel.number_box,
        }
        return {name for name, box in boxes.items() if box.isVisible()}

    needs = {}
    for way in (DIFFERENCE, BOUNDARY, MEASURE, COMPONENTS):
        choose(panel, way)
        needs[way] = asked()
        assert panel.way_note.text()
    assert needs == {
        DIFFERENCE: {"from", "to"},
        BOUNDARY: {"from", "to"},
        MEASURE: {"feature", "class"},
        COMPONENTS: {"number", "class"},
    }


def test_the_request_says_what_is_set(panel: DirectionsPanel) -> None:
    panel.name_edit.setText("  more  nuclei ")
    request = panel.request
    assert (request.way, request.name, request.from_tag, request.to_tag) == (
        DIFFERENCE,
        "more nuclei",
        "healthy",
        "tumour",
    )
    choose(panel, MEASURE)
    panel.class_box.setCurrentIndex(2)
    assert (panel.request.feature, panel.request.label) == ("nuclei", "tumour")


def test_groups_need_two_tags_and_keep_those_that_were_chosen(panel: DirectionsPanel) -> None:
    panel.from_box.setCurrentText("tumour")
    panel.set_tags(["fat", "healthy", "tumour"])
    assert (panel.from_box.currentText(), panel.to_box.currentText()) == ("tumour", "tumour")
    panel.set_tags(["fat"])
    assert not panel.make_button.isEnabled()
    choose(panel, MEASURE)
    assert panel.make_button.isEnabled()


def test_a_slider_tells_its_strength(qtbot: Any, panel: DirectionsPanel) -> None:
    first, second = panel.sliders_box.findChildren(QSlider)
    assert panel.strengths == {"kept a": 0.0, "new 1": 0.0}
    with qtbot.waitSignal(panel.strengths_changed):
        qtbot.keyClick(second, Qt.Key.Key_PageUp)
    assert panel.strengths == {"kept a": 0.0, "new 1": 1.0}
    assert panel._values["new 1"].text() == "+1.0"
    with qtbot.assertNotEmitted(panel.strengths_changed):
        panel.set_strengths(0.0)
    assert (second.value(), panel._values["new 1"].text()) == (0, "+0.0")
    assert first.value() == 0


def test_names_and_facts_are_text(panel: DirectionsPanel) -> None:
    slider = panel._sliders["new 1"]
    assert "&lt;b&gt;" in slider.toolTip()
    assert "x &lt; y" in slider.toolTip()
    assert "not kept yet" in slider.toolTip()
    assert "not kept yet" not in panel._sliders["kept a"].toolTip()


def test_a_new_list_keeps_strengths_and_the_chosen_one(panel: DirectionsPanel) -> None:
    panel._sliders["kept a"].setValue(5)
    panel.choose("kept a")
    panel.set_lines([*LINES, DirectionLine("kept b", "b", "", True)])
    assert panel.strengths == {"kept a": 0.5, "new 1": 0.0, "kept b": 0.0}
    assert panel.chosen == "kept a"
    panel.set_lines(LINES[1:])
    assert panel.chosen == "new 1"
    panel.set_lines([])
    assert panel.chosen is None
    assert "no direction" in panel.sliders_note.text()


def test_only_what_is_not_kept_can_be_kept(qtbot: Any, panel: DirectionsPanel) -> None:
    panel.choose("kept a")
    assert not panel.save_button.isEnabled()
    panel.choose("new 1")
    panel.name_edit.setText("nuclei")
    with qtbot.waitSignal(panel.save_requested) as saved:
        qtbot.mouseClick(panel.save_button, LEFT)
    assert saved.args == ["new 1", "nuclei"]
    panel.name_edit.clear()
    with qtbot.waitSignal(panel.save_requested) as saved:
        qtbot.mouseClick(panel.save_button, LEFT)
    assert saved.args == ["new 1", "<b>"]
    with qtbot.waitSignal(panel.remove_requested) as removed:
        qtbot.mouseClick(panel.remove_button, LEFT)
    assert removed.args == ["new 1"]


def test_while_something_is_made_nothing_else_is(qtbot: Any, panel: DirectionsPanel) -> None:
    panel.set_working(True, 3, 1)
    assert (panel.cancel_button.isVisible(), panel.progress.value()) == (True, 1)
    assert not panel.make_button.isEnabled()
    assert not panel.test_button.isEnabled()
    with qtbot.waitSignal(panel.cancel_requested):
        qtbot.mouseClick(panel.cancel_button, LEFT)
    panel.set_working(False)
    assert not panel.cancel_button.isVisible()
    assert panel.test_button.isEnabled()


def test_without_a_point_nothing_moves(panel: DirectionsPanel) -> None:
    panel.set_ready(has_generator=True, has_point=False)
    assert not panel._sliders["kept a"].isEnabled()
    assert panel.test_button.isEnabled()
    panel.set_ready(has_generator=False, has_point=False)
    assert not panel.make_button.isEnabled()


def test_the_table_shows_how_features_follow(panel: DirectionsPanel) -> None:
    assert not panel.table.isVisible()
    panel.set_table("lumen, tried:", [("nuclei", -0.5, 0.0), ("lumen", 0.983, 0.75)])
    assert panel.table.isVisible()
    texts = [[panel.table.item(i, j).text() for j in range(3)] for i in range(2)]
    assert texts == [["nuclei", "-0.50", "0%"], ["lumen", "+0.98", "75%"]]
    assert panel.table_note.text() == "lumen, tried:"
    panel.set_table(None, [])
    assert not panel.table.isVisible()


def test_it_fits_into_the_narrowest_dock(panel: DirectionsPanel) -> None:
    panel.set_tags(["a tag with a very long name, as users give them"] * 2)
    panel.set_lines([DirectionLine("long", "a direction with a very long name, too", "", True)])
    panel.set_table("tried", [("nuclear area fraction", 0.5, 0.5)])
    assert panel.minimumSizeHint().width() <= 270
