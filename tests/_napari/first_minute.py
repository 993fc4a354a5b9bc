"""How soon does somebody who only installed the package scrub a tile's flip and see its Grad-CAM? With a clock.

    python tests/_napari/first_minute.py [--screenshots FOLDER] [--display :N] [--json FILE]

A fresh process in an empty home folder opens napari, and everything after that is done with the mouse: the Edit dock
from the Plugins menu, the generator's synthetic slide from File > Open Sample, a click on its tissue, reverse search,
flip, slider. What is printed is when each step was done, in seconds since the process was started and since the
sample slide was asked for; drawing that slide happens once on a machine, and its seconds are told apart. "computed"
are the process's seconds of processor time so far: on a machine that does nothing else no step takes longer than these.
Somebody's reading and moving of the mouse is not in it. A screen of its own is started (Xvfb) unless one is named.

This is no test of pytest: how fast a busy machine is must not fail one. `test_edit_mouse.py` does the same without a clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT_S = 300
WANTED_S = 60
SAMPLE = "Synthetic lung slide"
SIZE_PX = (1400, 900)
_STEP_MS = 10


class Clock:
    """When each step was done."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._asked: float | None = None
        self.steps: list[dict[str, Any]] = []

    def ask(self) -> None:
        """Say that the sample slide is asked for now."""
        self._asked = time.time()

    def done(self, what: str, *, at: float | None = None) -> None:
        """Write down that a step is done."""
        now = at or time.time()
        before = self.steps[-1]["since_start_s"] if self.steps else 0.0
        since = now - self._started
        self.steps.append(
            {
                "step": what,
                "took_s": since - before,
                "since_start_s": since,
                "since_sample_s": None if self._asked is None else now - self._asked,
                "computed_s": time.process_time(),
            }
        )
        sys.stderr.write(f"{since:7.1f} s  {what}\n")


def wait_until(is_true: Callable[[], Any], what: str) -> None:
    """Let the window live until something is so."""
    from qtpy.QtTest import QTest

    end = time.monotonic() + TIMEOUT_S
    while not is_true():
        if time.monotonic() > end:
            raise SystemExit(f"After {TIMEOUT_S} s there was still no sign that {what}.")
        QTest.qWait(_STEP_MS)


def click(widget: Any, pos: Any) -> None:
    """Click with the left button."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    QTest.mouseClick(widget, Qt.MouseButton.LeftButton, pos=pos)


def choose(window: Any, *captions: str) -> None:
    """Click through menus: each caption is the beginning of an entry's."""
    menu: Any = window.menuBar()
    for caption in captions:
        wait_until(menu.isVisible, f"the menu with {caption!r} is open")
        entry = next((a for a in menu.actions() if a.text().replace("&", "").startswith(caption)), None)
        if entry is None:
            said = ", ".join(a.text() for a in menu.actions())
            raise SystemExit(f"There is no entry {caption!r} in the menu: {said}.")
        inner = entry.menu()
        click(menu, menu.actionGeometry(entry).center())
        menu = inner


def press(dock: Any, widget: Any, *, share: float | None = None) -> None:
    """Scroll the dock to a control and click it: in its middle, or at a share of its width."""
    from qtpy.QtCore import QPoint
    from qtpy.QtTest import QTest

    dock.ensureWidgetVisible(widget)
    QTest.qWait(_STEP_MS)
    at = widget.rect().center()
    click(widget, at if share is None else QPoint(round(share * widget.width()), at.y()))


def click_middle_of_slide(viewer: Any, slide: Any) -> None:
    """Click the canvas where the middle of the slide is shown."""
    from qtpy.QtCore import QPoint

    from napari_histolatent._napari._layers import world_of

    canvas, camera = viewer.window._qt_viewer.canvas, viewer.scene.camera
    width, height = canvas._scene_canvas.size
    middle = world_of((slide.info.width_px / 2, slide.info.height_px / 2), slide.info)
    x = (middle[1] - camera.center[-1]) * camera.zoom + width / 2
    y = (middle[0] - camera.center[-2]) * camera.zoom + height / 2
    click(canvas.native, QPoint(round(x), round(y)))


def walk(started: float, screenshots: Path | None) -> list[dict[str, Any]]:
    """Do in a window what somebody new does, and return when each step was done."""
    import napari
    from qtpy.QtWidgets import QApplication

    clock = Clock(started)
    viewer = napari.Viewer()
    window = viewer.window._qt_window
    window.resize(*SIZE_PX)
    wait_until(window.isVisible, "napari is shown")
    QApplication.processEvents()
    clock.done("napari is open")

    choose(window, "Plugins", "Histolatent", "Edit")

    def edit_docks() -> list[Any]:
        return [widget for widget in QApplication.allWidgets() if type(widget).__name__ == "EditDock"]

    wait_until(lambda: edit_docks() and edit_docks()[0].isVisible(), "the Edit dock is open")
    (dock,) = edit_docks()
    clock.done("the Edit dock is open")

    clock.ask()
    choose(window, "File", "Open Sample", "Histolatent", SAMPLE)
    wait_until(lambda: len(viewer.layers) == 2, "the sample slide is open")
    (drawn,) = (Path(os.environ["XDG_DATA_HOME"]) / "napari-histolatent" / "samples").glob("*.tif")
    clock.done("the sample slide is drawn (once on a machine)", at=drawn.stat().st_mtime)

    from napari_histolatent._napari._session import session_of
    from napari_histolatent._napari.viewing import is_settled

    wait_until(lambda: is_settled(viewer.layers[1]), "the sample slide is shown sharp")
    clock.done("the sample slide is shown")
    wait_until(lambda: dock.binding.models is not None, "the models are loaded")
    clock.done("the models are loaded")

    def layers(start: str) -> list[Any]:
        return [layer for layer in viewer.layers if layer.name.startswith(start)]

    slide = session_of(viewer).slide()
    press(dock, dock.pick_button)
    click_middle_of_slide(viewer, slide)
    wait_until(dock.search_button.isEnabled, "a tile is picked")
    wait_until(lambda: layers("Grad-CAM tile"), "the Grad-CAM of the tile is shown")
    clock.done("a tile is picked, its Grad-CAM is shown")

    press(dock, dock.search_button)
    wait_until(lambda: "Found by" in dock.search_note.text(), "its latent vector is found")
    clock.done("its latent vector is found")

    panel = dock.path_panel
    wait_until(dock.flip_button.isEnabled, "it can be flipped")
    press(dock, dock.flip_button)
    wait_until(lambda: panel.slider.value() == panel.slider.maximum(), "the slider is at its right end")
    wait_until(lambda: layers("SYNTHETIC edit") and layers("Grad-CAM edit"), "the flip is shown")
    clock.done("it is flipped, with Grad-CAM")

    wait_until(lambda: dock.binding.is_ready, "all steps of the slider are ready")
    clock.done("all steps of the slider are ready")
    edit = layers("SYNTHETIC edit")[0]
    for _ in range(5):
        before = edit.data.copy()
        is_right = panel.slider.value() > panel.slider.maximum() / 2
        press(dock, panel.slider._slider, share=0.02 if is_right else 0.98)
        wait_until(partial(_differs, edit, before), "the slider changes the picture")
    clock.done("the slider is moved five times, each with its picture and Grad-CAM")
    heatmap = layers("Grad-CAM edit")[0]
    if not (heatmap.visible and heatmap.data[..., 3].any()):
        raise SystemExit("The Grad-CAM of the edit shows nothing.")
    if screenshots:
        press(dock, dock.zoom_button)
        dock.ensureWidgetVisible(panel)
        _picture(viewer, screenshots / "first_minute.png")
    print_table(clock.steps, drawn_s=_drawing_seconds(clock.steps))
    viewer.close()
    return clock.steps


def _differs(layer: Any, before: Any) -> bool:
    return bool((layer.data != before).any())


def _picture(viewer: Any, path: Path) -> None:
    from qtpy.QtTest import QTest

    QTest.qWait(1_000)
    path.parent.mkdir(parents=True, exist_ok=True)
    viewer.screenshot(str(path), canvas_only=False, flash=False)


def _drawing_seconds(steps: list[dict[str, Any]]) -> float:
    return next(float(v["since_sample_s"]) for v in steps if "is drawn" in v["step"])


def print_table(steps: list[dict[str, Any]], *, drawn_s: float) -> None:
    """Print when each step was done."""
    write = sys.stdout.write
    write(f"{'took':>7}{'start':>8}{'sample':>8}{'computed':>10}   seconds (load {os.getloadavg()[0]:.1f})\n")
    for step in steps:
        asked = "" if step["since_sample_s"] is None else f"{step['since_sample_s']:.1f}"
        figures = f"{step['took_s']:7.1f}{step['since_start_s']:8.1f}{asked:>8}{step['computed_s']:10.1f}"
        write(f"{figures}   {step['step']}\n")
    last = steps[-1]
    write(
        f"From the opened sample slide to the scrubbed flip with Grad-CAM: {last['since_sample_s']:.1f} s, of which the "
        f"slide was drawn for {drawn_s:.1f} s; {last['since_start_s']:.1f} s since napari was started. Wanted: {WANTED_S} s.\n"
    )


def fresh_environment(folder: Path) -> dict[str, str]:
    """Return an environment of somebody who never used any of this: an empty home, no settings, no models."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HISTOLATENT_", "NAPARI_", "XDG_", "QT_", "TORCH_"))
    }
    below = {
        "HOME": "home",
        "XDG_DATA_HOME": "home/.local/share",
        "XDG_STATE_HOME": "home/.local/state",
        "XDG_CACHE_HOME": "home/.cache",
        "XDG_CONFIG_HOME": "home/.config",
        "XDG_RUNTIME_DIR": "runtime",
    }
    for name in below.values():
        (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
    return kept | {name: str(folder / path) for name, path in below.items()} | {"QT_QPA_PLATFORM": "xcb"}


@contextmanager
def screen(display: str | None) -> Iterator[str]:
    """Give the name of a display: the one that is named, else a screen of its own."""
    if display:
        yield display
        return
    reading, writing = os.pipe()
    xvfb = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1440x940x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            number = pipe.readline().strip()
        if not number:
            raise SystemExit("Xvfb did not start; name a display with --display.")
        yield f":{number}"
    finally:
        xvfb.terminate()
        xvfb.wait()


def main() -> None:
    """Start a fresh process and have it walk."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--screenshots", type=Path, help="folder for a picture of the window at the end")
    parser.add_argument("--display", help="a display that is there, such as :7")
    parser.add_argument("--json", type=Path, help="write the steps here")
    parser.add_argument("--limit", type=float, default=570.0, help="seconds after which it is given up")
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.started is not None:
        steps = walk(options.started, options.screenshots)
        if options.json:
            options.json.write_text(json.dumps(steps, indent=1), encoding="utf-8")
        sys.stdout.flush()
        # What napari's threads still do has nothing to do with the clock.
        os._exit(0)
    command = [sys.executable, str(Path(__file__).resolve())]
    for name in ("screenshots", "json"):
        if getattr(options, name):
            command += [f"--{name}", str(getattr(options, name).absolute())]
    with TemporaryDirectory() as folder, screen(options.display) as display:
        environment = fresh_environment(Path(folder)) | {"DISPLAY": display}
        child = subprocess.Popen([*command, "--started", str(time.time())], env=environment, cwd=folder)
        try:
            code = child.wait(options.limit)
        except subprocess.TimeoutExpired:
            code = 1
            sys.stderr.write(f"It was not done after {options.limit:g} s, and was ended.\n")
        finally:
            child.kill()
            child.wait()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
