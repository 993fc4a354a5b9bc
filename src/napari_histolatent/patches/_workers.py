"""Who does the work: threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_WAIT_SECONDS = 0.25
Outcome = tuple[int, Any, Exception | None]
"""Number of the item, its result, or what was raised."""


class WorkersEndedError(UserError):
    """Every worker that tried an item came to its end over it."""


class Workers(Protocol):
    """Does a function to many items, in any order."""

    is_local: bool
    """Whether the function runs in this process, so that it may be handed callbacks."""

    def run(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        on_wait: Callable[[], None] | None = None,
        doubt: Callable[[Any, Exception | None], int] | None = None,
    ) -> Iterator[Outcome]:
        """Yield the outcomes as they come; closing the iterator calls off what has not begun.

        While others work, `on_wait` is called some times a second, by whoever iterates; what it raises ends the
        work. `doubt` says of a result, or of what was raised, how much of it may be the fault of the machine that
        worked on it, 0 for nothing: where there are several machines such an item is tried on another, too.
        """


class Threads:
    """Threads of this process; one is none: the work is done where it is asked for."""

    is_local = True

    def __init__(self, n_threads: int) -> None:
        self._n_threads = max(1, n_threads)

    def run(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        on_wait: Callable[[], None] | None = None,
        doubt: Callable[[Any, Exception | None], int] | None = None,  # there is one machine
    ) -> Iterator[Outcome]:
        """Yield the outcomes as they come; closing the iterator calls off what has not begun.

        While threads work, `on_wait` is called some times a second, by whoever iterates; what it raises ends the
        work.
        """
        if self._n_threads == 1 or len(items) <= 1:
            for i, item in enumerate(items):
                yield _outcome(function, i, item)
            return
        pool = ThreadPoolExecutor(self._n_threads)
        # A few at a time: what is called off has then not been queued.
        waiting = iter(enumerate(items))
        running: set[Future[Outcome]] = set()
        try:
            while True:
                while len(running) < self._n_threads and (following := next(waiting, None)) is not None:
                    running.add(pool.submit(_outcome, function, *following))
                if not running:
                    return
                done, running = wait(running, _WAIT_SECONDS, return_when=FIRST_COMPLETED)
                if not done and on_wait is not None:
                    on_wait()
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _outcome(function: Callable[[Any], Any], i: int, item: Any) -> Outcome:
    try:
        return i, function(item), None
    except Exception as error:  # noqa: BLE001  # handed on: whoever asked decides
        return i, None, error


@contextmanager
def workers_of(n_workers: int, scheduler: str | None) -> Iterator[Workers]:
    """Yield the workers that a command asks for: threads, or those of a Dask scheduler.

    Parameters
    ----------
    n_workers
        Threads of this process, where there is no scheduler.
    scheduler
        Address of a Dask scheduler ("tcp://host:8786"), or "local": a cluster of `n_workers` processes on this machine.

    Raises
    ------
    UserError
        If dask.distributed is not installed, or the scheduler does not answer.
    """
    if scheduler is None:
        yield Threads(n_workers)
        return
    try:
        from napari_histolatent.patches._dask_workers import dask_workers
    except ImportError as error:
        msg = f"A Dask scheduler needs dask.distributed, which is not installed ({error}); run `pip install napari-histolatent[cluster]`, or leave --scheduler out."
        raise UserError(msg) from error
    with dask_workers(scheduler, n_workers) as workers:
        yield workers
