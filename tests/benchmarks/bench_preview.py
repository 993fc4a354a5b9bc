"""The live grid of the Patches dock: how long the window is held while a slider moves over 200,000 patches.

    python tests/benchmarks/bench_preview.py [--side 114688] [--steps 60] [--repeats 3] [--json FILE]

A blank slide of 114,688 px in a real window of 1280 x 800, with 20 regions of 200 corners; patches of 256 px of level 0, no
tissue mask, unannotated tissue labelled too: 448 x 448 = 200,704 patches. Every 30 ms a slider is moved by a step; a figure is
a gap of a 2 ms timer, the longest time the window did not answer. "beyond drawing" is the gap without the drawing of the
canvas within it; "own" is processor time of the UI thread in one call of what the dock does there (a slider's step, a plan
that is ready), with all that napari does in it. "no grid" is the same slider with the grid switched off; "redraw" moves the
camera by nothing to speak of instead: what drawing the canvas costs alone (here in software).

Wanted: never more than 50 ms of our own, and beyond drawing.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from _stats import add_json_option, median, percentile, report
from _window import Window, ensure_display
from blank import blank_slide

if TYPE_CHECKING:
    from collections.abc import Callable

STEP_SECONDS = 0.03
KINDS = ("redraw", "threshold, no grid", "threshold", "least tissue", "patch size")


class Drawing:
    """Notes when a canvas is drawn."""

    def __init__(self, window: Window) -> None:
        self.spans: list[tuple[float, float]] = []
        kind, began = type(window.canvas), [0.0]
        paint = kind.paintGL

        def timed(canvas: Any) -> None:
            began[0] = time.perf_counter()
            try:
                paint(canvas)
            finally:
                self.spans.append((began[0], time.perf_counter()))

        def swapped() -> None:
            if began[0]:
                self.spans.append((began[0], time.perf_counter()))
                began[0] = 0.0

        kind.paintGL = timed
        window.canvas.frameSwapped.connect(swapped)
        self._undo = lambda: setattr(kind, "paintGL", paint)

    def close(self) -> None:
        """Note nothing any more."""
        self._undo()

    def beyond(self, began: float, ended: float) -> float:
        """Return how much of a span of time, in ms, was no drawing."""
        left, at = 0.0, began
        for start, stop in sorted(self.spans):
            if stop > at and start < ended:
                left += max(0.0, start - at)
                at = max(at, stop)
        return 1e3 * (left + max(0.0, ended - at))


class Own:
    """Adds up the processor time of calls of the dock's parts on the UI thread."""

    def __init__(self, *parts: tuple[type, tuple[str, ...]]) -> None:
        self.calls_ms: list[float] = [0.0]
        self._depth = 0
        for kind, names in parts:
            for name in names:
                setattr(kind, name, self._timed(getattr(kind, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self._depth += 1
            began = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.calls_ms.append(1e3 * (time.thread_time() - began))

        return timed


def gaps_while(
    window: Window, drawing: Drawing, own: Own, move: Callable[[int], None], steps: int
) -> tuple[list[float], list[float], float]:
    """Return gaps, gaps beyond drawing and the longest call of our own, ms, while `move(step)` is called every 30 ms."""
    window.run_for(1.0)
    window.heart.restart()
    drawing.spans.clear()
    own.calls_ms[:] = [0.0]
    began = time.perf_counter()
    for step in range(steps):
        move(step)
        window.run_for(STEP_SECONDS)
    window.run_for(1.0)
    gaps = window.heart.gaps()
    ends = began + np.cumsum(gaps) / 1e3
    beyond = [
        drawing.beyond(end - gap / 1e3, end) if gap > 10 else gap
        for gap, end in zip(gaps, ends.tolist(), strict=True)
    ]
    return gaps, beyond, max(own.calls_ms)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=114_688)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()
    import shapely

    from napari_histolatent._napari._docks import PatchesDock
    from napari_histolatent._napari._session import session_of
    from napari_histolatent._napari.viewing import attach
    from napari_histolatent._napari.widgets.patches_plans import PlansPart
    from napari_histolatent._napari.widgets.patches_tray import TrayPart
    from napari_histolatent._napari.widgets.recipe_form import RecipeForm
    from napari_histolatent.annotations import Region

    own = Own(
        (PlansPart, ("_plan", "_settle", "_on_planned", "_on_settled")),
        (TrayPart, ("_describe", "_on_facts", "_make_all")),
        (RecipeForm, ("_emit",)),
    )

    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    around = np.column_stack([np.cos(angles), np.sin(angles)])

    def region(i: int) -> Region:
        centre, radius = rng.uniform(8000, options.side - 8000, 2), rng.uniform(2000, 8000)
        return Region(f"r{i}", ("tumour", "stroma")[i % 2], shapely.Polygon(around * radius + centre))

    found: dict[str, list[tuple[list[float], list[float], float]]] = {kind: [] for kind in KINDS}
    n_patches = 0
    for repeat in range(options.repeats):
        with Window(1280, 800) as window:
            attach(window.viewer)
            _, layer = window.show_slide(
                blank_slide(options.side, options.side, name=f"preview-{repeat}.tif")
            )
            window.viewer.reset_view()
            drawing = Drawing(window)
            window.settle(layer, timeout=20)
            session_of(window.viewer).regions_of(layer.data[0].slide).apply(
                "Fill", [region(i) for i in range(20)]
            )
            dock = PatchesDock(window.viewer)
            window.viewer.window.add_dock_widget(dock, name="Patches")
            form = dock.form
            form.method_box.setCurrentText("none")
            form.resolution_box.setCurrentIndex(1)
            form.size_spin.setValue(256)
            form.default_edit.setText("other")
            window.run_for(1.0)
            window.run_until(lambda dock=dock: not dock.binding.is_busy, timeout=60)
            n_patches = len(dock.binding.state.planned.grid)

            def redraw(step: int, window: Window = window) -> None:
                window.camera.zoom *= 1.0001 if step % 2 else 0.9999

            moves: dict[str, Callable[[int], None]] = {
                "redraw": redraw,
                "threshold": lambda step, form=form: form.threshold_slider.setValue(0.75 - 0.005 * step),
                "least tissue": lambda step, form=form: form.min_tissue_slider.setValue(0.5 - 0.005 * step),
                "patch size": lambda step, form=form: form.size_spin.setValue(256 + step),
            }
            for kind in KINDS:
                dock.preview_check.setChecked("no grid" not in kind)
                found[kind].append(gaps_while(window, drawing, own, moves[kind.split(",")[0]], options.steps))
            window.run_until(lambda dock=dock: not dock.binding.is_busy, timeout=60)
            drawing.close()
            dock.binding.close()
    rows = [
        [
            kind,
            median(percentile(gaps, 50) for gaps, _, _ in runs),
            median(percentile(gaps, 99) for gaps, _, _ in runs),
            max(max(gaps) for gaps, _, _ in runs),
            max(max(beyond) for _, beyond, _ in runs),
            max(calls for _, _, calls in runs),
        ]
        for kind, runs in found.items()
    ]
    report(
        f"A slider over {n_patches:,} patches: gaps of the window's timer, ms",
        ["", "p50", "p99", "max", "max beyond drawing", "max own"],
        rows,
        raw={
            kind: [[max(gaps), max(beyond), calls] for gaps, beyond, calls in runs]
            for kind, runs in found.items()
        },
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
