"""Who trains and who tests: by patient, else by slide; one slide alone by blocks with a guard gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
DROPPED = -1

_TRIES = 200


@dataclass(frozen=True)
class SplitSpec:
    """Shares of the three splits, and how one slide alone is divided."""

    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    """Shares of train, val and test."""
    block_patches: float = 5.0
    """Side of a block, in patches, when a single slide is split by region."""
    guard_patches: float = 0.25
    """Least gap between patches of different splits on one slide, in patches."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6) or self.fractions[0] == 0:
            msg = f"The shares of train, val and test have to sum to 1 with some train, not {self.fractions}."
            raise DatasetError(msg)
        if not (self.guard_patches >= 0 and self.block_patches >= 1 + self.guard_patches):
            msg = f"A block of {self.block_patches:g} patches does not hold a patch and its guard gap of {self.guard_patches:g}; make it larger."
            raise DatasetError(msg)


def split_by_group(groups: Sequence[str], labels: NDArray[np.int64], spec: SplitSpec) -> NDArray[np.int64]:
    """Return the split index of each patch; patches of one group (patient or slide) stay together.

    Parameters
    ----------
    groups
        Patient or slide of each patch.
    labels
        Class index of each patch; the assignment closest to the asked shares in every class is taken.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    return _best_split(lambda assigned: assigned[group_of], len(names), labels, spec)


def split_by_block(
    boxes: NDArray[np.float64], labels: NDArray[np.int64], spec: SplitSpec
) -> NDArray[np.int64]:
    """Return the split index of each patch of one slide, -1 for patches dropped at a border.

    The slide is cut into square blocks, each given to one split whole. A patch that reaches, with half the
    guard gap around it, into a block of another split is dropped: no pixel is in two splits, and patches of
    different splits are at least the gap apart.

    Parameters
    ----------
    boxes
        Left, top, right, bottom in level-0 pixels, shape (n, 4).
    labels
        Class index of each patch, shape (n,).
    """
    size = float((boxes[:, 2] - boxes[:, 0]).max())
    side, reach = spec.block_patches * size, spec.guard_patches * size / 2
    n_columns = int(boxes[:, 2].max() // side) + 2

    def block_at(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
        return (np.maximum(y, 0) // side).astype(np.int64) * n_columns + (np.maximum(x, 0) // side).astype(
            np.int64
        )

    centre = block_at((boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2)
    corners = [
        block_at(x, y)
        for x in (boxes[:, 0] - reach, boxes[:, 2] + reach - 1e-6)
        for y in (boxes[:, 1] - reach, boxes[:, 3] + reach - 1e-6)
    ]
    # Every block that a patch reaches has a split, also one that holds no patch's centre: two patches could meet there.
    names, block_of = np.unique(np.stack([centre, *corners]), return_inverse=True)
    block_of = block_of.reshape(5, -1)

    def split_of(assigned: NDArray[np.int64]) -> NDArray[np.int64]:
        own = assigned[block_of[0]]
        return np.where((assigned[block_of] == own).all(axis=0), own, DROPPED)

    return _best_split(split_of, len(names), labels, spec)


def _best_split(
    split_of: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    n_groups: int,
    labels: NDArray[np.int64],
    spec: SplitSpec,
) -> NDArray[np.int64]:
    """Return the patches' splits: the best of many seeded draws for the groups.

    Best is near the asked shares of each class, with few patches lost between two splits. `split_of` turns the groups' splits into the patches'. A class missing from train is worst, from another split
    worse than any imbalance.
    """
    n_classes = int(labels.max(initial=0)) + 1
    counts = np.bincount(labels, minlength=n_classes)
    wanted = np.array(spec.fractions)[:, None]
    present = counts > 0
    rng = np.random.default_rng(spec.seed)
    best, best_error = np.zeros(len(labels), np.int64), np.inf
    for _ in range(_TRIES):
        split = split_of(rng.choice(3, n_groups, p=spec.fractions))
        got = np.stack([np.bincount(labels[split == i], minlength=n_classes) for i in range(3)])
        kept = got.sum(axis=0)
        missing = ((got == 0) & (wanted > 0) & present).sum(axis=1)
        imbalance = np.abs(got / np.maximum(kept, 1) - wanted)[:, present].sum()
        lost = (1 - kept / np.maximum(counts, 1))[present].sum()
        error = float(imbalance + lost + 10 * missing.sum() + 1000 * missing[0])
        if error < best_error:
            best, best_error = split, error
    return best
