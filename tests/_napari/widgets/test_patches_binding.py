from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import Qt

from napari_histolatent._napari._layers import KEY, slide_layer, world_of
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.patches import _marks_keeper
from napari_histolatent._napari.patches._dock_memory import DockMemory, memory_file, read_memory
from napari_histolatent._napari.patches._facts import labelled_tile
from napari_histolatent._napari.patches._hand_marks import (
    Decision,
    MarkKey,
    marks_file,
    marks_json,
    read_marks,
    write_marks,
)
from napari_histolatent._napari.patches._mask_keeper import read_kept_mask
from napari_histolatent._napari.patches._request import mask_file, write_mask
from napari_histolatent._napari.widgets import patches_plans
from napari_histolatent._napari.widgets.patches_binding import PatchesBinding
from napari_histolatent._napari.widgets.patches_view import EXTRACT, LOOK, TOGGLE, PatchesView
from napari_histolatent._napari.widgets.regions_binding import RegionsBinding
from napari_histolatent._napari.widgets.regions_view import RegionsView
from napari_histolatent.annotations import read_annotations
from napari_histolatent.errors import UserError
from napari_histolatent.patches import LabelSpec, Recipe, mask_from_image, plan_slide
from napari_histolatent.slides import open_slide, write_synthetic_slide
from tests._napari.helpers import add, click, give_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_histolatent.slides import Slide

LEFT = Qt.MouseButton.LeftButton
EPITHELIUM_XY, STROMA_XY, HOLE_XY = (120.5, 200.5), (550.5, 300.5), (220.5, 310.5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a hand to rest."""
    monkeypatch.setattr(patches_plans, "_SETTLE_MS", 10)
    monkeypatch.setattr(patches_plans, "_COST_MS", 10)
    monkeypatch.setattr(patches_plans, "_EVERY_MS", 10)


@pytest.fixture
def view(qtbot: Any) -> PatchesView:
    widget = PatchesView()
    qtbot.addWidget(widget)
    widget.form.size_spin.setValue(32)
    widget.form.min_tissue_slider.setValue(0)
    return widget


@pytest.fixture
def binding(proxy: Any, view: PatchesView) -> Iterator[PatchesBinding]:
    made = PatchesBinding(proxy, view)
    yield made
    made.close()


@pytest.fixture
def shown(viewer: Any, slide: Slide) -> Any:
    """The layer of `slide`."""
    return add(viewer, slide_layer(slide))


@pytest.fixture
def with_regions(viewer: Any, slide: Slide, shown: Any, tiny_regions: Path) -> None:
    """`slide` with its regions, in the session."""
    give_regions(viewer, slide, read_annotations(tiny_regions))


def idle(qtbot: Any, binding: PatchesBinding) -> None:
    qtbot.wait(20)
    qtbot.waitUntil(lambda: not binding.is_busy, timeout=20_000)


def press(qtbot: Any, binding: PatchesBinding, viewer: Any, slide: Slide, xy: tuple[float, float]) -> None:
    click(viewer, world_of(xy, slide.info))
    idle(qtbot, binding)


def key(viewer: Any, name: str) -> None:
    """Press a key as napari hands it out where no layer has it."""
    viewer.keymap[coerce_keybinding(name)](viewer)


def decisions(binding: PatchesBinding) -> dict[tuple[int, int], Decision]:
    keeper = binding.state.keeper()
    assert keeper is not None
    return {(k.x, k.y): decision for k, decision in keeper.marks.items()}


def labels(view: PatchesView) -> list[str]:
    return [view.gallery.card(k).label for k in view.gallery.shown_keys()]


def layers_of(viewer: Any, role: str) -> list[Any]:
    return [v for v in viewer.layers if v.metadata.get(KEY, {}).get("role") == role]


# The plan


def test_the_grid_is_shown_and_counted_as_it_would_be_extracted(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    idle(qtbot, binding)
    source, recipe = binding.request().resolve()
    plan = plan_slide(source, recipe)
    assert binding.state.planned.totals == plan.grids[0].counts()
    (layer,) = layers_of(viewer, "grid")
    assert layer.visible
    assert f"{plan.grids[0].counts()['stroma']}</td>" in view.counts_label.text()
    assert " patches, about " in view.plan_note.text()
    view.form.threshold_slider.setValue(0.2)
    idle(qtbot, binding)
    assert binding.state.planned.totals != plan.grids[0].counts()
    view.preview_check.setChecked(False)
    idle(qtbot, binding)
    assert layers_of(viewer, "grid") == []


def test_the_lower_of_two_slides_stays_the_slide(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    with_regions: None,
    tmp_path: Path,
) -> None:
    write_synthetic_slide(tmp_path / "other.tiff", size_px=(512, 512), seed=1)
    with open_slide(tmp_path / "other.tiff") as other:
        add(viewer, slide_layer(other))
        give_regions(viewer, other, session_of(viewer).annotations_of(slide))
        idle(qtbot, binding)
        assert binding.state.slide is other
        event = SimpleNamespace(position=world_of((100.0, 100.0), other.info))
        for callback in viewer.mouse_move_callbacks:
            callback(viewer, event)
        qtbot.waitUntil(lambda: "x 96, y 96" in view.hover_note.text(), timeout=5000)
        changes: list[Any] = []
        binding.state.slide_changed.connect(lambda: changes.append(binding.state.slide))
        viewer.layers.selection.active = shown
        idle(qtbot, binding)
        qtbot.wait(100)
        assert changes == [slide], "no going to and fro"
        assert viewer.layers.selection.active is shown
        assert len(layers_of(viewer, "grid")) == 1
        assert view.hover_note.text() == "", "the mouse was over a place of the other slide"
        viewer.layers.selection.clear()
        qtbot.wait(50)
        assert changes == [slide]
        binding.close()


def test_regions_that_change_change_the_plan(
    qtbot: Any, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    idle(qtbot, binding)
    before = binding.state.planned.totals["stroma"]
    regions = session_of(viewer).regions_of(slide)
    regions.apply("Delete", [], {k for k, r in regions.document.regions.items() if r.class_name == "stroma"})
    qtbot.waitUntil(lambda: "stroma" not in (binding.state.planned.totals or {"stroma": 0}), timeout=10_000)
    assert before > 0


def test_what_cannot_be_planned_is_said_in_the_dock(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, with_regions: None, errors: list[str]
) -> None:
    view.form.size_spin.setValue(2000)
    idle(qtbot, binding)
    assert "smaller than one patch" in view.plan_note.text()
    assert errors == []
    view.form.size_spin.setValue(32)
    idle(qtbot, binding)
    assert "smaller" not in view.plan_note.text()


def test_without_regions_there_is_no_grid_to_see(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, shown: Any
) -> None:
    idle(qtbot, binding)
    assert layers_of(viewer, "grid") == []
    assert "none has a class" in view.plan_note.text()
    with pytest.raises(UserError, match="has no regions to label patches by"):
        binding.request().resolve()
    view.form.default_edit.setText("negative")
    idle(qtbot, binding)
    assert len(layers_of(viewer, "grid")) == 1
    assert binding.state.planned.totals["negative"] > 100


def test_what_to_do_is_said_where_nothing_comes_of_a_recipe(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, with_regions: None
) -> None:
    view.form.set_recipe(view.recipe().changed(labels={"rule": "inside", "exclude": ("nobody",)}))
    view.form.size_spin.setValue(256)
    idle(qtbot, binding)
    assert "Lower “Least share”, or choose another rule" in view.plan_note.text()
    assert "No region has the class “nobody” that “Exclude” names" in view.plan_note.text()
    view.form.auto_check.setChecked(False)
    view.form.tissue_slider.setValue(255)
    view.form.min_tissue_slider.setValue(1)
    idle(qtbot, binding)
    assert "lower “Least tissue”, or the threshold" in view.plan_note.text()
    view.form.set_recipe(view.recipe().changed(stain={"method": "macenko", "target": "gone.png"}))
    idle(qtbot, binding)
    assert "The stain reference gone.png does not exist" in view.plan_note.text()


def test_a_slide_without_a_pixel_size_is_planned_at_level_0(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
) -> None:
    pixels = noise(200, 300)
    plain = slide_of(pixels)
    add(viewer, slide_layer(plain))
    assert view.slide_note.text().endswith("pixel size not stated: patches are cut at level 0")
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, plain, (100, 100))
    (tile,) = session_of(viewer).tray
    assert np.array_equal(tile.pixels, pixels[84:116, 84:116])
    assert tile.mpp is None
    assert binding.request().recipe.grid.level == 0
    assert view.recipe().grid.mpp == Recipe().grid.mpp, "the setting is kept for other slides"
    assert session_of(viewer).recipe is None or session_of(viewer).recipe.grid.mpp


# By hand


def test_a_click_takes_a_patch_out_and_in_and_can_be_undone(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    idle(qtbot, binding)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    assert decisions(binding) == {}, "looking marks nothing"
    before = binding.state.planned.totals["stroma"]
    qtbot.mouseClick(view.mode_buttons[TOGGLE], LEFT)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    corner = (544, 288)  # 17 and 9 patches of 32 px
    assert decisions(binding) == {corner: Decision(is_in=False)}
    assert binding.state.planned.totals["stroma"] == before - 1
    (card,) = [view.gallery.card(k) for k in view.gallery.shown_keys()]
    assert (card.label, card.is_left_out, card.xy) == ("stroma", True, corner)
    assert session_of(viewer).tray == (), "other docks work with what was cut"
    source, recipe = binding.request().resolve()
    assert [(m.x, m.y, m.is_in) for m in source.marks] == [(*corner, False)]
    assert plan_slide(source, recipe).grids[0].counts()["stroma"] == before - 1
    press(qtbot, binding, viewer, slide, STROMA_XY)
    assert decisions(binding) == {}
    assert view.undo_button.isEnabled()
    view.undo_button.click()
    assert decisions(binding) == {corner: Decision(is_in=False)}
    key(viewer, "Control-Z")
    assert decisions(binding) == {}
    key(viewer, "Control-Y")
    assert decisions(binding) == {corner: Decision(is_in=False)}


def test_a_click_cuts_the_patch_under_it(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    viewer.layers.selection.active = viewer.layers[0]
    view.set_mode(EXTRACT)
    places = (EPITHELIUM_XY, STROMA_XY, HOLE_XY)
    for place in places:
        click(viewer, world_of(place, slide.info))  # a hand does not wait for each patch
    idle(qtbot, binding)
    assert labels(view) == ["epithelium", "stroma", ""]
    tray = session_of(viewer).tray
    assert [tile.label for tile in tray] == ["epithelium", "stroma", None]
    for tile, (x, y) in zip(tray, places, strict=True):
        left, top, right, bottom = tile.level0_box
        assert (right - left, bottom - top) == (32, 32)
        assert abs((left + right) / 2 - x) <= 0.5
        assert abs((top + bottom) / 2 - y) <= 0.5
        assert np.array_equal(tile.pixels, slide.read_region((left, top), size_px=(32, 32), level=0))
    assert viewer.layers.selection.active is viewer.layers[0], "the next click is on the slide too"
    values = view.gallery.card(view.gallery.shown_keys()[1]).values
    assert values["stroma"] == 1
    assert values["saturation"] > 0
    (outlines,) = layers_of(viewer, "picked")
    assert len(outlines.data) == 3


def test_a_digit_changes_the_class_and_0_gives_it_back(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    digit = next(item.key for item in binding.state.classes() if item.name == "epithelium")
    key(viewer, digit)
    idle(qtbot, binding)
    assert labels(view) == ["epithelium"]
    assert [tile.label for tile in session_of(viewer).tray] == ["epithelium"]
    source, recipe = binding.request().resolve()
    (row,) = np.flatnonzero(plan_slide(source, recipe).grids[0].is_picked)
    grid = plan_slide(source, recipe).grids[0]
    assert grid.label_names[grid.label[row]] == "epithelium"
    key(viewer, "0")
    idle(qtbot, binding)
    assert labels(view) == ["stroma"]
    key(viewer, "Control-Z")
    key(viewer, "Control-Z")
    assert labels(view) == ["stroma"]
    key(viewer, "Control-Z")
    assert labels(view) == []
    assert session_of(viewer).tray == ()
    key(viewer, "Control-Y")
    idle(qtbot, binding)
    assert labels(view) == ["stroma"]
    assert len(session_of(viewer).tray) == 1


def test_with_one_name_for_all_regions_a_hand_gives_only_the_recipes_classes(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.form.set_recipe(
        view.recipe().changed(
            labels={"annotated_as": "positive", "default_class": "negative", "threshold": 1.0},
            tissue={"min_tissue": 0.3},
            balance={"per_class": 1},
        )
    )
    idle(qtbot, binding)
    assert [(v.key, v.name) for v in binding.state.classes()] == [("1", "positive"), ("2", "negative")]
    grid = binding.state.planned.grid
    (grey, *_) = np.flatnonzero((grid.label == -1) & (grid.coverage.annotated > 0.3))
    x, y = grid.positions.level0_xy[grey].tolist()
    view.set_mode(TOGGLE)
    press(qtbot, binding, viewer, slide, (x + 16.5, y + 16.5))
    assert decisions(binding) == {(x, y): Decision("positive")}
    # Others give way to it, as only one of its class may stay.
    left_out = binding.state.settlement.left_out
    assert left_out[binding.state.planned.row_of(x, y)] == ""
    assert (left_out == "balance").sum() > 10
    key(viewer, "2")
    idle(qtbot, binding)
    assert decisions(binding) == {(x, y): Decision("negative")}
    glass = np.argwhere(binding.state.planned.cell_tissue < 0.1)[0]
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, (glass[1] * 32 + 16.0, glass[0] * 32 + 16.0))
    assert "no tissue: press a digit to label it" in view.hover_note.text()
    assert labels(view) == ["negative", ""]
    card = view.gallery.card(view.gallery.shown_keys()[1])
    assert card.note.endswith("no tissue: press a digit to label it")
    key(viewer, "2")
    idle(qtbot, binding)
    # Two by hand, and room for one of them.
    cards = [view.gallery.card(k) for k in view.gallery.shown_keys()]
    assert sorted(card.is_left_out for card in cards) == [False, True]
    assert any(card.note.endswith("left out: balance") for card in cards)
    assert "(1 of them picked or labelled by hand)" in view.plan_note.text()


def test_marks_follow_a_class_that_is_renamed(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.set_mode(TOGGLE)
    idle(qtbot, binding)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    digit = next(item.key for item in binding.state.classes() if item.name == "epithelium")
    key(viewer, digit)
    document = session_of(viewer).regions_of(slide).document
    document.rename_class("epithelium", "tumour")
    idle(qtbot, binding)
    assert [d.label for d in decisions(binding).values()] == ["tumour"]
    view.undo_button.click()
    view.redo_button.click()
    assert [d.label for d in decisions(binding).values()] == ["tumour"]
    document.undo()
    assert [d.label for d in decisions(binding).values()] == ["epithelium"]
    document.remove_class("epithelium")
    qtbot.waitUntil(lambda: "“epithelium” (1 by hand) is no class" in view.plan_note.text(), timeout=10_000)


def test_the_minutes_are_those_of_the_last_run(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, with_regions: None
) -> None:
    idle(qtbot, binding)
    assert " patches, about " in view.plan_note.text()
    binding.request()
    binding.plans.take_rate({"patches": 500, "taken_up": 300, "seconds": 400.0})
    assert "(2e+03 ms a patch)" in view.plan_note.text()
    binding.plans.take_rate({"patches": 500, "taken_up": 0, "seconds": 1.0})
    assert "(2e+03 ms a patch)" in view.plan_note.text(), "of a run that was not of this slide"


def test_a_digit_without_a_class_is_a_sentence(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    with_regions: None,
    errors: list[str],
) -> None:
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    key(viewer, "9")
    assert len(errors) == 1
    assert errors[0].startswith("No class has the key 9; the keys are: 1 ")


def test_keys_of_others_come_back(
    view: PatchesView, binding: PatchesBinding, viewer: Any, shown: Any
) -> None:
    def theirs(_: Any) -> None:
        pass

    for owner in (viewer, shown):
        owner.bind_key("1", theirs, overwrite=True)
    viewer.layers.selection.active = shown
    one, undo = coerce_keybinding("1"), coerce_keybinding("Control-Z")
    view.set_mode(TOGGLE)
    assert viewer.keymap[one] is not theirs
    assert shown.keymap[one] is not theirs
    key(viewer, "Escape")
    assert view.mode == LOOK
    for owner in (viewer, shown):
        assert owner.keymap[one] is theirs
        assert undo not in owner.keymap


def test_in_a_mode_the_regions_dock_does_not_get_the_keys(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.set_mode(TOGGLE)
    idle(qtbot, binding)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    regions_view = RegionsView()
    qtbot.addWidget(regions_view)
    regions = RegionsBinding(viewer, regions_view)
    viewer.layers.selection.active = viewer.layers[0]
    regions.use_tool("polygon")
    regions.use_tool("")
    document = session_of(viewer).regions_of(slide).document
    n_regions = len(document.regions)
    event = SimpleNamespace(position=world_of(STROMA_XY, slide.info))
    for callback in viewer.mouse_move_callbacks:
        callback(viewer, event)
    viewer.layers[0].keymap[coerce_keybinding("Control-Z")](viewer.layers[0])
    assert decisions(binding) == {}
    assert len(document.regions) == n_regions
    key(viewer, "Escape")
    assert view.mode == LOOK
    assert viewer.keymap[coerce_keybinding("Control-Z")] is not None, "the Regions dock has its keys back"
    regions.close()


@pytest.mark.parametrize("place", [(-5.0, 10.0), (10.0, 640.5), (900.0, 10.0)])
def test_a_click_beside_the_slide_is_one_sentence(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    errors: list[str],
    place: tuple[float, float],
) -> None:
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, place)
    assert len(errors) == 1
    assert "lies off tiny.tiff" in errors[0]
    assert session_of(viewer).tray == ()


def test_without_a_slide_a_click_is_one_sentence(
    view: PatchesView, binding: PatchesBinding, viewer: Any, errors: list[str]
) -> None:
    assert view.slide_note.text().startswith("No slide yet")
    view.set_mode(EXTRACT)
    click(viewer, (5.0, 5.0))
    assert errors == ["There is no slide open; drop a slide on the window first."]


def test_a_drag_picks_nothing(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    view.set_mode(EXTRACT)
    click(viewer, world_of(STROMA_XY, slide.info), path=[(30, 0), (60, 0)])
    idle(qtbot, binding)
    assert session_of(viewer).tray == ()


def test_the_line_says_what_is_under_the_mouse(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    idle(qtbot, binding)
    event = type("Event", (), {"position": world_of(STROMA_XY, slide.info)})
    binding.hand._on_move(viewer, event)
    qtbot.waitUntil(lambda: "focus" in view.hover_note.text(), timeout=10_000)
    text = view.hover_note.text()
    assert text.startswith("Column 17, row 9 · x 544, y 288\nstroma")
    assert "stroma 100%" in text
    assert viewer.status == text.replace("\n", " · ")


# The list


def test_all_patches_of_the_grid_are_listed_and_marked_from_there(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    idle(qtbot, binding)
    view.all_check.setChecked(True)
    idle(qtbot, binding)
    planned = binding.state.planned
    keys = view.gallery.shown_keys()
    assert len(keys) == len(planned.grid)
    row = planned.row_at(STROMA_XY)
    digit = next(item.key for item in binding.state.classes() if item.name == "epithelium")
    view.gallery.class_chosen.emit([keys[row]], int(digit))
    view.gallery.toggled.emit([keys[row + 1]])
    qtbot.waitUntil(lambda: view.gallery.card(keys[row]).label == "epithelium", timeout=10_000)
    idle(qtbot, binding)
    assert view.gallery.card(keys[row + 1]).note == "left out: by hand"
    view.all_check.setChecked(False)
    assert labels(view) == ["epithelium", "stroma"]
    view.gallery.removed.emit(view.gallery.shown_keys())
    assert decisions(binding) == {}


def test_the_list_follows_the_stain_that_is_chosen(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    view.form.stain_box.setCurrentIndex(view.form.stain_box.findData("reinhard"))
    view.form.normalised_check.setChecked(True)
    idle(qtbot, binding)
    asked: list[Any] = []
    real = view.gallery.set_cards
    view.gallery.set_cards = lambda cards, **options: (asked.append(len(cards)), real(cards, **options))
    view.form.target_edit.setText("else.png")
    view.form.stain_box.setCurrentIndex(view.form.stain_box.findData("macenko"))
    idle(qtbot, binding)
    assert asked == [1], "once, when both were changed"
    view.form.threshold_slider.setValue(0.5)
    idle(qtbot, binding)
    assert asked == [1]


def test_a_card_leads_to_its_patch(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    (patch,) = view.gallery.shown_keys()
    view.gallery.opened.emit(patch)
    centre = patch[1].x + 16, patch[1].y + 16
    assert viewer.scene.camera.center[-2:] == pytest.approx(world_of(centre, slide.info))
    width_um = 32 * slide.info.mpp_x
    assert width_um * viewer.scene.camera.zoom == pytest.approx(min(viewer.canvas.size) / 3)


def test_decisions_at_another_size_wait(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    view.form.size_spin.setValue(48)
    idle(qtbot, binding)
    assert view.marks_note.text().startswith("1 decision about patches of another size")
    assert binding.request().resolve()[0].marks == ()
    view.form.size_spin.setValue(32)
    idle(qtbot, binding)
    assert view.marks_note.text() == ""
    assert len(binding.request().resolve()[0].marks) == 1


def test_marks_of_two_slides_are_listed_together_and_kept_apart(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    with_regions: None,
    tmp_path: Path,
) -> None:
    write_synthetic_slide(tmp_path / "finer.tiff", size_px=(512, 512), mpp=0.25, seed=1)
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    with open_slide(tmp_path / "finer.tiff") as finer:
        viewer.layers.selection.active = add(viewer, slide_layer(finer))
        press(qtbot, binding, viewer, finer, (300.5, 300.5))
        assert [view.gallery.card(k).slide for k in view.gallery.shown_keys()] == ["tiny.tiff", "finer.tiff"]
        assert len(decisions(binding)) == 1
        assert len(session_of(viewer).tray) == 2
        binding.close()


# What is kept


def test_marks_are_on_the_disk_a_moment_later_and_back_with_the_slide(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    with_regions: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = marks_file(slide.info.digest)
    binding.state.keeper()._timer.setInterval(30)
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    qtbot.waitUntil(lambda: file.exists() and len(read_marks(file)) == 1, timeout=10_000)
    assert _marks_keeper.SAVE_MS <= 1000
    key(viewer, "1")  # not on the disk yet when the slide goes
    expected = list(binding.state.keeper().marks.items())
    viewer.layers.remove(next(v for v in viewer.layers if v.metadata[KEY]["role"] == "slide"))
    qtbot.wait(20)
    assert list(read_marks(file)) == expected
    assert view.gallery.shown_keys() == []
    add(viewer, slide_layer(slide))
    qtbot.waitUntil(lambda: len(view.gallery.shown_keys()) == 1, timeout=10_000)
    assert decisions(binding) == {(k.x, k.y): d for k, d in expected}


def test_damaged_marks_are_moved_aside_and_said(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, errors: list[str]
) -> None:
    file = marks_file(slide.info.digest)
    file.parent.mkdir(parents=True)
    file.write_text("{")
    add(viewer, slide_layer(slide))
    qtbot.waitUntil(lambda: len(errors) == 1, timeout=10_000)
    assert "was moved to" in errors[0]
    binding.state.keeper()._timer.setInterval(10)
    view.set_mode(EXTRACT)
    press(qtbot, binding, viewer, slide, STROMA_XY)
    qtbot.waitUntil(lambda: file.exists() and len(read_marks(file)) == 1, timeout=10_000)


def test_picks_of_before_are_there_for_other_docks(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide
) -> None:
    patch = MarkKey(40, 60, 32, 1.0)
    write_marks(marks_file(slide.info.digest), marks_json([(patch, Decision("x", True, True))], "tiny.tiff"))
    add(viewer, slide_layer(slide))
    qtbot.waitUntil(lambda: len(view.gallery.shown_keys()) == 1, timeout=10_000)
    view.gallery.pixels_wanted.emit(view.gallery.shown_keys())
    qtbot.waitUntil(lambda: len(session_of(viewer).tray) == 1, timeout=10_000)
    (tile,) = session_of(viewer).tray
    assert tile.label == "x"
    assert np.array_equal(tile.pixels, slide.read_region((40, 60), size_px=(32, 32), level=0))


def test_the_dock_comes_back_as_it_was(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, proxy: Any, with_regions: None
) -> None:
    view.form.threshold_slider.setValue(0.35)
    view.preview_check.setChecked(False)
    idle(qtbot, binding)
    binding.close()
    again = PatchesView()
    qtbot.addWidget(again)
    other = PatchesBinding(proxy, again)
    assert again.recipe() == view.recipe()
    assert not again.preview_check.isChecked()
    idle(qtbot, other)
    other.close()


# The tissue mask


def test_what_is_painted_is_used_and_can_be_dropped(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.form.min_tissue_slider.setValue(0.5)
    view.mask_check.setChecked(True)
    idle(qtbot, binding)
    (layer,) = layers_of(viewer, "tissue")
    assert "of the slide is tissue" in view.form.found_label.text()
    n_before = len(binding.state.planned.grid)
    assert n_before > 0
    layer.data = np.zeros_like(layer.data)
    qtbot.waitUntil(lambda: len(binding.state.planned.grid) == 0, timeout=10_000)
    assert view.mask_note.text()
    idle(qtbot, binding)
    source, _ = binding.request().resolve()
    assert source.mask is not None
    from PIL import Image

    assert np.asarray(Image.open(source.mask)).shape == layer.data.shape
    assert np.asarray(Image.open(source.mask)).max() == 0
    view.mask_reset_button.click()
    qtbot.waitUntil(lambda: len(binding.state.planned.grid) == n_before, timeout=10_000)
    assert layers_of(viewer, "tissue")[0].data.any()
    assert binding.request().own_mask is None
    view.mask_check.setChecked(False)
    assert layers_of(viewer, "tissue") == []


def test_a_painted_mask_comes_back_with_its_slide(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.mask_check.setChecked(True)
    idle(qtbot, binding)
    (layer,) = layers_of(viewer, "tissue")
    painted = np.zeros_like(layer.data)
    painted[: len(painted) // 2] = 1
    layer.data = painted
    # Closed at once: the stroke was not even told of yet.
    viewer.layers.clear()
    idle(qtbot, binding)
    assert session_of(viewer).own_masks == {}
    add(viewer, slide_layer(slide))
    qtbot.waitUntil(lambda: binding.state.own_mask is not None, timeout=10_000)
    assert "your mask edits are back" in view.mask_note.text().casefold()
    assert np.array_equal(binding.state.own_mask.mask, painted != 0)
    idle(qtbot, binding)
    binding.close()
    assert np.array_equal(read_kept_mask(slide.info).mask, painted != 0)


def test_a_kept_mask_is_read_in_the_next_session_and_dropped_for_good(
    qtbot: Any, view: PatchesView, proxy: Any, viewer: Any, slide: Slide
) -> None:
    kept = np.zeros((slide.info.height_px // 4, slide.info.width_px // 4), bool)
    kept[20:90, 40:150] = True
    write_mask(mask_file(slide.info.digest), mask_from_image(kept, slide.info))
    add(viewer, slide_layer(slide))
    first = PatchesBinding(proxy, view)
    qtbot.waitUntil(lambda: first.state.own_mask is not None, timeout=10_000)
    assert np.array_equal(first.request().own_mask.mask, kept)
    idle(qtbot, first)
    view.mask_reset_button.click()
    assert first.state.own_mask is None
    assert view.mask_note.text() == ""
    first.close()
    assert not mask_file(slide.info.digest).exists()


def test_a_damaged_mask_is_moved_aside_and_said(
    qtbot: Any, view: PatchesView, proxy: Any, viewer: Any, slide: Slide, errors: list[str]
) -> None:
    path = mask_file(slide.info.digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no picture")
    add(viewer, slide_layer(slide))
    made = PatchesBinding(proxy, view)
    qtbot.waitUntil(lambda: len(errors) == 1, timeout=10_000)
    assert "moved to" in errors[0]
    assert not path.exists()
    assert path.with_suffix(".damaged.png").read_bytes() == b"no picture"
    made.close()


# What the dock was set to


def test_the_next_session_begins_as_the_last_one_ended(
    qtbot: Any, view: PatchesView, proxy: Any, viewer: Any
) -> None:
    first = PatchesBinding(proxy, view)
    view.form.threshold_slider.setValue(0.35)
    view.preview_check.setChecked(False)
    first.close()
    memory = read_memory(memory_file())
    assert memory == DockMemory(view.recipe(), shows_preview=False)
    session_of(viewer).recipe, session_of(viewer).shows_preview = None, True  # as in a new session
    again = PatchesView()
    qtbot.addWidget(again)
    other = PatchesBinding(proxy, again)
    qtbot.waitUntil(lambda: again.recipe() == view.recipe(), timeout=10_000)
    qtbot.waitUntil(lambda: not again.preview_check.isChecked(), timeout=2000)
    other.close()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"version": 99}',
        '{"version": 1, "shows_preview": true, "recipe": {"grid": {"size": 1}}}',
    ],
)
def test_a_broken_memory_is_no_memory(content: str) -> None:
    path = memory_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    assert read_memory(path) is None


# The end


@pytest.mark.parametrize("how", ["x", "window"])
def test_a_dock_that_ends_lets_go(
    qtbot: Any, proxy: Any, viewer: Any, end_dock: Callable[[Any, str], None], slide: Slide, how: str
) -> None:
    layer = add(viewer, slide_layer(slide))
    give_nothing = list(viewer.mouse_move_callbacks), list(viewer.mouse_drag_callbacks)
    widget = PatchesView()
    widget.binding = PatchesBinding(proxy, widget)
    widget.set_mode(EXTRACT)
    idle(qtbot, widget.binding)
    end_dock(widget, how)
    gc.collect()
    assert (list(viewer.mouse_move_callbacks), list(viewer.mouse_drag_callbacks)) == give_nothing
    assert coerce_keybinding("1") not in viewer.keymap
    assert list(viewer.layers) == [layer]


@pytest.mark.parametrize(
    ("rule", "threshold", "label"), [("area", 0.9, None), ("area", 0.4, "stroma"), ("any", 0.9, "stroma")]
)
def test_the_label_of_a_tile_follows_the_rule(
    slide: Slide, tiny_regions: Path, rule: str, threshold: float, label: str | None
) -> None:
    # Half of the patch lies left of the stroma, which begins at x = 400.
    spec = LabelSpec(rule=rule, threshold=threshold)
    regions = read_annotations(tiny_regions)
    assert labelled_tile(slide, regions, (400, 300), size_px=32, mpp=0.5, labels=spec).label == label
    assert labelled_tile(slide, None, (400, 300), size_px=32, mpp=0.5, labels=spec).label is None
