"""Whether the tile cache keeps its cap and memory stays flat on a long walk over a slide.

    python tests/benchmarks/bench_walk.py --slide FOLDER/exact.tiff [--seconds 60] [--cap-mb 256] [--json FILE]

A seeded random walk: mostly pans of up to half a canvas, some zooms, now and then a leap. The cap is set low so that
the cache is full early; memory is sampled each second, and its slope taken over the second half by least squares.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _stats import add_json_option, report, second_half, slope_per_minute
from _window import Window, ensure_display, fit_zoom, rss_bytes

_MB = 1e6


@dataclass
class Walker:
    """Where the walk is: a level-0 point and a zoom, always on the slide."""

    random: random.Random
    slide: tuple[int, int]
    canvas: tuple[int, int]
    x: float = 0.0
    y: float = 0.0
    zoom: float = 1.0

    def __post_init__(self) -> None:
        self.leap()

    def leap(self) -> None:
        """Go anywhere."""
        self.x, self.y = (self.random.uniform(0.1, 0.9) * n for n in self.slide)
        lowest = fit_zoom(self.canvas, self.slide)
        self.zoom = lowest * (2 / lowest) ** self.random.random()

    def step(self) -> None:
        """Leap (2 %), zoom (30 %) or pan."""
        chance = self.random.random()
        if chance < 0.02:
            self.leap()
        elif chance < 0.32:
            lowest = fit_zoom(self.canvas, self.slide)
            self.zoom = min(2.0, max(lowest, self.zoom * self.random.uniform(0.6, 1.6)))
        else:
            self.x += self.random.uniform(-0.5, 0.5) * self.canvas[0] / self.zoom
            self.y += self.random.uniform(-0.5, 0.5) * self.canvas[1] / self.zoom
        self.x, self.y = (
            min(max(v, 0.0), float(n)) for v, n in zip((self.x, self.y), self.slide, strict=True)
        )


def walk(
    window: Window, layer: Any, walker: Walker, *, seconds: float, pause_s: float
) -> dict[str, list[float]]:
    """Walk; return the samples: seconds, rss_bytes, cache_bytes, and the longest gap of the event loop (ms), zoom."""
    from napari_histolatent._napari import viewing

    names = ("seconds", "rss_bytes", "cache_bytes", "worst_gap_ms", "zoom")
    samples: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    window.heart.restart()
    while (now := time.perf_counter() - start) < seconds:
        if now >= len(samples["seconds"]):
            samples["seconds"].append(now)
            samples["rss_bytes"].append(rss_bytes())
            samples["cache_bytes"].append(viewing.cache().used_bytes)
            samples["worst_gap_ms"].append(window.heart.worst())
            samples["zoom"].append(walker.zoom)
            window.heart.restart()
        walker.step()
        window.look((walker.x, walker.y), walker.zoom, scale=tuple(layer.scale[-2:]))
        window.run_for(pause_s)
    return samples


def summary(samples: dict[str, list[float]], cap_bytes: int) -> list[list[Any]]:
    """Return the lines of the table."""
    rss, cache = samples["rss_bytes"], samples["cache_bytes"]
    times, later = second_half(samples["seconds"], rss)
    full = next((t for t, v in zip(samples["seconds"], cache, strict=True) if v > 0.95 * cap_bytes), None)
    return [
        ["cache, most / cap, MB", f"{max(cache) / _MB:,.0f} / {cap_bytes / _MB:,.0f}"],
        ["cap kept", "yes" if max(cache) <= cap_bytes else "NO"],
        ["cache full after, s", "not in this walk" if full is None else f"{full:.0f}"],
        ["RSS first / most / last, MB", " / ".join(f"{v / _MB:,.0f}" for v in (rss[0], max(rss), rss[-1]))],
        ["RSS slope of the second half, MB/min", f"{slope_per_minute(times, later) / _MB:+.1f}"],
        ["longest gap of the event loop, ms", f"{max(samples['worst_gap_ms']):.0f}"],
    ]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, required=True, help="exact.tiff of mosaic.py")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cap-mb", type=int, default=256, help="cap of the tile cache; 0 leaves it as it is")
    parser.add_argument("--pause-ms", type=float, default=100.0, help="between two steps")
    parser.add_argument("--canvas", type=int, nargs=2, default=(1280, 800), metavar=("WIDTH", "HEIGHT"))
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()

    from napari_histolatent._napari import viewing
    from napari_histolatent.slides import open_slide

    with Window(*options.canvas) as window:
        viewing.attach(window.viewer)
        if options.cap_mb:
            viewing.cache().set_cap(options.cap_mb * 1_000_000)
        slide = open_slide(options.slide)
        _, layer = window.show_slide(slide)
        window.settle(layer, timeout=60)
        size = (slide.info.width_px, slide.info.height_px)
        walker = Walker(random.Random(options.seed), size, tuple(options.canvas))
        samples = walk(window, layer, walker, seconds=options.seconds, pause_s=options.pause_ms / 1e3)
        cap = viewing.cache().cap_bytes
    report(
        f"Random walk of {options.seconds:g} s, seed {options.seed}: {options.slide.name}",
        ["what", "figure"],
        summary(samples, cap),
        raw=samples | {"cap_bytes": cap},
        json_path=options.json,
    )
    if max(samples["cache_bytes"]) > cap:
        sys.exit(1)


if __name__ == "__main__":
    main()
