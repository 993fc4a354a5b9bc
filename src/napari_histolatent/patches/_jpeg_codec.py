"""The zarr codec `histolatent.jpeg`, found by zarr through the entry point in pyproject.toml."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.common import parse_named_configuration

from napari_histolatent.patches._store import decode_into, encode

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

NAME = "histolatent.jpeg"


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):  # type: ignore[misc]  # zarr is not typed for us
    """One RGB patch a chunk, shape (1, height, width, 3), as a JPEG file."""

    is_fixed_size = False
    quality: int = 90

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec that zarr.json names."""
        _, configuration = parse_named_configuration(data, NAME)
        return cls(quality=int(configuration["quality"]))

    def to_dict(self) -> dict[str, Any]:
        """Return what zarr.json says of it."""
        return {"name": NAME, "configuration": {"quality": self.quality}}

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        pixels = np.empty(chunk_spec.shape, np.uint8)
        await asyncio.to_thread(decode_into, chunk_bytes.to_bytes(), "jpeg", pixels[0])
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        data = await asyncio.to_thread(encode, chunk_array.as_numpy_array()[0], "jpeg", self.quality)
        return chunk_spec.prototype.buffer.from_bytes(data)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before it is encoded."""
        raise NotImplementedError
