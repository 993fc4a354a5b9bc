from __future__ import annotations

from dataclasses import replace

import pytest

from napari_histolatent._napari.editing._strengths import combined
from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint
from napari_histolatent.latent.directions import Direction, apply

A = Direction("lumen", (1.0, 0.0, 0.0), "measured", "d")
B = Direction("nuclei", (0.6, 0.8, 0.0), "measured", "d")
POINT = LatentPoint((0.5, -1.0, 2.0), (), "d")


def test_one_direction_is_itself() -> None:
    assert combined([(A, -1.5)]) == (A, -1.5)


def test_several_move_a_point_as_one_after_the_other() -> None:
    direction, strength = combined([(A, 1.5), (B, -2.0)])
    expected = apply(apply(POINT, A, 1.5), B, -2.0)
    assert apply(POINT, direction, strength).values == pytest.approx(expected.values)
    assert direction.name == "lumen +1.5, nuclei -2"
    assert sum(v * v for v in direction.vector) == pytest.approx(1)


def test_what_takes_each_other_back_moves_nothing() -> None:
    direction, strength = combined([(A, 1.0), (replace(A, name="again"), -1.0)])
    assert strength == 0
    assert apply(POINT, direction, strength).values == POINT.values


def test_directions_of_two_generators_do_not_add_up() -> None:
    with pytest.raises(UserError, match="'lumen' and 'other' belong to different generators"):
        combined([(A, 1.0), (replace(A, name="other", checkpoint_digest="e"), 1.0)])
    with pytest.raises(UserError, match="no direction"):
        combined([])
