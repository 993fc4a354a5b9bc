from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import ImageCms

from napari_histolatent.errors import SlideError
from napari_histolatent.slides import open_slide, to_srgb_with

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LINEAR = b"curv" + bytes(8)
"""A curve of an ICC profile that is a straight line."""


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_tags(profile: bytes, changes: dict[bytes, bytes]) -> bytes:
    """Return a profile with other contents of some tags; a name of four letters stands for that tag's."""
    data = bytearray(profile)
    count = struct.unpack_from(">I", data, 128)[0]
    place = {bytes(data[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)}
    entries = {tag: struct.unpack_from(">II", profile, at) for tag, at in place.items()}
    for tag, content in changes.items():
        if len(content) == 4:
            struct.pack_into(">II", data, place[tag], *entries[content])
        else:
            struct.pack_into(">II", data, place[tag], len(data), len(content))
            data += content
    struct.pack_into(">I", data, 0, len(data))
    return bytes(data)


def every_color() -> NDArray[np.uint8]:
    """Return pixels of all of 17 x 17 x 17 colours, (17, 289, 3)."""
    steps = np.linspace(0, 255, 17).astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(17, 289, 3)


def encoded(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sRGB values, 0 to 255, of light, 0 to 1: IEC 61966-2-1."""
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_srgb_stays_as_it_is() -> None:
    pixels = every_color()
    result = to_srgb_with(srgb())(pixels)
    assert (result.shape, result.dtype) == (pixels.shape, np.uint8)
    np.testing.assert_allclose(result.astype(int), pixels, atol=1)


def test_primaries_of_another_space() -> None:
    # The red of this scanner is sRGB's green, and the other way round.
    profile = with_tags(srgb(), {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"})
    pixels = every_color()
    result = to_srgb_with(profile)(pixels)
    np.testing.assert_allclose(result.astype(int), pixels[..., [1, 0, 2]], atol=1)


def test_curves_of_another_space() -> None:
    profile = with_tags(srgb(), dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), LINEAR))
    pixels = every_color()
    result = to_srgb_with(profile)(pixels)
    # Near black a step of light is many steps of sRGB, and rounding on the way shows.
    bright = pixels > 8
    np.testing.assert_allclose(
        result[bright].astype(float), encoded(pixels / 255)[bright], atol=1.5, err_msg="linear light"
    )


def test_the_pixels_that_go_in_are_not_changed() -> None:
    pixels = every_color()
    before = pixels.copy()
    pixels.setflags(write=False)
    to_srgb_with(with_tags(srgb(), {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}))(pixels)
    np.testing.assert_array_equal(pixels, before)


def test_a_part_of_a_larger_array() -> None:
    to_srgb = to_srgb_with(with_tags(srgb(), {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}))
    pixels = every_color()
    np.testing.assert_array_equal(to_srgb(pixels[3:11:2, ::-3]), to_srgb(pixels)[3:11:2, ::-3])
    assert to_srgb(pixels[:1, :1]).shape == (1, 1, 3)


@pytest.mark.parametrize(
    "name", ["TCGA-CR-7395-01A-01-TS1.svs", "fixtures/boxes.tiff", "fixtures/boxes_0.dcm"]
)
def test_the_profile_of_a_real_file(data_dir: Path, name: str) -> None:
    with open_slide(data_dir / "slides" / name) as slide:
        assert slide.info.has_icc_profile
        profile = slide.icc_profile()
        pixels, _ = slide.thumbnail(longest_px=128)
    assert profile is not None
    result = to_srgb_with(profile)(pixels)
    assert result.shape == pixels.shape
    # All three state sRGB: of a scanner's own profile there is no example among the test data.
    np.testing.assert_allclose(result.astype(int), pixels, atol=1)


def test_threads_get_what_one_gets() -> None:
    to_srgb = to_srgb_with(with_tags(srgb(), dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), LINEAR)))
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(64)]
    alone = [to_srgb(v) for v in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(to_srgb, pictures))
    np.testing.assert_array_equal(together, alone)


def profiles_of_no_use() -> dict[str, bytes]:
    whole = srgb()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    grey = bytearray(whole)
    grey[16:20] = b"GRAY"
    return {
        "empty": b"",
        "junk": b"not a profile at all",
        "zeros": bytes(500),
        "cut": whole[:150],
        "Lab": lab,
        "grey": bytes(grey),
        "without its curves": whole[:128] + struct.pack(">I", 0) + whole[132:],
    }


@pytest.mark.parametrize("kind", profiles_of_no_use())
def test_what_is_no_profile_of_rgb_is_refused_in_a_sentence(kind: str) -> None:
    with pytest.raises(SlideError) as caught:
        to_srgb_with(profiles_of_no_use()[kind])
    text = str(caught.value)
    assert text.startswith("The slide's ICC profile cannot be used (")
    assert text.endswith("); its colours stay as they are in the file.")
    assert text.isprintable()
    assert "()" not in text


def test_damaged_profiles_only_ever_raise_slide_errors(data_dir: Path) -> None:
    with open_slide(data_dir / "slides" / "fixtures" / "boxes.tiff") as slide:
        whole = slide.icc_profile()
    assert whole is not None
    for seed in range(200):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for place in rng.integers(0, len(data) if seed % 2 else 400, 8):
            data[place] = rng.integers(0, 256)
        with suppress(SlideError):
            assert to_srgb_with(bytes(data))(every_color()).shape == (17, 289, 3)
