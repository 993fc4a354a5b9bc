from __future__ import annotations

import ctypes
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import openslide
import openslide.lowlevel
from PIL import ImageCms

from napari_histolatent.errors import SlideError
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
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeVar

    from numpy.typing import NDArray
    from PIL import Image

    Found = TypeVar("Found")

_UM_PER_RESOLUTION_UNIT = {"inch": 25_400.0, "centimeter": 10_000.0}

_CACHE_BYTES = 128 << 20
"""Decoded blocks that all open slides share inside OpenSlide; its own default is 32 MiB for each."""

_MAX_TILE_PX = 1 << 28
"""A tile of more is damage: the library ends the whole process where its memory (4 bytes each) is not to be had."""

# The library's own read into memory of ours spares two copies. The Python package keeps both names to itself, though
# they are older than the oldest version allowed here: without them its public way gives the same pixels.
_read_argb: Callable[..., None] | None = getattr(openslide.lowlevel, "_read_region", None)
_unmultiplied: Callable[..., Image.Image] | None = getattr(openslide.lowlevel, "_load_image", None)

_OPAQUE = 0xFF000000
"""The least value of an opaque pixel of the library: alpha, red, green, blue from the highest byte on."""

_cache: openslide.OpenSlideCache | None = None
_cache_lock = threading.Lock()


class _RefusedError(Exception):
    """Why something is not read."""


class OpenSlideBackend:
    """Everything that OpenSlide reads.

    One handle serves all threads (OpenSlide keeps a pool of file handles under it). After an error a handle is
    of no use any more, for anyone: each read that fails gets a second opinion from a handle of its own, so
    that one damaged tile does not take the others with it.
    """

    def __init__(self, path: Path, *, reason: str = "OpenSlide reads it") -> None:
        self._path, self._lock = path, threading.Lock()
        self._identity = FileIdentity(path)
        self._handle: openslide.OpenSlide | None = None
        try:
            self._handle = _open(path)
            self.info = _info_of(self._handle, path, reason)
        except openslide.OpenSlideError as error:
            msg = (
                f"{path.name} is not a slide that can be opened ({reason_of(error, path)}); check that the file is complete "
                "and of a format OpenSlide reads (svs, ndpi, mrxs, scn, bif, vms, svslide, tiled TIFF, DICOM)."
            )
            raise SlideError(msg) from error
        except (ValueError, ArithmeticError) as error:
            self.close()
            msg = f"{path.name} is damaged: it states what cannot be ({reason_of(error, path)}); copy it again from the scanner or archive."
            raise SlideError(msg) from error

    def read_level(
        self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels of one level on the slide's background colour."""
        self._identity.check()

        def read(handle: openslide.OpenSlide) -> NDArray[np.uint8]:
            return _read_rgb(handle, level, level0_xy, size_px, self.info.background)

        try:
            return self._with_second_opinion(read)
        except openslide.OpenSlideError as error:
            self._identity.check()
            msg = (
                f"{self._path.name} opens, but its pixels at x={level0_xy[0]}, y={level0_xy[1]} cannot be "
                f"read ({reason_of(error, self._path)}); the file is damaged: copy it again from the scanner or archive."
            )
            raise SlideError(msg) from error

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels of an associated image on the background colour."""
        self._identity.check()
        try:
            image = self._with_second_opinion(lambda handle: _associated(handle, name))
        except (openslide.OpenSlideError, _RefusedError) as error:
            msg = f"The {name} image of {self._path.name} cannot be read ({reason_of(error, self._path)}); the slide itself may still be whole."
            raise SlideError(msg) from error
        return _composite(np.asarray(image.convert("RGBA")), self.info.background)

    def icc_profile(self) -> bytes | None:
        """Return the colour profile of the pixels."""
        try:
            profile = self._with_second_opinion(lambda handle: handle.color_profile)
        except openslide.OpenSlideError:
            return None
        except ImageCms.PyCMSError as error:
            msg = (
                f"The ICC profile of {self._path.name} cannot be used ({reason_of(error, self._path)}); "
                "its colours stay as they are in the file."
            )
            raise SlideError(msg) from error
        return None if profile is None else bytes(profile.tobytes())

    def close(self) -> None:
        """Release the file; a later read opens it again."""
        # Not closed outright: under a read that another thread is in, that would be the end of the process.
        # The library's handle goes with the last reference to it.
        with self._lock:
            self._handle = None

    def _with_second_opinion(self, read: Callable[[openslide.OpenSlide], Found]) -> Found:
        handle = self._shared_handle()
        try:
            return read(handle)
        except openslide.OpenSlideError:
            # Maybe it was another thread's tile that spoilt the handle.
            with self._lock:
                if self._handle is handle:
                    self._handle = None
        return read(_open(self._path))

    def _shared_handle(self) -> openslide.OpenSlide:
        with self._lock:
            if self._handle is None:
                try:
                    self._handle = _open(self._path)
                except openslide.OpenSlideError as error:
                    self._identity.check()
                    msg = f"{self._path.name} cannot be opened again ({reason_of(error, self._path)}); check that the file is complete."
                    raise SlideError(msg) from error
            return self._handle


def _open(path: Path) -> openslide.OpenSlide:
    global _cache
    handle = openslide.OpenSlide(path)
    with _cache_lock:
        _cache = _cache or openslide.OpenSlideCache(_CACHE_BYTES)
    handle.set_cache(_cache)
    return handle


def _read_rgb(
    handle: openslide.OpenSlide,
    level: int,
    level0_xy: tuple[int, int],
    size_px: tuple[int, int],
    background: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Return (height, width, 3) pixels of a level; opaque ones, nearly all, without a picture in between."""
    raw_handle = getattr(handle, "_osr", None)
    if _read_argb is None or _unmultiplied is None or raw_handle is None:
        return _composite(np.asarray(handle.read_region(level0_xy, level, size_px)), background)
    width, height = size_px
    argb = np.empty((height, width), np.uint32)
    pointer = argb.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
    _read_argb(raw_handle, pointer, *level0_xy, level, width, height)
    if argb.min() >= _OPAQUE:
        channels = argb.view(np.uint8).reshape(height, width, 4)
        return _picked(channels, (2, 1, 0) if sys.byteorder == "little" else (1, 2, 3))
    # Half-transparent pixels are stored multiplied by their alpha: the package knows how it takes that back.
    return _composite(np.asarray(_unmultiplied(argb, size_px)), background)


def _picked(pixels: NDArray[np.uint8], channels: Sequence[int]) -> NDArray[np.uint8]:
    """Return these channels of (height, width, n) pixels; one at a time is 4 x as fast as all at once in NumPy."""
    out = np.empty((*pixels.shape[:2], len(channels)), np.uint8)
    for i, channel in enumerate(channels):
        out[..., i] = pixels[..., channel]
    return out


def _associated(handle: openslide.OpenSlide, name: str) -> Image.Image:
    # Before the size that is stated is believed: the library takes the memory for it at once.
    width, height = (
        int(handle.properties[f"openslide.associated.{name}.{side}"]) for side in ("width", "height")
    )
    if width * height > MAX_ASSOCIATED_PX:
        msg = f"it states a size of {width} x {height} px"
        raise _RefusedError(msg)
    image: Image.Image = handle.associated_images[name]
    return image


def _composite(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Put RGBA pixels on a background: what the scanner did not see is its colour, never black."""
    alpha = rgba[..., 3]
    rgb = _picked(rgba, (0, 1, 2))
    if alpha.min() == 255:
        return rgb
    rgb[alpha == 0] = background
    # Half-transparent are at most the edges of tiles: large gaps must not cost a conversion to float.
    is_between = (alpha > 0) & (alpha < 255)
    if is_between.any():
        opacity = alpha[is_between][:, None].astype(np.float32) / 255
        mixed = rgb[is_between] * opacity + np.asarray(background, np.float32) * (1 - opacity)
        rgb[is_between] = np.round(mixed)
    return rgb


def _info_of(handle: openslide.OpenSlide, path: Path, reason: str) -> SlideInfo:
    properties = handle.properties
    levels = tuple(
        Level(width, height, float(downsample))
        for (width, height), downsample in zip(handle.level_dimensions, handle.level_downsamples, strict=True)
    )
    for i in range(len(levels)):
        tile = [int(properties.get(f"openslide.level[{i}].tile-{side}", 0)) for side in ("width", "height")]
        if tile[0] * tile[1] > _MAX_TILE_PX:
            msg = f"tiles of {tile[0]} x {tile[1]} px"
            raise ValueError(msg)
    mpp_x, mpp_y, source = _mpp_of(properties)
    notes = []
    if mpp_x and source == "TIFF resolution tags" and is_print_resolution(mpp_x):
        notes.append(PRINT_RESOLUTION_NOTE.format(dpi=25_400 / mpp_x))
        mpp_x = mpp_y = source = None
    return SlideInfo(
        path=path.absolute(),
        backend="openslide",
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR),
        digest=properties.get(openslide.PROPERTY_NAME_QUICKHASH1) or digest_of_ends(path),
        levels=levels,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        mpp_source=source,
        bounds=_bounds_of(properties, levels[0]),
        background=_background_of(properties),
        associated=tuple(handle.associated_images),
        backend_reason=reason,
        objective_power=_positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        has_icc_profile="openslide.icc-size" in properties,
        offset_from_centre_nm=_offset_of(properties),
        notes=tuple(notes),
    )


def _mpp_of(properties: Mapping[str, str]) -> tuple[float | None, float | None, str | None]:
    """Return (mpp_x, mpp_y, where from): the vendor's statement, else the TIFF resolution tags."""
    x, y = (_positive(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    if x and y:
        sources = {"generic-tiff": "TIFF resolution tags", "dicom": "DICOM"}
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "")
        return x, y, sources.get(vendor, "slide metadata")
    unit = _UM_PER_RESOLUTION_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    dots = [_positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    if unit and dots[0] and dots[1]:
        return unit / dots[0], unit / dots[1], "TIFF resolution tags"
    return None, None, None


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _bounds_of(properties: Mapping[str, str], level0: Level) -> tuple[int, int, int, int]:
    keys = [f"openslide.bounds-{side}" for side in ("x", "y", "width", "height")]
    if all(key in properties for key in keys):
        x, y, width, height = (int(properties[key]) for key in keys)
        return x, y, width, height
    return 0, 0, level0.width_px, level0.height_px


def _offset_of(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Return where a Hamamatsu scan's middle lies on the glass, in nm; it writes so under a name of its own."""
    texts = [properties.get(f"hamamatsu.{axis}OffsetFromSlideCentre", "") for axis in "XY"]
    try:
        return float(texts[0]), float(texts[1])
    except ValueError:
        return None


def _background_of(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)
