"""Many regions as a picture: tiles drawn from the outlines by the threads that also read slides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._napari._layers import KEY, space_of
from napari_histolatent._napari.viewing import SlideSource, levels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent._napari._layers import LayerData
    from napari_histolatent._napari.viewing import Box
    from napari_histolatent.annotations import ClassTable, RegionRaster
    from napari_histolatent.slides import Slide

_FACE_ALPHA = 45


def palette_of(classes: ClassTable, names: Sequence[str]) -> NDArray[np.uint8]:
    """Return the colour of each code, RGBA, shape (codes + 1, 4); code 0 and hidden classes are transparent."""
    palette = np.zeros((len(names) + 1, 4), np.uint8)
    for code, name in enumerate(names, start=1):
        item = classes.get(name)
        if item is None or item.is_visible:
            palette[code] = (*(item.color if item is not None else (128, 128, 128)), 255)
    return palette


class RegionsSource(SlideSource):
    """Tiles of regions as RGBA, in the display levels of their slide; transparent where there is none."""

    def __init__(self, slide: Slide, raster: RegionRaster, palette: NDArray[np.uint8]) -> None:
        super().__init__(slide)
        self.overview[:] = 0
        self._raster, self._palette = raster, palette

    def change(self, raster: RegionRaster | None = None, palette: NDArray[np.uint8] | None = None) -> None:
        """Draw other regions, or in other colours, from now on."""
        # The key first: what is being drawn now is of the old ones, and is not kept.
        self.drop()
        self._raster = self._raster if raster is None else raster
        self._palette = self._palette if palette is None else palette
        self.forget()

    def close(self) -> None:
        """Let the cache go of the tiles. The slide is not ours."""
        self.drop()

    def _read_box(self, box: Box, level_number: int) -> NDArray[np.uint8]:
        top, bottom, left, right = box
        downsample = self.levels[level_number].downsample
        place = (left * downsample, top * downsample, right * downsample, bottom * downsample)
        raster, palette, shape = self._raster, self._palette, (bottom - top, right - left)
        pixels = palette[raster.fill(place, shape)]
        pixels[..., 3] = np.minimum(pixels[..., 3], _FACE_ALPHA)
        for marks in (raster.dots(place, shape), raster.outlines(place, shape)):
            # Code by code: a hidden class hides nothing of what lies under it.
            seen = palette[marks]
            np.copyto(pixels, seen, where=seen[..., 3:] > 0)
        return pixels

    def _sketch(self) -> bool:
        return False


def raster_layer(source: RegionsSource, *, name: str) -> LayerData:
    """Return the multiscale layer that shows a source."""
    info = source.slide.info
    options: dict[str, Any] = {
        "name": name,
        "rgb": True,
        "multiscale": True,
        "cache": False,
        "contrast_limits": (0, 255),
        "metadata": {KEY: {"role": "regions raster", "slide_digest": info.digest}},
        **space_of(info),
    }
    return levels_of(source), options, "image"
