"""Whether a training's memory stays flat over 2,000 steps, and what its measurements cost.

    python tests/benchmarks/bench_train_memory.py --dataset DS [--steps 2000] [--every 50] [--json FILE]

The modern preset at the size of the dataset's patches, one thread, in this process; metrics, checkpoints, pictures
and events as a real run has them. Resident memory is sampled with the progress events; its slope is taken over the
second half by least squares. The share of the measurements is CPU time of `measure` and of `finish` (which settles
the normalisation statistics for a checkpoint, then measures) over that of the steps in between.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from _stats import add_json_option, report, second_half

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.runs import RunEvent

_MB = 1e6
_FLAT_MB = 10.0
"""Growth per 1,000 steps in the second half up to which memory counts as flat."""


def timed(owner: type, name: str, seconds: dict[str, float]) -> None:
    """Have a method add the CPU time of its calls up."""
    inner: Callable[..., Any] = getattr(owner, name)

    def outer(*arguments: Any, **options: Any) -> Any:
        start = time.process_time()
        try:
            return inner(*arguments, **options)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

    setattr(owner, name, outer)


def main() -> None:
    """Train, sample and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50, help="steps between samples of memory")
    parser.add_argument(
        "--judge", default="", help="a classifier's run; empty: the shipped one, if there is one"
    )
    add_json_option(parser)
    options = parser.parse_args()

    import torch

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training import preset
    from napari_histolatent.training._gan_task import GanTask
    from napari_histolatent.training.loop import train

    torch.set_num_threads(1)
    dataset = PatchDataset(options.dataset)
    # Checkpoints half-way between measurements, so that both kinds of measurement happen.
    config = preset("modern").with_changes(
        size_px=dataset.size_px,
        steps=options.steps,
        device="cpu",
        log_every=options.every,
        metrics_every=500,
        checkpoint_every=750,
        judge=options.judge,
    )
    cpu_seconds: dict[str, float] = {}
    for name in ("step", "measure", "finish", "neighbours"):
        timed(GanTask, name, cpu_seconds)
    process = psutil.Process()
    steps: list[float] = []
    rss: list[float] = []
    counts: dict[str, int] = {}

    def on_event(event: RunEvent) -> None:
        counts[event.kind] = counts.get(event.kind, 0) + 1
        if event.kind == "progress":
            gc.collect()
            steps.append(float(event.step))
            rss.append(float(process.memory_info().rss))

    with tempfile.TemporaryDirectory() as folder:
        train(config, dataset, folder=Path(folder), on_event=on_event, should_stop=lambda: False)
    later_steps, later = second_half(steps, rss)
    slope = _slope(later_steps, later) * 1000 / _MB
    measured = counts["metrics"] - counts["checkpoint"]
    step_s = cpu_seconds["step"] / options.steps
    measure_s = cpu_seconds["measure"] / max(measured, 1)
    lines = [
        ["RSS first / most / last, MB", " / ".join(f"{v / _MB:,.0f}" for v in (rss[0], max(rss), rss[-1]))],
        ["RSS slope of the second half, MB per 1,000 steps", f"{slope:+.2f}"],
        ["CPU per step, ms", f"{step_s * 1e3:.1f}"],
        ["CPU per measurement, s", f"{measure_s:.2f}"],
        ["measurement / 500 steps", f"{measure_s / (500 * step_s):.2%}"],
        [
            "CPU per checkpoint's statistics and measurement, s",
            f"{cpu_seconds['finish'] / counts['checkpoint']:.2f}",
        ],
        ["flat", "yes" if slope < _FLAT_MB else "NO"],
    ]
    report(
        f"{options.steps:,} steps of the modern preset at {dataset.size_px} px, batch {config.batch_size}",
        ["what", "figure"],
        lines,
        raw={"steps": steps, "rss_bytes": rss, "cpu_seconds": cpu_seconds, "events": counts},
        json_path=options.json,
    )
    if slope >= _FLAT_MB:
        sys.exit(1)


def _slope(x: list[float], y: list[float]) -> float:
    import numpy as np

    return float(np.polyfit(x, y, 1)[0])


if __name__ == "__main__":
    main()
