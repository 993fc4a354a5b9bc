from __future__ import annotations

import math

import pytest

from napari_histolatent.training._keeping import Measured, best_of, kid_space, steps_to_drop


@pytest.mark.parametrize(
    ("steps", "at", "options", "dropped"),
    [
        ([1, 2, 3, 4], 4, {"newest": 2}, [1, 2]),
        ([1, 2, 3, 4], 4, {"newest": 1}, [1, 2, 3]),
        ([1, 2, 3, 4], 4, {"newest": 9}, []),
        ([1, 2, 3, 4], 4, {"newest": 0}, [1, 2, 3]),  # what was just written stays whatever is asked
        ([1, 2, 3, 4], 4, {"newest": 1, "best": 2}, [1, 3]),
        ([1, 2, 3, 4], 4, {"newest": 1, "best": 4}, [1, 2, 3]),
        ([10, 20, 30, 40, 50], 50, {"newest": 1, "milestone_every": 20}, [10, 30]),
        ([10, 20, 30, 40, 50], 50, {"newest": 2, "milestone_every": 20, "best": 10}, [30]),
        ([10, 15, 20], 15, {"newest": 2}, [20]),  # set back: 20 is of a past that was taken back
        ([10, 15, 20], 15, {"newest": 2, "milestone_every": 20}, [20]),
        ([7], 7, {"newest": 2}, []),
    ],
)
def test_what_goes(steps: list[int], at: int, options: dict[str, int], dropped: list[int]) -> None:
    assert steps_to_drop(steps, at=at, **options) == dropped
    assert steps_to_drop(reversed(steps), at=at, **options) == dropped


@pytest.mark.parametrize(
    ("kids", "newest", "best"),
    [
        ([], 0.5, 9),
        ([0.7, 0.6], 0.5, 9),
        ([0.4, 0.6], 0.5, 0),
        ([0.5], 0.5, 0),  # of equals the earlier: a file that names it need not change
        ([-0.1, 0.2], 0.0, 0),  # what is unbiased may lie below 0
        ([math.nan, 0.6], 0.7, 1),
        ([0.7, 0.6], math.nan, 1),
        ([math.nan], math.nan, None),
        ([], math.nan, None),
    ],
)
def test_the_best_has_the_lowest_kid(kids: list[float], newest: float, best: int | None) -> None:
    found = best_of(Measured(9, newest), [Measured(i, kid) for i, kid in enumerate(kids)])
    assert (found.step if found else None) == best


def test_figures_of_another_judge_are_not_compared() -> None:
    old, new = Measured(1, 0.1, "old judge"), Measured(2, 5.0, "new judge")
    assert best_of(new, [old]) == new
    assert best_of(Measured(3, 0.2, "old judge"), [old, new]) == old


def test_what_a_checkpoint_says() -> None:
    assert Measured.of(4, {"kid": 1, "kid_features": "abc"}) == Measured(4, 1.0, "abc")
    assert math.isnan(Measured.of(4, {"accuracy": 0.5}).kid)
    assert math.isnan(Measured.of(4, {"kid": None}).kid)  # JSON has no NaN
    judged = {"kid": 1, "kid_random": 2, "kid_features": "abc", "kid_space": "judge"}
    assert Measured.of(4, judged) == Measured(4, 1.0, "abc", "judge")


@pytest.mark.parametrize(
    ("metrics", "space"),
    [
        ({}, None),
        ({"kid": None, "kid_space": "judge"}, None),
        ({"kid": 0.1}, None),  # nothing says it: no judge is claimed
        ({"kid": 0.1, "kid_random": 0.1, "kid_space": "judge"}, "judge"),
        ({"kid": 0.1, "kid_random": 0.1, "kid_space": "random"}, "random"),
        ({"kid": 0.1, "kid_random": 0.1}, "random"),  # of before it was written down
        ({"kid": 0.1, "kid_random": 0.2}, "judge"),
        ({"kid": 0.1, "kid_random": 0.2, "kid_space": ["?"]}, "judge"),
    ],
)
def test_a_kid_says_whose_features_it_is_measured_in(metrics: dict[str, object], space: str | None) -> None:
    assert kid_space(metrics) == space
