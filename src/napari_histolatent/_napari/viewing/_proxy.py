"""The arrays that a slide's layer is made of. They answer napari's own request with the view's frame, others exactly."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._napari.viewing._pyramid import TILE_PX
from napari_histolatent._napari.viewing._view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent._napari.viewing._pyramid import Box
    from napari_histolatent._napari.viewing._source import SlideSource
    from napari_histolatent.slides import Slide


class DisplayLevelArray:
    """One display level of a slide: shape (height, width, 4), uint8, RGBA; alpha is 0 beyond the slide's edges.

    Its sizes are those of the slide padded to a multiple of the coarsest downsample.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, view: View, level: int) -> None:
        self.view, self.level = view, level
        size = view.source.levels[level]
        self.shape = (size.height_px, size.width_px, 4)
        # napari widens what it asks for to whole chunks: a view that moves a little then asks for nothing.
        # Half a tile: what is asked for is handed to the graphics card whole.
        self.chunks = (TILE_PX // 2, TILE_PX // 2, 4)

    @property
    def slide(self) -> Slide:
        """The slide, for exact reads."""
        return self.view.source.slide

    @property
    def downsample(self) -> int:
        """Level-0 pixels per pixel."""
        return self.view.source.levels[self.level].downsample

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        rows, columns, channels = _whole_key(key)
        (top, bottom, step_y), (left, right, step_x) = (
            _extent(k, n) for k, n in zip((rows, columns), self.shape[:2], strict=True)
        )
        box = (top, bottom, left, right)
        if bottom <= top or right <= left:
            pixels = np.empty((max(0, bottom - top), max(0, right - left), 4), np.uint8)
        else:
            pixels = self._pixels(box)
        return np.asarray(pixels[step_y, step_x, channels])

    def _pixels(self, box: Box) -> NDArray[np.uint8]:
        if self.view.is_own_request(self.level, box):
            return self.view.show(self.level, box)
        if _napari_asks() and self.view.is_let_pass():
            return np.zeros((box[1] - box[0], box[3] - box[2], 4), np.uint8)
        return self.read_exact(box)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        height, width = self.shape[:2]
        return np.asarray(self.read_exact((0, height, 0, width)), dtype=dtype)

    def read_exact(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of (top, bottom, left, right) exactly, however long that takes; see `SlideSource`."""
        return self.view.source.read_exact(self.level, box)


class CoarsestLevelArray(DisplayLevelArray):
    """The coarsest level: in memory whole, and what napari keeps of it is the thing itself, as it fills."""

    def _pixels(self, box: Box) -> NDArray[np.uint8]:
        if not self.view.is_own_request(self.level, box):
            return self.read_exact(box)
        top, bottom, left, right = box
        return self.view.source.overview[top:bottom, left:right]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if not _napari_asks():
            return super().__array__(dtype, copy)
        return np.array(self.view.source.overview, dtype=dtype, copy=copy)


def levels_of(source: SlideSource) -> list[DisplayLevelArray]:
    """Return the data of a multiscale layer, finest level first, with a view of its own."""
    view = View(source)
    return [
        *(DisplayLevelArray(view, i) for i in range(source.coarsest)),
        CoarsestLevelArray(view, source.coarsest),
    ]


def _napari_asks() -> bool:
    """Return whether it is napari's own slicing that called the caller of the caller.

    Only for what cannot be told by the layer: one that is being added, and the level that napari keeps.
    """
    for depth in (2, 3):
        if str(sys._getframe(depth).f_globals.get("__name__", "")).startswith("napari.layers."):
            return True
    return False


def _whole_key(key: Any) -> tuple[Any, Any, Any]:
    """Return an index as one of rows, columns and channels."""
    keys = key if isinstance(key, tuple) else (key,)
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys = keys[:at] + (slice(None),) * (3 - len(keys) + 1) + keys[at + 1 :]
    keys = keys + (slice(None),) * (3 - len(keys))
    return keys[0], keys[1], keys[2]


def _extent(key: Any, length: int) -> tuple[int, int, Any]:
    """Return (start, stop) of what has to be read for one axis, and the index into that."""
    if isinstance(key, slice):
        indices = range(*key.indices(length))
        if not indices:
            return 0, 0, slice(None)
        low, high = min(indices[0], indices[-1]), max(indices[0], indices[-1])
        return low, high + 1, slice(None, None, indices.step) if indices.step != 1 else slice(None)
    index = range(length)[int(key)]
    return index, index + 1, 0
