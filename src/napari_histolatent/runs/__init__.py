"""A run is a directory: what to do, what happened, whether it is alive, and how to stop it.

It knows no kind of work: `python -m napari_histolatent.jobs RUN_DIR` does the work in a process of its own.
"""

from napari_histolatent.runs._events import RunEvent
from napari_histolatent.runs._index import known_runs
from napari_histolatent.runs._launch import launch
from napari_histolatent.runs._run import ENDED, Run, RunStatus

__all__ = ["ENDED", "Run", "RunEvent", "RunStatus", "known_runs", "launch"]
