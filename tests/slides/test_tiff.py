from __future__ import annotations

import math
import os
import shutil
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
import pytest
import tifffile

from napari_histolatent.errors import SlideError
from napari_histolatent.slides import Level, _tiff
from napari_histolatent.slides._channels import Channel, added_up, window_of
from napari_histolatent.slides._tiff import TiffBackend, _jpeg_values, _stated_values, is_ome_tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

OME = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">{}</OME>"""
WHITE = (255, 255, 255)


def drawn(*shape: int, dtype: type = np.uint8, top: int | None = None, seed: int = 0) -> NDArray[Any]:
    """Soft waves and a little noise: what JPEG keeps well, and no two places alike."""
    height, width = shape[:2] if len(shape) == 2 or shape[-1] < 5 else shape[-2:]
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 3 * i)) + np.cos(y / (7 + 2 * i)) for i in range(math.prod(shape) // x.size)]
    values = (np.stack(waves, axis=-1) + 2) / 4 * 0.95
    values += np.random.default_rng(seed).uniform(0, 0.05, values.shape)
    values = values * (top or np.iinfo(dtype).max)
    if len(shape) == 2:
        return values[..., 0].astype(dtype)
    ordered = values if shape[-1] < 5 else np.moveaxis(values, -1, 0)
    return np.ascontiguousarray(ordered.reshape(shape).astype(dtype))


def opened(path: Path) -> TiffBackend:
    return TiffBackend(path, reason="a test")


def whole(backend: TiffBackend, level: int = 0) -> NDArray[np.uint8]:
    facts = backend.info.levels[level]
    return backend.read_level(level, (0, 0), (facts.width_px, facts.height_px))


def check_reads(backend: TiffBackend, level: int, expected: NDArray[np.uint8]) -> None:
    """Compare regions inside, at every corner and edge, and outside, with the whole level."""
    height, width = expected.shape[:2]
    facts = backend.info.levels[level]
    assert (facts.width_px, facts.height_px) == (width, height)
    np.testing.assert_array_equal(whole(backend, level), expected)
    margin = 40
    padded = np.empty((height + 2 * margin, width + 2 * margin, 3), np.uint8)
    padded[:] = backend.info.background
    padded[margin:-margin, margin:-margin] = expected
    size = 37, 29
    for x in (-margin, -5, 0, width // 2, width - size[0], width - 6, width + 1):
        for y in (-margin, -5, 0, height // 2, height - size[1], height - 6, height + 1):
            xy = round(x * facts.downsample), round(y * facts.downsample)
            at = tuple(round(v / facts.downsample) + margin for v in xy)
            if min(at) < 0 or at[0] + size[0] > padded.shape[1] or at[1] + size[1] > padded.shape[0]:
                continue
            pixels = backend.read_level(level, xy, size)
            assert pixels.shape == (29, 37, 3)
            assert pixels.dtype == np.uint8
            np.testing.assert_array_equal(pixels, padded[at[1] : at[1] + 29, at[0] : at[0] + 37])
    for far in [(-(10**9), 0), (10**9, 10**9)]:
        assert (backend.read_level(level, far, (4, 3)) == backend.info.background).all()


# Real files


@pytest.mark.parametrize(
    "name",
    [
        "HE_TMA_core.ome.tif",
        "fixtures/grey10kx5k.tif",
        "fixtures/test_orient3.tif",
        "fixtures/yb10kx5k.zstd.tiff",
        "fixtures/boxes.tiff",
        "CMU-1-Small-Region.svs",
        "TCGA-CR-7395-01A-01-TS1.svs",
    ],
)
def test_real_files_equal_tifffile(data_dir: Path, name: str) -> None:
    path = data_dir / "slides" / name
    backend = opened(path)
    with tifffile.TiffFile(path) as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
    assert len(backend.info.levels) == len(levels)
    for k, values in enumerate(levels):
        rgb = values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)
        check_reads(backend, k, rgb)


@pytest.mark.parametrize("name", ["fixtures/boxes.tiff", "CMU-1-Small-Region.svs"])
def test_pixels_and_downsamples_equal_openslide(data_dir: Path, name: str) -> None:
    path = data_dir / "slides" / name
    backend = opened(path)
    with openslide.OpenSlide(path) as slide:
        assert [v.downsample for v in backend.info.levels] == pytest.approx(list(slide.level_downsamples))
        for k, size in enumerate(slide.level_dimensions):
            direct = np.asarray(slide.read_region((0, 0), k, size))
            opaque = direct[..., 3] == 255
            np.testing.assert_array_equal(whole(backend, k)[opaque], direct[opaque][:, :3])


def test_facts_of_a_real_ome_tiff(data_dir: Path) -> None:
    info = opened(data_dir / "slides" / "HE_TMA_core.ome.tif").info
    assert (info.backend, info.vendor, info.backend_reason) == ("tifffile", "ome-tiff", "a test")
    assert info.levels == (Level(1380, 1484, 1.0),)
    assert (info.mpp_x, info.mpp_y) == pytest.approx((0.50008, 0.50008), abs=1e-5)
    assert info.mpp_source == "OME-XML"
    assert info.background == WHITE
    assert info.bounds == (0, 0, 1380, 1484)
    assert info.notes == ()


def test_facts_of_a_real_svs(data_dir: Path) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    backend = opened(path)
    info = backend.info
    assert (info.vendor, info.mpp_x, info.mpp_source, info.objective_power) == (
        "aperio",
        0.499,
        "slide metadata",
        20,
    )
    assert set(info.associated) == {"thumbnail", "label", "macro"}
    with openslide.OpenSlide(path) as slide:
        for name, image in slide.associated_images.items():
            np.testing.assert_array_equal(backend.read_associated(name), np.asarray(image)[..., :3])


def test_a_print_resolution_is_no_pixel_size(data_dir: Path) -> None:
    info = opened(data_dir / "slides" / "fixtures" / "grey10kx5k.tif").info
    assert (info.mpp_x, info.mpp_source) == (None, None)
    assert "72 dpi" in info.notes[0]


def test_a_colour_profile(data_dir: Path) -> None:
    backend = opened(data_dir / "slides" / "fixtures" / "boxes.tiff")
    profile = backend.icc_profile()
    assert backend.info.has_icc_profile
    assert profile is not None
    assert profile[36:40] == b"acsp"


# Written files


LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (32, 48)},
    "strips": {"rowsperstrip": 7},
    "one strip": {},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits"])
def test_lossless_rgb(
    tmp_path: Path, compression: str | None, byteorder: str, planar: str, layout: str
) -> None:
    values = drawn(101, 133, 3)
    stored = values if planar == "contig" else np.ascontiguousarray(values.transpose(2, 0, 1))
    options: dict[str, Any] = {"photometric": "rgb", "planarconfig": planar, "compression": compression}
    with tifffile.TiffWriter(tmp_path / "a.tif", byteorder=byteorder, bigtiff=byteorder == ">") as tiff:
        tiff.write(stored, **options, **LAYOUTS[layout], metadata=None)
    check_reads(opened(tmp_path / "a.tif"), 0, values)


@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_rgb_of_16_bits(tmp_path: Path, byteorder: str, compression: str | None, predictor: bool) -> None:
    values = drawn(60, 70, 3, dtype=np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif", byteorder=byteorder) as tiff:
        tiff.write(
            values,
            photometric="rgb",
            compression=compression,
            predictor=predictor if compression else None,
            tile=(16, 32),
            metadata=None,
        )
    check_reads(opened(tmp_path / "a.tif"), 0, (values >> 8).astype(np.uint8))


@pytest.mark.parametrize(("top", "shift"), [(250, 0), (1000, 2), (4000, 4), (16_000, 6), (60_000, 8)])
def test_rgb_of_as_many_bits_as_are_in_use(tmp_path: Path, top: int, shift: int) -> None:
    values = drawn(60, 70, 3, dtype=np.uint16, top=top)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    np.testing.assert_array_equal(whole(opened(tmp_path / "a.tif")), values >> shift)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "webp", "png", "jpegxl"])
@pytest.mark.parametrize("layout", ["tiles", "strips"])
@pytest.mark.parametrize("samples", [1, 3])
def test_picture_codecs(tmp_path: Path, compression: str, layout: str, samples: int) -> None:
    if compression == "webp" and samples == 1:
        pytest.skip("WebP is colour only")
    values = drawn(100, 130, 3) if samples == 3 else drawn(100, 130)
    chosen = {"tiles": {"tile": (32, 48)}, "strips": {"rowsperstrip": 32}}[layout]
    tifffile.imwrite(
        tmp_path / "a.tif",
        values,
        photometric="rgb" if samples == 3 else None,
        compression=compression,
        **chosen,
    )
    expected = tifffile.imread(tmp_path / "a.tif")
    assert np.abs(expected.astype(int) - values).mean() < 20
    rgb = expected if samples == 3 else np.repeat(expected[..., None], 3, axis=2)
    check_reads(opened(tmp_path / "a.tif"), 0, rgb)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_jpeg_with_colours_apart(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        drawn(100, 130, 3),
        photometric="rgb",
        compression="jpeg",
        subsampling=subsampling,
        tile=(64, 64),
    )
    check_reads(opened(tmp_path / "a.tif"), 0, tifffile.imread(tmp_path / "a.tif"))


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_opacity(tmp_path: Path, kind: str, dtype: type) -> None:
    values = drawn(50, 60, 4, dtype=dtype)
    values[:10, :10, 3] = 0
    values[:10, 10:20, 3] = np.iinfo(dtype).max
    if kind == "assocalpha":
        values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=[kind], tile=(16, 16))
    backend = opened(tmp_path / "a.tif")
    eight = values if dtype is np.uint8 else values >> 8
    opacity = eight[..., 3:] / 255
    own = eight[..., :3] * (1 if kind == "assocalpha" else opacity)
    pixels = whole(backend)
    np.testing.assert_allclose(pixels, own + 255 * (1 - opacity), atol=1)
    assert (pixels[:10, :10] == 255).all()
    np.testing.assert_array_equal(pixels[:10, 10:20], eight[:10, 10:20, :3])


def test_a_fourth_sample_that_is_no_opacity(tmp_path: Path) -> None:
    values = drawn(50, 60, 4)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(whole(opened(tmp_path / "a.tif")), values[..., :3])


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_of_8_bits(tmp_path: Path, photometric: str) -> None:
    values = drawn(50, 60)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, tile=(16, 16))
    grey = values if photometric == "minisblack" else 255 - values
    backend = opened(tmp_path / "a.tif")
    check_reads(backend, 0, np.repeat(grey[..., None], 3, axis=2))
    assert backend.info.background == WHITE


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_of_16_bits_has_a_window(tmp_path: Path, photometric: str) -> None:
    values = drawn(50, 60, dtype=np.uint16, top=3000)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, tile=(16, 16))
    counts = values if photometric == "minisblack" else 65_535 - values
    window = window_of(counts)
    assert window is not None
    expected = added_up(counts[..., None], [Channel("", WHITE, window)])
    backend = opened(tmp_path / "a.tif")
    check_reads(backend, 0, expected)
    assert backend.info.background == (0, 0, 0)
    assert backend.info.notes[0].startswith("The brightness is windowed: channel 1 in grey (window ")


def test_a_palette(tmp_path: Path) -> None:
    values = drawn(50, 60)
    colors = np.random.default_rng(0).integers(0, 65_536, (3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="palette", colormap=colors, tile=(16, 16))
    check_reads(opened(tmp_path / "a.tif"), 0, (colors.T[values] >> 8).astype(np.uint8))


def test_segments_that_are_missing_are_background(tmp_path: Path) -> None:
    values = drawn(64, 64, 3)
    tiles = [zlib.compress(v) for v in (values[:32, :32].tobytes(), values[32:, 32:].tobytes())]
    tifffile.imwrite(
        tmp_path / "a.tif",
        iter([tiles[0], b"", b"", tiles[1]]),
        compression="deflate",
        shape=(64, 64, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(32, 32),
    )
    expected = values.copy()
    expected[:32, 32:] = expected[32:, :32] = 255
    check_reads(opened(tmp_path / "a.tif"), 0, expected)


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "int8", "int16", "uint32", "int32", "complex64", "bool"]
)
def test_other_kinds_of_samples_are_refused(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", drawn(50, 64).astype(dtype), photometric="minisblack")
    with pytest.raises(SlideError, match=r"^a\.tif is not a TIFF that can be opened \(its samples .*convert"):
        opened(tmp_path / "a.tif")


@pytest.mark.parametrize("photometric", ["separated", "cielab"])
def test_other_colours_are_refused(tmp_path: Path, photometric: str) -> None:
    samples = 4 if photometric == "separated" else 3
    tifffile.imwrite(tmp_path / "a.tif", drawn(50, 60, samples), photometric=photometric)
    with pytest.raises(SlideError, match=r"its colours are of the kind \d with \d samples.*convert it"):
        opened(tmp_path / "a.tif")


# Pixel size


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp", "source"),
    [
        ((20_000, 40_000), "CENTIMETER", (0.5, 0.25), "TIFF resolution tags"),
        ((25_400, 25_400), "INCH", (1.0, 1.0), "TIFF resolution tags"),
        ((20_000, 20_000), "NONE", (None, None), None),
        ((300, 300), "INCH", (None, None), None),
        ((0, 0), "INCH", (None, None), None),
    ],
)
def test_resolution_tags(
    tmp_path: Path,
    resolution: tuple[int, int],
    unit: str,
    mpp: tuple[float | None, float | None],
    source: str | None,
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", drawn(20, 20, 3), photometric="rgb", resolution=resolution, resolutionunit=unit
    )
    info = opened(tmp_path / "a.tif").info
    assert ((info.mpp_x, info.mpp_y), info.mpp_source) == (mpp, source)


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [
        ("250", "nm", 0.25),
        ("0.00025", "mm", 0.25),
        ("0.25", "µm", 0.25),
        ("1", "pixel", None),
        ("x", "nm", None),
    ],
)
def test_units_of_ome_xml(tmp_path: Path, size: str, unit: str, mpp: float | None) -> None:
    write_ome(
        tmp_path / "a.ome.tif",
        [drawn(20, 30, 3)],
        f'PhysicalSizeX="{size}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="{size}" PhysicalSizeYUnit="{unit}"',
    )
    info = opened(tmp_path / "a.ome.tif").info
    assert info.mpp_x == (None if mpp is None else pytest.approx(mpp))
    assert info.mpp_source == (None if mpp is None else "OME-XML")


# OME-TIFF and pyramids


def write_ome(
    path: Path,
    planes: list[NDArray[Any]],
    facts: str = "",
    inner: str = "",
    *,
    samples: int = 3,
    sizes: str = 'SizeC="3" SizeZ="1" SizeT="1"',
    order: str = "XYCZT",
    levels: int = 1,
    more: str = "",
) -> Path:
    """Write planes in order, each with its pyramid in SubIFDs, under OME-XML."""
    height, width = planes[0].shape[:2]
    channels = inner or f'<Channel ID="Channel:0:0" SamplesPerPixel="{samples}"/><TiffData/>'
    xml = OME.format(
        f'<Image ID="Image:0" Name="slide"><Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint8" '
        f'SizeX="{width}" SizeY="{height}" {sizes} {facts}>{channels}</Pixels></Image>{more}'
    )
    with tifffile.TiffWriter(path) as tiff:
        for i, plane in enumerate(planes):
            kind = "rgb" if plane.ndim == 3 else "minisblack"
            tiff.write(
                plane,
                photometric=kind,
                tile=(32, 32),
                description=xml.encode() if i == 0 else None,
                metadata=None,
                subifds=levels - 1,
            )
            for k in range(1, levels):
                tiff.write(
                    np.ascontiguousarray(plane[:: 2**k, :: 2**k]),
                    photometric=kind,
                    tile=(32, 32),
                    metadata=None,
                    subfiletype=1,
                )
    return path


def test_an_ome_pyramid(tmp_path: Path) -> None:
    values = drawn(101, 150, 3)
    backend = opened(write_ome(tmp_path / "a.ome.tif", [values], levels=3))
    assert [(v.width_px, v.height_px) for v in backend.info.levels] == [(150, 101), (75, 51), (38, 26)]
    assert backend.info.levels[1].downsample == pytest.approx((150 / 75 + 101 / 51) / 2)
    for k in range(3):
        check_reads(backend, k, values[:: 2**k, :: 2**k])


def test_a_pyramid_of_pages(tmp_path: Path) -> None:
    values = drawn(120, 160, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for k in range(3):
            tiff.write(
                np.ascontiguousarray(values[:: 2**k, :: 2**k]),
                photometric="rgb",
                tile=(32, 32),
                description=None if k else "",
                metadata=None,
            )
        tiff.write(drawn(50, 60, 3), photometric="rgb", description="label 60x50", metadata=None)
        tiff.write(drawn(40, 60, 3), photometric="rgb", description="macro 60x40", metadata=None)
    backend = opened(tmp_path / "a.tif")
    assert [v.width_px for v in backend.info.levels] == [160, 80, 40]
    assert backend.info.associated == ("label", "macro")
    np.testing.assert_array_equal(backend.read_associated("label"), drawn(50, 60, 3))
    for k in range(3):
        check_reads(backend, k, values[:: 2**k, :: 2**k])


def test_the_largest_image_is_the_slide_and_named_ones_are_associated(tmp_path: Path) -> None:
    small, large, other = drawn(30, 40, 3), drawn(90, 80, 3), drawn(20, 20, 3)
    images = "".join(
        f'<Image ID="Image:{i}" Name="{name}"><Pixels DimensionOrder="XYCZT" Type="uint8" SizeX="{v.shape[1]}" '
        f'SizeY="{v.shape[0]}" SizeC="3" SizeZ="1" SizeT="1"><Channel SamplesPerPixel="3"/>'
        f'<TiffData IFD="{i}"/></Pixels></Image>'
        for i, (name, v) in enumerate([("label image", small), ("scan", large), ("stray", other)])
    )
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        for i, v in enumerate([small, large, other]):
            description = None if i else OME.format(images).encode()
            tiff.write(v, photometric="rgb", description=description, metadata=None)
    backend = opened(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(whole(backend), large)
    assert backend.info.associated == ("label",)
    np.testing.assert_array_equal(backend.read_associated("label"), small)
    assert "the largest is shown (scan)" in " ".join(backend.info.notes)


@pytest.mark.parametrize("order", ["XYCZT", "XYZCT", "XYZTC"])
def test_channels_of_the_middle_plane(tmp_path: Path, order: str) -> None:
    """Written as tifffile does, so that its order of planes and ours are compared."""
    sizes = {"C": 2, "Z": 3, "T": 2}
    cube = {
        (c, z, t): drawn(40, 50, dtype=np.uint16, seed=c * 6 + z * 2 + t)
        for c in range(2)
        for z in range(3)
        for t in range(2)
    }
    slowest, middle, fastest = order[4], order[3], order[2]
    planes = []
    for i in range(sizes[slowest]):
        for j in range(sizes[middle]):
            for k in range(sizes[fastest]):
                at = {slowest: i, middle: j, fastest: k}
                planes.append(cube[at["C"], at["Z"], at["T"]])
    inner = '<Channel Name="DAPI" Color="65535"/><Channel Name="FITC" Color="16711935"/><TiffData/>'
    backend = opened(
        write_ome(
            tmp_path / "a.ome.tif",
            planes,
            inner=inner,
            sizes='SizeC="2" SizeZ="3" SizeT="2"',
            order=order,
            levels=2,
        )
    )
    shown = np.stack([cube[c, 1, 0] for c in range(2)], axis=-1)
    windows = [window_of(shown[::2, ::2, i]) or (0, 0) for i in range(2)]
    channels = [Channel("DAPI", (0, 0, 255), windows[0]), Channel("FITC", (0, 255, 0), windows[1])]
    check_reads(backend, 0, added_up(shown, channels))
    check_reads(backend, 1, added_up(shown[::2, ::2], channels))
    assert backend.info.background == (0, 0, 0)
    notes = " ".join(backend.info.notes)
    assert "z plane 2 of 3 and time point 1 of 2" in notes
    assert "DAPI in blue" in notes
    assert "FITC in green" in notes


def test_red_green_and_blue_planes_are_one_picture(tmp_path: Path) -> None:
    values = drawn(40, 50, 3)
    colors = [-16776961, 16711935, 65535]  # RGBA in 32 bits with sign
    inner = "".join(f'<Channel Color="{c}"/>' for c in colors) + "<TiffData/>"
    path = write_ome(
        tmp_path / "a.ome.tif", [np.ascontiguousarray(values[..., i]) for i in range(3)], inner=inner
    )
    check_reads(opened(path), 0, values)


def test_significant_bits_are_believed(tmp_path: Path) -> None:
    values = drawn(40, 50, 3, dtype=np.uint16, top=900)
    path = write_ome(tmp_path / "a.ome.tif", [values], 'SignificantBits="12"')
    np.testing.assert_array_equal(whole(opened(path)), values >> 4)


def test_the_objective(tmp_path: Path) -> None:
    settings = '<Image ID="I"><ObjectiveSettings ID="O"/><Pixels DimensionOrder="XYCZT" SizeX="60" SizeY="50" SizeC="3" SizeZ="1" SizeT="1"><TiffData/></Pixels></Image>'
    xml = OME.format(f'<Instrument><Objective ID="O" NominalMagnification="40.0"/></Instrument>{settings}')
    tifffile.imwrite(
        tmp_path / "a.ome.tif", drawn(50, 60, 3), photometric="rgb", description=xml.encode(), metadata=None
    )
    assert opened(tmp_path / "a.ome.tif").info.objective_power == 40


def test_more_channels_than_are_shown(tmp_path: Path) -> None:
    planes = [drawn(30, 30, dtype=np.uint16, seed=i) for i in range(11)]
    inner = '<Channel Name="a"/>' * 11 + "<TiffData/>"
    path = write_ome(tmp_path / "a.ome.tif", planes, inner=inner, sizes='SizeC="11" SizeZ="1" SizeT="1"')
    assert opened(path).info.notes[0].endswith("3 more are left out.")


def test_channels_of_imagej(tmp_path: Path) -> None:
    values = drawn(3, 40, 50, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, metadata={"axes": "CYX"})
    note = opened(tmp_path / "a.tif").info.notes[0]
    assert note.startswith("Channels are added up: channel 1 in blue")
    assert "channel 3 in red" in note


def test_channels_of_a_qptiff(tmp_path: Path) -> None:
    """Akoya's: each size as many grey pages as channels, a thumbnail in colour between."""
    planes = [drawn(96, 128, dtype=np.uint16, seed=i, top=900 + 500 * i) for i in range(3)]
    said = b"<PerkinElmer-QPI-ImageDescription></PerkinElmer-QPI-ImageDescription>"
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for plane in planes:
            tiff.write(plane, photometric="minisblack", tile=(32, 32), description=said, metadata=None)
        tiff.write(drawn(48, 64, 3), photometric="rgb", metadata=None)
        for plane in planes:
            tiff.write(
                np.ascontiguousarray(plane[::2, ::2]), photometric="minisblack", tile=(32, 32), metadata=None
            )
    backend = opened(tmp_path / "a.tif")
    assert [v.width_px for v in backend.info.levels] == [128, 64]
    values = np.stack(planes, axis=-1)
    colors = [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
    channels = [
        Channel("", color, window_of(values[::2, ::2, i]) or (0, 0)) for i, color in enumerate(colors)
    ]
    check_reads(backend, 0, added_up(values, channels))
    check_reads(backend, 1, added_up(values[::2, ::2], channels))


def test_of_pages_of_one_size_the_first_is_shown(tmp_path: Path) -> None:
    values = drawn(30, 40, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for plane in (values, values[::-1], values[:, ::-1]):
            tiff.write(np.ascontiguousarray(plane), photometric="rgb", metadata=None)
    backend = opened(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(backend), values)
    assert backend.info.notes == ("Of 3 pages of this size, 1 is shown.",)


def test_a_page_of_another_shape_is_no_level(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for shape in ((2000, 1000, 3), (200, 115, 3), (250, 125, 3)):
            tiff.write(np.full(shape, 9, np.uint8), photometric="rgb", tile=(64, 64), metadata=None)
    assert [v.width_px for v in opened(tmp_path / "a.tif").info.levels] == [1000, 125]


def test_a_page_that_cannot_be_shown_leaves_the_others(tmp_path: Path) -> None:
    values = drawn(30, 40, 3)
    for first, path in ((True, tmp_path / "a.tif"), (False, tmp_path / "b.tif")):
        with tifffile.TiffWriter(path) as tiff:
            if first:
                tiff.write(values, photometric="rgb", metadata=None)
            tiff.write(drawn(20, 30).astype(np.float32), photometric="minisblack", metadata=None)
            if not first:
                tiff.write(values, photometric="rgb", metadata=None)
    backend = opened(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(backend), values)
    assert backend.info.notes[0].startswith("Page 2 is left out (its samples are of 32 bits")
    with pytest.raises(SlideError, match="its samples are of 32 bits"):
        opened(tmp_path / "b.tif")


def test_a_large_level_has_windows_of_blocks(tmp_path: Path) -> None:
    values = np.zeros((2100, 2200), np.uint16)
    values[:, ::2] = 1000
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", rowsperstrip=64)
    first, again = opened(tmp_path / "a.tif"), opened(tmp_path / "a.tif")
    assert first.info.notes == again.info.notes
    assert "window 0 to 1000" in first.info.notes[0]
    assert first.read_level(0, (0, 0), (2, 1)).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize(
    "xml",
    [
        OME.format("<Image>"),
        '<!DOCTYPE a [<!ENTITY b "c">]>' + OME.format("&b;").partition("?>")[2],
        OME.format('<Image><Pixels SizeX="-1" SizeY="5"/></Image>'),
        OME.format('<Image><Pixels SizeX="many" SizeY="5"/></Image>'),
    ],
)
def test_ome_xml_that_cannot_be_used(tmp_path: Path, xml: str) -> None:
    values = drawn(30, 30, 3)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", description=xml.encode(), metadata=None)
    backend = opened(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(backend), values)
    assert "Its OME-XML cannot be used" in backend.info.notes[0]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ('<TiffData IFD="0" PlaneCount="1"><UUID>urn:uuid:2</UUID></TiffData>', "spread over several files"),
        ('<TiffData IFD="9999999999"/>', "names the directory 9999999999"),
        ('<TiffData IFD="5"/>', r"can be opened \(.+\)"),
        ('<TiffData FirstC="7"/>', "does not say where channel 0"),
    ],
)
def test_planes_that_are_elsewhere(tmp_path: Path, data: str, sentence: str) -> None:
    path = write_ome(
        tmp_path / "a.ome.tif", [drawn(30, 30, 3)], inner='<Channel SamplesPerPixel="3"/>' + data
    )
    with pytest.raises(SlideError, match=sentence):
        opened(path)


def test_what_is_an_ome_tiff(tmp_path: Path, data_dir: Path, tiny_slide: Path) -> None:
    assert is_ome_tiff(data_dir / "slides" / "HE_TMA_core.ome.tif")
    assert not is_ome_tiff(tiny_slide)
    assert not is_ome_tiff(tmp_path / "nowhere.tif")
    for content in (b"", b"II*\0", b"II*\0\x08\0\0\0", b"II+\0" + b"\xff" * 40, os.urandom(500)):
        (tmp_path / "junk.tif").write_bytes(content)
        assert not is_ome_tiff(tmp_path / "junk.tif")


# Threads


def pyramid(path: Path, compression: str = "jpeg") -> Path:
    values = drawn(400, 500, 3)
    with tifffile.TiffWriter(path) as tiff:
        for k in range(3):
            tiff.write(
                np.ascontiguousarray(values[:: 2**k, :: 2**k]),
                photometric="rgb",
                compression=compression,
                tile=(64, 64),
                metadata=None,
            )
    return path


@pytest.mark.parametrize("compression", ["jpeg", "deflate", None])
def test_threads_read_what_one_reads(tmp_path: Path, compression: str) -> None:
    backend = opened(pyramid(tmp_path / "a.tif", compression))
    boxes = [(k, (x, y)) for k in range(3) for x in range(-20, 500, 83) for y in range(-20, 400, 71)]
    alone = [backend.read_level(k, xy, (90, 80)) for k, xy in boxes]
    backend.close()
    stop = threading.Event()

    def close_again_and_again() -> None:
        while not stop.wait(0.002):
            backend.close()

    closing = threading.Thread(target=close_again_and_again)
    closing.start()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda v: backend.read_level(v[0], v[1], (90, 80)), boxes * 3))
    stop.set()
    closing.join()
    for a, b in zip(alone * 3, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_strip_is_decoded_once_for_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = drawn(64, 300, 3)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression="deflate", rowsperstrip=64)
    backend = opened(tmp_path / "a.tif")
    decoded: list[int] = []
    original = _tiff._Page.decoded

    def counting(page: Any, file: Any, index: int) -> Any:
        decoded.append(index)
        return original(page, file, index)

    monkeypatch.setattr(_tiff._Page, "decoded", counting)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda x: backend.read_level(0, (x, 0), (20, 64)), range(0, 300, 20)))
    assert decoded == [0]


def test_a_strip_larger_than_the_cache_is_still_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tiff, "_SEGMENT_CACHE_BYTES", 1000)
    values = drawn(64, 300, 3)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression="deflate", rowsperstrip=64)
    backend = opened(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(backend), values)
    assert backend._source._large is not None
    backend.close()
    assert backend._source._large is None


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts the open files as Linux lists them")
def test_close_releases_the_file_and_a_read_opens_it_again(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.tif")

    def times_open() -> int:
        links = Path("/proc/self/fd").iterdir()
        count = 0
        for link in links:
            with suppress(OSError):
                count += link.readlink() == path
        return count

    backend = opened(path)
    before = whole(backend)
    assert times_open() == 1
    backend.close()
    assert times_open() == 0
    np.testing.assert_array_equal(whole(backend), before)
    assert times_open() == 1
    backend.close()
    backend.close()


def test_windows_reads_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = opened(pyramid(tmp_path / "a.tif"))
    before = whole(backend)
    backend.close()
    monkeypatch.delattr(os, "pread")
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda y: backend.read_level(0, (0, y), (500, 20)), range(0, 400, 20)))
    np.testing.assert_array_equal(np.concatenate(rows), before)


# Damage


def patched(path: Path, tag: int, value: int) -> None:
    """Overwrite the value of a tag of the first directory (little-endian, classic, one number)."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages.first.tags[tag]
    kind = {3: "<H", 4: "<I"}[int(found.dtype)]
    struct.pack_into(kind, data, found.valueoffset, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("tag", "value", "sentence"),
    [
        (256, 0, "."),
        (256, (1 << 32) - 1, "a size of 4294967295"),
        (257, (1 << 31) - 1, "strips or tiles|lists"),
        (322, 0, "."),
        (322, 60_000, "."),
        (322, 1, "lists|strips or tiles"),
        (277, 60_000, "."),
        (259, 65_000, "."),
        (259, 12_345, "."),
        (317, 77, "."),
    ],
)
def test_hostile_numbers(tmp_path: Path, tag: int, value: int, sentence: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        drawn(64, 64, 3),
        photometric="rgb",
        compression="deflate",
        predictor=True,
        tile=(32, 32),
        metadata=None,
    )
    with tifffile.TiffFile(path) as tiff:
        narrow = int(tiff.pages.first.tags[tag].dtype) == 3
    if narrow and value > 65_535:
        value, sentence = 65_535, "."
    patched(path, tag, value)
    with pytest.raises(SlideError, match=sentence) as caught:
        opened(path).read_level(0, (0, 0), (10, 10))
    assert str(caught.value).startswith("a.tif ")


def test_one_compressed_strip_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, drawn(64, 64), compression="deflate", rowsperstrip=64, metadata=None)
    for tag in (256, 257, 278):
        with suppress(struct.error):
            patched(path, tag, 50_000)
    with pytest.raises(
        SlideError, match=r"strip or tile of 50000 x 50000 px is too large.*convert it to a tiled"
    ):
        opened(path)


def test_a_picture_in_a_segment_that_says_it_is_huge() -> None:
    sof = b"\xff\xc0\x00\x11\x08" + struct.pack(">HHB", 65_000, 64_000, 3)
    assert _jpeg_values(b"\xff\xd8\xff\xe0\x00\x04ab" + sof + b"\0" * 20) == 65_000 * 64_000 * 3
    assert _jpeg_values(b"\xff\xd8\xff\xff" + sof + b"\0" * 20) == 65_000 * 64_000 * 3
    assert _jpeg_values(b"\xff\xd8") == 0
    siz = b"\xff\x4f\xff\x51\x00\x2f\x00\x00" + struct.pack(">8I", 90_000, 80_000, 0, 0, 1, 1, 0, 0)
    assert _stated_values(siz + b"\x00\x03" + b"\0" * 9, 33005) == 90_000 * 80_000 * 3
    assert _stated_values(b"\x89PNG" + b"\0" * 12 + struct.pack(">II", 7, 9) + b"\0" * 9, 34933) == 4 * 63
    assert _stated_values(b"anything", 8) == 0


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "deflate", "lzw", "zstd", None])
@pytest.mark.parametrize("seed", range(6))
def test_corrupted_copies_only_ever_raise_slide_errors(
    tmp_path: Path, compression: str | None, seed: int
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        drawn(128, 128, 3),
        photometric="rgb",
        compression=compression,
        tile=(32, 32),
        description="slide",
    )
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    # Half of them in the directory, where most can go wrong.
    with tifffile.TiffFile(path) as tiff:
        directory = tiff.pages.first.offset
    for place in rng.integers(directory, min(len(data), directory + 250), 3 * (seed % 2)):
        data[place] = rng.integers(0, 256)
    for place in rng.integers(8, len(data), 40 * ((seed + 1) % 2)):
        data[place] = rng.integers(0, 256)
    path.write_bytes(data)
    with suppress(SlideError):
        backend = opened(path)
        for k in range(len(backend.info.levels)):
            for y in range(0, 128, 32):
                with suppress(SlideError):
                    backend.read_level(k, (0, y), (128, 32))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.99])
def test_a_file_that_was_cut(tmp_path: Path, share: float) -> None:
    whole_file = pyramid(tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole_file[: int(len(whole_file) * share)])

    def read_all() -> None:
        backend = opened(tmp_path / "cut.tif")
        for level in range(len(backend.info.levels)):
            whole(backend, level)

    with pytest.raises(SlideError, match=r"^cut\.tif (opens, but|is not a TIFF)"):
        read_all()


def test_a_cut_file_opens_as_far_as_its_directory_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = drawn(128, 128, 3)
    tifffile.imwrite(path, values, photometric="rgb", tile=(32, 32))
    data = path.read_bytes()
    path.write_bytes(data[:-10_000])
    backend = opened(path)
    np.testing.assert_array_equal(backend.read_level(0, (0, 0), (64, 32)), values[:32, :64])
    with pytest.raises(
        SlideError, match=r"a\.tif opens, but its pixels at x=100, y=100 cannot be read \(it ends at byte"
    ):
        backend.read_level(0, (100, 100), (8, 8))


def test_damage_in_one_tile_leaves_the_others(data_dir: Path) -> None:
    backend = opened(data_dir / "slides" / "fixtures" / "unreadable.svs")
    with pytest.raises(
        SlideError, match=r"unreadable\.svs opens, but its pixels at x=3, y=4 cannot be read \(.+\)"
    ):
        backend.read_level(0, (3, 4), (8, 8))


@pytest.mark.parametrize(
    "content", [b"", b"no TIFF", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08\0\1" + b"\xff" * 20]
)
def test_junk_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk.tif").write_bytes(content)
    with pytest.raises(
        SlideError, match=r"^junk\.tif is not a TIFF that can be opened \(.+\); copy it again"
    ):
        opened(tmp_path / "junk.tif")


def test_a_directory_that_follows_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, drawn(32, 32, 3), photometric="rgb", metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first.offset
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    path.write_bytes(data)
    with suppress(SlideError):
        assert whole(opened(path)).shape == (32, 32, 3)


def test_deleted_while_open(tmp_path: Path) -> None:
    backend = opened(pyramid(tmp_path / "a.tif"))
    (tmp_path / "a.tif").unlink()
    with pytest.raises(SlideError, match=r"a\.tif cannot be reached any more \(No such file"):
        backend.read_level(0, (0, 0), (8, 8))


def test_replaced_while_open(tmp_path: Path) -> None:
    backend = opened(pyramid(tmp_path / "a.tif"))
    pyramid(tmp_path / "b.tif", "deflate")
    shutil.move(tmp_path / "b.tif", tmp_path / "a.tif")
    with pytest.raises(SlideError, match=r"a\.tif was replaced by another file while it was open"):
        backend.read_level(0, (0, 0), (8, 8))
    with pytest.raises(SlideError, match="was replaced"):
        backend.read_associated("label")
