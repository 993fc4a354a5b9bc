from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_histolatent._napari.widgets.patch_model import Card
from napari_histolatent._napari.widgets.patches_view import EXTRACT, LOOK, TOGGLE, CountRow, PatchesView
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import PRESETS, Recipe

LEFT = Qt.MouseButton.LeftButton
CHANGED = Recipe().changed(
    grid={"size_px": 96, "mpp": None, "level": 1, "overlap_px": 16, "origin_px": (5.0, 7.5), "edge": "pad"},
    tissue={
        "method": "density",
        "threshold": 0.25,
        "fill_holes_below_um2": 500.0,
        "drop_islands_below_um2": 900.0,
        "pen_colors": ("blue", "black"),
        "reject_blur": True,
        "blur_threshold": 12.0,
        "min_tissue": 0.35,
    },
    labels={
        "rule": "priority",
        "threshold": 0.6,
        "priority": ("tumour", "stroma"),
        "exclude": ("artefact",),
        "exclude_above": 0.1,
        "annotated_as": "",
        "default_class": "bare",
        "ignore_above": 0.05,
    },
    quality={"min_focus": 25.0, "max_white": 0.9},
    balance={"method": "smallest", "per_slide": 400, "seed": 7},
    split={"by": "slide", "fractions": (0.6, 0.3, 0.1), "seed": 7},
    stain={"method": "reinhard", "target": "a.png"},
    store={"codec": "jpeg", "jpeg_quality": 75, "keep": "tissue", "index_only": True},
)


@pytest.fixture
def view(qtbot: Any) -> PatchesView:
    widget = PatchesView()
    qtbot.addWidget(widget)
    return widget


@pytest.mark.parametrize("recipe", [Recipe(), PRESETS["s1"][1], CHANGED])
def test_a_recipe_goes_in_and_out(view: PatchesView, recipe: Recipe) -> None:
    told: list[int] = []
    view.form.set_recipe(CHANGED if recipe != CHANGED else Recipe())
    view.recipe_changed.connect(lambda: told.append(1))
    view.form.set_recipe(recipe)
    assert view.recipe() == recipe
    assert told == [1], "once, not for each control"


def test_a_preset_sets_the_controls_and_a_change_leaves_it(qtbot: Any, view: PatchesView) -> None:
    box = view.form.preset_box
    assert box.currentData() == "default"
    qtbot.keyClicks(box, "S1")
    box.activated.emit(box.currentIndex())
    assert view.recipe() == PRESETS["s1"][1]
    view.form.size_spin.setValue(128)
    assert box.currentData() == ""
    view.form.size_spin.setValue(256)
    assert box.currentData() == "s1"


def test_values_that_do_not_go_together_are_a_sentence(view: PatchesView) -> None:
    view.form.val_spin.setValue(60)
    view.form.test_spin.setValue(60)
    with pytest.raises(DatasetError, match="shares of train, val and test"):
        view.recipe()


def test_the_threshold_that_was_found_is_shown_and_stays_automatic(view: PatchesView) -> None:
    told: list[int] = []
    view.recipe_changed.connect(lambda: told.append(1))
    view.form.set_found(41.5, "saturation 41.5")
    assert view.form.tissue_slider.value() == pytest.approx(41.5)
    assert view.form.found_label.text() == "saturation 41.5"
    assert view.recipe().tissue.threshold is None
    assert told == []
    view.form.auto_check.setChecked(False)
    assert view.recipe().tissue.threshold == pytest.approx(41.5)


def test_modes_exclude_each_other(qtbot: Any, view: PatchesView) -> None:
    told: list[str] = []
    view.mode_chosen.connect(told.append)
    for mode in (TOGGLE, EXTRACT, LOOK):
        qtbot.mouseClick(view.mode_buttons[mode], LEFT)
        assert view.mode == mode
    assert told == [TOGGLE, EXTRACT, LOOK]


def test_counts_are_a_table(view: PatchesView) -> None:
    view.set_counts([CountRow("tumour", (255, 0, 0), "1", 1234, (1000, 200, 34))], "1,234 patches")
    text = view.counts_label.text()
    assert all(part in text for part in ("tumour", "1,234", "1,000", "200", "34", "rgb(255, 0, 0)"))
    assert view.plan_note.text() == "1,234 patches"


def test_every_control_says_what_it_means(view: PatchesView) -> None:
    parts = [view.form.top, *view.form.sections.values()]
    controls: list[QWidget] = [w for part in parts for w in vars(view.form).values() if _lies_in(w, part)]
    assert len(controls) > 30
    assert [w for w in controls if not w.toolTip() and not w.findChildren(QWidget)] == []


def test_the_wheel_turns_no_knob(qtbot: Any, view: PatchesView) -> None:
    view.resize(360, 400)
    view.show()
    qtbot.waitExposed(view)
    before = view.recipe()
    for knob in (view.form.size_spin, view.form.rule_box, view.form.threshold_slider):
        at = QPointF(knob.rect().center())
        event = QWheelEvent(
            at,
            QPointF(knob.mapToGlobal(knob.rect().center())),
            QPoint(),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(knob.childAt(at.toPoint()) or knob, event)
        assert view.recipe() == before
        assert not event.isAccepted(), "the dock behind it gets it"


def _lies_in(widget: Any, part: QWidget) -> bool:
    return isinstance(widget, QWidget) and widget is not part and part.isAncestorOf(widget)


def test_an_empty_list_is_low_and_a_mode_scrolls_to_it(qtbot: Any, view: PatchesView) -> None:
    view.resize(360, 400)
    view.show()
    qtbot.waitExposed(view)
    qtbot.waitUntil(lambda: view.gallery.minimumHeight() == 150, timeout=2000)
    view.set_mode(TOGGLE)
    button = view.mode_buttons[TOGGLE]
    assert view.viewport().rect().contains(button.mapTo(view.viewport(), QPoint(2, 2)))
    view.gallery.set_cards([Card("a", "x", (1, 2, 3), "s.svs")])
    qtbot.waitUntil(lambda: view.gallery.minimumHeight() == 330, timeout=2000)
