"""How a reverse search is to be done. Importing this costs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_histolatent.errors import UserError

METHODS = ("s1", "fast", "layers", "faithful")
"""s1: the paper's, from a random start. fast: from the encoder's guess. layers: fast, then an offset for the latent
of each layer. faithful: fast, then a copy of the generator is tuned to the tile."""

OWN_STEPS = {"s1": 500, "fast": 50, "layers": 100, "faithful": 180}
"""Gradient steps where none are asked for; those of layers and faithful follow the steps of fast."""


@dataclass(frozen=True)
class SearchOptions:
    """What may be asked of a reverse search. s1 knows of steps, learning_rate, seed and starts only."""

    steps: int | None = None
    """Gradient steps of the method's own stage; None: `OWN_STEPS`."""
    learning_rate: float | None = None
    """Adam's, of the method's own stage; None: the method's own."""
    seed: int = 0
    """Of all that is drawn: random starts, and coordinates that had left the prior."""
    starts: int = 1
    """Searches of each tile, of which the nearest is kept; with two or more their spread is told."""
    polish_steps: int = 0
    """Iterations of L-BFGS on z after fast's steps."""
    free_class: bool = False
    """Whether the class vector is searched too, from the one that is given."""
    perceptual_weight: float = 0.0
    """Weight of the perceptual distance beside the mean squared error."""
    prior_weight: float = 0.03
    """Weight of what z's mean square exceeds that of 95 % of drawn vectors by, in units of its prior's variance."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("starts", 1), ("polish_steps", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                msg = f"A reverse search needs {name} of {least} at least, not {value}; give more."
                raise UserError(msg)
        for name in ("perceptual_weight", "prior_weight", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                msg = f"A reverse search needs a {name} of 0 or more, not {value}; give such a number."
                raise UserError(msg)


def steps_in_all(method: str, options: SearchOptions) -> int:
    """Return the steps of a whole search, those of fast before layers or faithful counted: for a progress bar."""
    own = options.steps or OWN_STEPS[method]
    if method == "s1":
        return own
    before = OWN_STEPS["fast"] if method != "fast" else 0
    return before + own + options.polish_steps
