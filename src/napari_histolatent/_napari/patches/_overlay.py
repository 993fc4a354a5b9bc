"""A layer of ours that lies on a slide: it comes without stealing the selection, and goes with its slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari._layers import KEY

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari_histolatent.slides import Slide

_REGIONS = ("regions", "regions raster")


class Overlay:
    """The place of one layer on a slide.

    Parameters
    ----------
    viewer
        The viewer.
    slide
        The slide that the layer lies on; while none of the viewer's layers shows it, nothing is put there.
    role
        What the layer is, for its metadata.
    above
        Roles of the slide's layers that it lies directly above; None: on top of all.
    """

    def __init__(self, viewer: Any, slide: Slide, *, role: str, above: Collection[str] | None = None) -> None:
        # Plugins are handed proxies: the viewer itself is what keeps the connection.
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self.slide = slide
        self._role, self._above = role, above
        self._layer: Any = None
        self._is_closed = False
        self._viewer.layers.events.removed.connect(self._on_removed)
        self._viewer.layers.events.inserted.connect(self._on_inserted)

    @property
    def metadata(self) -> dict[str, Any]:
        """What goes into the layer's metadata."""
        return {KEY: {"role": self._role, "slide_digest": self.slide.info.digest}}

    @property
    def layer(self) -> Any:
        """The layer, or None where there is none (any more: the user may delete it)."""
        return self._layer if self._layer is not None and self._layer in self._viewer.layers else None

    @property
    def is_slide_there(self) -> bool:
        """Whether the viewer shows the slide."""
        return any(role == "slide" for _, role in self._of_slide())

    def put(self, layer: Any) -> None:
        """Insert the layer at its place; what is selected stays so. After `close` nothing is put."""
        if self._is_closed:
            return
        self.remove()
        layers = self._viewer.layers
        # All of it, not only the active one: with several selected, none is active.
        selected = set(layers.selection)
        layers.insert(self._place(), layer)
        self._layer = layer
        # In one go: who follows the selected layer must not see a moment without one.
        layers.selection.symmetric_difference_update(set(layers.selection) ^ selected)

    def remove(self) -> None:
        """Take the layer away, if it is there."""
        layer, self._layer = self.layer, None
        if layer is not None:
            self._viewer.layers.remove(layer)

    def close(self) -> None:
        """Take the layer away for good."""
        self._is_closed = True
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        self.remove()

    def _place(self) -> int:
        """Return where in the list the layer belongs."""
        below = [index for index, role in self._of_slide() if role in (self._above or ())]
        return max(below) + 1 if below else len(self._viewer.layers)

    def _on_inserted(self, event: Any) -> None:
        """Stay below the slide's regions, which come directly above the slide whenever they are read."""
        ours = event.value.metadata.get(KEY)
        if (
            self._above is not None
            and self._layer is not None
            and isinstance(ours, dict)
            and ours.get("slide_digest") == self.slide.info.digest
            and ours.get("role") in _REGIONS
        ):
            if QApplication.instance() is None:
                self._go_below(event.value)
            else:
                # Not at once, as above: others have not heard of the layer yet.
                QTimer.singleShot(0, lambda: self._go_below(event.value))

    def _go_below(self, other: Any) -> None:
        layers, layer = self._viewer.layers, self.layer
        if layer is None or other not in layers:
            return
        own, its = layers.index(layer), layers.index(other)
        if own > its:
            layers.move(own, its)

    def _of_slide(self) -> list[tuple[int, str]]:
        """Return place in the list and role of each layer of the slide."""
        digest, found = self.slide.info.digest, []
        for index, layer in enumerate(self._viewer.layers):
            ours = layer.metadata.get(KEY)
            if isinstance(ours, dict) and digest in (ours.get("digest"), ours.get("slide_digest")):
                found.append((index, str(ours.get("role"))))
        return found

    def _on_removed(self, event: Any) -> None:
        ours = event.value.metadata.get(KEY)
        if isinstance(ours, dict) and ours.get("digest") == self.slide.info.digest:
            if QApplication.instance() is None:
                self._let_go()
            else:
                # Not at once: napari is in the middle of telling everybody, and a layer that is moved is put back.
                QTimer.singleShot(0, self._let_go)

    def _let_go(self) -> None:
        if not self.is_slide_there:
            self.remove()
