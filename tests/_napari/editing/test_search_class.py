from __future__ import annotations

import pytest

from napari_histolatent._napari.editing._search_class import search_class_of

CLASSES = ("benign", "cancer")
CHANCES = {"benign": 0.2, "cancer": 0.8}


@pytest.mark.parametrize(
    ("annotated", "chances", "label", "said"),
    [
        ("benign", CHANCES, "benign", "annotated as benign."),
        (
            None,
            CHANCES,
            "cancer",
            "no annotation; the classifier, by structure, sees cancer in it (probability 0.80)",
        ),
        ("fat", CHANCES, "cancer", "annotated as fat, which the generator does not know; the classifier"),
        (None, None, None, "no annotation: each class is tried"),
        (None, {"fat": 1.0}, None, "each class is tried"),
    ],
)
def test_the_class_of_a_search(
    annotated: str | None, chances: dict[str, float] | None, label: str | None, said: str
) -> None:
    found = search_class_of(annotated, CLASSES, chances, "by structure")
    assert found.label == label
    assert said in found.why
