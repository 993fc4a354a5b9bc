from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from superqt.utils import create_worker

from napari_histolatent._napari._editing import Seen
from napari_histolatent._napari.editing import _player
from napari_histolatent._napari.editing._player import FRAMES, Frame, FramePlayer, coarse_to_fine
from napari_histolatent.errors import UserError
from napari_histolatent.jobs.tiles import Tile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 20.0


def frame(index: int, n: int = FRAMES, *, name: str = "path") -> Frame:
    tile = Tile(name=name, pixels=np.full((2, 2, 3), index, np.uint8), synthetic=True)
    return Frame(tile, Seen(), index, index / (n - 1))


class Drawing:
    """Computes frames, each call waiting to be let through; remembers what it was asked."""

    def __init__(self, n: int = FRAMES, *, name: str = "path", is_open: bool = False) -> None:
        self.n, self.name, self.calls = n, name, []
        self.threads: list[threading.Thread] = []
        self.entered, self.turns = threading.Semaphore(0), threading.Semaphore(1000 if is_open else 0)
        self.fault: Exception | None = None

    def __call__(self, indices: list[int]) -> list[Frame]:
        self.threads.append(threading.current_thread())
        self.calls.append(list(indices))
        self.entered.release()
        assert self.turns.acquire(timeout=PATIENCE_SECONDS)
        if self.fault:
            raise self.fault
        return [frame(index, self.n, name=self.name) for index in indices]


class Heard:
    """What a player said."""

    def __init__(self, player: FramePlayer) -> None:
        self.shown: list[tuple[int, Frame]] = []
        self.ready: list[int] = []
        self.progress: list[tuple[int, int]] = []
        self.done: list[threading.Thread] = []
        self.failed: list[Exception] = []
        player.shown.connect(lambda at, item: self.shown.append((at, item)))
        player.frame_ready.connect(self.ready.append)
        player.progress.connect(lambda n, all_: self.progress.append((n, all_)))
        player.done.connect(lambda: self.done.append(threading.current_thread()))
        player.failed.connect(self.failed.append)

    @property
    def indices(self) -> list[tuple[int, int]]:
        """Where the handle was, and which frame was shown."""
        return [(at, item.index) for at, item in self.shown]


@pytest.fixture
def player(qtbot: Any) -> FramePlayer:
    return FramePlayer()


@pytest.fixture
def drawing() -> Iterator[Callable[..., Drawing]]:
    made: list[Drawing] = []

    def make(*args: Any, **options: Any) -> Drawing:
        made.append(Drawing(*args, **options))
        return made[-1]

    yield make
    for item in made:
        item.turns.release(1000)


def idle(qtbot: Any, player: FramePlayer) -> None:
    qtbot.waitUntil(lambda: not player.is_busy, timeout=int(PATIENCE_SECONDS * 1000))


def step(qtbot: Any, item: Drawing, heard: Heard, n: int) -> None:
    """Let one call through, and wait until n frames are ready."""
    item.turns.release()
    qtbot.waitUntil(lambda: len(heard.ready) == n, timeout=int(PATIENCE_SECONDS * 1000))


# The order


def test_the_handle_comes_first_then_a_coarse_row_then_finer_ones() -> None:
    assert coarse_to_fine(9, 3) == [3, 0, 8, 4, 2, 6, 1, 5, 7]
    order = coarse_to_fine(33, 0)
    assert order[:5] == [0, 16, 32, 8, 24]
    assert sorted(order) == list(range(33))
    assert set(order[:17]) == set(range(0, 33, 2)), "every second one before any between"


def test_each_row_goes_from_the_handle_outwards() -> None:
    assert coarse_to_fine(33, 32)[:5] == [32, 16, 0, 24, 8]
    odd = [i for i in coarse_to_fine(33, 20) if i % 2]
    assert odd == sorted(odd, key=lambda i: (abs(i - 20), i))


def test_what_is_ready_is_left_out_and_any_number_of_frames_has_its_ends_early() -> None:
    assert coarse_to_fine(33, 0, set(range(33)) - {5, 16}) == [16, 5]
    assert coarse_to_fine(12, 6)[:3] == [6, 11, 0]
    assert coarse_to_fine(1, 0) == [0]


# Playing


def test_all_frames_come_in_few_calls_on_another_thread(
    qtbot: Any, player: FramePlayer, drawing: Any
) -> None:
    heard, item = Heard(player), drawing(is_open=True)
    assert not player.is_complete, "there is no path yet"
    player.start(item)
    assert player.is_busy
    idle(qtbot, player)
    assert [len(call) for call in item.calls] == [1, 1, 2, 4, 8, 8, 8, 1]
    assert [index for call in item.calls for index in call] == coarse_to_fine(33, 0)
    assert all(thread is not threading.main_thread() for thread in item.threads)
    assert sorted(heard.ready) == list(range(33))
    assert heard.progress[0] == (1, 33)
    assert heard.progress[-1] == (33, 33)
    assert heard.done == [threading.main_thread()]
    assert player.is_complete
    assert [one.index for one in player.frames] == list(range(33))
    assert heard.indices == [(0, 0)], "the handle did not move: its frame is shown once"


def test_the_nearest_frame_is_shown_at_once_and_the_exact_one_when_it_comes(
    qtbot: Any, player: FramePlayer, drawing: Any
) -> None:
    heard, item = Heard(player), drawing(9)
    player.start(item, n_frames=9, at=0)
    assert item.entered.acquire(timeout=PATIENCE_SECONDS)
    player.move(1)
    assert heard.shown == [], "nothing is ready"
    step(qtbot, item, heard, 1)
    assert heard.indices == [(1, 0)]
    player.move(7)
    assert heard.indices[1:] == [(7, 0)], "without waiting"
    step(qtbot, item, heard, 2)
    while len(heard.ready) < 9:
        item.turns.release()
        qtbot.wait(1)
    nearer = [7 - index for _, index in heard.indices[1:]]
    assert nearer == sorted(nearer, reverse=True), "each one that is shown is nearer"
    assert heard.indices[-1] == (7, 7)
    assert player.nearest is heard.shown[-1][1]


def test_what_is_computed_next_is_near_the_handle(qtbot: Any, player: FramePlayer, drawing: Any) -> None:
    heard, item = Heard(player), drawing()
    player.start(item, at=0)
    assert item.entered.acquire(timeout=PATIENCE_SECONDS)
    player.move(21)
    step(qtbot, item, heard, 1)
    assert item.entered.acquire(timeout=PATIENCE_SECONDS)
    assert item.calls == [[0], [21]]
    assert heard.indices == [(21, 0)]


def test_a_new_path_makes_the_frames_of_the_one_before_stale(
    qtbot: Any, player: FramePlayer, drawing: Any
) -> None:
    heard, old, between, new = Heard(player), drawing(name="old"), drawing(), drawing(name="new")
    new.turns.release(1000)
    player.start(old, at=5)
    assert old.entered.acquire(timeout=PATIENCE_SECONDS)
    player.start(between)
    player.start(new, n_frames=5, at=2)
    assert player.frames == (None,) * 5
    qtbot.wait(20)
    assert new.calls == [], "two paths do not share the processor"
    old.turns.release()
    idle(qtbot, player)
    assert len(old.calls) == 1
    assert between.calls == [], "the one between was never begun"
    assert {item.tile.name for _, item in heard.shown} == {"new"}
    assert heard.progress[-1] == (5, 5)
    assert len(heard.done) == 1


def test_cancelled_nothing_comes_any_more(qtbot: Any, player: FramePlayer, drawing: Any) -> None:
    heard, item = Heard(player), drawing()
    player.start(item)
    assert item.entered.acquire(timeout=PATIENCE_SECONDS)
    player.cancel()
    item.turns.release(100)
    idle(qtbot, player)
    player.move(3)
    assert (heard.shown, heard.ready, heard.done, player.frames) == ([], [], [], ())
    assert player.nearest is None


def test_a_path_that_stops_by_itself_is_not_complete(qtbot: Any, player: FramePlayer) -> None:
    heard = Heard(player)
    player.start(lambda indices: [], n_frames=3)
    idle(qtbot, player)
    assert (heard.ready, heard.done, heard.failed) == ([], [], [])
    assert not player.is_complete


def test_an_expected_fault_is_told_and_the_next_path_goes_on(
    qtbot: Any, player: FramePlayer, drawing: Any
) -> None:
    heard, bad = Heard(player), drawing(is_open=True)
    bad.fault = UserError("No; pick another tile.")
    player.start(bad)
    idle(qtbot, player)
    assert heard.failed == [bad.fault]
    assert heard.done == []
    player.start(drawing(is_open=True), n_frames=3)
    idle(qtbot, player)
    assert len(heard.done) == 1


def test_a_fault_of_a_path_that_was_left_is_not_told(qtbot: Any, player: FramePlayer, drawing: Any) -> None:
    heard, bad = Heard(player), drawing()
    bad.fault = UserError("No; pick another tile.")
    player.start(bad)
    assert bad.entered.acquire(timeout=PATIENCE_SECONDS)
    player.cancel()
    bad.turns.release()
    idle(qtbot, player)
    assert heard.failed == []


def test_a_fault_of_ours_is_told_and_raised(qtbot: Any, player: FramePlayer, drawing: Any) -> None:
    heard, bad = Heard(player), drawing(is_open=True)
    bad.fault = RuntimeError("a bug")
    with qtbot.captureExceptions() as raised:
        player.start(bad)
        idle(qtbot, player)
    assert heard.failed == [bad.fault]
    assert [str(error[1]) for error in raised] == ["a bug"]


def test_a_slot_may_ask_for_another_path(qtbot: Any, player: FramePlayer, drawing: Any) -> None:
    heard, first, second = Heard(player), drawing(is_open=True), drawing(name="second", is_open=True)
    restarted: list[bool] = []

    def restart(_: int) -> None:
        if not restarted:
            restarted.append(True)
            player.start(second, n_frames=3)

    player.frame_ready.connect(restart)
    player.start(first)
    idle(qtbot, player)
    assert len(heard.done) == 1
    assert [item.tile.name for item in player.frames] == ["second"] * 3


def test_a_player_that_is_let_go_is_gone_once_its_work_has_ended(qtbot: Any, drawing: Any) -> None:
    player, item = FramePlayer(), drawing()
    player.start(item)
    assert item.entered.acquire(timeout=PATIENCE_SECONDS)
    gone = weakref.ref(player)
    player.cancel()
    del player
    item.turns.release(100)

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    qtbot.waitUntil(is_gone, timeout=int(PATIENCE_SECONDS * 1000))


def test_nothing_hangs_on_a_worker_that_qt_keeps(
    qtbot: Any, drawing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def keep(*arguments: Any, **options: Any) -> Any:
        kept.append(create_worker(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(_player, "create_worker", keep)
    player, item = FramePlayer(), Drawing(3, is_open=True)
    player.start(item, n_frames=3)
    idle(qtbot, player)
    ends = weakref.ref(player), weakref.ref(item)
    del player, item
    qtbot.waitUntil(lambda: gc.collect() >= 0 and all(end() is None for end in ends))
    assert len(kept) == 1


def test_the_application_ends_what_is_computed(qtbot: Any, player: FramePlayer, drawing: Any) -> None:
    from napari_histolatent._napari._workers import end_watchers

    item = drawing()
    player.start(item)
    assert item.entered.acquire(timeout=PATIENCE_SECONDS)
    end_watchers()
    item.turns.release(100)
    idle(qtbot, player)
    assert len(item.calls) == 1
