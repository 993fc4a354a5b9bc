from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._napari.editing._own_points import OwnPoints
from napari_histolatent.latent import LatentPoint
from napari_histolatent.latent.directions import Direction
from napari_histolatent.latent.library import Library

if TYPE_CHECKING:
    from pathlib import Path


def test_points_and_directions_of_other_generators_do_not_count(tmp_path: Path) -> None:
    library, own = Library(tmp_path), OwnPoints(tmp_path, "mine")
    mine, other = LatentPoint((1.0,), (), "mine"), LatentPoint((1.0, 2.0), (), "other")
    for name, point in (("a", mine), ("b", other)):
        library.add(name, point, np.zeros((4, 4, 3), np.uint8), tags=["tumour", name])
    direction = Direction("up", (1.0,), "measured", "mine")
    library.add_direction(direction)
    library.add_direction(replace(direction, name="down", checkpoint_digest="other"))
    assert set(own.points()) == {"a"}
    assert own.groups() == {"tumour": [mine], "a": [mine]}
    assert set(own.tags()) == {"tumour", "a"}
    assert own.directions() == (direction,)
    # What is in the library is not touched by adding through the part.
    own.add("c", mine, np.zeros((4, 4, 3), np.uint8))
    assert [entry.name for entry in library.entries()] == ["a", "b", "c"]
