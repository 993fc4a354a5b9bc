from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_histolatent.patches import TissueMask, tissue_mask
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.slides import Slide

PINK, GLASS = (220, 130, 170), (244, 243, 244)


def checked(shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(0).random(shape) > 0.4


@pytest.mark.parametrize("downsample", [(1.0, 1.0), (4.0, 4.0), (2.5, 8.0)])
def test_fractions_on_whole_mask_pixels_are_counts(downsample: tuple[float, float]) -> None:
    mask = checked()
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 30, (200, 2))
    boxes = np.hstack([corners, corners + rng.integers(1, 11, (200, 2))])
    expected = [mask[top:bottom, left:right].mean() for left, top, right, bottom in boxes]
    got = TissueMask(mask, downsample, threshold=10).fractions(boxes * np.array([*downsample, *downsample]))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_fractions_between_mask_pixels_are_near_the_area() -> None:
    mask = checked()
    fine = mask.repeat(10, axis=0).repeat(10, axis=1)
    rng = np.random.default_rng(2)
    corners = rng.integers(0, 200, (200, 2))
    boxes = np.hstack([corners, corners + rng.integers(100, 200, (200, 2))])
    expected = [fine[top:bottom, left:right].mean() for left, top, right, bottom in boxes]
    got = TissueMask(mask, (10.0, 10.0), threshold=10).fractions(boxes.astype(float))
    np.testing.assert_allclose(got, expected, atol=0.12)  # at most a row and a column of ten by ten


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ((0, 0, 100, 100), 1),
        ((-100, 0, 100, 100), 0.5),
        ((450, 350, 550, 450), 0.25),
        ((1000, 1000, 1100, 1100), 0),
        ((-300, -300, -100, -100), 0),
    ],
)
def test_off_the_slide_there_is_glass(patch: tuple[int, ...], expected: float) -> None:
    mask = TissueMask(np.ones((40, 50), bool), (10.0, 10.0), threshold=10)
    assert mask.fractions(np.array([patch], float)) == pytest.approx([expected])


@pytest.mark.parametrize("patch", [(10, 10, 20, 20), (24, 24, 40, 40), (101, 60, 110, 94), (26, 26, 74, 74)])
def test_a_patch_smaller_than_a_mask_pixel_lies_in_tissue_too(patch: tuple[int, ...]) -> None:
    # BUG: both corners round to one mask pixel's corner, so nothing is counted; on a slide of 100 000 px, where a
    # mask pixel is 49 px wide, most patches of 32 px get no tissue at all and are lost.
    mask = TissueMask(np.ones((40, 50), bool), (50.0, 50.0), threshold=10)
    assert mask.fractions(np.array([patch], float)) == pytest.approx([1])


def test_no_boxes_have_no_fractions() -> None:
    assert TissueMask(checked(), (1.0, 1.0), threshold=10).fractions(np.empty((0, 4))).shape == (0,)


def test_stain_is_told_from_glass(slide_of: Callable[..., Slide]) -> None:
    pixels = np.full((100, 120, 3), GLASS, np.uint8)
    pixels[20:70, 30:90] = PINK
    mask = tissue_mask(slide_of(pixels))
    np.testing.assert_array_equal(mask.mask, (pixels == PINK).all(axis=2))
    assert mask.downsample == (1.0, 1.0)


@pytest.mark.parametrize(("colour", "tissue"), [(GLASS, False), (PINK, True), ((90, 90, 90), False)])
def test_a_picture_of_one_kind_has_no_two_sides(
    slide_of: Callable[..., Slide], colour: tuple[int, int, int], tissue: bool
) -> None:
    noise = np.random.default_rng(0).integers(-1, 2, (50, 60, 1))
    mask = tissue_mask(slide_of(np.asarray(colour + noise, np.uint8)))
    assert (mask.mask == tissue).all()


def test_a_drawn_slide_is_found_where_it_is_drawn(tiny_slide: Path) -> None:
    with open_slide(tiny_slide) as slide:
        mask = tissue_mask(slide)
        pixels = slide.read_region((0, 0), size_px=(768, 640), level=0)
    drawn = (pixels != (243, 242, 243)).any(axis=2)
    assert (mask.mask == drawn).mean() > 0.98


def test_a_large_slide_is_looked_at_on_a_coarse_picture(data_dir: Path) -> None:
    with open_slide(data_dir / "slides" / "fixtures" / "yb10kx5k.zstd.tiff") as slide:
        mask = tissue_mask(slide)
    assert mask.mask.shape == (1024, 2048)
    assert mask.downsample == pytest.approx((10_000 / 2048, 5000 / 1024))


def test_real_stain_is_tissue_and_real_glass_is_not(cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide:
        mask = tissue_mask(slide)
        thumbnail, downsample = slide.thumbnail(longest_px=300)
    rows, columns = np.nonzero(thumbnail.min(axis=2) > 235), np.nonzero(thumbnail.min(axis=2) < 110)
    glass, stain = (
        mask.fractions(downsample * np.column_stack([x, y, x + 1, y + 1])) for y, x in (rows, columns)
    )
    assert len(glass) > 100
    assert len(stain) > 100
    assert glass.mean() < 0.1
    assert stain.mean() > 0.9
