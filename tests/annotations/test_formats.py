from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.annotations import _formats, read_annotations
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from pathlib import Path

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]}


def written(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "regions.geojson"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_encoding_of_json_is_read(tmp_path: Path, encoding: str) -> None:
    feature = {"type": "Feature", "geometry": SQUARE, "properties": {"classification": {"name": "Drüse"}}}
    path = written(tmp_path, json.dumps(feature, ensure_ascii=False).encode(encoding))
    assert [region.class_name for region in read_annotations(path).regions] == ["Drüse"]


def test_a_path_may_be_a_text(tmp_path: Path) -> None:
    assert len(read_annotations(str(written(tmp_path, json.dumps(SQUARE)))).regions) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"nowhere\.geojson does not exist; give the path of"):
        read_annotations(tmp_path / "nowhere.geojson")


def test_a_folder_is_not_a_file_of_annotations(tmp_path: Path) -> None:
    # BUG: the sentence says that the folder does not exist.
    with pytest.raises(AnnotationError, match="is a folder"):
        read_annotations(tmp_path)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "check that the file is complete"),
        (b"\x00\xff\xfe\x80 junk", "check that the file is complete"),
        (b'{"type": "FeatureCollection", "features": [', "check that the file is complete"),
        (b"[" * 200_000, "check that the file is complete"),
        (b"<?xml version='1.0'?><ASAP_Annotations/>", "XML annotations are not read yet"),
    ],
)
def test_what_is_no_json_is_refused_with_a_hint(tmp_path: Path, content: bytes, hint: str) -> None:
    with pytest.raises(AnnotationError, match=r"^regions\.geojson is not GeoJSON \(\w+: ") as caught:
        read_annotations(written(tmp_path, content))
    assert str(caught.value).endswith(f"; {hint}, or export it from QuPath as GeoJSON.")


def test_real_xml_is_refused_with_a_hint(data_dir: Path) -> None:
    with pytest.raises(
        AnnotationError, match=r"qc_tumor_001\.xml is not GeoJSON .*XML annotations are not read"
    ):
        read_annotations(data_dir / "annotations" / "asap" / "qc_tumor_001.xml")


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "_MAX_BYTES", 9)
    with pytest.raises(
        AnnotationError, match=r"^regions\.geojson has 10 bytes, more than the 9 .*; split it\.$"
    ):
        read_annotations(written(tmp_path, b"0123456789"))
