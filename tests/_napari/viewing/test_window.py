"""A real window over slides whose reader is slow, or fails: never blocked, never wrong, nothing left behind."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari._layers import KEY, slide_layers
from napari_histolatent._napari.viewing import SlideSource, add_slide, attach, cache, is_settled, view_of
from napari_histolatent.errors import SlideError
from napari_histolatent.slides import Level, Slide, SlideInfo, open_slide, write_synthetic_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.gui


class PatternBackend:
    """A large slide computed from places: any tile at a wrong place or of a wrong level is seen."""

    def __init__(self, path: Path, *, side_px: int = 16_384, seconds: float = 0.0) -> None:
        self.seconds, self.closed, self.reads = seconds, 0, 0
        self.bad: tuple[int, int, int, int] | None = None
        """Left, top, right, bottom in level-0 pixels: what cannot be read."""
        self.info = SlideInfo(
            path=path,
            backend="pattern",
            vendor=None,
            digest="pattern",
            levels=tuple(Level(side_px // n, side_px // n, float(n)) for n in (1, 4, 16)),
            mpp_x=0.25,
            mpp_y=0.25,
            mpp_source="pattern",
            bounds=(0, 0, side_px, side_px),
            background=(255, 255, 255),
            associated=(),
        )

    def read_level(self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]) -> np.ndarray:
        self.reads += 1
        time.sleep(self.seconds)
        n = round(self.info.levels[level].downsample)
        x0, y0 = (v // n for v in level0_xy)
        if self.bad is not None:
            left, top, right, bottom = self.bad
            if (
                x0 * n < right
                and (x0 + size_px[0]) * n > left
                and y0 * n < bottom
                and (y0 + size_px[1]) * n > top
            ):
                msg = "pattern.svs opens, but its pixels cannot be read; copy it again."
                raise SlideError(msg)
        y, x = np.ogrid[y0 : y0 + size_px[1], x0 : x0 + size_px[0]]
        return np.stack(
            [(x // 8 + 0 * y) % 251, (y // 8 + 0 * x) % 241, (x // 64 + y // 64) % 200 + level], -1
        ).astype(np.uint8)

    def read_associated(self, name: str) -> np.ndarray:
        raise NotImplementedError

    def icc_profile(self) -> bytes | None:
        return None

    def close(self) -> None:
        self.closed += 1


CROSS = """
import threading, time
import napari
from pathlib import Path
from qtpy.QtWidgets import QApplication
from napari_histolatent._napari._layers import slide_layers
from napari_histolatent._napari.viewing import add_slide
from napari_histolatent.slides import Slide
from tests._napari.viewing.test_window import PatternBackend, threads_of_ours

def wait(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)

viewer, other = napari.Viewer(), napari.Viewer()
add_slide(viewer, slide_layers(Slide(PatternBackend(Path("pattern.svs")))))
wait(0.5)
print(bool(threads_of_ours()))
viewer.window._qt_window.close()
wait(1.5)
print(bool(threads_of_ours()))
other.close()
"""


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any]) -> Iterator[Any]:
    """A window that is really drawn."""
    viewer = make_napari_viewer(show=True)
    attach(viewer)
    yield viewer
    cache().clear()


def threads_of_ours() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("histolatent-reader", "histolatent-composer"))]


def show(viewer: Any, backend: PatternBackend) -> Any:
    """Open a slide and return its multiscale layer."""
    return add_slide(viewer, slide_layers(Slide(backend)))


def settle(qtbot: Any, layer: Any) -> None:
    qtbot.waitUntil(lambda: is_settled(layer), timeout=30_000)
    qtbot.wait(150)


def shown(layer: Any) -> np.ndarray:
    """Return what napari has of the current view."""
    (top, left), (bottom, right) = layer.corner_pixels
    return layer.data[layer.data_level][top : bottom + 1, left : right + 1]


def exact(layer: Any) -> np.ndarray:
    (top, left), (bottom, right) = layer.corner_pixels
    return layer.data[layer.data_level].read_exact((top, bottom + 1, left, right + 1))


def zoom_in(viewer: Any, qtbot: Any, times: float) -> None:
    viewer.scene.camera.zoom *= times
    qtbot.wait(60)


def test_every_settled_view_is_exact(window: Any, qtbot: Any, tmp_path: Path) -> None:
    layer = show(window, PatternBackend(tmp_path / "pattern.svs", seconds=0.002))
    levels = set()
    for _ in range(7):
        zoom_in(window, qtbot, 1.8)
        y, x = window.scene.camera.center[-2:]
        window.scene.camera.center = (y + 30, x - 50)
        settle(qtbot, layer)
        levels.add(layer.data_level)
        pixels = shown(layer)
        assert (pixels[..., 3] == 255).all()
        assert np.array_equal(pixels, exact(layer))
    assert {0, 1, 2} <= levels


def test_the_window_is_not_held_up_by_a_slow_reader(
    window: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs")
    layer = show(window, backend)
    backend.seconds = 0.2
    main, on_main = threading.get_ident(), []
    real = backend.read_level

    def watched(*arguments: Any) -> np.ndarray:
        on_main.append(threading.get_ident() == main)
        return real(*arguments)

    monkeypatch.setattr(backend, "read_level", watched)
    for _ in range(5):
        zoom_in(window, qtbot, 2)
    assert not is_settled(layer)
    assert shown(layer).shape[2] == 4, "an answer at once, whatever is read"
    qtbot.wait(500)
    assert on_main
    assert not any(on_main), "a read on the UI thread"


def test_any_other_index_is_read_exactly_at_once(window: Any, qtbot: Any, tmp_path: Path) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs")
    layer = show(window, backend)
    backend.seconds = 0.05
    zoom_in(window, qtbot, 8)
    box = (5000, 5040, 7000, 7100)
    expected = backend.read_level(0, (7000, 5000), (100, 40))
    assert np.array_equal(layer.data[0][5000:5040, 7000:7100, :3], expected)
    assert np.array_equal(layer.data[0].read_exact(box)[..., :3], expected)


def test_the_users_own_setting_of_async_is_left_alone_and_works(
    window: Any, qtbot: Any, tmp_path: Path
) -> None:
    from napari.settings import get_settings

    settings = get_settings()
    before = settings.experimental.async_
    layer = show(window, PatternBackend(tmp_path / "pattern.svs"))
    assert settings.experimental.async_ == before
    settings.experimental.async_ = True
    try:
        zoom_in(window, qtbot, 6)
        settle(qtbot, layer)
        assert np.array_equal(shown(layer), exact(layer))
    finally:
        settings.experimental.async_ = before


def test_a_damaged_place_is_striped_and_told_of_once(
    window: Any, qtbot: Any, tmp_path: Path, errors: list[str]
) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs")
    layer = show(window, backend)
    backend.bad = (8000, 8000, 8100, 8100)
    zoom_in(window, qtbot, 12)
    settle(qtbot, layer)
    qtbot.waitUntil(lambda: len(errors) > 0, timeout=3000)
    qtbot.wait(700)
    assert len(errors) == 1
    assert "copy it again" in errors[0]
    assert "striped" in errors[0]
    n = layer.data[layer.data_level].downsample
    (top, left), _ = layer.corner_pixels
    y, x = 8050 // n - top, 8050 // n - left
    assert tuple(shown(layer)[y, x]) in {(226, 120, 40, 255), (60, 60, 60, 255)}
    assert tuple(shown(layer)[y - 700 // n, x, :3]) != (226, 120, 40), "only the blocks that are damaged"
    with pytest.raises(SlideError, match="cannot be read"):
        layer.data[0][8000:8010, 8000:8010]
    # Mended: read again on request.
    backend.bad = None
    source = view_of(layer).source
    source.forget(only_bad=True)
    attach(window).show_anew(source)
    settle(qtbot, layer)
    assert np.array_equal(shown(layer)[..., :3], exact(layer)[..., :3])
    assert source.trouble() == (0, "")


@pytest.mark.parametrize("what", ["deleted", "replaced"])
def test_a_file_that_goes_away_leaves_the_window_alive(
    window: Any, qtbot: Any, tiny_slide: Path, tmp_path: Path, errors: list[str], what: str
) -> None:
    path = tmp_path / "slide.tiff"
    shutil.copy(tiny_slide, path)
    slide = open_slide(path)
    layer = add_slide(window, slide_layers(slide))
    qtbot.wait(100)
    path.unlink()
    if what == "replaced":
        write_synthetic_slide(path, size_px=(768, 640), seed=1)
    source = view_of(layer).source
    source.forget()
    attach(window).show_anew(source)
    settle(qtbot, layer)
    assert layer.data_level == 0
    qtbot.waitUntil(lambda: bool(errors), timeout=3000)
    qtbot.wait(700)
    assert len(errors) == 1
    assert ("was replaced by another file" if what == "replaced" else "cannot be reached any more") in errors[
        0
    ]
    assert tuple(shown(layer)[0, 0]) in {(226, 120, 40, 255), (60, 60, 60, 255)}
    window.layers.clear()
    qtbot.waitUntil(lambda: not threads_of_ours(), timeout=5000)


def test_a_slide_that_is_removed_takes_everything_with_it(window: Any, qtbot: Any, tmp_path: Path) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs", seconds=0.05)
    layer = show(window, backend)
    zoom_in(window, qtbot, 10)
    assert threads_of_ours()
    window.layers.remove(layer)  # in the middle of loading
    qtbot.waitUntil(lambda: not threads_of_ours(), timeout=5000)
    qtbot.waitUntil(lambda: len(window.layers) == 0, timeout=5000)
    qtbot.waitUntil(lambda: backend.closed == 1)
    assert cache().used_bytes == 0


def test_a_window_closed_by_its_cross_lets_go_of_its_slides(tmp_path: Path) -> None:
    """In a process of its own: napari's fixture does not take a window that is closed so."""
    script = tmp_path / "script.py"
    script.write_text(CROSS)
    root = str(Path(__file__).parents[3])
    ended = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert ended.stdout.split() == ["True", "False"], ended.stderr


def test_a_slide_put_back_is_shown_again(window: Any, qtbot: Any, tmp_path: Path) -> None:
    layer = show(window, PatternBackend(tmp_path / "pattern.svs"))
    zoom_in(window, qtbot, 6)
    settle(qtbot, layer)
    window.layers.remove(layer)
    qtbot.wait(100)
    window.layers.append(layer)
    zoom_in(window, qtbot, 1.5)
    settle(qtbot, layer)
    assert np.array_equal(shown(layer), exact(layer))


def test_a_slide_in_the_place_of_another_that_loads_is_whole(window: Any, qtbot: Any, tmp_path: Path) -> None:
    """The threads of the first end while those of the second begin: no tile is taken by one that ends."""
    first = show(window, PatternBackend(tmp_path / "a.svs", seconds=0.2))
    zoom_in(window, qtbot, 8)
    window.layers.remove(first)
    second = show(window, PatternBackend(tmp_path / "b.svs", seconds=0.02))
    settle(qtbot, second)
    assert np.array_equal(shown(second), exact(second))


def test_a_view_left_while_it_loads_goes_on_when_one_comes_back(
    window: Any, qtbot: Any, tmp_path: Path
) -> None:
    layer = show(window, PatternBackend(tmp_path / "pattern.svs", seconds=0.1))
    camera = window.scene.camera
    fitted = camera.zoom
    zoom_in(window, qtbot, 8)
    near = camera.zoom
    camera.zoom = fitted
    qtbot.wait(200)
    assert layer.data_level == len(layer.data) - 1
    camera.zoom = near
    qtbot.wait(100)
    settle(qtbot, layer)
    window.dims.ndisplay = 3
    qtbot.wait(100)
    window.dims.ndisplay = 2
    qtbot.wait(100)
    settle(qtbot, layer)
    assert np.array_equal(shown(layer), exact(layer))


def test_a_view_left_for_one_in_memory_goes_on_when_one_comes_back(
    window: Any, qtbot: Any, tmp_path: Path
) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs")
    layer = show(window, backend)
    zoom_in(window, qtbot, 10)
    camera = window.scene.camera
    here = camera.center
    settle(qtbot, layer)
    there = (*here[:-2], here[-2] + 900, here[-1] + 900)
    backend.seconds = 0.1
    camera.center = there
    qtbot.wait(250)
    assert not is_settled(layer)
    camera.center = here
    settle(qtbot, layer)
    camera.center = there
    qtbot.wait(100)
    settle(qtbot, layer)
    assert np.array_equal(shown(layer), exact(layer))


def test_duplicating_does_not_wait_for_the_reader(
    window: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari.layers._layer_actions import _duplicate_layer

    backend = PatternBackend(tmp_path / "pattern.svs")
    layer = show(window, backend)
    backend.seconds = 0.3
    main, on_main = threading.get_ident(), []
    real = backend.read_level

    def watched(*arguments: Any) -> np.ndarray:
        on_main.append(threading.get_ident() == main)
        return real(*arguments)

    monkeypatch.setattr(backend, "read_level", watched)
    zoom_in(window, qtbot, 8)
    window.layers.selection = {layer}
    _duplicate_layer(window.layers)
    window.layers.remove(layer)
    window.layers.append(layer)
    qtbot.wait(300)
    assert on_main
    assert not any(on_main)
    settle(qtbot, layer)


def test_a_lock_to_a_level_too_large_to_draw_is_undone(
    window: Any, qtbot: Any, tmp_path: Path, errors: list[str]
) -> None:
    layer = show(window, PatternBackend(tmp_path / "pattern.svs"))
    layer.locked_data_level = 0
    assert layer.locked_data_level is None
    assert "too large to be drawn whole" in errors[0]
    layer.locked_data_level = 2
    qtbot.wait(100)
    settle(qtbot, layer)
    assert np.array_equal(shown(layer), exact(layer))


def test_what_is_seen_as_sharp_is_never_of_the_old_colours(tmp_path: Path) -> None:
    """A read that began before the switch and ends after it is not kept."""
    backend = PatternBackend(tmp_path / "pattern.svs")
    source = SlideSource(Slide(backend))
    tile = source.missing_overview()[0]
    real = backend.read_level

    def slow(*arguments: Any) -> np.ndarray:
        source.forget()
        return real(*arguments)

    backend.read_level = slow  # type: ignore[method-assign]
    source.load(tile)
    assert tile in source.missing_overview()
    backend.read_level = real  # type: ignore[method-assign]
    source.load(tile)
    assert tile not in source.missing_overview()


def test_a_place_that_can_be_read_again_is_no_trouble_any_more(tmp_path: Path) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs")
    source = SlideSource(Slide(backend))
    backend.bad = (0, 0, 10, 10)
    source.load((0, 0, 0))
    assert source.trouble()[0] == 1
    backend.bad = None
    cache().clear()
    source.load((0, 0, 0))
    assert source.trouble() == (0, "")
    source.drop()


def test_a_duplicate_is_shown_and_outlives_the_first(window: Any, qtbot: Any, tmp_path: Path) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs", seconds=0.002)
    layer = show(window, backend)
    zoom_in(window, qtbot, 4)
    window.layers.selection = {layer}
    from napari.layers._layer_actions import _duplicate_layer

    _duplicate_layer(window.layers)
    (twin,) = [v for v in window.layers if v.name == f"{layer.name} copy"]
    assert view_of(twin) is not view_of(layer)
    zoom_in(window, qtbot, 2)
    for one in (layer, twin):
        settle(qtbot, one)
        assert np.array_equal(shown(one), exact(one))
    window.layers.remove(layer)
    qtbot.wait(100)
    assert backend.closed == 0
    assert [v.metadata[KEY]["role"] for v in window.layers] == ["overview", "slide"]
    zoom_in(window, qtbot, 2)
    settle(qtbot, twin)
    assert np.array_equal(shown(twin), exact(twin))


def test_layers_are_renamed_moved_hidden_and_seen_from_all_sides(
    window: Any, qtbot: Any, tmp_path: Path
) -> None:
    first = show(window, PatternBackend(tmp_path / "a.svs", seconds=0.005))
    second = show(window, PatternBackend(tmp_path / "b.svs", seconds=0.005))
    overview = window.layers[2]
    zoom_in(window, qtbot, 5)
    first.name = "patient 7"
    window.layers.move(3, 0)
    second.visible = False
    assert not overview.visible
    second.visible = True
    assert overview.visible
    second.opacity = 0.5
    assert not overview.visible, "seen twice through a translucent slide"
    second.opacity = 1
    window.dims.ndisplay = 3
    qtbot.wait(100)
    window.dims.ndisplay = 2
    zoom_in(window, qtbot, 1.5)
    for layer in (first, second):
        settle(qtbot, layer)
        assert np.array_equal(shown(layer), exact(layer))


def test_slides_lie_side_by_side(window: Any, qtbot: Any, tmp_path: Path) -> None:
    layers = [show(window, PatternBackend(tmp_path / f"{n}.svs", seconds=0.002)) for n in "ab"]
    window.canvas.grid.stride = 2  # a slide and its overview together
    window.canvas.grid.enabled = True
    zoom_in(window, qtbot, 6)
    for layer in layers:
        settle(qtbot, layer)
        assert np.array_equal(shown(layer), exact(layer))


def test_the_cache_keeps_to_its_cap(window: Any, qtbot: Any, tmp_path: Path) -> None:
    cap = cache().cap_bytes
    cache().set_cap(40 << 20)
    try:
        layer = show(window, PatternBackend(tmp_path / "pattern.svs"))
        rng = np.random.default_rng(0)
        window.scene.camera.zoom *= 8
        most = 0
        for _ in range(25):
            window.scene.camera.center = tuple(rng.uniform(500, 3500, 2))
            qtbot.wait(40)
            most = max(most, cache().used_bytes)
        settle(qtbot, layer)
        assert 20 << 20 < most <= 40 << 20
        assert np.array_equal(shown(layer), exact(layer))
    finally:
        cache().set_cap(cap)


def test_an_overview_that_takes_long_appears_bit_by_bit(window: Any, qtbot: Any, tmp_path: Path) -> None:
    backend = PatternBackend(tmp_path / "pattern.svs", seconds=0.1)
    layer = add_slide(window, slide_layers(Slide(backend), overview_seconds=0.15))
    overview, source = window.layers[0], view_of(layer).source
    assert source.missing_overview()
    assert (overview.data[..., 3] == 255).all(), "glass, as long as nothing is known"
    qtbot.waitUntil(lambda: not source.missing_overview(), timeout=10_000)
    settle(qtbot, layer)
    assert overview.data is source.overview
    assert np.array_equal(overview.data, layer.data[-1].read_exact((0, 2048, 0, 2048)))


def test_a_read_that_hangs_is_told_of_and_hinders_no_other_slide(
    window: Any, qtbot: Any, tmp_path: Path, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent._napari.viewing import _threads, _window

    monkeypatch.setattr(_window, "_SLOW_READ_SECONDS", 0.4)
    monkeypatch.setattr(_threads, "_STUCK_SECONDS", 0.4)
    stuck, good = PatternBackend(tmp_path / "stuck.svs"), PatternBackend(tmp_path / "good.svs")
    layer = show(window, stuck)
    go_on = threading.Event()
    monkeypatch.setattr(stuck, "read_level", lambda *_: [go_on.wait(20), 1 / 0])
    try:
        zoom_in(window, qtbot, 6)
        qtbot.waitUntil(lambda: bool(errors), timeout=5000)
        assert "still waiting for pixels" in errors[0]
        started = time.perf_counter()
        for _ in range(10):
            QApplication.processEvents()
        assert time.perf_counter() - started < 2
        other = show(window, good)
        zoom_in(window, qtbot, 1.2)
        settle(qtbot, other)
        window.layers.remove(layer)
        assert len(errors) == 1
    finally:
        go_on.set()


def test_a_viewer_that_dies_lets_go_of_its_slides(qtbot: Any, qapp: Any, viewer: Any, tmp_path: Path) -> None:
    before = len(threads_of_ours())
    from napari.components import ViewerModel

    model = ViewerModel()
    show(model, PatternBackend(tmp_path / "pattern.svs"))
    assert len(threads_of_ours()) >= max(before, 2)
    del model
    gc.collect()
    qtbot.waitUntil(lambda: len(threads_of_ours()) <= before, timeout=5000)
