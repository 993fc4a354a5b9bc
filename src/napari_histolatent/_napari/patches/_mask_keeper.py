"""Keeps the user's own tissue masks on the disk, from a thread, a moment after each change."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

from napari_histolatent._napari._workers import LatestWorker, run_safely
from napari_histolatent._napari.patches._request import mask_file, write_mask
from napari_histolatent.errors import DatasetError, writing_to
from napari_histolatent.patches import TissueMask, mask_from_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide, SlideInfo

SAVE_MS = 1000


class MaskKeeper(QObject):
    """Writes masks, whole or not at all, and reads them when their slide comes back."""

    def __init__(self) -> None:
        super().__init__()
        self._changed: dict[str, TissueMask | None] = {}
        self._reader, self._writer = LatestWorker(), LatestWorker(in_turn=True)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._save)

    @property
    def is_reading(self) -> bool:
        """Whether a mask is on its way."""
        return self._reader.is_busy

    def put(self, digest: str, mask: TissueMask | None) -> None:
        """Keep a mask in a moment (None: keep none any more)."""
        self._changed[digest] = mask
        self._timer.start(SAVE_MS)

    def read(self, slide: Slide, on_found: Callable[[Slide, TissueMask], None]) -> None:
        """Read, in a thread, the mask that was kept of a slide."""
        info = slide.info
        if info.digest in self._changed:  # closed and opened within a second
            mask = self._changed[info.digest]
            if mask is not None:
                on_found(slide, mask)
            return

        def show(mask: TissueMask | None) -> None:
            if mask is not None and info.digest not in self._changed:
                on_found(slide, mask)

        self._reader.submit(lambda _: read_kept_mask(info), show)

    def stop_reading(self) -> None:
        """Let what is being read go."""
        self._reader.cancel()

    def close(self) -> None:
        """Write what is not on the disk yet."""
        self._timer.stop()
        self._reader.cancel()
        changed, self._changed = self._changed, {}
        for digest, mask in changed.items():
            run_safely(partial(_keep, digest, mask))

    def _save(self) -> None:
        changed, self._changed = self._changed, {}
        for digest, mask in changed.items():
            self._writer.submit(partial(_keep, digest, mask), lambda _: None)


def read_kept_mask(info: SlideInfo) -> TissueMask | None:
    """Return the mask that was kept of a slide, None if there is none. For a worker thread.

    Raises
    ------
    DatasetError
        If the file is damaged. It is moved aside, so that nothing is written over it.
    """
    path = mask_file(info.digest)
    if not path.is_file():
        return None
    try:
        return mask_from_image(path, info)
    except DatasetError as error:
        aside = path.with_suffix(".damaged.png")
        with writing_to(path.parent):
            path.replace(aside)
        msg = f"Your tissue mask of {info.path.name} cannot be read ({error}); it was moved to {aside}, and the one that is found is used."
        raise DatasetError(msg) from error


def _keep(digest: str, mask: TissueMask | None, _: object = None) -> None:
    path = mask_file(digest)
    if mask is not None:
        write_mask(path, mask)
        return
    with writing_to(path.parent):
        path.unlink(missing_ok=True)
