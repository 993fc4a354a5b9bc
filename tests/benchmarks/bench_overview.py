"""How soon a slide is on the screen, against reading a bare thumbnail of the same file.

    python tests/benchmarks/bench_overview.py FOLDER/exact.tiff [more slides] [--repeats 5] [--json FILE]

Without slides: CMU-1-Small-Region.svs and TCGA-CR-7395-01A-01-TS1.svs of the test data. The viewer's window exists
already. Ours: from the call of `viewer.open` until the first frame that the overview is in is on the canvas. Bare:
`openslide.OpenSlide(path).get_thumbnail((2048, 2048))`, which opens the file too. Interleaved; the file is in the page
cache for both. "UI blocked" is the part that `viewer.open` itself takes. Wanted: ratio <= 1.1, first image <= 1 s.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from _stats import add_json_option, interleaved, median, median_ratio, report
from _window import Window, ensure_display
from mosaic import default_data

SMALL = ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs")


def bare_ms(path: Path) -> float:
    """Return how long a thumbnail takes, the opening included."""
    import openslide

    start = time.perf_counter()
    with openslide.OpenSlide(path) as slide:
        slide.get_thumbnail((2048, 2048))
    return (time.perf_counter() - start) * 1e3


class Opening:
    """Opens a slide as a user does; keeps how long `viewer.open` held the window."""

    def __init__(self, window: Window, path: Path) -> None:
        self._window, self._path = window, path
        self.blocked_ms: list[float] = []
        self.spread: list[float] = []
        """Standard deviation of the canvas' pixels in the first frame: 0 is an empty canvas."""

    def __call__(self) -> float:
        from napari_histolatent._napari import viewing

        window = self._window
        window.clear()
        viewing.cache().clear()
        frames: list[float] = []

        def note_frame() -> None:
            # napari draws while it opens: what counts is the first frame with the overview in it.
            if not frames and len(window.viewer.layers):
                frames.append(time.perf_counter())
                self.spread.append(float(window.picture().std()))

        window.canvas.frameSwapped.connect(note_frame)
        start = time.perf_counter()
        window.viewer.open(str(self._path), plugin="napari-histolatent")
        self.blocked_ms.append((time.perf_counter() - start) * 1e3)
        window.run_until(lambda: bool(frames), timeout=60)
        window.canvas.frameSwapped.disconnect(note_frame)
        window.settle(window.slide_layers()[1], timeout=60)
        return (frames[0] - start) * 1e3 if frames else float("nan")


def compare(window: Window, path: Path, repeats: int) -> tuple[list[Any], dict[str, Any]]:
    """Return a line of the table and the single figures of one slide."""
    opening = Opening(window, path)
    figures = interleaved({"ours": opening, "bare": lambda: bare_ms(path)}, repeats=repeats, warm_up=True)
    ours, bare = figures["ours"], figures["bare"]
    blocked = median(opening.blocked_ms[1:])
    row = [path.name, median(ours), blocked, median(bare), median_ratio(ours, bare), min(opening.spread)]
    return row, figures | {"blocked_ms": opening.blocked_ms, "canvas_spread": opening.spread}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slides", type=Path, nargs="*", help="default: the two small slides of the test data")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--canvas", type=int, nargs=2, default=(1280, 800), metavar=("WIDTH", "HEIGHT"))
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()

    from napari_histolatent._napari.viewing import attach

    rows, raw = [], {}
    with Window(*options.canvas) as window:
        attach(window.viewer)
        for path in options.slides or [default_data() / "slides" / name for name in SMALL]:
            row, figures = compare(window, path, options.repeats)
            rows.append(row)
            raw[str(path)] = figures
    report(
        f"First overview on screen, canvas {options.canvas[0]} x {options.canvas[1]}, median of {options.repeats} "
        "(wanted: ratio <= 1.1, first image <= 1,000 ms)",
        [
            "slide",
            "first image ms",
            "UI blocked ms",
            "bare thumbnail ms",
            "ratio",
            "canvas spread (0: empty)",
        ],
        rows,
        raw=raw,
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
