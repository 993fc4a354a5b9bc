from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari._layers import slide_layer
from napari_histolatent._napari.viewing import LevelArray, levels_of
from napari_histolatent._napari.viewing._pyramid import COARSEST_PX
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide

FORMS = {
    "everything": np.s_[:, :, :],
    "a region": np.s_[7:40, 11:29, :],
    "to the end": np.s_[30:, -20:],
    "past the end": np.s_[35:500, 10:2000],
    "steps": np.s_[3:44:5, 2:60:7, ::2],
    "negative steps": np.s_[::-1, ::-1, ::-1],
    "negative steps inside": np.s_[40:10:-3, 50:20:-4],
    "nothing": np.s_[10:10, :],
    "nothing, backwards": np.s_[5:20:-1, 3:9],
    "nothing and a row": np.s_[4, 9:9],
    "a row": np.s_[12],
    "the last row": np.s_[-1],
    "a pixel": np.s_[12, 34],
    "a value": np.s_[12, 34, 2],
    "a column": np.s_[:, -3],
    "a channel": np.s_[..., 0],
    "a negative channel": np.s_[..., -1],
    "only rows": np.s_[3:9],
    "dots": np.s_[...],
    "dots behind": np.s_[4:6, ...],
    "dots between": np.s_[4:6, ..., 1],
    "dots for nothing": np.s_[4:6, 1:3, 0, ...],
    "numpy's numbers": (slice(np.int64(2), np.int64(9)), np.int32(4)),
    "a reordered channel": np.s_[2:9, 3:8, 2::-1],
}


@pytest.fixture
def level0(slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray]) -> tuple[LevelArray, np.ndarray]:
    """A finest level and its pixels."""
    pixels = noise(48, 64)
    return LevelArray(slide_of(pixels), 1), pixels


@pytest.mark.parametrize("key", FORMS.values(), ids=FORMS)
def test_the_finest_level_is_indexed_as_its_pixels_are(
    level0: tuple[LevelArray, np.ndarray], key: Any
) -> None:
    array, pixels = level0
    found = array[key]
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    assert found.shape == pixels[key].shape
    assert np.array_equal(found, pixels[key])


@pytest.mark.parametrize("key", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("downsample", [2, 4])
def test_a_stored_level_is_indexed_as_its_pixels_are(
    slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray], key: Any, downsample: int
) -> None:
    levels = [noise(192 // v, 256 // v, seed=v) for v in (1, 2, 4)]
    array = LevelArray(slide_of(*levels), downsample)
    expected = levels[{2: 1, 4: 2}[downsample]]
    assert array.shape == expected.shape
    assert np.array_equal(array[key], expected[key])


def test_a_level_that_is_not_stored_is_read_by_area(
    slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray]
) -> None:
    pixels = noise(96, 128)
    array = LevelArray(slide_of(pixels), 2)
    means = pixels.reshape(48, 2, 64, 2, 3).mean((1, 3))
    assert array.shape == (48, 64, 3)
    assert array[:, :] == pytest.approx(means, abs=0.51)
    assert array[10:20, 30:50] == pytest.approx(means[10:20, 30:50], abs=0.51)


@pytest.mark.parametrize("size", [(101, 203), (97, 64), (1000, 333)])
@pytest.mark.parametrize("downsample", [2, 4])
def test_a_part_of_a_level_is_that_part_of_the_whole(
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
    size: tuple[int, int],
    downsample: int,
) -> None:
    """Sides that cannot be halved: the ratio of shapes is a fraction, and the last pixels must not be missing."""
    slide = slide_of(noise(*size))
    array = LevelArray(slide, downsample)
    height, width = array.shape[:2]
    ratios = (size[1] / width, size[0] / height)
    whole = slide.read_downsampled((0, 0), size_px=(width, height), downsamples=ratios)
    assert np.array_equal(np.asarray(array), whole)
    part = array[3 : height - 1, 5:width]
    exact = slide.read_downsampled(
        (5 * ratios[0], 3 * ratios[1]), size_px=(width - 5, height - 4), downsamples=ratios
    )
    assert np.array_equal(part, exact)
    assert np.abs(part.astype(int) - whole[3 : height - 1, 5:width]).max() <= 1


def test_a_real_file_is_read_as_the_slide_reads_it(slide: Slide) -> None:
    for downsample, level in ((1, 0), (2, 1), (4, 2)):
        array = LevelArray(slide, downsample)
        exact = slide.read_region((40 * downsample, 80 * downsample), size_px=(30, 20), level=level)
        assert np.array_equal(array[80:100, 40:70], exact)


def test_numpy_takes_a_level_as_an_array(level0: tuple[LevelArray, np.ndarray]) -> None:
    array, pixels = level0
    assert np.array_equal(np.asarray(array), pixels)
    assert np.asarray(array, dtype=np.float32).dtype == np.float32
    assert np.array_equal(np.array(array), pixels)
    assert (array.shape, array.ndim, array.dtype, array.size) == (
        (48, 64, 3),
        3,
        np.dtype(np.uint8),
        48 * 64 * 3,
    )


@pytest.mark.parametrize("key", [48, -49, (0, 64), (0, 0, 3), (slice(None), -65)])
def test_an_index_beyond_the_end_is_refused(level0: tuple[LevelArray, np.ndarray], key: Any) -> None:
    with pytest.raises(IndexError):
        level0[0][key]


@pytest.mark.parametrize("size", [(2, 3), (48, 64), (3000, 2000), (5001, 17), (4096, 1024), (7, 9000)])
def test_levels_get_smaller_until_one_fits_in_memory(
    slide_of: Callable[..., Slide], size: tuple[int, int]
) -> None:
    slide = slide_of(np.zeros((*size, 3), np.uint8))
    levels = levels_of(slide)
    assert len(levels) >= 2, "napari takes a picture for multiscale from two levels on"
    assert levels[0].shape == (*size, 3)
    for finer, coarser in pairwise(levels):
        assert np.prod(coarser.shape) < np.prod(finer.shape)
        assert all(a >= b for a, b in zip(finer.shape, coarser.shape, strict=True))
    assert all(isinstance(level, LevelArray) for level in levels[:-1])
    assert all(level.slide is slide for level in levels[:-1])
    assert isinstance(levels[-1], np.ndarray)
    assert max(levels[-1].shape[:2]) <= COARSEST_PX


def test_the_coarsest_level_shows_the_whole_slide(
    slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray]
) -> None:
    pixels = noise(96, 128)
    assert levels_of(slide_of(pixels))[-1] == pytest.approx(
        pixels.reshape(48, 2, 64, 2, 3).mean((1, 3)), abs=0.51
    )


def test_napari_takes_the_pyramid_and_reads_only_what_it_shows(
    viewer: Any,
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slide = slide_of(noise(2400, 3200), mpp=(0.5, 0.5))
    data = slide_layer(slide)
    read: list[int] = []
    real = LevelArray.__getitem__

    def recorded(self: LevelArray, key: Any) -> np.ndarray:
        pixels = real(self, key)
        read.append(pixels.size)
        return pixels

    monkeypatch.setattr(LevelArray, "__getitem__", recorded)
    layer = add(viewer, data)  # a warning would be an error
    assert layer.multiscale
    assert layer.rgb
    assert [tuple(v) for v in layer.level_shapes] == [(2400, 3200), (1200, 1600), (600, 800)]
    assert layer.extent.data.tolist() == [[0, 0], [2399, 3199]], "from the first pixel's middle to the last's"
    assert layer.thumbnail.any()
    assert layer.get_value((100, 100)) is not None
    assert max(read, default=0) < 2400 * 3200, "a level was read whole"
