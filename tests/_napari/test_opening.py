"""Slides are opened beside a window that stays alive, whatever they do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import QTimer

from napari_histolatent._napari import _opening
from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._opening import (
    is_loop_running,
    layers_of,
    open_and_wait,
    open_in,
    opened,
    wait_for,
)
from napari_histolatent._napari.viewing import cache
from napari_histolatent.errors import SlideError
from napari_histolatent.slides import open_slide, write_synthetic_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_histolatent._napari._layers import LayerData

pytestmark = pytest.mark.gui


class Heart:
    """Beats while the event loop turns."""

    def __init__(self) -> None:
        self._last, self.longest = time.perf_counter(), 0.0
        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(10)

    def _beat(self) -> None:
        now = time.perf_counter()
        self.longest, self._last = max(self.longest, now - self._last), now

    def stop(self) -> float:
        """Return the longest time between two beats."""
        self._beat()
        self._timer.stop()
        return self.longest


class Gate:
    """A disk that answers when it is let: names in `held` wait."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.go_on, self.asked = threading.Event(), threading.Event()
        self.returned: list[str] = []

    def __call__(self, location: str) -> Any:
        name = Path(location).name
        if name in self.held:
            self.asked.set()
            self.go_on.wait(20)
        slide = open_slide(location)
        self.returned.append(name)
        return slide


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """What opens slides in the test."""
    made = Gate()
    monkeypatch.setattr(_opening, "open_slide", made)
    yield made
    made.go_on.set()


@pytest.fixture
def slides(tmp_path: Path) -> list[str]:
    """Four slides."""
    paths = [tmp_path / f"{name}.tiff" for name in "abcd"]
    for i, path in enumerate(paths):
        write_synthetic_slide(path, size_px=(512, 512), seed=i)
    return [str(path) for path in paths]


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any]) -> Iterator[Any]:
    """A window that is really drawn."""
    yield make_napari_viewer(show=True)
    cache().clear()


def slide_names(layers: Any) -> list[str]:
    return [layer.name for layer in layers if layer.metadata[KEY]["role"] == "slide"]


def names(layers: list[LayerData]) -> list[str]:
    return [options["name"] for _, options, _ in layers]


def opener_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "histolatent-opener"]


# In a window


def test_several_slides_are_opened_at_once(window: Any, qtbot: Any, slides: list[str]) -> None:
    ends: list[str] = []
    opening = open_in(window, slides, on_end=lambda: ends.append("end"))
    assert opening.is_going_on
    assert opening.names == ["a.tiff", "b.tiff", "c.tiff", "d.tiff"]
    assert is_loop_running() is False
    qtbot.waitUntil(lambda: bool(ends), timeout=10_000)
    assert sorted(slide_names(window.layers)) == ["a.tiff", "b.tiff", "c.tiff", "d.tiff"]
    assert [layer.metadata[KEY]["role"] for layer in window.layers] == ["overview", "slide"] * 4
    assert ends == ["end"]
    assert not opening.is_going_on
    assert opening.names == []


def test_what_is_cancelled_is_forgotten_and_what_is_there_stays(
    window: Any, qtbot: Any, slides: list[str], gate: Gate, errors: list[str]
) -> None:
    gate.held = {"b.tiff"}
    ends: list[str] = []
    opening = open_in(window, slides[:2], on_end=lambda: ends.append("end"))
    qtbot.waitUntil(lambda: len(window.layers) == 2, timeout=10_000)
    assert opening.names == ["b.tiff"]
    opening.cancel()
    opening.cancel()
    assert ends == ["end"]
    assert not opening.is_going_on
    gate.go_on.set()
    qtbot.waitUntil(lambda: not opener_threads(), timeout=10_000)
    qtbot.wait(100)
    assert sorted(gate.returned) == ["a.tiff", "b.tiff"]
    assert slide_names(window.layers) == ["a.tiff"]
    assert errors == []


def test_a_slide_that_stalls_holds_up_no_other_and_is_told_of_once(
    window: Any,
    qtbot: Any,
    slides: list[str],
    gate: Gate,
    errors: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_opening, "_SLOW_MS", 300)
    gate.held = {"a.tiff"}
    opening = open_in(window, slides[:3])
    assert gate.asked.wait(5)
    qtbot.waitUntil(lambda: len(window.layers) == 4, timeout=10_000)
    qtbot.waitUntil(lambda: bool(errors), timeout=5000)
    heart = Heart()
    qtbot.wait(800)
    assert heart.stop() < 0.5, "the window lives"
    assert sorted(slide_names(window.layers)) == ["b.tiff", "c.tiff"]
    (said,) = errors
    assert said.startswith("Still opening a.tiff: ")
    assert "b.tiff" not in said
    gate.go_on.set()
    qtbot.waitUntil(lambda: not opening.is_going_on, timeout=10_000)
    assert sorted(slide_names(window.layers)) == ["a.tiff", "b.tiff", "c.tiff"]
    assert len(errors) == 1


def test_a_fault_of_ours_is_raised_on_the_ui_thread_and_hinders_no_other_slide(
    window: Any, qtbot: Any, slides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(location: str) -> Any:
        if Path(location).name == "a.tiff":
            msg = "a bug"
            raise ZeroDivisionError(msg)
        return open_slide(location)

    monkeypatch.setattr(_opening, "open_slide", faulty)
    main, raised_on = threading.get_ident(), []
    layers = layers_of

    def watched(result: Any) -> Any:
        raised_on.append(threading.get_ident() == main)
        return layers(result)

    monkeypatch.setattr(_opening, "layers_of", watched)
    with qtbot.capture_exceptions() as raised:
        opening = open_in(window, slides[:2])
        qtbot.waitUntil(lambda: not opening.is_going_on, timeout=10_000)
        qtbot.wait(50)
    assert [kind for kind, _, _ in raised] == [ZeroDivisionError]
    assert raised_on == [True, True]
    assert slide_names(window.layers) == ["b.tiff"]


@pytest.mark.parametrize("in_a_script", [False, True])
def test_several_files_of_one_dicom_series_are_one_slide(
    window: Any, qtbot: Any, data_dir: Path, tmp_path: Path, in_a_script: bool
) -> None:
    paths = [shutil.copy(data_dir / "slides" / "fixtures" / f"boxes_{n}.dcm", tmp_path) for n in (0, 1)]
    if in_a_script:
        found = [options for _, options, _ in open_and_wait([str(path) for path in paths])]
        assert [options["metadata"][KEY]["role"] for options in found] == ["overview", "slide"]
    else:
        opening = open_in(window, [str(path) for path in paths])
        qtbot.waitUntil(lambda: not opening.is_going_on, timeout=10_000)
        assert len(slide_names(window.layers)) == 1


def test_a_slide_that_is_named_twice_is_opened_twice(window: Any, qtbot: Any, slides: list[str]) -> None:
    opening = open_in(window, [slides[0], slides[0]])
    qtbot.waitUntil(lambda: not opening.is_going_on, timeout=10_000)
    assert len(slide_names(window.layers)) == 2


@pytest.mark.parametrize("how", ["close", "x"])
def test_a_window_that_is_closed_meanwhile_gets_nothing(
    make_napari_viewer: Callable[..., Any],
    qtbot: Any,
    slides: list[str],
    gate: Gate,
    errors: list[str],
    how: str,
) -> None:
    viewer = make_napari_viewer(show=True)
    gate.held = {"a.tiff"}
    opening = open_in(viewer, slides[:1])
    qtbot.wait(500)  # its progress bar is there
    if how == "close":
        viewer.close()
    else:
        viewer.window._qt_window.close()
    qtbot.wait(50)
    gate.go_on.set()
    qtbot.waitUntil(lambda: not opening.is_going_on, timeout=10_000)
    qtbot.wait(100)
    assert list(viewer.layers) == []
    assert errors == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("histolatent")] == []
    if how == "x":
        del viewer.window._qt_window  # or the fixture closes what Qt has deleted


def test_a_progress_bar_that_is_made_too_late_is_closed_again(
    window: Any, qtbot: Any, slides: list[str], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """napari draws the window while it makes one: the last slide may come in the middle of that."""
    bars: list[list[str]] = []
    monkeypatch.setattr(_opening, "_PROGRESS_MS", 20)

    def bar(**_: Any) -> Any:
        calls: list[str] = []
        opening.cancel()
        bars.append(calls)
        return SimpleNamespace(close=lambda: calls.append("close"))

    monkeypatch.setattr(_opening, "progress", bar)
    gate.held = {"a.tiff"}
    opening = open_in(window, slides[:1])
    qtbot.waitUntil(lambda: bool(bars), timeout=5000)
    qtbot.wait(50)
    assert bars == [["close"]]


# Without one


def test_opening_and_waiting_keeps_the_order_and_the_window_alive(
    qtbot: Any, slides: list[str], gate: Gate
) -> None:
    gate.held = {"a.tiff"}
    QTimer.singleShot(400, gate.go_on.set)
    heart = Heart()
    layers = open_and_wait(slides[:3])
    assert heart.stop() < 0.3
    assert names(layers)[1::2] == ["a.tiff", "b.tiff", "c.tiff"]
    assert gate.returned[-1] == "a.tiff"


def test_nothing_to_open_is_nothing_to_wait_for(qtbot: Any) -> None:
    assert open_and_wait([]) == []


def test_what_was_waited_for_is_returned_from_a_thread_while_the_window_lives(qtbot: Any) -> None:
    main, ran_on = threading.get_ident(), []
    heart = Heart()

    def work() -> str:
        time.sleep(0.3)
        ran_on.append(threading.get_ident())
        return "done"

    assert wait_for(work, "Waiting") == "done"
    assert ran_on != [main]
    assert heart.stop() < 0.2


def test_work_that_returns_at_once_is_waited_for_too(qtbot: Any) -> None:
    for i in range(20):
        assert wait_for(lambda i=i: i, "Waiting") == i


@pytest.mark.parametrize("error", [SlideError("a.svs is nothing."), ZeroDivisionError("a bug")])
def test_what_fails_while_it_is_waited_for_is_raised(qtbot: Any, error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        wait_for(work, "Waiting")
    assert caught.value is error


def test_a_slide_that_cannot_be_opened_is_a_sentence_and_a_fault_of_ours_is_raised(
    data_dir: Path, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = opened(str(data_dir / "slides" / "fixtures" / "broken.svs"))
    assert isinstance(broken.error, SlideError)
    assert layers_of(broken) == []
    assert len(errors) == 1
    monkeypatch.setattr(_opening, "open_slide", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        layers_of(opened("a.svs"))


SCRIPT = """
import sys
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication
from napari_histolatent._napari._opening import is_loop_running, open_and_wait, wait_for
layers = open_and_wait(sys.argv[1:])
print(*(record.message for record in notification_manager.records))
print([options["name"] for _, options, _ in layers], wait_for(lambda: 42, "Waiting"))
print(QApplication.instance(), is_loop_running())
"""

NAPARI = """
import sys
import napari
from qtpy.QtCore import QTimer
from napari_histolatent._napari import _opening
viewer = napari.Viewer(show=False)
_opening.open_slide = lambda location: 1 / 0
opening = _opening.open_in(viewer, ["a.svs"])
QTimer.singleShot(1500, lambda: (print("alive", opening.is_going_on, flush=True), napari.qt.get_qapp().exit(0)))
napari.run(force=True)
"""


def child(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )


def test_a_script_waits_for_a_slow_slide_only_so_long(
    make_napari_viewer: Callable[..., Any],
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    tiny_slide: Path,
) -> None:
    from napari_histolatent._napari import _opening

    viewer, go_on = make_napari_viewer(show=True), threading.Event()
    real = _opening.open_slide

    def slow(location: str) -> Any:
        go_on.wait(20)
        return real(location)

    monkeypatch.setattr(_opening, "open_slide", slow)
    monkeypatch.setattr(_opening, "_LONGEST_WAIT_MS", 200)
    assert open_and_wait([str(tiny_slide)], viewer=viewer) == []
    go_on.set()
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=10_000)


def test_a_script_without_qt_gets_its_layers_and_says_what_is_broken(
    slides: list[str], data_dir: Path
) -> None:
    fixtures = data_dir / "slides" / "fixtures"
    dicom = [str(fixtures / f"boxes_{n}.dcm") for n in (0, 1)]
    ended = child(SCRIPT, slides[1], str(fixtures / "broken.svs"), slides[0], *dicom)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    found = (
        "['b.tiff overview', 'b.tiff', 'a.tiff overview', 'a.tiff', 'boxes_0.dcm overview', 'boxes_0.dcm'] 42"
    )
    assert lines[-2:] == [found, "None False"]
    assert lines[0].startswith("broken.svs is not a slide")


def test_a_fault_of_ours_does_not_end_napari(tmp_path: Path) -> None:
    ended = child(NAPARI)
    assert ended.returncode == 0, ended.stderr
    assert "alive False" in ended.stdout
    assert "ZeroDivisionError" in ended.stdout + ended.stderr
