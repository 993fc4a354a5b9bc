from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely.geometry import Polygon, box

from napari_histolatent.annotations.formats._halo import HALO
from napari_histolatent.annotations.formats._imagescope import IMAGESCOPE
from napari_histolatent.annotations.formats._xml import parse_xml

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations._marks import SourceFile

REAL = ["qupath_test", "example_holes", "example", "test_layers", "test_types", "test_comments"]


def read(text: str) -> SourceFile:
    root = parse_xml(text.encode(), "a.annotations")
    assert (HALO.recognises(root), IMAGESCOPE.recognises(root)) == (True, False)
    return HALO.read(root, None)


def real(data_dir: Path, name: str) -> tuple[str, SourceFile]:
    text = (data_dir / "annotations" / "halo" / f"{name}.annotations").read_text()
    return text, read(text)


def document(region: str, layer: str = 'Name="L" Visible="True" LineColor="255"') -> str:
    return f"<Annotations><Annotation {layer}><Regions>{region}</Regions></Annotation></Annotations>"


def region(*points: tuple[object, object], kind: str = "Polygon", caps: int = 0, inside: str = "") -> str:
    vertices = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in points)
    return f'<Region Type="{kind}" HasEndcaps="{caps}" NegativeROA="0"><Vertices>{vertices}</Vertices>{inside}</Region>'


@pytest.mark.parametrize("name", REAL)
def test_real_files_against_their_text(data_dir: Path, name: str) -> None:
    text, source = real(data_dir, name)
    regions = re.findall(r'<Region Type="(\w+)" HasEndcaps="(\d)" NegativeROA="(\d)">', text)
    assert len(source.marks) == len(regions) > 0
    assert [mark.is_negative for mark in source.marks] == [negative == "1" for _, _, negative in regions]
    layers = [
        (str(i), re.search(r'Name="([^"]*)"', attributes)[1], inside.count("<Region "))  # type: ignore[index]
        for i, (attributes, inside) in enumerate(
            re.findall(r"<Annotation ([^>]*)>(.*?)</Annotation>", text, re.S), start=1
        )
    ]
    expected = [(number, name) for number, name, count in layers for _ in range(count)]
    assert [(mark.layer, mark.class_name) for mark in source.marks] == expected
    polygons = [
        re.findall(r'<V X="([^"]+)" Y="([^"]+)"', found)
        for found in re.findall(r'<Region Type="Polygon".*?</Region>', text, re.S)
    ]
    is_polygon = [kind == "Polygon" for kind, _, _ in regions]
    read_polygons = [mark.rings[0] for mark, yes in zip(source.marks, is_polygon, strict=True) if yes]
    for one, other in zip(read_polygons, polygons, strict=True):
        np.testing.assert_array_equal(one, np.array(other, np.float64))
    assert (source.format, source.dropped) == ("halo-annotations", ())


def test_the_layers_of_one_name_stay_apart(data_dir: Path) -> None:
    _, source = real(data_dir, "qupath_test")
    putamen = [mark for mark in source.marks if mark.class_name == "Putamen"]
    assert {mark.layer for mark in putamen} == {"1", "2"}
    assert Counter(mark.is_negative for mark in source.marks) == {False: 12, True: 7}
    assert source.colors["Cingulum"] == (255, 0, 0)
    assert source.messages == ()


def test_types(data_dir: Path) -> None:
    _, source = real(data_dir, "test_types")
    assert [mark.kind for mark in source.marks] == [
        *["area"] * 4,
        *["line"] * 2,
        "area",
        "points",
        "line",
        "area",
    ]
    assert Polygon(source.marks[0].rings[0]).equals(box(-27900, 45644, -16121, 57423))
    assert Polygon(source.marks[3].rings[0]).area == pytest.approx(np.pi / 4 * 10722 * 4380, rel=1e-3)
    assert source.marks[4].rings[0].tolist() == [[-28202, 63764], [-14263, 63764]]
    assert source.marks[4].where == 'ruler 5 of layer 1 "Layer 1"'
    assert source.marks[7].rings[0].tolist() == [[-1399, 53194]]
    assert source.messages == (
        'region 10 of layer 1 "Layer 1" has ends that lie far apart; it is read as an area, so delete it if it is a line',
    )
    assert source.colors == {"Layer 1": (255, 247, 85)}


def test_the_first_comment_is_the_name(data_dir: Path) -> None:
    _, source = real(data_dir, "test_comments")
    assert [mark.name for mark in source.marks] == [
        "This is a square",
        "This is a circle",
        "This polygon is below the circle and square",
    ]


def test_a_comment_is_no_class() -> None:
    comment = '<Comments><Comment Author="a" Body=" hm "/></Comments>'
    (mark,) = read(
        document(region((0, 0), (1, 0), (1, 1), inside=comment), layer='Name="" Visible="True"')
    ).marks
    assert (mark.name, mark.class_name, mark.color) == ("hm", "", None)


@pytest.mark.parametrize(
    ("points", "caps", "kind"),
    [
        (((0, 0), (1, 0), (1, 1), (0, 0)), 1, "area"),
        (((0, 0), (1, 0), (1, 1)), 1, "line"),
        (((0, 0), (1, 0), (1, 1)), 0, "area"),
    ],
)
def test_end_caps(points: tuple[tuple[int, int], ...], caps: int, kind: str) -> None:
    assert [mark.kind for mark in read(document(region(*points, caps=caps))).marks] == [kind]


@pytest.mark.parametrize("kind", ["Arrow", "Ruler", "Line", "POLYLINE"])
def test_lines(kind: str) -> None:
    assert read(document(region((0, 0), (1, 1), kind=kind))).marks[0].kind == "line"


def test_what_cannot_be_read_is_said() -> None:
    source = read(document(region((0, 0), (1, 1), kind="Cloud") + region() + region(("1,5", "x"), ("", 2))))
    assert source.dropped == (
        'region 1 of layer 1 "L" dropped: its type "Cloud" is not known',
        'region 2 of layer 1 "L" dropped: it has no vertices',
    )
    np.testing.assert_array_equal(source.marks[0].rings[0], [[1.5, np.nan], [np.nan, 2]])


@pytest.mark.parametrize(
    "text",
    [
        "<Annotations/>",
        "<annotations/>",
        "<ASAP_Annotations/>",
        '<Annotations><Annotation Visible="1"><Regions/></Annotation></Annotations>',
        '<Annotations><Annotation><Regions><Region Type="0"/></Regions></Annotation></Annotations>',
        '<Annotations><Annotation><Regions><Region Type="Polygon"><Vertices><Vertex/></Vertices></Region></Regions></Annotation></Annotations>',
    ],
)
def test_other_documents_are_not_recognised(text: str) -> None:
    assert not HALO.recognises(parse_xml(text.encode(), "a.xml"))


def test_layers_without_regions() -> None:
    assert read(document("")).marks == ()
