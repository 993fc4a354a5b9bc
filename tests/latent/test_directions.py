from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint, random_points
from napari_histolatent.latent.directions import (
    Direction,
    along_measure,
    apply,
    boundary,
    components,
    mean_difference,
    monotonicity,
)

AXIS = np.array([3.0, 0, 4.0, 0, 0, 0]) / 5


def points(n: int, *, shift: float = 0.0, seed: int = 0, digest: str = "d") -> list[LatentPoint]:
    drawn = random_points(n, z_dim=6, class_weights=(1.0,), checkpoint_digest=digest, seed=seed)
    return [LatentPoint(tuple(np.array(p.values) + shift * AXIS), (1.0,), digest) for p in drawn]


def cosine(direction: Direction) -> float:
    return float(np.array(direction.vector) @ AXIS)


def z_of(group: list[LatentPoint]) -> np.ndarray:
    return np.array([p.values for p in group])


def test_the_mean_difference_points_from_a_to_b() -> None:
    a, b = points(300), points(300, shift=2, seed=1)
    found = mean_difference("more", a, b)
    assert cosine(found) > 0.98
    assert np.linalg.norm(found.vector) == pytest.approx(1)
    assert found.facts["distance"] == pytest.approx(np.linalg.norm(z_of(b).mean(0) - z_of(a).mean(0)))
    assert cosine(mean_difference("less", b, a)) < -0.98


def test_the_boundary_is_right_where_the_spread_is_uneven() -> None:
    a, b = points(300), points(300, shift=2, seed=1)
    found = boundary("more", a, b)
    assert cosine(found) > 0.97
    assert found.facts["accuracy_left_out"] == pytest.approx(0.84, abs=0.06)  # of N(0, 1) and N(2, 1)
    assert boundary("more", a, b) == found


def test_a_boundary_of_groups_that_do_not_differ_is_chance() -> None:
    found = boundary("nothing", points(100), points(100, seed=1))
    assert found.facts["accuracy_left_out"] == pytest.approx(0.5, abs=0.15)


def test_a_boundary_of_few_points_that_part_perfectly_is_found() -> None:
    found = boundary("more", points(2, shift=-50), points(2, shift=50, seed=1))
    assert np.isfinite(found.vector).all()
    assert cosine(found) > 0.9
    assert found.facts["accuracy_left_out"] is None


def test_components_of_points_are_the_axes_along_which_they_lie() -> None:
    group = [points(1, shift=float(s), seed=i)[0] for i, s in enumerate(np.linspace(-9, 9, 60))]
    first, second = components("main", group, 2)
    assert abs(cosine(first)) > 0.98
    assert first.facts["variance_explained"] > 0.7 > 0.2 > second.facts["variance_explained"]
    assert (first.name, second.name) == ("main 1", "main 2")
    assert first.facts["of"] == "z"
    assert np.array(first.vector) @ second.vector == pytest.approx(0, abs=1e-9)


def test_components_of_images_are_directions_of_z_that_move_them() -> None:
    group = points(300)
    z = z_of(group)
    images = np.outer(np.tanh(z @ AXIS), np.arange(12.0)) + 0.1 * np.random.default_rng(0).normal(
        size=(300, 12)
    )
    (found,) = components("look", group, 1, features=images.reshape(300, 2, 6))
    assert abs(cosine(found)) > 0.98
    assert found.facts["of"] == "images"
    assert found.facts["r2_left_out"] > 0.7


def test_a_measure_gives_the_direction_along_which_it_grows() -> None:
    group = points(200)
    values = z_of(group) @ AXIS + 0.3 * np.random.default_rng(0).normal(size=200)
    found = along_measure("darker", group, values, feature="haematoxylin")
    assert cosine(found) > 0.97
    assert found.facts["r2_left_out"] == pytest.approx(1 - 0.09 / 1.09, abs=0.06)
    noise = along_measure("nothing", group, np.random.default_rng(1).normal(size=200), feature="noise")
    assert noise.facts["r2_left_out"] < 0.1


def test_applying_moves_z_and_nothing_else() -> None:
    (point,) = points(1)
    direction = mean_difference("more", points(3), points(3, shift=2, seed=1))
    moved = apply(point, direction, -1.5)
    np.testing.assert_allclose(moved.values, np.array(point.values) - 1.5 * np.array(direction.vector))
    assert moved.class_weights == point.class_weights
    assert moved.origin == "-1.5 along more"
    with pytest.raises(UserError, match="'more' belongs to the generator d, the point to e"):
        apply(points(1, digest="e")[0], direction, 1)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_is_a_number(strength: float) -> None:
    point = LatentPoint((1.0, 2.0), (), "d")
    with pytest.raises(UserError, match=rf"not {strength}; give one, 2 say"):
        apply(point, Direction("a", (1.0, 0.0), "mean difference", "d"), strength)


def test_monotonicity() -> None:
    strengths = [-2.0, -1.0, 0.0, 1.0, 2.0]
    rows = np.array([[1, 2, 3, 4, 50], [5, 4, 3, 2, 1], [7, 7, 7, 7, 7], [1, 2, 2, 3, 4]], float)
    found = monotonicity(strengths, rows)
    assert found.correlations[:3] == pytest.approx((1, -1, 0))
    assert 0.9 < found.correlations[3] < 1
    assert found.share_monotone == 0.5
    assert found.median == pytest.approx(found.correlations[3] / 2)
    assert found.to_json()["points"] == 4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mean_difference("x", [], points(2)), "needs points in both, not 0 and 2"),
        (lambda: mean_difference("x", points(3), points(3)), "has no length"),
        (lambda: mean_difference("x", points(2), points(2, digest="e")), "different generators"),
        (lambda: boundary("x", points(1), points(5, seed=1)), "at least 2 points in each group, not 1 and 5"),
        (lambda: components("x", points(3), 3), "3 components need more than 3 points, not 3"),
        (lambda: components("x", points(3), 0), "0 components"),
        (lambda: components("x", points(1) * 9, 1), "do not differ in 1 ways"),
        (lambda: along_measure("x", points(20), np.ones(20), feature="lumen"), "'lumen' of 20 images"),
        (lambda: along_measure("x", points(9), np.arange(9.0), feature="lumen"), "10 at least"),
        (lambda: along_measure("x", [], np.arange(0.0), feature="lumen"), "there are none"),
    ],
)
def test_too_few_or_equal_points_are_refused(make: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_to_json_and_back() -> None:
    before = boundary("more tumour", points(20), points(20, shift=2, seed=1))
    assert Direction.from_json(json.loads(json.dumps(before.to_json()))) == before


GOOD: dict[str, Any] = {"name": "a", "vector": [0.6, 0.8], "kind": "boundary", "checkpoint_digest": "d"}


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        None,
        GOOD | {"vector": []},
        GOOD | {"vector": [3.0, 4.0]},
        GOOD | {"vector": [float("nan"), 0.8]},
        GOOD | {"vector": [1e200, 1e200]},
        GOOD | {"vector": "12"},
        GOOD | {"kind": "guess"},
        GOOD | {"facts": [1]},
    ],
)
def test_garbage_is_refused(garbage: Any) -> None:
    with pytest.raises(UserError, match=r"^This is not a direction"):
        Direction.from_json(garbage)


def test_fits_stop_when_nobody_waits_any_more() -> None:
    group, values, asked = points(40), np.arange(40.0), []
    for make in (
        lambda stop: along_measure("m", group, values, feature="x", should_stop=stop),
        lambda stop: components("c", group, 1, features=values[:, None], should_stop=stop),
        lambda stop: boundary("b", group, points(40, shift=2, seed=1), should_stop=stop),
    ):
        asked.clear()
        with pytest.raises(UserError, match="was stopped"):
            make(lambda: asked.append(1) or len(asked) == 3)
        assert len(asked) == 3
