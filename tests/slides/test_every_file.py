"""Every slide file of the test data: a new file there is tested without a line here."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openslide
import pytest
import tifffile

from napari_histolatent.errors import SlideError
from napari_histolatent.slides import Slide, open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

# Where `data_dir` of conftest is too; here it is needed before there are fixtures.
_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
SLIDES = Path(os.environ.get("HISTOLATENT_TEST_DATA", _BESIDE)) / "slides"
NAMES = sorted(v.relative_to(SLIDES).as_posix() for v in SLIDES.rglob("*") if v.is_file())
FORMATS_MD = Path(__file__).resolve().parents[2] / "docs" / "formats.md"

REFUSED = {
    "TCGA-XK-AAJU_no-imagetype.dcm": "Reading TCGA-XK-AAJU_no-imagetype.dcm: Couldn't get image flavor",
    "fixtures/broken.svs": "Unsupported or missing image file",
}
UNREADABLE = {"fixtures/unreadable.svs": "Bogus marker length"}
READABLE = [v for v in NAMES if v not in REFUSED and v not in UNREADABLE]

PIXEL_SIZES: dict[str, tuple[float | None, float | None, str | None]] = {
    "CMU-1-Small-Region.svs": (0.499, 0.499, "slide metadata"),
    "HE_TMA_core.ome.tif": (0.50008, 0.50008, "OME-XML"),
    "TCGA-CR-7395-01A-01-TS1.svs": (None, None, None),
    "camelyon_lowres.dcm": (28.969, 28.968, "DICOM"),
    "fluorescence_DAPI.ndpi": (0.228175, 0.228175, "slide metadata"),
    "fixtures/boxes.tiff": (None, None, None),
    "fixtures/boxes_0.dcm": (0.499, 0.499, "DICOM"),
    "fixtures/boxes_1.dcm": (0.499, 0.499, "DICOM"),
    "fixtures/grey10kx5k.tif": (None, None, None),
    "fixtures/small.svs": (0.499, 0.499, "slide metadata"),
    "fixtures/test_orient3.tif": (None, None, None),
    "fixtures/unreadable.svs": (0.499, 0.499, "slide metadata"),
    "fixtures/yb10kx5k.zstd.tiff": (None, None, None),
}
ASSOCIATED = {
    "CMU-1-Small-Region.svs": {"label": (463, 387), "macro": (431, 1280), "thumbnail": (768, 574)},
    "TCGA-CR-7395-01A-01-TS1.svs": {"thumbnail": (768, 956)},
    "fluorescence_DAPI.ndpi": {"macro": (406, 1188)},
    "fixtures/boxes_0.dcm": {"thumbnail": (16, 16)},
    "fixtures/boxes_1.dcm": {"thumbnail": (16, 16)},
    "fixtures/small.svs": {"thumbnail": (16, 16)},
}

pytestmark = pytest.mark.skipif(
    not NAMES, reason="no real data here; set HISTOLATENT_TEST_DATA to its folder"
)
each_readable = pytest.mark.parametrize("name", READABLE)


def is_one_sentence(text: str) -> bool:
    """Return whether a text is one line that ends with one full stop, and quotes nothing that cannot be printed."""
    return (
        text.isprintable()
        and text.endswith(".")
        and not text.endswith("..")
        and ". " not in text
        and len(text) < 500
    )


class Direct:
    """The file as the library of its backend has it, without a line of ours."""

    def __init__(self, path: Path, slide: Slide) -> None:
        self._info = slide.info
        if slide.info.backend == "openslide":
            self._handle = openslide.OpenSlide(path)
        else:
            self._handle = None
            with tifffile.TiffFile(path) as tiff:
                self._levels = [v.asarray() for v in tiff.series[0].levels]
            assert len(self._levels) == len(slide.info.levels)

    def read(self, xy: tuple[int, int], size: tuple[int, int], level: int) -> tuple[Pixels, NDArray[np.bool]]:
        """Return pixels on the background, and where they are neither opaque nor outside, so rounded."""
        background = np.array(self._info.background, np.float64)
        if self._handle is not None:
            rgba = np.asarray(self._handle.read_region(xy, level, size)).astype(np.float64)
            opacity = rgba[..., 3:] / 255
            mixed = np.rint(rgba[..., :3] * opacity + background * (1 - opacity))
            return mixed.astype(np.uint8), (rgba[..., 3] > 0) & (rgba[..., 3] < 255)
        values = self._levels[level]
        x, y = (round(v / self._info.levels[level].downsample) for v in xy)
        columns, rows = x + np.arange(size[0]), y + np.arange(size[1])
        inside_x, inside_y = (columns >= 0) & (columns < values.shape[1]), (rows >= 0) & (rows < len(values))
        out = np.empty((size[1], size[0], 3), np.uint8)
        out[:] = background
        inside = values[np.ix_(rows[inside_y], columns[inside_x])]
        out[np.ix_(inside_y, inside_x)] = inside if inside.ndim == 3 else inside[..., None]
        return out, np.zeros(out.shape[:2], bool)


def places(slide: Slide, level: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return level-0 corners of regions: at the corners, across the edges, in the middle, and anywhere."""
    width, height = slide.info.width_px, slide.info.height_px
    downsample = slide.info.levels[level].downsample
    reach_x, reach_y = round(size[0] * downsample), round(size[1] * downsample)
    right, bottom = width - reach_x, height - reach_y
    middle_x, middle_y = right // 2, bottom // 2
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    half_x, half_y = reach_x // 2, reach_y // 2
    edges = [
        (-half_x, middle_y),
        (width - half_x, middle_y),
        (middle_x, -half_y),
        (middle_x, height - half_y),
        (-half_x, -half_y),
        (width - half_x, height - half_y),
    ]
    rng = np.random.default_rng(level)
    anywhere = [
        (int(rng.integers(-reach_x, width + reach_x)), int(rng.integers(-reach_y, height + reach_y)))
        for _ in range(12)
    ]
    return [*corners, *edges, (middle_x, middle_y), (middle_x + 1, middle_y + 3), *anywhere]


def some_regions(slide: Slide) -> list[Pixels]:
    """Return three regions of each level; at the top of the module, for a child process."""
    return [
        slide.read_region(xy, size_px=(90, 60), level=level)
        for level in range(len(slide.info.levels))
        for xy in places(slide, level, (90, 60))[-3:]
    ]


def times_open(path: Path) -> int:
    """Return how many descriptors of this process are of a file."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += link.readlink() == path
    return count


# Opening


@pytest.mark.parametrize("name", [v for v in NAMES if v in REFUSED])
def test_a_file_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(SlideError) as caught:
        open_slide(SLIDES / name)
    text = str(caught.value)
    assert is_one_sentence(text)
    # The file, the reason, the remedy.
    assert text.startswith(
        f"{Path(name).name} is not a slide that can be opened ({REFUSED[name]}); check that "
    )
    assert str(SLIDES) not in text


@pytest.mark.parametrize("name", [v for v in NAMES if v not in REFUSED])
def test_a_file_opens(name: str) -> None:
    with open_slide(SLIDES / name) as slide:
        info = slide.info
    assert info.path == SLIDES / name
    assert info.levels[0].downsample == 1
    assert info.backend in ("openslide", "tifffile")
    assert info.backend_reason
    assert info.backend_reason.isprintable()
    assert re.fullmatch("[0-9a-f]{64}", info.digest)
    assert all(is_one_sentence(v) for v in info.notes)
    assert (info.mpp_x is None) == (info.mpp_source is None)


@pytest.mark.parametrize("name", UNREADABLE)
def test_damaged_pixels_are_said_in_one_sentence(name: str) -> None:
    with open_slide(SLIDES / name) as slide, pytest.raises(SlideError) as caught:
        slide.thumbnail(longest_px=64)
    assert str(caught.value) == (
        f"{Path(name).name} opens, but its pixels at x=0, y=0 cannot be read ({UNREADABLE[name]}); "
        "the file is damaged: copy it again from the scanner or archive."
    )


@pytest.mark.parametrize("name", [v for v in NAMES if v in PIXEL_SIZES])
def test_the_pixel_size_and_where_it_comes_from(name: str) -> None:
    with open_slide(SLIDES / name) as slide:
        info = slide.info
    x, y, source = PIXEL_SIZES[name]
    assert (info.mpp_x, info.mpp_y) == ((None, None) if x is None else pytest.approx((x, y), abs=1e-6))
    assert info.mpp_source == source


# Pixels


@each_readable
def test_pixels_equal_a_direct_read_at_every_level(name: str) -> None:
    with open_slide(SLIDES / name) as slide:
        direct = Direct(SLIDES / name, slide)
        for level in range(len(slide.info.levels)):
            for size in [(70, 50), (1, 1)]:
                for xy in places(slide, level, size):
                    pixels = slide.read_region(xy, size_px=size, level=level)
                    expected, is_rounded = direct.read(xy, size, level)
                    assert pixels.shape == expected.shape
                    assert pixels.dtype == np.uint8
                    where = f"level {level}, {xy}"
                    np.testing.assert_array_equal(pixels[~is_rounded], expected[~is_rounded], where)
                    np.testing.assert_allclose(pixels, expected, atol=1, err_msg=where)


@each_readable
def test_outside_a_slide_is_its_background(name: str) -> None:
    with open_slide(SLIDES / name) as slide:
        info = slide.info
        for level, facts in enumerate(info.levels):
            reach = round(40 * facts.downsample) + 2
            for xy in [
                (-reach, 0),
                (0, -reach),
                (info.width_px + reach, 0),
                (0, info.height_px + reach),
                (-(10**9), 10**9),
            ]:
                pixels = slide.read_region(xy, size_px=(40, 30), level=level)
                assert (pixels == info.background).all(), f"level {level}, {xy}"


@each_readable
@pytest.mark.parametrize("longest_px", [64, 256])
def test_a_thumbnail_shows_something_in_the_right_shape(name: str, longest_px: int) -> None:
    with open_slide(SLIDES / name) as slide:
        pixels, downsample = slide.thumbnail(longest_px=longest_px)
        width, height = slide.info.width_px, slide.info.height_px
    assert max(pixels.shape[:2]) == min(longest_px, max(width, height))
    assert pixels.shape == (round(height / downsample), round(width / downsample), 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 5


@each_readable
def test_associated_images(name: str) -> None:
    with open_slide(SLIDES / name) as slide:
        found = {v: slide.read_associated(v) for v in slide.info.associated}
    for pixels in found.values():
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
        assert pixels.std() > 5
    if name in PIXEL_SIZES:
        assert {key: v.shape[:2] for key, v in found.items()} == ASSOCIATED.get(name, {})
    with open_slide(SLIDES / name) as slide, pytest.raises(SlideError) as caught:
        slide.read_associated("portrait")
    assert is_one_sentence(str(caught.value))


# Processes, threads, descriptors


def test_a_child_process_reads_the_same_pixels() -> None:
    slides = [open_slide(SLIDES / name) for name in READABLE]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = list(pool.map(some_regions, slides))
    for name, slide, there in zip(READABLE, slides, elsewhere, strict=True):
        for ours, theirs in zip(some_regions(slide), there, strict=True):
            np.testing.assert_array_equal(ours, theirs, name)
        slide.close()


@each_readable
def test_eight_threads_read_what_one_reads(name: str) -> None:
    size = 120, 90
    with open_slide(SLIDES / name) as alone, open_slide(SLIDES / name) as shared:
        tasks = [
            (level, xy) for level in range(len(alone.info.levels)) for xy in places(alone, level, size)[-12:]
        ] * 2

        def read(slide: Slide, task: tuple[int, tuple[int, int]]) -> Pixels:
            return slide.read_region(task[1], size_px=size, level=task[0])

        expected = [read(alone, task) for task in tasks]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda task: read(shared, task), tasks))
    np.testing.assert_array_equal(together, expected)


@each_readable
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts the open files as Linux lists them")
def test_close_releases_the_file_and_a_read_opens_it_again(name: str) -> None:
    path = (SLIDES / name).resolve()
    slide = open_slide(path)
    # OpenSlide itself opens the file for each read.
    held = 1 if slide.info.backend == "tifffile" else 0
    before = some_regions(slide)
    assert times_open(path) == held
    slide.close()
    assert times_open(path) == 0
    np.testing.assert_array_equal(some_regions(slide), before)
    assert times_open(path) == held
    slide.close()
    slide.close()
    assert times_open(path) == 0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts the open files as Linux lists them")
@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_is_not_kept_open(name: str) -> None:
    with suppress(SlideError):
        open_slide(SLIDES / name)
    assert times_open((SLIDES / name).resolve()) == 0


# A DICOM slide is a series of files


def test_a_folder_of_dicom_files_is_one_slide(tmp_path: Path) -> None:
    names = ["boxes_0.dcm", "boxes_1.dcm"]
    for name in names:
        shutil.copyfile(SLIDES / "fixtures" / name, tmp_path / name)
    (tmp_path / "readme.txt").write_text("not a slide")
    with open_slide(tmp_path) as folder:
        info = folder.info
        pixels = folder.read_region((0, 0), size_px=(16, 16), level=0)
        # The second file of this series is the slide's thumbnail, by its ImageType; it has one level.
        assert [(v.width_px, v.height_px) for v in info.levels] == [(16, 16)]
        assert info.associated == ("thumbnail",)
        assert info.backend_reason == "a folder of DICOM files: OpenSlide reads the series of boxes_0.dcm"
    for name in names:
        with open_slide(tmp_path / name) as slide:
            assert slide.info.digest == info.digest
            assert slide.info.levels == info.levels
            np.testing.assert_array_equal(slide.read_region((0, 0), size_px=(16, 16), level=0), pixels)


def test_a_series_lacks_what_was_not_copied(tmp_path: Path) -> None:
    shutil.copyfile(SLIDES / "fixtures" / "boxes_0.dcm", tmp_path / "boxes_0.dcm")
    with open_slide(tmp_path) as slide:
        assert slide.info.associated == ()
    (tmp_path / "boxes_0.dcm").unlink()
    shutil.copyfile(SLIDES / "fixtures" / "boxes_1.dcm", tmp_path / "boxes_1.dcm")
    with pytest.raises(
        SlideError, match=r"^boxes_1\.dcm is not a slide that can be opened \(No pyramid levels"
    ):
        open_slide(tmp_path)


# What the documentation says of these files


def documented_row(name: str) -> str:
    """Return the row of a file in docs/formats.md, as the code has it now."""
    try:
        slide = open_slide(SLIDES / name)
    except SlideError as error:
        return f"| {name} | refused | | | | {error} |"
    with slide:
        info, said = slide.info, list(slide.info.notes)
        try:
            slide.read_region((0, 0), size_px=(1, 1), level=0)
        except SlideError as error:
            said.append(str(error))
    levels = ", ".join(f"{v.width_px} × {v.height_px}" for v in info.levels)
    x, y = (f"{v or 0:.4g}" for v in (info.mpp_x, info.mpp_y))
    mpp = "not stated" if info.mpp_x is None else x if x == y else f"{info.mpp_x:.5g} × {info.mpp_y:.5g}"
    backend = {"openslide": "OpenSlide", "tifffile": "tifffile"}[info.backend]
    return f"| {name} | {backend} | {levels} | {mpp} | {info.mpp_source or ''} | {' '.join(said)} |"


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_says_what_the_code_does(name: str) -> None:
    rows = [v for v in FORMATS_MD.read_text(encoding="utf-8").splitlines() if v.startswith(f"| {name} |")]
    assert rows == [documented_row(name)]


def test_the_documentation_names_no_path_of_a_machine() -> None:
    text = FORMATS_MD.read_text(encoding="utf-8")
    for path in {str(SLIDES), str(Path.home()), str(FORMATS_MD.parents[1])} - {"/"}:
        assert path not in text
    assert not re.search(r"(?:^|[\s(`])/(?:work|home|tmp|root|Users)/", text)
