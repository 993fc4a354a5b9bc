from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._balance import BalanceSpec, balanced

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rows = dict[str, "NDArray[np.int64]"]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """5,000 patches of three unequal classes, on 12 slides of 5 patients, in three splits; some without."""
    rng = np.random.default_rng(0)
    slides = rng.integers(0, 12, 5000)
    return {
        "labels": rng.choice([-1, 0, 1, 2], 5000, p=[0.1, 0.6, 0.25, 0.05]),
        "slides": slides,
        "patients": slides % 5,
        "splits": rng.choice([-1, 0, 1, 2], 5000, p=[0.05, 0.65, 0.15, 0.15]),
    }


def counted(rows: Rows, keep: NDArray[np.bool_], *columns: str) -> Counter[tuple[int, ...]]:
    """Count the kept rows of each combination of values, one by one."""
    return Counter(tuple(int(rows[name][i]) for name in columns) for i in range(len(keep)) if keep[i])


def all_members(rows: Rows) -> NDArray[np.bool_]:
    return np.array([a >= 0 and b >= 0 for a, b in zip(rows["labels"], rows["splits"], strict=True)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "largest"}, "There is no balancing 'largest'"),
        ({"per_class": 0}, "0 patches per class"),
        ({"per_slide": -3}, "-3 patches per slide"),
        ({"per_patient": 0}, "0 patches per patient"),
        ({"seed": -1}, "seed of -1"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        BalanceSpec(**arguments)


def test_without_a_method_or_cap_every_labelled_patch_of_a_split_stays(rows: Rows) -> None:
    np.testing.assert_array_equal(balanced(**rows, spec=BalanceSpec()), all_members(rows))


def test_every_class_of_a_split_gets_as_many_as_the_smallest(rows: Rows) -> None:
    keep = balanced(**rows, spec=BalanceSpec(method="smallest"))
    before = counted(rows, all_members(rows), "splits", "labels")
    expected = {(s, c): min(before[s, k] for k in range(3)) for s in range(3) for c in range(3)}
    assert counted(rows, keep, "splits", "labels") == expected
    assert not keep[~all_members(rows)].any()


def test_a_class_that_a_split_lacks_does_not_empty_it() -> None:
    rows = {
        "labels": np.array([0, 0, 0, 1, 1, 0, 0]),
        "splits": np.array([0, 0, 0, 0, 0, 2, 2]),
        "slides": np.zeros(7, np.int64),
        "patients": np.zeros(7, np.int64),
    }
    keep = balanced(**rows, spec=BalanceSpec(method="smallest"))
    assert counted(rows, keep, "splits", "labels") == {(0, 0): 2, (0, 1): 2, (2, 0): 2}


def test_the_published_counts_are_balanced_as_published() -> None:
    # S1: 116,278 negative and 22,122 positive patches at level 1, 22,000 of each used.
    labels = np.repeat([0, 1], [116_278, 22_122])
    zeros = np.zeros(len(labels), np.int64)
    spec = BalanceSpec(method="smallest", per_class=22_000)
    keep = balanced(labels=labels, slides=zeros, patients=zeros, splits=zeros, spec=spec)
    assert np.bincount(labels[keep]).tolist() == [22_000, 22_000]


@pytest.mark.parametrize(
    ("name", "column", "cap"), [("per_slide", "slides", 40), ("per_patient", "patients", 70)]
)
def test_a_cap_holds_for_each_class_and_is_used_up(rows: Rows, name: str, column: str, cap: int) -> None:
    keep = balanced(**rows, spec=BalanceSpec(**{name: cap}))
    before = counted(rows, all_members(rows), column, "labels")
    assert min(before.values()) < cap < max(before.values())
    assert counted(rows, keep, column, "labels") == {key: min(n, cap) for key, n in before.items()}


def test_a_cap_per_class_holds_in_the_whole_dataset(rows: Rows) -> None:
    keep = balanced(**rows, spec=BalanceSpec(per_class=300))
    before = counted(rows, all_members(rows), "labels")
    assert counted(rows, keep, "labels") == {key: min(n, 300) for key, n in before.items()}


def test_all_caps_hold_together_and_classes_are_equal(rows: Rows) -> None:
    keep = balanced(**rows, spec=BalanceSpec(method="smallest", per_class=400, per_slide=40, per_patient=100))
    assert max(counted(rows, keep, "slides", "labels").values()) <= 40
    assert max(counted(rows, keep, "patients", "labels").values()) <= 100
    by_split = counted(rows, keep, "splits", "labels")
    for split in range(3):
        assert len({by_split[split, c] for c in range(3)}) == 1
        assert by_split[split, 0] > 0


def test_patches_of_unknown_patients_have_no_cap_per_patient(rows: Rows) -> None:
    unknown = rows | {"patients": np.where(rows["patients"] == 0, -1, rows["patients"])}
    keep = balanced(**unknown, spec=BalanceSpec(per_patient=5))
    np.testing.assert_array_equal(keep[unknown["patients"] < 0], all_members(rows)[unknown["patients"] < 0])
    assert max(n for (p, _), n in counted(unknown, keep, "patients", "labels").items() if p >= 0) == 5


def test_the_seed_alone_decides(rows: Rows) -> None:
    one, again, other = (balanced(**rows, spec=BalanceSpec("smallest", seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_every_patch_of_a_class_is_as_likely_to_stay(rows: Rows) -> None:
    # Over 300 seeds each of the patches of class 0 in train stays equally often, wherever it stands in the table.
    seen = np.zeros(5000)
    for seed in range(300):
        seen += balanced(**rows, spec=BalanceSpec("smallest", per_slide=100, seed=seed))
    big = np.flatnonzero((rows["labels"] == 0) & (rows["splits"] == 0))
    early, late = seen[big[: len(big) // 2]].mean(), seen[big[len(big) // 2 :]].mean()
    assert early == pytest.approx(late, rel=0.05)
    assert seen[big].min() > 0


def test_a_slide_that_was_capped_is_not_favoured_by_the_next_cap() -> None:
    # One slide of 10,000 and one of 100, both down to 100; of 100 that the class may keep, half are from each.
    slides = np.repeat([0, 1], [10_000, 100])
    zeros = np.zeros(len(slides), np.int64)
    spec = [BalanceSpec(per_slide=100, per_class=100, seed=seed) for seed in range(20)]
    kept = sum(balanced(labels=zeros, slides=slides, patients=zeros, splits=zeros, spec=v) for v in spec)
    assert kept[slides == 0].sum() == pytest.approx(1000, abs=120)


def test_what_comes_first_gives_way_to_nothing_else(rows: Rows) -> None:
    rng = np.random.default_rng(1)
    first = (rng.random(5000) < 0.02) & all_members(rows)
    caps = BalanceSpec(per_slide=40, per_patient=150, per_class=300)
    keep = balanced(**rows, spec=caps, first=first)
    assert keep[first].all(), "so few have room below every cap"
    assert counted(rows, keep, "labels") == counted(rows, balanced(**rows, spec=caps), "labels")
    # More of them than a cap has room for: only of them.
    most = all_members(rows) & (rng.random(5000) < 0.9)
    keep = balanced(**rows, spec=BalanceSpec("smallest", per_slide=10), first=most)
    assert not keep[~most].any()
    assert counted(rows, keep, "labels", "slides")[0, 0] <= 10
    nobody = np.zeros(5000, bool)
    np.testing.assert_array_equal(balanced(**rows, spec=caps, first=nobody), balanced(**rows, spec=caps))


def test_nothing_stays_of_nothing() -> None:
    none = np.zeros(0, np.int64)
    keep = balanced(labels=none, slides=none, patients=none, splits=none, spec=BalanceSpec("smallest"))
    assert keep.shape == (0,)
    only = np.full(3, -1)
    assert not balanced(
        labels=only, slides=only, patients=only, splits=only, spec=BalanceSpec("smallest")
    ).any()


def test_more_groups_than_two_bytes_count() -> None:
    slides = np.repeat(np.arange(70_000), 2)
    zeros = np.zeros(len(slides), np.int64)
    keep = balanced(labels=zeros, slides=slides, patients=zeros, splits=zeros, spec=BalanceSpec(per_slide=1))
    np.testing.assert_array_equal(np.bincount(slides[keep]), np.ones(70_000))
