"""Batches from a patch dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_histolatent.errors import DatasetError
from napari_histolatent.models.images import to_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.patches import PatchDataset

_RESIDENT_BYTES = 4 << 30
"""A split up to this size is held in memory as uint8; a larger one is read batch by batch."""


class Batches:
    """Class-balanced random batches of one split, on a device. Chance comes from the generator passed in."""

    def __init__(self, dataset: PatchDataset, split: str, device: torch.device) -> None:
        self._dataset, self._device = dataset, device
        self._rows = dataset.rows_of(split)
        labels = dataset.labels[self._rows]
        self._rows_of_class = [
            torch.from_numpy(np.flatnonzero(labels == i)) for i in range(len(dataset.classes))
        ]
        nbytes = len(self._rows) * dataset.size_px**2 * 3
        self._resident: NDArray[np.uint8] | None = (
            dataset.read(self._rows) if nbytes <= _RESIDENT_BYTES else None
        )

    def __len__(self) -> int:
        return len(self._rows)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return n images (n, 3, size_px, size_px) in [-1, 1] and their class indices (n,), classes even."""
        n_classes = len(self._rows_of_class)
        # The remainder goes round, so that over batches no class is favoured.
        first = int(torch.randint(0, n_classes, (1,), generator=rng))
        labels = (torch.arange(n) + first) % n_classes
        chance = torch.rand(n, generator=rng)
        rows = torch.tensor(
            [
                self._rows_of_class[c][int(u * len(self._rows_of_class[c]))]
                for c, u in zip(labels, chance, strict=True)
            ]
        )
        return self._images(rows.numpy()), labels.to(self._device)

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """Return at most n images spread evenly over the split, and their class indices: always the same."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).astype(np.int64))
        labels = torch.from_numpy(self._dataset.labels[self._rows[rows]])
        return self._images(rows), labels.to(self._device)

    def _images(self, rows: NDArray[np.int64]) -> Tensor:
        pixels = self._resident[rows] if self._resident is not None else self._dataset.read(self._rows[rows])
        return to_tensor(pixels).to(self._device)


def require_trainable(dataset: PatchDataset, size_px: int) -> None:
    """Refuse a dataset that cannot train a network of this size with classes.

    Raises
    ------
    DatasetError
        If the patches have another size, there is one class only, or a class has no training patch.
    """
    if dataset.size_px != size_px:
        msg = (
            f"The dataset has patches of {dataset.size_px} px, the training is set to {size_px} px; "
            f"train with --size {dataset.size_px} or cut patches of {size_px} px."
        )
        raise DatasetError(msg)
    if len(dataset.classes) < 2:
        msg = f"The dataset has one class only ({', '.join(dataset.classes)}); a class-conditional network needs two: annotate another."
        raise DatasetError(msg)
    counts = np.bincount(dataset.labels[dataset.rows_of("train")], minlength=len(dataset.classes))
    for name, count in zip(dataset.classes, counts, strict=True):
        if count == 0:
            msg = f"Class {name!r} has no patch in the training split; annotate more of it and cut the dataset again."
            raise DatasetError(msg)


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Return class vectors (B, n_classes) of class indices (B,)."""
    return torch.nn.functional.one_hot(labels, n_classes).float()
