from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.patches_view import PatchesView
from napari_histolatent.patches import GridSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def view(qtbot: Any) -> PatchesView:
    widget = PatchesView()
    qtbot.addWidget(widget)
    return widget


def test_what_the_user_does_goes_out(qtbot: Any, view: PatchesView) -> None:
    told: list[Any] = []
    view.slide_chosen.connect(lambda path: told.append(("slide", path)))
    view.regions_chosen.connect(lambda path: told.append(("regions", path)))
    view.picking_switched.connect(lambda on: told.append(("picking", on)))
    view.cut_requested.connect(lambda: told.append("cut"))
    view.cancel_requested.connect(lambda: told.append("cancel"))
    for picker, path in ((view.slide_picker, "/a.svs"), (view.regions_picker, "/a.geojson")):
        picker.edit.setText(path)
        qtbot.keyClick(picker.edit, Qt.Key.Key_Return)
    qtbot.mouseClick(view.pick_button, LEFT)
    qtbot.mouseClick(view.pick_button, LEFT)
    qtbot.mouseClick(view.cut_button, LEFT)
    qtbot.mouseClick(view.cancel_button, LEFT)
    assert told == [
        ("slide", "/a.svs"),
        ("regions", "/a.geojson"),
        ("picking", True),
        ("picking", False),
        "cut",
    ], "to cancel has no meaning yet"
    view.set_busy(True)
    qtbot.mouseClick(view.cut_button, LEFT)
    qtbot.mouseClick(view.cancel_button, LEFT)
    assert told[5:] == ["cancel"], "one dataset at a time"


def test_to_name_the_dataset_starts_nothing(qtbot: Any, view: PatchesView) -> None:
    with qtbot.assertNotEmitted(view.cut_requested):
        view.out_picker.edit.setText("/patches")
        qtbot.keyClick(view.out_picker.edit, Qt.Key.Key_Return)
    assert view.out_picker.path == Path("/patches")


def test_the_form_makes_a_grid(view: PatchesView) -> None:
    assert GridSpec(**view.grid_values()) == GridSpec(size_px=64, mpp=0.5, stride_px=64)
    for name, value in {
        "size_px": 32,
        "mpp": 1.0,
        "stride_px": 8,
        "threshold": 0.5,
        "min_tissue": 0.0,
    }.items():
        view.form[name].value = value
    assert GridSpec(**view.grid_values()) == GridSpec(
        size_px=32, mpp=1.0, stride_px=8, threshold=0.5, min_tissue=0.0
    )


def test_every_value_the_form_allows_is_a_grid(view: PatchesView) -> None:
    for bound in ("min", "max"):
        for widget in view.form:
            widget.value = getattr(widget, bound)
        GridSpec(**view.grid_values())


def test_the_tray_shows_what_it_is_given(view: PatchesView, noise: Callable[..., np.ndarray]) -> None:
    view.set_tray([(noise(32, 32), "stroma"), (noise(32, 32), "no class")])
    assert [view.tray.item(i).text() for i in range(view.tray.count())] == ["stroma", "no class"]


def test_progress_is_shown_while_it_is_busy(view: PatchesView) -> None:
    assert view.progress.isHidden()
    assert (view.cut_button.isEnabled(), view.cancel_button.isEnabled()) == (True, False)
    view.set_busy(True)
    assert not view.progress.isHidden()
    assert (view.cut_button.isEnabled(), view.cancel_button.isEnabled()) == (False, True)
    assert (view.progress.minimum(), view.progress.maximum()) == (0, 0), "how many is not known yet"
    view.set_progress(30, 120)
    assert (view.progress.value(), view.progress.maximum()) == (30, 120)
    view.set_busy(False)
    assert view.progress.isHidden()
    assert (view.cut_button.isEnabled(), view.cancel_button.isEnabled()) == (True, False)


def test_the_next_cut_begins_without_the_progress_of_the_last(view: PatchesView) -> None:
    view.set_busy(True)
    view.set_progress(120, 120)
    view.set_busy(False)
    view.set_busy(True)
    assert (view.progress.minimum(), view.progress.maximum()) == (0, 0)
