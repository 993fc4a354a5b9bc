"""The live grid: a picture with a cell for each patch, exactly over the patches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari._layers import KEY, placement, set_pixel_size, slide_layers
from napari_histolatent._napari.patches import (
    GridPicture,
    GridPreview,
    box_of,
    cell_at,
    cell_px_for,
    centre_of,
    grid_picture,
    picture_of_grid,
)
from napari_histolatent.errors import DatasetError
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide
    from tests._napari.patches.conftest import Canvas

RED, BLUE, DIM = (200, 20, 30, 255), (30, 60, 220, 255), (20, 220, 90, 40)
COLUMNS, ROWS = np.array([0, 2, 1]), np.array([0, 0, 1])
COLORS = np.array([RED, BLUE, DIM], np.uint8)


@pytest.mark.parametrize("cell_px", [1, 2, 4, 7])
def test_each_cell_has_the_colour_of_its_patch(cell_px: int) -> None:
    pixels = grid_picture(COLUMNS, ROWS, (2, 3), COLORS, cell_px)
    assert pixels.shape == (2 * cell_px, 3 * cell_px, 4)
    assert pixels.dtype == np.uint8
    wanted = {(0, 0): RED, (0, 2): BLUE, (1, 1): DIM}
    for row in range(2):
        for column in range(3):
            cell = pixels[row * cell_px : (row + 1) * cell_px, column * cell_px : (column + 1) * cell_px]
            color = wanted.get((row, column), (0, 0, 0, 0))
            inner = cell[1:-1, 1:-1] if cell_px >= 4 else cell
            assert (inner == color).all()


def test_a_border_is_darker_and_one_pixel_wide() -> None:
    pixels = grid_picture(COLUMNS, ROWS, (2, 3), COLORS, 8)
    border = np.ones((8, 8), bool)
    border[1:-1, 1:-1] = False
    red, dim = pixels[:8, :8], pixels[8:, 8:16]
    assert (red[border][:, 0] < 0.6 * RED[0]).all()
    assert (red[border][:, 3] == 255).all(), "a border is as opaque as its cell"
    assert (dim[border] == dim[0, 0]).all()
    assert (dim[border][:, 3] == DIM[3]).all()
    assert not pixels[:8, 8:16].any(), "where there is no patch there is no border"


def test_colours_that_are_a_view_and_an_empty_grid_are_drawn() -> None:
    reversed_view = COLORS[::-1]
    assert (grid_picture(COLUMNS, ROWS, (2, 3), reversed_view, 1)[0, 0] == DIM).all()
    none = np.empty(0, np.int64)
    assert not grid_picture(none, none, (2, 3), np.empty((0, 4), np.uint8), 8).any()


def test_a_grid_that_has_no_picture_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"9,000 x 2 patches cannot be shown.*larger stride"):
        grid_picture(COLUMNS, ROWS, (2, 9000), COLORS, 1)
    with pytest.raises(ValueError, match="0 x 3 cells"):
        grid_picture(COLUMNS, ROWS, (0, 3), COLORS, 1)
    with pytest.raises(ValueError, match="column 0 to 2 of a grid with 2"):
        grid_picture(COLUMNS, ROWS, (2, 2), COLORS, 1)
    with pytest.raises(ValueError, match="row -1 to 0"):
        grid_picture(COLUMNS, ROWS - 1, (2, 3), COLORS, 1)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((1, 1), 32),
        ((25, 50), 32),
        ((50, 100), 16),
        ((100, 200), 8),
        ((100, 201), 1),
        ((447, 447), 1),
        ((2, 400), 16),
        ((2, 1024), 8),
        ((2, 1025), 1),
    ],
)
def test_few_cells_are_large_and_no_picture_is_too_long(shape: tuple[int, int], wanted: int) -> None:
    assert cell_px_for(shape) == wanted


def picture_of(**changes: Any) -> GridPicture:
    place = {"first_xy": (30.0, 7.0), "size_xy": (64.0, 64.0), "stride_xy": (64.0, 64.0)}
    return picture_of_grid(COLUMNS, ROWS, (2, 3), COLORS, **(place | changes))


@pytest.mark.parametrize("stride", [(64.0, 64.0), (20.5, 16.25), (100.0, 90.0)])
def test_a_cell_is_centred_on_its_patch(stride: tuple[float, float]) -> None:
    picture = picture_of(stride_xy=stride)
    for column, row in ((0, 0), (2, 1)):
        # Patch (column, row) of the grid begins at first + number * stride.
        centre = (30 + column * stride[0] + 32, 7 + row * stride[1] + 32)
        assert centre_of(picture, column, row) == pytest.approx(centre)
        assert cell_at(picture, centre) == (column, row)
        left, top, right, bottom = box_of(picture, column, row)
        assert (right - left, bottom - top) == pytest.approx(stride)
        assert cell_at(picture, (left + 0.01, top + 0.01)) == (column, row)
        assert cell_at(picture, (right - 0.01, bottom - 0.01)) == (column, row)
    left, top, right, bottom = picture.box
    assert (right - left, bottom - top) == pytest.approx((3 * stride[0], 2 * stride[1]))
    for beside in ((left - 0.01, top), (left, top - 0.01), (right + 0.01, top), (left, bottom + 0.01)):
        assert cell_at(picture, beside) is None


# In a viewer


@pytest.fixture
def shown(viewer: Any, plain: Callable[..., Slide]) -> Slide:
    slide = plain()
    for layer in slide_layers(slide):
        add(viewer, layer)
    return slide


def grids(viewer: Any) -> list[Any]:
    return [v for v in viewer.layers if v.metadata.get(KEY, {}).get("role") == "grid"]


def test_the_layer_lies_above_its_slide_and_what_is_selected_stays(
    viewer: Any, shown: Slide, plain: Callable[..., Slide]
) -> None:
    regions = viewer.add_shapes(name="regions")
    for layer in slide_layers(plain("b")):
        add(viewer, layer)
    viewer.layers.selection.active = regions
    preview = GridPreview(viewer, shown)
    preview.show(picture_of())
    (layer,) = grids(viewer)
    assert viewer.layers.index(layer) == 2
    assert viewer.layers.selection.active is regions
    assert layer.name == "patches of a.tiff"
    assert layer.metadata[KEY] == {"role": "grid", "slide_digest": "a" * 64}
    preview.remove()
    assert grids(viewer) == []
    viewer.layers.selection = {viewer.layers[0], regions}
    preview.show(picture_of())
    assert set(viewer.layers.selection) == {viewer.layers[0], regions}
    viewer.layers.selection.clear()
    preview.remove()
    preview.show(picture_of())
    assert viewer.layers.selection.active is None


def test_another_picture_is_swapped_in_place(viewer: Any, shown: Slide) -> None:
    preview = GridPreview(viewer, shown)
    preview.show(picture_of())
    (layer,) = grids(viewer)
    layer.opacity = 0.9
    other = picture_of(stride_xy=(32.0, 32.0), cell_px=2)
    preview.show(other)
    assert grids(viewer) == [layer]
    assert np.array_equal(layer.data, other.pixels)
    assert layer.opacity == 0.9
    assert preview.picture is other
    # At the same place the colours alone are changed, nobody else's array with them.
    array, before = layer.data, other.pixels.copy()
    preview.show(replace(other, pixels=255 - other.pixels))
    assert layer.data is array
    assert np.array_equal(layer.data, 255 - before)
    assert np.array_equal(other.pixels, before)


def test_a_grid_of_another_size_is_drawn_once_and_lies_where_it_belongs(viewer: Any, shown: Slide) -> None:
    preview = GridPreview(viewer, shown)
    preview.show(picture_of())
    (layer,) = grids(viewer)
    drawn: list[Any] = []
    layer.events.set_data.connect(lambda _: drawn.append(layer.scale.copy()))
    far = picture_of(stride_xy=(64.0, 64.0))
    _ = layer.extent, viewer.layers.extent
    preview.show(far)
    wanted = placement(far.box, far.pixels.shape, shown.info)
    assert len(drawn) == 1
    assert np.allclose(drawn[0], wanted["scale"])
    assert np.allclose(layer.translate, wanted["translate"])
    reach = np.array(wanted["translate"]) + (np.array(far.pixels.shape[:2]) - 1) * wanted["scale"]
    assert np.allclose(layer.extent.world[1], reach)
    preview.show(replace(far, pixels=far.pixels.copy()))
    assert np.all(viewer.layers.extent.world[1] >= reach)


def test_a_hidden_grid_comes_back_but_a_closed_eye_stays_closed(viewer: Any, shown: Slide) -> None:
    preview = GridPreview(viewer, shown)
    preview.hide()
    preview.show(picture_of())
    (layer,) = grids(viewer)
    preview.hide()
    assert not layer.visible
    assert preview.picture is None
    other = picture_of(stride_xy=(32.0, 32.0))
    preview.show(other)
    assert layer.visible
    assert np.array_equal(layer.data, other.pixels)
    layer.visible = False
    preview.show(picture_of())
    preview.hide()
    preview.show(picture_of())
    assert not layer.visible


def test_a_deleted_layer_is_made_anew(viewer: Any, shown: Slide) -> None:
    preview = GridPreview(viewer, shown)
    preview.show(picture_of())
    viewer.layers.remove(preview.layer)
    assert preview.layer is None
    preview.hide()
    preview.show(picture_of())
    assert len(grids(viewer)) == 1


def test_the_grid_goes_with_its_slide_and_only_with_that(
    qtbot: Any, viewer: Any, shown: Slide, plain: Callable[..., Slide]
) -> None:
    other = plain("b")
    for layer in slide_layers(other):
        add(viewer, layer)
    previews = [GridPreview(viewer, slide) for slide in (shown, other)]
    for preview in previews:
        preview.show(picture_of())
    viewer.layers.remove(viewer.layers["b.tiff"])
    qtbot.waitUntil(lambda: len(grids(viewer)) == 1, timeout=2000)
    assert previews[0].layer is not None
    previews[1].show(picture_of())
    assert previews[1].layer is None, "there is nothing to show it on"
    previews[0].close()
    assert grids(viewer) == []


def test_a_slide_that_is_moved_in_the_list_keeps_its_grid(qtbot: Any, viewer: Any, shown: Slide) -> None:
    preview = GridPreview(viewer, shown)
    preview.show(picture_of())
    viewer.layers.move(1, 3)
    qtbot.wait(20)
    assert preview.layer is not None


def test_a_proxy_of_the_viewer_will_do(proxy: Any, viewer: Any, shown: Slide) -> None:
    preview = GridPreview(proxy, shown)
    preview.show(picture_of())
    preview.show(picture_of(stride_xy=(32.0, 32.0)))
    assert len(grids(viewer)) == 1


def covered(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.asarray(np.abs(pixels - color).max(axis=-1) < 12)


@pytest.mark.gui
def test_a_cell_covers_the_pixels_of_its_patch_exactly(canvas: Canvas, plain: Callable[..., Slide]) -> None:
    white, red = (255, 255, 255), (255, 0, 0)
    # Patch (4, 3) of a grid of 37 px from (11, 5), as pixels of the slide.
    left, top = 11 + 4 * 37, 5 + 3 * 37
    slide = plain("a", {(left, top, left + 37, top + 37): white})
    canvas.show(slide)
    viewer, camera = canvas.viewer, canvas.viewer.scene.camera
    preview = GridPreview(viewer, slide)
    camera.center = (0.0, (top + 20) * 0.2491, (left + 15) * 0.2527)
    for zoom, cell_px in ((13.7, 1), (31.3, 8)):
        camera.zoom = zoom
        preview.hide()
        before = covered(canvas.see(), white)
        assert before.sum() == pytest.approx(37 * 37 * 0.2527 * 0.2491 * zoom**2, rel=0.03)
        picture = picture_of_grid(
            np.array([4]),
            np.array([3]),
            (8, 9),
            np.array([[255, 0, 0, 255]], np.uint8),
            first_xy=(11, 5),
            size_xy=(37, 37),
            stride_xy=(37, 37),
            cell_px=cell_px,
        )
        preview.show(picture)
        preview.layer.opacity = 1
        after = canvas.see()
        reds = (after[..., 0] > 60) & (after[..., 1] < 12)
        # Both are drawn by the nearest pixel; floats may fall on either side of a canvas pixel's centre.
        assert not covered(after, white).any() or covered(after, white).sum() <= before.any(axis=0).sum()
        assert (reds ^ before).sum() <= 2 * before.any(axis=0).sum()
        rows, columns = (np.flatnonzero(before.any(axis=axis)) for axis in (1, 0))
        red_rows, red_columns = (np.flatnonzero(reds.any(axis=axis)) for axis in (1, 0))
        assert np.abs(rows[[0, -1]] - red_rows[[0, -1]]).max() <= 1
        assert np.abs(columns[[0, -1]] - red_columns[[0, -1]]).max() <= 1
        at = canvas.color_at((left + 18.5, top + 18.5), after)
        assert (at == red).all()


@pytest.mark.gui
def test_grids_of_two_slides_are_seen_with_the_tissue_through_them(
    canvas: Canvas, plain: Callable[..., Slide]
) -> None:
    viewer = canvas.viewer
    slides = [plain(name) for name in "ab"]
    for slide in slides:
        canvas.show(slide)
    previews = [GridPreview(viewer, slide) for slide in slides]
    pictures = []
    for preview, color in zip(previews, (RED, BLUE), strict=True):
        colors = np.array([color, (*color[:3], 60)], np.uint8)
        picture = picture_of_grid(
            np.array([1, 3]),
            np.array([1, 1]),
            (4, 6),
            colors,
            first_xy=(0, 0),
            size_xy=(80, 80),
            stride_xy=(100, 100),
        )
        pictures.append(picture)
        preview.show(picture)
    grey = np.array([128, 128, 128])
    # Cell (1, 1) is centred at (140, 140), cell (3, 1) at (340, 140).
    for top, seen in ((1, BLUE), (0, RED)):
        pixels = canvas.see()
        whole = canvas.color_at((140, 140), pixels)
        assert whole == pytest.approx(0.55 * grey + 0.45 * np.array(seen[:3]), abs=3)
        dim = canvas.color_at((340, 140), pixels)
        alpha = 0.45 * 60 / 255
        assert dim == pytest.approx((1 - alpha) * grey + alpha * np.array(seen[:3]), abs=3)
        assert canvas.color_at((240, 140), pixels) == pytest.approx(grey, abs=2)
        for layer in list(viewer.layers):
            ours = layer.metadata[KEY]
            if top == 1 and slides[1].info.digest in (ours.get("digest"), ours.get("slide_digest")):
                viewer.layers.remove(layer)
    # The user deletes the layer, and the next picture is seen again.
    viewer.layers.remove(previews[0].layer)
    assert canvas.color_at((140, 140)) == pytest.approx(grey, abs=2)
    previews[0].show(pictures[0])
    assert canvas.color_at((140, 140))[0] > 150


@pytest.mark.gui
def test_a_pixel_size_stated_later_leaves_the_grid_in_place(
    canvas: Canvas, plain: Callable[..., Slide]
) -> None:
    slide = plain()
    canvas.show(slide)
    preview = GridPreview(canvas.viewer, slide)
    picture = picture_of(size_xy=(100, 100), stride_xy=(100, 100))
    preview.show(picture)
    set_pixel_size(canvas.viewer, slide, 0.5)
    canvas.viewer.reset_view()
    for again in (False, True):
        if again:
            preview.show(picture)
        pixels = canvas.see()
        assert canvas.color_at((80, 57), pixels)[0] > 150
        assert canvas.color_at((180, 57), pixels) == pytest.approx([128] * 3, abs=2)
        left, top, right, _ = box_of(picture, 2, 0)
        assert canvas.color_at(((left + right) / 2, top + 50), pixels)[2] > 150
