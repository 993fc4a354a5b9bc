"""A real napari window for the benchmarks: its canvas, its event loop, its frames, its memory.

Under Xvfb where there is no display, never QT_QPA_PLATFORM=offscreen, whose canvas stays black. Settings and user
data are those of a temporary folder, so that no user's are read or changed. Only public API of napari and Qt.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

KEY = "histolatent"
_SCREEN = "-screen 0 2560x1440x24"
_POLL_MS = 4


def ensure_display() -> None:
    """Start this process again under Xvfb if there is no display, and away from the user's own settings.

    Raises
    ------
    SystemExit
        If there is neither a display nor xvfb-run.
    """
    if not os.environ.get("DISPLAY") and sys.platform == "linux":
        if shutil.which("xvfb-run") is None:
            raise SystemExit("There is no display; install Xvfb (xvfb-run) or run this in a desktop session.")
        os.environ.pop("QT_QPA_PLATFORM", None)
        os.execvp("xvfb-run", ["xvfb-run", "-a", "-s", _SCREEN, sys.executable, *sys.argv])
    folder = tempfile.mkdtemp(prefix="histolatent-benchmark-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
    os.environ["HISTOLATENT_DATA_DIR"] = folder


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


class Heartbeat:
    """Records how long the event loop did not answer: gaps between the ticks of a timer, in ms."""

    def __init__(self, *, interval_ms: int = 2) -> None:
        from qtpy.QtCore import Qt, QTimer

        self._gaps: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(interval_ms)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def _tick(self) -> None:
        now = time.perf_counter()
        self._gaps.append((now - self._last) * 1e3)
        self._last = now

    def restart(self) -> None:
        """Forget what was recorded."""
        self._gaps.clear()
        self._last = time.perf_counter()

    def gaps(self) -> list[float]:
        """Return the gaps since `restart`, with the one that is still open."""
        return [*self._gaps, (time.perf_counter() - self._last) * 1e3]

    def worst(self) -> float:
        """Return the longest gap since `restart`."""
        return max(self.gaps())

    def stop(self) -> None:
        """End the timer."""
        self._timer.stop()


class Window:
    """A napari viewer whose canvas has a given size, in pixels."""

    def __init__(self, width: int, height: int) -> None:
        import napari
        from qtpy.QtOpenGLWidgets import QOpenGLWidget
        from qtpy.QtWidgets import QApplication

        self.viewer = napari.Viewer()
        self._app = QApplication.instance()
        canvases = [w for top in self._app.topLevelWidgets() for w in top.findChildren(QOpenGLWidget)]
        self.canvas = canvases[-1]
        self.frames = 0
        self.canvas.frameSwapped.connect(self._count)
        self.run_for(0.3)
        self._resize_canvas(width, height)
        self.heart = Heartbeat()

    def _count(self) -> None:
        self.frames += 1

    def _resize_canvas(self, width: int, height: int) -> None:
        top = self.canvas.window()
        for _ in range(8):
            if (self.canvas.width(), self.canvas.height()) == (width, height):
                return
            self.viewer.window.resize(
                top.width() + width - self.canvas.width(), top.height() + height - self.canvas.height()
            )
            self.run_for(0.15)
        sys.stdout.write(
            f"note: the canvas is {self.canvas.width()} x {self.canvas.height()} px, not {width} x {height}\n"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.heart.stop()
        self.clear()
        self.viewer.close()

    # The event loop

    def run_until(self, is_done: Callable[[], bool], *, timeout: float) -> bool:
        """Run the event loop until `is_done()`; return whether it came true in time. Sleeps between events."""
        from qtpy.QtCore import QEventLoop, Qt, QTimer

        loop, timer, end = QEventLoop(), QTimer(), time.perf_counter() + timeout

        def poll() -> None:
            if is_done() or time.perf_counter() >= end:
                loop.quit()

        timer.setTimerType(Qt.TimerType.PreciseTimer)
        timer.timeout.connect(poll)
        timer.start(_POLL_MS)
        loop.exec()
        timer.stop()
        return is_done()

    def run_for(self, seconds: float) -> None:
        """Run the event loop for a while."""
        end = time.perf_counter() + seconds
        self.run_until(lambda: time.perf_counter() >= end, timeout=seconds)

    def run_until_drawn(self, *, timeout: float = 5.0) -> bool:
        """Run the event loop until one more frame is on the canvas."""
        before = self.frames
        self.canvas.update()
        return self.run_until(lambda: self.frames > before, timeout=timeout)

    # The camera, in level-0 pixels

    @property
    def camera(self) -> Any:
        """napari's camera: `viewer.camera` before 0.9."""
        return self.viewer.scene.camera if hasattr(self.viewer, "scene") else self.viewer.camera

    def look(self, level0_xy: tuple[float, float], zoom: float, *, scale: tuple[float, float]) -> None:
        """Put a level-0 point in the middle; `zoom` is canvas px per level-0 px, `scale` the layer's (y, x)."""
        self.camera.center = (0.0, (level0_xy[1] - 0.5) * scale[0], (level0_xy[0] - 0.5) * scale[1])
        self.camera.zoom = zoom / scale[1]

    def picture(self) -> NDArray[np.uint8]:
        """Return what is on the canvas: (height, width, 3)."""
        from qtpy.QtGui import QImage

        image = self.canvas.grabFramebuffer().convertToFormat(QImage.Format.Format_RGBA8888)
        pixels = np.frombuffer(image.constBits().asarray(image.sizeInBytes()), np.uint8)
        return pixels.reshape(image.height(), image.bytesPerLine() // 4, 4)[:, : image.width(), :3].copy()

    # Layers

    def clear(self) -> None:
        """Take all layers away, and let that be drawn.

        vispy's own loop crashes (a segmentation fault in glDrawArrays; 0.17, llvmpipe) where two image layers are
        removed and another is added before the next frame.
        """
        self.viewer.layers.clear()
        self.run_for(0.3)
        self.run_until_drawn(timeout=1.0)

    def show_slide(self, slide: Any) -> tuple[Any, Any]:
        """Add the layers of an open slide; return (overview, slide layer)."""
        from napari.layers import Layer

        from napari_histolatent._napari._layers import slide_layers

        for data in slide_layers(slide):
            self.viewer.add_layer(Layer.create(*data))
        return self.slide_layers()

    def slide_layers(self) -> tuple[Any, Any]:
        """Return the newest (overview, slide layer) of the viewer."""
        found = {}
        for layer in self.viewer.layers:
            found[layer.metadata.get(KEY, {}).get("role")] = layer
        return found["overview"], found["slide"]

    def settle(self, layer: Any, *, timeout: float) -> bool:
        """Run the event loop until every tile of the view that the camera shows now is read and shown."""
        from napari_histolatent._napari.viewing import is_settled

        # The level and the box of the view are those of the last frame: one has to be drawn first.
        return self.run_until_drawn() and self.run_until(lambda: is_settled(layer), timeout=timeout)


def view_box(layer: Any) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of what napari shows of a layer, in pixels of its level."""
    (top, left), (bottom, right) = np.asarray(layer.corner_pixels)[:, -2:].tolist()
    return top, bottom + 1, left, right + 1


def zoom_steps(fit: float, end: float, count: int) -> list[float]:
    """Return `count` zooms in equal ratios, the first one step beyond `fit`, the last `end`."""
    return [float(v) for v in np.geomspace(fit, end, count + 1)[1:]]


def pan_steps(start: tuple[float, float], step: tuple[float, float], count: int) -> list[tuple[float, float]]:
    """Return `count` points (x, y): right, down, left, up by one step each along a growing spiral."""
    (x, y), points = start, []
    directions, side, turn = ((1, 0), (0, 1), (-1, 0), (0, -1)), 1, 0
    while len(points) < count:
        dx, dy = directions[turn % 4]
        for _ in range(side):
            x, y = x + dx * step[0], y + dy * step[1]
            points.append((x, y))
        turn += 1
        side += turn % 2 == 0
    return points[:count]


def fit_zoom(canvas: tuple[int, int], slide: tuple[int, int]) -> float:
    """Return the zoom (canvas px per level-0 px) at which the slide fills 95 % of the canvas, as napari's own."""
    return 0.95 * min(canvas[0] / slide[0], canvas[1] / slide[1])
