"""From area fractions to a label: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._config import option
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._coverage import coverage_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.patches._coverage import Coverage

__all__ = ["RULES", "UNLABELLED", "LabelSpec", "check_classes", "coverage_of", "label_of"]

RULES = {
    "area": "the class that covers at least the threshold's share of the patch",
    "majority": "the class that covers more than half of the patch",
    "any": "the class that touches the patch at all (the largest share where several do)",
    "inside": "the class that covers the whole patch",
    "centre": "the class at the patch's centre",
    "priority": "the first class of the priority order that covers at least the threshold's share",
}
"""Name and meaning of each rule that turns regions into a label."""

UNLABELLED = -1

_ROUNDING = np.float32(1e-6)
"""float32 shares: a patch covered to exactly the threshold must not be lost to rounding."""


@dataclass(frozen=True)
class LabelSpec:
    """How the classes that cover a patch become its one label."""

    rule: str = option("area", f"What gives the label: {', '.join(RULES)}.")
    threshold: float = option(0.75, "Least share of the patch for the rules area and priority, 0 to 1.")
    priority: tuple[str, ...] = option(
        (),
        "Order of the classes for the rule priority; classes not listed come after, the largest share first.",
    )
    exclude: tuple[str, ...] = option((), "Classes that give no label and rule out the patches they touch.")
    exclude_above: float = option(0.0, "Share of an excluded class that a patch may still have, 0 to 1.")
    annotated_as: str = option("", "One label for whatever is annotated, instead of the classes' names.")
    default_class: str = option("", "Label of tissue that is not annotated; empty: it gets none.")
    ignore_above: float = option(
        0.0,
        "Annotated share up to which a patch counts as not annotated; between this and what the rule demands it gets no label.",
    )

    def __post_init__(self) -> None:
        for name in ("priority", "exclude"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) and item for item in value):
                msg = f"`{name}` is a list of class names, not {value!r}; give names as the annotations have them."
                raise DatasetError(msg)
            object.__setattr__(self, name, tuple(value))
            doubles = sorted({item for item in value if value.count(item) > 1})
            if doubles:
                msg = f"`{name}` names {', '.join(doubles)} more than once; name each class once."
                raise DatasetError(msg)
        if self.rule not in RULES:
            msg = f"There is no label rule {self.rule!r}; choose one of {', '.join(RULES)}."
            raise DatasetError(msg)
        if not 0 < self.threshold <= 1:
            msg = f"The threshold is a share of the patch and has to lie above 0 and up to 1, not at {self.threshold:g}."
            raise DatasetError(msg)
        for name in ("exclude_above", "ignore_above"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                msg = f"`{name}` is a share of the patch and has to lie between 0 and 1, not at {value:g}."
                raise DatasetError(msg)
        both = [name for name in self.priority if name in self.exclude]
        if both:
            msg = f"{', '.join(both)} cannot have a priority and be excluded; take it out of one of the two."
            raise DatasetError(msg)
        for name in ("default_class", "annotated_as"):
            if getattr(self, name) and getattr(self, name) in self.exclude:
                msg = f"{getattr(self, name)!r} cannot be excluded and be the name in `{name}`; choose another name for one of the two."
                raise DatasetError(msg)
        if self.annotated_as and self.annotated_as == self.default_class:
            msg = f"What is annotated and what is not cannot both be labelled {self.default_class!r}; choose two names."
            raise DatasetError(msg)


def check_classes(spec: LabelSpec, classes: Sequence[str]) -> None:
    """Make sure that the classes that a spec names exist; `classes` are those of all slides.

    Raises
    ------
    DatasetError
        If one does not, with the classes there are.
    """
    for name in (*spec.priority, *spec.exclude):
        if name not in classes:
            there = ", ".join(sorted(classes)) or "none"
            msg = f"No region has the class {name!r} that the label rule names; the classes are: {there}."
            raise DatasetError(msg)


def label_of(
    coverage: Coverage, classes: Sequence[str], spec: LabelSpec
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the label of each patch, and the names that the labels count.

    Where several classes do equally well, the first in `classes` gives the label.

    Parameters
    ----------
    coverage
        Shares, annotated share and classes at the centre, as `cover` or the columns of an index have them.
    classes
        Names of the columns of the shares.
    spec
        Classes that it names and `classes` lacks cover nothing here.

    Returns
    -------
    labels
        int64, shape (n,): an index into `names`, or -1 where the patch gets no label.
    names
        Sorted.
    """
    usable = [i for i, name in enumerate(classes) if name not in spec.exclude]
    targets = {i: spec.annotated_as or classes[i] for i in usable}
    names = tuple(sorted({*targets.values(), spec.default_class} - {""}))
    n, at_centre = len(coverage.shares), coverage.centre_classes
    shares = np.ascontiguousarray(coverage.shares.T)  # a class after the other is twice as fast
    excluded = np.zeros(n, bool)
    for share, name in zip(shares, classes, strict=True):
        if name in spec.exclude:
            excluded |= _exceeds(share, spec.exclude_above)
    if spec.annotated_as:
        columns = {0: _union_of(coverage, usable)}
        of_column = {0: spec.annotated_as}
        bits = {0: np.uint64(sum(1 << i for i in usable))}
    else:
        columns = {i: shares[i] for i in usable}
        of_column = targets
        bits = {i: np.uint64(1 << i) for i in usable}
    labels = np.full(n, UNLABELLED, np.int16)
    if not usable:
        pass
    elif spec.rule == "centre":
        for i in reversed(list(columns)):
            np.copyto(labels, names.index(of_column[i]), where=(at_centre & bits[i]) != 0)
    else:
        least = {"inside": 1.0, "majority": 0.5, "any": 0.0}.get(spec.rule, spec.threshold)
        # The largest share; of equal ones the first.
        best = np.zeros(n, np.float32)
        for i, share in columns.items():
            larger = share > best
            np.copyto(best, share, where=larger)
            np.copyto(labels, names.index(of_column[i]), where=larger)
        is_enough = _reaches(best, least) if spec.rule in _AT_LEAST else best > np.float32(least)
        np.copyto(labels, UNLABELLED, where=~is_enough)
        if spec.rule == "priority":
            listed = [i for name in spec.priority for i in columns if of_column[i] == name]
            for i in reversed(listed):
                np.copyto(labels, names.index(of_column[i]), where=_reaches(columns[i], least))
    if spec.default_class:
        bare = ~_exceeds(coverage.annotated, spec.ignore_above)
        np.copyto(labels, names.index(spec.default_class), where=bare & (labels == UNLABELLED))
    np.copyto(labels, UNLABELLED, where=excluded)
    return labels.astype(np.int64), names


_AT_LEAST = ("area", "inside", "priority")


def _reaches(share: NDArray[np.float32], least: float) -> NDArray[np.bool_]:
    """Return where a share is at least `least`; nothing is never enough."""
    return share >= max(np.float32(least) - _ROUNDING, np.finfo(np.float32).tiny)


def _exceeds(share: NDArray[np.float32], most: float) -> NDArray[np.bool_]:
    """Return where a share is more than `most`; of 0, anything is more."""
    return share > (np.float32(most) + _ROUNDING if most > 0 else np.float32(0))


def _union_of(coverage: Coverage, usable: Sequence[int]) -> NDArray[np.float32]:
    """Return the share inside any usable class, as far as the shares tell it.

    Exactly the annotated share where no excluded class reaches into the patch; else at least what is left of it.
    """
    shares = coverage.shares
    others = np.zeros(len(shares), np.float32)
    largest = np.zeros(len(shares), np.float32)
    for column in range(shares.shape[1]):
        if column in usable:
            np.maximum(largest, shares[:, column], out=largest)
        else:
            others += shares[:, column]
    left = np.where(others > 0, coverage.annotated - others, coverage.annotated)
    return np.maximum(largest, np.where(largest > 0, left, 0).astype(np.float32))
