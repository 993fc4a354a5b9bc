from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._napari.editing import _searching
from napari_histolatent._napari.editing._searching import at_most_every

if TYPE_CHECKING:
    import pytest


def test_previews_that_come_too_soon_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([10.0, 10.125, 10.25, 10.5, 10.625, 11.0])
    monkeypatch.setattr(_searching.time, "monotonic", lambda: next(seconds))
    told: list[int] = []
    tell = at_most_every(0.5, lambda step, _: told.append(step))
    for step in range(6):
        tell(step, np.zeros((1, 1, 3), np.uint8))
    assert told == [0, 3, 5]
