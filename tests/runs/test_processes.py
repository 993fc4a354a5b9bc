"""Real training in real processes: started, stopped, killed, resumed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from PIL import Image

from napari_histolatent.errors import RunError
from napari_histolatent.jobs.follow import follow, new_training, resume, stop
from napari_histolatent.runs import launch
from napari_histolatent.training.checkpoint import latest_checkpoint
from tests.runs.processes import (
    CONFIG,
    ENDLESS,
    launched,
    wait_for_end,
    wait_for_events,
    wait_for_exit,
    wait_for_kind,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.runs import Run, RunStatus
    from tests.runs.conftest import Reference


def no_zombies() -> bool:
    """Whether every child of this process that has ended was collected."""
    return not any(child.status() == psutil.STATUS_ZOMBIE for child in psutil.Process().children())


def kinds_of(run: Run) -> list[str]:
    return [event.kind for event in run.events()[0]]


# Going on, to the end


def test_a_run_ends_at_its_last_step_with_all_it_promised(reference: Reference) -> None:
    status = reference.status
    assert (status.state, status.step, status.steps) == ("finished", CONFIG.steps, CONFIG.steps)
    assert set(status.losses) == {"discriminator", "generator"}
    assert status.data["checkpoint"] == f"checkpoints/step-{CONFIG.steps:08d}"
    assert status.data["sample"] == f"samples/step-{CONFIG.steps:08d}.png"
    with Image.open(reference.path / status.data["sample"]) as sample:
        assert sample.text["Comment"].startswith("SYNTHETIC")  # type: ignore[attr-defined]
    assert status.data["device"] == "cpu"
    assert "is not calibrated" in status.message, "too few patches are held out, and that is said"


def test_a_run_outlives_the_process_that_launched_it(reference: Reference) -> None:
    assert reference.own_session
    assert reference.events_at_death < CONFIG.steps
    assert (reference.status.state, reference.status.step) == ("finished", CONFIG.steps)


def test_stop_keeps_a_checkpoint_and_resume_ends_where_it_would_have(
    tiny_dataset: Path, folder: Path, reference: Reference
) -> None:
    run = new_training(tiny_dataset, folder / "run", CONFIG)
    pid = launch(run)
    wait_for_kind(run, "progress")
    stopped = stop(run)
    assert stopped.state == "stopped"
    assert 0 < stopped.step < CONFIG.steps
    assert latest_checkpoint(run.checkpoints_folder).step == stopped.step
    wait_for_exit(pid)
    assert no_zombies()

    # What a killed process leaves behind has other names, or lacks its last file.
    newest = run.checkpoints_folder / f"step-{stopped.step:08d}"
    shutil.copytree(newest, run.checkpoints_folder / f".step-{CONFIG.steps:08d}.4711-0badcafe.tmp")
    shutil.copytree(newest, run.checkpoints_folder / f"step-{CONFIG.steps - 1:08d}")
    (run.checkpoints_folder / f"step-{CONFIG.steps - 1:08d}" / "checkpoint.json").unlink()
    assert latest_checkpoint(run.checkpoints_folder).step == stopped.step

    offset = resume(run)
    steps: list[int] = []
    status = follow(run, offset=offset, on_event=lambda event: steps.append(event.step))
    assert (status.state, status.step, status.steps) == ("finished", CONFIG.steps, CONFIG.steps)
    assert status.data["digest"] == reference.status.data["digest"]
    assert steps[0] == stopped.step  # from the checkpoint, not from the start
    assert steps[-1] == CONFIG.steps
    with pytest.raises(RunError, match="has finished; there is nothing to resume"):
        resume(run)


def test_a_running_run_cannot_be_launched_again_and_sigterm_ends_it_as_a_stop_does(
    tiny_dataset: Path, folder: Path
) -> None:
    run = new_training(tiny_dataset, folder / "run", ENDLESS)
    pid = launched(run)
    assert run.is_alive()
    assert follow(run, timeout_seconds=0).state == "running"
    owner = (run.path / "owner.json").read_text()
    with pytest.raises(RunError, match="is running already; stop it first with `histolatent stop"):
        launch(run)
    with pytest.raises(RunError, match="is running already"):
        resume(run)
    assert run.status().state == "running"
    assert (run.path / "owner.json").read_text() == owner

    wait_for_kind(run, "progress")
    os.kill(pid, signal.SIGTERM)
    status = wait_for_end(run)
    assert status.state == "stopped"
    assert latest_checkpoint(run.checkpoints_folder).step == status.step > 0
    wait_for_exit(pid)
    assert no_zombies()


# Killed


def moments(seed: int, n: int) -> list[tuple[int, float]]:
    """Return n moments to kill a run at: events to wait for, seconds to wait then."""
    rng = random.Random(seed)
    half = CONFIG.steps // 2
    # One event a step, and two at each checkpoint; the first is "started".
    checkpoints = [1 + step + 2 * i for i, step in enumerate(range(20, half + 1, CONFIG.checkpoint_every))]
    kinds = (
        lambda: (0, rng.uniform(0, 2)),  # while it starts
        lambda: (rng.randrange(1, half), rng.uniform(0, 0.02)),
        lambda: (rng.choice(checkpoints), rng.uniform(0, 0.1)),  # while it writes a checkpoint
    )
    return [kinds[i % 3]() for i in range(n)]


def kill_at(run: Run, pid: int, events: int, delay: float) -> None:
    """Kill the process so many events from now, and check what the run says of itself."""
    wait_for_events(run, events)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    wait_for_exit(pid)
    assert no_zombies()
    killed = run.status()
    assert killed.state == "interrupted"
    assert killed.step < CONFIG.steps


def expect_same_end(run: Run, status: RunStatus, reference: Reference) -> None:
    assert status.state == "finished", run.log_file.read_text()
    assert (status.step, status.steps) == (CONFIG.steps, CONFIG.steps)
    assert latest_checkpoint(run.checkpoints_folder).step == CONFIG.steps
    assert status.data["digest"] == reference.status.data["digest"]


def test_a_run_that_is_killed_again_and_again_comes_to_the_same_end(
    tiny_dataset: Path, folder: Path, reference: Reference
) -> None:
    run = new_training(tiny_dataset, folder / "run", CONFIG)
    for i, (events, delay) in enumerate(moments(seed=1, n=3)):
        pid = launch(run) if i == 0 else launched_again(run)
        kill_at(run, pid, events, delay)
    expect_same_end(run, follow(run, offset=resume(run)), reference)


def launched_again(run: Run) -> int:
    resume(run)
    return int(json.loads((run.path / "owner.json").read_text())["pid"])


@pytest.mark.long
@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(("events", "delay"), moments(seed=2, n=20))
def test_a_killed_run_comes_to_the_same_end(
    tiny_dataset: Path, folder: Path, reference: Reference, events: int, delay: float
) -> None:
    run = new_training(tiny_dataset, folder / "run", CONFIG)
    kill_at(run, launch(run), events, delay)
    expect_same_end(run, follow(run, offset=resume(run)), reference)


# Failing


def test_a_job_that_cannot_go_on_says_why_in_one_sentence(tiny_dataset: Path, folder: Path) -> None:
    shutil.copytree(tiny_dataset, folder / "dataset")
    run = new_training(folder / "dataset", folder / "run", CONFIG)
    shutil.rmtree(folder / "dataset")
    pid = launch(run)
    status = wait_for_end(run)
    assert status.state == "failed"
    assert status.message.startswith(
        f"{folder / 'dataset'} is not a patch dataset (dataset.json is missing); "
    )
    assert "\n" not in status.message
    assert "Traceback" not in (run.path / "events.jsonl").read_text()
    assert "Traceback" not in run.log_file.read_text()
    assert kinds_of(run) == ["failed"]
    wait_for_exit(pid)
    assert no_zombies()
    wait_until(lambda: not run.is_alive(), "the end of the process")
