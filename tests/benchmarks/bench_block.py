"""How long the window does not answer while one zooms and pans a real-pixel slide, beside what drawing alone costs.

    python tests/benchmarks/bench_block.py --slide FOLDER/exact.tiff [--repeats 3] [--dask] [--json FILE]

30 zoom steps from the whole slide to 1:1, then 30 pan steps of a quarter of the canvas (1280 x 800). The figure of a
step is the longest gap between ticks of a 2 ms timer. The same steps, interleaved in the same run, with:

floor
    only the overview, one small picture in memory: what drawing a frame costs on this machine.
floor + upload
    the overview and a picture in memory as large as a view of the slide, handed to the graphics card at each step.
dask (--dask)
    the stored levels as napari users open them without a plug-in: tifffile, zarr, dask.

Wanted: the worst step of the slide within 25 ms of the floor's worst. Medians of the repeats, step by step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _stats import add_json_option, median, percentile, report
from _window import Window, ensure_display, fit_zoom, pan_steps, zoom_steps

if TYPE_CHECKING:
    from collections.abc import Callable

TILE = 512


def by_step(runs: list[list[float]]) -> list[float]:
    """Return the median over the runs of each step."""
    return [median(values) for values in zip(*runs, strict=True)]


def row_of(name: str, runs: list[list[float]], *, zooms: int, floor: list[list[float]]) -> list[Any]:
    """Return a line of the table: zoom and pan steps, the worst, and the worst beside the floor's of the run."""
    steps = by_step(runs)
    zoom, pan = steps[:zooms], steps[zooms:]
    worst = median(max(run) for run in runs)
    beside = median(max(run) - max(other) for run, other in zip(runs, floor, strict=True))
    ratio = median(max(run) / max(other) for run, other in zip(runs, floor, strict=True))
    figures = [percentile(part, percent) for part in (zoom, pan) for percent in (50, 95, 100)]
    return [name, *figures, worst, beside, ratio]


def dask_pyramid(path: Path) -> list[Any]:
    """Return the stored levels as lazy arrays."""
    import dask.array as da
    import tifffile
    import zarr

    with tifffile.TiffFile(path) as file:
        count = len(file.series[0].levels)
    return [
        da.from_zarr(zarr.open(tifffile.imread(path, aszarr=True, level=i), mode="r")) for i in range(count)
    ]


def view_sized(canvas: tuple[int, int]) -> np.ndarray:
    """Return a picture as large as a view may get: under two canvases on each axis, in whole tiles and one more."""
    width, height = ((-(-n * 3 // 2 // TILE) + 1) * TILE for n in canvas)
    return np.full((height, width, 4), (200, 120, 180, 255), np.uint8)


class Sides:
    """Fills the window with what is measured: a function of each returns what to call after each camera move."""

    def __init__(self, window: Window, path: Path) -> None:
        from napari_histolatent.slides import open_slide

        self._window, self._path = window, path
        self.slide = open_slide(path)
        self.scale = (self.slide.info.mpp_y or 1.0, self.slide.info.mpp_x or 1.0)

    def ours(self) -> Callable[[], None]:
        from napari_histolatent._napari import viewing
        from napari_histolatent.slides import open_slide

        viewing.cache().clear()
        _, layer = self._window.show_slide(open_slide(self._path))
        self._window.settle(layer, timeout=60)
        return _nothing

    def floor(self) -> Callable[[], None]:
        self._add_overview()
        return _nothing

    def upload(self) -> Callable[[], None]:
        self._add_overview()
        canvas = (self._window.canvas.width(), self._window.canvas.height())
        layer = self._window.viewer.add_image(view_sized(canvas), rgb=True, scale=self.scale, name="upload")

        def follow() -> None:
            centre = np.asarray(self._window.camera.center[-2:])
            zoom = 1 / self._window.camera.zoom
            layer.scale = (zoom, zoom)
            layer.translate = centre - np.asarray(layer.data.shape[:2]) / 2 * zoom
            layer.refresh(thumbnail=False, highlight=False, extent=False)

        return follow

    def dask(self) -> Callable[[], None]:
        self._window.viewer.add_image(
            dask_pyramid(self._path), rgb=True, multiscale=True, scale=self.scale, contrast_limits=(0, 255)
        )
        return _nothing

    def _add_overview(self) -> None:
        pixels, downsample = self.slide.thumbnail(longest_px=2048)
        self._window.viewer.add_image(
            pixels, rgb=True, scale=tuple(v * downsample for v in self.scale), name="overview alone"
        )


def _nothing() -> None:
    """There is nothing to do after a camera move."""


def run(
    window: Window, side: Callable[[], Callable[[], None]], views: list[Any], *, scale: Any, pause_s: float
) -> list[float]:
    """Show one side, make the steps, return the longest gap of each, ms."""
    window.clear()
    after = side()
    window.look(*views[0], scale=scale)
    window.run_for(0.7)
    gaps = []
    for point, zoom in views[1:]:
        window.heart.restart()
        window.look(point, zoom, scale=scale)
        after()
        window.run_for(pause_s)
        gaps.append(window.heart.worst())
    return gaps


def views_of(canvas: tuple[int, int], slide: tuple[int, int], *, zooms: int, pans: int) -> list[Any]:
    """Return (point, zoom): the whole slide, the zoom steps, the pan steps."""
    fit, middle = fit_zoom(canvas, slide), (0.47 * slide[0], 0.53 * slide[1])
    zoomed = [(middle, zoom) for zoom in (fit, *zoom_steps(fit, 1.0, zooms))]
    return zoomed + [(v, 1.0) for v in pan_steps(middle, (canvas[0] / 4, canvas[1] / 4), pans)]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slide", type=Path, required=True, help="exact.tiff of mosaic.py")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="of zooming, and as many of panning")
    parser.add_argument("--pause-ms", type=float, default=150.0, help="of each step")
    parser.add_argument("--canvas", type=int, nargs=2, default=(1280, 800), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--dask", action="store_true", help="measure a plain dask pyramid too")
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()

    from napari_histolatent._napari.viewing import attach

    with Window(*options.canvas) as window:
        attach(window.viewer)
        sides = Sides(window, options.slide)
        measured = {"slide": sides.ours, "floor": sides.floor, "floor + upload": sides.upload}
        if options.dask:
            measured["dask"] = sides.dask
        info = sides.slide.info
        views = views_of(
            tuple(options.canvas), (info.width_px, info.height_px), zooms=options.steps, pans=options.steps
        )
        runs: dict[str, list[list[float]]] = {name: [] for name in measured}
        for turn in range(options.repeats):
            for name in list(measured)[:: 1 if turn % 2 == 0 else -1]:
                runs[name].append(
                    run(window, measured[name], views, scale=sides.scale, pause_s=options.pause_ms / 1e3)
                )
    rows = [row_of(name, v, zooms=options.steps, floor=runs["floor"]) for name, v in runs.items()]
    heads = [f"{kind} {figure}" for kind in ("zoom", "pan") for figure in ("p50", "p95", "max")]
    report(
        f"Window not answering, ms a step: {options.slide.name}, canvas {options.canvas[0]} x {options.canvas[1]}, "
        f"median of {options.repeats}",
        ["side", *heads, "worst", "worst - floor", "worst / floor"],
        rows,
        raw={"gaps_ms": runs},
        json_path=options.json,
    )
    sys.stdout.write(f"slide: worst {rows[0][-2]:+.0f} ms beside the floor (wanted <= +25)\n")


if __name__ == "__main__":
    main()
