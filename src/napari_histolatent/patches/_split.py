"""Who trains and who tests: by patient, else by slide; one slide alone by blocks with a guard gap."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._config import option
from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SPLITS = ("train", "val", "test")
DROPPED = -1
WAYS = ("auto", "patient", "slide", "block")
"""What a split may keep together."""

_TRIES = 200
_MOVES = 400
_BLOCK_WORK = 2_000_000
"""Sorts of patches (see `_Blocks`) looked at over all draws of one split by blocks: some 0.2 s."""

_SCALES = (1, 2, 4, 8)
"""Sides, in blocks, of the squares that are drawn whole: larger ones lose fewer patches between splits."""

_EXHAUSTIVE = 9
"""Groups up to which every way to split them is tried (3^9 = 19,683)."""
_PAIRS = 1000
_STEPS = 100

# What a class that is missing from train, val or test costs; any imbalance and loss together is below 7 per class.
_MISSING_COST = np.array([1000.0, 10.0, 11.0])


@dataclass(frozen=True)
class SplitSpec:
    """Shares of the three splits, what is kept together, and how one slide alone is divided."""

    by: str = option(
        "auto",
        "What is kept together: patient, slide or block (of one slide); auto: patients where slides name them (one that names none is its own), else slides, else blocks.",
    )
    fractions: tuple[float, float, float] = option((0.7, 0.15, 0.15), "Shares of train, val and test.")
    block_patches: float = option(
        5.0, "Side of a block, in patches of the largest size, when slides are split by blocks."
    )
    guard_patches: float = option(
        0.25, "Least gap between patches of different splits on a slide, in patches."
    )
    seed: int = option(0, "Seed of the draw; the same seed and patches give the same split.")

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            msg = f"Patches cannot be split by {self.by!r}; choose one of: {', '.join(WAYS)}."
            raise DatasetError(msg)
        if not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6) or self.fractions[0] == 0:
            msg = f"The shares of train, val and test have to sum to 1 with some train, not {self.fractions}."
            raise DatasetError(msg)
        if not (self.guard_patches >= 0 and self.block_patches >= 1 + self.guard_patches):
            msg = f"A block of {self.block_patches:g} patches does not hold a patch and its guard gap of {self.guard_patches:g}; make it larger."
            raise DatasetError(msg)
        if self.seed < 0:
            msg = f"A seed of {self.seed} is not possible; give 0 or more."
            raise DatasetError(msg)


def how_split(
    *, slides: NDArray[np.int64], patients: Sequence[str], labels: NDArray[np.int64], spec: SplitSpec
) -> str:
    """Return what `assign_splits` keeps together for these patches: patient, slide or block.

    Only slides with a labelled patch count: others have nothing to train or test with. A slide that names no
    patient counts as a patient of its own, unless none names one.
    """
    if spec.by != "auto":
        return spec.by
    used = np.flatnonzero(np.bincount(slides[labels >= 0], minlength=len(patients))).tolist()
    named = {patients[i] for i in used} - {""}
    n_unnamed = sum(not patients[i] for i in used)
    if named and len(named) + n_unnamed >= 2:
        return "patient"
    return "slide" if len(used) >= 2 else "block"


def assign_splits(
    *,
    slides: NDArray[np.int64],
    patients: Sequence[str],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    spec: SplitSpec,
    names: Sequence[str] = (),
) -> NDArray[np.int64]:
    """Return the split of each patch: groups stay together, each class is near its asked share in each split.

    Deterministic for a seed. Up to nine groups the best way of all is found, and the seed only decides between
    equals. Two groups give train and test. If it is possible at all, train has every class. Blocks are of one slide
    each, and those of all slides are shared out together.

    Parameters
    ----------
    slides
        Number of the slide of each patch, shape (n,), from 0.
    patients
        Patient of each slide number; "" where it is not known.
    boxes
        Left, top, right, bottom in level-0 pixels, shape (n, 4); only blocks look at them. Sizes may differ.
    labels
        Class index of each patch, shape (n,); -1 for none. Such a patch goes with its group, and does not count.
    spec
        Shares, way and seed.
    names
        Name of each slide number that does not depend on the order of the slides (its digest): with it, neither
        does the split. Patients go by their own names.

    Returns
    -------
    numpy.ndarray
        int64, shape (n,): index into `SPLITS`; -1 for patches dropped at a border between two blocks, and for
        those of a patient or slide that has no labelled patch.

    Raises
    ------
    DatasetError
        If it is to be by patient and a slide has none, or if there is one group only for several splits.
    """
    slides, labels = np.asarray(slides, np.int64), np.asarray(labels, np.int64)
    if not len(slides):
        return np.zeros(0, np.int64)
    way = how_split(slides=slides, patients=patients, labels=labels, spec=spec)
    ranks = _ranks(names) if names else np.arange(len(patients))
    if way == "block":
        return _split_by_block(ranks[slides], boxes, labels, spec)
    present = np.flatnonzero(np.bincount(slides, minlength=len(patients))).tolist()
    if way == "patient":
        for number in present:
            if not patients[number] and spec.by == "patient":
                which = names[number] if names else f"number {number + 1}"
                msg = f"Slide {which} names no patient, so the patches cannot be split by patient; name one for every slide, or split by slide."
                raise DatasetError(msg)
        own = names or [str(number) for number in range(len(patients))]
        ranks = _ranks([patient or f"\0{name}" for patient, name in zip(patients, own, strict=True)])
    group_of = ranks[slides]
    counts = _counts(group_of, labels)
    labelled = np.flatnonzero(counts.any(axis=1))
    if len(labelled) < 2 and sum(share > 0 for share in spec.fractions) > 1:
        found = f"only {len(labelled)} {way} has" if len(labelled) else f"no {way} has"
        other = "split by block" if way == "slide" else "split by slide or block"
        msg = f"The patches cannot be split by {way}: {found} labelled patches; add another, or {other}."
        raise DatasetError(msg)
    assigned = np.full(len(counts), DROPPED)
    assigned[labelled] = _assign_groups(counts[labelled], spec)
    return np.asarray(assigned[group_of], np.int64)


def split_by_group(groups: Sequence[str], labels: NDArray[np.int64], spec: SplitSpec) -> NDArray[np.int64]:
    """Return the split index of each patch; patches of one group (patient or slide) stay together.

    Parameters
    ----------
    groups
        Patient or slide of each patch.
    labels
        Class index of each patch; the assignment closest to the asked shares in every class is taken.
    """
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    return np.asarray(_assign_groups(_counts(group_of, labels), spec)[group_of], np.int64)


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
        Left, top, right, bottom in level-0 pixels, shape (n, 4). Sizes may differ: blocks and gap go by the largest.
    labels
        Class index of each patch, shape (n,); -1 for none.
    """
    return _split_by_block(np.zeros(len(boxes), np.int64), boxes, labels, spec)


def _ranks(names: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each name among the sorted different ones."""
    places = {name: i for i, name in enumerate(sorted(set(names)))}
    return np.array([places[name] for name in names], np.int64)


def _counts(group_of: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the labelled patches of each group and class, shape (groups, classes)."""
    n_groups, n_classes = int(group_of.max(initial=-1)) + 1, int(labels.max(initial=0)) + 1
    known = labels >= 0
    codes = group_of[known] * n_classes + labels[known]
    return np.bincount(codes, minlength=n_groups * n_classes).reshape(n_groups, n_classes)


def _cost(
    got: NDArray[np.int64], totals: NDArray[np.int64], fractions: Sequence[float]
) -> NDArray[np.float64]:
    """Return how bad splits are: distance from the asked shares, patches lost, classes missing.

    A class missing from train is worst, from another split worse than any imbalance; from test a little worse than
    from val, so that of two groups the second tests.

    Parameters
    ----------
    got
        Patches of each split and class, shape (..., 3, classes).
    totals
        Patches of each class before any was dropped, shape (classes,).
    """
    present = totals > 0
    got, totals = got[..., present], totals[present]
    wanted = np.array(fractions)[:, None]
    kept = got.sum(axis=-2, keepdims=True)
    imbalance = np.abs(got / np.maximum(kept, 1) - wanted).sum(axis=(-2, -1))
    lost = (1 - kept[..., 0, :] / totals).sum(axis=-1)
    missing = (((got == 0) & (wanted > 0)) * _MISSING_COST[:, None]).sum(axis=(-2, -1))
    return np.asarray(imbalance + lost + missing, np.float64)


def _assign_groups(counts: NDArray[np.int64], spec: SplitSpec) -> NDArray[np.int64]:
    """Return the split of each group, from its patches of each class, shape (groups, classes)."""
    rng = np.random.Generator(np.random.PCG64(spec.seed))
    # In an order drawn by the seed, which so decides between equals.
    order = rng.permutation(len(counts))
    assigned = np.zeros(len(counts), np.int64)
    if len(counts) <= _EXHAUSTIVE:
        assigned[order] = _best_of_all(counts[order], spec.fractions)
    else:
        assigned[order] = _improved(_greedy(counts[order], spec.fractions, rng), counts[order], spec, rng)
    return assigned


def _allowed(fractions: Sequence[float]) -> list[int]:
    """Return the splits that get anything."""
    return [i for i, share in enumerate(fractions) if share > 0]


def _got(assigned: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the patches of each split and class, shape (3, classes); those at -1 are in none."""
    return np.stack([counts[assigned == i].sum(axis=0) for i in range(len(SPLITS))])


def _best_of_all(counts: NDArray[np.int64], fractions: Sequence[float]) -> NDArray[np.int64]:
    """Return the best of every way to split a few groups."""
    ways = np.array(list(product(_allowed(fractions), repeat=len(counts))), np.int64)
    got = np.stack([(ways == i) @ counts for i in range(len(SPLITS))], axis=1)
    return np.asarray(ways[_cost(got, counts.sum(axis=0), fractions).argmin()])


def _greedy(
    counts: NDArray[np.int64], fractions: Sequence[float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return splits of many groups: the large before the small, each to the split that most lacks its patches."""
    totals = np.maximum(counts.sum(axis=0), 1)
    wanted = np.array(fractions)[:, None]
    allowed = _allowed(fractions)
    shares = counts / totals
    lacking = np.broadcast_to(wanted, (len(SPLITS), counts.shape[1])).copy()
    assigned = np.zeros(len(counts), np.int64)
    # Roughly by size: another seed is to give another split, also where no two groups are equal.
    for group in np.argsort(-shares.sum(axis=1) * (0.5 + rng.random(len(counts))), kind="stable"):
        # The squared shortfall that is left in each class, relative to what the split was to get.
        gain = (shares[group] * (2 * lacking - shares[group]) / np.maximum(wanted, 1e-9)).sum(axis=1)
        split = max(allowed, key=gain.__getitem__)
        assigned[group] = split
        lacking[split] -= shares[group]
    return assigned


def _improved(
    assigned: NDArray[np.int64], counts: NDArray[np.int64], spec: SplitSpec, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return splits after the best moves of one group, and the best of drawn exchanges of two, while they help."""
    assigned, totals = assigned.copy(), counts.sum(axis=0)
    allowed = np.array(_allowed(spec.fractions))
    n_groups = len(counts)
    got = _got(assigned, counts)
    cost = float(_cost(got, totals, spec.fractions))
    groups, targets = (v.ravel() for v in np.meshgrid(np.arange(n_groups), allowed, indexing="ij"))
    for _ in range(min(_STEPS, 1 + 200_000 // n_groups)):
        moved = _after_moves(got, assigned[groups], targets, counts[groups])
        one, other = rng.integers(0, n_groups, (2, _PAIRS))
        swapped = _after_moves(got, assigned[one], assigned[other], counts[one] - counts[other])
        costs = _cost(np.concatenate([moved, swapped]), totals, spec.fractions)
        best = int(costs.argmin())
        if costs[best] >= cost - 1e-12:
            break
        cost = float(costs[best])
        if best < len(moved):
            got = moved[best]
            assigned[groups[best]] = targets[best]
        else:
            pair = best - len(moved)
            got = swapped[pair]
            assigned[[one[pair], other[pair]]] = assigned[[other[pair], one[pair]]]
    return assigned


def _after_moves(
    got: NDArray[np.int64], sources: NDArray[np.int64], targets: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the patches of each split and class after each of m moves alone, shape (m, 3, classes)."""
    splits = np.arange(len(SPLITS))
    change = (targets[:, None] == splits).astype(np.int64) - (sources[:, None] == splits)
    return np.asarray(got + change[:, :, None] * counts[:, None, :])


@dataclass(frozen=True)
class _Blocks:
    """Blocks of slides, and the sorts of patches on them: those that reach the same blocks.

    Draws are judged on the sorts, some nine a block, never on the patches.
    """

    sort_of: NDArray[np.int64]
    """Sort of each patch, shape (n,)."""
    reached: NDArray[np.int64]
    """Blocks that each sort reaches, shape (4, sorts), its own first; the same one several times where fewer."""
    regions: NDArray[np.int64]
    """Number of the square of blocks that each block is in, shape (scales, blocks), for every side in `_SCALES`."""

    @classmethod
    def of(cls, slides: NDArray[np.int64], boxes: NDArray[np.float64], spec: SplitSpec) -> _Blocks:
        sizes = np.zeros(int(slides.max()) + 1)
        np.maximum.at(sizes, slides, (boxes[:, 2:] - boxes[:, :2]).max(axis=1))
        size = sizes[slides]
        side, reach = spec.block_patches * size, spec.guard_patches * size / 2
        # A patch with its half gap is at most one block wide: along an axis it reaches its own and one neighbour.
        axes = []
        for axis in (0, 1):
            low, high = boxes[:, axis], boxes[:, axis + 2]
            own, first, last = (
                (np.maximum(v, 0) // side).astype(np.int64)
                for v in ((low + high) / 2, low - reach, high + reach - 1e-6)
            )
            axes.append((own, np.where(first < own, -1, np.where(last > own, 1, 0))))
        (column, step_x), (row, step_y) = axes
        n_columns, n_rows = int(column.max()) + 2, int(row.max()) + 2
        own = (slides * n_rows + row) * n_columns + column
        sorts, sort_of = np.unique(own * 9 + (step_x + 1) * 3 + step_y + 1, return_inverse=True)
        own, steps = np.divmod(sorts, 9)
        dx, dy = steps // 3 - 1, (steps % 3 - 1) * n_columns
        # Every block that a patch reaches has a split, also one that holds no patch's centre: two patches could meet there.
        names, reached = np.unique(np.stack([own, own + dx, own + dy, own + dx + dy]), return_inverse=True)
        lines, across = np.divmod(names, n_columns)
        slide_of, down = np.divmod(lines, n_rows)
        regions = [
            np.unique((slide_of * n_rows + down // side) * n_columns + across // side, return_inverse=True)[1]
            for side in _SCALES
        ]
        return cls(sort_of, reached.reshape(4, -1), np.stack(regions))

    def splits_of(self, assigned: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the split of each sort, -1 where it reaches a block of another, from those of the blocks."""
        own, *others = (assigned[v] for v in self.reached)
        alone = (others[0] == own) & (others[1] == own) & (others[2] == own)
        return np.where(alone, own, DROPPED)


def _split_by_block(
    slides: NDArray[np.int64], boxes: NDArray[np.float64], labels: NDArray[np.int64], spec: SplitSpec
) -> NDArray[np.int64]:
    """Return the patches' splits: the best of many seeded draws for the blocks of all slides, then improved."""
    labels = np.asarray(labels, np.int64)
    blocks = _Blocks.of(slides, np.asarray(boxes, np.float64), spec)
    counts = _counts(blocks.sort_of, labels)
    totals = counts.sum(axis=0)
    rng = np.random.Generator(np.random.PCG64(spec.seed))
    allowed = np.array(_allowed(spec.fractions))
    ends = np.cumsum(np.array(spec.fractions)[allowed])[:-1]
    tries = max(4 * len(_SCALES), min(_TRIES, _BLOCK_WORK // len(counts)))

    def cost_of(assigned: NDArray[np.int64]) -> float:
        return float(_cost(_got(blocks.splits_of(assigned), counts), totals, spec.fractions))

    # The first candidate is all in train: a slide of one block trains.
    best = np.zeros(blocks.regions.shape[1], np.int64)
    cost = cost_of(best)
    for i in range(tries):
        region_of = blocks.regions[i % len(_SCALES)]
        draws = rng.random(int(region_of.max()) + 1)
        drawn = allowed[np.searchsorted(ends, draws, side="right")][region_of]
        if (drawn_cost := cost_of(drawn)) < cost:
            best, cost = drawn, drawn_cost
    # One block or square of blocks at a time: neighbours of one split lose fewer patches between them.
    for _ in range(min(_MOVES, _BLOCK_WORK // len(counts))):
        region_of = blocks.regions[rng.integers(len(_SCALES))]
        moved = best.copy()
        moved[region_of == region_of[rng.integers(len(region_of))]] = allowed[rng.integers(len(allowed))]
        if (moved_cost := cost_of(moved)) < cost:
            best, cost = moved, moved_cost
    return np.asarray(blocks.splits_of(best)[blocks.sort_of], np.int64)
