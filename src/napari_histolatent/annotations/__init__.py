"""Regions that users drew on a slide: reading, repair, and what is wrong with them."""

from napari_histolatent.annotations._check import AnnotationCheck, check_annotations, require_on_slide
from napari_histolatent.annotations._formats import read_annotations
from napari_histolatent.annotations._geojson import write_geojson
from napari_histolatent.annotations._region import Annotations, Region

__all__ = [
    "AnnotationCheck",
    "Annotations",
    "Region",
    "check_annotations",
    "read_annotations",
    "require_on_slide",
    "write_geojson",
]
