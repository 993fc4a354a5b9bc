"""The faults a user can mend, and how the operating system's own are put into one sentence."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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

    Raises
    ------
    UserError
        With the reason: read-only, disk full, something in the way, gone, or what the system said.
    """
    try:
        yield
    except OSError as error:
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
