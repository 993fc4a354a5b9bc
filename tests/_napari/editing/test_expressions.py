from __future__ import annotations

import pytest

from napari_histolatent._napari.editing._expressions import column_of, completions, fragment_at, written
from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint
from napari_histolatent.latent.arithmetic import combine

POINT = LatentPoint((1.0, 2.0), (1.0,), "d")
POINTS, GROUPS = ["healthy one", "tumour 3", "gland-2"], ["tumour", "healthy"]


def offered(text: str) -> list[tuple[str, str]]:
    return completions(POINTS, GROUPS, fragment_at(text, len(text)))


@pytest.mark.parametrize(
    "name",
    [
        "tumour",
        "tumour with lumen",
        "case 12",
        "gland-2",
        "2nd",
        "case 1.5",
        "mean",
        "x  y",
        "Gewebe ä",
        "a 2b",
    ],
)
def test_a_name_is_written_so_that_it_is_read_as_itself(name: str) -> None:
    found = combine(f"2 * {written(name)}", points={name: POINT}, prior="uniform")
    assert found.names == (name,)
    assert written("tumour with lumen") == "tumour with lumen"
    assert written("gland-2") == '"gland-2"'


def test_the_fragment_is_what_stands_since_the_last_sign() -> None:
    fragment = fragment_at("mean(tumour) + heal", 19)
    assert (fragment.text, fragment.start, fragment.end, fragment.is_in_mean) == ("heal", 15, 19, False)
    assert fragment_at("2 * mean( tumour wi", 19).text == "tumour wi"
    assert fragment_at("2 * mean( tumour wi", 19).is_in_mean
    assert fragment_at("mean(a, b", 9).is_in_mean
    assert not fragment_at("mean(a) * (b", 12).is_in_mean
    quoted = fragment_at('a + "gland-', 11)
    assert (quoted.text, quoted.start) == ("gland-", 4)
    middle = fragment_at("heal + b", 4)
    assert (middle.text, middle.start, middle.end) == ("heal", 0, 4)


def test_points_are_offered_as_such_and_groups_as_means() -> None:
    assert offered("tu") == [("tumour 3", "tumour 3"), ("mean(tumour)", "mean(tumour)")]
    assert offered("2 * gla") == [("gland-2", '"gland-2"')]
    assert offered("mean(tu") == [("tumour", "tumour"), ("tumour 3", "tumour 3")]
    assert offered("mea") == [("mean(tumour)", "mean(tumour)"), ("mean(healthy)", "mean(healthy)")]


def test_what_begins_alike_comes_first_and_what_is_whole_is_not_offered() -> None:
    assert [shown for shown, _ in offered("ONE")] == ["healthy one"]
    assert [shown for shown, _ in completions(["my tumour", "tumour a"], [], fragment_at("tum", 3))] == [
        "tumour a",
        "my tumour",
    ]
    assert offered("tumour 3") == []
    assert offered("tumour 3 + ") == []
    assert offered("") == []


@pytest.mark.parametrize(
    ("expression", "column"), [("a + nobody", 5), ("a +", 4), ("a § a", 3), ("a / 0", 3), ("mean(a", 7)]
)
def test_the_column_of_an_error_is_found_in_its_sentence(expression: str, column: int) -> None:
    with pytest.raises(UserError) as error:
        combine(expression, points={"a": POINT})
    assert column_of(str(error.value)) == column


def test_an_error_of_the_whole_has_no_column() -> None:
    with pytest.raises(UserError) as error:
        combine("1 + 1", points={"a": POINT})
    assert column_of(str(error.value)) is None
