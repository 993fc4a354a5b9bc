from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations import (
    Annotations,
    Region,
    Repair,
    check_annotations,
    read_annotations,
    require_on_slide,
)
from napari_histolatent.errors import AnnotationError
from napari_histolatent.slides import Level, SlideInfo

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

SLIDE = SlideInfo(
    path=Path("a.svs"),
    backend="test",
    vendor=None,
    digest="0",
    levels=(Level(1000, 800, 1.0),),
    mpp_x=None,
    mpp_y=None,
    mpp_source=None,
    bounds=(0, 0, 1000, 800),
    background=(255, 255, 255),
    associated=(),
)
HOLED = Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 4, 4).exterior, box(6, 6, 7, 7).exterior])


def annotations_of(*shapes: tuple[str, BaseGeometry]) -> Annotations:
    regions = tuple(Region(f"id{i}", name, shape) for i, (name, shape) in enumerate(shapes))
    return Annotations(regions, format="test")


def test_everything_is_counted() -> None:
    annotations = annotations_of(
        ("tumour", HOLED),
        ("tumour", MultiPolygon([box(20, 0, 30, 10), HOLED])),
        ("stroma", box(0, 0, 10, 10)),
        ("mark", Point(1, 1)),
        ("mark", MultiPoint([(1, 1), (2, 2)])),
        ("cut", LineString([(0, 0), (1, 1)])),
    )
    repair = Repair("feature 3", 0.0, 50.0)
    given = replace(
        annotations, elements=10, repairs=(repair,), tidied=2, dropped=4, messages=("feature 7 dropped",)
    )
    check = check_annotations(given)
    assert json.loads(json.dumps(check.to_json())) == {
        "format": "test",
        "elements": 10,
        "regions": 6,
        "holes": 4,
        "points": 2,
        "classes": {"cut": 1, "mark": 2, "stroma": 1, "tumour": 2},
        "area_px": 95 + 195 + 100,
        "repaired": 1,
        "repairs": [{"where": "feature 3", "area_before_px": 0.0, "area_after_px": 50.0}],
        "tidied": 2,
        "source_rings": 0,
        "dropped": 4,
        "outside": 0,
        "partly_outside": 0,
        "proposals": [],
        "messages": ["feature 7 dropped"],
    }
    assert check.lines == [
        "test: 10 shapes read, 6 regions with 4 holes, 2 points, 390 px²",
        "classes: 1 cut, 2 mark, 1 stroma, 2 tumour",
        "repaired 1, tidied 2, dropped 4, outside the slide 0",
        "feature 3 repaired: area 0 px² before, 50 px² after",
        "feature 7 dropped",
    ]


def test_regions_beyond_the_slide_are_counted_and_named() -> None:
    annotations = annotations_of(
        ("inside", box(10, 10, 20, 20)),
        ("across the edge", box(990, 790, 1010, 810)),
        ("beyond", box(1200, 900, 1300, 950)),
        ("mark", Point(-5, 10)),
    )
    check = check_annotations(annotations, SLIDE)
    assert (check.outside, check.partly_outside) == (2, 1)
    assert check.messages == (
        "region id2 (beyond) lies outside the slide: it starts at x=1200, y=900, the slide ends at x=1000, y=800",
        "region id3 (mark) lies outside the slide: it starts at x=-5, y=10, the slide ends at x=1000, y=800",
    )


def test_without_a_slide_nothing_is_outside() -> None:
    assert check_annotations(annotations_of(("beyond", box(1200, 900, 1300, 950)))).outside == 0


def test_a_real_multipolygon_has_its_holes(data_dir: Path) -> None:
    annotations = read_annotations(data_dir / "annotations" / "qupath" / "multipolygon_bare_geometry.geojson")
    check = check_annotations(annotations)
    assert (check.regions, check.dropped, check.outside) == (1, 0, 0)
    assert check.holes == 26
    assert check.classes == {"unclassified": 1}


@pytest.mark.parametrize(
    "annotations",
    [
        annotations_of(("a", box(10, 10, 20, 20))),
        annotations_of(("a", box(-50, -50, 1, 1))),
        annotations_of(("a", box(2000, 2000, 2100, 2100)), ("b", box(0, 0, 1000, 800))),
    ],
)
def test_annotations_of_this_slide_pass(annotations: Annotations) -> None:
    require_on_slide(annotations, SLIDE)
    assert check_annotations(annotations, SLIDE).outside < len(annotations.regions)


@pytest.mark.parametrize(
    ("annotations", "sentence"),
    [
        (
            annotations_of(),
            "The annotations hold no region with an area (0 shapes read); "
            "draw polygons, rectangles or ellipses and give each a class.",
        ),
        (
            annotations_of(("mark", Point(1, 1))),
            "The annotations hold no region with an area (1 shapes read); "
            "draw polygons, rectangles or ellipses and give each a class.",
        ),
        (
            # The mark on the slide does not help: nothing can be cut from it.
            annotations_of(("a", box(1500, 40, 1600, 50)), ("b", box(0, 900, 9, 990)), ("mark", Point(1, 1))),
            "All 2 regions lie outside a.svs (1000 x 800 px): the first starts at x=1500, y=40; "
            "check that they were drawn on this slide, and at level 0; regions lie beyond the slide, as if drawn on "
            "a scan 2 times as fine: multiply by 0.5.",
        ),
    ],
)
def test_annotations_that_give_no_patch_are_refused(annotations: Annotations, sentence: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        require_on_slide(annotations, SLIDE)
    assert str(caught.value) == sentence
