"""Whether anything that trains also tests: patients, slides and pixels in more than one split."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from scipy.spatial import cKDTree

from napari_histolatent.patches._split import SPLITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_SLACK_PX = 1.0
"""Corners are whole level-0 pixels: patches that were planned side by side may share less than one."""


@dataclass(frozen=True)
class Leak:
    """Tissue in more than one split, or a slide that was split by blocks and whether that is clean."""

    kind: str
    """patient, overlap or touch, which are leaks; slide: split by blocks, which is none."""
    what: str
    """The patient, or the digest of the slide."""
    splits: tuple[str, ...]
    patches: int
    """Patches concerned: of a patient or slide those outside of its largest split, of two splits those of the second
    that share pixels with (overlap) or lie without a gap beside (touch) some of the first."""

    @property
    def is_leak(self) -> bool:
        """Whether it may make a test look better than it is."""
        return self.kind != "slide"

    @property
    def sentence(self) -> str:
        """What was found and what to do."""
        splits = f"{', '.join(self.splits[:-1])} and {self.splits[-1]}"
        counted = f"{self.patches:,} {'patch' if self.patches == 1 else 'patches'}"
        if self.kind == "patient":
            return f"Patient {self.what} is in {splits} ({counted} outside of the largest); split by patient."
        if self.kind == "overlap":
            return f"On slide {self.what}, {counted} of {self.splits[1]} share pixels with {self.splits[0]}; split by slide, or by blocks with a guard gap."
        if self.kind == "touch":
            return f"On slide {self.what}, {counted} of {self.splits[1]} touch {self.splits[0]} without a gap; split with a guard gap above 0."
        return f"Slide {self.what} is in {splits}, as it was split by blocks: none of its patches share pixels between splits, but they show one piece of tissue; more slides make a better test."


def leaks(columns: Mapping[str, Any], *, pixel_overlap: bool = True) -> list[Leak]:
    """Return what is in more than one split, patients first, then slides; rows without a split do not count.

    Parameters
    ----------
    columns
        Columns of a dataset's index, of one length: slide, patient ("" or null: not known) and split; with
        `pixel_overlap` also x, y (top-left corner), width_level0_px and height_level0_px, in level-0 pixels.
    pixel_overlap
        Compare the boxes of patches of different splits on one slide. Without, a slide in two splits is all that
        is said of it, as kind "slide".

    Returns
    -------
    list of Leak
        A patient with one slide only is not listed beside its slide. A slide in several splits gives an
        "overlap" and a "touch" for each pair of splits where patches do, else one entry "slide".
    """
    names, codes = _codes(columns["split"])
    known = [SPLITS.index(name) if name in SPLITS else -1 for name in names]
    splits = np.array([*known, -1], np.int64)[codes]
    rows = np.flatnonzero(splits >= 0)
    splits = splits[rows]
    slide_names, slides = _codes(columns["slide"])
    patient_names, patients = _codes(columns["patient"])
    slides, patients = slides[rows], patients[rows]
    pairs = np.unique(patients * len(slide_names) + slides)
    slides_of = np.bincount(pairs // len(slide_names), minlength=len(patient_names))
    found = [
        _divided_leak("patient", patient_names[patient], counts)
        for patient, counts in _divided(patients, splits)
        if patient_names[patient] and slides_of[patient] > 1
    ]
    found.sort(key=lambda leak: leak.what)
    on_slides = []
    by_slide = np.argsort(slides, kind="stable")
    ends = np.cumsum(np.bincount(slides, minlength=len(slide_names)))
    starts = np.r_[0, ends[:-1]]
    for slide, counts in _divided(slides, splits):
        met: list[Leak] = []
        if pixel_overlap:
            on_slide = by_slide[starts[slide] : ends[slide]]
            met = list(_meetings(slide_names[slide], _boxes(columns, rows[on_slide]), splits[on_slide]))
        on_slides += met or [_divided_leak("slide", slide_names[slide], counts)]
    return found + sorted(on_slides, key=lambda leak: leak.what)


def _codes(values: Sequence[Any]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the different values, null as "", and the number of each row's own."""
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, pa.string())
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.fill_null("").dictionary_encode()
    names = ["" if v is None else str(v) for v in column.dictionary.to_pylist()]
    # A dictionary that was read from a file may hold null in its indices.
    codes = column.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return [*names, ""], np.asarray(codes, np.int64)


def _divided(groups: NDArray[np.int64], splits: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Return the groups that are in several splits, and their patches in each."""
    n_groups = int(groups.max(initial=-1)) + 1
    counts = np.bincount(groups * len(SPLITS) + splits, minlength=n_groups * len(SPLITS))
    counts = counts.reshape(n_groups, len(SPLITS))
    return [(int(i), counts[i]) for i in np.flatnonzero((counts > 0).sum(axis=1) > 1)]


def _divided_leak(kind: str, what: str, counts: NDArray[np.int64]) -> Leak:
    splits = tuple(name for name, count in zip(SPLITS, counts, strict=True) if count)
    return Leak(kind, what, splits, int(counts.sum() - counts.max()))


def _boxes(columns: Mapping[str, Sequence[Any]], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return x, y, width and height of these rows in level-0 pixels, shape (n, 4)."""
    named = ("x", "y", "width_level0_px", "height_level0_px")
    return np.column_stack([np.asarray(columns[name])[rows].astype(np.float64) for name in named])


def _meetings(slide: str, boxes: NDArray[np.float64], splits: NDArray[np.int64]) -> Iterator[Leak]:
    """Yield where patches of two splits on one slide overlap, and where they lie side by side without a gap."""
    for first, second in combinations(np.unique(splits), 2):
        pair = (SPLITS[first], SPLITS[second])
        overlaps, touches = _meeting(boxes[splits == second], boxes[splits == first])
        if overlaps:
            yield Leak("overlap", slide, pair, overlaps)
        if touches:
            yield Leak("touch", slide, pair, touches)


def _meeting(ours: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[int, int]:
    """Return how many of `ours` overlap one of `others`, and how many more touch one.

    Boxes of the sizes (w, h) and (v, g) overlap where their centres are less than (w + v) / 2 apart in x and less than
    (h + g) / 2 in y: with x and y divided by these, where the larger of the two distances (Chebyshev's) is below 1.
    One search tree for each pair of sizes, of which a dataset has few, answers that for the nearest other exactly.
    """
    overlap, touch = np.zeros(len(ours), np.bool_), np.zeros(len(ours), np.bool_)
    our_sizes, our_size = np.unique(ours[:, 2:], axis=0, return_inverse=True)
    other_sizes, other_size = np.unique(others[:, 2:], axis=0, return_inverse=True)
    for i, j in product(range(len(our_sizes)), range(len(other_sizes))):
        mine, theirs = np.flatnonzero(our_size == i), others[other_size == j]
        reach = (our_sizes[i] + other_sizes[j]) / 2
        for met, limit in ((overlap, reach - _SLACK_PX + 1e-6), (touch, reach + _SLACK_PX - 1e-6)):
            limit = np.maximum(limit, 1e-6)
            tree = cKDTree(
                (theirs[:, :2] + theirs[:, 2:] / 2) / limit, balanced_tree=False, compact_nodes=False
            )
            open_rows = mine[~(overlap | met)[mine]]
            centres = (ours[open_rows, :2] + ours[open_rows, 2:] / 2) / limit
            nearest, _ = tree.query(centres, p=np.inf, distance_upper_bound=1.0)
            met[open_rows[nearest <= 1.0]] = True
    return int(overlap.sum()), int((touch & ~overlap).sum())
