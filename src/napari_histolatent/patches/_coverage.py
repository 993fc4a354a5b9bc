"""Exact area fractions of boxes inside classes.

Boxes of a grid have few distinct edges. These lines make a lattice; every edge of a polygon is split where it crosses
a line, and what each piece adds to the area of its cell, and of the cells to the right of it, is exact arithmetic on
trapezoids (as in scan conversion with exact area coverage). Sums along the lattice then give the area inside any box
by four look-ups, however many boxes there are and however long the outline is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.annotations import Annotations

    Stop = Callable[[], bool] | None

MAX_CLASSES = 64
"""One bit each, in `Coverage.centre_classes`."""

_CELLS_AT_ONCE = 1 << 22
"""Cells of a band of the lattice: three tables of 32 MB."""
_PIECES_AT_ONCE = 1 << 20
_CELLS_PER_BOX = 64
_GROUP = 128
"""Boxes off a grid that share a lattice of their own."""
_FREE_CELLS = 4 * _GROUP**2
"""Boxes that need more cells than this and `_CELLS_PER_BOX` for each are no grid."""
_SNAP = 1e-9
"""Shares this near to 0 or 1 are 0 or 1: some 1e-4 square pixels of a patch of 256."""
_LONG = 256
"""Vertices from which a region is looked at by its lattice, not box by box."""
_BOXES_AT_ONCE = 1 << 16


class CancelledError(Exception):
    """The caller's `should_stop` said so; there is no result."""


@dataclass(frozen=True)
class Coverage:
    """What the regions cover of each box. Row i of every member is box i."""

    shares: NDArray[np.float32]
    """Share of the box inside each class, shape (n, classes), 0 to 1; overlaps within a class count once."""
    annotated: NDArray[np.float32]
    """Share inside any region with an area, whatever its class, shape (n,)."""
    centre_classes: NDArray[np.uint64]
    """Bit i: class i covers the middle of the box, its border included; shape (n,)."""
    regions: list[str] | None = None
    """Ids of the regions with an area inside the box, in the order of the annotations, joined by a space."""


def cover(
    annotations: Annotations,
    classes: Sequence[str],
    boxes: NDArray[np.float64],
    *,
    with_regions: bool = True,
    should_stop: Callable[[], bool] | None = None,
) -> Coverage:
    """Return the exact area fractions of boxes, the classes at their centres and the regions that touch them.

    Parameters
    ----------
    annotations
        Regions in level-0 pixels. Points and lines carry no area.
    classes
        Names, the columns of the shares; at most 64. A class without a region covers nothing.
    boxes
        Shape (n, 4): left, top, right, bottom in level-0 pixels. Boxes that share few distinct edges, as those of a
        grid do, are fast: a million cost about as much as a hundred thousand others.
    with_regions
        Whether to name the regions too.
    should_stop
        Asked between the steps, from the calling thread.

    Returns
    -------
    Coverage
        A share is exactly 0 where no region reaches into the box, and exactly 1 where no border does. In between it
        is exact to some 1e-16 of the area that all boxes together span: far below single precision for boxes of
        like size.

    Raises
    ------
    DatasetError
        If there are more than 64 classes.
    CancelledError
        If `should_stop` says so.
    """
    if len(classes) > MAX_CLASSES:
        msg = f"{len(classes)} classes are more than the {MAX_CLASSES} that a dataset can hold; map some of them to one class when the annotations are read."
        raise DatasetError(msg)
    # Classes that were not asked for count as annotated too.
    others = [name for name in annotations.classes if name not in classes]
    found = _Cover(annotations, [*classes, *others], boxes, should_stop)
    return Coverage(
        shares=found.shares[:, : len(classes)].astype(np.float32),
        annotated=found.annotated().astype(np.float32),
        centre_classes=found.centre_classes(len(classes)),
        regions=found.regions() if with_regions else None,
    )


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
    return _Cover(annotations, classes, boxes, None).shares.astype(np.float32)


def annotated_of(annotations: Annotations, boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the exact share of each box inside any region with an area, float32, shape (n,)."""
    return _Cover(annotations, annotations.classes, boxes, None).annotated().astype(np.float32)


class _Cover:
    """The steps of `cover`, which share the lattice and the unions of the classes."""

    def __init__(
        self, annotations: Annotations, classes: Sequence[str], boxes: NDArray[np.float64], should_stop: Stop
    ) -> None:
        self._should_stop = should_stop
        self._areas = [region for region in annotations.regions if region.is_area]
        self._lattices = _Lattices(boxes)
        self._unions: list[BaseGeometry] = []
        self.shares = np.zeros((self._lattices.n, len(classes)))
        polygons, owner = shapely.get_parts([region.geometry for region in self._areas], return_index=True)
        names = np.array([region.class_name for region in self._areas], dtype=object)[owner]
        near = self._lattices.reached_by(polygons)
        for column, name in enumerate(classes):
            _poll(should_stop)
            self._unions.append(_union(polygons[near & (names == name)]))
            self.shares[:, column] = self._lattices.shares(self._unions[-1], should_stop=should_stop)

    def annotated(self) -> NDArray[np.float64]:
        """Return the share inside any class."""
        result: NDArray[np.float64] = self.shares.max(axis=1, initial=0)
        # Only where classes meet in a box can they overlap.
        meet = np.flatnonzero((np.count_nonzero(self.shares, axis=1) > 1) & (result < 1))
        if len(meet):
            _poll(self._should_stop)
            union = _union(np.array(self._unions, dtype=object))
            result[meet] = self._lattices.shares(union, meet, should_stop=self._should_stop)
        return result

    def centre_classes(self, n_classes: int) -> NDArray[np.uint64]:
        """Return the first classes at the centre of each box, as bits."""
        result = np.zeros(self._lattices.n, np.uint64)
        for column, union in enumerate(self._unions[:n_classes]):
            share, bit = self.shares[:, column], np.uint64(1 << column)
            result[share >= 1] |= bit
            border = np.flatnonzero((share > 0) & (share < 1))
            shapely.prepare(union)
            for some in _chunks(border):
                _poll(self._should_stop)
                x, y = self._lattices.centres(some)
                result[some[shapely.intersects_xy(union, x, y)]] |= bit
        return result

    def regions(self) -> list[str]:
        """Return the ids of the regions in each box."""
        geometries = np.array([region.geometry for region in self._areas], dtype=object)
        candidates = np.flatnonzero(self.shares.any(axis=1))
        pairs = _touching(geometries, self._lattices, candidates, self._should_stop)
        return _joined_ids([region.id for region in self._areas], *pairs, n=self._lattices.n)


def _poll(should_stop: Stop) -> None:
    if should_stop is not None and should_stop():
        raise CancelledError


def _chunks(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(indices), _BOXES_AT_ONCE):
        yield indices[start : start + _BOXES_AT_ONCE]


# Geometry


def _union(parts: NDArray[np.object_]) -> BaseGeometry:
    """Return one geometry that is ours alone: preparing it changes nothing that others hold."""
    # Most regions overlap no other and need no union: 30 times as fast as `union_all` for 20,000 nuclei.
    return shapely.disjoint_subset_union_all(parts) if len(parts) > 1 else shapely.multipolygons(parts)


def _edges(geometry: BaseGeometry) -> NDArray[np.float64]:
    """Return x0, y0, x1, y1 of all edges, shape (4, m), outlines clockwise with y up and holes the other way.

    So an edge with growing y has the inside on its right, where x grows.
    """
    parts = shapely.get_parts(geometry)
    parts = parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(parts)]
    if not len(parts):
        return np.empty((4, 0))
    _, xy, (rings, _) = shapely.to_ragged_array(
        shapely.orient_polygons(parts, exterior_cw=True), include_z=False
    )
    begins = np.ones(len(xy), bool)
    begins[rings[1:] - 1] = False  # the last point of a ring begins no edge
    first = np.flatnonzero(begins)
    return np.concatenate([xy[first].T, xy[first + 1].T])


# Lattices


class _Lattices:
    """Boxes, on the one lattice of a grid or in groups that each have their own."""

    def __init__(self, boxes: NDArray[np.float64]) -> None:
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        self.n = len(boxes)
        self._boxes = boxes
        left, top, right, bottom = boxes.T
        if not (np.isfinite(boxes).all() and (right > left).all() and (bottom > top).all()):
            msg = "every box needs left < right and top < bottom"
            raise ValueError(msg)
        everything = np.arange(self.n)
        self._parts: list[tuple[NDArray[np.int64], _Lattice]] = []
        if not self.n:
            return
        xs, ys = _lines(left, right), _lines(top, bottom)
        if (len(xs) - 1) * (len(ys) - 1) <= _CELLS_PER_BOX * self.n + _FREE_CELLS:
            self._parts.append((everything, _Lattice(boxes, xs, ys)))
            return
        # Neighbours together, so that a group meets few edges: rows of near-square blocks.
        row = np.empty(self.n, np.int64)
        per_row = int(np.ceil(np.sqrt(self.n * _GROUP)))
        row[np.argsort(top, kind="stable")] = everything // per_row
        order = np.lexsort((left, row))
        for start in range(0, self.n, _GROUP):
            group = order[start : start + _GROUP]
            own = boxes[group]
            self._parts.append((group, _Lattice(own, _lines(*own.T[::2]), _lines(*own.T[1::2]))))

    def reached_by(self, geometries: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Return which geometries have bounds that overlap those of all boxes."""
        if not self.n:
            return np.zeros(len(geometries), bool)
        (x0, y0), (x1, y1) = self._boxes[:, :2].min(axis=0), self._boxes[:, 2:].max(axis=0)
        left, top, right, bottom = shapely.bounds(geometries).T
        reached: NDArray[np.bool_] = (left < x1) & (right > x0) & (top < y1) & (bottom > y0)
        return reached

    def overlapping(self, bounds: Sequence[float]) -> NDArray[np.bool_]:
        """Return which boxes overlap left, top, right, bottom."""
        left, top, right, bottom = bounds
        x0, y0, x1, y1 = self._boxes.T
        overlaps: NDArray[np.bool_] = (x0 < right) & (x1 > left) & (y0 < bottom) & (y1 > top)
        return overlaps

    def centres(self, some: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return x and y of the middles, shape (2, n)."""
        left, top, right, bottom = self._boxes[some].T
        return np.stack([(left + right) / 2, (top + bottom) / 2])

    def squares(self, some: NDArray[np.int64]) -> NDArray[np.object_]:
        """Return boxes as polygons."""
        squares: NDArray[np.object_] = shapely.box(*self._boxes[some].T)
        return squares

    def shares(
        self,
        geometry: BaseGeometry,
        some: NDArray[np.int64] | None = None,
        *,
        should_stop: Stop = None,
    ) -> NDArray[np.float64]:
        """Return the share of the boxes (or of some) inside a valid geometry."""
        result = np.zeros(self.n)
        if not geometry.is_empty:
            wanted = self.overlapping(geometry.bounds)
            if some is not None:
                wanted &= np.isin(np.arange(self.n), some, kind="table")
            edges = _edges(geometry)
            for members, lattice in self._parts:
                _poll(should_stop)
                chosen = np.flatnonzero(wanted[members])
                if len(chosen):
                    result[members[chosen]] = lattice.shares(edges, chosen, should_stop)
        return result if some is None else result[some]


def _lines(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.union1d(low, high)


class _Lattice:
    """Lines in x and y, and boxes whose edges lie on them."""

    def __init__(self, boxes: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]) -> None:
        self._xs, self._ys = xs, ys
        left, top, right, bottom = boxes.T
        self._left, self._right = (np.searchsorted(xs, v).astype(np.int32) for v in (left, right))
        self._top, self._bottom = (np.searchsorted(ys, v).astype(np.int32) for v in (top, bottom))
        self._areas = (right - left) * (bottom - top)

    def shares(
        self, edges: NDArray[np.float64], chosen: NDArray[np.int64], should_stop: Stop
    ) -> NDArray[np.float64]:
        """Return the share of the chosen boxes inside closed outlines (see `_edges`), shape (len(chosen),)."""
        left, top, right, bottom = (v[chosen] for v in (self._left, self._top, self._right, self._bottom))
        # The part of the lattice that the chosen boxes span, from a corner of its own: small numbers, small errors.
        i0, i1, j0, j1 = int(left.min()), int(right.max()), int(top.min()), int(bottom.max())
        xs, ys = self._xs[i0 : i1 + 1], self._ys[j0 : j1 + 1]
        edges = edges[:, _reaching(edges, xs, ys)] - np.array([xs[0], ys[0], xs[0], ys[0]])[:, None]
        xs, ys = xs - xs[0], ys - ys[0]
        left, right, top, bottom = left - i0, right - i0, top - j0, bottom - j0
        area, filled = np.zeros(len(chosen)), np.zeros(len(chosen), np.int64)
        n_rows = max(1, _CELLS_AT_ONCE // (len(xs) - 1))
        above = np.zeros(len(xs)), np.zeros(len(xs), np.int64)
        for row in range(0, len(ys) - 1, n_rows):
            _poll(should_stop)
            band = ys[row : row + n_rows + 1]
            sums = _sums(edges, xs, band, above, should_stop)
            for line, sign in ((bottom, 1), (top, -1)):
                here = np.flatnonzero((line > row) & (line <= row + n_rows))
                at = (line[here] - row).astype(np.int64) * len(xs)
                for side, turn in ((right, sign), (left, -sign)):
                    index = at + side[here]
                    area[here] += turn * sums[0].ravel()[index]
                    filled[here] += turn * sums[1].ravel()[index]
            above = sums[0][-1].copy(), sums[1][-1].copy()
        share: NDArray[np.float64] = (area / self._areas[chosen]).clip(0, 1)
        # A box of cells that are all out, or all in, is so as a whole, whatever the rounding says.
        n_cells = (right - left).astype(np.int64) * (bottom - top)
        share[share < _SNAP] = 0
        share[share > 1 - _SNAP] = 1
        share[filled == 0] = 0
        share[filled == 2 * n_cells] = 1
        return share


def _sums(
    edges: NDArray[np.float64],
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    above: tuple[NDArray[np.float64], NDArray[np.int64]],
    should_stop: Stop,
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return area inside, and the fill of the cells, summed left of each x and above each y (`above`: at the first y).

    Shape of both: (len(ys), len(xs)). The fill is 0 of a cell that is out, 2 of one that is in, and 1 of one that a
    border passes through; borders that run along a line pass through no cell.
    """
    shape = len(ys) - 1, len(xs) - 1
    n_cells = shape[0] * shape[1]
    areas, rises = np.zeros(n_cells), np.zeros(n_cells)
    counts = np.zeros(n_cells, np.int32)
    for cell, rise, area, is_inner in _pieces(edges[:, _reaching(edges, xs, ys)], xs, ys):
        _poll(should_stop)
        np.add.at(areas, cell, area)
        np.add.at(rises, cell, rise)
        np.add.at(counts, cell[is_inner], 1)
    # Whatever rises in a cell has all the cells to the right of it on its right side.
    rises = rises.reshape(shape)
    area_sums, fill_sums = np.empty((len(ys), len(xs))), np.empty((len(ys), len(xs)), np.int32)
    area_sums[0], fill_sums[0] = above
    area_sums[1:, 0] = fill_sums[1:, 0] = 0
    inner, fill = area_sums[1:, 1:], fill_sums[1:, 1:]
    inner[:, :1] = 0
    np.cumsum(rises[:, :-1], axis=1, out=inner[:, 1:])
    inner *= np.diff(xs)
    inner += areas.reshape(shape)
    # What no border crosses is in or out.
    np.multiply(inner > np.diff(ys)[:, None] * np.diff(xs) / 2, 2, out=fill)
    np.copyto(fill, 1, where=counts.reshape(shape) > 0)
    for sums in (inner, fill):
        np.cumsum(sums, axis=1, out=sums)
    for sums in (area_sums, fill_sums):
        np.cumsum(sums, axis=0, out=sums)
    return area_sums, fill_sums


def _reaching(
    edges: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which edges count for a lattice: those in its rows, but for what lies right of it."""
    x0, y0, x1, y1 = edges
    reaching: NDArray[np.bool_] = (
        (np.minimum(y0, y1) <= ys[-1]) & (np.maximum(y0, y1) >= ys[0]) & (np.minimum(x0, x1) <= xs[-1])
    )
    return reaching


_Pieces = tuple["NDArray[np.int64]", "NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.bool_]"]


def _pieces(
    edges: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> Iterator[_Pieces]:
    """Yield edges split at the lines: cell, signed height, signed area right of the piece in its cell, and inner.

    Inner are pieces that do not run along a line. What lies left of the lattice comes as if it ran along its left
    side; what lies right of it, above or below is left out.
    """
    n = np.ones(edges.shape[1], np.int64)
    for lines, a, b in ((xs, edges[0], edges[2]), (ys, edges[1], edges[3])):
        n += np.abs(np.searchsorted(lines, a) - np.searchsorted(lines, b)) + 1
    cuts = np.searchsorted(np.cumsum(n), np.arange(_PIECES_AT_ONCE, n.sum(), _PIECES_AT_ONCE))
    for some in np.split(np.arange(len(n)), np.unique(cuts)):
        x0, y0, x1, y1 = edges[:, some]
        heading = np.sign(y1 - y0)
        row, (y0, y1), (x0, x1), edge = _split(y0, y1, x0, x1, ys)
        heading = heading[edge]
        kept = np.flatnonzero((row >= 0) & (row < len(ys) - 1))
        column, (x0, x1), (y0, y1), piece = _split(x0[kept], x1[kept], y0[kept], y1[kept], xs)
        row, heading = row[kept][piece], heading[kept][piece]
        kept = np.flatnonzero(column < len(xs) - 1)
        x0, x1, y0, y1 = x0[kept], x1[kept], y0[kept], y1[kept]
        row, column, heading = row[kept], column[kept], heading[kept]
        rise = heading * np.abs(y1 - y0)
        is_left = column < 0
        column, x0, x1 = column.clip(0), x0.clip(xs[0]), x1.clip(xs[0])
        area = rise * (xs[column + 1] - (x0 + x1) / 2)
        along = ((x0 == x1) & (x0 == xs[column])) | ((y0 == y1) & (y0 == ys[row]))
        yield row * (len(xs) - 1) + column, rise, area, ~(along | is_left)


def _split(
    u0: NDArray[np.float64],
    u1: NDArray[np.float64],
    v0: NDArray[np.float64],
    v1: NDArray[np.float64],
    lines: NDArray[np.float64],
) -> tuple[
    NDArray[np.int64],
    tuple[NDArray[np.float64], NDArray[np.float64]],
    tuple[NDArray[np.float64], NDArray[np.float64]],
    NDArray[np.int64],
]:
    """Return segments split where u crosses a line: interval, u and v at both ends (u rising), and the segment.

    Interval i is lines[i] <= u < lines[i + 1]; -1 lies before the first line.
    """
    turned = u1 < u0
    u0, u1 = np.where(turned, u1, u0), np.where(turned, u0, u1)
    v0, v1 = np.where(turned, v1, v0), np.where(turned, v0, v1)
    first = np.searchsorted(lines, u0, side="right")
    n_cuts = (np.searchsorted(lines, u1, side="left") - first).clip(0)
    n = n_cuts + 1
    segment = np.repeat(np.arange(len(n)), n)
    k = np.arange(len(segment)) - np.repeat(np.cumsum(n) - n, n)
    interval = first[segment] + k - 1
    begin, end = u0[segment], u1[segment]
    low, high = v0[segment], v1[segment]
    # Each cut ends a piece and begins the next, with the same numbers: pieces of an outline close as it does.
    cut = np.flatnonzero(k > 0)
    at = lines[interval[cut]]
    a, b = low[cut], high[cut]
    between = a + (b - a) * ((at - begin[cut]) / (end[cut] - begin[cut]))
    between = np.clip(between, np.minimum(a, b), np.maximum(a, b))
    begin[cut], low[cut] = at, between
    end[cut - 1], high[cut - 1] = at, between
    return interval, (begin, end), (low, high), segment


# Regions


def _touching(
    geometries: NDArray[np.object_], lattices: _Lattices, candidates: NDArray[np.int64], should_stop: Stop
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of a region and a box that it has an area in common with."""
    nothing = np.empty(0, np.int64)
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = [(nothing, nothing)]
    if len(geometries) and len(candidates):
        is_long = shapely.get_num_coordinates(geometries) >= _LONG
        for index in np.flatnonzero(is_long):
            _poll(should_stop)
            boxes = candidates[lattices.shares(geometries[index], candidates, should_stop=should_stop) > 0]
            found.append((np.full(len(boxes), index), boxes))
        short = np.flatnonzero(~is_long)
        # Copies: preparing what other threads may hold is not safe.
        own = shapely.force_2d(geometries[short])
        shapely.prepare(own)
        tree = shapely.STRtree(own)
        candidates = candidates[lattices.overlapping(shapely.total_bounds(own))[candidates]]
        for some in _chunks(candidates):
            _poll(should_stop)
            squares = lattices.squares(some)
            box, region = tree.query(squares)
            # A region within the box needs no test; a border in common is no area.
            kept = _within(own[region], squares[box])
            rest = np.flatnonzero(~kept)
            kept[rest] = shapely.intersects(own[region[rest]], squares[box[rest]])
            rest = rest[kept[rest]]
            kept[rest] = ~shapely.touches(own[region[rest]], squares[box[rest]])
            found.append((short[region[kept]], some[box[kept]]))
    regions, boxes = (np.concatenate(v) for v in zip(*found, strict=True))
    return regions, boxes


def _within(inner: NDArray[np.object_], outer: NDArray[np.object_]) -> NDArray[np.bool_]:
    a, b = shapely.bounds(inner), shapely.bounds(outer)
    is_within: NDArray[np.bool_] = (a[:, :2] >= b[:, :2]).all(axis=1) & (a[:, 2:] <= b[:, 2:]).all(axis=1)
    return is_within


def _joined_ids(
    ids: Sequence[str], regions: NDArray[np.int64], boxes: NDArray[np.int64], *, n: int
) -> list[str]:
    """Return for each of n boxes its regions' ids, joined by a space. Equal texts are one object."""
    order = np.lexsort((regions, boxes))
    regions, boxes = regions[order], boxes[order]
    result = np.full(n, "", dtype=object)
    count = np.bincount(boxes, minlength=n)
    start = np.cumsum(count) - count
    for size in np.unique(count[count > 0]):
        those = np.flatnonzero(count == size)
        rows = regions[start[those][:, None] + np.arange(size)]
        sets, which = np.unique(rows, axis=0, return_inverse=True)
        texts = np.array([" ".join(ids[i] for i in row) for row in sets.tolist()], dtype=object)
        result[those] = texts[which.ravel()]
    found: list[str] = result.tolist()
    return found
