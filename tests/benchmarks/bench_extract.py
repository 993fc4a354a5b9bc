"""Cutting a slide's patches into a dataset, beside a bare loop that only reads the same patches.

    python tests/benchmarks/bench_extract.py exact.tiff [--side 20000] [--repeats 3] [--json FILE]

The slide is one of `mosaic.py`, or any that OpenSlide opens and is larger than --side + 10,000 px; patches of 256 px of
level 0 whose corners do not meet the file's tiles, from (10000, 10000) on.

bare
    `numpy.asarray(OpenSlide.read_region(...).convert("RGB"))`, patch by patch, nothing kept.
bare x 2
    The same by two threads on one handle.
zstd, raw, jpeg
    `extract` with that codec: read, QC values, coding, shards on the disk (synchronised), index. Patches per second from the
    first patch to the finished folder; the plan before it (tissue, fractions, split) is given in seconds.
zstd x 2, zstd x 2 processes
    With `workers=2`: two threads; two processes of a Dask cluster, whose start (some seconds) is not counted.

Every figure is of a process of its own, pinned to one core (the last three and bare x 2: to two), interleaved; ratios are to the
bare loop of the same turn. Peak RSS is of the process. Wanted: raw or jpeg 0.75, zstd 0.65, two cores 1.6 times one, RSS 1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from _stats import add_json_option, median, report
from shapely.geometry import box

from napari_histolatent.annotations import Annotations, Region, write_annotations
from napari_histolatent.patches import GridSpec, Recipe, SlideSource, SplitSpec, TissueSpec, extract

START, SIZE = 10_000, 256
SIDES: dict[str, dict[str, Any]] = {
    "bare": {},
    "zstd": {"codec": "zstd"},
    "raw": {"codec": "raw"},
    "jpeg": {"codec": "jpeg"},
    "bare x 2": {"cores": 2},
    "zstd x 2": {"codec": "zstd", "cores": 2},
    "zstd x 2 processes": {"codec": "zstd", "cores": 2, "scheduler": "local"},
}


def corners(side: int) -> list[tuple[int, int]]:
    """Return the corners of all patches, row by row."""
    steps = range(0, side - SIZE + 1, SIZE)
    return [(START + x, START + y) for y in steps for x in steps]


def bare(slide: str, side: int, cores: int) -> dict[str, float]:
    """Read every patch and keep none."""
    start = time.perf_counter()
    handle = openslide.OpenSlide(slide)

    def read(xy: tuple[int, int]) -> int:
        return int(np.asarray(handle.read_region(xy, 0, (SIZE, SIZE)).convert("RGB"))[0, 0, 0])

    places = corners(side)
    if cores == 1:
        for xy in places:
            read(xy)
    else:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(read, places, chunksize=64))
    return {"per_second": len(places) / (time.perf_counter() - start), "plan": 0.0, "patches": len(places)}


def ours(slide: str, side: int, codec: str, cores: int, scheduler: str | None) -> dict[str, float]:
    """Extract the same patches: one class, all train, so that none is left out."""
    started: list[float] = []

    def on_progress(done: int, total: int) -> None:
        started.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        regions = Path(folder) / "regions.geojson"
        n = len(range(0, side - SIZE + 1, SIZE)) * SIZE
        region = Region("1", "all", box(START, START, START + n, START + n))
        write_annotations(regions, Annotations((region,), format="benchmark"))
        recipe = Recipe(
            grid=GridSpec(size_px=SIZE, level=0, origin_px=(START % SIZE, START % SIZE)),
            tissue=TissueSpec(method="none", min_tissue=0),
            split=SplitSpec(fractions=(1, 0, 0)),
        ).changed(store={"codec": codec})
        before = time.perf_counter()
        made = extract(
            [SlideSource(Path(slide), regions)],
            Path(folder) / "ds",
            recipe=recipe,
            workers=cores,
            scheduler=scheduler,
            on_progress=on_progress,
        )
        end = time.perf_counter()
    return {
        "per_second": made.patches / (end - started[0]),
        "plan": started[0] - before,
        "patches": made.patches,
    }


def child(slide: str, side: int, name: str, pipe: Any) -> None:
    """Measure one side in a process that is pinned from its start."""
    options = dict(SIDES[name])
    cores = options.pop("cores", 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))
    codec = options.get("codec")
    scheduler = options.get("scheduler")
    figures = bare(slide, side, cores) if codec is None else ours(slide, side, codec, cores, scheduler)
    unit = 1 if sys.platform == "darwin" else 1024
    figures["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    pipe.send(json.dumps(figures))


def measure(slide: str, side: int, name: str) -> dict[str, float]:
    """Return the figures of one side."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=child, args=(slide, side, name, send))
    process.start()
    send.close()
    figures: dict[str, float] = json.loads(receive.recv())
    process.join()
    return figures


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide")
    parser.add_argument("--side", type=int, default=20_000, help="side of the square that is cut, level-0 px")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    add_json_option(parser)
    options = parser.parse_args()
    names = list(dict.fromkeys(["bare", *options.sides]))
    raw: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(options.repeats):
        for name in names if turn % 2 == 0 else names[::-1]:
            raw[name].append(measure(options.slide, options.side, name))
    rows = []
    for name in names:
        ratios = [a["per_second"] / b["per_second"] for a, b in zip(raw[name], raw["bare"], strict=True)]
        rows.append(
            [
                name,
                median(v["per_second"] for v in raw[name]),
                median(ratios),
                median(v["plan"] for v in raw[name]),
                max(v["rss_mb"] for v in raw[name]),
                int(raw[name][0]["patches"]),
            ]
        )
    report(
        "Patches of 256 px at level 0 into a dataset",
        ["", "patches/s", "ratio to bare", "plan, s", "peak RSS, MB", "patches"],
        rows,
        raw={name: [v["per_second"] for v in values] for name, values in raw.items()},
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
