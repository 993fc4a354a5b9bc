from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box, shape

from napari_histolatent.annotations._region import Annotations, Region, SourceRing
from napari_histolatent.annotations.formats import _json
from napari_histolatent.annotations.formats._format import WriteOptions
from napari_histolatent.annotations.formats._geojson import GEOJSON
from napari_histolatent.annotations.formats._json import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations._marks import SourceFile

NAN = float("nan")
RING = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
SQUARE = {"type": "Polygon", "coordinates": [RING]}


def feature(geometry: Any = SQUARE, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "f1", "geometry": geometry, "properties": properties}


def read(document: Any) -> SourceFile:
    assert GEOJSON.recognises(document)
    return GEOJSON.read(document, None)


def write(path: Path, *regions: Region, **options: Any) -> Any:
    assert GEOJSON.write is not None
    GEOJSON.write(
        path, Annotations(regions, format="drawn", colors={"a": (1, 2, 3)}), WriteOptions(**options)
    )
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [feature()]},
        {"type": "FeatureCollection", "features": [SQUARE]},
        [feature()],
        [SQUARE],
        feature(),
        SQUARE,
        {"type": "GeometryCollection", "geometries": [SQUARE]},
    ],
)
def test_every_form_of_document_is_read(document: Any) -> None:
    (mark,) = read(document).marks
    assert (mark.kind, mark.where, mark.part_of) == ("area", "feature 1", "")
    assert [ring.tolist() for ring in mark.rings] == [RING]


@pytest.mark.parametrize("document", [[], {"type": "FeatureCollection", "features": []}])
def test_no_regions_are_no_error(document: Any) -> None:
    assert read(document).marks == ()


@pytest.mark.parametrize(
    "document",
    [{}, {"a": 1}, 3, None, "text", [1], {"type": "Topology"}, {"type": "FeatureCollection"}, {"type": []}],
)
def test_other_json_is_not_recognised(document: Any) -> None:
    assert not GEOJSON.recognises(document)


@pytest.mark.parametrize(
    ("geometry", "kind", "rings"),
    [
        ({"type": "Polygon", "coordinates": [RING, HOLE, []]}, "area", [RING, HOLE]),
        ({"type": "Polygon", "coordinates": [[[*p, 7] for p in RING]]}, "area", [RING]),
        ({"type": "Polygon", "coordinates": [[[0, 0, 1], [1, 0], [1, 1]]]}, "area", [[[0, 0], [1, 0], [1, 1]]]),
        ({"type": "Polygon", "coordinates": [[["12,5", "1"], [2, 3], [4, 5]]]}, "area", [[[12.5, 1], [2, 3], [4, 5]]]),
        ({"type": "MultiPolygon", "coordinates": [[RING]]}, "area", [RING]),
        ({"type": "Point", "coordinates": [3, 4]}, "points", [[[3, 4]]]),
        ({"type": "MultiPoint", "coordinates": [[3, 4], [5, 6]]}, "points", [[[3, 4], [5, 6]]]),
        ({"type": "LineString", "coordinates": [[3, 4], [5, 6]]}, "line", [[[3, 4], [5, 6]]]),
        ({"type": "MultiLineString", "coordinates": [[[3, 4], [5, 6]], [[0, 0], [1, 1]]]}, "line",
         [[[3, 4], [5, 6]], [[0, 0], [1, 1]]]),
    ],
)  # fmt: skip
def test_every_kind_of_shape(geometry: dict[str, Any], kind: str, rings: Any) -> None:
    (mark,) = read(feature(geometry)).marks
    assert (mark.kind, mark.part_of) == (kind, "")
    assert [ring.tolist() for ring in mark.rings] == rings
    assert all(ring.dtype == np.float64 for ring in mark.rings)


def test_the_parts_of_a_multipolygon_are_one_region() -> None:
    many = {"type": "MultiPolygon", "coordinates": [[RING, HOLE], [HOLE]]}
    marks = read([feature(many), feature(many)]).marks
    assert [len(mark.rings) for mark in marks] == [2, 1, 2, 1]
    assert marks[0].part_of == marks[1].part_of != ""
    assert len({mark.part_of for mark in marks}) == 2


def test_of_a_collection_the_areas_are_read_and_the_rest_is_told() -> None:
    members = [
        SQUARE,
        {"type": "Point", "coordinates": [1, 1]},
        {"type": "GeometryCollection", "geometries": [SQUARE]},
    ]
    source = read(feature({"type": "GeometryCollection", "geometries": members}))
    assert len(source.marks) == 2
    assert source.marks[0].part_of == source.marks[1].part_of != ""
    assert len(source.messages) == 1
    assert source.messages[0].startswith("1 points and lines")


@pytest.mark.parametrize(
    ("classification", "class_name", "color"),
    [
        ({"name": "Tumor", "color": [200, 0, 30]}, "Tumor", (200, 0, 30)),
        ({"name": "Tumor"}, "Tumor", None),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive", (1, 2, 3)),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", (200, 0, 0)),
        ({"name": "Positive", "colorRGB": -1, "parentClass": {"name": "Tumor"}}, "Tumor: Positive", (255, 255, 255)),
        ({"name": "Tumor: Positive", "parentClass": {"name": "Tumor"}}, "Tumor: Positive", None),
        ({"name": "Tumor", "color": "red"}, "Tumor", None),
        ({"name": "Tumor", "color": [1, 2]}, "Tumor", None),
        ("Tumor", "Tumor", None),
        ("", "", None), ({}, "", None), ({"name": None}, "", None), ({"names": []}, "", None), (None, "", None), (7, "", None),
    ],
)  # fmt: skip
def test_every_form_of_a_classification(classification: Any, class_name: str, color: Any) -> None:
    source = read(feature(classification=classification))
    assert source.marks[0].class_name == class_name
    assert source.colors.get(class_name) == color


def test_name_id_and_own_color_are_kept() -> None:
    old = {**feature(name="old", color=-16711936), "id": "PathAnnotationObject"}
    marks = read([feature(name="gland 3", color=[9, 8, 7]), old]).marks
    assert [(m.name, m.id, m.color, m.where) for m in marks] == [
        ("gland 3", "f1", (9, 8, 7), 'feature 1 "gland 3"'),
        ("old", "", (0, 255, 0), 'feature 2 "old"'),
    ]


@pytest.mark.parametrize("place", ["feature", "properties"])
def test_hierarchies_are_read_and_their_root_is_no_loss(place: str) -> None:
    children = [
        feature(name="child"),
        {**feature(None, name="bad"), "childObjects": [feature(name="grandchild")]},
    ]
    root = feature(None, objectType="root")
    (root if place == "feature" else root["properties"])["childObjects"] = children
    source = read(root)
    assert [mark.where for mark in source.marks] == ['feature 1.1 "child"', 'feature 1.2.1 "grandchild"']
    assert source.dropped == ('feature 1.2 "bad" dropped: it has no geometry',)


def test_nuclei_of_cells_are_left_out_and_counted() -> None:
    cell = {**feature(objectType="cell"), "nucleusGeometry": {"type": "Polygon", "coordinates": [HOLE]}}
    source = read([cell, cell, feature()])
    assert len(source.marks) == 3
    nuclei, kinds = source.messages
    assert nuclei.startswith("2 cells have a nucleus ")
    assert kinds == "2 cells come in as annotations"


@pytest.mark.parametrize("is_long", [False, True])
def test_what_qupath_knows_of_its_objects_and_we_do_not_keep_is_said(
    monkeypatch: pytest.MonkeyPatch, is_long: bool
) -> None:
    if is_long:
        monkeypatch.setattr(_json, "_BATCH_BYTES", 500)
    measured = {"measurements": {"Area µm^2": 12.5}}
    objects = [
        *[feature(objectType="detection", **measured)] * 11,
        {**feature(object_type="detection", measurements=[{"name": "a", "value": 1}]), "id": "x"},
        *[{**feature(measurements={}), "id": "PathCellObject"}] * 1200,
        *[feature(objectType="annotation", isLocked=True)] * 3,
        *[feature(objectType="annotation", isLocked=False, measurements=[])] * 9,
        feature(None, objectType="detection", **measured),
    ]
    document = parse_json(json.dumps({"type": "FeatureCollection", "features": objects}).encode(), "a")
    assert isinstance(document["features"][0]["geometry"]["coordinates"][0], np.ndarray) == is_long
    assert read(document).messages == (
        "12 detections and 1,200 cells come in as annotations; measurements of 12 objects are left out; "
        "3 locked objects are unlocked",
    )
    assert read(feature(objectType="tile", isLocked=True, **measured)).messages == (
        "1 tile comes in as an annotation; measurements of 1 object are left out; 1 locked object is unlocked",
    )
    assert read(feature(objectType="annotation", isLocked=False)).messages == ()


@pytest.mark.parametrize(
    "geometry",
    [
        None, {}, "text",
        {"type": "Circle", "coordinates": [0, 0]},
        {"type": ["Polygon"], "coordinates": [RING]},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [0, 0]}]},
        {"type": "Polygon"},
        *({"type": "Polygon", "coordinates": c} for c in (None, 5, "text", [], [[]], [1, 2, 3], [["ab"]])),
        {"type": "Polygon", "coordinates": [[[0, 0], [10], [10, 10], [0, 0]]]},
        {"type": "Polygon", "coordinates": [RING, [1, 2]]},
        {"type": "MultiPolygon", "coordinates": [RING]},
        *({"type": kind, "coordinates": []} for kind in ("Point", "MultiPoint", "LineString", "MultiPolygon")),
    ],
)  # fmt: skip
def test_a_feature_without_meaning_is_dropped_and_the_others_stay(geometry: Any) -> None:
    source = read([feature(geometry, name="bad"), feature(name="good")])
    assert [mark.name for mark in source.marks] == ["good"]
    assert len(source.dropped) == 1
    assert source.dropped[0].startswith('feature 1 "bad" dropped: ')


def test_numbers_that_are_none_are_left_to_the_repair() -> None:
    ring = [[0, 0], [NAN, 1], [None, 2], ["x", 3], [10**400, 4]]
    (mark,) = read(feature({"type": "Polygon", "coordinates": [ring]})).marks
    assert np.isfinite(mark.rings[0]).tolist() == [[True, True]] + [[False, True]] * 4


@pytest.mark.parametrize("bad", [1, None, "text", {}, []])
def test_an_entry_that_is_no_feature_is_dropped(bad: Any) -> None:
    source = read([bad, feature(name="good")])
    assert [mark.name for mark in source.marks] == ["good"]
    assert len(source.dropped) == 1


def test_real_files_against_a_count_of_their_own(data_dir: Path) -> None:
    folder = data_dir / "annotations" / "qupath"
    data = (folder / "qupath05_featurecollection.geojson").read_bytes()
    plain = json.loads(data)["features"]
    source = read(parse_json(data, "a"))
    assert [m.name for m in source.marks] == [f["properties"]["name"] for f in plain]
    assert [m.color for m in source.marks] == [tuple(f["properties"]["color"]) for f in plain]
    assert [[r.tolist() for r in m.rings] for m in source.marks] == [
        f["geometry"]["coordinates"] for f in plain
    ]
    data = (folder / "multipolygon_bare_geometry.geojson").read_bytes()
    marks = read(parse_json(data, "a")).marks
    assert [[ring.tolist() for ring in mark.rings] for mark in marks] == json.loads(data)["coordinates"]
    assert {mark.part_of for mark in marks} == {"feature 1"}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    regions = (
        Region(str(uuid.UUID(int=5, version=4)), "a", Polygon(RING, [HOLE]), name="first"),
        Region("2", "Tumor: Positive", MultiPolygon([box(0, 0, 1.5, 1), box(5, 5, 7, 0.1 + 0.2)])),
        Region("2", "Drüse µ", Point(1.25, 2)),
        Region("4", "unclassified", MultiPoint([(1, 2), (3, 4)])),
        Region("5", "a", LineString([(0, 0), (1, 1)])),
        Region("6", "a", MultiPolygon([box(0, 0, 1, 1)])),
    )
    document = write(tmp_path / "a.tmp", *regions)
    geometries = [shape(f["geometry"]) for f in document["features"]]
    assert [g.geom_type for g in geometries] == [
        "Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "Polygon",
    ]  # fmt: skip
    assert all(a.equals(b.geometry) for a, b in zip(geometries, regions, strict=True))
    ids = [f["id"] for f in document["features"]]
    assert ids[0] == regions[0].id
    assert len(set(ids)) == 6
    assert [str(uuid.UUID(i)) for i in ids] == ids
    assert write(tmp_path / "b.tmp", *regions) == document  # the same ids again
    source = read(parse_json((tmp_path / "a.tmp").read_bytes(), "a"))
    assert [m.class_name for m in source.marks if m.part_of == ""] == ["a", "Drüse µ", "", "a", "a"]
    assert source.colors["a"] == (1, 2, 3)
    assert source.marks[1].rings[0].tolist() == [list(p) for p in regions[1].polygons[0].exterior.coords]


def test_the_written_file_is_what_qupath_wants(tmp_path: Path) -> None:
    (written, without) = write(
        tmp_path / "a",
        Region("1", "other", box(0, 0, 2, 1.5), name="n"),
        Region("2", "unclassified", box(0, 0, 1, 1)),
    )["features"]
    assert written["properties"]["objectType"] == "annotation"
    assert written["properties"]["isLocked"] is False
    assert written["properties"]["classification"]["name"] == "other"
    assert len(written["properties"]["classification"]["color"]) == 3
    assert "classification" not in without["properties"]
    (ring,) = written["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert "[2,1.5]" in (tmp_path / "a").read_text()  # whole numbers as integers, the others in full


def test_an_offset_is_added(tmp_path: Path) -> None:
    (written,) = write(tmp_path / "a", Region("1", "a", box(0, 0, 2, 1)), offset_xy=(-10.5, 3.0))["features"]
    assert shape(written["geometry"]).bounds == (-10.5, 3, -8.5, 4)


def test_rings_as_the_file_had_them(tmp_path: Path) -> None:
    tie = [(0, 0), (10, 10), (10, 0), (0, 10)]
    far, hole = (
        np.array([(50, 50), (60, 50), (60, 60)], float),
        np.array([(52, 51), (53, 51), (53, 52)], float),
    )
    source = (
        SourceRing(np.array([*tie, (NAN, 1)], float), is_hole=False),
        SourceRing(far, is_hole=False),
        SourceRing(hole, is_hole=True),
    )
    region = Region("1", "a", box(0, 0, 1, 1), source=source)
    (written,) = write(tmp_path / "a", region, rings="source")["features"]
    assert written["geometry"]["type"] == "MultiPolygon"
    assert written["geometry"]["coordinates"] == [
        [[list(p) for p in [*tie, tie[0]]]],
        [[*ring.tolist(), ring[0].tolist()] for ring in (far, hole)],
    ]
    (repaired,) = write(tmp_path / "b", region)["features"]
    assert shape(repaired["geometry"]).equals(box(0, 0, 1, 1))


def test_many_regions_are_one_valid_document(tmp_path: Path) -> None:
    regions = [Region(str(i), f"class {i % 3}", box(i, 0, i + 1, 1.5)) for i in range(5000)]
    document = write(tmp_path / "a", *regions)
    assert len(document["features"]) == 5000
    read_back = read(parse_json((tmp_path / "a").read_bytes(), "a")).marks
    assert [m.rings[0][:, 0].min() for m in read_back] == list(range(5000))
    assert write(tmp_path / "b") == {"type": "FeatureCollection", "features": []}
