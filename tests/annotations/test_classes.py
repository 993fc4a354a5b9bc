from __future__ import annotations

import json
from typing import Any

import pytest

from napari_histolatent.annotations._classes import ClassTable, RegionClass
from napari_histolatent.annotations._region import PALETTE
from napari_histolatent.errors import AnnotationError

TUMOR = RegionClass("Tumor", (200, 0, 0), "1")
STROMA = RegionClass("Stroma", (0, 150, 0), "2", is_visible=False, is_locked=True)
TABLE = ClassTable((TUMOR, STROMA))


def test_names_are_stripped_and_their_case_counts() -> None:
    assert RegionClass("  Tumor ", (1, 2, 3)).name == "Tumor"
    table = TABLE.with_class(RegionClass("tumor", (1, 2, 3)))
    assert table.names == ("Tumor", "Stroma", "tumor")
    assert table.get("Tumor") is TUMOR
    assert table.get("TUMOR") is None
    assert "tumor" in table
    assert len(table) == 3


@pytest.mark.parametrize("name", ["", "   ", "\t"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(AnnotationError, match="type a name"):
        RegionClass(name, (1, 2, 3))
    with pytest.raises(AnnotationError, match="type a name"):
        TABLE.renamed("Tumor", name)


@pytest.mark.parametrize("color", [(1, 2), (1, 2, 256), (-1, 0, 0), (1.5, 0, 0), (True, 0, 0), ("1", 0, 0)])
def test_a_colour_is_three_numbers(color: Any) -> None:
    with pytest.raises(AnnotationError, match="three numbers"):
        RegionClass("a", color)


@pytest.mark.parametrize("key", ["0", "a", "12", " "])
def test_a_key_is_a_digit(key: str) -> None:
    with pytest.raises(AnnotationError, match="digit from 1 to 9"):
        RegionClass("a", (1, 2, 3), key)


def test_no_two_classes_share_a_name_or_a_key() -> None:
    with pytest.raises(AnnotationError, match='two classes named "Tumor"'):
        ClassTable((TUMOR, RegionClass("Tumor", (0, 0, 0))))
    with pytest.raises(AnnotationError, match='key 1 of the class "Fat" belongs to "Tumor"'):
        TABLE.with_class(RegionClass("Fat", (0, 0, 0), "1"))
    assert len(ClassTable((RegionClass("a", (0, 0, 0)), RegionClass("b", (0, 0, 0))))) == 2


def test_a_class_is_changed_in_its_place() -> None:
    table = TABLE.with_class(RegionClass("Tumor", (9, 9, 9), "3"))
    assert table.names == ("Tumor", "Stroma")
    assert table.classes[0].color == (9, 9, 9)
    assert TABLE.without("Tumor").names == ("Stroma",)
    assert TABLE.without("none") is TABLE


def test_renaming_keeps_all_else() -> None:
    table = TABLE.renamed("Stroma", " Fibrosis ")
    assert table.names == ("Tumor", "Fibrosis")
    assert table.classes[1].is_locked
    assert table.classes[1].key == "2"
    assert TABLE.renamed("Tumor", "Tumor") == TABLE
    with pytest.raises(AnnotationError, match="already"):
        TABLE.renamed("Stroma", "Tumor")
    with pytest.raises(AnnotationError, match=r'no class "Fat".*"Tumor", "Stroma"'):
        TABLE.renamed("Fat", "x")


def test_missing_classes_get_the_files_colour_or_a_new_one_and_a_free_key() -> None:
    table = TABLE.completed(["Tumor", "Fat", " Necrosis ", "Fat"], {"Fat": (7, 7, 7), "Tumor": (8, 8, 8)})
    assert table.names == ("Tumor", "Stroma", "Fat", "Necrosis")
    assert table.classes[0] is TUMOR
    assert (table.classes[2].color, table.classes[2].key) == ((7, 7, 7), "3")
    assert (table.classes[3].color, table.classes[3].key) == (PALETTE[0], "4")
    assert table.completed(["Fat"]) is table


def test_forty_classes_have_forty_colours_and_nine_keys() -> None:
    table = ClassTable().completed([f"class {i}" for i in range(40)])
    assert len({item.color for item in table}) == 40
    assert [item.color for item in table][:6] == list(PALETTE)
    assert [item.key for item in table] == list("123456789") + [""] * 31


def test_a_table_comes_back_from_json() -> None:
    assert ClassTable.from_json(json.loads(json.dumps(TABLE.to_json()))) == TABLE


@pytest.mark.parametrize("value", [None, 3, "Tumor", {}, {"name": "a"}, [None, 3, [], "x", {}]])
def test_json_that_is_no_table_is_an_empty_one(value: object) -> None:
    assert ClassTable.from_json(value) == ClassTable()


def test_bad_entries_are_left_out_and_the_others_kept() -> None:
    good = TABLE.to_json()
    bad: list[Any] = [
        {"name": "", "color": [1, 2, 3]},
        {"name": "a", "color": "red"},
        {"name": "b", "color": None},
        {"name": "c", "color": [1, 2]},
        {"name": "d", "color": [1, 2, 3], "key": "x"},
        {"name": "Tumor", "color": [1, 2, 3]},
        {"name": "same key", "color": [1, 2, 3], "key": "1"},
        7,
    ]
    table = ClassTable.from_json([*good, *bad])
    assert table.classes[:2] == TABLE.classes
    assert [(item.name, item.key) for item in table.classes[2:]] == [("same key", "")]
