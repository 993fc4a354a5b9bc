from __future__ import annotations

import numpy as np
import pytest

from napari_histolatent.slides import _channels
from napari_histolatent.slides._channels import (
    Channel,
    added_up,
    alpha_over,
    channel_colors,
    channels_note,
    in_stripes,
    is_rgb,
    planes_note,
    significant_bits,
    to_8_bit,
    window_of,
    ycbcr_to_rgb,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def test_a_window_leaves_out_a_thousandth_at_each_end() -> None:
    values = np.arange(100_001, dtype=np.uint32) % 65_536
    low, high = window_of(np.arange(10_001, dtype=np.uint16)) or (0, 0)
    assert (low, high) == pytest.approx((10, 9990))
    assert window_of(values) is not None


def test_a_window_is_never_empty() -> None:
    assert window_of(np.full(100, 7, np.uint16)) == (7, 8)
    assert window_of(np.empty(0, np.uint16)) is None


@pytest.mark.parametrize(
    ("maximum", "bits"), [(0, 8), (255, 8), (256, 10), (1024, 12), (4095, 12), (4096, 14), (16_384, 16)]
)
def test_the_smallest_depth_that_cameras_have(maximum: int, bits: int) -> None:
    assert significant_bits(maximum) == bits


def test_the_upper_8_bits() -> None:
    values = np.array([[[0, 16, 4095, 65_535]]], np.uint16)
    assert to_8_bit(values, 12).tolist() == [[[0, 1, 255, 255]]]
    assert to_8_bit(values, 16).tolist() == [[[0, 0, 15, 255]]]
    assert to_8_bit(values, 8).tolist() == [[[0, 16, 255, 255]]]


def test_channels_are_added_up_over_their_windows_and_clipped() -> None:
    values = np.array([[[100, 0], [200, 50], [300, 100], [150, 999]]], np.uint16)
    channels = [Channel("a", RED, (100, 200)), Channel("b", (255, 0, 255), (0, 100))]
    assert added_up(values, channels).tolist() == [
        [[0, 0, 0], [255, 0, 128], [255, 0, 255], [255, 0, 255]],
    ]


def test_a_pixel_depends_on_its_own_counts_only() -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (67, 43, 3), np.uint16)
    channels = [Channel(str(i), c, (100.5, 60_000.25)) for i, c in enumerate([(255, 128, 0), GREEN, WHITE])]
    whole = added_up(values, channels)
    for y, x, h, w in [(0, 0, 1, 1), (5, 7, 13, 3), (60, 40, 7, 3)]:
        np.testing.assert_array_equal(
            added_up(values[y : y + h, x : x + w], channels), whole[y : y + h, x : x + w]
        )


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ([None], [WHITE]),
        ([GREEN], [GREEN]),
        ([(128, 128, 128)], [WHITE]),
        ([None, None, None], [BLUE, GREEN, RED]),
        ([WHITE, WHITE], [BLUE, GREEN]),
        ([RED, None], [RED, GREEN]),
        ([RED, WHITE], [RED, WHITE]),
    ],
)
def test_colours(stated: list[tuple[int, int, int] | None], expected: list[tuple[int, int, int]]) -> None:
    assert channel_colors(stated) == expected


def test_red_green_and_blue_of_8_bits_are_one_picture() -> None:
    assert is_rgb(np.dtype(np.uint8), [RED, GREEN, BLUE])
    assert not is_rgb(np.dtype(np.uint16), [RED, GREEN, BLUE])
    assert not is_rgb(np.dtype(np.uint8), [BLUE, GREEN, RED])
    assert not is_rgb(np.dtype(np.uint8), [None, None, None])


def test_opacity() -> None:
    rgb = np.full((1, 3, 3), 100, np.uint8)
    alpha = np.array([[255, 0, 51]], np.uint8)
    straight = alpha_over(rgb, alpha, WHITE, is_premultiplied=False)
    assert straight[0, :, 0].tolist() == [100, 255, 224]
    ready = alpha_over(rgb, alpha, WHITE, is_premultiplied=True)
    assert ready[0, :, 0].tolist() == [100, 255, 255]
    assert alpha_over(rgb, np.full((1, 3), 255, np.uint8), WHITE, is_premultiplied=False) is rgb


def test_ycbcr() -> None:
    values = np.array([[[255, 128, 128], [76, 85, 255], [0, 128, 128]]], np.uint8)
    assert ycbcr_to_rgb(values).tolist() == [[[254 + 1, 255, 255], [254, 0, 0], [0, 0, 0]]]


def test_stripes_leave_no_row_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_channels, "_STRIPE_VALUES", 50)
    values = np.random.default_rng(0).integers(0, 255, (17, 5, 3), np.uint8)
    out = np.zeros_like(values)
    in_stripes(lambda part: 255 - part, values, out)
    np.testing.assert_array_equal(out, 255 - values)


def test_what_is_said_of_them() -> None:
    channels = [Channel("DAPI", BLUE, (12, 2034.5)), Channel("CD3", (1, 2, 3), (0, 9))]
    assert channels_note(channels, 3) == (
        "Channels are added up: DAPI in blue (window 12 to 2034.5), CD3 in #010203 (window 0 to 9); "
        "3 more are left out."
    )
    assert channels_note(channels[:1]) == "The brightness is windowed: DAPI in blue (window 12 to 2034.5)."
    assert planes_note(2, 5, 0, 3) == ("Shown is z plane 3 of 5 and time point 1 of 3.",)
    assert planes_note(0, 1, 0, 1) == ()
