"""What a user's hand does, and what napari does with a layer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent._napari._layers import LayerData


def add(viewer: Any, layer: LayerData) -> Any:
    """Put a layer into a viewer, as napari does with a reader's."""
    data, options, kind = layer
    return getattr(viewer, f"add_{kind}")(data, **options)


def click(
    viewer: Any, world: Sequence[float], *, button: int = 1, path: Sequence[tuple[float, float]] = ()
) -> None:
    """Press a mouse button on the canvas, move along a path of offsets in canvas pixels, and let go."""
    from napari.utils._proxies import ReadOnlyWrapper
    from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

    def event(kind: str, x: float, y: float) -> Any:
        values = {"type": kind, "button": button, "pos": (100 + x, 80 + y), "position": tuple(world)}
        values["modifiers"] = ()
        return ReadOnlyWrapper(SimpleNamespace(is_dragging=True, **values))

    mouse_press_callbacks(viewer, event("mouse_press", 0, 0))
    for x, y in path:
        mouse_move_callbacks(viewer, event("mouse_move", x, y))
    mouse_release_callbacks(viewer, event("mouse_release", *(path[-1] if path else (0, 0))))
