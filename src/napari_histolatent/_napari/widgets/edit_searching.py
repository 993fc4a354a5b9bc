from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._searching import Found, at_most_every, find
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent.latent.search_options import steps_in_all

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent._napari._editing import Models
    from napari_histolatent._napari.widgets.edit_view import EditView
    from napari_histolatent.jobs.tiles import Tile

_PREVIEW_SECONDS = 0.2
"""Between two previews: more than five a second nobody sees, and each has the whole window drawn."""


class _Preview(QObject):
    """Carries the search's progress from the thread to the view."""

    moved = Signal(object, int, object)
    """The search it is of, steps done, the image so far."""


class EditSearching:
    """Searches the latent point of a tile in a thread, showing how far it is.

    Parameters
    ----------
    view
        Says how to search, and shows the preview.
    on_found
        Called with what was found.
    on_left
        Called when a search ended without a result: what was shown before comes back.
    """

    def __init__(
        self, view: EditView, *, on_found: Callable[[Found], None], on_left: Callable[[], None]
    ) -> None:
        self._view, self._on_found, self._on_left = view, on_found, on_left
        self._search: object | None = None
        """The search that runs; of one that was left, a last image may be on its way."""
        self._total = 0
        self.worker = LatestWorker(on_error=self._failed, in_words=in_dock)
        self._preview = _Preview()
        self._preview.moved.connect(self._show_preview)
        view.cancel_requested.connect(self._cancel)

    @property
    def is_searching(self) -> bool:
        """Whether a search runs."""
        return self._search is not None

    def start(self, models: Models, tile: Tile) -> None:
        """Search a tile, as the controls say."""
        method, options, preview = self._view.method, self._view.options(), self._preview
        label = self._view.search_class
        search = object()
        self._search, self._total = search, steps_in_all(method, options)
        self._view.set_searching(True)
        self._view.set_progress(0, self._total)
        self._view.search_note.setText("Searching…")

        def work(should_stop: Callable[[], bool]) -> Found:
            return find(
                models,
                tile,
                method=method,
                options=options,
                label=label,
                on_step=at_most_every(
                    _PREVIEW_SECONDS, lambda step, drawn: preview.moved.emit(search, step, drawn)
                ),
                should_stop=should_stop,
            )

        self.worker.submit(work, self._show)

    def close(self) -> None:
        """Let go of running work; the view may be gone."""
        self._search = None
        self.worker.cancel()

    def stop(self) -> None:
        """Leave a search that runs; nothing of it arrives any more."""
        self.worker.cancel()
        if self._search is not None:
            self._search = None
            self._view.set_searching(False)

    def _cancel(self) -> None:
        if self._search is None:
            return
        self.stop()
        self._view.search_note.setText("The search was cancelled.")
        self._on_left()

    def _failed(self, error: Exception) -> None:
        self._search = None
        self._view.set_searching(False)
        self._view.search_note.setText(f"Nothing was found: {in_dock(str(error))}")
        self._on_left()

    def _show(self, found: Found) -> None:
        self._search = None
        self._view.set_searching(False)
        self._on_found(found)

    def _show_preview(self, search: object, step: int, pixels: NDArray[np.uint8]) -> None:
        if search is self._search:
            self._view.set_progress(step, self._total)
            self._view.set_picture("pixels", "reconstruction", pixels)
