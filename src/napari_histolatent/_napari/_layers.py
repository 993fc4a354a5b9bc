"""The one place that turns level-0 (x, y) into napari's (row, column) in micrometres: pure converters.

Level-0 pixel i covers [i, i + 1), and napari puts its centre at i * scale: continuous level-0 coordinates are
half a pixel less in napari's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._napari.viewing import SlideSource, levels_of, reader_threads
from napari_histolatent.explain import translucent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.slides import Slide, SlideInfo

KEY = "histolatent"
"""The one key of ours in a layer's metadata; what is under it is JSON."""

LayerData = tuple[Any, dict[str, Any], str]


def um_per_px(info: SlideInfo) -> tuple[float, float]:
    """Return the layer scale (y, x): micrometres per level-0 pixel, or 1 where the slide does not say."""
    return info.mpp_y or 1.0, info.mpp_x or 1.0


def space_of(info: SlideInfo) -> dict[str, Any]:
    """Return scale and units of a layer in level-0 pixels."""
    unit = "um" if info.mpp_x else "pixel"
    return {"scale": um_per_px(info), "units": (unit, unit)}


def level0_of(world_yx: Sequence[float], info: SlideInfo) -> tuple[float, float]:
    """Return the continuous level-0 point (x, y) of a world position (y, x)."""
    scale_y, scale_x = um_per_px(info)
    return world_yx[-1] / scale_x + 0.5, world_yx[-2] / scale_y + 0.5


def world_of(level0_xy: tuple[float, float], info: SlideInfo) -> tuple[float, float]:
    """Return the world position (y, x) of a continuous level-0 point."""
    scale_y, scale_x = um_per_px(info)
    return (level0_xy[1] - 0.5) * scale_y, (level0_xy[0] - 0.5) * scale_x


def slide_layers(slide: Slide, *, overview_seconds: float = math.inf) -> list[LayerData]:
    """Return the layers of a slide, in micrometres if it states its pixel size.

    The overview (one picture of at most 2048 px, in memory) lies under the multiscale layer, which is
    transparent until its tiles are read.

    Parameters
    ----------
    slide
        The slide.
    overview_seconds
        Read the overview for at most so long; the rest of it comes when it is shown.
    """
    info = slide.info
    source = SlideSource(slide)
    source.prepare(seconds=overview_seconds, threads=reader_threads())
    downsample = source.levels[-1].downsample
    height, width = source.overview.shape[:2]
    overview = {
        "name": f"{info.path.name} overview",
        "rgb": True,
        "contrast_limits": (0, 255),
        "metadata": {KEY: {"role": "overview", "slide_digest": info.digest}},
        **placement((0, 0, width * downsample, height * downsample), (height, width), info),
    }
    options = {
        "name": info.path.name,
        "rgb": True,
        "multiscale": True,
        "cache": False,
        "contrast_limits": (0, 255),
        "metadata": {KEY: {"role": "slide", **info.to_json()}},
        **space_of(info),
    }
    return [(source.overview, overview, "image"), (levels_of(source), options, "image")]


def slide_layer(slide: Slide) -> LayerData:
    """Return the multiscale layer of a slide alone."""
    return slide_layers(slide)[1]


def set_pixel_size(viewer: Any, slide: Slide, mpp: float | None) -> None:
    """State a slide's pixel size (None: take it back), and put every layer that lies on the slide to that scale."""
    before = um_per_px(slide.info)
    twins = [v.data[0].slide for v in viewer.layers if v.multiscale and hasattr(v.data[0], "slide")]
    for one in {slide, *(twin for twin in twins if twin.info.digest == slide.info.digest)}:
        if mpp is None:
            one.forget_mpp()
        else:
            one.state_mpp(mpp, is_stored=True)
    info = slide.info
    factors = np.array(um_per_px(info)) / before
    for layer in viewer.layers:
        ours = layer.metadata.get(KEY)
        if isinstance(ours, dict) and info.digest in (ours.get("slide_digest"), ours.get("digest")):
            layer.scale = np.asarray(layer.scale) * factors
            layer.translate = np.asarray(layer.translate) * factors
            layer.units = space_of(info)["units"]
            if ours.get("role") == "slide":
                own = getattr(layer.data[0], "slide", slide).info  # a copy of the file lies elsewhere
                layer.metadata[KEY] = {"role": "slide", **own.to_json()}


def points_of(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return continuous level-0 points (x, y) as (row, column) of a layer in level-0 pixels; shape (n, 2)."""
    return np.asarray(xy, np.float64)[:, ::-1] - 0.5


def xy_of(points: NDArray[Any]) -> NDArray[np.float64]:
    """Return (row, column) of a layer in level-0 pixels as continuous level-0 points (x, y); shape (n, 2)."""
    return np.asarray(points, np.float64)[:, -2:][:, ::-1] + 0.5


def width_on_canvas(viewer: Any, info: SlideInfo, *, canvas_px: float) -> float:
    """Return how many level-0 pixels are so many pixels of the canvas at the present zoom."""
    return canvas_px / float(max(viewer.scene.camera.zoom, 1e-9) * um_per_px(info)[1])


def boxes_layer(
    boxes: Sequence[tuple[float, float, float, float]],
    info: SlideInfo,
    *,
    name: str,
    colors: Sequence[tuple[int, int, int]],
    role: str,
) -> LayerData:
    """Return squares (left, top, right, bottom in level-0 pixels) as outlines."""
    corners = np.array(boxes, np.float64).reshape(-1, 4) - 0.5
    data = [np.array([[t, left], [t, right], [b, right], [b, left]]) for left, t, right, b in corners]
    rgba = np.column_stack([np.array(colors).reshape(-1, 3) / 255, np.ones(len(data))])
    options = {
        "name": name,
        "shape_type": "rectangle",
        "edge_color": rgba,
        "face_color": "transparent",
        "edge_width": max(1.0, max(info.width_px, info.height_px) / 900),
        "metadata": {KEY: {"role": role, "slide_digest": info.digest}},
        **space_of(info),
    }
    return data, options, "shapes"


def placement(
    box: tuple[float, float, float, float], shape: tuple[int, ...], info: SlideInfo
) -> dict[str, Any]:
    """Return scale and translate that put a picture of this shape on a level-0 box (left, top, right, bottom)."""
    scale_y, scale_x = um_per_px(info)
    left, top, right, bottom = box
    height, width = shape[:2]
    step_x, step_y = (right - left) / width, (bottom - top) / height
    return {
        "scale": (step_y * scale_y, step_x * scale_x),
        "translate": world_of((left + step_x / 2, top + step_y / 2), info),
        "units": space_of(info)["units"],
    }


def tile_layer(tile: Tile, info: SlideInfo, *, name: str, **extra: Any) -> LayerData:
    """Return a tile as a layer at its place on the slide; what a network drew says so in name and metadata."""
    assert tile.level0_box is not None
    options = {
        "name": f"SYNTHETIC {name}" if tile.synthetic else name,
        "rgb": True,
        "interpolation2d": "nearest",
        "metadata": {KEY: {"role": name, **tile.provenance, **extra}},
        **placement(tile.level0_box, tile.pixels.shape, info),
    }
    return tile.pixels, options, "image"


def heatmap_layer(heatmap: Heatmap, info: SlideInfo, *, name: str, maximum: float | None = None) -> LayerData:
    """Return a Grad-CAM map as a layer over its tile: the more evidence, the less of the tissue shines through."""
    assert heatmap.level0_box is not None
    options = {
        "name": name,
        "rgb": True,
        "opacity": 0.7,
        "interpolation2d": "nearest",
        "metadata": {KEY: {"role": name, **heatmap.to_json()}},
        **placement(heatmap.level0_box, heatmap.values.shape, info),
    }
    return translucent(heatmap, maximum=maximum), options, "image"
