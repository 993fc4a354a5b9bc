from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from napari_histolatent.errors import UserError
from napari_histolatent.slides import Level, open_slide, write_synthetic_slide
from napari_histolatent.slides._synthetic import EPITHELIUM_RGB, STROMA_RGB

if TYPE_CHECKING:
    from pathlib import Path


def test_it_opens_as_a_pyramid_with_a_pixel_size(tiny_slide: Path) -> None:
    with open_slide(tiny_slide) as slide:
        info = slide.info
    assert info.levels == (Level(768, 640, 1.0), Level(384, 320, 2.0), Level(192, 160, 4.0))
    assert info.require_mpp() == pytest.approx((0.5, 0.5))
    assert info.mpp_source == "TIFF resolution tags"


def test_each_page_states_its_own_pixel_size(tiny_slide: Path) -> None:
    with tifffile.TiffFile(tiny_slide) as tiff:
        um_per_pixel = [10_000 / page.get_resolution("CENTIMETER")[0] for page in tiff.pages]
    assert um_per_pixel == pytest.approx([0.5, 1.0, 2.0])


def test_it_says_that_it_is_no_tissue(tiny_slide: Path) -> None:
    with tifffile.TiffFile(tiny_slide) as tiff:
        assert tiff.pages[0].description.startswith("SYNTHETIC")


def test_epithelium_is_left_stroma_right_and_glass_around(tiny_slide: Path) -> None:
    with open_slide(tiny_slide) as slide:
        left, right = (slide.read_region((x, 220), size_px=(200, 200), level=0) for x in (120, 460))
        corner = slide.read_region((0, 0), size_px=(20, 20), level=0)

    def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> float:
        return float((np.abs(pixels.astype(int) - colour).max(axis=2) < 40).mean())

    assert near(left, EPITHELIUM_RGB) > 0.5 > near(left, STROMA_RGB)
    assert near(right, STROMA_RGB) > 0.5 > near(right, EPITHELIUM_RGB)
    assert corner.min() > 230


def test_coarser_levels_are_means_of_the_finest(tiny_slide: Path) -> None:
    with open_slide(tiny_slide) as slide:
        finest = slide.read_region((0, 0), size_px=(768, 640), level=0)
        for level, n in ((1, 2), (2, 4)):
            size = (768 // n, 640 // n)
            expected = finest.reshape(size[1], n, size[0], n, 3).mean(axis=(1, 3))
            got = slide.read_region((0, 0), size_px=size, level=level)
            np.testing.assert_allclose(got, expected, atol=1)


@pytest.mark.parametrize(("seed", "same"), [(3, True), (4, False)])
def test_the_seed_decides_the_drawing(tmp_path: Path, seed: int, same: bool) -> None:
    for name, its_seed in (("a", 3), ("b", seed)):
        write_synthetic_slide(tmp_path / name, size_px=(160, 128), mpp=0.25, seed=its_seed)
    first, second = (tifffile.imread(tmp_path / name, key=0) for name in "ab")
    assert first.shape == (128, 160, 3)
    assert bool((first == second).all()) is same


def test_an_older_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.tiff"
    write_synthetic_slide(path, size_px=(160, 128), seed=0)
    before = path.read_bytes()
    write_synthetic_slide(path, size_px=(160, 128), seed=1)
    assert path.read_bytes() != before
    assert list(path.parent.iterdir()) == [path]


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(UserError, match=r"Cannot write to .*file: a file is in the way"):
        write_synthetic_slide(tmp_path / "file" / "a.tiff", size_px=(160, 128))
