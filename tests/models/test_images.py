from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_histolatent.models.images import to_pixels, to_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_every_value_comes_back_exactly() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(to_pixels(to_tensor(pixels)), pixels)


@pytest.mark.parametrize("shape", [(1, 4, 4, 3), (3, 5, 7, 3), (0, 4, 4, 3)])
def test_pixels_come_back_exactly(shape: tuple[int, ...]) -> None:
    pixels = random_pixels(*shape)
    back = to_pixels(to_tensor(pixels))
    np.testing.assert_array_equal(back, pixels)
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous


def test_the_axes_and_the_scale() -> None:
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[1, 2, 3] = 255, 0, 51
    images = to_tensor(pixels)
    assert (images.shape, images.dtype) == ((2, 3, 4, 5), torch.float32)
    assert images[1, :, 2, 3].tolist() == pytest.approx([1, -1, -0.6])
    assert images[0].unique().tolist() == [-1]


@pytest.mark.parametrize(
    ("value", "expected"), [(-9, 0), (-1, 0), (0, 128), (0.999, 255), (1, 255), (9, 255)]
)
def test_what_lies_beyond_the_range_is_clamped(value: float, expected: int) -> None:
    assert np.unique(to_pixels(torch.full((1, 3, 2, 2), value))).tolist() == [expected]


def test_the_pixels_given_stay_as_they_are() -> None:
    pixels = random_pixels(1, 4, 4, 3)
    before = pixels.copy()
    to_tensor(pixels).zero_()
    np.testing.assert_array_equal(pixels, before)


def test_the_images_given_stay_as_they_are() -> None:
    images = torch.full((1, 3, 2, 2), 1.5, requires_grad=True)
    to_pixels(images)
    assert images.unique().tolist() == [1.5]


def test_pixels_in_another_order_in_memory() -> None:
    pixels = random_pixels(2, 6, 6, 3)
    for view in (pixels[:, ::-1], pixels.transpose(0, 2, 1, 3), pixels[..., ::-1]):
        np.testing.assert_array_equal(to_pixels(to_tensor(view)), view)


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Some of torch's warnings are else given once a process, to whichever test comes first."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.usefixtures("every_warning")
def test_pixels_that_may_not_be_written_to() -> None:
    pixels = random_pixels(1, 4, 4, 3)
    pixels.flags.writeable = False  # as numpy's view of a pillow image is
    np.testing.assert_array_equal(to_pixels(to_tensor(pixels)), pixels)
