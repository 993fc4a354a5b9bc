from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.patches._stain import (
    STANDARD,
    StainFit,
    StainSpec,
    fit_of_slide,
    fit_stain,
    normalise,
    target_fit,
)
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

METHODS = ("reinhard", "macenko")

H, E = (np.array(v) / np.linalg.norm(v) for v in ([0.65, 0.70, 0.29], [0.15, 0.95, 0.25]))


# The papers' formulas, written out pixel by pixel.


def density_of(pixel: NDArray[np.uint8]) -> list[float]:
    return [-math.log10(max(int(v), 1) / 255) for v in pixel]


def is_tissue(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.array([math.hypot(*density_of(v)) >= 0.15 for v in pixels])


def lab_of(pixel: NDArray[np.floating[Any]] | NDArray[np.uint8]) -> list[float]:
    """Reinhard et al. 2001, equations 4 to 6."""
    r, g, b = (max(float(v), 1.0) for v in pixel)
    long = math.log10(0.3811 * r + 0.5783 * g + 0.0402 * b)
    middle = math.log10(0.1967 * r + 0.7244 * g + 0.0782 * b)
    short = math.log10(0.0241 * r + 0.1288 * g + 0.8444 * b)
    return [
        (long + middle + short) / math.sqrt(3),
        (long + middle - 2 * short) / math.sqrt(6),
        (long - middle) / math.sqrt(2),
    ]


def rgb_of(lab: list[float]) -> NDArray[np.float64]:
    """Reinhard et al. 2001, equations 8 and 9, with the exact inverse of equation 4."""
    a, b, c = lab[0] * math.sqrt(3) / 3, lab[1] * math.sqrt(6) / 6, lab[2] * math.sqrt(2) / 2
    lms = [10 ** (a + b + c), 10 ** (a + b - c), 10 ** (a - 2 * b)]
    matrix = [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
    return np.linalg.solve(matrix, lms)


def macenko_of(tissue: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return stains (2, 3) and their 99th percentiles, by Macenko et al. 2009, section 2.1, with a full SVD."""
    density = np.array([density_of(v) for v in tissue])
    first, second = np.linalg.svd(density, full_matrices=False)[2][:2]
    first = first if first.sum() > 0 else -first
    angles = []
    for row in density:
        x, y = row @ first, row @ second
        length = math.hypot(x, y)
        angles.append(math.atan2(y / length, x / length))
    ends = [np.percentile(angles, q) for q in (1, 99)]
    vectors = sorted((math.cos(v) * first + math.sin(v) * second for v in ends), key=lambda v: -v[0])
    amounts = [np.linalg.lstsq(np.array(vectors).T, row, rcond=None)[0] for row in density]
    return np.array(vectors), np.percentile(amounts, 99, axis=0)


def degrees_between(a: Any, b: Any) -> float:
    cosine = np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    return math.degrees(math.acos(min(1.0, cosine)))


def mixture(n: int = 40_000, seed: int = 0) -> NDArray[np.uint8]:
    """Return pixels with known amounts of two known stains: some of one alone, some of both, and white."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.15, 0.9, (n, 2))
    amounts[: n // 4, 0] = 0
    amounts[n // 4 : n // 2, 1] = 0
    amounts[-n // 10 :] = 0
    return np.rint(255 * 10 ** -(amounts @ np.stack([H, E]))).astype(np.uint8)


@pytest.fixture(scope="module")
def tiles(data_dir: Path) -> list[NDArray[np.uint8]]:
    """Real tiles of three classes: normal lung has white in it, the tumours hardly any."""
    folder = data_dir / "patches" / "lc25000_lung"
    return [
        np.asarray(Image.open(sorted((folder / name).glob("*.jp*g"))[7]).convert("RGB"))
        for name in ("lung_n", "lung_aca", "lung_scc")
    ]


@pytest.fixture(scope="module")
def few(tiles: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Every fifth pixel each way: for the slow formulas."""
    return [np.ascontiguousarray(tile[::5, ::5]) for tile in tiles]


# Fits


def test_a_reinhard_fit_is_the_papers(few: list[NDArray[np.uint8]]) -> None:
    for tile in few:
        flat = tile.reshape(-1, 3)
        lab = np.array([lab_of(v) for v in flat[is_tissue(flat)]])
        fit = fit_stain(tile, method="reinhard")
        np.testing.assert_allclose(fit.values[0], lab.mean(axis=0), atol=1e-8)
        np.testing.assert_allclose(fit.values[1], lab.std(axis=0), atol=1e-8)


def test_a_macenko_fit_is_the_papers(few: list[NDArray[np.uint8]]) -> None:
    for tile in few:
        flat = tile.reshape(-1, 3)
        stains, strongest = macenko_of(flat[is_tissue(flat)])
        fit = fit_stain(tile, method="macenko")
        np.testing.assert_allclose(fit.values[:2], stains, atol=1e-8)
        np.testing.assert_allclose(fit.values[2], strongest, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_known_stains_are_found_again(seed: int) -> None:
    fit = fit_stain(mixture(seed=seed), method="macenko")
    assert degrees_between(fit.values[0], H) < 1
    assert degrees_between(fit.values[1], E) < 1
    np.testing.assert_allclose(fit.values[2], 0.89, atol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_background_does_not_count(method: str, tiles: list[NDArray[np.uint8]]) -> None:
    white = np.full((300, 224, 3), 250, np.uint8)
    assert fit_stain(np.concatenate([tiles[0], white]), method=method) == fit_stain(tiles[0], method=method)


@pytest.mark.parametrize("method", METHODS)
def test_pixels_of_any_shape_are_fitted(method: str, tiles: list[NDArray[np.uint8]]) -> None:
    batch = np.stack(tiles)
    assert fit_stain(batch, method=method) == fit_stain(batch.reshape(-1, 3), method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("colour", "said"),
    [((255, 255, 255), "Only 0 of 4,096 pixels are tissue"), ((180, 90, 150), "The tissue has one")],
)
def test_a_picture_of_one_colour_is_refused(method: str, colour: tuple[int, int, int], said: str) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        fit_stain(np.full((64, 64, 3), colour, np.uint8), method=method)
    assert "choose a" in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_grey_picture_is_refused(method: str) -> None:
    grey = np.random.default_rng(0).integers(20, 180, (64, 64, 1), np.uint8).repeat(3, axis=2)
    with pytest.raises(DatasetError, match="The tissue has one"):
        fit_stain(grey, method=method)


def test_a_method_without_a_fit_is_refused(tiles: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(DatasetError, match="nothing to fit for stain normalisation 'none'"):
        fit_stain(tiles[0], method="none")
    with pytest.raises(DatasetError, match="no stain normalisation 'vahadane'"):
        StainSpec(method="vahadane")


# Normalisation


def test_reinhard_gives_the_papers_pixels(few: list[NDArray[np.uint8]]) -> None:
    target = STANDARD["reinhard"]
    for tile in few:
        source = fit_stain(tile, method="reinhard")
        flat = tile.reshape(-1, 3)
        got = normalise(flat, source=source, target=target)
        for pixel, new in zip(flat[is_tissue(flat)], got[is_tissue(flat)], strict=True):
            lab = [
                (v - source.values[0][i]) * target.values[1][i] / source.values[1][i] + target.values[0][i]
                for i, v in enumerate(lab_of(pixel))
            ]
            assert np.abs(np.clip(rgb_of(lab), 0, 255) - new).max() < 0.51


def test_after_reinhard_mean_and_spread_are_the_targets(tiles: list[NDArray[np.uint8]]) -> None:
    # One real tile in the colours of another, where few pixels leave the range of bytes.
    source, target = (fit_stain(tile, method="reinhard") for tile in (tiles[0], tiles[1]))
    flat = tiles[0].reshape(-1, 3)[::7]
    # Of the pixels that were fitted, as tissue is what it was before.
    new = normalise(flat, source=source, target=target)[is_tissue(flat)]
    inside = (new > 0).all(axis=1) & (new < 255).all(axis=1)
    expected = np.array([lab_of(v) for v in flat[is_tissue(flat)][inside]])
    scaled = (expected - source.values[0]) * np.divide(target.values[1], source.values[1]) + target.values[0]
    lab = np.array([lab_of(v) for v in new[inside]])
    assert inside.mean() > 0.7
    np.testing.assert_allclose(lab.mean(axis=0), scaled.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(lab.std(axis=0), scaled.std(axis=0), atol=2e-3)


def test_after_reinhard_a_fit_finds_the_target() -> None:
    # Two pictures of the same stains in other amounts, far from black and white: nothing is clipped.
    source = fit_stain(mixture(seed=1), method="reinhard")
    mean, spread = np.array(source.values[0]), np.array(source.values[1])
    target = StainFit("reinhard", (tuple(mean - [0.05, 0, 0]), tuple(spread * 0.8)))
    again = fit_stain(normalise(mixture(seed=1), source=source, target=target), method="reinhard")
    np.testing.assert_allclose(again.values, target.values, atol=4e-3)


def test_macenko_gives_the_papers_pixels(few: list[NDArray[np.uint8]]) -> None:
    target = STANDARD["macenko"]
    for tile in few:
        source = fit_stain(tile, method="macenko")
        flat = tile.reshape(-1, 3)
        got = normalise(flat, source=source, target=target)
        stains, wanted = np.array(source.values[:2]), np.array(target.values[:2])
        for pixel, new in zip(flat[::3], got[::3], strict=True):
            amounts = np.linalg.lstsq(stains.T, density_of(pixel), rcond=None)[0]
            density = sum(
                amounts[i] * target.values[2][i] / source.values[2][i] * wanted[i] for i in range(2)
            )
            expected = np.clip(255 * 10.0 ** -np.asarray(density), 0, 255)
            assert np.abs(expected - new).max() < 0.51


def test_macenko_swaps_stains_for_stains() -> None:
    # A mixture drawn with one pair of stains becomes what the same amounts give with the other pair.
    ours = StainFit("macenko", (tuple(H), tuple(E), (1.0, 1.0)))
    theirs = StainFit("macenko", ((0.8, 0.6, 0.0), (0.0, 0.6, 0.8), (0.5, 2.0)))
    amounts = np.random.default_rng(0).uniform(0, 0.5, (1000, 2))
    pixels = np.rint(255 * 10 ** -(amounts @ np.stack([H, E]))).astype(np.uint8)
    expected = 255 * 10 ** -((amounts * [0.5, 2.0]) @ np.array(theirs.values[:2]))
    got = normalise(pixels, source=ours, target=theirs)
    # Half a grey level of rounding in the source is at most a few in the result, where eosin is doubled.
    assert np.abs(got - expected).max() < 5


def share_within(new: NDArray[np.uint8], old: NDArray[np.uint8], levels: int) -> float:
    """Return the share of tissue pixels that changed by no more than so many grey levels."""
    tissue = is_tissue(old.reshape(-1, 3))
    return float((np.abs(new.astype(int) - old).max(axis=-1).ravel()[tissue] <= levels).mean())


def test_reinhard_leaves_what_is_the_target_already(few: list[NDArray[np.uint8]]) -> None:
    for tile in few:
        fit = fit_stain(tile, method="reinhard")
        assert share_within(normalise(tile, source=fit, target=fit), tile, 1) == 1


def test_macenko_leaves_a_picture_of_two_stains_that_is_the_target_already() -> None:
    pixels = mixture(8000)
    fit = fit_stain(pixels, method="macenko")
    assert share_within(normalise(pixels, source=fit, target=fit), pixels, 2) > 0.99


def test_macenko_takes_the_rest_of_a_colour_once(few: list[NDArray[np.uint8]]) -> None:
    # Real tiles are no pure mixture of two stains: the first time moves them to one, the second changes nothing.
    for tile in few:
        fit = fit_stain(tile, method="macenko")
        once = normalise(tile, source=fit, target=fit)
        inside = once.max(axis=-1) < 255
        twice = normalise(once, source=fit, target=fit)
        assert np.abs(twice.astype(int) - once)[inside].max() <= 2


@pytest.mark.parametrize("method", METHODS)
def test_white_stays_white_and_black_is_no_fault(method: str, tiles: list[NDArray[np.uint8]]) -> None:
    source = fit_stain(tiles[1], method=method)
    ends = np.array([[[255, 255, 255], [0, 0, 0]]], np.uint8)
    got = normalise(ends, source=source, target=STANDARD[method])
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 1].max() < 60


@pytest.mark.parametrize("method", METHODS)
def test_shape_and_place_are_kept_in_batches_of_any_size(method: str, tiles: list[NDArray[np.uint8]]) -> None:
    source = fit_stain(tiles[0], method=method)
    batch = np.stack([tiles[0], tiles[0][::-1]])
    got = normalise(batch, source=source, target=STANDARD[method])
    assert got.shape == batch.shape
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got[1], got[0][::-1])
    one = normalise(tiles[0][50, 60], source=source, target=STANDARD[method])
    np.testing.assert_array_equal(one, got[0, 50, 60])
    assert normalise(batch[:0], source=source, target=STANDARD[method]).shape == (0, 224, 224, 3)


def test_fits_of_two_methods_do_not_go_together() -> None:
    with pytest.raises(DatasetError, match="'reinhard' cannot be brought to a target fitted by 'macenko'"):
        normalise(np.zeros((2, 3), np.uint8), source=STANDARD["reinhard"], target=STANDARD["macenko"])


# Stored fits and targets


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_goes_through_json(method: str) -> None:
    saved = json.loads(json.dumps(STANDARD[method].to_json()))
    assert StainFit.from_json(saved) == STANDARD[method]


@pytest.mark.parametrize(
    "saved",
    [
        None,
        {},
        {"method": "none", "values": []},
        {"method": "reinhard", "values": [[1, 2, 3]]},
        {"method": "macenko", "values": [[1, 2, 3], [1, 2, 3], [1, "x"]]},
        {"method": "macenko", "values": [[1, 2, 3], [1, 2, 3], [1, math.nan]]},
    ],
)
def test_what_is_no_fit_is_refused(saved: Any) -> None:
    with pytest.raises(DatasetError, match="fit the slide again"):
        StainFit.from_json(saved)


def test_the_stated_targets_are_the_published_numbers() -> None:
    # Published with natural logarithms, kept to base 10.
    mean, spread = np.array(STANDARD["reinhard"].values) * math.log(10)
    np.testing.assert_allclose(mean, [8.74108109, -0.12440419, 0.0444982], atol=1e-7)
    np.testing.assert_allclose(spread, [0.6135447, 0.10989545, 0.0286032], atol=1e-7)
    stains = STANDARD["macenko"].values
    np.testing.assert_allclose(np.linalg.norm(stains[:2], axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(np.array(stains[2]) * math.log(10), [1.9705, 1.0308], atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_real_slide_is_fitted_from_its_tissue(method: str, cmu_slide: Path) -> None:
    with open_slide(cmu_slide) as slide:
        left, top = (v.ravel() for v in np.meshgrid(np.arange(600, 1400, 200), np.arange(1200, 2400, 200)))
        boxes = np.column_stack([left, top, left + 200, top + 200]).astype(float)
        fit = fit_of_slide(slide, boxes, method=method)
        assert fit == fit_of_slide(slide, boxes, method=method)
        # The whole part that the patches cover, at once.
        whole = slide.read_region((600, 1200), size_px=(400, 600), mpp=1.0)
    expected = fit_stain(whole, method=method)
    if method == "reinhard":
        np.testing.assert_allclose(fit.values, expected.values, atol=0.01)
    else:
        assert degrees_between(fit.values[0], expected.values[0]) < 2
        assert degrees_between(fit.values[1], expected.values[1]) < 2
        # Haematoxylin is blue, eosin is pink.
        assert fit.values[0][0] > 2 * fit.values[1][0]


def test_the_samples_of_a_slide_are_the_middles_of_even_patches(slide_of: Callable[..., Slide]) -> None:
    # Of 5 patches of 400 um, 3 are read; what is outside of the 256 um in their middle does not count.
    picture = np.full((400, 2000, 3), 30, np.uint8)
    tissue = mixture(3 * 256 * 256).reshape(3, 256, 256, 3)
    for i in range(3):
        picture[72:328, i * 800 + 72 : i * 800 + 328] = tissue[i]
    boxes = np.array([[i * 400, 0, (i + 1) * 400, 400] for i in range(5)], float)
    fit = fit_of_slide(slide_of(picture, mpp=(1.0, 1.0)), boxes, method="reinhard", n_samples=3)
    assert fit == fit_stain(tissue, method="reinhard")


def test_a_slide_without_a_pixel_size_is_fitted(slide_of: Callable[..., Slide]) -> None:
    picture = mixture(40_000).reshape(200, 200, 3).repeat(2, axis=0).repeat(2, axis=1)
    fit = fit_of_slide(slide_of(picture), np.array([[0, 0, 400, 400.0]]), method="macenko")
    assert degrees_between(fit.values[0], H) < 1


def test_a_slide_without_tissue_is_named(slide_of: Callable[..., Slide]) -> None:
    slide = slide_of(np.full((300, 300, 3), 240, np.uint8), mpp=(1.0, 1.0))
    with pytest.raises(DatasetError, match=r"array\.tiff has no patch with tissue"):
        fit_of_slide(slide, np.zeros((0, 4)), method="macenko")
    with pytest.raises(DatasetError, match=r"How array\.tiff is stained cannot be seen: Only 0 of"):
        fit_of_slide(slide, np.array([[0, 0, 300, 300.0]]), method="macenko")


@pytest.mark.parametrize("method", METHODS)
def test_the_target_is_stated_or_a_picture_or_a_slide(
    method: str, cmu_slide: Path, tiles: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    picture = tmp_path / "reference.png"
    Image.fromarray(tiles[0]).save(picture)
    assert target_fit(StainSpec(method)) == STANDARD[method]
    assert target_fit(StainSpec(method, str(picture))) == fit_stain(tiles[0], method=method)
    assert target_fit(StainSpec(method, str(cmu_slide))).method == method


def test_a_target_that_serves_nothing_is_named(tmp_path: Path) -> None:
    white = tmp_path / "white.png"
    Image.new("RGB", (80, 80), "white").save(white)
    with pytest.raises(DatasetError, match=r"The reference white\.png cannot be used: Only 0 of"):
        target_fit(StainSpec("macenko", str(white)))
    with pytest.raises(UserError, match=r"missing\.png"):
        target_fit(StainSpec("macenko", str(tmp_path / "missing.png")))
    with pytest.raises(UserError, match=r"missing\.svs"):
        target_fit(StainSpec("macenko", str(tmp_path / "missing.svs")))
