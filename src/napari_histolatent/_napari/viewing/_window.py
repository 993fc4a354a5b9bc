"""Slides in a viewer: their layers are bound to views, refreshed when there is something new, and let go."""

from __future__ import annotations

import copy
import math
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari.viewing._proxy import DisplayLevelArray
from napari_histolatent._napari.viewing._threads import threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent._napari.viewing._source import SlideSource
    from napari_histolatent._napari.viewing._view import View

_KEY = "histolatent"
_REFRESH_MS = 50
_LONGEST_REST_MS = 300
_WATCH_MS = 500
_SLOW_READ_SECONDS, _SLOW_AGAIN_SECONDS = 3.0, 60.0
_MAX_LOCKED_PX = 1 << 26
_SMALL_SHARE = 0.9

_windows: WeakKeyDictionary[Any, SlideWindow] = WeakKeyDictionary()


def attach(viewer: Any) -> SlideWindow | None:
    """Look after the slides of a viewer from now on; once is enough. None where there is no Qt application."""
    if QApplication.instance() is None:
        return None
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _windows:
        _windows[viewer] = SlideWindow(viewer)
    return _windows[viewer]


def add_slide(viewer: Any, layers: Sequence[tuple[Any, dict[str, Any], str]]) -> Any:
    """Add the layers of `slide_layers` to a viewer, which is looked after from now on; return the multiscale one."""
    for data, options, _ in layers if attach(viewer) is None else expected(layers):
        layer = viewer.add_image(data, **options)
    return layer


def expected(
    layers: Sequence[tuple[Any, dict[str, Any], str]],
) -> list[tuple[Any, dict[str, Any], str]]:
    """Return the layers of a slide, for a viewer that is attached and is about to add them."""
    for data, options, _ in layers:
        if options.get("multiscale"):
            data[0].view.expect_layer()
    return list(layers)


def view_of(layer: Any) -> View | None:
    """Return the view that a layer shows, or None if it is no slide."""
    if not getattr(layer, "multiscale", False):
        return None
    finest = layer.data[0]
    return finest.view if isinstance(finest, DisplayLevelArray) else None


def is_settled(layer: Any) -> bool:
    """Return whether every tile that napari shows of a slide's layer is read and on its way to the screen."""
    view = view_of(layer)
    return view is not None and view.is_settled()


class SlideWindow(QObject):
    """The slides of one viewer."""

    _fresh = Signal(object, bool)
    """From the composer thread: a view has something new; whether it is whole with it."""

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        # Weak: the viewer keeps the window, not the other way round.
        self._viewer = weakref.ref(viewer)
        self._stale: dict[View, None] = {}
        self._bound: set[View] = set()
        # A viewer may die with its layers in it: nobody is told of them one by one.
        weakref.finalize(viewer, _release, self._bound)
        self._refresh_seconds = 0.0
        self._told: WeakKeyDictionary[SlideSource, dict[str, float]] = WeakKeyDictionary()
        """When a trouble was last met, of those the user was told of."""
        self._keys: WeakKeyDictionary[SlideSource, int] = WeakKeyDictionary()
        self._refresh_timer, self._watch_timer = QTimer(self), QTimer(self)
        self._refresh_timer.setSingleShot(True)
        self._refresh_timer.timeout.connect(self._refresh)
        self._watch_timer.timeout.connect(self._watch)
        self._fresh.connect(self._schedule)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        for layer in viewer.layers:
            self._bind(layer)

    # Layers come and go

    def _on_inserted(self, event: Any) -> None:
        self._bind(event.value)

    def _bind(self, layer: Any) -> None:
        view = view_of(layer)
        if view is None:
            return
        if view.layer is not None and view.layer is not layer:
            # The same arrays in a second layer: it looks at other places.
            layer.data = copy.deepcopy(list(layer.data))
            view = view_of(layer)
            assert view is not None
        view.bind(layer, self._fresh.emit)
        self._bound.add(view)
        for event in (layer.events.visible, layer.events.opacity):
            event.connect(self._match_overviews)
        self._match_overviews()
        self._watch_timer.start(_WATCH_MS)
        self._fit_first(view)
        layer.events.locked_data_level.connect(self._check_lock)
        # What napari drew before it told of the layer is not the view's.
        self._schedule(view, True)

    def _fit_first(self, view: View) -> None:
        """Fit the first slide once more when napari has put its controls beside it: they take from the canvas."""
        viewer = self._viewer()
        if viewer is None or any(other.source is not view.source for other in self._views()):
            return
        camera = viewer.scene.camera
        before = (tuple(camera.center), camera.zoom)

        info, levels = view.source.slide.info, view.source.levels

        def fit() -> None:
            if (tuple(camera.center), camera.zoom) != before:
                return
            viewer.reset_view()
            # Some scanners state a glass that is far larger than what they scanned of it.
            left, top, width, height = info.bounds
            share = max(width / levels[0].width_px, height / levels[0].height_px)
            layer = view.layer
            if layer is not None and 0 < share < _SMALL_SHARE:
                middle = layer.data_to_world((top + height / 2 - 0.5, left + width / 2 - 0.5))
                camera.center = (*camera.center[:-2], *middle[-2:])
                camera.zoom /= share

        QTimer.singleShot(0, fit)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        view = view_of(layer)
        if view is None:
            return
        for emitter in (layer.events.visible, layer.events.opacity):
            emitter.disconnect(self._match_overviews)
        layer.events.locked_data_level.disconnect(self._check_lock)
        self._let_go(view)
        # Not at once: napari is in the middle of telling everybody about the layer.
        QTimer.singleShot(0, self._remove_orphans)

    def _let_go(self, view: View) -> None:
        self._stale.pop(view, None)
        self._keys.pop(view.source, None)
        self._bound.discard(view)
        view.unbind()
        # Not here: closing waits for an opening that may hang.
        threading.Thread(target=_close, args=(view.source,), name="histolatent-closer", daemon=True).start()

    def _remove_orphans(self) -> None:
        """Take away overviews whose slide has gone, and stop watching with the last slide."""
        viewer = self._viewer()
        if viewer is None:
            return
        shown = {id(view.source.overview) for view in self._views()}
        for layer in [v for v in viewer.layers if _is_overview(v)]:
            if id(layer.data) not in shown:
                viewer.layers.remove(layer)
        if not shown:
            self._watch_timer.stop()

    def _match_overviews(self, _: Any = None) -> None:
        """Show an overview where its slide is shown. Under a translucent slide it would be seen twice."""
        viewer = self._viewer()
        if viewer is None:
            return
        slides: dict[int, list[Any]] = {}
        for layer in viewer.layers:
            view = view_of(layer)
            if view is not None:
                slides.setdefault(id(view.source.overview), []).append(layer)
        for layer in viewer.layers:
            if _is_overview(layer) and id(layer.data) in slides:
                layer.visible = any(v.visible and v.opacity == 1 for v in slides[id(layer.data)])

    def _is_closed(self) -> bool:
        window = getattr(self._viewer(), "window", None)
        if window is None:
            return False
        try:
            window.geometry()
        except (RuntimeError, AttributeError):  # of a Qt object that is no more
            return True
        return False

    def _check_lock(self, event: Any) -> None:
        """Undo a lock to a level too large to be drawn whole, which is what napari does with it."""
        layer = event.source
        level = layer.locked_data_level
        if level is None:
            return
        height, width = layer.data[level].shape[:2]
        if height * width > _MAX_LOCKED_PX:
            layer.locked_data_level = None
            show_warning(
                f"Level {level} of {layer.name} ({width} x {height} px) is too large to be drawn whole; "
                "zoom in to see its pixels."
            )

    def _views(self) -> list[View]:
        viewer = self._viewer()
        found = [view_of(layer) for layer in viewer.layers] if viewer is not None else []
        return [view for view in found if view is not None]

    # What is new is shown

    def _schedule(self, view: View, is_whole: bool) -> None:
        self._stale[view] = None
        if is_whole:
            self._refresh_timer.start(0)
        elif not self._refresh_timer.isActive():
            # At most 20 a second, and less where drawing is slow: it takes its time from the readers.
            rest_ms = min(_LONGEST_REST_MS, int(3000 * self._refresh_seconds))
            self._refresh_timer.start(max(_REFRESH_MS, rest_ms))

    def _refresh(self) -> None:
        viewer = self._viewer()
        stale, self._stale = self._stale, {}
        if viewer is None:
            return
        started = time.perf_counter()
        overviews = set()
        for view in stale:
            layer = view.layer
            if layer is not None and layer in viewer.layers:
                layer.refresh(thumbnail=False, highlight=False, extent=False)
                overviews.add(id(view.source.overview))
        for layer in viewer.layers:
            if (
                _is_overview(layer)
                and id(layer.data) in overviews
                and not layer.metadata[_KEY].get("is_whole")
            ):
                self._refresh_overview(layer)

        def drawn() -> None:
            self._refresh_seconds = time.perf_counter() - started

        # Comes round when the frame has been drawn.
        QTimer.singleShot(0, drawn)

    def _refresh_overview(self, overview: Any) -> None:
        for view in self._views():
            if view.source.overview is overview.data:
                is_whole = not view.source.missing_overview()
                overview.refresh(extent=False, highlight=False, thumbnail=is_whole)
                overview.metadata[_KEY]["is_whole"] = is_whole
                if is_whole:
                    view.layer.refresh(extent=False, highlight=False)  # its thumbnail

    def show_anew(self, source: SlideSource) -> None:
        """Show a slide whose pixels are to be read again."""
        viewer = self._viewer()
        self._keys[source] = source.key
        for view in self._views():
            if view.source is source:
                view.reset()
                threads.compose(view)
                view.layer.refresh(thumbnail=False, highlight=False, extent=False)
        for layer in viewer.layers if viewer is not None else ():
            if _is_overview(layer) and layer.data is source.overview:
                layer.metadata[_KEY]["is_whole"] = False

    # What goes wrong is said once

    def _watch(self) -> None:
        if self._is_closed():
            # By its own cross: napari then keeps the viewer with its layers, and tells nobody.
            self._watch_timer.stop()
            for view in list(self._bound):
                self._let_go(view)
            return
        threads.relieve()
        for source in {view.source for view in self._views()}:
            if self._keys.setdefault(source, source.key) != source.key:
                self.show_anew(source)  # by somebody who did not say so
            told = self._told.setdefault(source, {})
            count, sentence = source.trouble()
            if count and "trouble" not in told:
                told["trouble"] = time.monotonic()
                show_warning(f"{sentence} Such places are striped on the slide.")
            elif not count:
                told.pop("trouble", None)
            waited = threads.seconds_waiting(source)
            is_told = time.monotonic() - told.get("slow", -math.inf) < _SLOW_AGAIN_SECONDS
            if waited > _SLOW_READ_SECONDS:
                told["slow"] = time.monotonic()
            if waited > _SLOW_READ_SECONDS and not is_told:
                show_info(
                    f"{source.slide.info.path.name}: still waiting for pixels after {waited:.0f} s, as on a slow or "
                    "lost network disk; the window stays usable, and they appear when they come."
                )


def _release(bound: set[View]) -> None:
    """Let go of the views of a viewer that is no more; not here, for this may be anywhere in any thread."""

    def work() -> None:
        while bound:
            view = bound.pop()
            view.unbind()
            _close(view.source)

    if bound:
        threading.Thread(target=work, name="histolatent-closer", daemon=True).start()


def _close(source: SlideSource) -> None:
    if not threads.is_used(source):
        source.close()


def _is_overview(layer: Any) -> bool:
    ours = layer.metadata.get(_KEY)
    return isinstance(ours, dict) and ours.get("role") == "overview"
