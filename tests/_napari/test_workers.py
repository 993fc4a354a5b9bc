from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import QThreadPool
from superqt.utils import create_worker

from napari_histolatent._napari import _workers
from napari_histolatent._napari._workers import LatestWorker, run_safely, start_beside
from napari_histolatent.errors import DatasetError, SlideError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 30.0


class Gate:
    """Work that waits until it is let through, and says what it saw."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.entered, self.opened = threading.Event(), threading.Event()
        self.stops: list[bool] = []
        self.thread: threading.Thread | None = None

    def __call__(self, should_stop: Callable[[], bool]) -> Any:
        self.thread = threading.current_thread()
        self.stops.append(should_stop())
        self.entered.set()
        assert self.opened.wait(PATIENCE_SECONDS)
        self.stops.append(should_stop())
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def gates() -> Iterator[Callable[..., Gate]]:
    """A function that makes gates; all are open in the end."""
    made: list[Gate] = []

    def make(result: Any = None) -> Gate:
        made.append(Gate(result))
        return made[-1]

    yield make
    for gate in made:
        gate.opened.set()


@pytest.fixture
def idle(qtbot: Any) -> Callable[[LatestWorker], None]:
    """A function that waits until a worker has nothing to do."""

    def wait(worker: LatestWorker) -> None:
        qtbot.waitUntil(lambda: not worker.is_busy, timeout=int(PATIENCE_SECONDS * 1000))

    return wait


def test_a_result_arrives_on_the_thread_of_the_windows(qtbot: Any, gates: Any, idle: Any) -> None:
    worker, gate, results = LatestWorker(), gates(7), []
    assert not worker.is_busy
    worker.submit(gate, lambda result: results.append((result, threading.current_thread())))
    assert worker.is_busy
    qtbot.waitUntil(gate.entered.is_set)
    assert results == []
    gate.opened.set()
    idle(worker)
    assert results == [(7, threading.main_thread())]
    assert gate.thread is not threading.main_thread()
    assert gate.stops == [False, False]


def test_the_newest_request_wins(qtbot: Any, gates: Any, idle: Any) -> None:
    worker, results = LatestWorker(), []
    first, second, third = gates("first"), gates("second"), gates("third")
    worker.submit(first, results.append)
    qtbot.waitUntil(first.entered.is_set)
    worker.submit(second, results.append)
    worker.submit(third, results.append)
    for gate in (first, second, third):
        gate.opened.set()
    idle(worker)
    assert results == ["third"]
    assert first.stops == [False, True], "the running one is asked to stop"
    assert not second.entered.is_set(), "the one between was never begun"
    assert third.stops == [False, False]


def test_one_piece_of_work_runs_at_a_time(qtbot: Any, gates: Any, idle: Any) -> None:
    worker, first, second = LatestWorker(), gates(), gates()
    worker.submit(first, lambda _: None)
    qtbot.waitUntil(first.entered.is_set)
    worker.submit(second, lambda _: None)
    qtbot.wait(50)
    assert not second.entered.is_set()
    first.opened.set()
    qtbot.waitUntil(second.entered.is_set)
    second.opened.set()
    idle(worker)


def test_two_workers_do_not_wait_for_each_other(qtbot: Any, gates: Any, idle: Any) -> None:
    slow, quick, gate, results = LatestWorker(), LatestWorker(), gates(), []
    slow.submit(gate, results.append)
    qtbot.waitUntil(gate.entered.is_set)
    quick.submit(lambda _: "quick", results.append)
    idle(quick)
    assert results == ["quick"]
    gate.opened.set()
    idle(slow)


def test_a_result_may_ask_for_more(qtbot: Any, idle: Any) -> None:
    worker, results = LatestWorker(), []

    def first(result: int) -> None:
        results.append(result)
        worker.submit(lambda _: result + 1, results.append)

    worker.submit(lambda _: 1, first)
    qtbot.waitUntil(lambda: len(results) == 2)
    idle(worker)
    assert results == [1, 2]


@pytest.mark.parametrize(
    "fault", [SlideError("The slide is gone; open another."), DatasetError("No; do so.")]
)
def test_an_expected_fault_is_one_sentence(
    qtbot: Any, idle: Any, errors: list[str], fault: Exception
) -> None:
    told: list[Exception] = []
    results: list[Any] = []
    worker = LatestWorker(on_error=told.append)

    def work(_: Any) -> None:
        raise fault

    worker.submit(work, results.append)
    idle(worker)
    assert errors == [str(fault)]
    assert told == [fault]
    assert results == []
    worker.submit(lambda _: "next", results.append)
    idle(worker)
    assert results == ["next"]


def test_an_expected_fault_needs_no_listener(qtbot: Any, gates: Any, idle: Any, errors: list[str]) -> None:
    worker, gate, results = LatestWorker(), gates(SlideError("No.")), []
    gate.opened.set()
    worker.submit(gate, results.append)
    idle(worker)
    assert (errors, results) == (["No."], [])


def test_a_fault_of_ours_is_shown_once_and_told(qtbot: Any, idle: Any, errors: list[str]) -> None:
    told: list[Exception] = []
    results: list[Any] = []
    worker = LatestWorker(on_error=told.append)

    def work(_: Any) -> None:
        msg = "a bug"
        raise KeyError(msg)

    with qtbot.capture_exceptions() as raised:
        worker.submit(work, results.append)
        idle(worker)
        qtbot.wait(20)
    assert [type(error) for error in told] == [KeyError]
    assert errors == [], "napari shows the traceback of what is raised"
    assert results == []
    worker.submit(lambda _: "next", results.append)
    idle(worker)
    assert results == ["next"], "work goes on"
    assert [kind for kind, _, _ in raised] == [KeyError]


@pytest.mark.parametrize("result", [3, SlideError("Too late.")])
def test_what_a_stale_request_comes_to_is_dropped(
    qtbot: Any, gates: Any, idle: Any, errors: list[str], result: Any
) -> None:
    told: list[Exception] = []
    results: list[Any] = []
    worker, gate = LatestWorker(on_error=told.append), gates(result)
    worker.submit(gate, results.append)
    qtbot.waitUntil(gate.entered.is_set)
    worker.submit(lambda _: "new", results.append)
    gate.opened.set()
    idle(worker)
    assert (results, told, errors) == (["new"], [], [])


@pytest.mark.parametrize("result", [3, SlideError("Too late.")])
def test_cancelled_work_is_asked_to_stop_and_comes_to_nothing(
    qtbot: Any, gates: Any, idle: Any, errors: list[str], result: Any
) -> None:
    told: list[Exception] = []
    results: list[Any] = []
    worker, gate, waiting = LatestWorker(on_error=told.append), gates(result), gates()
    worker.submit(gate, results.append)
    qtbot.waitUntil(gate.entered.is_set)
    worker.submit(waiting, results.append)
    worker.cancel()
    gate.opened.set()
    idle(worker)
    qtbot.wait(20)
    assert gate.stops == [False, True]
    assert not waiting.entered.is_set(), "what waited is forgotten"
    assert (results, told, errors) == ([], [], [])
    worker.submit(lambda _: "next", results.append)
    idle(worker)
    assert results == ["next"]


def test_to_cancel_nothing_is_nothing(qtbot: Any) -> None:
    worker = LatestWorker()
    worker.cancel()
    worker.cancel()
    assert not worker.is_busy


def test_a_short_action_is_safe(errors: list[str]) -> None:
    def refuse() -> None:
        msg = "There is no slide open; drop one."
        raise SlideError(msg)

    assert run_safely(lambda: 5) == 5
    assert run_safely(refuse) is None
    assert errors == ["There is no slide open; drop one."]


def test_a_fault_of_ours_is_not_hidden_by_a_safe_action(errors: list[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        run_safely(lambda: 1 / 0)
    assert errors == []


def test_watchers_without_an_end_hold_up_no_work(qtbot: Any, gates: Any, idle: Any) -> None:
    n_threads = QThreadPool.globalInstance().maxThreadCount() + 2
    opened, ended, watchers = threading.Event(), [], []

    def watch() -> Iterator[None]:
        while not opened.wait(0.005):
            yield

    for _ in range(n_threads):
        watcher = create_worker(watch)
        watcher.finished.connect(lambda: ended.append(1))
        start_beside(watcher)
        watchers.append(watcher)
    qtbot.waitUntil(lambda: all(watcher.is_running for watcher in watchers))
    worker, results = LatestWorker(), []
    worker.submit(lambda _: "stop", results.append)
    idle(worker)
    assert results == ["stop"]
    assert ended == []
    opened.set()
    qtbot.waitUntil(lambda: len(ended) == n_threads)


def test_a_worker_that_waits_for_others_threads_is_not_ours(qtbot: Any, gates: Any, idle: Any) -> None:
    pool, gate = QThreadPool.globalInstance(), threading.Event()
    for _ in range(pool.maxThreadCount()):
        create_worker(gate.wait, PATIENCE_SECONDS, _start_thread=True)
    try:
        worker, results = LatestWorker(), []
        worker.submit(lambda _: 1, results.append)
        idle(worker)
        assert results == [1]
    finally:
        gate.set()


def test_an_error_is_put_into_the_words_of_a_dock(qtbot: Any, idle: Any, errors: list[str]) -> None:
    def work(_: Any) -> None:
        msg = "Run `stop`."
        raise DatasetError(msg)

    worker = LatestWorker(in_words=lambda sentence: sentence.replace("Run `stop`", "Press Stop"))
    worker.submit(work, lambda _: None)
    idle(worker)
    assert errors == ["Press Stop."]


def test_what_is_done_is_kept_by_nobody(qtbot: Any, idle: Any) -> None:
    class Large:
        pass

    held: list[Any] = []

    def work(_: Any) -> Large:
        result = Large()
        held.append(weakref.ref(result))
        return result

    worker = LatestWorker()
    worker.submit(work, lambda _: None)
    idle(worker)
    qtbot.waitUntil(lambda: gc.collect() >= 0 and held[0]() is None)


def test_nothing_hangs_on_a_worker_that_qt_keeps(
    qtbot: Any, idle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dock:
        def take(self, result: Any) -> None:
            results.append(result)

    kept: list[Any] = []
    results: list[Any] = []

    def keep(*arguments: Any, **options: Any) -> Any:
        kept.append(create_worker(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(_workers, "create_worker", keep)
    dock, worker = Dock(), LatestWorker()
    worker.submit(lambda _: 1, dock.take)
    idle(worker)
    ends = weakref.ref(dock), weakref.ref(worker)
    del dock, worker
    qtbot.waitUntil(lambda: gc.collect() >= 0 and all(end() is None for end in ends))
    assert results == [1]
    assert len(kept) == 1
