"""How much two heatmaps agree, and whether that is more than maps of unrelated tiles do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from napari_histolatent._files import without_nan
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.explain.heatmap import Heatmap

TOP_SHARE = 0.2
"""Of a map's area: what counts as where the classifier looks."""


@dataclass(frozen=True)
class Measure:
    """A figure, beside what chance gives."""

    value: float
    """NaN where there is nothing to measure: a map of nothing, or without any difference."""
    percentile: float | None = None
    """Percent of the null distribution that agrees less (ties count half): 50 is chance, 100 more than any. None
    without one."""
    null_median: float | None = None
    null_n: int = 0
    """Tiles that the null distribution is of."""


@dataclass(frozen=True)
class Consistency:
    """How much two maps agree."""

    iou_of_top: Measure
    """Intersection over union of each map's top 20 %, 0 to 1."""
    rank_correlation: Measure
    """Spearman's, -1 to 1."""
    centroid_distance: Measure
    """Between the maps' centres of mass, as a share of the tile's side; small agrees."""
    on_nuclei: tuple[Measure, Measure] | None = None
    """Share of each map that lies on its own tile's nuclei, 0 to 1."""
    nuclei_share: tuple[float, float] | None = None
    """Share of each tile's area that is nuclei: what `on_nuclei` would be of an even map."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, NaN as None."""
        found: dict[str, Any] = without_nan(asdict(self))
        return found


def consistency(
    a: Heatmap,
    b: Heatmap,
    *,
    others: Sequence[Heatmap] = (),
    nuclei: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
    other_nuclei: Sequence[NDArray[np.bool_]] = (),
) -> Consistency:
    """Measure how much two maps agree: of a real tile and its reconstruction, or before and after an edit.

    Parameters
    ----------
    a, b
        Of one size. Their scales do not matter.
    others
        Maps of random other tiles, of the same classifier, class and layer: `a` beside each of them is the null
        distribution. With few of them a percentile is coarse.
    nuclei
        Where the nuclei of both tiles are (`models.stain.nuclei`).
    other_nuclei
        Those of random other tiles: each map beside them is the null distribution of its share on nuclei.

    Raises
    ------
    UserError
        If maps or masks differ in size.
    """
    for other in (b.values, *(item.values for item in others), *(nuclei or ()), *other_nuclei):
        if other.shape != a.values.shape:
            sizes = [f"{shape[1]} x {shape[0]}" for shape in (a.values.shape, other.shape)]
            msg = f"The heatmaps or masks have {sizes[0]} and {sizes[1]} px; compare those of tiles of one size."
            raise UserError(msg)

    def beside(
        measure: Callable[[NDArray[np.float32], NDArray[np.float32]], float], *, sign: int = 1
    ) -> Measure:
        null = [measure(a.values, other.values) for other in others]
        return _beside_null(measure(a.values, b.values), null, sign=sign)

    found = Consistency(
        iou_of_top=beside(iou_of_top),
        rank_correlation=beside(rank_correlation),
        centroid_distance=beside(centroid_distance, sign=-1),
    )
    if nuclei is None:
        return found
    first, second = (
        _beside_null(share_on(item.values, own), [share_on(item.values, mask) for mask in other_nuclei])
        for item, own in zip((a, b), nuclei, strict=True)
    )
    shares = (float(nuclei[0].mean()), float(nuclei[1].mean()))
    return replace(found, on_nuclei=(first, second), nuclei_share=shares)


def top_of(values: NDArray[np.float32], share: float = TOP_SHARE) -> NDArray[np.bool_]:
    """Return the `share` of a map's area with the highest values; what is 0 does not count, however large its part.

    Values equal to the last that belongs to it belong to it too.
    """
    n = max(1, round(share * values.size))
    least = np.partition(values, values.size - n, axis=None)[values.size - n]
    return np.asarray((values >= least) & (values > 0))


def iou_of_top(a: NDArray[np.float32], b: NDArray[np.float32], *, share: float = TOP_SHARE) -> float:
    """Return intersection over union of the maps' tops, 0 to 1; NaN if neither shows anything."""
    one, other = top_of(a, share), top_of(b, share)
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else math.nan


def rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return Spearman's rank correlation over pixels, ties averaged; NaN if a map is even all over."""
    ranks = [rankdata(values, axis=None) for values in (a, b)]
    centred = [values - values.mean() for values in ranks]
    norm = math.prod(float(np.linalg.norm(values)) for values in centred)
    return float(centred[0] @ centred[1]) / norm if norm > 0 else math.nan


def centroid_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return how far the maps' centres of mass are apart, as a share of the longer side; NaN if one shows nothing."""
    (row, column), (other_row, other_column) = _centroid(a), _centroid(b)
    return math.hypot(row - other_row, column - other_column) / float(max(a.shape))


def share_on(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the share of a map's sum that lies on a mask, 0 to 1; NaN if the map shows nothing."""
    total = float(values.sum(dtype=np.float64))
    return float(values[mask].sum(dtype=np.float64)) / total if total > 0 else math.nan


def _centroid(values: NDArray[np.float32]) -> tuple[float, float]:
    total = float(values.sum(dtype=np.float64))
    if total <= 0:
        return math.nan, math.nan
    rows, columns = (
        values.sum(axis=axis, dtype=np.float64) @ np.arange(values.shape[1 - axis]) for axis in (1, 0)
    )
    return float(rows) / total, float(columns) / total


def _beside_null(value: float, null: Sequence[float], *, sign: int = 1) -> Measure:
    """Return a figure beside its null distribution; `sign` -1: the smaller agrees more."""
    known = np.array([item for item in null if not math.isnan(item)])
    if not len(known):
        return Measure(value)
    median, n = float(np.median(known)), len(known)
    if math.isnan(value):
        return Measure(value, None, median, n)
    less = np.count_nonzero(sign * known < sign * value) + np.count_nonzero(known == value) / 2
    return Measure(value, 100 * float(less) / n, median, n)
