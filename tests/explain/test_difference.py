from __future__ import annotations

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.explain import Heatmap, HeatmapDifference, colored_difference, difference_of


def heatmap(values: object, **facts: object) -> Heatmap:
    given = {"target": "stroma", "layer": "features.11", "probability": 0.75} | facts
    return Heatmap(values=np.array(values, np.float32), **given)  # type: ignore[arg-type]


def shown(values: object) -> HeatmapDifference:
    return HeatmapDifference(np.array(values, np.float32), "stroma", "features.11")


def test_after_less_before() -> None:
    before, after = heatmap([[1, 2], [0, 5]]), heatmap([[3, 2], [0, 1]], level0_box=(1.0, 2.0, 3.0, 4.0))
    found = difference_of(before, after)
    assert found.values.tolist() == [[2, 0], [0, -4]]
    assert (found.target, found.layer, found.level0_box) == ("stroma", "features.11", (1.0, 2.0, 3.0, 4.0))
    assert found.largest == 4
    np.testing.assert_array_equal(difference_of(after, before).values, -found.values)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (heatmap([[1, 2]], target="fat"), "another class (stroma and fat)"),
        (heatmap([[1, 2]], layer="features.6"), "another layer (features.11 and features.6)"),
        (heatmap([[1, 2, 3]]), "another size (2 x 1 and 3 x 1)"),
    ],
)
def test_maps_that_do_not_compare_are_refused(other: Heatmap, sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        difference_of(heatmap([[1, 2]]), other)
    assert sentence in str(refusal.value)
    assert "; make both" in str(refusal.value)


def test_less_is_blue_more_is_red_and_the_same_is_white() -> None:
    less, same, more = colored_difference(shown([[-3, 0, 3]]))[0].astype(int)
    assert less[2] > less[0] + 50
    assert more[0] > more[2] + 50
    assert same.tolist() == [247, 247, 247]


def test_a_shared_scale_makes_the_smaller_change_paler() -> None:
    own, shared = (colored_difference(shown([[1.0, -1.0]]), largest=top) for top in (None, 4.0))
    assert (np.abs(shared.astype(int) - 247).sum(-1) < np.abs(own.astype(int) - 247).sum(-1)).all()
    np.testing.assert_array_equal(
        colored_difference(shown([[9.0]]), largest=4.0), colored_difference(shown([[4.0]]))
    )


@pytest.mark.parametrize("largest", [None, 0.0, 2.0])
def test_no_change_is_white_all_over(largest: float | None) -> None:
    assert (colored_difference(shown(np.zeros((2, 3))), largest=largest) == 247).all()
