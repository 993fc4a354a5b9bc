from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shapely.geometry import box

from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.slides import SlideInfo


@dataclass(frozen=True)
class AnnotationCheck:
    """What a file of annotations holds, and what is wrong with it: the report of `annotations check`."""

    format: str
    regions: int
    holes: int
    points: int
    classes: dict[str, int]
    area_px: float
    """Summed area in level-0 pixels; overlaps count twice."""
    repaired: int
    dropped: int
    outside: int
    """Regions of which no part lies on the slide."""
    messages: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `--json` reports."""
        return asdict(self)


def check_annotations(annotations: Annotations, slide: SlideInfo | None = None) -> AnnotationCheck:
    """Count what the annotations hold and, given a slide, what lies outside it."""
    areas = [region for region in annotations.regions if region.is_area]
    points = [r for r in annotations.regions if r.geometry.geom_type in ("Point", "MultiPoint")]
    messages = list(annotations.messages)
    outside = 0
    if slide is not None:
        extent = box(0, 0, slide.width_px, slide.height_px)
        beyond = [region for region in annotations.regions if not extent.intersects(region.geometry)]
        outside = len(beyond)
        messages += [
            f"region {region.name or region.id} ({region.class_name}) lies outside the slide: it starts at "
            f"x={region.geometry.bounds[0]:.0f}, y={region.geometry.bounds[1]:.0f}, the slide ends at "
            f"x={slide.width_px}, y={slide.height_px}"
            for region in beyond
        ]
    return AnnotationCheck(
        format=annotations.format,
        regions=len(annotations.regions),
        holes=sum(len(polygon.interiors) for region in areas for polygon in region.polygons),
        points=len(points),
        classes=dict(sorted(Counter(r.class_name for r in annotations.regions).items())),
        area_px=float(sum(region.geometry.area for region in areas)),
        repaired=annotations.repaired,
        dropped=annotations.dropped,
        outside=outside,
        messages=tuple(messages),
    )


def require_on_slide(annotations: Annotations, slide: SlideInfo) -> None:
    """Refuse annotations that belong to another slide or another level.

    Raises
    ------
    AnnotationError
        If there is no region with an area, or none of them touches the slide.
    """
    areas = [region for region in annotations.regions if region.is_area]
    if not areas:
        msg = (
            f"The annotations hold no region with an area ({len(annotations.regions)} shapes read); "
            "draw polygons, rectangles or ellipses and give each a class."
        )
        raise AnnotationError(msg)
    extent = box(0, 0, slide.width_px, slide.height_px)
    if not any(extent.intersects(region.geometry) for region in areas):
        left, top = areas[0].geometry.bounds[:2]
        msg = (
            f"All {len(areas)} regions lie outside {slide.path.name} ({slide.width_px} x {slide.height_px} px): "
            f"the first starts at x={left:.0f}, y={top:.0f}; check that they were drawn on this slide, and at level 0."
        )
        raise AnnotationError(msg)
