from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from napari_histolatent.errors import SlideError
from napari_histolatent.slides._pyramid import best_level
from napari_histolatent.slides._resample import area_averaged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.slides._info import SlideInfo

_MAX_REGION_PX = 1 << 28
"""Pixels one call may return or read (268 million, 0.8 GB): more is a slip, and would take the process down."""


_MAX_ENLARGEMENT = 64
"""A resolution so many times finer than the slide's own holds nothing but repeated pixels."""

_BAND_PX = 1 << 26
"""Level-0 pixels read at once for a thumbnail."""


class SlideBackend(Protocol):
    """What a file format has to offer; `Slide` does the arithmetic above it."""

    @property
    def info(self) -> SlideInfo:
        """Facts of the file."""

    def read_level(
        self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels of one level, background colour outside the slide.

        Thread-safe. Level-0 (x, y) is level pixel (x, y) / downsample, to the nearest pixel where the format
        allows. Raises SlideError where the file cannot be decoded, is gone or was replaced.
        """

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels of an associated image named in `info.associated`."""

    def icc_profile(self) -> bytes | None:
        """Return the colour profile of the pixels, where the file has one."""

    def close(self) -> None:
        """Release the file; a later read opens it again."""


class Slide:
    """A whole-slide image with exact reads; thread-safe, and picklable (it reopens by path).

    Coordinates are level-0 pixels, (x, y), of the top-left corner of a region; pixel i covers [i, i + 1).
    """

    def __init__(self, backend: SlideBackend, *, mpp: float | None = None, is_stored: bool = False) -> None:
        self._backend = backend
        self._stated_mpp: float | None = None
        self._is_stored = False
        self.info = backend.info
        if mpp is not None:
            self.state_mpp(mpp, is_stored=is_stored)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.info.location, self._stated_mpp, self._is_stored)

    def state_mpp(self, mpp: float, *, is_stored: bool = False) -> None:
        """Take `mpp` micrometres per level-0 pixel from now on; `is_stored`: from the user's data folder.

        Raises
        ------
        SlideError
            If it is not above 0.
        """
        # A whole new info at once: other threads read it.
        self.info = self._backend.info.with_mpp(mpp, is_stored=is_stored)
        self._stated_mpp, self._is_stored = mpp, is_stored

    def forget_mpp(self) -> None:
        """Go by the file's own pixel size again."""
        self.info, self._stated_mpp = self._backend.info, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; a later read opens it again."""
        self._backend.close()

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """Return an associated image (label, macro, thumbnail, ...): uint8, (height, width, 3), RGB.

        Raises
        ------
        SlideError
            If there is none of this name, or it cannot be decoded.
        """
        if name not in self.info.associated:
            known = ", ".join(self.info.associated) or "none"
            msg = f"{self.info.path.name} has no associated image named {name}; it has: {known}."
            raise SlideError(msg)
        return self._backend.read_associated(name)

    def icc_profile(self) -> bytes | None:
        """Return the ICC profile of the slide's pixels, or None; see `to_srgb_with`."""
        return self._backend.icc_profile()

    def read_level_px(
        self, level: int, level_xy: tuple[int, int], *, size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return pixels of one stored level, addressed in that level's own pixels (x, y).

        For display: OpenSlide is asked in whole level-0 pixels, so where a downsample is not whole (2.0005) it
        blends neighbours by up to half a level-0 pixel.
        """
        self._check_size(size_px)
        downsample = self.info.levels[level].downsample
        x, y = (round(v * downsample) for v in level_xy)
        return self._backend.read_level(level, (x, y), size_px)

    def downsamples_at(self, mpp: float) -> tuple[float, float]:
        """Return level-0 pixels per pixel, (x, y), of an image at `mpp` micrometres per pixel.

        Raises
        ------
        SlideError
            If the slide states no pixel size, or `mpp` is not above 0.
        """
        own = self.info.require_mpp()
        if not (math.isfinite(mpp) and mpp > min(own) / _MAX_ENLARGEMENT):
            msg = f"A resolution of {mpp:g} µm per pixel is not possible; the slide has {own[0]:g}; give a number such as 0.5."
            raise SlideError(msg)
        return mpp / own[0], mpp / own[1]

    def read_region(
        self,
        level0_xy: tuple[float, float],
        *,
        size_px: tuple[int, int],
        level: int | None = None,
        mpp: float | None = None,
    ) -> NDArray[np.uint8]:
        """Return exact pixels of a region, background colour where it leaves the slide.

        Parameters
        ----------
        level0_xy
            Top-left corner in level-0 pixels, (x, y).
        size_px
            (width, height) of the result, in its own pixels.
        level
            Read this level as it is stored (the corner is rounded to a whole level-0 pixel), or
        mpp
            resample to this many micrometres per pixel, by area averaging from the next finer level.

        Returns
        -------
        numpy.ndarray
            uint8, shape (height, width, 3), RGB.

        Raises
        ------
        SlideError
            If neither or both of `level` and `mpp` are given, the level does not exist, the slide states no
            pixel size, the size is not positive or too large for one call, or the file cannot be decoded.
        """
        if (level is None) == (mpp is None):
            msg = f"Give either a level or an mpp to read at, not level={level} with mpp={mpp}."
            raise SlideError(msg)
        self._check_size(size_px)
        if not all(math.isfinite(v) for v in level0_xy):
            msg = f"The corner {level0_xy} is not a place; give two numbers of level-0 pixels."
            raise SlideError(msg)
        if mpp is not None:
            return self.read_downsampled(level0_xy, size_px=size_px, downsamples=self.downsamples_at(mpp))
        if level is None or not 0 <= level < len(self.info.levels):
            msg = f"{self.info.path.name} has no level {level}; its levels are 0 to {len(self.info.levels) - 1}."
            raise SlideError(msg)
        x, y = (round(v) for v in level0_xy)
        return self._backend.read_level(level, (x, y), size_px)

    def read_downsampled(
        self,
        level0_xy: tuple[float, float],
        *,
        size_px: tuple[int, int],
        downsamples: tuple[float, float],
    ) -> NDArray[np.uint8]:
        """Return a region at `downsamples` (x, y) level-0 pixels per pixel; see `read_region`.

        Works without a pixel size. A downsample equal to a level's own at a whole pixel is that level's
        pixels unchanged; below 1 the finest pixels are repeated (area averaging of less than a pixel).
        """
        self._check_size(size_px)
        level = best_level([v.downsample for v in self.info.levels], min(downsamples))
        own = self.info.levels[level].downsample
        # The box to average, in pixels of the level that is read, and the whole pixels around it.
        left, top = level0_xy[0] / own, level0_xy[1] / own
        width, height = (size_px[i] * downsamples[i] / own for i in (0, 1))
        x, y = math.floor(left + 1e-6), math.floor(top + 1e-6)
        read = (math.ceil(left - x + width - 1e-6), math.ceil(top - y + height - 1e-6))
        self._check_size(read)
        pixels = self._backend.read_level(level, (round(x * own), round(y * own)), read)
        if read == size_px and abs(left - x) < 1e-6 and abs(top - y) < 1e-6:
            return pixels
        return area_averaged(pixels, (left - x, top - y), (width, height), size_px)

    def thumbnail(self, *, longest_px: int) -> tuple[NDArray[np.uint8], float]:
        """Return the whole slide at most `longest_px` on its longer side, and its downsample."""
        width, height = self.info.width_px, self.info.height_px
        downsample = max(1.0, max(width, height) / longest_px)
        size = (max(1, round(width / downsample)), max(1, round(height / downsample)))
        downsamples = (width / size[0], height / size[1])
        # In bands: a slide of one level is read whole for this, and may be larger than memory.
        rows = max(1, int(_BAND_PX / (width * downsamples[1])))
        bands = [
            self.read_downsampled(
                (0, row * downsamples[1]),
                size_px=(size[0], min(rows, size[1] - row)),
                downsamples=downsamples,
            )
            for row in range(0, size[1], rows)
        ]
        return np.concatenate(bands), downsample

    def _check_size(self, size_px: tuple[int, int]) -> None:
        width, height = size_px
        if width < 1 or height < 1:
            msg = f"A region of {width} x {height} px is empty; give a width and height of at least 1 px."
            raise SlideError(msg)
        if width * height > _MAX_REGION_PX:
            msg = (
                f"A region of {width} x {height} px is too large for one read; ask for at most "
                f"{_MAX_REGION_PX:,} pixels, or a coarser level or mpp."
            )
            raise SlideError(msg)


def _reopened(location: str, mpp: float | None, is_stored: bool) -> Slide:
    """Open a pickled slide; a stored pixel size goes with it, for a process that has another data folder."""
    from napari_histolatent.slides._open import open_slide

    slide = open_slide(location, mpp=mpp)
    if mpp is not None and is_stored:
        slide.state_mpp(mpp, is_stored=True)
    return slide
