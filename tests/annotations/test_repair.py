"""From what a file says to regions: what the repair keeps, joins, cuts and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box

from napari_histolatent.annotations import HOLE, Annotations, ClassMapping, Placement, Target
from napari_histolatent.annotations._marks import Mark, SourceFile
from napari_histolatent.annotations._repair import regions_of
from tests.annotations.winding import covered

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

NAN = float("nan")


def square(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def mark(*rings: Any, kind: Any = "area", **fields: Any) -> Mark:
    arrays = tuple(np.array(ring, np.float64).reshape(-1, 2) for ring in rings)
    return Mark(where=fields.pop("where", "it"), kind=kind, rings=arrays, **fields)


def read(*marks: Mark, form: str = "qupath-geojson", **options: Any) -> Annotations:
    result = regions_of(SourceFile(format=form, marks=marks), file_name="a", **options)
    geometries = [region.geometry for region in result.regions]
    assert all(shapely.is_valid(geometries))
    assert not any(geometry.geom_type == "GeometryCollection" for geometry in geometries)
    return result


def the_area(annotations: Annotations) -> float:
    (region,) = annotations.regions
    return float(region.geometry.area)


# One outline


def test_a_bow_tie_keeps_both_lobes() -> None:
    ring = [(0, 0), (10, 10), (10, 0), (0, 10)]
    result = read(mark(ring))
    assert the_area(result) == 50
    assert Polygon(ring).buffer(0).area == 25  # what would be lost
    assert (result.repaired, result.repairs[0].area_before_px, result.repairs[0].area_after_px) == (1, 0, 50)


def test_a_double_loop_is_filled_where_it_turns_twice() -> None:
    ring = [*square(0, 0, 10, 10), (0, 0), *square(2, 2, 8, 8), (2, 2)]
    assert (
        the_area(read(mark(ring))) == pytest.approx(covered(np.array(ring, float)).area) == pytest.approx(100)
    )


def test_a_loop_in_the_other_turn_is_a_hole() -> None:
    ring = [*square(0, 0, 10, 10), (0, 0), *square(2, 2, 8, 8)[::-1], (8, 2), (2, 2)]
    ring = [(0, 0), (10, 0), (10, 10), (0, 10), (0, 0), (2, 2), (2, 8), (8, 8), (8, 2), (2, 2)]
    assert (
        the_area(read(mark(ring))) == pytest.approx(covered(np.array(ring, float)).area) == pytest.approx(64)
    )


@pytest.mark.parametrize("examples", [60, pytest.param(600, marks=pytest.mark.long)])
def test_any_outline_covers_what_its_winding_numbers_say(examples: int) -> None:
    point = st.tuples(st.integers(-20, 20), st.integers(-20, 20))

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(point, min_size=3, max_size=14))
    def check(points: Any) -> None:
        expected = covered(np.array(points, float))
        result = read(mark(points), mark(square(0, 0, 1, 1)))
        assert result.elements == len(result.regions) + result.dropped == 2
        if expected.area == 0:
            assert result.dropped == 1
        else:
            difference = result.regions[0].geometry.symmetric_difference(expected)
            assert difference.area == pytest.approx(0, abs=1e-3)

    check()


def test_stray_lines_leave_only_the_area() -> None:
    spike = [(0, 0), (10, 0), (10, 10), (5, 10), (5, 30), (5, 10), (0, 10)]
    result = read(mark(spike))
    assert result.regions[0].geometry.equals(box(0, 0, 10, 10))
    assert result.repaired == 1


def test_near_duplicates_are_left_out_and_the_rest_is_exact() -> None:
    ring = [(0, 0), (0.001, 0), (10.125, 0), (10.125, 10), (10.125, 10.0001), (0, 10), (0, 0.005)]
    result = read(mark(ring))
    (region,) = result.regions
    assert sorted(region.geometry.exterior.coords[:-1]) == [(0, 0), (0, 10), (10.125, 0), (10.125, 10)]
    assert (result.repaired, result.tidied) == (0, 1)
    assert region.source[0].xy.tolist() == [list(p) for p in ring]


@pytest.mark.parametrize(
    "end",
    [
        [(0, 0)],
        [(0, 0), (0, 0)],
        [(0, 0.003), (0, 0)],
        [(0, 0.003), (0, 0.002)],
        [(0, 0.003), (0, 0), (0, 0)],
    ],
)
def test_a_ring_that_closes_more_than_once(end: Any) -> None:
    result = read(mark([*square(0, 0, 10, 10), *end]))
    assert len(result.regions[0].geometry.exterior.coords) == 5
    assert result.tidied == (len(end) > 1)


def test_a_run_of_tiny_steps_keeps_its_way() -> None:
    """Each step is below 0.01 px, all together they lead 5 px away and back."""
    up = [(10 + 0.004 * k, 5.0) for k in range(1250)]
    ring = [(0, 0), (10, 0), *up, (10, 10), (0, 10)]
    result = read(mark(ring))
    (region,) = result.regions
    assert region.geometry.area == pytest.approx(Polygon(ring).area, abs=0.05)
    assert region.geometry.bounds[2] == pytest.approx(10 + 0.004 * 1249, abs=0.01)
    steps = np.hypot(*np.diff(np.array(region.geometry.exterior.coords), axis=0).T)
    assert steps.min() >= 0.01


def test_a_tangle_is_dropped_and_not_untangled_for_hours() -> None:
    points = np.random.default_rng(0).random((5000, 2)) * 1000
    result = read(mark(points, where="it"), mark(square(0, 0, 1, 1)))
    assert (len(result.regions), result.dropped) == (1, 1)
    assert "it dropped: its outline crosses itself some " in result.messages[0]


def test_the_placement_comes_before_points_are_compared() -> None:
    ring = np.array(square(0, 0, 0.02, 0.02))
    assert read(mark(ring / 10)).dropped == 1
    assert the_area(read(mark(ring / 10), placement=Placement(10_000, (5.0, 7.0)))) == pytest.approx(400)
    (region,) = read(mark([*ring, (NAN, 0)]), placement=Placement(100, (5.0, 7.0))).regions
    assert region.geometry.bounds == (5, 7, 7, 9)
    assert np.nanmax(region.source[0].xy) == 9


def test_holes_of_a_ring_that_are_none() -> None:
    result = read(mark(square(0, 0, 10, 10), [(2, 2), (3, 3)], square(5, 5, 6, 6)))
    assert the_area(result) == 99
    assert result.repaired == 1
    assert result.messages == ("it: a hole of 2 points was left out, it covers no area",)
    assert [ring.is_hole for ring in result.regions[0].source] == [False, True, True]


# Parts


def test_parts_of_one_region_that_overlap_count_once() -> None:
    parts = [mark(square(0, 0, 10, 10), part_of="f"), mark(square(5, 5, 15, 15), part_of="f")]
    result = read(*parts)
    assert (the_area(result), result.elements, result.repaired) == (175, 1, 1)
    assert len(result.regions[0].source) == 2


def test_parts_that_lie_apart_stay_parts() -> None:
    result = read(
        mark(square(0, 0, 1, 1), part_of="f"),
        mark(square(5, 5, 6, 6), part_of="f"),
        mark(square(9, 9, 10, 10)),
    )
    assert [region.geometry.geom_type for region in result.regions] == ["MultiPolygon", "Polygon"]
    assert (result.elements, result.repaired, result.regions[0].source) == (2, 0, ())


# Holes that are shapes of their own


def negative(*ring: Any, layer: str = "1", **fields: Any) -> Mark:
    return mark(*ring, is_negative=True, layer=layer, **fields)


def positive(*ring: Any, layer: str = "1", **fields: Any) -> Mark:
    return mark(*ring, layer=layer, class_name=fields.pop("class_name", "tumour"), **fields)


def test_a_hole_inside_keeps_every_vertex() -> None:
    hole = [(2.1, 2.3), (4.7, 2.2), (4.4, 4.9)]
    result = read(positive(square(0, 0, 10, 10)), negative(hole))
    (region,) = result.regions
    assert [list(ring.coords)[:-1] for ring in region.geometry.interiors] == [hole]
    assert (region.source, result.repaired, result.elements) == ((), 0, 2)


def test_a_hole_that_crosses_is_cut_and_the_rings_are_kept() -> None:
    result = read(positive(square(0, 0, 10, 10)), negative(square(5, -5, 20, 20)))
    (region,) = result.regions
    assert region.geometry.equals(box(0, 0, 5, 10))
    assert [(ring.is_hole, len(ring.xy)) for ring in region.source] == [(False, 4), (True, 4)]


def test_a_hole_that_parts_a_region_leaves_one_region() -> None:
    result = read(
        positive(square(0, 0, 10, 10)), negative(square(4, -1, 6, 11)), negative(square(1, 1, 2, 2))
    )
    assert the_area(result) == 79
    assert result.regions[0].geometry.geom_type == "MultiPolygon"


def test_holes_that_overlap_each_other_are_one() -> None:
    result = read(positive(square(0, 0, 10, 10)), negative(square(1, 1, 5, 5)), negative(square(4, 4, 8, 8)))
    assert the_area(result) == 100 - 31


def test_an_island_in_a_hole_of_the_same_group_is_covered_and_said() -> None:
    result = read(
        positive(square(0, 0, 10, 10)),
        negative(square(2, 2, 8, 8)),
        positive(square(4, 4, 6, 6), where="island"),
    )
    assert the_area(result) == 64
    assert result.messages == ("island dropped: holes cover all of it",)
    assert (result.elements, result.dropped) == (3, 1)


def test_an_island_of_another_class_in_a_hole_stays() -> None:
    result = read(
        positive(square(0, 0, 10, 10)),
        negative(square(2, 2, 8, 8)),
        positive(square(4, 4, 6, 6), where="island", class_name="stroma"),
    )
    assert [region.geometry.area for region in result.regions] == [64, 4]
    assert result.messages == ("island lies wholly in a hole of another class, and is kept",)
    assert result.dropped == 0


def test_a_hole_cuts_its_own_layer_only() -> None:
    result = read(
        positive(square(0, 0, 10, 10), layer="1"),
        positive(square(0, 0, 10, 10), layer="2"),
        negative(square(2, 2, 4, 4), layer="2"),
    )
    assert [region.geometry.area for region in result.regions] == [100, 96]


def test_a_hole_over_nothing_is_said() -> None:
    result = read(positive(square(0, 0, 10, 10)), negative(square(20, 20, 24, 24), where="hole"))
    assert the_area(result) == 100
    assert result.messages == ("hole (negative) is a hole over no region: left out",)


def test_a_bow_tie_as_a_hole_takes_both_lobes() -> None:
    result = read(positive(square(0, 0, 10, 10)), negative([(2, 2), (6, 6), (6, 2), (2, 6)]))
    assert the_area(result) == pytest.approx(92)
    assert result.repaired == 1
    assert len(result.regions[0].source) == 2


def test_a_hole_without_area_cuts_nothing_and_is_dropped() -> None:
    result = read(positive(square(0, 0, 10, 10)), negative([(2, 2), (6, 6)], where="hole"))
    assert (the_area(result), result.dropped) == (100, 1)


def test_a_region_that_holes_cover_wholly_is_dropped() -> None:
    result = read(positive(square(2, 2, 4, 4), where="small"), negative(square(0, 0, 10, 10)))
    assert result.dropped + len(result.regions) == 1


# Groups


@pytest.mark.parametrize(("form", "n"), [("asap-xml", 1), ("ncrf-json", 1), ("qupath-geojson", 2)])
def test_groups_are_holes_only_where_a_format_has_no_others(form: str, n: int) -> None:
    marks = [
        mark(square(0, 0, 10, 10), class_name="tumour"),
        mark(square(2, 2, 4, 4), class_name=" Negative "),
    ]
    result = read(*marks, form=form)
    assert len(result.regions) == n
    assert result.regions[0].geometry.area == (96 if n == 1 else 100)
    said = "group ' Negative ' (1 shapes) was read as holes; map it to a class if it is one"
    assert (said in result.messages) is (n == 1)
    assert result.hole_class == (" Negative " if n == 1 else "exclusion")


def test_groups_that_are_left_out_are_said() -> None:
    mapping = ClassMapping("mine", {"TRASH": Target(None), "tumour": Target("lesion")})
    marks = [mark(square(0, 0, 1, 1), class_name="trash"), mark(square(0, 0, 1, 1), class_name="Tumour")]
    result = read(*marks, mapping=mapping)
    assert [region.class_name for region in result.regions] == ["lesion"]
    assert result.messages == ("group 'trash' (1 shapes) was left out, as mapping mine says",)
    assert result.elements == 2


def test_a_class_painted_over_the_others() -> None:
    mapping = ClassMapping("mine", {"normal": Target("normal", cuts=True), "void": HOLE})
    marks = [
        mark(square(0, 0, 10, 10), class_name="tumour"),
        mark(square(2, 2, 4, 4), class_name="normal"),
        mark(square(20, 0, 30, 10), class_name="normal"),
        mark(square(6, 6, 8, 8), class_name="void"),
    ]
    result = read(*marks, mapping=mapping, form="asap-xml")
    found = {(region.class_name, region.geometry.area) for region in result.regions}
    assert found == {("tumour", 92), ("normal", 4), ("normal", 100)}
    assert not [said for said in result.messages if "left out" in said]


# Marks without area, and ids


def test_points_and_lines_are_regions_without_area() -> None:
    result = read(
        mark([(1, 2)], kind="points"),
        mark([(1, 2), (3, NAN)], kind="points"),
        mark([(1, 2), (3, 4)], [(5, 6), (7, 8)], kind="line"),
        mark([(1, 2), (NAN, 4)], kind="line", where="line"),
        mark([(1e300, 2)], kind="points", where="far"),
    )
    assert [region.geometry.geom_type for region in result.regions] == ["Point", "Point", "MultiLineString"]
    assert (result.elements, result.dropped) == (5, 2)
    assert "line dropped: it has not two points with coordinates that are numbers" in result.messages
    assert "far dropped: it has not a point with coordinates that are numbers" in result.messages


def test_ids_are_there_and_unique_and_the_order_is_the_files() -> None:
    names = ["x", "", "x", "y", ""]
    marks = [mark(square(i, 0, i + 1, 1), id=name, where=f"shape {i}") for i, name in enumerate(names)]
    result = read(*marks)
    ids = [region.id for region in result.regions]
    assert len(set(ids)) == 5
    assert (ids[0], ids[3]) == ("x", "y")
    assert [region.geometry.bounds[0] for region in result.regions] == [0, 1, 2, 3, 4]
    assert result.messages == ("1 ids occur more than once (such as x): the later ones got new ids",)


@pytest.mark.parametrize("seed", range(5))
def test_cutting_agrees_with_plain_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def blob(size: float) -> Any:
        angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
        radii = size * rng.uniform(0.6, 1, 30)
        return rng.uniform(0, 100, 2) + np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])

    outlines, holes = [blob(40) for _ in range(6)], [blob(8) for _ in range(25)]
    result = read(
        *[mark(v, class_name=f"c{i}") for i, v in enumerate(outlines)],
        *[mark(v, class_name="negative") for v in holes],
        form="asap-xml",
    )
    cut = shapely.union_all([Polygon(v) for v in holes])
    expected: list[BaseGeometry] = [shapely.difference(Polygon(v), cut) for v in outlines]
    for region, shape in zip(result.regions, expected, strict=True):
        assert region.geometry.symmetric_difference(shape).area < 1e-6
