"""Whether a dataset can train a network: asked before a run is made, and needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from napari_histolatent.patches import PatchDataset


def require_trainable(dataset: PatchDataset, size_px: int, *, needs_classes: bool = True) -> None:
    """Refuse a dataset that cannot train a network of this size.

    Raises
    ------
    DatasetError
        If the patches have another size, there is none to train on, or, where classes are needed, there is one
        class only or a class has no training patch.
    """
    if dataset.size_px != size_px:
        msg = (
            f"The dataset has patches of {dataset.size_px} px, the training is set to {size_px} px; "
            f"train with --size {dataset.size_px} or cut patches of {size_px} px."
        )
        raise DatasetError(msg)
    if len(dataset) == 0:
        msg = "The dataset has no patches; annotate more tissue and cut it again."
        raise DatasetError(msg)
    if needs_classes and len(dataset.classes) < 2:
        has = f"one class only ({dataset.classes[0]})" if dataset.classes else "no classes"
        msg = f"The dataset has {has}; a class-conditional network needs two: annotate another, or train the network dcgan, which needs none."
        raise DatasetError(msg)
    rows = dataset.rows_of("train")
    if len(rows) == 0:
        msg = "The dataset has no patch in the training split; cut it again with another split."
        raise DatasetError(msg)
    if not needs_classes:
        return
    counts = np.bincount(dataset.labels[rows], minlength=len(dataset.classes))
    for name, count in zip(dataset.classes, counts, strict=True):
        if count == 0:
            msg = f"Class {name!r} has no patch in the training split; annotate more of it and cut the dataset again."
            raise DatasetError(msg)
