"""Paths through latent space: what lies between two points, or on the way through several."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.latent.points import _slerp
from napari_histolatent.latent.tuned import TunedWeights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.latent.points import LatentPoint
    from napari_histolatent.models.protocols import Generator

PATHS: tuple[str, ...] = ("spherical", "linear")
"""spherical: on the shell on which a normal prior lives; linear: straight, S1 equation 5."""


def path_for(prior: str) -> str:
    """Return the kind of path that suits a prior: spherical for normal, linear for uniform."""
    return "spherical" if prior == "normal" else "linear"


def point_at(keys: Sequence[LatentPoint], t: float, *, kind: str = "spherical") -> LatentPoint:
    """Return the point at t of the way through the key points, in order; each piece takes as long as the others.

    spherical: z moves on the great circle (Shoemake 1985), its length linearly, as a straight line would leave the
    shell on which N(0, I) lives. linear: z = (1 - t) a + t b (S1, equation 5). Class vector and offsets move linearly.

    Parameters
    ----------
    keys
        Two points or more, of one generator.
    t
        From 0 (the first) to 1 (the last).
    kind
        One of `PATHS`.

    Raises
    ------
    UserError
        If there are fewer than two points, they belong to different generators, or t or the kind is not one.
    """
    _require_path(keys, kind)
    if not 0 <= t <= 1:
        msg = f"There is no point at {t:g} of a path; give a number from 0 to 1."
        raise UserError(msg)
    pieces = len(keys) - 1
    piece = min(int(t * pieces), pieces - 1)
    return _between(keys[piece], keys[piece + 1], t * pieces - piece, kind)


def path_through(
    keys: Sequence[LatentPoint],
    frames: int,
    *,
    kind: str = "spherical",
    ts: Sequence[float] | NDArray[np.float64] | None = None,
) -> list[LatentPoint]:
    """Return `frames` points through the key points, both ends included.

    Parameters
    ----------
    keys
        Two points or more, of one generator.
    frames
        How many; at least 2.
    kind
        One of `PATHS`.
    ts
        Where on the path they lie, from 0 to 1, `frames` of them; evenly if None.

    Raises
    ------
    UserError
        As `point_at`, or if fewer than two frames are asked for.
    """
    if frames < 2:
        msg = f"An interpolation needs at least 2 frames, not {frames}."
        raise UserError(msg)
    places = np.linspace(0, 1, frames) if ts is None else np.asarray(ts, np.float64)
    if len(places) != frames:
        msg = f"{frames} frames need as many places, not {len(places)}."
        raise ValueError(msg)
    return [point_at(keys, float(t), kind=kind) for t in places]


def _require_path(keys: Sequence[LatentPoint], kind: str) -> None:
    if kind not in PATHS:
        msg = f"There is no path named {kind!r}; choose one of: {', '.join(PATHS)}."
        raise UserError(msg)
    if len(keys) < 2:
        msg = f"A path needs at least 2 points, not {len(keys)}; pick another tile."
        raise UserError(msg)
    first = keys[0]
    for other in keys[1:]:
        if other.checkpoint_digest != first.checkpoint_digest:
            msg = (
                f"The two points belong to different generators ({first.checkpoint_digest[:12]} and "
                f"{other.checkpoint_digest[:12]}); search both tiles again with one of them."
            )
            raise UserError(msg)
        if (other.space, len(other.values), len(other.class_weights)) != (
            first.space,
            len(first.values),
            len(first.class_weights),
        ):
            msg = f"The points of a path have {len(first.values)} and {len(other.values)} values; search the tiles again."
            raise UserError(msg)


def _between(a: LatentPoint, b: LatentPoint, t: float, kind: str) -> LatentPoint:
    start, end = np.array(a.values), np.array(b.values)
    z = _slerp(start, end, t) if kind == "spherical" else (1 - t) * start + t * end
    y = (1 - t) * np.array(a.class_weights) + t * np.array(b.class_weights)
    return replace(
        a,
        values=tuple(map(float, z)),
        class_weights=tuple(map(float, y)),
        offsets=_offsets_between(a.offsets, b.offsets, t),
        # Between two tuned copies lies neither; who draws the frames says what they are drawn with.
        tuned_digest=a.tuned_digest if a.tuned_digest == b.tuned_digest else "",
        origin=f"{t:.3f} of the way from [{a.origin}] to [{b.origin}]",
    )


def _offsets_between(a: Any, b: Any, t: float) -> tuple[tuple[float, ...], ...]:
    """Return the offsets in between; none are the same as zeros."""
    if not a and not b:
        return ()
    known = a or b
    first, second = (np.array(item) if item else np.zeros(np.shape(known)) for item in (a, b))
    if first.shape != second.shape:
        msg = f"The points have offsets of {first.shape[0]} and {second.shape[0]} layers; search the tiles again with one generator."
        raise UserError(msg)
    mixed = (1 - t) * first + t * second
    return tuple(tuple(map(float, row)) for row in mixed)


def weights_between(
    a: TunedWeights | None, b: TunedWeights | None, t: float, network: Generator
) -> TunedWeights | None:
    """Return what draws the frame at t between two tiles: the weights of their copies of a generator, blended linearly.

    Both ends are so drawn as they were found. None stands for the generator's own weights.

    Parameters
    ----------
    a, b
        What draws the two ends.
    t
        From 0 (a) to 1 (b).
    network
        The generator they are copies of.

    Raises
    ------
    UserError
        If they are copies of different generators.
    """
    if (a.digest if a else "") == (b.digest if b else "") or (t == 0 and a) or (t == 1 and b):
        return b if t == 1 else a
    owner = (a or b).checkpoint_digest  # type: ignore[union-attr]  # not both are None: their digests differ
    if a and b and a.checkpoint_digest != b.checkpoint_digest:
        msg = f"The two tiles were found with different generators ({a.checkpoint_digest[:12]} and {b.checkpoint_digest[:12]}); search both again with one of them."
        raise UserError(msg)
    if t in (0, 1):
        return None
    first, second = (item.state if item else {} for item in (a, b))
    own = dict(network.named_parameters())  # type: ignore[attr-defined]  # a network, whatever else it is
    mixed = {}
    for name in {**first, **second}:
        ends = [
            np.asarray(state[name] if name in state else own[name].detach().cpu().numpy(), np.float32)
            for state in (first, second)
        ]
        mixed[name] = (1 - t) * ends[0] + t * ends[1]
    return TunedWeights.of(mixed, checkpoint_digest=owner)
