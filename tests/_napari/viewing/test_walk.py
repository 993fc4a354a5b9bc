"""A random walk over a large slide: the cache keeps to its cap, and memory does not grow with the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from napari_histolatent._napari._layers import slide_layers
from napari_histolatent._napari.viewing import add_slide, attach, cache, is_settled
from napari_histolatent.slides import Slide
from tests._napari.viewing.test_window import PatternBackend, exact, shown, threads_of_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.gui

_CAP_BYTES = 96 << 20
_GROWTH_BYTES = 120e6
"""Between the two halves of a walk: less than two views' frames and what the drawing library keeps."""


@pytest.mark.parametrize("seconds", [25, pytest.param(600, marks=pytest.mark.long)])
def test_a_walk_keeps_memory_flat(
    make_napari_viewer: Callable[..., Any], qtbot: Any, tmp_path: Path, seconds: float
) -> None:
    viewer, before = make_napari_viewer(show=True), cache().cap_bytes
    attach(viewer)
    cache().set_cap(_CAP_BYTES)
    side_px = 98_304
    layer = add_slide(viewer, slide_layers(Slide(PatternBackend(tmp_path / "pattern.svs", side_px=side_px))))
    rng, process = np.random.default_rng(0), psutil.Process()
    camera, world = viewer.scene.camera, side_px * 0.25
    memory, cached = [], []
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        what = rng.random()
        if what < 0.05:
            camera.center = tuple(rng.uniform(0.1 * world, 0.9 * world, 2))
        elif what < 0.35:
            camera.zoom = float(np.clip(camera.zoom * rng.uniform(0.6, 1.6), 0.03, 8))
        else:
            y, x = camera.center[-2:]
            reach = 300 / camera.zoom
            camera.center = tuple(np.clip(np.array([y, x]) + rng.uniform(-reach, reach, 2), 0, world))
        qtbot.wait(60)
        memory.append(process.memory_info().rss)
        cached.append(cache().used_bytes)
    qtbot.waitUntil(lambda: is_settled(layer), timeout=30_000)
    assert np.array_equal(shown(layer), exact(layer))
    assert max(cached) <= _CAP_BYTES
    assert max(cached) > 0.9 * _CAP_BYTES, "the walk was too short to fill the cache"
    quarter = len(memory) // 4
    assert np.median(memory[-quarter:]) - np.median(memory[quarter : 2 * quarter]) < _GROWTH_BYTES
    viewer.layers.clear()
    qtbot.waitUntil(lambda: not threads_of_ours(), timeout=5000)
    cache().set_cap(before)
