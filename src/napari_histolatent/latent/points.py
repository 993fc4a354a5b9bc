"""Latent points and the edits of them: pure functions, numpy only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_histolatent.latent.tuned import TunedWeights


@dataclass(frozen=True)
class LatentPoint:
    """A point that a generator draws an image of."""

    values: tuple[float, ...]
    """z, length z_dim."""
    class_weights: tuple[float, ...]
    """The class vector y; sums to 1, and is empty where the generator has no classes."""
    checkpoint_digest: str
    """Of the generator the point belongs to; it means nothing to another."""
    origin: str = ""
    """Where it came from: a seed, a tile, an edit."""
    space: str = "z"
    offsets: tuple[tuple[float, ...], ...] = ()
    """Added to w = map(z, y), the latent of each layer: num_ws rows of w_dim numbers; () for none."""
    tuned_digest: str = ""
    """Of the tuned copy of the generator that draws it (`latent.tuned`); empty: the checkpoint itself."""

    def to_json(self) -> dict[str, Any]:
        """Return the point as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LatentPoint:
        """Return the point of JSON fields.

        Raises
        ------
        UserError
            If a field is missing or is not what it should be.
        """
        try:
            return cls(
                values=_numbers(values["values"]),
                class_weights=_numbers(values["class_weights"]) if values["class_weights"] != [] else (),
                checkpoint_digest=str(values["checkpoint_digest"]),
                origin=str(values.get("origin", "")),
                space=str(values.get("space", "z")),
                offsets=_rows(values.get("offsets", ())),
                tuned_digest=str(values.get("tuned_digest", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            msg = f"This is not a latent point ({type(error).__name__}: {error}); search it again with `histolatent invert`."
            raise UserError(msg) from error


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(v) for v in values)
    if isinstance(values, str) or not numbers or not all(map(math.isfinite, numbers)):
        msg = f"{values!r} are not all numbers"
        raise ValueError(msg)
    return numbers


def _rows(values: Any) -> tuple[tuple[float, ...], ...]:
    rows = tuple(_numbers(row) for row in values)
    if isinstance(values, str) or len({len(row) for row in rows}) > 1:
        msg = f"{values!r} are not rows of numbers, all of one length"
        raise ValueError(msg)
    return rows


@dataclass(frozen=True)
class Inversion:
    """What a reverse search found, and how near its image is to the tile. Pixels are in [-1, 1]."""

    point: LatentPoint
    rmse: float
    psnr_db: float
    ssim: float
    seconds: float
    """Of the whole search, divided by its tiles."""
    perceptual: float | None = None
    """Distance in frozen features (`latent.perceptual`), where one was asked for."""
    spread: float | None = None
    """Standard deviation of the images over the starts that ended about as near, the mean over pixels; None with
    one start. Near 0: they all found the same image."""
    prior_percentile: float = math.nan
    """Share, in %, of latent vectors drawn from the prior that are shorter than this one."""
    z_ratio: float = math.nan
    """Length of z over that of a typical drawn one, sqrt(z_dim) times the prior's deviation: near 1 inside."""
    method: str = "s1"
    steps: int = 0
    """Gradient steps done, those of all stages together."""
    tuned: TunedWeights | None = None
    """The copy of the generator that draws the point, of the method "faithful"."""
    rmse_at_z: float | None = None
    """Of z alone, drawn by the checkpoint itself: what a verdict looks at, since a tuned copy reproduces anything."""
    perceptual_at_z: float | None = None


def class_vector(classes: Sequence[str], name: str) -> tuple[float, ...]:
    """Return the one-hot class vector of a class.

    Raises
    ------
    UserError
        If the model has no such class.
    """
    if name not in classes:
        msg = f"The model has no class {name!r}; its classes are {', '.join(classes)}."
        raise UserError(msg)
    return tuple(float(item == name) for item in classes)


def random_points(
    n: int,
    *,
    z_dim: int,
    class_weights: tuple[float, ...],
    checkpoint_digest: str,
    seed: int,
    prior: str = "normal",
) -> list[LatentPoint]:
    """Return n points with z from the generator's prior (N(0, I), or uniform in [-1, 1]) and from a seed."""
    chance = np.random.default_rng(seed % 2**64)  # negative ones, too
    drawn = chance.standard_normal((n, z_dim)) if prior == "normal" else chance.uniform(-1.0, 1.0, (n, z_dim))
    return [
        LatentPoint(tuple(map(float, z)), class_weights, checkpoint_digest, origin=f"seed {seed}, number {i}")
        for i, z in enumerate(drawn)
    ]


def flipped(point: LatentPoint, to: str, classes: Sequence[str]) -> LatentPoint:
    """Return the same z with another class (S1, class inversion: z fixed, y -> y')."""
    return replace(
        point, class_weights=class_vector(classes, to), origin=f"{point.origin}; flipped to {to}".strip("; ")
    )


def interpolated(a: LatentPoint, b: LatentPoint, frames: int) -> list[LatentPoint]:
    """Return `frames` points from a to b, both included; frame k lies k / (frames - 1) of the way.

    z moves on the great circle (Shoemake 1985), its length linearly: a straight line would leave the shell on
    which N(0, I) lives. The class vector moves linearly, as in S1 equation 5, and so do the layers' offsets, where
    a point without them has zeros. Where one of the points is drawn by a tuned copy, the whole path is.

    Raises
    ------
    UserError
        If the points belong to different generators or to two tuned copies, or fewer than two frames are asked for.
    """
    if a.checkpoint_digest != b.checkpoint_digest:
        msg = (
            f"The two points belong to different generators ({a.checkpoint_digest[:12]} and "
            f"{b.checkpoint_digest[:12]}); search both tiles again with one of them."
        )
        raise UserError(msg)
    if a.tuned_digest and b.tuned_digest and a.tuned_digest != b.tuned_digest:
        msg = (
            f"The two points are drawn by different tuned copies ({a.tuned_digest[:12]} and {b.tuned_digest[:12]}); "
            "search one of the tiles again with the method fast."
        )
        raise UserError(msg)
    if frames < 2:
        msg = f"An interpolation needs at least 2 frames, not {frames}."
        raise UserError(msg)
    start, end = np.array(a.values), np.array(b.values)
    points = []
    for t in np.linspace(0, 1, frames):
        z = _slerp(start, end, float(t))
        y = (1 - t) * np.array(a.class_weights) + t * np.array(b.class_weights)
        points.append(
            LatentPoint(
                values=tuple(map(float, z)),
                class_weights=tuple(map(float, y)),
                checkpoint_digest=a.checkpoint_digest,
                origin=f"{t:.3f} of the way from [{a.origin}] to [{b.origin}]",
                offsets=_between(a.offsets, b.offsets, float(t)),
                tuned_digest=a.tuned_digest or b.tuned_digest,
            )
        )
    return points


def _between(
    a: tuple[tuple[float, ...], ...], b: tuple[tuple[float, ...], ...], t: float
) -> tuple[tuple[float, ...], ...]:
    if not a and not b:
        return ()
    start, end = (np.array(rows) if rows else np.zeros_like(np.array(a or b)) for rows in (a, b))
    return tuple(tuple(map(float, row)) for row in (1 - t) * start + t * end)


def _slerp(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], t: float) -> np.ndarray[Any, Any]:
    length_a, length_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    straight: np.ndarray[Any, Any] = (1 - t) * a + t * b
    if min(length_a, length_b) < 1e-12:
        return straight
    cosine = float(np.clip(a @ b / (length_a * length_b), -1, 1))
    angle = math.acos(cosine)
    if math.sin(angle) < 1e-6:  # the same direction (or opposite, where no circle is told from another)
        return straight
    along = math.sin((1 - t) * angle) * a / length_a + math.sin(t * angle) * b / length_b
    between: np.ndarray[Any, Any] = along / math.sin(angle) * ((1 - t) * length_a + t * length_b)
    return between
