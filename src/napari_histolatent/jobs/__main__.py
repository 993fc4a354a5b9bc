"""The process that does a run's work: `python -m napari_histolatent.jobs RUN_DIR`."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histolatent.errors import RunError, UserError
from napari_histolatent.jobs.joining import end_with_parent, is_helper
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.runs import Run, RunEvent

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Do the work of the run folder that is named; every way it can end is an event in the folder."""
    run = Run(Path(arguments[0]))
    if is_helper(run):
        return _help(run)
    # A shutdown or `kill` ends the run as a stop does: with a checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: run.request_stop())
    try:
        with run.exclusively():
            return _work(run)
    except RunError as error:  # another process has it: its events are not ours to write
        sys.stderr.write(f"{error}\n")
        return 2


def _help(run: Run) -> int:
    """Be one of the run's other processes: the first one holds the run, stops it and says what happens."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    try:
        KINDS[run.kind](run)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _work(run: Run) -> int:
    try:
        if run.kind not in KINDS:
            msg = f"{run.path} is a run of the kind {run.kind!r}, which this version does not know; update napari-histolatent."
            raise RunError(msg)
        KINDS[run.kind](run)
    except UserError as error:
        run.append(RunEvent("failed", step=run.status().step, message=str(error)))
        sys.stderr.write(f"{error}\n")
        return 2
    except BaseException as error:
        traceback.print_exc()  # into log.txt
        message = f"{type(error).__name__}: {error} (details in {run.log_file})"
        run.append(RunEvent("failed", step=run.status().step, message=message))
        raise
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is on disk: torch's teardown has nothing to add and takes up to a second.
    os._exit(code)
