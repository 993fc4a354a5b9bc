from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely

from napari_histolatent.annotations import read_annotations
from napari_histolatent.errors import UserError
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.jobs.region_heatmap import (
    RegionHeatmapConfig,
    earlier_region_heatmap,
    is_mapped,
    new_region_heatmap,
    open_region_heatmap,
    region_heatmaps_of,
    region_request,
)
from napari_histolatent.jobs.region_plan import areas_of, plan_region, probe_region
from napari_histolatent.runs import Run
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_histolatent.slides import Slide
    from napari_histolatent.training.load import LoadedClassifier

SIDE_BY_SIDE = RegionHeatmapConfig(target="stroma", overlap=1, min_tissue=0)
"""Tiles of 64 level-0 px."""


@pytest.fixture
def slide(tiny_slide: Path) -> Iterator[Slide]:
    with open_slide(tiny_slide) as opened:
        yield opened


def test_tiles_that_touch_no_area_are_left_out(slide: Slide, classifier: LoadedClassifier) -> None:
    areas = shapely.box(10, 10, 250, 130) - shapely.box(60, 0, 200, 200)
    plan = plan_region(slide, classifier, None, SIDE_BY_SIDE, areas=areas)
    assert plan.grid.origin == (10, 10)
    # Columns begin at 10, 74, 138 and 202; the second lies in the gap, the third reaches 2 px into what is beyond it.
    np.testing.assert_array_equal(plan.wanted, [[True, False, True, True]] * 2)
    touching_an_edge = shapely.box(74, 0, 80, 300)
    plan = plan_region(slide, classifier, (10, 10, 138, 74), SIDE_BY_SIDE, areas=touching_an_edge)
    np.testing.assert_array_equal(plan.wanted, [[False, True]])


def test_all_the_tissue(slide: Slide, classifier: LoadedClassifier) -> None:
    plan = plan_region(slide, classifier, None, SIDE_BY_SIDE)
    assert plan.n_tiles == 120
    with_tissue = plan_region(slide, classifier, None, RegionHeatmapConfig(overlap=1, min_tissue=0.5))
    assert 20 < with_tissue.n_tiles < 100
    far = shapely.box(5000, 5000, 5100, 5100)
    with pytest.raises(UserError, match=r"lies off tiny\.tiff"):
        plan_region(slide, classifier, None, SIDE_BY_SIDE, areas=far)


def test_some_tiles_tell_what_is_seen(slide: Slide, classifier: LoadedClassifier) -> None:
    plan = plan_region(slide, classifier, (200, 200, 500, 400), SIDE_BY_SIDE)
    probe = probe_region(slide, classifier, plan)
    counts = [n for _, n in probe.seen]
    assert sum(counts) == 16 < plan.n_tiles
    assert counts == sorted(counts, reverse=True)
    assert {name for name, _ in probe.seen} <= set(classifier.checkpoint.classes)
    assert probe.seconds_per_tile > 0
    assert probe_region(slide, classifier, plan).seen == probe.seen


def test_the_run_of_a_request_is_found_again(
    tiny_slide: Path, tiny_regions: Path, classifier: LoadedClassifier, tmp_path: Path
) -> None:
    areas = areas_of(r for r in read_annotations(tiny_regions).regions if r.class_name == "stroma")
    asked = (tiny_slide, classifier.checkpoint.path, (380, 0, 460, 200), SIDE_BY_SIDE)
    request = region_request(*asked, areas=areas)
    assert region_request(*asked) != request
    assert earlier_region_heatmap(request) is None
    run = new_region_heatmap(*asked, areas=areas, out=tmp_path / "one")
    assert not is_mapped(run)
    KINDS[run.kind](Run(run.path))
    assert is_mapped(run)
    found = open_region_heatmap(run.path)
    seen = ~np.isnan(found.probability)
    np.testing.assert_array_equal(seen, [[True, True]] * 4)
    new_region_heatmap(*asked, areas=areas, out=tmp_path / "two")
    earlier = earlier_region_heatmap(request)
    assert earlier is not None
    assert earlier.path == run.path, "the finished one, though another is newer"
    with open_slide(tiny_slide) as slide:
        assert run.path in [item.path for item in region_heatmaps_of(slide.info.digest)]
    (run.path / "areas.wkb").write_bytes(b"no shape")
    with pytest.raises(UserError, match="cannot be read"):
        KINDS[run.kind](Run(run.path))
