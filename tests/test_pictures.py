from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from napari_histolatent._pictures import enlarged, marked, open_picture, save_picture, strip
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PROVENANCE = {
    "synthetic": False,
    "name": "tile µ",
    "slide_digest": "ab12",
    "x": 12.5,
    "y": -3,
    "mpp": 0.499,
    "latent_point": None,
    "level0_box": [1, 2, 3.5, 4],
}


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def chunks_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        return dict(image.text)


def test_pixels_and_provenance_come_back(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = tmp_path / "new" / "folder" / "tile.png"
    assert save_picture(path, pixels, PROVENANCE) == path
    opened, provenance = open_picture(path)
    np.testing.assert_array_equal(opened, pixels)
    assert provenance == PROVENANCE
    assert [item.name for item in path.parent.iterdir()] == ["tile.png"]


@pytest.mark.parametrize("synthetic", [True, False])
def test_what_was_drawn_says_so_in_words(tmp_path: Path, pixels: NDArray[np.uint8], synthetic: bool) -> None:
    path = save_picture(tmp_path / "tile.png", pixels, PROVENANCE | {"synthetic": synthetic})
    chunks = chunks_of(path)
    assert json.loads(chunks["histolatent"])["synthetic"] is synthetic
    assert chunks.get("Comment", "").startswith("SYNTHETIC") == synthetic


@pytest.mark.parametrize("name", ["plain.png", "plain.jpg"])
def test_a_picture_of_another_program_says_nothing(
    tmp_path: Path, pixels: NDArray[np.uint8], name: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    opened, provenance = open_picture(tmp_path / name)
    assert opened.shape == pixels.shape
    assert provenance == {}


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_any_mode_is_opened_as_rgb(tmp_path: Path, pixels: NDArray[np.uint8], mode: str) -> None:
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    opened, _ = open_picture(tmp_path / "a.png")
    assert (opened.shape, opened.dtype) == (pixels.shape, np.uint8)


@pytest.mark.parametrize("text", ["", "not json", "[1]", "null", "{", '{"a": "' + "x" * (1 << 20) + '"}'])
def test_a_chunk_that_is_no_provenance_is_passed_over(
    tmp_path: Path, pixels: NDArray[np.uint8], text: str
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("histolatent", text)
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info)
    opened, provenance = open_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(opened, pixels)
    assert provenance == {}


@pytest.mark.parametrize("content", [None, b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png cannot be opened as an image .*SLIDE@X,Y"):
        open_picture(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened as an image"):
        open_picture(tmp_path)


@pytest.mark.parametrize("torn", [True, False])
def test_a_damaged_picture_is_opened_or_refused(
    tmp_path: Path, pixels: NDArray[np.uint8], torn: bool
) -> None:
    whole = save_picture(tmp_path / "a.png", pixels, PROVENANCE).read_bytes()
    refused = 0
    for i in range(0, len(whole), 17):
        damaged = whole[:i] if torn else whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :]
        (tmp_path / "b.png").write_bytes(damaged)
        try:
            opened, _ = open_picture(tmp_path / "b.png")
        except UserError:
            refused += 1
        else:
            assert opened.shape == pixels.shape
    assert refused > 50


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_leaves_the_old_file_and_no_half(
    tmp_path: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = save_picture(tmp_path / "a.png", pixels, {"name": "old"})

    def save(_: Image.Image, file: Path, **__: Any) -> None:
        file.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(UserError, match=f"Cannot write to {tmp_path}: .*choose"):
        save_picture(path, pixels, {"name": "new"})
    assert open_picture(path)[1] == {"name": "old"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_place_of_the_file_is_one_sentence(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match="Cannot write to"):
        save_picture(tmp_path / "a.png", pixels, {})
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]


def test_a_mark_is_put_on_a_copy_in_the_lower_left(pixels: NDArray[np.uint8]) -> None:
    grey = np.full((128, 256, 3), 200, np.uint8)
    result = marked(grey)
    assert (grey == 200).all()
    changed = (result != grey).any(axis=2)
    assert changed[100:, :40].mean() > 0.5
    assert not changed[:96].any()
    assert not changed[:, 128:].any()
    assert (result[changed] > 240).any()  # white letters on a dark ground


def test_enlarged_and_strip_move_no_pixel(pixels: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(enlarged(pixels, 3)[1::3, 2::3], pixels)
    row = strip([pixels, pixels + 1], gap_px=2)
    assert row.shape == (24, 66, 3)
    np.testing.assert_array_equal(row[:, :32], pixels)
    assert (row[:, 32:34] == 255).all()
    np.testing.assert_array_equal(row[:, 34:], pixels + 1)
