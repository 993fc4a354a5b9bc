from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_histolatent._napari._editing import Seen, seen_in
from napari_histolatent._napari._session import session_of, slide_layers_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._edits import (
    Edit,
    EditState,
    edit_of,
    effect_words,
    flip_words,
    is_same_target,
    library_tile,
    looked_at,
    targets_of,
    tray_tile,
    why_no_flip,
    with_tile_kept,
)
from napari_histolatent._napari.editing._history import History
from napari_histolatent._napari.editing._path import Frame, PathRequest
from napari_histolatent._napari.editing._scene import COLUMNS, Scene
from napari_histolatent._napari.editing._searching import judged_anew
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent._napari.widgets.arithmetic_binding import ArithmeticBinding
from napari_histolatent._napari.widgets.directions_binding import DirectionsBinding
from napari_histolatent._napari.widgets.edit_agreement import EditAgreement
from napari_histolatent._napari.widgets.edit_calibrating import EditCalibrating
from napari_histolatent._napari.widgets.edit_models import EditModels
from napari_histolatent._napari.widgets.edit_picking import EditPicking
from napari_histolatent._napari.widgets.edit_search_class import EditSearchClass
from napari_histolatent._napari.widgets.edit_searching import EditSearching
from napari_histolatent._napari.widgets.library_binding import LibraryBinding
from napari_histolatent._napari.widgets.path_binding import PathBinding
from napari_histolatent._napari.widgets.region_heatmap_binding import RegionHeatmapBinding
from napari_histolatent._napari.widgets.verdict_badge import DRAWN
from napari_histolatent.explain import colored
from napari_histolatent.jobs.tiles import Tile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent._napari._editing import Models
    from napari_histolatent._napari.editing._edits import Towards
    from napari_histolatent._napari.editing._searching import Found
    from napari_histolatent._napari.widgets.edit_view import EditView
    from napari_histolatent.latent.library import LibraryEntry
    from napari_histolatent.latent.verdict import Calibration
    from napari_histolatent.slides import Slide
    from napari_histolatent.training.load import LoadedGenerator

_SETTLED_MS = 250
"""A point that a slider steers is taken up once it has stood still for so long."""
_ZOOMED_PX = 250.0
_BESIDE_SHARE = 0.8
"""Of that, side by side."""
_MOST_OF_CANVAS = 0.92
_MOST_OF_LIBRARY = 50
_SLIDE_CLOSED = "Its slide is not open: it is shown off the tissue, not in its place."
_THROUGH_OWN = "The slider goes through the images of your own list now. What the edit changes is said when that list is cleared."


class EditBinding:
    """Picks a tile, searches its latent point, and shows its edits as layers at its place on the slide.

    Frames and heatmaps of the slider's path are computed ahead in a worker; moving the slider only assigns.
    """

    def __init__(self, viewer: Any, view: EditView) -> None:
        self._viewer, self._view, self._session = viewer, view, session_of(viewer)
        self._state = EditState()
        self._history: History[EditState] = History(self._state, "nothing picked")
        self._edit: Edit | None = None
        self._seen: dict[str, Seen] = {}
        """What the classifier sees in each picture that is shown."""
        self._targets: list[tuple[str, Towards]] = []
        self._entries: tuple[LibraryEntry, ...] = ()
        self._steered: tuple[Tile, str] | None = None
        self._is_off_slide = False
        """Whether the tile was put off the tissue, for its slide is not open."""
        self._scene = Scene(viewer)
        self._router = LatestWorker(on_error=self._no_edit, in_words=in_dock)
        self._looker = LatestWorker(in_words=in_dock)
        self._librarian = LatestWorker(in_words=in_dock)
        self._loading = EditModels(view, on_change=self._models_changed)
        self._picking = EditPicking(
            viewer,
            view,
            self._session,
            models=self._loading.required,
            on_tile=self._take_tile,
            on_sample=self._take_drawn,
        )
        self._searching = EditSearching(view, on_found=self._take_found, on_left=self._show_base)
        self._search_class = EditSearchClass(view)
        self._path = PathBinding(
            view.path_panel,
            current_path=self._current_path,
            show=self._show_frame,
            on_keys=self._show_edit_words,
        )
        urgent = (self._searching.worker, self._looker, self._router, self._path.player)
        self._agreement = EditAgreement(
            view.agreement, is_urgent=lambda: any(work.is_busy for work in urgent)
        )
        self._calibrating = EditCalibrating(
            view.calibration, dataset=self._dataset, on_calibrated=self._take_calibration
        )
        self._judger = LatestWorker(in_words=in_dock)
        self._library = LibraryBinding(
            view.library_panel,
            generator=self._generator,
            current=lambda: self._state.base,
            show=lambda tile: self._take_shown(tile, "library"),
            dataset=self._dataset,
            tray=lambda: self._session.tray,
        )
        self._arithmetic = ArithmeticBinding(
            view.arithmetic_panel,
            generator=self._generator,
            show=lambda tile: self._take_shown(tile, "arithmetic"),
            library=self._library,
        )
        self._directions = DirectionsBinding(
            view.directions_panel,
            generator=self._generator,
            current=lambda: self._state.base,
            show=lambda tile: self._take_shown(tile, "direction"),
            library=self._library,
        )
        self._region = RegionHeatmapBinding(
            viewer,
            view.region_panel,
            models=lambda: self.models,
            evidence=self._evidence,
            look=view.look,
        )
        self._settle = QTimer()
        self._settle.setSingleShot(True)
        self._settle.setInterval(_SETTLED_MS)
        self._settle.timeout.connect(self._settle_steered)
        self._connect()
        self._loading.list_again()
        self._list_library()

    def _connect(self) -> None:
        view, session = self._view, self._session
        view.zoom_requested.connect(self._zoom)
        view.normalising_switched.connect(self._cut_again)
        view.search_requested.connect(self._start_search)
        view.target_chosen.connect(self._choose_target)
        view.residual_switched.connect(self._switch_residual)
        view.flip_requested.connect(lambda: self._path.go_to(1.0))
        view.look_changed.connect(self._look)
        view.heatmaps_switched.connect(self._look_anew)
        view.look_changed.connect(self._region.look_changed)
        view.heatmaps_switched.connect(self._region.inputs_changed)
        view.history_bar.undo_requested.connect(self._undo)
        view.history_bar.redo_requested.connect(self._redo)
        view.history_bar.branch_requested.connect(lambda step: self._go_to(self._history.go(step)))
        session.runs_changed.connect(self._loading.list_again)
        session.runs_changed.connect(self._calibrating.runs_changed)
        session.tray_changed.connect(self._tray_changed)
        session.dataset_changed.connect(self._dataset_changed)
        session.dataset_changed.connect(self._library.dataset_changed)
        self._library.changed.connect(self._list_library)
        view.closed.connect(self.close)
        view.closed.connect(self._scene.close)  # not where the window goes: its canvas may have gone before
        view.destroyed.connect(self.close)

    def close(self, *_: object) -> None:
        """Let go of the viewer and of running work; what is to be seen stays."""
        with suppress(RuntimeError):  # the application may have gone before
            self._settle.stop()
        for part in (
            self._picking,
            self._loading,
            self._searching,
            self._agreement,
            self._calibrating,
            self._path,
            self._library,
            self._arithmetic,
            self._directions,
            self._region,
        ):
            part.close()
        for worker in (self._router, self._looker, self._librarian, self._judger):
            worker.cancel()
        self._session.dataset_changed.disconnect(self._dataset_changed, missing_ok=True)
        self._session.runs_changed.disconnect(self._loading.list_again, missing_ok=True)
        self._session.runs_changed.disconnect(self._calibrating.runs_changed, missing_ok=True)
        self._session.tray_changed.disconnect(self._tray_changed, missing_ok=True)
        self._session.dataset_changed.disconnect(self._library.dataset_changed, missing_ok=True)
        self._library.changed.disconnect(self._list_library, missing_ok=True)

    @property
    def is_busy(self) -> bool:
        """Whether anything is being loaded, cut, searched or drawn."""
        workers = (
            self._loading.lister,
            self._loading.loader,
            self._picking.worker,
            self._searching.worker,
            self._router,
            self._looker,
            self._librarian,
            self._judger,
        )
        return self._settle.isActive() or any(worker.is_busy for worker in workers)

    @property
    def is_ready(self) -> bool:
        """Whether there is an edit, with every frame of its slider."""
        return self._edit is not None and not self.is_busy and self._path.player.is_complete

    # networks

    @property
    def models(self) -> Models | None:
        """The networks that are loaded."""
        return self._loading.models

    def _generator(self) -> LoadedGenerator | None:
        return self.models.generator if self.models else None

    def _dataset(self) -> Path | None:
        return self._session.dataset

    def _models_changed(self) -> None:
        """Start anew with other networks: a point of one means nothing to another."""
        self._settle.stop()
        self._steered = None
        self._searching.stop()
        self._router.cancel()
        self._looker.cancel()
        self._calibrating.show(self.models)
        models, before = self.models, self._state
        base = before.base
        is_known = (
            models is not None
            and base is not None
            and base.point is not None
            and base.point.checkpoint_digest == models.generator.checkpoint.digest
        )
        if models is None:
            self._edit = None
            self._view.set_ready(has_tile=False, has_point=False)
            self._path.path_changed()
        elif is_known:
            self._show_state()  # another classifier looks at the same edit
        else:
            self._state = EditState(before.tile, before.slide)
            self._history = History(EditState(), "nothing picked")
            self._view.history_bar.show_history(self._history)
            tile = before.tile
            if tile is not None and before.slide is not None and tile.centre is not None:
                self._picking.cut(models, before.slide, tile.centre)  # at this generator's size
            else:
                self._scene.forget()
                self._state = EditState()
                self._show_state()
        for binding in (self._library, self._arithmetic, self._directions, self._region):
            binding.generator_changed()

    # how far to believe a search

    def _dataset_changed(self, *_: object) -> None:
        self._calibrating.dataset_changed()

    def _take_calibration(self, calibration: Calibration) -> None:
        """Judge what was found by a calibration that was made meanwhile."""
        if self.models is not None:
            self._loading.models = replace(self.models, calibration=calibration)
            self._judge_anew()

    def _judge_anew(self) -> None:
        """Judge a search that was made before there was a calibration."""
        models, found, tile = self.models, self._state.found, self._state.tile
        self._judger.cancel()
        if models is None or models.calibration is None or tile is None:
            return
        if found is None or found.judged.verdict is not None:
            return

        def show(again: Found) -> None:
            if self._state.found is found:
                self._state = replace(self._state, found=again)
                self._history.amend(self._state)
                self._view.badge.show_verdict(again.judged.verdict, again.judged.reasons)

        self._judger.submit(lambda _: judged_anew(models, tile, found), show)

    # what is worked on

    def _do(self, state: EditState, label: str, *, by: str = "") -> None:
        """Go to a state, as a step of the history."""
        self._history.do(state, label)
        self._go_to(state, by=by)

    def _undo(self) -> None:
        state = self._history.undo()
        if state is not None:
            self._go_to(state)

    def _redo(self) -> None:
        state = self._history.redo()
        if state is not None:
            self._go_to(state)

    def _go_to(self, state: EditState, *, by: str = "") -> None:
        before, self._state = self._state, state
        self._settle.stop()
        self._steered = None
        self._searching.stop()
        place = state.place
        has_slide_changed = place is not None and self._is_slide_closed(place) != self._is_off_slide
        if has_slide_changed or not _is_in_one_place(before, state):
            self._place()
        self._view.residual_check.blockSignals(True)
        self._view.residual_check.setChecked(state.keeps_residual)
        self._view.residual_check.blockSignals(False)
        self._view.history_bar.show_history(self._history)
        self._show_state()
        self._tell_tile_changed(but=by)

    def _place(self) -> None:
        tile, slide = self._state.place, self._state.slide
        if tile is None:
            self._scene.forget()
            return
        self._is_off_slide = self._is_slide_closed(tile)
        draws_tile = self._state.tile is not None and (self._state.is_recoloured or self._is_off_slide)
        if not any(layer.data[0].slide == slide for layer in slide_layers_of(self._viewer)):
            slide = self._picking.slide_of(tile) or self._session.slide()
        self._scene.set_look(self._view.look())
        self._scene.place(tile, slide, draws_tile=draws_tile)
        self._zoom_if_outside()

    def _is_slide_closed(self, tile: Tile) -> bool:
        """Return whether a tile has a place on a slide that is not open."""
        is_placed = tile.level0_box is not None and tile.slide_digest is not None
        return is_placed and self._picking.slide_of(tile) is None

    def _tell_tile_changed(self, *, but: str = "") -> None:
        for name, binding in (
            ("library", self._library),
            ("arithmetic", self._arithmetic),
            ("direction", self._directions),
        ):
            if name != but:
                binding.tile_changed()

    def _take_tile(self, tile: Tile, slide: Slide, is_changed: bool) -> None:
        where = f"x={tile.centre[0]:.0f}, y={tile.centre[1]:.0f}" if tile.centre else tile.name
        self._do(EditState(tile=tile, slide=slide, is_recoloured=is_changed), f"picked {where}")

    def _take_drawn(self, tile: Tile, said: str) -> None:
        self._do(EditState(base=tile, slide=self._session.slide()), said)

    def _take_found(self, found: Found) -> None:
        state = replace(self._state, found=found, base=found.search.reconstruction)
        self._do(state, f"searched by {found.search.inversion.method}")

    def _take_shown(self, tile: Tile, by: str) -> None:
        """Take a tile with a point as the one that is edited; while a slider steers it, only its picture is shown."""
        self._steered = (tile, by)
        self._settle.start()
        if self._is_of_place(tile):
            kept = with_tile_kept(self._state, tile)
            for column, shown in (("reconstruction", tile), ("edit", kept)):
                self._scene.show(column, shown)
                self._view.set_picture("pixels", column, shown.pixels)

    def _is_of_place(self, tile: Tile) -> bool:
        place = self._state.place
        return place is not None and _place_of(tile) == _place_of(place)

    def _settle_steered(self) -> None:
        if self._steered is None or self.models is None:
            return
        tile, by = self._steered
        if self._is_of_place(tile) and self._state.tile is not None:
            state = replace(self._state, base=tile)
        else:
            state = EditState(base=tile, slide=self._picking.slide_of(tile) or self._session.slide())
        self._do(state, f"{by}: {tile.name}", by=by)

    def _cut_again(self, *_: object) -> None:
        """Cut the tile again, with its colours as they are or as the generator draws them."""
        models, state = self.models, self._state
        if models is not None and state.tile is not None and state.slide is not None and state.tile.centre:
            self._picking.cut(models, state.slide, state.tile.centre)

    def _start_search(self) -> None:
        models, tile = self._loading.required(), self._state.tile
        if models is not None and tile is not None:
            self._searching.start(models, tile)

    # what is shown of it

    def _show_state(self) -> None:
        """Show a state, and compute what is seen in it and the edit it asks for."""
        state, view, models = self._state, self._view, self.models
        self._edit = None
        self._router.cancel()
        self._looker.cancel()
        self._show_state_pictures()
        view.tile_note.setText(self._tile_words())
        self._show_search_class()
        view.search_note.setText(state.found.words if state.found else "")
        if state.found is not None:
            view.badge.show_verdict(state.found.judged.verdict, state.found.judged.reasons)
            self._judge_anew()
        elif state.base is not None:
            view.badge.show_verdict(DRAWN)
        else:
            view.badge.clear()
        view.edit_note.setText("")
        self._list_targets()
        if models is None:
            return
        if self._state.towards is None:
            self._path.path_changed()
            self._see()
        else:
            self._compute()

    def _show_state_pictures(self) -> None:
        state, view, scene = self._state, self._view, self._scene
        view.strip.set_captions(is_drawn=state.tile is None and state.base is not None)
        shown = {"tile": state.tile, "reconstruction": state.base, "edit": state.base}
        self._seen.clear()
        self._agreement.clear()
        for column, tile in shown.items():
            scene.show(column, tile)
            view.set_picture("pixels", column, tile.pixels if tile is not None else None)
            view.set_picture("heatmap", column, None)
            view.bars.set_probabilities(column, None)

    def _show_base(self) -> None:
        """Show the start of the edit again, in place of the preview of a search."""
        base = self._state.base
        self._view.set_picture("pixels", "reconstruction", base.pixels if base is not None else None)

    def _tile_words(self) -> str:
        state = self._state
        if state.tile is None:
            if state.base is None:
                return "Pick a tile on the slide to begin."
            lies = ""
            if not state.base.level0_box:
                lies = " It has no place on the slide: it lies to the left of it."
            elif self._is_slide_closed(state.base):
                lies = f" {_SLIDE_CLOSED}"
            return f"SYNTHETIC: {state.base.name}.{lies}"
        tile, slide = state.tile, state.slide
        where = f"x={tile.centre[0]:.0f}, y={tile.centre[1]:.0f}" if tile.centre else tile.name
        label = f", {tile.label}" if tile.label else ""
        has_mpp = slide is None or slide.info.mpp_x is not None
        level = "" if has_mpp else "; the slide does not state its pixel size: cut at level 0"
        closed = [_SLIDE_CLOSED] if self._is_slide_closed(tile) else []
        return "\n".join([f"Tile at {where}{label}{level}.", *closed, *tile.remarks])

    def _show_seen(self, column: str, tile: Tile | None, seen: Seen) -> None:
        """Show a picture of the scene, in the strip and on the canvas, with what the classifier sees in it."""
        if tile is None:
            return
        before = self._scene.maximum
        self._scene.show(column, tile, seen)
        self._view.set_picture("pixels", column, tile.pixels)
        self._view.bars.set_probabilities(column, seen.probabilities)
        self._seen[column] = seen
        if column == "tile":
            self._show_search_class()
        # A brighter heatmap than all before changes the scale of all.
        for name in COLUMNS if self._scene.maximum != before else (column,):
            self._show_small_heatmap(name)

    def _show_search_class(self) -> None:
        """Say in which class the tile will be searched."""
        models = self.models
        self._search_class.show(
            self._state.tile,
            classes=models.generator.checkpoint.classes if models is not None else (),
            chances=self._seen["tile"].probabilities if "tile" in self._seen else None,
            judge=self._loading.judge,
        )

    def _show_small_heatmap(self, column: str) -> None:
        heatmap = self._seen[column].heatmap if column in self._seen else None
        look = self._scene.look
        if heatmap is None or not look.shows_heatmaps:
            self._view.set_picture("heatmap", column, None)
            return
        picture = colored(heatmap, maximum=self._scene.maximum, colormap=look.colormap)
        self._view.set_picture("heatmap", column, picture)

    def _look(self) -> None:
        """Show everything the other way that the controls say."""
        compared = self._scene.look.shows_difference
        self._scene.set_look(self._view.look())
        for column in COLUMNS:
            self._show_small_heatmap(column)
        self._show_look_words()
        if self._scene.look.shows_difference != compared and self._evidence()[0] is None:
            self._look_anew()  # heatmaps are compared for one class only

    def _show_look_words(self) -> None:
        """Say why something that was asked for is not shown, or what of it is of one class."""
        said, edit = in_dock(self._scene.remark), self._edit
        if self._scene.look.shows_difference and not said:
            if self.models is not None and self.models.classifier is None:
                said = "There is no heatmap difference without a classifier: choose one under Models."
            elif edit is not None and edit.evidence_for and self._evidence()[0] is None:
                said = (
                    f"So that they can be compared, all heatmaps are now for {edit.evidence_for}, the class that the "
                    "tile is seen as."
                )
        self._view.look_note.setText(said)
        self._view.look_note.setVisible(bool(said))

    def _look_anew(self) -> None:
        """Compute what the classifier sees again, for another class or in another layer."""
        if self.models is None or self._state.place is None:
            return
        self._agreement.clear()
        if self._state.towards is None:
            self._see()
        else:
            self._compute(again=self._edit)

    def _see(self) -> None:
        """Show what the classifier sees in a tile that is not edited yet."""
        models, state = self.models, self._state
        shown = [
            (column, tile)
            for column, tile in (("tile", state.tile), ("reconstruction", state.base))
            if tile is not None
        ]
        if models is None or not shown:
            return
        evidence_for, layer = self._evidence()

        def show(found: tuple[Seen, ...]) -> None:
            self._scene.set_scale([seen.heatmap for seen in found])
            for (column, tile), seen in zip(shown, found, strict=True):
                self._show_seen(column, tile, seen)
            self._agreement.show(
                models, {column: seen for (column, _), seen in zip(shown, found, strict=True)}
            )

        self._looker.submit(
            lambda _: seen_in(models, [tile for _, tile in shown], evidence_for, layer=layer), show
        )

    def _evidence(self) -> tuple[str | None, str | None]:
        return self._view.heatmap_class_box.currentData(), self._view.layer_box.currentData()

    # what the edit goes towards

    def _tray_changed(self) -> None:
        self._library.tray_changed()
        self._targets_changed()

    def _list_library(self) -> None:
        library = self._library.library

        def show(entries: tuple[LibraryEntry, ...]) -> None:
            self._entries = entries
            self._targets_changed()

        self._librarian.submit(lambda _: library.entries(), show)

    def _targets_changed(self) -> None:
        """Offer what there is now; where what was chosen is gone, go towards something else."""
        if self._state.base is None or self.models is None:
            return
        before = self._state.towards
        self._list_targets()
        if self._state.towards is not before:
            self._compute()

    def _list_targets(self) -> None:
        """Offer the other classes, the tray and the library; what was chosen stays, while it is there."""
        models, state = self.models, self._state
        entries = self._offered(models, state) if models is not None and state.base is not None else []
        self._view.set_ready(
            has_tile=models is not None and state.tile is not None,
            has_point=models is not None and state.base is not None,
            has_target=bool(entries) and models is not None and len(models.generator.checkpoint.classes) > 1,
            is_searched=state.found is not None,
        )
        self._targets = entries
        values = [value for _, value in entries]
        at = next((i for i, value in enumerate(values) if is_same_target(value, state.towards)), 0)
        why = why_no_flip(models.generator.checkpoint.classes) if models is not None and state.base else ""
        self._view.set_targets([(caption, i) for i, (caption, _) in enumerate(entries)], at, why)
        target = values[at] if values else None
        if not is_same_target(target, state.towards):
            # The first there is, or the first of what is left: no step of its own.
            self._state = replace(state, towards=target)
            self._history.amend(self._state)

    def _offered(self, models: Models, state: EditState) -> list[tuple[str, Towards]]:
        digest = models.generator.checkpoint.digest
        classes: list[tuple[str, Towards]] = [(f"class {name}", name) for name in targets_of(models, state)]
        tray: list[tuple[str, Towards]] = [
            (f"tray patch {i + 1} ({tile.label or 'no class'})", tile)
            for i, tile in enumerate(self._session.tray)
        ]
        mine = [item for item in self._entries if item.point.checkpoint_digest == digest]
        kept: list[tuple[str, Towards]] = [(f"library: {item.name}", item) for item in mine]
        return classes + tray + kept[:_MOST_OF_LIBRARY]

    def _choose_target(self) -> None:
        index = self._view.target_box.currentData()
        if not isinstance(index, int) or not 0 <= index < len(self._targets):
            return
        caption, target = self._targets[index]
        if is_same_target(target, self._state.towards):
            self._compute()  # again: it may have failed before
            return
        self._step(replace(self._state, towards=target), f"towards {caption}")
        self._compute()

    def _switch_residual(self, on: bool) -> None:
        said = "keep what the generator cannot draw" if on else "the generator's image alone"
        self._step(replace(self._state, keeps_residual=on), said)
        self._path.path_changed()
        self._compute(again=self._edit)  # what is seen at its end is another

    def _step(self, state: EditState, label: str) -> None:
        """Do something that leaves the tile and where its edit starts as they are."""
        self._history.do(state, label)
        self._state = state
        self._view.history_bar.show_history(self._history)

    def _compute(self, *, again: Edit | None = None) -> None:
        """Make the edit ready that the state asks for; or only look at one again, whose pictures stay."""
        models, state = self.models, self._state
        if again is None:
            self._edit = None
            self._path.path_changed()
        if models is None or state.base is None or state.towards is None:
            return
        if again is None:
            self._view.edit_note.setText("Drawing…")
        self._looker.cancel()
        evidence_for, layer = self._evidence()
        compares = self._view.difference_check.isChecked()
        end = self._end_of(models, state.towards)

        def work(_: object) -> Edit:
            if again is not None:
                return looked_at(
                    models, state, again, evidence_for=evidence_for, layer=layer, compares=compares
                )
            return edit_of(models, state, end(), evidence_for=evidence_for, layer=layer, compares=compares)

        self._router.submit(work, self._show_edit)

    def _end_of(self, models: Models, towards: Towards) -> Callable[[], str | Tile]:
        """Return what makes ready, in a thread, the class or tile that an edit goes towards."""
        if isinstance(towards, str):
            return lambda: towards
        if not isinstance(towards, Tile):
            library = self._library.library
            return lambda: library_tile(models, library, towards)
        slide = self._picking.slide_of(towards)
        annotations = self._session.annotations_of(slide) if slide is not None else None
        return lambda: tray_tile(models, slide, annotations, towards)

    def _show_edit(self, edit: Edit) -> None:
        self._edit = edit
        self._scene.set_scale([seen.heatmap for seen in (edit.tile_seen, edit.start_seen, edit.end_seen)])
        self._show_seen("tile", self._state.tile, edit.tile_seen)
        self._show_seen("reconstruction", edit.start, edit.start_seen)
        if self._path.frame is None:
            self._show_seen("edit", edit.start, edit.start_seen)  # until the first frame is there
        self._path.path_changed()
        self._show_edit_words()
        self._show_look_words()

    def _show_edit_words(self) -> None:
        """Say what the edit changes and how far its heatmaps agree; of its end only while the slider goes there."""
        models, edit = self.models, self._edit
        if models is None or edit is None:
            return
        start = "reconstruction" if self._state.tile is not None else "start"
        seen = {"tile": edit.tile_seen, start: edit.start_seen}
        if self._path.has_own_keys:
            self._view.edit_note.setText(_THROUGH_OWN)
        else:
            seen["the slider's right end"] = edit.end_seen
            said = (flip_words(self._state, edit), effect_words(edit.effect))
            self._view.edit_note.setText("\n".join(filter(None, said)))
        self._agreement.show(models, seen)

    def _no_edit(self, error: Exception) -> None:
        self._edit = None
        self._view.edit_note.setText(f"Nothing could be drawn: {in_dock(str(error))}")
        self._path.path_changed()
        self._see()

    # the path of the slider

    def _current_path(self) -> PathRequest | None:
        models, edit, state = self.models, self._edit, self._state
        if models is None or edit is None:
            return None
        is_kept = state.keeps_residual and state.found is not None
        return PathRequest(
            generator=models.generator,
            keys=(edit.start, edit.end),
            classifier=models.classifier,
            evidence_for=edit.evidence_for,
            layer=self._evidence()[1],
            residual_on=state.tile if is_kept else None,
            residual_from=state.found.search.reconstruction if is_kept and state.found else None,
        )

    def _show_frame(self, frame: Frame) -> None:
        """Show one image of the path: everything was computed ahead, this only assigns."""
        if self._edit is not None and self._steered is None:
            self._show_seen("edit", frame.tile, frame.seen)
            if self._scene.look.shows_difference:
                self._show_look_words()

    def _zoom(self) -> None:
        """Put the tile in the middle, about a third of the canvas wide; side by side, with all that is beside it."""
        ground = self._scene.ground
        if ground is None:
            return
        (y, x), (height, width) = ground.middle, ground.size
        camera, (high, wide) = self._viewer.scene.camera, self._viewer.canvas.size
        n_tiles = self._scene.look.n_tiles_wide
        share = _BESIDE_SHARE if n_tiles > 1 else 1.0
        # Docks on both sides leave a narrow canvas: all of it is to be seen.
        fitting = _MOST_OF_CANVAS * min(wide / (n_tiles * width), high / height)
        camera.center = (0.0, y, x + (n_tiles - 1) / 2 * width)
        camera.zoom = min(_ZOOMED_PX * share / width, fitting)

    def _zoom_if_outside(self) -> None:
        """Go to a tile that lies outside what the canvas shows: one that has no place on the slide, and back again."""
        ground = self._scene.ground
        if ground is None:
            return
        camera, canvas_px = self._viewer.scene.camera, self._viewer.canvas.size
        for middle, centre, size_px in zip(ground.middle, camera.center[-2:], canvas_px, strict=True):
            if abs(middle - centre) * camera.zoom > size_px / 2:
                self._zoom()
                return


def _place_of(tile: Tile) -> tuple[object, ...]:
    return tile.level0_box, tile.slide_digest, tile.pixels.shape


def _is_in_one_place(a: EditState, b: EditState) -> bool:
    """Return whether two states are of the same place: their layers stay, and get other data."""
    if a.place is None or b.place is None:
        return a.place is b.place
    same_slide = a.slide is b.slide and a.is_recoloured == b.is_recoloured
    return same_slide and _place_of(a.place) == _place_of(b.place)
