from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from napari_histolatent.jobs.follow import new_training
from tests.runs.processes import CONFIG, end_processes_below, wait_for_end, wait_for_kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_histolatent.runs import RunStatus


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small train five times slower on two threads that share their cores with others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose runs are ended after the test."""
    yield tmp_path
    end_processes_below(tmp_path)


@dataclass(frozen=True)
class Reference:
    """A run of `CONFIG` that was never interrupted, though the process that launched it was."""

    path: Path
    status: RunStatus
    """Where it ended."""
    own_session: bool
    """Whether its process led a session and a group of its own, not its parent's."""
    events_at_death: int
    """Events when its parent was killed."""


PARENT = """
import sys
from napari_histolatent.jobs.follow import follow
from napari_histolatent.runs import Run, launch
run = Run(sys.argv[1])
launch(run)
follow(run)
"""


@pytest.fixture(scope="package")
def reference(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    path = tmp_path_factory.mktemp("reference") / "run"
    run = new_training(tiny_dataset, path, CONFIG)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(path)], start_new_session=True)
    try:
        wait_for_kind(run, "started")
        (child,) = psutil.Process(parent.pid).children()
        session, group = os.getsid(child.pid), os.getpgid(child.pid)
        # The whole group at once, as a terminal that is closed would.
        os.killpg(parent.pid, signal.SIGKILL)
        events = len(run.events()[0])
        parent.wait()
        status = wait_for_end(run)
        yield Reference(path, status, session == group == child.pid != parent.pid, events)
    finally:
        parent.kill()
        parent.wait()
        end_processes_below(path.parent)


@pytest.fixture
def by_hand(request: pytest.FixtureRequest) -> None:
    """Leave a long test out unless it was asked for."""
    if "long" not in request.config.getoption("-m"):
        pytest.skip("by hand: pytest -m long")
