from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from shapely.geometry import Polygon, box

from napari_histolatent.annotations import Annotations, Region, read_annotations
from napari_histolatent.errors import AnnotationError, DatasetError
from napari_histolatent.patches import (
    GridSpec,
    HandMark,
    LabelSpec,
    Recipe,
    SlideSource,
    StoreSpec,
    TissueMask,
    TissueSpec,
    plan_grid,
    plan_slide,
    recipe_named,
    tissue_mask,
)
from napari_histolatent.patches._plan import assemble
from napari_histolatent.slides import open_slide, store_mpp, stored_mpps
from tests.patches.drawn import EVERYWHERE, RECIPE, regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from napari_histolatent.patches import PatchGrid
    from napari_histolatent.slides import Slide

    SlideOf = Callable[..., Slide]

KEEP_ALL = StoreSpec(keep="tissue")


def blank(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def annotations_of(*shapes: tuple[str, Any]) -> Annotations:
    return Annotations(
        tuple(Region(str(i), name, shape) for i, (name, shape) in enumerate(shapes)), format="test"
    )


def planned(
    slide: Slide,
    annotations: Annotations | None,
    size_px: int = 10,
    labels: LabelSpec | None = None,
    store: StoreSpec = KEEP_ALL,
    **options: Any,
) -> PatchGrid:
    everything = TissueMask(np.ones((slide.info.height_px, slide.info.width_px), bool), (1.0, 1.0), 0)
    recipe = Recipe(
        grid=GridSpec(size_px=size_px, level=0),
        labels=labels or LabelSpec(),
        store=store,
        tissue=TissueSpec(min_tissue=0.5),
    )
    return plan_grid(slide, annotations, options.pop("mask", everything), recipe, **options)


def labels_of(grid: PatchGrid) -> list[str]:
    return [grid.label_names[i] if i >= 0 else "" for i in grid.label]


def test_only_patches_that_touch_a_region_are_planned(slide_of: SlideOf) -> None:
    triangle = annotations_of(("a", Polygon([(0, 0), (200, 0), (0, 200)])))
    grid = planned(slide_of(blank(200, 200)), triangle, 20, LabelSpec(rule="any"), StoreSpec(keep="labelled"))
    expected = {(x, y) for x in range(0, 200, 20) for y in range(0, 200, 20) if x + y < 200}
    assert {(int(x), int(y)) for x, y in grid.positions.level0_xy} == expected
    assert (grid.coverage.shares > 0).all()
    everything = planned(slide_of(blank(200, 200)), triangle, 20, LabelSpec(rule="any"))
    assert len(everything) == 100


def test_a_plan_of_a_drawn_slide_has_the_right_shares(tiny_slide: Path, tiny_regions: Path) -> None:
    annotations = read_annotations(tiny_regions)
    with open_slide(tiny_slide) as slide:
        mask = tissue_mask(slide)
        grid = plan_grid(slide, annotations, mask, RECIPE.changed(store={"keep": "tissue"}))
    assert grid.classes == ("epithelium", "stroma")
    assert grid.positions.resolution.downsample == (2, 2)
    shapes = {
        name: [r.geometry for r in annotations.regions if r.class_name == name] for name in grid.classes
    }
    for row in range(0, len(grid), 5):
        square = box(*grid.boxes[row])
        expected = [sum(g.intersection(square).area for g in shapes[name]) / 64**2 for name in grid.classes]
        np.testing.assert_allclose(grid.coverage.shares[row], expected, atol=1e-5)
        touching = {r.id for r in annotations.regions if r.geometry.intersection(square).area > 0}
        assert set((grid.coverage.regions or [])[row].split()) == touching
    np.testing.assert_array_equal(grid.tissue, mask.fractions(grid.boxes))
    assert grid.tissue.min() >= 0.5
    # By hand: the patch at (32, 288) reaches 36 px into epithelium, which starts at x = 60.
    row = int(np.flatnonzero((grid.positions.level0_xy == (32, 288)).all(axis=1))[0])
    np.testing.assert_allclose(grid.coverage.shares[row], [36 / 64, 0])
    assert grid.label[row] == -1


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # One row of patches of 10 px; class a covers x < 26, class b x >= 32.
        ("area", ["a", "a", "", "b", "b"]),
        ("any", ["a", "a", "a", "b", "b"]),
        ("majority", ["a", "a", "a", "b", "b"]),
        ("inside", ["a", "a", "", "", "b"]),
        ("centre", ["a", "a", "a", "b", "b"]),
        ("priority", ["a", "a", "", "b", "b"]),
    ],
)
def test_each_rule_labels_the_plan(slide_of: SlideOf, rule: str, expected: list[str]) -> None:
    annotations = annotations_of(("a", box(0, 0, 26, 10)), ("b", box(32, 0, 50, 10)))
    assert labels_of(planned(slide_of(blank(50, 10)), annotations, labels=LabelSpec(rule=rule))) == expected


def test_the_centre_rule_looks_at_the_centre_and_not_at_the_area(slide_of: SlideOf) -> None:
    ring = Polygon(box(0, 0, 10, 10).exterior, [box(4, 4, 6, 6).exterior])
    annotations = annotations_of(("a", ring), ("b", box(4, 4, 6, 6)))
    assert labels_of(planned(slide_of(blank(10, 10)), annotations, labels=LabelSpec(rule="centre"))) == ["b"]


def test_regions_of_two_classes_one_over_the_other_are_settled_by_the_rule(slide_of: SlideOf) -> None:
    # The same ground said to be both: the shares are each class's own, the annotated share is counted once.
    annotations = annotations_of(("a", box(0, 0, 20, 10)), ("b", box(0, 0, 10, 10)))
    slide = slide_of(blank(30, 10))
    grid = planned(slide, annotations)
    np.testing.assert_allclose(grid.coverage.shares, [[1, 1], [1, 0], [0, 0]])
    np.testing.assert_allclose(grid.coverage.annotated, [1, 1, 0])
    assert labels_of(grid) == ["a", "a", ""]
    by_priority = LabelSpec(rule="priority", priority=("b", "a"))
    assert labels_of(planned(slide, annotations, labels=by_priority)) == ["b", "a", ""]
    assert labels_of(planned(slide, annotations, labels=LabelSpec(exclude=("b",)))) == ["", "a", ""]


def test_what_is_not_annotated_gets_the_default_class_of_the_slide_before_the_recipes(
    slide_of: SlideOf,
) -> None:
    annotations = annotations_of(("tumour", box(0, 0, 16, 10)))
    slide = slide_of(blank(50, 10))
    spec = LabelSpec(default_class="normal", annotated_as="positive")
    assert labels_of(planned(slide, annotations, labels=spec)) == ["positive", "", *["normal"] * 3]
    assert labels_of(planned(slide, annotations, labels=replace(spec, ignore_above=0.6)))[1] == "normal"
    assert labels_of(planned(slide, annotations, labels=spec, default_class="stroma"))[2:] == ["stroma"] * 3
    assert labels_of(planned(slide, None, labels=spec)) == ["normal"] * 5


def test_annotations_of_another_slide_are_refused(slide_of: SlideOf) -> None:
    elsewhere = annotations_of(("a", box(5000, 5000, 6000, 6000)))
    with pytest.raises(AnnotationError, match=r"lie outside array\.tiff"):
        planned(slide_of(blank(100, 100)), elsewhere)


def test_planning_reads_no_pixels(slide_of: SlideOf, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = slide_of(blank(100, 100))
    monkeypatch.delattr(type(slide._backend), "read_level")
    assert len(planned(slide, annotations_of(("a", box(0, 0, 100, 100))))) == 100


def test_planned_are_patches_with_tissue(slide_of: SlideOf) -> None:
    annotations = annotations_of(("a", box(0, 0, 26, 10)))
    tissue = np.ones((10, 50), bool)
    tissue[:, 5:10] = False  # half of the first patch
    tissue[:, 10:16] = False  # more than half of the second
    mask = TissueMask(tissue, (1.0, 1.0), threshold=0)
    slide, spec = slide_of(blank(50, 10)), LabelSpec(threshold=0.5)
    grid = planned(slide, annotations, labels=spec, mask=mask)
    assert grid.tissue == pytest.approx([0.5, 1, 1, 1])
    assert grid.positions.level0_xy[:, 0].tolist() == [0, 20, 30, 40]
    labelled = planned(slide, annotations, labels=spec, mask=mask, store=StoreSpec())
    assert labelled.positions.level0_xy[:, 0].tolist() == [0, 20]


def test_counts_and_rows_go_together(slide_of: SlideOf) -> None:
    annotations = annotations_of(("a", box(0, 0, 30, 10)), ("b", box(30, 0, 50, 10)))
    grid = planned(slide_of(blank(50, 10)), annotations)
    assert grid.counts() == {"a": 3, "b": 2}
    part = grid.take(np.array([4, 0]))
    assert part.positions.level0_xy.tolist() == [[40, 0], [0, 0]]
    assert labels_of(part) == ["b", "a"]
    np.testing.assert_array_equal(part.coverage.shares, [[0, 1], [1, 0]])
    assert part.counts() == {"a": 1, "b": 1}
    assert len(part) == len(part.tissue) == 2


# By hand


def test_marks_toggle_label_and_pick(slide_of: SlideOf) -> None:
    annotations = annotations_of(("a", box(0, 0, 26, 10)), ("b", box(32, 0, 50, 10)))
    marks = [
        HandMark(0, 0, is_in=False),
        HandMark(10, 0, label="b"),
        HandMark(20, 0, label="new"),
        HandMark(33, 3, label="b"),  # off the grid
        HandMark(1, 0),  # off the grid; the rule has its say
        HandMark(7, 0, is_in=False),  # neither on the grid nor wanted
    ]
    grid = planned(slide_of(blank(50, 13)), annotations, marks=marks)
    found = {
        tuple(xy): (label, bool(out), bool(picked), bool(hand))
        for xy, label, out, picked, hand in zip(
            grid.positions.level0_xy.tolist(),
            labels_of(grid),
            grid.is_out,
            grid.is_picked,
            grid.is_by_hand,
            strict=True,
        )
    }
    assert found == {
        (0, 0): ("a", True, False, False),
        (10, 0): ("b", False, False, True),
        (20, 0): ("new", False, False, True),
        (30, 0): ("b", False, False, False),
        (40, 0): ("b", False, False, False),
        (33, 3): ("b", False, True, True),
        (1, 0): ("a", False, True, False),
    }
    assert grid.label_names == ("a", "b", "new")
    assert grid.counts() == {"a": 1, "b": 4, "new": 1}


def test_only_what_was_picked(slide_of: SlideOf) -> None:
    annotations = annotations_of(("a", box(0, 0, 50, 10)))
    marks = [HandMark(3, 0), HandMark(20, 0, label="b"), HandMark(3, 0)]
    grid = planned(slide_of(blank(50, 10)), annotations, marks=marks, only_marks=True)
    assert grid.positions.level0_xy.tolist() == [[3, 0], [20, 0]]
    assert labels_of(grid) == ["a", "b"]
    assert grid.is_picked.all()


def test_a_patch_without_tissue_can_be_picked(slide_of: SlideOf) -> None:
    nothing = TissueMask(np.zeros((10, 50), bool), (1.0, 1.0), threshold=0)
    annotations = annotations_of(("a", box(0, 0, 50, 10)))
    grid = planned(slide_of(blank(50, 10)), annotations, mask=nothing, marks=[HandMark(10, 0)])
    assert grid.positions.level0_xy.tolist() == [[10, 0]]
    assert grid.tissue.tolist() == [0]


def test_glass_that_was_picked_is_no_unannotated_tissue(slide_of: SlideOf) -> None:
    pixels = np.zeros((10, 60), bool)
    pixels[:, :22] = True  # a fifth of the third patch
    mask = TissueMask(pixels, (1.0, 1.0), 0)
    marks = [HandMark(20, 0), HandMark(30, 0, "mine"), HandMark(40, 0), HandMark(50, 0)]
    labels = LabelSpec(default_class="bare", threshold=0.9)
    grid = planned(
        slide_of(blank(60, 10)), annotations_of(("a", box(49, 0, 60, 10))), 10, labels, marks=marks, mask=mask
    )
    found = dict(zip(grid.positions.level0_xy[:, 0].tolist(), labels_of(grid), strict=True))
    assert found == {0: "bare", 10: "bare", 20: "", 30: "mine", 40: "", 50: "a"}
    assert grid.is_picked.tolist() == [False, False, True, True, True, True]


def test_a_pick_off_the_slide_is_refused(slide_of: SlideOf) -> None:
    annotations = annotations_of(("a", box(0, 0, 50, 10)))
    planned(slide_of(blank(50, 10)), annotations, marks=[HandMark(-9, 9), HandMark(90, 9, is_in=False)])
    with pytest.raises(
        DatasetError, match=r"picked by hand at \(50, 3\) lies off .* \(50 x 10 px\); take it out"
    ):
        planned(slide_of(blank(50, 10)), annotations, marks=[HandMark(50, 3)])


# A slide from its files


def test_a_mark_counts_at_its_own_zoom_and_one_that_names_no_patch_is_told(source: SlideSource) -> None:
    recipe = recipe_named("s1").changed(grid={"size_px": 32}, store={"keep": "tissue"})
    marks = (HandMark(128, 128, is_in=False), HandMark(192, 128, is_in=False, downsample=2.0))
    lost = (HandMark(1, 1, is_in=False), HandMark(128, 128, downsample=8.0))
    plan = plan_slide(replace(source, marks=marks + lost), recipe)
    out = [grid.positions.level0_xy[grid.is_out].tolist() for grid in plan.grids]
    assert out == [[[128, 128]], [[192, 128]]]
    assert plan.messages == (
        "2 of the 4 decisions by hand on tiny.tiff name no patch of this grid, and were not used.",
    )
    assert plan_slide(replace(source, marks=marks), recipe).messages == ()
    assert SlideSource.from_json(replace(source, marks=marks).to_json()).marks == marks


def coords_file(path: Path, corners: list[tuple[int, int]], **attrs: Any) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.array(corners)).attrs.update(attrs)
    return path


def test_named_places_are_taken_as_they_are_and_once(source: SlideSource, tmp_path: Path) -> None:
    corners = [(0, 0), (736, 608), (64, 64), (0, 0)]  # the glass of the corners, too
    file = coords_file(tmp_path / "c.h5", corners, patch_size=32, patch_level=0, downsample=[1.0, 1.0])
    recipe = RECIPE.changed(store={"keep": "tissue"})
    plan = plan_slide(replace(source, coords=file), recipe)
    assert plan.grids[0].positions.level0_xy.tolist() == [[0, 0], [736, 608], [64, 64]]
    assert plan.grids[0].tissue.min() < 0.5
    assert plan.messages == ("c.h5 names 1 places more than once; each is cut once.",)


def test_a_level_of_another_file_is_found_by_its_downsample(source: SlideSource, tmp_path: Path) -> None:
    found = []
    for i, (level, downsample) in enumerate(((1, 2.0), (1, 4.0), (0, 4.0))):
        attrs = {"patch_size": 32, "patch_level": level, "downsample": [downsample] * 2}
        file = coords_file(tmp_path / f"{i}.h5", [(0, 0)], **attrs)
        plan = plan_slide(replace(source, coords=file), RECIPE.changed(store={"keep": "tissue"}))
        found.append(plan.grids[0].positions.resolution.downsample[0])
    assert found == [2, 4, 4]
    other = coords_file(tmp_path / "o.h5", [(0, 0)], patch_size=32, patch_level=0, name="other")
    with pytest.raises(DatasetError, match=r"o\.h5 holds the coordinates of other, not of tiny\.tiff; give"):
        plan_slide(replace(source, coords=other), RECIPE)


def test_a_slide_whose_annotations_hold_no_region_is_told(source: SlideSource, tmp_path: Path) -> None:
    empty = tmp_path / "e.geojson"
    empty.write_text('{"type": "FeatureCollection", "features": []}')
    (sentence,) = plan_slide(replace(source, annotations=empty), RECIPE).messages
    assert sentence.startswith("The annotations of tiny.tiff hold no region, so none of its patches")


def test_the_pixel_size_that_the_user_stated_once_goes_with_the_plan(
    tmp_path: Path, tiny_regions: Path
) -> None:
    tifffile.imwrite(tmp_path / "n.tiff", np.full((640, 768, 3), 120, np.uint8), tile=(64, 64))
    source = SlideSource(tmp_path / "n.tiff", tiny_regions)
    recipe = replace(RECIPE, tissue=EVERYWHERE)
    with open_slide(source.slide) as slide:
        digest = slide.info.digest
    # On another machine, where nothing is stored.
    plan = plan_slide(source, recipe, {digest: 0.25})
    assert (plan.stated_mpp, plan.grids[0].positions.resolution.downsample) == (0.25, (4, 4))
    store_mpp(digest, 0.5)
    try:
        here, there = plan_slide(source, recipe), plan_slide(source, recipe, {digest: 0.25})
        assert stored_mpps()[digest] == 0.5
    finally:
        store_mpp(digest, None)
    assert (here.stated_mpp, there.stated_mpp) == (0.5, 0.25)
    assert plan_slide(replace(source, mpp=1.0), recipe, {digest: 0.25}).stated_mpp == 1.0


def test_a_slide_is_planned_once_for_each_zoom(source: SlideSource) -> None:
    recipe = recipe_named("s1").changed(grid={"size_px": 32})
    plan = plan_slide(source, recipe)
    assert [grid.positions.resolution.downsample[0] for grid in plan.grids] == [1, 2]
    assert [grid.positions.resolution.level for grid in plan.grids] == [0, 1]
    assert {name for grid in plan.grids for name in grid.label_names} == {"positive", "negative"}
    assert plan.size_px == (768, 640)
    assert plan.colors == {}


def test_a_mask_of_the_users_own_stands_for_the_tissue(source: SlideSource, tmp_path: Path) -> None:
    left_half = np.zeros((64, 77), np.uint8)
    left_half[:, :38] = 255
    Image.fromarray(left_half).save(tmp_path / "mask.png")
    recipe = RECIPE.changed(store={"keep": "tissue"})
    plan = plan_slide(replace(source, mask=tmp_path / "mask.png"), recipe)
    right = plan.grids[0].boxes[:, 2]
    assert len(right) > 100
    assert right.max() <= 384 + 32 + 16


@pytest.mark.parametrize(
    ("changes", "labels", "sentence"),
    [
        (
            {"annotations": None},
            {},
            "tiny.tiff has no regions and no label, so its patches get no class; annotate it, give it a label, "
            "or name a class for unannotated tissue.",
        ),
    ],
)
def test_a_slide_without_regions_needs_a_class(
    source: SlideSource, changes: Any, labels: Any, sentence: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        plan_slide(replace(source, **changes), RECIPE.changed(labels=labels))
    assert str(caught.value) == sentence
    plan = plan_slide(replace(source, annotations=None, label="stroma"), RECIPE)
    assert set(labels_of(plan.grids[0])) == {"stroma"}


def test_a_source_survives_json() -> None:
    from pathlib import Path

    source = SlideSource(
        Path("a.svs"),
        Path("a.xml"),
        patient="p",
        mpp=0.5,
        label="x",
        mask=Path("m.png"),
        coords=Path("c.h5"),
        marks=(HandMark(1, 2, "b"), HandMark(3, 4, is_in=False)),
        only_marks=True,
    )
    assert SlideSource.from_json(source.to_json()) == source
    assert SlideSource.from_json(SlideSource(Path("b.svs")).to_json()) == SlideSource(Path("b.svs"))


# All slides together


def plans_of(sources: Sequence[SlideSource], recipe: Recipe) -> Any:
    return assemble([plan_slide(source, recipe) for source in sources], recipe)


def test_classes_of_all_slides_share_one_table(cohort: Sequence[SlideSource], tmp_path: Path) -> None:
    other = regions(tmp_path, ("a", (60, 60, 180, 280)), ("stroma", (200, 60, 340, 280)))
    plan = plans_of(
        [cohort[0], replace(cohort[2], annotations=other)], RECIPE.changed(store={"keep": "tissue"})
    )
    assert plan.classes == ("a", "epithelium", "stroma")
    table = plan.table.to_pydict()
    names = ("a", "epithelium", "stroma")
    seen = set()
    for row in range(len(plan.table)):
        at_centre = {name for i, name in enumerate(names) if table["centre_classes"][row] >> i & 1}
        assert table["coverage_a" if plan.slide_of[row] == 0 else "coverage_epithelium"][row] == 0
        for name in at_centre:
            assert table[f"coverage_{name}"][row] > 0
        seen |= {(int(plan.slide_of[row]), name) for name in at_centre}
    assert seen == {(0, "epithelium"), (0, "stroma"), (1, "a"), (1, "stroma")}


def test_every_patch_of_the_grids_is_accounted_for(source: SlideSource) -> None:
    recipe = RECIPE.changed(balance={"method": "smallest"})
    plan = plans_of([source], recipe)
    assert plan.considered == len(plan.table) + sum(plan.not_cut.values())
    assert set(plan.not_cut) == {"balance", "split border"}
    assert plan.split_by == "block"
    kept = plans_of([source], recipe.changed(store={"keep": "tissue"}))
    assert kept.considered == len(kept.table)
    assert kept.not_cut == {}
    assert set(kept.table["left_out"].to_pylist()) == {"", "no label", "balance", "split border"}


def test_a_class_that_the_rule_names_has_to_be_somewhere(source: SlideSource) -> None:
    recipe = RECIPE.changed(labels={"rule": "priority", "priority": ("necrosis",)})
    with pytest.raises(DatasetError, match="No region has the class 'necrosis' that the label rule names"):
        plans_of([source], recipe)


def test_an_excluded_class_of_one_slide_is_no_fault_of_the_other(
    cohort: Sequence[SlideSource], tmp_path: Path
) -> None:
    other = regions(tmp_path, ("artefact", (60, 60, 100, 280)), ("stroma", (110, 60, 340, 280)))
    recipe = RECIPE.changed(labels={"exclude": ("artefact",)})
    plan = plans_of([cohort[0], replace(cohort[2], annotations=other)], recipe)
    assert plan.classes == ("epithelium", "stroma")
    assert "coverage_artefact" in plan.table.column_names
    assert max(plan.table["coverage_artefact"].to_pylist()) == 0


def test_slides_have_no_more_classes_together_than_one_may(
    cohort: Sequence[SlideSource], tmp_path: Path
) -> None:
    sources = []
    for i, source in enumerate(cohort[:2]):
        shapes = [(f"c{i}_{j:02}", (60 + 8 * j, 60, 68 + 8 * j, 280)) for j in range(33)]
        sources.append(replace(source, annotations=regions(tmp_path, *shapes, name=f"{i}.geojson")))
    with pytest.raises(DatasetError, match="have 66 classes together, more than the 64"):
        plans_of(sources, RECIPE.changed(labels={"annotated_as": "one"}))


def test_what_is_odd_about_the_patients_is_told(cohort: Sequence[SlideSource]) -> None:
    names = ("P1 ", "p 1", "P1", "")
    plan = plans_of([replace(v, patient=name) for v, name in zip(cohort, names, strict=True)], RECIPE)
    assert plan.messages == (
        "The patients 'P1', 'p 1' differ in case or blanks only and count as 2 patients; write one name if they are one.",
        "1 of 4 slides name no patient; each of them was split as a patient of its own.",
    )
    assert plan.split_by == "patient"


def test_one_level_of_slides_of_several_pixel_sizes_is_told(cohort: Sequence[SlideSource]) -> None:
    sources = [cohort[0], replace(cohort[2], mpp=0.25)]
    by_level = RECIPE.changed(grid={"mpp": None, "level": 0})
    (sentence,) = plans_of(sources, by_level).messages
    assert sentence.startswith("The slides' pixel sizes: from 0.25 to 0.5 µm per px; patches of one level")
    assert plans_of(cohort[::2], by_level).messages == ()


def test_everything_excluded_is_said(source: SlideSource) -> None:
    recipe = replace(
        RECIPE, tissue=EVERYWHERE, labels=LabelSpec(exclude=("epithelium", "stroma"), rule="any")
    )
    with pytest.raises(DatasetError, match=r"^No patch of any slide has a class; annotate the slides"):
        plans_of([source], recipe)
