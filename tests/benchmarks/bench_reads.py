"""Random reads from a dataset's store, beside the bare codec decoding the same bytes.

    python tests/benchmarks/bench_reads.py exact.tiff [--patches 2048] [--repeats 5] [--json FILE]

Patches of 256 px are cut from the slide once (zstd, raw and jpeg) and read in a shuffled order, by one process: single
patches, and batches of 64.

bare codec
    The encoded bytes lie in memory already; only the decoder runs, patch by patch (for raw: a copy).
dataset
    `PatchDataset.read`.
zarr
    zarr-python's own sharded path over the same files (fewer patches: it is slow).
memmap, hdf5
    The raw patches as one .npy memory map, and as HDF5 with a chunk a patch, uncompressed.

Interleaved; patches per second, and ratio to the bare codec of the same turn. Files are in the page cache. Wanted: 0.7.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa
import zarr
from _stats import add_json_option, median, report

from napari_histolatent.patches import PatchDataset, StoreSpec
from napari_histolatent.patches._store import ShardReader, decode_into
from napari_histolatent.patches._write import write_dataset
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZE, BATCH, SLOW = 256, 64, 8
"""Patch side, batch, and the share of the patches that zarr's own path is given (one in so many)."""


def cut(slide: str, n: int) -> NDArray[np.uint8]:
    """Return n patches of a slide, from its middle on, row by row."""
    with open_slide(slide) as opened:
        columns = int(np.ceil(np.sqrt(n)))
        left, top = (v // 2 - columns * SIZE // 2 for v in (opened.info.width_px, opened.info.height_px))
        return np.stack(
            [
                opened.read_region(
                    (left + i % columns * SIZE, top + i // columns * SIZE), size_px=(SIZE, SIZE), level=0
                )
                for i in range(n)
            ]
        )


def store(folder: Path, codec: str, patches: NDArray[np.uint8]) -> PatchDataset:
    """Write the patches with a codec and open the dataset."""
    n = len(patches)
    table = pa.table({"x": np.arange(n), "label": ["a"] * n, "split": ["train"] * n})
    write_dataset(
        folder / codec,
        table=table,
        batches=[patches],
        size_px=SIZE,
        classes=("a",),
        settings={"mpp": None, "slides": []},
        store=StoreSpec(codec=codec),
    )
    return PatchDataset(folder / codec)


def sides_of(
    folder: Path, codec: str, patches: NDArray[np.uint8], order: NDArray[np.int64]
) -> dict[str, Callable[[], int]]:
    """Return what is measured: each reads the patches and returns how many."""
    dataset = store(folder, codec, patches)
    folder_of_pixels = dataset.pixels_folder
    assert folder_of_pixels is not None
    reader = ShardReader(folder_of_pixels, len(patches), SIZE)
    encoded = [reader.read_bytes(int(i)) for i in order]
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    array: Any = zarr.open_array(folder_of_pixels, mode="r")
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]

    def bare() -> int:
        for data in encoded:
            decode_into(data, codec, out)
        return len(encoded)

    def single() -> int:
        for i in order:
            dataset.read([i])
        return len(order)

    def batched() -> int:
        return sum(len(dataset.read(rows)) for rows in batches)

    def by_zarr() -> int:
        few = order[:: SLOW * 4]
        for i in few:
            array[int(i)]
        return len(few)

    return {"bare codec": bare, "dataset, single": single, "dataset, by 64": batched, "zarr, single": by_zarr}


def others(
    folder: Path, patches: NDArray[np.uint8], order: NDArray[np.int64]
) -> dict[str, Callable[[], int]]:
    """Return a memory map and HDF5, for comparison."""
    np.save(folder / "patches.npy", patches)
    mapped = np.load(folder / "patches.npy", mmap_mode="r")
    with h5py.File(folder / "patches.h5", "w") as file:
        file.create_dataset("imgs", data=patches, chunks=(1, SIZE, SIZE, 3))
    dataset = h5py.File(folder / "patches.h5", "r")["imgs"]

    def memmap() -> int:
        for i in order:
            np.array(mapped[i])
        return len(order)

    def hdf5() -> int:
        for i in order:
            dataset[int(i)]
        return len(order)

    return {"memmap, single": memmap, "hdf5, single": hdf5}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide")
    parser.add_argument("--patches", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    add_json_option(parser)
    options = parser.parse_args()
    patches = cut(options.slide, options.patches)
    order = np.random.default_rng(0).permutation(len(patches))
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for codec in ("zstd", "jpeg", "raw"):
            sides = sides_of(folder, codec, patches, order)
            if codec == "raw":
                sides |= others(folder, patches, order)
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for turn in range(options.repeats + 1):
                for side in sides if turn % 2 == 0 else reversed(sides):
                    start = time.perf_counter()
                    n = sides[side]()
                    if turn:  # the first warms up
                        rates[side].append(n / (time.perf_counter() - start))
            for side, figures in rates.items():
                ratio = median(a / b for a, b in zip(figures, rates["bare codec"], strict=True))
                rows.append([codec, side, median(figures), ratio])
                raw[f"{codec}, {side}"] = figures
    report(
        f"Random reads of {len(patches)} patches of {SIZE} px",
        ["codec", "", "patches/s", "ratio to bare codec"],
        rows,
        raw=raw,
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
