"""Shapely over many geometries without holding up other threads: its long calls keep Python's lock to the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

CHUNK = 1000
"""Geometries of one call: some milliseconds."""

Found = TypeVar("Found")


def chunks_of(geometries: NDArray[np.object_]) -> Iterator[NDArray[np.object_]]:
    """Yield the geometries by `CHUNK`."""
    for start in range(0, len(geometries), CHUNK):
        yield geometries[start : start + CHUNK]


def in_chunks(
    function: Callable[[NDArray[np.object_]], NDArray[Any]], geometries: NDArray[np.object_]
) -> NDArray[Any]:
    """Return `function(geometries)`, an array along its first axis, put together from parts."""
    parts = [function(chunk) for chunk in chunks_of(geometries)]
    return np.concatenate(parts) if parts else function(geometries)
