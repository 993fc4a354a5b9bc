"""Directions in latent space along which something changes: found from groups, by PCA, or from what is measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.latent.points import LatentPoint

KINDS: tuple[str, ...] = ("mean difference", "boundary", "component", "measured")
"""mean difference: from one group's mean to the other's; boundary: normal of the plane that parts them;
component: of a PCA; measured: along which a measured feature grows."""

_RIDGE = 1e-2
_NEWTON_STEPS = 50
_FOLDS = 5


@dataclass(frozen=True)
class Direction:
    """A direction in the z of one generator."""

    name: str
    vector: tuple[float, ...]
    """Of length 1: a strength of 1 is one unit of z, a standard deviation of a normal prior."""
    kind: str
    """One of `KINDS`."""
    checkpoint_digest: str
    """Of the generator it belongs to."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was made from, and how good it is. JSON values."""

    def to_json(self) -> dict[str, Any]:
        """Return the direction as JSON."""
        return asdict(self) | {"vector": list(self.vector), "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Direction:
        """Return the direction of JSON fields.

        Raises
        ------
        UserError
            If it is none.
        """
        try:
            vector = tuple(float(v) for v in values["vector"])
            facts, kind = values.get("facts", {}), str(values["kind"])
            length = math.sqrt(sum(v * v for v in vector))
            if not vector or not abs(length - 1) < 1e-3 or kind not in KINDS or not isinstance(facts, dict):
                raise ValueError(f"length {length:g}, kind {kind!r}")
            return cls(str(values["name"]), vector, kind, str(values["checkpoint_digest"]), facts)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            msg = f"This is not a direction ({type(error).__name__}: {error}); make it again."
            raise UserError(msg) from error


def apply(point: LatentPoint, direction: Direction, strength: float) -> LatentPoint:
    """Return the point moved along a direction: z + strength * vector; class and offsets stay.

    Raises
    ------
    UserError
        If they belong to different generators.
    """
    if not math.isfinite(strength):
        msg = f"A direction has a strength that is a number, not {strength}; give one, 2 say."
        raise UserError(msg)
    if point.checkpoint_digest != direction.checkpoint_digest or len(point.values) != len(direction.vector):
        msg = (
            f"The direction {direction.name!r} belongs to the generator {direction.checkpoint_digest[:12]}, the point to "
            f"{point.checkpoint_digest[:12]}; make the direction again with this generator."
        )
        raise UserError(msg)
    moved = np.array(point.values) + strength * np.array(direction.vector)
    said = f"{strength:+g} along {direction.name}"
    return replace(point, values=tuple(map(float, moved)), origin=f"{point.origin}; {said}".strip("; "))


def mean_difference(name: str, a: Sequence[LatentPoint], b: Sequence[LatentPoint]) -> Direction:
    """Return the direction from the mean z of group a to that of group b.

    Raises
    ------
    UserError
        If a group is empty, the means are the same, or the points are of different generators.
    """
    first, second = _two_groups(a, b)
    difference = second.mean(0) - first.mean(0)
    facts = {"n": [len(a), len(b)], "distance": float(np.linalg.norm(difference))}
    return _direction(name, difference, "mean difference", a[0].checkpoint_digest, facts)


def boundary(
    name: str,
    a: Sequence[LatentPoint],
    b: Sequence[LatentPoint],
    *,
    l2: float = 1.0,
    should_stop: Callable[[], bool] | None = None,
) -> Direction:
    """Return the normal, from a to b, of the plane that parts two groups (Shen et al. 2020, InterFaceGAN, section 3).

    Logistic regression with an L2 penalty, by Newton's method. `facts` says how many of points left out fall on the
    right side (in 5 parts): one half is chance.

    Parameters
    ----------
    name
        Of the direction.
    a, b
        The groups; at least 2 points each.
    l2
        Penalty on the squared length of the normal, in units of the sum over points of the logistic loss.
    should_stop
        Asked between fits.

    Raises
    ------
    UserError
        If a group has fewer than two points, the groups are the same, the points are of different generators, or it
        was stopped.
    """
    first, second = _two_groups(a, b)
    if min(len(a), len(b)) < 2:
        msg = f"A boundary needs at least 2 points in each group, not {len(a)} and {len(b)}; pick more tiles, or take the mean difference."
        raise UserError(msg)
    z, sides = np.concatenate([first, second]), np.repeat([0.0, 1.0], [len(first), len(second)])
    normal = _logistic(z, sides, l2)[:-1]
    facts = {
        "n": [len(a), len(b)],
        "accuracy_left_out": _left_out_accuracy(z, sides, l2, should_stop),
        "l2": l2,
    }
    return _direction(name, normal, "boundary", a[0].checkpoint_digest, facts)


def components(
    name: str,
    points: Sequence[LatentPoint],
    n: int,
    *,
    features: NDArray[np.floating[Any]] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Direction]:
    """Return the n main directions of a group of points, strongest first (after Härkönen et al. 2020, GANSpace).

    Without features: PCA of the points' own z. That says something of tiles that were searched; z drawn from the
    prior has no main direction. With features: PCA of what the generator draws from the points, and for each
    component the direction of z along which it grows (ridge regression of the component on z): GANSpace's
    way for networks without a mapping network.

    Parameters
    ----------
    name
        Of the directions; a number is added.
    points
        At least n + 1.
    n
        How many directions.
    features
        Of the image of each point, shape (number of points, anything); None: z itself.
    should_stop
        Asked between fits.

    Raises
    ------
    UserError
        If there are too few points, they do not differ, or it was stopped.
    """
    z = _matrix(points)
    if n < 1 or len(points) <= n:
        msg = f"{n} components need more than {n} points, not {len(points)}; pick more tiles or fewer components."
        raise UserError(msg)
    data = z if features is None else np.asarray(features, np.float64).reshape(len(z), -1)
    centred = data - data.mean(0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    total = float(np.square(s).sum())
    if n > len(s) or s[n - 1] <= 1e-9 * max(s[0], float(np.linalg.norm(data))):
        msg = f"The {len(points)} points do not differ in {n} ways; pick more or other tiles."
        raise UserError(msg)
    found = []
    for i in range(n):
        facts: dict[str, Any] = {
            "n": len(points),
            "of": "z" if features is None else "images",
            "variance_explained": float(s[i] ** 2 / total),
        }
        if features is None:
            vector = vt[i]
        else:
            vector, facts["r2_left_out"] = _regressed(z, u[:, i] * s[i], should_stop)
        found.append(_direction(f"{name} {i + 1}", vector, "component", points[0].checkpoint_digest, facts))
    return found


def along_measure(
    name: str,
    points: Sequence[LatentPoint],
    values: NDArray[np.floating[Any]],
    *,
    feature: str,
    should_stop: Callable[[], bool] | None = None,
) -> Direction:
    """Return the direction of z along which a measured feature grows: ridge regression of the feature on z.

    Parameters
    ----------
    name
        Of the direction.
    points
        At least 10, best some hundreds drawn from the prior.
    values
        The feature of each point's image, shape (n,).
    feature
        What was measured, kept in `facts` beside the share of its variance that z explains on points left out.
    should_stop
        Asked between fits.

    Raises
    ------
    UserError
        If there are fewer than 10 points, the feature is the same in all, or it was stopped.
    """
    z, measured = _matrix(points), np.asarray(values, np.float64)
    if len(z) < 10 or not np.isfinite(measured).all() or measured.std() <= 1e-12:
        msg = f"The feature {feature!r} of {len(z)} images does not vary enough to find where it grows; take more points (10 at least)."
        raise UserError(msg)
    vector, r2 = _regressed(z, measured, should_stop)
    facts = {"n": len(z), "feature": feature, "r2_left_out": r2}
    return _direction(name, vector, "measured", points[0].checkpoint_digest, facts)


def require_not_stopped(should_stop: Callable[[], bool] | None) -> None:
    """Give up the making of a direction that nobody waits for any more.

    Raises
    ------
    UserError
        If `should_stop` says so.
    """
    if should_stop is not None and should_stop():
        msg = "The making of the direction was stopped; start it again."
        raise UserError(msg)


@dataclass(frozen=True)
class Monotonicity:
    """Whether a measured feature moves one way along a direction."""

    correlations: tuple[float, ...]
    """Spearman's rank correlation of feature and strength, of each point; 0 where nothing changed."""

    @property
    def median(self) -> float:
        """The median of the correlations."""
        return float(np.median(self.correlations))

    @property
    def share_monotone(self) -> float:
        """Share of the points whose correlation is at least 0.9."""
        return float(np.mean(np.array(self.correlations) >= 0.9))

    def to_json(self) -> dict[str, float]:
        """Return what reports say of it."""
        return {
            "points": len(self.correlations),
            "median": self.median,
            "share_monotone": self.share_monotone,
        }


def monotonicity(strengths: Sequence[float], values: NDArray[np.floating[Any]]) -> Monotonicity:
    """Return how monotonically a feature moves.

    Parameters
    ----------
    strengths
        Shape (k,), k >= 3.
    values
        The feature at each strength of each point, shape (n, k).
    """
    ranks = np.array([_ranks(row) for row in np.asarray(values, np.float64)])
    order = _ranks(np.asarray(strengths, np.float64))
    ranks, order = ranks - ranks.mean(axis=1, keepdims=True), order - order.mean()
    lengths = np.linalg.norm(ranks, axis=1) * np.linalg.norm(order)
    correlations = np.divide(ranks @ order, lengths, out=np.zeros(len(ranks)), where=lengths > 0)
    return Monotonicity(tuple(map(float, correlations)))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of values (k,); equal ones share the mean of theirs."""
    ordered = np.sort(values)
    places = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(places / 2, np.float64)


def _direction(
    name: str, vector: NDArray[np.float64], kind: str, digest: str, facts: Mapping[str, Any]
) -> Direction:
    length = float(np.linalg.norm(vector))
    if not length > 1e-9:
        msg = f"The direction {name!r} has no length: its groups do not differ; pick other tiles."
        raise UserError(msg)
    return Direction(name, tuple(map(float, vector / length)), kind, digest, facts)


def _matrix(points: Sequence[LatentPoint]) -> NDArray[np.float64]:
    if not points:
        msg = "A direction needs points, and there are none; pick some tiles first."
        raise UserError(msg)
    first = points[0]
    for point in points:
        if (point.checkpoint_digest, len(point.values)) != (first.checkpoint_digest, len(first.values)):
            msg = (
                f"The points of a direction belong to different generators ({first.checkpoint_digest[:12]} and "
                f"{point.checkpoint_digest[:12]}); search their tiles again with one of them."
            )
            raise UserError(msg)
    return np.array([point.values for point in points])


def _two_groups(
    a: Sequence[LatentPoint], b: Sequence[LatentPoint]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not a or not b:
        msg = f"A direction from two groups needs points in both, not {len(a)} and {len(b)}; pick tiles for each."
        raise UserError(msg)
    z = _matrix([*a, *b])
    return z[: len(a)], z[len(a) :]


def _logistic(z: NDArray[np.float64], sides: NDArray[np.float64], l2: float) -> NDArray[np.float64]:
    """Return weights and bias (last) of a logistic regression by Newton's method; the bias is not penalised."""
    x = np.column_stack([z, np.ones(len(z))])
    penalty = np.append(np.full(z.shape[1], l2), 1e-9)
    weights = np.zeros(x.shape[1])

    def loss(candidate: NDArray[np.float64]) -> float:
        margins = (x @ candidate) * (1 - 2 * sides)
        return float(np.logaddexp(0, margins).sum() + 0.5 * (penalty * candidate**2).sum())

    for _ in range(_NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -500, 500)))
        gradient = x.T @ (chance - sides) + penalty * weights
        hessian = (x.T * (chance * (1 - chance))) @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        size, before = 1.0, loss(weights)
        while loss(weights - size * step) > before and size > 1e-6:  # a full step may go too far
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return weights


def _folds(n: int) -> NDArray[np.int64]:
    """Return the part of each of n points, 0 to 4; from a seed of its own, so that the same facts come again."""
    return np.random.default_rng(0).permutation(np.arange(n) % _FOLDS)


def _left_out_accuracy(
    z: NDArray[np.float64],
    sides: NDArray[np.float64],
    l2: float,
    should_stop: Callable[[], bool] | None,
) -> float | None:
    """Return how many points left out fall on their side; None with fewer than 5 in a group."""
    if min(sides.sum(), len(sides) - sides.sum()) < _FOLDS:
        return None
    parts = np.empty(len(z), np.int64)
    for side in (0.0, 1.0):  # each part has both groups
        parts[sides == side] = _folds(int((sides == side).sum()))
    right = 0
    for part in range(_FOLDS):
        require_not_stopped(should_stop)
        out = parts == part
        weights = _logistic(z[~out], sides[~out], l2)
        right += int((((z[out] @ weights[:-1] + weights[-1]) > 0) == (sides[out] > 0)).sum())
    return right / len(z)


def _ridge(z: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    centre, mean = z.mean(0), float(values.mean())
    x = z - centre
    weights = np.linalg.solve(x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (values - mean))
    return weights, mean - float(centre @ weights)


def _regressed(
    z: NDArray[np.float64], values: NDArray[np.float64], should_stop: Callable[[], bool] | None
) -> tuple[NDArray[np.float64], float | None]:
    """Return the weights of a ridge regression on z, and R² on points left out (None with fewer than 10)."""
    weights, _ = _ridge(z, values)
    if len(z) < 2 * _FOLDS:
        return weights, None
    parts, errors = _folds(len(z)), np.empty(len(z))
    for part in range(_FOLDS):
        require_not_stopped(should_stop)
        out = parts == part
        fitted, bias = _ridge(z[~out], values[~out])
        errors[out] = values[out] - z[out] @ fitted - bias
    spread = float(np.square(values - values.mean()).sum())
    return weights, 1 - float(np.square(errors).sum()) / spread if spread > 0 else None
