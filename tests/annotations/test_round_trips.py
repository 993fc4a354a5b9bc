"""Files in and out again: real ones vertex by vertex, and random multipolygons through every format that is written."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations import (
    Annotations,
    Region,
    WriteOptions,
    check_annotations,
    read_annotations,
    write_annotations,
)
from tests.annotations.test_every_file import STATED
from tests.annotations.texts import SLIDE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

ASAP = [name for name in STATED if "/asap/" in name]
QUPATH = [name for name in STATED if "/qupath/" in name]
OTHERS = [name for name in STATED if "/asap/" not in name and "/qupath/" not in name]
Ring = tuple[tuple[float, float], ...]


def canonical(points: Any) -> Ring:
    """Return a ring from its least point on, in the lesser of its two directions, not closed."""
    ring = [(float(x), float(y)) for x, y in points]
    if len(ring) > 1 and ring[0] == ring[-1]:
        ring.pop()
    least = min(ring)
    turned = []
    for way in (ring, ring[::-1]):
        turned += [tuple(way[k:] + way[:k]) for k, point in enumerate(way) if point == least]
    return min(turned)


def rings_in_asap(path: Path) -> list[Ring]:
    found = []
    for annotation in ET.parse(path).getroot().iter("Annotation"):
        points = sorted(annotation.iter("Coordinate"), key=lambda c: int(c.get("Order", "")))
        found.append(canonical((c.get("X"), c.get("Y")) for c in points))
    return found


def rings_in_geojson(path: Path) -> list[Ring]:
    document = json.loads(path.read_text(encoding="utf-8"))
    geometries = [v["geometry"] for v in document["features"]] if "features" in document else [document]
    polygons = []
    for geometry in geometries:
        parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        polygons += [ring for part in parts for ring in part]
    return [canonical(ring) for ring in polygons]


def kept_aside(annotations: Annotations) -> set[Ring]:
    """Return the rings, as the file had them, of the regions that repair changed."""
    return {canonical(ring.xy) for region in annotations.regions for ring in region.source}


def check_real(path: Path, out: Path, rings_in: Any) -> tuple[int, int]:
    before = path.read_bytes()
    annotations = read_annotations(path)
    write_annotations(out, annotations, imported_from=[path])
    source, written, aside = Counter(rings_in(path)), Counter(rings_in(out)), kept_aside(annotations)
    lost = set(source) - set(written)
    # Whatever is not there any more was changed by the repair, and its ring is kept.
    assert lost <= aside
    # And what needs no repair is there: valid by itself, no point doubled, of a region that keeps nothing aside.
    unchanged = set(source) - aside
    assert unchanged <= set(written)
    assert len(unchanged) + len(aside & set(source)) == len(source)
    # The user may have the file's own rings instead: then every one of them comes back, exactly.
    write_annotations(out, annotations, options=WriteOptions(rings="source"))
    assert set(rings_in(out)) == set(source)
    # What the report says of both.
    check = check_annotations(annotations)
    assert check.source_rings == sum(bool(region.source) for region in annotations.regions)
    assert check.repaired + check.tidied >= check.source_rings > 0 or not aside
    # Read again, nothing more is changed, and the regions are the same.
    write_annotations(out, annotations)
    again = read_annotations(out)
    assert (again.repaired, again.dropped) == (0, 0)
    assert sum(r.geometry.area for r in again.regions) == pytest.approx(
        sum(r.geometry.area for r in annotations.regions), rel=1e-9
    )
    assert Counter(again.classes) == Counter(annotations.classes)
    assert path.read_bytes() == before
    return len(unchanged), len(aside)


@pytest.mark.parametrize("name", ASAP)
def test_asap_to_ours_to_asap(data_dir: Path, tmp_path: Path, name: str) -> None:
    unchanged, aside = check_real(data_dir / name, tmp_path / "a.xml", rings_in_asap)
    assert unchanged + aside > 0
    if "036" in name:
        assert unchanged > 90


@pytest.mark.parametrize("name", QUPATH)
def test_qupath_to_ours_to_qupath(data_dir: Path, tmp_path: Path, name: str) -> None:
    unchanged, aside = check_real(data_dir / name, tmp_path / "a.geojson", rings_in_geojson)
    assert unchanged > 0
    assert aside == 0


@pytest.mark.parametrize("name", ASAP)
def test_valid_rings_are_never_changed(data_dir: Path, name: str) -> None:
    """By shapely alone: what it calls valid, and whose points lie apart, is in a region as it is."""
    path = data_dir / name
    annotations = read_annotations(path)
    there = set()
    for region in annotations.regions:
        for part in region.polygons:
            there |= {canonical(ring.coords) for ring in (part.exterior, *part.interiors)}
    crossed = {
        canonical(r.xy)
        for region in annotations.regions
        if any(v.is_hole for v in region.source)
        for r in region.source
    }
    for ring in rings_in_asap(path):
        xy = np.array([*ring, ring[0]])
        apart = np.hypot(*np.diff(xy, axis=0).T).min() >= 0.01
        if apart and Polygon(xy).is_valid and ring not in crossed:
            assert ring in there


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_formats_come_through_geojson_exactly(data_dir: Path, tmp_path: Path, name: str) -> None:
    before = read_annotations(data_dir / name)
    write_annotations(tmp_path / "a.geojson", before)
    after = read_annotations(tmp_path / "a.geojson")
    assert [r.class_name for r in after.regions] == [r.class_name for r in before.regions]
    # What the repair made can have points nearer than 0.01 px, which are one when they are read.
    touched = 0
    for a, b in zip(after.regions, before.regions, strict=True):
        if not a.geometry.equals_exact(b.geometry, 0):
            touched += 1
            assert b.source
            assert a.geometry.area == pytest.approx(b.geometry.area, rel=1e-6)
            assert shape_of(a) == shape_of(b)
    assert after.dropped == 0
    assert touched <= after.tidied + after.repaired <= 0.1 * len(before.regions)


@pytest.mark.parametrize("name", [name for name in STATED if "monuseg" in name])
def test_imagescope_to_ours_to_imagescope(data_dir: Path, tmp_path: Path, name: str) -> None:
    before = read_annotations(data_dir / name)
    write_annotations(tmp_path / "a.xml", before, format_name="imagescope-xml")
    after = read_annotations(tmp_path / "a.xml")
    assert after.format == "imagescope-xml"
    ours = [part for region in before.regions for part in region.polygons]
    theirs = [part for region in after.regions for part in region.polygons]
    assert sorted(len(part.interiors) for part in ours) == sorted(len(part.interiors) for part in theirs)
    np.testing.assert_allclose(
        sorted(part.area for part in theirs), sorted(part.area for part in ours), rtol=1e-6, atol=1e-6
    )
    exact, written = parts_of(before), parts_of(after)
    assert (exact & written).total() >= 0.95 * exact.total()


def shape_of(region: Region) -> list[int]:
    return [len(part.interiors) for part in region.polygons]


# Random regions

CELL = 200
CLASSES = [
    "tumour",
    "Drüse µ 腫瘍",
    'say "aah" & <b>',
    "  leading blank",
    "None",
    "it's; a, list\there",
    "a\u2028b",
    "=1+1",
    "",
    "unclassified",
    "🔬",
    "_0",
]
NAMES = ["", "gland 3", "<&>'\"", "é 中", "1,5", "None"]


@st.composite
def rings(draw: st.DrawFn, radius: float, kind: str) -> NDArray[np.float64]:
    """A star or a box around the origin, within a radius."""
    if draw(st.booleans()) or kind == "boxes":
        half = [draw(st.integers(int(radius // 4) + 1, int(radius * 0.7))) for _ in range(2)]
        return np.array(
            [[-half[0], -half[1]], [half[0], -half[1]], [half[0], half[1]], [-half[0], half[1]]], float
        )
    n = draw(st.integers(3, 12))
    radii = draw(st.lists(st.floats(radius * 0.5, radius), min_size=n, max_size=n))
    angles = 2 * np.pi * (np.arange(n) + draw(st.floats(0, 0.9))) / n
    return np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])


@st.composite
def polygons(draw: st.DrawFn, centre: tuple[float, float], kind: str) -> Polygon:
    outline = draw(rings(90, kind)) + centre
    holes = []
    inner = 90 * 0.5 * np.cos(np.pi / 3) if kind != "boxes" else 22
    for k in range(draw(st.integers(0, 2))):
        place = np.add(centre, ((k - 0.5) * inner * 0.9, 0))
        holes.append(draw(rings(inner * 0.35, kind)) + place)
    if kind != "floats":
        outline, holes = np.rint(outline), [np.rint(hole) for hole in holes]
    return Polygon(outline, holes)


@st.composite
def drawings(draw: st.DrawFn, kind: str = "any", *, is_positive: bool = False) -> Annotations:
    kind = draw(st.sampled_from(["integers", "floats"])) if kind == "any" else kind
    shift = 0 if is_positive else draw(st.sampled_from([0, -1000, 12_345, 100_000]))
    fraction = draw(st.sampled_from([0, 0.1, 1 / 3])) if kind == "floats" else 0
    cell = 0
    regions = []
    for index in range(draw(st.integers(1, 5))):
        parts = []
        for _ in range(draw(st.integers(1, 3))):
            centre = (cell % 4 + 0.5) * CELL + shift + fraction, (cell // 4 + 0.5) * CELL + shift - fraction
            parts.append(draw(polygons(centre, kind)))
            cell += 1
        geometry = parts[0] if len(parts) == 1 else MultiPolygon(parts)
        assert geometry.is_valid
        regions.append(
            Region(f"r{index}", draw(st.sampled_from(CLASSES)), geometry, draw(st.sampled_from(NAMES)))
        )
    return Annotations(tuple(regions), format="drawn")


def class_of(region: Region, *, none_is_no_group: bool = False) -> str:
    """Return the class as it is read: blanks around names do not count, no name is the class of none."""
    name = region.class_name.strip()
    return "unclassified" if not name or (none_is_no_group and name.lower() == "none") else name


def parts_of(these: Annotations, *, none_is_no_group: bool = False) -> Counter[Any]:
    """Return each polygon, ring by ring, with its class: what formats keep that have no multipolygons."""
    return Counter(
        (
            class_of(region, none_is_no_group=none_is_no_group),
            canonical(part.exterior.coords),
            frozenset(canonical(hole.coords) for hole in part.interiors),
        )
        for region in these.regions
        for part in region.polygons
    )


def through(
    these: Annotations, folder: Path, name: str, form: str | None = None, **options: Any
) -> Annotations:
    path = folder / name
    write_annotations(path, these, format_name=form, options=WriteOptions(**options))
    result = read_annotations(path, slide=options.get("slide"))
    assert form is None or result.format == form
    assert result.dropped == 0
    assert shapely.is_valid([region.geometry for region in result.regions]).all()
    return result


@pytest.fixture(params=[25, pytest.param(400, marks=pytest.mark.long)])
def examples(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def run(examples: int, strategy: Any, check: Any) -> None:
    """Run a check on examples of a strategy."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(value: Any) -> None:
        check(value)

    each()


def test_random_regions_through_asap(examples: int, tmp_path: Path) -> None:
    def check(before: Annotations) -> None:
        after = through(before, tmp_path, "a.xml", "asap-xml")
        assert after.repaired == after.tidied == 0
        assert parts_of(after) == parts_of(before, none_is_no_group=True)
        named = Counter(r.name.strip() for r in before.regions for _ in r.polygons if r.name)
        assert not named - Counter(r.name for r in after.regions)

    run(examples, drawings(), check)


def test_random_regions_through_qupath(examples: int, tmp_path: Path) -> None:
    def check(before: Annotations) -> None:
        after = through(before, tmp_path, "a.geojson", "qupath-geojson")
        assert after.repaired == after.tidied == 0
        assert [(class_of(r), r.name) for r in before.regions] == [
            (r.class_name, r.name) for r in after.regions
        ]
        for a, b in zip(before.regions, after.regions, strict=True):
            assert a.geometry.equals_exact(b.geometry, 0)
        assert {r.class_name: after.color_of(r.class_name) for r in after.regions}.keys() == {
            class_of(r) for r in before.regions
        }
        offset = through(before, tmp_path, "b.geojson", offset_xy=(-17.0, 5.0))
        for a, b in zip(before.regions, offset.regions, strict=True):
            moved = shapely.transform(a.geometry, lambda xy: np.add(xy, (-17.0, 5.0)))
            assert moved.equals_exact(b.geometry, 0)

    run(examples, drawings(), check)


def test_random_regions_through_imagescope(examples: int, tmp_path: Path) -> None:
    def check(before: Annotations) -> None:
        after = through(before, tmp_path, "a.xml", "imagescope-xml")
        assert after.repaired == after.tidied == 0
        expected = parts_of(before)
        if any(not r.class_name.strip() and r.name.strip() for r in before.regions):
            # A layer without a name: a region's name is its class there.
            assert drop_classes(parts_of(after)) == drop_classes(expected)
        else:
            assert parts_of(after) == expected
        assert Counter(r.name for r in after.regions) == Counter(
            r.name.strip() for r in before.regions for _ in r.polygons
        )

    run(examples, drawings(), check)


def drop_classes(parts: Counter[Any]) -> Counter[Any]:
    result: Counter[Any] = Counter()
    for (_, *shape), n in parts.items():
        result[tuple(shape)] += n
    return result


def test_random_regions_through_ndpa(examples: int, tmp_path: Path) -> None:
    """Whole nanometres: half of one at 500 nm per px is a thousandth of a pixel."""

    def check(before: Annotations) -> None:
        after = through(before, tmp_path, "a.ndpa", "ndpa", slide=SLIDE)
        ours = [(r, part) for r in before.regions for part in r.polygons]
        assert [class_of(r) for r, _ in ours] == [r.class_name for r in after.regions]
        assert [r.name.strip() for r, _ in ours] == [r.name for r in after.regions]
        for (_, part), region in zip(ours, after.regions, strict=True):
            (other,) = region.polygons
            assert len(other.interiors) == len(part.interiors)
            assert abs(other.area - part.area) <= 0.001 * part.length
            assert part.hausdorff_distance(other) <= 0.002

    run(examples, drawings(), check)


def test_random_boxes_through_a_mask_exactly(examples: int, tmp_path: Path) -> None:
    def check(before: Annotations) -> None:
        after = through(before, tmp_path, "a.tif", "label-mask")
        assert parts_of(after) == parts_of(before)

    run(examples, drawings("boxes", is_positive=True), check)


def test_random_regions_through_a_mask_to_the_pixel(examples: int, tmp_path: Path) -> None:
    def check(before: Annotations) -> None:
        after = through(before, tmp_path, "a.tif", "label-mask")
        for name in {class_of(r) for r in before.regions}:
            ours = shapely.union_all([r.geometry for r in before.regions if class_of(r) == name])
            theirs = shapely.union_all([r.geometry for r in after.regions if r.class_name == name])
            # An outline's pixels are on one side of it or on the other.
            band = ours.boundary.buffer(1)
            assert ours.symmetric_difference(theirs).difference(band).area < 1e-6
            assert abs(ours.area - theirs.area) <= ours.length

    run(examples, drawings("floats", is_positive=True), check)


def test_random_points_through_a_table(examples: int, tmp_path: Path) -> None:
    number = st.floats(-1e8, 1e8)
    point = st.tuples(number, number, st.sampled_from(CLASSES), st.sampled_from(NAMES))

    def check(rows: Any) -> None:
        before = Annotations(
            tuple(Region(f"p{i}", c, Point(x, y), n) for i, (x, y, c, n) in enumerate(rows)), format="drawn"
        )
        for name, form in (("a.csv", "csv-points"), ("a.geojson", "qupath-geojson")):
            after = through(before, tmp_path, name, form)
            assert [r.geometry.coords[0] for r in after.regions] == [(x, y) for x, y, _, _ in rows]
            assert [r.class_name for r in after.regions] == [class_of(r) for r in before.regions]
            assert [r.name for r in after.regions] == [r.name for r in before.regions]

    run(examples, st.lists(point, min_size=1, max_size=8), check)


def test_what_is_written_is_of_one_size_for_one_region(tmp_path: Path) -> None:
    """The smallest case of each format, by hand."""
    holed = Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 4, 4).exterior])
    these = Annotations((Region("1", "tumour", holed),), format="drawn")
    for name, form in (
        ("a.xml", "asap-xml"),
        ("b.xml", "imagescope-xml"),
        ("a.geojson", None),
        ("a.tif", None),
    ):
        (region,) = through(these, tmp_path, name, form).regions
        assert (region.class_name, region.geometry.area) == ("tumour", 96)


@pytest.mark.parametrize(("form", "name"), [("asap-xml", "a.xml"), ("ndpa", "a.ndpa")])
def test_an_island_in_a_hole_of_its_class_is_kept(tmp_path: Path, form: str, name: str) -> None:
    """Where holes are shapes of their own: only rings of polygons that need it are written otherwise."""

    def blob(x: float, y: float, radius: float) -> Polygon:
        angles = np.arange(17) * 2 * np.pi / 17 + 0.1
        return Polygon(np.column_stack([np.cos(angles), np.sin(angles)]) * radius + (x, y))

    def holed(outer: Polygon, *holes: Polygon) -> Polygon:
        return Polygon(
            outer.exterior, [hole.exterior.coords[:: 1 - 2 * (k % 2)] for k, hole in enumerate(holes)]
        )

    # Two holes with islands, one of them a part of the same region, and a hole without; an island with a hole and an
    # island in it; an island of another class; a hole that nearly touches its outline.
    a = holed(blob(500, 500, 400), blob(420, 500, 150), blob(700, 500, 60), blob(500, 750, 60))
    b = holed(blob(420, 500, 100), blob(420, 500, 70))
    regions = (
        Region("1", "tumour", MultiPolygon([a, blob(700, 500, 20)])),
        Region("2", "tumour", b, "island"),
        Region("3", "tumour", blob(420, 500, 40)),
        Region("4", "stroma", holed(blob(1500, 500, 200), blob(1500, 500, 50))),
        Region("5", "stroma", blob(500, 750, 30)),  # in a hole of another class
        Region("6", "stroma", holed(box(2000, 0, 2100, 100), box(2000.5, 0.5, 2050, 50))),
        Region("7", "stroma", box(2010, 10, 2020, 20)),
    )
    before = Annotations(regions, format="drawn")
    after = through(before, tmp_path, name, form, slide=SLIDE)
    ours = [(r.class_name, r.name, p) for r in before.regions for p in r.polygons]
    theirs = [(r.class_name, r.name, r.polygons) for r in after.regions]
    assert len(theirs) == len(ours)
    for (class_name, own_name, part), (other_class, other_name, (other,)) in zip(ours, theirs, strict=True):
        assert other_class == class_name
        assert not own_name or other_name == own_name
        assert len(other.interiors) == len(part.interiors)
        assert part.symmetric_difference(other).area < 0.002 * part.length
    if form == "asap-xml":
        # Only three polygons were written with bridges; of the others every vertex is there.
        assert (parts_of(before) & parts_of(after)).total() == len(ours) - 3
        assert after.repaired == 3
    again = through(after, tmp_path, f"again {name}", form, slide=SLIDE)
    assert [len(p.interiors) for r in again.regions for p in r.polygons] == [
        len(p.interiors) for *_, p in ours
    ]
    assert sum(r.geometry.area for r in again.regions) == pytest.approx(
        sum(p.area for *_, p in ours), rel=1e-5
    )
