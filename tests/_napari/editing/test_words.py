from __future__ import annotations

import pytest

from napari_histolatent._napari.editing._words import in_dock


@pytest.mark.parametrize(
    ("said", "in_the_dock"),
    [
        (
            "x has no point yet; search it first with `histolatent invert`.",
            "search it first with the button Reverse search.",
        ),
        (
            "What x learnt from is not known; name it with --dataset.",
            "is not known; choose it in the Train dock.",
        ),
        (
            "The heatmaps are of another class (a and b); make both with the same classifier, class and layer.",
            "choose one class for both at “Evidence for”.",
        ),
        ("The model has no classes; leave --label out.", "The model has no classes."),
        (
            "flip it to a, or name its own class with --label if the search took the wrong one.",
            "or choose its own class at “Search as” and search again.",
        ),
        (
            "so its edits may show that; give --normalise-stain to bring it there first.",
            "tick “Normalise the stain”",
        ),
    ],
)
def test_a_remedy_is_named_as_the_dock_has_it(said: str, in_the_dock: str) -> None:
    assert in_the_dock in in_dock(said)
    assert "--" not in in_dock(said)
    assert in_dock(in_dock(said)) == in_dock(said)
