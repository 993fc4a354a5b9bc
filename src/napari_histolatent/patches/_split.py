"""Who trains and who tests: by patient, else by slide; one slide alone by blocks with a guard gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6 or self.fractions[0] == 0:
            msg = f"The shares of train, val and test have to sum to 1 with some train, not {self.fractions}."
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
    return _best_assignment(group_of, labels, len(names), spec)[group_of]


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
    names, block_of = np.unique(centre, return_inverse=True)
    assigned = np.full(int(names.max()) + n_columns + 2, DROPPED)
    assigned[names] = _best_assignment(block_of, labels, len(names), spec)
    split = assigned[centre]
    for x in (boxes[:, 0] - reach, boxes[:, 2] + reach - 1e-6):
        for y in (boxes[:, 1] - reach, boxes[:, 3] + reach - 1e-6):
            neighbour = block_at(x, y)
            inside = np.where(neighbour < len(assigned), neighbour, len(assigned) - 1)
            other = assigned[inside]
            # A block without a patch centre belongs to no split: reaching into it leaks nothing.
            split = np.where((other != DROPPED) & (other != assigned[centre]), DROPPED, split)
    return split


def _best_assignment(
    group_of: NDArray[np.int64], labels: NDArray[np.int64], n_groups: int, spec: SplitSpec
) -> NDArray[np.int64]:
    """Return the split of each group: of many seeded draws, the one nearest the asked shares per class."""
    counts = np.zeros((n_groups, int(labels.max()) + 1))
    np.add.at(counts, (group_of, labels), 1)
    rng = np.random.default_rng(spec.seed)
    wanted = np.array(spec.fractions)[:, None] * counts.sum(0)
    best, best_error = np.zeros(n_groups, np.int64), np.inf
    for _ in range(_TRIES):
        drawn = rng.choice(3, n_groups, p=spec.fractions)
        got = np.stack([counts[drawn == i].sum(0) for i in range(3)])
        error = float((np.abs(got - wanted) / np.maximum(counts.sum(0), 1)).sum())
        missing = ((got == 0) & (wanted > 0)).sum()  # a split without a class is worse than any imbalance
        if error + 10 * missing < best_error:
            best, best_error = drawn, error + 10 * missing
    return best
