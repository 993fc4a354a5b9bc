"""As many patches of each class: caps per class, slide and patient, then random undersampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._config import option
from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BALANCE_METHODS = ("none", "smallest")


@dataclass(frozen=True)
class BalanceSpec:
    """Which patches are left out so that no class, slide or patient outweighs the others."""

    method: str = option(
        "none",
        "none, or smallest: random undersampling of every class to the smallest, in each split by itself.",
    )
    per_class: int | None = option(None, "Most patches of a class in the whole dataset; None: all.")
    per_slide: int | None = option(None, "Most patches of a class from one slide; None: all.")
    per_patient: int | None = option(None, "Most patches of a class from one patient; None: all.")
    seed: int = option(0, "Seed of the draw; the same seed and patches leave the same out.")

    def __post_init__(self) -> None:
        if self.method not in BALANCE_METHODS:
            msg = f"There is no balancing {self.method!r}; choose one of: {', '.join(BALANCE_METHODS)}."
            raise DatasetError(msg)
        for name in ("class", "slide", "patient"):
            cap = getattr(self, f"per_{name}")
            if cap is not None and cap < 1:
                msg = f"A cap of {cap} patches per {name} keeps none; give at least 1, or no cap."
                raise DatasetError(msg)
        if self.seed < 0:
            msg = f"A seed of {self.seed} is not possible; give 0 or more."
            raise DatasetError(msg)


def balanced(
    *,
    labels: NDArray[np.int64],
    slides: NDArray[np.int64],
    patients: NDArray[np.int64],
    splits: NDArray[np.int64],
    spec: BalanceSpec,
    first: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Return which patches stay.

    First the caps, each on what the one before left: class and slide, class and patient, class. Then, with method
    "smallest", each split by itself: every class is undersampled to the smallest that has any patch there, as
    Fernández et al. did (S1, section "Data": 116,278 negative and 22,122 positive patches of level 1 were balanced
    to 22,000 of each). Every draw is uniform, and depends on nothing but the rows, their order and the seed.

    Parameters
    ----------
    labels
        Class index of each patch, shape (n,); -1 for none.
    slides, patients
        Number of the slide and patient of each patch, shape (n,), from 0; patient -1 (not known) has no cap.
    splits
        Split index of each patch, shape (n,); -1 for those dropped at a border.
    spec
        Method, caps and seed.
    first
        Patches that others give way to, shape (n,): these stay as long as a cap has room for them; None: none.

    Returns
    -------
    numpy.ndarray
        bool, shape (n,); never true where label or split is -1.
    """
    rng = np.random.Generator(np.random.PCG64(spec.seed))
    rows = np.flatnonzero((labels >= 0) & (splits >= 0))
    n_classes = int(labels.max(initial=-1)) + 1
    if spec.per_slide is not None:
        rows = _capped(rows, slides[rows] * n_classes + labels[rows], spec.per_slide, rng, first)
    if spec.per_patient is not None:
        known = patients[rows] >= 0
        codes = (patients[rows] * n_classes + labels[rows])[known]
        kept = _capped(rows[known], codes, spec.per_patient, rng, first)
        rows = np.concatenate([rows[~known], kept])
        rows.sort()
    if spec.per_class is not None:
        rows = _capped(rows, labels[rows], spec.per_class, rng, first)
    if spec.method == "smallest" and len(rows):
        codes = splits[rows] * n_classes + labels[rows]
        n_splits = int(splits.max()) + 1
        counts = np.bincount(codes, minlength=n_splits * n_classes).reshape(n_splits, n_classes)
        smallest = np.where(counts > 0, counts, len(rows)).min(axis=1)
        rows = _capped(rows, codes, np.repeat(smallest, n_classes), rng, first)
    keep = np.zeros(len(labels), np.bool_)
    keep[rows] = True
    return keep


def _capped(
    rows: NDArray[np.int64],
    groups: NDArray[np.int64],
    most: int | NDArray[np.int64],
    rng: np.random.Generator,
    first: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Return the rows that stay, ascending, when each group keeps at most `most` of its own, drawn at random.

    Parameters
    ----------
    groups
        Group number of each row.
    most
        One cap for all, or one per group number.
    first
        Of all patches, not only of `rows`: which are kept before any other; None: none.
    """
    counts = np.bincount(groups)
    if (counts <= most).all() if isinstance(most, int) else (counts <= most[: len(counts)]).all():
        return rows
    # Sorted by group, in random order within each: a patch's place in its group is its number in the draw.
    # A new order for every cap, else slides whose patches survived one cap would be favoured by the next.
    drawn = rng.permutation(len(rows))
    if first is not None:
        is_first = first[rows[drawn]]
        drawn = np.concatenate([drawn[is_first], drawn[~is_first]])
    shuffled = groups[drawn]
    # Two bytes are sorted by radix, ten times as fast.
    small = shuffled.astype(np.uint16) if len(counts) <= 1 << 16 else shuffled
    order = np.argsort(small, kind="stable")
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    cap = most if isinstance(most, int) else most[shuffled[order]]
    return np.sort(rows[drawn[order[place < cap]]])
