"""The regions of a slide in napari: their layers, the drawing tools, and the file that keeps them."""

from napari_histolatent._napari.regions._canvas import DrawingBoard
from napari_histolatent._napari.regions._slide_regions import MANY, Imported, SlideRegions, is_regions_layer
from napari_histolatent._napari.regions._tools import HINTS, TOOL_NAMES, Drawn

__all__ = [
    "HINTS",
    "MANY",
    "TOOL_NAMES",
    "DrawingBoard",
    "Drawn",
    "Imported",
    "SlideRegions",
    "is_regions_layer",
]
