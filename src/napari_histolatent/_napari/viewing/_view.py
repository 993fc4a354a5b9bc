"""One layer's view of a slide: the frame that napari shows, and the next one in the making."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_histolatent._napari.viewing._pyramid import (
    TILE_PX,
    box_of,
    centre_out,
    overlap,
    tiles_of,
    within,
)
from napari_histolatent._napari.viewing._threads import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent._napari.viewing._pyramid import Box, Tile
    from napari_histolatent._napari.viewing._source import SlideSource

_WISHES = 5
_PARENTS = 3
"""How many levels up a stand-in is looked for; beyond that the overview under the layer is as good."""


@dataclass
class Frame:
    """What a layer shows of a level. Its pixels are never changed once napari has them."""

    key: int
    level: int
    box: Box
    pixels: NDArray[np.uint8]
    exact: frozenset[Tile] = frozenset()
    stood_in: frozenset[Tile] = field(default=frozenset())


class View:
    """Answers napari at once with the newest frame; the composer thread makes the next.

    napari's own request is told by public attributes of the layer (`data_level`, `corner_pixels`); any other index
    is somebody's who wants pixels, and gets them exactly.
    """

    def __init__(self, source: SlideSource) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._shown: Frame | None = None
        self._next: Frame | None = None
        self._layer: weakref.ref[Any] | None = None
        self._on_fresh: Callable[[View, bool], None] | None = None
        self._overview_left = len(source.missing_overview())
        self._wanted_for: tuple[int, int, Box] | None = None
        self._wishes = 0
        self._is_expected = False

    def __deepcopy__(self, memo: dict[int, Any]) -> View:
        # napari copies a layer's data when the layer is duplicated: the same slide, looked at by another layer.
        copied = View(self.source)
        copied._is_expected = self.layer is not None
        return copied

    def expect_layer(self) -> None:
        """Be about to be bound: napari draws a layer before it tells anybody that there is one."""
        self._is_expected = True

    def is_let_pass(self) -> bool:
        """Return, once, whether a layer is about to be bound: what napari asks till then need not be read."""
        is_expected, self._is_expected = self._is_expected, False
        return is_expected

    @property
    def layer(self) -> Any:
        """The layer that shows this view, or None."""
        return self._layer() if self._layer is not None else None

    def bind(self, layer: Any, on_fresh: Callable[[View, bool], None]) -> None:
        """Serve a layer; `on_fresh(view, is_whole)` is called, in a thread, when there is something new."""
        self._layer, self._on_fresh = weakref.ref(layer), on_fresh
        self._is_expected = False
        threads.add(self)
        threads.compose(self)

    def reset(self) -> None:
        """Forget the frames: what they show is no longer true."""
        with self._lock:
            self._shown = self._next = self._wanted_for = None

    def unbind(self) -> None:
        """Stop serving the layer."""
        threads.remove(self)
        self._layer = self._on_fresh = None
        self._is_expected = True  # the layer may be put back
        self.reset()

    # On the thread that asks: no per-pixel work but one copy

    def is_own_request(self, level: int, box: Box) -> bool:
        """Return whether a box is what napari is about to draw."""
        layer = self.layer
        if layer is None or layer.data_level != level:
            return False
        (top, left), (bottom, right) = layer.corner_pixels[:, -2:].tolist()
        return box == (top, bottom + 1, left, right + 1)

    def show(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return what there is of a box now, RGBA; alpha is 0 where nothing is."""
        key = self.source.key
        with self._lock:
            shown, fresh = self._shown, self._next
            if fresh is not None and (fresh.key, fresh.level, fresh.box) == (key, level, box):
                self._shown, self._next = fresh, None
                return fresh.pixels
            if shown is not None and (shown.key, shown.level, shown.box) == (key, level, box):
                if self._wanted_for != (key, level, box):
                    threads.compose(self)  # napari was at another level meanwhile
                return shown.pixels
        frame = _moved(fresh or shown, key, level, box)
        with self._lock:
            self._shown, self._next = frame, None
        threads.compose(self)
        return frame.pixels

    def is_settled(self) -> bool:
        """Return whether every tile of what napari shows is exact."""
        layer, missing = self.layer, self.source.missing_overview()
        if layer is None:
            return False
        if layer.data_level == self.source.coarsest:
            return not missing
        with self._lock:
            shown = self._shown
        return (
            shown is not None
            and shown.key == self.source.key
            and self.is_own_request(shown.level, shown.box)
            and shown.exact.issuperset(tiles_of(shown.box, shown.level))
        )

    # On the composer thread

    def compose(self) -> None:
        """Put what has arrived into the next frame, and ask for what is missing."""
        with self._lock:
            frame, self._next = self._next or self._shown, None
            shown = self._shown
        layer = self.layer
        if frame is None or shown is None or layer is None or layer.data_level != frame.level:
            self._want_overview()
            return
        tiles = centre_out(tiles_of(frame.box, frame.level), frame.box)
        fresh = self._with_arrivals(frame, tiles, may_change=frame is not shown)
        done = (fresh or frame).exact
        missing = [tile for tile in tiles if tile not in done]
        what = (frame.key, frame.level, frame.box)
        if self._wanted_for != what:
            self._wanted_for, self._wishes = what, 0
        # Again where a tile was let go by the cache before it came here; not for ever, for a cap may be too small.
        if missing and self._wishes < _WISHES and (self._wishes == 0 or not threads.has_work(self)):
            self._wishes += 1
            threads.want(self, missing + self.source.missing_overview())
        elif not missing:
            threads.want(self, self.source.missing_overview(), spare=self._around(frame))
        with self._lock:
            is_current = self._shown is shown
            if is_current:
                self._next = fresh or (frame if frame is not shown else None)
        if is_current and (fresh is not None or self._overview_has_grown()) and self._on_fresh is not None:
            self._on_fresh(self, not missing)

    def _overview_has_grown(self) -> bool:
        before, self._overview_left = self._overview_left, len(self.source.missing_overview())
        return before != self._overview_left

    def _want_overview(self) -> None:
        """Read on at the level that is in memory whole: napari has it, and asks for nothing."""
        missing, self._wanted_for = self.source.missing_overview(), None
        if self._overview_has_grown() and self._on_fresh is not None:
            self._on_fresh(self, False)
        threads.want(self, missing)

    def _with_arrivals(self, frame: Frame, tiles: list[Tile], *, may_change: bool) -> Frame | None:
        """Return the frame with the tiles that are in memory, and stand-ins; None if nothing is new."""
        found = {tile: self.source.tile(tile) for tile in tiles if tile not in frame.exact}
        arrived = {tile: pixels for tile, pixels in found.items() if pixels is not None}
        stand_ins = {}
        for tile in found:
            if tile not in arrived and tile not in frame.stood_in:
                pixels = self._stand_in(tile)
                if pixels is not None:
                    stand_ins[tile] = pixels
        if not arrived and not stand_ins:
            return None
        pixels = frame.pixels if may_change else frame.pixels.copy()
        for tile, new in (stand_ins | arrived).items():
            own = box_of(tile, self.source.levels[frame.level])
            shared = overlap(own, frame.box)
            if shared is not None:
                pixels[within(shared, frame.box)] = new[within(shared, own)]
        return Frame(
            key=frame.key,
            level=frame.level,
            box=frame.box,
            pixels=pixels,
            exact=frame.exact | arrived.keys(),
            stood_in=frame.stood_in | stand_ins.keys(),
        )

    def _stand_in(self, tile: Tile) -> NDArray[np.uint8] | None:
        """Return a tile drawn from coarser or finer ones in memory: blurred, but at its place."""
        level, row, column = tile
        top, bottom, left, right = box_of(tile, self.source.levels[level])
        size = (right - left, bottom - top)
        for up in range(1, min(_PARENTS, self.source.coarsest - level) + 1):
            parent = self.source.tile((level + up, row >> up, column >> up))
            if parent is not None:
                y, x = (v * TILE_PX / 2**up % TILE_PX for v in (row, column))
                box = (x, y, x + size[0] / 2**up, y + size[1] / 2**up)
                return np.asarray(Image.fromarray(parent).resize(size, Image.Resampling.BILINEAR, box))
        if level == 0:
            return None
        pixels = np.zeros((size[1], size[0], 4), np.uint8)
        half = TILE_PX // 2
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            target = pixels[y * half : (y + 1) * half, x * half : (x + 1) * half]
            if target.size:
                child = self.source.tile((level - 1, 2 * row + y, 2 * column + x))
                if child is None:
                    return None
                # Levels are padded to even sizes: a child is twice its part of the parent.
                target[:] = np.asarray(Image.fromarray(child).reduce(2))
        return pixels

    def _around(self, frame: Frame) -> list[Tile]:
        """Return the tiles one step beyond the frame, and those of the level above: likely wanted next."""
        level = self.source.levels[frame.level]
        top, bottom, left, right = frame.box
        ring = (
            max(0, top - TILE_PX),
            min(level.height_px, bottom + TILE_PX),
            max(0, left - TILE_PX),
            min(level.width_px, right + TILE_PX),
        )
        above = tuple(v // 2 for v in frame.box)
        inside = set(tiles_of(frame.box, frame.level))
        tiles = [tile for tile in tiles_of(ring, frame.level) if tile not in inside]
        if frame.level + 1 < self.source.coarsest:
            tiles += tiles_of((above[0], -(-bottom // 2), above[2], -(-right // 2)), frame.level + 1)
        return centre_out(tiles, frame.box)


def _moved(old: Frame | None, key: int, level: int, box: Box) -> Frame:
    """Return a frame of a new box: what the old one shows of it, and nothing elsewhere."""
    pixels = np.zeros((box[1] - box[0], box[3] - box[2], 4), np.uint8)
    if old is None or old.level != level or old.key != key:
        return Frame(key, level, box, pixels)
    shared = overlap(old.box, box)
    if shared is None:
        return Frame(key, level, box, pixels)
    pixels[within(shared, box)] = old.pixels[within(shared, old.box)]

    def whole(tiles: frozenset[Tile]) -> frozenset[Tile]:
        """Return the tiles of the new box that the old one showed as far as the new one does."""
        kept = set()
        for tile in tiles:
            corner = (tile[1] * TILE_PX, (tile[1] + 1) * TILE_PX, tile[2] * TILE_PX, (tile[2] + 1) * TILE_PX)
            part = overlap(corner, box)
            if part is not None and overlap(part, old.box) == part:
                kept.add(tile)
        return frozenset(kept)

    return Frame(key, level, box, pixels, whole(old.exact), whole(old.stood_in))
