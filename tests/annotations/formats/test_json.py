from __future__ import annotations

import gc
import json
import math
from typing import Any

import numpy as np
import pytest

from napari_histolatent.annotations.formats import _json
from napari_histolatent.annotations.formats._json import parse_json
from napari_histolatent.errors import AnnotationError


def features(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[i, 0.25], [i + 1, 0.5], [i, 1e-7]]]},
            "properties": {"name": f'a "{i}" }}]\\', "measurements": {"area": i}, **more},
        }
        for i in range(count)
    ]


def as_lists(value: Any) -> Any:
    """The document with lists in place of arrays."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2.5, "x", null, true]}', "[]", "3", '"[[[["', '{"a": "\\\\\\""}']
)
def test_a_small_file_is_what_the_standard_parser_says(text: str) -> None:
    assert parse_json(text.encode(), "a.json") == json.loads(text)
    assert parse_json(b"\xef\xbb\xbf" + text.encode(), "a.json") == json.loads(text)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_bare", [True, False])
def test_a_long_list_of_features_comes_whole(
    monkeypatch: pytest.MonkeyPatch, is_bare: bool, indent: int | None
) -> None:
    monkeypatch.setattr(_json, "_BATCH_BYTES", 500)
    monkeypatch.setattr(_json, "_BLOCK_BYTES", 333)  # a string or an escape may lie across two blocks
    listed: list[Any] = [*features(50), None, 3, *features(50)]
    document: Any = listed if is_bare else {"bbox": [0, 0], "features": listed, "type": "FeatureCollection"}
    read = parse_json(json.dumps(document, indent=indent).encode(), "a.json")
    read_features = read if is_bare else read["features"]
    assert isinstance(read_features[0]["geometry"]["coordinates"][0], np.ndarray)
    for feature in [*listed[:50], *listed[52:]]:
        feature["properties"]["measurements"] = True
    assert as_lists(read) == document


def test_features_of_something_else_are_no_list_of_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_json, "_BATCH_BYTES", 500)
    document = {"a": {"features": features(20)}, "b": '"features": [', "c": {"d": features(20)}}
    assert as_lists(parse_json(json.dumps(document).encode(), "a.json")) == document


@pytest.mark.parametrize("fault", [b",]}", b"}]}", b"]}x"])
def test_a_fault_in_a_long_list_is_told(monkeypatch: pytest.MonkeyPatch, fault: bytes) -> None:
    monkeypatch.setattr(_json, "_BATCH_BYTES", 500)
    text = json.dumps({"features": features(100)}).encode().removesuffix(b"]}")
    with pytest.raises(AnnotationError, match=r"^a\.json is not JSON: .* in line 1, column [\d,]+; export"):
        parse_json(text + fault, "a.json")


def test_nan_and_infinity_are_read() -> None:
    value = parse_json(b'[NaN, Infinity, -Infinity, 1, "NaN"]', "a.json")
    assert math.isnan(value[0])
    assert value[1:] == [math.inf, -math.inf, 1, "NaN"]
    assert parse_json(b"[1e400]", "a.json") == [math.inf]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"is empty \(0 bytes\); copy"),
        (b" \n", r"is empty \(2 bytes\)"),
        ('{"a": 1}'.encode("utf-16"), r"not in UTF-8 \(it begins like UTF-16"),
        (b'{"a":\n "\xe4"}', r"not in UTF-8: byte 8 \(in line 2\) is 0xe4; save it as UTF-8"),
        (b"<html></html>", "looks like XML or HTML"),
        (b'{"a": 1,\n "b": [1, 2', "is cut off: it ends within a value, in line 2; copy"),
        (b'{"a": "x', "is cut off"),
        (b'{"a": NaN', "is cut off"),
        (b'{"a": 1}\n x', "is not JSON: .* in line 2, column 2; export"),
        (b"hello", "is not JSON: .* in line 1, column 1"),
        (b"[NaN, " + b"9" * 5000 + b"]", "thousands of digits"),
        (b"[" * 5000 + b"]" * 5000, "nested 5,000 levels deep, more than the 64"),
        (b'{"a":' * 100_000, "nested 100,000 levels deep"),
    ],
)
def test_what_is_no_json_is_refused_in_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(AnnotationError, match=rf"^a\.json .*{sentence}"):
        parse_json(data, "a.json")


def test_the_collector_runs_again_afterwards() -> None:
    with pytest.raises(AnnotationError):
        parse_json(b"[", "a.json")
    assert gc.isenabled()
