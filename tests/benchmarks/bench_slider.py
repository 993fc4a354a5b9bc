"""Does the slider of the Edit dock wait, how soon are its frames there, and does what it shows change evenly?

    python tests/benchmarks/bench_slider.py --run RUN --classifier CLF [--points 64] [--paths 5] [--moves 200]
                                            [--threads 2] [--json FILE]

RUN is a generator with classes, CLF a classifier of the same ones (a run, a checkpoint, an exported folder, or shipped).

handle
    Milliseconds on the window's thread from the slider's new value until the data of the layers (picture and heatmap) are
    assigned, all frames ready; in a real window, its panel and layers those of the dock. Wanted: at most 16. Beside it the
    processor time of that thread: what is left of the former on a machine that does nothing else.
frames
    Seconds from asking for a path (a drawn tile to its flip) until its 33 frames and heatmaps are ready, while the window
    goes on; and until the first is shown. The layers are there already. Wanted: at most 3. Beside it the processor time of
    the whole process meanwhile.
evenness
    Of --points drawn tiles, each on the way to the next class in the default timing: rank correlation of the step and the
    probability of the class that is gone to (wanted 0.99 in 95 %; on the way from it counts against), the largest fall
    of that probability below what it was before (at most 0.02 in 95 %), the largest over the mean step in pixels (1.3).
"""

from __future__ import annotations

import argparse
import random
import sys
from time import perf_counter, process_time, thread_time
from typing import TYPE_CHECKING, Any

import numpy as np
from _stats import add_json_option, median, percentile, report
from _window import Window, ensure_display
from scipy.stats import spearmanr

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADERS = ["what", "n", "median", "worst", "share in bounds", "wanted"]
MOST_MS, MOST_SECONDS = 16.0, 3.0
LEAST_RANK, MOST_FALL, MOST_UNEVEN, SHARE = 0.99, 0.02, 1.3, 0.95
CANVAS = (900, 700)


def rank_of(chances: Sequence[float]) -> float:
    """Return the rank correlation of the step and the probability; 0 where that never changes."""
    values = np.asarray(chances, float)
    return float(spearmanr(np.arange(len(values)), values).statistic) if np.ptp(values) > 0 else 0.0


def fall_of(chances: Sequence[float]) -> float:
    """Return by how much the probability falls at most below what it had been before."""
    values = np.asarray(chances, float)
    return float((np.maximum.accumulate(values) - values).max())


def unevenness_of(pictures: Sequence[Any]) -> float:
    """Return the largest over the mean step (root of the mean square) between neighbours."""
    from napari_histolatent.latent.blend import unevenness

    return unevenness(np.stack([picture.reshape(-1) for picture in pictures]).astype(np.float32))


def paths_of(generator: Any, classifier: Any, n: int) -> list[tuple[Any, str]]:
    """Return n paths, each from a drawn tile to its flip, and the class that it goes to."""
    from napari_histolatent._napari.editing._path import PathRequest
    from napari_histolatent.jobs import edits

    classes = generator.checkpoint.classes
    tiles = edits.sample_tiles(generator, n, label=None, seed=0)
    found = []
    for tile in tiles:
        to = classes[(classes.index(tile.label) + 1) % len(classes)]
        keys = (tile, edits.flip_tile(generator, tile, to=to))
        found.append((PathRequest(generator, keys, classifier=classifier, evidence_for=to), to))
    return found


def evenness(paths: Sequence[tuple[Any, str]]) -> dict[str, list[float]]:
    """Return rank correlation, largest fall and unevenness of each path."""
    from napari_histolatent._napari.editing._path import FRAMES, PathDrawer

    figures: dict[str, list[float]] = {"rank": [], "fall": [], "uneven": []}
    for request, to in paths:
        frames = PathDrawer(request)(list(range(FRAMES)))
        chances = [frame.seen.probabilities[to] for frame in frames]
        figures["rank"].append(rank_of(chances))
        figures["fall"].append(fall_of(chances))
        figures["uneven"].append(unevenness_of([frame.tile.pixels for frame in frames]))
    return figures


class Dock:
    """The dock's panel on a window, with its layers, timed."""

    def __init__(self, window: Window) -> None:
        from napari_histolatent._napari.editing._scene import Scene
        from napari_histolatent._napari.widgets.path_binding import PathBinding
        from napari_histolatent._napari.widgets.path_panel import PathPanel

        self.window, self.request, self.assigned_at = window, None, (0.0, 0.0)
        self.scene, self.panel, self.is_placed = Scene(window.viewer), PathPanel(), False
        window.viewer.window.add_dock_widget(self.panel, name="path")
        self.binding = PathBinding(self.panel, current_path=lambda: self.request, show=self._show)

    def _show(self, frame: Any) -> None:
        self.scene.show("edit", frame.tile, frame.seen)
        self.assigned_at = perf_counter(), thread_time()

    def path(self, request: Any) -> tuple[float, float, float]:
        """Show a path; return the seconds until its first frame was shown, until all were ready, and the latter's cost."""
        if not self.is_placed:
            self.scene.place(request.keys[0], None, draws_tile=True)
            self.is_placed = True
        self.request = request
        first: list[float] = []
        self.binding.player.shown.connect(lambda *_: first.append(perf_counter()))
        start, cost = perf_counter(), process_time()
        self.binding.path_changed()
        if not self.window.run_until(lambda: self.binding.player.is_complete, timeout=120):
            sys.exit("The frames of a path were not ready within 120 s.")
        end, cost = perf_counter(), process_time() - cost
        self.window.run_for(0.2)
        return first[0] - start, end - start, cost

    def moves(self, n: int) -> tuple[list[float], list[float]]:
        """Move the handle n times; return the milliseconds until the layers' data were assigned, by clock and processor."""
        rng, slider = random.Random(0), self.panel.slider
        found: tuple[list[float], list[float]] = ([], [])
        while len(found[0]) < n:
            to = rng.randint(slider.minimum(), slider.maximum())
            if to == slider.value():
                continue
            start = perf_counter(), thread_time()
            slider.setValue(to)
            for values, before, after in zip(found, start, self.assigned_at, strict=True):
                values.append((after - before) * 1e3)
            self.window.run_for(0.02)
        return found


def rows_of(raw: dict[str, list[float]]) -> list[list[Any]]:
    """Return the rows of the table."""
    bounds: dict[str, tuple[str, float, bool]] = {
        "moves_ms": ("handle to layers, ms", MOST_MS, False),
        "moves_cpu_ms": ("the same in processor time, ms", MOST_MS, False),
        "first_s": ("first frame shown, s", float("nan"), False),
        "ready_s": ("all frames and heatmaps, s", MOST_SECONDS, False),
        "ready_cpu_s": ("the same in processor time, s", MOST_SECONDS, False),
        "rank": ("rank correlation with the step", LEAST_RANK, True),
        "fall": ("largest fall of the probability", MOST_FALL, False),
        "uneven": ("largest over mean step in pixels", MOST_UNEVEN, False),
    }
    rows = []
    for key, (caption, bound, is_least) in bounds.items():
        values = raw[key]
        share = float(np.mean([v >= bound if is_least else v <= bound for v in values]))
        worst = min(values) if is_least else max(values)
        wanted = "" if np.isnan(bound) else f"{'>=' if is_least else '<='} {bound:g}"
        rows.append([caption, len(values), median(values), worst, share if wanted else "", wanted])
    return rows


def faults_of(raw: dict[str, list[float]]) -> list[str]:
    """Return what is not as it is wanted, in sentences."""
    faults = []
    if percentile(raw["moves_ms"], 95) > MOST_MS:
        faults.append(f"1 of 20 moves of the handle takes more than {MOST_MS:g} ms")
    if median(raw["ready_s"]) > MOST_SECONDS:
        faults.append(f"the frames are ready after more than {MOST_SECONDS:g} s")
    shares = {
        f"rank correlation of {LEAST_RANK:g}": np.mean(np.array(raw["rank"]) >= LEAST_RANK),
        f"fall of at most {MOST_FALL:g}": np.mean(np.array(raw["fall"]) <= MOST_FALL),
        f"unevenness of at most {MOST_UNEVEN:g}": np.mean(np.array(raw["uneven"]) <= MOST_UNEVEN),
    }
    faults += [
        f"a {name} in {share:.0%}, wanted in {SHARE:.0%}" for name, share in shares.items() if share < SHARE
    ]
    return faults


def main() -> int:
    """Measure, print and write; 1 if anything is not as it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True)
    parser.add_argument("--classifier", required=True)
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--paths", type=int, default=5, help="whose frames are timed")
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()

    import napari_histolatent  # noqa: F401  (before torch: it sets how threads wait)

    # isort: split
    import torch

    from napari_histolatent.training.load import load_classifier, load_generator

    torch.set_num_threads(options.threads)
    generator, classifier = load_generator(options.run), load_classifier(options.classifier)
    paths = paths_of(generator, classifier, max(options.points, options.paths))
    raw = evenness(paths[: options.points])
    with Window(*CANVAS) as window:
        dock = Dock(window)
        dock.path(paths[0][0])  # the first one makes the layers
        timed = [dock.path(request) for request, _ in paths[1 : options.paths + 1]]
        raw |= dict(
            zip(("first_s", "ready_s", "ready_cpu_s"), map(list, zip(*timed, strict=True)), strict=True)
        )
        raw["moves_ms"], raw["moves_cpu_ms"] = dock.moves(options.moves)
        dock.binding.close()
    rows = rows_of(raw)
    title = f"Slider: {generator.checkpoint.size_px} px, {options.threads} threads"
    report(title, HEADERS, rows, raw=raw, json_path=options.json)
    faults = faults_of(raw)
    sys.stdout.writelines(f"not as wanted: {fault}\n" for fault in faults)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
