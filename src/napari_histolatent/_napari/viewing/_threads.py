"""The threads beside the window: readers that decode tiles, and the composer that puts them into frames.

They start with the first view and end with the last. All are daemons: a read that hangs on a lost network disk
must not keep the process.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_histolatent._napari.viewing._pyramid import Tile
    from napari_histolatent._napari.viewing._source import SlideSource
    from napari_histolatent._napari.viewing._view import View


def reader_threads() -> int:
    """Return how many threads read tiles."""
    return max(2, min(8, (os.cpu_count() or 2) - 1))


_log = logging.getLogger(__name__)

_STUCK_SECONDS = 3.0
"""A read that takes longer hangs, as on a lost disk: its slide gets no other thread until it comes back."""


class Threads:
    """Reads what views want, the newest wish of each first in turn, and has them composed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted: dict[View, list[Tile]] = {}
        self._spare: dict[View, list[Tile]] = {}
        self._to_compose: dict[View, None] = {}
        self._reading: dict[tuple[int, Tile], float] = {}
        self._views: set[View] = set()
        self._turn = 0
        self._generation = 0
        self._readers = 0

    # For views

    def add(self, view: View) -> None:
        """Begin to serve a view."""
        with self._changed:
            if not self._views:
                self._generation += 1
                self._readers = 0
                self._start("composer", self._compose)
            self._views.add(view)
            self._start_readers()

    def relieve(self) -> None:
        """Put a new reader in the place of each that hangs."""
        with self._changed:
            if self._views:
                self._start_readers()

    def _start_readers(self) -> None:
        for _ in range(reader_threads() - (self._readers - len(self._stuck()))):
            self._start(f"reader-{self._readers}", self._read)
            self._readers += 1

    def _start(self, name: str, target: Callable[[int], None]) -> None:
        arguments = (self._generation,)
        threading.Thread(target=target, args=arguments, name=f"histolatent-{name}", daemon=True).start()

    def _stuck(self) -> list[int]:
        """Return the keys of the slides that reads hang on, once for each read."""
        now = time.monotonic()
        return [key for (key, _), start in self._reading.items() if now - start > _STUCK_SECONDS]

    def remove(self, view: View) -> None:
        """Forget a view; with the last one the threads end."""
        with self._changed:
            self._views.discard(view)
            for queue in (self._wanted, self._spare, self._to_compose):
                queue.pop(view, None)
            self._changed.notify_all()

    def want(self, view: View, tiles: Sequence[Tile], spare: Sequence[Tile] = ()) -> None:
        """Read these tiles for a view, in this order, instead of what it wanted before; `spare` ones if idle."""
        with self._changed:
            if view in self._views:
                self._wanted[view] = list(tiles)
                self._spare[view] = list(spare)
                self._changed.notify_all()

    def has_work(self, view: View) -> bool:
        """Return whether anything that a view wants waits or is being read."""
        with self._changed:
            return bool(self._wanted.get(view)) or any(key == view.source.key for key, _ in self._reading)

    def compose(self, view: View) -> None:
        """Have a view's frame brought up to date soon."""
        with self._changed:
            if view in self._views:
                self._to_compose[view] = None
                self._changed.notify_all()

    def is_used(self, source: SlideSource) -> bool:
        """Return whether any view shows a slide."""
        with self._changed:
            return any(view.source is source for view in self._views)

    def seconds_waiting(self, source: SlideSource) -> float:
        """Return for how long the oldest read of a slide has been going on."""
        with self._changed:
            starts = [start for (key, _), start in self._reading.items() if key == source.key]
        return time.monotonic() - min(starts) if starts else 0.0

    # In the threads

    def _is_over(self, generation: int) -> bool:
        return not self._views or generation != self._generation

    def _read(self, generation: int) -> None:
        while True:
            with self._changed:
                # First whether it is over: a tile that is taken is taken from others.
                job = None
                while job is None:
                    if self._is_over(generation):
                        return
                    job = self._next()
                    if job is None:
                        self._changed.wait()
                if self._readers - len(self._stuck()) > reader_threads():
                    # One that hung has come back, and its place is taken.
                    self._readers -= 1
                    self._wanted.setdefault(job[0], []).insert(0, job[1])
                    self._changed.notify_all()
                    return
                view, tile = job
                source = view.source
                reading = source.key, tile
                self._reading[reading] = time.monotonic()
            try:
                source.load(tile)
            finally:
                with self._changed:
                    self._reading.pop(reading, None)
                    for other in self._views:
                        if other.source is source:
                            self._to_compose[other] = None
                    self._changed.notify_all()

    def _next(self) -> tuple[View, Tile] | None:
        """Take the next tile to read: views take turns; spare tiles only where nothing is wanted."""
        stuck = set(self._stuck())
        for queues in (self._wanted, self._spare):
            views = [view for view, tiles in queues.items() if tiles and view.source.key not in stuck]
            for i in range(len(views)):
                view = views[(self._turn + i) % len(views)]
                tiles = queues[view]
                while tiles:
                    tile = tiles.pop(0)
                    if (view.source.key, tile) not in self._reading and view.source.tile(tile) is None:
                        self._turn += 1
                        return view, tile
        return None

    def _compose(self, generation: int) -> None:
        while True:
            with self._changed:
                while not self._to_compose:
                    if self._is_over(generation):
                        return
                    self._changed.wait()
                if self._is_over(generation):
                    return
                view = next(iter(self._to_compose))
                del self._to_compose[view]
            try:
                view.compose()
            except Exception:  # noqa: BLE001  # a fault of ours in one view: the others go on
                name = view.source.slide.info.path.name
                _log.exception("A frame of %s could not be made.", name)


threads = Threads()
