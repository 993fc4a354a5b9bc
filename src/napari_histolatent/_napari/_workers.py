"""Work beside the UI thread, the newest request winning; errors as notifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from superqt.utils import FunctionWorker, create_worker

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

Work = "Callable[[Callable[[], bool]], Any]"
"""What runs in the thread; it is handed a question to ask now and then: should I stop?"""


class LatestWorker:
    """Runs one piece of work at a time. A new request stops the running one, whose result is dropped."""

    def __init__(self, *, on_error: Callable[[Exception], None] | None = None) -> None:
        self._generation = 0
        self._running: FunctionWorker[..., Any] | None = None
        self._waiting: tuple[Any, Any] | None = None
        self._on_error = on_error

    @property
    def is_busy(self) -> bool:
        """Whether work is going on."""
        return self._running is not None

    def submit(self, work: Callable[[Callable[[], bool]], Any], on_result: Callable[[Any], None]) -> None:
        """Run `work(should_stop)` in a thread, then `on_result(result)` on the UI thread, if still the newest."""
        self._generation += 1
        self._waiting = (work, on_result)
        if self._running is None:
            self._start()

    def cancel(self) -> None:
        """Stop what runs, forget what waits; no result arrives any more."""
        self._generation += 1
        self._waiting = None

    def _start(self) -> None:
        if self._waiting is None:
            return
        (work, on_result), self._waiting = self._waiting, None
        generation = self._generation

        def stale() -> bool:
            return generation != self._generation

        def guarded() -> Any:
            # An expected fault is a result: the worker's own error path is for our bugs.
            try:
                return work(stale)
            except UserError as error:
                return error

        def done(result: Any) -> None:
            self._running = None
            if not stale():
                if isinstance(result, UserError):
                    show_error(str(result))
                    if self._on_error:
                        self._on_error(result)
                else:
                    on_result(result)
            self._start()

        def failed(error: Exception) -> None:
            self._running = None
            if self._on_error and not stale():
                self._on_error(error)
            self._start()
            raise error  # napari shows its traceback: this is a fault of ours

        worker = create_worker(guarded)
        worker.returned.connect(done)
        worker.errored.connect(failed)
        self._running = worker
        worker.start()


def run_safely(action: Callable[[], Any]) -> Any:
    """Run a short action of the UI thread; an expected fault becomes a notification and the result None."""
    try:
        return action()
    except UserError as error:
        show_error(str(error))
        return None
