from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from shapely.geometry import shape

from napari_histolatent.annotations import read_annotations
from napari_histolatent.patches.formats import export_geojson

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.patches import PatchDataset


def features_of(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["type"] == "FeatureCollection"
    return list(document["features"])


def test_tiles_lie_where_the_index_says(dataset: PatchDataset, tmp_path: Path) -> None:
    report = export_geojson(dataset, tmp_path / "out")
    assert report["files"] == 2
    one = features_of(tmp_path / "out" / "one.geojson")
    two = features_of(tmp_path / "out" / "two.x.geojson")
    assert [shape(tile["geometry"]).bounds for tile in one] == [
        (0, 0, 32, 32),
        (32, 0, 64, 32),
        (64, 0, 96, 32),
        (0, 32, 32, 64),
    ]
    for tile in two:
        polygon = shape(tile["geometry"])
        assert polygon.area == pytest.approx(32.064**2)
        assert polygon.is_valid
        (ring,) = tile["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) == 5
    assert [shape(tile["geometry"]).bounds[0] for tile in two] == [100, 140, 180]


def test_tiles_have_class_colour_and_measurements(dataset: PatchDataset, tmp_path: Path) -> None:
    export_geojson(dataset, tmp_path / "out")
    tiles = features_of(tmp_path / "out" / "one.geojson")
    assert {tile["properties"]["objectType"] for tile in tiles} == {"tile"}
    assert [tile["properties"]["classification"]["name"] for tile in tiles] == ["a", "a", "b/c", "b/c"]
    assert tiles[2]["properties"]["classification"]["color"] == [1, 2, 3]
    own = tiles[0]["properties"]["classification"]["color"]  # QuPath refuses a classification without one
    assert len(own) == 3
    assert all(0 <= value <= 255 for value in own)
    # What is not known (saturation, white, pen) is no number that JSON could hold.
    assert tiles[1]["properties"]["measurements"] == {
        "tissue": 0.5,
        "annotated": 1.0,
        "coverage_a": 0.75,
        "coverage_b/c": 0.0,
        "focus": 3.5,
    }
    assert tiles[0]["properties"]["metadata"] == {"split": "train"}
    ids = [tile["id"] for tile in tiles]
    assert len({uuid.UUID(text) for text in ids}) == 4


def test_our_own_reader_takes_the_tiles(dataset: PatchDataset, tmp_path: Path) -> None:
    export_geojson(dataset, tmp_path / "out")
    annotations = read_annotations(tmp_path / "out" / "two.x.geojson")
    assert [region.class_name for region in annotations.regions] == ["a", "b/c", "a"]
    assert sum(region.geometry.area for region in annotations.regions) == pytest.approx(3 * 32.064**2)
