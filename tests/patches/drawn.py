"""Drawn slides with rectangles for regions, and what a dataset's folder holds."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from shapely.geometry import box

from napari_histolatent.annotations import Annotations, Region, write_annotations
from napari_histolatent.patches import GridSpec, PatchDataset, Recipe, SplitSpec, TissueSpec
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_histolatent.patches import SlideSource

SHARD_BYTES = 16 * 3 * 32 * 32

RECIPE = Recipe(grid=GridSpec(size_px=32, mpp=1.0, stride_px=16), split=SplitSpec(block_patches=2))
"""Some eighty patches of `tiny_slide`."""
MANY = RECIPE.changed(grid={"stride_px": 8}, store={"codec": "raw"})
"""Some three hundred."""
EVERYWHERE = TissueSpec(method="none", min_tissue=0)

Box = tuple[float, float, float, float]


def regions(folder: Path, *shapes: tuple[str, Box], name: str = "regions.geojson") -> Path:
    """Write a rectangle for each class and box (left, top, right, bottom in level-0 px)."""
    path = folder / name
    made = tuple(Region(str(i), class_name, box(*corners)) for i, (class_name, corners) in enumerate(shapes))
    write_annotations(path, Annotations(made, format="test"))
    return path


def content(folder: Path) -> dict[str, str]:
    """Digest of every file of a dataset, but of the one that says when and where it was made."""
    files = {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    del files["provenance.json"]
    return files


def left_beside(out: Path) -> list[str]:
    """Names of what an extraction into `out` left beside it."""
    return sorted(path.name for path in out.parent.iterdir() if out.name in path.name and path != out)


def assert_pixels_are_those_of(sources: Sequence[SlideSource], dataset: PatchDataset, every: int = 1) -> None:
    """Compare patches of the index, members or not, with the slides' own pixels, read one by one."""
    table = dataset.table.to_pydict()
    slides = {}
    for source in sources:
        slide = open_slide(source.slide, mpp=source.mpp)
        slides[slide.info.digest] = slide
    size = (dataset.size_px, dataset.size_px)
    rows = range(0, len(table["x"]), every)
    stored = dataset._source().read(list(rows))
    for row, pixels in zip(rows, stored, strict=True):
        slide = slides[table["slide"][row]]
        xy = table["x"][row], table["y"][row]
        if table["level"][row] >= 0:
            expected = slide.read_region(xy, size_px=size, level=table["level"][row])
        else:
            zooms = (table["width_level0_px"][row] / size[0], table["height_level0_px"][row] / size[0])
            expected = slide.read_downsampled(xy, size_px=size, downsamples=zooms)
        np.testing.assert_array_equal(pixels, expected)
    for slide in slides.values():
        slide.close()


def write_tiff(path: Path, pixels: np.ndarray, *, levels: Sequence[int] = (1, 2), mpp: float = 0.5) -> None:
    """Write a tiled pyramid of every n-th pixel."""
    with tifffile.TiffWriter(path) as writer:
        for i, n in enumerate(levels):
            dots: Any = (10_000 / mpp / n, 10_000 / mpp / n)
            writer.write(
                np.ascontiguousarray(pixels[::n, ::n]),
                tile=(256, 256),
                photometric="rgb",
                compression="zlib",
                resolution=dots,
                resolutionunit="CENTIMETER",
                subfiletype=min(i, 1),
                metadata=None,
            )


def damaged_slide(path: Path, *, tile: int = 3) -> None:
    """Write a slide of 4352 x 512 px whose overview can be read and whose finest pixels cannot from x = 256 * tile."""
    noise = np.random.default_rng(0).integers(0, 60, (512, 4352, 3), dtype=np.uint8)
    write_tiff(path, np.asarray((220, 130, 170), np.uint8) - noise // 4)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[tile]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 5000)
