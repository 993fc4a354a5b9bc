"""A slide that the program draws itself: for machines without the network. Not tissue, and named so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from napari_histolatent._files import replacing
from napari_histolatent.errors import writing_to

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

EPITHELIUM_RGB, STROMA_RGB = (160, 110, 170), (226, 140, 170)
"""Cytoplasm-like purple and collagen-like pink, near haematoxylin and eosin under a scanner."""
_NUCLEUS_RGB, _GLASS_RGB = (70, 40, 110), (243, 242, 243)


def write_synthetic_slide(
    path: Path, *, size_px: tuple[int, int] = (1536, 1536), mpp: float = 0.5, seed: int = 0
) -> None:
    """Write an H&E-like pyramidal TIFF of two drawn textures, epithelium (left) and stroma (right).

    Parameters
    ----------
    path
        The file to write (replaced whole).
    size_px
        (width, height).
    mpp
        Micrometres per pixel, stored as TIFF resolution.
    seed
        Seed of the drawing.
    """
    pixels = _draw(size_px, np.random.default_rng(seed))
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, tifffile.TiffWriter(temporary) as writer:
            for level, downsample in enumerate((1, 2, 4)):
                size = (size_px[0] // downsample, size_px[1] // downsample)
                image = Image.fromarray(pixels).resize(size, Image.Resampling.BOX)
                dots_per_cm = 10_000 / (mpp * downsample)
                writer.write(
                    np.asarray(image),
                    tile=(256, 256),
                    photometric="rgb",
                    compression="zlib",
                    resolution=(dots_per_cm, dots_per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=0 if level == 0 else 1,
                    description="SYNTHETIC drawing by napari-histolatent, not tissue" if level == 0 else None,
                    metadata=None,
                )


def _draw(size_px: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    width, height = size_px
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)

    def noise(sigma: float | tuple[float, float]) -> NDArray[np.float32]:
        field = ndimage.gaussian_filter(rng.standard_normal((height, width)).astype(np.float32), sigma)
        return np.asarray(field / field.std())

    centred_x, centred_y = columns / width - 0.5, rows / height - 0.5
    tissue = centred_x**2 + centred_y**2 + 0.02 * noise(60) < 0.2
    epithelium = columns + 25 * noise(50) < width / 2
    image = np.empty((height, width, 3), np.float32)
    image[:] = STROMA_RGB
    image += (noise((2, 12)) * 14)[..., None]  # fibres run along x
    image[epithelium] = EPITHELIUM_RGB + (noise(4) * 8)[epithelium][:, None]
    for inside, spacing_px, radii_px in ((epithelium, 19, (6.5, 5.0)), (~epithelium, 46, (7.5, 2.6))):
        image[_nuclei(size_px, spacing_px, radii_px, rng) & inside] = _NUCLEUS_RGB
    image = ndimage.gaussian_filter(image, (0.7, 0.7, 0)) + rng.normal(0, 4, (height, width, 1))
    image[~tissue] = _GLASS_RGB
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def _nuclei(
    size_px: tuple[int, int], spacing_px: int, radii_px: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return a mask of ellipses on a jittered grid, long axis along x with some tilt."""
    width, height = size_px
    mask = np.zeros((height, width), bool)
    reach = int(max(radii_px)) + 2
    offsets_y, offsets_x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    for row in range(reach, height - reach, spacing_px):
        for column in range(reach, width - reach, spacing_px):
            jitter_y, jitter_x = rng.integers(-spacing_px // 3, spacing_px // 3 + 1, 2)
            y = int(np.clip(row + jitter_y, reach, height - reach - 1))
            x = int(np.clip(column + jitter_x, reach, width - reach - 1))
            angle = rng.normal(0, 0.5)
            along = offsets_x * np.cos(angle) + offsets_y * np.sin(angle)
            across = offsets_y * np.cos(angle) - offsets_x * np.sin(angle)
            ellipse = (along / radii_px[0]) ** 2 + (across / radii_px[1]) ** 2 < 1
            mask[y - reach : y + reach + 1, x - reach : x + reach + 1] |= ellipse
    return mask
