"""OME-Zarr (NGFF 0.4 on Zarr 2, 0.5 on Zarr 3): a local folder, or a URL read piece by piece."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
import zarr
import zarr.storage

from napari_histolatent.errors import SlideError
from napari_histolatent.slides._cache import ByteCache
from napari_histolatent.slides._channels import (
    MAX_CHANNELS,
    Channel,
    added_up,
    channel_colors,
    channels_note,
    in_stripes,
    is_rgb,
    planes_note,
    window_of,
)
from napari_histolatent.slides._file import FileIdentity, reason_of
from napari_histolatent.slides._info import Level, SlideInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Color = tuple[int, int, int]

_MAX_SIDE_PX = 1 << 31
_MAX_CHUNK_BYTES = 1 << 30
_MAX_LEVELS = 32
_CHUNK_CACHE_BYTES = 64 << 20
_SAMPLED_PX = 1 << 20
"""A level of at most so many pixels is read whole for its windows; of a larger one, blocks are."""
_SAMPLED_BLOCK_PX = 256
_TIMEOUT_S = 60
"""A server that says nothing for so long is not there."""

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_UM_PER_UNIT = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "nm": 1e-3,
    "millimeter": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "inch": 25_400.0,
}
_METADATA_FILES = ("zarr.json", ".zattrs", ".zgroup")


class _RefusedError(Exception):
    """Why something is not opened, and what helps."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass(frozen=True)
class _Array:
    """One level: Zarr's array, and which of its axes are what."""

    array: Any
    axes: str
    """One letter for each axis: t, c, z, y, x."""

    @property
    def size_px(self) -> tuple[int, int]:
        return self.size("x"), self.size("y")

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def size(self, axis: str) -> int:
        return int(self.array.shape[self.axes.index(axis)]) if axis in self.axes else 1

    def chunk(self, axis: str) -> int:
        return int(self.array.chunks[self.axes.index(axis)]) if axis in self.axes else 1

    def read(self, box: tuple[int, int, int, int], channels: int) -> NDArray[Any]:
        """Return (height, width, channels) of left, top, right, bottom: the middle z, the first t."""
        left, top, right, bottom = box
        picks: dict[str, Any] = {
            "t": 0,
            "c": slice(0, channels),
            "z": self.size("z") // 2,
            "y": slice(top, bottom),
            "x": slice(left, right),
        }
        values = np.asarray(self.array[tuple(picks[axis] for axis in self.axes)])
        kept = [axis for axis in self.axes if axis in "cyx"]
        if "c" not in kept:
            values, kept = values[None], ["c", *kept]
        return values.transpose([kept.index(axis) for axis in "yxc"])


_PLACE_PX = 64


class OmeZarrBackend:
    """An OME-Zarr image, local or at a URL.

    Raises
    ------
    SlideError
        If it cannot be reached, or is no OME-Zarr image.
    """

    def __init__(self, location: str, *, reason: str) -> None:
        self._url = location.rstrip("/") if "://" in location else None
        self._path = _path_of_url(self._url) if self._url else Path(location).absolute()
        self._name = self._path.name or location
        self._cache = ByteCache(_CHUNK_CACHE_BYTES)
        self._lock = threading.Lock()
        self._levels: tuple[_Array, ...] | None = None
        try:
            self._identity = None if self._url else _identity_of(self._path)
            group, stated = _image_of(self._open_group(""))
            self._group_path = str(group.path)
            self._levels = levels = _levels_of(group, stated)
            self._channels, self._to_rgb, background, notes = self._interpreted(levels, stated)
            mpp = _mpp_of(stated)
            self.info = SlideInfo(
                path=self._path,
                backend="zarr",
                vendor="ome-zarr",
                digest=_digest_of(stated, levels),
                levels=_downsampled(levels),
                mpp_x=mpp[0],
                mpp_y=mpp[1],
                mpp_source=None if mpp[0] is None else "OME-Zarr",
                bounds=(0, 0, *levels[0].size_px),
                background=background,
                associated=(),
                backend_reason=reason,
                notes=notes,
                url=self._url,
            )
        except SlideError:
            raise
        except _RefusedError as error:
            msg = f"{self._name} is not an OME-Zarr image that can be opened ({reason_of(error)}); {error.remedy}."
            raise SlideError(msg) from error
        # Zarr, its codecs and each file system raise all sorts.
        except Exception as error:
            raise SlideError(self._unreachable(error)) from error

    def read_level(
        self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels of one level on the slide's background colour."""
        self._check()
        downsample = self.info.levels[level].downsample
        x, y = (round(v / downsample) for v in level0_xy)
        width, height = size_px
        out = np.empty((height, width, 3), np.uint8)
        out[:] = self.info.background
        own = self.info.levels[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, own.width_px), min(y + height, own.height_px)
        if left >= right or top >= bottom:
            return out
        try:
            values = self._values(level, (left, top, right, bottom))
            in_stripes(self._to_rgb, values, out[top - y : bottom - y, left - x : right - x])
        except SlideError:
            raise
        # Zarr, its codecs and each file system raise all sorts.
        except Exception as error:
            self._check()
            at = f"{self._name} opens, but its pixels at x={level0_xy[0]}, y={level0_xy[1]} cannot be read"
            if self._url:
                msg = f"{at} ({reason_of(error)}); check the connection and that the server still has it."
            else:
                msg = f"{at} ({reason_of(error)}); it is damaged: copy it again from the scanner or archive."
            raise SlideError(msg) from error
        return out

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """OME-Zarr has no associated images."""
        msg = f"{self._name} has no associated image named {name}; an OME-Zarr has none."
        raise SlideError(msg)

    def icc_profile(self) -> bytes | None:
        """OME-Zarr has no colour profile."""
        return None

    def close(self) -> None:
        """Let go of what is held in memory; a later read opens it again."""
        # The arrays themselves go with the last read that is under way in another thread.
        with self._lock:
            self._levels = None
        self._cache.clear()

    def _open_group(self, path: str) -> Any:
        options = _options_of(self._url) if self._url else None
        if self._url:
            store = zarr.storage.FsspecStore.from_url(self._url, storage_options=options, read_only=True)
        else:
            store = zarr.storage.LocalStore(self._path, read_only=True)
        try:
            return zarr.open_group(store=store, path=path, mode="r")
        except FileNotFoundError as error:
            msg = "there is no Zarr group" if not path else f"there is no Zarr group at {path}"
            remedy = (
                "check the URL: it is that of the folder with zarr.json or .zattrs in it"
                if self._url
                else "give the folder that holds zarr.json or .zattrs"
            )
            raise _RefusedError(msg, remedy) from error

    def _unreachable(self, error: Exception) -> str:
        if self._url:
            return f"{self._url} cannot be reached ({reason_of(error)}); check the URL and the connection."
        return (
            f"{self._name} is not an OME-Zarr image that can be opened ({reason_of(error)}); "
            "it is damaged: copy it again from the scanner or archive."
        )

    def _check(self) -> None:
        if self._identity is not None:
            try:
                self._identity.check()
            except SlideError as error:
                # It is the metadata that is looked at; the slide is what has a name.
                msg = f"{self._path} is gone or was replaced while it was open ({reason_of(error)}); open the slide again."
                raise SlideError(msg) from error

    def _arrays(self) -> tuple[_Array, ...]:
        with self._lock:
            if self._levels is None:
                group, stated = _image_of(self._open_group(self._group_path))
                self._levels = _levels_of(group, stated)
            return self._levels

    def _values(self, level: int, box: tuple[int, int, int, int]) -> NDArray[Any]:
        """Return (height, width, channels) counts, from chunks that are held where they are."""
        array = self._arrays()[level]
        left, top, right, bottom = box
        width, height = array.chunk("x"), array.chunk("y")
        columns, rows = range(left // width, -(-right // width)), range(top // height, -(-bottom // height))
        chunk_bytes = width * height * self._channels * array.dtype.itemsize
        if chunk_bytes * len(columns) * len(rows) > self._cache.cap_bytes // 2:
            return array.read(box, self._channels)
        out = np.empty((bottom - top, right - left, self._channels), array.dtype)
        wanted = [(row, column) for row in rows for column in columns]
        found = {at: self._cache.get((level, *at)) for at in wanted}
        held = {at: block for at, block in found.items() if block is not None}
        lacking = [at for at in wanted if at not in held]
        if lacking:
            # All that are lacking in one go: Zarr fetches and decodes them side by side.
            first = min(v[0] for v in lacking), min(v[1] for v in lacking)
            last = max(v[0] for v in lacking) + 1, max(v[1] for v in lacking) + 1
            own_width, own_height = array.size_px
            whole = array.read(
                (
                    first[1] * width,
                    first[0] * height,
                    min(last[1] * width, own_width),
                    min(last[0] * height, own_height),
                ),
                self._channels,
            )
            for row, column in lacking:
                y, x = (row - first[0]) * height, (column - first[1]) * width
                block = whole[y : y + height, x : x + width].copy()
                held[row, column] = block
                self._cache.put((level, row, column), block)
        for (row, column), block in held.items():
            y, x = row * height, column * width
            part_top, part_left = max(top, y), max(left, x)
            part_bottom, part_right = min(bottom, y + height), min(right, x + width)
            out[part_top - top : part_bottom - top, part_left - left : part_right - left] = block[
                part_top - y : part_bottom - y, part_left - x : part_right - x
            ]
        return out

    def _interpreted(
        self, levels: tuple[_Array, ...], stated: _Stated
    ) -> tuple[int, Callable[[NDArray[Any]], NDArray[np.uint8]], Color, tuple[str, ...]]:
        """Return how many channels are read, their conversion to RGB, the background and the notes."""
        first = levels[0]
        count, dtype = first.size("c"), first.dtype
        notes = planes_note(first.size("z") // 2, first.size("z"), 0, first.size("t"))
        described = stated.channels[:count]
        colors = [_color_of(v.get("color")) for v in described] + [None] * (count - len(described))
        if dtype == np.uint8 and count == 1 and not described:
            return 1, _grey_to_rgb, _WHITE, notes
        if is_rgb(dtype, colors) or (dtype == np.uint8 and count == 3 and not described):
            return 3, _same, _WHITE, notes
        shown = min(count, MAX_CHANNELS)
        windows = [_window_of(v) for v in described[:shown]] + [None] * (shown - len(described[:shown]))
        if None in windows:
            sample = _sampled(levels[-1], shown)
            windows = [stated_window or window_of(sample[:, i]) for i, stated_window in enumerate(windows)]
        channels = tuple(
            Channel(
                str(described[i].get("label") or f"channel {i + 1}")
                if i < len(described)
                else f"channel {i + 1}",
                color,
                windows[i] or (0.0, float(np.iinfo(dtype).max)),
            )
            for i, color in enumerate(channel_colors(colors[:shown]))
        )

        def to_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
            return added_up(values, channels)

        return shown, to_rgb, _BLACK, (channels_note(channels, count - shown), *notes)


def _same(values: NDArray[Any]) -> NDArray[np.uint8]:
    return values


def _grey_to_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.broadcast_to(values, (*values.shape[:2], 3))


def _path_of_url(url: str) -> Path:
    parts = urlsplit(url)
    return Path(PurePosixPath(unquote(parts.path) or parts.netloc))


def _options_of(url: str) -> dict[str, Any] | None:
    if not url.lower().startswith(("http://", "https://")):
        return None
    import aiohttp  # type: ignore[import-not-found, unused-ignore]

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=_TIMEOUT_S)}}


def _identity_of(path: Path) -> FileIdentity | None:
    file = next((path / name for name in _METADATA_FILES if (path / name).is_file()), None)
    return None if file is None else FileIdentity(file)


# Metadata


@dataclass(frozen=True)
class _Stated:
    """What the metadata of an image say."""

    multiscale: Mapping[str, Any]
    channels: Sequence[Mapping[str, Any]]
    axes: str
    units: Sequence[str | None]


def _image_of(group: Any) -> tuple[Any, _Stated]:
    """Return the group of the image, and what it says: of a group of images (bioformats2raw) the first one."""
    attributes = _ome_of(group)
    if "plate" in attributes or "well" in attributes:
        msg = f"it is a {'plate' if 'plate' in attributes else 'well'} of many images"
        raise _RefusedError(msg, "give one of its images, such as plate.zarr/A/1/0")
    if "multiscales" not in attributes:
        try:
            group = group["0"]
            attributes = _ome_of(group)
        except (KeyError, AttributeError):
            attributes = {}
    if "multiscales" not in attributes:
        msg = "its metadata name no multiscales"
        raise _RefusedError(
            msg,
            "give the folder or URL of an OME-Zarr image, the one with multiscales in its zarr.json or .zattrs",
        )
    try:
        return group, _stated_of(attributes)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        msg = f"its metadata are not those of OME-Zarr: {type(error).__name__}: {error}"
        raise _RefusedError(msg, "write it again, for example with bioformats2raw") from error


def _ome_of(group: Any) -> dict[str, Any]:
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return dict(inner) if isinstance(inner, dict) else attributes


def _stated_of(attributes: Mapping[str, Any]) -> _Stated:
    multiscale = attributes["multiscales"][0]
    axes = multiscale.get("axes")
    if axes is None:  # NGFF 0.1 and 0.2
        return _Stated(multiscale, _channels_of(attributes), "tczyx", [None] * 5)
    # Strings in NGFF 0.3.
    described = [v if isinstance(v, dict) else {"name": v} for v in axes]
    letters = "".join(
        "c" if v.get("type") == "channel" else "t" if v.get("type") == "time" else str(v["name"]).lower()
        for v in described
    )
    if len(letters) != len(described) or len(set(letters)) != len(letters) or set(letters) - set("tczyx"):
        msg = f"axes {[v['name'] for v in described]}"
        raise ValueError(msg)
    if not {"x", "y"} <= set(letters):
        msg = f"axes {letters} without x and y"
        raise ValueError(msg)
    return _Stated(multiscale, _channels_of(attributes), letters, [v.get("unit") for v in described])


def _channels_of(attributes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    return [v if isinstance(v, dict) else {} for v in channels] if isinstance(channels, list) else []


def _levels_of(group: Any, stated: _Stated) -> tuple[_Array, ...]:
    """Return the levels, finest first; checked."""
    levels: list[_Array] = []
    for described in list(stated.multiscale["datasets"])[:_MAX_LEVELS]:
        name = str(described["path"])
        try:
            array = group[name]
        except KeyError as error:
            msg = f"its level {name} is missing"
            raise _RefusedError(msg, "copy the whole folder again") from error
        if not isinstance(array, zarr.Array):
            msg = f"its level {name} is not an array"
            raise _RefusedError(msg, "write it again, for example with bioformats2raw")
        levels.append(_checked(_Array(array, stated.axes), name))
    if not levels:
        msg = "it has no levels"
        raise _RefusedError(msg, "write it again, for example with bioformats2raw")
    levels.sort(key=lambda v: -v.size_px[0])
    first = levels[0]
    if any((v.dtype, v.size("c")) != (first.dtype, first.size("c")) for v in levels):
        msg = "its levels are of different kinds"
        raise _RefusedError(msg, "write it again, for example with bioformats2raw")
    return tuple(levels)


def _checked(level: _Array, name: str) -> _Array:
    shape = tuple(level.array.shape)
    if len(shape) != len(level.axes) or not all(0 < v < _MAX_SIDE_PX for v in shape):
        msg = f"its level {name} has the shape {shape} for the axes {level.axes}"
        raise _RefusedError(msg, "write it again, for example with bioformats2raw")
    if level.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        msg = f"its pixels are of the kind {level.dtype}; 8 and 16 bits without sign can be shown"
        raise _RefusedError(msg, "convert it to uint8 or uint16")
    chunk_bytes = math.prod(int(v) for v in level.array.chunks) * level.dtype.itemsize
    if chunk_bytes > _MAX_CHUNK_BYTES:
        msg = f"its chunks of {chunk_bytes:,} bytes are too large to decode"
        raise _RefusedError(msg, "write it again with chunks of 1024 px or less")
    return level


def _downsampled(levels: tuple[_Array, ...]) -> tuple[Level, ...]:
    width, height = levels[0].size_px
    sizes = [v.size_px for v in levels]
    return tuple(Level(w, h, (width / w + height / h) / 2) for w, h in sizes)


def _mpp_of(stated: _Stated) -> tuple[float | None, float | None]:
    """Return micrometres per level-0 pixel, (x, y), where the axes have units of length."""
    found = []
    for axis in "xy":
        at = stated.axes.index(axis)
        factor = _UM_PER_UNIT.get(str(stated.units[at]).lower())
        scale = _scale_at(stated.multiscale["datasets"][0], at)
        whole = _scale_at(stated.multiscale, at)
        if factor is None or scale is None:
            return None, None
        mpp = factor * scale * (whole or 1.0)
        if not 0 < mpp < math.inf:
            return None, None
        found.append(mpp)
    return found[0], found[1]


def _scale_at(described: Mapping[str, Any], at: int) -> float | None:
    for transformation in described.get("coordinateTransformations") or ():
        if isinstance(transformation, dict) and transformation.get("type") == "scale":
            try:
                return float(transformation["scale"][at])
            except (KeyError, IndexError, TypeError, ValueError):
                return None
    return None


def _color_of(text: Any) -> Color | None:
    try:
        value = bytes.fromhex(str(text).removeprefix("#"))
    except ValueError:
        return None
    return (value[0], value[1], value[2]) if len(value) >= 3 else None


def _window_of(channel: Mapping[str, Any]) -> tuple[float, float] | None:
    window = channel.get("window")
    try:
        low, high = float(window["start"]), float(window["end"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def _sampled(level: _Array, channels: int) -> NDArray[Any]:
    """Return pixels of a level, (n, channels): all of a small one, else of a 4 x 4 grid of blocks."""
    width, height = level.size_px
    if width * height <= _SAMPLED_PX:
        return level.read((0, 0, width, height), channels).reshape(-1, channels)
    blocks = []
    for row in range(4):
        for column in range(4):
            x = max(0, int((column + 0.5) * width / 4) - _SAMPLED_BLOCK_PX // 2)
            y = max(0, int((row + 0.5) * height / 4) - _SAMPLED_BLOCK_PX // 2)
            box = (x, y, min(width, x + _SAMPLED_BLOCK_PX), min(height, y + _SAMPLED_BLOCK_PX))
            blocks.append(level.read(box, channels).reshape(-1, channels))
    return np.concatenate(blocks)


def _digest_of(stated: _Stated, levels: tuple[_Array, ...]) -> str:
    """Return a digest of the metadata, the shapes and one place of the coarsest level.

    Pixels are many small files, and may be far away: one chunk has to do to tell two slides of one size apart.
    """
    facts = {
        "multiscale": stated.multiscale,
        "channels": list(stated.channels),
        "arrays": [[list(v.array.shape), list(v.array.chunks), str(v.dtype)] for v in levels],
    }
    hasher = sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    coarsest = levels[-1]
    x, y = (n // 2 for n in coarsest.size_px)
    try:
        box = (x, y, min(x + _PLACE_PX, 2 * x + 1), min(y + _PLACE_PX, 2 * y + 1))
        place = coarsest.read(box, 1)
    except Exception as error:  # noqa: BLE001  # zarr raises all sorts; that it is damaged is said at reading
        hasher.update(type(error).__name__.encode())
    else:
        hasher.update(np.ascontiguousarray(place).tobytes())
    return hasher.hexdigest()
