"""Pyramid arithmetic: pure functions of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOLERANCE = 1e-6
"""Relative slack when a downsample asked for meets a level's own, so that rounding does not cost a level."""


def best_level(downsamples: Sequence[float], downsample: float) -> int:
    """Return the coarsest level that is not coarser than `downsample` (the next finer one).

    Parameters
    ----------
    downsamples
        Downsample of each level, finest first; the first is 1.
    downsample
        Level-0 pixels per pixel asked for. Below 1 the finest level is returned.
    """
    fitting = [i for i, own in enumerate(downsamples) if own <= downsample * (1 + _TOLERANCE)]
    return fitting[-1] if fitting else 0
