"""Where a classifier looks, and what can be said of it. Importing this costs neither torch nor captum."""

from napari_histolatent.explain.contour import Contour, contours
from napari_histolatent.explain.difference import HeatmapDifference, colored_difference, difference_of
from napari_histolatent.explain.heatmap import (
    COLORMAPS,
    Heatmap,
    colored,
    lookup_table,
    overlaid,
    translucent,
)

__all__ = [
    "COLORMAPS",
    "Contour",
    "Heatmap",
    "HeatmapDifference",
    "colored",
    "colored_difference",
    "contours",
    "difference_of",
    "lookup_table",
    "overlaid",
    "translucent",
]
