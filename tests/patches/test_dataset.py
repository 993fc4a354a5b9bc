from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import (
    SPLITS,
    GridSpec,
    PatchDataset,
    Recipe,
    SplitSpec,
    StoreSpec,
    extract,
)

if TYPE_CHECKING:
    from napari_histolatent.patches import SlideSource


@pytest.fixture
def copied(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A dataset of the test's own, to damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))


def change_settings(folder: Path, **changes: Any) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_patches_are_those_on_disk(tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    pixels = zarr.open_array(tiny_dataset / "pixels.zarr", mode="r")[:]
    table = pq.read_table(tiny_dataset / "index.parquet").to_pydict()
    assert len(dataset) == len(pixels) == len(table["label"]) > 100
    assert set(table["left_out"]) == {""}
    for row in (0, 17, len(dataset) - 1, -1, int(np.int64(3))):
        patch, label = dataset[row]
        np.testing.assert_array_equal(patch, pixels[row])
        assert patch.shape == (32, 32, 3)
        assert patch.dtype == np.uint8
        assert dataset.classes[label] == table["label"][row]


def test_facts(tiny_dataset: Path) -> None:
    dataset = PatchDataset(str(tiny_dataset))
    assert dataset.classes == ("epithelium", "stroma")
    assert dataset.size_px == 32
    assert dataset.mpp == pytest.approx(1.0)
    assert len(dataset.digest) == 64
    assert set(dataset.labels.tolist()) == {0, 1}


def test_the_patches_show_their_class(tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    red = dataset.read(range(len(dataset)))[..., 0].mean(axis=(1, 2))
    purple, pink = red[dataset.labels == 0], red[dataset.labels == 1]
    assert (purple[:, None] < pink).mean() > 0.95


def test_rows_of_the_splits_are_all_rows(tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    rows = [dataset.rows_of(name) for name in SPLITS]
    assert sorted(np.concatenate(rows)) == list(range(len(dataset)))
    assert all(len(v) > 0 for v in rows)
    assert len(dataset.rows_of("no such split")) == 0


@pytest.mark.parametrize("rows", [[0], [5, 3, 4], [7, 7, 2, 7], [90, 0, 45, 45]])
def test_rows_are_read_in_the_order_asked_for(tiny_dataset: Path, rows: list[int]) -> None:
    dataset = PatchDataset(tiny_dataset)
    np.testing.assert_array_equal(dataset.read(rows), np.stack([dataset[row][0] for row in rows]))


def test_no_rows_are_an_empty_array(tiny_dataset: Path) -> None:
    assert PatchDataset(tiny_dataset).read([]).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("beyond", [0, 1, 1000])
def test_a_row_that_is_not_there(tiny_dataset: Path, beyond: int) -> None:
    dataset = PatchDataset(tiny_dataset)
    with pytest.raises(IndexError, match=f"row {len(dataset) + beyond} of {len(dataset)}"):
        dataset[len(dataset) + beyond]
    with pytest.raises(IndexError, match=f"row {-len(dataset) - 1} of"):
        dataset[-len(dataset) - 1]


def test_iterating_ends_after_the_last_row(tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    assert [label for _, label in iter(dataset)] == dataset.labels.tolist()


def test_a_dataset_survives_pickling_after_use(tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    before = dataset[4]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._pixels is None
    np.testing.assert_array_equal(copy[4][0], before[0])
    assert copy[4][1] == before[1]


def test_the_report_counts_everything(tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    report = json.loads(json.dumps(dataset.report()))
    assert report["patches"] == len(dataset)
    assert (report["size_px"], report["mpp"], report["digest"]) == (32, dataset.mpp, dataset.digest)
    assert report["classes"] == {
        name: int((dataset.labels == i).sum()) for i, name in enumerate(dataset.classes)
    }
    assert report["splits"] == {name: len(dataset.rows_of(name)) for name in sorted(SPLITS)}
    for split, counts in report["classes_per_split"].items():
        labels = dataset.labels[dataset.rows_of(split)]
        assert counts == {"epithelium": int((labels == 0).sum()), "stroma": int((labels == 1).sum())}
    assert [slide["patches"] for slide in report["slides"]] == [len(dataset)]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_no_dataset(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "folder"
    if exists:
        folder.mkdir()
    with pytest.raises(
        DatasetError, match=r"folder is not a patch dataset \(dataset\.json is missing\); make one"
    ):
        PatchDataset(folder)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot be parsed"),
        (b'{"format_version": 1', "cannot be parsed"),
        (b"\xff\xfe\x00broken", "is not UTF-8 text"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "is nested too deeply"),
        (b'{"format_version": 1e999}', "too large"),
        *((content, "holds no JSON object") for content in (b"[]", b"3", b"null", b'"text"')),
    ],
)
def test_settings_that_cannot_be_parsed(copied: Path, content: bytes, why: str) -> None:
    (copied / "dataset.json").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"is not a patch dataset \(dataset\.json .*{why}.*\); make one"):
        PatchDataset(copied)


@pytest.mark.parametrize(("version", "shown"), [(3, "3"), (1, "1"), ("2", "'2'"), (None, "None")])
def test_another_version(copied: Path, version: Any, shown: str) -> None:
    change_settings(copied, format_version=version)
    with pytest.raises(DatasetError, match=f"has dataset format {shown}, this version reads 2; update"):
        PatchDataset(copied)


def test_json_that_is_no_settings(copied: Path) -> None:
    (copied / "dataset.json").write_text("{}")
    with pytest.raises(DatasetError, match="has dataset format None, this version reads 2"):
        PatchDataset(copied)


@pytest.mark.parametrize("missing", ["classes", "digest", "rows", "stored", "pixels"])
def test_settings_that_lack_a_field(copied: Path, missing: str) -> None:
    # BUG: a KeyError with a traceback, and only once the field is used.
    settings = json.loads((copied / "dataset.json").read_text())
    del settings[missing]
    (copied / "dataset.json").write_text(json.dumps(settings))
    with pytest.raises(DatasetError, match=missing):
        PatchDataset(copied).report()


@pytest.mark.parametrize("damage", ["missing", "junk"])
def test_an_index_that_cannot_be_read(copied: Path, damage: str) -> None:
    (copied / "index.parquet").unlink()
    if damage == "junk":
        (copied / "index.parquet").write_bytes(b"PAR1 but nothing else")
    dataset = PatchDataset(copied)
    with pytest.raises(DatasetError, match=r"index\.parquet cannot be read \(.*\); cut the dataset again\."):
        _ = dataset.labels


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", r"^The pixels of .*copy are gone \(.*pixels\.zarr\); bring the folder back, or cut the"),
        ("empty", r"pixels\.zarr cannot be read \((.|\n)*\); cut the dataset again\."),
        ("junk", r"pixels\.zarr cannot be read \((.|\n)*\); cut the dataset again\."),
    ],
)
def test_pixels_that_cannot_be_read(copied: Path, damage: str, words: str) -> None:
    shutil.rmtree(copied / "pixels.zarr")
    if damage != "missing":
        (copied / "pixels.zarr").mkdir()
    if damage == "junk":
        (copied / "pixels.zarr" / "zarr.json").write_bytes(b"{junk")
    dataset = PatchDataset(copied)
    with pytest.raises(DatasetError, match=words):
        dataset[0]


def test_patches_whose_file_is_gone_are_not_black(copied: Path) -> None:
    # BUG: zarr reads a missing file of patches as zeros, so half a copy of a dataset trains on black squares.
    for shard in (copied / "pixels.zarr" / "c").rglob("*"):
        if shard.is_file():
            shard.unlink()
    with pytest.raises(DatasetError, match="cut the dataset again"):
        PatchDataset(copied).read([0, 1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patches", None),
        ("patches", True),
        ("rows", -1),
        ("stored", None),
        ("stored", 3.5),
        ("size_px", "a"),
        ("size_px", 0),
        ("mpp", "x"),
        ("mpp", 0),
        ("classes", 5),
        ("classes", [1]),
        ("slides", None),
        ("slides", ["a.svs"]),
        ("counts", {"train": 5}),
        ("left_out", []),
        ("pixels", 7),
        ("pixels", ""),
        ("pixels_digest", None),
        ("digest", 3),
    ],
)
def test_settings_of_another_kind(copied: Path, name: str, value: Any) -> None:
    # BUG: a traceback, some of them once the field was used.
    change_settings(copied, **{name: value})
    with pytest.raises(
        DatasetError, match=rf"dataset\.json says {name} .*, where .* is wanted; cut the dataset"
    ):
        PatchDataset(copied)


@pytest.mark.parametrize("damage", ["none", "pixels", "label", "gone"])
def test_what_is_stored_is_compared_with_what_was_written(copied: Path, damage: str) -> None:
    shard = copied / "pixels.zarr" / "c" / "0" / "0" / "0" / "0"
    words = {
        "pixels": r"The pixels in .* are not those that were written",
        "label": r"index\.parquet is not what was written",
        "gone": r"cannot be read \(No such file",
    }
    if damage == "none":
        PatchDataset(copied).verify()
        return
    if damage == "pixels":
        data = bytearray(shard.read_bytes())
        data[50] ^= 1
        shard.write_bytes(data)
    elif damage == "gone":
        shard.unlink()
    else:
        table = pq.read_table(copied / "index.parquet")
        labels = table["label"].to_pylist()
        position = table.schema.get_field_index("label")
        table = table.set_column(position, "label", pa.array(labels[::-1]))
        assert labels != labels[::-1]
        pq.write_table(table, copied / "index.parquet")
    with pytest.raises(DatasetError, match=words[damage]):
        PatchDataset(copied).verify()


# Members and the rest


@pytest.fixture
def with_rest(copied: Path) -> Path:
    """A dataset of which every third row is left out."""
    table = pq.read_table(copied / "index.parquet")
    left_out = ["balance" if row % 3 == 0 else "" for row in range(len(table))]
    position = table.schema.get_field_index("left_out")
    table = table.set_column(position, "left_out", pa.array(left_out))
    pq.write_table(table, copied / "index.parquet")
    change_settings(copied, patches=left_out.count(""))
    return copied


def test_rows_that_are_left_out_are_not_counted_but_stay_in_the_table(
    with_rest: Path, tiny_dataset: Path
) -> None:
    dataset, whole = PatchDataset(with_rest), PatchDataset(tiny_dataset)
    members = [row for row in range(len(whole)) if row % 3]
    assert len(dataset) == len(members) == len(dataset.labels) == len(dataset.columns["x"])
    assert len(dataset.table) == len(whole)
    assert dataset.rows.tolist() == members
    for row in (0, 1, 50, -1):
        np.testing.assert_array_equal(dataset[row][0], whole[members[row]][0])
        assert dataset[row][1] == whole[members[row]][1]
    np.testing.assert_array_equal(dataset.read([9, 2]), whole.read([members[9], members[2]]))
    expected = [row for row, member in enumerate(members) if whole.columns["split"][member] == "val"]
    assert dataset.rows_of("val").tolist() == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"rows": 7},
            r"index\.parquet is not the index of dataset\.json \(\d+ rows for 7\); cut the dataset",
        ),
        ({"patches": 7}, r"index\.parquet has \d+ patches where dataset\.json says 7; cut the dataset again"),
        ({"classes": ["stroma"]}, r"holds the label 'epithelium', dataset\.json the classes stroma; cut"),
        ({"stored": 7}, r"pixels\.zarr holds \d+ patches of 32 px, the index names 7 of 32 px; cut"),
        ({"size_px": 64}, r"pixels\.zarr is coded as .* in chunks of .*; update napari-histolatent"),
    ],
)
def test_an_index_that_does_not_fit_the_settings(
    with_rest: Path, changes: dict[str, Any], words: str
) -> None:
    change_settings(with_rest, **changes)
    dataset = PatchDataset(with_rest)
    with pytest.raises(DatasetError, match=words):
        dataset[0]


def test_columns_are_arrays_and_know_their_names(tiny_dataset: Path) -> None:
    columns = PatchDataset(tiny_dataset).columns
    assert list(columns) == pq.read_schema(tiny_dataset / "index.parquet").names
    assert len(columns) == len(list(columns))
    assert columns["x"].dtype == np.int64
    assert columns["label"].dtype == object
    assert set(columns["label"]) == {"epithelium", "stroma"}
    assert "no such column" not in columns
    with pytest.raises(KeyError):
        _ = columns["no such column"]


# In other processes


def first_patches(dataset: PatchDataset) -> list[bytes]:
    return [dataset[row][0].tobytes() for row in (0, 3, -1)]


def test_a_dataset_works_in_a_process_that_was_spawned(
    tiny_dataset: Path, source: SlideSource, tmp_path: Path
) -> None:
    recipe = Recipe(
        grid=GridSpec(size_px=32, mpp=1.0, stride_px=8),
        split=SplitSpec(block_patches=2),
        store=StoreSpec(index_only=True),
    )
    extract([source], tmp_path / "index only", recipe=recipe)
    datasets = [PatchDataset(path) for path in (tiny_dataset, tmp_path / "index only")]
    expected = [first_patches(dataset) for dataset in datasets]  # opened here first
    assert expected[0] == expected[1]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(first_patches, datasets)) == expected
