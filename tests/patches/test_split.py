from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._split import (
    DROPPED,
    SPLITS,
    SplitSpec,
    assign_splits,
    how_split,
    split_by_block,
    split_by_group,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    # NaN is below, above and equal to nothing.
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
    # A patch wider than a block would reach across one: only its corners and its centre are looked at.
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
    # Without class 0 nothing can be trained; val can do without it.
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
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 300, (400, 2))
    boxes = np.hstack([corners, corners + SIZE])
    split = split_by_block(boxes, rng.integers(0, 3, 400), SplitSpec(block_patches=3, seed=seed))
    assert len(set(split)) > 2
    assert gaps(boxes, split).min() >= 2.5 - 1e-4


def test_patches_do_not_meet_in_a_block_that_is_no_ones() -> None:
    # No patch has its centre in the block at the top right (x 50 to 100, y 0 to 50), and both reach into it, from the
    # left and from below.
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
    # Draws are judged by what is left.
    boxes = grid_of_boxes(11, 5.0)
    boxes[:, [0, 2]] += 12.5
    boxes[:, [1, 3]] += 12.5
    for seed in range(10):
        split = split_by_block(boxes, halves(boxes), SplitSpec(block_patches=2, seed=seed))
        assert set(split) == {0, 1, 2, DROPPED}


# Which way


def assigned(
    slides: Sequence[int],
    patients: Sequence[str],
    labels: Sequence[int] | NDArray[np.int64],
    boxes: NDArray[np.float64] | None = None,
    names: Sequence[str] = (),
    **spec: Any,
) -> NDArray[np.int64]:
    boxes = np.tile([0.0, 0.0, SIZE, SIZE], (len(slides), 1)) if boxes is None else boxes
    return assign_splits(
        slides=np.array(slides),
        patients=patients,
        boxes=boxes,
        labels=np.asarray(labels),
        spec=SplitSpec(**spec),
        names=names,
    )


@pytest.mark.parametrize(
    ("patients", "way"),
    [
        (["p", "q", "q"], "patient"),
        (["p", "p", "p"], "slide"),  # one patient alone cannot be split
        (["p", "q", ""], "patient"),  # who is not named is a patient of their own
        (["p", "p", ""], "patient"),
        (["", "", ""], "slide"),
    ],
)
def test_patients_are_kept_together_if_all_are_known(patients: list[str], way: str) -> None:
    slides, labels = np.array([0, 1, 2]), np.array([0, 0, 0])
    assert how_split(slides=slides, patients=patients, labels=labels, spec=SplitSpec()) == way
    for asked in ("patient", "slide", "block"):
        assert how_split(slides=slides, patients=patients, labels=labels, spec=SplitSpec(by=asked)) == asked


def test_slides_of_one_patient_stay_together_where_another_slide_names_none() -> None:
    slides = np.repeat(np.arange(6), 10)
    patients, labels = ["A", "A", "A", "", "", "B"], np.tile([0, 1], 30)
    boxes = np.zeros((60, 4))
    options = {"boxes": boxes, "labels": labels, "spec": SplitSpec(fractions=(0.6, 0.2, 0.2))}
    split = assign_splits(slides=slides, patients=patients, names=list("abcdef"), **options)
    assert len(set(split[slides < 3])) == 1
    assert set(split[slides >= 3]) - set(split[slides < 3]) == {1, 2}  # the unnamed are not one patient
    # Nor does it depend on the order of the slides.
    other = assign_splits(slides=5 - slides, patients=patients[::-1], names=list("fedcba"), **options)
    np.testing.assert_array_equal(split, other)


def test_one_slide_with_labels_is_split_by_block() -> None:
    labels = np.array([0, -1, 0])
    for patients in (["p", "q"], ["", ""]):
        way = how_split(slides=np.array([0, 1, 0]), patients=patients, labels=labels, spec=SplitSpec())
        assert way == "block"


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"by 'hospital'; choose one of: auto, patient, slide, block\."):
        SplitSpec(by="hospital")


def test_a_seed_below_zero_is_refused() -> None:
    with pytest.raises(DatasetError, match="seed of -1"):
        SplitSpec(seed=-1)


def test_all_slides_of_a_patient_are_in_one_split() -> None:
    slides = np.repeat(np.arange(8), 10)
    patients = ["a", "b", "c", "d", "a", "b", "c", "d"]
    split = assigned(slides.tolist(), patients, np.tile([0, 1], 40), by="patient")
    of_slide = split.reshape(8, 10)
    assert (of_slide == of_slide[:, :1]).all()
    np.testing.assert_array_equal(of_slide[:4], of_slide[4:])
    assert set(split) == {0, 1, 2}


def test_a_slide_without_a_patient_is_refused_by_patient() -> None:
    with pytest.raises(DatasetError, match="Slide number 2 names no patient"):
        assigned([0, 1], ["p", ""], [0, 0], by="patient")
    with pytest.raises(DatasetError, match="Slide abc names no patient"):
        assigned([0, 1], ["p", ""], [0, 0], names=["def", "abc"], by="patient")


@pytest.mark.parametrize("way", ["patient", "slide"])
def test_one_group_cannot_be_split(way: str) -> None:
    with pytest.raises(DatasetError, match=f"cannot be split by {way}: only 1 {way} has labelled patches"):
        assigned([0, 0, 1], ["p", "q"], [0, 1, -1], by=way)
    assert assigned([0, 0], ["p"], [0, 1], by=way, fractions=(1.0, 0.0, 0.0)).tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_of_two_groups_one_trains_and_one_tests(seed: int) -> None:
    split = assigned([0] * 8 + [1] * 4, ["", ""], [0, 1] * 6, seed=seed)
    assert split.tolist() == [0] * 8 + [2] * 4


def test_nothing_is_split_into_nothing() -> None:
    assert assigned([], [""], []).tolist() == []


def test_patches_without_a_label_go_with_their_group_and_do_not_count() -> None:
    slides = np.repeat(np.arange(6), 20)
    labels = np.tile([0, 1], 60)
    without = assigned(slides.tolist(), [""] * 6, labels)
    more_slides = np.concatenate([slides, [0] * 500, [6] * 5])
    more_labels = np.concatenate([labels, np.full(505, -1)])
    split = assigned(more_slides.tolist(), [""] * 7, more_labels)
    np.testing.assert_array_equal(split[:120], without)
    assert set(split[120:620]) == {without[0]}
    # A slide with no labelled patch at all has no split.
    assert set(split[620:]) == {DROPPED}


# How well


def deviation(split: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Return the sum over classes and splits of the distance from the default shares."""
    total = 0.0
    for label in np.unique(labels):
        for i, share in enumerate((0.7, 0.15, 0.15)):
            total += abs(float((split[labels == label] == i).mean()) - share)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_few_groups_are_split_the_best_way_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slides = np.repeat(np.arange(6), rng.integers(5, 60, 6))
    labels = rng.integers(0, 2, len(slides))
    split = assigned(slides.tolist(), [""] * 6, labels, seed=seed)
    best = min(
        deviation(way, labels)
        for assignment in product(range(3), repeat=6)
        if set(way := np.array(assignment)[slides]) == {0, 1, 2}
        and all(set(labels[way == i]) == {0, 1} for i in range(3))
    )
    assert deviation(split, labels) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(3))
def test_many_unequal_groups_come_near_the_shares(seed: int) -> None:
    # 400 slides, some 50 times as large as others, each mostly of one of four classes, one of them rare.
    rng = np.random.default_rng(seed)
    sizes = np.ceil(rng.lognormal(3, 1, 400)).astype(int)
    slides = np.repeat(np.arange(400), sizes)
    own = rng.choice(4, 400, p=[0.5, 0.3, 0.17, 0.03])
    labels = np.where(rng.random(len(slides)) < 0.8, own[slides], rng.integers(0, 4, len(slides)))
    split = assigned(slides.tolist(), [""] * 400, labels, seed=seed)
    assert deviation(split, labels) / (4 * 3) < 0.005


def test_train_has_a_class_that_one_of_many_slides_has() -> None:
    slides = np.repeat(np.arange(30), 10)
    labels = np.where(slides == 17, 1, 0)
    for seed in range(5):
        split = assigned(slides.tolist(), [""] * 30, labels, seed=seed)
        assert set(split[slides == 17]) == {0}
        assert set(split) == {0, 1, 2}


@pytest.mark.parametrize("n_slides", [5, 40])
@pytest.mark.parametrize("by", ["patient", "slide", "block"])
def test_the_order_of_the_slides_does_not_matter(n_slides: int, by: str) -> None:
    rng = np.random.default_rng(0)
    slides = np.repeat(np.arange(n_slides), 20)
    labels = rng.integers(0, 2, len(slides))
    corners = np.tile(np.arange(20.0)[:, None] * SIZE, (n_slides, 2))
    boxes = np.hstack([corners, corners + SIZE])
    names, patients = [f"s{i}" for i in range(n_slides)], [f"p{i // 2}" for i in range(n_slides)]
    split = assigned(slides.tolist(), patients, labels, boxes, names, by=by)
    order = rng.permutation(n_slides)
    number = np.argsort(order)  # the slide that was i is given at this place
    other = assigned(
        number[slides].tolist(),
        [patients[i] for i in order],
        labels,
        boxes,
        [names[i] for i in order],
        by=by,
    )
    np.testing.assert_array_equal(other, split)


def test_on_a_large_slide_few_patches_are_lost_between_splits() -> None:
    # 160 x 160 patches side by side. Blocks of 5 drawn each by itself would lose a third of them.
    boxes = grid_of_boxes(160, SIZE)
    labels = halves(boxes)
    split = assigned([0] * len(boxes), [""], labels, boxes)
    assert (split == DROPPED).mean() < 0.15
    kept = split != DROPPED
    assert deviation(split[kept], labels[kept]) / (2 * 3) < 0.05


# Blocks on several slides, and of several sizes


def test_blocks_of_several_slides_are_split_together() -> None:
    # The same places on three slides: each keeps the gap in itself, and the shares are those of all.
    boxes = np.tile(grid_of_boxes(60, 5.0), (3, 1))
    slides, labels = np.repeat(np.arange(3), 3600), halves(boxes)
    split = assigned(slides.tolist(), ["p", "q", "r"], labels, boxes, by="block")
    assert set(split) == {0, 1, 2, DROPPED}
    for slide in range(3):
        on_slide = slides == slide
        if len(set(split[on_slide]) - {DROPPED}) > 1:
            assert gaps(boxes[on_slide][::2], split[on_slide][::2]).min() >= 2.5 - 1e-4
    assert (split[slides == 0] != split[slides == 1]).any()
    kept = split != DROPPED
    assert deviation(split[kept], labels[kept]) / (2 * 3) < 0.05


def test_slides_of_one_block_each_are_shared_out() -> None:
    # As tissue microarrays give them: each slide alone would train.
    boxes = np.tile(grid_of_boxes(3, SIZE), (20, 1))
    split = assigned(np.repeat(np.arange(20), 9).tolist(), [""] * 20, [0, 1, 0] * 60, boxes, by="block")
    assert set(split) == {0, 1, 2}
    assert (split.reshape(20, 9) == split.reshape(20, 9)[:, :1]).all()


def test_patches_of_two_sizes_keep_the_gap_of_the_larger() -> None:
    small = grid_of_boxes(40, 5.0)
    large = grid_of_boxes(10, 20.0)
    large[:, 2:] = large[:, :2] + 2 * SIZE
    boxes = np.concatenate([small, large])
    split = assigned([0] * len(boxes), [""], halves(boxes), boxes, block_patches=3)
    for kept in (split[: len(small)], split[len(small) :]):
        assert set(kept) == {0, 1, 2, DROPPED}
    assert gaps(boxes, split).min() >= 0.25 * 2 * SIZE - 1e-4


def test_unlabelled_patches_of_a_block_keep_the_gap_too() -> None:
    boxes = grid_of_boxes(40, 5.0)
    labels = np.where(np.arange(1600) % 3 == 0, halves(boxes), -1)
    split = assigned([0] * 1600, [""], labels, boxes)
    assert set(split[labels < 0]) == {0, 1, 2, DROPPED}
    assert gaps(boxes, split).min() >= 2.5 - 1e-4


def test_a_share_of_zero_gets_no_block() -> None:
    boxes = grid_of_boxes(40, 5.0)
    split = assigned([0] * 1600, [""], halves(boxes), boxes, fractions=(0.85, 0.0, 0.15))
    assert set(split) == {0, 2, DROPPED}
    assert assigned([0] * 1600, [""], halves(boxes), boxes, fractions=(1.0, 0.0, 0.0)).max() == 0
    assert assigned([0] * 1600, [""], halves(boxes), boxes, fractions=(1.0, 0.0, 0.0)).min() == 0
