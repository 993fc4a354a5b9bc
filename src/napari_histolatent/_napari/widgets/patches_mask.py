"""The tissue mask of the Patches dock: shown on the slide, painted on, loaded, dropped."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histolatent._napari._workers import LatestWorker, run_safely
from napari_histolatent._napari.patches import MaskLayer
from napari_histolatent._napari.patches._mask_keeper import MaskKeeper
from napari_histolatent.patches import TissueMask, mask_from_image

if TYPE_CHECKING:
    from napari_histolatent._napari.widgets.patches_state import PatchesState
    from napari_histolatent.slides import Slide


class MaskPart:
    """Shows the mask that the plan uses; what the user paints becomes the slide's own mask."""

    def __init__(self, state: PatchesState) -> None:
        self._state, self._view = state, state.view
        self._layer: MaskLayer | None = None
        self._slide: Slide | None = None
        """What the layer is of."""
        self._keeper = MaskKeeper()
        self._is_back = False
        self._shown: TissueMask | None = None
        self._shown_is_own = False
        self._loader = LatestWorker()
        self._view.mask_switched.connect(self._show)
        self._view.mask_reset.connect(self._reset)
        self._view.mask_chosen.connect(self._load)
        state.slide_changed.connect(self._on_slide)
        state.planned_changed.connect(self._on_planned)
        self._say()

    @property
    def is_busy(self) -> bool:
        """Whether a picture is being read."""
        return self._loader.is_busy or self._keeper.is_reading

    def close(self) -> None:
        """Take the layer away; the user's mask stays with the session, and on the disk."""
        self._loader.cancel()
        self._drop_layer()
        self._keeper.close()

    def _drop_layer(self) -> None:
        if self._layer is not None:
            if self._layer.is_telling:  # the last stroke was a moment ago
                self._on_edited()
            self._layer.close()
        self._layer = self._shown = self._slide = None

    def _on_slide(self) -> None:
        self._drop_layer()
        self._view.mask_picker.edit.clear()
        slide = self._state.slide
        self._is_back = False
        self._keeper.stop_reading()
        if slide is None:
            self._view.mask_check.setChecked(False)
        elif slide.info.digest not in self._state.session.own_masks:
            self._keeper.read(slide, self._take_back)
        self._say()

    def _on_planned(self) -> None:
        planned = self._state.planned
        if planned is None:
            return
        mask = planned.mask
        if self._state.own_mask is None:
            found = ", ".join(f"{name} {value:.3g}" for name, value in mask.thresholds.items())
            self._view.form.set_found(
                mask.threshold if isfinite(mask.threshold) else None,
                f"{found + '; ' if found else ''}{mask.tissue_share:.1%} of the slide is tissue",
            )
        else:
            self._view.form.set_found(None, f"{mask.tissue_share:.1%} of the slide is tissue")
        self._show()

    def _show(self, *_: object) -> None:
        if not self._view.mask_check.isChecked():
            self._drop_layer()
            return
        planned = self._state.planned
        if planned is None or self._state.slide is None:
            return
        if self._layer is None:
            self._slide = self._state.slide
            self._layer = MaskLayer(self._state.viewer, self._slide, on_edited=self._on_edited)
        # What was painted is in the layer already: showing it again would end a stroke, and forget its history.
        if (
            planned.mask is not self._shown and planned.mask is not self._state.own_mask
        ) or self._shown is None:
            self._put(planned.mask)

    def _put(self, mask: TissueMask) -> None:
        assert self._layer is not None
        self._shown, self._shown_is_own = mask, mask is self._state.own_mask
        self._layer.show(mask)

    def _on_edited(self) -> None:
        state, slide = self._state, self._slide
        if self._layer is None or slide is None or self._shown is None:
            return
        digest, edited = slide.info.digest, self._layer.edited()
        if edited is not None:
            mask: TissueMask | None = self._shown.with_mask(edited)
        else:  # all of it was undone: it is as it was shown, found or the user's own
            mask = self._shown if self._shown_is_own else None
        self._keeper.put(digest, mask)
        if mask is None or slide is not state.slide:  # that of a slide that is gone comes back with it
            state.session.own_masks.pop(digest, None)
        else:
            state.session.own_masks[digest] = mask
        self._is_back = False
        self._say()
        state.plan_wanted.emit()

    def _reset(self) -> None:
        slide = self._state.slide
        if slide is not None:
            self._state.session.own_masks.pop(slide.info.digest, None)
            self._keeper.put(slide.info.digest, None)
            self._shown, self._is_back = None, False
            self._view.mask_picker.edit.clear()
            self._say()
            self._state.plan_wanted.emit()

    def _load(self, path: str) -> None:
        slide = run_safely(self._state.require_slide)
        if slide is None:
            return

        def show(mask: TissueMask) -> None:
            self._take(slide, mask)

        self._loader.submit(lambda _: mask_from_image(Path(path), slide.info), show)

    def _take(self, slide: Slide, mask: TissueMask) -> None:
        self._keeper.put(slide.info.digest, mask)
        self._use(slide, mask)

    def _take_back(self, slide: Slide, mask: TissueMask) -> None:
        """Use the mask that was kept, unless there is one already."""
        if slide is self._state.slide and self._state.own_mask is None:
            self._is_back = True
            self._use(slide, mask)

    def _use(self, slide: Slide, mask: TissueMask) -> None:
        self._state.session.own_masks[slide.info.digest] = mask
        if self._layer is not None and slide is self._state.slide:
            self._put(mask)
        self._say()
        self._state.plan_wanted.emit()

    def _say(self) -> None:
        if self._state.own_mask is None:
            self._view.set_own_mask("")
        elif self._is_back:
            self._view.set_own_mask("Your mask edits are back; they are used, not the mask that is found.")
        else:
            self._view.set_own_mask("Your own mask is used, not the one that is found.")
