"""The layer of a region's heatmap, at its place on the slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils import Colormap

from napari_histolatent._napari._layers import KEY, placement
from napari_histolatent.explain.heatmap import lookup_table

if TYPE_CHECKING:
    from napari_histolatent._napari._layers import LayerData
    from napari_histolatent.jobs.region_heatmap import RegionHeatmap
    from napari_histolatent.slides import SlideInfo

ROLE = "region heatmap"

_MOST_IN_MEMORY_PX = 1 << 24
"""A level of more pixels stays on the disk, and what the canvas shows of it is read when it is shown."""


def levels_in_reach(heatmap: RegionHeatmap) -> list[Any]:
    """Return the levels as a layer takes them, the finest first; the coarser ones are read now: in a thread."""
    return [
        np.asarray(level[:]) if level.shape[0] * level.shape[1] <= _MOST_IN_MEMORY_PX else level
        for level in heatmap.levels
    ]


def region_layer(
    heatmap: RegionHeatmap, levels: list[Any], info: SlideInfo, *, colormap: str, opacity: float
) -> LayerData:
    """Return a region's heatmap as one multiscale layer: the more evidence, the less of the tissue shines through.

    Parameters
    ----------
    heatmap
        Of `open_region_heatmap`.
    levels
        Of `levels_in_reach`.
    info
        Of its slide.
    colormap
        One of `explain.heatmap.COLORMAPS`.
    opacity
        As that of the other heatmaps, 0 to 1.
    """
    top = heatmap.bright or heatmap.maximum or 1.0
    options = {
        "name": f"Grad-CAM of {heatmap.target}: {heatmap.slide}",
        "multiscale": True,
        "contrast_limits": (0.0, top),
        "colormap": colors_of(colormap),
        "opacity": opacity,
        "interpolation2d": "nearest",
        "metadata": {
            KEY: {
                "role": ROLE,
                "slide_digest": heatmap.slide_digest,
                "path": str(heatmap.path),
                "target": heatmap.target,
                "layer": heatmap.layer,
                "classifier_digest": heatmap.classifier_digest,
                "maximum": heatmap.maximum,
            }
        },
        **placement(heatmap.level0_box, heatmap.levels[0].shape, info),
    }
    return levels, options, "image"


def colors_of(colormap: str) -> Colormap:
    """Return a colour map that is clear where there is no evidence, as the heatmaps of single tiles are."""
    alpha = np.linspace(0, 1, 256)
    return Colormap(np.column_stack([lookup_table(colormap) / 255, alpha]), name=f"{colormap}, clear at 0")


def region_layers_of(viewer: Any) -> list[Any]:
    """Return the layers that show heatmaps of regions, bottom first."""
    found = []
    for layer in viewer.layers:
        ours = layer.metadata.get(KEY)
        # A layer that another plugin made of one copies its metadata.
        if isinstance(ours, dict) and ours.get("role") == ROLE and getattr(layer, "multiscale", False):
            found.append(layer)
    return found


def lay_above_slide(viewer: Any, layer: Any) -> None:
    """Put a region's heatmap above its slide and the heatmaps of regions there; what is shown of a tile lies above."""
    layers, digest = viewer.layers, layer.metadata[KEY]["slide_digest"]
    roles = [_role_on(digest, item.metadata.get(KEY)) for item in layers]
    slide = [i for i, role in enumerate(roles) if role in ("slide", "overview")]
    if not slide:
        return
    place = slide[-1] + 1
    while place < len(roles) and roles[place] == ROLE:
        place += 1
    layers.move(layers.index(layer), place)


def _role_on(digest: str, ours: Any) -> str | None:
    """Return the role of a layer of a slide, from what its metadata say of us; None: of none, or of another."""
    if not isinstance(ours, dict) or digest not in (ours.get("digest"), ours.get("slide_digest")):
        return None
    role = ours.get("role")
    return role if isinstance(role, str) else None
