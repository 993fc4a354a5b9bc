"""Workers of a Dask cluster: by a scheduler's address, or processes of this machine."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, KilledWorker, LocalCluster, TimeoutError, as_completed, get_worker
from distributed.client import FutureCancelledError

from napari_histolatent.errors import UserError
from napari_histolatent.patches._workers import WorkersEndedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Future

    from napari_histolatent.patches._workers import Outcome

LOCAL = "local"
_CONNECT_SECONDS = 15
_AHEAD = 3
"""Tasks handed out for each worker: enough to keep it busy, few to call off."""
_RETRIES = 2
"""A task whose workers died is handed out anew so often, each time to as many workers as Dask allows (3)."""


_POLL_SECONDS = 0.02
_GONE_SECONDS = 5
"""A connection that breaks may come back."""
_WAIT_SECONDS = 0.25
_FETCH_SECONDS = 5.0
"""A result that takes longer to come may be lost with the worker that held it."""
_NO_WORKERS_SECONDS = 60.0
"""So long it is waited for workers to come back, when all are gone."""


class LostSchedulerError(UserError):
    """The cluster is gone in the middle of the work."""


@dataclass(frozen=True)
class _Try:
    """An item that is handed out."""

    number: int
    item: Any
    killed: int = 0
    """How often it was given back, for its workers had died."""
    doubt: int = 0
    """How doubtful its first result was, and where that was made; 0 while there is none."""
    worker: str = ""
    only_on: tuple[str, ...] = ()
    """The workers that may do it; none named: any."""
    is_last: bool = False


@dataclass(frozen=True)
class _Told:
    """What a worker gives back: where it was, and what came out."""

    worker: str
    result: Any
    error: Exception | None


def _told(function: Callable[[Any], Any], item: Any) -> _Told:
    worker = get_worker().address
    try:
        return _Told(worker, function(item), None)
    except Exception as error:  # noqa: BLE001  # handed on: whoever asked decides
        return _Told(worker, None, error)


class DaskWorkers:
    """The workers of a Dask cluster."""

    is_local = False

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counted_at = -1e9
        self._n_threads: dict[str, int] = {}
        """Threads of each worker, as counted last."""
        self._some_at = time.monotonic()
        """When there was a worker last."""

    def run(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        on_wait: Callable[[], None] | None = None,
        doubt: Callable[[Any, Exception | None], int] | None = None,
    ) -> Iterator[Outcome]:
        """Yield the outcomes as they come; closing the iterator calls off what has not begun.

        While the workers work, `on_wait` is called some times a second; what it raises ends the work. An outcome of
        which `doubt` says more than 0 (a slide that is not there may be missing on one machine only) is made anew by
        a worker of another machine, or at least by another one; of the two the less doubtful counts.

        Raises
        ------
        LostSchedulerError
            If the scheduler is gone, or all its workers are for a minute.
        """
        waiting = iter(enumerate(items))
        running = as_completed()
        tries: dict[Any, _Try] = {}

        def submit(a_try: _Try) -> None:
            # Not pure: the result is a file, and what an earlier run knew of it is of no use.
            # No other workers allowed: they would steal it from those that are asked.
            where = {"workers": list(a_try.only_on)} if a_try.only_on else {}
            future = self._client.submit(_told, function, a_try.item, pure=False, **where)
            tries[future] = a_try
            running.add(future)

        def look_around() -> None:
            if on_wait is not None:
                on_wait()
            self._require_scheduler()
            there = self._threads()
            if not there and time.monotonic() - self._some_at > _NO_WORKERS_SECONDS:
                raise LostSchedulerError(_NO_WORKERS)
            # The scheduler would wait for ever for those that are gone.
            for future in [f for f, v in tries.items() if v.only_on and there.keys().isdisjoint(v.only_on)]:
                a_try = tries.pop(future)
                self._client.cancel([future])
                submit(replace(a_try, only_on=()))

        def hand_out() -> None:
            # Asked each time: workers come and go.
            room = _AHEAD * max(1, sum(self._threads().values())) - len(tries)
            for _, (number, item) in zip(range(room), waiting, strict=False):
                submit(_Try(number, item))

        try:
            hand_out()
            while tries:
                self._wait_for(running, look_around)
                future = next(running)
                if future not in tries:  # called off, and handed out anew
                    continue
                a_try = tries.pop(future)
                if future.status in ("cancelled", "lost"):
                    raise LostSchedulerError(_LOST)
                told, error = self._fetched(future, look_around)
                if told is None and error is None:
                    # Its worker died with it in the hand; Dask's own way to make it again may wait for ever.
                    self._client.cancel([future])
                    error = KilledWorker(future.key, None, 0)
                if isinstance(error, KilledWorker):
                    if a_try.killed < _RETRIES:
                        submit(replace(a_try, killed=a_try.killed + 1))
                        continue
                    told = _Told("", None, WorkersEndedError("It ended every worker that tried it."))
                elif told is None:
                    told = _Told("", None, error)
                level = doubt(told.result, told.error) if doubt is not None and told.worker else 0
                if level and not a_try.is_last:
                    if not a_try.doubt and (others := self._others(told.worker)):
                        submit(replace(a_try, doubt=level, worker=told.worker, only_on=others))
                        continue
                    if a_try.doubt and level > a_try.doubt:
                        # The other is worse; a result is a file, so the first has to make it again.
                        submit(replace(a_try, is_last=True, only_on=(a_try.worker,)))
                        continue
                hand_out()
                yield a_try.number, told.result, told.error
        except (OSError, TimeoutError, FutureCancelledError) as error:
            raise LostSchedulerError(_LOST) from error
        finally:
            if tries and self._client.status == "running":
                self._client.cancel(list(tries))

    def _require_scheduler(self) -> None:
        """Give up a scheduler that has been gone for some seconds; each question to it would wait far longer."""
        since = time.monotonic()
        while self._client.status != "running":
            if time.monotonic() - since > _GONE_SECONDS:
                raise LostSchedulerError(_LOST)
            time.sleep(_POLL_SECONDS)

    @staticmethod
    def _fetched(future: Future, look_around: Callable[[], None]) -> tuple[_Told | None, Exception | None]:
        """Return what the worker told, or why there is nothing; neither, where it was lost with its worker."""
        seconds = _FETCH_SECONDS
        while True:
            if future.status == "error":
                return None, future.exception()
            try:
                return future.result(timeout=seconds), None
            except KilledWorker as error:
                return None, error
            except TimeoutError:
                if future.status == "pending":
                    return None, None
                look_around()
                seconds *= 2

    @staticmethod
    def _wait_for(running: as_completed, look_around: Callable[[], None]) -> None:
        """Return when something is ready, looking around some times a second."""
        told_at = time.monotonic()
        while not running.has_ready():
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - told_at < _WAIT_SECONDS:
                continue
            told_at = time.monotonic()
            look_around()

    def _threads(self) -> dict[str, int]:
        """Return the workers and their threads, counted anew when the last count is a second old."""
        now = time.monotonic()
        if now - self._counted_at > 1:
            self._n_threads, self._counted_at = dict(self._client.nthreads()), now
        if self._n_threads:
            self._some_at = now
        return self._n_threads

    def _others(self, worker: str) -> tuple[str, ...]:
        """Return the workers of other machines than that of this one, else those of the same."""
        host = worker.rpartition(":")[0]
        others = [name for name in self._threads() if name != worker]
        return tuple([name for name in others if name.rpartition(":")[0] != host] or others)


_LOST = "The Dask scheduler is gone; start it again and give the same command: what is done is kept."
_NO_WORKERS = (
    "The Dask scheduler has no workers left; start some and give the same command: what is done is kept."
)


@contextmanager
def dask_workers(scheduler: str, n_workers: int) -> Iterator[DaskWorkers]:
    """Yield the workers of a scheduler by its address, or of a cluster of processes on this machine ("local").

    Raises
    ------
    UserError
        If the scheduler does not answer.
    """
    # A task that ends its worker is given back to us after so many workers, not tried for ever.
    settings = {
        "distributed.scheduler.allowed-failures": 3,
        "distributed.comm.timeouts.connect": _CONNECT_SECONDS,
    }
    with dask.config.set(settings):
        if scheduler == LOCAL:
            with (
                LocalCluster(
                    n_workers=max(1, n_workers), threads_per_worker=1, dashboard_address=None
                ) as cluster,
                Client(cluster) as client,
            ):
                yield DaskWorkers(client)
            return
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            msg = f"No Dask scheduler answers at {scheduler} ({error}); start one with `dask scheduler`, or check the address."
            raise UserError(msg) from error
        try:
            if not client.nthreads():
                msg = f"The Dask scheduler at {scheduler} has no workers; start some with `dask worker {scheduler}`."
                raise UserError(msg)
            yield DaskWorkers(client)
        finally:
            client.close(timeout=2)
