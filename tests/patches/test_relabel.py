from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import (
    HandMark,
    PatchDataset,
    Recipe,
    SlideSource,
    SplitSpec,
    extract,
    recipe_named,
    recipe_of,
    relabel,
)
from tests.patches.drawn import RECIPE, regions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEPT = RECIPE.changed(
    grid={"stride_px": 8}, store={"keep": "tissue", "codec": "raw"}, labels={"default_class": "rest"}
)


@pytest.fixture(scope="module")
def kept(tiny_slide: Path, tiny_regions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of all patches with tissue; read it, do not change it."""
    out = tmp_path_factory.mktemp("relabel") / "kept"
    extract([SlideSource(tiny_slide, tiny_regions)], out, recipe=KEPT)
    return out


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function after which no slide can be opened any more."""

    def forbid() -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("a slide was opened")

        for module in ("_cutting", "_plan", "_stain"):
            target = f"napari_histolatent.patches.{module}.open_slide"
            monkeypatch.setattr(target, refuse, raising=False)

    return forbid


def by_place(dataset: PatchDataset) -> dict[tuple[str, int, int, float], tuple[str, str, str]]:
    rows = dataset.table.to_pylist()
    return {
        (row["slide"], row["x"], row["y"], row["downsample"]): (row["label"], row["split"], row["left_out"])
        for row in rows
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels": {"threshold": 0.3}},
        {"labels": {"rule": "centre"}},
        {"labels": {"rule": "any", "exclude": ("stroma",)}},
        {"labels": {"annotated_as": "all", "ignore_above": 0.2}},
        {"labels": {"default_class": ""}},
        {"split": {"seed": 3, "fractions": (0.5, 0.25, 0.25)}},
        {"balance": {"method": "smallest"}},
        {"balance": {"method": "smallest", "per_class": 20, "seed": 5}, "labels": {"rule": "majority"}},
        {"quality": {"max_white": 0.05, "min_focus": 60.0}},
        {"quality": {"max_white": 0.05}, "balance": {"method": "smallest"}, "labels": {"threshold": 0.5}},
    ],
)
def test_a_view_is_what_cutting_anew_would_give_without_opening_a_slide(
    kept: Path, source: SlideSource, tmp_path: Path, forbidden: Any, changes: dict[str, Any]
) -> None:
    recipe = KEPT.changed(**changes)
    extract([source], tmp_path / "fresh", recipe=recipe)
    forbidden()
    report = relabel(PatchDataset(kept), tmp_path / "view", recipe=recipe)
    view, fresh = PatchDataset(tmp_path / "view"), PatchDataset(tmp_path / "fresh")
    assert by_place(view) == by_place(fresh)
    assert view.classes == fresh.classes
    assert report["patches"] == len(view) == len(fresh)
    assert report["classes_per_split"] == fresh.report()["classes_per_split"]
    np.testing.assert_array_equal(view.labels, fresh.labels)
    np.testing.assert_array_equal(view.read(range(0, len(view), 9)), fresh.read(range(0, len(view), 9)))
    assert view.settings["split_by"] == fresh.settings["split_by"] == "block"
    assert recipe_of(view) == recipe


def test_a_view_of_many_slides_is_what_cutting_anew_would_give(
    cohort: Sequence[SlideSource], tmp_path: Path, forbidden: Any
) -> None:
    # Slides with classes and default classes of their own: names come in another order than sorted.
    other = regions(tmp_path, ("zebra", (60, 60, 180, 160)), ("stroma", (200, 60, 340, 160)))
    third = regions(tmp_path, ("stroma", (60, 60, 340, 160)), name="third.geojson")
    sources = [
        replace(cohort[0], annotations=other, patient="a", label="tissue"),
        replace(cohort[1], patient="b"),
        replace(cohort[2], annotations=third, patient="c", label="background"),
        replace(cohort[3], patient="d"),
    ]
    recipe = replace(RECIPE, split=SplitSpec()).changed(store={"keep": "tissue"})
    extract(sources, tmp_path / "kept", recipe=recipe)
    changed = recipe.changed(
        labels={"threshold": 0.5}, balance={"method": "smallest", "per_slide": 12}, split={"seed": 1}
    )
    extract(sources, tmp_path / "fresh", recipe=changed)
    forbidden()
    relabel(PatchDataset(tmp_path / "kept"), tmp_path / "view", recipe=changed)
    view, fresh = (PatchDataset(tmp_path / name) for name in ("view", "fresh"))
    assert view.classes == fresh.classes == ("background", "epithelium", "stroma", "tissue", "zebra")
    assert by_place(view) == by_place(fresh)
    assert view.settings["split_by"] == fresh.settings["split_by"] == "patient"


def test_one_zoom_of_several(source: SlideSource, tmp_path: Path, forbidden: Any) -> None:
    recipe = recipe_named("s1").changed(
        grid={"size_px": 32}, store={"keep": "tissue"}, split={"block_patches": 2}
    )
    extract([source], tmp_path / "both", recipe=recipe)
    forbidden()
    both = PatchDataset(tmp_path / "both")
    assert both.mpp is None
    relabel(both, tmp_path / "one", recipe=recipe, downsample=2.0)
    one = PatchDataset(tmp_path / "one")
    assert set(one.columns["downsample"].tolist()) == {2.0}
    assert one.mpp == 1.0
    assert len(one.table) == len(both.table)
    rows = one.table.to_pylist()
    assert {row["left_out"] for row in rows if row["downsample"] == 1} <= {"other zoom", "no label"}
    for classes in one.report()["classes_per_split"].values():
        assert len(set(classes.values())) == 1
    with pytest.raises(DatasetError, match=r"^The dataset has no patches of downsample 4; it has 1, 2\.$"):
        relabel(both, tmp_path / "none", recipe=recipe, downsample=4.0)
    # From the view of one zoom the other can still be had: no row was lost.
    relabel(one, tmp_path / "other", recipe=recipe, downsample=1.0)
    assert set(PatchDataset(tmp_path / "other").columns["downsample"].tolist()) == {1.0}


def test_a_view_of_a_view_is_the_view_of_the_first(kept: Path, tmp_path: Path, forbidden: Any) -> None:
    forbidden()
    first = KEPT.changed(labels={"rule": "inside"}, balance={"per_class": 5}, quality={"max_white": 0.01})
    second = KEPT.changed(labels={"rule": "centre"}, split={"seed": 2})
    relabel(PatchDataset(kept), tmp_path / "a", recipe=first)
    relabel(PatchDataset(tmp_path / "a"), tmp_path / "deep" / "b", recipe=second)
    relabel(PatchDataset(kept), tmp_path / "c", recipe=second)
    of_view, direct = PatchDataset(tmp_path / "deep" / "b"), PatchDataset(tmp_path / "c")
    assert by_place(of_view) == by_place(direct)
    assert of_view.digest == direct.digest
    np.testing.assert_array_equal(of_view.read([0, 5]), direct.read([0, 5]))
    assert of_view.pixels_folder == (kept / "pixels.zarr").resolve()
    assert of_view.report()["bytes"] < 200_000 < PatchDataset(kept).report()["bytes"]


def test_a_view_is_the_same_each_time_and_says_what_it_is_of(kept: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        relabel(PatchDataset(kept), tmp_path / name, recipe=KEPT.changed(labels={"threshold": 0.5}))
    assert (tmp_path / "a" / "index.parquet").read_bytes() == (tmp_path / "b" / "index.parquet").read_bytes()
    assert (tmp_path / "a" / "dataset.json").read_bytes() == (tmp_path / "b" / "dataset.json").read_bytes()
    settings = json.loads((tmp_path / "a" / "dataset.json").read_text())
    assert settings["view_of"] == {"digest": PatchDataset(kept).digest, "downsample": None}
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["dataset.json", "index.parquet"]
    assert not settings["pixels"].startswith("/")


def test_a_view_and_its_pixels_move_together(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    shutil.copytree(kept, tmp_path / "here" / "ds")
    relabel(PatchDataset(tmp_path / "here" / "ds"), tmp_path / "here" / "view", recipe=KEPT)
    before = PatchDataset(tmp_path / "here" / "view")[2][0]
    (tmp_path / "here").rename(tmp_path / "there")
    np.testing.assert_array_equal(PatchDataset(tmp_path / "there" / "view")[2][0], before)
    shutil.rmtree(tmp_path / "there" / "ds")
    with pytest.raises(
        DatasetError, match=r"^The pixels of .*view are gone \(.*ds/pixels\.zarr\); bring the folder back"
    ):
        PatchDataset(tmp_path / "there" / "view")[0]


def test_what_was_done_by_hand_stays(source: SlideSource, tmp_path: Path, forbidden: Any) -> None:
    extract([source], tmp_path / "rule", recipe=KEPT)
    members = PatchDataset(tmp_path / "rule").columns
    toggled, renamed = ((int(members["x"][row]), int(members["y"][row])) for row in (0, 1))
    marks = (
        HandMark(*toggled, is_in=False),
        HandMark(*renamed, label="by me"),
        HandMark(333, 301, label="by me"),
        HandMark(131, 201),
    )
    recipe = KEPT.changed(split={"fractions": (1, 0, 0)})
    extract([replace(source, marks=marks)], tmp_path / "ds", recipe=recipe)
    changed = recipe.changed(labels={"annotated_as": "annotated", "rule": "any"}, balance={"per_class": 2})
    extract([replace(source, marks=marks)], tmp_path / "fresh", recipe=changed)
    forbidden()
    relabel(PatchDataset(tmp_path / "ds"), tmp_path / "view", recipe=changed)
    view = PatchDataset(tmp_path / "view")
    rows = {(row["x"], row["y"]): row for row in view.table.to_pylist()}
    assert rows[toggled]["left_out"] == "by hand"
    assert rows[renamed]["label"] == rows[333, 301]["label"] == "by me"
    assert rows[131, 201]["label"] == "annotated"
    assert (rows[131, 201]["origin"], rows[131, 201]["by_hand"]) == ("picked", False)
    assert rows[131, 201]["left_out"] == rows[333, 301]["left_out"] == rows[renamed]["left_out"] == ""
    assert view.classes == ("annotated", "by me", "rest")
    assert by_place(view) == by_place(PatchDataset(tmp_path / "fresh"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"labels": {"exclude": ("necrosis",)}},
            "No region has the class 'necrosis' that the label rule names; the classes are: epithelium, stroma.",
        ),
        (
            {"quality": {"min_focus": 1e9}},
            "No patch gets a class by these settings; lower the threshold, or loosen the quality limits.",
        ),
    ],
)
def test_a_view_of_nothing_is_refused(
    kept: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        relabel(PatchDataset(kept), tmp_path / "view", recipe=KEPT.changed(**changes))
    assert str(caught.value) == sentence
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_is_not_made_a_view_of_itself(kept: Path) -> None:
    before = (kept / "index.parquet").read_bytes()
    with pytest.raises(DatasetError, match="exists already"):
        relabel(PatchDataset(kept), kept, recipe=KEPT)
    with pytest.raises(DatasetError, match="kept is the dataset itself; choose another folder for the view"):
        relabel(PatchDataset(kept), kept, recipe=KEPT, overwrite=True)
    assert (kept / "index.parquet").read_bytes() == before


def test_a_view_is_replaced_where_that_is_allowed(kept: Path, tmp_path: Path) -> None:
    relabel(PatchDataset(kept), tmp_path / "view", recipe=KEPT)
    changed = KEPT.changed(labels={"rule": "centre"})
    with pytest.raises(DatasetError, match="exists already"):
        relabel(PatchDataset(kept), tmp_path / "view", recipe=changed)
    relabel(PatchDataset(kept), tmp_path / "view", recipe=changed, overwrite=True)
    assert recipe_of(PatchDataset(tmp_path / "view")) == changed
    assert [path.name for path in tmp_path.iterdir()] == ["view"]


def test_an_imported_dataset_has_no_rule_to_change(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "imported")
    file = tmp_path / "imported" / "dataset.json"
    settings = json.loads(file.read_text())
    del settings["recipe"]
    file.write_text(json.dumps(settings))
    with pytest.raises(DatasetError, match="was imported, so its labels do not come from regions"):
        recipe_of(PatchDataset(tmp_path / "imported"))


def test_a_recipe_of_a_dataset_is_the_one_it_was_cut_by(kept: Path) -> None:
    recipe = recipe_of(PatchDataset(kept))
    assert recipe == KEPT
    assert isinstance(recipe, Recipe)


def test_the_pixels_of_a_view_are_not_overwritten_by_a_view_of_it(kept: Path, tmp_path: Path) -> None:
    # BUG: the base with all its pixels was replaced by an index.
    shutil.copytree(kept, tmp_path / "base")
    relabel(PatchDataset(tmp_path / "base"), tmp_path / "view", recipe=KEPT)
    (tmp_path / "link").symlink_to(tmp_path / "base")
    for out in (tmp_path / "base", tmp_path / "link"):
        with pytest.raises(DatasetError, match=r"holds the pixels that .*view is a view of"):
            relabel(PatchDataset(tmp_path / "view"), out, recipe=KEPT, overwrite=True)
    PatchDataset(tmp_path / "view").verify()


def test_a_view_does_not_show_the_pixels_of_a_base_that_was_cut_anew(
    cohort: Sequence[SlideSource], tmp_path: Path
) -> None:
    # BUG: as many other patches, without a word.
    recipe = replace(RECIPE, split=SplitSpec()).changed(store={"keep": "tissue"})
    extract(cohort, tmp_path / "base", recipe=recipe)
    relabel(PatchDataset(tmp_path / "base"), tmp_path / "view", recipe=recipe)
    PatchDataset(tmp_path / "view").read([0])
    extract(cohort[::-1], tmp_path / "base", recipe=recipe, overwrite=True)
    view = PatchDataset(tmp_path / "view")
    assert view.settings["stored"] == PatchDataset(tmp_path / "base").settings["stored"]
    for use in (lambda: view.read([0]), view.verify):
        with pytest.raises(
            DatasetError, match=r"is a view of .*base, which was cut anew since.*; make the view"
        ):
            use()


@pytest.mark.parametrize(
    ("keep", "changes", "is_complete"),
    [
        ("tissue", {"labels": {"threshold": 0.3}}, True),
        ("labelled", {"labels": {"threshold": 0.3}}, False),
        ("labelled", {"split": {"seed": 3}}, True),
    ],
)
def test_a_view_says_whether_patches_may_be_missing(
    cohort: Sequence[SlideSource], tmp_path: Path, keep: str, changes: dict[str, Any], is_complete: bool
) -> None:
    # BUG: a view of labelled patches claimed a threshold under which there are more.
    recipe = replace(RECIPE, split=SplitSpec()).changed(store={"keep": keep})
    changed = recipe.changed(**changes)
    extract(cohort, tmp_path / "base", recipe=recipe)
    extract(cohort, tmp_path / "fresh", recipe=changed)
    report = relabel(PatchDataset(tmp_path / "base"), tmp_path / "view", recipe=changed)
    assert (report["patches"] == len(PatchDataset(tmp_path / "fresh"))) is is_complete
    assert report["complete"] is is_complete
    assert [text[:44] for text in report["messages"]] == ["Only patches that had a label were cut, so t"] * (
        not is_complete
    )
    # A view of the view goes by what was cut.
    again = relabel(PatchDataset(tmp_path / "view"), tmp_path / "again", recipe=changed)
    assert again["complete"] is is_complete
