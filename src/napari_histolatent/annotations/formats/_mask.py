"""Label masks: a TIFF of one number per pixel, 0 for the background, and back to outlines along the pixels' edges.

Pixels of one label that touch only at a corner belong to different regions (4-connectivity), and so do holes.
"""

from __future__ import annotations

import json
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import tifffile
from shapely.geometry import Polygon

from napari_histolatent.annotations._marks import Mark, SourceFile
from napari_histolatent.annotations._raster import RegionRaster
from napari_histolatent.annotations.formats._format import Format, WriteOptions
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.annotations._marks import RGB
    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.slides import SlideInfo

_PIXELS_AT_ONCE = 1 << 28
"""A larger mask is not held as a whole, but read tile by tile."""
_MAX_PIXELS = 1 << 38
"""Some 500,000 x 500,000: more than any slide has."""
_MAX_TILE_PIXELS = 1 << 26
_MAX_SEGMENTS = 1 << 25
_MAX_SIDE_PX = 1 << 20
"""No slide is wider: regions that reach farther were not drawn in pixels."""
_TILE = 512
_WORKING_TILE = 1024
"""Of a mask that is held as a whole."""
_REMEMBERED_BYTES = 4096
"""A tile of one label takes less: it is decoded once, wherever the file has it."""
# What tifffile and its codecs raise where a file's numbers make no sense.
_DAMAGE = (
    OSError,
    ValueError,
    RuntimeError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    MemoryError,
    struct.error,
    tifffile.TiffFileError,
)
_SINGLE = ("MINISBLACK", "MINISWHITE", "PALETTE")


def recognises_mask(path: Path) -> bool:
    """Whether a TIFF holds one whole number per pixel."""
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.series[0].levels[0].keyframe
            is_flat = len([n for n in tiff.series[0].levels[0].shape if n > 1]) <= 2
            return bool(
                is_flat
                and page.samplesperpixel == 1
                and page.dtype is not None
                and page.dtype.kind in "uib"
                and page.photometric.name in _SINGLE
            )
    except _DAMAGE:
        return False


def read_mask(path: Path, slide: SlideInfo | None = None) -> SourceFile:
    """Return the outlines of a mask: one region per label and connected part.

    Raises
    ------
    AnnotationError
        If it is too large to be held and not tiled, cannot be decoded, or is noise rather than regions.
    """
    with _opened(path) as (labels, described):
        segments = _traced(labels, path.name)
    scale, offset, messages = _placement(labels.shape, described, slide)
    names, colors = _classes(described)
    marks: list[Mark] = []
    for value, rings in segments:
        class_name = names.get(value, f"label {value}")
        marks.extend(
            Mark(
                where=f"label {value}, part {index + 1}",
                kind="area",
                rings=tuple(ring * scale + offset for ring in part),
                class_name=class_name,
            )
            for index, part in enumerate(rings)
        )
    return SourceFile(
        format="label-mask",
        marks=tuple(marks),
        colors={names[value]: color for value, color in colors.items()},
        messages=tuple(messages),
    )


def write_mask(path: Path, annotations: Annotations, options: WriteOptions) -> None:
    """Write the areas at level 0, tile by tile; of two classes that overlap, the one that comes later is on top.

    Raises
    ------
    AnnotationError
        If there is no area, no place for one, or more classes than a mask can hold.
    """
    areas = [region for region in annotations.regions if region.is_area and not region.geometry.is_empty]
    if not areas:
        msg = f"A label mask holds areas only, and none of the {len(annotations.regions):,} regions is one; write GeoJSON."
        raise AnnotationError(msg)
    codes = {name: index + 1 for index, name in enumerate(dict.fromkeys(r.class_name for r in areas))}
    if len(codes) > np.iinfo(np.uint16).max:
        msg = f"A label mask holds 65,535 classes, not {len(codes):,}; write GeoJSON."
        raise AnnotationError(msg)
    dx, dy = options.offset_xy
    raster = RegionRaster([r.geometry for r in areas], np.array([codes[r.class_name] for r in areas]))
    if options.slide is not None:
        width, height = options.slide.width_px, options.slide.height_px
    else:
        _, _, right, bottom = shapely.total_bounds([r.geometry for r in areas])
        width, height = int(np.ceil(right + dx)), int(np.ceil(bottom + dy))
    if not (0 < width <= _MAX_SIDE_PX and 0 < height <= _MAX_SIDE_PX):
        msg = f"The regions reach to {width:,} x {height:,} px, which no slide has; open the slide they belong to."
        raise AnnotationError(msg)
    dtype = np.dtype(np.uint8 if len(codes) < 256 else np.uint16)
    described = {
        "histolatent": {
            "classes": {
                str(code): {"name": name, "color": list(annotations.color_of(name))}
                for name, code in codes.items()
            },
            "downsample": 1,
            # Where the mask's upper left corner is on the slide.
            "offset": [-dx, -dy],
        }
    }
    resolution: dict[str, Any] = {}
    if options.slide is not None and options.slide.mpp_x and options.slide.mpp_y:
        per_cm = (1e4 / options.slide.mpp_x, 1e4 / options.slide.mpp_y)
        resolution = {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=width * height * dtype.itemsize > 1 << 31) as tiff:
        tiff.write(
            _tiles(raster, width, height, (dx, dy), dtype),
            shape=(height, width),
            dtype=dtype,
            tile=(_TILE, _TILE),
            compression="zlib",
            photometric="minisblack",
            description=json.dumps(described),
            metadata=None,
            software="napari-histolatent",
            **resolution,
        )


def _tiles(
    raster: RegionRaster, width: int, height: int, offset_xy: tuple[float, float], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    dx, dy = offset_xy
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            box = (left - dx, top - dy, left + _TILE - dx, top + _TILE - dy)
            yield raster.fill(box, (_TILE, _TILE)).astype(dtype)


class _Labels:
    """The pixels of a mask, tile by tile from the upper left.

    Parameters
    ----------
    shape
        Rows and columns of the mask, and of a tile.
    dtype
        Of the pixels.
    read
        Returns the pixels of the tile in a row and column of tiles, cut to the mask; one number, as an array of no
        dimensions, where all of them are equal.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        tile: tuple[int, int],
        dtype: np.dtype[Any],
        read: Callable[[int, int], NDArray[Any]],
    ) -> None:
        self.shape, self.tile, self.dtype, self.read = shape, tile, dtype, read

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.shape[0] // self.tile[0]), -(-self.shape[1] // self.tile[1])

    def size_of(self, row: int, column: int) -> tuple[int, int]:
        """Return the rows and columns of pixels of a tile."""
        (height, width), (tall, wide) = self.shape, self.tile
        return min(tall, height - row * tall), min(wide, width - column * wide)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Labels, dict[str, Any]]]:
    """Open level 0 of a mask, and what we wrote into it about its classes."""
    try:
        tiff = tifffile.TiffFile(path)
    except _DAMAGE as error:
        raise _undecodable(path.name, error) from error
    with tiff:
        try:
            level = tiff.series[0].levels[0]
            described = _described(tiff.pages[0].description)
            labels = (
                _held(level.asarray()) if level.size <= _PIXELS_AT_ONCE else _tiled(tiff, level, path.name)
            )
        except _DAMAGE as error:
            raise _undecodable(path.name, error) from error
        yield labels, described


def _undecodable(file_name: str, error: Exception) -> AnnotationError:
    why = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
    return AnnotationError(
        f"{file_name} cannot be decoded ({why}); save it again as an uncompressed or zlib TIFF."
    )


def _described(text: str) -> dict[str, Any]:
    try:
        described = json.loads(text)["histolatent"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return described if isinstance(described, dict) else {}


def _held(pixels: NDArray[Any]) -> _Labels:
    """Return a mask that is in memory (or mapped into it)."""
    if pixels.ndim != 2:
        pixels = np.atleast_2d(pixels.reshape([n for n in pixels.shape if n > 1] or [1, 1]))
    if pixels.dtype == bool:
        pixels = pixels.view(np.uint8)
    side = _WORKING_TILE

    def read(row: int, column: int) -> NDArray[Any]:
        return _as_one(pixels[row * side : (row + 1) * side, column * side : (column + 1) * side])

    return _Labels((pixels.shape[0], pixels.shape[1]), (side, side), pixels.dtype, read)


def _tiled(tiff: tifffile.TiffFile, level: tifffile.TiffPageSeries, file_name: str) -> _Labels:
    """Return a mask whose tiles are decoded as they are asked for.

    A slide's mask is empty, or of one label, over most of its area: such tiles compress to the same few bytes, and
    are decoded once.
    """
    page = level.keyframe
    dtype = page.dtype
    assert dtype is not None
    if page.is_memmappable and len(level.pages) == 1 and level.size <= _MAX_PIXELS:
        # As it lies in the file: the system pages in what is looked at.
        shape = (page.imagelength, page.imagewidth)
        stored = dtype.newbyteorder(tiff.byteorder)
        return _held(np.memmap(tiff.filehandle.path, stored, "r", page.dataoffsets[0], shape))
    tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    if len(level.pages) != 1 or level.size > _MAX_PIXELS or tall * wide > _MAX_TILE_PIXELS:
        msg = (
            f"{file_name} has {level.size:,} pixels; a mask of more than {_PIXELS_AT_ONCE:,} is read tile by tile, and "
            f"this one is not stored so. Save it as a tiled TIFF of one page, with up to {_MAX_PIXELS:,} pixels."
        )
        raise AnnotationError(msg)
    remembered: dict[bytes, NDArray[Any]] = {}
    file, nothing = tiff.filehandle, np.array(page.nodata, np.uint8 if dtype.kind == "b" else dtype)

    def read(row: int, column: int) -> NDArray[Any]:
        index = row * labels.grid[1] + column
        try:
            count = page.databytecounts[index]
            if not count:
                return nothing
            file.seek(page.dataoffsets[index])
            data = file.read(count)
            known = remembered.get(data)
            if known is not None:
                return known
            decoded = page.decode(data, index)[0]
            if decoded is None:
                return nothing
            pixels = decoded[0, :, :, 0]
            one = _as_one(pixels.view(np.uint8) if dtype.kind == "b" else pixels)
            if not one.ndim and count <= _REMEMBERED_BYTES:
                remembered[data] = one
            size = labels.size_of(row, column)
            if pixels.shape[0] < size[0] or pixels.shape[1] < size[1]:
                msg = f"tile {index} has {pixels.shape[1]} x {pixels.shape[0]} px"
                raise ValueError(msg)
        except _DAMAGE as error:
            raise _undecodable(file_name, error) from error
        return _as_one(one[: size[0], : size[1]]) if one.ndim else one

    labels = _Labels((page.imagelength, page.imagewidth), (tall, wide), nothing.dtype, read)
    return labels


def _as_one(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels that are all equal as one number."""
    first = pixels[:1, :1]
    return first.copy().reshape(()) if first.size and (pixels == first).all() else pixels


def _classes(described: dict[str, Any]) -> tuple[dict[int, str], dict[int, RGB]]:
    names: dict[int, str] = {}
    colors: dict[int, RGB] = {}
    classes = described.get("classes")
    for text, entry in classes.items() if isinstance(classes, dict) else ():
        if not (text.isdecimal() and isinstance(entry, dict) and "name" in entry):
            continue
        names[int(text)] = str(entry["name"])
        color = entry.get("color")
        if isinstance(color, list) and len(color) == 3 and all(type(v) is int for v in color):
            colors[int(text)] = (color[0] & 255, color[1] & 255, color[2] & 255)
    return names, colors


def _placement(
    shape: tuple[int, ...], described: dict[str, Any], slide: SlideInfo | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Return what to multiply pixels (x, y) with and what to add, and what the user should know of it."""
    if described:
        try:
            downsample = float(described.get("downsample", 1))
            x, y = (float(v) for v in described.get("offset", (0, 0)))
        except (TypeError, ValueError):
            downsample, x, y = 1.0, 0.0, 0.0
        if downsample > 0 and np.isfinite([downsample, x, y]).all():
            return np.full(2, downsample), np.array([x, y]), []
    height, width = shape
    nothing = np.ones(2), np.zeros(2)
    if slide is None or (width, height) == (slide.width_px, slide.height_px):
        return *nothing, []
    is_level = [(v.width_px, v.height_px) == (width, height) for v in slide.levels]
    factors = np.array([slide.width_px / width, slide.height_px / height])
    sizes = f"The mask has {width:,} x {height:,} px and the slide {slide.width_px:,} x {slide.height_px:,}"
    if factors.min() < 1 or factors.max() / factors.min() > 1.01:
        return *nothing, [f"{sizes}, which is no common factor: its pixels were taken as level-0 pixels."]
    whole = np.round(factors.mean())
    sides, full = np.array([width, height]), np.array([slide.width_px, slide.height_px])
    if any(is_level):
        factors = np.full(2, slide.levels[is_level.index(True)].downsample)
    elif ((sides == full // whole) | (sides == -(-full // whole))).all():
        factors = np.full(2, whole)  # what is left of the last pixel was cut or filled up
    times = f"{factors[0]:g}" if factors[0] == factors[1] else f"{factors[0]:g} (x) and {factors[1]:g} (y)"
    return factors, nothing[1], [f"{sizes}: outlines were scaled by {times}."]


# --- tracing


_Runs = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]
"""Of many runs of pixels along lines of the pixel grid: label, line, begin and end."""


def _traced(labels: _Labels, file_name: str) -> list[tuple[int, list[tuple[NDArray[np.float64], ...]]]]:
    """Return for each label, in rising order, the outline and holes of each of its parts.

    Every outline is a cycle of straight segments, walked with the region on the right. Along a line of the pixel
    grid they are the runs of one label whose neighbour across the line is another.
    """
    # Label below the line: walked to the east; above it: to the west. Then the label right of a line, and left of it.
    east, west, south_side, north_side = _segments(labels, file_name)
    values = np.unique(np.concatenate([v[0] for v in (east, west, south_side, north_side)]))
    if not len(values):
        return []
    stride = labels.shape[1] + 1
    starts, ends = [], []
    for (value, line, begin, end), is_across, is_forward in (
        (east, False, True),
        (west, False, False),
        (north_side, True, True),
        (south_side, True, False),
    ):
        label = np.searchsorted(values, value).astype(np.int64)
        a, b = (
            (line + begin * stride, line + end * stride)
            if is_across
            else (line * stride + begin, line * stride + end)
        )
        base = label * (stride * (labels.shape[0] + 1))
        starts.append(base + (a if is_forward else b))
        ends.append(base + (b if is_forward else a))
    counts = [len(v) for v in starts]
    if sum(counts) > _MAX_SEGMENTS:
        raise _too_many(file_name)
    # To the region's side at every corner: east then south then west then north. Only where four pixels meet
    # crosswise is there a choice, and this one keeps those that touch at a corner apart.
    following = np.empty(sum(counts), np.int32)
    first = np.cumsum([0, *counts])
    turns = {
        0: (2, 3),
        2: (1, 0),
        1: (3, 2),
        3: (0, 1),
    }  # east, west, south, north -> (right turn, left turn)
    orders = [np.argsort(v) for v in starts]
    for heading, (right, left) in turns.items():
        target = ends[heading]
        chosen = np.full(len(target), -1, np.int64)
        for other in (left, right):  # the right turn last: it is the one that counts
            candidates = starts[other][orders[other]]
            place = np.searchsorted(candidates, target).clip(max=max(len(candidates) - 1, 0))
            hit = candidates[place] == target if len(candidates) else np.zeros(len(target), bool)
            chosen[hit] = first[other] + orders[other][place[hit]]
        following[first[heading] : first[heading + 1]] = chosen
    return _parts(_cycles(following), np.concatenate(starts), values, labels.shape)


def _segments(labels: _Labels, file_name: str) -> list[_Runs]:
    """Return the runs along the lines between rows, of labels after and before a line; then those between columns.

    Of the pixels only one tile at a time is there, with the row above and the column left of it.
    """
    height, width = labels.shape
    rows, columns = labels.grid
    found: list[list[_Runs]] = [[], [], [], []]
    total = 0
    # One more row and column of tiles than there are: the background around the mask.
    background = np.zeros((), labels.dtype)
    above = np.zeros(width + 1, labels.dtype)
    for row in range(rows + 1):
        top = min(row * labels.tile[0], height)
        left_of = np.zeros(labels.size_of(row, 0)[0] if row < rows else 1, labels.dtype)
        for column in range(columns + 1):
            left = min(column * labels.tile[1], width)
            is_there = row < rows and column < columns
            tile = labels.read(row, column) if is_there else background
            over = above[left : left + labels.size_of(row, column)[1]] if column < columns else above[width:]
            if not tile.ndim and (over == tile).all() and (left_of == tile).all():
                continue
            block = np.empty((len(left_of) + 1, len(over) + 1), labels.dtype)
            block[0, 0] = 0  # belongs to no line that is looked at here
            block[0, 1:], block[1:, 0], block[1:, 1:] = over, left_of, tile
            runs = (*_borders(block[:, 1:], top, left), *_borders(block[1:].T, left, top))
            total += sum(len(lines) for _, lines, _, _ in runs)
            if total > _MAX_SEGMENTS:
                raise _too_many(file_name)
            for into, these in zip(found, runs, strict=True):
                into.append(these)
            above[left : left + len(over)] = block[-1, 1:]
            left_of = block[1:, -1].copy()
    return [_joined(runs, max(height, width) + 1) for runs in found]


def _borders(pixels: NDArray[Any], line: int, begin: int) -> tuple[_Runs, _Runs]:
    """Return the runs along the lines after each row but the last: of the labels after, and of those before.

    Parameters
    ----------
    pixels
        The row before the first line, then one row after each.
    line, begin
        Of the first line, and of the first column.
    """
    is_border = pixels[1:] != pixels[:-1]
    lines = np.flatnonzero(is_border.any(axis=1))
    is_border = is_border[lines]
    after, before = (_runs(np.where(is_border, pixels[side], 0)) for side in (lines + 1, lines))
    return (
        (after[0], _shifted(lines[after[1]], line), _shifted(after[2], begin), _shifted(after[3], begin)),
        (before[0], _shifted(lines[before[1]], line), _shifted(before[2], begin), _shifted(before[3], begin)),
    )


def _shifted(numbers: NDArray[Any], by: int) -> NDArray[np.int32]:
    return (numbers + by).astype(np.int32)


def _joined(parts: list[_Runs], stride: int) -> _Runs:
    """Return runs that tiles cut up as they are in the whole."""
    nothing = np.empty(0, np.int64)
    label, line, begin, end = (
        np.concatenate([nothing, *(runs[column] for runs in parts)]).astype(np.int64) for column in range(4)
    )
    parts.clear()
    order = np.argsort(line * stride + begin)
    label, line, begin, end = label[order], line[order], begin[order], end[order]
    goes_on = (label[1:] == label[:-1]) & (line[1:] == line[:-1]) & (begin[1:] == end[:-1])
    is_first, is_last = np.ones(len(label), bool), np.ones(len(label), bool)
    is_first[1:], is_last[:-1] = ~goes_on, ~goes_on
    return label[is_first], line[is_first], begin[is_first], end[is_last]


def _runs(lines: NDArray[Any]) -> _Runs:
    """Return the runs of one value other than 0 in each line: value, line, begin, end."""
    padded = np.zeros((lines.shape[0], lines.shape[1] + 2), lines.dtype)
    padded[:, 1:-1] = lines
    line, column = np.nonzero(padded[:, 1:] != padded[:, :-1])
    is_begin, is_end = padded[line, column + 1] != 0, padded[line, column] != 0
    begin_line, begin = line[is_begin], column[is_begin]
    return lines[begin_line, begin], begin_line, begin, column[is_end]


def _too_many(file_name: str) -> AnnotationError:
    msg = (
        f"{file_name} has more than {_MAX_SEGMENTS:,} straight pieces of outline: it is a picture or noise rather than a mask; "
        "give a mask of regions."
    )
    return AnnotationError(msg)


def _cycles(following: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Return the cycles of a permutation, each as the indices in its order."""
    order = np.empty_like(following)
    seen = bytearray(len(following))
    # Memoryviews: one step costs as little as in a list, at an eighth of its memory.
    step, into = following.data, order.data
    cuts: list[int] = []
    count = 0
    for start in range(len(following)):
        index = start
        while not seen[index]:
            seen[index] = 1
            into[count] = index
            count += 1
            index = step[index]
        if not cuts or cuts[-1] != count:
            cuts.append(count)
    return np.split(order, cuts[:-1])


def _parts(
    cycles: list[NDArray[np.int32]],
    starts: NDArray[np.int64],
    values: NDArray[np.int64],
    shape: tuple[int, ...],
) -> list[tuple[int, list[tuple[NDArray[np.float64], ...]]]]:
    stride = shape[1] + 1
    outlines: dict[int, list[NDArray[np.float64]]] = {}
    holes: dict[int, list[NDArray[np.float64]]] = {}
    for cycle in cycles:
        vertices = starts[cycle]
        label = int(vertices[0]) // (stride * (shape[0] + 1))
        inside = vertices - label * stride * (shape[0] + 1)
        for loop in _simple_loops(inside):
            y, x = np.divmod(loop, stride)
            ring = np.column_stack([x, y]).astype(np.float64)
            (outlines if _signed_area(ring) > 0 else holes).setdefault(label, []).append(ring)
    return [
        (int(values[label]), _with_holes(outlines[label], holes.get(label, []))) for label in sorted(outlines)
    ]


def _simple_loops(vertices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return a ring that touches itself as rings that do not: a valid polygon's rings pass no place twice."""
    if len(np.unique(vertices)) == len(vertices):
        return [vertices]
    loops = []
    path: list[int] = []
    at: dict[int, int] = {}
    for vertex in vertices.tolist():
        if vertex in at:
            begin = at[vertex]
            loops.append(np.array(path[begin:], np.int64))
            for left in path[begin + 1 :]:
                del at[left]
            del path[begin + 1 :]
        else:
            at[vertex] = len(path)
            path.append(vertex)
    return [*loops, np.array(path, np.int64)]


def _signed_area(ring: NDArray[np.float64]) -> float:
    """Return the area in pixels, above 0 for an outline, which is walked clockwise as seen on a screen."""
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _with_holes(
    outlines: list[NDArray[np.float64]], holes: list[NDArray[np.float64]]
) -> list[tuple[NDArray[np.float64], ...]]:
    """Return each outline with its holes: a hole belongs to the smallest outline around the region beside it."""
    parts = [[ring] for ring in outlines]
    if holes:
        # A place within the region, half a pixel to the right of the hole's first segment.
        ends = np.array([ring[:2] for ring in holes])
        heading = np.sign(ends[:, 1] - ends[:, 0])
        beside = ends[:, 0] + heading / 2 + np.column_stack([-heading[:, 1], heading[:, 0]]) / 2
        polygons = np.array([Polygon(ring) for ring in outlines], dtype=object)
        hole, outline = shapely.STRtree(polygons).query(shapely.points(beside), predicate="within")
        areas = shapely.area(polygons)
        smallest = np.lexsort((areas[outline], hole))
        _, first = np.unique(hole[smallest], return_index=True)
        for index in smallest[first].tolist():
            parts[outline[index]].append(holes[hole[index]])
    return [tuple(part) for part in parts]


MASK = Format(
    name="label-mask",
    title="Label mask TIFF",
    suffixes=(".tif", ".tiff"),
    container="tiff",
    recognises=recognises_mask,
    read=read_mask,
    write=write_mask,
)
