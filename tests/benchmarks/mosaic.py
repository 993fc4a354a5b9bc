"""Make the two big slides that the viewing benchmarks read: real pixels, not a real layout.

    python tests/benchmarks/mosaic.py --out FOLDER [--side 61440] [--data FOLDER]

Windows of CMU-1-Small-Region.svs and TCGA-CR-7395-01A-01-TS1.svs, each turned and mirrored in all eight ways, are
laid out at random (seeded) as cells of 2,048 px; every fifth cell is glass, which is drawn. Decoding them costs what
a real slide costs; where tissue lies is made up, and the cells repeat.

exact.tiff
    Levels 1, 4, 16 and 64, each exactly 1/4 of the one before, by box averaging of the uncompressed pixels.
odd.tiff
    The same tiles, every level cut at the right and bottom as scanners do: floor(size / ratio) of an odd size, so
    that the downsamples are 4.0002, 16.004, 64.07. A pixel (x, y) of level r still is the box (r x, r y) of level 0.

Both are BigTIFF, JPEG quality 80, YCbCr 4:2:0, tiles of 256 px, 0.25 µm per pixel. At 61,440 px they take about
a GB each. Each distinct tile is encoded once and written as often as it is seen.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import openslide
import tifffile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

TILE = 256
RATIOS = (1, 4, 16, 64)
QUALITY = 80
PIXELS_PER_CM = 40_000
"""0.25 µm per pixel."""
CUT = 193
"""Pixels that odd.tiff lacks on each axis."""
WINDOWS = (
    ("CMU-1-Small-Region.svs", (1150, 1070)),
    ("CMU-1-Small-Region.svs", (1150, 1900)),
    ("TCGA-CR-7395-01A-01-TS1.svs", (1300, 1700)),
    ("TCGA-CR-7395-01A-01-TS1.svs", (2350, 2100)),
    ("TCGA-CR-7395-01A-01-TS1.svs", (3050, 1900)),
)
"""Source and centre (x, y) of each window."""


@dataclass(frozen=True)
class Layout:
    """Which cell lies where: `index[row, column]` counts windows x 8 turns, -1 is glass."""

    index: NDArray[np.int64]
    cell: int

    @property
    def side(self) -> int:
        """Pixels of level 0 on each axis."""
        return len(self.index) * self.cell


def layout_of(side: int, cell: int, *, kinds: int, seed: int = 0) -> Layout:
    """Return a seeded layout in which every fifth cell is glass and no cell repeats beside or above itself."""
    if side % cell or cell % RATIOS[-1]:
        msg = f"A side of {side} px does not hold whole cells of {cell} px, which must be a multiple of {RATIOS[-1]}."
        raise ValueError(msg)
    count = side // cell
    rng = np.random.default_rng(seed)
    index = np.empty((count, count), np.int64)
    for row, column in np.ndindex(count, count):
        taken = {int(index[row - 1, column]) if row else -1, int(index[row, column - 1]) if column else -1}
        index[row, column] = rng.choice([v for v in range(kinds) if v not in taken])
    # Every fifth in reading order; the shift by row keeps the glass from lining up where a row holds 5 n cells.
    places = np.arange(count) + 2 * np.arange(count)[:, None]
    index[places % 5 == 4] = -1
    return Layout(index, cell)


def turned(pixels: Pixels, turn: int) -> Pixels:
    """Return one of the eight ways (0 to 7) to turn and mirror a square."""
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if turn >= 4 else pixels, turn % 4))


def averaged(pixels: Pixels, ratio: int) -> Pixels:
    """Return the means of whole `ratio` x `ratio` boxes, rounded."""
    if ratio == 1:
        return pixels
    height, width = (n // ratio for n in pixels.shape[:2])
    boxes = pixels.reshape(height, ratio, width, ratio, 3).sum(axis=(1, 3), dtype=np.uint32)
    return ((boxes + ratio * ratio // 2) // (ratio * ratio)).astype(np.uint8)


def glass(cell: int, *, seed: int = 1) -> Pixels:
    """Return bare glass: nearly white, with the faint noise of a camera."""
    noise = np.random.default_rng(seed).normal(0, 1.2, (cell, cell, 1))
    return np.clip(np.round(np.array([243, 242, 244]) + noise), 0, 255).astype(np.uint8)


def windows(data: Path, cell: int) -> list[Pixels]:
    """Return the squares of `cell` px cut from the real slides."""
    squares = []
    for name, (x, y) in WINDOWS:
        corner = (x - cell // 2, y - cell // 2)
        with openslide.OpenSlide(data / "slides" / name) as slide:
            squares.append(np.asarray(slide.read_region(corner, 0, (cell, cell)).convert("RGB")))
    return squares


def cells_of(data: Path, cell: int) -> list[Pixels]:
    """Return every distinct cell: windows x 8 turns, then glass (which index -1 finds)."""
    return [*(turned(v, turn) for v in windows(data, cell) for turn in range(8)), glass(cell)]


def encoded(tile: Pixels) -> bytes:
    """Return a tile as a JPEG stream: RGB in, YCbCr 4:2:0 stored."""
    return bytes(
        imagecodecs.jpeg8_encode(
            tile, level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
        )
    )


def _tiles_of(pixels: Pixels) -> dict[tuple[int, int], bytes]:
    """Return the encoded tiles of a picture by (row, column), its last pixels repeated where a tile sticks out."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % TILE), (0, -width % TILE), (0, 0)), mode="edge")
    return {
        (row, column): encoded(padded[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE])
        for row in range(len(padded) // TILE)
        for column in range(padded.shape[1] // TILE)
    }


class LevelTiles:
    """The encoded tiles of one level of a layout."""

    def __init__(self, layout: Layout, cells: list[Pixels], ratio: int) -> None:
        self._layout, self._per_cell = layout, layout.cell // ratio
        self.side = layout.side // ratio
        small = [averaged(v, ratio) for v in cells]
        if self._per_cell % TILE == 0:
            # Tiles do not cross cells: each distinct one is encoded once.
            self._of_cell = [_tiles_of(v) for v in small]
            self._whole = None
        else:
            rows = [np.concatenate([small[i] for i in row], axis=1) for row in layout.index]
            self._whole = _tiles_of(np.concatenate(rows))

    def __getitem__(self, place: tuple[int, int]) -> bytes:
        if self._whole is not None:
            return self._whole[place]
        per_cell = self._per_cell // TILE
        row, column = place
        cell = self._layout.index[row // per_cell, column // per_cell]
        return self._of_cell[cell][row % per_cell, column % per_cell]

    def covering(self, side: int) -> Iterator[bytes]:
        """Yield, in TIFF order, the tiles of a level cut to `side` px."""
        count = -(-side // TILE)
        for row in range(count):
            for column in range(count):
                yield self[row, column]


def write_slide(path: Path, levels: list[LevelTiles], side: int, *, description: str) -> None:
    """Write a pyramid whose level 0 is `side` px, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.part")
    with tifffile.TiffWriter(temporary, bigtiff=True) as writer:
        for number, (ratio, tiles) in enumerate(zip(RATIOS, levels, strict=True)):
            writer.write(
                tiles.covering(side // ratio),
                shape=(side // ratio, side // ratio, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",  # of the data; with JPEG, tifffile states YCbCr in the file
                compression="jpeg",
                compressionargs={"level": QUALITY},
                subfiletype=1 if number else 0,
                resolution=(PIXELS_PER_CM / ratio, PIXELS_PER_CM / ratio),
                resolutionunit="CENTIMETER",
                description=None if number else description,
                metadata=None,
                software=False,
            )
    temporary.replace(path)


def write_mosaic(out: Path, data: Path, *, side: int, cell: int, cut: int = CUT) -> list[Path]:
    """Write exact.tiff and odd.tiff into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    cells = cells_of(data, cell)
    layout = layout_of(side, cell, kinds=len(cells) - 1)
    levels = [LevelTiles(layout, cells, ratio) for ratio in RATIOS]
    paths = []
    for name, size in (("exact", side), ("odd", side - cut)):
        # OpenSlide's hash takes the last level and this text; alike, the two would pass for one slide.
        note = f"benchmark mosaic of real pixels, not a real layout; {name} level ratios"
        write_slide(out / f"{name}.tiff", levels, size, description=note)
        paths.append(out / f"{name}.tiff")
    return paths


def default_data() -> Path:
    """Return the folder of real slides: HISTOLATENT_TEST_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("HISTOLATENT_TEST_DATA", beside))


def main(arguments: list[str] | None = None) -> None:
    """Write both slides and say what they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for exact.tiff and odd.tiff")
    parser.add_argument("--side", type=int, default=61_440, help="pixels of level 0 on each axis")
    parser.add_argument("--cell", type=int, default=2_048, help="pixels of a cell; at most 2,048")
    parser.add_argument("--data", type=Path, default=default_data(), help="folder with slides/*.svs")
    options = parser.parse_args(arguments)
    if options.side % options.cell or options.cell % RATIOS[-1] or not 0 < options.cell <= 2_048:
        parser.error("--side must be a multiple of --cell, and --cell a multiple of 64 up to 2,048")
    for path in write_mosaic(options.out, options.data, side=options.side, cell=options.cell):
        with openslide.OpenSlide(path) as slide:
            ratios = ", ".join(f"{v:.4f}" for v in slide.level_downsamples)
            megabytes = path.stat().st_size / 1e6
            sys.stdout.write(f"{path}: {slide.dimensions} px, downsamples {ratios}, {megabytes:,.0f} MB\n")


if __name__ == "__main__":
    main()
