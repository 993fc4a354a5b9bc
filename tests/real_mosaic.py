"""Make a slide of real tiles: held-out lung tiles of LC25000 where they lie, each as it is. For tests and figures.

    python tests/real_mosaic.py --out FOLDER [--side 4096] [--data FOLDER | --dataset DS]

Writes FOLDER/REAL-mosaic.tif (a pyramid) and REAL-mosaic.geojson (outlines of the classes). The pixels are real,
turned and mirrored at random, stored as JPEG; where they lie on the slide is made up, and tiles repeat. The pixel
size of the tiles is unknown; what is written is assumed. Keep the files out of the repository.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.patches import PatchDataset

NAME = "REAL-mosaic"
TITLE = "Mosaic of real tiles of held-out groups; where they lie is made up"


def write_real_mosaic(
    dataset: PatchDataset, folder: Path, *, side_px: int = 4096, split: str = "val", seed: int = 0
) -> Path:
    """Write the slide and its regions into a folder, and return the slide's path."""
    from napari_histolatent.jobs.sample_slide import ASSUMED_MPP, layout_of, write_mosaic

    held_out = dataset.rows_of(split)
    rows_of_class = [held_out[dataset.labels[held_out] == i] for i in range(len(dataset.classes))]
    layout = layout_of(
        size_px=side_px, tile_px=dataset.size_px, n_classes=len(dataset.classes), seed=seed, sharp=True
    )
    rng = np.random.default_rng(seed)

    def draw_row(row: int, columns: NDArray[np.int64]) -> NDArray[np.uint8]:
        labels = layout.class_weights[row, columns].argmax(axis=-1)
        tiles = dataset.read(np.array([rng.choice(rows_of_class[label]) for label in labels]))
        return np.stack(
            [
                np.rot90(tile[:, ::-1] if turn >= 4 else tile, turn % 4)
                for tile, turn in zip(tiles, rng.integers(0, 8, len(tiles)), strict=True)
            ]
        )

    path = folder / f"{NAME}.tif"
    write_mosaic(
        path,
        layout,
        draw_row,
        class_names=dataset.classes,
        mpp=dataset.mpp or ASSUMED_MPP,
        title=TITLE,
        facts={
            "synthetic": False,
            "dataset_digest": dataset.digest,
            "split": split,
            "classes": list(dataset.classes),
            "seed": seed,
            "mpp_is_assumed": dataset.mpp is None,
        },
    )
    return path


def main(arguments: list[str] | None = None) -> None:
    """Write the slide and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the slide")
    parser.add_argument("--side", type=int, default=4096, help="pixels of level 0 on each axis")
    parser.add_argument("--data", type=Path, help="folder with patches/lc25000_lung")
    parser.add_argument("--dataset", type=Path, help="a dataset, instead of lung tiles")
    options = parser.parse_args(arguments)
    from napari_histolatent.patches import PatchDataset

    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    from _lung import lung_dataset
    from mosaic import default_data

    dataset = (
        PatchDataset(options.dataset)
        if options.dataset
        else lung_dataset(options.data or default_data(), options.out / "tiles")
    )
    sys.stdout.write(f"{write_real_mosaic(dataset, options.out, side_px=options.side)}\n")


if __name__ == "__main__":
    main()
