from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import CODECS, PatchDataset, StoreSpec
from napari_histolatent.patches._index import index_table
from napari_histolatent.patches._write import replaced_folder, require_free, swap_in, write_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow as pa

SIZE = 16
SETTINGS: dict[str, Any] = {"mpp": 0.5, "slides": [], "colors": {}}


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (10, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def table() -> pa.Table:
    return index_table(
        {
            "label": ["a", "b"] * 5,
            "split": ["train"] * 6 + ["val"] * 4,
            "left_out": [""] * 9 + ["quality"],
            "coverage_a": np.linspace(0, 1, 10),
        },
        ["a"],
    )


def written(out: Path, table: pa.Table, pixels: np.ndarray, **options: Any) -> PatchDataset:
    batches = options.pop("batches", [pixels[:3], pixels[3:4], pixels[4:]])
    write_dataset(
        out, table=table, batches=batches, size_px=SIZE, classes=("a", "b"), settings=SETTINGS, **options
    )
    return PatchDataset(out)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_written_is_read(tmp_path: Path, table: pa.Table, pixels: np.ndarray, codec: str) -> None:
    dataset = written(tmp_path / "ds", table, pixels, store=StoreSpec(codec=codec))
    assert len(dataset) == 9
    assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert dataset.table.schema == table.schema
    np.testing.assert_equal(dataset.table.to_pydict(), table.to_pydict())
    stored = zarr.open_array(tmp_path / "ds" / "pixels.zarr", mode="r")[:]
    np.testing.assert_array_equal(dataset.read(range(9)), stored[:9])
    if codec != "jpeg":
        np.testing.assert_array_equal(stored, pixels)
    assert dataset.settings["counts"] == {"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 1}}
    assert dataset.settings["left_out"] == {"quality": 1}
    assert dataset.settings["codec"] == codec


def test_the_digest_is_of_pixels_labels_splits_and_members(
    tmp_path: Path, table: pa.Table, pixels: np.ndarray
) -> None:
    digests = {"same": written(tmp_path / "same", table, pixels).digest}
    assert written(tmp_path / "again", table, pixels, batches=[pixels]).digest == digests["same"]
    rows = table.to_pydict()
    for name, values in {
        "label": ["b", "a"] * 5,
        "split": ["train"] * 7 + ["val"] * 3,
        "left_out": [""] * 8 + ["quality"] * 2,
    }.items():
        changed = index_table(rows | {name: values}, ["a"])
        digests[name] = written(tmp_path / name, changed, pixels).digest
    for name, values in {
        "slide": ["s"] * 10,
        "x": list(range(10)),
        "y": list(range(10)),
        "width_level0_px": [16.0] * 10,
        "height_level0_px": [16.0] * 10,
        "level": [0] * 10,
    }.items():
        digests[name] = written(tmp_path / name, index_table(rows | {name: values}, ["a"]), pixels).digest
    digests["pixels"] = written(tmp_path / "pixels", table, pixels[::-1].copy()).digest
    assert len(set(digests.values())) == 11
    # What is not trained on does not count.
    other = index_table(rows | {"tissue": [0.5] * 10, "coverage_a": [0.25] * 10}, ["a"])
    assert written(tmp_path / "tissue", other, pixels).digest == digests["same"]


@pytest.mark.parametrize("n", [9, 11, 0])
def test_other_pixels_than_rows_are_refused_and_nothing_is_kept(
    tmp_path: Path, table: pa.Table, pixels: np.ndarray, n: int
) -> None:
    batches = [np.concatenate([pixels, pixels])[:n]]
    with pytest.raises(DatasetError, match=f"^{n} patches came for an index of 10; nothing was kept"):
        written(tmp_path / "ds", table, pixels, batches=batches)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_breaks_off_leaves_the_old_dataset(
    tmp_path: Path, table: pa.Table, pixels: np.ndarray
) -> None:
    def breaks_off() -> Iterator[np.ndarray]:
        yield pixels[:3]
        raise KeyboardInterrupt

    for exists in (False, True):
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path / "ds", table, pixels, batches=breaks_off(), overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["ds"] * exists
        if not exists:
            written(tmp_path / "ds", table, pixels)
    np.testing.assert_array_equal(PatchDataset(tmp_path / "ds")[4][0], pixels[4])


def test_a_dataset_is_replaced_only_where_that_is_allowed(
    tmp_path: Path, table: pa.Table, pixels: np.ndarray
) -> None:
    written(tmp_path / "ds", table, pixels)
    with pytest.raises(DatasetError, match="ds exists already; choose another output folder, or allow it"):
        written(tmp_path / "ds", table, 255 - pixels)
    written(tmp_path / "ds", table, 255 - pixels, overwrite=True)
    np.testing.assert_array_equal(PatchDataset(tmp_path / "ds")[4][0], 255 - pixels[4])
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]


def test_the_settings_are_strict_json_in_a_fixed_order(
    tmp_path: Path, table: pa.Table, pixels: np.ndarray
) -> None:
    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    texts = []
    for name in ("a", "b"):
        written(tmp_path / name, table, pixels)
        texts.append((tmp_path / name / "dataset.json").read_text())
    assert texts[0] == texts[1]
    settings = json.loads(texts[0], parse_constant=refuse)
    assert settings["format_version"] == 2
    assert settings["patches"] == 9
    assert settings["rows"] == settings["stored"] == 10


def test_if_the_new_folder_cannot_take_the_place_the_old_one_comes_back(tmp_path: Path) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "old").write_text("")
    with pytest.raises(FileNotFoundError):
        swap_in(tmp_path / "nowhere", tmp_path / "ds")
    assert [path.name for path in tmp_path.rglob("*")] == ["ds", "old"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "ds[1]"  # what a pattern would take for something else
    for content, fails in (("first", False), ("second", True), ("third", False)):
        try:
            with replaced_folder(out) as folder:
                (folder / "file").write_text(content)
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        expected = "first" if fails else content
        assert (out / "file").read_text() == expected
        assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_the_old_versions_of_another_folder_are_left_alone(tmp_path: Path) -> None:
    # BUG: those of `ds.v2` went with those of `ds`.
    kept = [".ds.v2.0123abcd.old", ".ds.notours.old", ".ds.0123abcd.old.mine", ".ds2.0123abcd.old"]
    for name in (*kept, ".ds.0123abcd.old", "fresh"):
        (tmp_path / name).mkdir()
    swap_in(tmp_path / "fresh", tmp_path / "ds")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "ds"])


def test_a_dataset_that_a_killed_process_had_moved_aside_is_brought_back(
    tmp_path: Path, table: pa.Table, pixels: np.ndarray
) -> None:
    # BUG: neither the old nor the new one was there, and the next call removed the old one.
    out = tmp_path / "ds"
    written(out, table, pixels)
    out.rename(tmp_path / ".ds.0123abcd.old")
    with pytest.raises(DatasetError, match="ds exists already"):
        require_free(out, overwrite=False)
    np.testing.assert_array_equal(PatchDataset(out)[4][0], pixels[4])
    out.rename(tmp_path / ".ds.0123abcd.old")
    written(out, table, 255 - pixels, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]
    # Of several nobody knows which.
    out.rename(tmp_path / ".ds.0123abcd.old")
    shutil.copytree(tmp_path / ".ds.0123abcd.old", tmp_path / ".ds.4567abcd.old")
    require_free(out, overwrite=False)
    assert not out.exists()
