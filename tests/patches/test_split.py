from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import SPLITS, SplitSpec
from napari_histolatent.patches._split import DROPPED, split_by_block, split_by_group

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 10.0


def gaps(boxes: NDArray[np.float64], split: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the gap of each pair of kept patches of different splits; negative where they overlap."""
    kept = np.flatnonzero(split != DROPPED)
    one, other = (v[split[kept][:, None] != split[kept]] for v in np.meshgrid(kept, kept, indexing="ij"))
    starts = np.maximum(boxes[one, :2], boxes[other, :2])
    ends = np.minimum(boxes[one, 2:], boxes[other, 2:])
    return np.asarray((starts - ends).max(axis=1))


def grid_of_boxes(n: int, stride: float) -> NDArray[np.float64]:
    columns, rows = np.meshgrid(np.arange(n) * stride, np.arange(n) * stride)
    corners = np.column_stack([columns.ravel(), rows.ravel()])
    return np.hstack([corners, corners + SIZE])


def halves(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return class 0 on the left, 1 on the right."""
    return np.asarray(boxes[:, 0] > boxes[:, 0].max() / 2, np.int64)


@pytest.mark.parametrize(
    "fractions",
    [(0.5, 0.2, 0.2), (0.7, 0.4, -0.1), (0.0, 0.5, 0.5), (1.5, 0.0, 0.0), (70.0, 15.0, 15.0)],
)
def test_shares_that_are_none_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(DatasetError, match="have to sum to 1 with some train, not"):
        SplitSpec(fractions=fractions)


def test_shares_that_are_not_numbers_are_refused() -> None:
    # BUG: NaN passes every comparison, and the split ends in numpy's own error.
    with pytest.raises(DatasetError, match="have to sum to 1 with some train, not"):
        SplitSpec(fractions=(float("nan"), 0.5, 0.5))


@pytest.mark.parametrize(
    "arguments",
    [
        {"block_patches": 0.0},
        {"block_patches": 0.5},
        {"block_patches": 1.0},
        {"block_patches": 5.0, "guard_patches": 6.0},
        {"guard_patches": -1.0},
    ],
)
def test_blocks_too_small_for_a_patch_and_its_gap_are_refused(arguments: dict[str, Any]) -> None:
    # BUG: they are accepted, and patches of different splits then overlap (or 0 ends in a division by zero), as only
    # the four corners of a patch are looked at.
    with pytest.raises(DatasetError, match=r"block|gap|guard"):
        SplitSpec(**arguments)


# By patient or slide


def groups_of(n_groups: int, n_classes: int = 2, seed: int = 0) -> tuple[list[str], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    groups = [f"patient {i}" for i in range(n_groups) for _ in range(int(rng.integers(20, 60)))]
    return groups, rng.integers(0, n_classes, len(groups))


@pytest.mark.parametrize("n_groups", [2, 3, 5, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_group_stays_together(n_groups: int, seed: int) -> None:
    groups, labels = groups_of(n_groups)
    split = split_by_group(groups, labels, SplitSpec(seed=seed))
    assert split.shape == (len(groups),)
    for name in set(groups):
        assert len(set(split[np.array(groups) == name])) == 1


@pytest.mark.parametrize("n_groups", [3, 4, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_split_gets_a_group_and_every_class(n_groups: int, seed: int) -> None:
    groups, labels = groups_of(n_groups)
    split = split_by_group(groups, labels, SplitSpec(seed=seed))
    for i in range(len(SPLITS)):
        assert set(labels[split == i]) == {0, 1}


def test_shares_are_near_the_ones_asked_for() -> None:
    groups, labels = groups_of(60)
    split = split_by_group(groups, labels, SplitSpec(fractions=(0.6, 0.2, 0.2)))
    for class_index in (0, 1):
        got = np.bincount(split[labels == class_index], minlength=3) / (labels == class_index).sum()
        np.testing.assert_allclose(got, [0.6, 0.2, 0.2], atol=0.08)


def test_a_group_alone_trains() -> None:
    assert split_by_group(["a"] * 5, np.array([0, 1, 0, 1, 1]), SplitSpec()).tolist() == [0] * 5


def test_a_share_of_zero_gets_nothing() -> None:
    groups, labels = groups_of(20)
    assert set(split_by_group(groups, labels, SplitSpec(fractions=(0.8, 0.2, 0.0)))) == {0, 1}


@pytest.mark.parametrize("seed", range(8))
def test_no_class_is_missing_in_train_if_some_way_has_it_there(seed: int) -> None:
    # BUG: train without class 0 and val without it cost the same, so the seed decides; then `extract` refuses such a
    # pair of slides (with the default seed, too) and tells the user to annotate more.
    labels = np.array([0] * 20 + [1] * 2 + [1] * 20)
    groups = ["slide 2"] * 22 + ["slide 1"] * 20
    split = split_by_group(groups, labels, SplitSpec(seed=seed))
    assert set(labels[split == 0]) == {0, 1}


def test_groups_are_split_the_same_by_the_same_seed_alone() -> None:
    groups, labels = groups_of(30)
    first, again, other = (split_by_group(groups, labels, SplitSpec(seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_order_of_patches_within_a_group_does_not_matter() -> None:
    groups, labels = groups_of(10)
    order = np.random.default_rng(0).permutation(len(groups))
    split = split_by_group(groups, labels, SplitSpec())
    shuffled = split_by_group([groups[i] for i in order], labels[order], SplitSpec())
    np.testing.assert_array_equal(shuffled, split[order])


# One slide by blocks


@pytest.mark.parametrize("stride", [2.5, 5.0, 7.0, 10.0])
@pytest.mark.parametrize("spec", [SplitSpec(), SplitSpec(block_patches=3, guard_patches=0.5, seed=1)])
def test_splits_of_one_slide_keep_the_gap(stride: float, spec: SplitSpec) -> None:
    boxes = grid_of_boxes(30, stride)
    split = split_by_block(boxes, halves(boxes), spec)
    assert set(split) == {0, 1, 2, DROPPED}
    assert gaps(boxes, split).min() >= spec.guard_patches * SIZE - 1e-4


@pytest.mark.parametrize("seed", range(10))
def test_patches_at_any_place_keep_the_gap(seed: int) -> None:
    # BUG: seeds 0, 1 and 7 fail, see below.
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 300, (400, 2))
    boxes = np.hstack([corners, corners + SIZE])
    split = split_by_block(boxes, rng.integers(0, 3, 400), SplitSpec(block_patches=3, seed=seed))
    assert len(set(split)) > 2
    assert gaps(boxes, split).min() >= 2.5 - 1e-4


def test_patches_do_not_meet_in_a_block_that_is_no_ones() -> None:
    # BUG: no patch has its centre in the block at the top right (x 50 to 100, y 0 to 50), so both may reach into it,
    # from the left and from below: they share pixels and are given to two splits.
    boxes = np.array([[44, 38, 54, 48], [52, 46, 62, 56]], float)
    split = split_by_block(boxes, np.array([0, 0]), SplitSpec())
    assert (gaps(boxes, split) >= 2.5 - 1e-4).all()


def test_without_a_gap_patches_may_touch_but_not_overlap() -> None:
    boxes = grid_of_boxes(30, 5.0)
    split = split_by_block(boxes, halves(boxes), SplitSpec(guard_patches=0))
    assert gaps(boxes, split).min() == pytest.approx(0, abs=1e-4)


def test_patches_far_from_a_border_are_kept() -> None:
    spec = SplitSpec(block_patches=5)
    boxes = grid_of_boxes(60, 5.0)
    split = split_by_block(boxes, halves(boxes), spec)
    inner = ((boxes[:, :2] % 50 >= 2) & (boxes[:, :2] % 50 <= 38)).all(axis=1)
    assert inner.sum() > 1000
    assert (split[inner] != DROPPED).all()


def test_a_block_is_given_whole() -> None:
    boxes = grid_of_boxes(60, 5.0)
    split = split_by_block(boxes, halves(boxes), SplitSpec(block_patches=5))
    assert set(split) == {0, 1, 2, DROPPED}
    blocks = ((boxes[:, :2] + SIZE / 2) // 50).astype(int)
    for block in np.unique(blocks, axis=0):
        of_block = split[(blocks == block).all(axis=1)]
        assert len(set(of_block[of_block != DROPPED])) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_train_has_each_class_of_a_slide(seed: int) -> None:
    boxes = grid_of_boxes(40, 5.0)
    labels = halves(boxes)
    labels[(boxes[:, :2] < 40).all(axis=1)] = 2  # a class in one block alone
    split = split_by_block(boxes, labels, SplitSpec(seed=seed))
    assert set(labels[split == 0]) == {0, 1, 2}


def test_blocks_are_split_the_same_by_the_same_seed_alone() -> None:
    boxes = grid_of_boxes(60, 5.0)
    first, again, other = (split_by_block(boxes, halves(boxes), SplitSpec(seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_slide_of_one_block_trains() -> None:
    boxes = grid_of_boxes(3, 10.0)
    assert split_by_block(boxes, np.zeros(9, int), SplitSpec()).tolist() == [0] * 9


def test_after_the_border_is_dropped_no_split_is_left_empty() -> None:
    # BUG: the draw is judged before the patches at the borders are dropped, so a split that was given a few patches
    # of every class can end with none, and no message says so.
    boxes = grid_of_boxes(11, 5.0)
    boxes[:, [0, 2]] += 12.5
    boxes[:, [1, 3]] += 12.5
    for seed in range(10):
        split = split_by_block(boxes, halves(boxes), SplitSpec(block_patches=2, seed=seed))
        assert set(split) == {0, 1, 2, DROPPED}
