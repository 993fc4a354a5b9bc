from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari._layers import slide_layer, slide_layers
from napari_histolatent._napari.viewing import DisplayLevelArray, SlideSource, levels_of
from napari_histolatent.errors import SlideError
from napari_histolatent.slides import open_slide
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


def arrays_of(slide: Slide) -> list[DisplayLevelArray]:
    source = SlideSource(slide)
    source.prepare(seconds=math.inf, threads=2)
    return levels_of(source)


def opaque(pixels: np.ndarray) -> np.ndarray:
    """Return RGB pixels as a layer has them."""
    return np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])


@pytest.fixture
def level0(
    slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray]
) -> tuple[DisplayLevelArray, np.ndarray]:
    """A finest level and its pixels."""
    pixels = noise(48, 64)
    return arrays_of(slide_of(pixels))[0], opaque(pixels)


@pytest.mark.parametrize("key", FORMS.values(), ids=FORMS)
def test_the_finest_level_is_indexed_as_its_pixels_are(
    level0: tuple[DisplayLevelArray, np.ndarray], key: Any
) -> None:
    array, pixels = level0
    found = array[key]
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    assert found.shape == pixels[key].shape
    assert np.array_equal(found, pixels[key])


@pytest.mark.parametrize("key", FORMS.values(), ids=FORMS)
def test_a_stored_level_is_indexed_as_its_pixels_are(
    slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray], key: Any
) -> None:
    stored = [noise(2400 // v, 3200 // v, seed=v) for v in (1, 2, 4)]
    arrays = arrays_of(slide_of(*stored))
    for array, pixels in zip(arrays[:2], stored[:2], strict=True):
        assert np.array_equal(array[key], opaque(pixels)[key])


def test_a_level_that_is_not_stored_is_read_by_area(
    slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray]
) -> None:
    pixels = noise(2100, 4200)
    array = arrays_of(slide_of(pixels))[1]
    means = pixels[:1200, :1600].reshape(600, 2, 800, 2, 3).mean((1, 3))
    assert array.shape == (1050, 2100, 4)
    assert array[:600, :800, :3] == pytest.approx(means, abs=0.51)
    assert array[510:520, 100:1000].shape == (10, 900, 4)


@pytest.mark.parametrize("size", [(101, 203), (97, 64), (1000, 333), (2049, 4097)])
def test_beyond_the_edges_it_is_transparent(
    slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray], size: tuple[int, int]
) -> None:
    """Sides that cannot be halved are padded, and the last pixels are means of what is there."""
    pixels = noise(*size)
    for array in arrays_of(slide_of(pixels)):
        whole = np.asarray(array)
        n = array.downsample
        height, width = -(-size[0] // n), -(-size[1] // n)
        assert (whole[:height, :width, 3] == 255).all()
        assert not whole[height:].any()
        assert not whole[:, width:].any()
        corner = pixels[(height - 1) * n :, (width - 1) * n :].reshape(-1, 3).mean(0)
        assert whole[height - 1, width - 1, :3] == pytest.approx(corner, abs=0.51)


@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs", "fixtures/boxes.tiff"]
)
def test_a_real_file_is_shown_as_the_slide_reads_it(data_dir: Path, name: str) -> None:
    with open_slide(data_dir / "slides" / name) as slide:
        array = arrays_of(slide)[0]
        height, width = slide.info.height_px, slide.info.width_px
        exact = slide.read_region((0, 0), size_px=(width, height), level=0)
        assert np.array_equal(np.asarray(array)[:height, :width, :3], exact)


def test_a_cut_level_is_shown_where_its_content_is(data_dir: Path) -> None:
    """A scanner's level at 2.0005: each of its pixels is the mean of two by two of level 0, as far as JPEG allows."""
    with open_slide(data_dir / "slides" / "TCGA-CR-7395-01A-01-TS1.svs") as slide:
        finest, half, *_ = arrays_of(slide)
        means = finest[3000:3400, 3600:4000, :3].reshape(200, 2, 200, 2, 3).mean((1, 3))
        shown = half[1500:1700, 1800:2000, :3].astype(float)
    errors = {
        (y, x): np.abs(np.roll(shown, (y, x), (0, 1)) - means)[4:-4, 4:-4].mean()
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    }
    assert min(errors, key=errors.__getitem__) == (0, 0)
    assert errors[0, 0] < 6


def test_numpy_takes_a_level_as_an_array(level0: tuple[DisplayLevelArray, np.ndarray]) -> None:
    array, pixels = level0
    assert np.array_equal(np.asarray(array), pixels)
    assert np.asarray(array, dtype=np.float32).dtype == np.float32
    assert (array.shape, array.ndim, array.dtype, array.size, len(array)) == (
        (48, 64, 4),
        3,
        np.dtype(np.uint8),
        48 * 64 * 4,
        48,
    )


@pytest.mark.parametrize("key", [48, -49, (0, 64), (0, 0, 4), (slice(None), -65)])
def test_an_index_beyond_the_end_is_refused(level0: tuple[DisplayLevelArray, np.ndarray], key: Any) -> None:
    with pytest.raises(IndexError):
        level0[0][key]


def test_more_than_memory_holds_is_refused_in_a_sentence(slide_of: Callable[..., Slide]) -> None:
    class Huge:
        info = None

    slide = slide_of(np.zeros((64, 64, 3), np.uint8))
    source = SlideSource(slide)
    array = levels_of(source)[0]
    array.shape = (40_000, 40_000, 4)
    with pytest.raises(
        SlideError, match=r"40000 x 40000 px of array\.tiff are too many for one read; take a part"
    ):
        np.asarray(array)


def test_the_coarsest_level_is_in_memory_once(slide_of: Callable[..., Slide]) -> None:
    (overview, _, _), (levels, _, _) = slide_layers(slide_of(np.zeros((64, 64, 3), np.uint8)))
    assert np.array_equal(np.asarray(levels[-1]), overview)
    assert not np.shares_memory(np.asarray(levels[-1]), overview), "only napari is given the thing itself"


def test_a_copy_shares_the_slide_and_looks_elsewhere(slide_of: Callable[..., Slide]) -> None:
    """napari copies the data when a layer is duplicated."""
    levels = arrays_of(slide_of(np.zeros((64, 64, 3), np.uint8)))
    copies = copy.deepcopy(levels)
    assert copies[0].view.source is levels[0].view.source
    assert copies[0].view is copies[1].view
    assert copies[0].view is not levels[0].view


def test_napari_takes_the_pyramid_and_reads_only_what_it_shows(
    viewer: Any,
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slide = slide_of(noise(4800, 6400), mpp=(0.5, 0.5))
    data = slide_layer(slide)
    read: list[int] = []
    real = DisplayLevelArray.__getitem__

    def recorded(self: DisplayLevelArray, key: Any) -> np.ndarray:
        pixels = real(self, key)
        read.append(pixels.size)
        return pixels

    monkeypatch.setattr(DisplayLevelArray, "__getitem__", recorded)
    layer = add(viewer, data)  # a warning would be an error
    assert layer.multiscale
    assert layer.rgb
    assert [tuple(v) for v in layer.level_shapes] == [(4800, 6400), (2400, 3200), (1200, 1600)]
    assert layer.extent.data.tolist() == [[0, 0], [4799, 6399]], "from the first pixel's middle to the last's"
    assert layer.thumbnail.any()
    assert layer.get_value((100, 100)) is not None
    assert max(read, default=0) < 4800 * 6400, "a level was read whole"
