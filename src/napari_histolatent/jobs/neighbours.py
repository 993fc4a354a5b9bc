"""The real patches nearest to an image: what a generator may have had in mind, or have learnt by heart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs.calibration import dataset_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.load import LoadedGenerator

MOST_PATCHES = 4096
"""Training patches looked at: of a larger dataset as many, evenly over it."""
_AT_ONCE = 256
_USUAL_OF = 256


@dataclass(frozen=True)
class Neighbour:
    """A real patch, and how near it is."""

    pixels: NDArray[np.uint8]
    """Shape (size_px, size_px, 3)."""
    label: str
    slide: str
    xy: tuple[int, int]
    """Its top-left corner on the slide, level-0 pixels."""
    distance: float
    """Root of the mean squared difference of features, in units of their deviation over the patches looked at: about
    1.4 for any two, 0 for a copy."""


class KnownPatches:
    """The training patches of a dataset by their features; made once, asked often.

    Parameters
    ----------
    dataset
        What a generator learnt from.
    most
        Patches looked at.
    on_progress
        Called with (patches done, patches in all).
    should_stop
        Asked between batches.

    Raises
    ------
    DatasetError
        If it has no patch to train on, or its pixels cannot be read.
    UserError
        If it was stopped.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        *,
        most: int = MOST_PATCHES,
        on_progress: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        from napari_histolatent.latent.calibrating import features_of
        from napari_histolatent.models.images import to_tensor

        rows = dataset.rows_of("train")
        if not len(rows):
            msg = f"The dataset {dataset.path} has no patch that is trained on, so none is near; choose another dataset."
            raise DatasetError(msg)
        if len(rows) > most:
            rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(np.int64))]
        parts = []
        for start in range(0, len(rows), _AT_ONCE):
            if should_stop and should_stop():
                msg = "Looking through the dataset was stopped; start it again."
                raise UserError(msg)
            parts.append(features_of(to_tensor(dataset.read(rows[start : start + _AT_ONCE]))))
            if on_progress:
                on_progress(min(start + _AT_ONCE, len(rows)), len(rows))
        features = np.concatenate(parts)
        self._dataset, self._rows = dataset, rows
        self._mean = features.mean(axis=0)
        deviation = features.std(axis=0)
        # A feature that hardly varies must not outweigh all others.
        self._deviation = np.maximum(deviation, max(0.1 * float(np.median(deviation)), 1e-6))
        self._features = (features - self._mean) / self._deviation

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dataset(self) -> PatchDataset:
        """What was looked through."""
        return self._dataset

    @cached_property
    def usual_distance(self) -> float:
        """Median distance of a patch to the one nearest to it, over some of the patches; nan with one patch."""
        n = len(self._features)
        if n < 2:
            return math.nan
        some = np.unique(np.linspace(0, n - 1, _USUAL_OF).astype(np.int64))
        squares = np.square(self._features).sum(axis=1)
        apart = squares[some, None] + squares - 2 * self._features[some] @ self._features.T
        apart[np.arange(len(some)), some] = np.inf
        return float(np.median(np.sqrt(np.maximum(apart.min(axis=1), 0) / self._features.shape[1])))

    def nearest(self, pixels: NDArray[np.uint8], n: int = 6) -> list[Neighbour]:
        """Return the n patches nearest to an image, uint8, shape (H, W, 3), the nearest first."""
        from napari_histolatent.latent.calibrating import features_of
        from napari_histolatent.models.images import to_tensor

        asked = (features_of(to_tensor(pixels[None]))[0] - self._mean) / self._deviation
        distances = np.sqrt(np.square(self._features - asked).mean(axis=1))
        order = np.argsort(distances, kind="stable")[:n]
        rows = self._rows[order]
        columns = self._dataset.columns
        shown = self._dataset.read(rows)
        return [
            Neighbour(
                pixels=shown[i],
                label=str(columns["label"][row]),
                slide=str(columns["slide"][row]),
                xy=(int(columns["x"][row]), int(columns["y"][row])),
                distance=float(distances[order[i]]),
            )
            for i, row in enumerate(rows)
        ]


def has_dataset(generator: LoadedGenerator, otherwise: str | Path | None = None) -> bool:
    """Return whether `known_to` finds a dataset, without looking through it."""
    for named in [None] if otherwise is None else [None, otherwise]:
        try:
            dataset_of(generator.checkpoint, named)
        except DatasetError:
            continue
        return True
    return False


def known_to(
    generator: LoadedGenerator,
    otherwise: str | Path | None = None,
    *,
    most: int = MOST_PATCHES,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> KnownPatches:
    """Return the patches a generator learnt from: of the dataset that its run names, else of another.

    Parameters
    ----------
    generator
        Whose dataset is asked for.
    otherwise
        A dataset to take where the generator's own is not known or not there.
    most, on_progress, should_stop
        See `KnownPatches`.

    Raises
    ------
    DatasetError
        If there is neither, or the dataset is of another size or other classes.
    UserError
        As `KnownPatches`.
    """
    try:
        dataset = dataset_of(generator.checkpoint, None)
    except DatasetError:
        if otherwise is None:
            raise
        dataset = dataset_of(generator.checkpoint, otherwise)
    return KnownPatches(dataset, most=most, on_progress=on_progress, should_stop=should_stop)
