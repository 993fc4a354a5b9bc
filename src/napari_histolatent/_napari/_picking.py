"""Clicks on the canvas, told apart from drags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DRAG_CANVAS_PX = 5.0


class CanvasClicks:
    """While switched on, calls `on_click(world_position)` for each click on the viewer's canvas."""

    def __init__(self, viewer: Any, on_click: Callable[[tuple[float, ...]], None]) -> None:
        self._viewer, self._on_click = viewer, on_click
        self._callback = self._listen  # one object, so that it can be found again
        self._is_on = False

    def switch(self, on: bool) -> None:
        """Start or stop listening."""
        callbacks = self._viewer.mouse_drag_callbacks
        if on and not self._is_on:
            callbacks.append(self._callback)
        elif not on and self._is_on and self._callback in callbacks:
            callbacks.remove(self._callback)
        self._is_on = on

    def _listen(self, viewer: Any, event: Any) -> Iterator[None]:
        if event.button != 1:
            return
        pressed, position = tuple(event.pos), tuple(event.position)
        moved = 0.0
        yield
        while event.type == "mouse_move":
            moved = max(moved, *(abs(a - b) for a, b in zip(event.pos, pressed, strict=True)))
            yield
        if moved <= _DRAG_CANVAS_PX:
            self._on_click(position)
