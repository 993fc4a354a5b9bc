"""In which class a tile is searched unless the user says otherwise, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class SearchClass:
    """The class to search a tile in."""

    label: str | None
    """None: each class in turn, and the nearest image is kept."""
    why: str
    """In a sentence."""


def search_class_of(
    annotated: str | None, classes: Sequence[str], chances: Mapping[str, float] | None, judge: str
) -> SearchClass:
    """Return the class to search a tile in: as it is annotated, else as a classifier sees it, else each in turn.

    Parameters
    ----------
    annotated
        The class of the annotation that the tile lies in, if it lies in one.
    classes
        That the generator knows.
    chances
        The probability of each class, by a classifier; None: there is none, or it has not looked yet.
    judge
        Which classifier that is, in words.
    """
    if annotated in classes:
        return SearchClass(annotated, f"The tile is annotated as {annotated}.")
    first = (
        f"The tile is annotated as {annotated}, which the generator does not know"
        if annotated
        else "The tile has no annotation"
    )
    known = {name: chance for name, chance in (chances or {}).items() if name in classes}
    if not known:
        return SearchClass(None, f"{first}: each class is tried, and the nearest picture kept.")
    best = max(known, key=known.__getitem__)
    said = f"{first}; the classifier, {judge}, sees {best} in it (probability {known[best]:.2f})."
    return SearchClass(best, said)
