"""Trainings by several processes: which of them this one is. The first one owns the run; the others only help."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

import psutil

from napari_histolatent.errors import RunError
from napari_histolatent.runs import Run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""Where whatever starts the processes (the first one, a user on each machine, torchrun, SLURM) numbers them."""


def is_helper(run: Run, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process is one of a run's, but not the first.

    A run of one process has no helpers: a cluster may number several such runs side by side.
    """
    config = run.spec.get("config", {})
    processes = config.get("devices", 1) * config.get("nodes", 1)
    return processes > 1 and is_numbered(environment)


def is_numbered(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process has a number above 0 among several."""
    return any(environment.get(name, "0") not in ("", "0") for name in _RANKS)


def wait_for_run(path: str | Path, *, timeout_seconds: float = 600.0) -> Run:
    """Return a run that the first process makes, once it is there.

    Raises
    ------
    RunError
        If it does not come.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return Run(path)
        except RunError as error:
            if time.monotonic() > deadline:
                msg = f"{path} has not been made by the first machine after {timeout_seconds:g} s; start the training there (NODE_RANK=0) in a folder that all machines share."
                raise RunError(msg) from error
        time.sleep(0.5)


def help_along(run: Run) -> None:
    """Take part in a run in a process of its own, and wait until it has ended.

    Raises
    ------
    RunError
        If it ended otherwise than well.
    """
    command = [sys.executable, "-P", "-m", "napari_histolatent.jobs", str(run.path)]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        msg = f"This machine's part in {run.path} ended with code {code}; see {run.log_file} and what was printed here."
        raise RunError(msg)


def end_with_parent() -> None:
    """End this process when the one that started it has: it would wait for the others for ever."""

    def wait() -> None:
        with suppress(psutil.Error):  # gone already
            psutil.Process(os.getppid()).wait()
        os._exit(1)

    Thread(target=wait, name="end with the parent", daemon=True).start()
