"""The list of patches in the Patches dock: those marked by hand, or all of the grid, with their pixels on demand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_histolatent._napari._layers import um_per_px, world_of
from napari_histolatent._napari._workers import LatestWorker, run_safely
from napari_histolatent._napari.patches import PatchOutline
from napari_histolatent._napari.patches._facts import (
    Facts,
    PatchId,
    cut_patch,
    facts_of,
    grid_table,
    mark_card,
    resolution_of,
)
from napari_histolatent._napari.patches._hand_marks import MarkKey, fits
from napari_histolatent._napari.widgets.patches_plans import missing_target
from napari_histolatent._napari.widgets.patches_view import EMPTY
from napari_histolatent.errors import UserError
from napari_histolatent.jobs.tiles import Tile
from napari_histolatent.patches import CancelledError
from napari_histolatent.patches._stain import fit_of_slide, normalise, target_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from napari_histolatent._napari.patches._facts import CutPatch
    from napari_histolatent._napari.patches._hand_marks import Decision
    from napari_histolatent._napari.widgets.patch_model import Card, CardTable
    from napari_histolatent._napari.widgets.patches_hand import HandPart
    from napari_histolatent._napari.widgets.patches_state import PatchesState
    from napari_histolatent.patches import Resolution
    from napari_histolatent.patches._stain import StainFit
    from napari_histolatent.slides import Slide

_CARDS_MS, _FACTS_MS = 400, 60
_PATCH_SHARE = 1 / 3
"""A patch that is jumped to fills this part of the canvas."""
_SELECTED, _NO_CLASS = (255, 220, 0), (128, 128, 128)


class _Arrivals(QObject):
    """Carries what was read in the thread to the gallery."""

    read = Signal(object, object, object)
    """Patch, pixels to show, CutPatch."""


class TrayPart:
    """Fills the gallery, and does what the user does with its cards."""

    def __init__(self, state: PatchesState) -> None:
        self._state, self._view, self._gallery = state, state.view, state.view.gallery
        self._facts: dict[PatchId, Facts] = {}
        self._tiles: dict[PatchId, Tile] = {}
        self._fits: dict[tuple[str, str, str], tuple[StainFit, StainFit]] = {}
        self._shows_all = False
        self._selected: list[PatchId] = []
        self._colors: dict[str, tuple[int, int, int]] = {}
        self._hand: HandPart | None = None
        self._outline: PatchOutline | None = None
        self._reader, self._carder = LatestWorker(), LatestWorker()
        self._describer = LatestWorker()
        self._arrivals = _Arrivals()
        self._arrivals.read.connect(self._on_read)
        self._cards_soon, self._facts_soon = (
            _timer(_CARDS_MS, self._make_all),
            _timer(_FACTS_MS, self._describe),
        )
        self._colors_soon = _timer(_CARDS_MS, self._show_cards_anew)
        gallery = self._gallery
        gallery.pixels_wanted.connect(self._read)
        gallery.opened.connect(self._jump)
        gallery.selection_changed.connect(self._outline_selected)
        gallery.removed.connect(self._remove)
        gallery.class_chosen.connect(self._give_class)
        gallery.toggled.connect(self._toggle)
        self._view.all_switched.connect(self._switch)
        self._view.normalised_switched.connect(self._show_cards_anew)
        self._stain = self._stain_chosen()
        self._view.recipe_changed.connect(self._on_recipe)
        state.slide_changed.connect(self._on_slide)
        state.planned_changed.connect(self._on_planned)
        state.settled_changed.connect(self._on_settled)
        state.marks_changed.connect(self._on_marks)

    def use(self, hand: HandPart) -> None:
        """Have classes and in/out of cards decided by the part that decides them on the slide."""
        self._hand = hand

    @property
    def is_busy(self) -> bool:
        """Whether cards or pixels are on their way."""
        timers = (self._cards_soon, self._facts_soon, self._colors_soon)
        workers = (self._reader, self._carder, self._describer)
        return any(t.isActive() for t in timers) or any(w.is_busy for w in workers)

    def close(self) -> None:
        """Stop, and take the outline off the slide."""
        for timer in (self._cards_soon, self._facts_soon, self._colors_soon):
            timer.stop()
        for worker in (self._reader, self._carder, self._describer):
            worker.cancel()
        if self._outline is not None:
            self._outline.close()
            self._outline = None

    # Cards of marks

    def put_cut(
        self, slide: Slide, key: MarkKey, cut: CutPatch, facts: Facts, resolution: Resolution
    ) -> None:
        """Take in a patch that a click cut; its card comes when it is marked."""
        patch = (slide.info.digest, key)
        self._facts[patch] = facts
        self._tiles[patch] = tile_of(slide, key, cut.pixels, facts.label, resolution)

    def _on_slide(self) -> None:
        if self._outline is not None:
            self._outline.close()
            self._outline = None
        self._reader.cancel()
        self._carder.cancel()
        there = self._state.slides()
        self._tiles = {patch: tile for patch, tile in self._tiles.items() if patch[0] in there}
        self._facts = {patch: facts for patch, facts in self._facts.items() if patch[0] in there}
        self._gallery.set_cards(self._mark_cards() if not self._shows_all else [], keeps_pixels=True)
        self._selected = []
        self._show_outlines()
        self._facts_soon.start()

    def _on_planned(self) -> None:
        self._facts_soon.start()
        if self._shows_all and self._state.planned is None:
            self._gallery.set_cards([])

    def _on_settled(self) -> None:
        if self._shows_all:
            self._cards_soon.start()
            return
        keeper = self._state.keeper()
        slide = self._state.slide
        if keeper is None or slide is None:
            return
        for card in self._cards(
            ((slide.info.digest, key), decision) for key, decision in keeper.marks.items()
        ):
            old = self._gallery.card(card.key)
            if old is not None and (old.note, old.is_left_out) != (card.note, card.is_left_out):
                self._gallery.update_card(card.key, card)

    def _on_marks(self, digest: str, keys: tuple[MarkKey, ...]) -> None:
        keeper = self._state.keeper(digest)
        if keeper is None:
            return
        decided = {(digest, key): keeper.marks.get(key) for key in keys}
        for patch, decision in decided.items():
            self._follow_in_session(patch, decision)
        if not self._shows_all:
            self._gallery.remove(*(patch for patch, decision in decided.items() if decision is None))
            kept = {patch: decision for patch, decision in decided.items() if decision is not None}
            for patch, card in zip(kept, self._cards(kept.items()), strict=True):
                self._put_card(patch, card)
        if any((digest, key) not in self._facts for key in keys):
            self._facts_soon.start()
        self._show_outlines()
        self._say_unfit()

    def _put_card(self, patch: PatchId, card: Card) -> None:
        if self._gallery.card(patch) is not None:
            self._gallery.update_card(patch, card)
            return
        tile = self._tiles.get(patch)
        self._gallery.add(card, None if tile is None or self._is_normalised() else tile.pixels)

    def _cards(self, patches: Iterable[tuple[PatchId, Decision]]) -> list[Card]:
        """Return the cards of marked patches."""
        colors, slides, cards = self._state.colors(), self._state.slides(), []
        for patch, decision in patches:
            slide = slides.get(patch[0])
            cards.append(
                mark_card(
                    patch,
                    decision,
                    self._facts.get(patch, Facts()),
                    self._state.qualities.get(patch, {}),
                    slide.info.path.name if slide is not None else "",
                    lambda name: colors.get(name, _NO_CLASS),
                    self._reason_of(patch),
                )
            )
        self._colors = colors
        return cards

    def _reason_of(self, patch: PatchId) -> str:
        """Return why split or balance leave a marked patch out, "" if they do not."""
        state, (digest, key) = self._state, patch
        planned, settlement = state.planned, state.settlement
        if planned is None or settlement is None or planned.request.slide.info.digest != digest:
            return ""
        positions = planned.grid.positions
        if not fits(key, positions.size_px, positions.resolution.downsample[0]):
            return ""
        return settlement.hand_left_out.get((key.x, key.y), "")

    def _mark_cards(self) -> list[Card]:
        return self._cards(
            ((digest, key), decision)
            for digest, keeper in self._state.keepers().items()
            for key, decision in keeper.marks.items()
        )

    def _describe(self) -> None:
        """Look up, in a thread, what the rule says of every marked patch now."""
        state = self._state
        try:
            recipe = self._view.recipe()
        except UserError:
            return
        planned, jobs = state.planned, []
        labels, least = recipe.labels, recipe.tissue.min_tissue
        for digest, slide in state.slides().items():
            keeper = state.keeper(digest)
            keys = [key for key, _ in keeper.marks.items()] if keeper is not None else []
            mask = planned.mask if planned is not None and planned.request.slide is slide else None
            if keys:
                jobs.append((digest, keys, state.session.annotations_of(slide), mask))
        self._say_unfit()
        if not jobs:
            return

        def work(should_stop: Callable[[], bool]) -> dict[PatchId, Facts]:
            found = {}
            for digest, keys, regions, mask in jobs:
                try:
                    facts = facts_of(keys, regions, labels, mask, min_tissue=least, should_stop=should_stop)
                except CancelledError:
                    return {}
                found.update({(digest, key): value for key, value in facts.items()})
            return found

        self._describer.submit(work, self._on_facts)

    def _on_facts(self, found: dict[PatchId, Facts]) -> None:
        is_recolored = self._colors != self._state.colors()
        changed = {}
        for patch, facts in found.items():
            if self._facts.get(patch) == facts and not is_recolored:
                continue
            self._facts[patch] = facts
            keeper = self._state.keeper(patch[0])
            decision = keeper.marks.get(patch[1]) if keeper is not None else None
            if decision is not None:
                changed[patch] = decision
                self._follow_in_session(patch, decision)
        if not self._shows_all:
            for card in self._cards(changed.items()):
                if self._gallery.card(card.key) != card:
                    self._gallery.update_card(card.key, card)
        self._show_outlines()

    def _say_unfit(self) -> None:
        """Say how many decisions are about patches of another size."""
        state, n = self._state, 0
        planned, keeper = state.planned, state.keeper()
        if planned is not None and keeper is not None:
            positions = planned.grid.positions
            size_px, downsample = positions.size_px, positions.resolution.downsample[0]
            n = sum(not fits(key, size_px, downsample) for key, _ in keeper.marks.items())
        self._view.marks_note.setText(
            f"{n} decision{'s' if n > 1 else ''} about patches of another size wait until that size is chosen again."
            if n
            else ""
        )
        self._view.marks_note.setVisible(bool(n))

    # The session's tray, which other docks use

    def _follow_in_session(self, patch: PatchId, decision: Decision | None) -> None:
        session, tile = self._state.session, self._tiles.get(patch)
        index = next((i for i, other in enumerate(session.tray) if patch_of(other) == patch), -1)
        if decision is None or not decision.is_picked:
            if index >= 0:
                session.remove_from_tray(index)
            return
        if tile is None:
            return
        facts = self._facts.get(patch, Facts())
        tile = replace(tile, label=decision.label or facts.label or None)
        if index < 0:
            session.add_to_tray(tile)
        elif session.tray[index].label != tile.label:
            session.change_in_tray(index, tile)

    # All patches of the grid

    def _switch(self, on: bool) -> None:
        self._shows_all = on
        self._carder.cancel()
        if on:
            self._gallery.set_empty_note("Listing the patches of the grid …")
            self._gallery.set_cards([])
            self._make_all()
        else:
            self._gallery.set_empty_note(EMPTY)
            self._gallery.set_cards(self._mark_cards())

    def _make_all(self) -> None:
        state, planned = self._state, self._state.planned
        if not self._shows_all or planned is None:
            return
        settlement, qualities, colors = state.settlement, dict(state.qualities), state.colors()

        def work(should_stop: Callable[[], bool]) -> CardTable | None:
            def color_of(name: str) -> tuple[int, int, int]:
                return colors.get(name, (128, 128, 128))

            if should_stop():
                return None
            return grid_table(planned, settlement, qualities, color_of)

        def show(table: CardTable | None) -> None:
            if table is not None and self._shows_all:
                self._gallery.set_empty_note("The grid has no patch here.")
                self._gallery.set_cards(table, keeps_pixels=True)

        self._carder.submit(work, show)

    def _show_cards_anew(self, *_: object) -> None:
        """Ask for all pixels again."""
        if self._shows_all:
            self._gallery.set_cards([])
            self._make_all()
        else:
            self._gallery.set_cards(self._mark_cards())

    # Pixels

    def _stain_chosen(self) -> tuple[str, str]:
        form = self._view.form
        return form.stain_box.currentData(), form.target_edit.text().strip()

    def _on_recipe(self) -> None:
        """Show the cards in the colours of another method or reference, when typing has paused."""
        before, self._stain = self._stain, self._stain_chosen()
        if self._stain != before and self._view.form.normalised_check.isChecked():
            self._colors_soon.start()

    def _is_normalised(self) -> bool:
        return bool(
            self._view.form.normalised_check.isChecked() and self._view.form.stain_box.currentData() != "none"
        )

    def _read(self, patches: list[PatchId]) -> None:
        state = self._state
        slides, planned = state.slides(), state.planned
        todo = [(patch, slides[patch[0]]) for patch in patches if patch[0] in slides]
        if not todo:
            return
        spec = None
        if self._is_normalised():
            recipe = run_safely(self._view.recipe)
            spec = recipe.stain if recipe is not None else None
        stains, arrivals = self._fits, self._arrivals

        def stain_of(slide: Slide) -> tuple[StainFit, StainFit]:
            assert spec is not None
            name = (slide.info.digest, spec.method, spec.target)
            if name not in stains:
                boxes = (
                    planned.grid.boxes
                    if planned is not None and planned.request.slide is slide
                    else _whole(slide)
                )
                stains[name] = fit_of_slide(slide, boxes, method=spec.method), target_fit(spec)
            return stains[name]

        def work(should_stop: Callable[[], bool]) -> None:
            # The plan's note says that a reference is missing; until it is there the colours stay.
            is_normalised = spec is not None and not missing_target(spec)
            for patch, slide in todo:
                if should_stop():
                    return
                own = planned if planned is not None and planned.request.slide is slide else None
                cut = cut_patch(slide, patch[1], resolution_of(slide, patch[1], own))
                shown = cut.pixels
                if is_normalised:
                    source, target = stain_of(slide)
                    shown = normalise(cut.pixels, source=source, target=target)
                arrivals.read.emit(patch, shown, cut)

        self._reader.submit(work, lambda _: None)

    def _on_read(self, patch: PatchId, shown: NDArray[np.uint8], cut: CutPatch) -> None:
        state, (digest, key) = self._state, patch
        self._gallery.set_pixels(patch, shown)
        is_new = patch not in state.qualities
        state.qualities[patch] = cut.quality
        card = self._gallery.card(patch)
        if is_new and card is not None:
            self._gallery.update_card(patch, replace(card, values={**card.values, **cut.quality}))
        keeper, slide = state.keeper(digest), state.slides().get(digest)
        decision = keeper.marks.get(key) if keeper is not None else None
        if decision is not None and decision.is_picked and slide is not None and patch not in self._tiles:
            # It was picked before the slide was closed: other docks may use it again.
            facts = self._facts.get(patch, Facts())
            own = state.planned if state.planned and state.planned.request.slide is slide else None
            resolution = resolution_of(slide, key, own)
            self._tiles[patch] = tile_of(slide, key, cut.pixels, facts.label, resolution)
            self._follow_in_session(patch, decision)

    # What the user does with cards

    def _jump(self, patch: PatchId) -> None:
        digest, key = patch
        slide = self._state.slides().get(digest)
        if slide is None:
            return
        viewer, info, width = self._state.viewer, slide.info, key.width_px
        centre = world_of((key.x + width / 2, key.y + width / 2), info)
        camera = viewer.scene.camera
        canvas = min(viewer.canvas.size)
        camera.center = (*camera.center[:-2], *centre)
        camera.zoom = _PATCH_SHARE * canvas / (width * um_per_px(info)[1])
        self._outline_selected([patch])

    def _outline_selected(self, patches: list[PatchId]) -> None:
        self._selected = patches
        self._show_outlines()

    def _show_outlines(self) -> None:
        """Outline what is selected in the list, and what was picked: that lies on no grid."""
        state, slide = self._state, self._state.slide
        if slide is None:
            return
        digest, colors = slide.info.digest, {}
        keeper = state.keeper()
        if keeper is not None:
            of_class = state.colors()
            for key, decision in keeper.marks.items():
                if decision.is_picked and decision.is_in:
                    label = decision.label or self._facts.get((digest, key), Facts()).label
                    colors[key] = of_class.get(label, _NO_CLASS)
        # The selected first: only so many are drawn.
        colors = dict.fromkeys((key for own, key in self._selected if own == digest), _SELECTED) | {
            key: color for key, color in colors.items() if (digest, key) not in self._selected
        }
        if self._outline is None:
            if not colors:
                return
            self._outline = PatchOutline(state.viewer, slide)
        boxes = [(k.x, k.y, k.x + k.width_px, k.y + k.width_px) for k in colors]
        self._outline.show(boxes, list(colors.values()))

    def _remove(self, patches: list[PatchId]) -> None:
        """Leave patches to the rule again; in the list of all, leave them out."""
        if self._shows_all:
            self._toggle([p for p in patches if (card := self._gallery.card(p)) and not card.is_left_out])
            return
        for digest in dict.fromkeys(digest for digest, _ in patches):
            keeper = self._state.keeper(digest)
            if keeper is not None:
                keys = [key for own, key in patches if own == digest]
                keeper.marks.put(dict.fromkeys(keys), "take out of the list")

    def _give_class(self, patches: list[PatchId], digit: int) -> None:
        hand = self._hand
        if hand is not None:
            run_safely(lambda: hand.give_class(patches, digit))

    def _toggle(self, patches: list[PatchId]) -> None:
        hand = self._hand
        if hand is not None:
            run_safely(lambda: hand.toggle(patches))


def tile_of(
    slide: Slide, key: MarkKey, pixels: NDArray[np.uint8], label: str, resolution: Resolution
) -> Tile:
    """Return a patch as other docks take it."""
    info, (down_x, down_y) = slide.info, resolution.downsample
    width, height = key.size_px * down_x, key.size_px * down_y
    centre = (key.x + width / 2, key.y + height / 2)
    return Tile(
        name=f"{info.path.stem}_x{centre[0]:.0f}_y{centre[1]:.0f}",
        source=f"{info.path.name}@{centre[0]:g},{centre[1]:g}",
        pixels=pixels,
        mpp=None if info.mpp_x is None else info.mpp_x * down_x,
        slide_digest=info.digest,
        centre=centre,
        level0_box=(key.x, key.y, key.x + width, key.y + height),
        label=label or None,
    )


def patch_of(tile: Tile) -> PatchId | None:
    """Return which patch a tile of the session's tray is, as cards are keyed; None for one from elsewhere."""
    if tile.slide_digest is None or tile.level0_box is None:
        return None
    left, top, right, _ = tile.level0_box
    size_px = tile.pixels.shape[0]
    return tile.slide_digest, MarkKey(int(left), int(top), size_px, (right - left) / size_px)


def _whole(slide: Slide) -> NDArray[np.float64]:
    return np.array([[0, 0, slide.info.width_px, slide.info.height_px]], np.float64)


def _timer(ms: int, slot: Callable[[], None]) -> QTimer:
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(slot)
    return timer
