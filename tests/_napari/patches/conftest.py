from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari.viewing import cache, is_settled
from napari_histolatent.slides import Slide
from tests._napari.regions.hand import Hand
from tests.conftest import ArrayBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MPP = (0.2527, 0.2491)
"""(x, y): neither round nor square."""


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any]) -> Iterator[Any]:
    """A window."""
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1000, 700)
    yield viewer
    cache().clear()


class Canvas(Hand):
    """A hand that also sees."""

    def see(self) -> np.ndarray:
        """Return the canvas as it is drawn, int, shape (height, width, 3), once the slides' tiles are read."""
        slides = [v for v in self.viewer.layers if v.metadata.get("histolatent", {}).get("role") == "slide"]
        self.qtbot.waitUntil(lambda: all(is_settled(v) for v in slides if v.visible), timeout=20_000)
        self.qtbot.wait(60)
        pixels: np.ndarray = self.viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        assert pixels.shape[1] == self.canvas.width()
        return pixels

    def color_at(self, place: tuple[float, float], pixels: np.ndarray | None = None) -> np.ndarray:
        """Return the colour of the canvas at a level-0 place."""
        at = self.at(place)
        color: np.ndarray = (self.see() if pixels is None else pixels)[at.y(), at.x()]
        return color


@pytest.fixture
def canvas(qtbot: Any, window: Any) -> Canvas:
    """What the user does in the window, and sees."""
    return Canvas(qtbot, window)


@pytest.fixture
def plain() -> Callable[..., Slide]:
    """A function that makes a slide in memory, grey but for boxes in colours: `plain(name, {box: rgb})`."""

    def make(
        name: str = "a", boxes: dict[tuple[int, int, int, int], tuple[int, int, int]] | None = None
    ) -> Slide:
        pixels = np.full((400, 600, 3), 128, np.uint8)
        for (left, top, right, bottom), color in (boxes or {}).items():
            pixels[top:bottom, left:right] = color
        backend = ArrayBackend([pixels], MPP)
        backend.info = replace(backend.info, digest=name * 64, path=Path(f"{name}.tiff"))
        return Slide(backend)

    return make
