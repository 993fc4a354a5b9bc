from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import PatchDataset
from napari_histolatent.patches._index import index_table
from napari_histolatent.patches._write import write_dataset
from napari_histolatent.patches.formats import coords_from_hdf5, export_clam, export_trident

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CLAM = {"patch_size": 256, "patch_level": 1, "downsample": (4.0, 4.0), "name": "s", "save_path": "x"}
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "s",
    "savetodir": "x",
}
ONE = [[0, 0], [32, 0], [64, 0], [0, 32]]
TWO = [[100, 7], [140, 7], [180, 7]]


def written(path: Path, coords: Any, attrs: dict[str, Any], dataset: str = "coords") -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset(dataset, data=coords)
        file[dataset].attrs.update(attrs)
    return path


def attrs_of(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return dict(file["coords"].attrs)


def test_clam_round_trip(dataset: PatchDataset, tmp_path: Path) -> None:
    report = export_clam(dataset, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "patches").iterdir()) == ["one.h5", "two.x.h5"]
    one = coords_from_hdf5(tmp_path / "out" / "patches" / "one.h5")
    assert one.dialect == "clam"
    assert one.level0_xy.dtype == np.int64
    assert one.level0_xy.tolist() == ONE
    assert (one.size_px, one.size_level0, one.level, one.name) == (16, 32.0, 1, "one")
    two = coords_from_hdf5(tmp_path / "out" / "patches" / "two.x.h5")
    assert two.level0_xy.tolist() == TWO
    # CLAM does not resample: squares of level 0, of the width of the patch to the next pixel.
    assert (two.size_px, two.size_level0, two.level) == (32, 32.0, 0)
    assert report["messages"] == [
        "3 patches were resampled to 16 px, which CLAM does not do: it will read squares of level 0 of the same tissue."
    ]


def test_clam_gets_the_attributes_that_it_reads(dataset: PatchDataset, tmp_path: Path) -> None:
    export_clam(dataset, tmp_path / "out")
    attrs = attrs_of(tmp_path / "out" / "patches" / "one.h5")
    assert int(attrs["patch_level"]) == 1
    assert tuple(attrs["downsample"]) == (2.0, 2.0)
    assert tuple(attrs["level_dim"]) == (500, 400)  # of a slide of 1000 x 801 px
    assert attrs["name"] == "one"
    # The slide's size is not known, so nothing is said of it.
    assert "level_dim" not in attrs_of(tmp_path / "out" / "patches" / "two.x.h5")


def test_trident_round_trip(dataset: PatchDataset, tmp_path: Path) -> None:
    export_trident(dataset, tmp_path / "out")
    names = ["one_patches.h5", "two.x_patches.h5"]
    assert sorted(path.name for path in (tmp_path / "out" / "patches").iterdir()) == names
    for name, xy, size, mpp in zip(names, (ONE, TWO), (32.0, 32.0), (0.5, 1.0), strict=True):
        found = coords_from_hdf5(tmp_path / "out" / "patches" / name)
        assert found.dialect == "trident"
        assert found.level0_xy.tolist() == xy
        assert (found.size_px, found.size_level0, found.level, found.mpp) == (16, size, -1, mpp)
        assert found.downsample == size / 16


def test_trident_gets_the_attributes_that_it_reads(dataset: PatchDataset, tmp_path: Path) -> None:
    export_trident(dataset, tmp_path / "out")
    one = attrs_of(tmp_path / "out" / "patches" / "one_patches.h5")
    # Level 0 has 0.25 um, which is called 40x; the patches have twice that.
    assert (one["level0_magnification"], one["target_magnification"]) == (40, 20)
    assert one["overlap"] == 4  # of 16 px, at a stride of 12
    assert (one["level0_width"], one["level0_height"]) == (1000, 801)
    two = attrs_of(tmp_path / "out" / "patches" / "two.x_patches.h5")
    # 0.499 um: 20x. TRIDENT cuts round(patch_size * level0 / target) pixels.
    assert two["level0_magnification"] == 20
    assert round(16 * two["level0_magnification"] / two["target_magnification"]) == 32
    assert two["target_magnification"] == pytest.approx(20 / 2.004)


def one_patch(path: Path, **columns: Sequence[Any]) -> PatchDataset:
    n = len(columns["x"])
    size = {"width_level0_px": [8.0] * n, "height_level0_px": [8.0] * n}
    rows = {"slide": ["d"] * n, "y": [0] * n, "label": ["a"] * n, "level": [0] * n, **size, **columns}
    write_dataset(
        path,
        table=index_table(rows, []),
        batches=[np.zeros((n, 8, 8, 3), np.uint8)],
        size_px=8,
        classes=["a"],
        settings={
            "mpp": None,
            "slides": [{"path": f"{d}/s.svs", "digest": d} for d in dict.fromkeys(rows["slide"])],
        },
    )
    return PatchDataset(path)


def test_trident_wants_a_magnification_where_no_pixel_size_is_known(tmp_path: Path) -> None:
    data = one_patch(tmp_path / "data", x=[5])
    with pytest.raises(DatasetError, match="pixel size of s is not known"):
        export_trident(data, tmp_path / "out")
    export_trident(data, tmp_path / "out", magnification=20)
    assert attrs_of(tmp_path / "out" / "patches" / "s_patches.h5")["target_magnification"] == 20


def test_slides_of_one_name_and_patches_of_two_levels_get_files_of_their_own(tmp_path: Path) -> None:
    data = one_patch(
        tmp_path / "data",
        x=[1, 2, 3],
        slide=["d", "d", "e"],
        level=[0, 1, 0],
        width_level0_px=[8.0, 16.0, 8.0],
    )
    report = export_clam(data, tmp_path / "out")
    folder = tmp_path / "out" / "patches"
    found = {path.name: coords_from_hdf5(path).level0_xy[:, 0].tolist() for path in folder.iterdir()}
    assert found == {"s.h5": [1], "s_16px.h5": [2], "s_2.h5": [3]}
    assert len(report["messages"]) == 2


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        (CLAM, ("clam", 256, 1024.0, 1)),
        ({**CLAM, "custom_downsample": 2}, ("clam", 256, 2048.0, -1)),
        ({"patch_size": 256, "patch_level": 0}, ("clam", 256, 256.0, 0)),
        ({**CLAM, "downsample": 4.001}, ("clam", 256, 256 * 4.001, 1)),
        (TRIDENT, ("trident", 256, 512.0, -1)),
        ({**TRIDENT, "patch_size_level0": 256}, ("trident", 256, 256.0, 0)),
        # Files before patch_size_level0 came say it by the magnifications.
        ({k: v for k, v in TRIDENT.items() if k != "patch_size_level0"}, ("trident", 256, 512.0, -1)),
    ],
)
def test_both_dialects_are_told_apart(
    attrs: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    for dtype in (np.int32, np.uint64, np.float64):
        coords = coords_from_hdf5(written(tmp_path / "s.h5", np.array([[3, 4], [0, 9]], dtype), attrs))
        assert coords.level0_xy.tolist() == [[3, 4], [0, 9]]
        assert coords.level0_xy.dtype == np.int64
    assert (coords.dialect, coords.size_px, coords.size_level0, coords.level) == expected
    assert len(coords) == 2


@pytest.mark.parametrize(
    ("coords", "attrs", "sentence"),
    [
        (np.zeros((3, 3), int), CLAM, r"shape \(3, 3\)"),
        (np.zeros(4, int), CLAM, r"shape \(4,\)"),
        (np.zeros((0, 2), int), CLAM, "names 0 patches"),
        (np.array([[b"1", b"2"]]), CLAM, "as numbers"),
        (np.array([[1, -2]]), CLAM, "the coordinate -2"),
        (np.array([[1, 2**40]]), CLAM, "lies on no slide"),
        (np.array([[1, 2**63 + 5]], np.uint64), CLAM, "lies on no slide"),
        (np.array([[1.5, 2]]), CLAM, "no whole pixels"),
        (np.array([[np.nan, 2]]), CLAM, "no whole pixels"),
        (np.zeros((1, 2), int), {}, "does not say its patch_size"),
        (np.zeros((1, 2), int), {**CLAM, "patch_size": 0}, "patch_size 0"),
        (np.zeros((1, 2), int), {**CLAM, "patch_size": 2**40}, "patch_size"),
        (np.zeros((1, 2), int), {**CLAM, "patch_size": 256.5}, "whole number"),
        (np.zeros((1, 2), int), {**CLAM, "patch_size": "big"}, "patch_size 'big'"),
        (np.zeros((1, 2), int), {**CLAM, "patch_level": -1}, "patch_level -1"),
        (np.zeros((1, 2), int), {"patch_size": 8, "patch_level": 2}, "downsample None"),
        (np.zeros((1, 2), int), {**CLAM, "downsample": np.nan}, "downsample nan"),
        (np.zeros((1, 2), int), {**TRIDENT, "patch_size_level0": -1}, "patch_size_level0 -1"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    coords: Any, attrs: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=sentence):
        coords_from_hdf5(written(tmp_path / "s.h5", coords, attrs))


def test_a_file_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        coords = file.create_dataset("coords", (2**40, 2), np.int64, chunks=(1024, 2))  # takes no space
        coords.attrs.update(CLAM)
    with pytest.raises(DatasetError, match="1,099,511,627,776 patches"):
        coords_from_hdf5(tmp_path / "s.h5")


def test_coordinates_of_another_file_are_not_followed(tmp_path: Path) -> None:
    written(tmp_path / "other.h5", np.zeros((1, 2), int), CLAM)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["coords"] = h5py.ExternalLink("other.h5", "/coords")
    with pytest.raises(DatasetError, match="no dataset coords of its own"):
        coords_from_hdf5(tmp_path / "s.h5")


def test_what_is_no_coordinate_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        coords_from_hdf5(tmp_path / "s.h5")
    with pytest.raises(DatasetError, match="is a folder"):
        coords_from_hdf5(tmp_path)
    (tmp_path / "s.h5").write_bytes(b"no HDF5 at all")
    with pytest.raises(DatasetError, match="cannot be read as HDF5"):
        coords_from_hdf5(tmp_path / "s.h5")
    written(tmp_path / "imgs.h5", np.zeros((1, 8, 8, 3), np.uint8), {"patch_level": 0}, dataset="imgs")
    with pytest.raises(DatasetError, match="it holds imgs"):
        coords_from_hdf5(tmp_path / "imgs.h5")


def test_a_damaged_file_is_a_sentence_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = written(tmp_path / "s.h5", np.arange(2000).reshape(-1, 2), CLAM).read_bytes()
    for length in range(1, len(whole), 701):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"cut\.h5"):
            coords_from_hdf5(tmp_path / "cut.h5")
