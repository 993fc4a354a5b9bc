"""Which checkpoints of a run stay: the newest, the best, and milestones. Plain numbers; needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import DamagedJsonError, read_json_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

BEST_FILE = "best.json"
"""In a run's folder: the checkpoint with the lowest KID so far, {"checkpoint", "kid", "step", "kid_features"}.

The KID is in the judge's features; of a run without a judge in those of the random network: see `kid_space`."""
JUDGE, RANDOM = "judge", "random"
"""Whose features a KID is measured in: the judge's, or, where there is none, the seeded random network's."""


def kid_space(metrics: Mapping[str, Any]) -> str | None:
    """Return whose features the kid among a run's metrics is measured in: judge or random; None where nothing says it.

    Runs of before this was written down measured the random features' KID twice where there was no judge.
    """
    kid, random, stated = (metrics.get(name) for name in ("kid", "kid_random", "kid_space"))
    if kid is not None and stated in (JUDGE, RANDOM):
        return str(stated)
    if kid is None or random is None:
        return None
    return RANDOM if kid == random else JUDGE


def best_in(run_folder: Path) -> dict[str, Any] | None:
    """Return what a run's best.json says, or None where nothing was measured yet or it cannot be read."""
    try:
        return read_json_object(run_folder / BEST_FILE)
    except DamagedJsonError:
        return None


@dataclass(frozen=True)
class Measured:
    """A checkpoint and how good it is."""

    step: int
    kid: float = math.nan
    """Lower is better; NaN where it was not measured."""
    kid_features: str = ""
    """Digest of the network in whose features KID was measured: others' figures cannot be compared with it."""
    kid_space: str | None = None
    """Whose features these are: judge or random."""

    @classmethod
    def of(cls, step: int, metrics: Mapping[str, Any]) -> Measured:
        """Return what a checkpoint's metrics say."""
        kid = metrics.get("kid")
        return cls(
            step,
            math.nan if kid is None else float(kid),
            str(metrics.get("kid_features", "")),
            kid_space(metrics),
        )


def best_of(newest: Measured, others: Iterable[Measured]) -> Measured | None:
    """Return the checkpoint with the lowest KID in the features that judge the newest; the earlier one of equals.

    None where the newest has not been measured and none of the others has.
    """
    judged = [m for m in (*others, newest) if not math.isnan(m.kid)]
    # After a judge was exchanged, the old one's figures say nothing of the new one's.
    features = (
        newest.kid_features if not math.isnan(newest.kid) else judged[-1].kid_features if judged else ""
    )
    return min((m for m in judged if m.kid_features == features), key=lambda m: (m.kid, m.step), default=None)


def steps_to_drop(
    steps: Iterable[int], *, at: int, newest: int, milestone_every: int = 0, best: int | None = None
) -> list[int]:
    """Return the steps whose checkpoints go, after the checkpoint of step `at` was written.

    Those of a later step go too: a resumed run could not read them, or was set back; they are of no use, and in the
    way of the newest.

    Parameters
    ----------
    steps
        Those there are, `at` among them.
    at
        The step just written.
    newest
        How many of the newest stay, at least 1.
    milestone_every
        Every so many steps a checkpoint stays for good; 0: none.
    best
        The step of the best one, which stays.
    """
    there = sorted(steps)
    past = [step for step in there if step <= at]
    stay = set(past[-max(1, newest) :]) | {best}
    if milestone_every:
        stay |= {step for step in past if step % milestone_every == 0}
    return [step for step in there if step not in stay]
