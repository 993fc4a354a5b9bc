"""The lung tiles that trainings are measured on: normal and adenocarcinoma, split by group."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.patches import PatchDataset

CLASSES = {"lung_n": "normal", "lung_aca": "adenocarcinoma"}
SIZE_PX = 64


def lung_dataset(data: Path, out: Path, *, size_px: int = SIZE_PX) -> PatchDataset:
    """Return the dataset of normal lung and adenocarcinoma, a quarter of the groups held out (val); made once."""
    from napari_histolatent.patches import PatchDataset, SplitSpec
    from napari_histolatent.patches.formats import import_folder

    if not (out / "dataset.json").is_file():
        tiles = data / "patches" / "lc25000_lung"
        listed = out.with_name(f"{out.name}-labels.csv")
        listed.parent.mkdir(parents=True, exist_ok=True)
        with (
            (tiles / "labels.csv").open(encoding="utf-8", newline="") as source,
            listed.open("w", encoding="utf-8", newline="") as target,
        ):
            writer = csv.writer(target)
            writer.writerow(["file", "label", "group"])
            for row in csv.DictReader(source):
                if row["class"] in CLASSES:
                    writer.writerow([row["file"], CLASSES[row["class"]], row["group"]])
        import_folder(
            tiles,
            labels=listed,
            out=out,
            size_px=size_px,
            classes=tuple(CLASSES.values()),
            split=SplitSpec(fractions=(0.75, 0.25, 0.0)),
        )
    return PatchDataset(out)
