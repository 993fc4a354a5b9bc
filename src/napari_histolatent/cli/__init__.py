"""The command line `histolatent`: thin calls into the packages.

With --json one JSON object goes to stdout and nothing else; progress and messages go to stderr. Exit codes:
0 done, 2 the user can mend it, 3 done in part, 130 interrupted.
"""

from napari_histolatent.cli._app import app, main, run_command

__all__ = ["app", "main", "run_command"]
