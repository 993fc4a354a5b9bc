"""How long a fresh view takes until every tile is read and shown, against a bare pool of threads that reads them.

    python tests/benchmarks/bench_settle.py --slide FOLDER/exact.tiff [--repeats 3] [--json FILE]

A canvas of 1600 x 1000 px goes to several places at several zooms; each time the slide is opened anew and the tile
cache is empty. Interleaved, the file in the page cache for all:

engine
    from a request until the frame in which every tile is exact, with no window beside the threads.
ready
    the same in a window: from napari's first request until that frame is ready for it.
bare
    a ThreadPoolExecutor of as many threads reads the same tiles, from the same stored boxes, through a fresh `Slide`,
    and does nothing with them.
shown
    from the camera move until napari has taken that frame.
drawing
    the same move once more with every tile in memory: what napari and the graphics take for it here.

Wanted: <= 1.25 x bare. Without --slide a made-up slide whose reads sleep, as over a network; with one, reading
and (software) drawing are after the same cores.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _stats import add_json_option, median, median_ratio, report
from _window import Window, ensure_display, view_box
from bench_ui_thread import SlowBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide

PLACES = ((0.31, 0.42), (0.72, 0.23), (0.9, 0.9))
"""Parts of the slide's width and height."""
ZOOMS = (0.9, 0.45, 0.22, 0.11)
"""Canvas pixels per level-0 pixel: display levels 0, 1, 2 and 3."""

Read = tuple[int, tuple[int, int], tuple[int, int]]


def stored_box(
    box: tuple[int, int, int, int], factor: float, stored_size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the corner (x, y) and size (width, height) of a display box in its stored level, or None outside it."""
    top, bottom, left, right = (v * factor for v in box)
    x, y = math.floor(left), math.floor(top)
    width, height = min(math.ceil(right), stored_size[0]) - x, min(math.ceil(bottom), stored_size[1]) - y
    return ((x, y), (width, height)) if width > 0 and height > 0 else None


def reads_of(slide: Slide, level_number: int, box: tuple[int, int, int, int]) -> list[Read]:
    """Return (stored level, corner, size) for each tile of a view, those in the middle first."""
    from napari_histolatent._napari.viewing._pyramid import box_of, centre_out, display_levels, tiles_of

    level = display_levels(slide.info.levels)[level_number]
    stored = slide.info.levels[level.stored_level]
    reads = []
    for tile in centre_out(tiles_of(box, level_number), box):
        found = stored_box(box_of(tile, level), level.factor, (stored.width_px, stored.height_px))
        if found is not None:
            reads.append((level.stored_level, *found))
    return reads


def bare_ms(open_one: Callable[[], Slide], reads: list[Read], threads: int) -> float:
    """Return how long a pool takes to read the tiles through a slide that was just opened."""
    with open_one() as slide, ThreadPoolExecutor(threads) as pool:

        def read(one: Read) -> int:
            level, corner, size = one
            return slide.read_level_px(level, corner, size_px=size).nbytes

        start = time.perf_counter()
        sum(pool.map(read, reads))
        return (time.perf_counter() - start) * 1e3


@dataclass
class _Layer:
    """What a view looks at in napari's layer."""

    data_level: int
    corner_pixels: Any


def engine_ms(open_one: Callable[[], Slide], level: int, box: tuple[int, int, int, int]) -> float:
    """Return how long the threads behind the window take to make the frame of a view, with no window beside them."""
    from napari_histolatent._napari import viewing

    viewing.cache().clear()
    source = viewing.SlideSource(open_one())
    view = viewing.levels_of(source)[0].view
    top, bottom, left, right = box
    layer = _Layer(level, np.array([[top, left], [bottom - 1, right - 1]]))
    is_done = threading.Event()
    view.bind(layer, lambda _, is_whole: is_done.set() if is_whole else None)
    start = time.perf_counter()
    view.show(level, box)
    is_done.wait(120)
    taken = (time.perf_counter() - start) * 1e3
    view.unbind()
    source.slide.close()
    return taken


class Settling:
    """Settles fresh views of a slide, and takes the time of it."""

    def __init__(self, window: Window, open_one: Callable[[], Slide]) -> None:
        self._window, self._open = window, open_one
        self.layer: Any = None

    def fresh(self, place: tuple[float, float], zoom: float) -> tuple[float, float]:
        """Open the slide anew and go to a place; return the ms until its tiles are ready, and shown."""
        from napari_histolatent._napari import viewing

        self._window.clear()
        _, self.layer = self._window.show_slide(self._open())
        self._window.viewer.reset_view()
        self._window.settle(self.layer, timeout=60)
        self._window.run_for(0.3)
        viewing.cache().clear()
        return self._go(place, zoom)

    def again(self, place: tuple[float, float], zoom: float) -> float:
        """Return the ms until the same view is shown once more, every tile of it in memory: what drawing takes."""
        self._window.viewer.reset_view()
        self._window.settle(self.layer, timeout=60)
        self._window.run_for(0.3)
        return self._go(place, zoom)[1]

    def _go(self, place: tuple[float, float], zoom: float) -> tuple[float, float]:
        from napari_histolatent._napari import viewing

        window, view = self._window, viewing.view_of(self.layer)
        info, frames, scale = view.source.slide.info, window.frames, tuple(self.layer.scale[-2:])
        asked: list[float] = []
        ready: list[float] = []
        real_show, real_fresh = view.show, view._on_fresh

        def show(level: int, box: tuple[int, int, int, int]) -> Any:
            asked.append(time.perf_counter())
            return real_show(level, box)

        def fresh(one: Any, is_whole: bool) -> None:
            if is_whole and asked:
                ready.append(time.perf_counter())
            real_fresh(one, is_whole)

        view.show, view._on_fresh = show, fresh
        start = time.perf_counter()
        window.look((place[0] * info.width_px, place[1] * info.height_px), zoom, scale=scale)
        # The frame count first: until a frame is drawn, the layer is settled for the view before.
        is_done = window.run_until(
            lambda: window.frames > frames and viewing.is_settled(self.layer), timeout=120
        )
        shown = (time.perf_counter() - start) * 1e3
        del view.show
        view._on_fresh = real_fresh
        in_memory = (ready[-1] - asked[0]) * 1e3 if ready and asked else float("nan")
        return (in_memory, shown) if is_done else (float("nan"), float("nan"))


def compare(
    window: Window,
    open_one: Callable[[], Slide],
    place: tuple[float, float],
    zoom: float,
    repeats: int,
) -> dict[str, Any]:
    """Return the figures of one view, each a list of ms."""
    from napari_histolatent._napari import viewing

    settling = Settling(window, open_one)
    settling.fresh(place, zoom)  # warms the page cache, and says which tiles
    level, box = settling.layer.data_level, view_box(settling.layer)
    with open_one() as slide:
        reads = reads_of(slide, level, box)
    found: dict[str, Any] = {"level": level, "tiles": len(reads)}
    found |= {name: [] for name in ("engine", "ready", "shown", "bare", "drawing")}
    for _ in range(repeats):
        ready, shown = settling.fresh(place, zoom)
        found["ready"].append(ready)
        found["shown"].append(shown)
        found["drawing"].append(settling.again(place, zoom))
        window.clear()  # or the readers would go on to the tiles around the view
        found["bare"].append(bare_ms(open_one, reads, viewing.reader_threads()))
        found["engine"].append(engine_ms(open_one, level, box))
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, help="exact.tiff of mosaic.py; without it a made-up slow one")
    parser.add_argument("--read-ms", type=float, default=100.0, help="a read of the made-up slide")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--zooms", type=float, nargs="+", default=ZOOMS)
    parser.add_argument("--places", type=int, default=len(PLACES), help="how many of the places")
    parser.add_argument("--canvas", type=int, nargs=2, default=(1600, 1000), metavar=("WIDTH", "HEIGHT"))
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()

    from napari_histolatent._napari import viewing
    from napari_histolatent.slides import Slide, open_slide

    def open_one() -> Slide:
        if options.slide is None:
            return Slide(SlowBackend(options.read_ms / 1e3))
        return open_slide(options.slide)

    rows, raw = [], []
    with Window(*options.canvas) as window:
        viewing.attach(window.viewer)
        for zoom in options.zooms:
            for place in PLACES[: options.places]:
                found = compare(window, open_one, place, zoom, options.repeats)
                raw.append({"view": f"{zoom:g} at {place[0]:g}, {place[1]:g}"} | found)
                figures = [median(found[name]) for name in ("bare", "engine", "ready", "shown", "drawing")]
                ratios = [median_ratio(found[name], found["bare"]) for name in ("engine", "ready", "shown")]
                rows.append([raw[-1]["view"], found["level"], found["tiles"], *figures, *ratios])
    overall = [median(row[i] for row in rows) for i in range(3, 11)]
    rows.append(["median of views", "", "", *overall])
    name = options.slide.name if options.slide else f"made up, {options.read_ms:g} ms a read"
    report(
        f"Settling a fresh view: {name}, canvas {options.canvas[0]} x {options.canvas[1]}, "
        f"{viewing.reader_threads()} threads each, median of {options.repeats}; ms",
        [
            *("zoom and place", "level", "tiles", "bare", "engine", "ready", "shown", "drawing"),
            *("engine / bare", "ready / bare", "shown / bare"),
        ],
        rows,
        raw={"views": raw},
        json_path=options.json,
    )
    sys.stdout.write(
        f"median ratio: engine {overall[5]:.2f}, ready {overall[6]:.2f}, shown {overall[7]:.2f} (wanted <= 1.25)\n"
    )


if __name__ == "__main__":
    main()
