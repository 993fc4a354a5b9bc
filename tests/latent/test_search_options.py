from __future__ import annotations

from typing import Any

import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.latent.search_options import METHODS, OWN_STEPS, SearchOptions, steps_in_all


def test_every_method_has_steps_of_its_own() -> None:
    assert tuple(OWN_STEPS) == METHODS
    assert [steps_in_all(method, SearchOptions()) for method in METHODS] == [500, 50, 150, 230]
    options = SearchOptions(steps=7, polish_steps=20)
    assert [steps_in_all(method, options) for method in METHODS] == [7, 27, 77, 77]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": 0}, "steps of 1 at least, not 0"),
        ({"starts": 0}, "starts of 1 at least, not 0"),
        ({"polish_steps": -1}, "polish_steps of 0 at least, not -1"),
        ({"prior_weight": -0.1}, r"a prior_weight of 0 or more, not -0\.1"),
        ({"perceptual_weight": float("nan")}, "a perceptual_weight of 0 or more, not nan"),
        ({"learning_rate": float("inf")}, "a learning_rate of 0 or more, not inf"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SearchOptions(**wrong)
