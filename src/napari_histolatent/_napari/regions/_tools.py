"""Drawing tools as small state machines: mouse in, finished outlines out. No napari: positions are level-0 (x, y)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_histolatent.annotations import ellipse_ring, rectangle_ring

Point = tuple[float, float]
Points = NDArray[np.float64]

TOOL_NAMES = (
    "polygon",
    "freehand",
    "rectangle",
    "ellipse",
    "brush_add",
    "brush_subtract",
    "split",
    "measure",
    "pick",
)

HINTS = {
    "polygon": "Click corners; double-click, Enter or the first corner closes. Backspace takes the last corner back, Esc gives up.",
    "freehand": "Drag round the tissue; letting go closes the outline.",
    "rectangle": "Drag from corner to corner; with Shift it is a square.",
    "ellipse": "Drag from corner to corner of its box; with Shift it is a circle.",
    "brush_add": "Drag to paint. Starting inside a region of the current class adds to it, elsewhere begins a new one.",
    "brush_subtract": "Drag over what is to be taken away, from the selected regions or else from those under the brush.",
    "split": "Drag a line right across a region: it falls into two.",
    "measure": "Drag from one point to another.",
    "pick": "Click a region to select it.",
}
"""How each tool is used, for the dock."""


@dataclass(frozen=True)
class Drawn:
    """What a tool is done with."""

    tool: str
    points: Points
    """Shape (n, 2), level-0 pixels: an outline, a stroke, a line or the one point that was clicked."""


class Tool(Protocol):
    """What the canvas tells a tool. Each answers with what is done by it, or None."""

    name: str
    pans: bool
    """Whether dragging moves the view instead of drawing."""

    @property
    def has_begun(self) -> bool:
        """Whether something is being drawn."""

    def press(self, xy: Point, *, near_px: float) -> Drawn | None:
        """Take a click (where `pans`), or the beginning of a drag; `near_px` counts as the same place."""

    def drag(self, xy: Point, *, keeps_ratio: bool) -> None:
        """Take a move with the button down."""

    def release(self) -> Drawn | None:
        """Take the end of a drag."""

    def hover(self, xy: Point) -> None:
        """Take a move without a button."""

    def finish(self) -> Drawn | None:
        """Take Enter, or a double click."""

    def take_back(self) -> bool:
        """Take the last point back; whether there was one."""

    def cancel(self) -> None:
        """Forget what was begun."""

    def preview(self) -> tuple[Literal["path", "polygon"], Points] | None:
        """Return what to show of what is being drawn."""


class _Base:
    pans = False

    def __init__(self, name: str) -> None:
        self.name = name
        self._points: list[Point] = []

    def press(self, xy: Point, *, near_px: float) -> Drawn | None:
        self._points = [xy]
        return None

    @property
    def has_begun(self) -> bool:
        return bool(self._points)

    def drag(self, xy: Point, *, keeps_ratio: bool) -> None:
        # Nothing, after Esc in the middle of a drag.
        if self._points and xy != self._points[-1]:
            self._points.append(xy)

    def release(self) -> Drawn | None:
        return self._done()

    def hover(self, xy: Point) -> None:
        return

    def finish(self) -> Drawn | None:
        return None

    def take_back(self) -> bool:
        return False

    def cancel(self) -> None:
        self._points = []

    def preview(self) -> tuple[Literal["path", "polygon"], Points] | None:
        return ("path", np.array(self._points)) if len(self._points) > 1 else None

    def _done(self) -> Drawn | None:
        points, self._points = self._points, []
        return Drawn(self.name, np.array(points, np.float64).reshape(-1, 2)) if points else None


class PolygonTool(_Base):
    """Corner by corner. The view can be dragged between corners."""

    pans = True

    def __init__(self) -> None:
        super().__init__("polygon")
        self._at: Point | None = None

    def press(self, xy: Point, *, near_px: float) -> Drawn | None:
        if len(self._points) >= 3 and _distance(xy, self._points[0]) <= near_px:
            return self.finish()
        # A double click comes as two presses at one place.
        if not self._points or _distance(xy, self._points[-1]) > near_px / 4:
            self._points.append(xy)
        self._at = xy
        return None

    def drag(self, xy: Point, *, keeps_ratio: bool) -> None:
        return

    def release(self) -> Drawn | None:
        return None

    def hover(self, xy: Point) -> None:
        self._at = xy

    def finish(self) -> Drawn | None:
        return self._done() if len(self._points) >= 3 else None

    def take_back(self) -> bool:
        if not self._points:
            return False
        self._points.pop()
        return True

    def preview(self) -> tuple[Literal["path", "polygon"], Points] | None:
        # Once: the mouse mostly stands where the last corner is.
        is_apart = self._points and self._at is not None and self._at != self._points[-1]
        points = [*self._points, self._at] if is_apart else self._points
        return ("path", np.array(points)) if len(points) > 1 else None


class FreehandTool(_Base):
    """An outline in one drag."""

    def __init__(self) -> None:
        super().__init__("freehand")

    def release(self) -> Drawn | None:
        if len(self._points) < 3:
            self.cancel()
        return self._done()


class BoxTool(_Base):
    """A rectangle or an ellipse between two corners."""

    def __init__(self, name: Literal["rectangle", "ellipse"]) -> None:
        super().__init__(name)

    def drag(self, xy: Point, *, keeps_ratio: bool) -> None:
        if not self._points:
            return
        (x0, y0), (x, y) = self._points[0], xy
        if keeps_ratio:
            side = max(abs(x - x0), abs(y - y0))
            x, y = x0 + np.copysign(side, x - x0), y0 + np.copysign(side, y - y0)
        self._points = [(x0, y0), (float(x), float(y))]

    def release(self) -> Drawn | None:
        points, self._points = self._points, []
        if len(points) < 2:
            return None
        return Drawn(self.name, self._outline(points))

    def preview(self) -> tuple[Literal["path", "polygon"], Points] | None:
        return ("polygon", self._outline(self._points)) if len(self._points) > 1 else None

    def _outline(self, points: list[Point]) -> Points:
        make = rectangle_ring if self.name == "rectangle" else ellipse_ring
        return make(*points[0], *points[1])


class BrushTool(_Base):
    """A stroke of a round brush; its radius is the caller's."""

    def __init__(self, name: Literal["brush_add", "brush_subtract"], radius_px: float) -> None:
        super().__init__(name)
        self.radius_px = radius_px
        self._at: Point | None = None

    def press(self, xy: Point, *, near_px: float) -> Drawn | None:
        self._at = xy
        return super().press(xy, near_px=near_px)

    def drag(self, xy: Point, *, keeps_ratio: bool) -> None:
        self._at = xy
        # Steps of a tenth of the radius do not show.
        if self._points and _distance(xy, self._points[-1]) > self.radius_px / 10:
            self._points.append(xy)

    def hover(self, xy: Point) -> None:
        self._at = xy

    def preview(self) -> tuple[Literal["path", "polygon"], Points] | None:
        if self._at is None:
            return None
        angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
        circle = self._at + self.radius_px * np.column_stack([np.cos(angles), np.sin(angles)])
        return (
            "path",
            np.vstack([self._points, circle, circle[:1]])
            if len(self._points) > 1
            else np.vstack([circle, circle[:1]]),
        )


class LineTool(_Base):
    """A path in one drag (split), or a straight line (measure)."""

    def __init__(self, name: Literal["split", "measure"]) -> None:
        super().__init__(name)

    def drag(self, xy: Point, *, keeps_ratio: bool) -> None:
        if self.name == "measure" and self._points:
            self._points = [self._points[0], xy]
        else:
            super().drag(xy, keeps_ratio=keeps_ratio)

    def release(self) -> Drawn | None:
        if len(self._points) < 2:
            self.cancel()
        return self._done()


class PickTool(_Base):
    """A click at a region."""

    pans = True

    def __init__(self) -> None:
        super().__init__("pick")

    def press(self, xy: Point, *, near_px: float) -> Drawn | None:
        return Drawn(self.name, np.array([xy]))

    def drag(self, xy: Point, *, keeps_ratio: bool) -> None:
        return

    def release(self) -> Drawn | None:
        return None


def make_tool(name: str, *, brush_radius_px: float) -> Tool:
    """Return the tool of a name in `TOOL_NAMES`."""
    match name:
        case "polygon":
            return PolygonTool()
        case "freehand":
            return FreehandTool()
        case "rectangle" | "ellipse":
            return BoxTool(name)
        case "brush_add" | "brush_subtract":
            return BrushTool(name, brush_radius_px)
        case "split" | "measure":
            return LineTool(name)
        case "pick":
            return PickTool()
    msg = f"no drawing tool is called {name!r}"
    raise ValueError(msg)


def _distance(a: Point, b: Point) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))
