"""Giving a million patches other labels: a new view from the stored fractions, no slide read.

    python tests/benchmarks/bench_relabel.py [--rows 1000000] [--repeats 3] [--json FILE]

The index is made up (seeded): 50 slides of 25 patients, three classes, fractions as overlapping patches have them, no pixels.
`relabel` reads it, labels by another threshold, balances, splits by patient again and writes the view. Wanted: 2 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from _stats import add_json_option, median, report

from napari_histolatent.patches import GridSpec, PatchDataset, Recipe, recipe_of, relabel
from napari_histolatent.patches._index import index_table
from napari_histolatent.patches._write import finish_dataset

CLASSES = ("necrosis", "stroma", "tumour")
SLIDES, PATIENTS = 50, 25


def make(folder: Path, n: int) -> PatchDataset:
    """Write an index-only dataset of n patches."""
    rng = np.random.default_rng(0)
    slide = np.sort(rng.integers(0, SLIDES, n))
    shares = rng.dirichlet((0.2, 0.2, 0.2), n).astype(np.float32)
    label = shares.argmax(axis=1)
    side = int(np.ceil(np.sqrt(n / SLIDES)))
    order = np.arange(n) % (side * side)
    table = index_table(
        {
            "slide": np.array([f"{i:064x}" for i in range(SLIDES)], object)[slide],
            "patient": np.array([f"p{i % PATIENTS}" for i in range(SLIDES)], object)[slide],
            "x": order % side * 256,
            "y": order // side * 256,
            "width_level0_px": np.full(n, 256.0),
            "height_level0_px": np.full(n, 256.0),
            "level": np.zeros(n, np.int16),
            "downsample": np.ones(n),
            "mpp": np.full(n, 0.5),
            "label": np.array(CLASSES, object)[label],
            "split": np.array(("train", "val", "test"), object)[rng.choice(3, SLIDES)[slide]],
            "tissue": rng.random(n, np.float32),
            "annotated": np.ones(n, np.float32),
            **{f"coverage_{name}": shares[:, i] for i, name in enumerate(CLASSES)},
        },
        CLASSES,
    )
    folder.mkdir()
    finish_dataset(
        folder,
        table,
        size_px=256,
        classes=CLASSES,
        settings={
            "codec": None,
            "pixels": None,
            "stored": n,
            "mpp": 0.5,
            "recipe": Recipe(grid=GridSpec(level=0)).to_json(),
            "slides": [{"digest": f"{i:064x}", "path": f"{i}.svs", "label": None} for i in range(SLIDES)],
        },
        pixels_digest="",
    )
    return PatchDataset(folder)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    add_json_option(parser)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"threshold": [], "threshold and balance": []}
    patches: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = make(folder / "base", options.rows)
        for turn in range(options.repeats):
            for side, balance in (("threshold", "none"), ("threshold and balance", "smallest")):
                dataset = PatchDataset(base.path)  # nothing read yet
                recipe = recipe_of(dataset).changed(
                    labels={"threshold": 0.5 + turn / 100}, balance={"method": balance}
                )
                start = time.perf_counter()
                found = relabel(dataset, folder / f"{side}-{turn}", recipe=recipe)
                seconds[side].append(time.perf_counter() - start)
                patches[side] = found["patches"]
    rows = [[side, median(values), patches[side]] for side, values in seconds.items()]
    report(
        f"Another label for {options.rows:,} patches",
        ["", "seconds", "patches (last)"],
        rows,
        raw=seconds,
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
