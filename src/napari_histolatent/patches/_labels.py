"""From area fractions to a label: pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.annotations import Annotations

RULES = {
    "area": "the class that covers at least the threshold's share of the patch",
    "majority": "the class that covers most of the patch",
    "any": "the class that touches the patch at all (the largest share where several do)",
    "inside": "the class that covers the whole patch",
    "centre": "the class at the patch's centre",
}
"""Name and meaning of each rule that turns regions into a label."""

UNLABELLED = -1

_WHOLE = 1 - 1e-6


def coverage_of(
    annotations: Annotations, classes: Sequence[str], boxes: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the exact area fraction of each box inside each class.

    Parameters
    ----------
    annotations
        Regions in level-0 pixels; overlaps within a class count once.
    classes
        Names, the columns of the result.
    boxes
        Shape (n, 4): left, top, right, bottom in level-0 pixels.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, len(classes)), 0 to 1.
    """
    fractions = np.zeros((len(boxes), len(classes)), np.float32)
    squares = shapely.box(*boxes.T)
    areas = shapely.area(squares)
    for column, class_name in enumerate(classes):
        parts = [p for r in annotations.regions if r.class_name == class_name for p in r.polygons]
        union = shapely.union_all(parts)
        shapely.prepare(union)
        touched = np.flatnonzero(shapely.intersects(union, squares))
        within = shapely.contains_properly(union, squares[touched])
        fractions[touched[within], column] = 1
        border = touched[~within]
        fractions[border, column] = shapely.area(shapely.intersection(union, squares[border])) / areas[border]
    return fractions


def label_of(
    coverage: NDArray[np.float32],
    *,
    rule: str,
    threshold: float,
    centre_coverage: NDArray[np.float32] | None = None,
) -> NDArray[np.int64]:
    """Return the class index of each patch, or -1 where the rule gives none.

    Parameters
    ----------
    coverage
        Area fractions, shape (n, classes).
    rule
        One of `RULES`.
    threshold
        Least share for rule "area", in (0, 1].
    centre_coverage
        For rule "centre": 1 where the class covers the patch's centre, same shape as `coverage`.

    Raises
    ------
    DatasetError
        If the rule is unknown or the threshold is not a share.
    """
    if rule not in RULES:
        msg = f"There is no label rule {rule!r}; choose one of {', '.join(RULES)}."
        raise DatasetError(msg)
    if not 0 < threshold <= 1:
        msg = (
            f"The threshold is a share of the patch and has to lie above 0 and up to 1, not at {threshold:g}."
        )
        raise DatasetError(msg)
    shares = centre_coverage if rule == "centre" and centre_coverage is not None else coverage
    least = {"area": threshold, "majority": 0.5, "any": 0.0, "inside": _WHOLE, "centre": 0.5}[rule]
    best = shares.argmax(axis=1)
    share = shares.max(axis=1, initial=0)
    # float32 fractions: a patch covered to exactly the threshold must not be lost to rounding.
    enough = share > 0 if rule == "any" else share >= least - 1e-6
    if rule == "majority":
        enough = share > 0.5
    return np.where(enough, best, UNLABELLED)
