"""HALO annotations (Indica Labs) in: ImageScope's layers and regions, with types in words and short vertices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.annotations.formats._format import Format
from napari_histolatent.annotations.formats._imagescope import is_halo, read_layers
from napari_histolatent.annotations.formats._xml import text_of

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

    from napari_histolatent.annotations._marks import Mark, SourceFile
    from napari_histolatent.slides import SlideInfo

_NAME = "halo-annotations"


def read_halo(root: Element, slide: SlideInfo | None = None) -> SourceFile:
    """Return what a HALO document says; layer names may repeat, a region's name is its first comment.

    Two things are guesses. LineColor is taken as 0xBBGGRR, as in ImageScope: HALO's first three layers then come out
    yellow, green and red, and else cyan, green and blue. A polygon with end caps whose ends do not meet is taken as a
    line, as rulers have end caps; one without is an area like any other, and said to be doubtful if it gapes.
    """
    source = read_layers(root, format_name=_NAME, name_of=_comment, name_is_class=False, is_line=_is_line)
    messages = [
        f"{mark.where} has ends that lie far apart; it is read as an area, so delete it if it is a line"
        for mark in source.marks
        if mark.kind == "area" and _gapes(mark)
    ]
    return replace(source, messages=(*source.messages, *messages))


def _comment(region: Element) -> str:
    comment = region.find("Comments/Comment")
    return text_of(comment, "Body") if comment is not None else ""


def _is_line(region: Element, ring: NDArray[np.float64]) -> bool:
    return text_of(region, "HasEndcaps").lower() in ("1", "true") and not np.array_equal(ring[:1], ring[-1:])


def _gapes(mark: Mark) -> bool:
    """Whether an outline's ends lie apart by more than half its size; rectangles and ellipses have few or even steps."""
    ring = mark.rings[0]
    if len(ring) < 5 or not np.isfinite(ring).all():
        return False
    with np.errstate(over="ignore"):
        return bool(np.hypot(*(ring[0] - ring[-1])) > np.ptp(ring, axis=0).max() / 2)


HALO = Format(
    name=_NAME,
    title="HALO annotations",
    suffixes=(".annotations",),
    container="xml",
    recognises=is_halo,
    read=read_halo,
)
