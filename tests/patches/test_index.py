from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from napari_histolatent.patches._index import (
    boxes_of,
    common_mpp,
    index_table,
    strings,
    with_columns,
)


def test_all_columns_stand_in_their_order_and_type_and_what_is_not_known_says_so() -> None:
    table = index_table(
        {"x": [1, 2], "y": [3, 4], "label": ["a", "b"], "coverage_a": [0.5, 0.25]}, ["a", "b"]
    )
    assert table.column_names == [
        *("slide", "patient", "x", "y", "width_level0_px", "height_level0_px", "level", "downsample", "mpp"),
        *("label", "split", "left_out", "origin", "by_hand", "tissue", "annotated"),
        *("coverage_a", "coverage_b", "centre_classes", "regions", "focus", "saturation", "white", "pen"),
    ]
    row = table.to_pylist()[1]
    assert (row["x"], row["y"], row["label"], row["coverage_a"], row["coverage_b"]) == (2, 4, "b", 0.25, 0)
    assert (row["slide"], row["left_out"], row["origin"], row["by_hand"]) == ("", "", "grid", False)
    assert (row["level"], row["centre_classes"]) == (-1, 0)
    assert all(np.isnan(row[name]) for name in ("mpp", "downsample", "tissue", "focus", "pen"))
    assert table.schema.field("coverage_a").type == pa.float32()
    assert table.schema.field("centre_classes").type == pa.uint64()
    assert sum(column.null_count for column in table.columns) == 0


def test_no_rows_are_a_table_too() -> None:
    table = index_table({"x": []}, [])
    assert len(table) == 0
    assert strings(table, "label").tolist() == []
    assert boxes_of(table).shape == (0, 4)


def test_texts_are_shared_and_of_any_chunks() -> None:
    table = pa.table({"a": pa.chunked_array([["x", "y"], [], ["x"]])})
    texts = strings(table, "a")
    assert texts.tolist() == ["x", "y", "x"]
    assert texts[0] is texts[2]


def test_columns_are_replaced_in_their_place_and_type() -> None:
    table = index_table({"x": [1, 2]}, [])
    changed = with_columns(
        table, {"split": np.array(["train", ""], object), "focus": np.array([1.5, np.nan])}
    )
    assert changed.schema == table.schema
    assert changed["split"].to_pylist() == ["train", ""]
    assert changed["focus"].to_pylist()[0] == 1.5
    assert np.isnan(changed["focus"].to_pylist()[1])


def test_boxes_may_have_another_width_than_height() -> None:
    table = index_table(
        {"x": [10, 20], "y": [30, 40], "width_level0_px": [8.0, 9.5], "height_level0_px": [16.0, 4.0]}, []
    )
    assert boxes_of(table).tolist() == [[10, 30, 18, 46], [20, 40, 29.5, 44]]


@pytest.mark.parametrize(
    ("mpps", "expected"),
    [
        ([0.5, 0.5], 0.5),
        ([0.25, 0.2527], 0.25135),
        ([0.499, 0.499, 0.499, 0.503], 0.501),  # of the scanners, not of the patches
        ([0.5, 1.0], None),
        ([0.5, np.nan], None),
        ([], None),
    ],
)
def test_one_resolution_stands_for_all_if_they_are_nearly_the_same(
    mpps: list[float], expected: float | None
) -> None:
    assert common_mpp(np.array(mpps, float)) == expected
