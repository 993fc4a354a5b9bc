from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QSlider, QSpinBox

from napari_histolatent._napari.editing._scene import Look
from napari_histolatent._napari.widgets.compare_strip import COLUMNS
from napari_histolatent._napari.widgets.edit_view import CLASS_SEEN, LAST_LAYER, METHODS, EditView
from napari_histolatent.latent.search_options import METHODS as ALL_METHODS
from napari_histolatent.latent.search_options import SearchOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

LEFT = Qt.MouseButton.LeftButton
MODELS = [("new (running)", "/runs/new"), ("old (finished)", "/runs/old")]


@pytest.fixture
def view(qtbot: Any) -> EditView:
    widget = EditView()
    qtbot.addWidget(widget)
    return widget


def choose(qtbot: Any, box: Any, key: Any = Qt.Key.Key_Down) -> None:
    """Choose the next entry, as a user does: a program's change gives no signal."""
    box.setFocus()
    qtbot.keyClick(box, key)


def test_what_the_user_does_goes_out(qtbot: Any, view: EditView) -> None:
    told: list[Any] = []
    view.generator_chosen.connect(lambda path: told.append(("generator", path)))
    view.classifier_chosen.connect(lambda path: told.append(("classifier", path)))
    view.picking_switched.connect(lambda on: told.append(("picking", on)))
    view.from_tray_requested.connect(lambda: told.append("tray"))
    view.zoom_requested.connect(lambda: told.append("zoom"))
    view.search_requested.connect(lambda: told.append("search"))
    view.cancel_requested.connect(lambda: told.append("cancel"))
    view.target_chosen.connect(lambda: told.append("target"))
    view.random_requested.connect(lambda: told.append("random"))
    view.flip_requested.connect(lambda: told.append("flip"))
    view.residual_switched.connect(lambda on: told.append(("residual", on)))
    view.normalising_switched.connect(lambda on: told.append(("normalise", on)))
    view.look_changed.connect(lambda: told.append("look"))
    view.heatmaps_switched.connect(lambda: told.append("heatmaps"))
    for box in (view.generator_box, view.classifier_box):
        view.set_models(box, MODELS, "/runs/new")
    view.set_targets([("class a", "a"), ("tray patch 1", 0)], 0)
    view.set_heatmap_classes(["a", "b"])
    view.set_layers(["one", "two"])
    view.set_classes(["a", "b"])
    view.set_ready(has_tile=True, has_point=True)
    view.set_searching(True)
    view.set_searching(False)
    assert told == [], "setters are silent"

    choose(qtbot, view.generator_box)
    choose(qtbot, view.classifier_box)
    qtbot.mouseClick(view.pick_button, LEFT)
    qtbot.mouseClick(view.pick_button, LEFT)
    buttons = (view.tray_button, view.random_button, view.zoom_button)
    for button in (*buttons, view.search_button, view.cancel_button):
        qtbot.mouseClick(button, LEFT)
    view.normalise_check.click()
    choose(qtbot, view.target_box)
    qtbot.mouseClick(view.flip_button, LEFT)
    view.residual_check.click()
    view.heatmap_check.click()
    view.wipe_slider.setValue(50)
    choose(qtbot, view.colormap_box)
    choose(qtbot, view.heatmap_class_box)
    choose(qtbot, view.layer_box)
    assert told == [
        ("generator", "/runs/old"),
        ("classifier", "/runs/old"),
        ("picking", True),
        ("picking", False),
        "tray",
        "random",
        "zoom",
        "search",
        "cancel",
        ("normalise", True),
        "target",
        "flip",
        ("residual", True),
        "look",
        "look",
        "look",
        "heatmaps",
        "heatmaps",
    ]


def test_without_a_tile_there_is_nothing_to_search(qtbot: Any, view: EditView) -> None:
    with qtbot.assertNotEmitted(view.search_requested), qtbot.assertNotEmitted(view.zoom_requested):
        qtbot.mouseClick(view.search_button, LEFT)
        qtbot.mouseClick(view.zoom_button, LEFT)
    edits = (view.target_box, view.flip_button, view.path_panel)
    for has_tile, has_point in ((False, False), (True, False), (True, True), (False, False)):
        view.set_ready(has_tile=has_tile, has_point=has_point)
        assert view.search_button.isEnabled() == view.zoom_button.isEnabled() == has_tile
        assert {widget.isEnabled() for widget in edits} == {has_point}
        assert view.pick_button.isEnabled()


def test_a_search_can_be_cancelled_while_it_runs(view: EditView) -> None:
    for searching in (False, True, False):
        view.set_searching(searching)
        assert view.cancel_button.isHidden() != searching
        assert view.progress.isHidden() != searching
        assert view.search_button.isHidden() == searching


def test_progress_is_shown(view: EditView) -> None:
    view.set_progress(125, 500)
    assert (view.progress.value(), view.progress.maximum()) == (125, 500)


def test_models_are_listed(view: EditView) -> None:
    view.set_models(view.generator_box, MODELS, "/runs/old")
    assert view.generator_box.currentData() == "/runs/old"
    view.set_models(view.generator_box, MODELS, None)
    assert view.generator_box.currentData() is None
    assert view.generator_box.placeholderText() == "choose a run"
    view.set_models(view.generator_box, [], None)
    assert view.generator_box.count() == 0
    assert "none trained yet" in view.generator_box.placeholderText()
    assert view.classifier_box.count() == 0, "each list is its own"


def test_targets_are_listed(view: EditView) -> None:
    view.set_targets([("class a", "a"), ("tray patch 1", 0), ("tray patch 2", 1)], 2)
    assert view.target_box.currentData() == 1
    assert [view.target_box.itemData(i) for i in range(3)] == ["a", 0, 1]


def test_evidence_is_for_the_class_it_sees_unless_one_is_named(view: EditView) -> None:
    view.set_heatmap_classes(["a", "b"])
    assert [view.heatmap_class_box.itemText(i) for i in range(3)] == [CLASS_SEEN, "a", "b"]
    assert [view.heatmap_class_box.itemData(i) for i in range(3)] == [None, "a", "b"]
    assert view.heatmap_class_box.currentData() is None
    view.set_heatmap_classes(["c"])
    assert [view.heatmap_class_box.itemText(i) for i in range(2)] == [CLASS_SEEN, "c"]


def test_the_class_that_was_chosen_stays(view: EditView) -> None:
    """Another generator of the same classes is loaded: what the user chose is not taken back."""
    view.set_heatmap_classes(["a", "b"])
    view.heatmap_class_box.setCurrentIndex(2)
    view.set_heatmap_classes(["a", "b"])
    assert view.heatmap_class_box.currentData() == "b"
    assert view.heatmap_class_box.count() == 3


def test_a_knob_says_what_it_does(view: EditView) -> None:
    """Each control has a tooltip: a pathologist reads it, and finds no word of a program's inside."""
    for name, control in vars(view).items():
        if isinstance(control, (QAbstractButton, QComboBox, QSpinBox, QSlider)):
            assert control.toolTip(), name
            assert control.toolTip().rstrip().endswith("."), name


def test_nothing_is_cut_off_at_the_width_of_a_dock(view: EditView) -> None:
    """The dock scrolls up and down only."""
    view.set_models(view.generator_box, [("a run of a very long name, as they are " * 3, "/a")], "/a")
    view.set_targets([("class of a very long name, as they are in a hospital's system", "a")], 0)
    view.bars.set_judge("by structure", ["normal", "adenocarcinoma"])
    assert view.widget().minimumSizeHint().width() <= view.sizeHint().width()


def test_faithful_is_the_default_of_four_methods(qtbot: Any, view: EditView) -> None:
    assert view.method == "faithful"
    assert set(METHODS) == set(ALL_METHODS)
    assert "copy" in view.method_note.text()
    choose(qtbot, view.method_box)
    assert view.method == "fast"
    assert view.method_note.text() == METHODS["fast"][1]


def test_what_is_asked_of_a_search(view: EditView) -> None:
    assert view.options() == SearchOptions()
    view.starts_spin.setValue(4)
    view.polish_spin.setValue(10)
    view.seed_spin.setValue(7)
    view.free_class_check.click()
    assert view.options() == SearchOptions(seed=7, starts=4, polish_steps=10, free_class=True)


def test_how_the_scene_is_shown(qtbot: Any, view: EditView) -> None:
    assert view.look() == Look()
    for check in (
        view.beside_check,
        view.residual_layer_check,
        view.difference_check,
        view.heatmap_check,
    ):
        check.click()
    view.wipe_slider.setValue(25)
    view.picture_slider.setValue(60)
    view.heatmap_slider.setValue(30)
    for box in (view.wipe_box, view.colormap_box, view.contour_box):
        choose(qtbot, box)
    assert view.look() == Look(
        is_beside=True,
        wipe=0.25,
        wipe_from="reconstruction",
        picture_opacity=0.6,
        heatmap_opacity=0.3,
        colormap="jet",
        shows_heatmaps=False,
        thresholds=(0.5,),
        shows_difference=True,
        shows_residual=True,
    )


def test_why_nothing_can_be_flipped_is_said(view: EditView) -> None:
    view.set_targets([], -1, "The generator has no classes.")
    assert view.edit_note.text() == "The generator has no classes."
    assert view.target_box.currentData() is None
    view.set_ready(has_tile=True, has_point=True, has_target=False, is_searched=False)
    assert not view.flip_button.isEnabled()
    assert not view.residual_check.isEnabled()


def test_layers_and_classes_are_offered(view: EditView) -> None:
    view.set_layers(["conv1", "conv2"])
    assert [view.layer_box.itemText(i) for i in range(3)] == [LAST_LAYER, "conv1", "conv2"]
    assert view.layer_box.currentData() is None
    view.set_classes(["a", "b"])
    view.random_box.setCurrentIndex(1)
    view.set_classes(["a", "b", "c"])
    assert view.random_box.currentText() == "b", "what was chosen stays"
    view.set_classes([])
    assert view.random_box.isHidden()


def test_each_picture_has_its_place(view: EditView, noise: Callable[..., np.ndarray]) -> None:
    places = [(line, name) for line in ("pixels", "heatmap") for name in COLUMNS]
    for shown, place in enumerate(places, start=1):
        view.set_picture(*place, noise(32, 32))
        filled = [label for label in view.findChildren(QLabel) if not label.pixmap().isNull()]
        assert len(filled) == shown
    view.set_picture("heatmap", "edit", None)
    assert sum(not label.pixmap().isNull() for label in view.findChildren(QLabel)) == len(places) - 1


def test_what_a_network_drew_is_marked(view: EditView) -> None:
    texts = {label.text() for label in view.findChildren(QLabel)}
    assert {"tile", "reconstruction\n(SYNTHETIC)", "edit\n(SYNTHETIC)"} <= texts


def test_nothing_is_wider_than_the_column(qtbot: Any, view: EditView) -> None:
    from napari._qt.qt_resources import get_stylesheet

    view.setStyleSheet(get_stylesheet("dark"))
    view.bars.set_judge("by structure", ("normal", "adenocarcinoma"))
    view.path_panel.set_path(33, has_classifier=True)
    view.resize(view.sizeHint())
    view.show()
    qtbot.waitUntil(lambda: view.widget().width() > 0)
    assert view.widget().minimumSizeHint().width() <= view.viewport().width(), (
        "there is no bar to scroll sideways"
    )
