from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import box

from napari_histolatent.annotations._chunks import in_chunks
from napari_histolatent.annotations._placement import proposals
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.annotations._placement import Proposal
    from napari_histolatent.annotations._region import Annotations, Repair
    from napari_histolatent.slides import SlideInfo


@dataclass(frozen=True)
class AnnotationCheck:
    """What a file of annotations holds, and what is wrong with it: the report of `annotations check`."""

    format: str
    elements: int
    """Shapes in the file, holes of their own and dropped ones among them."""
    regions: int
    holes: int
    points: int
    classes: dict[str, int]
    area_px: float
    """Summed area in level-0 pixels; overlaps count twice."""
    repaired: int
    repairs: tuple[Repair, ...]
    """Of each repaired region the area before and after."""
    tidied: int
    """Regions of which only repeated points were left out."""
    source_rings: int
    """Regions that keep the rings as the file had them, beside what the repair made of them."""
    dropped: int
    outside: int
    """Regions of which no part lies on the slide."""
    partly_outside: int
    proposals: tuple[Proposal, ...]
    """What would bring regions onto the slide that seem to lie elsewhere."""
    messages: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `--json` reports."""
        return {
            **asdict(self),
            "proposals": [
                {
                    "factor": p.placement.factor,
                    "offset_xy": list(p.placement.offset_xy),
                    "reason": p.reason,
                }
                for p in self.proposals
            ],
        }

    @property
    def lines(self) -> list[str]:
        """Say it in lines of text."""
        areas = [
            f"{r.where} repaired: area {r.area_before_px:,.0f} px² before, {r.area_after_px:,.0f} px² after"
            for r in self.repairs
        ]
        partly = f" ({self.partly_outside} more in part)" if self.partly_outside else ""
        return [
            f"{self.format}: {self.elements} shapes read, {self.regions} regions with {self.holes} holes, "
            f"{self.points} points, {self.area_px:,.0f} px²",
            "classes: " + (", ".join(f"{n} {name}" for name, n in self.classes.items()) or "none"),
            f"repaired {self.repaired}, tidied {self.tidied}, dropped {self.dropped}, "
            f"outside the slide {self.outside}{partly}",
            *areas,
            *self.messages,
            *(f"proposed: {p.placement.words}; {p.reason}" for p in self.proposals),
        ]


def check_annotations(annotations: Annotations, slide: SlideInfo | None = None) -> AnnotationCheck:
    """Count what the annotations hold and, given a slide, what lies outside it."""
    geometries = np.array([region.geometry for region in annotations.regions], object)
    kinds = in_chunks(shapely.get_type_id, geometries)
    areas = geometries[np.isin(kinds, (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON))]
    points = np.isin(kinds, (shapely.GeometryType.POINT, shapely.GeometryType.MULTIPOINT))
    messages = list(annotations.messages)
    outside = partly = 0
    proposed: tuple[Proposal, ...] = ()
    if slide is not None and len(geometries):
        extent = box(0, 0, slide.width_px, slide.height_px)
        shapely.prepare(extent)
        beyond = ~in_chunks(lambda some: shapely.intersects(extent, some), geometries)
        outside = int(beyond.sum())
        partly = int((~beyond & ~in_chunks(lambda some: shapely.covers(extent, some), geometries)).sum())
        messages += [
            f"region {region.name or region.id} ({region.class_name}) lies outside the slide: it starts at "
            f"x={region.geometry.bounds[0]:.0f}, y={region.geometry.bounds[1]:.0f}, the slide ends at "
            f"x={slide.width_px}, y={slide.height_px}"
            for region in (annotations.regions[i] for i in np.flatnonzero(beyond))
        ]
        proposed = proposals(annotations, slide)
    return AnnotationCheck(
        format=annotations.format,
        elements=annotations.elements,
        regions=len(annotations.regions),
        holes=int(in_chunks(_holes, areas).sum()),
        points=int(points.sum()),
        classes=dict(sorted(Counter(r.class_name for r in annotations.regions).items())),
        area_px=float(in_chunks(shapely.area, areas).sum()),
        repaired=annotations.repaired,
        repairs=annotations.repairs,
        tidied=annotations.tidied,
        source_rings=sum(bool(region.source) for region in annotations.regions),
        dropped=annotations.dropped,
        outside=outside,
        partly_outside=partly,
        proposals=proposed,
        messages=tuple(messages),
    )


def _holes(areas: NDArray[np.object_]) -> NDArray[np.int64]:
    return np.asarray(shapely.get_num_interior_rings(shapely.get_parts(areas)))


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
        proposed = proposals(annotations, slide)
        hint = f"; {proposed[0].reason}: {proposed[0].placement.words}" if proposed else ""
        msg = (
            f"All {len(areas)} regions lie outside {slide.path.name} ({slide.width_px} x {slide.height_px} px): "
            f"the first starts at x={left:.0f}, y={top:.0f}; check that they were drawn on this slide, and at level 0{hint}."
        )
        raise AnnotationError(msg)
