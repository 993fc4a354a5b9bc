"""The models inside the package: where they are, if this version has any. Needs no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from napari_histolatent.errors import CheckpointError

SHIPPED = "shipped"
"""The word that names them where a run is asked for."""

GENERATOR, COLOUR_JUDGE, ROBUST_JUDGE = "generator", "colour_judge", "robust_judge"
PARTS = (GENERATOR, COLOUR_JUDGE, ROBUST_JUDGE)
_PART_OF_KIND = {"gan": GENERATOR, "classifier": ROBUST_JUDGE}


def shipped_folder(part: str) -> Path | None:
    """Return the exported folder of one of `PARTS`, or None where this version ships none."""
    folder = _root() / part
    return folder if (folder / "checkpoint.json").is_file() else None


def shipped_of_kind(kind: str) -> Path:
    """Return the folder that the word shipped means where a checkpoint of this kind (gan, classifier) is needed.

    Raises
    ------
    CheckpointError
        If this version ships none.
    """
    folder = shipped_folder(_PART_OF_KIND[kind])
    if folder is None:
        msg = "This version ships no trained model yet; name a run folder, for example the one `histolatent train` made."
        raise CheckpointError(msg)
    return folder


def _root() -> Path:
    return Path(str(files("napari_histolatent"))) / "shipped"
