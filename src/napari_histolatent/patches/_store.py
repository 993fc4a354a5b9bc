"""Pixels on disk: one sharded zarr v3 array, written a whole shard at a time and read chunk by chunk.

zarr-python reads the same files; its own sharded path is some ten times slower for single patches than reading
the shard's index once and decoding the wanted chunk (docs/performance.md).
"""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from io import FileIO
from threading import Lock
from typing import TYPE_CHECKING, Any

import google_crc32c
import imagecodecs
import numpy as np

from napari_histolatent._config import option
from napari_histolatent._files import digest_of_file, replacing
from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CODECS = {
    "zstd": "lossless, about two thirds of the raw size",
    "raw": "as they are, nothing to decode",
    "jpeg": "a tenth of the size, not lossless",
}
"""Name and meaning of each way to store pixels."""
KEEPS = {
    "labelled": "only the patches that got a label",
    "tissue": "all patches with enough tissue, so that a later label rule may take others",
}

_SHARD_BYTES = 32 << 20
"""Raw bytes of a shard: small enough for a worker's memory and for what a crash costs."""
_FLUSH_BYTES = 4 << 20
"""What is written is sent to the disk each time it has grown by so much, while the next patches are cut."""
_MAX_OPEN = 64
"""Shard files held open by one reader."""
_MISSING = 2**64 - 1
"""How a shard's index marks a chunk that is not there (zarr v3, sharding codec 1.0)."""
_ZSTD_LEVEL = -5
"""A fast level: 6 % larger than level 1 for tissue, and coded and decoded in half the time."""


@dataclass(frozen=True)
class StoreSpec:
    """How and which pixels are kept."""

    codec: str = option("zstd", "zstd (lossless), raw, or jpeg (smaller, not lossless).")
    jpeg_quality: int = option(90, "Quality of codec jpeg, 1 to 100.")
    index_only: bool = option(False, "Store no pixels; read them from the slides each time.")
    keep: str = option("labelled", "Patches to cut: labelled, or tissue (also those without a label).")

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            msg = f"There is no codec {self.codec!r}; choose one of {', '.join(CODECS)}."
            raise DatasetError(msg)
        if not 1 <= self.jpeg_quality <= 100:
            msg = f"A JPEG quality of {self.jpeg_quality} is not possible; give 1 to 100."
            raise DatasetError(msg)
        if self.keep not in KEEPS:
            msg = f"There is no choice {self.keep!r} of patches to keep; choose one of {', '.join(KEEPS)}."
            raise DatasetError(msg)


def shard_patches(size_px: int) -> int:
    """Return how many patches a shard holds: a power of two, at most 1,024, up to 32 MB of raw pixels."""
    fitting = max(1, _SHARD_BYTES // (3 * size_px**2))
    return min(1024, 1 << (fitting.bit_length() - 1))


def shard_file(folder: Path, shard: int) -> Path:
    """Return the file of a shard in a zarr array's folder."""
    return folder / "c" / str(shard) / "0" / "0" / "0"


def encode(patch: NDArray[np.uint8], codec: str, jpeg_quality: int = 90) -> bytes:
    """Return the bytes of one patch, uint8 of shape (size_px, size_px, 3)."""
    if codec == "zstd":
        return bytes(_zstd().encode(np.ascontiguousarray(patch)))
    if codec == "jpeg":
        return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(patch), jpeg_quality, subsampling="420"))
    return patch.tobytes()


@cache
def _zstd() -> Any:
    """Return an encoder that adds a checksum to each frame, which every decoder compares."""
    from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

    return Zstd(level=_ZSTD_LEVEL, checksum=True)


def decode_into(data: bytes, codec: str, out: NDArray[np.uint8]) -> None:
    """Decode one patch into `out`, uint8 of shape (size_px, size_px, 3), contiguous.

    Raises
    ------
    ValueError
        If the bytes are not a patch of this size in this codec.
    """
    try:
        if codec == "zstd":
            got = imagecodecs.zstd_decode(data, out=out.reshape(-1).data)
            if len(got) != out.nbytes:
                raise ValueError(len(got))
        elif codec == "jpeg":
            pixels = imagecodecs.jpeg8_decode(data)
            if pixels.shape != out.shape:
                raise ValueError(pixels.shape)
            out[:] = pixels
        else:
            out.reshape(-1)[:] = np.frombuffer(data, np.uint8)
    except (imagecodecs.ZstdError, imagecodecs.Jpeg8Error, ValueError) as error:
        msg = f"its bytes cannot be decoded ({error})"
        raise ValueError(msg) from error


def create_array(folder: Path, n_patches: int, size_px: int, spec: StoreSpec) -> None:
    """Write the metadata of an empty array of `n_patches` patches, uint8, shape (n, size_px, size_px, 3)."""
    import zarr
    from zarr.codecs import BytesCodec, ZstdCodec

    from napari_histolatent.patches._jpeg_codec import JpegCodec

    coding: dict[str, Any] = {"serializer": BytesCodec(), "compressors": None}
    if spec.codec == "zstd":
        coding["compressors"] = ZstdCodec(level=_ZSTD_LEVEL, checksum=True)
    elif spec.codec == "jpeg":
        coding["serializer"] = JpegCodec(quality=spec.jpeg_quality)
    per_shard = shard_patches(size_px)
    zarr.create_array(
        folder,
        shape=(n_patches, size_px, size_px, 3),
        dtype="uint8",
        chunks=(1, size_px, size_px, 3),
        shards=(per_shard, size_px, size_px, 3),
        dimension_names=("patch", "y", "x", "rgb"),
        **coding,
    )


def write_shard(file: Path, chunks: Iterable[bytes | None], per_shard: int) -> str:
    """Write one shard whole or not at all, and return the sha256 of its bytes, in hex.

    Parameters
    ----------
    file
        Where.
    chunks
        Encoded patches in order, None for one that is missing; at most `per_shard`. Each is written as it comes:
        what is made one by one need not be held together. What they raise is passed on, and nothing is left.
    per_shard
        Patches a shard of the array holds.
    """
    index = np.full((per_shard, 2), _MISSING, "<u8")
    hasher, offset, flushed = sha256(), 0, 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary, temporary.open("wb") as handle, ThreadPoolExecutor(1) as disk:
        for i, chunk in enumerate(chunks):
            if chunk is None:
                continue
            index[i] = offset, len(chunk)
            offset += len(chunk)
            handle.write(chunk)
            hasher.update(chunk)
            if offset - flushed >= _FLUSH_BYTES:
                # `replacing` waits for the whole file at the end, and says what went wrong.
                handle.flush()
                disk.submit(os.fsync, handle.fileno())
                flushed = offset
        tail = index.tobytes()
        tail += int(google_crc32c.value(tail)).to_bytes(4, "little")
        handle.write(tail)
        hasher.update(tail)
    return hasher.hexdigest()


def digests_of_shards(folder: Path, n_patches: int, size_px: int) -> list[str]:
    """Return the sha256 of each shard file of a stored array, in their order, as `write_shard` returned them.

    Raises
    ------
    DatasetError
        If the metadata are not those of such an array, or a file cannot be read.
    """
    _, per_shard = _layout(folder, n_patches, size_px)
    digests = []
    for shard in range(-(-n_patches // per_shard)):
        file = shard_file(folder, shard)
        try:
            digests.append(digest_of_file(file))
        except OSError as error:
            msg = f"{file} cannot be read ({error.strerror}); cut the dataset again, or bring the file back."
            raise DatasetError(msg) from error
    return digests


class ShardReader:
    """Reads patches of a stored array; opens files lazily, thread-safe, not picklable (open one per process).

    Parameters
    ----------
    folder
        The zarr array's folder.
    n_patches
        Patches it has to hold.
    size_px
        Side of a patch.

    Raises
    ------
    DatasetError
        If the metadata cannot be read or is not what this package writes.
    """

    def __init__(self, folder: Path, n_patches: int, size_px: int) -> None:
        self.folder, self.size_px = folder, size_px
        self.codec, self.per_shard = _layout(folder, n_patches, size_px)
        self._lock = Lock()
        self._open: OrderedDict[int, tuple[FileIO, NDArray[np.uint64]]] = OrderedDict()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; a later read opens them again."""
        opened = getattr(self, "_open", {})
        while opened:
            opened.popitem()[1][0].close()

    def read(self, positions: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return patches, uint8, shape (n, size_px, size_px, 3), in the order of `positions`.

        Raises
        ------
        DatasetError
            If a shard is missing or damaged, or a chunk cannot be decoded.
        """
        patches = np.empty((len(positions), self.size_px, self.size_px, 3), np.uint8)
        for i, position in enumerate(positions):
            try:
                if self.codec == "raw":  # straight into its place
                    self._read(int(position), patches[i].reshape(-1).data)
                else:
                    decode_into(self.read_bytes(int(position)), self.codec, patches[i])
            except ValueError as error:
                file = shard_file(self.folder, int(position) // self.per_shard)
                msg = f"Patch {position} in {file} is damaged: {error}; cut the dataset again."
                raise DatasetError(msg) from error
        return patches

    def read_bytes(self, position: int) -> bytes:
        """Return the encoded bytes of one patch."""
        return bytes(self._read(position, None))

    def _read(self, position: int, into: memoryview | None) -> bytes | memoryview:
        """Return the encoded bytes of one patch, new or in the buffer given, which they have to fill."""
        shard, chunk = divmod(position, self.per_shard)
        with self._lock:
            handle, index = self._shard(shard)
            offset, nbytes = (int(v) for v in index[chunk])
            data: bytes | memoryview = b""
            if offset != _MISSING:
                # Under the lock: another thread may close the file to open another.
                data = _read_at(handle, offset, nbytes, into)
        if offset == _MISSING or len(data) != nbytes:
            msg = f"Patch {position} is missing from {shard_file(self.folder, shard)}; cut the dataset again."
            raise DatasetError(msg)
        return data

    def _shard(self, shard: int) -> tuple[FileIO, NDArray[np.uint64]]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        file = shard_file(self.folder, shard)
        try:
            handle = FileIO(file)
        except OSError as error:
            msg = f"{file} cannot be read ({error.strerror}); cut the dataset again, or bring the file back."
            raise DatasetError(msg) from error
        try:
            index = _index_of(handle, self.per_shard)
        except (OSError, ValueError) as error:
            handle.close()
            msg = f"{file} is damaged ({error}); cut the dataset again, or bring the file back."
            raise DatasetError(msg) from error
        self._open[shard] = handle, index
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)[1][0].close()
        return handle, index


def _read_at(handle: FileIO, offset: int, nbytes: int, into: memoryview | None) -> bytes | memoryview:
    """Return bytes of a file, new or in the buffer given.

    By place, where the system can: a forked process shares its parent's position in an open file.
    """
    if into is not None and nbytes != len(into):
        return b""
    if hasattr(os, "preadv"):
        if into is None:
            return os.pread(handle.fileno(), nbytes, offset)
        return into[: os.preadv(handle.fileno(), [into], offset)]
    handle.seek(offset)
    return (handle.read(nbytes) or b"") if into is None else into[: handle.readinto(into)]


def _index_of(handle: FileIO, per_shard: int) -> NDArray[np.uint64]:
    size = os.fstat(handle.fileno()).st_size
    length = per_shard * 16 + 4
    tail = bytes(_read_at(handle, max(0, size - length), length, None))
    if len(tail) != length:
        msg = f"it has {size} bytes"
        raise ValueError(msg)
    if int(google_crc32c.value(tail[:-4])) != int.from_bytes(tail[-4:], "little"):
        msg = "the checksum of its index does not fit"
        raise ValueError(msg)
    return np.frombuffer(tail[:-4], "<u8").reshape(per_shard, 2)


def _layout(folder: Path, n_patches: int, size_px: int) -> tuple[str, int]:
    """Return codec and patches per shard of an array that this package wrote."""
    try:
        meta = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
        (sharding,) = meta["codecs"]
        shape = tuple(meta["shape"])
        per_shard = int(meta["chunk_grid"]["configuration"]["chunk_shape"][0])
        chunk = tuple(sharding["configuration"]["chunk_shape"])
        names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        msg = f"{folder} cannot be read ({error!r}); cut the dataset again."
        raise DatasetError(msg) from error
    codec = {("bytes", "zstd"): "zstd", ("bytes",): "raw", ("histolatent.jpeg",): "jpeg"}.get(tuple(names))
    if codec is None or chunk != (1, size_px, size_px, 3) or per_shard < 1:
        msg = f"{folder} is coded as {'/'.join(names)} in chunks of {chunk}, which this version does not read; update napari-histolatent."
        raise DatasetError(msg)
    if shape != (n_patches, size_px, size_px, 3):
        msg = f"{folder} holds {shape[0]} patches of {shape[1]} px, the index names {n_patches} of {size_px} px; cut the dataset again."
        raise DatasetError(msg)
    return codec, per_shard


def copy_without(
    folder: Path, fresh: Path, kept: NDArray[np.int64], n_patches: int, size_px: int, spec: StoreSpec
) -> list[str]:
    """Write an array anew with only some of its patches, their bytes as they are; return the shards' sha256.

    Parameters
    ----------
    folder
        The zarr array's folder.
    fresh
        Folder of the new one; what an interrupted call left there goes.
    kept
        Places of the patches to keep, in order.
    n_patches
        Patches the array has.
    size_px, spec
        As it was created.
    """
    reader = ShardReader(folder, n_patches, size_px)
    shutil.rmtree(fresh, ignore_errors=True)
    create_array(fresh, len(kept), size_px, spec)
    per_shard = shard_patches(size_px)
    digests = []
    for shard, start in enumerate(range(0, len(kept), per_shard)):
        chunks = [reader.read_bytes(int(position)) for position in kept[start : start + per_shard]]
        digests.append(write_shard(shard_file(fresh, shard), chunks, per_shard))
    reader.close()
    return digests
