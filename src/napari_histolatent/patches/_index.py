"""The index of a dataset: one row a patch, in the order of the stored pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MEMBER = ""
NO_LABEL, AT_SPLIT_BORDER, BALANCE, QUALITY, BY_HAND, OTHER_ZOOM = (
    "no label",
    "split border",
    "balance",
    "quality",
    "by hand",
    "other zoom",
)
LEFT_OUT = (NO_LABEL, AT_SPLIT_BORDER, BALANCE, QUALITY, BY_HAND, OTHER_ZOOM)
"""Why a patch of the index is not a member of the dataset (column `left_out`; a member has "")."""
QUALITIES = ("focus", "saturation", "white", "pen")

_BEFORE: dict[str, tuple[Any, Any]] = {
    "slide": (pa.string(), ""),
    "patient": (pa.string(), ""),
    "x": (pa.int64(), 0),
    "y": (pa.int64(), 0),
    "width_level0_px": (pa.float64(), np.nan),
    "height_level0_px": (pa.float64(), np.nan),
    "level": (pa.int16(), -1),
    "downsample": (pa.float64(), np.nan),
    "mpp": (pa.float64(), np.nan),
    "label": (pa.string(), ""),
    "split": (pa.string(), ""),
    "left_out": (pa.string(), ""),
    "origin": (pa.string(), "grid"),
    "by_hand": (pa.bool_(), False),
    "tissue": (pa.float32(), np.nan),
    "annotated": (pa.float32(), np.nan),
}
_AFTER: dict[str, tuple[Any, Any]] = {
    "centre_classes": (pa.uint64(), 0),
    "regions": (pa.string(), ""),
    **{name: (pa.float32(), np.nan) for name in QUALITIES},
}
"""Columns with their type and what stands where nothing is known; the coverage columns stand between."""


def coverage_column(class_name: str) -> str:
    """Return the name of the column that holds a class's area fractions."""
    return f"coverage_{class_name}"


def index_table(columns: Mapping[str, Any], coverage_classes: Sequence[str]) -> pa.Table:
    """Return the index with all columns in their order and type; what is not given is filled.

    Parameters
    ----------
    columns
        Name to values, all of one length.
    coverage_classes
        Classes whose area fractions are stored; a class that a slide lacks has fraction 0.
    """
    n = len(next(iter(columns.values())))
    coverage = {coverage_column(name): (pa.float32(), 0.0) for name in coverage_classes}
    fields = {**_BEFORE, **coverage, **_AFTER}
    arrays = []
    for name, (kind, missing) in fields.items():
        values = columns.get(name)
        if values is None:
            values = np.full(n, missing) if not isinstance(missing, str) else [missing] * n
        arrays.append(_typed(values, kind))
    return pa.table(arrays, names=list(fields))


def _typed(values: Any, kind: Any) -> Any:
    """Return values as a column of this type."""
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    return pa.array(values, type=kind, from_pandas=False)


def strings(table: pa.Table, name: str) -> NDArray[np.object_]:
    """Return a text column as an object array, with equal texts shared."""
    encoded = table[name].combine_chunks().dictionary_encode()
    values = np.array(encoded.dictionary.to_pylist() or [""], object)
    texts: NDArray[np.object_] = values[encoded.indices.to_numpy(zero_copy_only=False)]
    return texts


def with_columns(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Return the table with these columns in place of those of the same name."""
    for name, values in columns.items():
        position = table.schema.get_field_index(name)
        kind = table.schema.field(position).type
        table = table.set_column(position, name, _typed(values, kind))
    return table


def boxes_of(table: pa.Table) -> NDArray[np.float64]:
    """Return left, top, right, bottom of each row in level-0 pixels, shape (n, 4)."""
    corners = np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()]).astype(np.float64)
    sides = [table[f"{side}_level0_px"].to_numpy() for side in ("width", "height")]
    return np.hstack([corners, corners + np.column_stack(sides)])


def common_mpp(mpps: NDArray[np.float64]) -> float | None:
    """Return the resolution that stands for a whole dataset: scanners of one kind differ in the third digit."""
    if len(mpps) == 0 or not np.isfinite(mpps).all() or mpps.max() - mpps.min() > 0.02 * mpps.min():
        return None
    return round(float(np.unique(mpps).mean()), 6)
