from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_histolatent._files import digest_of_file
from napari_histolatent._napari._editing import Models
from napari_histolatent._napari._layers import KEY, slide_layer, world_of
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.editing._path import FRAMES
from napari_histolatent._napari.editing._scene import PUT_AWAY
from napari_histolatent._napari.editing._searching import find
from napari_histolatent._napari.regions import is_regions_layer
from napari_histolatent._napari.widgets import edit_binding, edit_models, edit_picking
from napari_histolatent._napari.widgets.edit_binding import EditBinding
from napari_histolatent._napari.widgets.edit_view import NO_CLASSIFIER, EditView
from napari_histolatent.annotations import read_annotations
from napari_histolatent.errors import UserError
from napari_histolatent.jobs import calibration, edits
from napari_histolatent.jobs.calibration import Judged
from napari_histolatent.jobs.tiles import Tile, cut_tile
from napari_histolatent.latent.blend import residual_edit
from napari_histolatent.latent.search_options import OWN_STEPS, SearchOptions
from napari_histolatent.runs._index import remember
from tests._napari.helpers import add, click, give_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_histolatent.slides import Slide
    from tests._napari.conftest import Endless, Trained

LEFT = Qt.MouseButton.LeftButton
EPITHELIUM_XY, STROMA_XY = (120.5, 200.5), (550.5, 300.5)
TILE, RECONSTRUCTION, EDIT = "Grad-CAM tile", "SYNTHETIC reconstruction", "SYNTHETIC edit"


@pytest.fixture(autouse=True)
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EditView, "options", lambda view: SearchOptions(steps=3, seed=view.seed_spin.value()))
    for name in ("fast", "layers", "faithful"):
        monkeypatch.setitem(OWN_STEPS, name, 2)


@pytest.fixture
def view(qtbot: Any) -> EditView:
    widget = EditView()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def binding(proxy: Any, view: EditView) -> Iterator[EditBinding]:
    made = EditBinding(proxy, view)
    yield made
    made.close()


@pytest.fixture
def shown(viewer: Any, slide: Slide, tiny_regions: Path) -> Any:
    """The layer of `slide`, whose regions are in the session."""
    layer = add(viewer, slide_layer(slide))
    give_regions(viewer, slide, read_annotations(tiny_regions))
    return layer


@pytest.fixture
def ready(qtbot: Any, listed: Trained, shown: Any, binding: EditBinding) -> EditBinding:
    """The dock with both networks and a slide."""
    loaded(qtbot, binding)
    return binding


def idle(qtbot: Any, binding: EditBinding) -> None:
    """Wait until nothing is computed: with an edit, all its frames are there."""
    qtbot.waitUntil(lambda: not binding.is_busy and not binding._path.player.is_busy, timeout=20_000)


def loaded(qtbot: Any, binding: EditBinding) -> None:
    qtbot.waitUntil(lambda: binding.models is not None and not binding.is_busy, timeout=20_000)


def pick(qtbot: Any, binding: EditBinding, viewer: Any, slide: Slide, level0_xy: tuple[float, float]) -> None:
    if not binding._view.pick_button.isChecked():
        binding._view.pick_button.click()
    click(viewer, world_of(level0_xy, slide.info))
    idle(qtbot, binding)


def search(qtbot: Any, binding: EditBinding) -> None:
    qtbot.mouseClick(binding._view.search_button, LEFT)
    idle(qtbot, binding)


def names(viewer: Any) -> set[str]:
    """What is shown beside the slide's regions."""
    there = (layer for layer in viewer.layers if PUT_AWAY not in layer.metadata.get(KEY, {}))
    return {layer.name for layer in there if not is_regions_layer(layer)}


def choose(box: Any, index: int) -> None:
    """Choose an entry, as a user does: a program's change gives no signal."""
    box.setCurrentIndex(index)
    box.activated.emit(index)


def three_classes(generator: Path, folder: Path) -> Path:
    """Return a run like this generator's, untrained, that knows fat too."""
    return with_classes(generator, folder / "three", ["epithelium", "fat", "stroma"])


def with_classes(generator: Path, path: Path, classes: list[str]) -> Path:
    """Return a run like this generator's, untrained, of other classes, or of none."""
    import torch
    from safetensors.torch import save_file

    from napari_histolatent.models import build_gan

    shutil.copytree(generator, path)
    (checkpoint,) = (path / "checkpoints").iterdir()
    info = json.loads((checkpoint / "checkpoint.json").read_text())
    info["classes"] = classes
    info["config"]["network"] = "cdcgan" if classes else "dcgan"
    options = {name: info["config"][name] for name in ("z_dim", "base_channels")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, _ = build_gan(info["config"]["network"], classes=classes, size_px=info["size_px"], **options)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, checkpoint / "model.safetensors")
    info["digest"] = digest_of_file(checkpoint / "model.safetensors")
    (checkpoint / "checkpoint.json").write_text(json.dumps(info))
    return path


def frames(binding: EditBinding) -> list[Tile]:
    """Return the images of the slider, all of them."""
    assert binding._path.player.is_complete
    return [frame.tile for frame in binding._path.player.frames]


def has_picture(view: EditView, line: str, column: str) -> bool:
    return not view.strip.pictures[line, column].pixmap().isNull()


def slide_to(view: EditView, index: int) -> None:
    view.path_panel.slider.setValue(index)


def has_slider(view: EditView) -> bool:
    return view.path_panel.isEnabled() and view.path_panel.slider.isEnabled()


# Networks


def test_without_a_generator_the_way_to_one_is_told(
    qtbot: Any, view: EditView, binding: EditBinding, errors: list[str]
) -> None:
    idle(qtbot, binding)
    assert view.generator_box.count() == 0
    view.search_requested.emit()
    view.from_tray_requested.emit()
    view.picking_switched.emit(True)
    click(binding._viewer, (5.0, 5.0))
    assert len(errors) == 3
    assert all("There is no generator yet" in sentence for sentence in errors)


def test_the_newest_networks_are_loaded(
    qtbot: Any, view: EditView, ready: EditBinding, listed: Trained
) -> None:
    assert view.models_note.text() == "Draws epithelium, stroma, 32 px at 1 µm per px, step 2."
    assert view.generator_box.currentData() == str(listed.generator)
    assert view.classifier_box.currentData() == str(listed.classifier)
    assert [view.heatmap_class_box.itemData(i) for i in range(3)] == [None, "epithelium", "stroma"]
    assert not view.search_button.isEnabled(), "there is no tile yet"


def test_a_generator_alone_draws_without_heatmaps(
    qtbot: Any, view: EditView, binding: EditBinding, viewer: Any, slide: Slide, shown: Any, trained: Trained
) -> None:
    idle(qtbot, binding)
    remember(trained.generator)
    session_of(viewer).runs_changed.emit()
    loaded(qtbot, binding)
    assert "no classifier, so no Grad-CAM" in view.models_note.text()
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    search(qtbot, binding)
    assert names(viewer) == {"tiny.tiff", RECONSTRUCTION, EDIT}
    assert "\nChange 0." in view.edit_note.text()


def test_a_run_that_ends_is_offered_and_the_choice_stays(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(trained.generator, tmp_path / "newer")
    remember(tmp_path / "newer")
    before = ready.models
    session_of(viewer).runs_changed.emit()
    qtbot.waitUntil(lambda: view.generator_box.count() == 2)
    idle(qtbot, ready)
    assert view.generator_box.currentData() == str(trained.generator)
    assert ready.models is before, "nothing is loaded again"
    choose(view.generator_box, view.generator_box.findData(str(tmp_path / "newer")))
    idle(qtbot, ready)
    assert ready.models.generator.checkpoint.path.is_relative_to(tmp_path)


def test_a_generator_that_learnt_on_is_loaded_again(
    qtbot: Any, view: EditView, binding: EditBinding, viewer: Any, trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(trained.generator, tmp_path / "run")
    remember(tmp_path / "run")
    session_of(viewer).runs_changed.emit()
    loaded(qtbot, binding)
    idle(qtbot, binding)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-00000004")
    session_of(viewer).runs_changed.emit()
    qtbot.waitUntil(
        lambda: binding.models is not None and binding.models.generator.checkpoint.path.name.endswith("4")
    )


def test_the_user_may_want_no_classifier(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, listed: Trained
) -> None:
    choose(view.classifier_box, view.classifier_box.findText(NO_CLASSIFIER))
    idle(qtbot, ready)
    assert ready.models.classifier is None
    assert "no classifier" in view.models_note.text()
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    assert names(viewer) == {"tiny.tiff"}
    session_of(viewer).runs_changed.emit()
    idle(qtbot, ready)
    assert ready.models.classifier is None, "and stays without"
    choose(view.classifier_box, view.classifier_box.findData(str(listed.classifier)))
    idle(qtbot, ready)
    assert ready.models.classifier is not None


def test_a_generator_is_not_paired_with_a_classifier_of_other_classes(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    listed: Trained,
    tmp_path: Path,
    errors: list[str],
) -> None:
    remember(three_classes(listed.generator, tmp_path))
    session_of(viewer).runs_changed.emit()
    qtbot.waitUntil(lambda: view.generator_box.count() == 2)
    idle(qtbot, ready)
    choose(view.generator_box, view.generator_box.findData(str(tmp_path / "three")))
    idle(qtbot, ready)
    assert errors == []
    assert "no classifier" in view.models_note.text()
    choose(view.classifier_box, view.classifier_box.findData(str(listed.classifier)))
    idle(qtbot, ready)
    assert len(errors) == 1
    assert "The generator knows the classes" in errors[0]
    assert not view.search_button.isEnabled()
    choose(view.generator_box, view.generator_box.findData(str(listed.generator)))
    idle(qtbot, ready)
    assert view.classifier_box.currentData() == str(listed.classifier)
    assert ready.models.classifier is not None


def test_a_broken_checkpoint_is_one_sentence(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    trained: Trained,
    tmp_path: Path,
    errors: list[str],
) -> None:
    shutil.copytree(trained.generator, tmp_path / "broken")
    (weights,) = (tmp_path / "broken").glob("checkpoints/*/model.safetensors")
    weights.write_bytes(b"nothing")
    remember(tmp_path / "broken")
    session_of(viewer).runs_changed.emit()
    qtbot.waitUntil(lambda: view.generator_box.count() == 2)
    idle(qtbot, ready)
    choose(view.generator_box, view.generator_box.findData(str(tmp_path / "broken")))
    idle(qtbot, ready)
    assert len(errors) == 1
    assert "cannot be read as safetensors" in errors[0]
    assert view.models_note.text() != "Loading…", "nothing is loading any more"


# The tile


def test_a_click_takes_the_tile_under_it(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    viewer.layers.selection.active = shown
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    tile = ready._state.tile
    left, top, right, bottom = tile.level0_box
    assert (right - left, bottom - top) == (64, 64), "32 px of 1 µm on a slide of 0.5 µm"
    assert abs((left + right) / 2 - STROMA_XY[0]) <= 0.5
    assert np.array_equal(tile.pixels, slide.read_region((left, top), size_px=(32, 32), level=1))
    assert tile.label == "stroma"
    assert view.tile_note.text().splitlines()[0] == "Tile at x=550, y=300, stroma."
    assert has_picture(view, "pixels", "tile")
    assert has_picture(view, "heatmap", "tile")
    assert not has_picture(view, "pixels", "reconstruction")
    assert view.search_button.isEnabled()
    assert not has_slider(view)
    assert viewer.layers.selection.active is shown, "the next click is on the slide too"


def test_the_heatmap_of_a_tile_lies_over_it(
    qtbot: Any, ready: EditBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    (layer,) = [layer for layer in viewer.layers if layer.name.startswith(TILE)]
    left, top, right, bottom = ready._state.tile.level0_box
    assert shown.world_to_data(layer.data_to_world((-0.5, -0.5))) == pytest.approx((top - 0.5, left - 0.5))
    assert shown.world_to_data(layer.data_to_world((31.5, 31.5))) == pytest.approx(
        (bottom - 0.5, right - 0.5)
    )
    assert layer.visible
    target = layer.metadata[KEY]["target"]
    assert layer.name == f"{TILE}: {target}"


@pytest.mark.parametrize("place", [(-5.0, 10.0), (900.0, 10.0)])
def test_a_click_beside_the_slide_is_one_sentence(
    qtbot: Any,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    errors: list[str],
    place: tuple[float, float],
) -> None:
    pick(qtbot, ready, viewer, slide, place)
    assert len(errors) == 1
    assert "lies off tiny.tiff" in errors[0]
    assert ready._state.tile is None


def test_a_click_without_a_slide_is_one_sentence(
    qtbot: Any, ready: EditBinding, viewer: Any, shown: Any, errors: list[str]
) -> None:
    viewer.layers.remove(shown)
    ready._view.pick_button.click()
    click(viewer, (5.0, 5.0))
    assert errors == ["There is no slide open; drop a slide on the window first."]


def test_from_the_tray_without_a_slide_is_one_sentence(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, shown: Any, errors: list[str]
) -> None:
    session_of(viewer).add_to_tray(cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0))
    viewer.layers.remove(shown)
    qtbot.mouseClick(view.tray_button, LEFT)
    assert len(errors) == 1, "a button that does nothing leaves one guessing"
    assert ready._state.tile is None


def test_the_newest_patch_of_the_tray_is_taken(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, errors: list[str]
) -> None:
    session = session_of(viewer)
    qtbot.mouseClick(view.tray_button, LEFT)
    assert len(errors) == 1
    assert "tray holds no patch of this slide" in errors[0]
    for place in (EPITHELIUM_XY, STROMA_XY):
        session.add_to_tray(cut_tile(slide, place, size_px=64, mpp=0.5))
    session.add_to_tray(replace(session.tray[0], slide_digest="another"))
    qtbot.mouseClick(view.tray_button, LEFT)
    idle(qtbot, ready)
    assert ready._state.tile.centre == STROMA_XY
    assert ready._state.tile.pixels.shape == (32, 32, 3), "cut again at the size the generator draws"
    assert len(errors) == 1


def test_zoom_puts_the_tile_in_the_middle(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    qtbot.mouseClick(view.zoom_button, LEFT)
    left, top, right, bottom = ready._state.tile.level0_box
    middle = world_of(((left + right) / 2, (top + bottom) / 2), slide.info)
    assert viewer.scene.camera.center[-2:] == pytest.approx(middle)
    assert viewer.scene.camera.zoom * 32 == pytest.approx(250), "32 µm are 250 px wide"


def test_zoom_shows_all_that_lies_side_by_side_in_a_narrow_canvas(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    viewer.canvas.size = (800, 540)
    view.beside_check.setChecked(True)
    for check, n_tiles in ((None, 3), (view.residual_layer_check, 4), (view.difference_check, 5)):
        if check is not None:
            check.setChecked(True)
        qtbot.mouseClick(view.zoom_button, LEFT)
        camera, ground = viewer.scene.camera, ready._scene.ground
        ends = ground.corner[1], ground.corner[1] + n_tiles * ground.size[1]
        from_middle = [(end - camera.center[-1]) * camera.zoom for end in ends]
        assert from_middle[0] == pytest.approx(-from_middle[1])
        assert 200 < from_middle[1] < 270, n_tiles


def test_what_lies_off_the_canvas_is_gone_to_and_what_lies_on_it_is_not(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    camera = viewer.scene.camera
    before = tuple(camera.center), camera.zoom
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    assert (tuple(camera.center), camera.zoom) == before, "the click was on the canvas"
    qtbot.mouseClick(view.zoom_button, LEFT)
    on_slide = camera.center[-2:]
    qtbot.mouseClick(view.random_button, LEFT)
    idle(qtbot, ready)
    assert camera.center[-2:] == pytest.approx(ready._scene.ground.middle), "left of the slide"
    qtbot.mouseClick(view.history_bar.undo_button, LEFT)
    assert camera.center[-2:] == pytest.approx(on_slide)


# Reverse search


def test_a_search_finds_the_tile_again_and_offers_edits(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    viewer.layers.selection.active = shown
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    qtbot.mouseClick(view.search_button, LEFT)
    assert view.search_button.isHidden()
    assert not view.cancel_button.isHidden()
    idle(qtbot, ready)
    assert not view.search_button.isHidden()
    assert "\nFound by faithful" in view.search_note.text()
    assert [view.target_box.itemText(i) for i in range(view.target_box.count())] == ["class stroma"]
    assert has_slider(view)
    assert "\nChange 0." in view.edit_note.text()
    assert view.path_panel.step_note.text().startswith(f"Step 0 of {FRAMES - 1}: epithelium ")
    assert view.badge.badge.text() == "Not calibrated"
    for column in ("tile", "reconstruction", "edit"):
        assert sum(view.bars.bars[name, column].value() for name in ("epithelium", "stroma")) in (
            999,
            1000,
            1001,
        )
    for line in ("pixels", "heatmap"):
        assert all(has_picture(view, line, column) for column in ("tile", "reconstruction", "edit"))
    assert {RECONSTRUCTION, EDIT} < names(viewer)
    assert viewer.layers.selection.active is shown


def test_what_was_drawn_lies_on_its_tile_and_says_where_it_is_from(
    qtbot: Any, ready: EditBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    left, top, *_ = ready._state.tile.level0_box
    for name in (RECONSTRUCTION, EDIT):
        layer = viewer.layers[name]
        assert shown.world_to_data(layer.data_to_world((-0.5, -0.5))) == pytest.approx(
            (top - 0.5, left - 0.5)
        )
        facts = layer.metadata[KEY]
        assert facts["synthetic"] is True
        assert facts["model_digest"] == ready.models.generator.checkpoint.digest
        assert facts["slide_digest"] == slide.info.digest
        assert len(facts["latent_point"]["values"]) == 8
    assert all(layer.metadata[KEY] for layer in viewer.layers)


def test_the_tile_is_searched_in_its_own_class(
    qtbot: Any, ready: EditBinding, viewer: Any, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = edits.reverse_search, []

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.append(options["label"])
        return real(*arguments, **options)

    monkeypatch.setattr(edits, "reverse_search", recorded)
    for place in (EPITHELIUM_XY, STROMA_XY, (220.5, 310.5)):
        pick(qtbot, ready, viewer, slide, place)
        search(qtbot, ready)
    sees = ready._seen["tile"].probabilities
    assert asked == ["epithelium", "stroma", max(sees, key=sees.get)], (
        "in the hole: as the classifier sees it"
    )
    choose(ready._view.search_class_box, 2)
    search(qtbot, ready)
    assert asked[3:] == [None]


def search_without_end(work: Endless, *, late_preview: bool = False) -> Any:
    """Return a search that goes on until it is asked to stop; then it may show one more image."""

    def reverse_search(*_: Any, should_stop: Callable[[], bool], on_step: Any, **__: Any) -> list[None]:
        work.wait(should_stop)
        if late_preview:
            on_step(25, np.zeros((1, 32, 32, 3), np.uint8))
        return [None]

    return reverse_search


def test_a_search_can_be_cancelled(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    endless: Endless,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edits, "reverse_search", search_without_end(endless, late_preview=True))
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    qtbot.mouseClick(view.search_button, LEFT)
    qtbot.waitUntil(endless.entered.is_set)
    qtbot.mouseClick(view.cancel_button, LEFT)
    assert view.search_note.text() == "The search was cancelled."
    assert not view.search_button.isHidden()
    qtbot.waitUntil(endless.stopped.is_set)
    idle(qtbot, ready)
    qtbot.wait(20)
    assert view.search_note.text() == "The search was cancelled."
    assert not has_slider(view)
    assert EDIT not in names(viewer)
    assert not has_picture(view, "pixels", "reconstruction"), "nothing was found"


def test_a_search_that_was_left_shows_nothing_in_the_next_tile(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    endless: Endless,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edits, "reverse_search", search_without_end(endless, late_preview=True))
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    qtbot.mouseClick(view.search_button, LEFT)
    qtbot.waitUntil(endless.entered.is_set)
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    qtbot.waitUntil(endless.stopped.is_set)
    idle(qtbot, ready)
    assert ready._state.tile.label == "stroma"
    assert not view.search_button.isHidden()
    assert not has_picture(view, "pixels", "reconstruction"), "that was the other tile's"


def test_the_search_shows_how_far_it_is(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown_step, go_on = threading.Event(), threading.Event()
    real = edits.reverse_search

    def slow(*arguments: Any, on_step: Any, **options: Any) -> Any:
        on_step(2, np.zeros((1, 32, 32, 3), np.uint8))
        shown_step.set()
        assert go_on.wait(30)
        return real(*arguments, on_step=on_step, **options)

    monkeypatch.setattr(edits, "reverse_search", slow)
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    qtbot.mouseClick(view.search_button, LEFT)
    qtbot.waitUntil(lambda: shown_step.is_set() and view.progress.value() == 2)
    assert view.progress.maximum() == 2 + 3
    assert has_picture(view, "pixels", "reconstruction")
    go_on.set()
    idle(qtbot, ready)
    assert "Found by" in view.search_note.text()


# The slider


def test_the_slider_only_assigns(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    qtbot.waitUntil(lambda: not ready._agreement.worker.is_busy, timeout=20_000)  # it computes for itself
    layer, reconstruction = viewer.layers[EDIT], viewer.layers[RECONSTRUCTION].data.copy()
    computed: list[str] = []
    for name in ("drawn_tiles", "flip_tile", "heatmaps_of", "reverse_search"):
        monkeypatch.setattr(edits, name, lambda *_, name=name, **__: computed.append(name))
    shown_frames = []
    for index in range(FRAMES):
        slide_to(view, index)
        shown_frames.append(layer.data.copy())
        assert np.array_equal(layer.data, frames(ready)[index].pixels)
        weights = layer.metadata[KEY]["latent_point"]["class_weights"]
        assert sum(weights) == pytest.approx(1)
    assert np.array_equal(shown_frames[0], reconstruction)
    assert not np.array_equal(shown_frames[-1], shown_frames[0])
    assert np.array_equal(viewer.layers[RECONSTRUCTION].data, reconstruction)
    assert sum(name.startswith("SYNTHETIC") for name in names(viewer)) == 2, "no layer is added"
    idle(qtbot, ready)
    assert computed == []


def test_the_flip_is_the_end_of_the_slider(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    qtbot.mouseClick(view.flip_button, LEFT)
    flip = edits.flip_tile(ready.models.generator, ready._state.base, to="stroma")
    assert view.path_panel.slider.value() == FRAMES - 1
    assert np.array_equal(viewer.layers[EDIT].data, flip.pixels)


def test_the_slider_goes_towards_a_patch_of_the_tray(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = edits.reverse_search
    monkeypatch.setattr(edits, "reverse_search", lambda *tiles, **options: real(*tiles, **options))
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    other = replace(cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0), label="stroma")
    session_of(viewer).add_to_tray(other)
    assert [view.target_box.itemText(i) for i in range(2)] == ["class stroma", "tray patch 1 (stroma)"]
    assert view.target_box.currentIndex() == 0, "what is shown stays"
    choose(view.target_box, 1)
    idle(qtbot, ready)
    searched = find(ready.models, other, method="fast", options=SearchOptions()).search
    assert frames(ready)[-1].point.values == pytest.approx(searched.inversion.point.values)
    slide_to(view, FRAMES - 1)
    assert np.array_equal(viewer.layers[EDIT].data, searched.reconstruction.pixels)


def test_a_patch_of_another_size_is_cut_again(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    errors: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, searched = edits.reverse_search, []

    def quick(generator: Any, tiles: Any, **options: Any) -> Any:
        searched.extend(tiles)
        return real(generator, tiles, **options)

    monkeypatch.setattr(edits, "reverse_search", quick)
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    session_of(viewer).add_to_tray(cut_tile(slide, STROMA_XY, size_px=64, mpp=0.5))
    choose(view.target_box, 1)
    idle(qtbot, ready)
    assert errors == []
    own = cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0)
    assert np.array_equal(searched[-1].pixels, own.pixels)
    assert "\nChange 0." in view.edit_note.text()


def test_a_patch_of_another_slide_is_one_sentence(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, errors: list[str]
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    tile = cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0)
    session_of(viewer).add_to_tray(replace(tile, slide_digest="another"))
    choose(view.target_box, 1)
    idle(qtbot, ready)
    assert len(errors) == 1
    assert "lies on a slide that is not open" in errors[0]


def test_a_route_that_cannot_be_drawn_is_one_sentence(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    errors: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        msg = "It cannot be drawn; choose another."
        raise UserError(msg)

    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    monkeypatch.setattr(edit_binding, "edit_of", refuse)
    search(qtbot, ready)
    assert errors == ["It cannot be drawn; choose another."]
    assert view.edit_note.text() != "Drawing…", "nothing is drawn any more"


def test_a_patch_more_in_the_tray_changes_nothing_of_the_route(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    before = ready._edit
    session_of(viewer).add_to_tray(cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0))
    idle(qtbot, ready)
    assert ready._edit is before, "it is not drawn again"


def test_the_class_that_was_chosen_stays_when_a_patch_is_picked(
    qtbot: Any,
    view: EditView,
    binding: EditBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    trained: Trained,
    tmp_path: Path,
) -> None:
    """With three classes the one that was chosen may be another than the first."""
    three = three_classes(trained.generator, tmp_path)
    remember(three)
    session_of(viewer).runs_changed.emit()
    loaded(qtbot, binding)
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    search(qtbot, binding)
    assert [view.target_box.itemText(i) for i in range(2)] == ["class fat", "class stroma"]
    choose(view.target_box, 1)
    idle(qtbot, binding)
    session_of(viewer).add_to_tray(cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0))
    idle(qtbot, binding)
    assert view.target_box.currentText() == "class stroma"
    assert frames(binding)[-1].point.class_weights == (0.0, 0.0, 1.0)


def test_the_slider_goes_where_the_list_says_after_a_patch_is_taken_out(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = edits.reverse_search
    monkeypatch.setattr(edits, "reverse_search", lambda *tiles, **options: real(*tiles, **options))
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    session = session_of(viewer)
    session.add_to_tray(replace(cut_tile(slide, (600.5, 200.5), size_px=32, mpp=1.0), label="stroma"))
    choose(view.target_box, 1)
    idle(qtbot, ready)
    session.remove_from_tray(0)
    idle(qtbot, ready)
    assert view.target_box.currentText() == "class stroma"
    assert frames(ready)[-1].point.class_weights == (0.0, 1.0)
    assert frames(ready)[-1].point.values == pytest.approx(ready._state.base.point.values)


# Grad-CAM


def test_heatmaps_are_switched_off_and_on(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    view.heatmap_check.click()
    idle(qtbot, ready)
    assert names(viewer) == {"tiny.tiff"}
    assert not has_picture(view, "heatmap", "tile")
    search(qtbot, ready)
    assert names(viewer) == {"tiny.tiff", RECONSTRUCTION, EDIT}
    view.heatmap_check.click()
    idle(qtbot, ready)
    maps = sorted(name.split(":")[0] for name in names(viewer) if name.startswith("Grad-CAM"))
    assert maps == ["Grad-CAM edit", "Grad-CAM reconstruction", "Grad-CAM tile"]
    assert all(has_picture(view, "heatmap", column) for column in ("tile", "reconstruction", "edit"))


def test_evidence_is_mapped_for_the_class_that_is_chosen(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    for index, name in ((1, "epithelium"), (2, "stroma")):
        choose(view.heatmap_class_box, index)
        idle(qtbot, ready)
        assert names(viewer) == {"tiny.tiff", f"{TILE}: {name}"}
    search(qtbot, ready)
    targets = {layer.metadata[KEY]["target"] for layer in viewer.layers if layer.name.startswith("Grad-CAM")}
    assert targets == {"stroma"}


def test_evidence_for_another_class_is_looked_for_in_the_pictures_that_are_there(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    slide_to(view, 9)
    before, edited = frames(ready), viewer.layers[EDIT].data.copy()
    for name in ("drawn_tiles", "flip_tile", "path_times"):
        monkeypatch.setattr(edits, name, lambda *a, **k: [] if a[2:] == ([],) else pytest.fail("drawn"))
    choose(view.heatmap_class_box, 2)
    assert np.array_equal(viewer.layers[EDIT].data, edited), "it stays meanwhile"
    idle(qtbot, ready)
    assert all(a is b for a, b in zip(frames(ready), before, strict=True))
    assert {frame.seen.heatmap.target for frame in ready._path.player.frames} == {"stroma"}
    assert np.array_equal(viewer.layers[EDIT].data, edited)
    assert "Grad-CAM edit: stroma (of a SYNTHETIC tile)" in names(viewer)


def test_heatmaps_are_on_one_scale(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    choose(view.heatmap_class_box, 1)
    idle(qtbot, ready)
    search(qtbot, ready)
    heatmaps = [
        seen.heatmap for seen in (ready._edit.start_seen, ready._edit.tile_seen, ready._edit.end_seen)
    ]
    maximum = max(float(item.values.max()) for item in heatmaps)
    assert maximum > 0
    assert ready._scene.maximum == maximum
    layer = viewer.layers["Grad-CAM edit: epithelium (of a SYNTHETIC tile)"]
    alpha = np.clip(heatmaps[0].values / maximum, 0, 1) * 255
    assert layer.data[..., 3] == pytest.approx(alpha, abs=0.51)


# Another tile, another network, a layer that is gone


def test_another_tile_takes_the_layers_of_the_last_away(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    mine = viewer.add_image(np.zeros((4, 4)), name="mine")
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    assert {"tiny.tiff", "mine"} < names(viewer)
    assert not any(name.startswith("SYNTHETIC") for name in names(viewer))
    assert mine in viewer.layers
    assert not has_slider(view)
    assert not has_picture(view, "pixels", "edit")
    slide_to(view, 5)
    assert not any(name.startswith("SYNTHETIC") for name in names(viewer))


def test_a_layer_that_was_removed_comes_back_with_the_slider(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    viewer.layers.remove(EDIT)
    slide_to(view, 4)
    assert np.array_equal(viewer.layers[EDIT].data, frames(ready)[4].pixels)
    viewer.layers[EDIT].name = "my favourite"
    slide_to(view, 5)
    assert np.array_equal(viewer.layers["my favourite"].data, frames(ready)[5].pixels), "the name stays"
    assert sum(name.startswith("SYNTHETIC") for name in names(viewer)) == 1


def test_a_tile_of_a_slide_that_is_closed_lies_off_the_slide_that_is_open(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    assert "not open" not in view.tile_note.text()
    elsewhere = SimpleNamespace(info=replace(slide.info, digest="closed", mpp_x=0.25, mpp_y=0.25))
    tile = replace(ready._state.tile, slide_digest="closed")
    ready._take_tile(tile, elsewhere, False)
    idle(qtbot, ready)
    assert "Its slide is not open: it is shown off the tissue, not in its place." in view.tile_note.text()
    assert np.array_equal(viewer.layers["tile"].data, tile.pixels), "no slide shows it"
    assert viewer.layers["tile"].extent.world[1, 1] < 0
    viewer.layers.remove(shown)
    view.history_bar.undo_button.click()
    idle(qtbot, ready)
    assert ready._state.found is not None
    assert "Its slide is not open" in view.tile_note.text()
    assert np.array_equal(viewer.layers["tile"].data, ready._state.tile.pixels)
    add(viewer, slide_layer(slide))
    view.history_bar.undo_button.click()  # the search: the tile stays
    idle(qtbot, ready)
    assert "Its slide is not open" not in view.tile_note.text()
    assert "tile" not in names(viewer), "the slide shows it again"


def test_the_slider_moves_on_after_another_network_came_while_a_point_was_steered(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    base = ready._state.base
    ready._take_shown(replace(base, name="moved", pixels=255 - base.pixels), "direction")
    choose(view.classifier_box, view.classifier_box.findText(NO_CLASSIFIER))
    idle(qtbot, ready)
    assert ready._state.base is base
    slide_to(view, 5)
    assert np.array_equal(viewer.layers[EDIT].data, frames(ready)[5].pixels)


def test_a_dock_that_is_closed_takes_along_what_it_has_put_away(
    view: EditView, binding: EditBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    tile = cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0)
    before = len(viewer.layers)
    binding._scene.place(tile, slide, draws_tile=True)
    binding._scene.show("tile", tile)
    binding._scene.show("edit", tile)
    binding._scene.show("edit", None)
    assert len(viewer.layers) == before + 2
    view.closed.emit()
    assert len(viewer.layers) == before + 1
    assert viewer.layers[-1].name == "tile"


def test_another_generator_gets_the_tile_at_its_own_size(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    errors: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tile of 32 px means nothing to a generator that draws 16 px."""
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    before = ready.models.generator
    smaller = replace(before, checkpoint=replace(before.checkpoint, size_px=16, mpp=0.5, digest="smaller"))
    monkeypatch.setattr(edit_models, "load_models", lambda *_: Models(smaller, None))
    choose(view.generator_box, 0)
    idle(qtbot, ready)
    assert "16 px" in view.models_note.text()
    assert ready._state.tile.pixels.shape == (16, 16, 3)
    assert ready._state.tile.centre == pytest.approx(STROMA_XY)
    assert errors == []


# Other starts, and the way back


def test_a_random_tile_needs_no_search(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    view.random_box.setCurrentText("stroma")
    qtbot.mouseClick(view.random_button, LEFT)
    idle(qtbot, ready)
    assert view.tile_note.text().startswith("SYNTHETIC: sample of stroma, seed 0.")
    assert view.badge.badge.text() == "Drawn, not searched"
    assert view.strip.captions["tile"].text() == "no real tile"
    assert not has_picture(view, "pixels", "tile")
    assert not view.search_button.isEnabled()
    assert not view.residual_check.isEnabled(), "there is no real tile whose details could be kept"
    assert view.target_box.itemText(0) == "class epithelium"
    assert has_slider(view)
    assert viewer.layers[EDIT].extent.world[1, 1] <= 0, "left of the slide"
    first = viewer.layers[RECONSTRUCTION].data.copy()
    qtbot.mouseClick(view.random_button, LEFT)
    idle(qtbot, ready)
    assert not np.array_equal(viewer.layers[RECONSTRUCTION].data, first), "each is another"


def test_a_point_of_the_library_is_a_start_and_an_end(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    library, kept = ready._library, ready._state.base
    edits.add_to_library(library.library, kept, name="mine", tags=["good"])
    library.changed.emit()
    idle(qtbot, ready)
    at = view.target_box.findText("library: mine")
    assert at >= 0
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    search(qtbot, ready)
    choose(view.target_box, view.target_box.findText("library: mine"))
    idle(qtbot, ready)
    assert frames(ready)[-1].point.values == pytest.approx(kept.point.values)
    (entry,) = library.library.entries()
    opened = edits.tile_of_entry(ready.models.generator, library.library, entry)
    ready._take_shown(opened, "library")
    idle(qtbot, ready)
    assert ready._state.tile is None
    assert ready._state.base is opened
    assert view.badge.badge.text() == "Drawn, not searched"


def test_a_steered_point_stays_with_its_tile_and_is_one_step(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    base, tile, steps = ready._state.base, ready._state.tile, len(ready._history)
    moved = [replace(base, name=f"moved {i}", pixels=255 - base.pixels) for i in range(3)]
    for steered in moved:
        ready._take_shown(steered, "direction")
        assert np.array_equal(viewer.layers[RECONSTRUCTION].data, steered.pixels), "at once"
    idle(qtbot, ready)
    assert ready._state.base is moved[-1]
    assert ready._state.tile is tile
    assert len(ready._history) == steps + 1


def test_a_steered_start_is_put_onto_the_tile_whose_details_are_kept(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    view.residual_check.click()
    idle(qtbot, ready)
    base, real = ready._state.base, ready._state.tile.pixels
    point = replace(base.point, values=tuple(v + 2 for v in base.point.values))
    (drawn,) = edits.drawn_tiles(ready.models.generator, [replace(base, point=point)] * 2, [0.0])
    expected = residual_edit(real, base.pixels, drawn.pixels)
    assert not np.array_equal(expected, real)
    ready._take_shown(drawn, "direction")
    assert np.array_equal(viewer.layers[EDIT].data, expected), "at once"
    idle(qtbot, ready)
    assert np.array_equal(viewer.layers[EDIT].data, expected), "and when its path was drawn"


def test_the_heatmap_difference_is_of_the_class_that_the_tile_is_seen_as(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    view.difference_check.click()
    idle(qtbot, ready)
    sees = ready._seen["tile"].probabilities
    target = max(sees, key=sees.get)
    maps = [layer for layer in viewer.layers if layer.name.startswith("Grad-CAM")]
    assert {layer.metadata[KEY]["target"] for layer in maps} == {target}
    assert any("difference" in layer.name for layer in maps)
    assert f"all heatmaps are now for {target}" in view.look_note.text()
    assert ready._path.request.evidence_for == target
    view.heatmap_check.click()
    assert "while the heatmaps are off" in view.look_note.text()
    view.difference_check.click()
    idle(qtbot, ready)
    assert ready._path.request.evidence_for is None
    assert view.look_note.text() == ""


def test_undo_redo_and_branch(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    bar = view.history_bar
    assert not bar.undo_button.isEnabled()
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    base = ready._state.base
    qtbot.mouseClick(bar.undo_button, LEFT)
    idle(qtbot, ready)
    assert ready._state.base is None
    assert EDIT not in names(viewer)
    assert not has_slider(view)
    qtbot.mouseClick(bar.redo_button, LEFT)
    idle(qtbot, ready)
    assert ready._state.base is base
    assert "\nFound by faithful" in view.search_note.text()
    assert np.array_equal(viewer.layers[RECONSTRUCTION].data, base.pixels)
    qtbot.mouseClick(bar.undo_button, LEFT)
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    branches = ready._history.branches()
    assert len(branches) == 2
    bar.branch_requested.emit(branches[1].id)
    idle(qtbot, ready)
    assert ready._state.base is base, "what was undone is still there"


def test_what_the_generator_cannot_draw_is_kept(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    view.residual_check.click()
    idle(qtbot, ready)
    assert np.array_equal(viewer.layers[EDIT].data, ready._state.tile.pixels), "no change: the tile itself"
    assert viewer.layers[EDIT].metadata[KEY]["residual"] == 1.0
    assert viewer.layers[EDIT].metadata[KEY]["synthetic"] is True
    qtbot.mouseClick(view.history_bar.undo_button, LEFT)
    idle(qtbot, ready)
    assert not view.residual_check.isChecked()
    assert np.array_equal(viewer.layers[EDIT].data, viewer.layers[RECONSTRUCTION].data)


@pytest.mark.parametrize(
    ("verdict", "word"), [("outside", "Outside what the generator knows"), (None, "Not")]
)
def test_the_verdict_is_shown_with_its_reasons(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str | None,
    word: str,
) -> None:
    monkeypatch.setattr(
        calibration, "judged", lambda *_, **__: [calibration.Judged(verdict, ("It is far off.",))]
    )
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    assert view.badge.badge.text().startswith(word)
    assert view.badge.reasons.text() == "It is far off."


# What goes wrong


def test_a_generator_without_classes_searches_and_draws_but_cannot_flip(
    qtbot: Any,
    view: EditView,
    binding: EditBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    trained: Trained,
    tmp_path: Path,
    errors: list[str],
) -> None:
    remember(with_classes(trained.generator, tmp_path / "none", []))
    session_of(viewer).runs_changed.emit()
    loaded(qtbot, binding)
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    search(qtbot, binding)
    assert binding._state.found.label is None
    assert "The generator has no classes, so there is nothing to flip to" in view.edit_note.text()
    assert view.target_box.count() == 0
    assert not view.flip_button.isEnabled()
    assert RECONSTRUCTION in names(viewer)
    qtbot.mouseClick(view.random_button, LEFT)
    idle(qtbot, binding)
    assert view.tile_note.text().startswith("SYNTHETIC: sample, seed 0.")
    session_of(viewer).add_to_tray(cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0))
    idle(qtbot, binding)
    assert has_slider(view), "but a path to another tile there is"
    assert errors == []


def test_a_checkpoint_that_is_deleted_meanwhile_stops_nothing_that_is_loaded(
    qtbot: Any,
    view: EditView,
    binding: EditBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    trained: Trained,
    tmp_path: Path,
    errors: list[str],
) -> None:
    shutil.copytree(trained.generator, tmp_path / "going")
    remember(tmp_path / "going")
    session_of(viewer).runs_changed.emit()
    loaded(qtbot, binding)
    shutil.rmtree(tmp_path / "going" / "checkpoints")
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    search(qtbot, binding)
    assert EDIT in names(viewer)
    assert errors == []
    choose(view.generator_box, 0)
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "could not be loaded" in view.models_note.text()


def test_a_search_that_fails_is_one_sentence_and_the_next_works(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    errors: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        msg = "The search left the numbers (NaN); search it first with `histolatent invert`."
        raise UserError(msg)

    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    with monkeypatch.context() as patch:
        patch.setattr(edits, "reverse_search", broken)
        search(qtbot, ready)
    assert len(errors) == 1
    assert "histolatent invert" not in errors[0], "in the dock's words"
    assert view.search_note.text().startswith("Nothing was found: ")
    assert not view.search_button.isHidden()
    assert not has_slider(view)
    search(qtbot, ready)
    assert "Found by" in view.search_note.text()


def test_a_tile_is_cut_again_with_the_generators_colours(
    qtbot: Any,
    view: EditView,
    ready: EditBinding,
    viewer: Any,
    slide: Slide,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def recolour(_: Models, tile: Tile, *, normalises: bool) -> Tile:
        return replace(tile, pixels=255 - tile.pixels, remarks=("Recoloured.",)) if normalises else tile

    monkeypatch.setattr(edit_picking, "checked_tile", recolour)
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    as_it_is = ready._state.tile.pixels
    assert "tile" not in names(viewer)
    view.normalise_check.click()
    idle(qtbot, ready)
    assert np.array_equal(ready._state.tile.pixels, 255 - as_it_is)
    assert "Recoloured." in view.tile_note.text()
    assert np.array_equal(viewer.layers["tile"].data, 255 - as_it_is), "the slide does not show it"


def test_another_classifier_leaves_the_edit_as_it_is(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    base = ready._state.base
    choose(view.classifier_box, view.classifier_box.findText(NO_CLASSIFIER))
    idle(qtbot, ready)
    assert ready._state.base is base
    assert has_slider(view)
    assert not any(name.startswith("Grad-CAM") for name in names(viewer))
    assert view.bars.isHidden()


# Closing the dock


@pytest.mark.parametrize("how", ["close", "x", "window"])
def test_a_closed_dock_lets_go_of_everything(
    qtbot: Any,
    proxy: Any,
    viewer: Any,
    slide: Slide,
    shown: Any,
    listed: Trained,
    end_dock: Callable[[Any, str], None],
    how: str,
) -> None:
    session = session_of(viewer)
    signals = (
        session.tray_changed,
        session.annotations_changed,
        session.dataset_changed,
        session.runs_changed,
    )
    before, callbacks = [len(signal) for signal in signals], list(viewer.mouse_drag_callbacks)
    view = EditView()
    binding = EditBinding(proxy, view)
    loaded(qtbot, binding)
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    search(qtbot, binding)
    assert viewer.mouse_drag_callbacks != callbacks
    if how == "close":
        binding.close()
        binding.close()
    else:
        end_dock(view, how)
    assert [len(signal) for signal in signals] == before
    assert viewer.mouse_drag_callbacks == callbacks
    assert {RECONSTRUCTION, EDIT} < names(viewer), "what was drawn stays"
    session.add_to_tray(cut_tile(slide, STROMA_XY, size_px=32, mpp=1.0))
    session.runs_changed.emit()
    qtbot.wait(20)
    if how == "close":
        end_dock(view, "window")


@pytest.mark.parametrize("how", ["x", "window"])
def test_a_search_ends_with_its_dock(
    qtbot: Any,
    proxy: Any,
    viewer: Any,
    slide: Slide,
    shown: Any,
    listed: Trained,
    end_dock: Callable[[Any, str], None],
    endless: Endless,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.setattr(edits, "reverse_search", search_without_end(endless, late_preview=True))
    view = EditView()
    binding = EditBinding(proxy, view)  # Python may keep it long after the dock
    loaded(qtbot, binding)
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    view.search_button.click()
    qtbot.waitUntil(endless.entered.is_set)
    end_dock(view, how)
    qtbot.waitUntil(endless.stopped.is_set)
    idle(qtbot, binding)
    qtbot.wait(20)
    assert EDIT not in names(viewer)


@pytest.mark.parametrize("how", ["x", "window"])
def test_a_viewer_that_is_gone_takes_its_session_along(
    qtbot: Any, slide: Slide, listed: Trained, end_dock: Callable[[Any, str], None], how: str
) -> None:
    from napari.components import ViewerModel
    from napari.utils._proxies import PublicOnlyProxy

    def are_kept() -> bool:
        """Return whether anything of a viewer and its dock is left some time after both have ended."""
        viewer = ViewerModel()
        add(viewer, slide_layer(slide))
        view = EditView()
        view.binding = EditBinding(PublicOnlyProxy(viewer), view)
        idle(qtbot, view.binding)
        ends = weakref.ref(viewer), weakref.ref(session_of(viewer)), weakref.ref(view.binding)
        end_dock(view, how)
        del view, viewer
        for _ in range(20):
            # Not in one go: a collection lets no thread work, and one that has just told its last result is to end.
            qtbot.wait(250)
            gc.collect()
            if all(end() is None for end in ends):
                return False
        return True

    # Under load Qt now and then keeps a slot whose sender ended in another thread. What is kept each time is a fault of ours.
    assert not all(are_kept() for _ in range(3))


# How far to believe it


def test_a_calibration_that_is_made_later_renews_the_verdict(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged(*_: Any, calibration: Any, **__: Any) -> list[Judged]:
        return [Judged("caution", ("Look twice.",)) if calibration else Judged(None, ("Not known.",))]

    monkeypatch.setattr(calibration, "judged", judged)
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    search(qtbot, ready)
    assert view.badge.badge.text() == "Not calibrated"
    qtbot.waitUntil(lambda: not view.calibration.isHidden(), timeout=20_000)
    assert not view.calibration.button.isEnabled(), "the tiny dataset holds out too few patches"
    assert "a calibration needs 64" in view.calibration.button.toolTip()
    monkeypatch.setattr(calibration, "calibration_of", lambda _: object())
    session_of(viewer).runs_changed.emit()  # its training has ended
    qtbot.waitUntil(lambda: view.badge.badge.text() == "Caution", timeout=20_000)
    assert view.badge.reasons.text() == "Look twice."
    assert view.calibration.isHidden()
    assert ready._state.found.judged.verdict == "caution"
    search(qtbot, ready)
    assert view.badge.badge.text() == "Caution", "the next search is judged by it at once"


def test_how_much_heatmaps_agree_stands_below_the_bars(
    qtbot: Any, view: EditView, ready: EditBinding, viewer: Any, slide: Slide
) -> None:
    pick(qtbot, ready, viewer, slide, EPITHELIUM_XY)
    choose(view.heatmap_class_box, 1)
    search(qtbot, ready)
    qtbot.waitUntil(lambda: view.agreement.lines.text().count("Grad-CAM of ") == 2, timeout=20_000)
    assert not view.agreement.isHidden()
    said = view.edit_note.text()
    for index in (4, 8):
        slide_to(view, index)
        view.path_panel.key_added.emit()
        idle(qtbot, ready)
    qtbot.waitUntil(lambda: view.agreement.lines.text().count("Grad-CAM of ") == 1, timeout=20_000)
    assert "right end" not in view.agreement.lines.text() + view.edit_note.text()
    assert "goes through the images of your own list" in view.edit_note.text()
    view.path_panel.keys_cleared.emit()
    assert view.edit_note.text() == said
    view.heatmap_check.setChecked(False)
    assert view.agreement.isHidden()
    pick(qtbot, ready, viewer, slide, STROMA_XY)
    assert view.agreement.lines.text() == "", "there is one heatmap only"
