"""How long a fresh view takes until every tile is read and shown, against a bare pool of threads that reads them.

    python tests/benchmarks/bench_settle.py --slide /tmp/dev/mosaic/exact.tiff [--repeats 3] [--json FILE]

A canvas of 1600 x 1000 px goes to several places at several zooms. Each time the slide is opened anew and the tile
cache is empty. Ours: from the camera move until `is_settled`. Bare: a ThreadPoolExecutor of as many threads reads the
same tiles, from the same stored boxes, through a fresh `Slide` of the same file, and does nothing with them.
Interleaved; the file is in the page cache for both. Wanted: the median ratio <= 1.25.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _stats import add_json_option, interleaved, median, median_ratio, report
from _window import Window, ensure_display, view_box

if TYPE_CHECKING:
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


def bare_ms(path: Path, reads: list[Read], threads: int) -> float:
    """Return how long a pool takes to read the tiles through a slide that was just opened."""
    from napari_histolatent.slides import open_slide

    with open_slide(path) as slide, ThreadPoolExecutor(threads) as pool:

        def read(one: Read) -> int:
            level, corner, size = one
            return slide.read_level_px(level, corner, size_px=size).nbytes

        start = time.perf_counter()
        sum(pool.map(read, reads))
        return (time.perf_counter() - start) * 1e3


def settle_ms(window: Window, path: Path, place: tuple[float, float], zoom: float) -> tuple[float, Any]:
    """Return how long a fresh slide takes to settle, and its layer (still shown)."""
    from napari_histolatent._napari import viewing
    from napari_histolatent.slides import open_slide

    window.clear()
    slide = open_slide(path)
    _, layer = window.show_slide(slide)
    window.viewer.reset_view()
    window.settle(layer, timeout=60)
    window.run_for(0.3)
    viewing.cache().clear()
    info, frames, scale = slide.info, window.frames, tuple(layer.scale[-2:])
    start = time.perf_counter()
    window.look((place[0] * info.width_px, place[1] * info.height_px), zoom, scale=scale)
    # The frame count first: until a frame is drawn, the layer is settled for the view before.
    is_done = window.run_until(lambda: window.frames > frames and viewing.is_settled(layer), timeout=120)
    taken = (time.perf_counter() - start) * 1e3
    return taken if is_done else float("nan"), layer


def compare(window: Window, path: Path, place: tuple[float, float], zoom: float, repeats: int) -> list[Any]:
    """Return [display level, tiles, ours, bare] of one view; ours and bare are lists of ms."""
    from napari_histolatent._napari import viewing
    from napari_histolatent.slides import open_slide

    _, layer = settle_ms(window, path, place, zoom)  # warms the page cache, and says which tiles
    level, box = layer.data_level, view_box(layer)
    with open_slide(path) as slide:
        reads = reads_of(slide, level, box)

    def bare() -> float:
        window.clear()  # or the readers would go on to the tiles around the view
        return bare_ms(path, reads, viewing.reader_threads())

    sides = {"ours": lambda: settle_ms(window, path, place, zoom)[0], "bare": bare}
    figures = interleaved(sides, repeats=repeats)
    return [level, len(reads), figures["ours"], figures["bare"]]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, required=True, help="exact.tiff of mosaic.py")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--zooms", type=float, nargs="+", default=ZOOMS)
    parser.add_argument("--places", type=int, default=len(PLACES), help="how many of the places")
    parser.add_argument("--canvas", type=int, nargs=2, default=(1600, 1000), metavar=("WIDTH", "HEIGHT"))
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()

    from napari_histolatent._napari import viewing

    rows, raw = [], []
    with Window(*options.canvas) as window:
        viewing.attach(window.viewer)
        for zoom in options.zooms:
            for place in PLACES[: options.places]:
                level, tiles, ours, bare = compare(window, options.slide, place, zoom, options.repeats)
                name = f"{zoom:g} at {place[0]:g}, {place[1]:g}"
                rows.append([name, level, tiles, median(ours), median(bare), median_ratio(ours, bare)])
                raw.append({"view": name, "ours_ms": ours, "bare_ms": bare})
    overall = median(row[-1] for row in rows)
    rows.append(["median of views", "", "", median(r[3] for r in rows), median(r[4] for r in rows), overall])
    report(
        f"Settling a fresh view: {options.slide.name}, canvas {options.canvas[0]} x {options.canvas[1]}, "
        f"{viewing.reader_threads()} threads each, median of {options.repeats}",
        ["zoom and place", "level", "tiles", "ours ms", "bare pool ms", "ratio"],
        rows,
        raw={"views": raw},
        json_path=options.json,
    )
    sys.stdout.write(f"median ratio {overall:.2f} (wanted <= 1.25)\n")


if __name__ == "__main__":
    main()
