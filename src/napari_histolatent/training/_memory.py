"""Out of memory: knowing it when it comes, and finding the batch that fits."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

_WORDS = (
    "DefaultCPUAllocator: can't allocate",
    "DefaultCPUAllocator: not enough memory",  # what it says on Windows
    "MPS backend out of memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Parts of the messages of plain RuntimeErrors: only some allocators have a class of error of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def batch_that_fits(
    batch_size: int, trial: Callable[[int], object], *, multiple_of: int = 1, least: int = 1
) -> int | None:
    """Return the largest half, quarter, ... of a batch that does not fit with which a trial step passes.

    Parameters
    ----------
    batch_size
        The batch that does not fit.
    trial
        Takes a batch size, and does a step with it on networks of its own.
    multiple_of
        What a batch has to be a multiple of.
    least
        The smallest batch worth trying.

    Returns
    -------
    int or None
        None where not even the smallest passes.
    """
    batch = batch_size
    while (batch := batch // 2 // multiple_of * multiple_of) >= max(least, 1):
        release()
        if _passes(trial, batch):
            release()
            return batch
    return None


def _passes(trial: Callable[[int], object], batch: int) -> bool:
    try:
        trial(batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # What the failed step held hangs on its frames: they go with the error when this returns.
        return False
    return True


def release() -> None:
    """Give back what nothing uses any more: the next trial is to find memory as a fresh start would."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def out_of_memory(batch_size: int, fits: int | None, *, size_px: int, device: str, tried: bool = True) -> str:
    """Return what is said where memory does not suffice; `tried`: whether a smaller batch was looked for."""
    short = f"The memory of {device} does not suffice for a batch of {batch_size} patches of {size_px} px"
    if not tried:
        return f"{short}; train with half of it."
    if fits is None:
        return f"{short}, nor for any smaller one; train on smaller patches, a narrower network or another device."
    return (
        f"{short}; {fits} would fit: train with --batch-size {fits}, or allow halve_batch_if_out_of_memory."
    )
