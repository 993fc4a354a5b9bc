"""Regions that users drew on a slide: files in and out, repair, editing, and keeping them."""

from napari_histolatent.annotations._autosave import (
    RegionStore,
    Stored,
    StoredVersion,
    regions_folder,
    snapshot_of,
)
from napari_histolatent.annotations._check import AnnotationCheck, check_annotations, require_on_slide
from napari_histolatent.annotations._child import read_beside
from napari_histolatent.annotations._chunks import collecting_later
from napari_histolatent.annotations._classes import ClassTable, RegionClass
from napari_histolatent.annotations._document import (
    Change,
    DocumentState,
    RegionDocument,
    edited,
    with_unique_ids,
)
from napari_histolatent.annotations._edits import (
    added,
    area_mm2,
    ellipse_of,
    freehand_of,
    length_of,
    merged,
    n_vertices,
    polygon_of,
    rectangle_of,
    simplified,
    split,
    stroke_of,
    subtracted,
    without_holes,
)
from napari_histolatent.annotations._geometry import repaired
from napari_histolatent.annotations._mapping import (
    HOLE,
    IGNORED,
    PRESETS,
    ClassMapping,
    Target,
    default_mapping,
    find_mapping,
    mapping_names,
    save_mapping,
)
from napari_histolatent.annotations._marks import ellipse_ring, rectangle_ring
from napari_histolatent.annotations._placement import AS_IS, Placement, Proposal, moved, proposals
from napari_histolatent.annotations._raster import RegionRaster
from napari_histolatent.annotations._reading import read_annotations, write_annotations
from napari_histolatent.annotations._region import UNCLASSIFIED, Annotations, Region, Repair, SourceRing
from napari_histolatent.annotations.formats import FORMATS, Format, WriteOptions, format_for, formats_written

__all__ = [
    "AS_IS",
    "FORMATS",
    "HOLE",
    "IGNORED",
    "PRESETS",
    "UNCLASSIFIED",
    "AnnotationCheck",
    "Annotations",
    "Change",
    "ClassMapping",
    "ClassTable",
    "DocumentState",
    "Format",
    "Placement",
    "Proposal",
    "Region",
    "RegionClass",
    "RegionDocument",
    "RegionRaster",
    "RegionStore",
    "Repair",
    "SourceRing",
    "Stored",
    "StoredVersion",
    "Target",
    "WriteOptions",
    "added",
    "area_mm2",
    "check_annotations",
    "collecting_later",
    "default_mapping",
    "edited",
    "ellipse_of",
    "ellipse_ring",
    "find_mapping",
    "format_for",
    "formats_written",
    "freehand_of",
    "length_of",
    "mapping_names",
    "merged",
    "moved",
    "n_vertices",
    "polygon_of",
    "proposals",
    "read_annotations",
    "read_beside",
    "rectangle_of",
    "rectangle_ring",
    "regions_folder",
    "repaired",
    "require_on_slide",
    "save_mapping",
    "simplified",
    "snapshot_of",
    "split",
    "stroke_of",
    "subtracted",
    "with_unique_ids",
    "without_holes",
    "write_annotations",
]
