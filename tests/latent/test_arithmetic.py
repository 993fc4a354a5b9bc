from __future__ import annotations

import math

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint, random_points
from napari_histolatent.latent.arithmetic import combine

CLASSES = ("normal", "tumour")


def drawn(seed: int, weights: tuple[float, ...] = (1.0, 0.0), digest: str = "d") -> LatentPoint:
    return random_points(1, z_dim=16, class_weights=weights, checkpoint_digest=digest, seed=seed)[0]


A, B, C = drawn(1), drawn(2), drawn(3, (0.0, 1.0))
POINTS = {"a": A, "b": B, "c": C, "tile 3": C, "x-ray": B}
LUMEN, TUMOUR, HEALTHY = (
    [drawn(s, (0.0, 1.0)) for s in (4, 5)],
    [drawn(s, (0.0, 1.0)) for s in (6, 7)],
    [drawn(s) for s in (8, 9)],
)
GROUPS = {"tumour with lumen": LUMEN, "tumour": TUMOUR, "healthy": HEALTHY, "mean": HEALTHY}


def z(point: LatentPoint) -> np.ndarray:
    return np.array(point.values)


def mean(group: list[LatentPoint]) -> np.ndarray:
    return np.mean([z(point) for point in group], axis=0)


def result(expression: str, **options: object) -> LatentPoint:
    return combine(expression, points=POINTS, groups=GROUPS, classes=CLASSES, **options).point  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a", z(A)),
        ("a + b", z(A) + z(B)),
        ("a - b - c", z(A) - z(B) - z(C)),
        ("a - (b - c)", z(A) - z(B) + z(C)),
        ("-a + 2 * b", -z(A) + 2 * z(B)),
        ("b * .5 + a / 4", z(B) / 2 + z(A) / 4),
        ("2 * 3 * a - 1e-1 * b", 6 * z(A) - 0.1 * z(B)),
        ("(1 + 2) / 3 * a - (2 - 1.5) * b", z(A) - 0.5 * z(B)),
        ("- - +a", z(A)),
        ("tile 3 - a", z(C) - z(A)),
        ("'x-ray' + a", z(B) + z(A)),
        ('"x-ray"+a', z(B) + z(A)),
        ("mean(tumour)", mean(TUMOUR)),
        ("mean(a, b, tumour)", mean([A, B, *TUMOUR])),
        ("mean(mean)", mean(HEALTHY)),
        (
            "mean(tumour with lumen) - mean(tumour) + mean(healthy)",
            mean(LUMEN) - mean(TUMOUR) + mean(HEALTHY),
        ),
        ("  mean( tumour  with lumen )-mean(tumour)\n", mean(LUMEN) - mean(TUMOUR)),
    ],
)
def test_an_expression_is_worked_out(expression: str, expected: np.ndarray) -> None:
    found = combine(expression, points=POINTS, groups=GROUPS, classes=CLASSES)
    assert found.norm_before == pytest.approx(np.linalg.norm(expected))
    assert found.norm_after == pytest.approx(4)
    np.testing.assert_allclose(found.point.values, 4 * expected / np.linalg.norm(expected))
    assert found.point.checkpoint_digest == "d"
    assert found.point.origin == " ".join(expression.split())


def test_the_length_is_brought_back_to_the_prior() -> None:
    uniform = combine("5 * a", points=POINTS, prior="uniform", classes=CLASSES)
    np.testing.assert_allclose(uniform.point.values, np.clip(5 * z(A), -1, 1))
    assert uniform.norm_before == pytest.approx(5 * np.linalg.norm(A.values))
    assert uniform.norm_after <= math.sqrt(16)


def test_the_class_is_the_nearest_or_the_one_asked_for() -> None:
    assert result("mean(tumour with lumen) - mean(tumour) + mean(healthy)").class_weights == (1, 0)
    assert result("a - b + c").class_weights == (0, 1)
    assert result("a", label="tumour").class_weights == (0, 1)
    with pytest.raises(UserError, match="no class 'fat'; its classes are normal, tumour"):
        result("a", label="fat")


def test_points_without_classes_and_with_offsets() -> None:
    plain = LatentPoint((1.0, 2.0), (), "d")
    found = combine("p * 2", points={"p": plain})
    assert found.point.class_weights == ()
    moved = LatentPoint((1.0, 2.0), (), "d", offsets=((1.0, 2.0, 3.0),), tuned_digest="t")
    found = combine("3 * p + q - q", points={"p": moved, "q": plain})
    assert found.point.offsets == ((3.0, 6.0, 9.0),)
    assert found.point.tuned_digest == ""
    assert found.names == ("p", "q")


@pytest.mark.parametrize(
    ("expression", "column", "words"),
    [
        ("mean(tumor) + a", 6, "there is no point or group named 'tumor' (there are: a, b, c"),
        ("a + B", 5, "no point or group named 'B'"),
        ("a + tumour", 5, "'tumour' is a group; write mean(tumour)"),
        ("a +", 4, "it ends where a name or a number is expected"),
        ("", 1, "it ends where a name"),
        ("   ", 1, "it ends where a name"),
        ("a b", 1, "no point or group named 'a b'"),
        ("2 a", 3, "'a' is not expected"),
        ("(a + b", 7, "')' is expected, not the end"),
        ("a)", 2, "')' is not expected"),
        ("mean(a", 7, "')' is expected"),
        ("mean()", 6, "')' stands where a name"),
        ("mean(2)", 6, "'2' stands where a name"),
        ("a * b", 3, "two points cannot be multiplied"),
        ("2 / a", 3, "nothing can be divided by a point"),
        ("a / (1 - 1)", 3, "it divides by zero"),
        ("a + 1", 3, "a number and a point cannot be added"),
        ("a + 1e999 * b", 5, "the number 1e999 is too large"),
        ("a % b", 3, "'%' means nothing"),
        ("a + 3rd", 5, "'3' means nothing"),
        ("a ** 2", 4, "'*' stands where"),
        ("a.__class__", 2, "'.' means nothing"),
        ("(" * 60 + "a" + ")" * 60, 51, "nested more than 50 deep"),
    ],
)
def test_a_fault_says_where_it_is(expression: str, column: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        result(expression)
    assert words in str(caught.value)
    assert f"at column {column}," in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("2 + 3", "is the number 5, not a point"),
        ("a - a", "comes to zero"),
        ("1e200 * 1e200 * a", "comes to numbers that are too large"),
        ("1e200 * a", "comes to numbers that are too large"),
        ("a" * 5000, "5,000 characters, more than 4,000"),
    ],
)
def test_what_is_no_point_is_refused(expression: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        result(expression)


def test_points_of_two_generators_are_refused() -> None:
    with pytest.raises(UserError, match="at column 5, the points are of different generators"):
        combine("a + e", points={"a": A, "e": drawn(1, digest="e")})
