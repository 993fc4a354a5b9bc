from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._pens import PEN_COLORS, pen_mask, pen_pixels

if TYPE_CHECKING:
    from pathlib import Path

GLASS = (243, 241, 244)
# No file with a blue or a black pen is to be had: the inks are drawn, in several shades.
INKS = {
    "blue": [(25, 70, 190), (10, 40, 140), (70, 120, 220)],
    "black": [(30, 30, 34), (50, 48, 52)],
    "green": [(20, 140, 90), (60, 190, 140)],
    "red": [(200, 25, 30), (220, 50, 60)],
}


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def drawn(base: np.ndarray, ink: tuple[int, int, int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `base` under a soft, wavy stroke that lets through what the ink does, as a JPEG; and the stroke."""
    height, length = base.shape[:2]
    x = np.arange(-20, length + 20, 5)
    y = height / 2 + height / 6 * np.sin(x / length * 7)
    stroke = Image.new("L", (length, height))
    ImageDraw.Draw(stroke).line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255, width=width)
    share = np.asarray(stroke.filter(ImageFilter.GaussianBlur(1.5)), float)[..., None] / 255
    through = 1 - share * (1 - np.array(ink) / 255)
    out = io.BytesIO()
    Image.fromarray(np.asarray(base * through, np.uint8)).save(out, "JPEG", quality=80)
    return np.asarray(Image.open(out)), np.asarray(stroke) > 0


@pytest.mark.parametrize("width", [12, 30, 60])
@pytest.mark.parametrize(("color", "ink"), [(c, v) for c, inks in INKS.items() for v in inks])
def test_a_drawn_stroke_on_glass_is_found_and_little_else(
    color: str, ink: tuple[int, int, int], width: int
) -> None:
    pixels, stroke = drawn(np.full((300, 400, 3), GLASS, np.uint8), ink, width)
    found = pen_mask(pixels, [color])
    assert found[stroke].mean() > 0.85
    assert found[stroke].mean() > 0.95 or width == 12
    assert found.sum() < 1.6 * stroke.sum() + 400  # the soft edge goes too
    for other in set(PEN_COLORS) - {color}:
        assert not pen_mask(pixels, [other]).any()


@pytest.mark.parametrize("width", [20, 60])
@pytest.mark.parametrize(
    ("color", "ink", "least"),
    [
        ("blue", (10, 40, 140), 0.65),  # over eosin it turns to the violet of haematoxylin, and stays
        ("black", (30, 30, 34), 0.9),
        ("green", (20, 140, 90), 0.95),
        ("red", (200, 25, 30), 0.95),
    ],
)
def test_a_drawn_stroke_on_real_tissue_is_found(
    data_dir: Path, color: str, ink: tuple[int, int, int], width: int, least: float
) -> None:
    base = picture(data_dir / "tissue_qc" / "thumb_tcga-lung-rgb.png")
    pixels, stroke = drawn(base, ink, width)
    found = pen_mask(pixels, [color])
    assert found[stroke].mean() > least
    assert found.sum() < 1.7 * stroke.sum()
    assert not pen_mask(base, [color]).any()


@pytest.mark.parametrize(
    ("name", "color", "inside", "outside"),
    [
        # Boxes (left, top, right, bottom) of ink and of clean tissue or glass, marked by eye.
        ("thumb_tcga-green-pen.png", "green", (330, 30, 440, 150), (500, 50, 740, 600)),
        ("thumb_tcga-red-pen.png", "red", (20, 180, 140, 320), (230, 120, 460, 440)),
        ("no-tissue-green-pen.png", "green", (150, 200, 350, 300), (0, 0, 150, 150)),
        ("no-tissue-red-pen.png", "red", (180, 250, 380, 280), (420, 10, 500, 90)),
        ("medium-nuclei-score-green-pen-level1.png", "green", (200, 60, 480, 220), (200, 340, 500, 500)),
    ],
)
def test_real_pens_are_found_and_the_tissue_beside_is_not(
    data_dir: Path,
    name: str,
    color: str,
    inside: tuple[int, int, int, int],
    outside: tuple[int, int, int, int],
) -> None:
    pixels = picture(data_dir / "tissue_qc" / name)
    found = pen_mask(pixels, [color])

    def share(box: tuple[int, int, int, int]) -> float:
        return float(found[box[1] : box[3], box[0] : box[2]].mean())

    assert share(inside) > 0.9
    assert share(outside) < 0.01
    for other in {"green", "red"} - {color}:
        assert pen_mask(pixels, [other]).mean() < 0.01


@pytest.mark.parametrize(
    "name",
    [
        "tissue_qc/high-nuclei-score-level0.png",  # red blood cells in vessels
        "tissue_qc/low-nuclei-score-level1.png",
        "tissue_qc/very-low-nuclei-score-level0.png",
        "tissue_qc/thumb_tcga-lung-rgb.png",
        "tissue_qc/almost-white-2.png",
        "tissue_qc/no-tissue-line.png",
        "nuclei/monuseg/TCGA-B0-5698-01Z-00-DX1.tif",  # blood everywhere
        "nuclei/monuseg/TCGA-AO-A0J2-01A-01-BSA.tif",  # blue haematoxylin
    ],
)
def test_real_tissue_is_not_taken_for_ink(data_dir: Path, name: str) -> None:
    pixels = picture(data_dir / name)
    assert pen_mask(pixels).mean() < 0.01
    assert pen_pixels(pixels).mean() < 0.015


def test_the_rules_are_those_that_are_written_down() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20_000, 3)).astype(np.uint8)
    density = -np.log10((pixels + 1.0) / 256)
    red, green, blue = (density / density.sum(axis=1, keepdims=True)).T
    spread = np.ptp(pixels.astype(int), axis=1)
    expected = {
        "green": (red - green > 0.1) & (blue > green - 0.1),
        "blue": (red - green > 0.125) & (green - blue > 0.1),
        "red": (np.minimum(green, blue) - red > 0.3),
        "black": (pixels.max(axis=1) < 80) & (spread <= 20),
    }
    dense = density.sum(axis=1) > 0.6
    for color, ink in expected.items():
        got = pen_pixels(pixels, [color])
        assert ink.sum() > 50
        # In whole steps of density: a few lie on the other side of a limit.
        assert (got == ink)[dense].mean() > 0.99


def test_a_dot_is_no_stroke_unless_asked() -> None:
    pixels = np.full((200, 300, 3), GLASS, np.uint8)
    pixels[100:104, 100:104] = (20, 140, 90)
    assert not pen_mask(pixels).any()
    assert pen_mask(pixels, stroke_px=3)[101, 101]


def test_no_colours_find_nothing_and_unknown_ones_are_refused() -> None:
    pixels = np.full((40, 40, 3), (20, 140, 90), np.uint8)
    assert not pen_mask(pixels, ()).any()
    assert pen_mask(pixels).all()
    with pytest.raises(DatasetError, match="'pink'; choose of green, blue, red, black"):
        pen_mask(pixels, ["pink"])
