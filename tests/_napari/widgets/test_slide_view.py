from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDragMoveEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QLineEdit

from napari_histolatent._napari.widgets.slide_view import (
    SlideView,
    backend_text,
    cache_text,
    levels_text,
    locations_of,
    millimetres,
    objective_text,
    pixel_size_text,
    size_text,
)
from napari_histolatent.slides import MPP_OF_OBJECTIVE, Level, SlideInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

LEFT = Qt.MouseButton.LeftButton
COPY, MOVE = Qt.DropAction.CopyAction, Qt.DropAction.MoveAction
INFO = SlideInfo(
    path=Path("/slides/tumor.svs"),
    backend="openslide",
    vendor="aperio",
    digest="0123",
    levels=(Level(46_000, 32_914, 1.0), Level(11_499, 8_228, 4.00009), Level(2_875, 2_057, 16.0)),
    mpp_x=0.499,
    mpp_y=0.499,
    mpp_source="aperio.MPP",
    bounds=(0, 0, 46_000, 32_914),
    background=(255, 255, 255),
    associated=("label", "macro", "thumbnail"),
    backend_reason="OpenSlide reads it",
    objective_power=20.0,
    has_icc_profile=True,
    notes=("Plane 3 of 7.", "Window 0 to 4095."),
)
BARE = replace(
    INFO,
    digest="4567",
    vendor=None,
    mpp_x=None,
    mpp_y=None,
    mpp_source=None,
    objective_power=None,
    has_icc_profile=False,
    notes=(),
    associated=(),
)
SIGNALS = (
    "open_file_requested",
    "open_folder_requested",
    "url_entered",
    "locations_dropped",
    "cancel_requested",
    "slide_chosen",
    "icc_switched",
    "mpp_entered",
    "mpp_forgotten",
    "go_requested",
    "copy_requested",
    "retry_requested",
)


@pytest.fixture
def view(qtbot: Any) -> SlideView:
    widget = SlideView()
    qtbot.addWidget(widget)
    widget.show()
    return widget


@pytest.fixture
def told(view: SlideView) -> list[tuple[Any, ...]]:
    """What the dock tells: (signal, values...)."""
    events: list[tuple[Any, ...]] = []
    for name in SIGNALS:
        getattr(view, name).connect(lambda *values, name=name: events.append((name, *values)))
    return events


def value(view: SlideView, name: str) -> str | None:
    """Return a value of the form, or None where its row is hidden."""
    label, text = view.values[name]
    assert label.isHidden() == text.isHidden()
    return None if text.isHidden() else text.text()


def mime_of(*urls: str, text: str = "") -> QMimeData:
    mime = QMimeData()
    if urls:
        mime.setUrls([QUrl(url) for url in urls])
    if text:
        mime.setText(text)
    return mime


def drag(view: SlideView, mime: QMimeData, kind: Any = QDragEnterEvent, action: Any = COPY) -> QDropEvent:
    """Send the dock the event of a drag that offers to copy and to move, and proposes `action`."""
    at = QPointF(50, 50) if kind is QDropEvent else QPoint(50, 50)
    event = kind(at, COPY | MOVE, mime, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    event.setDropAction(action)
    QApplication.sendEvent(view.viewport(), event)
    return event


def test_millimetres() -> None:
    assert millimetres(46_000, 0.5) == "23.0"
    assert millimetres(4_000_000, 0.5) == "2,000.0"
    assert millimetres(500, 0.25) == "0.12"


def test_sizes_are_written_as_people_read_them() -> None:
    assert size_text(INFO) == "46,000 × 32,914 px (23.0 × 16.4 mm)"
    assert size_text(BARE) == "46,000 × 32,914 px"
    assert levels_text(INFO.levels) == "3: 1, 4.0001, 16"
    assert levels_text([Level(1, 1, 1.0), Level(1, 1, 100.0)]) == "2: 1, 100"


def test_the_pixel_size_says_where_it_is_from() -> None:
    assert pixel_size_text(INFO) == "0.499 µm per px (aperio.MPP)"
    assert pixel_size_text(replace(INFO, mpp_y=0.51)) == "0.499 × 0.51 µm per px (aperio.MPP)"
    assert pixel_size_text(replace(INFO, mpp_source=None)) == "0.499 µm per px"
    assert pixel_size_text(BARE) == "not stated"


def test_the_other_values() -> None:
    assert objective_text(40.0) == "40x"
    assert objective_text(2.5) == "2.5x"
    assert objective_text(None) == "not stated"
    assert backend_text(INFO) == "openslide: OpenSlide reads it"
    assert backend_text(replace(INFO, backend_reason="")) == "openslide"
    assert cache_text(212 * 2**20, 2**30) == "tiles in memory: 212 of 1,024 MB"


@pytest.mark.parametrize(
    ("mime", "locations"),
    [
        (
            mime_of("file:///a%20b.svs", "https://x.org/a%2Fb.zarr", "mailto:me@x.org"),
            ["/a b.svs", "https://x.org/a%2Fb.zarr"],
        ),
        (mime_of(text="https://x.org/a.zarr\n"), ["https://x.org/a.zarr"]),
        (mime_of("file:///a.svs", text="file:///a.svs"), ["/a.svs"]),
        (mime_of(text="some words"), []),
        (mime_of("mailto:me@x.org"), []),
        (mime_of(), []),
    ],
)
def test_what_is_dragged_is_paths_and_addresses(mime: QMimeData, locations: list[str]) -> None:
    assert locations_of(mime) == locations


def test_the_open_buttons(qtbot: Any, view: SlideView, told: list[Any]) -> None:
    qtbot.mouseClick(view.file_button, LEFT)
    qtbot.mouseClick(view.folder_button, LEFT)
    qtbot.mouseClick(view.url_button, LEFT)
    view.url_edit.setText("  https://x.org/a.zarr ")
    qtbot.mouseClick(view.url_button, LEFT)
    qtbot.keyClick(view.url_edit, Qt.Key.Key_Return)
    assert told == [
        ("open_file_requested",),
        ("open_folder_requested",),
        ("url_entered", "https://x.org/a.zarr"),
        ("url_entered", "https://x.org/a.zarr"),
    ], "an empty line is no URL"


def test_what_is_being_opened_can_be_cancelled(qtbot: Any, view: SlideView, told: list[Any]) -> None:
    assert not view.cancel_button.isVisible()
    view.set_opening("Opening tumor.svs…")
    assert view.opening_note.text() == "Opening tumor.svs…"
    assert view.cancel_button.isVisible()
    qtbot.mouseClick(view.cancel_button, LEFT)
    assert told == [("cancel_requested",)]
    view.set_opening("")
    assert not view.cancel_button.isVisible()


@pytest.mark.parametrize("action", [COPY, MOVE])
def test_files_folders_and_addresses_can_be_dropped(view: SlideView, told: list[Any], action: Any) -> None:
    mime = mime_of("file:///slides/a.svs", "file:///slides/folder", "https://x.org/a.zarr")
    drag(view, mime)  # a drop arrives only where the drag was taken
    event = drag(view, mime, QDropEvent, action)
    assert told == [("locations_dropped", ["/slides/a.svs", "/slides/folder", "https://x.org/a.zarr"])]
    assert event.isAccepted()
    assert event.dropAction() == COPY, "after a move the file manager may delete the file"


@pytest.mark.parametrize("kind", [QDragEnterEvent, QDragMoveEvent])
@pytest.mark.parametrize(("mime", "taken"), [(mime_of("file:///a.svs"), True), (mime_of(text="a"), False)])
def test_the_cursor_says_what_can_be_dropped(
    view: SlideView, told: list[Any], mime: QMimeData, taken: bool, kind: Any
) -> None:
    drag(view, mime_of("file:///a.svs"))
    assert drag(view, mime, kind).isAccepted() is taken
    assert told == []


def test_no_part_of_the_dock_keeps_a_drop_for_itself(view: SlideView) -> None:
    assert view.viewport().acceptDrops()
    assert not [edit for edit in view.findChildren(QLineEdit) if edit.acceptDrops()]


def test_without_a_slide_it_says_how_to_open_one(view: SlideView) -> None:
    assert view.no_slide_note.isVisible()
    parts = (view.minimap, view.icc_check, view.cache_note, view.mpp_button, view.associated)
    assert not [part for part in parts if part.isVisible()]
    view.set_slide(INFO)
    assert not view.no_slide_note.isVisible()
    assert view.minimap.isVisible()
    assert view.cache_note.isVisible()
    view.set_slide(None)
    assert view.no_slide_note.text() == "No slide yet: drop one here, or open it above."
    assert view.no_slide_note.isVisible()
    assert not [part for part in parts if part.isVisible()]


def test_what_a_slide_says_of_itself(view: SlideView) -> None:
    view.set_slide(INFO)
    assert {name: value(view, name) for name in view.values} == {
        "Name": "tumor.svs",
        "Location": "/slides",
        "Read by": "openslide: OpenSlide reads it",
        "Vendor": "aperio",
        "Size": "46,000 × 32,914 px (23.0 × 16.4 mm)",
        "Levels": "3: 1, 4.0001, 16",
        "Pixel size": "0.499 µm per px (aperio.MPP)",
        "Objective": "20x",
        "Notes": "Plane 3 of 7.\nWindow 0 to 4095.",
    }
    assert view.values["Location"][0].text() == "Folder"
    view.set_slide(BARE)
    assert value(view, "Vendor") == value(view, "Objective") == value(view, "Pixel size") == "not stated"
    assert value(view, "Notes") is None
    view.set_slide(replace(INFO, url="https://x.org/a.zarr"))
    assert value(view, "Location") == "https://x.org/a.zarr"
    assert view.values["Location"][0].text() == "URL"


def test_nothing_is_wider_than_a_narrow_dock(view: SlideView) -> None:
    view.set_slides(["a" * 90, "b"], 0)
    long = replace(
        INFO, path=Path("/a" + "b" * 120) / ("c" * 120 + ".svs"), vendor="v" * 90, notes=("n" * 200,)
    )
    view.set_slide(long.with_mpp(0.25))
    view.set_opening("Opening " + "o" * 120)
    view.set_trouble("t" * 120)
    view.set_position("x 45,999.5 y 32,913.5 px (22,954.0, 16,424.0 µm)")
    assert view.widget().minimumSizeHint().width() <= 300


def test_colours_can_be_switched_where_there_is_a_profile(
    qtbot: Any, view: SlideView, told: list[Any]
) -> None:
    view.set_slide(INFO)
    assert view.icc_check.isEnabled()
    view.icc_check.click()
    view.icc_check.click()
    assert told == [("icc_switched", True), ("icc_switched", False)]
    view.set_icc(True)
    assert view.icc_check.isChecked()
    view.set_slide(BARE)
    assert not view.icc_check.isEnabled()
    assert not view.icc_check.isChecked()
    assert view.icc_check.toolTip() == "This slide has no ICC profile"
    assert len(told) == 2


def test_a_pixel_size_can_be_set_where_there_is_none(qtbot: Any, view: SlideView, told: list[Any]) -> None:
    view.set_slide(INFO)
    assert not view.mpp_button.isVisible(), "the file states it"
    view.set_slide(BARE)
    assert view.mpp_button.isVisible()
    assert not view.mpp_forget_button.isVisible()
    for name, mpp in MPP_OF_OBJECTIVE.items():
        qtbot.mouseClick(view.mpp_buttons[name], LEFT)
        assert view.mpp_spin.value() == mpp
    assert told == [], "chosen, not yet set"
    qtbot.mouseClick(view.mpp_button, LEFT)
    view.mpp_spin.setValue(0.2277)
    qtbot.keyClick(view.mpp_spin, Qt.Key.Key_Return)
    assert told == [("mpp_entered", 1.0), ("mpp_entered", 0.2277)]


@pytest.mark.parametrize("is_stored", [True, False])
def test_the_users_pixel_size_can_be_forgotten(
    qtbot: Any, view: SlideView, told: list[Any], is_stored: bool
) -> None:
    view.set_slide(BARE.with_mpp(0.5, is_stored=is_stored))
    assert view.mpp_spin.value() == 0.5
    qtbot.mouseClick(view.mpp_forget_button, LEFT)
    assert told == [("mpp_forgotten",)]
    view.set_slide(BARE)
    assert not view.mpp_forget_button.isVisible()


@pytest.mark.parametrize("how", ["button", "x", "y"])
def test_a_place_can_be_typed(qtbot: Any, view: SlideView, told: list[Any], how: str) -> None:
    view.set_slide(INFO)
    view.x_spin.setValue(1234.5)
    view.y_spin.setValue(99.0)
    view.unit_box.setCurrentText("µm")
    assert told == []
    if how == "button":
        qtbot.mouseClick(view.go_button, LEFT)
    else:
        qtbot.keyClick(view.x_spin if how == "x" else view.y_spin, Qt.Key.Key_Return)
    assert told == [("go_requested", 1234.5, 99.0, "µm")]


def test_micrometres_need_a_pixel_size(view: SlideView) -> None:
    view.set_slide(INFO)
    assert view.unit_box.model().item(1).isEnabled()
    view.unit_box.setCurrentText("µm")
    view.set_slide(BARE)
    assert not view.unit_box.model().item(1).isEnabled()
    assert view.unit_box.currentText() == "px"


def test_the_position_is_shown_and_can_be_copied(qtbot: Any, view: SlideView, told: list[Any]) -> None:
    view.set_slide(INFO)
    view.set_position("x 1 y 2 px")
    assert view.position_note.text() == "x 1 y 2 px"
    qtbot.mouseClick(view.copy_button, LEFT)
    assert told == [("copy_requested",)]


def test_the_cache_is_shown(view: SlideView) -> None:
    view.set_cache(2**40, 2**41)  # more than 32 bits
    assert view.cache_note.text() == "tiles in memory: 1,048,576 of 2,097,152 MB"
    assert view.cache_bar.value() * 2 == view.cache_bar.maximum()
    view.set_cache(2**31, 2**30)
    assert view.cache_bar.value() == view.cache_bar.maximum()


def test_trouble_is_shown_until_it_is_over(qtbot: Any, view: SlideView, told: list[Any]) -> None:
    view.set_slide(INFO)
    assert not view.retry_button.isVisible()
    view.set_trouble("The file ends early.")
    assert view.trouble_note.text() == "The file ends early."
    qtbot.mouseClick(view.retry_button, LEFT)
    assert told == [("retry_requested",)]
    view.set_trouble("")
    assert not view.retry_button.isVisible()


def test_one_of_several_slides_is_chosen(qtbot: Any, view: SlideView, told: list[Any]) -> None:
    view.set_slides(["a.svs"], 0)
    assert not view.slides_box.isVisible()
    view.set_slides(["a.svs", "b.svs"], 1)
    assert view.slides_box.isVisible()
    assert view.slides_box.currentText() == "b.svs"
    assert told == []
    view.slides_box.setFocus()
    qtbot.keyClick(view.slides_box, Qt.Key.Key_Up)
    assert told == [("slide_chosen", 0)]


def test_setters_tell_nothing(view: SlideView, told: list[Any]) -> None:
    wanted: list[str] = []
    view.associated.wanted.connect(wanted.append)
    for info in (INFO, BARE, INFO.with_mpp(1.0), None, INFO):
        view.set_slide(info)
        view.set_icc(True)
        view.set_icc(False)
    view.set_slides(["a", "b"], 1)
    view.set_slides([], 0)
    view.set_opening("a")
    view.set_position("a")
    view.set_cache(1, 2)
    view.set_trouble("a")
    assert told == wanted == []


def test_the_label_is_forgotten_with_its_slide(view: SlideView, noise: Callable[..., np.ndarray]) -> None:
    view.set_slide(INFO)
    view.associated.opener.click()
    view.associated.images["label"].button.click()
    view.associated.set_image("label", noise(20, 20))
    view.set_slide(INFO.with_mpp(0.5))
    assert not view.associated.images["label"].picture.pixmap().isNull(), "it is the same slide"
    view.set_slide(replace(INFO, digest="89ab"))
    assert view.associated.images["label"].picture.pixmap().isNull()
