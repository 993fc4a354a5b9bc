"""What every backend of local files needs: identity while it is open, digest, pixel size, a library's words."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

from napari_histolatent.errors import SlideError

if TYPE_CHECKING:
    from pathlib import Path

MAX_ASSOCIATED_PX = 1 << 26
"""A label of more is none: its size is damaged, and would take gigabytes."""

_PRINT_DPI = (72.0, 96.0, 100.0, 150.0, 300.0)
"""What drawing programs write into TIFF resolution tags when nobody measured anything."""


_DIGEST_PLACES = 32


class FileIdentity:
    """Notices that a file was deleted, or replaced by another, while it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._look()

    def check(self) -> None:
        """Look again.

        Raises
        ------
        SlideError
            If the file is gone, or is not the one that was opened.
        """
        if self._look() != self._seen:
            msg = (
                f"{self._path.name} was replaced by another file while it was open; "
                "close its layer and open the slide again."
            )
            raise SlideError(msg)

    def _look(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            msg = (
                f"{self._path} cannot be reached any more ({error.strerror or error}); "
                "put the file back, or reconnect the disk it is on."
            )
            raise SlideError(msg) from error
        return found.st_ino, found.st_size, found.st_mtime_ns


def reason_of(error: BaseException, path: Path | None = None) -> str:
    """Return what a library says of a failure, as part of a sentence: one line, without the folder of `path`."""
    said = str(error)
    if path is not None:
        said = said.replace(f"{path.parent}{os.sep}", "")
    # Libraries quote what they found in the file.
    printable = "".join(v if v.isprintable() else " " for v in said)
    first = " ".join(printable.split()).partition(". ")[0].rstrip(".")[:200]
    return first or type(error).__name__


def digest_of_ends(path: Path) -> str:
    """Return a digest of a file's size, both ends and some places between: many GB cannot be hashed at opening."""
    size = path.stat().st_size
    hasher = sha256(str(size).encode())
    with path.open("rb") as file:
        hasher.update(file.read(1 << 16))
        for i in range(1, _DIGEST_PLACES):
            file.seek(size * i // _DIGEST_PLACES)
            hasher.update(file.read(1 << 12))
        file.seek(max(0, size - (1 << 16)))
        hasher.update(file.read())
    return hasher.hexdigest()


def is_print_resolution(mpp: float) -> bool:
    """Return whether a pixel size is one of the resolutions of printing (72 dpi is 353 µm), not of a scanner."""
    return any(abs(25_400 / mpp - dpi) < 0.05 for dpi in _PRINT_DPI)


PRINT_RESOLUTION_NOTE = (
    "The resolution in the file ({dpi:.0f} dpi) is a default of printing, not the pixel size of a scan: "
    "it is not used."
)
