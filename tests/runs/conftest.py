from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from napari_histolatent.jobs.follow import new_training
from napari_histolatent.runs import RunStatus, launch
from tests.runs.processes import CONFIG, end_processes_below, wait_for_end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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


@pytest.fixture(scope="package")
def reference(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunStatus]:
    """Where an uninterrupted run of `CONFIG` ends."""
    path = tmp_path_factory.mktemp("reference") / "run"
    run = new_training(tiny_dataset, path, CONFIG)
    launch(run)
    status = wait_for_end(run)
    assert status.state == "finished", run.log_file.read_text()
    yield status
    end_processes_below(path.parent)


@pytest.fixture
def by_hand(request: pytest.FixtureRequest) -> None:
    """Leave a long test out unless it was asked for."""
    if "long" not in request.config.getoption("-m"):
        pytest.skip("by hand: pytest -m long")
