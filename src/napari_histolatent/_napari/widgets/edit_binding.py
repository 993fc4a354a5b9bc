from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal

from napari_histolatent._napari._editing import (
    ModelRun,
    Models,
    Route,
    Seen,
    load_models,
    paired_classifier,
    route_to,
    runs_with_models,
    seen_in,
)
from napari_histolatent._napari._layers import heatmap_layer, level0_of, tile_layer, um_per_px, world_of
from napari_histolatent._napari._picking import CanvasClicks
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.patches._facts import labelled_tile
from napari_histolatent._napari.widgets.edit_view import FRAMES, NO_CLASSIFIER
from napari_histolatent.explain import colored
from napari_histolatent.explain.heatmap import shared_maximum
from napari_histolatent.patches import LabelSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent._napari.widgets.edit_view import EditView
    from napari_histolatent.annotations import Annotations
    from napari_histolatent.explain import Heatmap
    from napari_histolatent.jobs.edits import ReverseSearch
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.slides import Slide
    from napari_histolatent.training.checkpoint import Checkpoint

NO_SLIDE = "There is no slide open; drop a slide on the window first."
_SEARCH_STEPS = 500


class _Preview(QObject):
    """Carries the search's progress from the thread to the view."""

    moved = Signal(object, int, object)
    """The tile that is searched, steps done, the image so far."""


class EditBinding:
    """Picks a tile, searches its latent point, and shows its edits as layers at its place on the slide.

    Frames and heatmaps of the slider's path are computed ahead in a worker; moving the slider only assigns.
    """

    def __init__(self, viewer: Any, view: EditView) -> None:
        self._viewer, self._view, self._session = viewer, view, session_of(viewer)
        self._models: Models | None = None
        self._runs: dict[str, ModelRun] = {}
        self._named: tuple[ModelRun | None, ModelRun | None] = (None, None)
        self._wants_no_classifier = False
        self._slide: Slide | None = None
        self._tile: Tile | None = None
        self._search: ReverseSearch | None = None
        self._tile_seen: Seen = Seen()
        self._route: Route | None = None
        self._searched: Tile | None = None
        """The tile of the search that runs; of one that was left, a last image may be on its way."""
        self._towards: str | Tile | None = None
        self._layers: dict[str, Any] = {}
        self._lister, self._picker = LatestWorker(), LatestWorker()
        self._loader = LatestWorker(on_error=self._show_no_models)
        self._searcher = LatestWorker(on_error=lambda _: view.set_searching(False))
        self._router = LatestWorker(on_error=lambda _: view.edit_note.setText(""))
        self._clicks = CanvasClicks(viewer, self._pick)
        self._preview = _Preview()
        self._preview.moved.connect(self._show_preview)
        view.generator_chosen.connect(self._choose_generator)
        view.classifier_chosen.connect(self._choose_classifier)
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
        view.closed.connect(self.close)
        view.destroyed.connect(self.close)
        self._list_models()

    def close(self, *_: object) -> None:
        """Let go of the viewer and of running work; layers stay."""
        self._clicks.switch(False)
        self._searched = None
        for worker in (self._lister, self._loader, self._picker, self._searcher, self._router):
            worker.cancel()
        self._session.runs_changed.disconnect(self._list_models, missing_ok=True)
        self._session.tray_changed.disconnect(self._list_targets, missing_ok=True)

    # models

    def _list_models(self) -> None:
        self._lister.submit(lambda _: runs_with_models(), self._offer_models)

    def _offer_models(self, found: tuple[list[ModelRun], list[ModelRun]]) -> None:
        generators, classifiers = found
        self._runs = {run.path: run for run in (*generators, *classifiers)}
        before = self._view.generator_box.currentData()
        current = before if before in self._runs else (generators[0].path if generators else None)
        self._view.set_models(
            self._view.generator_box, [(run.caption, run.path) for run in generators], current
        )
        self._offer_classifiers()
        self._load()

    def _offer_classifiers(self) -> None:
        """Name a classifier that fits the generator, unless the user wants none."""
        box = self._view.classifier_box
        generator = self._runs.get(self._view.generator_box.currentData())
        classifiers = [run for run in self._runs.values() if run.kind == "classifier"]
        before = self._runs.get(box.currentData())
        paired = None
        if generator is not None and not self._wants_no_classifier:
            paired = paired_classifier(generator.classes, classifiers, before)
        entries = [*((run.caption, run.path) for run in classifiers), (NO_CLASSIFIER, "")]
        self._view.set_models(box, entries, paired.path if paired else "")

    def _choose_generator(self, *_: object) -> None:
        self._named = (None, None)  # chosen by hand it is loaded again, even the same
        self._offer_classifiers()
        self._load()

    def _choose_classifier(self, path: str) -> None:
        self._wants_no_classifier = not path
        self._named = (None, None)
        self._load()

    def _load(self) -> None:
        """Load the networks that are named, if they are not the loaded ones, or have learnt on since."""
        generator, classifier = (
            self._runs.get(box.currentData() or "")
            for box in (self._view.generator_box, self._view.classifier_box)
        )
        if generator is None:
            self._forget_models()
            self._named = (None, None)
            self._view.models_note.setText("Train a generator first, in the Train dock.")
            return
        if (generator, classifier) == self._named:
            return
        self._forget_models()
        self._named = (generator, classifier)
        self._view.models_note.setText("Loading…")
        classifier_path = classifier.path if classifier else None
        self._loader.submit(lambda _: load_models(generator.path, classifier_path), self._show_models)

    def _forget_models(self) -> None:
        """Let no network answer while another is named."""
        for worker in (self._loader, self._searcher, self._router):
            worker.cancel()
        self._models = self._searched = None
        self._view.set_searching(False)
        self._view.set_ready(has_tile=False, has_point=False)

    def _show_models(self, models: Models) -> None:
        self._models = models
        checkpoint = models.generator.checkpoint
        mpp = f" at {checkpoint.mpp:g} µm per px" if checkpoint.mpp else ""
        without = "" if models.classifier else "; no classifier, so no Grad-CAM"
        self._view.models_note.setText(
            f"Draws {', '.join(checkpoint.classes)}, {checkpoint.size_px} px{mpp}, step {checkpoint.step}{without}."
        )
        self._view.set_heatmap_classes(checkpoint.classes)
        if self._tile is not None and self._slide is not None and self._tile.centre is not None:
            self._cut(models, self._slide, self._tile.centre)  # at this generator's size

    def _show_no_models(self, _: Exception) -> None:
        self._models = None
        self._view.models_note.setText("These could not be loaded; choose another generator or classifier.")

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
            show_error(NO_SLIDE)
            return
        self._cut(models, slide, level0_of(world, slide.info))

    def _take_from_tray(self) -> None:
        models, slide = self._require_models(), self._session.slide()
        if models is None:
            return
        if slide is None:
            show_error(NO_SLIDE)
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
        checkpoint, annotations = models.generator.checkpoint, self._session.annotations_of(slide)
        self._picker.submit(
            lambda _: _tile_for(checkpoint, slide, annotations, centre),
            lambda tile: self._set_tile(tile, slide),
        )

    def _set_tile(self, tile: Tile, slide: Slide) -> None:
        self._tile, self._slide, self._search, self._route = tile, slide, None, None
        self._tile_seen = Seen()
        self._searcher.cancel()
        self._router.cancel()
        self._view.set_searching(False)
        self._towards = self._searched = None
        self._forget_layers()
        for column in ("tile", "reconstruction", "edit"):
            self._view.set_picture("pixels", column, None)
            self._view.set_picture("heatmap", column, None)
        self._view.set_picture("pixels", "tile", tile.pixels)
        where = f"x={tile.centre[0]:.0f}, y={tile.centre[1]:.0f}" if tile.centre else tile.name
        label = f", {tile.label}" if tile.label else ""
        level = "" if slide.info.mpp_x else "; the slide does not state its pixel size: cut at level 0"
        self._view.search_note.setText(f"Tile at {where}{label}{level}.")
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
        self._searched, preview = tile, self._preview

        def work(should_stop: Callable[[], bool]) -> ReverseSearch:
            from napari_histolatent.jobs import edits

            (found,) = edits.reverse_search(
                models.generator,
                [tile],
                label=label,
                steps=_SEARCH_STEPS,
                on_step=lambda step, drawn: preview.moved.emit(tile, step, drawn[0]),
                should_stop=should_stop,
            )
            return found

        self._searcher.submit(work, self._show_search)

    def _cancel_search(self) -> None:
        self._searcher.cancel()
        self._searched = None
        self._view.set_searching(False)
        self._view.search_note.setText("The search was cancelled.")
        # What was found before, if anything, is shown again in place of the preview.
        self._view.set_picture(
            "pixels", "reconstruction", self._search.reconstruction.pixels if self._search else None
        )

    def _show_preview(self, tile: Tile, step: int, pixels: NDArray[np.uint8]) -> None:
        if tile is self._searched:
            self._view.set_progress(step, _SEARCH_STEPS)
            self._view.set_picture("pixels", "reconstruction", pixels)

    def _show_search(self, search: ReverseSearch) -> None:
        self._search, self._searched = search, None
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
        """Offer the other classes, and the patches of the tray; what the slider goes towards stays, while it is there."""
        if self._models is None or self._search is None:
            return
        classes = self._models.generator.checkpoint.classes
        own = classes[self._search.inversion.point.class_weights.index(1.0)]
        others, tray = [name for name in classes if name != own], self._session.tray
        entries: list[tuple[str, object]] = [(f"class {name}", name) for name in others]
        entries += [(f"tray patch {i + 1} ({tile.label or 'no class'})", i) for i, tile in enumerate(tray)]
        targets: list[str | Tile] = [*others, *tray]
        at = next((i for i, target in enumerate(targets) if _is_same(target, self._towards)), 0)
        self._view.set_targets(entries, at)
        if self._towards is not None and not _is_same(targets[at], self._towards):
            self._compute_route()

    # the route from the reconstruction to the flip or to another tile

    def _compute_route(self) -> None:
        models, search, tile, slide = self._models, self._search, self._tile, self._slide
        if models is None or search is None or tile is None or slide is None:
            return
        chosen = self._view.target_box.currentData()
        towards = self._session.tray[chosen] if isinstance(chosen, int) else str(chosen)
        evidence_for = self._view.heatmap_class_box.currentData()
        checkpoint, annotations = models.generator.checkpoint, self._session.annotations_of(slide)
        if not isinstance(towards, str) and (
            towards.centre is None or towards.slide_digest != slide.info.digest
        ):
            # It has to be cut again at the generator's size and resolution, and its slide may be closed.
            show_error(
                "That patch is not of the tile's slide; choose one that is, or pick a tile there first."
            )
            self._list_targets()  # back to what is shown
            return
        self._towards = towards
        self._view.edit_note.setText("Drawing…")

        def work(_: Callable[[], bool]) -> tuple[Route, Seen]:
            end = towards
            if not isinstance(end, str):
                assert end.centre is not None
                cut = _tile_for(checkpoint, slide, annotations, end.centre)
                end = replace(cut, label=end.label)
            route = route_to(models, search.reconstruction, end, frames=FRAMES, evidence_for=evidence_for)
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


def _is_same(a: str | Tile, b: str | Tile | None) -> bool:
    # Not by ==, which would compare the tiles' pixels.
    return a is b or (isinstance(a, str) and isinstance(b, str) and a == b)


def _tile_for(
    checkpoint: Checkpoint, slide: Slide, annotations: Annotations | None, centre: tuple[float, float]
) -> Tile:
    """Cut a tile at a model's size and resolution, or at level 0 where the model or the slide knows none."""
    mpp = checkpoint.mpp if slide.info.mpp_x else None
    labels = LabelSpec(rule="majority")
    return labelled_tile(slide, annotations, centre, size_px=checkpoint.size_px, mpp=mpp, labels=labels)
