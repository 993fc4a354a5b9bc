"""Where a classifier looks. Importing this costs neither torch nor captum."""

from napari_histolatent.explain.heatmap import Heatmap, colored, overlaid, translucent

__all__ = ["Heatmap", "colored", "overlaid", "translucent"]
