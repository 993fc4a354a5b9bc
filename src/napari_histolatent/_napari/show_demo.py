"""Open napari on what the demo made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari

from napari_histolatent._napari._layers import (
    boxes_layer,
    heatmap_layer,
    slide_layers,
    tile_layer,
)
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.viewing import add_slide
from napari_histolatent.annotations import read_annotations
from napari_histolatent.explain.heatmap import shared_maximum
from napari_histolatent.patches import PatchDataset
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from napari_histolatent.jobs.demo import DemoResult

_SHOWN_PATCHES = 400


def show_demo(result: DemoResult) -> None:
    """Open a window with the demo's layers and docks, and wait until it is closed."""
    viewer = napari.Viewer(title="Histolatent demo")
    add_demo_layers(viewer, result)
    for name in ("Patches", "Train", "Edit"):
        viewer.window.add_plugin_dock_widget("napari-histolatent", name, tabify=True)
    napari.run()


def add_demo_layers(viewer: Any, result: DemoResult) -> None:
    """Add the slide, its regions, a share of the patches, and the edited tile with its heatmaps."""
    slide = open_slide(result.source.slide)
    annotations = read_annotations(result.source.annotations)
    dataset = PatchDataset(result.out / "dataset")
    session = session_of(viewer)
    columns = dataset.columns
    step = max(1, len(dataset) // _SHOWN_PATCHES)
    rows = range(0, len(dataset), step)
    boxes = [
        (x, y, x + width, y + height)
        for x, y, width, height in (
            tuple(columns[name][i] for name in ("x", "y", "width_level0_px", "height_level0_px"))
            for i in rows
        )
    ]
    colors = [annotations.color_of(columns["label"][i]) for i in rows]
    layers = [
        boxes_layer(boxes, slide.info, name=f"patches (every {step}th)", colors=colors, role="patches"),
    ]
    search = result.searches["real"]
    assert result.flip is not None
    tiles = {"reconstruction": search.reconstruction, "flip": result.flip}
    layers += [tile_layer(tile, slide.info, name=name) for name, tile in tiles.items()]
    maximum = shared_maximum(result.heatmaps)
    layers += [
        heatmap_layer(heatmap, slide.info, name=f"Grad-CAM {name}", maximum=maximum)
        for name, heatmap in zip(("tile", *tiles), result.heatmaps, strict=True)
    ]
    add_slide(viewer, slide_layers(slide))
    for data, options, kind in layers:
        # The flip lies on top; what is under it, and dense outlines, wait in the layer list.
        hidden = options["name"].startswith(("patches", "Grad-CAM tile", "Grad-CAM reconstruction"))
        getattr(viewer, f"add_{kind}")(data, visible=not hidden, **options)
    viewer.canvas.overlays.scale_bar.visible = True
    session.regions_of(slide).take_in(
        annotations, f"Import {result.source.annotations.name}", in_place_of=None
    )
    session.set_dataset(result.out / "dataset")
