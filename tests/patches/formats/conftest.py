from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.patches import PatchDataset
from napari_histolatent.patches._index import index_table
from napari_histolatent.patches._write import write_dataset

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE_PX = 16


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """Two slides of random pixels: `one` read at level 1 (downsample 2), `two.x` resampled by 2.004.

    Seven patches, one more left out; class "b/c" is no file name, and a fraction and a quality are unknown.
    """
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (8, SIZE_PX, SIZE_PX, 3), np.uint8)
    width = 2.004 * SIZE_PX
    columns: dict[str, Any] = {
        "slide": ["d1"] * 4 + ["d2"] * 4,
        "patient": ["p1"] * 4 + [""] * 4,
        "x": [0, 32, 64, 0, 100, 140, 180, 900],
        "y": [0, 0, 0, 32, 7, 7, 7, 900],
        "width_level0_px": [32.0] * 4 + [width] * 4,
        "height_level0_px": [32.0] * 4 + [width] * 4,
        "level": [1] * 4 + [-1] * 4,
        "downsample": [2.0] * 4 + [2.004] * 4,
        "mpp": [0.5] * 4 + [1.0] * 4,
        "label": ["a", "a", "b/c", "b/c", "a", "b/c", "a", ""],
        "split": ["train"] * 4 + ["test"] * 4,
        "left_out": [""] * 7 + ["no label"],
        "tissue": [1.0, 0.5, 0.25, 1, 1, 1, 1, 1],
        "annotated": [1.0] * 8,
        "coverage_a": [1.0, 0.75, 0, 0, 1, 0, 1, 0],
        "coverage_b/c": [0, 0, 1.0, 1, 0, 1, 0, 0],
        "focus": [3.5] * 7 + [np.nan],
        "pen": [np.nan] * 8,
    }
    path = tmp_path_factory.mktemp("dataset") / "two_slides"
    write_dataset(
        path,
        table=index_table(columns, ["a", "b/c"]),
        batches=iter([pixels[:5], pixels[5:]]),
        size_px=SIZE_PX,
        classes=["a", "b/c"],
        settings={
            "mpp": None,
            "colors": {"b/c": [1, 2, 3]},
            "grid": {"size_px": SIZE_PX, "stride_px": 12},
            "slides": [
                {"path": "/slides/one.svs", "digest": "d1", "width_px": 1000, "height_px": 801},
                {"path": r"C:\slides\two.x.ndpi", "digest": "d2"},
            ],
        },
    )
    return PatchDataset(path)


@pytest.fixture(scope="session")
def placeless(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """Two patches that lie on no slide."""
    path = tmp_path_factory.mktemp("dataset") / "placeless"
    write_dataset(
        path,
        table=index_table({"slide": ["f1", "f2"], "label": ["a", "a"]}, []),
        batches=[np.zeros((2, 4, 4, 3), np.uint8)],
        size_px=4,
        classes=["a"],
        settings={
            "mpp": None,
            "slides": [{"digest": "f1", "path": "p.png"}, {"digest": "f2", "path": "p.png"}],
        },
    )
    return PatchDataset(path)


@pytest.fixture
def files_of() -> Callable[[Path], dict[str, bytes]]:
    """A function that returns all files under a folder: name to content."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
