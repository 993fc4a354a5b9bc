from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_histolatent._napari._layers import (
    KEY,
    boxes_layer,
    level0_of,
    world_of,
)
from napari_histolatent._napari._opening import open_in
from napari_histolatent._napari._picking import CanvasClicks
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker, run_safely
from napari_histolatent.annotations import regions_folder, require_on_slide, write_annotations
from napari_histolatent.errors import DatasetError, SlideError, writing_to
from napari_histolatent.jobs.tiles import Tile, cut_tile
from napari_histolatent.patches import (
    GridSpec,
    SlideSource,
    coverage_of,
    extract,
    label_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari._layers import LayerData
    from napari_histolatent._napari.widgets.patches_view import PatchesView
    from napari_histolatent.annotations import Annotations
    from napari_histolatent.slides import Slide

UNLABELLED_CAPTION = "no class"


class _Progress(QObject):
    """Carries progress from the thread to the view."""

    moved = Signal(int, int)


class PatchesBinding:
    """Opens slides and regions, cuts the patch under a click, and whole datasets."""

    def __init__(self, viewer: Any, view: PatchesView) -> None:
        self._viewer, self._view, self._session = viewer, view, session_of(viewer)
        self._regions = LatestWorker()
        self._cutter = LatestWorker(in_turn=True)  # clicks come faster than patches, and each counts
        self._extractor = LatestWorker(on_error=lambda _: view.set_busy(False))
        self._clicks = CanvasClicks(viewer, self._pick)
        self._progress = _Progress()
        self._progress.moved.connect(view.set_progress)
        view.slide_chosen.connect(self._open_slide)
        view.regions_chosen.connect(self._load_regions)
        view.picking_switched.connect(self._clicks.switch)
        view.cut_requested.connect(self._cut_dataset)
        view.cancel_requested.connect(self._cancel)
        view.tray.opened.connect(self._go_to)
        view.tray.removed.connect(self._session.remove_from_tray)
        self._session.tray_changed.connect(self._show_tray)
        self._session.annotations_changed.connect(self._show_slide)
        for event in (
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
            viewer.layers.selection.events.active,
        ):
            event.connect(self._show_slide)
        view.closed.connect(self.close)
        view.destroyed.connect(self.close)
        self._show_slide()
        self._show_tray()

    def close(self, *_: object) -> None:
        """Let go of the viewer and of running work; what the session holds stays."""
        self._clicks.switch(False)
        for worker in (self._regions, self._cutter, self._extractor):
            worker.cancel()
        for event in (
            self._viewer.layers.events.inserted,
            self._viewer.layers.events.removed,
            self._viewer.layers.selection.events.active,
        ):
            event.disconnect(self._show_slide)
        self._session.tray_changed.disconnect(self._show_tray, missing_ok=True)
        self._session.annotations_changed.disconnect(self._show_slide, missing_ok=True)

    def _open_slide(self, path: str) -> None:
        open_in(self._viewer, [path])

    def _show_layer(self, layer: LayerData) -> None:
        data, options, kind = layer
        getattr(self._viewer, f"add_{kind}")(data, **options)

    def _show_slide(self, *_: object) -> None:
        """Say which slide and regions are current."""
        slide = self._session.slide()
        if slide is None:
            self._view.slide_note.setText("No slide yet: drop one on the window, or open it here.")
            self._view.regions_note.setText("No regions yet.")
            return
        info = slide.info
        size = (
            f"{info.mpp_x:g} µm per px" if info.mpp_x else "pixel size not stated: patches are cut at level 0"
        )
        self._view.slide_note.setText(f"{info.path.name}: {info.width_px} x {info.height_px} px, {size}")
        self._view.regions_note.setText(self._session.regions_note() or "No regions yet.")

    def _load_regions(self, path: str) -> None:
        def load() -> None:
            slide = self._require_slide()
            self._session.regions_of(slide).import_file(Path(path))

        run_safely(load)

    def _require_slide(self) -> Slide:
        slide = self._session.slide()
        if slide is None:
            msg = "There is no slide open; drop a slide on the window first."
            raise SlideError(msg)
        return slide

    def _spec(self, slide: Slide) -> GridSpec:
        values = self._view.grid_values()
        if slide.info.mpp_x is None:
            values |= {"mpp": None, "level": 0}
        return GridSpec(**values)

    def _pick(self, world: tuple[float, ...]) -> None:
        slide = run_safely(self._require_slide)
        if slide is None:
            return
        spec = run_safely(lambda: self._spec(slide))
        if spec is None:
            return
        centre, annotations = level0_of(world, slide.info), self._session.annotations()

        def work(_: Callable[[], bool]) -> Tile:
            return labelled_tile(slide, annotations, centre, spec)

        def show(tile: Tile) -> None:
            self._session.add_to_tray(tile)
            self._outline(tile, annotations, slide)

        self._cutter.submit(work, show)

    def _outline(self, tile: Tile, annotations: Annotations | None, slide: Slide) -> None:
        """Draw the picked patch on its slide, in its class's colour."""
        assert tile.level0_box is not None
        color = annotations.color_of(tile.label) if annotations and tile.label else (255, 220, 0)
        name = f"picked patches of {slide.info.path.name}"
        data, options, _ = boxes_layer(
            [tile.level0_box], slide.info, name=name, colors=[color], role="picked"
        )
        for layer in self._picked_layers():
            if layer.metadata[KEY].get("slide_digest") == slide.info.digest:
                layer.feature_defaults = {"box": str(tile.level0_box)}
                layer.add_rectangles(
                    data,
                    edge_color=options["edge_color"],
                    face_color="transparent",
                    edge_width=options["edge_width"],
                )
                return
        selected = self._viewer.layers.selection.active
        self._viewer.add_shapes(data, features={"box": [str(tile.level0_box)]}, **options)
        self._viewer.layers.selection.active = selected

    def _picked_layers(self) -> list[Any]:
        layers = []
        for layer in self._viewer.layers:
            ours = layer.metadata.get(KEY)
            if isinstance(ours, dict) and ours.get("role") == "picked" and "box" in layer.features:
                layers.append(layer)
        return layers

    def _show_tray(self) -> None:
        """Show the tray's patches, and take away the outlines of those that were taken out."""
        tray = self._session.tray
        self._view.set_tray([(tile.pixels, tile.label or UNLABELLED_CAPTION) for tile in tray])
        kept = {(tile.slide_digest, str(tile.level0_box)) for tile in tray}
        for layer in self._picked_layers():
            digest = layer.metadata[KEY].get("slide_digest")
            gone = {i for i, box in enumerate(layer.features["box"]) if (digest, box) not in kept}
            if gone:
                layer.selected_data = gone
                layer.remove_selected()

    def _go_to(self, index: int) -> None:
        slide, tile = self._session.slide(), self._session.tray[index]
        if slide is not None and tile.centre is not None and tile.slide_digest == slide.info.digest:
            self._viewer.scene.camera.center = (0.0, *world_of(tile.centre, slide.info))

    def _cut_dataset(self) -> None:
        request = run_safely(self._request)
        if request is None:
            return
        slide, regions, out, spec = request
        self._view.set_busy(True)

        def work(should_stop: Callable[[], bool]) -> Any:
            # As they are now, drawn ones too: in a file, for whoever asks later what the patches were labelled by.
            file = regions_folder() / f"{slide.info.digest}.geojson"
            with writing_to(file.parent):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_annotations(file, regions)
            return extract(
                [SlideSource(slide.info.path, file)],
                out,
                spec=spec,
                on_progress=self._progress.moved.emit,
                should_stop=should_stop,
            )

        def show(report: Any) -> None:
            self._view.set_busy(False)
            classes = ", ".join(f"{n} {name}" for name, n in report.classes.items())
            splits = ", ".join(f"{n} {name}" for name, n in report.splits.items())
            self._view.result_note.setText(f"{report.patches} patches: {classes}. Split: {splits}.")
            self._session.set_dataset(out)

        self._extractor.submit(work, show)

    def _request(self) -> tuple[Slide, Annotations, Path, GridSpec]:
        slide = self._require_slide()
        regions, out = self._session.annotations(), self._view.out_picker.path
        if regions is None:
            msg = f"{slide.info.path.name} has no regions to label patches by; draw some in the Regions dock, or import them."
            raise DatasetError(msg)
        require_on_slide(regions, slide.info)
        if out is None:
            msg = "The dataset has no folder yet; name one that does not exist, such as patches."
            raise DatasetError(msg)
        return slide, regions, out.absolute(), self._spec(slide)

    def _cancel(self) -> None:
        self._extractor.cancel()
        self._view.set_busy(False)
        self._view.result_note.setText("Cancelled; nothing was kept.")


def labelled_tile(
    slide: Slide, annotations: Annotations | None, centre: tuple[float, float], spec: GridSpec
) -> Tile:
    """Return the patch around a level-0 point, with its label from the regions (None where the rule gives none)."""
    tile = cut_tile(slide, centre, size_px=spec.size_px, mpp=spec.mpp)
    if annotations is None or not annotations.classes:
        return tile
    assert tile.level0_box is not None
    coverage = coverage_of(annotations, annotations.classes, np.array([tile.level0_box]))
    (label,) = label_of(coverage, rule=spec.rule, threshold=spec.threshold)
    return tile if label < 0 else replace(tile, label=annotations.classes[label])
