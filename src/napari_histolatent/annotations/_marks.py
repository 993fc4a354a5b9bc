"""What a file says, as it says it: the shapes that a format's module reads, before any repair."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

RGB = tuple[int, int, int]

ELLIPSE_POINTS = 96
"""Vertices of an ellipse as a polygon: its area comes out 0.07 % too small."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One shape of an annotation file, in level-0 pixels (x, y)."""

    where: str
    """Which element of the file it is, for messages: `annotation 12 "Annotation 0"`."""
    kind: Literal["area", "line", "points"]
    rings: tuple[NDArray[np.float64], ...]
    """Each of shape (n, 2), as in the file: closed or not, NaN where a number could not be read. An area's outline
    comes first, then its holes. A line's parts are one ring each, a set of points is one ring."""
    class_name: str = ""
    name: str = ""
    id: str = ""
    color: RGB | None = None
    layer: str = ""
    """A negative mark cuts the areas of its own layer only."""
    is_negative: bool = False
    """Whether it is a hole, in formats where a hole is a shape of its own."""
    part_of: str = ""
    """Areas of equal, non-empty `part_of` are the parts of one region."""


@dataclass(frozen=True)
class SourceFile:
    """What was read of one file, before any repair."""

    format: str
    """The format's name in the registry, such as `asap-xml`."""
    marks: tuple[Mark, ...]
    colors: dict[str, RGB] = field(default_factory=dict)
    """RGB, 0 to 255, of the classes whose file gives one."""
    dropped: tuple[str, ...] = ()
    """One sentence for each element that could not be read at all, with the element and the reason."""
    messages: tuple[str, ...] = ()
    """What else the user should know."""
    fill: Literal["even-odd", "non-zero"] = "even-odd"
    """Which rule says what a self-crossing outline covers."""
    groups_can_be_holes: bool = False
    """Whether a group may stand for holes (ASAP, NCRF): the class mapping then decides which."""


def number_of(text: object) -> float:
    """Return a coordinate as a float, NaN where it is none; decimal commas are understood."""
    try:
        return float(str(text).strip().replace(",", "."))
    except ValueError:
        return math.nan


def ring_of(points: Iterable[Sequence[object]]) -> NDArray[np.float64]:
    """Return points (x, y) given as text or numbers as an array of shape (n, 2)."""
    return np.array([[number_of(x), number_of(y)] for x, y in points], np.float64).reshape(-1, 2)


def rectangle_ring(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float64]:
    """Return the corners of a rectangle between two opposite corners, shape (4, 2)."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float64)


def ellipse_ring(x0: float, y0: float, x1: float, y1: float) -> NDArray[np.float64]:
    """Return the ellipse in a box as a polygon of `ELLIPSE_POINTS` vertices, shape (n, 2)."""
    angles = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
    return np.column_stack(
        [
            (x0 + x1) / 2 + abs(x1 - x0) / 2 * np.cos(angles),
            (y0 + y1) / 2 + abs(y1 - y0) / 2 * np.sin(angles),
        ]
    )


def hex_color(text: str | None) -> RGB | None:
    """Return `#RRGGBB` as RGB, or None where it is none."""
    digits = (text or "").strip().lstrip("#")
    if len(digits) != 6:
        return None
    try:
        value = int(digits, 16)
    except ValueError:
        return None
    return value >> 16 & 255, value >> 8 & 255, value & 255
