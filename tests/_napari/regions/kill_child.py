"""A user whose napari is killed, and one who comes back: `kill_child.py draw|look SLIDE OUT`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import napari
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari._opening import open_in
from tests._napari.regions.hand import Hand

CORNERS = [(200.0, 150.0), (600.0, 180.0), (560.0, 500.0), (210.0, 480.0)]


def wait_until(condition, seconds=30.0):
    """Go on until something is so, or the time is over."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.01)
    assert condition()


def tell(out, viewer, regions):
    """Write what is seen, whole or not at all."""
    layers = [layer.name for layer in viewer.layers]
    found = {
        "regions": [[r.class_name, r.geometry.wkb_hex] for r in regions.document.regions.values()],
        "layers": layers,
        "notices": [notification.message for notification in notification_manager.records],
    }
    temporary = out.with_suffix(".part")
    temporary.write_text(json.dumps(found))
    temporary.replace(out)


def main(what, slide, out):
    """Draw and wait to be killed, or look."""
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1100, 700)
    _, dock = viewer.window.add_plugin_dock_widget("napari-histolatent", "Regions")
    open_in(viewer, [slide])
    wait_until(lambda: dock.binding._regions is not None and not dock.binding._regions.is_loading)
    regions = dock.binding._regions
    hand = Hand(None, viewer)
    hand.slide = regions.slide
    if what == "draw":
        viewer.reset_view()
        QTest.mouseClick(dock.tool_buttons["polygon"], Qt.MouseButton.LeftButton)
        wait_until(lambda: regions.shapes is not None)
        hand.click(*CORNERS, CORNERS[0])
        wait_until(lambda: len(regions.document.regions) == 1)
        tell(out, viewer, regions)
        while True:  # until it is killed
            QApplication.processEvents()
            time.sleep(0.01)
    wait_until(lambda: regions.shapes is not None)
    tell(out, viewer, regions)
    viewer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
