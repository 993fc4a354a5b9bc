"""Regions as pixels: which region covers the centre of each pixel, vectorised over all their edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_histolatent.annotations._chunks import chunks_of, in_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in level-0 pixels."""

_EDGES_AT_ONCE = 1 << 18
"""Bounds the memory of one step, and keeps it in the processor's cache."""
_PIXELS_AT_ONCE = 1 << 22
_STEP_PX = 0.7
"""Distance between the points at which an outline is drawn: below 1, so that it has no gaps."""
_DOT_PX = 1.5
_AREAS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


class RegionRaster:
    """Polygons that can be drawn into any box at any zoom; safe to use from several threads.

    Parameters
    ----------
    geometries
        Polygons and multipolygons, valid, in level-0 pixels.
    codes
        The value of each, 1 to 65535. A higher code is drawn over a lower one.
    """

    def __init__(
        self, geometries: Sequence[BaseGeometry] | NDArray[np.object_], codes: NDArray[np.integer]
    ) -> None:
        given = np.asarray(geometries, dtype=object).reshape(-1)
        if len(given) != len(codes):
            msg = f"{len(given)} geometries and {len(codes)} codes"
            raise ValueError(msg)
        if not np.isin(shapely.get_type_id(given), _AREAS).all():
            msg = "some geometries are no polygons or multipolygons"
            raise ValueError(msg)
        if len(codes) and not (codes.min() >= 1 and codes.max() <= np.iinfo(np.uint16).max):
            msg = f"codes from {codes.min()} to {codes.max()}; they go from 1 to 65535"
            raise ValueError(msg)
        # Kept in the order of drawing, so that whatever is painted later lies on top.
        self._order = np.argsort(codes, kind="stable")
        self._geometries = given[self._order]
        self._codes = np.asarray(codes)[self._order].astype(np.uint16)
        self._xy, self._turn, self._starts = _joined([_edges(chunk) for chunk in chunks_of(self._geometries)])
        self._bounds = in_chunks(shapely.bounds, self._geometries).reshape(-1, 4)

    def fill(self, box_xy: Box, shape: tuple[int, int]) -> NDArray[np.uint16]:
        """Return the code of the region that covers the centre of each pixel, 0 where there is none.

        Of two regions that abut, exactly one owns a pixel whose centre is on their border: the one to the right of
        it, or below.
        """
        rows, columns = shape
        result = np.zeros(rows * columns, np.uint16)
        left, top, right, bottom = self._bounds_in(box_xy, shape)
        # A region that reaches over no centre of a row, or of a column, covers none.
        is_seen = (
            (np.ceil(left - 0.5).clip(0) < np.ceil(right - 0.5).clip(max=columns))
            & (np.ceil(top - 0.5).clip(0) < np.ceil(bottom - 0.5).clip(max=rows))
        )  # fmt: skip
        for regions in self._chunks(np.flatnonzero(is_seen)):
            u, v, turn, owner = self._edges_in(box_xy, shape, regions)
            _paint_spans(result, shape, _crossings(shape, u, v, turn, self._codes[owner]))
        return result.reshape(shape)

    def outlines(self, box_xy: Box, shape: tuple[int, int]) -> NDArray[np.uint16]:
        """Return the code of a region whose outline passes through each pixel, 0 where there is none.

        Regions smaller than 1.5 pixels have no outline that could be seen; see `dots`.
        """
        rows, columns = shape
        result = np.zeros(rows * columns, np.uint16)
        left, top, right, bottom = self._bounds_in(box_xy, shape)
        is_seen = self._reaches(box_xy, shape) & (np.maximum(right - left, bottom - top) >= _DOT_PX)
        for regions in self._chunks(np.flatnonzero(is_seen)):
            u, v, _, owner = self._edges_in(box_xy, shape, regions)
            u, v, kept = _clipped(shape, u, v)
            _paint_lines(result, shape, u, v, self._codes[owner[kept]])
        return result.reshape(shape)

    def dots(self, box_xy: Box, shape: tuple[int, int]) -> NDArray[np.uint16]:
        """Return the code at the pixel of each region's middle, for regions smaller than 1.5 pixels."""
        rows, columns = shape
        result = np.zeros(shape, np.uint16)
        left, top, right, bottom = self._bounds_in(box_xy, shape)
        column, row = np.floor((left + right) / 2), np.floor((top + bottom) / 2)
        is_dot = (
            (np.maximum(right - left, bottom - top) < _DOT_PX)
            & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        )  # fmt: skip
        # Of equal indices the last is the one that stays.
        result[row[is_dot].astype(np.int64), column[is_dot].astype(np.int64)] = self._codes[is_dot]
        return result

    def at(self, x: float, y: float) -> list[int]:
        """Return the indices of the regions that contain a point, the topmost first: highest code, then smallest."""
        left, top, right, bottom = self._bounds.T
        near = np.flatnonzero((left <= x) & (x <= right) & (top <= y) & (y <= bottom))
        found = near[shapely.intersects_xy(self._geometries[near], x, y)]
        order = np.lexsort((shapely.area(self._geometries[found]), -self._codes[found].astype(np.int64)))
        return [int(index) for index in self._order[found[order]]]

    def within(self, box_xy: Box) -> NDArray[np.int64]:
        """Return the indices of the regions whose bounds touch a box."""
        left, top, right, bottom = self._bounds.T
        x0, y0, x1, y1 = box_xy
        return self._order[np.flatnonzero((left <= x1) & (right >= x0) & (top <= y1) & (bottom >= y0))]

    def _bounds_in(self, box_xy: Box, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Return left, top, right and bottom of every region in pixels of the raster, shape (4, n)."""
        x0, y0, pixel_x, pixel_y = _frame(box_xy, shape)
        pixels: NDArray[np.float64] = (self._bounds - (x0, y0, x0, y0)) / (pixel_x, pixel_y, pixel_x, pixel_y)
        return pixels.T

    def _reaches(self, box_xy: Box, shape: tuple[int, int]) -> NDArray[np.bool_]:
        left, top, right, bottom = self._bounds_in(box_xy, shape)
        rows, columns = shape
        is_reaching: NDArray[np.bool_] = (left < columns) & (right >= 0) & (top < rows) & (bottom >= 0)
        return is_reaching

    def _chunks(self, regions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield regions, in their order, by as many as have some `_EDGES_AT_ONCE` edges."""
        if not len(regions):
            return
        counts = np.cumsum(self._starts[regions + 1] - self._starts[regions])
        cuts = np.searchsorted(counts, np.arange(_EDGES_AT_ONCE, counts[-1], _EDGES_AT_ONCE))
        for chunk in np.split(regions, np.unique(cuts)):
            if len(chunk):
                yield chunk

    def _edges_in(
        self, box_xy: Box, shape: tuple[int, int], regions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int8], NDArray[np.int64]]:
        """Return the edges of some regions in pixels of the raster: u and v of shape (2, n), turn, and the region."""
        starts = self._starts[regions]
        counts = self._starts[regions + 1] - starts
        if counts.sum() == starts[-1] + counts[-1] - starts[0]:  # neighbours: no need to gather
            points: slice | NDArray[np.int64] = slice(int(starts[0]), int(starts[-1] + counts[-1]))
        else:
            points = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        x0, y0, pixel_x, pixel_y = _frame(box_xy, shape)
        u = (self._xy[0, points] - x0) / pixel_x
        v = (self._xy[1, points] - y0) / pixel_y
        turn = self._turn[points]
        owner = np.repeat(regions, counts)
        first = np.flatnonzero(turn)  # the last point of a ring begins no edge
        last = first + 1
        return np.stack([u[first], u[last]]), np.stack([v[first], v[last]]), turn[first], owner[first]


def _frame(box_xy: Box, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box's left and top, and the width and height of a pixel."""
    left, top, right, bottom = box_xy
    return left, top, (right - left) / max(shape[1], 1), (bottom - top) / max(shape[0], 1)


_Edges = tuple["NDArray[np.float64]", "NDArray[np.int8]", "NDArray[np.int64]"]


def _joined(parts: list[_Edges]) -> _Edges:
    """Return the edges of several lots of regions as those of one."""
    if not parts:
        return np.empty((2, 0)), np.empty(0, np.int8), np.zeros(1, np.int64)
    first = np.cumsum([0, *(starts[-1] for _, _, starts in parts)])
    starts = [begin + starts[:-1] for begin, (_, _, starts) in zip(first[:-1], parts, strict=True)]
    return (
        np.concatenate([xy for xy, _, _ in parts], axis=1),
        np.concatenate([turn for _, turn, _ in parts]),
        np.concatenate([*starts, first[-1:]]),
    )


def _edges(
    geometries: NDArray[np.object_],
) -> _Edges:
    """Return the points of all rings, what the edge from each to the next does, and where each region's begin.

    The edge adds +1 or -1 to the winding number on its right, as its ring is an outline or a hole and as it was drawn
    clockwise or not; 0 stands at the last point of a ring. Over all rings of valid regions the winding number
    is the number of regions that cover a place.
    """
    _, points, offsets = shapely.to_ragged_array(geometries, include_z=False)
    rings, polygons = np.asarray(offsets[0], np.int64), np.asarray(offsets[1], np.int64)
    parts = np.asarray(offsets[2], np.int64) if len(offsets) == 3 else np.arange(len(geometries) + 1)
    xy = np.ascontiguousarray(points.T)
    is_outline = np.zeros(len(rings) - 1, bool)
    is_outline[polygons[:-1][np.diff(polygons) > 0]] = True
    is_clockwise = _is_clockwise(xy, rings)
    sign = np.where(is_outline == is_clockwise, 1, -1).astype(np.int8)
    turn = np.repeat(sign, np.diff(rings))
    turn[rings[1:][np.diff(rings) > 0] - 1] = 0
    return xy, turn, rings[polygons[parts]]


def _is_clockwise(xy: NDArray[np.float64], rings: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each ring goes clockwise as seen on a screen, whose y goes down."""
    counts = np.diff(rings)
    if not counts.any():
        return np.zeros(len(counts), bool)
    # Relative to each ring's first point: the products of large coordinates would lose the difference.
    first = np.repeat(xy[:, rings[:-1].clip(max=xy.shape[1] - 1)], counts, axis=1)
    x, y = xy - first
    cross = np.zeros(len(x))
    cross[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
    cross[rings[1:][counts > 0] - 1] = 0
    total = np.concatenate([np.add.reduceat(cross, rings[:-1][counts > 0])])
    result = np.zeros(len(counts), bool)
    result[counts > 0] = total > 0
    return result


def _crossings(
    shape: tuple[int, int],
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    turn: NDArray[np.int8],
    codes: NDArray[np.uint16],
) -> NDArray[np.int64]:
    """Return where edges cross the centres of rows, sorted: (code, row, column, whether it adds) in one number.

    The column is the first whose centre is at the crossing or right of it; those left of the box come to column 0,
    those right of it to one column past the last.
    """
    rows, columns = shape
    # The first row whose centre is at the end or below; half open, so that a vertex on a centre counts once.
    below = np.ceil(v - 0.5).clip(0, rows).astype(np.int32)
    kept = np.flatnonzero(below[0] != below[1])
    u, v, below, turn, codes = u[:, kept], v[:, kept], below[:, kept], turn[kept], codes[kept]
    # From the upper end to the lower, whichever way it was drawn: both owners of an edge find the same crossing.
    is_up = below[0] > below[1]
    u_top, u_low = np.where(is_up, u[::-1], u)
    v_top, v_low = np.where(is_up, v[::-1], v)
    first, last = np.where(is_up, below[::-1], below)
    counts = (last - first).astype(np.int64)
    edge = np.repeat(np.arange(len(kept)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    slope = (u_low - u_top) / (v_low - v_top)
    # Never outside the edge's own ends, whatever rounding does.
    at = u_top[edge] + (row + 0.5 - v_top[edge]) * slope[edge]
    at = np.clip(at, np.minimum(u_top, u_low)[edge], np.maximum(u_top, u_low)[edge])
    column = np.ceil(at - 0.5).clip(0, columns).astype(np.int64)
    # Clockwise, the inside is right of an edge that goes up.
    adds = (turn > 0) == is_up
    key: NDArray[np.int64] = (
        (codes[edge].astype(np.int64) * rows + row) * (columns + 1) + column
    ) * 2 + adds[edge]
    key.sort()
    return key


def _paint_spans(result: NDArray[np.uint16], shape: tuple[int, int], crossings: NDArray[np.int64]) -> None:
    """Paint from each crossing to the next where the winding number between them is not 0."""
    if not len(crossings):
        return
    rows, columns = shape
    # Over all crossings of a row the winding number comes back to 0: no span goes on into the next row.
    winding = np.cumsum(2 * (crossings & 1) - 1)
    place = crossings >> 1
    lengths = np.diff(place)
    spans = np.flatnonzero((winding[:-1] != 0) & (lengths > 0))
    lengths, place = lengths[spans], place[spans]
    line, column = np.divmod(place, columns + 1)
    code, row = np.divmod(line, rows)
    start = row * columns + column
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(spans):
        painted = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, painted + _PIXELS_AT_ONCE)), begin + 1)
        count = lengths[begin:end]
        pixels = np.arange(count.sum()) + np.repeat(start[begin:end] - np.cumsum(count) + count, count)
        # Of equal indices the last is the one that stays: the highest code.
        result[pixels] = np.repeat(code[begin:end].astype(np.uint16), count)
        begin = end


def _clipped(
    shape: tuple[int, int], u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return what of each edge is inside the raster, and which edges these are."""
    enter, leave = np.zeros(u.shape[1]), np.ones(u.shape[1])
    is_in = np.ones(u.shape[1], bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for ends, size in ((u, shape[1]), (v, shape[0])):
            delta = ends[1] - ends[0]
            near, far = np.sort(np.stack([-ends[0] / delta, (size - ends[0]) / delta]), axis=0)
            is_flat = delta == 0
            is_in &= ~is_flat | ((ends[0] >= 0) & (ends[0] < size))
            enter = np.where(is_flat, enter, np.maximum(enter, near))
            leave = np.where(is_flat, leave, np.minimum(leave, far))
    kept = np.flatnonzero(is_in & (enter <= leave))
    part = np.stack([enter[kept], leave[kept]])
    return (
        u[0, kept] + part * (u[1, kept] - u[0, kept]),
        v[0, kept] + part * (v[1, kept] - v[0, kept]),
        kept,
    )


def _paint_lines(
    result: NDArray[np.uint16],
    shape: tuple[int, int],
    u: NDArray[np.float64],
    v: NDArray[np.float64],
    codes: NDArray[np.uint16],
) -> None:
    """Paint the pixels along edges, in steps too short to leave a gap."""
    rows, columns = shape
    steps = np.maximum(np.abs(u[1] - u[0]), np.abs(v[1] - v[0])) / _STEP_PX
    counts = np.ceil(steps).clip(1).astype(np.int64)
    edge = np.repeat(np.arange(len(counts)), counts)
    # Halfway into each step: the last point of one edge and the first of the next are a step apart too.
    part = (np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + 0.5) / counts[edge]
    column = np.floor(u[0][edge] + part * (u[1] - u[0])[edge]).astype(np.int64)
    row = np.floor(v[0][edge] + part * (v[1] - v[0])[edge]).astype(np.int64)
    is_in = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    result[row[is_in] * columns + column[is_in]] = codes[edge[is_in]]
