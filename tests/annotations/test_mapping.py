"""Which class a group stands for: presets, saved tables, and tables that are none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.annotations import (
    HOLE,
    IGNORED,
    PRESETS,
    ClassMapping,
    Target,
    default_mapping,
    find_mapping,
    mapping_names,
    read_annotations,
    save_mapping,
)
from napari_histolatent.errors import AnnotationError
from tests.annotations.texts import SQUARE, asap

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(tmp_path / "user"))
    return tmp_path / "user"


@pytest.mark.parametrize("group", ["Tumor", "_0", "_1", "tumour", "METASTASIS", " metastasis ", "Positive"])
def test_camelyon16_tumour(group: str) -> None:
    assert find_mapping("CAMELYON16").of(group) == Target("tumour")


@pytest.mark.parametrize("group", ["_2", "Exclusion", "NEGATIVE", "normal", "exclude"])
def test_camelyon16_holes(group: str) -> None:
    assert find_mapping("camelyon16").of(group) == HOLE


def test_camelyon17() -> None:
    mapping = find_mapping("Camelyon17")
    assert mapping.of("Metastases") == Target("tumour")
    assert mapping.of("NORMAL") == Target("normal", cuts=True)


def test_a_group_of_no_table_keeps_its_name() -> None:
    assert PRESETS["camelyon16"].of(" Stroma ") == Target("Stroma")
    assert PRESETS["camelyon16"].of("  ") == Target(None)
    assert default_mapping("asap-xml").of("NEGATIVE") == HOLE
    assert default_mapping("qupath-geojson").of("NEGATIVE") == Target("NEGATIVE")


def test_a_table_is_saved_found_and_listed(folder: Path) -> None:
    mapping = ClassMapping(
        "Mine / 1", {"A": Target("x"), "b": HOLE, "c": IGNORED, "d": Target("y", cuts=True)}
    )
    path = save_mapping(mapping)
    assert path.is_relative_to(folder)
    for name in ("Mine / 1", path):
        found = find_mapping(name)
        assert found == mapping
        assert [found.of(v) for v in "aBCD"] == [Target("x"), HOLE, IGNORED, Target("y", cuts=True)]
    assert mapping_names()[:2] == ("camelyon16", "camelyon17")
    assert len(mapping_names()) == 3
    changed = mapping.with_target(" a ", IGNORED)
    assert (changed.of("A"), mapping.of("A")) == (IGNORED, Target("x"))
    assert save_mapping(changed) == path
    assert find_mapping("Mine / 1") == changed


def test_a_table_in_short(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"groups": {"A": "x", "B": {"class": None, "cuts": True}}}))
    mapping = find_mapping(str(path))
    assert (mapping.name, mapping.of("a"), mapping.of("b")) == ("t", Target("x"), HOLE)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"3",
        b'{"groups": 3}',
        b'{"groups": {"a": 3}}',
        b'{"groups": {"a": {}}}',
        b'{"groups": {"a": null}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_table_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=r"^t\.json is no class mapping .*it needs"):
        find_mapping(path)


def test_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(
        AnnotationError, match="There is no class mapping 'nobody'; known are camelyon16, camelyon17"
    ):
        find_mapping("nobody")
    with pytest.raises(AnnotationError, match="'Camelyon16' is the name of a built-in mapping"):
        save_mapping(ClassMapping("Camelyon16"))
    assert find_mapping("camelyon16") is PRESETS["camelyon16"]


def test_words() -> None:
    assert [t.words for t in (HOLE, IGNORED, Target("a"), Target("a", cuts=True))] == [
        "holes",
        "left out",
        "a",
        "a, cut out of the others",
    ]


@pytest.mark.parametrize("group", ["Tumor", "_0", "metastasis"])
def test_a_preset_on_a_file(tmp_path: Path, group: str) -> None:
    path = tmp_path / "a.xml"
    hole = [(2, 2), (4, 2), (4, 4), (2, 4)]
    path.write_text(
        asap(SQUARE, hole, group=group).replace(f'"{group}"', '"_2"', 2).replace('"_2"', f'"{group}"', 1)
    )
    annotations = read_annotations(path, mapping=find_mapping("camelyon16"))
    assert [(r.class_name, r.geometry.area) for r in annotations.regions] == [("tumour", 96)]
    assert annotations.groups == {group: 1, "_2": 1}


def test_real_camelyon_names(data_dir: Path) -> None:
    path = data_dir / "annotations/asap/camelyon16_tumor_036.xml"
    annotations = read_annotations(path, mapping=find_mapping("camelyon16"))
    assert annotations.classes == ("tumour",)
    assert annotations.groups == {"metastasis": 103, "negative": 2}
    as_class = ClassMapping("both", {"negative": Target("benign")})
    assert read_annotations(path, mapping=as_class).classes == ("benign", "metastasis")
