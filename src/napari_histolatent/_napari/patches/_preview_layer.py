"""The patches of a grid over their slide, in class colours: a picture with a cell for each position.

A million patches as shapes or points would hold the UI thread for seconds. As the grid is regular it is a picture,
drawn in a thread and handed to napari whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image

from napari_histolatent._napari._layers import placement
from napari_histolatent._napari.patches._overlay import Overlay
from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

MAX_SIDE_PX = 8192
"""Longest side of a picture: every graphics card that napari runs on has textures of this size."""

_CELL_PX = ((1_250, 32), (5_000, 16), (20_000, 8))
"""So many cells at most are drawn so large: together 1.3 million pixels, which are shown in no time."""
_LEAST_BORDERED_PX = 4
_BORDER_SHADE = 0.55
_OPACITY = 0.45


@dataclass(frozen=True)
class GridPicture:
    """A grid as a picture, and where it lies on the slide."""

    pixels: NDArray[np.uint8]
    """RGBA, shape (rows * cell_px, columns * cell_px, 4); transparent where there is no patch."""
    origin_xy: tuple[float, float]
    """Top-left corner of cell (0, 0), in continuous level-0 pixels."""
    cell_xy: tuple[float, float]
    """Level-0 pixels per cell, (x, y)."""
    cell_px: int
    """Pixels of the picture per cell."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the grid."""
        return self.pixels.shape[0] // self.cell_px, self.pixels.shape[1] // self.cell_px

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in level-0 pixels."""
        (left, top), (width, height), (rows, columns) = self.origin_xy, self.cell_xy, self.shape
        return left, top, left + columns * width, top + rows * height


def cell_px_for(shape: tuple[int, int]) -> int:
    """Return how many pixels wide a cell of a grid of this shape (rows, columns) is best drawn.

    Few cells get room for a border, so that single patches can be told apart, and the fewer the finer; many get
    a pixel each.
    """
    for most, cell_px in _CELL_PX:
        if shape[0] * shape[1] <= most and max(shape) * cell_px <= MAX_SIDE_PX:
            return cell_px
    return 1


def grid_picture(
    columns: NDArray[np.integer[Any]],
    rows: NDArray[np.integer[Any]],
    shape: tuple[int, int],
    colors: NDArray[np.uint8],
    cell_px: int,
) -> NDArray[np.uint8]:
    """Return the picture of a grid. Pure; for a worker thread.

    Parameters
    ----------
    columns, rows
        Position of each patch in the grid, integers from 0, shape (n,). Of two at one position the later counts.
    shape
        (rows, columns) of the grid.
    colors
        RGBA of each patch, shape (n, 4).
    cell_px
        Pixels per cell, across and down. From 4 on a cell has a border of 1 px in a darker shade.

    Returns
    -------
    numpy.ndarray
        uint8, RGBA, shape (rows * cell_px, columns * cell_px, 4); transparent where there is no patch.

    Raises
    ------
    DatasetError
        If the picture would be larger than a graphics card takes.
    ValueError
        If the grid has no cell, or a patch lies outside.
    """
    n_rows, n_columns = shape
    if min(n_rows, n_columns, cell_px) < 1:
        msg = f"a grid of {n_rows} x {n_columns} cells of {cell_px} px has no picture"
        raise ValueError(msg)
    if max(n_rows, n_columns) * cell_px > MAX_SIDE_PX:
        msg = (
            f"A grid of {n_columns:,} x {n_rows:,} patches cannot be shown: at {cell_px} px a patch its picture is wider "
            f"or higher than {MAX_SIDE_PX:,} px; choose a larger stride or a coarser mpp."
        )
        raise DatasetError(msg)
    for name, values, end in (("column", columns, n_columns), ("row", rows, n_rows)):
        if len(values) and (values.min() < 0 or values.max() >= end):
            msg = f"{name} {values.min()} to {values.max()} of a grid with {end}"
            raise ValueError(msg)
    # Four bytes as one number: a cell is then filled in one go.
    packed = np.ascontiguousarray(colors, np.uint8).reshape(-1, 4).view(np.uint32)[:, 0]
    cells = np.zeros((n_rows, n_columns), np.uint32)
    cells[rows, columns] = packed
    if cell_px == 1:
        return cells.view(np.uint8).reshape(n_rows, n_columns, 4)
    picture = np.empty((n_rows, cell_px, n_columns, cell_px), np.uint32)
    picture[:] = cells[:, None, :, None]
    if cell_px >= _LEAST_BORDERED_PX:
        shaded = cells.view(np.uint8).reshape(n_rows, n_columns, 4).copy()
        shaded[..., :3] = shaded[..., :3] * _BORDER_SHADE
        border = shaded.view(np.uint32)[..., 0]
        for edge in (0, cell_px - 1):
            picture[:, edge] = border[:, :, None]
            picture[:, :, :, edge] = border[:, None, :]
    return (
        picture.reshape(n_rows * cell_px, n_columns * cell_px)
        .view(np.uint8)
        .reshape(n_rows * cell_px, n_columns * cell_px, 4)
    )


def picture_of_grid(
    columns: NDArray[np.integer[Any]],
    rows: NDArray[np.integer[Any]],
    shape: tuple[int, int],
    colors: NDArray[np.uint8],
    *,
    first_xy: tuple[float, float],
    size_xy: tuple[float, float],
    stride_xy: tuple[float, float],
    cell_px: int | None = None,
) -> GridPicture:
    """Return a grid as a picture whose cells are centred on their patches. Pure; for a worker thread.

    A cell is one stride wide: with a stride of more than a patch it holds the gap too, with less only the middle
    of the patch.

    Parameters
    ----------
    columns, rows, shape, colors
        As `grid_picture` takes them.
    first_xy
        Top-left corner of the patch at column 0, row 0, in level-0 pixels.
    size_xy
        Size of a patch, (width, height) in level-0 pixels.
    stride_xy
        Step of the grid, (x, y) in level-0 pixels.
    cell_px
        Pixels per cell; None: as `cell_px_for` says.
    """
    cell_px = cell_px or cell_px_for(shape)
    left, top = (first_xy[i] + (size_xy[i] - stride_xy[i]) / 2 for i in (0, 1))
    return GridPicture(grid_picture(columns, rows, shape, colors, cell_px), (left, top), stride_xy, cell_px)


def cell_at(picture: GridPicture, level0_xy: tuple[float, float]) -> tuple[int, int] | None:
    """Return (column, row) of the cell at a level-0 point, or None beside the grid. The cell may be empty."""
    column, row = (math.floor((level0_xy[i] - picture.origin_xy[i]) / picture.cell_xy[i]) for i in (0, 1))
    n_rows, n_columns = picture.shape
    return (column, row) if 0 <= column < n_columns and 0 <= row < n_rows else None


def box_of(picture: GridPicture, column: int, row: int) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of a cell in level-0 pixels."""
    (left, top), (width, height) = picture.origin_xy, picture.cell_xy
    return left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height


def centre_of(picture: GridPicture, column: int, row: int) -> tuple[float, float]:
    """Return the centre of a cell, which is that of its patch, in level-0 pixels (x, y)."""
    left, top, right, bottom = box_of(picture, column, row)
    return (left + right) / 2, (top + bottom) / 2


class GridPreview:
    """Shows the grid of a slide, and swaps its picture in place while sliders move. For the UI thread."""

    def __init__(self, viewer: Any, slide: Slide) -> None:
        self._slide = slide
        self._overlay = Overlay(viewer, slide, role="grid", above=("overview", "slide", "tissue"))
        self._is_hidden = self._is_extent_old = False
        self._picture: GridPicture | None = None

    @property
    def layer(self) -> Any:
        """The napari layer, or None while there is none."""
        return self._overlay.layer

    @property
    def picture(self) -> GridPicture | None:
        """What is shown, or None."""
        return self._picture if self.layer is not None and not self._is_hidden else None

    def show(self, picture: GridPicture, *, is_passing: bool = False) -> None:
        """Show a grid in place of the one before; nothing, if the slide is gone.

        A layer that the user deleted is made anew, one whose eye the user closed stays so. With `is_passing` another
        picture follows in a moment: what only the list of layers shows is left for that.
        """
        if not self._overlay.is_slide_there:
            return
        info = self._slide.info
        place = placement(picture.box, picture.pixels.shape, info)
        self._picture = picture
        layer = self.layer
        if layer is None:
            self._is_hidden = False
            self._overlay.put(
                Image(
                    picture.pixels.copy(),
                    name=f"patches of {info.path.name}",
                    rgb=True,
                    contrast_limits=(0, 255),
                    opacity=_OPACITY,
                    interpolation2d="nearest",
                    metadata=self._overlay.metadata,
                    **place,
                )
            )
            return
        is_seen = layer.visible or self._is_hidden
        self._is_hidden = False
        is_there = all(np.array_equal(getattr(layer, name), place[name]) for name in ("scale", "translate"))
        if is_there and layer.visible and layer.data.shape == picture.pixels.shape:
            # The layer's own array: nobody but the canvas needs to hear of it.
            np.copyto(layer.data, picture.pixels)
            layer.refresh(
                extent=self._is_extent_old and not is_passing, thumbnail=not is_passing, highlight=False
            )
            self._is_extent_old = self._is_extent_old and is_passing
            return
        # Each of these makes napari slice, draw and look at all layers anew, but for a layer that is not seen: so all
        # of it is done at once when the layer is seen again. How far all layers reach together is looked at with the
        # next picture.
        with layer.events.blocker_all():
            layer.visible = False
            layer.data = picture.pixels.copy()
            for name in ("scale", "translate"):
                setattr(layer, name, place[name])
        self._is_extent_old = True
        if is_seen:
            layer.visible = True

    def hide(self) -> None:
        """Show no grid; the layer stays, for making one takes napari longer than showing it."""
        layer = self.layer
        if layer is not None and layer.visible:
            self._is_hidden, layer.visible = True, False

    def remove(self) -> None:
        """Take the layer away."""
        self._picture, self._is_hidden = None, False
        self._overlay.remove()

    def close(self) -> None:
        """Take the layer away for good."""
        self._picture = None
        self._overlay.close()
