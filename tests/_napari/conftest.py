from __future__ import annotations

import gc
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from napari_histolatent.jobs.follow import new_training
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.runs._index import remember
from napari_histolatent.slides import open_slide
from napari_histolatent.training import ClassifierConfig, TrainingConfig
from tests.runs.processes import end_processes_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_histolatent.slides import Slide

if find_spec("napari") is None:
    collect_ignore_glob = ["test_*.py", "*/test_*.py"]

GAN = TrainingConfig(
    size_px=32, steps=2, batch_size=4, z_dim=8, base_channels=4, checkpoint_every=2, log_every=1, device="cpu"
)
CLASSIFIER = ClassifierConfig(
    size_px=32, steps=2, batch_size=4, base_channels=4, checkpoint_every=2, log_every=1, device="cpu"
)


class Trained(NamedTuple):
    """Folders of a generator's and a classifier's run, of `tiny_dataset`, after two steps."""

    generator: Path
    classifier: Path


@pytest.fixture(autouse=True)
def own_data_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty list of runs for each test."""
    folder = tmp_path_factory.mktemp("own_data")
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """After each test the threads it started have ended, and their last signals have arrived."""
    from qtpy.QtCore import QThreadPool
    from qtpy.QtWidgets import QApplication

    from napari_histolatent._napari._workers import end_watchers, thread_pool

    yield
    if QApplication.instance() is not None:
        end_watchers()  # a window that is closed ends its docks' with the application only
        for _ in range(3):  # what has ended may have started what waited
            QApplication.processEvents()
            for pool in (thread_pool(), QThreadPool.globalInstance()):
                assert pool.waitForDone(20_000)
        QApplication.processEvents()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose runs are ended after the test."""
    yield tmp_path
    end_processes_below(tmp_path)


class Endless:
    """Work that goes on until it is asked to stop; a test that fails ends it too."""

    def __init__(self) -> None:
        self.entered, self.stopped, self.given_up = threading.Event(), threading.Event(), threading.Event()

    def wait(self, should_stop: Callable[[], bool], each_time: Callable[[], None] = lambda: None) -> None:
        """Go on until `should_stop` says so."""
        self.entered.set()
        while not should_stop():
            if self.given_up.wait(0.001):
                return
            each_time()
        self.stopped.set()


@pytest.fixture
def endless() -> Iterator[Endless]:
    """Work without an end."""
    work = Endless()
    yield work
    work.given_up.set()


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sentences that napari was asked to show, whoever asked."""
    from napari.utils.notifications import notification_manager

    shown: list[str] = []
    monkeypatch.setattr(
        notification_manager, "dispatch", lambda notification: shown.append(notification.message)
    )
    return shown


@pytest.fixture
def viewer() -> Any:
    """A viewer without a window."""
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def proxy(viewer: Any) -> Any:
    """The viewer as napari hands it to plugins."""
    from napari.utils._proxies import PublicOnlyProxy

    return PublicOnlyProxy(viewer)


@pytest.fixture
def slide(tiny_slide: Path) -> Iterator[Slide]:
    """`tiny_slide`, open."""
    with open_slide(tiny_slide) as opened:
        yield opened


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """A function that makes pixels of which no two neighbours are alike: `noise(height, width, seed=0)`."""

    def make(height: int, width: int, *, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 250, (height, width, 3), np.uint8)

    return make


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads that share their cores with others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Trained:
    """Two finished runs; read them, do not change them."""
    below = tmp_path_factory.mktemp("trained")
    for name, config in (("gan", GAN), ("classifier", CLASSIFIER)):
        run = new_training(tiny_dataset, below / name, config)
        KINDS[run.kind](run)
    return Trained(below / "gan", below / "classifier")


@pytest.fixture
def listed(trained: Trained) -> Trained:
    """`trained`, on this test's list of runs."""
    for path in trained:
        remember(path)
    return trained


@pytest.fixture
def end_dock(qtbot: Any) -> Callable[[Any, str], None]:
    """A function that ends a dock's widget: `how` is "x" (its dock is closed) or "window" (the window is)."""
    from qtpy.QtWidgets import QDockWidget

    def end(widget: Any, how: str) -> None:
        dock = QDockWidget()
        dock.setWidget(widget)
        if how == "x":  # what napari's Window.remove_dock_widget does
            dock.widget().setParent(None)
        with qtbot.waitSignal(dock.destroyed):
            dock.deleteLater()
        qtbot.wait(10)
        gc.collect()

    return end


@pytest.fixture
def make_napari_viewer(make_napari_viewer: Any) -> Iterator[Any]:
    """napari's own, which looks at its end for viewers that somebody keeps.

    Work in our threads may keep one for a moment longer: the windows are closed and the work awaited before.
    """
    from qtpy.QtWidgets import QApplication

    from napari_histolatent._napari._workers import end_watchers, thread_pool

    made: list[Any] = []

    def make(*arguments: Any, **options: Any) -> Any:
        made.append(make_napari_viewer(*arguments, **options))
        return made[-1]

    yield make
    while made:
        viewer = made.pop()
        if hasattr(viewer.window, "_qt_window"):
            viewer.window._qt_window._save_current_window_settings = lambda: None
            viewer.close()
        del viewer
    for _ in range(5):
        end_watchers()
        assert thread_pool().waitForDone(20_000)
        QApplication.processEvents()
