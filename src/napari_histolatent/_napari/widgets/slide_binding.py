from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_histolatent._napari._layers import level0_of, set_pixel_size, world_of
from napari_histolatent._napari._opening import SLIDE_FILES, open_in
from napari_histolatent._napari._session import session_of, slide_layers_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.viewing import attach, cache, view_of
from napari_histolatent.errors import SlideError
from napari_histolatent.slides import store_mpp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent._napari._opening import Opening
    from napari_histolatent._napari.viewing import SlideSource
    from napari_histolatent._napari.widgets.slide_view import SlideView
    from napari_histolatent.slides import Slide

_POLL_MS = 500
_MAP_MS = 50


class SlideBinding:
    """Opens slides, shows the facts of the current one, and moves the view."""

    def __init__(self, viewer: Any, view: SlideView) -> None:
        self._viewer, self._view, self._session = viewer, view, session_of(viewer)
        self._window = attach(viewer)
        self._openings: list[Opening] = []
        self._images = LatestWorker(in_turn=True)
        self._colors = LatestWorker(on_error=lambda _: view.set_icc(False))
        self._mpp = LatestWorker(in_turn=True)
        self._layer: Any = None
        self._overview_left = -1
        self._is_closed = False
        view.open_file_requested.connect(self._choose_files)
        view.open_folder_requested.connect(self._choose_folder)
        view.url_entered.connect(lambda url: self.open([url]))
        view.locations_dropped.connect(self.open)
        view.cancel_requested.connect(self._cancel_opening)
        view.slide_chosen.connect(self._choose_slide)
        view.icc_switched.connect(self._switch_icc)
        view.mpp_entered.connect(self._set_mpp)
        view.mpp_forgotten.connect(lambda: self._set_mpp(None))
        view.go_requested.connect(self._go)
        view.copy_requested.connect(self._copy_position)
        view.retry_requested.connect(self._retry)
        view.associated.wanted.connect(self._read_associated)
        view.minimap.centre_requested.connect(self._centre)
        self._poll, self._map_timer = QTimer(view), QTimer(view)
        self._poll.timeout.connect(self._show_state)
        self._poll.start(_POLL_MS)
        self._map_timer.setSingleShot(True)
        self._map_timer.timeout.connect(self._show_box)
        for event, slot in self._connections():
            event.connect(slot)
        view.closed.connect(self.close)
        view.destroyed.connect(self.close)
        self._show_slide()

    def _connections(self) -> list[tuple[Any, Callable[..., None]]]:
        layers, camera = self._viewer.layers, self._viewer.scene.camera
        return [
            (layers.events.inserted, self._show_slide),
            (layers.events.removed, self._show_slide),
            (layers.selection.events.active, self._show_slide),
            (camera.events.center, self._show_box_soon),
            (camera.events.zoom, self._show_box_soon),
        ]

    def close(self, *_: object) -> None:
        """Let go of the viewer; slides stay open, and those that are being opened come."""
        if self._is_closed:  # with its x first, and its window later
            return
        self._is_closed = True
        for timer in (self._poll, self._map_timer):
            timer.stop()
        for event, slot in self._connections():
            event.disconnect(slot)
        for worker in (self._images, self._colors, self._mpp):
            worker.cancel()

    # Opening

    def open(self, locations: Sequence[str]) -> None:
        """Open slides beside the window."""
        locations = [location for location in locations if location]
        if not locations:
            return

        def end() -> None:
            self._openings = [one for one in self._openings if one.is_going_on]
            if not self._is_closed:
                self._show_opening()

        self._openings.append(open_in(self._viewer, locations, on_end=end))
        self._show_opening()

    def _show_opening(self) -> None:
        names = [name for one in self._openings if one.is_going_on for name in one.names]
        self._view.set_opening(f"Opening {', '.join(names)} …" if names else "")

    def _cancel_opening(self) -> None:
        for opening in list(self._openings):
            opening.cancel()

    def _choose_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self._view, "Open slides", "", SLIDE_FILES)
        self.open(paths)

    def _choose_folder(self) -> None:
        self.open([QFileDialog.getExistingDirectory(self._view, "Open a folder: DICOM or OME-Zarr")])

    # The slide

    def _show_slide(self, *_: object) -> None:
        """Show the current slide, and which others there are."""
        layers, slide = slide_layers_of(self._viewer), self._session.slide()
        names = [layer.name for layer in layers]
        self._layer = next((v for v in layers if slide is not None and v.data[0].slide is slide), None)
        self._view.set_slides(names, layers.index(self._layer) if self._layer is not None else 0)
        self._view.set_slide(slide.info if slide else None)
        source = self._source()
        self._view.set_icc(source is not None and source.uses_icc)
        self._overview_left = -1
        self._show_state()
        self._show_box_soon()

    def _source(self) -> SlideSource | None:
        view = view_of(self._layer) if self._layer is not None else None
        return view.source if view is not None else None

    def _choose_slide(self, index: int) -> None:
        layers = slide_layers_of(self._viewer)
        if index < len(layers):
            self._viewer.layers.selection.active = layers[index]

    def _read_associated(self, name: str) -> None:
        slide = self._session.slide()
        if slide is None:
            return

        def read(_: Callable[[], bool]) -> NDArray[np.uint8] | str:
            try:
                return slide.read_associated(name)
            except SlideError as error:
                return str(error)

        def show(found: NDArray[np.uint8] | str) -> None:
            if slide is not self._session.slide():
                return
            if isinstance(found, str):
                self._view.associated.set_failed(name, found)
            else:
                self._view.associated.set_image(name, found)

        self._images.submit(read, show)

    def _switch_icc(self, on: bool) -> None:
        source = self._source()
        if source is None:
            return

        def show(_: None) -> None:
            self._view.set_icc(source.uses_icc)
            self._overview_left = -1  # the map's colours change too
            if self._window is not None:
                self._window.show_anew(source)

        self._colors.submit(lambda _: source.switch_icc(on), show)

    def _set_mpp(self, mpp: float | None) -> None:
        slide = self._session.slide()
        if slide is None:
            return

        def work(_: Callable[[], bool]) -> None:
            store_mpp(slide.info.digest, mpp)

        def show(_: None) -> None:
            set_pixel_size(self._viewer, slide, mpp)
            self._show_slide()

        self._mpp.submit(work, show)

    # The view

    def _show_box_soon(self, *_: object) -> None:
        if not self._map_timer.isActive():
            self._map_timer.start(_MAP_MS)

    def _show_box(self) -> None:
        slide = self._session.slide()
        if slide is None:
            return
        left, top, right, bottom = self._box(slide)
        self._view.minimap.set_box(left, top, right, bottom)
        self._view.set_position(_position_text(slide, ((left + right) / 2, (top + bottom) / 2)))

    def _box(self, slide: Slide) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of what the canvas shows, in level-0 pixels."""
        camera, (height, width) = self._viewer.scene.camera, self._viewer.canvas.size
        y, x = camera.center[-2:]
        half_y, half_x = height / 2 / camera.zoom, width / 2 / camera.zoom
        return (
            *level0_of((y - half_y, x - half_x), slide.info),
            *level0_of((y + half_y, x + half_x), slide.info),
        )

    def _centre(self, x: float, y: float) -> None:
        slide = self._session.slide()
        if slide is not None:
            camera = self._viewer.scene.camera
            camera.center = (*camera.center[:-2], *world_of((x, y), slide.info))

    def _go(self, x: float, y: float, unit: str) -> None:
        slide = self._session.slide()
        if slide is None:
            return
        if unit != "px":
            mpp_x, mpp_y = slide.info.require_mpp()
            x, y = x / mpp_x, y / mpp_y
        self._centre(x, y)

    def _copy_position(self) -> None:
        slide = self._session.slide()
        clipboard = QApplication.clipboard()
        if slide is None or clipboard is None:
            return
        left, top, right, bottom = self._box(slide)
        clipboard.setText(_position_text(slide, ((left + right) / 2, (top + bottom) / 2)))

    # What goes on

    def _show_state(self) -> None:
        source = self._source()
        self._view.set_cache(cache().used_bytes, cache().cap_bytes)
        if source is None:
            self._view.set_trouble("")
            return
        count, sentence = source.trouble()
        places = "One place" if count == 1 else f"{count} places"
        self._view.set_trouble(f"{places} could not be read: {sentence}" if count else "")
        left = len(source.missing_overview())
        if left != self._overview_left:
            self._overview_left = left
            info = source.slide.info
            self._view.minimap.set_picture(source.picture(), (info.width_px, info.height_px))
            self._show_box_soon()

    def _retry(self) -> None:
        source = self._source()
        if source is not None and self._window is not None:
            source.forget(only_bad=True)
            self._window.show_anew(source)
            self._show_state()


def _position_text(slide: Slide, level0_xy: tuple[float, float]) -> str:
    x, y = level0_xy
    text = f"x {x:,.0f}, y {y:,.0f} px"
    if slide.info.mpp_x is None or slide.info.mpp_y is None:
        return text
    return f"{text} ({x * slide.info.mpp_x:,.1f}, {y * slide.info.mpp_y:,.1f} µm)"
