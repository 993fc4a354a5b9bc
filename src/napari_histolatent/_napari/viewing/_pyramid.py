"""A lazy pyramid of exact reads. The view that never blocks takes this module's place; the seam is `levels_of`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.slides import halving_downsamples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

COARSEST_PX = 1024
"""napari takes the coarsest level whole into memory, on its main thread: it is read before."""


class LevelArray:
    """One level of a slide at a whole downsample, read when it is indexed. Shape (height, width, 3), uint8."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, slide: Slide, downsample: int) -> None:
        self.slide = slide
        width, height = slide.info.width_px, slide.info.height_px
        self.shape = (max(1, round(height / downsample)), max(1, round(width / downsample)), 3)
        # napari places a level by the ratio of shapes: reading by the same ratio keeps levels from jumping.
        self._downsamples = (width / self.shape[1], height / self.shape[0])

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys = keys[:at] + (slice(None),) * (3 - len(keys) + 1) + keys[at + 1 :]
        keys = (*keys, *(slice(None),) * (3 - len(keys)))
        (top, bottom, rows), (left, right, columns) = (
            _extent(k, n) for k, n in zip(keys[:2], self.shape[:2], strict=True)
        )
        if bottom <= top or right <= left:
            pixels = np.empty((max(0, bottom - top), max(0, right - left), 3), np.uint8)
        else:
            pixels = self.slide.read_downsampled(
                (left * self._downsamples[0], top * self._downsamples[1]),
                size_px=(right - left, bottom - top),
                downsamples=self._downsamples,
            )
        return np.asarray(pixels[rows, columns, keys[2]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:, :, :], dtype=dtype)


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


def levels_of(slide: Slide) -> list[LevelArray | NDArray[np.uint8]]:
    """Return the pyramid of a slide, finest first, each level half the one before; the coarsest in memory."""
    downsamples = halving_downsamples(slide.info.width_px, slide.info.height_px, coarsest_px=COARSEST_PX)
    levels: list[LevelArray | NDArray[np.uint8]] = [LevelArray(slide, v) for v in downsamples[:-1]]
    return [*levels, np.asarray(LevelArray(slide, downsamples[-1]))]
