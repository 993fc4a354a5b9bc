from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.training_form import (
    CLASSIFIER,
    GENERATOR,
    PRESET_NOTES,
    TrainingForm,
    changes_text,
    label_of,
    shown,
)
from napari_histolatent.training import PRESETS, ClassifierConfig, TrainingConfig

ELSEWHERE = {"size_px", "preset", "device", "nodes"}


@pytest.fixture
def form(qtbot: Any) -> TrainingForm:
    widget = TrainingForm()
    qtbot.addWidget(widget)
    return widget


@pytest.mark.parametrize(("kind", "config"), [(GENERATOR, TrainingConfig), (CLASSIFIER, ClassifierConfig)])
def test_every_option_is_on_the_form_with_its_help(form: TrainingForm, kind: str, config: type) -> None:
    helps = {item.name: item.metadata["help"] for item in fields(config)}
    widgets = {widget.name: widget for widget in form.forms[kind]}
    assert set(widgets) == set(helps) - ELSEWHERE
    for name, widget in widgets.items():
        assert widget.tooltip == f"{helps[name]}\nDefault here: {shown(widget.value)}"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_the_config_that_it_names(form: TrainingForm, name: str) -> None:
    form.preset_box.setCurrentIndex(form.preset_box.findData(name))
    assert form.preset == name
    assert form.config(size_px=64) == PRESETS[name].with_changes(size_px=64, device="auto")
    assert form.preset_note.text() == PRESET_NOTES[name]
    assert form.changes_note.isHidden()


def test_modern_is_offered_first(form: TrainingForm) -> None:
    offered = [form.preset_box.itemData(i) for i in range(form.preset_box.count())]
    assert set(offered) == set(PRESETS)
    assert form.preset == offered[0] == "modern"


def test_what_is_changed_is_in_the_config_and_said(qtbot: Any, form: TrainingForm) -> None:
    with qtbot.waitSignal(form.changed):
        form.form["steps"].value = 7
    form.form["learning_rate"].value = 0.00025
    form.form["augment"].value = False
    form.form["precision"].value = "bf16"
    config = form.config(size_px=32)
    assert isinstance(config, TrainingConfig)
    assert (config.steps, config.learning_rate, config.augment) == (7, 0.00025, False)
    assert (config.precision, config.size_px) == ("bf16", 32)
    assert f"Steps 7 ({PRESETS['modern'].steps:,})" in form.changes_note.text()
    assert "Learning rate 0.00025 (0.001)" in form.changes_note.text()
    assert "Augment what D sees off (on)" in form.changes_note.text()
    qtbot.mouseClick(form.reset_button, Qt.MouseButton.LeftButton)
    assert form.config(size_px=32) == PRESETS["modern"].with_changes(size_px=32)
    assert form.changes_note.text() == ""


def test_a_classifier_has_options_of_its_own_and_no_preset(form: TrainingForm) -> None:
    form.kind_box.setCurrentText(CLASSIFIER)
    assert form.preset_box.isHidden()
    form.form["steps"].value = 9
    config = form.config(size_px=64)
    assert isinstance(config, ClassifierConfig)
    assert config == ClassifierConfig(steps=9)
    form.kind_box.setCurrentText(GENERATOR)
    assert not form.preset_box.isHidden()
    assert form.form["steps"].value == PRESETS["modern"].steps


def test_the_device_is_chosen_from_those_there_are(form: TrainingForm) -> None:
    assert form.values()["device"] == "auto"
    assert form.device_note.isHidden()
    form.set_devices([("auto", "auto: cuda:0"), ("cuda:0", "a GPU"), ("cpu", "slow")], "It is fast.")
    assert form.device_note.text() == "It is fast."
    form.device_box.setCurrentIndex(2)
    assert form.config(size_px=64).device == "cpu"
    form.set_devices([("auto", "auto"), ("cpu", "slow")], "")
    assert form.values()["device"] == "cpu", "a list that is renewed keeps the choice"


def test_changes_in_words() -> None:
    base = TrainingConfig()
    same = {item.name: getattr(base, item.name) for item in fields(base)}
    assert changes_text(base, same) == ""
    assert (
        changes_text(base, {**same, "judge": "a/b", "beta1": 0.5})
        == "Changed: Adam beta 1 0.5 (0), Judge a/b (none)."
    )
    assert label_of("some_new_option") == "Some new option"
    assert [shown(v) for v in (True, False, 1234, 0.5, "")] == ["on", "off", "1,234", "0.5", "none"]


def test_each_kind_keeps_what_was_set(form: TrainingForm) -> None:
    form.form["steps"].value = 777
    form.kind_box.setCurrentText(CLASSIFIER)
    form.form["steps"].value = 55
    form.kind_box.setCurrentText(GENERATOR)
    assert form.form["steps"].value == 777
    assert "Steps 777" in form.changes_note.text()
    form.kind_box.setCurrentText(CLASSIFIER)
    assert form.form["steps"].value == 55


def test_the_classifiers_augmentation_is_a_choice(form: TrainingForm) -> None:
    form.kind_box.setCurrentText(CLASSIFIER)
    assert tuple(form.form["augmentation"].choices) == ClassifierConfig.augmentations


def test_only_where_0_is_allowed_it_is_offered(form: TrainingForm) -> None:
    labels = {kind: form.forms[kind]["base_channels"].label for kind in (GENERATOR, CLASSIFIER)}
    assert labels == {GENERATOR: "Finest width (0: auto)", CLASSIFIER: "Finest width"}


def test_where_a_run_is_saved_to_is_in_plain_sight(form: TrainingForm) -> None:
    form.show()
    assert not form.more.isExpanded()
    assert form.out_picker.isVisible()
    rows = form.out_picker.parentWidget().layout()
    assert rows.labelForField(form.out_picker).text() == "Save to"


def test_the_arrow_of_more_options_has_the_colour_of_the_theme(qtbot: Any) -> None:
    form = TrainingForm()
    qtbot.addWidget(form)
    form.show()
    for color in ("white", "black"):
        form.setStyleSheet(f"* {{ color: {color}; }}")
        for icon in (form.more.collapsedIcon(), form.more.expandedIcon()):
            image = icon.pixmap(16, 16).toImage()
            pixels = [image.pixelColor(x, y) for x in range(image.width()) for y in range(image.height())]
            darkest, lightest = (f(p.lightness() for p in pixels if p.alpha() > 128) for f in (min, max))
            assert (darkest, lightest) == ((255, 255) if color == "white" else (0, 0))
