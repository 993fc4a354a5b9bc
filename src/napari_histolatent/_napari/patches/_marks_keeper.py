"""Keeps the hand's decisions about a slide on the disk, from a thread, a moment after each change."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

from napari_histolatent._napari._workers import LatestWorker, run_safely
from napari_histolatent._napari.patches._hand_marks import (
    HandMarks,
    marks_file,
    marks_json,
    read_marks,
    write_marks,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari.patches._hand_marks import Decision, MarkKey
    from napari_histolatent.slides import Slide

SAVE_MS = 1000


class MarksKeeper(QObject):
    """The decisions about one slide, read when it is made, written whole or not at all.

    Parameters
    ----------
    slide
        The slide.
    """

    def __init__(self, slide: Slide) -> None:
        super().__init__()
        self.slide, self.marks = slide, HandMarks()
        self.is_loaded = False
        self._file = marks_file(slide.info.digest)
        self._is_changed = False
        self._generation = self._written = 0
        self._lock = threading.Lock()
        self._worker = LatestWorker(in_turn=True, on_error=self._on_failed)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SAVE_MS)
        self._timer.timeout.connect(self._save)
        self.marks.changed.connect(self._on_changed)
        self._worker.submit(lambda _: read_marks(self._file), self._on_loaded)

    def close(self) -> None:
        """Write what is not on the disk yet."""
        self.marks.changed.disconnect(self._on_changed, missing_ok=True)
        self._timer.stop()
        if not self.is_loaded:  # closed at once: what stands in the file must not be written over
            self._worker.cancel()
            if self._is_changed:
                kept = run_safely(lambda: read_marks(self._file))
                self.marks.fill(kept or ())
        if self._is_changed:
            run_safely(self._writing())

    def _on_loaded(self, kept: tuple[tuple[MarkKey, Decision], ...]) -> None:
        self.is_loaded = True
        if kept:
            with_new = self._is_changed
            self.marks.fill(kept)
            self._is_changed = with_new
        if self._is_changed:
            self._timer.start()

    def _on_failed(self, _: Exception) -> None:
        # A damaged file has been moved aside: what is marked from now on is kept. After a failed write the
        # next change tries again.
        self.is_loaded = True
        self._is_changed = True

    def _on_changed(self, *_: object) -> None:
        self._is_changed = True
        if self.is_loaded and not self._timer.isActive():
            self._timer.start()

    def _save(self) -> None:
        if self._is_changed:
            write = self._writing()
            self._worker.submit(lambda _: write(), lambda _: None)

    def _writing(self) -> Callable[[], None]:
        """Return what writes the decisions as they are now; later ones are never written over by earlier ones."""
        self._is_changed = False
        self._generation += 1
        content, generation = marks_json(self.marks.items(), self.slide.info.path.name), self._generation

        def write() -> None:
            with self._lock:
                if generation > self._written:
                    write_marks(self._file, content)
                    self._written = generation

        return write
