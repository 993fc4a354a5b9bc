from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely.geometry import LineString, MultiLineString, MultiPoint, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations._region import Annotations, Region, SourceRing
from napari_histolatent.annotations.formats._asap import ASAP
from napari_histolatent.annotations.formats._format import WriteOptions
from napari_histolatent.annotations.formats._xml import parse_xml

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations._marks import SourceFile

NAN, INF = float("nan"), float("inf")
REAL = [
    "camelyon16_tumor_009",
    "camelyon16_tumor_036",
    "camelyon16_tumor_039",
    "camelyon16_tumor_058",
    "camelyon16_tumor_085",
    "qc_TCGA-2H-A9GF_RES",
    "qc_TCGA-R6-A6DQ_OGD",
    "qc_normal_002",
    "qc_tumor_001",
    "tissue_normal_004",
    "tissue_normal_042",
    "tissue_tumor_021",
    "tissue_tumor_031",
    "tissue_tumor_092",
    "tissue_TCGA-YL-A8SJ-01Z-00-DX2.36E46E11-79CA-4356-B68F-F387219B3D16",
]


def coordinates(*points: tuple[object, object]) -> str:
    return "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))


SQUARE = coordinates((0, 0), (10, 0), (10, 10), (0, 10))


def annotation(inside: str = SQUARE, name: str = "A", kind: str = "Polygon", group: str = "tumour") -> str:
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{inside}</Coordinates></Annotation>"
    )


def document(
    *annotations: str, groups: str = '<Group Name="tumour" PartOfGroup="None" Color="#0000ff"/>'
) -> str:
    return (
        f"<ASAP_Annotations><Annotations>{''.join(annotations)}</Annotations>"
        f"<AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    )


def read(text: str) -> SourceFile:
    root = parse_xml(text.encode(), "a.xml")
    assert ASAP.recognises(root)
    return ASAP.read(root, None)


def ring(text: str) -> list[list[float]]:
    (mark,) = read(document(annotation(text))).marks
    (xy,) = mark.rings
    assert xy.dtype == np.float64
    return xy.tolist()


@pytest.mark.parametrize("name", REAL)
def test_real_files_against_their_text(data_dir: Path, name: str) -> None:
    path = data_dir / "annotations" / "asap" / f"{name}.xml"
    text = path.read_text()
    source = read(text)
    elements = re.findall(
        r'<Annotation Name="([^"]*)" Type="(\w+)" PartOfGroup="([^"]*)".*?</Annotation>', text, re.S
    )
    assert len(source.marks) == len(elements) > 0
    assert Counter(mark.class_name for mark in source.marks) == Counter(group for _, _, group in elements)
    assert [mark.name for mark in source.marks] == [found for found, _, _ in elements]
    points = re.findall(r'<Coordinate Order="\d+" X="([^"]+)" Y="([^"]+)"', text)
    read_points = np.vstack([xy for mark in source.marks for xy in mark.rings])
    np.testing.assert_array_equal(read_points, np.array(points, np.float64))
    assert source.colors.keys() == set(re.findall(r'<Group Name="([^"]*)"', text))
    assert {mark.color for mark in source.marks} == {(0xF4, 0xFA, 0x58)}
    assert (source.dropped, source.messages) == ((), ())
    assert (source.format, source.fill, source.groups_can_be_holes) == ("asap-xml", "non-zero", True)


def test_what_a_mark_says() -> None:
    source = read(document(annotation(name=" one ", group=" tumour ")))
    (mark,) = source.marks
    assert (mark.where, mark.kind, mark.name, mark.class_name, mark.color) == (
        'annotation 1 "one"',
        "area",
        "one",
        "tumour",
        (0xF4, 0xFA, 0x58),
    )
    assert source.colors == {"tumour": (0, 0, 255)}
    assert mark.rings[0].tolist() == [[0, 0], [10, 0], [10, 10], [0, 10]]


def test_the_outer_element_may_be_missing() -> None:
    source = read(f"<Annotations>{annotation()}{annotation(group='None')}</Annotations>")
    assert [mark.class_name for mark in source.marks] == ["tumour", ""]


@pytest.mark.parametrize(
    "text",
    [
        "<annotations/>",
        "<Annotations/>",
        '<Annotations><Annotation Name="a"><Regions/></Annotation></Annotations>',
        "<html/>",
        "<object-stream/>",
    ],
)
def test_other_documents_are_not_recognised(text: str) -> None:
    assert not ASAP.recognises(parse_xml(text.encode(), "a.xml"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Polygon", "area"),
        ("polygon", "area"),
        ("SPLINE", "area"),
        ("Rectangle", "area"),
        ("None", "area"),
        ("", "area"),
        ("Measurement", "line"),
        ("Dot", "points"),
        ("PointSet", "points"),
    ],
)
def test_types(kind: str, expected: str) -> None:
    (mark,) = read(document(annotation(kind=kind))).marks
    assert mark.kind == expected
    assert mark.rings[0].shape == (4, 2)


def test_a_rectangle_of_two_corners() -> None:
    (mark,) = read(document(annotation(coordinates((1, 2), (5, 9)), kind="rectangle"))).marks
    assert mark.rings[0].tolist() == [[1, 2], [5, 2], [5, 9], [1, 9]]


def test_what_cannot_be_read_is_said() -> None:
    source = read(
        document(annotation(kind="Blob"), annotation("", name=""), "<Annotation/>", annotation(name="ok"))
    )
    assert source.dropped == (
        'annotation 1 "A" dropped: its type "Blob" is none of ASAP\'s',
        "annotation 2 dropped: it has no coordinates",
        "annotation 3 dropped: it has no coordinates",
    )
    assert [mark.where for mark in source.marks] == ['annotation 4 "ok"']


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        (("2", "0", "1"), [1, 2, 0]),
        (("7", "3", "90"), [1, 0, 2]),
        (("0.0", "2.0", "1.0"), [0, 2, 1]),
        (("1", "0", "1"), [1, 0, 2]),
        (("0", "0", "0"), [0, 1, 2]),
        ((None, None, None), [0, 1, 2]),
        (("1", None, "0"), [2, 0, 1]),
        ((None, "1", "0"), [0, 2, 1]),
        (("x", "1", "0"), [0, 2, 1]),
        (("10", "9", "2"), [2, 1, 0]),  # not as texts
    ],
)
def test_order(orders: tuple[str | None, ...], expected: list[int]) -> None:
    text = "".join(
        f'<Coordinate {f"""Order="{order}" """ if order is not None else ""}X="{i}" Y="0"/>'
        for i, order in enumerate(orders)
    )
    assert [x for x, _ in ring(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12,5", 12.5),
        ("1e3", 1000.0),
        ("inf", INF),
        ("-Infinity", -INF),
        ("1e400", INF),
        ("NaN", NAN),
        ("", NAN),
        ("abc", NAN),
        ("1.234,5", NAN),
    ],
)
def test_numbers(text: str, expected: float) -> None:
    np.testing.assert_array_equal(
        ring(coordinates((text, 1), (2, 3), (4, 5))), [[expected, 1], [2, 3], [4, 5]]
    )


def test_a_missing_coordinate_is_no_number() -> None:
    np.testing.assert_array_equal(
        ring('<Coordinate Order="0" Y="1"/><Coordinate Order="1" X="2"/><Coordinate Order="2"/>'),
        [[NAN, 1], [2, NAN], [NAN, NAN]],
    )


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_points_are_left_to_the_repair(n: int) -> None:
    assert len(ring(coordinates(*[(i, 0) for i in range(n)]))) == n


def test_a_group_that_is_not_declared() -> None:
    source = read(document(annotation(group="x"), annotation(group="x"), annotation(group="y"), annotation()))
    assert [mark.class_name for mark in source.marks] == ["x", "x", "y", "tumour"]
    assert source.messages == (
        "group x is not declared in the file, but 2 annotations of it are there",
        "group y is not declared in the file, but 1 annotation of it is there",
    )


def test_nested_groups_are_said_once() -> None:
    groups = (
        '<Group Name="tumour" PartOfGroup="none" Color="#010203"/>'
        '<Group Name="lymph" PartOfGroup="tumour" Color="bad"/>'
        '<Group Name="lymph" PartOfGroup="tumour" Color="#040506"/>'
        '<Group Name="tumour" Color="#ffffff"/>'
    )
    source = read(document(annotation(group="lymph"), groups=groups))
    assert source.marks[0].class_name == "lymph"
    assert source.messages == ("group lymph lies in tumour",)
    assert source.colors == {"tumour": (1, 2, 3), "lymph": (4, 5, 6)}


def test_groups_that_hold_each_other() -> None:
    source = read(
        document(
            groups='<Group Name="a" PartOfGroup="b"/><Group Name="b" PartOfGroup="a"/><Group Name="a" PartOfGroup="a"/>'
        )
    )
    assert source.marks == ()
    assert len(source.messages) == 3


def annotations() -> Annotations:
    rng = np.random.default_rng(3)
    angles = np.sort(rng.uniform(0, 6.28, 40))
    blob = np.column_stack([np.cos(angles), np.sin(angles)]) * 1e5 / 3 + 2e5
    donut = Polygon(box(0, 0, 10, 10).exterior.coords, [box(2, 2, 4.1, 4).exterior.coords])
    return Annotations(
        regions=(
            Region("a", "tumour", Polygon(blob), name='b<l>o&b "1"\' µ'),
            Region("b", "tumour", MultiPolygon([donut, box(20, 0, 30, 10)]), name="two"),
            Region("c", "unclassified", box(5, 50, 6, 51)),
            Region("d", "mark & co", MultiPoint([(1.5, 2.5), (3, 4)])),
            Region("e", "mark & co", Point(7, 8), name="p"),
            Region("f", "line", LineString([(0, 0), (1, 1)])),
            Region("g", "line", MultiLineString([[(0, 0), (1, 1), (2, 0)], [(5, 5), (6, 6)]])),
        ),
        format="x",
        colors={"tumour": (1, 2, 255)},
        hole_class="negative",
    )


def written(annotations: Annotations, folder: Path, options: WriteOptions | None = None) -> SourceFile:
    assert ASAP.write is not None
    path = folder / "out.xml"
    ASAP.write(path, annotations, options or WriteOptions())
    return read(path.read_text("utf-8"))


def test_round_trip(tmp_path: Path) -> None:
    before = annotations()
    source = written(before, tmp_path)
    assert [(m.kind, m.class_name, m.name) for m in source.marks] == [
        ("area", "tumour", 'b<l>o&b "1"\' µ'),
        ("area", "tumour", "two"),
        ("area", "negative", "Annotation 2"),
        ("area", "tumour", "two"),
        ("area", "", "Annotation 4"),
        ("points", "mark & co", "Annotation 5"),
        ("points", "mark & co", "p"),
        ("line", "line", "Annotation 7"),
        ("line", "line", "Annotation 8"),
        ("line", "line", "Annotation 9"),
    ]
    rings = [mark.rings[0] for mark in source.marks]
    np.testing.assert_array_equal(rings[0], np.array(before.regions[0].geometry.exterior.coords)[:-1])
    np.testing.assert_array_equal(rings[2], np.array(before.regions[1].polygons[0].interiors[0].coords)[:-1])
    assert rings[5].tolist() == [[1.5, 2.5], [3, 4]]
    assert [len(xy) for xy in rings] == [40, 4, 4, 4, 4, 2, 1, 2, 3, 2]
    assert (source.dropped, source.messages) == ((), ())
    assert source.colors == {
        name: before.color_of(name) for name in ("tumour", "mark & co", "line", "negative")
    }


def test_what_is_written(tmp_path: Path) -> None:
    written(annotations(), tmp_path)
    text = (tmp_path / "out.xml").read_text("utf-8")
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<ASAP_Annotations>')
    assert re.findall(r'Type="(\w+)"', text)[5:] == [
        "PointSet",
        "Dot",
        "Measurement",
        "Measurement",
        "Measurement",
    ]
    assert '<Coordinate Order="0" X="10" Y="0" />' in text
    assert re.findall('<Group Name="([^"]*)"', text) == ["tumour", "mark &amp; co", "line", "negative"]
    assert 'PartOfGroup="None" Color' in text.split("<AnnotationGroups>")[0]


def test_nothing_at_all(tmp_path: Path) -> None:
    source = written(Annotations((), "x"), tmp_path)
    assert (source.marks, source.colors) == ((), {})


def test_names_with_characters_that_xml_cannot_hold(tmp_path: Path) -> None:
    source = written(
        Annotations((Region("a", "t\x00u\x1bm", box(0, 0, 1, 1), name="\ud800\x07"),), "x"), tmp_path
    )
    assert (source.marks[0].class_name, source.marks[0].name) == ("tum", "")


def test_offset(tmp_path: Path) -> None:
    source = written(
        Annotations((Region("a", "t", box(0, 0, 1, 1)),), "x"), tmp_path, WriteOptions(offset_xy=(-5, 0.25))
    )
    assert source.marks[0].rings[0].min(axis=0).tolist() == [-5, 0.25]


def test_source_rings(tmp_path: Path) -> None:
    tie = np.array([[0.0, 0], [10, 10], [10, 0], [0, 10]])
    hole = np.array([[1.0, 1], [2, 1], [2, 2]])
    rings = (SourceRing(tie, is_hole=False), SourceRing(hole, is_hole=True))
    regions = (
        Region("a", "t", box(0, 0, 10, 10), source=rings),
        Region("b", "u", box(0, 0, 9, 9), source=rings),
    )
    source = written(Annotations(regions, "x"), tmp_path, WriteOptions(rings="source"))
    assert [mark.class_name for mark in source.marks] == ["t", "exclusion", "u"]
    assert source.marks[0].rings[0].tolist() == tie.tolist()
    assert source.marks[1].rings[0].tolist() == hole.tolist()


@pytest.mark.parametrize("name", REAL[2:4])
def test_real_files_come_back_as_they_were(data_dir: Path, tmp_path: Path, name: str) -> None:
    first = read((data_dir / "annotations" / "asap" / f"{name}.xml").read_text())
    regions = tuple(
        Region(str(i), m.class_name, box(0, 0, 1, 1), m.name, (SourceRing(m.rings[0], is_hole=False),))
        for i, m in enumerate(first.marks)
    )
    again = written(Annotations(regions, "x", colors=first.colors), tmp_path, WriteOptions(rings="source"))
    assert again.colors == first.colors
    for one, other in zip(first.marks, again.marks, strict=True):
        assert (one.class_name, one.name, one.where) == (other.class_name, other.name, other.where)
        np.testing.assert_array_equal(one.rings[0], other.rings[0])
