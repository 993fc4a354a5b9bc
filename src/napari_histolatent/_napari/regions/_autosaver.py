"""Keeps a document on the disk: what changed is written by a thread of its own, seconds later at most."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QTimer, Signal

from napari_histolatent.annotations import RegionStore, StoredVersion, collecting_later, snapshot_of
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from napari_histolatent.annotations import Change, DocumentState, RegionDocument
    from napari_histolatent.annotations._autosave import StoredFile

_AFTER_MS = 1500
"""Changes that follow each other within this are one write; a change waits no longer, but for a write under way."""
_MANY, _AFTER_MANY_MS = 20_000, 3500
"""So many regions come from a file, which has them still: first they are shown, then written."""
_AGAIN_MS = 5000
"""After a write that failed."""
_LAST_SECONDS = 30.0
_APART = (
    "Other regions of this slide are kept already, by another window. Those that you draw here are kept apart from "
    "them; both are listed under Earlier versions… in the Regions dock."
)


class Autosaver(QObject):
    """Writes a document's changes to its store.

    Parameters
    ----------
    path
        The store's file; without a store it is made with the first change. What another window keeps in it by then
        stays there: this one's regions go to a file beside it.
    slide
        What is known of the slide, for whoever finds the file.
    store
        The store, if it was opened to load the document.
    """

    saved = Signal(float)
    """Everything is on the disk; seconds since 1970."""
    failed = Signal(str)
    """The sentence. Nothing is lost meanwhile: it is tried again."""
    told = Signal(str)
    """What the store has to say: that it is damaged, or open in another window."""
    _written = Signal(object)
    _heard = Signal(str)
    """What the writer's thread has to tell."""

    def __init__(self, path: Path, slide: dict[str, str], store: RegionStore | None = None) -> None:
        super().__init__()
        self._path, self._slide, self._store = path, slide, store
        self._document: RegionDocument | None = None
        self._pending: list[Change] = []
        self._pending_since = 0.0
        self._others: list[StoredFile] = []
        self._is_writing = False
        self._in_flight: tuple[Future[None], list[Change]] | None = None
        self._failed_with = ""
        self._notice = store.notice if store is not None else ""
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="histolatent-autosave")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._write)
        self._written.connect(self._on_written)
        self._heard.connect(self._on_heard)

    def watch(self, document: RegionDocument) -> None:
        """Write this document's changes from now on."""
        self._document = document
        document.changed.connect(self._on_changed)

    @property
    def is_saved(self) -> bool:
        """Whether everything is on the disk."""
        return not self._pending and not self._is_writing

    def versions(self) -> Future[list[StoredVersion]]:
        """Ask for the versions that can be gone back to, newest first.

        After them, with negative numbers, what other windows keep of the slide.
        """
        return self._writer.submit(self._versions)

    def load(self, version: int) -> Future[object]:
        """Ask for the state as of a version; a negative one is another window's, as last listed by `versions`."""
        return self._writer.submit(self._load, version)

    def _versions(self) -> list[StoredVersion]:
        store = self._store
        # Without a store nothing was drawn here: looking at the list leaves no file either.
        self._others = store.others() if store is not None else RegionStore.others_of(self._path)
        versions = store.versions() if store is not None else []
        return versions + [
            StoredVersion(
                -number, other.time, f"Made in a second window ({other.count} regions)", other.count
            )
            for number, other in enumerate(self._others, start=1)
        ]

    def _load(self, version: int) -> object:
        if version >= 0:
            return self._store.load(version) if self._store is not None else None
        if -version > len(self._others):
            return None
        stored, notice = RegionStore.read(self._others[-version - 1].path)
        if notice:
            self._tell(notice)
        return stored

    def close(self) -> None:
        """Write what is left and close the store. Waits for the disk: for a window that closes."""
        document, self._document = self._document, None
        self._timer.stop()
        pending, self._pending = self._pending, []
        in_flight = self._in_flight if self._is_writing else None
        state = document.state() if document is not None else None
        if document is not None:
            document.changed.disconnect(self._on_changed, missing_ok=True)

        def end() -> None:
            try:
                unsaved = pending
                if in_flight is not None and in_flight[0].exception() is not None:
                    unsaved = in_flight[1] + pending
                if unsaved and state is not None:
                    self._save(unsaved, state)
            finally:
                if self._store is not None:
                    self._store.close()

        try:
            last = self._writer.submit(end)
        except RuntimeError:  # Python itself is ending, and has ended the thread
            end()
            return
        self._writer.shutdown(wait=False)
        try:
            last.result(timeout=_LAST_SECONDS)
        except TimeoutError:
            show_error(
                f"{self._path.parent} has not answered for {_LAST_SECONDS:.0f} s: the last changes may be lost."
            )
        except UserError as error:
            show_error(f"The last changes of the regions are not saved: {error}")

    def _on_changed(self, change: Change) -> None:
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.append(change)
        if not self._timer.isActive() and not self._is_writing:
            self._timer.start(_AFTER_MS if len(change.after) < _MANY else _AFTER_MANY_MS)

    def _write(self) -> None:
        if self._document is None or not self._pending:
            return
        changes, self._pending = self._pending, []
        self._is_writing = True
        future = self._writer.submit(self._save, changes, self._document.state())
        self._in_flight = future, changes
        future.add_done_callback(lambda done: self._arrived(done, changes))

    def _arrived(self, done: Future[None], changes: list[Change]) -> None:
        try:
            self._written.emit((done.exception(), changes))
        except RuntimeError:  # the window went away meanwhile
            return

    def _save(self, changes: list[Change], state: DocumentState) -> None:
        """Write, in the writer's thread."""
        if self._store is None:
            # It is empty: the first save is a snapshot.
            self._store = RegionStore(self._path, self._slide, is_new=True)
            if self._store.path != self._path and not self._store.notice:
                self._tell(_APART)
        with collecting_later():
            if self._store.is_empty:
                self._store.save([snapshot_of(state, title=changes[-1].title)], state.version)
            else:
                self._store.save(changes, state.version)

    def _tell(self, text: str) -> None:
        """Tell, from the writer's thread."""
        try:
            self._heard.emit(text)
        except RuntimeError:  # the window went away meanwhile
            return

    def _on_heard(self, text: str) -> None:
        if self._document is not None:
            self.told.emit(text)

    def _on_written(self, result: tuple[BaseException | None, list[Change]]) -> None:
        error, changes = result
        self._is_writing = False
        if self._document is None:
            return  # closed meanwhile: what failed was written again then
        notice = self._store.notice if self._store is not None else ""
        if notice != self._notice:
            self._notice = notice
            self.told.emit(notice)
        if error is None:
            self._failed_with = ""
            if self._pending:
                waited_ms = round((time.monotonic() - self._pending_since) * 1000)
                self._timer.start(max(0, _AFTER_MS - waited_ms))
            else:
                self.saved.emit(time.time())
            return
        self._pending = changes + self._pending
        self._timer.start(_AGAIN_MS)
        if str(error) != self._failed_with:
            self._failed_with = str(error)
            self.failed.emit(str(error))
        if not isinstance(error, UserError):
            raise error
