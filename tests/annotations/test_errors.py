"""Files that are broken, hostile or odd: a sentence with file and element, or a message, never a silent loss."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_histolatent.annotations import Annotations, read_annotations, write_annotations
from napari_histolatent.errors import AnnotationError
from tests.annotations.texts import JSON, SLIDE, SQUARE, WRITERS, asap, geojson
from tests.slides.test_every_file import is_one_sentence

if TYPE_CHECKING:
    from pathlib import Path

NAN, INF = float("nan"), float("inf")
FORMATS = sorted(WRITERS)
XML = [name for name in FORMATS if name not in JSON]
# The element of a file's second shape, as messages call it.
SECOND = {
    "asap-xml": 'annotation 2 "shape 1"',
    "imagescope-xml": 'region 2 of layer 1 "tumour"',
    "halo-annotations": 'region 2 of layer 1 "tumour"',
    "ndpa": 'view 2 "tumour"',
    "qupath-geojson": 'feature 2 "shape 1"',
    "ncrf-json": 'positive 2 "shape 1"',
    "darwin-json": 'annotation 2 "tumour"',
}
BOW_TIE = [(0, 0), (10, 10), (10, 0), (0, 10)]
BAD_POINTS: list[tuple[Any, Any]] = [(NAN, 5), (5, NAN), (INF, 5), (5, -INF), ("", 5), ("x", "y"), (1e12, 5)]


def put(folder: Path, name: str, *shapes: Any) -> Path:
    suffix, text = WRITERS[name]
    path = folder / f"a{suffix}"
    path.write_text(text(*shapes), encoding="utf-8")
    return path


def read(path: Path) -> Annotations:
    annotations = read_annotations(path, slide=SLIDE)
    assert all(region.geometry.is_valid for region in annotations.regions)
    assert all(region.geometry.area > 0 for region in annotations.regions if region.is_area)
    return annotations


def sentence_of(path: Path) -> str:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path, slide=SLIDE)
    text = str(caught.value)
    assert is_one_sentence(text), text
    assert path.name in text
    return text


def areas(annotations: Annotations) -> list[float]:
    return [round(region.geometry.area, 6) for region in annotations.regions]


# Whole files


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_truncated(tmp_path: Path, name: str, share: float) -> None:
    path = put(tmp_path, name, *[SQUARE] * 20)
    data = path.read_bytes().rstrip()
    assert len(read(path).regions) == 20
    path.write_bytes(data[: int(len(data) * share)])
    assert any(word in sentence_of(path) for word in ("breaks off in line", "is cut off"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_real_size_file_without_its_last_byte(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, *[SQUARE] * 2000)
    path.write_bytes(path.read_bytes().rstrip()[:-1])
    sentence_of(path)


@pytest.mark.parametrize("suffix", [".xml", ".geojson", ".annotations", ".ndpa", ".json", ".csv", ".tif"])
@pytest.mark.parametrize("data", [b"", b" \r\n\t ", b"\xef\xbb\xbf"])
def test_empty(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    assert sentence_of(path) == f"a{suffix} is empty; export the annotations again."


@pytest.mark.parametrize("name", FORMATS)
def test_no_shape_at_all_is_an_empty_file_of_its_format(tmp_path: Path, name: str) -> None:
    if name == "halo-annotations":
        pytest.skip("without a region, nothing tells HALO's file from ImageScope's")
    annotations = read(put(tmp_path, name))
    assert (annotations.format, annotations.elements, annotations.regions) == (name, 0, ())


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_encoding(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, SQUARE)
    text = path.read_text(encoding="utf-8").replace("tumour", "Drüse").replace("shape 0", "Drüse")
    text = text.replace('version="1.0"?', 'version="1.0" encoding="UTF-8"?')
    path.write_bytes(text.encode("latin-1"))
    assert "UTF-8" in sentence_of(path)
    path.write_bytes(text.encode("utf-8-sig"))
    annotations = read(path)
    assert "Drüse" in {annotations.regions[0].class_name, annotations.regions[0].name}


@pytest.mark.parametrize("encoding", [b"klingon", b"hex", b"undefined", b"a\0b", b"idna"])
def test_an_encoding_that_is_none(tmp_path: Path, encoding: bytes) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(
        b'<?xml version="1.0" encoding="' + encoding + b'"?><ASAP_Annotations>\xff</ASAP_Annotations>'
    )
    with pytest.raises(AnnotationError, match=r"^a\.xml "):
        read_annotations(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<html><body>404</body></html>", "XML with the root <html>"),
        ("<svg/>", "XML with the root <svg>"),
        ('{"a": 1}', "JSON (a)"),
        ('{"type": "Topology"}', "JSON (type)"),
        ("[1, 2]", "JSON (list)"),
        ("PK\x03\x04", "neither XML, JSON, TIFF nor a table of points"),
        ("hello", "neither XML, JSON, TIFF nor a table of points"),
        ("null", "neither XML, JSON, TIFF nor a table of points"),
    ],
)
def test_wrong_root(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(content)
    assert sentence_of(path).startswith(
        f"a.xml is {what}, but none of the annotation formats that are read: ASAP XML, "
    )


def test_a_picture_is_no_mask(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    assert sentence_of(path).startswith("a.tif is a TIFF that is no label mask, but none of")
    path.write_bytes(path.read_bytes()[:60])
    sentence_of(path)


# Which file


def test_a_missing_file_a_folder_a_pipe_and_a_link_to_nowhere(tmp_path: Path) -> None:
    assert "a.xml does not exist; give the path of an annotation file (ASAP XML, " in sentence_of(
        tmp_path / "a.xml"
    )
    assert " is a folder; give the path" in sentence_of(tmp_path)
    (tmp_path / "b.xml").symlink_to(tmp_path / "gone")
    assert "b.xml does not exist; give" in sentence_of(tmp_path / "b.xml")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "c.xml")
        assert "c.xml is no regular file; give" in sentence_of(tmp_path / "c.xml")


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(1 << 30)  # takes no space on the disk
    began = time.monotonic()
    assert "has 1,073,741,824 bytes, more than the 536,870,912 that can be read; split it." in sentence_of(
        path
    )
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", FORMATS)
def test_the_content_tells_the_format_whatever_the_suffix(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, SQUARE)
    other = path.rename(tmp_path / "a.dat")
    assert read(other).format == name


# Numbers


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bad", BAD_POINTS)
def test_a_vertex_that_is_no_place_is_left_out_and_said(tmp_path: Path, name: str, bad: Any) -> None:
    annotations = read(put(tmp_path, name, SQUARE, [*SQUARE, bad], SQUARE))
    assert areas(annotations) == [100, 100, 100]
    assert (annotations.elements, annotations.dropped, annotations.repaired) == (3, 0, 1)
    assert (
        f"{SECOND[name]}: 1 of 5 points were left out, their coordinates are no numbers"
        in annotations.messages
    )
    assert [len(region.source) for region in annotations.regions] == [0, 1, 0]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bad", [NAN, INF, "x"])
def test_a_shape_without_places_is_dropped_and_said(tmp_path: Path, name: str, bad: Any) -> None:
    annotations = read(put(tmp_path, name, SQUARE, [(bad, 1), (2, bad), (bad, bad), (1, 1)], SQUARE))
    assert areas(annotations) == [100, 100]
    assert (annotations.elements, annotations.dropped) == (3, 1)
    assert annotations.messages == (
        f"{SECOND[name]} dropped: 1 point that differ enclose no area "
        "(3 of 4 have coordinates that are no numbers)",
    )


@pytest.mark.parametrize("name", FORMATS)
def test_decimal_commas(tmp_path: Path, name: str) -> None:
    square = [("100,5", "100,25"), ("110,5", "100,25"), ("110,5", "110,25"), ("100,5", "110,25")]
    annotations = read(put(tmp_path, name, square))
    (region,) = annotations.regions
    assert region.geometry.bounds == (100.5, 100.25, 110.5, 110.25)
    assert (annotations.repaired, annotations.dropped, annotations.messages) == (0, 0, ())


def test_numbers_that_json_has_not(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(geojson([*SQUARE, (1e300, 7)]).replace("1e+300", "1e999"))
    assert areas(read(path)) == [100]
    path.write_text(geojson([*SQUARE, (7, 7)]).replace("[7, 7]", f"[7, {'9' * 400}]"))
    assert areas(read(path)) == [100]
    path.write_text(geojson([*SQUARE, (7, 7)]).replace("[7, 7]", f"[7, {'9' * 5000}]"))
    assert "holds a whole number of thousands of digits" in sentence_of(path)


def test_half_a_character_in_a_text(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(geojson([*SQUARE, (NAN, 7)]).replace("shape 0", r"\ud800"))
    assert "half a character" in sentence_of(path)


# Outlines


@pytest.mark.parametrize("name", FORMATS)
def test_closed_and_unclosed_rings_are_the_same(tmp_path: Path, name: str) -> None:
    for ring in (SQUARE, [*SQUARE, SQUARE[0]]):
        annotations = read(put(tmp_path, name, ring))
        assert areas(annotations) == [100]
        assert (annotations.repaired, annotations.tidied, annotations.messages) == (0, 0, ())
        assert annotations.regions[0].source == ()


@pytest.mark.parametrize("name", FORMATS)
def test_a_self_crossing_ring_keeps_both_lobes_and_is_reported(tmp_path: Path, name: str) -> None:
    annotations = read(put(tmp_path, name, SQUARE, BOW_TIE))
    assert areas(annotations) == [100, 50]
    assert (annotations.repaired, annotations.dropped) == (1, 0)
    (repair,) = annotations.repairs
    assert (repair.where, repair.area_before_px, round(repair.area_after_px, 6)) == (SECOND[name], 0, 50)
    assert [ring.xy.tolist() for ring in annotations.regions[1].source] == [[list(p) for p in BOW_TIE]]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([(3, 3)], "1 point that differ enclose no area"),
        ([(3, 3)] * 5, "1 point that differ enclose no area"),
        ([(0, 0), (10, 0)], "2 points that differ enclose no area"),
        ([(0, 0), (10, 0), (0, 0)], "2 points that differ enclose no area"),
        ([(0, 0), (10, 0), (10.001, 0), (0, 0)], "2 points that differ enclose no area"),
        ([(0, 0), (10, 0), (0, 0), (10, 0)], "its outline covers no area"),
        ([(0, 0), (10, 0), (5, 0)], "its outline covers no area"),
        ([(0, 0), (10, 10), (20, 20), (5, 5)], "its outline covers no area"),
    ],
)
def test_no_area_is_dropped_and_said(tmp_path: Path, name: str, points: Any, why: str) -> None:
    annotations = read(put(tmp_path, name, SQUARE, points, SQUARE))
    assert areas(annotations) == [100, 100]
    assert (annotations.elements, annotations.dropped) == (3, 1)
    assert annotations.messages == (f"{SECOND[name]} dropped: {why}",)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "darwin-json"])
def test_a_shape_of_no_points_is_dropped_and_said(tmp_path: Path, name: str) -> None:
    annotations = read(put(tmp_path, name, SQUARE, [], SQUARE))
    assert areas(annotations) == [100, 100]
    assert (annotations.elements, annotations.dropped) == (3, 1)
    assert annotations.messages[0].startswith(f"{SECOND[name]} dropped: ")


@pytest.mark.parametrize("name", ["asap-xml", "qupath-geojson"])
def test_a_million_vertices(tmp_path: Path, name: str) -> None:
    angles = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    ring = np.column_stack([20_000 + 9_000 * np.cos(angles), 15_000 + 9_000 * np.sin(angles)])
    path = put(tmp_path, name, ring.round(3).tolist())
    began = time.monotonic()
    annotations = read(path)
    assert time.monotonic() - began < 30
    assert areas(annotations) == [pytest.approx(np.pi * 9_000**2, rel=1e-6)]
    assert annotations.dropped == 0


@pytest.mark.parametrize("step", [0.0, 1e-6, 0.006])
def test_a_million_vertices_that_hardly_differ(tmp_path: Path, step: float) -> None:
    """A pen that rested: comparing each point with those before it would take hours."""
    rest = np.column_stack([10 - step * np.arange(200_000), np.full(200_000, 10.0)])
    path = put(tmp_path, "qupath-geojson", [(0, 0), (10, 0), *rest.tolist(), (rest[-1, 0], 20.0)])
    began = time.monotonic()
    annotations = read(path)
    assert time.monotonic() - began < 10
    assert len(annotations.regions) == 1
    assert annotations.tidied + annotations.repaired == 1


# Groups and ids


def test_a_group_that_is_not_declared_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(asap(SQUARE, group="lost"))
    annotations = read(path)
    assert [region.class_name for region in annotations.regions] == ["lost"]
    assert annotations.messages == (
        "group lost is not declared in the file, but 1 annotation of it is there",
    )


@pytest.mark.parametrize(
    "name", ["imagescope-xml", "halo-annotations", "ndpa", "qupath-geojson", "darwin-json"]
)
def test_ids_that_occur_twice_are_made_unique_and_said(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, SQUARE, SQUARE, SQUARE)
    text = path.read_text()
    for old in ('<Region Id="1"', 'state id="1"', '"f1"', '"d1"'):
        text = text.replace(old, old.replace("1", "0"))
    path.write_text(text)
    annotations = read(path)
    ids = [region.id for region in annotations.regions]
    assert len(set(ids)) == 3
    assert ids[1].startswith(f"{path.name}#")
    (said,) = annotations.messages
    assert said == f"1 ids occur more than once (such as {ids[0]}): the later ones got new ids"


def test_ids_of_a_table_that_occur_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,x,y\n7,1,2\n7,3,4\n")
    annotations = read(path)
    assert annotations.regions[0].id == "7"
    assert annotations.regions[1].id.startswith("a.csv#")
    assert len(annotations.messages) == 1


# Hostile files

BOMB = '<!DOCTYPE bomb [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize("name", XML)
def test_billion_laughs(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, SQUARE)
    text = path.read_text().replace("?>\n", f"?>\n{BOMB}]>", 1).replace("tumour", "&j;")
    path.write_text(text)
    began = time.monotonic()
    assert "declares a document type (DOCTYPE bomb)" in sentence_of(path)
    assert time.monotonic() - began < 1


def test_another_file_is_not_drawn_in(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "a.xml"
    entity = f'<!DOCTYPE x [<!ENTITY s SYSTEM "{(tmp_path / "secret").as_uri()}">]>'
    path.write_text(asap(SQUARE).replace("?>\n", f"?>\n{entity}", 1).replace("shape 0", "&s;"))
    assert "declares a document type" in sentence_of(path)


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_json_nested_5000_deep(tmp_path: Path, name: str, brackets: str) -> None:
    path = put(tmp_path, name, SQUARE)
    opening = "[" if brackets == "[]" else '{"a":'
    deep = opening * 5000 + "1" + brackets[1] * 5000
    path.write_text(path.read_text().replace('"tumour"', deep).replace('"shape 0"', deep))
    assert "levels deep, more than the 64 that annotations need" in sentence_of(path)
    path.write_text(opening * 5000 + brackets[1] * 5000)
    assert "is nested 5,000 levels deep" in sentence_of(path)


def test_xml_nested_5000_deep(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text("<ASAP_Annotations>" + "<a>" * 5000 + "</a>" * 5000 + "</ASAP_Annotations>")
    assert "nests its XML elements more than 64 deep" in sentence_of(path)


# Nothing is lost without a word


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_read_and_what_is_dropped_are_the_elements(tmp_path: Path, name: str) -> None:
    bad = [[(0, 0), (9, 0)], [(NAN, 0)] * 4, [(0, 0), (9, 0), (3, 0)]]
    good = [SQUARE, BOW_TIE, [*SQUARE, (0, 10)]]
    annotations = read(put(tmp_path, name, *good, *bad, *good))
    assert annotations.elements == len(annotations.regions) + annotations.dropped == 9
    assert len([said for said in annotations.messages if " dropped: " in said]) == annotations.dropped == 3
    assert (annotations.repaired, annotations.tidied) == (2, 2)


def test_a_part_that_is_lost_is_said_and_its_region_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    line = [[[0, 0], [5, 0], [0, 0]]]
    two = {"type": "MultiPolygon", "coordinates": [[[[0, 0], [10, 0], [10, 10]]], line]}
    none = {"type": "MultiPolygon", "coordinates": [line, line]}
    path.write_text(json.dumps([{"type": "Feature", "geometry": v, "properties": {}} for v in (two, none)]))
    annotations = read(path)
    assert (annotations.elements, len(annotations.regions), annotations.dropped) == (2, 1, 1)
    assert set(annotations.messages) == {
        "feature 1: a part of it was left out, 2 points that differ enclose no area",
        "feature 2 dropped: 2 points that differ enclose no area",
    }
    assert annotations.repaired == 1
    assert len(annotations.regions[0].source) == 2


def test_a_hole_over_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(asap(SQUARE, group="negative"))
    annotations = read(path)
    assert (annotations.elements, annotations.regions) == (1, ())
    assert 'annotation 1 "shape 0" (negative) is a hole over no region: left out' in annotations.messages


@pytest.mark.parametrize(
    "document", [{"annotations": [], "item": "x", "image": {}}, {"annotations": [3], "image": {}}]
)
def test_darwin_without_its_item(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    annotations = read(path)
    assert (len(annotations.regions), annotations.dropped) == (0, len(document["annotations"]))


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    source = put(tmp_path, "asap-xml", SQUARE)
    annotations = read(source)
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(AnnotationError, match="A table of points cannot hold the 1 areas"):
        write_annotations(out, annotations)
    assert out.read_text() == "mine"
    before = source.read_bytes()
    with pytest.raises(
        AnnotationError, match="is the file the regions were imported from, and stays as it is"
    ):
        write_annotations(source, annotations, imported_from=[source])
    assert source.read_bytes() == before
    assert sorted(v.name for v in tmp_path.iterdir()) == ["a.xml", "out.csv"]
