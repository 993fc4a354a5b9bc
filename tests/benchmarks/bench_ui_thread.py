"""How long the plug-in keeps the window's thread when napari asks for pixels of a slow slide.

    python tests/benchmarks/bench_ui_thread.py [--read-ms 100] [--steps 60] [--json FILE]

A made-up slide of 98,304 px square whose reader sleeps 100 ms a read (and lets other threads run) is zoomed in by 60
steps and panned by 60. Timed: every `__getitem__` of a display level on the window's thread. Every 20 steps the view
is left to settle, and each visible tile is compared with `read_exact` and, since that shares the cache, with the
pixels as they follow from level and position. Wanted: p95 < 5 ms, max < 25 ms, no wrong tile.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _stats import add_json_option, percentile, report
from _window import Window, ensure_display, fit_zoom, pan_steps, view_box, zoom_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent.slides import SlideInfo

SIDE = 98_304
RATIOS = (1, 4, 16, 64)
BLOCK = 8
"""Pixels of one colour on each axis: averaging 2 x 2 of them changes nothing, so every display level is known."""
TILE = 512


def pattern(level: int, xy: tuple[int, int], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the made-up pixels of a box of a stored level: a colour for each block, by level and place."""
    (x, y), (width, height) = xy, size_px
    columns = np.arange(x // BLOCK, (x + width - 1) // BLOCK + 1, dtype=np.int64)
    rows = np.arange(y // BLOCK, (y + height - 1) // BLOCK + 1, dtype=np.int64)[:, None]
    mixed = (columns * 73_856_093) ^ (rows * 19_349_663) ^ ((level + 1) * 83_492_791)
    colors = np.stack([mixed >> shift & 255 for shift in (3, 9, 15)], axis=-1).astype(np.uint8)
    whole = colors.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
    return np.ascontiguousarray(whole[y % BLOCK :, x % BLOCK :][:height, :width])


def expected(display_level: int, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return what a box (top, bottom, left, right) of a display level has to show."""
    downsample = 2**display_level
    stored = max(i for i, ratio in enumerate(RATIOS) if ratio <= downsample)
    factor = downsample // RATIOS[stored]
    top, bottom, left, right = (v * factor for v in box)
    return pattern(stored, (left, top), (right - left, bottom - top))[::factor, ::factor]


def wrong_tiles(one: NDArray[np.uint8], other: NDArray[np.uint8], box: tuple[int, int, int, int]) -> int:
    """Return in how many tiles of a box two pictures of it differ."""
    differs = (one[..., :3] != other[..., :3]).any(axis=-1)
    top, bottom, left, right = box
    return sum(
        bool(differs[max(0, y - top) : y + TILE - top, max(0, x - left) : x + TILE - left].any())
        for y in range(top // TILE * TILE, bottom, TILE)
        for x in range(left // TILE * TILE, right, TILE)
    )


def tile_count(box: tuple[int, int, int, int]) -> int:
    """Return how many tiles a box touches."""
    top, bottom, left, right = box
    return (-(-bottom // TILE) - top // TILE) * (-(-right // TILE) - left // TILE)


class SlowBackend:
    """A `SlideBackend` whose every read takes a while."""

    def __init__(self, read_s: float, side: int = SIDE) -> None:
        self.read_s, self.reads = read_s, 0
        self.info = _info(side)

    def read_level(
        self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        time.sleep(self.read_s)
        self.reads += 1
        x, y = (v // RATIOS[level] for v in level0_xy)
        return pattern(level, (x, y), size_px)

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        raise KeyError(name)

    def icc_profile(self) -> bytes | None:
        return None

    def close(self) -> None:
        """Nothing is open."""


def _info(side: int) -> SlideInfo:
    from napari_histolatent.slides import Level, SlideInfo

    return SlideInfo(
        path=Path("slow.tiff"),
        backend="benchmark",
        vendor=None,
        digest="slow",
        levels=tuple(Level(side // v, side // v, float(v)) for v in RATIOS),
        mpp_x=0.25,
        mpp_y=0.25,
        mpp_source="benchmark",
        bounds=(0, 0, side, side),
        background=(255, 255, 255),
        associated=(),
    )


def timed_on_main_thread(kind: type, calls: list[float]) -> Callable[[], None]:
    """Time `kind.__getitem__` on this thread into `calls` (ms), until the function that is returned is called."""
    original: Any = kind.__getitem__  # type: ignore[attr-defined]
    main = threading.get_ident()

    def timed(self: Any, key: Any) -> Any:
        if threading.get_ident() != main:
            return original(self, key)
        start = time.perf_counter()
        try:
            return original(self, key)
        finally:
            calls.append((time.perf_counter() - start) * 1e3)

    kind.__getitem__ = timed  # type: ignore[attr-defined]

    def undo() -> None:
        kind.__getitem__ = original  # type: ignore[attr-defined]

    return undo


class Check:
    """Counts wrong tiles of settled views."""

    def __init__(self, window: Window, layer: Any, calls: list[float]) -> None:
        self._window, self._layer, self._calls = window, layer, calls
        self.tiles = self.wrong = self.unsettled = 0
        self.settle_ms: list[float] = []

    def __call__(self) -> None:
        start = time.perf_counter()
        self.unsettled += not self._window.settle(self._layer, timeout=60)
        self.settle_ms.append((time.perf_counter() - start) * 1e3)
        level, box = self._layer.data_level, view_box(self._layer)
        data = self._layer.data[level]
        kept = len(self._calls)
        seen = np.asarray(data[box[0] : box[1], box[2] : box[3]])
        del self._calls[kept:]  # this one is ours, not napari's
        self.tiles += tile_count(box)
        exact = data.read_exact(box) if hasattr(data, "read_exact") else seen
        wrong = (wrong_tiles(seen, other, box) for other in (exact, expected(level, box)))
        self.wrong += max(wrong)


def walk(window: Window, layer: Any, check: Check, *, steps: int, pause_s: float) -> list[float]:
    """Zoom in, then pan; return the longest gap of the event loop in each step, ms."""
    canvas = (window.canvas.width(), window.canvas.height())
    scale = tuple(layer.scale[-2:])
    fit, middle = fit_zoom(canvas, (SIDE, SIDE)), (0.45 * SIDE, 0.55 * SIDE)
    views = [(middle, zoom) for zoom in zoom_steps(fit, 1.0, steps)]
    step = (canvas[0] / 4, canvas[1] / 4)
    views += [(point, 1.0) for point in pan_steps(middle, step, steps)]
    gaps = []
    for number, (point, zoom) in enumerate(views, start=1):
        window.heart.restart()
        window.look(point, zoom, scale=scale)
        window.run_for(pause_s)
        gaps.append(window.heart.worst())
        if number % 20 == 0 or number == len(views):
            check()
    return gaps


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--read-ms", type=float, default=100.0)
    parser.add_argument("--steps", type=int, default=60, help="of zooming, and as many of panning")
    parser.add_argument("--pause-ms", type=float, default=50.0, help="between two steps")
    parser.add_argument("--canvas", type=int, nargs=2, default=(1600, 1000), metavar=("WIDTH", "HEIGHT"))
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()

    from napari_histolatent._napari.viewing import attach
    from napari_histolatent.slides import Slide

    with Window(*options.canvas) as window:
        attach(window.viewer)
        backend = SlowBackend(options.read_ms / 1e3)
        start = time.perf_counter()
        _, layer = window.show_slide(Slide(backend))
        opened_ms = (time.perf_counter() - start) * 1e3
        window.settle(layer, timeout=120)
        calls: list[float] = []
        undo = timed_on_main_thread(type(layer.data[0]), calls)
        check = Check(window, layer, calls)
        try:
            gaps = walk(window, layer, check, steps=options.steps, pause_s=options.pause_ms / 1e3)
        finally:
            undo()
    rows = [
        [name, len(values), percentile(values, 50), percentile(values, 95), max(values, default=0.0), wanted]
        for name, values, wanted in (
            ("__getitem__ on the window's thread", calls, "p95 < 5, max < 25"),
            ("longest gap of the event loop in a step", gaps, ""),
            ("settling after 20 steps", check.settle_ms, ""),
        )
    ]
    report(
        f"UI thread: {SIDE:,} px square, {options.read_ms:g} ms a read, {options.steps} zoom + {options.steps} pan "
        f"steps, canvas {options.canvas[0]} x {options.canvas[1]}; ms",
        ["what", "count", "p50", "p95", "max", "wanted"],
        rows,
        raw={"calls_ms": calls, "gaps_ms": gaps, "settle_ms": check.settle_ms, "opened_ms": opened_ms}
        | {"reads": backend.reads, "tiles": check.tiles, "wrong": check.wrong, "unsettled": check.unsettled},
        json_path=options.json,
    )
    sys.stdout.write(
        f"tiles compared {check.tiles}, wrong {check.wrong} (wanted 0), views that did not settle "
        f"{check.unsettled}; reads {backend.reads}; layers made in {opened_ms:.0f} ms\n"
    )


if __name__ == "__main__":
    main()
