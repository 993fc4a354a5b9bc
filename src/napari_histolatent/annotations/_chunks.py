"""Many geometries without holding up other threads: long calls, and collections of garbage, keep Python's lock."""

from __future__ import annotations

import gc
from contextlib import contextmanager
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


@contextmanager
def collecting_later() -> Iterator[None]:
    """Keep the cyclic garbage collector from walking over millions of new lists again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
