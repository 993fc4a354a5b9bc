"""Plans the patches of a slide again and again while the user turns knobs: what did not change is not made anew."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import nan
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_histolatent._napari.patches._preview_layer import GridPicture, picture_of_grid
from napari_histolatent.annotations import Annotations, require_on_slide
from napari_histolatent.patches import (
    UNLABELLED,
    CancelledError,
    Coverage,
    GridSpec,
    HandMark,
    PatchGrid,
    Positions,
    Recipe,
    Resolution,
    TissueMask,
    cover,
    label_of,
    positions_on,
    quality_of,
    resolutions,
    tissue_mask,
)
from napari_histolatent.patches._cutting import read_patch
from napari_histolatent.patches._grid import patch_boxes
from napari_histolatent.patches._index import AT_SPLIT_BORDER, BALANCE, BY_HAND, MEMBER, NO_LABEL
from napari_histolatent.patches._plan import coverage_rows, settle, without_default
from napari_histolatent.patches._split import SPLITS
from napari_histolatent.patches._store import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

    Stop = Callable[[], bool]

RGB = tuple[int, int, int]

_NO_CLASS_RGBA = (110, 110, 110, 110)
_BY_HAND_RGBA = (25, 25, 25, 255)
_LEFT_OUT_ALPHA = 100
_UNKNOWN_CLASS: RGB = (128, 128, 128)
_REASONS = (AT_SPLIT_BORDER, BALANCE, BY_HAND, NO_LABEL)
_TIMED_PATCHES, _LEAST_TIMED = 16, 8
_TIMED_SECONDS = 1.0


@dataclass(frozen=True)
class PlanRequest:
    """What a plan is made from."""

    slide: Slide
    annotations: Annotations | None
    recipe: Recipe
    marks: tuple[HandMark, ...] = ()
    own_mask: TissueMask | None = None
    """In place of the one that is found."""
    only_marks: bool = False


@dataclass(frozen=True)
class Planned:
    """The patches of one slide, and how to find one by its place. Arrays are not to be written to."""

    request: PlanRequest
    grids: tuple[PatchGrid, ...]
    """One a resolution; all patches with enough tissue, with a label or without, and those picked by hand."""
    mask: TissueMask
    cell_row: NDArray[np.int32]
    """Row in the first grid by grid row and column, -1 where the tissue does not suffice."""
    cell_tissue: NDArray[np.float32]
    """Share of tissue by grid row and column."""
    totals: dict[str, int]
    """Class to the patches that have it and are not left out by hand."""

    @property
    def grid(self) -> PatchGrid:
        """The grid of the first resolution, which is the one that is shown."""
        return self.grids[0]

    @property
    def size_level0_xy(self) -> tuple[float, float]:
        """Size of a patch of the first grid in level-0 pixels."""
        positions = self.grid.positions
        down_x, down_y = positions.resolution.downsample
        return positions.size_px * down_x, positions.size_px * down_y

    def cell_at(self, level0_xy: tuple[float, float]) -> tuple[int, int] | None:
        """Return (column, row) of the grid cell at a level-0 point, None beside the grid."""
        positions, size = self.grid.positions, self.size_level0_xy
        cell = []
        for i in (0, 1):
            first = positions.origin_xy[i] + (size[i] - positions.step_xy[i]) / 2
            cell.append(int(np.floor((level0_xy[i] - first) / positions.step_xy[i])))
        n_rows, n_columns = self.cell_row.shape
        return (cell[0], cell[1]) if 0 <= cell[0] < n_columns and 0 <= cell[1] < n_rows else None

    def row_at(self, level0_xy: tuple[float, float]) -> int:
        """Return the row of the first grid whose patch is at a level-0 point, -1 if there is none.

        A patch that was picked by hand lies over the grid; of two the newer.
        """
        grid = self.grid
        picked = np.flatnonzero(grid.is_picked)
        if len(picked):
            boxes = grid.boxes[picked]
            x, y = level0_xy
            is_over = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
            if is_over.any():
                return int(picked[np.flatnonzero(is_over)[-1]])
        cell = self.cell_at(level0_xy)
        return -1 if cell is None else int(self.cell_row[cell[1], cell[0]])

    def row_of(self, x: int, y: int) -> int:
        """Return the row of the first grid with this level-0 corner, -1 if there is none."""
        xy = self.grid.positions.level0_xy
        found = np.flatnonzero((xy[:, 0] == x) & (xy[:, 1] == y))
        return int(found[0]) if len(found) else -1

    def label_name(self, row: int, grid: PatchGrid | None = None) -> str:
        """Return the class of a patch, "" if it has none."""
        grid = grid or self.grid
        index = int(grid.label[row])
        return "" if index == UNLABELLED else grid.label_names[index]

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names that labels have, sorted."""
        return tuple(sorted(self.totals))


class PatchPlanner:
    """Plans one slide, keeping what each step gave. For one thread at a time; others wait."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._picture: _OnePicture | None = None
        self.made: list[str] = []
        """Names of the steps that were made, oldest first: for tests."""

    def plan(self, request: PlanRequest, should_stop: Stop) -> Planned:
        """Return the plan of a request.

        Raises
        ------
        CancelledError
            If `should_stop` said so.
        UserError
            If there is no such plan; one sentence.
        """
        with self._lock:
            return self._plan(request, should_stop)

    def mask(self, slide: Slide, recipe: Recipe) -> TissueMask:
        """Return the tissue that is found, without the user's own mask."""
        with self._lock:
            return self._found_mask(slide, recipe)

    def _step(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        kept = self._kept.get(name)
        if kept is None or kept[0] != key:
            self.made.append(name)
            del self.made[:-100]
            kept = self._kept[name] = (key, make())
        return kept[1]

    def _plan(self, request: PlanRequest, should_stop: Stop) -> Planned:
        slide, recipe = request.slide, request.recipe
        annotations = request.annotations
        areas = annotations is not None and any(r.is_area for r in annotations.regions)
        if annotations is None or not areas:
            annotations = Annotations((), format="none")
        else:
            require_on_slide(annotations, slide.info)
        wanted = resolutions(slide, recipe.grid)
        mask = request.own_mask if request.own_mask is not None else self._found_mask(slide, recipe)
        grids, cells = [], None
        for i, resolution in enumerate(wanted):
            if should_stop():
                raise CancelledError
            marks = request.marks if i == 0 else ()
            grid, own = self._plan_one(request, annotations, mask, resolution, marks, i, should_stop)
            grids.append(grid)
            cells = cells or own
        assert cells is not None
        totals: dict[str, int] = {}
        for grid in grids:
            for name, n in grid.counts().items():
                totals[name] = totals.get(name, 0) + n
        return Planned(request, tuple(grids), mask, *cells, totals)

    def _found_mask(self, slide: Slide, recipe: Recipe) -> TissueMask:
        if self._picture is None or self._picture.slide is not slide:
            self._picture = _OnePicture(slide)
        picture = self._picture
        # What a patch needs is no matter of the mask.
        spec = replace(recipe.tissue, min_tissue=0.0)
        made = self._step(
            "mask", (id(slide), slide.info.mpp_x, spec), lambda: tissue_mask(cast("Slide", picture), spec)
        )
        return cast("TissueMask", made)

    def _plan_one(
        self,
        request: PlanRequest,
        annotations: Annotations,
        mask: TissueMask,
        resolution: Resolution,
        marks: Sequence[HandMark],
        number: int,
        should_stop: Stop,
    ) -> tuple[PatchGrid, tuple[NDArray[np.int32], NDArray[np.float32]]]:
        recipe, slide = request.recipe, request.slide
        spec = recipe.grid
        place = (spec, resolution, slide.info.mpp_x, request.only_marks)
        positions: Positions = self._step(
            f"positions {number}",
            place,
            lambda: (
                _no_positions(spec, resolution)
                if request.only_marks
                else positions_on(slide.info, spec, resolution)
            ),
        )
        tissue = self._step(f"tissue {number}", (place, _Same(mask)), lambda: mask.fractions(positions.boxes))
        coverage: Coverage = self._step(
            f"coverage {number}",
            (place, _Same(*annotations.regions)),
            lambda: _coverage_of(annotations, positions.boxes, should_stop),
        )
        is_enough = tissue >= recipe.tissue.min_tissue
        enough = np.flatnonzero(is_enough)
        chosen, at = positions.take(enough), coverage_rows(coverage, enough)
        tissue_of = tissue[enough]
        cells = _cells_of(positions, tissue, enough)
        if should_stop():
            raise CancelledError
        corners = _corners_off(chosen, marks)
        is_picked = np.zeros(len(enough) + len(corners), bool)
        if len(corners):
            is_picked[len(enough) :] = True
            boxes = patch_boxes(corners, spec.size_px, resolution.downsample)
            chosen = replace(
                chosen,
                level0_xy=np.vstack([chosen.level0_xy, corners]),
                cell=np.vstack([chosen.cell, np.full((len(corners), 2), -1, np.int64)]),
            )
            tissue_of = np.concatenate([tissue_of, mask.fractions(boxes)])
            at = _joined(at, _coverage_of(annotations, boxes, should_stop))
        label, names = label_of(at, annotations.classes, recipe.labels)
        is_glass = is_picked & (tissue_of < recipe.tissue.min_tissue)
        label = without_default(label, is_glass, at, annotations.classes, recipe.labels)
        label, names, is_out, is_by_hand = _decided(chosen, label, names, marks)
        grid = PatchGrid(
            chosen, annotations.classes, names, at, tissue_of, label, is_out, is_picked, is_by_hand
        )
        return grid, cells


class _OnePicture:
    """A slide as the search for tissue sees it, read once."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self._read: tuple[int, Any] | None = None

    @property
    def info(self) -> Any:
        return self.slide.info

    def thumbnail(self, *, longest_px: int) -> Any:
        if self._read is None or self._read[0] != longest_px:
            self._read = longest_px, self.slide.thumbnail(longest_px=longest_px)
        return self._read[1]


class _Same:
    """Equal to another of the very same objects, which are kept: comparing outlines would take long."""

    __hash__ = None  # type: ignore[assignment]  # compared, never looked up

    def __init__(self, *objects: object) -> None:
        self._objects = objects

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same) or len(self._objects) != len(other._objects):
            return False
        return all(a is b for a, b in zip(self._objects, other._objects, strict=True))


def _no_positions(spec: GridSpec, resolution: Resolution) -> Positions:
    none = np.zeros((0, 2), np.int64)
    step = spec.size_px * resolution.downsample[0], spec.size_px * resolution.downsample[1]
    return Positions(spec.size_px, resolution, none, none, (0.0, 0.0), step)


def _coverage_of(annotations: Annotations, boxes: NDArray[np.float64], should_stop: Stop) -> Coverage:
    """Return the coverage of boxes; those beside all regions are not looked at."""
    classes, n = annotations.classes, len(boxes)
    shares = np.zeros((n, len(classes)), np.float32)
    annotated, centres = np.zeros(n, np.float32), np.zeros(n, np.uint64)
    if classes and n:
        bounds = np.array([r.geometry.bounds for r in annotations.regions if r.is_area])
        low, high = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
        near = np.flatnonzero((boxes[:, :2] <= high).all(axis=1) & (boxes[:, 2:] >= low).all(axis=1))
        if len(near):
            found = cover(annotations, classes, boxes[near], with_regions=False, should_stop=should_stop)
            shares[near], annotated[near] = found.shares, found.annotated
            centres[near] = found.centre_classes
    return Coverage(shares, annotated, centres)


def _joined(one: Coverage, other: Coverage) -> Coverage:
    return Coverage(
        np.vstack([one.shares, other.shares]),
        np.concatenate([one.annotated, other.annotated]),
        np.concatenate([one.centre_classes, other.centre_classes]),
    )


def _cells_of(
    positions: Positions, tissue: NDArray[np.float32], enough: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    if not len(positions):
        return np.full((0, 0), -1, np.int32), np.zeros((0, 0), np.float32)
    shape = tuple(int(v) + 1 for v in positions.cell.max(axis=0)[::-1])
    rows, shares = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    column, row = positions.cell.T
    shares[row, column] = tissue
    rows[row[enough], column[enough]] = np.arange(len(enough))
    return rows, shares


def corner_numbers(xy: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each corner that sorts as the rows of a grid do."""
    keys: NDArray[np.int64] = (xy[:, 1] << 32) + xy[:, 0]
    return keys


def _rows_of(positions: Positions, marks: Sequence[HandMark]) -> NDArray[np.int64]:
    """Return the row of each mark, -1 where there is none."""
    wanted = corner_numbers(np.array([(mark.x, mark.y) for mark in marks], np.int64).reshape(-1, 2))
    keys = corner_numbers(positions.level0_xy)
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys, wanted, sorter=order)
    rows = order[np.minimum(at, len(keys) - 1)] if len(keys) else np.zeros(len(wanted), np.int64)
    is_there = keys[rows] == wanted if len(keys) else np.zeros(len(wanted), bool)
    return np.where(is_there, rows, -1)


def _corners_off(positions: Positions, marks: Sequence[HandMark]) -> NDArray[np.int64]:
    """Return the corners of marked patches that are not among these positions, shape (n, 2)."""
    if not marks:
        return np.zeros((0, 2), np.int64)
    rows = _rows_of(positions, marks)
    off = [(m.x, m.y) for m, row in zip(marks, rows.tolist(), strict=True) if row < 0 and m.is_in]
    return np.array(list(dict.fromkeys(off)), np.int64).reshape(-1, 2)


def _decided(
    positions: Positions, label: NDArray[np.int64], names: tuple[str, ...], marks: Sequence[HandMark]
) -> tuple[NDArray[np.int64], tuple[str, ...], NDArray[np.bool_], NDArray[np.bool_]]:
    """Put the user's decisions over the rule's."""
    is_out, is_by_hand = np.zeros(len(label), bool), np.zeros(len(label), bool)
    if not marks:
        return label, names, is_out, is_by_hand
    all_names = tuple(sorted({*names, *(mark.label for mark in marks if mark.label)}))
    label = np.array([all_names.index(name) for name in names] + [UNLABELLED], np.int64)[label]
    for mark, row in zip(marks, _rows_of(positions, marks).tolist(), strict=True):
        if row < 0:
            continue
        is_out[row] = not mark.is_in
        if mark.label:
            label[row], is_by_hand[row] = all_names.index(mark.label), True
    return label, all_names, is_out, is_by_hand


# What is shown of a plan


@dataclass(frozen=True)
class Settled:
    """Which patches of a plan are members of a dataset of this slide alone, and of which split."""

    left_out: NDArray[np.object_]
    """"" for a member, else the reason; rows of the first grid, then of the second."""
    split: NDArray[np.int64]
    """Index into train, val, test; -1 for none. Same rows."""
    counts: dict[str, tuple[int, int, int]]
    """Class to members in train, val and test."""
    reasons: dict[str, int]
    """Reason to patches that are left out for it."""
    hand_left_out: dict[tuple[int, int], str] = field(default_factory=dict)
    """Corner of each patch of the first grid that was picked or labelled by hand, to why it is left out all the same."""

    @property
    def n_members(self) -> int:
        """Patches that would be cut."""
        return sum(sum(row) for row in self.counts.values())


def settled(planned: Planned) -> Settled:
    """Split and balance the patches of a plan, as an extraction of this slide alone would."""
    names = planned.label_names
    labels, slide_of, zoom_of, boxes = [], [], [], []
    for zoom, grid in enumerate(planned.grids):
        index = np.array([names.index(name) for name in grid.label_names] + [UNLABELLED], np.int64)
        labels.append(index[grid.label])
        slide_of.append(np.zeros(len(grid), np.int64))
        zoom_of.append(np.full(len(grid), zoom, np.int64))
        boxes.append(grid.boxes)
    label = np.concatenate(labels)
    left_out = np.full(len(label), MEMBER, object)
    left_out[label == UNLABELLED] = NO_LABEL
    left_out[np.concatenate([grid.is_out for grid in planned.grids])] = BY_HAND
    if (left_out == MEMBER).any():
        left_out, split = settle(
            left_out,
            label,
            np.concatenate(slide_of),
            np.concatenate(zoom_of),
            [""],
            [planned.request.slide.info.digest],
            np.vstack(boxes),
            planned.request.recipe,
            np.concatenate([grid.is_picked | grid.is_by_hand for grid in planned.grids]),
        )
    else:
        split = np.full(len(label), -1, np.int64)
    is_member = left_out == MEMBER
    counts = {}
    for i, name in enumerate(names):
        of_split = np.bincount(split[is_member & (label == i)], minlength=len(SPLITS))
        counts[name] = (int(of_split[0]), int(of_split[1]), int(of_split[2]))
    # Each comparison is short; sorting 200,000 texts would keep all other threads waiting.
    numbers = {reason: int((left_out == reason).sum()) for reason in _REASONS}
    grid = planned.grid
    by_hand = np.flatnonzero((grid.is_picked | grid.is_by_hand) & ~grid.is_out & (grid.label != UNLABELLED))
    corners = grid.positions.level0_xy[by_hand].tolist()
    of_hand = {(x, y): left_out[row] for (x, y), row in zip(corners, by_hand.tolist(), strict=True)}
    return Settled(
        left_out,
        split,
        counts,
        {reason: n for reason, n in numbers.items() if n},
        {corner: reason for corner, reason in of_hand.items() if reason != MEMBER},
    )


def grid_colors(
    grid: PatchGrid, colors: Mapping[str, RGB], left_out: NDArray[np.object_] | None = None
) -> NDArray[np.uint8]:
    """Return RGBA of each patch, shape (n, 4): its class's colour, faint where the patch is left out."""
    table = np.array(
        [(*colors.get(name, _UNKNOWN_CLASS), 255) for name in grid.label_names] + [_NO_CLASS_RGBA], np.uint8
    )
    rgba = table[grid.label]
    if left_out is not None:
        rgba[(left_out != MEMBER) & (grid.label != UNLABELLED), 3] = _LEFT_OUT_ALPHA
    rgba[grid.is_out] = _BY_HAND_RGBA
    return rgba


def picture_of(
    planned: Planned, colors: Mapping[str, RGB], settlement: Settled | None = None
) -> GridPicture | None:
    """Return the first grid as a picture, None if it has no cell.

    Raises
    ------
    DatasetError
        If the picture would be larger than a graphics card takes.
    """
    grid = planned.grid
    if not planned.cell_row.size:
        return None
    left_out = None if settlement is None else settlement.left_out[: len(grid)]
    rgba = grid_colors(grid, colors, left_out)
    on_grid = np.flatnonzero(grid.positions.cell[:, 0] >= 0)
    column, row = grid.positions.cell[on_grid].T
    return picture_of_grid(
        column,
        row,
        (planned.cell_row.shape[0], planned.cell_row.shape[1]),
        rgba[on_grid],
        first_xy=grid.positions.origin_xy,
        size_xy=planned.size_level0_xy,
        stride_xy=grid.positions.step_xy,
    )


@dataclass(frozen=True)
class Cost:
    """What one patch takes, measured on a few."""

    seconds: float = nan
    n_bytes: float = nan


def measured_cost(planned: Planned, should_stop: Stop) -> Cost:
    """Return what cutting, measuring and storing a patch takes: a few are read, spread over the slide.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    """
    seconds: list[float] = []
    sizes: list[int] = []
    began = perf_counter()
    store = planned.request.recipe.store
    for grid in planned.grids:
        rows = np.flatnonzero(grid.is_in)
        if not len(rows):
            continue
        for row in rows[np.linspace(0, len(rows) - 1, min(_TIMED_PATCHES, len(rows))).astype(int)].tolist():
            if should_stop():
                raise CancelledError
            if len(sizes) > _LEAST_TIMED and perf_counter() - began > _TIMED_SECONDS:
                break
            start = perf_counter()
            pixels = pixels_of(planned.request.slide, grid, row)
            quality_of(pixels[None])
            sizes.append(0 if store.index_only else len(encode(pixels, store.codec, store.jpeg_quality)))
            seconds.append(perf_counter() - start)
    if not sizes:
        return Cost()
    # The first opens what the next ones find open; of the rest the median is what most patches take.
    return Cost(float(np.median(seconds[1:] or seconds)), float(np.mean(sizes)))


def pixels_of(slide: Slide, grid: PatchGrid, row: int) -> NDArray[np.uint8]:
    """Return the pixels of a patch of a grid, uint8 of shape (size_px, size_px, 3)."""
    resolution = grid.positions.resolution
    return read_patch(
        slide,
        grid.positions.level0_xy[row],
        size_px=grid.positions.size_px,
        level=resolution.level,
        downsample=np.array(resolution.downsample),
    )
