"""Several directions at once, each with a strength, as one direction. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.latent.directions import Direction

if TYPE_CHECKING:
    from collections.abc import Sequence


def combined(parts: Sequence[tuple[Direction, float]]) -> tuple[Direction, float]:
    """Return one direction and one strength that move a point as several do, one after the other.

    Raises
    ------
    UserError
        If there is none, or they belong to different generators.
    """
    if not parts:
        msg = "There is no direction to move along; make one first."
        raise UserError(msg)
    first, strength = parts[0]
    for direction, _ in parts:
        if (direction.checkpoint_digest, len(direction.vector)) != (
            first.checkpoint_digest,
            len(first.vector),
        ):
            msg = (
                f"The directions {first.name!r} and {direction.name!r} belong to different generators "
                f"({first.checkpoint_digest[:12]} and {direction.checkpoint_digest[:12]}); set one of them to 0."
            )
            raise UserError(msg)
    if len(parts) == 1:
        return first, strength
    moved = np.sum([strength * np.array(direction.vector) for direction, strength in parts], axis=0)
    length = float(np.linalg.norm(moved))
    if length < 1e-12:  # they take each other back
        return first, 0.0
    name = ", ".join(f"{direction.name} {strength:+g}" for direction, strength in parts)
    unit = tuple(map(float, moved / length))
    return Direction(
        name, unit, first.kind, first.checkpoint_digest, {"strengths": [s for _, s in parts]}
    ), length
