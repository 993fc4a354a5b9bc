from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely.geometry import LineString, MultiLineString, MultiPoint, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations._region import Annotations, Region, SourceRing
from napari_histolatent.annotations.formats._asap import ASAP
from napari_histolatent.annotations.formats._format import WriteOptions
from napari_histolatent.annotations.formats._halo import HALO
from napari_histolatent.annotations.formats._imagescope import IMAGESCOPE
from napari_histolatent.annotations.formats._xml import parse_xml
from napari_histolatent.slides import Level, SlideInfo

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations._marks import SourceFile

NAN = float("nan")


def region(*points: tuple[object, object], kind: object = 0, **attributes: object) -> str:
    said = "".join(f' {name}="{value}"' for name, value in attributes.items())
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return (
        f'<Region Id="1" Type="{kind}" Zoom="0.5"{said}><Attributes/><Vertices>{vertices}</Vertices></Region>'
    )


SQUARE = ((0, 0), (10, 0), (10, 10), (0, 10))


def layer(*regions: str, name: str = "Tumour", color: object = 255, attributes: str = "") -> str:
    return (
        f'<Annotation Id="1" Name="{name}" LineColor="{color}"><Attributes>{attributes}</Attributes>'
        f"<Regions><RegionAttributeHeaders/>{''.join(regions)}</Regions></Annotation>"
    )


def read(*layers: str) -> SourceFile:
    return read_text(f'<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>')


def read_text(text: str) -> SourceFile:
    root = parse_xml(text.encode(), "a.xml")
    assert (IMAGESCOPE.recognises(root), ASAP.recognises(root), HALO.recognises(root)) == (True, False, False)
    return IMAGESCOPE.read(root, None)


def test_real_files_against_their_text(data_dir: Path) -> None:
    paths = sorted((data_dir / "nuclei" / "monuseg").glob("*.xml"))
    assert len(paths) >= 3
    for path in paths:
        text = path.read_text()
        source = read_text(text)
        ids = re.findall(r'<Region Id="(\d+)"', text)
        assert [mark.id for mark in source.marks] == ids
        points = re.findall(r'<Vertex X="([^"]+)" Y="([^"]+)"', text)
        read_points = np.vstack([xy for mark in source.marks for xy in mark.rings])
        np.testing.assert_array_equal(read_points, np.array(points, np.float64))
        assert {(m.kind, m.class_name, m.name, m.is_negative, m.layer) for m in source.marks} == {
            ("area", "", "", False, "1")
        }
        assert (source.format, source.dropped, source.messages) == ("imagescope-xml", (), ())


@pytest.mark.parametrize(
    "text",
    [
        "<annotations/>",
        "<html/>",
        "<ASAP_Annotations/>",
        "<Annotations><Annotation><Coordinates/></Annotation></Annotations>",
        '<Annotations><Annotation Visible="True"><Regions/></Annotation></Annotations>',
        '<Annotations><Annotation><Regions><Region Type="Pin"><Vertices><V/></Vertices></Region></Regions></Annotation></Annotations>',
        '<Annotations><Annotation><Regions><Region Type="Pin"/></Regions></Annotation></Annotations>',
        "<Annotations><Something/></Annotations>",
    ],
)
def test_other_documents_are_not_recognised(text: str) -> None:
    assert not IMAGESCOPE.recognises(parse_xml(text.encode(), "a.xml"))


@pytest.mark.parametrize(
    "text",
    [
        "<Annotations/>",
        '<Annotations MicronsPerPixel="0.5"><Annotation/></Annotations>',
        '<Annotations><Annotation Visible="1"><Regions/></Annotation></Annotations>',
    ],
)
def test_a_document_without_regions(text: str) -> None:
    assert read_text(text).marks == ()


def test_what_a_mark_says() -> None:
    source = read(
        layer(),
        layer(region(*SQUARE, Text="one", NegativeROA=0), region(*SQUARE, NegativeROA=1), color=0x010203),
    )
    first, second = source.marks
    assert (first.where, first.kind, first.class_name, first.name, first.id, first.layer) == (
        'region 1 of layer 2 "Tumour"',
        "area",
        "Tumour",
        "one",
        "1",
        "2",
    )
    assert first.rings[0].tolist() == [list(p) for p in SQUARE]
    assert (first.is_negative, second.is_negative, second.layer, second.id) == (False, True, "2", "1")
    assert first.color == source.colors["Tumour"] == (3, 2, 1)


@pytest.mark.parametrize(
    ("color", "rgb"),
    [
        ("255", (255, 0, 0)),
        ("65280", (0, 255, 0)),
        ("16711680", (0, 0, 255)),
        ("0", (0, 0, 0)),
        ("-1", None),
        ("16777216", None),
        ("1.5", None),
        ("red", None),
        ("nan", None),
        ("", None),
    ],
)
def test_colors_are_blue_high(color: str, rgb: tuple[int, int, int] | None) -> None:
    source = read(layer(region(*SQUARE), color=color))
    assert source.marks[0].color == rgb
    assert source.colors == ({"Tumour": rgb} if rgb else {})


@pytest.mark.parametrize(
    ("name", "attributes", "text", "expected"),
    [
        (" Tumour ", '<Attribute Name="Description" Value="x"/>', "t", "Tumour"),
        ("", '<Attribute Name="Description" Id="0" Value=" Stroma "/>', "t", "Stroma"),
        ("", '<Attribute Name="Description" Value=""/><Attribute Name="Gland" Value=""/>', "t", "Gland"),
        ("", '<Attribute Name="Description" Id="0" Value=""/>', "t", "t"),
        ("", "", "", ""),
    ],
)
def test_class_names(name: str, attributes: str, text: str, expected: str) -> None:
    (mark,) = read(layer(region(*SQUARE, Text=text), name=name, attributes=attributes)).marks
    assert (mark.class_name, mark.name) == (expected, text)


@pytest.mark.parametrize("points", [((1, 2), (5, 8)), ((5, 8), (1, 2)), ((1, 2), (5, 2), (5, 8), (1, 8))])
def test_rectangles_and_ellipses(points: tuple[tuple[int, int], ...]) -> None:
    rectangle, ellipse = read(layer(region(*points, kind=1), region(*points, kind=2))).marks
    assert Polygon(rectangle.rings[0]).equals(box(1, 2, 5, 8))
    assert Polygon(ellipse.rings[0]).area == pytest.approx(np.pi * 2 * 3, rel=1e-3)
    assert Polygon(ellipse.rings[0]).centroid.coords[0] == pytest.approx((3, 5))


@pytest.mark.parametrize(
    ("kind", "expected", "where"),
    [
        ("", "area", "region 1"),
        ("3", "line", "arrow 1"),
        ("4", "line", "ruler 1"),
        ("5", "points", "region 1"),
        ("Polygon", "area", "region 1"),
    ],
)
def test_types(kind: str, expected: str, where: str) -> None:
    (mark,) = read(layer(region((1, 2), (3, 4), kind=kind))).marks
    assert (mark.kind, mark.where) == (expected, f'{where} of layer 1 "Tumour"')
    assert mark.rings[0].tolist() == [[1, 2], [3, 4]]


def test_what_cannot_be_read_is_said() -> None:
    source = read(layer(region(*SQUARE, kind=17), region(), '<Region Type="0"/>', name=""))
    assert source.marks == ()
    assert source.dropped == (
        'region 1 of layer 1 dropped: its type "17" is not known',
        "region 2 of layer 1 dropped: it has no vertices",
        "region 3 of layer 1 dropped: it has no vertices",
    )


def test_numbers_that_are_none() -> None:
    (mark,) = read(layer(region(("1,5", "inf"), ("", "x"), (2, 3)))).marks
    np.testing.assert_array_equal(mark.rings[0], [[1.5, np.inf], [NAN, NAN], [2, 3]])


def test_an_ellipse_of_numbers_that_are_none() -> None:
    first, second = read(layer(region(("x", 0), (2, 3), kind=2), region((0, 0), (2, "inf"), kind=2))).marks
    assert np.isnan(first.rings[0][:, 0]).all()
    assert not np.isfinite(second.rings[0][:, 1]).any()


def test_wild_numbers_of_the_file_are_written(tmp_path: Path) -> None:
    wild = SourceRing(np.array([[0.0, 0], [1e308, -1e308], [3, 1e300]]), is_hole=False)
    regions = (Region("a", "t", box(0, 0, 1, 1), source=(wild,)),)
    source = written(Annotations(regions, "x"), tmp_path, WriteOptions(rings="source"))
    assert source.marks[0].rings[0].tolist() == wild.xy.tolist()


def annotations() -> Annotations:
    blob = np.random.default_rng(3).uniform(0, 1, (3, 2)) * 1e5
    donut = Polygon(box(0, 0, 10, 10).exterior.coords, [box(2, 2, 8.1, 8).exterior.coords])
    return Annotations(
        regions=(
            Region("a", "tumour", Polygon(blob), name='b<l>o&b "1"\' µ'),
            Region("b", "tumour", MultiPolygon([donut, box(20, 0, 30, 10)]), name="two"),
            Region("c", "unclassified", box(5, 50, 6, 51), name="three"),
            Region("d", "mark & co", MultiPoint([(1.5, 2.5), (3, 4)])),
            Region("e", "mark & co", Point(7, 8), name="p"),
            Region("f", "line", LineString([(0, 0), (1, 1)])),
            Region("g", "line", MultiLineString([[(0, 0), (1, 1), (2, 0)], [(5, 5), (6, 6)]])),
        ),
        format="x",
        colors={"tumour": (1, 2, 255)},
    )


def written(annotations: Annotations, folder: Path, options: WriteOptions | None = None) -> SourceFile:
    assert IMAGESCOPE.write is not None
    path = folder / "out.xml"
    IMAGESCOPE.write(path, annotations, options or WriteOptions())
    return read_text(path.read_text("utf-8"))


def test_round_trip(tmp_path: Path) -> None:
    before = annotations()
    source = written(before, tmp_path)
    assert [(m.kind, m.class_name, m.name, m.is_negative, m.layer) for m in source.marks] == [
        ("area", "tumour", 'b<l>o&b "1"\' µ', False, "1"),
        ("area", "tumour", "two", False, "1"),
        ("area", "tumour", "two", True, "1"),
        ("area", "tumour", "two", False, "1"),
        ("area", "unclassified", "three", False, "2"),
        ("points", "mark & co", "", False, "3"),
        ("points", "mark & co", "p", False, "3"),
        ("line", "line", "", False, "4"),
        ("line", "line", "", False, "4"),
        ("line", "line", "", False, "4"),
    ]
    rings = [mark.rings[0] for mark in source.marks]
    np.testing.assert_array_equal(rings[0], np.array(before.regions[0].geometry.exterior.coords)[:-1])
    np.testing.assert_array_equal(rings[2], np.array(before.regions[1].polygons[0].interiors[0].coords)[:-1])
    assert rings[5].tolist() == [[1.5, 2.5], [3, 4]]
    assert [len(xy) for xy in rings] == [3, 4, 4, 4, 4, 2, 1, 2, 3, 2]
    assert source.colors == {r.class_name: before.color_of(r.class_name) for r in before.regions}
    assert [mark.id for mark in source.marks] == [str(i) for i in range(1, 11)]


def test_an_island_in_a_hole_goes_to_a_layer_of_its_own(tmp_path: Path) -> None:
    def donut(size: int) -> Polygon:
        middle = box(-size, -size, size, size)
        return Polygon(middle.exterior.coords, [box(1 - size, 1 - size, size - 1, size - 1).exterior.coords])

    nest = MultiPolygon([donut(9), donut(6), donut(3), box(20, 20, 30, 30)])
    filled = box(8, 8, -8, -8)  # just what the outermost hole is
    regions = (Region("a", "t", nest), Region("b", "t", filled), Region("c", "s", filled))
    source = written(Annotations(regions, "x"), tmp_path)
    parts = {
        number: [m for m in source.marks if m.layer == number]
        for number in dict.fromkeys(m.layer for m in source.marks)
    }
    assert {m.class_name for m in source.marks} == {"t", "s"}
    for marks in parts.values():
        assert len({m.class_name for m in marks}) == 1
    # Each polygon, cut by the holes of its layer, is what it was.
    holes = {number: [Polygon(m.rings[0]) for m in marks if m.is_negative] for number, marks in parts.items()}
    again = []
    for mark in source.marks:
        if not mark.is_negative:
            shape = Polygon(mark.rings[0])
            for hole in holes[mark.layer]:
                shape = shape.difference(hole)
            again.append(shape)
    expected = [*nest.geoms, filled, filled]
    assert len(again) == len(expected)
    assert all(any(one.equals(other) for other in again) for one in expected)


def test_many_polygons_without_islands_share_a_layer(tmp_path: Path) -> None:
    shapes = [
        Polygon(box(i, 0, i + 1, 1).exterior.coords, [box(i + 0.2, 0.2, i + 0.8, 0.8).exterior.coords])
        for i in range(50)
    ]
    source = written(Annotations(tuple(Region(str(i), "t", s) for i, s in enumerate(shapes)), "x"), tmp_path)
    assert {mark.layer for mark in source.marks} == {"1"}
    assert [mark.is_negative for mark in source.marks] == [False, True] * 50


def test_measures(tmp_path: Path) -> None:
    info = SlideInfo(
        path=tmp_path / "a.svs",
        backend="x",
        vendor=None,
        digest="0",
        levels=(Level(100, 100, 1.0),),
        mpp_x=0.5,
        mpp_y=0.5,
        mpp_source="x",
        bounds=(0, 0, 100, 100),
        background=(0, 0, 0),
        associated=(),
    )
    regions = (Region("a", "t", box(90_000, 0, 90_010, 20)), Region("b", "t", LineString([(0, 0), (3, 4)])))
    written(Annotations(regions, "x"), tmp_path, WriteOptions(slide=info))
    text = (tmp_path / "out.xml").read_text("utf-8")
    assert '<Annotations MicronsPerPixel="0.5">' in text
    assert re.findall(r'Type="\d" Zoom="1"', text) == ['Type="0" Zoom="1"', 'Type="4" Zoom="1"']
    assert re.findall(r' (Length|Area|LengthMicrons|AreaMicrons)="([\d.]+)"', text) == [
        ("Length", "60.0"),
        ("Area", "200.0"),
        ("LengthMicrons", "30.0"),
        ("AreaMicrons", "50.0"),
        ("Length", "5.0"),
        ("Area", "0.0"),
        ("LengthMicrons", "2.5"),
        ("AreaMicrons", "0.0"),
    ]
    written(Annotations(regions, "x"), tmp_path)
    assert "Microns" not in (tmp_path / "out.xml").read_text("utf-8")


def test_offset_and_nothing_at_all(tmp_path: Path) -> None:
    source = written(
        Annotations((Region("a", "t", box(0, 0, 1, 1)),), "x"), tmp_path, WriteOptions(offset_xy=(-5, 0.25))
    )
    assert source.marks[0].rings[0].min(axis=0).tolist() == [-5, 0.25]
    assert written(Annotations((), "x"), tmp_path).marks == ()


def test_source_rings(tmp_path: Path) -> None:
    tie = np.array([[0.0, 0], [10, 10], [10, 0], [0, 10]])
    hole = np.array([[1.0, 1], [2, 1], [2, 2]])
    rings = (SourceRing(tie, is_hole=False), SourceRing(hole, is_hole=True))
    regions = (
        Region("a", "t", box(0, 0, 10, 10), source=rings),
        Region("b", "t", box(0, 0, 9, 9), source=rings),
    )
    source = written(Annotations(regions, "x"), tmp_path, WriteOptions(rings="source"))
    assert [(mark.layer, mark.is_negative) for mark in source.marks] == [
        ("1", False),
        ("1", True),
        ("1", False),
    ]
    assert source.marks[0].rings[0].tolist() == tie.tolist()
