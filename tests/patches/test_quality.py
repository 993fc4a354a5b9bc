from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._quality import QUALITY_COLUMNS, QualitySpec, quality_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tissue(data_dir: Path) -> np.ndarray:
    """Six real patches of 256 px."""
    pixels = np.asarray(Image.open(data_dir / "tissue_qc" / "high-nuclei-score-level0.png").convert("RGB"))
    return np.stack([pixels[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256, 512)])


def random_patches(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(np.uint8)


def luma_of(pixels: np.ndarray) -> np.ndarray:
    return np.floor(pixels @ np.array([77, 150, 29]) / 256 + 0.5)


@pytest.mark.parametrize("size", [3, 31, 64])
def test_focus_is_the_variance_of_the_laplacian(size: int) -> None:
    pixels = random_patches(size)
    expected = [ndimage.laplace(luma_of(v))[1:-1, 1:-1].var() for v in pixels]
    np.testing.assert_allclose(quality_of(pixels)["focus"], expected, rtol=1e-4, atol=1e-3)


def test_focus_of_real_patches_is_exact_and_the_luma_near_bt601(tissue: np.ndarray) -> None:
    expected = [ndimage.laplace(luma_of(v))[1:-1, 1:-1].var() for v in tissue]
    got = quality_of(tissue)["focus"]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    exact = [ndimage.laplace(v @ [0.299, 0.587, 0.114])[1:-1, 1:-1].var() for v in tissue]
    np.testing.assert_allclose(got, exact, rtol=0.05)


def test_focus_of_extreme_pixels_does_not_overflow() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    pixels = np.repeat(board[None, ..., None], 3, axis=3).astype(np.uint8)
    assert quality_of(pixels)["focus"] == pytest.approx([(4 * 255) ** 2], rel=1e-3)


def test_a_blurred_real_patch_has_less_focus_the_more_it_is_blurred(tissue: np.ndarray) -> None:
    blurred = [
        np.stack([ndimage.gaussian_filter(v, (sigma, sigma, 0)) for v in tissue]) for sigma in (0.7, 1.5, 3)
    ]
    focus = np.stack([quality_of(v)["focus"] for v in (tissue, *blurred)])
    assert (np.diff(focus, axis=0) < 0).all()
    assert (focus[0] > 20 * focus[-1]).all()


def test_the_sampled_values_are_near_those_of_every_pixel(tissue: np.ndarray, data_dir: Path) -> None:
    fat = np.asarray(Image.open(data_dir / "tissue_qc" / "low-nuclei-score-level1.png").convert("RGB"))
    pixels = np.concatenate([tissue, fat[None, :256, :256], fat[None, 256:, 256:]])
    got = quality_of(pixels)
    saturation = np.ptp(pixels.astype(int), axis=3).mean(axis=(1, 2))
    white = (pixels > 220).all(axis=3).mean(axis=(1, 2))
    assert white.max() > 0.3
    np.testing.assert_allclose(got["saturation"], saturation, rtol=0.02)
    np.testing.assert_allclose(got["white"], white, atol=0.02)


def test_small_patches_are_looked_at_whole() -> None:
    pixels = np.full((1, 20, 20, 3), (200, 120, 160), np.uint8)
    pixels[0, :5, :, :] = 221
    pixels[0, 5, :, :] = (255, 220, 255)
    got = quality_of(pixels)
    assert got["white"] == pytest.approx([0.25])
    assert got["saturation"] == pytest.approx([(14 * 80 + 35) / 20])
    assert got["pen"] == pytest.approx([0])


def test_the_share_of_pen_is_seen_on_real_ink(data_dir: Path, tissue: np.ndarray) -> None:
    for name in ("no-tissue-green-pen.png", "thumb_tcga-red-pen.png"):
        pixels = np.asarray(Image.open(data_dir / "tissue_qc" / name).convert("RGB"))
        assert quality_of(pixels[None, 160:320, 20:140])["pen"][0] > 0.5
    assert (quality_of(tissue)["pen"] < 0.02).all()


def test_the_columns_are_float32_one_value_a_patch() -> None:
    for n in (0, 3):
        got = quality_of(random_patches(16)[:n])
        assert tuple(got) == QUALITY_COLUMNS
        assert all(v.dtype == np.float32 and v.shape == (n,) for v in got.values())


def test_each_limit_keeps_what_passes_and_what_was_never_measured() -> None:
    nan = np.nan
    values = {
        "focus": np.array([5, 50, 50, 50, nan], np.float32),
        "saturation": np.array([30, 10, 30, 30, nan], np.float32),
        "white": np.array([0.1, 0.1, 0.9, 0.1, nan], np.float32),
        "pen": np.array([0, 0, 0, 0.3, nan], np.float32),
    }
    assert QualitySpec().keeps(values).tolist() == [True] * 5
    for spec, dropped in (
        (QualitySpec(min_focus=20), 0),
        (QualitySpec(min_saturation=20), 1),
        (QualitySpec(max_white=0.5), 2),
        (QualitySpec(max_pen=0.1), 3),
    ):
        assert np.flatnonzero(~spec.keeps(values)).tolist() == [dropped]
    strict = QualitySpec(min_focus=20, min_saturation=20, max_white=0.5, max_pen=0.1)
    assert strict.keeps(values).tolist() == [False, False, False, False, True]
    assert QualitySpec(min_focus=50, max_white=0.9).keeps(values).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize(
    "limits", [{"min_focus": -1}, {"max_white": 1.5}, {"max_pen": -0.1}, {"min_saturation": 300}]
)
def test_an_impossible_limit_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(DatasetError, match=f"{next(iter(limits))} = .* is not possible; give a number"):
        QualitySpec(**limits)
