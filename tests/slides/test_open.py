"""Which backend is chosen for what, and the reason that is kept."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from napari_histolatent.errors import SlideError
from napari_histolatent.slides import open_slide
from tests.slides.test_every_file import is_one_sentence
from tests.slides.test_ome_zarr import write_image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def zarr_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    return write_image(tmp_path / "image.zarr", [rng.integers(0, 256, (3, 64, 64), np.uint8)])


def plain_tiff(path: Path, **options: object) -> Path:
    rng = np.random.default_rng(0)
    tifffile.imwrite(path, rng.integers(0, 256, (64, 64, 3), np.uint8), photometric="rgb", **options)
    return path


@pytest.mark.parametrize(
    ("name", "backend", "reason"),
    [
        ("CMU-1-Small-Region.svs", "openslide", "OpenSlide reads it"),
        ("fluorescence_DAPI.ndpi", "openslide", "OpenSlide reads it"),
        ("camelyon_lowres.dcm", "openslide", "OpenSlide reads it"),
        ("fixtures/boxes.tiff", "openslide", "OpenSlide reads it"),
        ("fixtures/yb10kx5k.zstd.tiff", "openslide", "OpenSlide reads it"),
        ("HE_TMA_core.ome.tif", "tifffile", "an OME-TIFF: tifffile reads it with its OME-XML"),
        (
            "fixtures/grey10kx5k.tif",
            "tifffile",
            "OpenSlide refused it (Unsupported or missing image file); tifffile reads it",
        ),
    ],
)
def test_the_backend_and_why(data_dir: Path, name: str, backend: str, reason: str) -> None:
    with open_slide(data_dir / "slides" / name) as slide:
        assert (slide.info.backend, slide.info.backend_reason) == (backend, reason)
        assert slide.info.to_json()["backend_reason"] == reason


def test_a_plain_picture_is_read_by_tifffile(tmp_path: Path) -> None:
    with open_slide(plain_tiff(tmp_path / "a.tif")) as slide:
        assert slide.info.backend == "tifffile"
        assert slide.info.backend_reason.startswith("OpenSlide refused it (")


def test_the_content_decides_and_not_the_name(tmp_path: Path, data_dir: Path) -> None:
    shutil.copyfile(data_dir / "slides" / "HE_TMA_core.ome.tif", tmp_path / "core.svs")
    with open_slide(tmp_path / "core.svs") as slide:
        assert slide.info.vendor == "ome-tiff"
    plain_tiff(tmp_path / "picture.scn")
    with open_slide(tmp_path / "picture.scn") as slide:
        assert slide.info.backend == "tifffile"


def test_an_ome_tiff_that_tifffile_cannot_use_goes_to_openslide(tmp_path: Path) -> None:
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a"><Image><Pixels '
        'SizeX="64" SizeY="64" SizeZ="1" SizeC="3" SizeT="1" Type="uint8" DimensionOrder="XYCZT">'
        '<Channel SamplesPerPixel="3"/><TiffData><UUID>urn:uuid:b</UUID></TiffData></Pixels></Image></OME>'
    )
    plain_tiff(tmp_path / "a.tif", tile=(32, 32), description=xml, metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.info.backend == "openslide"
        assert slide.info.backend_reason == "tifffile refused it (its pixels are spread over several files)"


def channels_tiff(path: Path, *, sizes: tuple[int, ...], dtype: str, description: str | None) -> Path:
    """Write three grey pages of each size, tiled: OpenSlide opens it as a generic TIFF."""
    rng = np.random.default_rng(0)
    with tifffile.TiffWriter(path) as tiff:
        for size in sizes:
            for channel in range(3):
                values = (rng.integers(0, 200, (size, size)) // (channel + 1)).astype(dtype)
                tiff.write(
                    values,
                    tile=(64, 64),
                    photometric="minisblack",
                    description=description,
                    subfiletype=int(size < sizes[0]),
                    metadata=None,
                )
    return path


QPTIFF = "<PerkinElmer-QPI-ImageDescription></PerkinElmer-QPI-ImageDescription>"


@pytest.mark.parametrize(
    ("sizes", "dtype", "description", "overlooked", "note"),
    [
        ((256, 128), "uint8", QPTIFF, "its pages for planes, not levels", "Channels are added up: "),
        (
            (256, 128),
            "uint8",
            None,
            "its pages for planes, not levels",
            "Of 3 pages of this size, 1 is shown.",
        ),
        ((256,), "uint8", QPTIFF, "all of its channels", "Channels are added up: "),
        ((256,), "uint16", QPTIFF, "which of its 16 bits are in use", "Channels are added up: "),
    ],
)
def test_planes_are_not_taken_for_levels(
    tmp_path: Path, sizes: tuple[int, ...], dtype: str, description: str | None, overlooked: str, note: str
) -> None:
    path = channels_tiff(tmp_path / "a.tif", sizes=sizes, dtype=dtype, description=description)
    with open_slide(path) as slide:
        assert slide.info.backend == "tifffile"
        assert slide.info.backend_reason == f"OpenSlide reads it too, but tifffile knows {overlooked}"
        assert [v.width_px for v in slide.info.levels] == list(sizes)
        assert slide.info.notes[0].startswith(note)


@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_12_of_16_bits_are_not_shown_black(tmp_path: Path, photometric: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (128, 128, 3)[: 3 if photometric == "rgb" else 2])
    tifffile.imwrite(
        tmp_path / "a.tif", values.astype(np.uint16), photometric=photometric, tile=(64, 64), metadata=None
    )
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.info.backend == "tifffile"
        assert 110 < slide.read_region((0, 0), size_px=(128, 128), level=0).mean() < 145


def test_pages_that_tifffile_cannot_use_either_stay_with_openslide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent.slides import _tiff

    def refuse(*_: object, **__: object) -> None:
        msg = "no."
        raise SlideError(msg)

    monkeypatch.setattr(_tiff, "TiffBackend", refuse)
    path = channels_tiff(tmp_path / "a.tif", sizes=(256,), dtype="uint16", description=None)
    with open_slide(path) as slide:
        assert (slide.info.backend, slide.info.backend_reason) == ("openslide", "OpenSlide reads it")


def test_what_nobody_reads_is_said_by_both(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.float32))
    with pytest.raises(SlideError) as caught:
        open_slide(tmp_path / "a.tif")
    text = str(caught.value)
    assert is_one_sentence(text)
    assert text.startswith("a.tif is not a slide that can be opened (OpenSlide: ")
    assert "; as a plain TIFF: its samples are of 32 bits, kind float32; " in text
    assert text.endswith("); check that the file is complete, or convert it to a tiled TIFF.")


def test_a_zarr_folder(zarr_folder: Path) -> None:
    with open_slide(zarr_folder) as slide:
        assert slide.info.backend == "zarr"
        assert slide.info.backend_reason == "a folder with Zarr metadata: OME-Zarr"
        assert slide.info.location == str(zarr_folder)


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_url_of_a_local_folder_or_file_is_its_path(
    zarr_folder: Path, cmu_slide: Path, slash: str
) -> None:
    with open_slide(f"file://{cmu_slide}") as slide:
        assert slide.info.backend == "openslide"
    with open_slide(f"file://{zarr_folder}{slash}") as slide:
        assert slide.info.backend == "zarr"
        assert slide.info.url is None
        assert slide.info.path == zarr_folder
        assert slide.read_region((0, 0), size_px=(8, 8), level=0).shape == (8, 8, 3)


@pytest.mark.parametrize("url", ["file:///nowhere/a.zarr", "s3://nowhere/a.zarr", "FILE:///nowhere/a.zarr"])
def test_a_url_with_nothing_behind_it(url: str) -> None:
    with pytest.raises(SlideError) as caught:
        open_slide(url)
    assert is_one_sentence(str(caught.value))


def test_the_home_folder(tmp_path: Path, cmu_slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copyfile(cmu_slide, tmp_path / "a.svs")
    with open_slide("~/a.svs") as slide:
        assert slide.info.path == tmp_path / "a.svs"


@pytest.mark.skipif(os.name == "nt", reason="Windows makes a folder up for any name")
def test_the_home_folder_of_nobody() -> None:
    with pytest.raises(SlideError) as caught:
        open_slide("~nobody-has-this-name/a.svs")
    assert str(caught.value) == (
        "~nobody-has-this-name/a.svs does not exist (there is no such home folder); "
        "give the path of a slide file such as slide.svs."
    )


@pytest.mark.parametrize("location", ["", "nowhere/a.svs", "a\0b.svs"])
def test_nothing_there(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SlideError) as caught:
        open_slide(location)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SlideError) as caught:
        open_slide(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is a folder without a slide in it that can be opened as one; give a slide file such as "
        "slide.svs, an OME-Zarr folder, or a folder of DICOM slide files."
    )


def test_a_folder_of_slides_is_not_one_slide(tmp_path: Path, cmu_slide: Path) -> None:
    shutil.copyfile(cmu_slide, tmp_path / "a.svs")
    with pytest.raises(SlideError, match="is a folder without a slide in it"):
        open_slide(tmp_path)


def test_a_folder_of_dicom_files_of_which_one_is_damaged(tmp_path: Path, data_dir: Path) -> None:
    slides = data_dir / "slides"
    shutil.copyfile(slides / "TCGA-XK-AAJU_no-imagetype.dcm", tmp_path / "a.dcm")
    with pytest.raises(
        SlideError, match=r"^a\.dcm is not a slide that can be opened \(Reading a\.dcm: Couldn't"
    ):
        open_slide(tmp_path)
    shutil.copyfile(slides / "camelyon_lowres.dcm", tmp_path / "b.dcm")
    with open_slide(tmp_path) as slide:
        assert slide.info.width_px == 1152
        assert slide.info.backend_reason == "a folder of DICOM files: OpenSlide reads the series of b.dcm"


def test_an_impossible_pixel_size_leaves_no_file_open(
    cmu_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent.slides._openslide import OpenSlideBackend

    closed: list[object] = []
    monkeypatch.setattr(OpenSlideBackend, "close", lambda self: closed.append(self))
    with pytest.raises(SlideError, match="A pixel size of nan µm per pixel is not possible"):
        open_slide(cmu_slide, mpp=float("nan"))
    assert len(closed) == 1
