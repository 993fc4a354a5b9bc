from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint, class_vector, flipped, interpolated, random_points

CLASSES = ("epithelium", "stroma", "fat")


def point(
    *values: float, weights: tuple[float, ...] = (1.0, 0.0), digest: str = "d", origin: str = ""
) -> LatentPoint:
    return LatentPoint(values, weights, digest, origin)


def random_point(seed: int, z_dim: int = 16) -> LatentPoint:
    return random_points(1, z_dim=z_dim, class_weights=(1.0, 0.0), checkpoint_digest="d", seed=seed)[0]


def lengths(points: list[LatentPoint]) -> np.ndarray:
    return np.linalg.norm([item.values for item in points], axis=1)


@pytest.mark.parametrize("frames", [2, 3, 9])
def test_an_interpolation_has_its_frames_and_ends_where_it_should(frames: int) -> None:
    a, b = random_point(1), random_point(2)
    points = interpolated(a, b, frames)
    assert len(points) == frames
    np.testing.assert_allclose(points[0].values, a.values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(points[-1].values, b.values, rtol=0, atol=1e-12)
    assert {(item.checkpoint_digest, item.space) for item in points} == {("d", "z")}


def test_the_middle_of_a_quarter_turn() -> None:
    _, middle, _ = interpolated(point(1, 0), point(0, 1), 3)
    np.testing.assert_allclose(middle.values, [math.sqrt(0.5)] * 2)


def test_frames_lie_at_even_angles() -> None:
    points = interpolated(point(1, 0, 0), point(0, 0, 1), 7)
    angles = [math.degrees(math.atan2(item.values[2], item.values[0])) for item in points]
    np.testing.assert_allclose(angles, [0, 15, 30, 45, 60, 75, 90], atol=1e-9)
    assert all(item.values[1] == 0 for item in points)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_length_moves_linearly(scale: float) -> None:
    a, b = random_point(1), random_point(2)
    b = point(*(scale * np.array(b.values)))
    (start, end), between = lengths([a, b]), lengths(interpolated(a, b, 5))
    np.testing.assert_allclose(between, np.linspace(start, end, 5))
    # A straight line would cut through the shell.
    straight = (np.array(a.values) + np.array(b.values)) / 2
    assert np.linalg.norm(straight) < 0.95 * between[2]


@pytest.mark.parametrize("b", [(2.0, 4.0), (1.0, 2.0), (-1.0, -2.0), (0.0, 0.0), (1.0 + 1e-9, 2.0)])
def test_where_there_is_no_circle_the_line_is_straight(b: tuple[float, ...]) -> None:
    points = interpolated(point(1, 2), point(*b), 5)
    expected = [(1 - t) * np.array([1, 2]) + t * np.array(b) for t in np.linspace(0, 1, 5)]
    np.testing.assert_allclose([item.values for item in points], expected, atol=1e-9)


def test_the_class_moves_linearly() -> None:
    points = interpolated(point(1, 0, weights=(1.0, 0.0)), point(0, 1, weights=(0.0, 1.0)), 5)
    np.testing.assert_allclose(
        [item.class_weights for item in points], [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0, 1]]
    )


def test_an_interpolation_says_where_it_came_from() -> None:
    points = interpolated(point(1, 0, origin="here"), point(0, 1, origin="there"), 5)
    assert points[1].origin == "0.250 of the way from [here] to [there]"


def test_offsets_move_linearly_and_are_zero_where_there_are_none() -> None:
    a = replace(point(1, 0), offsets=((2.0, 4.0), (0.0, -2.0)))
    middle = interpolated(a, point(0, 1), 3)[1]
    assert middle.offsets == ((1.0, 2.0), (0.0, -1.0))
    b = replace(point(0, 1), offsets=((0.0, 0.0), (2.0, 2.0)))
    assert interpolated(a, b, 5)[3].offsets == ((0.5, 1.0), (1.5, 1.0))
    assert interpolated(point(1, 0), point(0, 1), 3)[1].offsets == ()


def test_a_path_from_a_tuned_copy_is_drawn_by_it() -> None:
    tuned = replace(point(1, 0), tuned_digest="t")
    for path in (interpolated(tuned, point(0, 1), 3), interpolated(point(0, 1), tuned, 3)):
        assert {item.tuned_digest for item in path} == {"t"}
    with pytest.raises(UserError, match=r"different tuned copies \(t and u\); search one of the tiles again"):
        interpolated(tuned, replace(point(0, 1), tuned_digest="u"), 3)


@pytest.mark.parametrize("frames", [1, 0, -3])
def test_fewer_than_two_frames_are_refused(frames: int) -> None:
    with pytest.raises(UserError, match=rf"^An interpolation needs at least 2 frames, not {frames}\.$"):
        interpolated(random_point(1), random_point(2), frames)


def test_points_of_different_generators_are_refused() -> None:
    with pytest.raises(UserError, match=r"different generators \(a{12} and b{12}\); search both tiles again"):
        interpolated(point(1, 0, digest="a" * 64), point(0, 1, digest="b" * 64), 3)


@pytest.mark.parametrize(
    ("name", "expected"), [("epithelium", (1, 0, 0)), ("stroma", (0, 1, 0)), ("fat", (0, 0, 1))]
)
def test_class_vector(name: str, expected: tuple[float, ...]) -> None:
    assert class_vector(CLASSES, name) == expected


def test_a_class_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"no class 'bone'; its classes are epithelium, stroma, fat\.$"):
        class_vector(CLASSES, "bone")


def test_a_flip_changes_the_class_and_keeps_z() -> None:
    before = point(0.5, -2, weights=(1.0, 0.0, 0.0), origin="tile 3")
    after = flipped(before, "fat", CLASSES)
    assert after == LatentPoint((0.5, -2), (0, 0, 1), "d", "tile 3; flipped to fat")
    assert before.class_weights == (1, 0, 0)


def test_a_flip_and_back_is_the_same_place() -> None:
    before = point(0.5, -2, weights=(1.0, 0.0, 0.0))
    back = flipped(flipped(before, "fat", CLASSES), "epithelium", CLASSES)
    assert (back.values, back.class_weights) == (before.values, before.class_weights)
    assert back.origin == "flipped to fat; flipped to epithelium"


def test_a_flip_to_an_unknown_class_is_refused() -> None:
    with pytest.raises(UserError, match="no class 'bone'"):
        flipped(point(1, 2), "bone", CLASSES)


def test_random_points() -> None:
    points = random_points(500, z_dim=40, class_weights=(0.0, 1.0), checkpoint_digest="e", seed=4)
    z = np.array([item.values for item in points])
    assert z.shape == (500, 40)
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.03
    assert {(item.class_weights, item.checkpoint_digest) for item in points} == {((0, 1), "e")}
    assert points[7].origin == "seed 4, number 7"


def test_random_points_come_from_their_seed() -> None:
    assert random_point(3) == random_point(3)
    assert random_point(3).values != random_point(4).values


def test_a_larger_number_begins_with_the_same_points() -> None:
    few, many = (
        random_points(n, z_dim=3, class_weights=(1.0,), checkpoint_digest="d", seed=1) for n in (2, 5)
    )
    assert many[:2] == few


@pytest.mark.parametrize(
    "before",
    [
        random_point(1),
        point(1 / 3, -1e-30, weights=(0.25, 0.75), origin="tile µ"),
        LatentPoint((1.0,), (1.0,), "d", "", "w"),
        LatentPoint((1.0,), (1.0,), "d", offsets=((0.5, -1e-9), (2.0, 3.0)), tuned_digest="t"),
    ],
)
def test_to_json_and_back(before: LatentPoint) -> None:
    assert LatentPoint.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_what_may_be_left_out() -> None:
    assert LatentPoint.from_json(
        {"values": [1], "class_weights": [1], "checkpoint_digest": "d"}
    ) == LatentPoint((1.0,), (1.0,), "d")


GOOD: dict[str, Any] = {"values": [1.0, 2.0], "class_weights": [1.0, 0.0], "checkpoint_digest": "d"}


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        None,
        3,
        "a point",
        [1, 2],
        *({key: value for key, value in GOOD.items() if key != name} for name in GOOD),
        GOOD | {"values": None},
        GOOD | {"values": ["x"]},
        GOOD | {"values": [[1.0]]},
        GOOD | {"values": 3},
        GOOD | {"class_weights": [None]},
        GOOD | {"offsets": [1.0]},
        GOOD | {"offsets": [[1.0], [1.0, 2.0]]},
        GOOD | {"offsets": [[float("nan")]]},
        GOOD | {"offsets": "12"},
    ],
)
def test_garbage_is_refused(garbage: Any) -> None:
    with pytest.raises(UserError, match=r"^This is not a latent point \(.+\); search it again"):
        LatentPoint.from_json(garbage)


@pytest.mark.parametrize(
    "garbage",
    [
        GOOD | {"values": "12"},
        GOOD | {"values": [float("nan"), 1.0]},
        GOOD | {"class_weights": [float("inf"), 0.0]},
    ],
    ids=["text", "nan", "inf"],
)
def test_garbage_that_turns_into_numbers_is_refused(garbage: Any) -> None:
    with pytest.raises(UserError, match="This is not a latent point"):
        LatentPoint.from_json(garbage)
