from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari.patches._planner import (
    PatchPlanner,
    PlanRequest,
    grid_colors,
    measured_cost,
    picture_of,
    pixels_of,
    settled,
)
from napari_histolatent.annotations import read_annotations
from napari_histolatent.errors import UserError
from napari_histolatent.patches import (
    CancelledError,
    GridSpec,
    HandMark,
    Recipe,
    TissueSpec,
    plan_grid,
    tissue_mask,
)

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations import Annotations
    from napari_histolatent.slides import Slide

RECIPE = Recipe(grid=GridSpec(size_px=32, mpp=0.5, stride_px=24), tissue=TissueSpec(min_tissue=0.3))
COLORS = {"epithelium": (200, 10, 20), "stroma": (1, 2, 3)}


def never() -> bool:
    return False


@pytest.fixture
def regions(tiny_regions: Path) -> Annotations:
    return read_annotations(tiny_regions)


@pytest.mark.parametrize(
    ("change", "marks"),
    [
        ({}, ()),
        ({"labels": {"default_class": "bare", "threshold": 0.4}}, ()),
        ({"grid": {"edge": "shift", "origin_px": (5.0, 7.0)}}, ()),
        (
            {},
            (
                HandMark(120, 240, "", False),  # on the grid, left out
                HandMark(144, 240, "other"),  # on the grid, another class
                HandMark(101, 203, "stroma"),  # off the grid
                HandMark(303, 17, "", False),  # off the grid and out: nothing
            ),
        ),
    ],
)
def test_a_plan_is_that_of_the_extraction(
    slide: Slide, regions: Annotations, change: dict[str, Any], marks: tuple[HandMark, ...]
) -> None:
    recipe = RECIPE.changed(**change, store={"keep": "tissue"})
    planned = PatchPlanner().plan(PlanRequest(slide, regions, recipe, marks), never)
    expected = plan_grid(slide, regions, tissue_mask(slide, recipe.tissue), recipe, marks=marks)
    grid = planned.grid
    assert len(grid) > 100
    for name in ("label", "is_out", "is_picked", "is_by_hand"):
        assert np.array_equal(getattr(grid, name), getattr(expected, name)), name
    assert grid.label_names == expected.label_names
    assert np.array_equal(grid.positions.level0_xy, expected.positions.level0_xy)
    assert np.array_equal(grid.positions.cell, expected.positions.cell)
    assert np.allclose(grid.tissue, expected.tissue)
    assert np.allclose(grid.coverage.shares, expected.coverage.shares, atol=1e-6)
    assert np.allclose(grid.coverage.annotated, expected.coverage.annotated, atol=1e-6)
    assert np.array_equal(grid.coverage.centre_classes, expected.coverage.centre_classes)


def test_only_what_changed_is_made_anew(slide: Slide, regions: Annotations, tiny_regions: Path) -> None:
    planner = PatchPlanner()

    def made_for(annotations: Annotations = regions, **change: Any) -> list[str]:
        del planner.made[:]
        planner.plan(PlanRequest(slide, annotations, RECIPE.changed(**change)), never)
        return list(planner.made)

    assert made_for() == ["mask", "positions 0", "tissue 0", "coverage 0"]
    assert made_for() == []
    assert made_for(labels={"threshold": 0.2}) == []
    assert made_for(tissue={"min_tissue": 0.9}) == []
    assert made_for(tissue={"method": "fixed", "threshold": 40.0}) == ["mask", "tissue 0"]
    assert made_for(tissue={"method": "fixed", "threshold": 40.0}, grid={"size_px": 40}) == [
        "positions 0",
        "tissue 0",
        "coverage 0",
    ]
    made_for()
    assert made_for(read_annotations(tiny_regions)) == ["coverage 0"]


def test_a_patch_is_found_by_its_place(slide: Slide, regions: Annotations) -> None:
    mark = HandMark(101, 203, "stroma")
    planned = PatchPlanner().plan(PlanRequest(slide, regions, RECIPE, (mark,)), never)
    grid = planned.grid
    row = len(grid) // 2
    left, top, right, bottom = grid.boxes[row]
    middle = ((left + right) / 2, (top + bottom) / 2)
    assert planned.row_at(middle) == row
    assert planned.cell_at(middle) == tuple(grid.positions.cell[row])
    assert planned.row_of(int(left), int(top)) == row
    picked = planned.row_at((110.0, 210.0))
    assert grid.positions.level0_xy[picked].tolist() == [101, 203], "over the grid"
    assert planned.row_at((-500.0, 10.0)) == -1
    exact = slide.read_region((int(left), int(top)), size_px=(32, 32), level=0)
    assert np.array_equal(pixels_of(slide, grid, row), exact)


def test_what_is_left_out_is_faint_and_what_has_no_class_grey(slide: Slide, regions: Annotations) -> None:
    request = PlanRequest(slide, regions, RECIPE, (HandMark(120, 240, "", False),))
    planned = PatchPlanner().plan(request, never)
    settlement = settled(planned)
    grid, out = planned.grid, planned.row_of(120, 240)
    rgba = grid_colors(grid, COLORS, settlement.left_out)
    member = int(np.flatnonzero(settlement.left_out == "")[0])
    assert tuple(rgba[member]) == (*COLORS[planned.label_name(member)], 255)
    border = int(np.flatnonzero(settlement.left_out == "split border")[0])
    assert tuple(rgba[border, :3]) == COLORS[planned.label_name(border)]
    assert 0 < rgba[border, 3] < 255
    assert settlement.left_out[out] == "by hand"
    bare = rgba[grid.label == -1]
    assert len(bare)
    assert (bare[:, 0] == bare[:, 1]).all()
    assert settlement.n_members + sum(settlement.reasons.values()) == len(grid)
    assert {name: sum(n) for name, n in settlement.counts.items()} == {
        name: int(((grid.label == i) & (settlement.left_out == "")).sum())
        for i, name in enumerate(grid.label_names)
    }
    picture = picture_of(planned, COLORS, settlement)
    assert picture is not None
    column, line = grid.positions.cell[member]
    half = picture.cell_px // 2
    at = picture.pixels[line * picture.cell_px + half, column * picture.cell_px + half]
    assert tuple(at) == tuple(rgba[member])


def test_zooms_are_all_counted(slide: Slide, regions: Annotations) -> None:
    recipe = RECIPE.changed(grid={"mpp": None, "downsamples": (1.0, 2.0)})
    planned = PatchPlanner().plan(PlanRequest(slide, regions, recipe), never)
    assert [g.positions.resolution.downsample for g in planned.grids] == [(1.0, 1.0), (2.0, 2.0)]
    settlement = settled(planned)
    assert len(settlement.left_out) == sum(len(grid) for grid in planned.grids)


def test_a_plan_can_be_stopped_and_faults_are_sentences(slide: Slide, regions: Annotations) -> None:
    planner = PatchPlanner()
    with pytest.raises(CancelledError):
        planner.plan(PlanRequest(slide, regions, RECIPE), lambda: True)
    with pytest.raises(UserError, match="smaller than one patch"):
        planner.plan(PlanRequest(slide, regions, RECIPE.changed(grid={"size_px": 4000})), never)
    without = planner.plan(PlanRequest(slide, None, RECIPE), never)
    assert without.label_names == ()
    assert settled(without).n_members == 0


def test_the_cost_of_a_patch_is_measured(slide: Slide, regions: Annotations) -> None:
    planned = PatchPlanner().plan(PlanRequest(slide, regions, RECIPE), never)
    raw = planned.request.recipe.changed(store={"codec": "raw"})
    cost = measured_cost(PatchPlanner().plan(PlanRequest(slide, regions, raw), never), never)
    assert cost.n_bytes == 32 * 32 * 3
    assert 0 < cost.seconds < 1
    none = PatchPlanner().plan(PlanRequest(slide, None, RECIPE.changed(labels={"rule": "any"})), never)
    assert np.isnan(measured_cost(none, never).seconds)
