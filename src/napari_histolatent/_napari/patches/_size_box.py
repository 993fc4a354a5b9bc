"""Boxes of patches: the one that follows the mouse, and those of the patches under it or selected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QTimer

from napari_histolatent._napari._layers import level0_of, points_of, space_of, width_on_canvas
from napari_histolatent._napari.patches._overlay import Overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in level-0 pixels."""

MAX_OUTLINES = 200
"""So many boxes napari's shapes draw at the pace of a hand."""

_OUTLINE_CANVAS_PX = 2.0
_MOVE_MS = 16
_ZOOM_REST_MS = 120
_YELLOW = (255, 220, 0)


class PatchOutline:
    """Outlines of a few patches, equally thin on the canvas at every zoom. For the UI thread."""

    def __init__(
        self, viewer: Any, slide: Slide, *, role: str = "picked", name: str = "outlined patches"
    ) -> None:
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self._slide, self._name = slide, f"{name} of {slide.info.path.name}"
        self._overlay = Overlay(viewer, slide, role=role)
        self._boxes: NDArray[np.float64] = np.empty((0, 4))
        self._colors: NDArray[np.float64] = np.empty((0, 4))
        self._width = 0.0
        self._rest = QTimer()
        self._rest.setSingleShot(True)
        self._rest.timeout.connect(self._match_zoom)
        self._viewer.scene.camera.events.zoom.connect(self._on_zoom)

    @property
    def layer(self) -> Any:
        """The napari layer, or None while there is none."""
        return self._overlay.layer

    def show(
        self,
        boxes: Sequence[Box] | NDArray[np.float64],
        colors: Sequence[tuple[int, int, int]] | NDArray[np.uint8],
    ) -> int:
        """Outline these patches and no others; return how many are: the first 200.

        Parameters
        ----------
        boxes
            Left, top, right, bottom in level-0 pixels, shape (n, 4).
        colors
            RGB, 0 to 255, shape (n, 3).
        """
        shown = np.asarray(boxes, np.float64).reshape(-1, 4)[:MAX_OUTLINES]
        rgba = np.ones((len(shown), 4))
        rgba[:, :3] = np.asarray(colors, np.float64).reshape(-1, 3)[:MAX_OUTLINES] / 255
        if not self._overlay.is_slide_there or (not len(shown) and self.layer is None):
            return 0
        is_same = np.array_equal(shown, self._boxes) and np.array_equal(rgba, self._colors)
        if not is_same or self.layer is None:
            self._boxes, self._colors = shown, rgba
            self._draw()
        return len(shown)

    def clear(self) -> None:
        """Outline nothing; the layer stays, for making one takes napari longer than showing it."""
        self.show((), ())

    def remove(self) -> None:
        """Take the layer away."""
        self._rest.stop()
        self._boxes, self._colors = np.empty((0, 4)), np.empty((0, 4))
        self._overlay.remove()

    def close(self) -> None:
        """Take the layer away for good."""
        self.remove()
        self._viewer.scene.camera.events.zoom.disconnect(self._on_zoom)
        self._overlay.close()

    def _draw(self) -> None:
        info = self._slide.info
        if self.layer is None:
            self._overlay.put(
                Shapes(
                    ndim=2, name=self._name, opacity=1.0, metadata=self._overlay.metadata, **space_of(info)
                )
            )
        layer = self.layer
        self._width = width_on_canvas(self._viewer, info, canvas_px=_OUTLINE_CANVAS_PX)
        # Corners from the top left, clockwise.
        corners = self._boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
        layer.selected_data = set()
        with layer.block_thumbnail_update():
            with layer.events.blocker_all():
                layer.data = []
            if not len(self._boxes):
                layer.refresh()
                return
            layer.add(
                list(points_of(corners).reshape(-1, 4, 2)),
                shape_type="rectangle",
                edge_color=self._colors,
                face_color="transparent",
                edge_width=self._width,
            )

    def _on_zoom(self, *_: object) -> None:
        if len(self._boxes):
            self._rest.start(_ZOOM_REST_MS)

    def _match_zoom(self) -> None:
        """Draw anew if the outlines have become much thinner or thicker: napari's widths are in pixels of the slide."""
        if self.layer is None:
            return
        width = width_on_canvas(self._viewer, self._slide.info, canvas_px=_OUTLINE_CANVAS_PX)
        if not 2 / 3 < width / max(self._width, 1e-9) < 3 / 2:
            self._draw()


class SizeBox:
    """A box as large as a patch that follows the mouse: what a click would cut. For the UI thread."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self._callback = self._on_move  # one object, so that it can be found again
        self._slide: Slide | None = None
        self._outline: PatchOutline | None = None
        self._size = (0.0, 0.0)
        self._snap: Callable[[tuple[float, float]], Box | None] | None = None
        self._color = _YELLOW
        self._mouse: tuple[float, float] | None = None
        self._is_behind = False
        self._box: Box | None = None
        self._pace = QTimer()
        self._pace.setSingleShot(True)
        self._pace.timeout.connect(self._catch_up)

    @property
    def is_on(self) -> bool:
        """Whether the box follows the mouse."""
        return self._outline is not None

    @property
    def box(self) -> Box | None:
        """Where the box is, or None while it is nowhere."""
        return self._box

    @property
    def layer(self) -> Any:
        """The napari layer, or None while there is none."""
        return self._outline.layer if self._outline is not None else None

    def switch_on(
        self,
        slide: Slide,
        *,
        size_level0_xy: tuple[float, float],
        snap: Callable[[tuple[float, float]], Box | None] | None = None,
    ) -> None:
        """Follow the mouse over a slide from now on.

        Parameters
        ----------
        slide
            The slide.
        size_level0_xy
            Size of a patch, (width, height) in level-0 pixels.
        snap
            Returns the box for a level-0 point (None: none there), quickly. Without it the box is centred on the
            mouse, its corner on a whole pixel as that of a patch that is cut.
        """
        if self._outline is not None and self._slide is not slide:
            self.switch_off()
        self._slide, self._size, self._snap = slide, size_level0_xy, snap
        if self._outline is None:
            self._outline = PatchOutline(self._viewer, slide, role="size box", name="size box")
            self._viewer.mouse_move_callbacks.append(self._callback)
        self._follow()

    def switch_off(self) -> None:
        """Stop following the mouse; the box goes."""
        self._pace.stop()
        if self._callback in self._viewer.mouse_move_callbacks:
            self._viewer.mouse_move_callbacks.remove(self._callback)
        if self._outline is not None:
            self._outline.close()
        self._slide = self._outline = self._snap = self._mouse = self._box = None

    def set_size(self, size_level0_xy: tuple[float, float]) -> None:
        """Make the box another size, where it is."""
        self._size = size_level0_xy
        self._follow()

    def set_color(self, color: tuple[int, int, int]) -> None:
        """Draw the box in another colour, RGB, 0 to 255."""
        self._color = color
        self._follow()

    def _on_move(self, _: Any, event: Any) -> None:
        if self._slide is not None:
            self._mouse = level0_of(event.position, self._slide.info)
            self._follow()

    def _follow(self) -> None:
        """Draw the box now, or, if that was done a moment ago, in a moment."""
        if self._mouse is None or self._outline is None:
            return
        self._is_behind = self._pace.isActive()
        if not self._is_behind:
            self._draw()
            self._pace.start(_MOVE_MS)

    def _catch_up(self) -> None:
        if self._is_behind:
            self._follow()

    def _draw(self) -> None:
        assert self._mouse is not None
        assert self._outline is not None
        if self._snap is not None:
            self._box = self._snap(self._mouse)
        else:
            left, top = (round(self._mouse[i] - self._size[i] / 2) for i in (0, 1))
            self._box = (left, top, left + self._size[0], top + self._size[1])
        self._outline.show(
            [] if self._box is None else [self._box], [] if self._box is None else [self._color]
        )
