from __future__ import annotations

import pytest

from napari_histolatent.slides import best_level


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
