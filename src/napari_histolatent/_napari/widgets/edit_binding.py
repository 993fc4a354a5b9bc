from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal

from napari_histolatent._napari._editing import (
    Models,
    Route,
    Seen,
    load_models,
    route_to,
    runs_with_models,
    seen_in,
)
from napari_histolatent._napari._layers import heatmap_layer, level0_of, tile_layer, um_per_px, world_of
from napari_histolatent._napari._picking import CanvasClicks
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.widgets.edit_view import FRAMES
from napari_histolatent._napari.widgets.patches_binding import labelled_tile
from napari_histolatent.explain import colored
from napari_histolatent.explain.heatmap import shared_maximum
from napari_histolatent.jobs.tiles import cut_tile
from napari_histolatent.patches import GridSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent._napari.widgets.edit_view import EditView
    from napari_histolatent.explain import Heatmap
    from napari_histolatent.jobs.edits import ReverseSearch
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.slides import Slide

_SEARCH_STEPS = 500


class _Preview(QObject):
    """Carries the search's progress from the thread to the view."""

    moved = Signal(int, object)


class EditBinding:
    """Picks a tile, searches its latent point, and shows its edits as layers at its place on the slide.

    Frames and heatmaps of the slider's path are computed ahead in a worker; moving the slider only assigns.
    """

    def __init__(self, viewer: Any, view: EditView) -> None:
        self._viewer, self._view, self._session = viewer, view, session_of(viewer)
        self._models: Models | None = None
        self._slide: Slide | None = None
        self._tile: Tile | None = None
        self._search: ReverseSearch | None = None
        self._tile_seen: Seen = Seen()
        self._route: Route | None = None
        self._layers: dict[str, Any] = {}
        self._lister, self._loader, self._picker = LatestWorker(), LatestWorker(), LatestWorker()
        self._searcher = LatestWorker(on_error=lambda _: view.set_searching(False))
        self._router = LatestWorker()
        self._clicks = CanvasClicks(viewer, self._pick)
        self._preview = _Preview()
        self._preview.moved.connect(self._show_preview)
        view.generator_chosen.connect(self._load)
        view.classifier_chosen.connect(self._load)
        view.picking_switched.connect(self._clicks.switch)
        view.from_tray_requested.connect(self._take_from_tray)
        view.zoom_requested.connect(self._zoom)
        view.search_requested.connect(self._start_search)
        view.cancel_requested.connect(self._cancel_search)
        view.target_chosen.connect(self._compute_route)
        view.slider_moved.connect(self._show_frame)
        view.heatmaps_switched.connect(self._switch_heatmaps)
        self._session.runs_changed.connect(self._list_models)
        self._session.tray_changed.connect(self._list_targets)
        view.destroyed.connect(self.close)
        self._list_models()

    def close(self, *_: object) -> None:
        """Let go of the viewer and of running work; layers stay."""
        self._clicks.switch(False)
        for worker in (self._lister, self._loader, self._picker, self._searcher, self._router):
            worker.cancel()
        self._session.runs_changed.disconnect(self._list_models, missing_ok=True)
        self._session.tray_changed.disconnect(self._list_targets, missing_ok=True)

    # models

    def _list_models(self) -> None:
        def show(found: tuple[list[tuple[str, str]], list[tuple[str, str]]]) -> None:
            changed = False
            for box, models in zip((self._view.generator_box, self._view.classifier_box), found, strict=True):
                before = box.currentData()
                paths = [path for _, path in models]
                current = before if before in paths else (paths[0] if paths else None)
                self._view.set_models(box, models, current)
                changed |= current != before
            if changed:
                self._load()

        self._lister.submit(lambda _: runs_with_models(), show)

    def _load(self, *_: object) -> None:
        generator = self._view.generator_box.currentData()
        classifier = self._view.classifier_box.currentData()
        if generator is None:
            self._view.models_note.setText("Train a generator first, in the Train dock.")
            return
        self._view.models_note.setText("Loading…")

        def show(models: Models) -> None:
            self._models = models
            checkpoint = models.generator.checkpoint
            mpp = f" at {checkpoint.mpp:g} µm per px" if checkpoint.mpp else ""
            without = "" if models.classifier else "; no classifier, so no Grad-CAM"
            self._view.models_note.setText(
                f"Draws {', '.join(checkpoint.classes)}, {checkpoint.size_px} px{mpp}, step {checkpoint.step}{without}."
            )
            self._view.set_heatmap_classes(checkpoint.classes)
            if self._tile is not None and self._slide is not None:
                self._set_tile(self._tile, self._slide)

        self._loader.submit(lambda _: load_models(generator, classifier), show)

    def _require_models(self) -> Models | None:
        if self._models is None:
            show_error("There is no generator yet; train one in the Train dock, or wait until it is loaded.")
        return self._models

    # the tile

    def _pick(self, world: tuple[float, ...]) -> None:
        models, slide = self._require_models(), self._session.slide()
        if models is None:
            return
        if slide is None:
            show_error("There is no slide open; drop a slide on the window first.")
            return
        self._cut(models, slide, level0_of(world, slide.info))

    def _take_from_tray(self) -> None:
        models, slide = self._require_models(), self._session.slide()
        if models is None or slide is None:
            return
        mine = [tile for tile in self._session.tray if tile.slide_digest == slide.info.digest and tile.centre]
        if not mine:
            show_error("The tray holds no patch of this slide; pick one in the Patches dock.")
            return
        centre = mine[-1].centre
        assert centre is not None
        self._cut(models, slide, centre)

    def _cut(self, models: Models, slide: Slide, centre: tuple[float, float]) -> None:
        """Cut the tile at the model's own size and resolution."""
        checkpoint, annotations = models.generator.checkpoint, self._session.annotations()
        mpp = checkpoint.mpp
        spec = GridSpec(
            size_px=checkpoint.size_px, mpp=mpp, level=0 if mpp is None else None, rule="majority"
        )

        def work(_: Callable[[], bool]) -> Tile:
            if annotations is None:
                return cut_tile(slide, centre, size_px=spec.size_px, mpp=mpp)
            return labelled_tile(slide, annotations, centre, spec)

        self._picker.submit(work, lambda tile: self._set_tile(tile, slide))

    def _set_tile(self, tile: Tile, slide: Slide) -> None:
        self._tile, self._slide, self._search, self._route = tile, slide, None, None
        self._tile_seen = Seen()
        self._searcher.cancel()
        self._router.cancel()
        self._view.set_searching(False)
        self._forget_layers()
        for column in ("tile", "reconstruction", "edit"):
            self._view.set_picture("pixels", column, None)
            self._view.set_picture("heatmap", column, None)
        self._view.set_picture("pixels", "tile", tile.pixels)
        where = f"x={tile.centre[0]:.0f}, y={tile.centre[1]:.0f}" if tile.centre else tile.name
        self._view.search_note.setText(f"Tile at {where}{f', {tile.label}' if tile.label else ''}.")
        self._view.edit_note.setText("")
        self._view.set_ready(has_tile=self._models is not None, has_point=False)
        self._switch_heatmaps()

    def _zoom(self) -> None:
        """Put the tile in the middle, a third of the canvas wide."""
        if self._tile is None or self._slide is None or self._tile.level0_box is None:
            return
        left, top, right, bottom = self._tile.level0_box
        camera = self._viewer.scene.camera
        camera.center = (0.0, *world_of(((left + right) / 2, (top + bottom) / 2), self._slide.info))
        camera.zoom = 250 / ((right - left) * um_per_px(self._slide.info)[1])

    # reverse search

    def _start_search(self) -> None:
        models, tile = self._require_models(), self._tile
        if models is None or tile is None:
            return
        classes = models.generator.checkpoint.classes
        label = tile.label if tile.label in classes else None
        self._view.set_searching(True)
        self._view.set_progress(0, _SEARCH_STEPS)

        def work(should_stop: Callable[[], bool]) -> ReverseSearch:
            from napari_histolatent.jobs import edits

            (found,) = edits.reverse_search(
                models.generator,
                [tile],
                label=label,
                steps=_SEARCH_STEPS,
                on_step=lambda step, drawn: self._preview.moved.emit(step, drawn[0]),
                should_stop=should_stop,
            )
            return found

        self._searcher.submit(work, self._show_search)

    def _cancel_search(self) -> None:
        self._searcher.cancel()
        self._view.set_searching(False)
        self._view.search_note.setText("The search was cancelled.")

    def _show_preview(self, step: int, pixels: NDArray[np.uint8]) -> None:
        if self._searcher.is_busy:
            self._view.set_progress(step, _SEARCH_STEPS)
            self._view.set_picture("pixels", "reconstruction", pixels)

    def _show_search(self, search: ReverseSearch) -> None:
        self._search = search
        self._view.set_searching(False)
        found = search.inversion
        self._view.search_note.setText(
            f"Found: RMSE {found.rmse:.3f} on pixels in [-1, 1], PSNR {found.psnr_db:.1f} dB, SSIM {found.ssim:.2f}."
        )
        self._view.set_picture("pixels", "reconstruction", search.reconstruction.pixels)
        self._view.set_ready(has_tile=True, has_point=True)
        self._list_targets()
        self._compute_route()

    def _list_targets(self) -> None:
        """Offer the other classes, and the patches of the tray."""
        if self._models is None or self._search is None:
            return
        classes = self._models.generator.checkpoint.classes
        own = classes[self._search.inversion.point.class_weights.index(1.0)]
        targets: list[tuple[str, object]] = [(f"class {name}", name) for name in classes if name != own]
        targets += [
            (f"tray patch {i + 1} ({tile.label or 'no class'})", i)
            for i, tile in enumerate(self._session.tray)
        ]
        before = self._view.target_box.currentData()
        values = [value for _, value in targets]
        self._view.set_targets(targets, values.index(before) if before in values else 0)

    # the route from the reconstruction to the flip or to another tile

    def _compute_route(self) -> None:
        models, search, tile = self._models, self._search, self._tile
        if models is None or search is None or tile is None:
            return
        chosen = self._view.target_box.currentData()
        if isinstance(chosen, int) and chosen >= len(self._session.tray):
            return
        towards = self._session.tray[chosen] if isinstance(chosen, int) else str(chosen)
        evidence_for = self._view.heatmap_class_box.currentData()
        self._view.edit_note.setText("Drawing…")

        def work(_: Callable[[], bool]) -> tuple[Route, Seen]:
            route = route_to(models, search.reconstruction, towards, frames=FRAMES, evidence_for=evidence_for)
            return route, seen_in(models, [tile], evidence_for)[0]

        def show(found: tuple[Route, Seen]) -> None:
            self._route, self._tile_seen = found
            self._show_frame(self._view.slider.value())

        self._router.submit(work, show)

    def _switch_heatmaps(self) -> None:
        """Recompute what the classifier sees, for another class or after switching on."""
        if self._search is not None:
            self._compute_route()
            return
        models, tile = self._models, self._tile
        if models is None or tile is None:
            return
        evidence_for = self._view.heatmap_class_box.currentData()

        def show(seen: Seen) -> None:
            self._tile_seen = seen
            self._show_heatmap("tile", seen.heatmap, shared_maximum([seen.heatmap]) if seen.heatmap else 0.0)

        self._router.submit(lambda _: seen_in(models, [tile], evidence_for)[0], show)

    def _show_frame(self, index: int) -> None:
        """Show one image of the route: everything was computed ahead, this only assigns."""
        if self._route is None or self._slide is None:
            return
        route = self._route
        frame, seen, first = route.frames[index], route.seen[index], route.frames[0]
        maps = [item.heatmap for item in (*route.seen, self._tile_seen) if item.heatmap is not None]
        maximum = shared_maximum(maps)
        self._show_tile("reconstruction", first)
        self._show_tile("edit", frame)
        for name, heatmap in (
            ("tile", self._tile_seen.heatmap),
            ("reconstruction", route.seen[0].heatmap),
            ("edit", seen.heatmap),
        ):
            self._show_heatmap(name, heatmap, maximum)
        words = [f"Frame {index} of {FRAMES - 1}"]
        for name, chances in (("tile", self._tile_seen.probabilities), ("edit", seen.probabilities)):
            if chances:
                words.append(f"{name}: " + ", ".join(f"{k} {v:.2f}" for k, v in chances.items()))
        self._view.edit_note.setText("; ".join(words))

    def _show_tile(self, name: str, tile: Tile) -> None:
        assert self._slide is not None
        self._view.set_picture("pixels", name, tile.pixels)
        self._show_layer(name, *tile_layer(tile, self._slide.info, name=name)[:2], visible=True)

    def _show_heatmap(self, name: str, heatmap: Heatmap | None, maximum: float) -> None:
        wanted = self._view.heatmap_check.isChecked() and heatmap is not None
        key = f"Grad-CAM {name}"
        if not wanted or heatmap is None or self._slide is None:
            self._view.set_picture("heatmap", name, None)
            layer = self._layers.pop(key, None)
            if layer is not None and layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
            return
        self._view.set_picture("heatmap", name, colored(heatmap, maximum=maximum))
        data, options, _ = heatmap_layer(
            heatmap, self._slide.info, name=f"{key}: {heatmap.target}", maximum=maximum
        )
        # All three lie at the same place: the edit's is shown, the others wait in the layer list.
        self._show_layer(key, data, options, visible=name == "edit" or self._search is None)

    def _show_layer(self, key: str, data: Any, options: dict[str, Any], *, visible: bool) -> None:
        layer = self._layers.get(key)
        if layer is not None and layer in self._viewer.layers:
            layer.data = data
            layer.metadata, layer.name = options["metadata"], options["name"]
            return
        active = self._viewer.layers.selection.active
        self._layers[key] = self._viewer.add_image(data, visible=visible, **options)
        if active is not None:
            # The user's own selection stays: picking goes on working on the slide that was chosen.
            self._viewer.layers.selection.active = active

    def _forget_layers(self) -> None:
        """Take the layers of the tile before away; what they showed belongs to another place."""
        for layer in self._layers.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._layers.clear()
