from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from napari_histolatent.errors import RunError
from napari_histolatent.jobs.follow import new_training, stop
from napari_histolatent.jobs.joining import is_helper, is_numbered, wait_for_run
from napari_histolatent.runs import Run, launch
from napari_histolatent.training import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

BY_TWO = TrainingConfig(
    size_px=32,
    steps=100_000,
    batch_size=8,
    device="cpu",
    base_channels=4,
    z_dim=6,
    devices=2,
    log_every=1,
    metrics_every=0,
)


def run_of(folder: Path, **config: int) -> Run:
    return Run.create(folder, kind="train", spec={"config": config})


@pytest.mark.parametrize(
    ("environment", "numbered"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, False),
        ({"LOCAL_RANK": ""}, False),
        ({"LOCAL_RANK": "1"}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, True),
        ({"LOCAL_RANK": "0", "GROUP_RANK": "2"}, True),
        ({"SLURM_PROCID": "3"}, True),
    ],
)
def test_helpers_are_those_with_a_number_above_0(
    tmp_path: Path, environment: dict[str, str], numbered: bool
) -> None:
    assert is_numbered(environment) is numbered
    assert is_helper(run_of(tmp_path / "devices", devices=2), environment) is numbered
    assert is_helper(run_of(tmp_path / "nodes", nodes=2), environment) is numbered


def test_a_run_of_one_process_has_no_helpers(tmp_path: Path) -> None:
    assert not is_helper(run_of(tmp_path / "one", devices=1, nodes=1), {"SLURM_PROCID": "3"})
    assert not is_helper(run_of(tmp_path / "old"), {"LOCAL_RANK": "1"})


def test_a_run_that_another_machine_makes_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has not been made by the first machine after 0\.1 s; start the"):
        wait_for_run(tmp_path / "run", timeout_seconds=0.1)
    made = run_of(tmp_path / "run", nodes=2)
    assert wait_for_run(tmp_path / "run").id == made.id


def processes_of(run: Run) -> list[psutil.Process]:
    """Return the processes that have the run on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(run.path) in (process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_two_processes_work_on_one_run(tiny_dataset: Path, tmp_path: Path) -> None:
    run = new_training(tiny_dataset, tmp_path / "run", BY_TWO)
    launch(run)
    deadline = time.monotonic() + 120
    while run.status().step < 2 and run.status().state in ("starting", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    helpers = processes_of(run)
    assert len(helpers) == 2, run.log_file.read_text()
    status = stop(run)
    assert status.state == "stopped", status.message
    events, _ = run.events()
    kinds = [event.kind for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "stopped")
    assert kinds.count("started") == 1
    steps = [event.step for event in events if event.kind == "progress"]
    assert steps == sorted(set(steps)), "each step is reported once"
    _, alive = psutil.wait_procs(helpers, timeout=20)
    assert not alive
    assert [path.name for path in run.checkpoints_folder.iterdir()] == [f"step-{status.step:08d}"]
    # None but the first may take the run: another process is still refused, and no helper had a word to say.
    assert "in use by process" not in run.log_file.read_text()


def test_a_helper_ends_with_the_process_that_started_it() -> None:
    sleeper = "from napari_histolatent.jobs.joining import end_with_parent; import time; end_with_parent(); print('here', flush=True); time.sleep(60)"
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            f"p = subprocess.Popen([sys.executable, '-c', {sleeper!r}], stdout=subprocess.PIPE, text=True)\n"
            "p.stdout.readline(); print(p.pid, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    helper = psutil.Process(int(starter.stdout.readline()))
    starter.kill()
    starter.wait()
    starter.stdout.close()
    helper.wait(timeout=20)
    assert not helper.is_running()
