from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations import Annotations, Region, read_annotations, write_geojson
from napari_histolatent.annotations._geojson import annotations_from_geojson
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from pathlib import Path

NAN, INF = float("nan"), float("inf")
RING = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
SQUARE = {"type": "Polygon", "coordinates": [RING]}


def feature(geometry: Any = SQUARE, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "f1", "geometry": geometry, "properties": properties}


def parsed(document: Any) -> Annotations:
    return annotations_from_geojson(document, "a.geojson")


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [feature()]},
        [feature()],
        feature(),
        SQUARE,
    ],
    ids=["collection", "array", "feature", "geometry"],
)
def test_each_of_the_four_shapes_is_read(document: Any) -> None:
    annotations = parsed(document)
    assert annotations.format == "qupath-geojson"
    assert [region.geometry.equals(box(0, 0, 10, 10)) for region in annotations.regions] == [True]
    assert (annotations.repaired, annotations.dropped, annotations.messages) == (0, 0, ())


@pytest.mark.parametrize("document", [[], {"type": "FeatureCollection", "features": []}])
def test_no_regions_are_no_error(document: Any) -> None:
    assert parsed(document).regions == ()


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        ({"type": "Polygon", "coordinates": [RING, HOLE]}, Polygon(RING, [HOLE])),
        (
            {"type": "MultiPolygon", "coordinates": [[RING, HOLE], [[[20, 0], [30, 0], [30, 9], [20, 0]]]]},
            MultiPolygon([Polygon(RING, [HOLE]), Polygon([(20, 0), (30, 0), (30, 9)])]),
        ),
        ({"type": "Point", "coordinates": [3, 4]}, Point(3, 4)),
        ({"type": "MultiPoint", "coordinates": [[3, 4], [5, 6]]}, MultiPoint([(3, 4), (5, 6)])),
        ({"type": "LineString", "coordinates": [[3, 4], [5, 6]]}, LineString([(3, 4), (5, 6)])),
    ],
)
def test_every_kind_of_shape_keeps_its_form(geometry: dict[str, Any], expected: Any) -> None:
    (region,) = parsed(feature(geometry)).regions
    assert region.geometry.geom_type == expected.geom_type
    assert region.geometry.equals(expected)
    assert region.geometry.area == expected.area


@pytest.mark.parametrize(
    ("classification", "class_name", "color"),
    [
        ({"name": "Tumor", "color": [200, 0, 30]}, "Tumor", (200, 0, 30)),
        ({"name": "Tumor"}, "Tumor", None),
        ({"names": ["Tumor"], "color": [1, 2, 3]}, "Tumor", (1, 2, 3)),
        ({"names": ["Tumor", "Positive"]}, "Tumor: Positive", None),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", (200, 0, 0)),  # QuPath before 0.4
        ({"name": "Tumor", "color": "red"}, "Tumor", None),
        ({"name": "Tumor", "color": [1, 2]}, "Tumor", None),
        ("Tumor", "Tumor", None),
        ("", "unclassified", None),
        ({}, "unclassified", None),
        ({"name": None}, "unclassified", None),
        ({"names": []}, "unclassified", None),
        (None, "unclassified", None),
        (7, "unclassified", None),
    ],
)
def test_every_form_of_a_classification(
    classification: Any, class_name: str, color: tuple[int, int, int] | None
) -> None:
    annotations = parsed(feature(classification=classification))
    assert [region.class_name for region in annotations.regions] == [class_name]
    assert annotations.colors.get(class_name) == color


@pytest.mark.parametrize("properties", [None, [], "text", {}])
def test_properties_may_be_missing(properties: Any) -> None:
    (region,) = parsed({"type": "Feature", "geometry": SQUARE, "properties": properties}).regions
    assert (region.class_name, region.name, region.id) == ("unclassified", "", "a.geojson#1")


def test_name_and_id_are_kept() -> None:
    (region,) = parsed(feature(name="gland 3")).regions
    assert (region.name, region.id) == ("gland 3", "f1")


def test_a_bow_tie_keeps_both_lobes_and_is_reported() -> None:
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    annotations = parsed([feature(), feature(bow_tie, name="tie")])
    assert annotations.repaired == 1
    assert annotations.messages == ("feature 2 (tie) repaired: area 0 px² before, 50 px² after",)
    assert annotations.regions[1].geometry.is_valid
    assert annotations.regions[1].geometry.area == pytest.approx(50)


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {},
        "text",
        {"type": "Circle", "coordinates": [0, 0]},
        {"type": ["Polygon"], "coordinates": [RING]},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": None},
        {"type": "Polygon", "coordinates": 5},
        {"type": "Polygon", "coordinates": "text"},
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[]]},
        {"type": "Polygon", "coordinates": [1, 2, 3]},
        {"type": "Polygon", "coordinates": [[[0, 0], [10, 0]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [10], [10, 10], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[["a", "b"], [1, 1], [2, 2], [3, 0]]]},
        {"type": "Polygon", "coordinates": [[[3, 3], [3, 3], [3, 3], [3, 3]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [INF, 0], [10, 10], [0, 0]]]},
        {"type": "Point", "coordinates": [NAN, 1]},
        {"type": "Point", "coordinates": [None, 1]},
        # BUG: each of these ends in a traceback (shapely's GEOSException or OverflowError, or its warning),
        # so one bad feature costs the whole file.
        {"type": "Polygon", "coordinates": [[[0, 0], [NAN, 0], [10, 10], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [NAN, NAN], [0, 10], [0, 0]]]},
        {"type": "Polygon", "coordinates": [RING, [[2, 2], [4, 2], [4, NAN], [2, 2]]]},
        {"type": "LineString", "coordinates": [[0, 0], [NAN, 1]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [10**400, 0], [10, 10], [0, 0]]]},
        # BUG: a mark at no place at all is kept, with an empty geometry.
        {"type": "Point", "coordinates": []},
        {"type": "MultiPoint", "coordinates": []},
        {"type": "LineString", "coordinates": []},
    ],
)
def test_a_feature_without_meaning_is_dropped_and_the_others_stay(geometry: Any) -> None:
    annotations = parsed([feature(geometry, name="bad"), feature(name="good")])
    assert [region.name for region in annotations.regions] == ["good"]
    assert annotations.dropped == 1
    assert len(annotations.messages) == 1
    assert annotations.messages[0].startswith("feature 1 (bad) dropped: ")


@pytest.mark.parametrize("bad", [1, None, "text", {}, []])
def test_an_entry_that_is_no_feature_is_dropped(bad: Any) -> None:
    annotations = parsed([bad, feature(name="good")])
    assert [region.name for region in annotations.regions] == ["good"]
    assert annotations.dropped == 1


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"a": 1},
        3,
        None,
        "text",
        {"type": "Topology", "objects": {}},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "FeatureCollection"},
        {"type": "FeatureCollection", "features": {}},
        # BUG: TypeError, a list cannot be looked up in a set.
        {"type": []},
    ],
)
def test_json_that_is_not_geojson_is_refused(document: Any) -> None:
    with pytest.raises(
        AnnotationError, match=r"^a\.geojson is JSON but not GeoJSON .*export the annotations"
    ):
        parsed(document)


def test_nan_in_a_file_costs_its_feature_alone(tmp_path: Path) -> None:
    # BUG: as above, seen from the user's side: QuPath's own exports can hold NaN.
    bad = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [NAN, NAN], [0, 10], [0, 0]]]}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature(), feature(bad)]}))
    annotations = read_annotations(path)
    assert (len(annotations.regions), annotations.dropped) == (1, 1)


def test_a_real_export_is_read(data_dir: Path) -> None:
    annotations = read_annotations(data_dir / "annotations" / "qupath" / "qupath05_featurecollection.geojson")
    assert len(annotations.regions) == 3
    assert all(region.is_area and region.name for region in annotations.regions)
    assert annotations.classes == ("unclassified",)
    assert (annotations.repaired, annotations.dropped) == (0, 0)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    regions = (
        Region("1", "tumour", Polygon(RING, [HOLE]), name="first"),
        Region("2", "Tumor: Positive", MultiPolygon([box(0, 0, 1.5, 1), box(5, 5, 7, 7.25)])),
        Region("3", "mark", Point(1.25, 2)),
        Region("4", "Drüse µ", LineString([(0, 0), (1, 1)])),
    )
    before = Annotations(regions, format="drawn", colors={"tumour": (1, 2, 3)})
    path = tmp_path / "a.geojson"
    write_geojson(path, before)
    after = read_annotations(path)
    assert after.format == "qupath-geojson"
    assert [(r.id, r.class_name, r.name) for r in after.regions] == [
        (r.id, r.class_name, r.name) for r in regions
    ]
    assert [a.geometry.equals(b.geometry) for a, b in zip(after.regions, regions, strict=True)] == [True] * 4
    names = [region.class_name for region in regions]
    assert [after.color_of(name) for name in names] == [before.color_of(name) for name in names]
    assert (after.repaired, after.dropped) == (0, 0)


@pytest.mark.parametrize("name", ["qupath05_featurecollection", "multipolygon_bare_geometry"])
def test_a_real_file_survives_a_round_trip(data_dir: Path, tmp_path: Path, name: str) -> None:
    before = read_annotations(data_dir / "annotations" / "qupath" / f"{name}.geojson")
    write_geojson(tmp_path / "a.geojson", before)
    after = read_annotations(tmp_path / "a.geojson")
    assert after.regions == before.regions


def test_the_written_file_is_what_qupath_wants(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    write_geojson(path, Annotations((Region("1", "tumour", box(0, 0, 2, 1), name="n"),), format="drawn"))
    document = json.loads(path.read_text(encoding="utf-8"))
    (written,) = document["features"]
    assert document["type"] == "FeatureCollection"
    assert written["type"] == "Feature"
    assert written["geometry"]["type"] == "Polygon"
    assert written["properties"]["objectType"] == "annotation"
    assert written["properties"]["classification"]["name"] == "tumour"
    assert len(written["properties"]["classification"]["color"]) == 3  # QuPath refuses a class without one
