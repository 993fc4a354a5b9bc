"""What the mouse and keys do to single patches in the Patches dock: hover, in or out, click to extract, classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer

from napari_histolatent._napari._layers import level0_of
from napari_histolatent._napari._picking import CanvasClicks
from napari_histolatent._napari._workers import LatestWorker, run_safely
from napari_histolatent._napari.patches import SizeBox
from napari_histolatent._napari.patches._facts import CutPatch, Facts, cut_patch, facts_of
from napari_histolatent._napari.patches._hand_marks import Decision, MarkKey
from napari_histolatent._napari.patches._mode_keys import ModeKeys
from napari_histolatent._napari.widgets.patches_view import EXTRACT, LOOK, TOGGLE
from napari_histolatent.errors import DatasetError, SlideError
from napari_histolatent.patches import resolutions, tile_box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari_histolatent._napari.patches._planner import Planned
    from napari_histolatent._napari.widgets.patches_state import PatchesState
    from napari_histolatent.patches import Resolution
    from napari_histolatent.slides import Slide

_HOVER_MS, _REST_MS = 30, 150
_NO_PATCH = (
    "There is no patch of the grid here; lower the least share of tissue, or cut one with “Click to extract”."
)


class HandPart:
    """Modes of the mouse, the line of what is under it, and what was decided.

    Parameters
    ----------
    state
        What the dock's parts share.
    on_cut
        Called with slide, patch, pixels and facts of a patch that a click cut, before it is marked.
    """

    def __init__(
        self, state: PatchesState, on_cut: Callable[[Slide, MarkKey, CutPatch, Facts, Resolution], None]
    ) -> None:
        self._state, self._view, self._on_cut = state, state.view, on_cut
        self._viewer = state.viewer
        self._clicks = CanvasClicks(state.viewer, self._on_click)
        self._box = SizeBox(state.viewer)
        self._cutter = LatestWorker(in_turn=True)  # clicks come faster than patches, and each counts
        self._measurer = LatestWorker(on_error=lambda _: None)
        self._mouse: tuple[float, float] | None = None
        self._newest: MarkKey | None = None
        self._keys = ModeKeys(state.viewer, self._actions())
        self._callback = self._on_move  # one object, so that it can be found again
        self._viewer.mouse_move_callbacks.append(self._callback)
        self._hover_soon, self._rest = _timer(_HOVER_MS, self._hover), _timer(_REST_MS, self._measure)
        self._view.mode_chosen.connect(self.use)
        self._view.undo_requested.connect(self.undo)
        self._view.redo_requested.connect(self.redo)
        state.slide_changed.connect(self._on_slide)
        state.planned_changed.connect(self._on_planned)
        state.marks_changed.connect(self._show_history)

    @property
    def is_busy(self) -> bool:
        """Whether a patch is being cut or measured."""
        return self._cutter.is_busy or self._measurer.is_busy or self._rest.isActive()

    def close(self) -> None:
        """Give mouse and keys back."""
        self._clicks.switch(False)
        self._keys.switch(False)
        self._box.switch_off()
        for timer in (self._hover_soon, self._rest):
            timer.stop()
        for worker in (self._cutter, self._measurer):
            worker.cancel()
        if self._callback in self._viewer.mouse_move_callbacks:
            self._viewer.mouse_move_callbacks.remove(self._callback)

    # Modes

    def use(self, mode: str) -> None:
        """Have clicks look, toggle or extract."""
        self._clicks.switch(mode != LOOK)
        self._keys.switch(mode != LOOK)
        self._follow_box()

    def _follow_box(self) -> None:
        """Let the size box follow the mouse, as large as the patches are."""
        mode, slide = self._view.mode, self._state.slide
        if mode == LOOK or slide is None:
            self._box.switch_off()
            return
        size = self._size_of(slide)
        if size is None or (mode == TOGGLE and self._state.planned is None):
            self._box.switch_off()
            return
        self._box.switch_on(slide, size_level0_xy=size, snap=self._box_under if mode == TOGGLE else None)
        self._box.set_size(size)

    def _size_of(self, slide: Slide) -> tuple[float, float] | None:
        try:
            spec = self._state.recipe().grid
            down_x, down_y = resolutions(slide, spec)[0].downsample
        except (DatasetError, SlideError):
            return None
        return spec.size_px * down_x, spec.size_px * down_y

    def _box_under(self, xy: tuple[float, float]) -> tuple[float, float, float, float] | None:
        planned = self._state.planned
        row = -1 if planned is None else planned.row_at(xy)
        if planned is None or row < 0:
            return None
        left, top = planned.grid.positions.level0_xy[row].tolist()
        width, height = planned.size_level0_xy
        return left, top, left + width, top + height

    def _on_slide(self) -> None:
        self._newest = self._mouse = None  # a place on the other slide
        self._cutter.cancel()
        self._box.switch_off()
        self._follow_box()
        self._show_history()
        self._view.hover_note.setText("")

    def _on_planned(self) -> None:
        self._follow_box()
        self._hover()

    # Hover

    def _on_move(self, _: Any, event: Any) -> None:
        # Keys are meant for what is under the mouse; the Regions dock binds its own whenever it is touched.
        self._keys.retake()
        if self._state.slide is None:
            return
        self._mouse = level0_of(event.position, self._state.slide.info)
        if not self._hover_soon.isActive():
            self._hover_soon.start()

    def _hover(self) -> None:
        planned = self._state.planned
        if planned is None or self._mouse is None:
            self._view.hover_note.setText("")
            return
        row = planned.row_at(self._mouse)
        text = self._text_of(planned, row) if row >= 0 else self._text_beside(planned)
        self._view.hover_note.setText(text)
        if text:
            self._viewer.status = text.replace("\n", " · ")
        self._rest.stop()
        if (
            row >= 0
            and (planned.request.slide.info.digest, self._state.key_at(row)) not in self._state.qualities
        ):
            self._rest.start()

    def _text_beside(self, planned: Planned) -> str:
        assert self._mouse is not None
        cell = planned.cell_at(self._mouse)
        if cell is None:
            return ""
        return (
            f"Column {cell[0]}, row {cell[1]}: no patch, tissue {planned.cell_tissue[cell[1], cell[0]]:.0%}"
        )

    def _text_of(self, planned: Planned, row: int) -> str:
        """Return what is known of a patch, in three or four lines."""
        grid = planned.grid
        column, line = grid.positions.cell[row].tolist()
        x, y = grid.positions.level0_xy[row].tolist()
        place = "Picked" if column < 0 else f"Column {column}, row {line}"
        label = planned.label_name(row) or "no class"
        if not planned.label_name(row) and grid.is_picked[row]:
            lacks_tissue = grid.tissue[row] < planned.request.recipe.tissue.min_tissue
            label = Facts(lacks_tissue=bool(lacks_tissue)).how_to_label
        how = " (out by hand)" if grid.is_out[row] else " (by hand)" if grid.is_by_hand[row] else ""
        settlement = self._state.settlement
        if settlement is not None and not how and settlement.left_out[row]:
            how = f" (left out: {settlement.left_out[row]})"
        lines = [f"{place} · x {x:,}, y {y:,}", f"{label}{how} · tissue {grid.tissue[row]:.0%}"]
        shares = sorted(
            (
                (share, name)
                for name, share in zip(grid.classes, grid.coverage.shares[row].tolist(), strict=True)
            ),
            reverse=True,
        )
        covered = [f"{name} {share:.0%}" for share, name in shares if share > 0]
        lines.append(", ".join(covered[:4]) or "no region")
        quality = self._state.qualities.get((planned.request.slide.info.digest, self._state.key_at(row)))
        if quality:
            lines.append(quality_text(quality))
        return "\n".join(lines)

    def _measure(self) -> None:
        """Measure the patch under the mouse, which has rested there for a moment."""
        planned = self._state.planned
        row = -1 if planned is None or self._mouse is None else planned.row_at(self._mouse)
        if planned is None or row < 0:
            return
        slide, key, resolution = (
            planned.request.slide,
            self._state.key_at(row),
            planned.grid.positions.resolution,
        )

        def work(should_stop: Callable[[], bool]) -> CutPatch | None:
            return None if should_stop() else cut_patch(slide, key, resolution)

        def show(cut: CutPatch | None) -> None:
            if cut is not None:
                self._state.qualities[slide.info.digest, key] = cut.quality
                self._hover()

        self._measurer.submit(work, show)

    # Clicks

    def _on_click(self, world: tuple[float, ...]) -> None:
        slide = run_safely(self._state.require_slide)
        if slide is None:
            return
        xy = level0_of(world, slide.info)
        self._mouse = xy
        run_safely(lambda: self._toggle_at(xy) if self._view.mode == TOGGLE else self._extract_at(slide, xy))

    def _toggle_at(self, xy: tuple[float, float]) -> None:
        planned = self._state.planned
        row = -1 if planned is None else planned.row_at(xy)
        if planned is None or row < 0:
            self._view.hover_note.setText(_NO_PATCH)
            return
        self.toggle([(planned.request.slide.info.digest, self._state.key_at(row))])

    def toggle(self, patches: Iterable[tuple[str, MarkKey]]) -> None:
        """Take patches in or leave them out.

        Raises
        ------
        DatasetError
            If a patch would need a class, and there is none.
        """
        for digest, keys in _by_slide(patches).items():
            keeper = self._state.keeper(digest)
            if keeper is None:
                continue
            changes: dict[MarkKey, Decision | None] = {}
            for key in keys:
                changes[key] = self._toggled(digest, key, keeper.marks.get(key))
            keeper.marks.put(
                changes, "in or out" if len(changes) == 1 else f"{len(changes)} patches in or out"
            )

    def _toggled(self, digest: str, key: MarkKey, decision: Decision | None) -> Decision | None:
        label = decision.label if decision else ""
        is_picked = decision is not None and decision.is_picked
        if decision is not None and not decision.is_in:
            return Decision(label, True, is_picked) if label or is_picked else None
        planned, row = self._state.planned, -1
        if planned is not None and planned.request.slide.info.digest == digest:
            row = planned.row_of(key.x, key.y)
        if planned is not None and row >= 0 and not planned.label_name(row):
            return Decision(self._class_for(planned, row), True, is_picked)
        return Decision(label, False, is_picked)

    def _class_for(self, planned: Planned, row: int) -> str:
        """Return the class of a patch that the rule gives none and the user wants in: the largest share's."""
        labels, classes = planned.request.recipe.labels, planned.grid.classes
        shares = np.where([name in labels.exclude for name in classes], 0, planned.grid.coverage.shares[row])
        if shares.size and shares.max() > 0:
            return labels.annotated_as or classes[int(np.argmax(shares))]
        current = self._state.session.regions_of(planned.request.slide).current_class
        drawn = labels.annotated_as or ("" if current in labels.exclude else current)
        name = labels.default_class or drawn or next(iter(planned.label_names), "")
        if not name:
            msg = "This patch has no class, and there is none to give it; make a class in the Regions dock, or name one for tissue that is not annotated."
            raise DatasetError(msg)
        return name

    def _extract_at(self, slide: Slide, xy: tuple[float, float]) -> None:
        info = slide.info
        if not (0 <= xy[0] < info.width_px and 0 <= xy[1] < info.height_px):
            msg = f"The point x={xy[0]:.0f}, y={xy[1]:.0f} lies off {info.path.name} ({info.width_px} x {info.height_px} px); click on the slide."
            raise DatasetError(msg)
        recipe = self._state.recipe()
        first = resolutions(slide, recipe.grid)[0]
        left, top, *_ = tile_box(xy, recipe.grid.size_px, first.downsample)
        key = MarkKey(left, top, recipe.grid.size_px, first.downsample[0])
        planned = self._state.planned
        mask = planned.mask if planned is not None and planned.request.slide is slide else None
        annotations = self._state.session.annotations_of(slide)
        resolution = first

        def work(_: object) -> tuple[CutPatch, Facts]:
            cut = cut_patch(slide, key, resolution)
            least = recipe.tissue.min_tissue
            return cut, facts_of([key], annotations, recipe.labels, mask, min_tissue=least)[key]

        def show(found: tuple[CutPatch, Facts]) -> None:
            cut, facts = found
            keeper = self._state.keeper(info.digest)
            if keeper is None:
                return
            self._newest = key
            self._state.qualities[info.digest, key] = cut.quality
            self._on_cut(slide, key, cut, facts, resolution)
            keeper.marks.put({key: Decision(is_picked=True)}, "pick a patch")
            shares = ", ".join(f"{name} {share:.0%}" for name, share in facts.values.items() if share > 0)
            self._view.hover_note.setText(
                f"Cut at x {key.x:,}, y {key.y:,}\n{facts.label or facts.how_to_label}\n{shares}\n"
                + quality_text(cut.quality)
            )

        self._cutter.submit(work, show)

    # Keys

    def _actions(self) -> dict[str, Callable[[], object]]:
        actions: dict[str, Callable[[], object]] = {
            "Control-Z": self.undo,
            "Control-Y": self.redo,
            "Control-Shift-Z": self.redo,
            "Escape": lambda: self._view.set_mode(LOOK),
        }
        for digit in range(10):
            actions[str(digit)] = self._digit_action(digit)
        return actions

    def _digit_action(self, digit: int) -> Callable[[], object]:
        return lambda: run_safely(lambda: self._class_by_key(digit))

    def _class_by_key(self, digit: int) -> None:
        slide = self._state.require_slide()
        key = self._key_under_mouse()
        if key is None:
            msg = "There is no patch under the mouse; move over one, or click to extract one first."
            raise DatasetError(msg)
        self.give_class([(slide.info.digest, key)], digit)

    def _key_under_mouse(self) -> MarkKey | None:
        """Return the patch that a digit is for: in "Click to extract" the picked one under the mouse, else the newest."""
        planned = self._state.planned
        row = -1 if planned is None or self._mouse is None else planned.row_at(self._mouse)
        key = self._state.key_at(row) if row >= 0 else None
        if self._view.mode != EXTRACT:
            return key
        keeper = self._state.keeper()
        decision = keeper.marks.get(key) if keeper is not None and key is not None else None
        if decision is not None and decision.is_picked:
            return key
        if keeper is not None and self._newest is not None and keeper.marks.get(self._newest) is not None:
            return self._newest
        return key

    def give_class(self, patches: Iterable[tuple[str, MarkKey]], digit: int) -> None:
        """Put patches into the class of a number key; 0: into the rule's own.

        Raises
        ------
        DatasetError
            If no class has this key.
        """
        item = self._state.class_of_key(digit) if digit else None
        if digit and item is None:
            keys = ", ".join(f"{v.key} {v.name}" for v in self._state.classes() if v.key) or "none"
            msg = f"No class has the key {digit}; the keys are: {keys}."
            raise DatasetError(msg)
        name = item.name if item is not None else ""
        for digest, keys_of_slide in _by_slide(patches).items():
            keeper = self._state.keeper(digest)
            if keeper is None:
                continue
            changes: dict[MarkKey, Decision | None] = {}
            for key in keys_of_slide:
                old = keeper.marks.get(key)
                is_picked = old is not None and old.is_picked
                changes[key] = Decision(name, True, is_picked) if name or is_picked else None
            keeper.marks.put(changes, f"class {name}" if name else "class by the rule")

    def undo(self) -> None:
        """Take the last decision about a patch of the current slide back."""
        keeper = self._state.keeper()
        if keeper is not None:
            keeper.marks.undo()

    def redo(self) -> None:
        """Decide again what was undone."""
        keeper = self._state.keeper()
        if keeper is not None:
            keeper.marks.redo()

    def _show_history(self, *_: object) -> None:
        keeper = self._state.keeper()
        if keeper is None:
            self._view.set_history("", "")
        else:
            self._view.set_history(keeper.marks.undo_title, keeper.marks.redo_title)


def quality_text(quality: dict[str, float]) -> str:
    """Return the values measured on a patch as a line."""
    focus, saturation, white, pen = (quality[name] for name in ("focus", "saturation", "white", "pen"))
    return f"focus {focus:.0f}, saturation {saturation:.0f}, white {white:.0%}, pen {pen:.0%}"


def _by_slide(patches: Iterable[tuple[str, MarkKey]]) -> dict[str, list[MarkKey]]:
    found: dict[str, list[MarkKey]] = {}
    for digest, key in patches:
        found.setdefault(digest, []).append(key)
    return found


def _timer(ms: int, slot: Callable[[], None]) -> QTimer:
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(slot)
    return timer
