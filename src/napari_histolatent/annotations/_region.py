from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shapely.geometry import MultiPolygon, Polygon

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.annotations._marks import RGB

UNCLASSIFIED = "unclassified"
"""The class of a region whose file names none."""

PALETTE: tuple[RGB, ...] = (
    (126, 58, 160),
    (214, 76, 118),
    (32, 130, 140),
    (230, 150, 40),
    (70, 110, 210),
    (110, 150, 60),
)


@dataclass(frozen=True, slots=True)
class SourceRing:
    """A ring as the file had it, kept where the repair changed it."""

    xy: NDArray[np.float64]
    """Shape (n, 2), level-0 pixels, not closed."""
    is_hole: bool


@dataclass(frozen=True, slots=True)
class Region:
    """One annotated shape of one class. Geometry is in level-0 pixels, (x, y)."""

    id: str
    class_name: str
    geometry: BaseGeometry
    """A valid polygon or multipolygon (holes allowed); points and lines mark places and carry no area."""
    name: str = ""
    source: tuple[SourceRing, ...] = ()
    """The rings as the file had them, if the repair changed any of them; empty if the geometry says it all."""

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


@dataclass(frozen=True, slots=True)
class Repair:
    """What the repair did to one region."""

    where: str
    """The element of the file."""
    area_before_px: float
    """Level-0 pixels squared that the outline encloses as drawn (its self-overlaps as its signed sum has them)."""
    area_after_px: float


@dataclass(frozen=True)
class Annotations:
    """The regions of one file, what happened to them on the way in, and the colours of their classes."""

    regions: tuple[Region, ...]
    format: str
    colors: dict[str, RGB] = field(default_factory=dict)
    """RGB, 0 to 255, of the classes whose file gives one."""
    elements: int = 0
    """Shapes that the file holds, holes of their own and dropped ones among them."""
    repairs: tuple[Repair, ...] = ()
    """The regions whose outline was not valid, with what that did to their area."""
    tidied: int = 0
    """Regions that lost repeated vertices only."""
    dropped: int = 0
    messages: tuple[str, ...] = ()
    groups: dict[str, int] = field(default_factory=dict)
    """Groups as the file names them, with the number of shapes of each: what a class mapping is made from."""
    hole_class: str = "exclusion"
    """The group that holes are written to, in formats where a hole is a shape of its own (ASAP)."""

    @property
    def repaired(self) -> int:
        """Number of regions whose outline had to be repaired."""
        return len(self.repairs)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that cover an area, sorted."""
        return tuple(sorted({region.class_name for region in self.regions if region.is_area}))

    def color_of(self, class_name: str) -> RGB:
        """Return the class's colour, from the file or else from the house palette, RGB 0 to 255."""
        if class_name in self.colors:
            return self.colors[class_name]
        names = sorted({region.class_name for region in self.regions} | {class_name})
        return PALETTE[names.index(class_name) % len(PALETTE)]
