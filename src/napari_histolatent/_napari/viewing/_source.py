"""What the layers of one slide share: the slide, its display levels, the overview in memory, what was unreadable."""

from __future__ import annotations

import itertools
import math
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_histolatent._napari.viewing._pyramid import (
    TILE_PX,
    box_of,
    centre_out,
    display_levels,
    overlap,
    tiles_of,
    within,
)
from napari_histolatent.errors import SlideError
from napari_histolatent.slides import ByteCache, area_averaged, to_srgb_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent._napari.viewing._pyramid import Box, Tile
    from napari_histolatent.slides import Slide

_READ_PX = 1 << 24
"""Stored pixels read at once for a tile: where the next finer level is far finer, it is read in bands."""
_MAX_EXACT_PX = 1 << 27
_SKETCH_PX = 256
"""The least that is a picture of a slide, on its longer side."""
_SAME_ASPECT = 0.01
_BLOCK_PX = TILE_PX // 4
"""A tile that cannot be read whole is read in blocks of this side."""
_MARK_STRIPE_PX = 16
_MARK_RGBA = ((226, 120, 40, 255), (60, 60, 60, 255))

_keys = itertools.count()
_cache = ByteCache(1 << 30)


def cache() -> ByteCache:
    """Return the cache of tiles that all open slides share."""
    return _cache


class SlideSource:
    """Tiles of a slide as RGBA: alpha 255 on the slide, 0 on the padding beyond its edges. Thread-safe."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.levels = display_levels(slide.info.levels)
        self.key = next(_keys)
        coarsest = self.levels[-1]
        self.overview: NDArray[np.uint8] = np.zeros((coarsest.height_px, coarsest.width_px, 4), np.uint8)
        self.overview[: coarsest.inside_height_px, : coarsest.inside_width_px] = (*slide.info.background, 255)
        self._lock = threading.Lock()
        self._overview_missing = set(tiles_of((0, coarsest.height_px, 0, coarsest.width_px), self.coarsest))
        self._to_srgb: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None
        self._bad: dict[Tile, tuple[str, list[Box]]] = {}
        self.uses_icc = False

    @property
    def coarsest(self) -> int:
        """Number of the coarsest level."""
        return len(self.levels) - 1

    # Tiles

    def tile(self, tile: Tile) -> NDArray[np.uint8] | None:
        """Return a tile if it is in memory."""
        if tile[0] == self.coarsest:
            return None if tile in self._overview_missing else self._overview_part(tile)
        return _cache.get((self.key, tile))

    def load(self, tile: Tile) -> NDArray[np.uint8]:
        """Return a tile, read if it must be. What of it cannot be read is marked with stripes, and remembered."""
        found = self.tile(tile)
        if found is not None:
            return found
        key = self.key
        pixels, bad = self._read_or_mark(tile)
        with self._lock:
            if key != self.key:
                return pixels  # of a slide that is shown otherwise by now, or no more
            if bad is None:
                self._bad.pop(tile, None)
            else:
                self._bad[tile] = bad
            if tile[0] == self.coarsest:
                self._overview_part(tile)[:] = pixels
                self._overview_missing.discard(tile)
            else:
                _cache.put((key, tile), pixels)
        return pixels

    def _read_or_mark(self, tile: Tile) -> tuple[NDArray[np.uint8], tuple[str, list[Box]] | None]:
        """Return a tile, and of what could not be read the sentence and the boxes."""
        own = box_of(tile, self.levels[tile[0]])
        try:
            try:
                return self._read_box(own, tile[0]), None
            except SlideError as error:
                pixels, bad = self._read_in_blocks(tile)
                return pixels, (str(error), bad) if bad else None
        except Exception as error:  # noqa: BLE001  # a fault of ours: the thread has to go on all the same
            name = self.slide.info.path.name
            sentence = f"A part of {name} could not be read ({type(error).__name__}: {error})."
            return _mark(own), (sentence, [own])

    def read_exact(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return a box of a level exactly: RGBA, (bottom - top, right - left, 4). Blocks while it reads.

        Raises
        ------
        SlideError
            If it holds a part that cannot be read, or is too large for one read.
        """
        height, width = box[1] - box[0], box[3] - box[2]
        if height * width > _MAX_EXACT_PX:
            msg = (
                f"{width} x {height} px of {self.slide.info.path.name} are too many for one read; "
                f"take a part of at most {_MAX_EXACT_PX:,} pixels, or a coarser level."
            )
            raise SlideError(msg)
        pixels = np.zeros((height, width, 4), np.uint8)
        for tile in tiles_of(box, level):
            # By whole tiles, so that what is shown and what is asked for are the same pixels.
            found = self.load(tile)
            sentence, bad = self._bad.get(tile, ("", []))
            if any(overlap(part, box) for part in bad):
                raise SlideError(sentence)
            own = box_of(tile, self.levels[level])
            shared = overlap(own, box)
            if shared is not None:
                pixels[within(shared, box)] = found[within(shared, own)]
        return pixels

    def _read_in_blocks(self, tile: Tile) -> tuple[NDArray[np.uint8], list[Box]]:
        """Return what can be read of a tile, the rest marked, and where that is: damage is mostly small."""
        own = box_of(tile, self.levels[tile[0]])
        pixels, bad = np.zeros((own[1] - own[0], own[3] - own[2], 4), np.uint8), []
        for _, row, column in tiles_of(own, tile[0], tile_px=_BLOCK_PX):
            corner = (row * _BLOCK_PX, (row + 1) * _BLOCK_PX, column * _BLOCK_PX, (column + 1) * _BLOCK_PX)
            block = overlap(corner, own)
            if block is None:
                continue
            try:
                pixels[within(block, own)] = self._read_box(block, tile[0])
            except SlideError:
                pixels[within(block, own)] = _mark(block)
                bad.append(block)
        return pixels, bad

    def _read_box(self, box: Box, level_number: int) -> NDArray[np.uint8]:
        level = self.levels[level_number]
        top, bottom, left, right = box
        pixels = np.zeros((bottom - top, right - left, 4), np.uint8)
        bottom, right = min(bottom, level.inside_height_px), min(right, level.inside_width_px)
        if bottom <= top or right <= left:
            return pixels
        rows = max(1, int(_READ_PX / ((right - left) * level.factor**2)))
        for start in range(top, bottom, rows):
            band = self._read_inside((start, min(start + rows, bottom), left, right), level_number)
            part = pixels[start - top : start - top + band.shape[0], : band.shape[1]]
            part[..., :3] = band if self._to_srgb is None else self._to_srgb(band)
            part[..., 3] = 255
        return pixels

    def _read_inside(self, box: Box, level_number: int) -> NDArray[np.uint8]:
        """Return RGB pixels of a box that lies on the slide (at a fractional factor, whole pixels of it only)."""
        level = self.levels[level_number]
        stored = self.slide.info.levels[level.stored_level]
        (top, bottom), (left, right) = (
            _stored_range(span, level.factor, limit)
            for span, limit in ((box[:2], stored.height_px), (box[2:], stored.width_px))
        )
        x, y = math.floor(left), math.floor(top)
        pixels = self.slide.read_level_px(
            level.stored_level, (x, y), size_px=(math.ceil(right) - x, math.ceil(bottom) - y)
        )
        if level.factor == 1:
            return pixels
        if level.factor == int(level.factor):
            # Boxes at the edges are means of what is there.
            return np.asarray(Image.fromarray(pixels).reduce(int(level.factor)))
        size = tuple(max(1, int((b - a) / level.factor + 1e-6)) for a, b in ((left, right), (top, bottom)))
        covered = (min(size[0] * level.factor, right - left), min(size[1] * level.factor, bottom - top))
        return area_averaged(pixels, (left - x, top - y), covered, (size[0], size[1]))

    # The overview

    def prepare(
        self, *, seconds: float, threads: int, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Fill the overview for at most so long; what is missing then is read like any other tile.

        Where the file has something smaller that shows the whole slide, that, enlarged, is enough to begin with.
        """
        if seconds < math.inf and self._sketch():
            return
        until = time.monotonic() + min(seconds, threading.TIMEOUT_MAX)
        coarsest = self.levels[-1]
        queue = centre_out(self.missing_overview(), (0, coarsest.height_px, 0, coarsest.width_px))[::-1]

        def work() -> None:
            while queue and time.monotonic() < until and not should_stop():
                try:
                    tile = queue.pop()
                except IndexError:
                    return
                self.load(tile)

        workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            # One that hangs in a read goes on by itself.
            worker.join(max(0.05, min(until - time.monotonic(), threading.TIMEOUT_MAX)))

    def _sketch(self) -> bool:
        """Draw the overview from what the file has that is smaller: a level, or the picture of the whole slide."""
        try:
            pixels = self._small_level()
            if pixels is None:
                pixels = self._stored_thumbnail()
        except SlideError:
            return False
        if pixels is None:
            return False
        coarsest = self.levels[-1]
        size = (coarsest.inside_width_px, coarsest.inside_height_px)
        sketch = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        self.overview[: size[1], : size[0], :3] = sketch
        return True

    def _small_level(self) -> NDArray[np.uint8] | None:
        for i, level in enumerate(self.slide.info.levels):
            size = (level.width_px, level.height_px)
            if level.downsample > self.levels[-1].downsample and max(size) >= _SKETCH_PX:
                return self.slide.read_level_px(i, (0, 0), size_px=size)
        return None

    def _stored_thumbnail(self) -> NDArray[np.uint8] | None:
        info = self.slide.info
        if "thumbnail" not in info.associated:
            return None
        pixels = self.slide.read_associated("thumbnail")
        height, width = pixels.shape[:2]
        is_whole = abs(width / height / (info.width_px / info.height_px) - 1) < _SAME_ASPECT
        return pixels if is_whole and max(width, height) >= _SKETCH_PX else None

    def missing_overview(self) -> list[Tile]:
        """Return the tiles of the overview that were not read yet."""
        with self._lock:
            return sorted(self._overview_missing)

    def picture(self) -> NDArray[np.uint8]:
        """Return the overview as RGB, without the padding."""
        coarsest = self.levels[-1]
        return self.overview[: coarsest.inside_height_px, : coarsest.inside_width_px, :3]

    def _overview_part(self, tile: Tile) -> NDArray[np.uint8]:
        box = box_of(tile, self.levels[-1])
        return self.overview[box[0] : box[1], box[2] : box[3]]

    # What the user switches

    def switch_icc(self, on: bool) -> None:
        """Show the slide's colours as sRGB, or as they are in the file.

        Raises
        ------
        SlideError
            If the slide has no usable ICC profile.
        """
        to_srgb = None
        if on:
            profile = self.slide.icc_profile()
            if profile is None:
                msg = f"{self.slide.info.path.name} has no ICC profile; its colours stay as they are in the file."
                raise SlideError(msg)
            to_srgb = to_srgb_with(profile)
        # The key first: what is being read now may be of either colours, and is not kept.
        self.drop()
        self._to_srgb, self.uses_icc = to_srgb, on
        self.forget()

    def forget(self, *, only_bad: bool = False) -> None:
        """Have everything (or what could not be read) read again."""
        if not only_bad:
            self.drop()
        with self._lock:
            bad, self._bad = self._bad, {}
            coarsest = self.levels[-1]
            stale = (
                bad if only_bad else tiles_of((0, coarsest.height_px, 0, coarsest.width_px), self.coarsest)
            )
            self._overview_missing |= {tile for tile in stale if tile[0] == self.coarsest}
        _cache.drop_where(lambda held: held[0] == self.key and held[1] in bad)

    def drop(self) -> None:
        """Let the cache go of this slide's tiles; those being read will not be kept either."""
        with self._lock:
            key, self.key = self.key, next(_keys)
        _cache.drop_where(lambda held: held[0] == key)

    def close(self) -> None:
        """Let go of the tiles, and close the slide."""
        self.drop()
        self.slide.close()

    def trouble(self) -> tuple[int, str]:
        """Return how many tiles could not be read, and what the first of them said."""
        bad = list(self._bad.values())
        return len(bad), bad[0][0] if bad else ""

    def __deepcopy__(self, memo: dict[int, Any]) -> SlideSource:
        return self


def _stored_range(span: tuple[int, ...], factor: float, limit: int) -> tuple[float, float]:
    start, stop = span[0] * factor, min(span[1] * factor, limit)
    return min(start, max(0, stop - 1)), stop


def _mark(box: Box) -> NDArray[np.uint8]:
    """Return stripes that no tissue looks like."""
    rows, columns = np.mgrid[box[0] : box[1], box[2] : box[3]]
    stripes: NDArray[np.uint8] = np.asarray(_MARK_RGBA, np.uint8)[(rows + columns) // _MARK_STRIPE_PX % 2]
    return stripes
