"""Start the process that does a run's work, detached: it outlives the window and the terminal."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import RunError, writing_to
from napari_histolatent.runs._run import ENDED

if TYPE_CHECKING:
    from napari_histolatent.runs._run import Run

_JOBS_MODULE = "napari_histolatent.jobs"
"""By name: the kinds of work lie above this room."""


def launch(run: Run) -> int:
    """Start or resume a run in a process of its own, and return the process's number.

    The process gets a session of its own, imports nothing from the working folder (-P: a run folder from elsewhere
    must not bring code along), and writes to log.txt: a pipe to a parent that died would kill it.

    Raises
    ------
    RunError
        If a process works on the run already.
    UserError
        If the run folder cannot be written.
    """
    _require_ended(run)
    apart: dict[str, Any] = (
        {"creationflags": 0x00000008 | 0x00000200}  # DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP
        if sys.platform == "win32"
        else {"start_new_session": True}
    )
    # Who was quicker has claimed the run, or works on it: neither its claim nor a stop that was asked of it may
    # be touched. The process waits for the lock, and claims the run again by itself.
    with writing_to(run.path), run.held():
        _require_ended(run)
        run.clear_stop()
        with run.log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _JOBS_MODULE, str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **apart,
            )
        run.claim(process.pid)
    # Whoever started a process has to collect it, or it stays as a zombie as long as the starter lives.
    Thread(target=process.wait, name=f"collect {process.pid}", daemon=True).start()
    return process.pid


def _require_ended(run: Run) -> None:
    if run.status().state not in (*ENDED, "new"):
        msg = f"{run.path} is running already; stop it first with `histolatent stop {run.path}`."
        raise RunError(msg)
