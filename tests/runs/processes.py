"""Real processes of real runs, and their end: whatever a test leaves running is killed by its number."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING

import psutil

from napari_histolatent.runs import ENDED, Run, RunStatus, launch
from napari_histolatent.training import TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE_SECONDS = 120.0
"""After this long something hangs; nothing is measured by it."""

CONFIG = TrainingConfig(
    size_px=32,
    steps=80,
    batch_size=8,
    z_dim=8,
    base_channels=4,
    checkpoint_every=20,
    log_every=1,
    device="cpu",
)
ENDLESS = CONFIG.with_changes(steps=1_000_000, checkpoint_every=500_000, log_every=10)


def wait_until(
    condition: Callable[[], object], what: str, *, folder: Path | None = None, poll_seconds: float = 0.02
) -> None:
    """Wait for a condition; say what it was, and the run's own words, where it does not come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            log = (folder / "log.txt").read_text() if folder and (folder / "log.txt").exists() else ""
            raise AssertionError(f"waited in vain for: {what}\n{log}")
        time.sleep(poll_seconds)


def wait_for_events(run: Run, n: int) -> None:
    file = run.path / "events.jsonl"
    wait_until(
        lambda: n == 0 or (file.exists() and file.read_bytes().count(b"\n") >= n),
        f"{n} events of {run.path}",
        folder=run.path,
        poll_seconds=0.002,
    )


def wait_for_kind(run: Run, kind: str, *, after: int = 0) -> None:
    wait_until(
        lambda: any(event.kind == kind for event in run.events(after)[0]),
        f"the event {kind!r} of {run.path}",
        folder=run.path,
    )


def wait_for_end(run: Run) -> RunStatus:
    wait_until(lambda: run.status().state in ENDED, f"the end of {run.path}", folder=run.path)
    return run.status()


def wait_for_exit(pid: int) -> None:
    """Wait until a process is gone, collected by its parent and no zombie."""
    wait_until(lambda: not psutil.pid_exists(pid), f"the exit of process {pid}")


def launched(run: Run) -> int:
    """Launch a run and wait for its first event."""
    pid = launch(run)
    wait_for_kind(run, "started")
    return pid


def owner_of(path: Path) -> psutil.Process | None:
    """Return the process that works on a run, if it is there."""
    try:
        owner = json.loads((path / "owner.json").read_text())
        process = psutil.Process(owner["pid"])
        return process if abs(process.create_time() - owner["since"]) < 1 else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, psutil.Error):
        return None  # none, gone, or what a test wrote to be refused


def end_process_of(path: Path) -> None:
    """Kill what works on a run, unless that is this process."""
    process = owner_of(path)
    if process is None or process.pid == os.getpid():
        return
    with contextlib.suppress(psutil.Error):  # gone already
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_SECONDS)


def end_processes_below(folder: Path) -> None:
    """Kill what works on any run in a folder."""
    for file in folder.rglob("owner.json"):
        end_process_of(file.parent)
