"""TIFF without OpenSlide: OME-TIFF, pyramids that OpenSlide refuses, and plain big pictures.

tifffile reads the directories, once, at opening. Segments (tiles and strips) are read and decoded here, in the
thread that asks, so that several threads decode at the same time. Nothing that a file states is believed before
it was checked: sizes and counts are bounded before memory is taken.
"""

from __future__ import annotations

import math
import os
import re
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_histolatent.errors import SlideError
from napari_histolatent.slides._cache import ByteCache
from napari_histolatent.slides._channels import (
    MAX_CHANNELS,
    Channel,
    added_up,
    alpha_over,
    channel_colors,
    channels_note,
    in_stripes,
    is_rgb,
    planes_note,
    significant_bits,
    to_8_bit,
    window_of,
    ycbcr_to_rgb,
)
from napari_histolatent.slides._file import (
    MAX_ASSOCIATED_PX,
    PRINT_RESOLUTION_NOTE,
    FileIdentity,
    digest_of_ends,
    is_print_resolution,
    reason_of,
)
from napari_histolatent.slides._info import Level, SlideInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Color = tuple[int, int, int]
    Box = tuple[int, int, int, int]
    """Left, top, right, bottom."""

_MAX_SIDE_PX = 1 << 31
_MAX_SEGMENT_BYTES = 1 << 30
_MAX_SEGMENTS = 1 << 23
_MAX_SAMPLES = 64
_MAX_PAGES = 1000
_MAX_LEVELS = 32
_SEGMENT_CACHE_BYTES = 64 << 20
_SAMPLED_PX = 1 << 22
"""A level of at most so many pixels is read whole for its brightness; of a larger one, blocks are."""
_SAMPLED_BLOCK_PX = 256

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_JPEG = (6, 7, 33007, 34892)
_JPEG_2000 = (33003, 33004, 33005, 34712)
_APERIO_YCBCR = 33003
_PNG = (34933,)
_STORES_SAMPLES = (1, 5, 8, 32773, 32946, 34925, 50000, 34926)
"""Compressions of plain samples; the others know colour spaces of their own."""

_UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}
_UM_PER_UNIT = {
    "Å": 1e-4,
    "pm": 1e-6,
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "in": 25_400.0,
    "inch": 25_400.0,
}
_ASSOCIATED = {"label": "label", "macro": "macro", "overview": "macro", "thumbnail": "thumbnail"}
_RECOPY = "copy it again from the scanner or archive"
_CONVERT = "convert it to a tiled TIFF of 8 or 16 bits with the scanner's software, QuPath or bfconvert"


class _RefusedError(Exception):
    """Why a file is not opened, and what helps."""

    def __init__(self, reason: str, remedy: str = _RECOPY) -> None:
        super().__init__(reason)
        self.remedy = remedy


def is_ome_tiff(path: Path) -> bool:
    """Return whether the first page of a TIFF carries OME-XML; False for whatever is no TIFF."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            return _is_ome_xml(str(tiff.pages.first.description))
    except Exception:  # noqa: BLE001 - tifffile raises all sorts on junk
        return False


def what_openslide_overlooks(path: Path) -> str | None:
    """Return what OpenSlide would not show of a TIFF that it opens, or None."""
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            page = tiff.pages.first
            if page.dtype == np.uint16:
                return "which of its 16 bits are in use"
            if int(page.samplesperpixel) == 1 and _is_qptiff(str(page.description)):
                return "all of its channels"
    except Exception:  # noqa: BLE001 - tifffile raises all sorts on junk
        return None
    return None


class TiffBackend:
    """A TIFF whose segments are read and decoded here, on as many threads as ask.

    Raises
    ------
    SlideError
        If it is damaged, or holds what has no meaning as a picture of a slide.
    """

    def __init__(self, path: Path, *, reason: str) -> None:
        self._path = path
        self._identity = FileIdentity(path)
        try:
            self._source = _Source(path)
            with tifffile.TiffFile(path, _multifile=False) as tiff:
                opened = _opened(tiff, self._source)
            self._picture = opened.picture
            self._associated = opened.associated
            self._icc_profile = opened.icc_profile
            self.info = SlideInfo(
                path=path.absolute(),
                backend="tifffile",
                vendor=opened.vendor,
                digest=digest_of_ends(path),
                levels=_levels_of(opened.picture),
                mpp_x=opened.mpp[0],
                mpp_y=opened.mpp[1],
                mpp_source=opened.mpp[2],
                bounds=(0, 0, *opened.picture.size_px(0)),
                background=opened.picture.background,
                associated=tuple(opened.associated),
                backend_reason=reason,
                objective_power=opened.objective_power,
                has_icc_profile=opened.icc_profile is not None,
                notes=opened.notes,
            )
        except SlideError:
            raise
        # tifffile, the codecs and numpy raise all sorts on what is damaged.
        except Exception as error:
            remedy = error.remedy if isinstance(error, _RefusedError) else _RECOPY
            msg = f"{path.name} is not a TIFF that can be opened ({reason_of(error)}); {remedy}."
            raise SlideError(msg) from error

    def read_level(
        self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels of one level on the slide's background colour."""
        self._identity.check()
        downsample = self.info.levels[level].downsample
        x, y = (round(v / downsample) for v in level0_xy)
        try:
            return self._picture.read(self._source, level, (x, y), size_px)
        # The codecs raise all sorts on what is damaged.
        except Exception as error:
            self._identity.check()
            msg = (
                f"{self._path.name} opens, but its pixels at x={level0_xy[0]}, y={level0_xy[1]} cannot be "
                f"read ({reason_of(error)}); the file is damaged: {_RECOPY}."
            )
            raise SlideError(msg) from error

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels of an associated image."""
        self._identity.check()
        picture = self._associated[name]
        try:
            return picture.read(self._source, 0, (0, 0), picture.size_px(0))
        except Exception as error:
            self._identity.check()
            msg = f"The {name} image of {self._path.name} cannot be read ({reason_of(error)}); the slide itself may still be whole."
            raise SlideError(msg) from error

    def icc_profile(self) -> bytes | None:
        """Return the colour profile of the pixels."""
        return self._icc_profile

    def close(self) -> None:
        """Release the file; a later read opens it again."""
        self._source.close()


def _levels_of(picture: _Picture) -> tuple[Level, ...]:
    sizes = [picture.size_px(i) for i in range(len(picture.levels))]
    width, height = sizes[0]
    return tuple(Level(w, h, (width / w + height / h) / 2) for w, h in sizes)


# Reading


class _Descriptor:
    """An open file for reads at a place, from any thread; closed with the last reference to it."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self.size_bytes = os.fstat(self._fd).st_size

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, offset: int, count: int) -> bytes:
        if offset + count > self.size_bytes:
            msg = f"it ends at byte {self.size_bytes:,}, and {count:,} bytes are to be at byte {offset:,}"
            raise ValueError(msg)
        parts: list[bytes] = []
        while count:
            part = self._read_some(offset, count)
            if not part:
                msg = f"it ends at byte {offset:,}"
                raise ValueError(msg)
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._fd, count, offset)
        with self._lock:  # Windows has one position in a file for all
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, count)


class _Source:
    """The file and its decoded segments."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor: _Descriptor | None = None
        self._cache = ByteCache(_SEGMENT_CACHE_BYTES)
        # One that is larger than the cache, or its strip would be decoded for each tile anew.
        self._large: tuple[tuple[int, int], NDArray[Any]] | None = None
        self._gates: dict[tuple[int, int], threading.Lock] = {}

    def close(self) -> None:
        # Not closed outright: another thread may be reading from it.
        with self._lock:
            self._descriptor = self._large = None
        self._cache.clear()

    def descriptor(self) -> _Descriptor:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = _Descriptor(self._path)
            return self._descriptor

    def segment(self, page: _Page, index: int) -> NDArray[Any]:
        """Return the decoded segment, (rows, columns, samples)."""
        key = (page.number, index)
        found = self._held(key)
        if found is not None:
            return found
        with self._lock:
            gate = self._gates.setdefault(key, threading.Lock())
        # Threads that want the same strip wait for the one that decodes it.
        with gate:
            try:
                found = self._held(key)
                if found is not None:
                    return found
                block = page.decoded(self.descriptor(), index)
                if block.nbytes > self._cache.cap_bytes:
                    with self._lock:
                        self._large = key, block
                self._cache.put(key, block)
                return block
            finally:
                with self._lock:
                    self._gates.pop(key, None)

    def is_busy(self, page: _Page, index: int) -> bool:
        """Return whether another thread is decoding a segment just now."""
        with self._lock:
            return (page.number, index) in self._gates

    def _held(self, key: tuple[int, int]) -> NDArray[Any] | None:
        with self._lock:
            if self._large is not None and self._large[0] == key:
                return self._large[1]
        return self._cache.get(key)


@dataclass(frozen=True)
class _Page:
    """One directory of the file, checked, with all that reading it needs."""

    number: int
    width: int
    height: int
    samples: int
    is_separate: bool
    """Each sample has segments of its own."""
    dtype: np.dtype[Any]
    bits: int
    segment_width: int
    segment_height: int
    is_tiled: bool
    is_raw: bool
    """Uncompressed: any part of a segment can be read by itself."""
    file_dtype: np.dtype[Any]
    offsets: NDArray[np.uint64]
    byte_counts: NDArray[np.uint64]
    compression: int
    photometric: int
    extra_samples: tuple[int, ...]
    colormap: NDArray[np.uint16] | None
    decode: Callable[..., Any]
    jpeg_tables: bytes | None
    jpeg_header: bytes | None

    @property
    def across(self) -> int:
        return -(-self.width // self.segment_width)

    @property
    def down(self) -> int:
        return -(-self.height // self.segment_height)

    @property
    def layout(self) -> tuple[Any, ...]:
        """What pages of one pyramid have in common."""
        return (self.samples, self.dtype, self.photometric, self.is_tiled)

    def decoded(self, file: _Descriptor, index: int) -> NDArray[Any]:
        count = int(self.byte_counts[index])
        if count > _MAX_SEGMENT_BYTES:
            msg = f"a segment of {count:,} bytes"
            raise ValueError(msg)
        data = file.read(int(self.offsets[index]), count)
        values = _stated_values(data, self.compression)
        if values * self.dtype.itemsize > _MAX_SEGMENT_BYTES:
            msg = f"a segment says it holds {values:,} values"
            raise ValueError(msg)
        block, _, _ = self.decode(data, index, jpegtables=self.jpeg_tables, jpegheader=self.jpeg_header)
        if block is None or block.ndim != 4 or block.dtype != self.dtype:
            msg = "a segment is not of the kind that its directory says"
            raise ValueError(msg)
        return np.asarray(block[0])

    def read_into(self, source: _Source, xy: tuple[int, int], out: NDArray[Any]) -> list[Box]:
        """Fill `out`, (h, w, samples), from (x, y) on; return the parts of it that the file does not have."""
        x, y = xy
        right, bottom = x + out.shape[1], y + out.shape[0]
        missing: list[Box] = []

        def read(row: int, column: int) -> None:
            left, top = column * self.segment_width, row * self.segment_height
            box = (
                max(x, left),
                max(y, top),
                min(right, left + self.segment_width),
                min(bottom, top + self.segment_height),
            )
            part = out[box[1] - y : box[3] - y, box[0] - x : box[2] - x]
            within = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
            if not self._read_segment(source, row * self.across + column, within, part):
                missing.append((box[0] - x, box[1] - y, box[2] - x, box[3] - y))

        # Those that another thread is decoding come last: neighbours that wait for each other's segments, one
        # after the other, would be no faster together than one thread.
        busy: list[tuple[int, int]] = []
        for row in range(y // self.segment_height, -(-bottom // self.segment_height)):
            for column in range(x // self.segment_width, -(-right // self.segment_width)):
                if source.is_busy(self, row * self.across + column):
                    busy.append((row, column))
                else:
                    read(row, column)
        for row, column in busy:
            read(row, column)
        return missing

    def _read_segment(self, source: _Source, index: int, box: Box, out: NDArray[Any]) -> bool:
        """Fill `out` from `box` of a segment; False where the file has none."""
        indices = range(index, len(self.offsets), self.across * self.down)
        if any(not self.byte_counts[i] or not self.offsets[i] for i in indices):
            return False
        for sample, i in enumerate(indices):
            part = out[..., sample : sample + 1] if self.is_separate else out
            if self.is_raw:
                self._read_raw(source.descriptor(), i, box, part)
            else:
                block = source.segment(self, i)[box[1] : box[3], box[0] : box[2]]
                if block.shape != part.shape:
                    msg = f"a segment is smaller than the {self.segment_width} px that its directory says"
                    raise ValueError(msg)
                part[:] = block
        return True

    def _read_raw(self, file: _Descriptor, index: int, box: Box, out: NDArray[Any]) -> None:
        # Not a memory map: a file that is cut while it is mapped ends the process.
        pixel_bytes = (1 if self.is_separate else self.samples) * self.dtype.itemsize
        row_bytes = self.segment_width * pixel_bytes
        left, top, right, bottom = box
        if (bottom - 1) * row_bytes + right * pixel_bytes > int(self.byte_counts[index]):
            msg = f"a segment has {int(self.byte_counts[index]):,} bytes, fewer than its size needs"
            raise ValueError(msg)
        start = int(self.offsets[index]) + top * row_bytes + left * pixel_bytes
        if right - left == self.segment_width:
            data = file.read(start, (bottom - top) * row_bytes)
            out[:] = np.frombuffer(data, self.file_dtype).reshape(out.shape)
            return
        for row in range(bottom - top):
            data = file.read(start + row * row_bytes, (right - left) * pixel_bytes)
            out[row] = np.frombuffer(data, self.file_dtype).reshape(out.shape[1:])


def _stated_values(data: bytes, compression: int) -> int:
    """Return how many values a picture says it has that states its own size; 0 where the page's size bounds it."""
    if compression in _JPEG:
        return _jpeg_values(data)
    if compression in _JPEG_2000:
        at = data.find(b"\xff\x4f\xff\x51", 0, 4096)
        if at < 0 or len(data) < at + 42:
            return 0
        right, bottom, left, top = (int.from_bytes(data[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
        return max(0, right - left) * max(0, bottom - top) * int.from_bytes(data[at + 40 : at + 42], "big")
    if compression in _PNG and len(data) > 24:
        return 4 * int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    return 0


def _jpeg_values(data: bytes) -> int:
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            return height * width * data[at + 9]
        # Fill bytes and markers without a body have no length.
        is_bare = marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8
        at += (1 if marker == 0xFF else 2) if is_bare else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


@dataclass(frozen=True)
class _Picture:
    """Pages that show one thing: levels of planes (one for RGB, one for each channel else)."""

    levels: tuple[tuple[_Page, ...], ...]
    to_rgb: Callable[[NDArray[Any]], NDArray[np.uint8]]
    background: Color

    def size_px(self, level: int) -> tuple[int, int]:
        page = self.levels[level][0]
        return page.width, page.height

    def read(
        self, source: _Source, level: int, xy: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels from level pixel (x, y) on, background outside."""
        width, height = size_px
        x, y = xy
        out = np.empty((height, width, 3), np.uint8)
        out[:] = self.background
        own_width, own_height = self.size_px(level)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, own_width), min(y + height, own_height)
        if left >= right or top >= bottom:
            return out
        values, missing = _read_planes(source, self.levels[level], (left, top, right, bottom))
        inside = out[top - y : bottom - y, left - x : right - x]
        in_stripes(self.to_rgb, values, inside)
        for box in missing:
            inside[box[1] : box[3], box[0] : box[2]] = self.background
        return out


def _read_planes(source: _Source, planes: Sequence[_Page], box: Box) -> tuple[NDArray[Any], list[Box]]:
    """Return (height, width, samples of all planes), and the parts of it that are missing in some plane."""
    left, top, right, bottom = box
    samples = planes[0].samples
    values = np.zeros((bottom - top, right - left, samples * len(planes)), planes[0].dtype)
    missing: list[Box] = []
    for i, page in enumerate(planes):
        missing += page.read_into(source, (left, top), values[..., i * samples : (i + 1) * samples])
    return values, missing


# Opening


@dataclass(frozen=True)
class _Opened:
    picture: _Picture
    associated: dict[str, _Picture]
    vendor: str
    mpp: tuple[float | None, float | None, str | None]
    objective_power: float | None
    icc_profile: bytes | None
    notes: tuple[str, ...]


@dataclass
class _Found:
    """Pages of a file, sorted out but not interpreted."""

    levels: list[list[_Page]]
    first: Any
    """tifffile's page of the first plane of level 0."""
    associated: dict[str, _Page] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _opened(tiff: tifffile.TiffFile, source: _Source) -> _Opened:
    try:
        description = str(tiff.pages.first.description)
    except IndexError as error:
        msg = "it ends before its first directory"
        raise _RefusedError(msg) from error
    notes: list[str] = []
    image: _OmeImage | None = None
    images: list[_OmeImage] = []
    if _is_ome_xml(description):
        try:
            images = _ome_images(description)
        except (ValueError, SyntaxError, ArithmeticError) as error:
            notes.append(f"Its OME-XML cannot be used ({reason_of(error)}): it is read as a plain TIFF.")
    if images:
        image = max(images, key=lambda v: v.size_x * v.size_y)
        images.remove(image)
        # Many writers leave it out of the XML.
        in_page = int(_directory(tiff, image.directory(0, 0, 0)).samplesperpixel)
        if in_page > 1 and image.size_c % in_page == 0:
            image = replace(image, samples=in_page)
        found = _find_ome(tiff, images, image)
    else:
        found = _find_plain(tiff, description)
    notes += found.notes
    picture, said = _picture_of(found.levels, source, image)
    notes += said
    associated = {}
    for name, page in found.associated.items():
        if page.width * page.height <= MAX_ASSOCIATED_PX:
            try:
                associated[name] = _picture_of([[page]], source, None)[0]
            except _RefusedError as error:
                notes.append(f"The {name} image is left out: {error}.")
    mpp = _mpp_of(found.first, image)
    if mpp[0] and mpp[2] == "TIFF resolution tags" and is_print_resolution(mpp[0]):
        notes.append(PRINT_RESOLUTION_NOTE.format(dpi=25_400 / mpp[0]))
        mpp = (None, None, None)
    orientation = found.first.tags.valueof(274)
    if isinstance(orientation, int) and orientation != 1:
        notes.append(f"The file asks to be turned (orientation {orientation}): it is shown as it is stored.")
    icc = found.first.tags.valueof(34675)
    is_aperio = description.startswith("Aperio")
    return _Opened(
        picture=picture,
        associated=associated,
        vendor="ome-tiff" if image else "aperio" if is_aperio else "tiff",
        mpp=mpp,
        objective_power=image.objective_power if image else _stated_number(description, "AppMag"),
        icc_profile=bytes(icc) if isinstance(icc, bytes | bytearray) and icc else None,
        notes=tuple(notes),
    )


def _page_of(page: Any, number: int) -> _Page:
    """Return a page of tifffile's as what reading needs; the checks come before anything is allocated."""
    width, height = int(page.imagewidth), int(page.imagelength)
    if not (0 < width < _MAX_SIDE_PX and 0 < height < _MAX_SIDE_PX):
        msg = f"it states a size of {width} x {height} px"
        raise _RefusedError(msg)
    if int(page.imagedepth) != 1 or (page.is_tiled and int(page.tiledepth) != 1):
        msg = f"its pages are {page.imagedepth} px deep, volumes and not pictures"
        raise _RefusedError(msg, _CONVERT)
    samples, bits = int(page.samplesperpixel), page.bitspersample
    dtype = page.dtype
    if dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)) or not isinstance(bits, int) or bits < 8:
        msg = f"its samples are of {bits} bits, kind {dtype or page.sampleformat}; 8 and 16 bits without sign can be shown"
        raise _RefusedError(msg, _CONVERT)
    if not 1 <= samples <= _MAX_SAMPLES:
        msg = f"it states {samples} samples per pixel"
        raise _RefusedError(msg)
    is_separate = samples > 1 and int(page.planarconfig) == 2
    compression = int(page.compression)
    if page.is_tiled:
        segment = int(page.tilewidth), int(page.tilelength)
    else:
        rows = int(page.rowsperstrip)
        segment = width, rows if 0 < rows < height else height
    if not all(0 < v < _MAX_SIDE_PX for v in segment):
        msg = f"it states tiles of {segment[0]} x {segment[1]} px"
        raise _RefusedError(msg)
    is_raw = compression == 1 and int(page.predictor) == 1 and int(page.fillorder) == 1 and bits in (8, 16)
    segment_bytes = segment[0] * segment[1] * dtype.itemsize * (1 if is_separate else samples)
    if not is_raw and segment_bytes > _MAX_SEGMENT_BYTES:
        msg = f"a compressed strip or tile of {segment[0]} x {segment[1]} px is too large to decode"
        raise _RefusedError(msg, _CONVERT)
    count = -(-width // segment[0]) * -(-height // segment[1]) * (samples if is_separate else 1)
    if count > _MAX_SEGMENTS:
        msg = f"it would be of {count:,} strips or tiles of {segment[0]} x {segment[1]} px"
        raise _RefusedError(msg, _CONVERT)
    if min(len(page.dataoffsets), len(page.databytecounts)) < count:
        msg = f"its directory lists {min(len(page.dataoffsets), len(page.databytecounts))} of {count} strips or tiles"
        raise _RefusedError(msg)
    try:
        # What cannot be decoded says so also when there is nothing to decode.
        page.decode(None, 0)
    except (ValueError, NotImplementedError) as error:
        raise _RefusedError(reason_of(error), _CONVERT) from error
    colormap = page.colormap if int(page.photometric) == _PALETTE else None
    return _Page(
        number=number,
        width=width,
        height=height,
        samples=samples,
        is_separate=is_separate,
        dtype=np.dtype(dtype),
        bits=bits,
        segment_width=segment[0],
        segment_height=segment[1],
        is_tiled=bool(page.is_tiled),
        is_raw=is_raw,
        file_dtype=np.dtype(page.parent.byteorder + dtype.char),
        offsets=np.array(page.dataoffsets[:count], np.uint64),
        byte_counts=np.array(page.databytecounts[:count], np.uint64),
        compression=compression,
        photometric=int(page.photometric),
        extra_samples=tuple(int(v) for v in page.extrasamples),
        colormap=None if colormap is None else np.asarray(colormap, np.uint16),
        decode=page.decode,
        jpeg_tables=page.jpegtables,
        jpeg_header=page.jpegheader,
    )


class _Numbers:
    """Numbers the pages of one file: their segments share a cache."""

    def __init__(self) -> None:
        self._next = 0

    def page(self, page: Any) -> _Page:
        self._next += 1
        return _page_of(page, self._next)


def _pages(tiff: tifffile.TiffFile, notes: list[str]) -> Iterator[Any]:
    yield tiff.pages.first
    for index in range(1, _MAX_PAGES):
        try:
            page = tiff.pages[index]
        except IndexError:
            if _goes_on(tiff):
                notes.append(
                    f"The file is damaged after page {index} (it ends before its next one): what follows is left out."
                )
            return
        except Exception as error:  # noqa: BLE001 - a file that was cut; what came before is of use
            notes.append(
                f"The file is damaged after page {index} ({reason_of(error)}): what follows is left out."
            )
            return
        yield page


def _goes_on(tiff: tifffile.TiffFile) -> bool:
    """Return whether the last page that was found names one after it."""
    place = tiff.pages.next_page_offset
    if place is None:
        return False
    tiff.filehandle.seek(place)
    return any(tiff.filehandle.read(tiff.tiff.offsetsize))


def _sub_levels(page: Any, number: _Numbers, notes: list[str]) -> list[_Page]:
    """Return the pages of the pyramid below a page (SubIFDs), finest first."""
    if not page.subifds:
        return []
    found: list[_Page] = []
    for index in range(min(len(page.subifds), _MAX_LEVELS)):
        try:
            found.append(number.page(page.pages[index]))
        except Exception as error:  # noqa: BLE001 - a level that is damaged leaves the finer ones
            notes.append(
                f"Level {index + 1} cannot be used ({reason_of(error)}): it is left out, and those below."
            )
            break
    return found


def _is_level_of(page: _Page, base: _Page) -> bool:
    """Return whether a page shows the same as a larger one: its shape, up to what rounding does."""
    if not (page.width < base.width and page.height <= base.height):
        return False
    ratios = base.width / page.width, base.height / page.height
    slack = 2 / min(page.width, page.height) + 0.01
    return abs(ratios[0] - ratios[1]) / max(ratios) < slack


def _find_plain(tiff: tifffile.TiffFile, description: str) -> _Found:
    notes: list[str] = []
    number = _Numbers()
    candidates: list[tuple[Any, _Page]] = []
    associated: dict[str, _Page] = {}
    is_aperio = description.startswith("Aperio")
    for index, raw in enumerate(_pages(tiff, notes)):
        if int(raw.subfiletype) & 4:
            continue  # a mask of transparency
        try:
            page = number.page(raw)
        # One page that cannot be used leaves the others.
        except Exception as error:
            if index == 0:
                raise  # the slide itself
            notes.append(f"Page {index + 1} is left out ({reason_of(error)}).")
            continue
        name = _associated_name(str(raw.description).partition("|")[0][:400])
        if is_aperio and index == 1 and not page.is_tiled:
            name = "thumbnail"
        if name and index:
            associated.setdefault(name, page)
        else:
            candidates.append((raw, page))
    if not candidates:
        msg = "it has no picture"
        raise _RefusedError(msg)
    first, base = max(candidates, key=lambda v: v[1].width * v[1].height)
    groups: dict[tuple[int, int], list[tuple[Any, _Page]]] = {}
    for raw, page in candidates:
        if page.layout == base.layout:
            groups.setdefault((page.width, page.height), []).append((raw, page))
    largest = groups.pop((base.width, base.height))
    picked = _planes_picked(description, base, len(largest))
    if len(largest) > len(picked):
        notes.append(
            f"Of {len(largest)} pages of this size, {len(picked)} {'is' if len(picked) == 1 else 'are'} shown."
        )
    planes = [largest[i] for i in picked]
    levels = [[page for _, page in planes]]
    below = [_sub_levels(raw, number, notes) for raw, _ in planes]
    levels += [list(v) for v in zip(*below, strict=False)]
    if len(levels) == 1:
        for group in groups.values():
            if len(group) > max(picked):
                levels.append([group[i][1] for i in picked])
    return _Found(_checked(levels), first, associated, notes)


def _planes_picked(description: str, base: _Page, count: int) -> list[int]:
    """Return which of `count` pages of one size are the channels of one picture."""
    if base.samples == 1 and description.startswith("ImageJ="):
        channels, slices, frames = (
            int(_stated_number(description, key, "=") or 1) for key in ("channels", "slices", "frames")
        )
        if channels * slices * frames == count:
            middle = (slices // 2) * channels
            return list(range(middle, middle + min(channels, MAX_CHANNELS)))
    if base.samples == 1 and _is_qptiff(description):
        return list(range(min(count, MAX_CHANNELS)))
    return [0]


def _is_qptiff(description: str) -> bool:
    return "<PerkinElmer-QPI-ImageDescription" in description[:500]


def _checked(levels: list[list[_Page]]) -> list[list[_Page]]:
    """Return levels from fine to coarse without those that do not belong to the first."""
    base = levels[0][0]
    kept = [levels[0]]
    for planes in sorted(levels[1:], key=lambda v: -v[0].width):
        last = kept[-1][0]
        fits = all(
            (v.width, v.height, v.samples, v.dtype)
            == (planes[0].width, planes[0].height, base.samples, base.dtype)
            for v in planes
        )
        if fits and planes[0].width < last.width and _is_level_of(planes[0], base):
            kept.append(planes)
    return kept[:_MAX_LEVELS]


def _associated_name(text: str) -> str | None:
    lower = text.lower()
    return next((name for word, name in _ASSOCIATED.items() if re.search(rf"\b{word}\b", lower)), None)


def _stated_number(description: str, key: str, equals: str = r"\s*=\s*") -> float | None:
    found = re.search(rf"\b{key}{equals}([0-9.]+)", description)
    return _positive(found[1]) if found else None


def _positive(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if 0 < value < math.inf else None


def _mpp_of(page: Any, image: _OmeImage | None) -> tuple[float | None, float | None, str | None]:
    """Return (mpp_x, mpp_y, where from)."""
    if image is not None and image.mpp is not None:
        return *image.mpp, "OME-XML"
    stated = _stated_number(str(page.description), "MPP")
    if stated:
        return stated, stated, "slide metadata"
    unit = _UM_PER_RESOLUTION_UNIT.get(page.tags.valueof(296, default=2))
    dots = [_dots(page.tags.valueof(code)) for code in (282, 283)]
    if unit and dots[0] and dots[1]:
        return unit / dots[0], unit / dots[1], "TIFF resolution tags"
    return None, None, None


def _dots(rational: Any) -> float | None:
    try:
        above, below = rational
        return _positive(above / below)
    except (TypeError, ValueError, ArithmeticError):
        return None


# OME-XML


@dataclass(frozen=True)
class _OmeImage:
    name: str
    size_x: int
    size_y: int
    size_z: int
    size_c: int
    size_t: int
    order: str
    mpp: tuple[float, float] | None
    bits: int | None
    samples: int
    """Channels in one plane: 3 for RGB."""
    channels: tuple[tuple[str, Color | None], ...]
    """Name and colour of each that is described."""
    objective_power: float | None
    data: tuple[tuple[int, int, int, int, int, bool], ...]
    """TiffData: first c, z, t; directory; planes; whether in another file."""

    @property
    def planes(self) -> int:
        """How many planes the channels of one z and t are in: RGB is one."""
        return max(1, self.size_c // max(1, self.samples))

    def directory(self, c: int, z: int, t: int) -> int:
        """Return the index of the page of a plane."""
        if not self.data:
            return self._linear(c, z, t)
        place = self._linear(c, z, t)
        for first_c, first_z, first_t, directory, count, is_elsewhere in self.data:
            ahead = place - self._linear(first_c, first_z, first_t)
            if 0 <= ahead < count:
                if is_elsewhere:
                    msg = "its pixels are spread over several files"
                    raise _RefusedError(
                        msg, "convert it to one OME-TIFF with bfconvert, or give the file with the pixels"
                    )
                return directory + ahead
        msg = f"its OME-XML does not say where channel {c}, z {z}, t {t} is"
        raise _RefusedError(msg)

    def _linear(self, c: int, z: int, t: int) -> int:
        place, step = 0, 1
        for axis in self.order[2:]:
            place += step * {"C": c, "Z": z, "T": t}[axis]
            step *= {"C": self.planes, "Z": self.size_z, "T": self.size_t}[axis]
        return place


def _is_ome_xml(description: str) -> bool:
    return "<OME" in description[:4000] and description.rstrip("\0 \r\n\t").endswith("OME>")


def _ome_images(description: str) -> list[_OmeImage]:
    """Return the images of OME-XML.

    Raises
    ------
    ValueError
        If a number is none, or the XML has entities (defusedxml); SyntaxError if it is not XML.
    """
    from defusedxml import ElementTree  # type: ignore[import-untyped, import-not-found, unused-ignore]

    root = ElementTree.fromstring(description, forbid_dtd=True)
    powers = {
        v.get("ID"): _positive(v.get("NominalMagnification")) for v in root.iter() if _tag(v) == "Objective"
    }
    return [
        _ome_image(image, pixels, powers, root.get("UUID"))
        for image in root
        if _tag(image) == "Image"
        for pixels in image
        if _tag(pixels) == "Pixels"
    ]


def _tag(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _ome_image(image: Any, pixels: Any, powers: dict[Any, float | None], uuid: str | None) -> _OmeImage:
    size = {axis: int(pixels.get(f"Size{axis}", "1")) for axis in "XYZCT"}
    order = pixels.get("DimensionOrder", "XYZCT")
    if min(size.values()) < 1 or max(size.values()) >= _MAX_SIDE_PX or sorted(order) != sorted("XYZCT"):
        msg = f"sizes {size} in the order {order}"
        raise ValueError(msg)
    mpp = [
        _in_um(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "XY"
    ]
    described = [v for v in pixels if _tag(v) == "Channel"]
    settings = next((v for v in image if _tag(v) == "ObjectiveSettings"), None)
    bits = pixels.get("SignificantBits")
    return _OmeImage(
        name=image.get("Name") or "",
        size_x=size["X"],
        size_y=size["Y"],
        size_z=size["Z"],
        size_c=size["C"],
        size_t=size["T"],
        order=order,
        mpp=(mpp[0], mpp[1]) if mpp[0] and mpp[1] else None,
        bits=int(bits) if bits else None,
        samples=int(described[0].get("SamplesPerPixel", "1")) if described else 1,
        channels=tuple(
            (v.get("Name") or f"channel {i + 1}", _color_of(v.get("Color"))) for i, v in enumerate(described)
        ),
        objective_power=None if settings is None else powers.get(settings.get("ID")),
        data=tuple(_tiff_data(v, uuid) for v in pixels if _tag(v) == "TiffData"),
    )


def _tiff_data(element: Any, uuid: str | None) -> tuple[int, int, int, int, int, bool]:
    directory = element.get("IFD")
    # One plane where a directory is named, else all of them.
    count = element.get("PlaneCount") or (str(_MAX_SIDE_PX) if directory is None else "1")
    c, z, t = (int(element.get(f"First{axis}", "0")) for axis in "CZT")
    stated = next((v.text for v in element if _tag(v) == "UUID"), None)
    # By its UUID: the name is the one that the file had when it was written.
    return c, z, t, int(directory or 0), int(count), bool(uuid and stated and stated != uuid)


def _in_um(value: str | None, unit: str) -> float | None:
    number, factor = _positive(value), _UM_PER_UNIT.get(unit)
    return _positive(number * factor) if number and factor else None


def _color_of(text: str | None) -> Color | None:
    if text is None:
        return None
    rgba = int(text)
    return rgba >> 24 & 255, rgba >> 16 & 255, rgba >> 8 & 255


def _find_ome(tiff: tifffile.TiffFile, others: list[_OmeImage], image: _OmeImage) -> _Found:
    number = _Numbers()
    notes = list(planes_note(image.size_z // 2, image.size_z, 0, image.size_t))
    associated: dict[str, _Page] = {}
    unnamed = 0
    for other in others:
        name = _associated_name(other.name)
        if name is None or name in associated:
            unnamed += 1
            continue
        try:
            associated[name] = number.page(_directory(tiff, other.directory(0, 0, 0)))
        except Exception as error:  # noqa: BLE001 - the slide may still be whole
            notes.append(f"The {name} image cannot be used ({reason_of(error)}): it is left out.")
    if unnamed:
        notes.append(
            f"Of {unnamed + 1} images in the file, the largest is shown ({image.name or 'no name'})."
        )
    raws = [
        _directory(tiff, image.directory(c, image.size_z // 2, 0))
        for c in range(min(image.planes, MAX_CHANNELS))
    ]
    base = [number.page(raw) for raw in raws]
    if any((v.width, v.height, *v.layout) != (base[0].width, base[0].height, *base[0].layout) for v in base):
        msg = "its channels are of different sizes or kinds"
        raise _RefusedError(msg, _CONVERT)
    below = [_sub_levels(raw, number, notes) for raw in raws]
    levels = [base, *(list(v) for v in zip(*below, strict=False))]
    return _Found(_checked(levels), raws[0], associated, notes)


def _directory(tiff: tifffile.TiffFile, index: int) -> Any:
    if not 0 <= index < 1 << 20:
        msg = f"its OME-XML names the directory {index}"
        raise _RefusedError(msg)
    return tiff.pages[index]


# From samples to RGB


def _picture_of(
    levels: list[list[_Page]], source: _Source, image: _OmeImage | None
) -> tuple[_Picture, list[str]]:
    """Return the picture with its conversion to RGB, and what is to be said of it."""
    page = levels[0][0]
    samples, kind = page.samples, page.photometric
    is_color = samples >= 3 and kind in (_RGB, _YCBCR)
    if image is not None and image.channels and samples in (3, 4) and len(image.channels) == 1:
        # One channel of several samples is a colour picture, whatever the tag says.
        is_color = is_color or kind == _MIN_IS_BLACK
    if is_color:
        notes = [f"Of {len(levels[0])} colour pictures in the channels, the first is shown."]
        single = tuple((planes[0],) for planes in levels)
        bits = _bits_of(page, image, source, single[-1])
        return _Picture(single, _rgb_conversion(page, bits), _WHITE), notes if len(levels[0]) > 1 else []
    if kind == _PALETTE and page.colormap is not None and samples == 1:
        return _Picture(_frozen(levels), _palette_conversion(page.colormap), _WHITE), []
    if kind not in (_MIN_IS_BLACK, _MIN_IS_WHITE):
        msg = f"its colours are of the kind {kind} with {samples} samples (grey, palette, RGB and YCbCr can be shown)"
        raise _RefusedError(msg, _CONVERT)
    if page.dtype == np.uint8 and len(levels[0]) == 1 and _colors_without_alpha(page, 1):
        return _Picture(_frozen(levels), _grey_conversion(page), _WHITE), []
    return _fluorescence(levels, source, image)


def _frozen(levels: list[list[_Page]]) -> tuple[tuple[_Page, ...], ...]:
    return tuple(tuple(planes) for planes in levels)


def _alpha_of(page: _Page, colors: int) -> bool | None:
    """Return whether opacity is multiplied in already, or None where there is none."""
    if page.samples > colors and page.extra_samples and page.extra_samples[0] in (1, 2):
        return page.extra_samples[0] == 1
    return None


def _colors_without_alpha(page: _Page, colors: int) -> bool:
    return page.samples == colors or (page.samples == colors + 1 and _alpha_of(page, colors) is not None)


def _rgb_conversion(page: _Page, bits: int) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    is_premultiplied = _alpha_of(page, 3)
    is_ycbcr = page.compression == _APERIO_YCBCR or (
        page.photometric == _YCBCR and (page.is_separate or page.compression in _STORES_SAMPLES)
    )

    def to_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = values if values.dtype == np.uint8 else to_8_bit(values, bits)
        rgb = ycbcr_to_rgb(pixels) if is_ycbcr else pixels[..., :3]
        if is_premultiplied is None:
            return rgb
        return alpha_over(rgb, pixels[..., 3], _WHITE, is_premultiplied=is_premultiplied)

    return to_rgb


def _grey_conversion(page: _Page) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    is_inverted = page.photometric == _MIN_IS_WHITE
    is_premultiplied = _alpha_of(page, 1)

    def to_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
        grey = 255 - values[..., :1] if is_inverted else values[..., :1]
        rgb = np.broadcast_to(grey, (*grey.shape[:2], 3))
        if is_premultiplied is None:
            return rgb
        return alpha_over(rgb, values[..., 1], _WHITE, is_premultiplied=is_premultiplied)

    return to_rgb


def _palette_conversion(colormap: NDArray[np.uint16]) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    # Some writers put 8-bit colours where the format has 16-bit ones.
    table = to_8_bit(colormap.T, 8 if colormap.max() < 256 else 16)

    def to_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
        return np.take(table, values[..., 0], axis=0, mode="clip")

    return to_rgb


def _bits_of(page: _Page, image: _OmeImage | None, source: _Source, coarsest: Sequence[_Page]) -> int:
    """Return how many of 16 bits are in use."""
    if page.dtype == np.uint8:
        return 8
    if image is not None and image.bits is not None and 8 <= image.bits <= 16:
        return image.bits
    if page.bits < 16:
        return page.bits
    if coarsest[0].width * coarsest[0].height > _SAMPLED_PX:
        return 16
    values = _sampled(source, coarsest)
    return significant_bits(int(values[:, :3].max())) if values.size else 16


def _sampled(source: _Source, planes: Sequence[_Page]) -> NDArray[Any]:
    """Return pixels of a level, (n, samples): all of a small one, else of blocks spread evenly.

    What is missing or damaged is left out: it must not keep the rest from being opened.
    """
    width, height = planes[0].width, planes[0].height
    boxes: list[Box] = [(0, 0, width, height)]
    if width * height > _SAMPLED_PX:
        # The blocks of a 4 x 4 grid, in the middle of its cells.
        size = min(_SAMPLED_BLOCK_PX, width), min(_SAMPLED_BLOCK_PX, height)
        corners = [
            (int((column + 0.5) * width / 4) - size[0] // 2, int((row + 0.5) * height / 4) - size[1] // 2)
            for row in range(4)
            for column in range(4)
        ]
        boxes = [(x, y, min(width, x + size[0]), min(height, y + size[1])) for x, y in _inside(corners)]
    parts = [np.empty((0, planes[0].samples * len(planes)), planes[0].dtype)]
    for box in boxes:
        try:
            values, missing = _read_planes(source, planes, box)
        except Exception:  # noqa: BLE001 - the read of the region says what is wrong
            continue
        is_there = np.ones(values.shape[:2], bool)
        for left, top, right, bottom in missing:
            is_there[top:bottom, left:right] = False
        parts.append(values[is_there])
    return np.concatenate(parts)


def _inside(corners: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(max(0, x), max(0, y)) for x, y in corners]


def _fluorescence(
    levels: list[list[_Page]], source: _Source, image: _OmeImage | None
) -> tuple[_Picture, list[str]]:
    page = levels[0][0]
    count = len(levels[0]) * page.samples
    stated = list(image.channels) if image is not None else []
    names = [v[0] for v in stated[:count]] + [f"channel {i + 1}" for i in range(len(stated), count)]
    colors = [v[1] for v in stated[:count]] + [None] * (count - len(stated[:count]))
    if is_rgb(page.dtype, colors):
        return _Picture(_frozen(levels), lambda values: values, _WHITE), []
    shown = min(count, MAX_CHANNELS)
    top = (1 << page.bits) - 1
    is_inverted = page.photometric == _MIN_IS_WHITE

    def upright(values: NDArray[Any]) -> NDArray[Any]:
        return top - values if is_inverted else values

    sample = upright(_sampled(source, levels[-1]))
    channels = tuple(
        Channel(names[i], color, window_of(sample[:, i]) or (0.0, float(top)))
        for i, color in enumerate(channel_colors(colors[:shown]))
    )

    def to_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
        return added_up(upright(values[..., :shown]), channels)

    in_file = max(count, image.planes * page.samples if image is not None else 0)
    return _Picture(_frozen(levels), to_rgb, _BLACK), [channels_note(channels, in_file - shown)]
