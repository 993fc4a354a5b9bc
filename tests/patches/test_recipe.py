from __future__ import annotations

import json

import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import (
    PRESETS,
    BalanceSpec,
    GridSpec,
    LabelSpec,
    QualitySpec,
    Recipe,
    SplitSpec,
    StainSpec,
    StoreSpec,
    TissueSpec,
    recipe_named,
)

FULL = Recipe(
    grid=GridSpec(size_px=64, downsamples=(1.0, 2.0), overlap_px=8, origin_px=(3.0, 4.0), edge="shift"),
    tissue=TissueSpec(method="fixed", threshold=12.0, pen_colors=("blue",)),
    labels=LabelSpec(rule="priority", priority=("b", "a"), exclude=("pen",), default_class="rest"),
    quality=QualitySpec(min_focus=20.0, max_pen=0.1),
    balance=BalanceSpec(method="smallest", per_slide=5, seed=3),
    split=SplitSpec(fractions=(0.5, 0.3, 0.2), by="patient"),
    stain=StainSpec(method="macenko"),
    store=StoreSpec(codec="jpeg", jpeg_quality=80, keep="tissue"),
)


@pytest.mark.parametrize("recipe", [Recipe(), FULL, *(recipe for _, recipe in PRESETS.values())])
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe
    assert hash(again) == hash(recipe)


def test_what_is_lacking_has_its_default() -> None:
    assert Recipe.from_json({}) == Recipe()
    assert Recipe.from_json({"labels": {"threshold": 0.5}}) == Recipe(labels=LabelSpec(threshold=0.5))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"colour": {}}, "colour"),
        ({"labels": {"threshold": 0.5, "mood": 1, "air": 2}}, "air, mood"),
        ({"labels": 3}, "labels"),
        ({"grid": [1]}, "grid"),
    ],
)
def test_what_a_newer_version_may_have_written_is_refused(value: dict[str, object], named: str) -> None:
    with pytest.raises(DatasetError) as caught:
        Recipe.from_json(value)
    assert (
        str(caught.value)
        == f"The recipe holds {named!r}, which this version does not know; update napari-histolatent."
    )


def test_fields_are_changed_and_checked() -> None:
    changed = FULL.changed(grid={"size_px": 32}, split={"seed": 2})
    assert (changed.grid.size_px, changed.grid.overlap_px, changed.split.seed) == (32, 8, 2)
    assert FULL.grid.size_px == 64
    assert changed.labels is FULL.labels
    with pytest.raises(DatasetError, match="There is no label rule 'whim'"):
        FULL.changed(labels={"rule": "whim"})


def test_the_recipe_of_s1_is_what_its_authors_wrote() -> None:
    recipe = recipe_named("s1")
    assert recipe.grid == GridSpec(size_px=256, downsamples=(1.0, 2.0))
    assert (recipe.labels.annotated_as, recipe.labels.default_class) == ("positive", "negative")
    assert recipe.labels.ignore_above == 0
    assert recipe.balance.method == "smallest"
    with pytest.raises(DatasetError, match=r"^There is no recipe 's2'; choose one of s1\.$"):
        recipe_named("s2")
