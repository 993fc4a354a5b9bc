from __future__ import annotations

import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from shapely.geometry import Point, Polygon, box

from napari_histolatent.annotations._raster import RegionRaster
from napari_histolatent.annotations._region import Annotations, Region
from napari_histolatent.annotations.formats import _mask
from napari_histolatent.annotations.formats._format import WriteOptions
from napari_histolatent.annotations.formats._mask import MASK
from napari_histolatent.errors import AnnotationError
from napari_histolatent.slides import Level, SlideInfo

if TYPE_CHECKING:
    from napari_histolatent.annotations._marks import Mark


def slide(width: int, height: int, *levels: Level) -> SlideInfo:
    return SlideInfo(
        Path("s.tif"), "array", None, "0", (Level(width, height, 1.0), *levels), 0.5, 0.5, None,
        (0, 0, width, height), (255, 255, 255), (),
    )  # fmt: skip


def polygon(mark: Mark) -> Polygon:
    return Polygon(mark.rings[0], mark.rings[1:])


def saved(tmp_path: Path, labels: np.ndarray, **more: Any) -> Path:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, labels, photometric="minisblack", **more)
    assert MASK.recognises(path)
    return path


def write(path: Path, *regions: Region, **options: Any) -> np.ndarray:
    assert MASK.write is not None
    MASK.write(path, Annotations(regions, format="drawn", colors={"b": (1, 2, 3)}), WriteOptions(**options))
    return np.asarray(tifffile.imread(path))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_outlines_hold_exactly_the_pixels_of_their_part(tmp_path: Path, seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random((37, 53)) < 0.3 + 0.05 * seed).astype(dtype) * rng.integers(1, 4, (37, 53)).astype(
        dtype
    )
    if seed > 4:
        labels = (labels > 0).astype(dtype)
    marks = MASK.read(saved(tmp_path, labels), None).marks
    for value in np.unique(labels[labels > 0]):
        parts, count = ndimage.label(labels == value)  # 4-connectivity
        polygons = [polygon(m) for m in marks if m.class_name == f"label {value}"]
        assert len(polygons) == count
        assert all(p.is_valid for p in polygons)
        drawn = RegionRaster(polygons, np.arange(1, count + 1)).fill((0, 0, 53, 37), labels.shape)
        assert ((drawn > 0) == (labels == value)).all()
        assert sorted(p.area for p in polygons) == sorted(np.bincount(parts.ravel())[1:])
        assert len({(a, b) for a, b in zip(drawn.ravel(), parts.ravel(), strict=True)}) == count + 1


def test_corners_only_and_holes_kept(tmp_path: Path) -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:12, 3:23] = 1
    labels[4:8, 5:9] = 0
    labels[5:6, 6:7] = 1
    outer, inner = (polygon(m) for m in MASK.read(saved(tmp_path, labels), None).marks)
    assert outer.equals(Polygon(box(3, 2, 23, 12).exterior, [box(5, 4, 9, 8).exterior]))
    assert inner.equals(box(6, 5, 7, 6))
    assert [len(r.coords) for r in (outer.exterior, *outer.interiors, inner.exterior)] == [5, 5, 5]


def test_holes_that_touch_at_a_corner_stay_two(tmp_path: Path) -> None:
    labels = np.ones((6, 6), np.uint8)
    labels[2, 2] = labels[3, 3] = 0
    labels[0, 1] = labels[1, 0] = 0  # the corner pixel hangs on nothing
    marks = [polygon(m) for m in MASK.read(saved(tmp_path, labels), None).marks]
    assert all(p.is_valid for p in marks)
    assert sorted((p.area, len(p.interiors)) for p in marks) == [(1, 0), (31, 2)]


def test_an_empty_mask_and_the_whole_image(tmp_path: Path) -> None:
    assert MASK.read(saved(tmp_path, np.zeros((5, 5), np.uint16)), None).marks == ()
    (mark,) = MASK.read(saved(tmp_path, np.full((5, 7), 9, np.uint16)), None).marks
    assert polygon(mark).equals(box(0, 0, 7, 5))


def test_of_a_pyramid_level_0_is_read(tmp_path: Path) -> None:
    labels = np.kron(np.eye(8, dtype=np.uint8), np.ones((64, 64), np.uint8))
    path = tmp_path / "p.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(labels, subifds=1, tile=(128, 128), compression="zlib", photometric="minisblack")
        tiff.write(
            labels[::2, ::2], subfiletype=1, tile=(128, 128), compression="zlib", photometric="minisblack"
        )
    assert MASK.recognises(path)
    assert sum(polygon(m).area for m in MASK.read(path, None).marks) == labels.sum()


@pytest.mark.parametrize(
    ("info", "factors", "said"),
    [
        (slide(200, 160), (4, 4), "scaled by 4"),
        (slide(203, 161), (4, 4), "scaled by 4"),  # the last pixels were cut off
        (slide(50, 40), (1, 1), None),
        (slide(225, 180), (4.5, 4.5), "scaled by 4.5"),
        (slide(1000, 801, Level(50, 40, 20.0125)), (20.0125, 20.0125), "scaled by 20.0125"),
        (slide(200, 200), (1, 1), "no common factor"),
        (slide(25, 20), (1, 1), "no common factor"),
        (None, (1, 1), None),
    ],
)
def test_a_smaller_mask_is_scaled_to_the_slide(
    tmp_path: Path, info: SlideInfo | None, factors: tuple[float, float], said: str | None
) -> None:
    source = MASK.read(saved(tmp_path, np.ones((40, 50), np.uint8)), info)
    assert polygon(source.marks[0]).bounds == (0, 0, 50 * factors[0], 40 * factors[1])
    assert len(source.messages) == (said is not None)
    assert said is None or said in source.messages[0]


def test_what_is_no_mask_is_not_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for pixels, photometric in (
        (np.zeros((9, 9, 3), np.uint8), "rgb"),
        (np.zeros((9, 9), np.float32), "minisblack"),
    ):
        tifffile.imwrite(path, pixels, photometric=photometric)
        assert not MASK.recognises(path)
    path.write_bytes(b"II*\0nothing")
    assert not MASK.recognises(path)


def test_a_mask_too_large_or_of_noise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, np.kron(np.indices((20, 20)).sum(0) % 2, np.ones((2, 2))).astype(np.uint8))
    monkeypatch.setattr(_mask, "_MAX_SEGMENTS", 100)
    with pytest.raises(AnnotationError, match="a picture or noise"):
        MASK.read(path, None)
    monkeypatch.setattr(_mask, "_PIXELS_AT_ONCE", 1599)
    monkeypatch.setattr(_mask, "_MAX_PIXELS", 1599)
    with pytest.raises(
        AnnotationError, match=r"a\.tif has 1,600 pixels.* more than 1,599 is read tile by tile"
    ):
        MASK.read(path, None)


STORED: list[dict[str, Any]] = [
    {"tile": (64, 48), "compression": "zlib"},
    {"tile": (16, 16)},
    {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
    {"rowsperstrip": 50},
    {},  # one block of pixels, mapped into memory
    {"byteorder": ">"},
]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_tile_by_tile_is_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, Any], dtype: type
) -> None:
    if dtype is bool and "predictor" in stored:
        pytest.skip("no predictor for bits")
    rng = np.random.default_rng(3)
    labels = np.zeros((211, 190), np.uint16)
    for value in range(1, 30):
        y, x = rng.integers(0, 200, 2)
        labels[y : y + rng.integers(1, 90), x : x + rng.integers(1, 90)] = (
            value % 3 * (300 if value > 20 else 1)
        )
    labels[64:192, 48:144] = 1  # whole tiles of one label, within it
    labels[40:60, 20:80] = rng.integers(0, 2, (20, 60))
    path = saved(tmp_path, labels.astype(dtype), **stored)
    monkeypatch.setattr(_mask, "_WORKING_TILE", 1000)
    whole = MASK.read(path, None).marks
    monkeypatch.setattr(_mask, "_WORKING_TILE", 30)
    in_parts = MASK.read(path, None).marks
    monkeypatch.setattr(_mask, "_PIXELS_AT_ONCE", 0)
    by_tile = MASK.read(path, None).marks
    for other in (in_parts, by_tile):
        assert [m.where for m in other] == [m.where for m in whole]
        for a, b in zip(other, whole, strict=True):
            assert all((p == q).all() for p, q in zip(a.rings, b.rings, strict=True))


def test_a_mask_too_large_to_be_held_that_we_wrote_is_read_back(tmp_path: Path) -> None:
    """2.1 times as many pixels as are held at once: nearly all of its tiles are empty or of one label."""
    a = Polygon(box(100, 15_000, 9_000, 22_000).exterior, [box(600, 16_000, 700, 20_001).exterior])
    b = box(23_990, 23_995, 24_000, 24_000)
    info = slide(24_000, 24_000)
    assert MASK.write is not None
    MASK.write(
        tmp_path / "a.tif",
        Annotations((Region("1", "a", a), Region("2", "b", b)), format="drawn"),
        WriteOptions(slide=info),
    )
    assert info.width_px * info.height_px > _mask._PIXELS_AT_ONCE
    tracemalloc.start()
    marks = MASK.read(tmp_path / "a.tif", info).marks
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
    assert [(m.class_name, polygon(m).equals(g)) for m, g in zip(marks, (a, b), strict=True)] == [
        ("a", True),
        ("b", True),
    ]


def test_tiles_that_the_file_leaves_out_are_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    ones = zlib.compress(np.ones((16, 16), np.uint8).tobytes())
    tifffile.imwrite(
        path, iter([ones, b"", b"", ones]), shape=(32, 32), dtype=np.uint8, tile=(16, 16),
        compression="zlib", photometric="minisblack",
    )  # fmt: skip
    monkeypatch.setattr(_mask, "_PIXELS_AT_ONCE", 0)
    marks = MASK.read(path, None).marks
    assert [polygon(m).bounds for m in marks] == [(0, 0, 16, 16), (16, 16, 32, 32)]


def test_a_large_mask_that_is_damaged_or_not_tiled_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.kron(np.eye(8, dtype=np.uint8), np.ones((16, 16), np.uint8))
    path = saved(tmp_path, labels, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = b"damaged!"
    path.write_bytes(data)
    monkeypatch.setattr(_mask, "_PIXELS_AT_ONCE", 0)
    with pytest.raises(AnnotationError, match="cannot be decoded"):
        MASK.read(path, None)
    path = saved(tmp_path, labels, compression="zlib", rowsperstrip=128)
    monkeypatch.setattr(_mask, "_MAX_TILE_PIXELS", 1000)
    with pytest.raises(AnnotationError, match="Save it as a tiled TIFF of one page"):
        MASK.read(path, None)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    regions = (
        Region("1", "a", Polygon(box(10, 20, 700, 900).exterior, [box(100, 100, 200, 300).exterior])),
        Region("2", "b", box(600, 600, 800, 800)),
        Region("3", "a", box(-50, 850, 30, 2000)),
        Region("4", "b", Point(5, 5)),
    )
    info = slide(1030, 1100)
    labels = write(tmp_path / "a.tmp", *regions, slide=info)
    assert labels.shape == (1100, 1030)
    assert labels.dtype == np.uint8
    assert MASK.recognises(tmp_path / "a.tmp")
    source = MASK.read(tmp_path / "a.tmp", info)
    b = regions[1].geometry
    a = regions[0].geometry.union(regions[2].geometry).intersection(box(0, 0, 1030, 1100)).difference(b)
    assert [(m.class_name, polygon(m).equals(g)) for m, g in zip(source.marks, (a, b), strict=True)] == [
        ("a", True),
        ("b", True),
    ]
    assert (labels == 1).sum() == a.area
    assert source.colors["b"] == (1, 2, 3)
    assert set(source.colors) == {"a", "b"}
    with tifffile.TiffFile(tmp_path / "a.tmp") as tiff:
        assert (tiff.pages[0].tilewidth, tiff.pages[0].compression.name) == (512, "ADOBE_DEFLATE")


def test_without_a_slide_the_regions_are_the_extent_and_an_offset_comes_back(tmp_path: Path) -> None:
    labels = write(tmp_path / "a", Region("1", "a", box(100, 50, 130.5, 61.2)), offset_xy=(-90.0, -40.0))
    assert labels.shape == (22, 41)
    (mark,) = MASK.read(tmp_path / "a", None).marks
    assert polygon(mark).bounds == (100, 50, 130, 61)


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    labels = write(tmp_path / "a", *(Region(str(i), f"class {i}", box(i, 0, i + 1, 2)) for i in range(300)))
    assert labels.dtype == np.uint16
    assert labels.tolist() == [list(range(1, 301))] * 2


def test_what_a_mask_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="none of the 1 regions is one"):
        write(tmp_path / "a", Region("1", "a", Point(0, 0)))
    with pytest.raises(AnnotationError, match="which no slide has"):
        write(tmp_path / "a", Region("1", "a", box(0, 0, 1e9, 5)))
    with pytest.raises(AnnotationError, match="which no slide has"):
        write(tmp_path / "a", Region("1", "a", box(-9, -9, -5, -5)))


def test_our_own_scale_goes_before_the_slides(tmp_path: Path) -> None:
    described = '{"histolatent": {"classes": {"1": {"name": "t"}}, "downsample": 2, "offset": [5, 7]}}'
    path = saved(tmp_path, np.ones((10, 10), np.uint8), description=described, metadata=None)
    source = MASK.read(path, replace(slide(100, 100)))
    assert polygon(source.marks[0]).bounds == (5, 7, 25, 27)
    assert (source.marks[0].class_name, source.messages) == ("t", ())
