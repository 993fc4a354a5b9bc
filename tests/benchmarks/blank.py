"""A slide without tissue, of any size, in no memory: annotations can be measured without the pixels they lie on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.slides import Level, Slide, SlideInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray


class BlankBackend:
    """White pixels, in levels of downsample 1, 4, 16 and 64."""

    def __init__(self, width_px: int, height_px: int, *, mpp: float = 0.25, name: str = "blank.tif") -> None:
        self.info = SlideInfo(
            path=Path("/slides") / name,
            backend="blank",
            vendor=None,
            digest=f"{name}-{width_px}-{height_px}",
            levels=tuple(Level(width_px // n, height_px // n, float(n)) for n in (1, 4, 16, 64)),
            mpp_x=mpp,
            mpp_y=mpp,
            mpp_source="blank",
            bounds=(0, 0, width_px, height_px),
            background=(255, 255, 255),
            associated=(),
        )

    def read_level(
        self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return white."""
        return np.full((size_px[1], size_px[0], 3), 255, np.uint8)

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """Refuse: there are none."""
        raise KeyError(name)

    def icc_profile(self) -> bytes | None:
        """Return None."""
        return None

    def close(self) -> None:
        """Nothing to release."""


def blank_slide(width_px: int, height_px: int, *, mpp: float = 0.25, name: str = "blank.tif") -> Slide:
    """Return a white slide."""
    return Slide(BlankBackend(width_px, height_px, mpp=mpp, name=name))
