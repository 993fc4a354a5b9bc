"""Pixels of an index-only dataset: read from the slides each time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._cutting import SlideToCut, opened, read_patch
from napari_histolatent.patches._index import strings
from napari_histolatent.patches._stain import StainFit, normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.patches._dataset import PatchDataset


class SlidePixels:
    """Reads patches of an index-only dataset from its slides; thread-safe."""

    def __init__(self, dataset: PatchDataset) -> None:
        table, stain = dataset.table, dataset.settings.get("stain") or {}
        fits = stain.get("fits", {})
        self._size_px = dataset.size_px
        self._target = StainFit.from_json(stain["target"]) if stain else None
        self._slides = {}
        for entry in dataset.settings["slides"]:
            digest = entry["digest"]
            path = Path(entry["path"])
            if not path.exists() and (dataset.path / path.name).exists():
                path = dataset.path / path.name  # the slides were moved along with the dataset
            fit = StainFit.from_json(fits[digest]) if digest in fits else None
            self._slides[digest] = SlideToCut(path, digest, entry.get("stated_mpp"), fit)
        self._slide_of = strings(table, "slide")
        self._xy = np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()])
        self._level = table["level"].to_numpy()
        sides = [table[f"{side}_level0_px"].to_numpy() for side in ("width", "height")]
        self._downsample = np.column_stack(sides) / dataset.size_px

    def read(self, positions: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return patches, uint8, shape (n, size_px, size_px, 3), in the order of `positions`.

        Raises
        ------
        SlideError
            If a slide is gone or cannot be read.
        DatasetError
            If the index names a slide that dataset.json does not.
        """
        patches = np.empty((len(positions), self._size_px, self._size_px, 3), np.uint8)
        for i, position in enumerate(positions):
            wanted = self._slides.get(self._slide_of[position])
            if wanted is None:
                msg = f"The index names the slide {self._slide_of[position]!r}, dataset.json does not; cut the dataset again."
                raise DatasetError(msg)
            patch = read_patch(
                opened(wanted),
                self._xy[position],
                size_px=self._size_px,
                level=int(self._level[position]),
                downsample=self._downsample[position],
            )
            if wanted.stain is not None and self._target is not None:
                patch = normalise(patch, source=wanted.stain, target=self._target)
            patches[i] = patch
        return patches
