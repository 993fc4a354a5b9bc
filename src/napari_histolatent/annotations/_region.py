from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shapely.geometry import MultiPolygon, Polygon

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

UNCLASSIFIED = "unclassified"
"""The class of a region whose file names none."""

_PALETTE = ((126, 58, 160), (214, 76, 118), (32, 130, 140), (230, 150, 40), (70, 110, 210), (110, 150, 60))


@dataclass(frozen=True)
class Region:
    """One annotated shape of one class. Geometry is in level-0 pixels, (x, y)."""

    id: str
    class_name: str
    geometry: BaseGeometry
    """A valid polygon or multipolygon (holes allowed); points and lines mark places and carry no area."""
    name: str = ""

    @property
    def is_area(self) -> bool:
        """Whether the region covers an area."""
        return isinstance(self.geometry, (Polygon, MultiPolygon))

    @property
    def polygons(self) -> tuple[Polygon, ...]:
        """The single polygons of the region, none for points and lines."""
        if isinstance(self.geometry, MultiPolygon):
            return tuple(self.geometry.geoms)
        return (self.geometry,) if isinstance(self.geometry, Polygon) else ()


@dataclass(frozen=True)
class Annotations:
    """The regions of one file, what happened to them on the way in, and the colours of their classes."""

    regions: tuple[Region, ...]
    format: str
    colors: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """RGB, 0 to 255, of the classes whose file gives one."""
    repaired: int = 0
    dropped: int = 0
    messages: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that cover an area, sorted."""
        return tuple(sorted({region.class_name for region in self.regions if region.is_area}))

    def color_of(self, class_name: str) -> tuple[int, int, int]:
        """Return the class's colour, from the file or else from the house palette, RGB 0 to 255."""
        if class_name in self.colors:
            return self.colors[class_name]
        names = sorted({region.class_name for region in self.regions} | {class_name})
        return _PALETTE[names.index(class_name) % len(_PALETTE)]
