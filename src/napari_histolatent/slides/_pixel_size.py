"""Pixel sizes that users state for slides whose files do not: kept beside the user's data, never in the slide."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from napari_histolatent._files import data_folder, file_name_of, write_json
from napari_histolatent.errors import writing_to

if TYPE_CHECKING:
    from pathlib import Path

MPP_OF_OBJECTIVE = {"40x": 0.25, "20x": 0.5, "10x": 1.0}
"""Micrometres per pixel that scanners commonly have with these objectives."""


def stored_mpp(digest: str) -> float | None:
    """Return the micrometres per pixel that were stored for the slide with this digest."""
    try:
        value = json.loads(_sidecar(digest).read_text(encoding="utf-8"))["mpp"]
        mpp = math.nan if isinstance(value, bool | str) else float(value)
    # What was not stored here can be anything: a number too large for a float, lists in lists in lists.
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return mpp if 0 < mpp < math.inf else None


def stored_mpps() -> dict[str, float]:
    """Return the micrometres per pixel of every slide for which they were stored, by its digest."""
    digests = [path.stem for path in (data_folder() / "slides").glob("*.json")]
    found = {digest: stored_mpp(digest) for digest in sorted(digests)}
    return {digest: mpp for digest, mpp in found.items() if mpp is not None}


def store_mpp(digest: str, mpp: float | None) -> None:
    """Store the micrometres per pixel of the slide with this digest; None forgets it.

    Raises
    ------
    UserError
        If the user's data folder cannot be written.
    """
    path = _sidecar(digest)
    with writing_to(path.parent):
        if mpp is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"mpp": mpp})


def _sidecar(digest: str) -> Path:
    return data_folder() / "slides" / f"{file_name_of(digest)}.json"
