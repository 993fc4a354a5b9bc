"""What the Patches dock does: its view on one side, the session's slide, regions and marks on the other."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_histolatent._napari._opening import open_in
from napari_histolatent._napari._workers import LatestWorker, run_safely
from napari_histolatent._napari.patches._dock_memory import DockMemory, memory_file, read_memory, write_memory
from napari_histolatent._napari.patches._request import CapturedRequest
from napari_histolatent._napari.widgets.extraction_binding import ExtractionBinding
from napari_histolatent._napari.widgets.patches_hand import HandPart
from napari_histolatent._napari.widgets.patches_mask import MaskPart
from napari_histolatent._napari.widgets.patches_plans import PlansPart
from napari_histolatent._napari.widgets.patches_state import PatchesState
from napari_histolatent._napari.widgets.patches_tray import TrayPart
from napari_histolatent.errors import UserError
from napari_histolatent.patches import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari.widgets.patches_view import PatchesView


_REMEMBER_MS = 1000


class PatchesBinding:
    """Binds a `PatchesView` to a viewer's session."""

    def __init__(self, viewer: Any, view: PatchesView) -> None:
        self._view, self._state = view, PatchesState(viewer, view)
        self._viewer, self._session = self._state.viewer, self._state.session
        self._is_closed = False
        self._memory_worker = LatestWorker(in_turn=True)
        self._remember_soon = QTimer()
        self._remember_soon.setSingleShot(True)
        self._remember_soon.setInterval(_REMEMBER_MS)
        self._remember_soon.timeout.connect(self._remember)
        is_first = self._session.recipe is None
        if self._session.recipe is not None:
            view.form.set_recipe(self._session.recipe)
        self.plans = PlansPart(self._state)
        self.mask = MaskPart(self._state)
        self.tray = TrayPart(self._state)
        self.hand = HandPart(self._state, self.tray.put_cut)
        self.tray.use(self.hand)
        self.extraction = ExtractionBinding(
            viewer,
            view.extraction,
            self.request,
            recipe=self._batch_recipe,
            on_finished=self.plans.take_rate,
        )
        view.slide_chosen.connect(self._open_slide)
        view.regions_chosen.connect(self._load_regions)
        view.recipe_changed.connect(self._on_recipe)
        self._session.annotations_changed.connect(self._follow_regions)
        for event in self._events():
            event.connect(self._follow)
        view.closed.connect(self.close)
        view.destroyed.connect(self.close)
        view.preview_switched.connect(self._remember_soon.start)
        self._follow()
        if is_first:
            self._recall()

    def _events(self) -> tuple[Any, ...]:
        layers = self._viewer.layers
        return layers.events.inserted, layers.events.removed, layers.selection.events.active

    @property
    def state(self) -> PatchesState:
        """What the dock's parts share."""
        return self._state

    @property
    def is_busy(self) -> bool:
        """Whether something goes on, or will in a moment."""
        return any(part.is_busy for part in (self.plans, self.mask, self.tray, self.hand))

    def close(self, *_: object) -> None:
        """Let go of the viewer and of running work; what was decided stays with the session."""
        if self._is_closed:
            return
        self._is_closed = True
        self._session.annotations_changed.disconnect(self._follow_regions, missing_ok=True)
        for event in self._events():
            event.disconnect(self._follow)
        # When Python itself ends, Qt's timers may be gone before the docks.
        with suppress(RuntimeError):
            for part in (self.hand, self.tray, self.mask, self.plans):
                part.close()
            if self._remember_soon.isActive():
                self._remember_soon.stop()
                run_safely(self._remembering())
        self._state.close()
        self.extraction.close()

    def request(self) -> CapturedRequest:
        """Return what is to be cut of the current slide, as it is set now.

        Raises
        ------
        UserError
            If that is not possible.
        """
        planned = self.plans.request()
        self.plans.expect_rate(is_of_slide=True)
        return CapturedRequest(
            planned.slide.info, planned.annotations, planned.recipe, planned.marks, planned.own_mask
        )

    def _batch_recipe(self) -> Recipe:
        self.plans.expect_rate(is_of_slide=False)
        return self._view.recipe()

    def _follow(self, *_: object) -> None:
        if self._is_closed:
            return
        self._state.follow()
        self._show_slide()

    def _follow_regions(self) -> None:
        if self._is_closed:
            return
        self._follow()
        self._state.plan_wanted.emit()

    def _on_recipe(self) -> None:
        recipe = self._recipe()
        if recipe is not None:
            self._session.recipe = recipe
            self._remember_soon.start()
        self._state.plan_wanted.emit()

    # What the dock was set to, between sessions

    def _recall(self) -> None:
        """Set the dock as it was last, unless the user was faster."""
        before = self._recipe(), self._view.preview_check.isChecked()

        def show(memory: DockMemory | None) -> None:
            if memory is None or before != (self._recipe(), self._view.preview_check.isChecked()):
                return
            self._view.form.set_recipe(memory.recipe)
            self._view.preview_check.setChecked(memory.shows_preview)

        self._memory_worker.submit(lambda _: read_memory(memory_file()), show)

    def _remember(self) -> None:
        write = self._remembering()
        self._memory_worker.submit(lambda _: write(), lambda _: None)

    def _remembering(self) -> Callable[[], None]:
        """Return what writes what the dock is set to now."""
        recipe = self._session.recipe or Recipe()
        memory, path = DockMemory(recipe, self._session.shows_preview), memory_file()
        return lambda: write_memory(path, memory)

    def _recipe(self) -> Recipe | None:
        try:
            return self._view.recipe()
        except UserError:
            return None  # the plan says what is wrong

    def _show_slide(self) -> None:
        slide = self._state.slide
        if slide is None:
            self._view.set_slide("", "")
            return
        info = slide.info
        size = (
            f"{info.mpp_x:g} µm per px" if info.mpp_x else "pixel size not stated: patches are cut at level 0"
        )
        self._view.set_slide(
            f"{info.path.name}: {info.width_px} x {info.height_px} px, {size}", self._session.regions_note()
        )

    def _open_slide(self, path: str) -> None:
        open_in(self._viewer, [path])

    def _load_regions(self, path: str) -> None:
        def load() -> None:
            slide = self._state.require_slide()
            self._session.regions_of(slide).import_file(Path(path))

        run_safely(load)
