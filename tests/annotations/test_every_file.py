"""Every real file, against counts of its own text: regular expressions and plain JSON, never the parser under test."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from shapely.geometry import Polygon

from napari_histolatent.annotations import check_annotations, read_annotations
from tests.annotations.winding import covered

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True)
class Stated:
    """What a file holds."""

    elements: int
    regions: int
    holes: int
    classes: dict[str, int]
    points: int = 0


TCGA = "annotations/asap/tissue_TCGA-"
STATED = {
    "annotations/asap/camelyon16_tumor_009.xml": Stated(6, 6, 0, {"metastasis": 6}),
    # A repaired outline may enclose a hole of its own: 145 of 144 in tumor_039.
    "annotations/asap/camelyon16_tumor_036.xml": Stated(105, 103, 2, {"metastasis": 103}),
    "annotations/asap/camelyon16_tumor_039.xml": Stated(148, 4, 145, {"metastasis": 4}),
    "annotations/asap/camelyon16_tumor_058.xml": Stated(15, 15, 0, {"metastasis": 15}),
    "annotations/asap/camelyon16_tumor_085.xml": Stated(50, 50, 0, {"metastasis": 50}),
    "annotations/asap/qc_TCGA-2H-A9GF_RES.xml": Stated(
        8, 8, 0, {"artifact": 2, "background": 1, "tissue": 5}
    ),
    "annotations/asap/qc_TCGA-R6-A6DQ_OGD.xml": Stated(3, 3, 0, {"background": 1, "tissue": 2}),
    "annotations/asap/qc_normal_002.xml": Stated(4, 4, 0, {"artifact": 1, "background": 2, "tissue": 1}),
    "annotations/asap/qc_tumor_001.xml": Stated(12, 12, 0, {"artifact": 6, "background": 2, "tissue": 4}),
    f"{TCGA}DQ-7590-01Z-00-DX1.8319DF99-1663-48DE-BB6A-A156FBAC2EA1.xml": Stated(111, 86, 25, {"tissue": 86}),
    f"{TCGA}YL-A8SI-01Z-00-DX1.35E5FB1A-9AAC-4942-892B-E9D80F6BDA23.xml": Stated(
        24, 5, 19, {"tissue": 4, "trash": 1}
    ),
    f"{TCGA}YL-A8SJ-01Z-00-DX2.36E46E11-79CA-4356-B68F-F387219B3D16.xml": Stated(40, 4, 36, {"tissue": 4}),
    "annotations/asap/tissue_normal_004.xml": Stated(39, 39, 0, {"tissue": 38, "trash": 1}),
    "annotations/asap/tissue_normal_042.xml": Stated(5, 5, 0, {"tissue": 5}),
    "annotations/asap/tissue_tumor_021.xml": Stated(9, 4, 5, {"tissue": 4}),
    "annotations/asap/tissue_tumor_031.xml": Stated(10, 6, 4, {"tissue": 6}),
    "annotations/asap/tissue_tumor_092.xml": Stated(16, 5, 11, {"tissue": 5}),
    "annotations/halo/example.annotations": Stated(10, 10, 0, {"Layer 1": 5, "Layer 2": 5}),
    "annotations/halo/example_holes.annotations": Stated(7, 6, 1, {"Layer 1": 2, "Layer 2": 1, "Layer 3": 3}),
    "annotations/halo/qupath_test.annotations": Stated(
        19,
        12,
        7,
        {
            "Caudate": 2,
            "Cingulum": 2,
            "Corpus Callosum": 1,
            "Cortical White Matter": 2,
            "Hypothalamus": 1,
            "Internal Capsule": 2,
            "Putamen": 2,
        },
    ),
    "annotations/halo/test_comments.annotations": Stated(3, 3, 0, {"Layer 1": 3}),
    "annotations/halo/test_layers.annotations": Stated(
        4, 4, 0, {"myfirstlayer": 1, "secondlayer": 2, "thishasafour": 1}
    ),
    "annotations/halo/test_types.annotations": Stated(10, 10, 0, {"Layer 1": 10}, points=1),
    "annotations/other/darwin_v2_103S.json": Stated(
        17,
        17,
        3,
        {
            "ROI (segmentation)": 1,
            "lymphocyte (cell)": 5,
            "stroma (area)": 2,
            "tumor (area)": 2,
            "tumor (cell)": 7,
        },
        points=5,
    ),
    "annotations/other/ncrf_Tumor_030.json": Stated(1, 1, 0, {"positive": 1}),
    "annotations/other/ncrf_Tumor_081.json": Stated(1, 1, 0, {"positive": 1}),
    "annotations/other/ncrf_Tumor_093.json": Stated(1, 1, 0, {"positive": 1}),
    "annotations/qupath/multipolygon_bare_geometry.geojson": Stated(1, 1, 26, {"unclassified": 1}),
    "annotations/qupath/qupath05_featurecollection.geojson": Stated(3, 3, 0, {"unclassified": 3}),
    "nuclei/monuseg/TCGA-A6-6782-01A-01-BS1.xml": Stated(441, 441, 4, {"unclassified": 441}),
    "nuclei/monuseg/TCGA-AC-A2FO-01A-01-TS1.xml": Stated(521, 521, 5, {"unclassified": 521}),
    "nuclei/monuseg/TCGA-AO-A0J2-01A-01-BSA.xml": Stated(356, 356, 1, {"unclassified": 356}),
    "nuclei/monuseg/TCGA-B0-5698-01Z-00-DX1.xml": Stated(357, 357, 29, {"unclassified": 357}),
    "nuclei/monuseg/TCGA-B0-5710-01Z-00-DX1.xml": Stated(359, 359, 29, {"unclassified": 359}),
    "nuclei/monuseg/TCGA-CH-5767-01Z-00-DX1.xml": Stated(294, 294, 27, {"unclassified": 294}),
    "nuclei/monuseg/TCGA-HC-7209-01A-01-TS1.xml": Stated(325, 325, 0, {"unclassified": 325}),
    "nuclei/monuseg/TCGA-HT-8564-01Z-00-DX1.xml": Stated(249, 249, 3, {"unclassified": 249}),
}


def test_no_real_file_is_forgotten(data_dir: Path) -> None:
    files = [*data_dir.glob("annotations/*/*"), *data_dir.glob("nuclei/monuseg/*.xml")]
    assert {v.relative_to(data_dir).as_posix() for v in files if v.is_file()} == set(STATED)


@pytest.mark.parametrize("name", STATED)
def test_every_real_file_is_what_is_stated(data_dir: Path, name: str) -> None:
    annotations = read_annotations(data_dir / name)
    check = check_annotations(annotations)
    found = Stated(check.elements, check.regions, check.holes, check.classes, check.points)
    assert found == STATED[name]
    assert check.dropped == 0
    geometries = [region.geometry for region in annotations.regions]
    assert shapely.is_valid(geometries).all()
    assert all(region.geometry.area > 0 for region in annotations.regions if region.is_area)
    assert len({region.id for region in annotations.regions}) == len(geometries)
    assert check.source_rings == sum(bool(region.source) for region in annotations.regions)


@pytest.mark.parametrize("name", STATED)
def test_the_stated_counts_are_those_of_the_text(data_dir: Path, name: str) -> None:
    text = (data_dir / name).read_text(encoding="utf-8-sig")
    counts = counts_of(name, text)
    assert counts == STATED[name]


# An own count


def counts_of(name: str, text: str) -> Stated:
    if "/asap/" in name:
        return counts_of_asap(text)
    if "/halo/" in name:
        return counts_of_halo(text)
    if "monuseg" in name:
        n = len(re.findall(r"<Region\s", text))
        assert set(re.findall(r"<Region\s[^>]*?\sType=\"(\d)\"", text)) == {"0"}
        assert 'NegativeROA="1"' not in text
        # Outlines that run back onto themselves enclose holes, by the winding numbers of their faces.
        holes = sum(n_holes(covered(ring)) for ring in rings_of(text))
        return Stated(n, n, holes, {"unclassified": n})
    document = json.loads(text)
    if "ncrf" in name:
        assert document["negative"] == []
        return Stated(
            len(document["positive"]), len(document["positive"]), 0, {"positive": len(document["positive"])}
        )
    if "darwin" in name:
        return counts_of_darwin(document)
    if document.get("type") == "MultiPolygon":
        return Stated(1, 1, sum(len(part) - 1 for part in document["coordinates"]), {"unclassified": 1})
    features = document["features"]
    assert {v["geometry"]["type"] for v in features} == {"Polygon"}
    assert not any("classification" in v["properties"] for v in features)
    holes = sum(len(v["geometry"]["coordinates"]) - 1 for v in features)
    return Stated(len(features), len(features), holes, {"unclassified": len(features)})


def counts_of_asap(text: str) -> Stated:
    groups = Counter(re.findall(r'<Annotation\s[^>]*PartOfGroup="([^"]*)"', text))
    elements = groups.total()
    assert elements == len(re.findall(r"<Annotation[\s>]", text))
    assert set(re.findall(r'<Annotation\s[^>]*Type="([^"]*)"', text)) <= {"Polygon", "Spline"}
    groups.pop("negative", None)
    holes = sum(n_holes(shape) for shape in bare_regions(text))
    return Stated(elements, groups.total(), holes, dict(groups))


def bare_regions(text: str) -> list[BaseGeometry]:
    """Return the areas of an ASAP file with its negatives cut out, in the four steps written bare."""
    root = ET.fromstring(text)
    positive: list[BaseGeometry] = []
    negative: list[BaseGeometry] = []
    for annotation in root.iter("Annotation"):
        points = [(float(c.get("X", "")), float(c.get("Y", ""))) for c in annotation.iter("Coordinate")]
        shape = made_valid(points)
        (negative if annotation.get("PartOfGroup") == "negative" else positive).append(shape)
    holes = shapely.union_all(negative)
    cut = [shapely.difference(shape, holes) for shape in positive]
    # Drawn as a whole inside a hole of another class: kept.
    return [whole if less.is_empty else less for whole, less in zip(positive, cut, strict=True)]


def made_valid(points: Any) -> BaseGeometry:
    parts = shapely.get_parts(shapely.make_valid(Polygon(points), method="structure", keep_collapsed=False))
    return shapely.union_all(parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON])


def n_holes(shape: BaseGeometry) -> int:
    """Return the number of holes, without those that are but the rounding of a crossing."""
    polygons = [part for part in shapely.get_parts(shape) if isinstance(part, Polygon)]
    return sum(Polygon(hole).area >= 1e-4 for polygon in polygons for hole in polygon.interiors)


def rings_of(text: str) -> list[NDArray[np.float64]]:
    """Return the vertices of each region of an ImageScope file."""
    return [
        np.array(re.findall(r'<Vertex X="([^"]*)" Y="([^"]*)"', region), np.float64)
        for region in re.findall(r"<Region\s.*?</Region>", text, flags=re.DOTALL)
    ]


def counts_of_halo(text: str) -> Stated:
    classes: Counter[str] = Counter()
    elements = points = holes = 0
    for name, layer in re.findall(
        r'<Annotation\s[^>]*Name="([^"]*)"[^>]*>(.*?)</Annotation>', text, flags=re.DOTALL
    ):
        heads = re.findall(r"<Region\s[^>]*>", layer)
        negative = sum(bool(re.search(r'NegativeROA="1"', head)) for head in heads)
        elements += len(heads)
        holes += negative
        classes[name] += len(heads) - negative
        points += sum(bool(re.search(r'Type="Pin"', head)) for head in heads)
    return Stated(elements, classes.total(), holes, dict(classes), points)


def counts_of_darwin(document: dict[str, Any]) -> Stated:
    shapes = document["annotations"]
    assert all(sum(key in v for key in ("polygon", "keypoint")) or "bounding_box" in v for v in shapes)
    holes = 0
    for entry in shapes:
        area: BaseGeometry = Polygon()
        for path in entry.get("polygon", {}).get("paths", []):
            area = area.symmetric_difference(Polygon([(p["x"], p["y"]) for p in path]).buffer(0))
        holes += n_holes(area)
    n_points = sum("keypoint" in v for v in shapes)
    return Stated(len(shapes), len(shapes), holes, dict(Counter(v["name"] for v in shapes)), n_points)


# Areas


@pytest.mark.parametrize("name", [name for name in STATED if "/asap/" in name])
def test_areas_are_those_of_the_same_four_steps_written_bare(data_dir: Path, name: str) -> None:
    """tumor_039 is the one whose 144 holes other readers lose (5.4 % too much area)."""
    text = (data_dir / name).read_text(encoding="utf-8")
    annotations = read_annotations(data_dir / name)
    ours = [region.geometry.area for region in annotations.regions]
    np.testing.assert_allclose(ours, shapely.area(bare_regions(text)), rtol=1e-6)
    if "tumor_039" in name:
        filled = sum(
            Polygon(part.exterior).area for region in annotations.regions for part in region.polygons
        )
        assert 1.05 < filled / sum(ours) < 1.06


@pytest.mark.parametrize("name", [name for name in STATED if "monuseg" in name])
def test_areas_of_nuclei(data_dir: Path, name: str) -> None:
    text = (data_dir / name).read_text(encoding="utf-8")
    ours = [region.geometry.area for region in read_annotations(data_dir / name).regions]
    # Points nearer than 0.01 px are one: of outlines of some 50 px that is less than 0.5 px².
    np.testing.assert_allclose(
        ours, shapely.area([covered(ring) for ring in rings_of(text)]), rtol=1e-3, atol=0.5
    )
