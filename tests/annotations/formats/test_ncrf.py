from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent.annotations.formats._ncrf import NCRF

if TYPE_CHECKING:
    from pathlib import Path

SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4]]


@pytest.mark.parametrize("name", ["030", "081", "093"])
def test_real_files_against_a_count_of_their_own(data_dir: Path, name: str) -> None:
    path = data_dir / "annotations" / "other" / f"ncrf_Tumor_{name}.json"
    document = json.loads(path.read_bytes())
    assert NCRF.recognises(document)
    source = NCRF.read(document, None)
    expected = [(g, e["name"], e["vertices"]) for g in ("positive", "negative") for e in document[g]]
    assert [(m.class_name, m.name, m.rings[0].tolist()) for m in source.marks] == expected
    assert source.groups_can_be_holes
    assert source.dropped == ()


def test_groups_names_and_places() -> None:
    document = {
        "positive": [{"name": "A", "vertices": SQUARE}],
        "negative": [{"vertices": [["1,5", "2"], [3, 4], [5, 6]]}],
    }
    a, b = NCRF.read(document, None).marks
    assert (a.where, a.kind, a.class_name) == ('positive 1 "A"', "area", "positive")
    assert (b.where, b.name, b.class_name) == ("negative 1", "", "negative")
    assert b.rings[0].tolist() == [[1.5, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("bad", [3, {}, {"vertices": []}, {"vertices": 3}, {"vertices": [[1], [2, 3]]}])
def test_a_bad_entry_costs_itself(bad: Any) -> None:
    source = NCRF.read({"positive": [bad, {"name": "B", "vertices": SQUARE}]}, None)
    assert [m.name for m in source.marks] == ["B"]
    assert source.dropped == ("positive 1 dropped: its vertices are not a list of x, y pairs",)


@pytest.mark.parametrize(
    "other", [[], {}, {"positive": 3}, {"type": "Feature", "positive": []}, {"negative": {}}]
)
def test_other_json_is_not_recognised(other: Any) -> None:
    assert not NCRF.recognises(other)
