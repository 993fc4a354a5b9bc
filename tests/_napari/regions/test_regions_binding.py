"""The Regions dock in a real window, with real clicks."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialogButtonBox
from shapely.geometry import Polygon, box

from napari_histolatent._napari.regions import is_regions_layer
from napari_histolatent.annotations import Region, edited, read_annotations
from napari_histolatent.slides import Level, Slide, SlideInfo
from tests._napari.helpers import settled
from tests._napari.regions.hand import CONTROL, LEFT

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent._napari.regions import SlideRegions
    from tests._napari.regions.hand import Hand

pytestmark = pytest.mark.gui

CORNERS = [(200.0, 150.0), (600.0, 150.0), (600.0, 500.0), (200.0, 500.0)]


@pytest.fixture
def dock(window: Any, hand: Hand, slide: Slide, qtbot: Any) -> Any:
    """The dock, in a window with the tiny slide."""
    _, view = window.window.add_plugin_dock_widget("napari-histolatent", "Regions")
    hand.show(slide)
    qtbot.waitUntil(lambda: view.binding._regions is not None, timeout=5000)
    qtbot.wait(100)
    window.reset_view()
    return view


@pytest.fixture
def regions(dock: Any) -> SlideRegions:
    found: SlideRegions = dock.binding._regions
    return found


def take(qtbot: Any, dock: Any, tool: str) -> None:
    qtbot.mouseClick(dock.tool_buttons[tool], LEFT)
    settled(qtbot, dock.binding._regions)
    assert dock.binding._board.tool == tool


def act(qtbot: Any, dock: Any, name: str) -> None:
    settled(qtbot, dock.binding._regions)
    qtbot.waitUntil(dock.action_buttons[name].isEnabled, timeout=3000)
    qtbot.mouseClick(dock.action_buttons[name], LEFT)
    settled(qtbot, dock.binding._regions)


def geometries(regions: SlideRegions) -> list[Any]:
    return [region.geometry for region in regions.document.regions.values()]


def test_a_polygon_and_its_undo(qtbot: Any, dock: Any, hand: Hand, regions: SlideRegions) -> None:
    take(qtbot, dock, "polygon")
    hand.click(*CORNERS, (400, 300))
    hand.key(Qt.Key.Key_Backspace)
    hand.key(Qt.Key.Key_Z, CONTROL)
    hand.click(CORNERS[3], CORNERS[0])
    settled(qtbot, regions)
    (region,) = regions.document.regions.values()
    assert region.class_name == "tumour"
    assert region.geometry.symmetric_difference(Polygon(CORNERS)).area < hand.px(2) * 1500
    assert len(region.geometry.exterior.coords) == 5
    assert dock.action_buttons["undo"].full_text() == "Undo: Draw polygon"
    act(qtbot, dock, "undo")
    assert not regions.document.regions
    act(qtbot, dock, "redo")
    assert len(regions.document.regions) == 1
    hand.click(*CORNERS[:2])
    hand.key(Qt.Key.Key_Escape)
    assert dock.binding._board.tool == "polygon", "the first Esc gives up what was begun"
    hand.key(Qt.Key.Key_Escape)
    assert dock.binding._board.tool == ""
    assert not dock.tool_buttons["polygon"].isChecked()


def test_brush_split_merge_holes_and_simplify(
    qtbot: Any, dock: Any, hand: Hand, regions: SlideRegions
) -> None:
    take(qtbot, dock, "rectangle")
    hand.drag([(150, 150), (300, 300), (500, 450)])
    settled(qtbot, regions)
    (whole,) = geometries(regions)
    assert whole.area == pytest.approx(350 * 300, rel=0.03)
    take(qtbot, dock, "brush_add")
    hand.drag([(480, 300), (560, 300), (600, 300)])
    settled(qtbot, regions)
    (grown,) = geometries(regions)
    assert grown.area > whole.area
    take(qtbot, dock, "brush_subtract")
    hand.drag([(250, 300), (300, 300)])
    settled(qtbot, regions)
    (holed,) = geometries(regions)
    assert len(holed.interiors) == 1
    take(qtbot, dock, "split")
    hand.drag([(400, 100), (400, 300), (400, 520)])
    settled(qtbot, regions)
    assert len(geometries(regions)) == 2
    assert sum(g.area for g in geometries(regions)) == pytest.approx(holed.area)
    regions.select(regions.document.regions)
    act(qtbot, dock, "merge")
    (merged,) = geometries(regions)
    assert merged.area == pytest.approx(holed.area)
    act(qtbot, dock, "fill_holes")
    assert not geometries(regions)[0].interiors
    n = len(geometries(regions)[0].exterior.coords)
    dock.tolerance_spin.setValue(10)
    act(qtbot, dock, "simplify")
    assert len(geometries(regions)[0].exterior.coords) < n
    while regions.document.can_undo:
        act(qtbot, dock, "undo")
    assert not regions.document.regions


def test_classes_keys_and_assigning(
    qtbot: Any, dock: Any, hand: Hand, window: Any, regions: SlideRegions
) -> None:
    dock.class_edit.setText("vein")
    qtbot.mouseClick(dock.add_button, LEFT)
    settled(qtbot, regions)
    assert regions.document.classes.names == ("tumour", "normal", "vein")
    assert regions.current_class == "vein"
    hand.key(Qt.Key.Key_2)
    settled(qtbot, regions)
    assert regions.current_class == "normal"
    take(qtbot, dock, "freehand")
    angles = np.linspace(0, 2 * np.pi, 30)
    hand.drag([(float(400 + 100 * np.cos(a)), float(300 + 100 * np.sin(a))) for a in angles])
    settled(qtbot, regions)
    (region,) = regions.document.regions.values()
    assert region.class_name == "normal"
    take(qtbot, dock, "pick")
    hand.click((400, 300))
    assert regions.selected == (region.id,)
    assert dock.binding._board.tool == "pick"
    hand.key(Qt.Key.Key_1)
    settled(qtbot, regions)
    assert regions.document.regions[region.id].class_name == "normal", "a key picks, and changes nothing"
    act(qtbot, dock, "assign")
    assert regions.document.regions[region.id].class_name == "tumour"
    dock.binding._remove_class("tumour")
    assert "tumour" in regions.document.classes.names, "a class in use stays"


def test_measuring_says_a_length(qtbot: Any, dock: Any, hand: Hand, regions: SlideRegions) -> None:
    take(qtbot, dock, "measure")
    hand.drag([(100, 100), (200, 100), (400, 100)])
    text = dock.binding._view.measure_note.text()
    assert float(text.split()[1]) == pytest.approx(150, abs=hand.px(2))
    assert text.endswith("µm")
    assert not regions.document.regions


def camelyon(data_dir: Path) -> Path:
    path = data_dir / "annotations" / "asap" / "camelyon16_tumor_036.xml"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return path


def blank(path: Path, size_px: tuple[int, int]) -> Slide:
    """A white slide of a size, in no memory."""

    class Blank:
        info = SlideInfo(
            path=path,
            backend="blank",
            vendor=None,
            digest="blank",
            levels=tuple(Level(size_px[0] // n, size_px[1] // n, float(n)) for n in (1, 8, 64)),
            mpp_x=0.243,
            mpp_y=0.243,
            mpp_source="blank",
            bounds=(0, 0, *size_px),
            background=(255, 255, 255),
            associated=(),
        )

        def read_level(self, level: int, level0_xy: Any, size_px: tuple[int, int]) -> np.ndarray:
            return np.full((size_px[1], size_px[0], 3), 255, np.uint8)

        def read_associated(self, name: str) -> np.ndarray:
            raise NotImplementedError

        def icc_profile(self) -> bytes | None:
            return None

        def close(self) -> None:
            return

    return Slide(Blank())


def test_a_real_file_is_imported_regrouped_and_exported(
    qtbot: Any, window: Any, hand: Hand, data_dir: Path, tmp_path: Path, errors: list[str]
) -> None:
    source = camelyon(data_dir)
    content = source.read_bytes()
    _, dock = window.window.add_plugin_dock_widget("napari-histolatent", "Regions")
    hand.show(blank(tmp_path / "blank.svs", (97792, 221184)))
    regions = dock.binding._regions
    with qtbot.waitSignal(regions.imported, timeout=20_000):
        dock.binding.import_file(str(source))
    settled(qtbot, regions)
    expected = read_annotations(source)
    assert len(regions.document.regions) == len(expected.regions) > 0
    (layer,) = [v for v in window.layers if is_regions_layer(v)]
    assert len(set(regions.shapes.ids)) == len(expected.regions) <= len(layer.data)
    assert dock.report_edit.toPlainText().startswith("camelyon16_tumor_036.xml")

    qtbot.mouseClick(dock.groups_button, LEFT)
    editor = dock.binding._dialog
    assert editor.group_rows
    imported = regions.last_import
    ok = editor.buttons.button(QDialogButtonBox.StandardButton.Ok)
    with qtbot.waitSignal(regions.imported, timeout=20_000):
        qtbot.mouseClick(ok, LEFT)
    settled(qtbot, regions)
    assert len(regions.document.regions) == len(expected.regions), "in place of those that were there"
    assert regions.last_import is not imported

    out = tmp_path / "out.xml"
    dock.binding.export(str(out), "asap-xml", "repaired")
    settled(qtbot, regions)
    qtbot.waitUntil(out.exists, timeout=10_000)
    again = read_annotations(out)
    assert sum(r.geometry.area for r in again.regions) == pytest.approx(
        sum(r.geometry.area for r in regions.document.regions.values()), rel=1e-6
    )
    errors.clear()
    dock.binding.export(str(source), "asap-xml", "repaired")
    settled(qtbot, regions)
    assert any("imported from" in text for text in errors)
    assert source.read_bytes() == content


def test_reading_again_asks_before_it_takes_changes_back(
    qtbot: Any, dock: Any, regions: SlideRegions, tiny_regions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with qtbot.waitSignal(regions.imported, timeout=10_000):
        dock.binding.import_file(str(tiny_regions))
    settled(qtbot, regions)
    own = next(iter(regions.document.regions))
    regions.apply("Edit", [edited(regions.document.regions[own], shapely.box(0, 0, 9, 9))])
    asked: list[int] = []
    monkeypatch.setattr(dock.binding, "ask_to_discard", lambda n: asked.append(n) or False)
    qtbot.mouseClick(dock.groups_button, LEFT)
    qtbot.mouseClick(dock.binding._dialog.buttons.button(QDialogButtonBox.StandardButton.Ok), LEFT)
    settled(qtbot, regions)
    assert asked == [1]
    assert regions.document.regions[own].geometry.bounds == (0, 0, 9, 9)


def test_regions_of_two_classes_are_not_merged(
    qtbot: Any, dock: Any, regions: SlideRegions, errors: list[str]
) -> None:
    put = [
        Region("a", "tumour", shapely.box(0, 0, 50, 50)),
        Region("b", "normal", shapely.box(40, 0, 90, 50)),
    ]
    regions.apply("Draw", put)
    settled(qtbot, regions)
    regions.select(["a", "b"])
    dock.binding.act("merge")
    assert "2 classes (normal, tumour)" in errors[-1]
    assert set(regions.document.regions) == {"a", "b"}


def test_an_earlier_version_is_restored_in_its_dialog(qtbot: Any, dock: Any, regions: SlideRegions) -> None:
    saver = regions.autosaver
    assert saver is not None
    for name in ("a", "b"):
        with qtbot.waitSignal(saver.saved, timeout=5000):
            regions.apply(f"Draw {name}", [Region(name, "tumour", box(0, 0, 99, 99))])
    settled(qtbot, regions)
    qtbot.mouseClick(dock.versions_button, LEFT)
    qtbot.waitUntil(lambda: dock.binding._dialog is not None, timeout=5000)
    dialog = dock.binding._dialog
    assert [v.title for v in dialog.rows_model.versions] == ["Draw b", "Draw a"]
    dialog.table.selectRow(1)
    qtbot.mouseClick(dialog.restore_button, LEFT)
    qtbot.waitUntil(lambda: list(regions.document.regions) == ["a"], timeout=5000)
    act(qtbot, dock, "undo")
    assert list(regions.document.regions) == ["a", "b"]


def test_keys_and_callbacks_are_given_back_with_the_dock(
    qtbot: Any, window: Any, hand: Hand, slide: Slide
) -> None:
    hand.show(slide)
    lists = (window.mouse_drag_callbacks, window.mouse_move_callbacks, window.mouse_double_click_callbacks)
    before = [list(callbacks) for callbacks in lists], set(map(str, window.keymap))
    dock, view = window.window.add_plugin_dock_widget("napari-histolatent", "Regions")
    take(qtbot, view, "polygon")
    hand.click(*CORNERS, CORNERS[0])
    regions = view.binding._regions
    settled(qtbot, regions)
    layer = regions.shapes.layer
    assert layer.keymap
    assert set(map(str, window.keymap)) > before[1]
    with qtbot.waitSignal(dock.destroyed):
        qtbot.mouseClick(dock.title.close_button, LEFT)
    del view
    gc.collect()
    assert [list(callbacks) for callbacks in lists] == before[0]
    assert set(map(str, window.keymap)) == before[1]
    assert not layer.keymap, "napari's own P, R and 1 work again"
    assert len(regions.document.regions) == 1
    assert layer in window.layers
