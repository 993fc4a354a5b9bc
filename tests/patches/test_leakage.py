from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from napari_histolatent.patches._leakage import Leak, leaks
from napari_histolatent.patches._split import SPLITS, SplitSpec, assign_splits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def index_of(*rows: tuple[str, str, str, float, float], size: float = 10.0) -> dict[str, list[Any]]:
    """Return the columns of an index of rows of slide, patient, split, x and y."""
    slide, patient, split, x, y = (list(v) for v in zip(*rows, strict=True))
    sizes = [size] * len(rows)
    return {
        "slide": slide,
        "patient": patient,
        "split": split,
        "x": x,
        "y": y,
        "width_level0_px": sizes,
        "height_level0_px": sizes,
    }


def of_boxes(boxes: NDArray[np.float64], splits: Sequence[int]) -> dict[str, Any]:
    """Return the columns of one slide with these left, top, right, bottom; split -1 is none."""
    return {
        "slide": ["slide"] * len(boxes),
        "patient": [""] * len(boxes),
        "split": [*(["train", "val", "test", ""][i] for i in splits)],
        "x": boxes[:, 0],
        "y": boxes[:, 1],
        "width_level0_px": boxes[:, 2] - boxes[:, 0],
        "height_level0_px": boxes[:, 3] - boxes[:, 1],
    }


def test_patients_and_slides_that_keep_together_do_not_leak() -> None:
    columns = index_of(("a", "p", "train", 0, 0), ("b", "p", "train", 0, 0), ("c", "q", "test", 0, 0))
    assert leaks(columns) == []


def test_a_patient_in_two_splits_leaks() -> None:
    columns = index_of(
        ("a", "p", "train", 0, 0),
        ("a", "p", "train", 9, 0),
        ("b", "p", "test", 0, 0),
        ("c", "q", "test", 0, 0),
    )
    (leak,) = leaks(columns)
    assert leak == Leak("patient", "p", ("train", "test"), 1)
    assert leak.is_leak
    assert (
        leak.sentence == "Patient p is in train and test (1 patch outside of the largest); split by patient."
    )


@pytest.mark.parametrize("unknown", ["", None])
def test_patients_that_are_not_known_are_not_one_patient(unknown: str | None) -> None:
    rows = [("a", "", "train", 0, 0), ("b", "", "test", 0, 0)]
    columns = index_of(*rows) | {"patient": [unknown, unknown]}
    assert leaks(columns) == []


def test_rows_without_a_split_do_not_count() -> None:
    columns = index_of(("a", "p", "train", 0, 0), ("a", "p", "", 0, 0), ("b", "p", "", 0, 0))
    assert leaks(columns) == []
    assert leaks({name: [] for name in columns}) == []


def test_patches_that_share_pixels_leak() -> None:
    columns = index_of(("a", "p", "train", 0, 0), ("a", "p", "test", 8, 8), ("a", "p", "test", 30, 30))
    (leak,) = leaks(columns)
    assert leak == Leak("overlap", "a", ("train", "test"), 1)
    assert "On slide a, 1 patch of test share" in leak.sentence
    assert leak.is_leak


@pytest.mark.parametrize("corner", [(10, 0), (0, 10), (10, 10), (9.6, 0)])
def test_patches_without_a_gap_touch(corner: tuple[float, float]) -> None:
    # 9.6: patches of 10.0 px planned side by side, whose corners were rounded to whole pixels elsewhere.
    columns = index_of(("a", "p", "train", 0, 0), ("a", "p", "val", *corner))
    (leak,) = leaks(columns)
    assert leak == Leak("touch", "a", ("train", "val"), 1)
    assert "guard gap above 0" in leak.sentence


def test_a_slide_split_by_blocks_with_a_gap_is_told_but_no_leak() -> None:
    columns = index_of(("a", "p", "train", 0, 0), ("a", "p", "train", 10, 0), ("a", "p", "test", 25, 0))
    (leak,) = leaks(columns)
    assert leak == Leak("slide", "a", ("train", "test"), 1)
    assert not leak.is_leak
    assert "split by blocks" in leak.sentence


def test_without_boxes_the_slide_alone_is_told() -> None:
    columns = index_of(("a", "p", "train", 0, 0), ("a", "p", "test", 0, 0))
    names = ("slide", "patient", "split")
    (leak,) = leaks({name: columns[name] for name in names}, pixel_overlap=False)
    assert leak.kind == "slide"


@pytest.mark.parametrize("seed", range(4))
def test_overlaps_are_those_that_a_loop_over_all_pairs_finds(seed: int) -> None:
    # Patches of two zooms and two shapes at any place, some in no split.
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 160, (200, 2)).astype(float)
    sizes = np.array([[8, 8], [16, 16], [16, 9.5]])[rng.integers(0, 3, 200)]
    boxes = np.hstack([corners, corners + sizes])
    splits = rng.integers(-1, 3, 200)
    expected = {}
    for first, second in ((0, 1), (0, 2), (1, 2)):
        overlap, touch = 0, 0
        for i in np.flatnonzero(splits == second):
            depths = [
                min(
                    min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0]),
                    min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1]),
                )
                for j in np.flatnonzero(splits == first)
            ]
            overlap += max(depths) >= 1
            touch += -1 < max(depths) < 1
        if overlap:
            expected["overlap", SPLITS[first], SPLITS[second]] = overlap
        if touch:
            expected["touch", SPLITS[first], SPLITS[second]] = touch
    assert len(expected) > 3
    found = leaks(of_boxes(boxes, splits.tolist()))
    assert {(leak.kind, *leak.splits): leak.patches for leak in found} == expected


@pytest.mark.parametrize(("guard", "kinds"), [(0.25, {"slide"}), (0.0, {"touch"})])
def test_our_own_blocks_do_not_overlap(guard: float, kinds: set[str]) -> None:
    columns, rows = np.meshgrid(np.arange(60) * 5.0, np.arange(60) * 5.0)
    corners = np.column_stack([columns.ravel(), rows.ravel()])
    boxes = np.hstack([corners, corners + 10])
    splits = assign_splits(
        slides=np.zeros(3600, np.int64),
        patients=[""],
        boxes=boxes,
        labels=np.zeros(3600, np.int64),
        spec=SplitSpec(guard_patches=guard),
    )
    assert {leak.kind for leak in leaks(of_boxes(boxes, splits.tolist()))} == kinds


def test_columns_as_they_come_from_a_file() -> None:
    columns = index_of(("a", "p", "train", 0, 0), ("b", "p", "test", 0, 0), ("c", "q", "test", 0, 0))
    plain = leaks(columns)
    table = pa.table(columns)
    encoded = {name: table[name].dictionary_encode() for name in ("slide", "patient", "split")}
    assert [leak.kind for leak in plain] == ["patient"]
    assert leaks({name: table[name] for name in table.column_names}) == plain
    assert leaks({name: table[name] for name in table.column_names} | encoded) == plain
    assert leaks({name: np.array(v) for name, v in columns.items()}) == plain


def test_leaks_are_listed_by_name() -> None:
    columns = index_of(
        ("z", "y", "train", 0, 0),
        ("z", "y", "test", 50, 0),
        ("b", "y", "train", 0, 0),
        ("b", "y", "test", 0, 0),
        ("c", "a", "train", 0, 0),
        ("d", "a", "test", 0, 0),
    )
    found = [(leak.kind, leak.what) for leak in leaks(columns)]
    assert found == [("patient", "a"), ("patient", "y"), ("overlap", "b"), ("slide", "z")]
