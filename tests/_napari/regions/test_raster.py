"""More than 5,000 regions: a picture of all, and some of them to edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shapely.geometry import Polygon, box

from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.regions import MANY, _slide_regions
from napari_histolatent._napari.regions._raster import RegionsSource, palette_of
from napari_histolatent._napari.viewing import cache, is_settled
from napari_histolatent._napari.viewing._pyramid import box_of, tiles_of
from napari_histolatent.annotations import ClassTable, Region, RegionClass, RegionRaster
from napari_histolatent.errors import AnnotationError
from tests._napari.helpers import settled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_histolatent._napari.regions import SlideRegions
    from napari_histolatent.slides import Slide
    from tests._napari.regions.hand import Hand

RED, GREEN = (200, 30, 60), (40, 140, 80)
CLASSES = ClassTable((RegionClass("tumour", RED, "1"), RegionClass("normal", GREEN, "2")))
LIMIT = 60


def nuclei(n: int, *, size: float = 24.0) -> list[Region]:
    """Return squares in rows of 24 over the tiny slide, every third a tumour."""
    places = [(30 * (i % 24) + 10.0, 30 * (i // 24) + 10.0) for i in range(n)]
    return [
        Region(f"n{i}", "normal" if i % 3 else "tumour", box(x, y, x + size, y + size))
        for i, (x, y) in enumerate(places)
    ]


# The source


@pytest.fixture
def source(slide: Slide) -> Iterator[RegionsSource]:
    made = RegionsSource(slide, raster_of(nuclei(300)), palette_of(CLASSES, CLASSES.names))
    yield made
    made.close()
    cache().clear()


def raster_of(regions: list[Region]) -> RegionRaster:
    codes = np.array([1 + CLASSES.names.index(region.class_name) for region in regions])
    return RegionRaster(np.array([region.geometry for region in regions], object), codes)


def all_tiles(source: RegionsSource) -> list[Any]:
    return [
        tile
        for number, level in enumerate(source.levels)
        for tile in tiles_of((0, level.height_px, 0, level.width_px), number)
    ]


def test_tiles_are_what_the_raster_draws(source: RegionsSource) -> None:
    raster, palette = raster_of(nuclei(300)), palette_of(CLASSES, CLASSES.names)
    seen = 0
    for tile in all_tiles(source):
        level = source.levels[tile[0]]
        top, bottom, left, right = box_of(tile, level)
        pixels = source.load(tile)
        assert pixels.shape == (bottom - top, right - left, 4)
        place = tuple(v * level.downsample for v in (left, top, right, bottom))
        codes = raster.fill(place, pixels.shape[:2])  # type: ignore[arg-type]
        lines = raster.outlines(place, pixels.shape[:2])  # type: ignore[arg-type]
        dots = raster.dots(place, pixels.shape[:2])  # type: ignore[arg-type]
        inside = (codes > 0) & (lines == 0) & (dots == 0)
        assert np.array_equal(pixels[inside][:, :3], palette[codes[inside]][:, :3])
        assert set(np.unique(pixels[inside][:, 3])) <= {45}
        assert np.array_equal(pixels[lines > 0], palette[lines[lines > 0]])
        assert not pixels[(codes == 0) & (lines == 0) & (dots == 0)].any(), "transparent where there is none"
        seen += int(inside.sum())
    assert seen > 10_000


def test_a_picture_of_nothing_is_transparent(slide: Slide) -> None:
    source = RegionsSource(slide, raster_of([]), palette_of(CLASSES, CLASSES.names))
    assert not any(source.load(tile).any() for tile in all_tiles(source))
    source.close()


def test_a_change_draws_anew(source: RegionsSource) -> None:
    tile = all_tiles(source)[0]
    before, key = source.load(tile).copy(), source.key
    source.change(palette=palette_of(ClassTable((RegionClass("tumour", (1, 2, 3)),)), CLASSES.names))
    assert source.key != key
    after = source.load(tile)
    assert (after == (1, 2, 3, 255)).all(-1).any()
    assert not (before == (1, 2, 3, 255)).all(-1).any()
    source.change(raster=raster_of([]))
    assert not source.load(tile).any()


def test_a_hidden_class_is_transparent_and_an_unknown_one_grey() -> None:
    table = ClassTable((RegionClass("a", RED, "", False), RegionClass("b", GREEN)))
    palette = palette_of(table, ("a", "b", "gone"))
    assert palette.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [*GREEN, 255], [128, 128, 128, 255]]


# Regions of a slide


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty regions are many: what happens at the threshold is the same, and quicker."""
    monkeypatch.setattr(_slide_regions, "MANY", LIMIT)


@pytest.fixture
def shown(hand: Hand, slide: Slide) -> Any:
    return hand.show(slide)


@pytest.fixture
def many(qtbot: Any, window: Any, shown: Any, limit: None, slide: Slide) -> SlideRegions:
    """300 regions of the slide in the window, 60 being many."""
    regions = session_of(window).regions_of(slide)
    regions.apply("Import", nuclei(300), classes=CLASSES)
    settle(qtbot, window, regions)
    return regions


def settle(qtbot: Any, window: Any, regions: SlideRegions) -> None:
    settled(qtbot, regions)
    qtbot.waitUntil(
        lambda: all(is_settled(layer) for layer in pictures(window) if layer.visible), timeout=20_000
    )


def pictures(window: Any) -> list[Any]:
    return [v for v in window.layers if v.metadata.get(KEY, {}).get("role") == "regions raster"]


def shapes(window: Any) -> list[Any]:
    return [v for v in window.layers if v.metadata.get(KEY, {}).get("role") == "regions"]


def color_at(window: Any, hand: Hand, place: tuple[float, float]) -> np.ndarray:
    pixels = window.screenshot(canvas_only=True, flash=False)
    at = hand.at(place)
    ratio = pixels.shape[1] / hand.canvas.width()
    return pixels[round(at.y() * ratio), round(at.x() * ratio), :3].astype(int)


@pytest.mark.gui
def test_more_than_5000_regions_are_a_picture_and_an_empty_layer(
    qtbot: Any, window: Any, shown: Any, slide: Slide
) -> None:
    regions = session_of(window).regions_of(slide)
    cells = [
        Region(f"c{i}", "tumour", Polygon([(x, y), (x + 5, y), (x, y + 5)]))
        for i, (x, y) in enumerate((7 * (i % 100), 7 * (i // 100)) for i in range(MANY + 1))
    ]
    regions.apply("Import", cells, classes=CLASSES)
    settle(qtbot, window, regions)
    assert regions.is_many
    (picture,), (layer,) = pictures(window), shapes(window)
    assert picture.name == "5,001 regions of tiny.tiff"
    assert len(layer.data) == 0
    assert window.layers.index(picture) < window.layers.index(layer)
    assert np.asarray(picture.data[-1])[..., 3].any()
    regions.apply("Delete", remove=["c0"])
    settle(qtbot, window, regions)
    assert pictures(window) == []
    assert len(shapes(window)[0].data) == MANY


@pytest.mark.gui
def test_a_click_makes_a_region_editable_and_it_is_put_back(
    qtbot: Any, window: Any, hand: Hand, many: SlideRegions
) -> None:
    _, dock = window.window.add_plugin_dock_widget("napari-histolatent", "Regions")
    qtbot.wait(100)
    dock.binding.use_tool("pick")
    hand.click((10 + 30 * 5 + 12, 10 + 30 * 4 + 12))
    settle(qtbot, window, many)
    own = f"n{4 * 24 + 5}"
    assert many.shapes is not None
    assert many.shapes.ids == (own,)
    assert many.n_editable == 1
    assert "299 regions of" in pictures(window)[0].name or len(many._raster_ids) == 299
    qtbot.waitUntil(lambda: many.selected == (own,), timeout=3000)
    dock.put_back_button.click()
    settle(qtbot, window, many)
    assert many.n_editable == 0
    assert len(shapes(window)[0].data) == 0
    assert len(many._raster_ids) == 300


@pytest.mark.gui
def test_those_in_view_become_editable_and_what_is_changed_is_true(
    qtbot: Any, window: Any, many: SlideRegions
) -> None:
    assert many.edit_in((0.0, 0.0, 95.0, 60.0)) == 6
    settle(qtbot, window, many)
    assert many.shapes is not None
    assert set(many.shapes.ids) == {"n0", "n1", "n2", "n24", "n25", "n26"}
    many.shapes.layer.selected_data = {many.shapes.ids.index("n1")}
    many.shapes.layer.remove_selected()
    assert "n1" not in many.document.regions
    assert many.region_at((52, 22)) is None
    many.undo()
    settle(qtbot, window, many)
    assert many.region_at((52, 22)) == "n1"
    assert many.region_at((712, 22)) == "n23"
    many.put_back()
    settle(qtbot, window, many)
    assert many.shapes.layer is not shapes(window)[0] or many.shapes.ids == ()
    assert len(many._raster_ids) == 300


@pytest.mark.gui
def test_too_many_cannot_be_edited_at_once(many: SlideRegions) -> None:
    with pytest.raises(AnnotationError, match="too many to be edited at once"):
        many.edit(f"n{i}" for i in range(LIMIT + 1))
    assert many.n_editable == 0


@pytest.mark.gui
def test_undo_crosses_the_threshold_both_ways(
    qtbot: Any, window: Any, shown: Any, limit: None, slide: Slide
) -> None:
    regions = session_of(window).regions_of(slide)
    few, more = nuclei(LIMIT), nuclei(LIMIT + 40)[LIMIT:]
    regions.apply("Draw", few, classes=CLASSES)
    settle(qtbot, window, regions)
    assert (len(pictures(window)), len(shapes(window)[0].data)) == (0, LIMIT)
    regions.apply("More", more)
    settle(qtbot, window, regions)
    assert len(pictures(window)) == 1
    for _ in range(2):
        regions.undo()
        settle(qtbot, window, regions)
        assert (len(pictures(window)), len(shapes(window)[0].data)) == (0, LIMIT)
        assert len(shapes(window)) == 1
        regions.redo()
        settle(qtbot, window, regions)
        assert (len(pictures(window)), len(shapes(window))) == (1, 1)
        assert len(shapes(window)[0].data) + len(regions._raster_ids) == LIMIT + 40


@pytest.mark.gui
def test_colours_and_visibility_are_painted_at_once(
    qtbot: Any, window: Any, hand: Hand, many: SlideRegions
) -> None:
    for layer in list(window.layers):
        if layer.metadata.get(KEY, {}).get("role") in ("slide", "overview"):
            layer.visible = False
    settle(qtbot, window, many)
    tumour, normal = (22.0, 22.0), (52.0, 22.0)
    before = color_at(window, hand, tumour)
    assert before[0] > before[2] > before[1] or before[0] > before[1], "red"
    many.document.set_class(RegionClass("tumour", (0, 0, 255), "1"))
    settle(qtbot, window, many)
    qtbot.waitUntil(lambda: bool(np.argmax(color_at(window, hand, tumour)) == 2), timeout=5000)
    green = color_at(window, hand, normal)
    many.document.set_class(RegionClass("tumour", (0, 0, 255), "1", False))
    settle(qtbot, window, many)
    qtbot.waitUntil(
        lambda: bool(color_at(window, hand, tumour).max() == color_at(window, hand, (5, 5)).max()),
        timeout=5000,
    )
    assert np.array_equal(color_at(window, hand, normal), green)
    assert many.region_at(tumour) is None, "what is hidden is not picked"


@pytest.mark.gui
def test_a_picture_that_the_user_removes_loses_no_region(qtbot: Any, window: Any, many: SlideRegions) -> None:
    window.layers.remove(pictures(window)[0])
    assert len(many.document.regions) == 300
    many.apply("Draw", [Region("new", "tumour", box(700, 600, 720, 620))])
    settle(qtbot, window, many)
    assert len(pictures(window)) == 1
    assert many.shapes is not None
    assert many.shapes.ids == ("new",)
