"""Draw the pictures of docs/training.md from run folders: a curve of each run, and samples beside real patches.

    python tests/training_figures.py --dataset DS --runs modern-seed-0 s1-seed-0 ... --out docs/images

`training_curves.png` shows what each run measured of itself while it trained (KID in features of a seeded random
network, KID in those of its judge where it had one); `training_samples.png` shows held-out real patches and, of each
run, samples of its newest checkpoint, half of each class, drawn from one seed and not chosen.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COLUMNS = 16
"""Pictures in a row, half of each class."""


def curves(runs: Sequence[Path], out: Path) -> None:
    """Draw KID over steps, an axis for each feature space, a line for each run."""
    from matplotlib.figure import Figure

    from napari_histolatent.runs import Run

    measured: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for run in runs:
        events, _ = Run(run).events()
        measured[run.name] = [(e.step, e.data["metrics"]) for e in events if e.kind == "metrics"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in measured.items():
        style = "--" if name.startswith("s1") else "-"
        left.plot(*_line(points, "kid_random"), style, marker=".", label=name)
        right.plot(*_line(points, "pixel_sd"), style, marker=".", label=name)
    left.set(yscale="log", xlabel="steps", ylabel="KID to held-out patches\n(random features)")
    right.set(xlabel="steps", ylabel="pixel SD over samples")
    real = next(m["pixel_sd_real"] for points in measured.values() for _, m in points)
    right.axhline(real, color="black", linewidth=0.8, label="real patches")
    right.legend(fontsize=7)
    figure.savefig(out / "training_curves.png", dpi=110)


def _line(points: list[tuple[int, dict[str, Any]]], name: str) -> tuple[list[int], list[float]]:
    kept = [(step, metrics[name]) for step, metrics in points if metrics.get(name) is not None]
    return [step for step, _ in kept], [value for _, value in kept]


def samples(dataset_path: Path, runs: Sequence[Path], out: Path) -> None:
    """Draw a row of real patches, and a row of samples of each run."""
    from PIL import Image, ImageDraw, ImageFont

    from napari_histolatent.jobs.edits import sample_tiles
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.load import load_generator

    dataset = PatchDataset(dataset_path)
    half, rng = COLUMNS // 2, np.random.default_rng(0)
    held_out = dataset.rows_of("val")
    real = np.concatenate(
        [
            rng.choice(held_out[dataset.labels[held_out] == i], half, replace=False)
            for i in range(len(dataset.classes))
        ]
    )
    rows: list[tuple[str, NDArray[np.uint8]]] = [("real, held out", dataset.read(real))]
    for run in runs:
        generator = load_generator(run, device="cpu")
        tiles = [
            tile.pixels
            for name in dataset.classes
            for tile in sample_tiles(generator, half, label=name, seed=3)
        ]
        rows.append((f"{run.name}, step {generator.checkpoint.step:,}: SYNTHETIC", np.stack(tiles)))
    side, caption = dataset.size_px, 18
    sheet = Image.new("RGB", (COLUMNS * (side + 2), caption + len(rows) * (side + caption + 2)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, name in enumerate(dataset.classes):
        draw.text((i * half * (side + 2) + 2, 0), name, fill="black", font=font)
    for r, (name, pictures) in enumerate(rows):
        top = caption + r * (side + caption + 2)
        draw.text((2, top), name, fill="black", font=font)
        for c, pixels in enumerate(pictures):
            sheet.paste(Image.fromarray(pixels), (c * (side + 2), top + caption))
    sheet.quantize(256).save(out / "training_samples.png", optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True, help="whose held-out patches are shown")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="run folders, in order")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    curves(options.runs, options.out)
    samples(options.dataset, options.runs, options.out)


if __name__ == "__main__":
    main()
