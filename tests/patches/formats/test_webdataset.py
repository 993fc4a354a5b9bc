from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches.formats import export_webdataset

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.patches import PatchDataset


def members_of(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def test_shards_hold_each_patch_once_in_order(dataset: PatchDataset, tmp_path: Path) -> None:
    report = export_webdataset(dataset, tmp_path / "out", patches_per_shard=3)
    shards = ["test-000000.tar", "train-000000.tar", "train-000001.tar"]
    assert report["shards"] == shards
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classes.txt", *shards]
    assert (tmp_path / "out" / "classes.txt").read_text() == "a\nb/c\n"
    row = 0
    for shard, n in (("train-000000.tar", 3), ("train-000001.tar", 1), ("test-000000.tar", 3)):
        members = members_of(tmp_path / "out" / shard)
        assert len(members) == 3 * n
        for start in range(0, 3 * n, 3):
            picture, label, said = members[start : start + 3]
            # Readers group by what stands before the first dot.
            key = picture[0].name.partition(".")[0]
            assert [member.name for member, _ in (picture, label, said)] == [
                f"{key}.png",
                f"{key}.cls",
                f"{key}.json",
            ]
            with Image.open(io.BytesIO(picture[1])) as image:
                np.testing.assert_array_equal(np.asarray(image), dataset[row][0])
            assert int(label[1]) == dataset.labels[row]
            place = json.loads(said[1])
            assert place["label"] == dataset.classes[dataset.labels[row]]
            assert place["left"] == dataset.columns["x"][row]
            row += 1
    assert row == 7


def test_headers_say_nothing_of_when_and_who(dataset: PatchDataset, tmp_path: Path) -> None:
    export_webdataset(dataset, tmp_path / "out")
    for member, _ in members_of(tmp_path / "out" / "train-000000.tar"):
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.isfile()


def test_a_shard_is_closed_before_it_grows_too_large(dataset: PatchDataset, tmp_path: Path) -> None:
    report = export_webdataset(dataset, tmp_path / "out", shard_bytes=8192)
    sizes = [(tmp_path / "out" / name).stat().st_size for name in report["shards"]]
    assert len(sizes) == 4  # a patch takes 4 kB and little less than 2 do fit
    # The end of a tar file: two empty blocks, filled up to 10,240 bytes.
    assert max(sizes) <= 10240
    one = export_webdataset(dataset, tmp_path / "one", shard_bytes=1)
    assert len(one["shards"]) == 7


def test_patches_in_no_split_are_in_shards_of_their_own_name(placeless: PatchDataset, tmp_path: Path) -> None:
    report = export_webdataset(placeless, tmp_path / "out", picture="jpeg")
    assert report["shards"] == ["patches-000000.tar"]
    names = [member.name for member, _ in members_of(tmp_path / "out" / "patches-000000.tar")]
    assert names == ["p.jpg", "p.cls", "p.json", "p_2.jpg", "p_2.cls", "p_2.json"]


def test_an_empty_shard_is_a_sentence(dataset: PatchDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds nothing"):
        export_webdataset(dataset, tmp_path / "out", patches_per_shard=0)
