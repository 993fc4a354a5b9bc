from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shapely.geometry import Polygon

from napari_histolatent.annotations.formats._darwin import DARWIN

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations._marks import SourceFile


def square(low: float, high: float) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in ((low, low), (high, low), (high, high), (low, high))]


def read(*annotations: Any, **more: Any) -> SourceFile:
    document = {"version": "2.0", "item": {"name": "a.tif"}, "annotations": list(annotations), **more}
    assert DARWIN.recognises(document)
    return DARWIN.read(document, None)


def test_a_real_file_against_a_count_of_its_own(data_dir: Path) -> None:
    document = json.loads((data_dir / "annotations" / "other" / "darwin_v2_103S.json").read_bytes())
    assert DARWIN.recognises(document)
    source = DARWIN.read(document, None)
    paths = sum(len(a["polygon"]["paths"]) for a in document["annotations"] if "polygon" in a)
    boxes = sum("bounding_box" in a and "polygon" not in a for a in document["annotations"])
    points = [a["keypoint"] for a in document["annotations"] if "keypoint" in a]
    assert sum(len(m.rings) for m in source.marks if m.kind == "area") == paths + boxes
    assert [m.rings[0].tolist() for m in source.marks if m.kind == "points"] == [
        [[p["x"], p["y"]]] for p in points
    ]
    regions = Counter(m.class_name for m in source.marks if not m.part_of)
    regions.update({name for name, _ in {(m.class_name, m.part_of) for m in source.marks if m.part_of}})
    assert regions == Counter(a["name"] for a in document["annotations"])
    # Six paths under the even-odd rule: outlines less holes, with no hole outside its outline.
    parts = [Polygon(m.rings[0], m.rings[1:]) for m in source.marks if m.part_of]
    assert sum(len(p.interiors) + 1 for p in parts) == 6
    assert all(Polygon(hole).within(Polygon(p.exterior).buffer(1)) for p in parts for hole in p.interiors)
    assert source.dropped == ()


def test_paths_within_paths_alternate() -> None:
    paths = [square(4, 6), square(0, 10), square(20, 30), square(2, 8), square(22, 24)]
    marks = read({"name": "a", "polygon": {"paths": paths}, "bounding_box": {}}).marks
    assert {tuple(float(r.max()) for r in m.rings) for m in marks} == {(10, 8), (6,), (30, 24)}
    assert {m.part_of for m in marks} == {"annotation 1"}


@pytest.mark.parametrize(
    "entry",
    [
        {"polygon": {"path": square(0, 10), "additional_paths": [square(2, 3)]}},
        {"complex_polygon": {"path": [square(0, 10), square(2, 3)]}},
        {"polygon": {"paths": [square(0, 10), square(2, 3)]}},
    ],
)
def test_every_version_of_a_polygon(entry: dict[str, Any]) -> None:
    (mark,) = read({"name": "a", "id": "7", **entry}).marks
    assert [r.tolist() for r in mark.rings] == [
        [[p["x"], p["y"]] for p in s] for s in (square(0, 10), square(2, 3))
    ]
    assert (mark.class_name, mark.id, mark.part_of) == ("a", "7", "")


def test_the_other_shapes() -> None:
    marks = read(
        {"name": "box", "bounding_box": {"x": 1, "y": 2, "w": 3, "h": 4}},
        {"name": "line", "line": {"path": square(0, 1)}},
        {
            "name": "ellipse",
            "ellipse": {"angle": np.pi / 2, "center": {"x": 10, "y": 20}, "radius": {"x": 8, "y": 2}},
        },
    ).marks
    assert [m.kind for m in marks] == ["area", "line", "area"]
    assert Polygon(marks[0].rings[0]).bounds == (1, 2, 4, 6)
    assert Polygon(marks[2].rings[0]).bounds == pytest.approx((8, 12, 12, 28))  # turned by a quarter
    assert Polygon(marks[2].rings[0]).area == pytest.approx(np.pi * 16, rel=0.001)


def test_what_has_no_outline_is_told() -> None:
    source = read(
        {"name": "a", "tag": {}},
        {"name": "b", "skeleton": {"nodes": []}, "bounding_box": {"x": 0, "y": 0, "w": 1, "h": 1}},
        {"name": "c"}, {"name": "d", "polygon": {"paths": []}}, {"name": "e", "keypoint": {"x": 1}}, 3,
    )  # fmt: skip
    assert source.marks == ()
    assert len(source.messages) == 1
    assert source.messages[0].startswith("1 tags")
    assert [sentence.split(" dropped: ")[0] for sentence in source.dropped] == [
        'annotation 2 "b"', 'annotation 3 "c"', 'annotation 4 "d"', 'annotation 5 "e"', "annotation 6",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other", [[], {}, {"annotations": []}, {"annotations": {}, "item": {}}, {"images": [], "annotations": []}]
)
def test_other_json_is_not_recognised(other: Any) -> None:
    assert not DARWIN.recognises(other)
