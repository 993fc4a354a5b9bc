"""The tissue mask as a layer that is edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari._layers import KEY, slide_layers
from napari_histolatent._napari.patches import GridPreview, MaskLayer, picture_of_grid
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide
    from tests._napari.patches.conftest import Canvas


class Mask:
    """What is needed of a tissue mask."""

    def __init__(self, mask: np.ndarray, downsample: tuple[float, float]) -> None:
        self.mask, self.downsample = mask, downsample


def mask_of(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (40, 60)) -> Any:
    """Return a mask of a slide of 600 x 400 px: tissue in boxes (left, top, right, bottom) of mask pixels."""
    mask = np.zeros(shape, bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return Mask(mask, (600 / shape[1], 400 / shape[0]))


@pytest.fixture
def shown(viewer: Any, plain: Callable[..., Slide]) -> Slide:
    slide = plain()
    for layer in slide_layers(slide):
        add(viewer, layer)
    return slide


def masks(viewer: Any) -> list[Any]:
    return [v for v in viewer.layers if v.metadata.get(KEY, {}).get("role") == "tissue"]


def test_the_mask_lies_above_its_slide_and_below_the_grid(viewer: Any, shown: Slide, qtbot: Any) -> None:
    active = viewer.layers.selection.active
    grid = GridPreview(viewer, shown)
    one = np.array([0])
    grid.show(
        picture_of_grid(
            one,
            one,
            (2, 2),
            np.full((1, 4), 9, np.uint8),
            first_xy=(0, 0),
            size_xy=(50, 50),
            stride_xy=(50, 50),
        )
    )
    layer = MaskLayer(viewer, shown)
    assert layer.edited() is None
    layer.show(mask_of((5, 5, 20, 20)))
    assert [v.metadata[KEY]["role"] for v in viewer.layers] == ["overview", "slide", "tissue", "grid"]
    assert viewer.layers.selection.active is active
    assert layer.layer.name == "tissue of a.tiff"
    assert layer.layer.selected_label == 1
    layer.close()
    grid.close()
    assert len(viewer.layers) == 2


def test_what_the_user_paints_erases_and_undoes_is_told(viewer: Any, shown: Slide, qtbot: Any) -> None:
    told: list[Any] = []
    layer = MaskLayer(viewer, shown, on_edited=lambda: told.append(layer.edited()))
    mask = mask_of((5, 5, 20, 20))
    layer.show(mask)
    assert layer.edited() is None
    labels = layer.layer
    labels.brush_size = 5
    labels.paint((30, 40), 1)
    qtbot.waitUntil(lambda: len(told) == 1, timeout=2000)
    now = layer.edited()
    assert now is not None
    assert now.dtype == bool
    assert now[30, 40]
    assert not mask.mask[30, 40], "what was handed in is not written to"
    assert now[:25, :25].sum() == 15 * 15
    labels.paint((10, 10), 0)
    labels.paint((30, 50), 7)
    qtbot.waitUntil(lambda: len(told) == 2, timeout=2000)
    now = layer.edited()
    assert now is not None
    assert not now[10, 10]
    assert now[30, 50], "whatever number is painted is tissue"
    for _ in range(3):
        labels.undo()
    qtbot.waitUntil(lambda: len(told) == 3, timeout=2000)
    assert told[-1] is None
    assert layer.edited() is None
    labels.refresh()
    qtbot.wait(250)
    assert len(told) == 3, "what changes nothing is not told"
    layer.close()


def test_another_mask_takes_the_edits_and_their_history_away(viewer: Any, shown: Slide, qtbot: Any) -> None:
    layer = MaskLayer(viewer, shown)
    layer.show(mask_of((5, 5, 20, 20)))
    labels = layer.layer
    labels.mode = "paint"
    labels.paint((10, 35), 1)
    assert layer.edited() is not None
    # Tissue where it was painted: an undo of that stroke would make a hole.
    layer.show(mask_of((30, 5, 40, 20)))
    assert layer.layer is labels
    assert layer.edited() is None
    assert labels.data.sum() == 10 * 15
    assert labels.mode == "paint"
    assert labels.editable
    labels.undo()
    assert layer.edited() is None
    # Of another size: a layer of its own.
    layer.show(mask_of((5, 5, 20, 20), shape=(80, 120)))
    assert len(masks(viewer)) == 1
    assert layer.layer.data.shape == (80, 120)
    layer.layer.paint((70, 70), 1)
    assert layer.edited() is not None
    layer.remove()
    assert layer.edited() is None


def test_edits_outlast_a_deleted_layer(viewer: Any, shown: Slide, qtbot: Any) -> None:
    layer = MaskLayer(viewer, shown)
    mask = mask_of((5, 5, 20, 20))
    layer.show(mask)
    layer.layer.paint((30, 40), 1)
    viewer.layers.remove(layer.layer)
    edited = layer.edited()
    assert edited is not None
    assert edited[30, 40]
    layer.show(mask)
    assert len(masks(viewer)) == 1
    assert layer.edited() is None
    viewer.layers.remove(viewer.layers["a.tiff"])
    qtbot.waitUntil(lambda: masks(viewer) == [], timeout=2000)
    layer.show(mask)
    assert masks(viewer) == []
    layer.close()


@pytest.mark.gui
def test_the_mask_covers_the_tissue_exactly(canvas: Canvas, plain: Callable[..., Slide], qtbot: Any) -> None:
    white = (255, 255, 255)
    # Mask pixels of 10 x 10 level-0 px: columns 12 to 29, rows 7 to 15.
    slide = plain("a", {(120, 70, 300, 160): white})
    canvas.show(slide)
    layer = MaskLayer(canvas.viewer, slide)
    before = (canvas.see() == 255).all(axis=-1)
    layer.show(mask_of((12, 7, 30, 16)))
    pixels = canvas.see()
    red, green, blue = np.moveaxis(pixels, -1, 0)
    greener = (green - np.maximum(red, blue) > 5) & (green > 60)
    rows, columns = (np.flatnonzero(before.any(axis=axis)) for axis in (1, 0))
    at_rows, at_columns = (np.flatnonzero(greener.any(axis=axis)) for axis in (1, 0))
    assert np.abs(rows[[0, -1]] - at_rows[[0, -1]]).max() <= 1
    assert np.abs(columns[[0, -1]] - at_columns[[0, -1]]).max() <= 1
    # Green at 40 % over white, and nothing over the rest.
    wanted = 0.6 * 255 + 0.4 * 255 * np.array([0.05, 0.8, 0.3])
    assert canvas.color_at((210, 115), pixels) == pytest.approx(wanted, abs=3)
    assert canvas.color_at((400, 300), pixels) == pytest.approx([128] * 3, abs=2)
    # With the brush, by hand.
    canvas.viewer.layers.selection.active = layer.layer
    layer.layer.mode, layer.layer.brush_size = "paint", 4
    canvas.drag([(400, 300), (430, 300)])
    edited = layer.edited()
    assert edited is not None
    assert edited[29:31, 40:43].all()
    assert canvas.color_at((415, 300))[1] > 133
    layer.close()
