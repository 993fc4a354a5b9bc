from __future__ import annotations

import threading
from time import perf_counter

import numpy as np
import pytest
from shapely.geometry import GeometryCollection, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations._region import Annotations, Region, SourceRing
from napari_histolatent.annotations.formats import _xml
from napari_histolatent.annotations.formats._format import WriteOptions
from napari_histolatent.annotations.formats._xml import (
    attribute,
    content,
    number_text,
    parse_xml,
    ring_from,
    shapes_to_write,
)
from napari_histolatent.errors import AnnotationError

NAN = float("nan")
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a0 "lol">'
    + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    + "]><lolz>&a11;</lolz>"
)


def refused(data: bytes) -> str:
    with pytest.raises(AnnotationError) as caught:
        parse_xml(data, "a.xml")
    message = str(caught.value)
    assert message.startswith("a.xml ")
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\r\n  ", b"\n\xef\xbb\xbf\n"])
def test_blanks_and_marks_before_the_declaration_are_passed_over(before: bytes) -> None:
    root = parse_xml(before + '<?xml version="1.0" encoding="UTF-8"?><a b="µ"/>'.encode(), "a.xml")
    assert (root.tag, root.get("b")) == ("a", "µ")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('<a b="µ"/>', "utf-8"),
        ('<?xml version="1.0" encoding="utf-16"?><a b="µ"/>', "utf-16"),
        ('<?xml version="1.0" encoding="utf-16"?><a b="µ"/>', "utf-16-le"),
        ('<?xml version="1.0"?><a b="µ"/>', "utf-16-be"),
        ('<?xml version="1.0" encoding="utf-16"?><a b="µ"/>', "utf-8"),  # as .NET writes it
        ('<?xml version="1.0" encoding="ISO-8859-1"?><a b="µ"/>', "latin-1"),
        ("<?xml version='1.0' encoding='windows-1252'?><a b='µ'/>", "cp1252"),
        ('<?xml version="1.0" encoding="shift_jis"?><a b="µ"/>', "shift_jis"),
    ],
)
def test_encodings(text: str, encoding: str) -> None:
    if encoding == "shift_jis":
        text = text.replace("µ", "腫瘍")
    assert parse_xml(text.encode(encoding), "a.xml").get("b") in ("µ", "腫瘍")


def test_chunks_are_joined() -> None:
    names = [f"n{i}é" for i in range(20_000)]
    text = "<r>" + "".join(f'<e n="{name}"/>' for name in names) + "</r>"
    assert [e.get("n") for e in parse_xml(text.encode(), "a.xml")] == names


@pytest.mark.parametrize("data", [b"", b"  \n", b"\xef\xbb\xbf\n"])
def test_empty(data: bytes) -> None:
    assert "is empty" in refused(data)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'<?xml version="1.0"?>\n', 2),
        (b"<a>\n<b>\n", 3),
        (b"<a>\n<b x=", 2),
        (b'<a>\n<b/>\n<b x="1', 3),
        ("<a>\n<b x='µ".encode()[:-1], 2),
        (b"\n\n<a>\n<b x=", 4),
    ],
)
def test_truncated(data: bytes, line: int) -> None:
    assert f"breaks off in line {line} (" in refused(data)


def test_latin_1_under_the_name_of_utf_8() -> None:
    data = '<?xml version="1.0" encoding="utf-8"?>\n<a>\n<b n="Müller"/></a>'.encode("latin-1")
    assert "in line 3 that is not UTF-8 (byte 0xFC)" in refused(data)


def test_utf_16_broken_off() -> None:
    assert "not in the encoding utf-16" in refused("<a>ü</a>".encode("utf-16")[:-1])


def test_unknown_encoding() -> None:
    assert '"klingon", which is not known' in refused(b'<?xml version="1.0" encoding="klingon"?><a/>')
    assert '"hex", which is not known' in refused(b'<?xml version="1.0" encoding="hex"?><a/>')


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{}", "a.xml is not XML ("),
        (b"<a>\n<b></a>", "in line 2, column 6 (mismatched tag)"),
        (b"<a/><a/>", "line 1, column 5 (junk after document element)"),
        (b"<a>&nbsp;</a>", "(undefined entity"),
        (b"<a b='1' b='2'/>", "(duplicate attribute)"),
        (b"<a>\0</a>", "(not well-formed (invalid token))"),
        (b"\0\0\0\0", "a.xml"),
        (bytes(range(256)), "a.xml"),
    ],
)
def test_not_well_formed(data: bytes, said: str) -> None:
    assert said in refused(data)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        '<!DOCTYPE lolz [<!ENTITY x SYSTEM "file:///etc/passwd">]><lolz>&x;</lolz>',
        '<!DOCTYPE lolz SYSTEM "http://127.0.0.1:9/x.dtd"><lolz/>',
        '<!DOCTYPE lolz PUBLIC "-//a//b" "c"><lolz/>',
        '<?xml version="1.0"?><!DOCTYPE lolz><lolz/>',
        f'<!DOCTYPE lolz [<!ENTITY q "{"q" * 100_000}">]><lolz>{"&q;" * 100_000}</lolz>',
        f"<!--{'-x' * 200_000}--><!DOCTYPE lolz [<!ENTITY % p SYSTEM 'a'> %p;]><lolz/>",
    ],
    ids=["bomb", "external", "system", "public", "bare", "quadratic", "behind a comment"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused_at_once(text: str, encoding: str) -> None:
    began = perf_counter()
    assert "declares a document type (DOCTYPE lolz)" in refused(text.encode(encoding))
    assert perf_counter() - began < 2


def test_a_document_type_behind_the_root_is_not_well_formed() -> None:
    assert "not well-formed" in refused(b'<a><!DOCTYPE x [<!ENTITY e "1">]></a>')
    assert "not well-formed" in refused(b'<a/><!DOCTYPE x [<!ENTITY e "1">]>')


@pytest.mark.parametrize("depth", [65, 200_000])
def test_deep_nesting(depth: int) -> None:
    assert "more than 64 deep" in refused(b"<a>" * depth + b"</a>" * depth)


def test_depth_of_64_is_read() -> None:
    assert parse_xml(b"<a>" * 64 + b"</a>" * 64, "a.xml").tag == "a"


def test_too_many_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_xml, "_MAX_ELEMENTS", 4)
    assert len(parse_xml(b"<a><b/><b/><b></b></a>", "a.xml")) == 3
    assert "has 5 XML elements, more than the 4" in refused(b"<a><b/><b/><b/><b></b></a>")


def test_other_threads_run_meanwhile() -> None:
    data = b"<r>" + b'<e x="1.5" y="2.5"/>' * 300_000 + b"</r>"
    ticks = 0
    done = threading.Event()

    def parse() -> None:
        parse_xml(data, "a.xml")
        done.set()

    thread = threading.Thread(target=parse)
    thread.start()
    while not done.wait(0.001):
        ticks += 1
    thread.join()
    assert ticks >= 5


def test_ring_from_takes_what_a_number_can_look_like() -> None:
    ring = ring_from(["1.5", "1,5", None, " 7 ", "1e3"], ["inf", "x", "", "nan", "-2"])
    np.testing.assert_array_equal(ring, [[1.5, np.inf], [1.5, NAN], [NAN, NAN], [7, NAN], [1000, -2]])
    assert ring_from([], []).shape == (0, 2)


def test_number_text_gives_the_same_float_again() -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7e308, 123456.75, -0.001, 2.0**53, 79581.2031]
    assert [float(number_text(v)) for v in values] == values
    assert [number_text(v) for v in (12.0, -3.0, 0.5)] == ["12", "-3", "0.5"]


def test_texts_are_escaped_and_cleaned() -> None:
    nasty = "a<b>&\"c'\t\n\r\x00\x0b\ud800\uffffµ😀"
    root = parse_xml(f"<a b={attribute(nasty)}>{content(nasty)}</a>".encode(), "a.xml")
    assert root.get("b") == root.text == "a<b>&\"c'\t\n\rµ😀"


def test_shapes_come_in_order_holes_behind_their_outline() -> None:
    donut = Polygon(box(0, 0, 10, 10).exterior.coords, [box(2, 2, 4, 4).exterior.coords])
    region = Region(
        "1", "t", GeometryCollection([MultiPolygon([donut, box(20, 0, 30, 10)]), Point(1, 2), Polygon()])
    )
    shapes = list(
        shapes_to_write(Annotations((region,), "x"), WriteOptions(offset_xy=(100, 200)), holes_cut_all=True)
    )
    assert [shape.kind for shape in shapes] == ["outline", "hole", "outline", "points"]
    assert [len(shape.xy) for shape in shapes] == [4, 4, 4, 1]
    assert shapes[3].xy.tolist() == [[101, 202]]


@pytest.mark.parametrize(("cut_all", "n_holes"), [(True, 1), (False, 2)])
def test_a_shared_source_hole_is_written_once(cut_all: bool, n_holes: int) -> None:
    outline = SourceRing(np.array([[0, 0], [9, 0], [np.nan, 3], [9, 9]]), is_hole=False)
    hole = SourceRing(np.array([[2.0, 2], [4, 2], [4, 4]]), is_hole=True)
    regions = [
        Region("1", "t", box(0, 0, 9, 9), source=(outline, hole)),
        Region("2", "t", box(0, 0, 9, 9), source=(outline, hole)),
        Region("3", "s", box(0, 0, 9, 9), source=(outline, SourceRing(hole.xy.copy(), is_hole=True))),
        Region("4", "s", box(0, 0, 1, 1)),
    ]
    annotations = Annotations(tuple(regions), "x")
    shapes = list(shapes_to_write(annotations, WriteOptions(rings="source"), holes_cut_all=cut_all))
    assert [s.kind for s in shapes].count("hole") == n_holes
    assert [s.kind for s in shapes].count("outline") == 4
    assert shapes[0].xy.tolist() == [[0, 0], [9, 0], [9, 9]]  # without what is no number
    repaired = list(shapes_to_write(annotations, WriteOptions(), holes_cut_all=cut_all))
    assert [s.kind for s in repaired] == ["outline"] * 4
