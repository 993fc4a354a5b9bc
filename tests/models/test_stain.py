from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from skimage.color import rgb2hed

from napari_histolatent.models.stain import haematoxylin, lumen, nuclei
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from pathlib import Path

PURPLE, PINK, WHITE = (70, 40, 110), (226, 140, 170), (245, 244, 245)


def tile(background: tuple[int, int, int] = PINK, *, spots: int = 3, size: int = 64, seed: int = 0) -> tuple:
    """Return a tile with round nuclei of 5 px radius, and where they are."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((size, size, 3), np.int64)
    pixels[:] = background
    rows, columns = np.mgrid[:size, :size]
    mask = np.zeros((size, size), bool)
    for x, y in [(12, 14), (40, 20), (28, 48)][:spots]:
        mask |= (rows - y) ** 2 + (columns - x) ** 2 <= 25
    pixels[mask] = PURPLE
    noisy = pixels + rng.normal(0, 5, pixels.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def test_haematoxylin_is_that_of_an_independent_deconvolution() -> None:
    pixels = np.random.default_rng(0).integers(30, 250, (9, 7, 3), np.uint8)
    ours = haematoxylin(pixels)
    assert (ours.shape, ours.dtype) == ((9, 7), np.float32)
    # skimage's logarithm has another base, and its vectors are not of length 1.
    theirs = np.maximum(rgb2hed(pixels)[..., 0], 0)
    compared = theirs > 1e-3
    ratios = ours[compared] / theirs[compared]
    assert ratios.std() / ratios.mean() < 0.02
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999


def test_haematoxylin_of_pure_stains() -> None:
    shades = 10 ** -np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    shades[0] **= 1 / np.linalg.norm([0.65, 0.70, 0.29])
    pixels = np.round(255 * shades).astype(np.uint8)[None]
    blue, pink = haematoxylin(pixels)[0]
    assert blue == pytest.approx(1, abs=0.02)
    assert pink == pytest.approx(0, abs=0.02)
    assert haematoxylin(np.full((1, 1, 3), 255, np.uint8)) == 0
    assert np.isfinite(haematoxylin(np.zeros((1, 1, 3), np.uint8))).all()


@pytest.mark.parametrize("background", [PINK, WHITE, (200, 150, 200)])
def test_drawn_nuclei_are_found(background: tuple[int, int, int]) -> None:
    pixels, drawn = tile(background)
    found = nuclei(pixels)
    assert (found.shape, found.dtype) == ((64, 64), np.bool_)
    assert (found & drawn).sum() / (found | drawn).sum() > 0.8


@pytest.mark.parametrize("color", [PINK, WHITE, PURPLE])
def test_a_tile_of_one_colour_has_none(color: tuple[int, int, int]) -> None:
    assert not nuclei(tile(color, spots=0)[0]).any()


def test_each_tile_of_several_has_its_own_threshold() -> None:
    tiles = [tile(PINK)[0], tile((150, 90, 160), seed=1)[0], tile(PINK, spots=0)[0]]
    together = nuclei(np.stack(tiles))
    for one, found in zip(tiles, together, strict=True):
        np.testing.assert_array_equal(nuclei(one), found)


def test_nuclei_of_a_drawn_slide_lie_in_its_dark_spots(tiny_slide: Path) -> None:
    with open_slide(tiny_slide) as slide:
        pixels = slide.read_region((200, 200), size_px=(128, 128), level=0)
    found = nuclei(pixels)
    assert 0.05 < found.mean() < 0.6
    assert pixels[found].mean() < pixels[~found].mean() - 20


def test_lumen_is_what_is_white() -> None:
    pixels = np.array([[WHITE, PINK, PURPLE, (255, 255, 255)]], np.uint8)
    assert lumen(pixels).tolist() == [[True, False, False, True]]
