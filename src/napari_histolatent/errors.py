"""The faults a user can mend, and how the operating system's own are put into one sentence."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_P = ParamSpec("_P")
_R = TypeVar("_R")

_IS_CALLERS = "_histolatent_is_callers"
"""Mark on an error that a callback of the caller's raised."""


class UserError(Exception):
    """One sentence: what was wrong, the value, and what to do.

    The command line prints it and exits with 2; the plugin shows it as a notification. Anything else that
    is raised is a fault of ours and keeps its traceback.
    """


class SlideError(UserError):
    """A slide that cannot be opened or read."""


class AnnotationError(UserError):
    """Annotations that cannot be read, or do not fit the slide."""


class DatasetError(UserError):
    """A patch dataset that cannot be made, opened or used for this."""


class RunError(UserError):
    """A run folder that is not one, is in use, or cannot go on."""


class CheckpointError(UserError):
    """A checkpoint that is missing, broken or of another network."""


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing to `folder` into a sentence with the remedy.

    What a callback raises goes through as it is: see `passing_through`.

    Raises
    ------
    UserError
        With the reason: read-only, disk full, something in the way, gone, or what the system said.
    """
    try:
        yield
    except OSError as error:
        if getattr(error, _IS_CALLERS, False):
            raise
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason, remedy = "it is read-only", "choose an output folder you may write to"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, remedy = "the disk is full", "free some space or choose another output folder"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            reason, remedy = "a file is in the way", "choose another output folder"
        elif error.errno in (errno.EISDIR, errno.ENOTEMPTY):
            reason, remedy = "a folder is in the way", "choose another name"
        elif error.errno == errno.ENOENT:
            reason, remedy = "it is gone", "check that the disk is there, or choose another output folder"
        else:
            reason, remedy = "the system refused", "choose another output folder"
        msg = f"Cannot write to {folder}: {reason} ({error.strerror or error}); {remedy}."
        raise UserError(msg) from error


def passing_through(callback: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a callback of the caller's whose own OSErrors `writing_to` leaves as they are.

    What a caller does in a callback (a window that is gone, a connection that was lost) is no fault of the folder
    that is written meanwhile.
    """

    def call(*args: _P.args, **options: _P.kwargs) -> _R:
        try:
            return callback(*args, **options)
        except OSError as error:
            setattr(error, _IS_CALLERS, True)
            raise

    return call
