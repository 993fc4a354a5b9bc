from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import ImageCms
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_histolatent._napari import _opening
from napari_histolatent._napari._layers import KEY, slide_layers
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.viewing import add_slide, cache, is_settled, view_of
from napari_histolatent._napari.widgets.slide_binding import SlideBinding
from napari_histolatent._napari.widgets.slide_view import SlideView
from napari_histolatent.annotations import read_annotations
from napari_histolatent.slides import Slide, open_slide, write_synthetic_slide
from tests._napari.helpers import add, regions_layer
from tests._napari.viewing.test_window import PatternBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEFT = Qt.MouseButton.LeftButton
ROOT = Path(__file__).parents[3]


@pytest.fixture
def view(qtbot: Any) -> SlideView:
    widget = SlideView()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def binding(proxy: Any, view: SlideView) -> Iterator[SlideBinding]:
    made = SlideBinding(proxy, view)
    yield made
    made.close()


@pytest.fixture
def viewer(viewer: Any) -> Iterator[Any]:
    """A viewer without a window, whose slides are let go after the test: their threads end."""
    yield viewer
    viewer.layers.clear()
    cache().clear()


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that is really drawn, and knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield make_napari_viewer(show=True)
    cache().clear()


def dock_of(window: Any) -> tuple[Any, Any]:
    return window.window.add_plugin_dock_widget("napari-histolatent", "Slide")


def show(viewer: Any, path: Path, *, mpp: float | None = None) -> Any:
    """Open a slide and return its multiscale layer."""
    return add_slide(viewer, slide_layers(open_slide(path, mpp=mpp)))


def value(view: SlideView, name: str) -> str:
    return view.values[name][1].text()


def write_tiff(
    path: Path, rgb: tuple[int, int, int], *, side_px: int = 512, profile: bytes | None = None
) -> Path:
    """Write a tiled TIFF of one colour, with one spot: the digest then differs with the colour."""
    pixels = np.full((side_px, side_px, 3), rgb, np.uint8)
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="zlib",
        iccprofile=profile,
        metadata=None,
    )
    return path


def other_profile() -> bytes:
    """Return the profile of sRGB with red and blue swapped: no viewer takes it for sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(profile[131])}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


# Facts


def test_without_a_slide_the_dock_asks_for_one(view: SlideView, binding: SlideBinding) -> None:
    assert not view.no_slide_note.isHidden()
    assert view.slides_box.isHidden()
    view.go_requested.emit(1.0, 2.0, "px")
    view.copy_requested.emit()
    view.retry_requested.emit()
    view.icc_switched.emit(True)
    view.mpp_entered.emit(0.5)
    view.minimap.centre_requested.emit(1.0, 2.0)
    view.associated.wanted.emit("label")


def test_the_facts_of_the_slide_are_shown_and_go_with_it(
    view: SlideView, binding: SlideBinding, viewer: Any, cmu_slide: Path
) -> None:
    layer = show(viewer, cmu_slide)
    assert view.no_slide_note.isHidden()
    assert value(view, "Name") == "CMU-1-Small-Region.svs"
    assert value(view, "Location") == str(cmu_slide.parent)
    assert value(view, "Vendor") == "aperio"
    assert value(view, "Size").startswith("2,220 × 2,967 px (1.1 × 1.5 mm)")
    assert value(view, "Pixel size").startswith("0.499 µm per px")
    assert set(view.associated.images) == {"label", "macro", "thumbnail"}
    viewer.layers.remove(layer)
    assert not view.no_slide_note.isHidden()


def test_a_slide_that_was_open_before_the_dock_is_shown(
    proxy: Any, view: SlideView, viewer: Any, tiny_slide: Path
) -> None:
    show(viewer, tiny_slide)
    binding = SlideBinding(proxy, view)
    assert value(view, "Name") == "tiny.tiff"
    assert view.minimap.place is not None
    binding.close()


def test_of_two_slides_one_is_chosen(
    qtbot: Any, view: SlideView, binding: SlideBinding, viewer: Any, tiny_slide: Path, cmu_slide: Path
) -> None:
    first = show(viewer, tiny_slide)
    assert view.slides_box.isHidden(), "nothing to choose"
    second = show(viewer, cmu_slide)
    assert not view.slides_box.isHidden()
    assert [view.slides_box.itemText(i) for i in range(2)] == ["tiny.tiff", "CMU-1-Small-Region.svs"]
    assert view.slides_box.currentIndex() == 1
    view.slide_chosen.emit(0)
    assert viewer.layers.selection.active is first
    assert value(view, "Name") == "tiny.tiff"
    viewer.layers.selection.active = second
    assert view.slides_box.currentIndex() == 1
    assert value(view, "Name") == "CMU-1-Small-Region.svs"
    viewer.layers.remove(second)
    assert view.slides_box.isHidden()
    assert value(view, "Name") == "tiny.tiff"


# Associated images


def test_an_associated_image_is_read_in_a_thread(
    qtbot: Any,
    view: SlideView,
    binding: SlideBinding,
    viewer: Any,
    cmu_slide: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slide = show(viewer, cmu_slide).data[0].slide
    main, ran_on, read = threading.get_ident(), [], slide.read_associated
    monkeypatch.setattr(
        slide, "read_associated", lambda name: ran_on.append((name, threading.get_ident())) or read(name)
    )
    view.associated.opener.click()
    thumbnail = view.associated.images["thumbnail"]
    qtbot.waitUntil(lambda: not thumbnail.picture.pixmap().isNull(), timeout=10_000)
    assert [name for name, _ in ran_on] == ["thumbnail"], "what may name the patient is not read unasked"
    assert ran_on[0][1] != main
    view.associated.images["label"].button.click()
    label = view.associated.images["label"]
    qtbot.waitUntil(lambda: not label.picture.pixmap().isNull(), timeout=10_000)


def test_an_image_of_another_slide_that_comes_late_is_dropped(
    qtbot: Any,
    view: SlideView,
    binding: SlideBinding,
    viewer: Any,
    data_dir: Path,
    cmu_slide: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = show(viewer, cmu_slide)
    go_on, read = threading.Event(), threading.Event()
    pixels = np.full((8, 8, 3), 200, np.uint8)

    def late(name: str) -> np.ndarray:
        read.set()
        go_on.wait(20)
        return pixels

    monkeypatch.setattr(first.data[0].slide, "read_associated", late)
    view.associated.opener.click()
    assert read.wait(5)
    second = show(viewer, data_dir / "slides" / "fixtures" / "small.svs")
    monkeypatch.setattr(second.data[0].slide, "read_associated", lambda _: np.zeros((3, 5, 3), np.uint8))
    view.associated.opener.click()
    go_on.set()
    thumbnail = view.associated.images["thumbnail"]
    qtbot.waitUntil(lambda: not thumbnail.picture.pixmap().isNull(), timeout=10_000)
    assert (thumbnail.picture.pixmap().width(), thumbnail.picture.pixmap().height()) == (5, 3)


def test_an_image_that_cannot_be_read_says_why_in_its_place(
    qtbot: Any, view: SlideView, binding: SlideBinding, viewer: Any, data_dir: Path, errors: list[str]
) -> None:
    show(viewer, data_dir / "slides" / "fixtures" / "unreadable.svs")
    view.associated.opener.click()
    thumbnail = view.associated.images["thumbnail"]
    qtbot.waitUntil(lambda: thumbnail.state.text() != "Reading…", timeout=10_000)
    assert thumbnail.state.text() == "" or thumbnail.state.text().endswith(".")
    assert errors == []


# Colours


@pytest.mark.gui
def test_the_icc_switch_changes_the_pixels_on_screen_and_back(
    window: Any, qtbot: Any, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "swapped.tiff", (220, 60, 40), profile=other_profile())
    _, view = dock_of(window)
    layer = show(window, path)

    def drawn() -> tuple[int, ...]:
        qtbot.waitUntil(lambda: is_settled(layer), timeout=10_000)
        qtbot.wait(200)
        picture = window.screenshot(canvas_only=True, flash=False)
        return tuple(int(v) for v in picture[picture.shape[0] // 2, picture.shape[1] // 2, :3])

    def on_map() -> tuple[int, int, int]:
        image = view.minimap._pixmap.toImage()
        return image.pixelColor(image.width() // 2, image.height() // 2).getRgb()[:3]

    as_stored = drawn()
    assert as_stored == (220, 60, 40)
    assert view.icc_check.isEnabled()
    assert not view.icc_check.isChecked()
    view.icc_check.click()
    qtbot.waitUntil(lambda: view_of(layer).source.uses_icc, timeout=5000)
    red, _, blue = drawn()
    assert blue > red + 100, "the profile swaps red and blue"
    assert view.icc_check.isChecked()
    qtbot.waitUntil(lambda: on_map()[2] > on_map()[0] + 100, timeout=5000)
    view.icc_check.click()
    qtbot.waitUntil(lambda: not view_of(layer).source.uses_icc, timeout=5000)
    assert drawn() == as_stored
    qtbot.waitUntil(lambda: on_map() == as_stored, timeout=5000)


def test_a_slide_without_a_profile_keeps_the_switch_off(
    view: SlideView, binding: SlideBinding, viewer: Any, data_dir: Path, cmu_slide: Path
) -> None:
    show(viewer, data_dir / "slides" / "fixtures" / "boxes.tiff")
    assert view.icc_check.isEnabled()
    show(viewer, cmu_slide)
    assert not view.icc_check.isEnabled()
    assert not view.icc_check.isChecked()


def test_a_profile_that_cannot_be_used_is_one_sentence_and_the_switch_goes_back(
    qtbot: Any, view: SlideView, binding: SlideBinding, viewer: Any, tmp_path: Path, errors: list[str]
) -> None:
    show(viewer, write_tiff(tmp_path / "bad.tiff", (1, 2, 3), profile=b"no profile at all" * 10))
    view.icc_check.click()
    qtbot.waitUntil(lambda: bool(errors), timeout=5000)
    assert len(errors) == 1
    assert "ICC profile" in errors[0]
    assert not view.icc_check.isChecked()


# Pixel size


def test_a_pixel_size_that_is_set_is_kept_shown_everywhere_and_taken_back(
    qtbot: Any,
    view: SlideView,
    binding: SlideBinding,
    viewer: Any,
    tmp_path: Path,
    own_data_dir: Path,
    tiny_regions: Path,
) -> None:
    path = write_tiff(tmp_path / "bare.tiff", (200, 100, 50))
    layer = show(viewer, path)
    slide = layer.data[0].slide
    regions = add(viewer, regions_layer(read_annotations(tiny_regions), slide.info, name="mine"))
    viewer.layers.selection.active = layer
    before = sorted(v.name for v in tmp_path.iterdir()), path.read_bytes()
    scales = {v.name: np.array(v.scale) for v in viewer.layers}
    translations = {v.name: np.array(v.translate) for v in viewer.layers}
    assert value(view, "Pixel size") == "not stated"
    assert [str(unit) for unit in layer.units] == ["pixel", "pixel"]

    view.mpp_buttons["40x"].click()
    view.mpp_button.click()
    qtbot.waitUntil(lambda: slide.info.mpp_x == 0.25, timeout=5000)
    assert value(view, "Pixel size") == "0.25 µm per px (set by the user for this slide)"
    for one in (viewer.layers[0], layer, regions):
        assert tuple(one.scale) == pytest.approx(tuple(scales[one.name] * 0.25))
        assert tuple(one.translate) == pytest.approx(tuple(translations[one.name] * 0.25))
        assert [str(unit) for unit in one.units] == ["micrometer", "micrometer"]
    assert layer.metadata[KEY]["mpp_x"] == 0.25
    assert len(list((own_data_dir / "slides").iterdir())) == 1
    assert (sorted(v.name for v in tmp_path.iterdir()), path.read_bytes()) == before
    with open_slide(path) as again:
        assert again.info.mpp_x == 0.25

    assert not view.mpp_forget_button.isHidden()
    view.mpp_forget_button.click()
    qtbot.waitUntil(lambda: slide.info.mpp_x is None, timeout=5000)
    assert value(view, "Pixel size") == "not stated"
    for one in (viewer.layers[0], layer, regions):
        assert tuple(one.scale) == pytest.approx(tuple(scales[one.name]))
        assert [str(unit) for unit in one.units] == ["pixel", "pixel"]
    assert list((own_data_dir / "slides").iterdir()) == []
    with open_slide(path) as again:
        assert again.info.mpp_x is None


def test_a_copy_of_the_slide_that_is_open_too_gets_the_pixel_size(
    qtbot: Any, view: SlideView, binding: SlideBinding, viewer: Any, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "bare.tiff", (200, 100, 50))
    (tmp_path / "copy.tiff").write_bytes(path.read_bytes())
    layers = [show(viewer, path), show(viewer, tmp_path / "copy.tiff")]
    view.mpp_spin.setValue(0.5)
    view.mpp_button.click()
    qtbot.waitUntil(lambda: layers[1].data[0].slide.info.mpp_x == 0.5, timeout=5000)
    for layer, name in zip(layers, ("bare.tiff", "copy.tiff"), strict=True):
        assert tuple(layer.scale) == (0.5, 0.5)
        assert layer.data[0].slide.info.mpp_x == 0.5
        assert Path(layer.metadata[KEY]["path"]).name == name


# The view


@pytest.mark.gui
def test_the_box_on_the_map_follows_the_camera_and_moves_it(
    window: Any, qtbot: Any, tiny_slide: Path
) -> None:
    _, view = dock_of(window)
    show(window, tiny_slide)
    camera = window.scene.camera
    camera.zoom *= 4
    camera.center = (100.0, 100.0)
    qtbot.wait(200)
    left, top, right, bottom = view.minimap.box
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((200.5, 200.5))
    height, width = window.canvas.size
    assert right - left == pytest.approx(width / camera.zoom / 0.5)
    assert bottom - top == pytest.approx(height / camera.zoom / 0.5)
    place = view.minimap.place
    start, end = (QPoint(*(round(v) for v in place.to_map(*at))) for at in ((200, 200), (400, 300)))
    qtbot.mousePress(view.minimap, LEFT, pos=start)
    qtbot.mouseMove(view.minimap, end)
    qtbot.mouseRelease(view.minimap, LEFT, pos=end)
    qtbot.wait(200)
    y, x = camera.center[-2:]
    assert (x, y) == pytest.approx((200, 150), abs=4)
    assert view.position_note.text().startswith("x 4")


def test_the_view_goes_to_a_place_in_pixels_or_micrometres(
    qtbot: Any, view: SlideView, binding: SlideBinding, viewer: Any, tiny_slide: Path
) -> None:
    show(viewer, tiny_slide)
    for unit, (x, y) in (("px", (300.0, 200.0)), ("µm", (150.0, 100.0))):
        viewer.scene.camera.center = (0, 0)
        view.x_spin.setValue(x)
        view.y_spin.setValue(y)
        view.unit_box.setCurrentText(unit)
        view.go_button.click()
        # Level-0 point (300, 200): napari's is half a pixel less.
        assert tuple(viewer.scene.camera.center[-2:]) == pytest.approx((99.75, 149.75))
        qtbot.waitUntil(
            lambda: view.position_note.text() == "x 300, y 200 px (150.0, 100.0 µm)", timeout=2000
        )
    view.copy_button.click()
    assert QApplication.clipboard().text() == "x 300, y 200 px (150.0, 100.0 µm)"


def test_a_position_without_a_pixel_size_is_in_pixels_alone(
    qtbot: Any, view: SlideView, binding: SlideBinding, viewer: Any, tmp_path: Path
) -> None:
    show(viewer, write_tiff(tmp_path / "bare.tiff", (9, 9, 9)))
    view.go_requested.emit(20.0, 30.0, "px")
    view.copy_button.click()
    assert QApplication.clipboard().text() == "x 20, y 30 px"


# What goes on


def test_the_cache_is_told_of(
    qtbot: Any, view: SlideView, binding: SlideBinding, viewer: Any, tiny_slide: Path
) -> None:
    layer = show(viewer, tiny_slide)
    layer.data[0].read_exact((0, 640, 0, 768))
    binding._show_state()
    assert view.cache_note.text() == f"tiles in memory: 2 of {cache().cap_bytes >> 20:,} MB"


@pytest.mark.gui
def test_what_cannot_be_read_is_noted_and_tried_again(
    window: Any, qtbot: Any, tmp_path: Path, errors: list[str]
) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs", side_px=4096)
    _, view = dock_of(window)
    layer = add_slide(window, slide_layers(Slide(backend)))
    assert view.trouble_note.text() == ""
    backend.bad = (2000, 2000, 2100, 2100)
    window.scene.camera.zoom *= 6
    qtbot.waitUntil(lambda: "could not be read" in view.trouble_note.text(), timeout=10_000)
    assert "copy it again" in view.trouble_note.text()
    assert not view.retry_button.isHidden()
    qtbot.waitUntil(lambda: bool(errors), timeout=5000)
    backend.bad = None
    view.retry_button.click()
    qtbot.waitUntil(lambda: is_settled(layer) and view.trouble_note.text() == "", timeout=10_000)
    assert len(errors) == 1


# Opening


def arrived(viewer: Any, count: int = 1) -> Callable[[], bool]:
    return lambda: len(viewer.layers) == 2 * count and not _opening._openings


def test_a_slide_is_opened_by_the_button(
    qtbot: Any,
    view: SlideView,
    binding: SlideBinding,
    viewer: Any,
    tiny_slide: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([str(tiny_slide)], ""))
    view.file_button.click()
    assert view.opening_note.text() == "Opening tiny.tiff …"
    qtbot.waitUntil(arrived(viewer), timeout=10_000)
    assert view.opening_note.text() == ""
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([], ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    view.file_button.click()
    view.folder_button.click()
    assert not _opening._openings


def test_a_folder_is_opened_by_the_button(
    qtbot: Any,
    view: SlideView,
    binding: SlideBinding,
    viewer: Any,
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "boxes_0.dcm").write_bytes((data_dir / "slides/fixtures/boxes_0.dcm").read_bytes())
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    view.folder_button.click()
    qtbot.waitUntil(arrived(viewer), timeout=10_000)
    assert value(view, "Vendor") == "dicom"


def test_what_stands_in_the_url_field_is_opened(
    qtbot: Any,
    view: SlideView,
    binding: SlideBinding,
    viewer: Any,
    tiny_slide: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(_opening, "open_slide", lambda url: asked.append(url) or open_slide(tiny_slide))
    view.url_edit.setText(" https://example.org/a.zarr ")
    qtbot.keyClick(view.url_edit, Qt.Key.Key_Return)
    qtbot.waitUntil(arrived(viewer), timeout=10_000)
    assert asked == ["https://example.org/a.zarr"]


def test_slides_that_are_dropped_on_the_dock_are_opened(
    qtbot: Any, view: SlideView, binding: SlideBinding, viewer: Any, tiny_slide: Path, tmp_path: Path
) -> None:
    write_synthetic_slide(tmp_path / "other.tif", size_px=(512, 512))
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in (tiny_slide, tmp_path / "other.tif")])
    event = QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, mime, LEFT, Qt.KeyboardModifier.NoModifier)
    view.dropEvent(event)
    qtbot.waitUntil(arrived(viewer, 2), timeout=10_000)
    assert view.slides_box.count() == 2


def test_what_is_being_opened_can_be_cancelled(
    qtbot: Any,
    view: SlideView,
    binding: SlideBinding,
    viewer: Any,
    tiny_slide: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(_opening, "open_slide", lambda path: go_on.wait(20) and open_slide(path))
    binding.open([str(tiny_slide)])
    binding.open(["", "https://example.org/b.zarr"])
    assert view.opening_note.text() == "Opening tiny.tiff, b.zarr …"
    view.cancel_button.click()
    assert view.opening_note.text() == ""
    go_on.set()
    qtbot.wait(300)
    assert list(viewer.layers) == []


# Closing


def listeners(viewer: Any) -> list[int]:
    camera, layers = viewer.scene.camera, viewer.layers
    emitters = (
        *(layers.events.inserted, layers.events.removed, layers.selection.events.active),
        *(camera.events.center, camera.events.zoom),
    )
    return [len(getattr(v, "callbacks", v)) for v in emitters]


@pytest.mark.gui
def test_a_dock_that_is_closed_lets_go_while_slides_go_on(
    window: Any, qtbot: Any, tiny_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _opening.prepare(window)  # the scale bar listens too
    before = listeners(window)
    dock, view = dock_of(window)
    layer = show(window, tiny_slide)
    before[-1] += 1  # the slide's regions: their outlines are as thin at every zoom
    polls: list[int] = []
    monkeypatch.setattr(view, "set_cache", lambda *_: polls.append(1))
    qtbot.waitUntil(lambda: bool(polls), timeout=3000)
    go_on = threading.Event()
    monkeypatch.setattr(_opening, "open_slide", lambda path: go_on.wait(20) and open_slide(path))
    view.binding.open([str(tiny_slide)])
    assert listeners(window) != before
    dock.destroyOnClose()
    polls.clear()
    go_on.set()
    qtbot.waitUntil(lambda: len(window.layers) == 4, timeout=10_000)
    qtbot.wait(700)
    assert polls == []
    assert listeners(window) == before
    assert layer in window.layers
    del dock, view
    gc.collect()
    _, view = dock_of(window)
    assert value(view, "Name") == "tiny.tiff", "it comes back"


@pytest.mark.gui
def test_a_window_that_is_closed_with_the_dock_open_leaves_nothing(
    window: Any, qtbot: Any, tiny_slide: Path, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest-qt and napari's fixture find what is left."""
    _, view = dock_of(window)
    show(window, tiny_slide)
    go_on = threading.Event()
    monkeypatch.setattr(_opening, "open_slide", lambda path: go_on.wait(20) and open_slide(path))
    view.binding.open([str(tiny_slide)])
    del view
    window.close()
    qtbot.wait(50)
    go_on.set()
    qtbot.wait(900)
    assert errors == []
    assert session_of(window).slide() is None
