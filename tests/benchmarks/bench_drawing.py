"""Drawing a polygon by mouse beside many regions: what one more corner costs, and taking the polygon in.

    python tests/benchmarks/bench_drawing.py [--regions 0 1000 5000] [--corners 40] [--repeats 3] [--json FILE]

A blank slide of 40,000 px in a real window, with that many regions (30 vertices each) in its Shapes layer. The dock's
polygon tool gets real mouse events on the canvas: a move and a click for each corner, then Enter. A figure is the time
from the event until the next frame is on the canvas; "event" is the part in which the window is held by the click
itself. "done" is the longest gap of a 2 ms timer while the finished polygon goes into the layer.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from _stats import add_json_option, median, percentile, report
from _window import Window, ensure_display
from blank import blank_slide

SIDE_PX = 40_000
VERTICES = 30


def measured(window: Window, dock: Any, regions: Any, corners: int) -> list[float]:
    """Draw three polygons; return the figures of the last two together. The first warms up."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    event_ms, frame_ms, done_ms = [], [], []
    width, height = window.canvas.width(), window.canvas.height()
    for polygon in range(3):
        before = len(regions.document.regions)
        for k in range(corners):
            angle = 2 * np.pi * k / corners
            radius = 200 + 40 * polygon
            at = QPoint(int(width / 2 + radius * np.cos(angle)), int(height / 2 + radius * np.sin(angle)))
            start = time.perf_counter()
            QTest.mouseMove(window.canvas, at)
            QTest.mouseClick(window.canvas, Qt.MouseButton.LeftButton, pos=at)
            event_ms.append((time.perf_counter() - start) * 1e3)
            window.run_until_drawn()
            frame_ms.append((time.perf_counter() - start) * 1e3)
        window.heart.restart()
        QTest.keyClick(window.canvas, Qt.Key.Key_Return)
        window.run_for(0.8)
        done_ms.append(window.heart.worst())
        assert len(regions.document.regions) == before + 1, "the polygon was not taken in"
    event_ms, frame_ms = event_ms[corners:], frame_ms[corners:]
    return [
        median(event_ms),
        percentile(event_ms, 95),
        median(frame_ms),
        percentile(frame_ms, 95),
        max(done_ms[1:]),
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regions", type=int, nargs="+", default=[0, 1000, 5000])
    parser.add_argument("--corners", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()
    import shapely

    from napari_histolatent._napari._docks import RegionsDock
    from napari_histolatent._napari._session import session_of
    from napari_histolatent._napari.viewing import attach
    from napari_histolatent.annotations import Region

    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    around = np.column_stack([np.cos(angles), np.sin(angles)])

    def region(i: int) -> Region:
        centre, radius = rng.uniform(500, SIDE_PX - 500, 2), rng.uniform(50, 150)
        return Region(f"r{i}", "tumour", shapely.Polygon(around * radius + centre))

    found: dict[int, list[list[float]]] = {n: [] for n in options.regions}
    for repeat in range(options.repeats):
        for n in options.regions:
            with Window(1280, 800) as window:
                attach(window.viewer)
                session = session_of(window.viewer)
                _, layer = window.show_slide(blank_slide(SIDE_PX, SIDE_PX, name=f"blank-{repeat}-{n}.tif"))
                window.viewer.reset_view()
                window.settle(layer, timeout=20)
                regions = session.regions_of(layer.data[0].slide)
                dock = RegionsDock(window.viewer)
                regions.ensure_layer()
                window.run_until(lambda regions=regions: regions.shapes is not None, timeout=20)
                if n:
                    regions.apply("Fill", [region(i) for i in range(n)])
                    window.run_until(lambda regions=regions, n=n: len(regions.shapes.ids) == n, timeout=60)
                window.run_for(3.0)
                dock.binding.use_tool("polygon")
                window.run_for(0.5)
                found[n].append(measured(window, dock, regions, options.corners))
                dock.binding.close()
    rows = [[n, *(median(run[k] for run in runs) for k in range(5))] for n, runs in found.items()]
    report(
        f"A polygon of {options.corners} corners by mouse, ms",
        ["regions", "event p50", "event p95", "frame p50", "frame p95", "done"],
        rows,
        raw={str(n): runs for n, runs in found.items()},
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
