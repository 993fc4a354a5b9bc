"""The command line `histolatent`: thin calls into the packages.

With --json one JSON object goes to stdout and nothing else; progress and messages go to stderr. Exit codes:
0 done, 2 the user can mend it, 3 done in part, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Never

if TYPE_CHECKING:
    from napari_histolatent.cli._app import app, run_command

__all__ = ["app", "main", "run_command"]


def main() -> Never:
    """Run the command line and leave with its exit code, also where Ctrl-C comes while it is imported."""
    try:
        from napari_histolatent.cli._app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    run()


def __getattr__(name: str) -> Any:
    if name in __all__:
        from napari_histolatent.cli import _app

        return getattr(_app, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
