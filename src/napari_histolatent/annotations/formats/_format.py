from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.annotations._marks import SourceFile
    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.slides import SlideInfo


@dataclass(frozen=True)
class WriteOptions:
    """What the user may choose when regions are written."""

    slide: SlideInfo | None = None
    """The slide they belong to: Hamamatsu NDPA and label masks need it."""
    rings: Literal["repaired", "source"] = "repaired"
    """Whether an outline that the repair changed is written as repaired, or as its file had it."""
    offset_xy: tuple[float, float] = (0.0, 0.0)
    """Added to level-0 coordinates: minus the slide's bounds for a QuPath that crops to them."""


@dataclass(frozen=True)
class Format:
    """One annotation format of the registry."""

    name: str
    """As the command line and reports call it, such as `asap-xml`."""
    title: str
    """As a menu calls it, such as `ASAP XML`."""
    suffixes: tuple[str, ...]
    """Of the files that it is written to, the usual one first."""
    container: Literal["xml", "json", "tiff", "csv"]
    """What the file is parsed as before it is asked what it is."""
    recognises: Callable[[Any], bool]
    """Whether a parsed document (XML: the root Element; JSON: the value; TIFF and CSV: the path) is of this format."""
    read: Callable[[Any, SlideInfo | None], SourceFile]
    """Reads a parsed document; one that it recognised. Elements it cannot understand are dropped with a message."""
    write: Callable[[Path, Annotations, WriteOptions], None] | None = None
    """Writes to a path that is free to write: the caller replaces the user's file afterwards."""
    needs_slide: bool = False
    """Whether coordinates mean nothing without the slide."""
