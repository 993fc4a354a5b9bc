from __future__ import annotations

import gc
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari._layers import KEY, slide_layer, world_of
from napari_histolatent._napari._opening import open_in
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.widgets import patches_binding
from napari_histolatent._napari.widgets.patches_binding import PatchesBinding, labelled_tile
from napari_histolatent._napari.widgets.patches_view import PatchesView
from napari_histolatent.annotations import read_annotations
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import GridSpec, PatchDataset
from napari_histolatent.slides import open_slide, write_synthetic_slide
from tests._napari.helpers import add, click, give_regions, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_histolatent.slides import Slide
    from tests._napari.conftest import Endless

LEFT = Qt.MouseButton.LeftButton
EPITHELIUM_XY, STROMA_XY, HOLE_XY = (120.5, 200.5), (550.5, 300.5), (220.5, 310.5)


@pytest.fixture
def view(qtbot: Any) -> PatchesView:
    widget = PatchesView()
    qtbot.addWidget(widget)
    widget.form["size_px"].value = 32
    widget.form["stride_px"].value = 16
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


def enter(qtbot: Any, picker: Any, path: Path) -> None:
    picker.edit.setText(str(path))
    qtbot.keyClick(picker.edit, Qt.Key.Key_Return)


def captions(view: PatchesView) -> list[str]:
    return [view.tray.item(i).text() for i in range(view.tray.count())]


def picked_layers(viewer: Any) -> list[Any]:
    return [layer for layer in viewer.layers if layer.metadata[KEY]["role"] == "picked"]


def idle(qtbot: Any, binding: PatchesBinding) -> None:
    workers = [item for item in vars(binding).values() if isinstance(item, LatestWorker)]
    assert workers
    qtbot.waitUntil(lambda: not any(worker.is_busy for worker in workers), timeout=20_000)


def pick(
    qtbot: Any, binding: PatchesBinding, viewer: Any, slide: Slide, level0_xy: tuple[float, float]
) -> None:
    click(viewer, world_of(level0_xy, slide.info))
    idle(qtbot, binding)


# Slides


def test_a_slide_is_opened(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, tiny_slide: Path
) -> None:
    assert view.slide_note.text().startswith("No slide yet")
    enter(qtbot, view.slide_picker, tiny_slide)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    assert view.slide_note.text() == "tiny.tiff: 768 x 640 px, 0.5 µm per px"
    assert [layer.metadata[KEY]["role"] for layer in viewer.layers] == ["overview", "slide"]
    assert viewer.canvas.overlays.scale_bar.visible
    assert session_of(viewer).slide().info.path == tiny_slide


def test_nothing_that_napari_gives_up_is_used(
    qtbot: Any, binding: PatchesBinding, viewer: Any, tiny_slide: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_in(viewer, [str(tiny_slide)])
        qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    assert viewer.canvas.overlays.scale_bar.visible


def test_a_file_that_is_no_slide_is_one_sentence(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, tmp_path: Path, errors: list[str]
) -> None:
    (tmp_path / "a.svs").write_text("nothing")
    enter(qtbot, view.slide_picker, tmp_path / "a.svs")
    qtbot.waitUntil(lambda: len(errors) == 1)
    assert "a.svs" in errors[0]
    assert len(viewer.layers) == 0
    assert view.slide_note.text().startswith("No slide yet")


def test_a_slide_that_napari_opened_is_known(
    view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide
) -> None:
    layer = add(viewer, slide_layer(slide))
    assert view.slide_note.text().startswith("tiny.tiff")
    viewer.layers.remove(layer)
    assert view.slide_note.text().startswith("No slide yet")


def test_the_notes_are_those_of_the_selected_slide(
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    with_regions: None,
    slide_of: Callable[..., Slide],
    qtbot: Any,
) -> None:
    qtbot.waitUntil(lambda: view.regions_note.text() == "2 regions: 1 epithelium, 1 stroma")
    plain = add(viewer, slide_layer(slide_of(np.zeros((48, 64, 3), np.uint8))))
    assert view.slide_note.text() == (
        "array.tiff: 64 x 48 px, pixel size not stated: patches are cut at level 0"
    )
    assert view.regions_note.text() == "No regions yet."
    viewer.layers.selection.active = viewer.layers[0]
    assert view.slide_note.text().startswith("tiny.tiff")
    assert view.regions_note.text() == "2 regions: 1 epithelium, 1 stroma"
    viewer.layers.remove(plain)
    assert view.regions_note.text() == "2 regions: 1 epithelium, 1 stroma"


def test_without_a_slide_there_are_no_regions(
    view: PatchesView, binding: PatchesBinding, viewer: Any, shown: Any, with_regions: None
) -> None:
    viewer.layers.remove(shown)
    assert view.regions_note.text() == "No regions yet."


# Regions


def test_regions_are_loaded(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, shown: Any, tiny_regions: Path
) -> None:
    enter(qtbot, view.regions_picker, tiny_regions)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    qtbot.waitUntil(lambda: view.regions_note.text() == "2 regions: 1 epithelium, 1 stroma")
    assert viewer.layers[1].name == "regions of tiny.tiff"
    assert list(viewer.layers[1].features["class"]) == ["epithelium", "stroma"]
    session = session_of(viewer)
    assert session.annotations().classes == ("epithelium", "stroma")
    assert session.regions().sources == (tiny_regions,), "it is never written to"


def test_regions_need_a_slide(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    tiny_regions: Path,
    errors: list[str],
) -> None:
    enter(qtbot, view.regions_picker, tiny_regions)
    idle(qtbot, binding)
    assert errors == ["There is no slide open; drop a slide on the window first."]
    assert len(viewer.layers) == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "a.geojson"),
        ('{"type": "FeatureCollection", "features": []}', "a.geojson holds no regions"),
    ],
)
def test_a_file_without_regions_is_one_sentence(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    shown: Any,
    tmp_path: Path,
    errors: list[str],
    content: str,
    sentence: str,
) -> None:
    (tmp_path / "a.geojson").write_text(content)
    enter(qtbot, view.regions_picker, tmp_path / "a.geojson")
    settled(qtbot, session_of(viewer).regions())
    assert len(errors) == 1
    assert sentence in errors[0]
    assert list(viewer.layers) == [shown]
    assert session_of(viewer).annotations() is None
    assert view.regions_note.text() == "No regions yet."


def test_no_patches_are_labelled_by_regions_of_another_slide(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    shown: Any,
    tmp_path: Path,
    errors: list[str],
) -> None:
    (tmp_path / "a.geojson").write_text(
        '{"type": "Polygon", "coordinates": [[[5000, 0], [5100, 0], [5100, 90], [5000, 0]]]}'
    )
    enter(qtbot, view.regions_picker, tmp_path / "a.geojson")
    qtbot.waitUntil(
        lambda: view.regions_note.text() == "1 regions: 1 unclassified; 1 outside the slide", timeout=10_000
    )
    assert errors == [
        "a.geojson: 1 regions with 0 holes, 1 outside the slide; see the report in the Regions dock."
    ]
    errors.clear()
    view.out_picker.edit.setText(str(tmp_path / "patches"))
    qtbot.mouseClick(view.cut_button, LEFT)
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "lie outside tiny.tiff" in errors[0]
    assert not (tmp_path / "patches").exists()


def test_regions_beyond_the_slide_are_counted(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, shown: Any, tmp_path: Path
) -> None:
    squares = [
        f'{{"type": "Polygon", "coordinates": [[[{x}, 0], [{x + 90}, 0], [{x}, 90], [{x}, 0]]]}}'
        for x in (0, 5000)
    ]
    features = ", ".join(f'{{"type": "Feature", "geometry": {v}}}' for v in squares)
    (tmp_path / "a.geojson").write_text(f"[{features}]")
    enter(qtbot, view.regions_picker, tmp_path / "a.geojson")
    qtbot.waitUntil(lambda: view.regions_note.text() == "2 regions: 2 unclassified; 1 outside the slide")


# Picking


def test_nothing_is_picked_until_it_is_switched_on(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    assert captions(view) == []
    qtbot.mouseClick(view.pick_button, LEFT)
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    assert captions(view) == ["epithelium"]
    qtbot.mouseClick(view.pick_button, LEFT)
    pick(qtbot, binding, viewer, slide, EPITHELIUM_XY)
    assert captions(view) == ["epithelium"]


def test_a_click_cuts_the_patch_under_it(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    with_regions: None,
) -> None:
    viewer.layers.selection.active = shown
    qtbot.mouseClick(view.pick_button, LEFT)
    for place in (EPITHELIUM_XY, STROMA_XY, HOLE_XY):
        pick(qtbot, binding, viewer, slide, place)
    assert captions(view) == ["epithelium", "stroma", "no class"]
    tray = session_of(viewer).tray
    for tile, (x, y) in zip(tray, (EPITHELIUM_XY, STROMA_XY, HOLE_XY), strict=True):
        left, top, right, bottom = tile.level0_box
        assert (right - left, bottom - top) == (32, 32)
        assert abs((left + right) / 2 - x) <= 0.5
        assert abs((top + bottom) / 2 - y) <= 0.5
        assert np.array_equal(tile.pixels, slide.read_region((left, top), size_px=(32, 32), level=0))
    assert viewer.layers.selection.active is shown, "the next click is on the slide too"


def test_a_patch_is_cut_as_the_form_says(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    view.form["size_px"].value, view.form["mpp"].value = 48, 1.0
    view.pick_button.click()
    pick(qtbot, binding, viewer, slide, STROMA_XY)
    (tile,) = session_of(viewer).tray
    assert (tile.pixels.shape, tile.mpp, tile.label) == ((48, 48, 3), 1.0, None)
    assert tile.level0_box[2] - tile.level0_box[0] == 96


def test_each_picked_patch_is_outlined(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    with_regions: None,
) -> None:
    view.pick_button.click()
    for place in (EPITHELIUM_XY, HOLE_XY):
        pick(qtbot, binding, viewer, slide, place)
    (layer,) = picked_layers(viewer)
    for tile, corners in zip(session_of(viewer).tray, layer.data, strict=True):
        on_slide = np.array([shown.world_to_data(layer.data_to_world(corner)) for corner in corners])
        left, top, right, bottom = tile.level0_box
        assert on_slide.min(0) == pytest.approx([top - 0.5, left - 0.5])
        assert on_slide.max(0) == pytest.approx([bottom - 0.5, right - 0.5])
    color = session_of(viewer).annotations().color_of("epithelium")
    assert layer.edge_color[0] == pytest.approx([*(v / 255 for v in color), 1])
    assert layer.edge_color[1] != pytest.approx(layer.edge_color[0])
    assert layer.metadata[KEY]["role"] == "picked"


def test_clicks_in_quick_succession_are_all_picked(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    """A hand that goes over the slide does not wait for each patch."""
    view.pick_button.click()
    for place in (EPITHELIUM_XY, STROMA_XY, HOLE_XY):
        click(viewer, world_of(place, slide.info))
    qtbot.wait(20)
    idle(qtbot, binding)
    assert captions(view) == ["epithelium", "stroma", "no class"]


def test_patches_of_two_slides_are_outlined_each_on_its_own(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    tmp_path: Path,
) -> None:
    write_synthetic_slide(tmp_path / "finer.tiff", size_px=(512, 512), mpp=0.25, seed=1)
    with open_slide(tmp_path / "finer.tiff") as finer:
        above = add(viewer, slide_layer(finer))
        view.pick_button.click()
        for layer, its_slide in ((shown, slide), (above, finer)):
            viewer.layers.selection.active = layer
            pick(qtbot, binding, viewer, its_slide, (300.5, 300.5))
    worlds = [
        np.array([layer.data_to_world(corner) for corner in corners])
        for layer in picked_layers(viewer)
        for corners in layer.data
    ]
    assert len(worlds) == 2
    for world, layer, tile in zip(worlds, (shown, above), session_of(viewer).tray, strict=True):
        left, top, *_ = tile.level0_box
        corner = np.array([layer.world_to_data(point) for point in world]).min(0)
        assert corner == pytest.approx([top - 0.5, left - 0.5])


def test_a_slide_without_a_pixel_size_is_cut_at_level_0(
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
    view.pick_button.click()
    pick(qtbot, binding, viewer, plain, (100, 100))
    (tile,) = session_of(viewer).tray
    assert np.array_equal(tile.pixels, pixels[84:116, 84:116])
    assert tile.mpp is None


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
    view.pick_button.click()
    pick(qtbot, binding, viewer, slide, place)
    assert len(errors) == 1
    assert "lies off tiny.tiff" in errors[0]
    assert session_of(viewer).tray == ()


def test_a_click_without_a_slide_is_one_sentence(
    view: PatchesView, binding: PatchesBinding, viewer: Any, errors: list[str]
) -> None:
    view.pick_button.click()
    click(viewer, (5.0, 5.0))
    assert errors == ["There is no slide open; drop a slide on the window first."]


def test_a_drag_picks_nothing(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    view.pick_button.click()
    click(viewer, world_of(STROMA_XY, slide.info), path=[(30, 0), (60, 0)])
    idle(qtbot, binding)
    assert session_of(viewer).tray == ()


@pytest.mark.parametrize(
    ("rule", "threshold", "label"), [("area", 0.9, None), ("area", 0.4, "stroma"), ("any", 0.9, "stroma")]
)
def test_the_label_follows_the_rule(
    slide: Slide, tiny_regions: Path, rule: str, threshold: float, label: str | None
) -> None:
    # Half of the patch lies left of the stroma, which begins at x = 400.
    spec = GridSpec(size_px=32, mpp=0.5, rule=rule, threshold=threshold)
    tile = labelled_tile(slide, read_annotations(tiny_regions), (400, 300), spec)
    assert tile.label == label


def test_without_regions_there_is_no_label(slide: Slide, tiny_regions: Path) -> None:
    spec = GridSpec(size_px=32, mpp=0.5)
    assert labelled_tile(slide, None, STROMA_XY, spec).label is None
    empty = replace(read_annotations(tiny_regions), regions=())
    assert labelled_tile(slide, empty, STROMA_XY, spec).label is None


# The tray


def test_delete_takes_a_patch_out(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, with_regions: None
) -> None:
    view.pick_button.click()
    for place in (EPITHELIUM_XY, STROMA_XY, HOLE_XY):
        pick(qtbot, binding, viewer, slide, place)
    view.tray.setCurrentRow(0)
    qtbot.keyClick(view.tray, Qt.Key.Key_Delete)
    assert captions(view) == ["stroma", "no class"]
    assert [tile.label for tile in session_of(viewer).tray] == ["stroma", None]


def test_the_camera_goes_to_a_patch(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, viewer: Any, slide: Slide, shown: Any
) -> None:
    view.pick_button.click()
    for place in (EPITHELIUM_XY, STROMA_XY):
        pick(qtbot, binding, viewer, slide, place)
    for index, place in enumerate((EPITHELIUM_XY, STROMA_XY)):
        view.tray.opened.emit(index)
        assert viewer.scene.camera.center[-2:] == pytest.approx(world_of(place, slide.info))


def test_a_patch_of_another_slide_moves_no_camera(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    slide: Slide,
    shown: Any,
    slide_of: Callable[..., Slide],
) -> None:
    view.pick_button.click()
    pick(qtbot, binding, viewer, slide, STROMA_XY)
    add(viewer, slide_layer(slide_of(np.zeros((48, 64, 3), np.uint8))))
    before = viewer.scene.camera.center
    view.tray.opened.emit(0)
    assert viewer.scene.camera.center == before


# Datasets


def test_a_dataset_is_cut(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    with_regions: None,
    tmp_path: Path,
) -> None:
    session = session_of(viewer)
    told: list[str] = []
    session.dataset_changed.connect(told.append)
    view.out_picker.edit.setText(str(tmp_path / "patches"))
    qtbot.mouseClick(view.cut_button, LEFT)
    assert not view.cut_button.isEnabled()
    qtbot.waitUntil(lambda: view.result_note.text() != "", timeout=20_000)
    dataset = PatchDataset(tmp_path / "patches")
    assert (dataset.size_px, dataset.mpp, dataset.classes) == (32, 0.5, ("epithelium", "stroma"))
    assert dataset.settings["grid"]["stride_px"] == 16
    assert view.result_note.text().startswith(f"{len(dataset)} patches: ")
    counts = dataset.report()["classes"]
    assert f"{counts['stroma']} stroma" in view.result_note.text()
    assert view.cut_button.isEnabled()
    assert told == [str(tmp_path / "patches")]
    assert session.dataset == tmp_path / "patches"


def test_a_slide_without_a_pixel_size_gives_a_dataset_of_level_0(
    binding: PatchesBinding, slide_of: Callable[..., Slide]
) -> None:
    spec = binding._spec(slide_of(np.zeros((48, 64, 3), np.uint8)))
    assert (spec.mpp, spec.level, spec.size_px) == (None, 0, 32)


def test_a_dataset_needs_a_slide(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, errors: list[str]
) -> None:
    qtbot.mouseClick(view.cut_button, LEFT)
    assert errors == ["There is no slide open; drop a slide on the window first."]
    assert view.cut_button.isEnabled()


def test_a_dataset_needs_regions(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, shown: Any, tmp_path: Path, errors: list[str]
) -> None:
    view.out_picker.edit.setText(str(tmp_path / "patches"))
    qtbot.mouseClick(view.cut_button, LEFT)
    assert len(errors) == 1
    assert "tiny.tiff has no regions" in errors[0]
    assert view.cut_button.isEnabled()


def test_a_dataset_needs_a_folder(
    qtbot: Any, view: PatchesView, binding: PatchesBinding, with_regions: None, errors: list[str]
) -> None:
    qtbot.mouseClick(view.cut_button, LEFT)
    assert len(errors) == 1
    assert "has no folder yet" in errors[0]
    assert view.cut_button.isEnabled()


def test_a_folder_that_exists_is_one_sentence(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    with_regions: None,
    tmp_path: Path,
    errors: list[str],
) -> None:
    view.out_picker.edit.setText(str(tmp_path))
    qtbot.mouseClick(view.cut_button, LEFT)
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "exists already" in errors[0]
    assert view.cut_button.isEnabled(), "the user mends it and tries again"
    assert session_of(viewer).dataset is None


def test_cutting_can_be_cancelled(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    with_regions: None,
    tmp_path: Path,
    errors: list[str],
    endless: Endless,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def extract(*_: Any, should_stop: Callable[[], bool], on_progress: Any, **__: Any) -> None:
        on_progress(10, 500)
        endless.wait(should_stop)
        msg = "Cutting was stopped; nothing was kept."
        raise DatasetError(msg)

    monkeypatch.setattr(patches_binding, "extract", extract)
    view.out_picker.edit.setText(str(tmp_path / "patches"))
    qtbot.mouseClick(view.cut_button, LEFT)
    qtbot.waitUntil(lambda: endless.entered.is_set() and view.progress.maximum() == 500)
    assert view.progress.value() == 10
    qtbot.mouseClick(view.cancel_button, LEFT)
    assert view.cut_button.isEnabled()
    assert view.result_note.text() == "Cancelled; nothing was kept."
    qtbot.waitUntil(endless.stopped.is_set)
    idle(qtbot, binding)
    qtbot.wait(20)
    assert errors == [], "it is what the user asked for"
    assert session_of(viewer).dataset is None
    assert not view.cancel_button.isEnabled()


def test_what_was_cancelled_late_is_not_kept_either(
    qtbot: Any,
    view: PatchesView,
    binding: PatchesBinding,
    viewer: Any,
    with_regions: None,
    tmp_path: Path,
    endless: Endless,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last patch is cut, the dataset not yet in its place."""
    real = patches_binding.extract

    def extract(*arguments: Any, should_stop: Callable[[], bool], **options: Any) -> Any:
        options["on_progress"] = lambda *_: endless.wait(should_stop)
        return real(*arguments, should_stop=should_stop, **options)

    monkeypatch.setattr(patches_binding, "extract", extract)
    view.out_picker.edit.setText(str(tmp_path / "patches"))
    qtbot.mouseClick(view.cut_button, LEFT)
    qtbot.waitUntil(endless.entered.is_set)
    qtbot.mouseClick(view.cancel_button, LEFT)
    idle(qtbot, binding)
    assert view.result_note.text() == "Cancelled; nothing was kept."
    assert not (tmp_path / "patches").exists()


# Opening and closing the dock


def test_a_dock_that_is_opened_later_shows_what_there_is(
    qtbot: Any, proxy: Any, viewer: Any, slide: Slide, with_regions: None, view: PatchesView
) -> None:
    spec = GridSpec(size_px=32, mpp=0.5)
    session = session_of(viewer)
    session.add_to_tray(labelled_tile(slide, session.annotations(), STROMA_XY, spec))
    made = PatchesBinding(proxy, view)
    assert captions(view) == ["stroma"]
    assert view.slide_note.text().startswith("tiny.tiff")
    assert view.regions_note.text().startswith("2 regions")
    made.close()


def listeners(viewer: Any) -> list[int]:
    session = session_of(viewer)
    signals = (
        session.tray_changed,
        session.annotations_changed,
        session.dataset_changed,
        session.runs_changed,
    )
    emitters = (
        viewer.layers.events.inserted,
        viewer.layers.events.removed,
        viewer.layers.selection.events.active,
    )
    return [len(signal) for signal in signals] + [len(emitter.callbacks) for emitter in emitters]


@pytest.mark.parametrize("how", ["close", "x", "window"])
def test_a_closed_dock_lets_go_of_everything(
    qtbot: Any,
    proxy: Any,
    viewer: Any,
    slide: Slide,
    with_regions: None,
    end_dock: Callable[[Any, str], None],
    how: str,
) -> None:
    before, callbacks = listeners(viewer), list(viewer.mouse_drag_callbacks)
    view = PatchesView()
    binding = PatchesBinding(proxy, view)
    view.pick_button.click()
    pick(qtbot, binding, viewer, slide, STROMA_XY)
    assert listeners(viewer) != before
    assert viewer.mouse_drag_callbacks != callbacks
    if how == "close":
        binding.close()
        binding.close()  # napari may tell it twice
    else:
        end_dock(view, how)
    assert listeners(viewer) == before
    assert viewer.mouse_drag_callbacks == callbacks
    assert len(session_of(viewer).tray) == 1
    assert len(picked_layers(viewer)) == 1
    viewer.layers.clear()  # nobody listens any more
    session_of(viewer).remove_from_tray(0)


@pytest.mark.parametrize("how", ["x", "window"])
def test_work_that_ends_after_the_dock_is_closed_comes_to_nothing(
    qtbot: Any,
    proxy: Any,
    viewer: Any,
    with_regions: None,
    tmp_path: Path,
    end_dock: Callable[[Any, str], None],
    endless: Endless,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    def extract(*_: Any, should_stop: Callable[[], bool], on_progress: Any, **__: Any) -> None:
        endless.wait(should_stop, lambda: on_progress(1, 2))

    monkeypatch.setattr(patches_binding, "extract", extract)
    view = PatchesView()
    view.binding = PatchesBinding(proxy, view)
    view.out_picker.edit.setText(str(tmp_path / "patches"))
    view.cut_button.click()
    qtbot.waitUntil(endless.entered.is_set)
    end_dock(view, how)
    del view
    gc.collect()
    qtbot.waitUntil(endless.stopped.is_set)
    qtbot.wait(20)
    assert session_of(viewer).dataset is None
