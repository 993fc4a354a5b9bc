from __future__ import annotations

import pytest

from napari_histolatent.slides import best_level, halving_downsamples


@pytest.mark.parametrize(
    ("downsamples", "asked", "level"),
    [
        ([1.0], 0.25, 0),
        ([1.0], 100.0, 0),
        ([1.0, 2.0, 4.0], 0.5, 0),
        ([1.0, 2.0, 4.0], 1.0, 0),
        ([1.0, 2.0, 4.0], 1.999, 0),
        ([1.0, 2.0, 4.0], 2.0, 1),
        ([1.0, 2.0, 4.0], 3.9, 1),
        ([1.0, 2.0, 4.0], 400.0, 2),
        # A scanner's 4.00009 is not 4: reading it for 4 would be reading a coarser level.
        ([1.0, 4.00009], 4.0, 0),
        # Rounding in the last digits of a division must not cost a level.
        ([1.0, 4.0], 4.0 * (1 - 1e-9), 1),
    ],
)
def test_the_next_finer_level_is_read(downsamples: list[float], asked: float, level: int) -> None:
    assert best_level(downsamples, asked) == level


@pytest.mark.parametrize(
    ("width", "height", "coarsest", "expected"),
    [
        (100, 100, 2048, [1, 2]),  # napari takes a picture for multiscale from two levels on
        (2048, 100, 2048, [1, 2]),
        (4096, 100, 2048, [1, 2]),
        (4097, 100, 2048, [1, 2, 4]),
        (100, 100_000, 1024, [1, 2, 4, 8, 16, 32, 64, 128]),
    ],
)
def test_levels_halve_until_the_coarsest_is_small(
    width: int, height: int, coarsest: int, expected: list[int]
) -> None:
    assert halving_downsamples(width, height, coarsest_px=coarsest) == expected
