"""PNG files that know where they came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from napari_histolatent._files import replacing
from napari_histolatent.errors import UserError, writing_to

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_KEY = "histolatent"
_MAX_CHUNK_CHARS = 1 << 20


def save_picture(path: Path, pixels: NDArray[np.uint8], provenance: dict[str, Any]) -> Path:
    """Write a PNG whose text chunk says what it shows; with `synthetic` true it says SYNTHETIC in words too.

    Parameters
    ----------
    path
        The file; written whole or not at all.
    pixels
        uint8, shape (height, width, 3).
    provenance
        JSON: synthetic, slide_digest, x, y (level-0 centre), mpp, model_digest, latent_point, ...
    """
    text = PngImagePlugin.PngInfo()
    text.add_text(_KEY, json.dumps(provenance))
    if provenance.get("synthetic"):
        text.add_text("Comment", "SYNTHETIC: drawn by a generative model, not tissue that was scanned")
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=text)
    return path


def open_picture(path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Return an image file's pixels, uint8 (height, width, 3), and what its text chunk says ({} if nothing).

    Raises
    ------
    UserError
        If the file is missing or not an image.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
            text = getattr(image, "text", {}).get(_KEY, "")
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        msg = f"{path} cannot be opened as an image ({error}); give a PNG or JPEG, or SLIDE@X,Y for a place on a slide."
        raise UserError(msg) from error
    try:
        provenance = json.loads(text) if text and len(text) < _MAX_CHUNK_CHARS else {}
    except ValueError:
        provenance = {}
    return pixels, provenance if isinstance(provenance, dict) else {}


def enlarged(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return each pixel as a square of `factor` px, for figures."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def marked(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy with the word SYNTHETIC in the lower left corner, for figures that leave the program."""
    image = Image.fromarray(pixels).convert("RGB")
    draw = ImageDraw.Draw(image, "RGBA")
    font = ImageFont.load_default(size=max(9, image.height // 16))
    left, top, right, bottom = draw.textbbox((0, 0), "SYNTHETIC", font=font)
    x, y = 4 - left, image.height - (bottom - top) - 6 - top
    draw.rectangle(
        (0, image.height - (bottom - top) - 10, right - left + 8, image.height), fill=(0, 0, 0, 190)
    )
    draw.text((x, y), "SYNTHETIC", font=font, fill=(255, 255, 255, 255))
    return np.asarray(image)


def strip(tiles: Sequence[NDArray[np.uint8]], *, gap_px: int = 4) -> NDArray[np.uint8]:
    """Return tiles of one height side by side, with white gaps."""
    gap = np.full((tiles[0].shape[0], gap_px, 3), 255, np.uint8)
    parts = [part for tile in tiles for part in (tile, gap)][:-1]
    return np.concatenate(parts, axis=1)
