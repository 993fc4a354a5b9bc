"""Work beside the UI thread, the newest request winning; errors as notifications."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QCoreApplication, QThreadPool
from superqt.utils import FunctionWorker, create_worker

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from superqt.utils import WorkerBase

Work = "Callable[[Callable[[], bool]], Any]"
"""What runs in the thread; it is handed a question to ask now and then: should I stop?"""

_MOST_THREADS = 64
"""Many more than docks and their watchers need: what waits for a process or a disk takes no processor."""

_pools: list[QThreadPool] = []
_started: dict[int, WorkerBase[Any]] = {}
"""Kept until they have ended, as nobody else may."""


def thread_pool() -> QThreadPool:
    """Return the threads of this package.

    The process's own pool has as many as there are processors: on a machine of two, two watchers without an end
    would hold up every click that needs a thread.
    """
    if not _pools:
        made = QThreadPool()
        made.setMaxThreadCount(_MOST_THREADS)
        _pools.append(made)
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(_end_all)
    return _pools[0]


def start_beside(worker: WorkerBase[Any]) -> None:
    """Run a worker in this package's own threads: it never waits for what others do."""
    key = id(worker)  # a slot that held the worker itself would keep it, and its result, for ever
    _started[key] = worker
    worker.finished.connect(lambda: _started.pop(key, None))
    thread_pool().start(worker)


def end_watchers() -> None:
    """Have what has no end of its own come to one: for when nobody is left to watch."""
    for worker in list(_started.values()):
        worker.quit()


def _end_all() -> None:
    # As napari does with its own: what is being written is written to its end.
    end_watchers()
    thread_pool().waitForDone()


class LatestWorker:
    """Runs one piece of work at a time. A new request stops the running one, whose result is dropped.

    With `in_turn` every request is done, one after the other: for work that is quick and may not get lost.
    `in_words` puts the sentence of an error into the words of a dock.
    """

    def __init__(
        self,
        *,
        on_error: Callable[[Exception], None] | None = None,
        in_turn: bool = False,
        in_words: Callable[[str], str] = str,
    ) -> None:
        self._generation = 0
        self._running: FunctionWorker[..., Any] | None = None
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._on_error, self._in_turn, self._in_words = on_error, in_turn, in_words

    @property
    def is_busy(self) -> bool:
        """Whether work is going on."""
        return self._running is not None

    def submit(self, work: Callable[[Callable[[], bool]], Any], on_result: Callable[[Any], None]) -> None:
        """Run `work(should_stop)` in a thread, then `on_result(result)` on the UI thread, if still the newest."""
        if not self._in_turn:
            self.cancel()
        self._waiting.append((work, on_result))
        self._start()

    def cancel(self) -> None:
        """Stop what runs, forget what waits; no result arrives any more."""
        self._generation += 1
        self._waiting.clear()

    def _start(self) -> None:
        if self._running is not None or not self._waiting:
            return
        work, on_result = self._waiting.popleft()
        errand = _Errand(self, self._generation, work, on_result)
        # superqt raises what is a fault of ours on the UI thread, and napari shows the traceback.
        worker = create_worker(errand.run)
        worker.returned.connect(lambda found: errand.end(found))
        worker.errored.connect(lambda error: errand.fail(error))
        self._running = worker
        start_beside(worker)

    def _ended(self) -> None:
        self._running = None

    def _is_stale(self, generation: int) -> bool:
        return generation != self._generation

    def _tell(self, fault: UserError) -> None:
        show_error(self._in_words(str(fault)))
        if self._on_error:
            self._on_error(fault)


class _Errand:
    """One piece of work on its way, emptied when it has come to its end.

    Qt now and then never lets go of a slot whose sender goes in another thread: nothing may hang on it by then, least of
    all a dock, its viewer and their session.
    """

    def __init__(self, sender: LatestWorker, generation: int, work: Any, on_result: Any) -> None:
        self._sender: LatestWorker | None = sender
        self._generation, self._work, self._on_result = generation, work, on_result

    def run(self) -> tuple[Any, UserError | None]:
        """Do it, in the thread. An expected fault is a result: the worker's own error path is for our bugs."""
        sender, generation = self._sender, self._generation
        assert sender is not None
        # In a tuple, for superqt raises a result that is an exception.
        try:
            return self._work(lambda: sender._is_stale(generation)), None
        except UserError as error:
            return None, error

    def end(self, found: tuple[Any, UserError | None]) -> None:
        """Hand the result on, on the UI thread, and begin what waits."""
        sender, on_result = self._emptied()
        sender._ended()
        result, fault = found
        if not sender._is_stale(self._generation):
            if fault is None:
                on_result(result)
            else:
                sender._tell(fault)
        sender._start()

    def fail(self, error: Exception) -> None:
        """Tell of a fault of ours, and begin what waits."""
        sender, _ = self._emptied()
        sender._ended()
        if sender._on_error and not sender._is_stale(self._generation):
            sender._on_error(error)
        sender._start()

    def _emptied(self) -> tuple[LatestWorker, Any]:
        sender, on_result = self._sender, self._on_result
        assert sender is not None, "an errand ends once"
        self._sender = self._work = self._on_result = None
        return sender, on_result


def run_safely(action: Callable[[], Any]) -> Any:
    """Run a short action of the UI thread; an expected fault becomes a notification and the result None."""
    try:
        return action()
    except UserError as error:
        show_error(str(error))
        return None
