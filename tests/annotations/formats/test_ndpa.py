from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations._region import Annotations, Region, SourceRing
from napari_histolatent.annotations.formats._format import WriteOptions
from napari_histolatent.annotations.formats._ndpa import NDPA
from napari_histolatent.annotations.formats._xml import parse_xml
from napari_histolatent.errors import AnnotationError
from napari_histolatent.slides import Level, SlideInfo

if TYPE_CHECKING:
    from napari_histolatent.annotations._marks import SourceFile

SLIDE = SlideInfo(
    path=Path("a.ndpi"),
    backend="x",
    vendor="hamamatsu",
    digest="0",
    levels=(Level(4000, 2000, 1.0),),
    mpp_x=0.25,
    mpp_y=0.5,
    mpp_source="x",
    bounds=(0, 0, 4000, 2000),
    background=(0, 0, 0),
    associated=(),
    offset_from_centre_nm=(-1_000_000.0, 3_000_000.0),
)


def nm(x_px: float, y_px: float) -> tuple[float, float]:
    return (x_px - 2000) * 250 - 1_000_000, (y_px - 1000) * 500 + 3_000_000


def view(annotation: str, title: str = "tumour", details: str = "", units: str = "nanometers") -> str:
    return (
        f'<ndpviewstate id="4"><title>{title}</title><details>{details}</details>'
        f"<coordformat>{units}</coordformat><lens>1</lens><x>0</x><y>0</y><z>0</z>{annotation}</ndpviewstate>"
    )


def freehand(*px: tuple[float, float], inside: str = "<closed>1</closed>", attributes: str = "") -> str:
    points = "".join("<point><x>{}</x><y>{}</y></point>".format(*nm(*p)) for p in px)
    return (
        f'<annotation type="freehand" displayname="AnnotateFreehand" color="#ff8000"{attributes}>'
        f"<measuretype>0</measuretype>{inside}<pointlist>{points}</pointlist></annotation>"
    )


SQUARE = freehand((0, 0), (10, 0), (10, 10), (0, 10))


def read(*views: str, slide: SlideInfo | None = SLIDE) -> SourceFile:
    return read_text(f"<annotations>{''.join(views)}</annotations>", slide)


def read_text(text: str, slide: SlideInfo | None = SLIDE) -> SourceFile:
    root = parse_xml(text.encode(), "a.ndpa")
    assert NDPA.recognises(root)
    return NDPA.read(root, slide)


def test_nanometres_from_the_centre_of_the_glass() -> None:
    source = read(view(SQUARE, details="one"))
    (mark,) = source.marks
    np.testing.assert_allclose(mark.rings[0], [[0, 0], [10, 0], [10, 10], [0, 10]], atol=1e-6)
    assert (mark.where, mark.kind, mark.class_name, mark.name, mark.id, mark.color, mark.layer) == (
        'view 1 "tumour"',
        "area",
        "tumour",
        "one",
        "4",
        (255, 128, 0),
        "tumour",
    )
    assert source.colors == {"tumour": (255, 128, 0)}
    assert (source.dropped, source.messages) == ((), ())


def test_by_hand() -> None:
    # 1 mm right of the image's centre, which lies 1 mm left of the glass's: 4000 px of 0.25 µm, and 2000 to its edge.
    pin = '<annotation type="pin"><x>0</x><y>3000000</y><icon>pinred</icon></annotation>'
    (mark,) = read(view(pin)).marks
    assert mark.kind == "points"
    assert mark.rings[0].tolist() == [[6000, 1000]]


@pytest.mark.parametrize(
    ("slide", "said"),
    [
        (None, "name it with --slide"),
        (replace(SLIDE, offset_from_centre_nm=None), "a.ndpi does not say where it lies on the glass"),
        (replace(SLIDE, mpp_x=None), "a.ndpi does not state its pixel size"),
    ],
)
def test_what_is_missing_is_said(slide: SlideInfo | None, said: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=said):
        read(view(SQUARE), slide=slide)
    assert NDPA.write is not None
    with pytest.raises(AnnotationError, match=said):
        NDPA.write(tmp_path / "a.ndpa", Annotations((), "x"), WriteOptions(slide=slide))
    assert NDPA.needs_slide


@pytest.mark.parametrize(
    ("annotation", "kind", "n"),
    [
        (freehand((0, 0), (1, 0), (1, 1)), "area", 3),
        (freehand((0, 0), (1, 0), (1, 1), inside=""), "area", 3),
        (freehand((0, 0), (1, 0), (1, 1), inside="<closed>0</closed>"), "line", 3),
        (freehand((0, 0), (1, 0), inside="", attributes=' closed="0"'), "line", 2),
        (
            freehand((0, 0), (4, 3), inside="<closed>0</closed><specialtype>rectangle</specialtype>"),
            "area",
            4,
        ),
        (
            freehand((0, 0), (4, 0), (4, 4), (0, 4), inside="", attributes=' specialtype="rectangle"'),
            "area",
            4,
        ),
        (freehand((0, 0), (1, 0)), "area", 2),
        ('<annotation type="PIN"><x>1</x><y>2</y></annotation>', "points", 1),
        ('<annotation type="linearmeasure"><x1>1</x1><y1>2</y1><x2>3</x2><y2>4</y2></annotation>', "line", 2),
        ('<annotation type="pointer"><x1>1</x1><y1>2</y1><x2>3</x2><y2>4</y2></annotation>', "line", 2),
    ],
)
def test_types(annotation: str, kind: str, n: int) -> None:
    (mark,) = read(view(annotation)).marks
    assert (mark.kind, len(mark.rings[0])) == (kind, n)


def test_a_circle_is_round_on_the_glass() -> None:
    x, y = nm(100, 50)
    circle = f'<annotation type="circle"><x>{x}</x><y>{y}</y><radius>-5000</radius></annotation>'
    (mark,) = read(view(circle)).marks
    shape = Polygon(mark.rings[0])
    assert shape.bounds == pytest.approx((80, 40, 120, 60))
    assert shape.area == pytest.approx(np.pi * 20 * 10, rel=1e-3)


def test_holes() -> None:
    source = read(
        view(SQUARE),
        view(SQUARE, "tumour (hole)"),
        view(SQUARE, "(hole)"),
        view(SQUARE, "a(hole)"),
        view(SQUARE, ""),
    )
    assert [(m.class_name, m.is_negative, m.layer) for m in source.marks] == [
        ("tumour", False, "tumour"),
        ("tumour", True, "tumour"),
        ("", True, "unclassified"),
        ("a(hole)", False, "a(hole)"),
        ("", False, "unclassified"),
    ]


def test_what_cannot_be_read_is_said() -> None:
    source = read(
        view('<annotation type="blob"/>'),
        view(freehand(), ""),
        view(SQUARE, units="pixels"),
        view("", units="miles"),
    )
    assert source.dropped == (
        'view 1 "tumour" dropped: its type "blob" is not known',
        "view 2 dropped: it has no points",
    )
    assert source.messages == (
        '1 view counts in "pixels"; read as nanometers, so check where they lie',
        '1 view counts in "miles"; read as nanometers, so check where they lie',
    )


def test_numbers_that_are_none() -> None:
    text = (
        '<annotation type="freehand"><pointlist><point><x>1,5</x></point><point><x>inf</x><y>a</y></point></pointlist>'
        "</annotation>"
    )
    marks = read(view(text), view('<annotation type="pin"/>'), view('<annotation type="circle"/>')).marks
    np.testing.assert_array_equal(marks[0].rings[0], [[(1.5 + 1e6) / 250 + 2000, np.nan], [np.inf, np.nan]])
    assert np.isnan(marks[1].rings[0]).all()
    assert np.isnan(marks[2].rings[0]).all()
    wild = '<annotation type="circle"><x>inf</x><y>1e308</y><radius>inf</radius></annotation>'
    assert not np.isfinite(read(view(wild)).marks[0].rings[0]).all()


@pytest.mark.parametrize("text", ["<Annotations/>", "<annotations><a/></annotations>", "<ndpviewstate/>"])
def test_other_documents_are_not_recognised(text: str) -> None:
    assert not NDPA.recognises(parse_xml(text.encode(), "a.xml"))


def written(annotations: Annotations, folder: Path, options: WriteOptions | None = None) -> SourceFile:
    assert NDPA.write is not None
    path = folder / "out.ndpa"
    NDPA.write(path, annotations, options or WriteOptions(slide=SLIDE))
    return read_text(path.read_text("utf-8"))


def test_round_trip(tmp_path: Path) -> None:
    donut = Polygon(box(0, 0, 10, 10).exterior.coords, [box(2, 2, 8.1, 8).exterior.coords])
    blob = Polygon(np.random.default_rng(3).uniform(0, 4000, (3, 2)))
    before = Annotations(
        regions=(
            Region("a", "tumour & co", blob, name="b<l>o&b µ"),
            Region("b", "tumour & co", MultiPolygon([donut, box(20, 0, 30, 10)]), name="two"),
            Region("c", "unclassified", donut),
            Region("d", "mark", MultiPoint([(1.5, 2.5), (3, 4)]), name="m"),
            Region("e", "mark", Point(7, 8)),
            Region("f", "line", LineString([(0, 0), (1, 1)])),
            Region("g", "line", LineString([(0, 0), (1, 1), (2, 0)])),
        ),
        format="x",
        colors={"mark": (1, 2, 255)},
    )
    source = written(before, tmp_path)
    assert [(m.kind, m.class_name, m.name, m.is_negative) for m in source.marks] == [
        ("area", "tumour & co", "b<l>o&b µ", False),
        ("area", "tumour & co", "two", False),
        ("area", "tumour & co", "two", True),
        ("area", "tumour & co", "two", False),
        ("area", "", "", False),
        ("area", "", "", True),
        ("points", "mark", "m", False),
        ("points", "mark", "m", False),
        ("points", "mark", "", False),
        ("line", "line", "", False),
        ("line", "line", "", False),
    ]
    # Whole nanometres: 0.002 px of 0.25 µm.
    np.testing.assert_allclose(source.marks[0].rings[0], np.array(blob.exterior.coords)[:-1], atol=0.002)
    np.testing.assert_allclose(source.marks[2].rings[0], np.array(donut.interiors[0].coords)[:-1], atol=0.002)
    assert [mark.rings[0].tolist() for mark in source.marks[6:]] == [
        [[1.5, 2.5]],
        [[3, 4]],
        [[7, 8]],
        [[0, 0], [1, 1]],
        [[0, 0], [1, 1], [2, 0]],
    ]
    assert source.colors == {
        "": before.color_of("unclassified"),
        **{name: before.color_of(name) for name in ("tumour & co", "mark", "line")},
    }
    assert (source.dropped, source.messages) == ((), ())
    assert [mark.id for mark in source.marks] == [str(i) for i in range(1, 12)]


def test_source_rings_and_nothing_at_all(tmp_path: Path) -> None:
    tie = np.array([[0.0, 0], [10, 10], [10, 0], [0, 10]])
    rings = (SourceRing(tie, is_hole=False), SourceRing(tie / 2, is_hole=True))
    regions = (
        Region("a", "t", box(0, 0, 9, 9), source=rings),
        Region("b", "t", box(0, 0, 9, 9), source=rings),
    )
    source = written(Annotations(regions, "x"), tmp_path, WriteOptions(slide=SLIDE, rings="source"))
    assert [mark.is_negative for mark in source.marks] == [False, True, False]
    assert source.marks[0].rings[0].tolist() == tie.tolist()
    assert written(Annotations((), "x"), tmp_path).marks == ()
    wild = (SourceRing(tie * 1e307, is_hole=False),)
    regions = (Region("a", "t", box(0, 0, 9, 9), source=wild),)
    assert (
        len(written(Annotations(regions, "x"), tmp_path, WriteOptions(slide=SLIDE, rings="source")).marks)
        == 1
    )
