"""A drawing tool on the canvas: mouse and keys of the viewer go to it, and a scratch layer shows what it draws.

The scratch layer holds one shape however many regions there are: adding a corner costs the same with 5,000 of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._napari._layers import KEY, level0_of, points_of, space_of, width_on_canvas
from napari_histolatent._napari.regions._tools import BrushTool, make_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_histolatent._napari.regions._tools import Drawn, Tool
    from napari_histolatent.slides import SlideInfo

_CLICK_CANVAS_PX = 5.0
_NEAR_CANVAS_PX = 8.0
"""So near the first corner, a click closes the polygon."""


class DrawingBoard:
    """While a tool is chosen, the viewer's mouse draws with it; `on_drawn` gets what is done."""

    def __init__(self, viewer: Any, on_drawn: Callable[[Drawn], None]) -> None:
        self._viewer, self._on_drawn = viewer, on_drawn
        self._tool: Tool | None = None
        self._info: SlideInfo | None = None
        self._color = (255, 220, 0)
        self._scratch: Any = None
        self._shown: NDArray[np.float64] | None = None
        self._kept_double_click: list[Any] = []
        self._callbacks = (
            (viewer.mouse_drag_callbacks, self._on_drag),
            (viewer.mouse_move_callbacks, self._on_move),
            (viewer.mouse_double_click_callbacks, self._on_double_click),
        )
        self._bound = [(callbacks, callback) for callbacks, callback in self._callbacks]

    @property
    def tool(self) -> str:
        """Name of the tool in use, or nothing."""
        return self._tool.name if self._tool is not None else ""

    def use(self, name: str, info: SlideInfo | None, *, brush_radius_px: float) -> None:
        """Take up a tool on a slide, or put it down (no name)."""
        self.put_down()
        if not name or info is None:
            return
        self._tool, self._info = make_tool(name, brush_radius_px=brush_radius_px), info
        for callbacks, callback in self._bound:
            callbacks.append(callback)
        # napari's own double click zooms in, which no one wants who closes a polygon.
        double = self._viewer.mouse_double_click_callbacks
        self._kept_double_click = [callback for callback in double if callback != self._on_double_click]
        for callback in self._kept_double_click:
            double.remove(callback)
        self._hold_view()

    def put_down(self) -> None:
        """Stop drawing; what was begun is forgotten."""
        if self._tool is None:
            return
        self._tool = None
        for callbacks, callback in self._bound:
            if callback in callbacks:
                callbacks.remove(callback)
        self._viewer.mouse_double_click_callbacks.extend(self._kept_double_click)
        self._kept_double_click = []
        active = self._viewer.layers.selection.active
        self._viewer.scene.camera.mouse_pan = True if active is None else active.mouse_pan
        self._remove_scratch()

    def _hold_view(self) -> None:
        """Keep a drag from moving the view; napari lets it again with each layer that becomes the active one."""
        if self._tool is not None and self._viewer.scene.camera.mouse_pan != self._tool.pans:
            self._viewer.scene.camera.mouse_pan = self._tool.pans

    def set_color(self, color: tuple[int, int, int]) -> None:
        """Draw in a class's colour."""
        self._color = color

    def set_brush_radius(self, radius_px: float) -> None:
        """Change the brush in use."""
        if isinstance(self._tool, BrushTool):
            self._tool.radius_px = radius_px
            self._show()

    def finish(self) -> bool:
        """Close what is being drawn; whether there was anything to close."""
        drawn = self._tool.finish() if self._tool is not None else None
        self._hand_out(drawn)
        return drawn is not None

    def take_back(self) -> bool:
        """Take the last corner back; whether there was one."""
        if self._tool is None or not self._tool.take_back():
            return False
        self._show()
        return True

    def cancel(self) -> bool:
        """Forget what was begun; whether there was anything."""
        if self._tool is None or not self._tool.has_begun:
            return False
        self._tool.cancel()
        self._show()
        return True

    # The canvas

    def _on_drag(self, _: Any, event: Any) -> Iterator[None]:
        tool = self._tool
        if tool is None or event.button != 1:
            return
        pressed, start = tuple(event.pos), self._level0(event)
        is_drag = False
        if not tool.pans:
            self._hand_out(tool.press(start, near_px=self._near_px()))
            self._show()
        yield
        while event.type == "mouse_move":
            is_drag |= max(abs(a - b) for a, b in zip(event.pos, pressed, strict=True)) > _CLICK_CANVAS_PX
            if not tool.pans:
                tool.drag(self._level0(event), keeps_ratio="Shift" in event.modifiers)
                self._show()
            yield
        if tool is not self._tool:
            return
        if not tool.pans:
            self._hand_out(tool.release())
        elif not is_drag:
            self._hand_out(tool.press(start, near_px=self._near_px()))
        self._show()

    def _on_move(self, _: Any, event: Any) -> None:
        if self._tool is not None:
            self._tool.hover(self._level0(event))
            self._show()

    def _on_double_click(self, _: Any, event: Any) -> None:
        self.finish()

    def _level0(self, event: Any) -> tuple[float, float]:
        assert self._info is not None
        return level0_of(event.position, self._info)

    def _near_px(self) -> float:
        assert self._info is not None
        return width_on_canvas(self._viewer, self._info, canvas_px=_NEAR_CANVAS_PX)

    def _hand_out(self, drawn: Drawn | None) -> None:
        if drawn is not None:
            self._show()
            self._on_drawn(drawn)

    # The scratch layer

    def _show(self) -> None:
        self._hold_view()
        shown = self._tool.preview() if self._tool is not None else None
        if shown is None or self._info is None:
            self._clear_scratch()
            return
        kind, points = shown
        if self._shown is not None and np.array_equal(self._shown, points):
            return  # a click comes as several events at one place
        self._shown = points
        data = points_of(points)
        width = width_on_canvas(self._viewer, self._info, canvas_px=2)
        if self._scratch is None or self._scratch not in self._viewer.layers:
            self._add_scratch()
        self._scratch.selected_data = set()
        with self._scratch.block_thumbnail_update():
            with self._scratch.events.blocker_all():
                self._scratch.data = []
            self._scratch.add(
                [data],
                shape_type=kind,
                edge_color=np.array([*self._color, 255]) / 255,
                face_color="transparent",
                edge_width=width,
            )

    def _add_scratch(self) -> None:
        assert self._info is not None
        active = self._viewer.layers.selection.active
        self._scratch = self._viewer.add_shapes(
            name="being drawn",
            ndim=2,
            metadata={KEY: {"role": "drawing", "slide_digest": self._info.digest}},
            **space_of(self._info),
        )
        self._viewer.layers.selection.active = active
        self._hold_view()

    def _clear_scratch(self) -> None:
        """Empty the layer; it stays while the tool is in use, as taking it away is no quick thing in napari."""
        if self._shown is not None and self._scratch in self._viewer.layers:
            with self._scratch.block_thumbnail_update():
                self._scratch.data = []
        self._shown = None

    def _remove_scratch(self) -> None:
        scratch, self._scratch, self._shown = self._scratch, None, None
        if scratch is not None and scratch in self._viewer.layers:
            self._viewer.layers.remove(scratch)
