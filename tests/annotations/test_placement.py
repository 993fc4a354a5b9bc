"""Regions that lie where they should not: what is proposed, and that nothing is done unasked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely.geometry import Point, Polygon, box

from napari_histolatent.annotations import (
    Annotations,
    Placement,
    Region,
    SourceRing,
    check_annotations,
    moved,
    proposals,
)
from napari_histolatent.annotations._placement import AS_IS
from napari_histolatent.slides import Level
from tests.annotations.texts import SLIDE

if TYPE_CHECKING:
    from napari_histolatent.slides import SlideInfo

W, H = SLIDE.width_px, SLIDE.height_px
MRXS = replace(SLIDE, bounds=(3_000, 2_000, 30_000, 20_000), mpp_x=None, mpp_y=None)
PLAIN = replace(SLIDE, mpp_x=None, mpp_y=None)


def drawn(*corners: tuple[float, float, float, float], form: str = "asap-xml") -> Annotations:
    regions = tuple(Region(str(i), "a", box(*v)) for i, v in enumerate(corners))
    return Annotations(regions, format=form)


def placements(annotations: Annotations, slide: SlideInfo) -> list[Placement]:
    return [proposal.placement for proposal in proposals(annotations, slide)]


@pytest.mark.parametrize("slide", [SLIDE, PLAIN, MRXS])
def test_nothing_is_proposed_when_all_is_well(slide: SlideInfo) -> None:
    assert proposals(drawn((100, 100, W - 100, H - 100)), slide) == ()
    assert proposals(drawn((-50, -50, W + 50, H + 50)), slide) == ()  # a hand that slipped
    assert proposals(drawn(), slide) == ()


def test_all_in_the_top_left_sixteenth() -> None:
    proposal, other = proposals(drawn((100, 100, W / 4, H / 4)), PLAIN)
    assert (proposal.placement, other.placement) == (Placement(4.0), Placement(2.0))
    assert "top-left sixteenth, as if drawn at downsample 4" in proposal.reason
    # One region beyond it, and it is not so.
    assert proposals(drawn((100, 100, 200, 200), (W / 2, 100, W / 2 + 10, 200)), PLAIN) == ()


def test_the_coarsest_level_that_fits_comes_first() -> None:
    slide = replace(PLAIN, levels=(*PLAIN.levels, Level(2_500, 1_875, 16.0)))
    assert placements(drawn((10, 10, 2_400, 1_800)), slide) == [Placement(v) for v in (16.0, 4.0, 8.0, 2.0)]
    assert placements(drawn((10, 10, 9_000, 7_000)), slide) == [Placement(4.0), Placement(2.0)]


def test_beyond_the_slide() -> None:
    proposal, *others = proposals(drawn((100, 100, W * 3, H * 3)), PLAIN)
    assert proposal.placement == Placement(0.25)
    assert [v.placement for v in others] == [Placement(1 / v) for v in (8, 16, 32)]
    assert "beyond the slide, as if drawn on a scan 4 times as fine" in proposal.reason
    assert proposals(drawn((100, 100, W * 80, H)), PLAIN) == ()  # nothing is known that would help


def test_a_slide_of_one_level_is_tried_with_powers_of_two() -> None:
    one_level = replace(PLAIN, levels=PLAIN.levels[:1])
    assert placements(drawn((100, 100, W * 3.6, H * 3.6)), one_level)[0] == Placement(0.25)
    assert placements(drawn((100, 100, W * 50, H * 50)), one_level) == [Placement(1 / 64)]
    assert placements(drawn((100, 100, W / 20, H / 20)), one_level) == [Placement(v) for v in (16, 8, 4, 2)]


def test_near_equal_factors_are_proposed_once_and_four_at_most() -> None:
    levels = tuple(Level(round(W / v), round(H / v), v) for v in (1.0, 2.0, 4.0003, 8.0, 16.002, 32.0))
    slide = replace(SLIDE, levels=levels, mpp_x=0.2425, mpp_y=0.2425)
    small = drawn((10, 10, W / 40, H / 40))
    # Micrometres stay among them, however many levels there are.
    assert placements(small, slide) == [Placement(v) for v in (32.0, 16.002, 8.0, 1 / 0.2425)]
    assert placements(small, replace(slide, mpp_x=0.25)) == [
        Placement(v) for v in (32.0, 16.002, 8.0, 4.0003)
    ]
    assert placements(drawn((10, 10, W / 5, H / 5)), slide) == [
        Placement(v) for v in (4.0003, 2.0, 1 / 0.2425)
    ]


def test_micrometres() -> None:
    found = proposals(drawn((100, 100, W / 4, H / 4)), SLIDE)
    assert [v.placement for v in found] == [Placement(4.0), Placement(2.0)]
    assert found[1].reason == "as if in micrometres, at 0.5 µm per px"


def test_quapths_cropped_coordinates_of_a_mirax_slide() -> None:
    inside = (1_000, 1_000, 25_000, 18_000)
    (proposal,) = proposals(drawn(inside, form="qupath-geojson"), MRXS)
    assert proposal.placement == Placement(offset_xy=(3_000.0, 2_000.0))
    assert proposal.reason == "QuPath counts from the scanned part, which starts at x=3000, y=2000"
    assert proposals(drawn(inside, form="asap-xml"), MRXS) == ()
    assert proposals(drawn(inside, form="qupath-geojson"), PLAIN) == ()
    # What the shift would push off the slide was not counted so.
    assert proposals(drawn((100, 100, W - 1_000, H - 1_000), form="qupath-geojson"), MRXS) == ()


def test_counted_from_the_glass_where_the_slide_is_cropped() -> None:
    beyond = drawn((W - 1_000, H - 1_000, W + 2_500, H + 1_500))
    assert placements(beyond, MRXS) == [
        Placement(offset_xy=(-3_000.0, -2_000.0)),
        *(Placement(v) for v in (0.25, 0.5, 0.125)),
    ]


def test_what_is_proposed_puts_the_regions_onto_the_slide_and_nothing_is_done_unasked() -> None:
    annotations = drawn((W + 5_000, 100, W * 3, H * 3))
    check = check_annotations(annotations, PLAIN)
    assert check.outside == 1
    assert annotations.regions[0].geometry.bounds[0] == W + 5_000
    proposal, *others = check.proposals
    after = check_annotations(moved(annotations, proposal.placement), PLAIN)
    assert (after.outside, after.proposals) == (0, ())
    assert "proposed: multiply by 0.25; regions lie beyond the slide" in "\n".join(check.lines)
    assert check.to_json()["proposals"] == [
        {"factor": v.placement.factor, "offset_xy": [0.0, 0.0], "reason": v.reason}
        for v in (proposal, *others)
    ]


def test_moving_takes_holes_points_and_source_rings_along() -> None:
    ring = SourceRing(np.array([[0, 0], [4, 0], [4, np.nan]]), is_hole=False)
    holed = Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 4, 4).exterior])
    annotations = Annotations(
        (Region("1", "a", holed, source=(ring,)), Region("2", "a", Point(1, 2))), format="t"
    )
    area, point = moved(annotations, Placement(2.0, (1.0, -1.0))).regions
    assert area.geometry.area == 4 * 96
    assert area.geometry.bounds == (1, -1, 21, 19)
    np.testing.assert_array_equal(area.source[0].xy, [[1, -1], [9, -1], [9, np.nan]])
    assert point.geometry.coords[0] == (3, 3)
    assert moved(annotations, AS_IS) is annotations
    assert moved(Annotations((), format="t"), Placement(2.0)).regions == ()


def test_words() -> None:
    assert AS_IS.words == "leave as it is"
    assert Placement(4.0, (10.0, -2.5)).words == "multiply by 4, then shift by x +10, y -2.5 px"
