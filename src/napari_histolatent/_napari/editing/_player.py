"""The frames of a path, computed ahead while the handle moves. Knows no viewer and no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from superqt.utils import create_worker

from napari_histolatent._napari._workers import start_beside
from napari_histolatent._napari.editing._path import FRAMES, Frame
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from superqt.utils import FunctionWorker

    Compute = Callable[[list[int]], list[Frame]]

_MOST_AT_ONCE = 8
"""Frames of one call: few, so that a handle that moves is followed soon; more, so that a call's own cost is shared."""
_COARSEST = 16
"""Every so manieth frame comes first, then those half way between, down to each."""


def coarse_to_fine(n_frames: int, at: int, ready: Collection[int] = ()) -> list[int]:
    """Return the frames that are not ready in the order in which they are needed.

    First that of the handle, then a coarse row of all the path, then ever finer ones; each from the handle outwards.

    Parameters
    ----------
    n_frames
        How many there are.
    at
        Where the handle is.
    ready
        Those that need no computing.
    """

    def turn(index: int) -> tuple[int, int, int]:
        stride = _COARSEST
        while index % stride and index != n_frames - 1:
            stride //= 2
        # The ends are of the coarsest row, whatever their number.
        return (-2 * _COARSEST if index == at else -stride, abs(index - at), index)

    return sorted((index for index in range(n_frames) if index not in ready), key=turn)


class FramePlayer(QObject):
    """Computes the frames of a path in a thread, and shows the one nearest to the handle at once.

    A path that is started makes the frames of the one before stale: they are dropped. What is being computed then ends
    first, so that two paths never share the processor.
    """

    shown = Signal(int, object)
    """Where the handle is, and the `Frame` nearest to it that is ready; again when a nearer one comes."""
    frame_ready = Signal(int)
    progress = Signal(int, int)
    """Frames that are ready, frames in all."""
    done = Signal()
    """Every frame is ready."""
    failed = Signal(object)
    """The path could not be computed: the exception. One that is no `UserError` is raised on the UI thread besides."""

    _arrived = Signal(int, object)

    def __init__(self) -> None:
        super().__init__()
        self._generation = 0
        self._at = 0
        self._frames: list[Frame | None] = []
        self._nearest: Frame | None = None
        self._waiting: Compute | None = None
        self._running: FunctionWorker[..., Any] | None = None
        self._arrived.connect(self._take)

    @property
    def frames(self) -> tuple[Frame | None, ...]:
        """The frames of the path, None where one is not ready."""
        return tuple(self._frames)

    @property
    def is_complete(self) -> bool:
        """Whether every frame is ready; without a path there is none."""
        return bool(self._frames) and None not in self._frames

    @property
    def is_busy(self) -> bool:
        """Whether anything is being computed."""
        return self._running is not None

    @property
    def nearest(self) -> Frame | None:
        """The frame that was shown last, of this path."""
        return self._nearest

    def start(self, compute: Compute, *, n_frames: int = FRAMES, at: int = 0) -> None:
        """Compute the frames of a path.

        Parameters
        ----------
        compute
            Called in a thread with the indices of some frames; returns these frames, or fewer if it was stopped.
        n_frames
            How many there are.
        at
            Where the handle is.
        """
        self.cancel()
        self._frames = [None] * n_frames
        self._at = at
        self._waiting = compute
        self._begin()

    def move(self, index: int) -> None:
        """Follow the handle: what is nearest is shown at once, and what is computed next is near it."""
        self._at = index
        self._show_nearest(is_moved=True)

    def cancel(self) -> None:
        """Compute no more, and forget the frames."""
        self._generation += 1
        self._waiting, self._nearest, self._frames = None, None, []

    def _begin(self) -> None:
        if self._running is not None or self._waiting is None:
            return
        compute, self._waiting = self._waiting, None
        errand = _Errand(self, self._generation, len(self._frames), compute)
        worker = create_worker(errand.run)
        worker.returned.connect(lambda found: errand.tell(found[0]))
        worker.errored.connect(lambda error: errand.tell(error))
        worker.finished.connect(lambda: errand.end())  # also of one that the application ended
        self._running = worker
        start_beside(worker)

    def _tell(self, generation: int, fault: Exception) -> None:
        if generation == self._generation:
            self.failed.emit(fault)

    def _ended(self) -> None:
        self._running = None
        self._begin()

    def _is_stale(self, generation: int) -> bool:
        running = self._running
        return generation != self._generation or (running is not None and running.abort_requested)

    def _take(self, generation: int, frames: list[Frame]) -> None:
        if generation != self._generation:
            return
        for frame in frames:
            self._frames[frame.index] = frame
        self._show_nearest()
        for frame in frames:
            if generation == self._generation:
                self.frame_ready.emit(frame.index)
        if frames and generation == self._generation:
            n_frames = len(self._frames)
            self.progress.emit(n_frames - self._frames.count(None), n_frames)
            if generation == self._generation and self.is_complete:
                self.done.emit()

    def _show_nearest(self, *, is_moved: bool = False) -> None:
        ready = [frame for frame in self._frames if frame is not None]
        if not ready:
            return
        nearest = min(ready, key=lambda frame: abs(frame.index - self._at))
        if is_moved or nearest is not self._nearest:
            self._nearest = nearest
            self.shown.emit(self._at, nearest)


class _Errand:
    """The frames of one path on their way, emptied when they have come to their end.

    Qt now and then never lets go of a slot whose sender goes in another thread: see `_workers`.
    """

    def __init__(self, player: FramePlayer, generation: int, n_frames: int, compute: Compute) -> None:
        self._player: FramePlayer | None = player
        self._compute: Compute | None = compute
        self._generation, self._n_frames = generation, n_frames

    def run(self) -> tuple[UserError | None]:
        """Compute them, in the thread. In a tuple, for superqt raises a result that is an exception."""
        player, compute, generation = self._player, self._compute, self._generation
        assert player is not None
        assert compute is not None
        asked: set[int] = set()
        while not player._is_stale(generation):
            # At first one alone, soon more: the first is there at once.
            n = min(max(1, len(asked)), _MOST_AT_ONCE)
            part = coarse_to_fine(self._n_frames, player._at, asked)[:n]
            if not part:
                break
            try:
                frames = compute(part)
            except UserError as error:
                return (error,)
            asked.update(part)
            player._arrived.emit(generation, frames)
        return (None,)

    def tell(self, fault: Exception | None) -> None:
        """Say on the UI thread what went wrong, if anything did; a fault of ours superqt raises there besides."""
        if self._player is not None and fault is not None:
            self._player._tell(self._generation, fault)

    def end(self) -> None:
        """Let go of all, and begin what waits."""
        player, self._player, self._compute = self._player, None, None
        if player is not None:
            player._ended()
