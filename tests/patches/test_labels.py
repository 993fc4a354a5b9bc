from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._coverage import Coverage
from napari_histolatent.patches._labels import RULES, LabelSpec, check_classes, label_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def covered(
    *shares: Sequence[float], annotated: Sequence[float] | None = None, centres: Sequence[int] | None = None
) -> Coverage:
    """Patches by their shares; without overlaps unless `annotated` says so."""
    rows = np.array(shares, np.float32)
    union = np.minimum(rows.sum(axis=1), 1) if annotated is None else np.array(annotated)
    return Coverage(
        shares=rows,
        annotated=union.astype(np.float32),
        centre_classes=np.array(centres or [0] * len(rows), np.uint64),
    )


def labels_of(coverage: Coverage, classes: Sequence[str], **values: Any) -> list[str | None]:
    labels, names = label_of(coverage, classes, LabelSpec(**values))
    assert labels.dtype == np.int64
    assert list(names) == sorted(set(names))
    return [None if label == -1 else names[label] for label in labels]


@pytest.mark.parametrize(
    ("rule", "threshold", "shares", "label"),
    [
        ("area", 0.75, [0.8, 0.2], "b"),
        ("area", 0.75, [0.2, 0.8], "a"),
        ("area", 0.75, [0.7, 0.3], None),
        ("area", 0.75, [0.75, 0.25], "b"),
        ("area", 0.7, [0.7, 0.3], "b"),  # 0.7 is less than 0.7 in single precision
        ("area", 0.9, [0.9 - 5e-7, 0.1], "b"),  # and sums have their rounding too
        ("area", 0.1, [0.3, 0.2], "b"),
        ("area", 0.1, [0.0, 0.0], None),
        ("area", 1.0, [1.0, 0.0], "b"),
        ("area", 1.0, [0.99, 0.0], None),
        ("area", 0.5, [0.5, 0.5], "b"),  # of equal ones the first in the order of the classes
        ("majority", 0.9, [0.51, 0.49], "b"),
        ("majority", 0.9, [0.5, 0.5], None),
        ("majority", 0.9, [0.2, 0.3], None),
        ("any", 0.9, [0.0, 0.001], "a"),
        ("any", 0.9, [0.002, 0.001], "b"),
        ("any", 0.9, [0.0, 0.0], None),
        ("inside", 0.1, [0.0, 1.0], "a"),
        ("inside", 0.1, [0.999, 0.001], None),
    ],
)
def test_the_rule_gives_the_label(
    rule: str, threshold: float, shares: list[float], label: str | None
) -> None:
    # The classes are not sorted, the names are.
    assert labels_of(covered(shares), ["b", "a"], rule=rule, threshold=threshold) == [label]


@pytest.mark.parametrize(
    ("shares", "at_the_centre", "label"),
    [([0.9, 0.1], 0b10, "b"), ([0.1, 0.0], 0b01, "a"), ([0.9, 0.0], 0, None), ([0.2, 0.9], 0b11, "a")],
)
def test_the_centre_decides_alone(shares: list[float], at_the_centre: int, label: str | None) -> None:
    assert labels_of(covered(shares, centres=[at_the_centre]), ["a", "b"], rule="centre") == [label]


@pytest.mark.parametrize(
    ("priority", "shares", "label"),
    [
        (["c", "a"], [0.4, 0.3, 0.3], "c"),
        (["c", "a"], [0.4, 0.3, 0.29], "a"),
        (["c", "a"], [0.2, 0.4, 0.2], "b"),  # not listed: after those that are
        (["a"], [0.2, 0.3, 0.4], "c"),  # among those not listed by share
        (["c"], [0.2, 0.2, 0.2], None),
        ([], [0.3, 0.4, 0.3], "b"),
        (["x", "c"], [0.4, 0.3, 0.3], "c"),  # one slide of many may lack a class
    ],
)
def test_the_first_of_the_order_that_has_the_share_wins(
    priority: list[str], shares: list[float], label: str | None
) -> None:
    found = labels_of(covered(shares), ["a", "b", "c"], rule="priority", threshold=0.3, priority=priority)
    assert found == [label]


@pytest.mark.parametrize(
    ("above", "shares", "label"),
    [
        (0.0, [1.0, 0.0], "a"),
        (0.0, [1.0, 1e-7], None),
        (0.0, [0.0, 1.0], None),
        (0.1, [0.9, 0.1], "a"),
        (0.1, [0.9, 0.11], None),
        (0.1, [0.1, 0.05], None),
        (1.0, [0.1, 1.0], None),  # an excluded class never gives the label
    ],
)
@pytest.mark.parametrize("default", ["", "rest"])
def test_an_excluded_class_rules_the_patch_out(
    above: float, shares: list[float], label: str | None, default: str
) -> None:
    found = labels_of(covered(shares), ["a", "x"], exclude=["x"], exclude_above=above, default_class=default)
    assert found == [label]


def test_a_class_without_a_share_gives_no_label_at_any_threshold() -> None:
    for rule in ("area", "priority"):
        found = labels_of(covered([0, 0], [0, 1e-3]), ["a", "b"], rule=rule, threshold=1e-7, priority=["a"])
        assert found == [None, "b"]


def test_an_excluded_class_is_no_name() -> None:
    _, names = label_of(covered([0.0, 0.0]), ["a", "x"], LabelSpec(exclude=("x",), default_class="rest"))
    assert names == ("a", "rest")


@pytest.mark.parametrize(
    ("ignore_above", "share", "label"),
    [
        (0.0, 0.0, "rest"),
        (0.0, 1e-7, None),
        (0.0, 0.7, None),
        (0.0, 0.8, "a"),
        (0.2, 0.2, "rest"),
        (0.2, 0.21, None),
        (1.0, 0.7, "rest"),
        (1.0, 0.75, "a"),  # the rule goes first
    ],
)
def test_unannotated_tissue_gets_the_default_and_the_band_between_nothing(
    ignore_above: float, share: float, label: str | None
) -> None:
    found = labels_of(covered([share]), ["a"], default_class="rest", ignore_above=ignore_above)
    assert found == [label]


def test_what_another_class_annotates_is_not_the_default() -> None:
    # Regions of a class that is no column count in `annotated` alone.
    assert labels_of(covered([0.0], [0.0], annotated=[0.3, 0.0]), ["a"], default_class="rest") == [
        None,
        "rest",
    ]


def test_the_default_may_be_an_annotated_class() -> None:
    found = labels_of(covered([0.0, 0.9], [0.0, 0.0], [0.9, 0]), ["a", "b"], default_class="b")
    assert found == ["b", "b", "a"]


def test_slides_without_regions_are_all_default() -> None:
    nothing = Coverage(np.empty((2, 0), np.float32), np.zeros(2, np.float32), np.zeros(2, np.uint64))
    for rule in RULES:
        labels, names = label_of(nothing, (), LabelSpec(rule=rule, default_class="rest"))
        assert (labels.tolist(), names) == ([0, 0], ("rest",))
        assert label_of(nothing, (), LabelSpec(rule=rule))[0].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("values", "shares", "annotated", "label"),
    [
        ({}, [0.4, 0.4, 0], 0.8, "pos"),  # no class alone has the share
        ({}, [0.6, 0.6, 0], 0.7, None),
        ({}, [0.0, 0.0, 0], 0.0, "neg"),
        ({"exclude": ["x"]}, [0.8, 0.0, 0.1], 0.9, None),
        ({"exclude": ["x"], "exclude_above": 0.5}, [0.4, 0.4, 0.2], 1.0, "pos"),
        ({"exclude": ["x"], "exclude_above": 0.5}, [0.4, 0.0, 0.4], 0.8, None),
        ({"rule": "any"}, [0.0, 0.01, 0], 0.01, "pos"),
        ({"rule": "inside"}, [0.5, 0.5, 0], 1.0, "pos"),
    ],
)
def test_whatever_is_annotated_can_be_one_class(
    values: dict[str, Any], shares: list[float], annotated: float, label: str | None
) -> None:
    coverage = covered(shares, annotated=[annotated])
    found = labels_of(coverage, ["a", "b", "x"], annotated_as="pos", default_class="neg", **values)
    assert found == [label]


def test_any_class_at_the_centre_is_the_one_class() -> None:
    coverage = covered([0.1, 0.1], [0.1, 0.1], [0.1, 0.1], centres=[0b10, 0b01, 0])
    assert labels_of(coverage, ["a", "b"], rule="centre", annotated_as="pos") == ["pos", "pos", None]


def test_each_patch_has_a_label_of_its_own() -> None:
    coverage = covered([1, 0, 0], [0, 0, 1], [0.4, 0.3, 0.3], [0, 0.8, 0.1])
    labels, names = label_of(coverage, ["a", "b", "c"], LabelSpec())
    assert (labels.tolist(), names) == ([0, 2, -1, 1], ("a", "b", "c"))


@pytest.mark.parametrize("rule", RULES)
def test_no_patches_have_no_labels(rule: str) -> None:
    nothing = Coverage(np.empty((0, 2), np.float32), np.empty(0, np.float32), np.empty(0, np.uint64))
    assert label_of(nothing, ["a", "b"], LabelSpec(rule=rule))[0].tolist() == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"rule": "most"},
            r"no label rule 'most'; choose one of area, majority, any, inside, centre, priority\.",
        ),
        *(
            ({"threshold": t}, f"above 0 and up to 1, not at {t:g}")
            for t in (0.0, -0.1, 1.01, 75.0, float("nan"))
        ),
        ({"exclude_above": 1.5}, "`exclude_above` is a share .* between 0 and 1, not at 1.5"),
        ({"ignore_above": -0.5}, "`ignore_above` is a share .* between 0 and 1, not at -0.5"),
        ({"ignore_above": float("nan")}, "not at nan"),
        ({"priority": ("a", "b", "a")}, "`priority` names a more than once"),
        ({"exclude": "tumour"}, "`exclude` is a list of class names, not 'tumour'"),
        ({"priority": ("a", "")}, "`priority` is a list of class names"),
        ({"priority": ("a", "b"), "exclude": ("b",)}, "b cannot have a priority and be excluded"),
        (
            {"default_class": "x", "exclude": ("x",)},
            "'x' cannot be excluded and be the name in `default_class`",
        ),
        (
            {"annotated_as": "x", "exclude": ("x",)},
            "'x' cannot be excluded and be the name in `annotated_as`",
        ),
        ({"annotated_as": "x", "default_class": "x"}, "cannot both be labelled 'x'"),
    ],
)
def test_what_is_not_possible_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        LabelSpec(**values)


def test_lists_become_tuples() -> None:
    spec = LabelSpec(priority=["a"], exclude=["b"])  # type: ignore[arg-type]
    assert spec == replace(spec, priority=("a",), exclude=("b",))
    assert hash(spec) == hash(LabelSpec(priority=("a",), exclude=("b",)))


@pytest.mark.parametrize("values", [{"priority": ("tumour", "stroma")}, {"exclude": ("stroma",)}])
def test_an_unknown_class_is_named_with_those_there_are(values: dict[str, Any]) -> None:
    check_classes(LabelSpec(**values), ["tumour", "stroma"])
    with pytest.raises(DatasetError, match=r"class 'stroma' .*; the classes are: fat, tumour\."):
        check_classes(LabelSpec(**values), ["tumour", "fat"])
