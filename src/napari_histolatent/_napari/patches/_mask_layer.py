"""The tissue mask of a slide as a layer that the user corrects with napari's own brush, fill and eraser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import QTimer

from napari_histolatent._napari._layers import placement
from napari_histolatent._napari.patches._overlay import Overlay

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent.patches import TissueMask
    from napari_histolatent.slides import Slide

_GREEN = (0.05, 0.8, 0.3, 1.0)
_OPACITY = 0.4
_TOLD_MS = 150
_BRUSH_SHARE = 60
"""The brush is this part of the mask's longer side at first."""


class MaskLayer:
    """The editable tissue mask of a slide. For the UI thread.

    Parameters
    ----------
    viewer
        The viewer.
    slide
        The slide that the mask is of.
    on_edited
        Called a moment after the user changed the mask, or undid that, at most some times a second.
    """

    def __init__(self, viewer: Any, slide: Slide, *, on_edited: Callable[[], None] | None = None) -> None:
        self._slide, self._on_edited = slide, on_edited
        self._overlay = Overlay(viewer, slide, role="tissue", above=("overview", "slide"))
        self._watched: Any = None
        self._given: NDArray[np.bool_] | None = None
        self._told: NDArray[np.bool_] | None = None
        self._tell = QTimer()
        self._tell.setSingleShot(True)
        self._tell.timeout.connect(self._say_edited)

    @property
    def layer(self) -> Any:
        """The napari layer, or None while there is none."""
        return self._overlay.layer

    @property
    def is_telling(self) -> bool:
        """Whether there may be edits that were not told of yet."""
        return bool(self._tell.isActive())

    def show(self, mask: TissueMask) -> None:
        """Show a mask in place of the one before, edits included; nothing, if the slide is gone."""
        if not self._overlay.is_slide_there:
            return
        self._tell.stop()
        given = np.array(mask.mask, bool)
        height, width = given.shape
        box = (0.0, 0.0, width * mask.downsample[0], height * mask.downsample[1])
        place = placement(box, given.shape, self._slide.info)
        self._given = self._told = given
        layer = self.layer
        # A new one where the old one's history of edits is of a picture of another size.
        if layer is not None and layer.data.shape == given.shape:
            for name in ("scale", "translate"):
                if not np.array_equal(getattr(layer, name), place[name]):
                    setattr(layer, name, place[name])
            # What is not editable has no history: an undo must not bring parts of the old mask into the new one.
            mode = layer.mode
            layer.editable = False
            layer.data = given.astype(np.uint8)
            layer.editable = True
            layer.mode = mode
            return
        info = self._slide.info
        new = Labels(
            given.astype(np.uint8),
            name=f"tissue of {info.path.name}",
            opacity=_OPACITY,
            # None is every other label: whatever the user paints with is tissue.
            colormap=DirectLabelColormap(color_dict={None: _GREEN, 0: (0.0, 0.0, 0.0, 0.0), 1: _GREEN}),
            metadata=self._overlay.metadata,
            **place,
        )
        new.selected_label = 1
        new.brush_size = max(3, max(given.shape) // _BRUSH_SHARE)
        self._watch(new)
        self._overlay.put(new)

    def edited(self) -> NDArray[np.bool_] | None:
        """Return the mask as the user changed it, shape (height, width), or None if it is as it was shown.

        Edits outlast a layer that the user deletes, until the next mask is shown.
        """
        if self._watched is None or self._given is None:
            return None
        now = np.asarray(self._watched.data) != 0
        return None if np.array_equal(now, self._given) else now

    def remove(self) -> None:
        """Take the layer away, and forget the edits."""
        self._tell.stop()
        self._watch(None)
        self._given = self._told = None
        self._overlay.remove()

    def close(self) -> None:
        """Take the layer away for good."""
        self.remove()
        self._overlay.close()

    def _watch(self, layer: Any) -> None:
        """Listen to another layer (None: to none)."""
        for old, connect in ((self._watched, False), (layer, True)):
            if old is None:
                continue
            # set_data: undo and redo tell nothing else.
            for event in (old.events.paint, old.events.labels_update, old.events.set_data, old.events.data):
                (event.connect if connect else event.disconnect)(self._on_event)
        self._watched = layer

    def _on_event(self, *_: object) -> None:
        # Not started anew by each event: a long stroke is told of while it goes on.
        if self._on_edited is not None and not self._tell.isActive():
            self._tell.start(_TOLD_MS)

    def _say_edited(self) -> None:
        if self._watched is None or self._told is None or self._on_edited is None:
            return
        # Panning and zooming make the same events: only a change counts.
        now = np.asarray(self._watched.data) != 0
        if not np.array_equal(now, self._told):
            self._told = now
            self._on_edited()
