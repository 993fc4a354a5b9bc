from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from napari_histolatent._pictures import open_picture
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches.formats import export_image_folder

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.patches import PatchDataset

NAMES = [
    "train/a/one_0_0_32.png",
    "train/a/one_32_0_32.png",
    "train/b_c/one_64_0_32.png",
    "train/b_c/one_0_32_32.png",
    "test/a/two.x_100_7_32.png",
    "test/b_c/two.x_140_7_32.png",
    "test/a/two.x_180_7_32.png",
]
"""Of the patches, in the order of the index."""


def test_png_holds_the_pixels_and_says_where_they_are_from(dataset: PatchDataset, tmp_path: Path) -> None:
    report = export_image_folder(dataset, tmp_path / "out")
    assert report["folders"] == {"a": "a", "b/c": "b_c"}
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.png"))
    assert found == sorted(NAMES)
    for row, name in enumerate(NAMES):
        pixels, said = open_picture(tmp_path / "out" / name)
        np.testing.assert_array_equal(pixels, dataset[row][0])
        assert said["label"] == dataset.classes[dataset.labels[row]]
        assert said["synthetic"] is False
    assert said["slide_digest"] == "d2"
    assert said["split"] == "test"
    assert (said["x"], said["y"]) == pytest.approx((180 + 16.032, 7 + 16.032))  # the centre
    assert (said["left"], said["top"], said["mpp"]) == (180, 7, 1.0)


def test_the_table_keeps_names_and_groups(dataset: PatchDataset, tmp_path: Path) -> None:
    export_image_folder(dataset, tmp_path / "out")
    with (tmp_path / "out" / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(NAMES)
    assert rows[NAMES[2]]["label"] == "b/c"
    assert rows[NAMES[2]]["group"] == "p1"
    assert rows[NAMES[5]]["group"] == "d2"  # no patient: the slide
    assert [rows[NAMES[5]][name] for name in ("split", "slide", "x", "y")] == ["test", "two.x", "140", "7"]


def test_jpeg_is_near_and_says_where_it_is_from(dataset: PatchDataset, tmp_path: Path) -> None:
    export_image_folder(dataset, tmp_path / "out", picture="jpeg")
    with Image.open(tmp_path / "out" / NAMES[0].replace(".png", ".jpg")) as image:
        assert image.format == "JPEG"
        said = json.loads(image.info["comment"])
        error = np.asarray(image).astype(int) - dataset[0][0]
    assert said["slide"] == "one"
    # Colours at half the resolution are off by 50 grey levels and more on such noise.
    assert np.sqrt((error**2).mean()) < 8


def test_pictures_of_no_place_and_one_name_are_all_kept(placeless: PatchDataset, tmp_path: Path) -> None:
    export_image_folder(placeless, tmp_path / "out")
    # No split, no folder of it.
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == ["p.png", "p_2.png"]


def test_an_unknown_kind_of_picture_is_a_sentence(dataset: PatchDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'gif'.*png, jpeg"):
        export_image_folder(dataset, tmp_path / "out", picture="gif")
