"""From one class to another: the blend, its timing, what is kept of the tile, and how much a flip changed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.latent.points import class_vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.latent.points import LatentPoint

TIMINGS: tuple[str, ...] = ("pixels", "perceptual", "probability", "even")
"""What equal steps of the slider are equal in: pixels (the default), perceptual distance, the classifier's
probability, or the blend weight itself."""

STAIN_ONLY_SHARE = 0.9
"""Where the change of mean colour explains more of a change than this, the change is one of stain alone."""


def blended(point: LatentPoint, to: str, t: float, classes: Sequence[str]) -> LatentPoint:
    """Return the same z on the way from its own class vector to class `to`; t = 0 is the point, t = 1 its flip.

    The class vector moves linearly, and with it the class embedding that a network multiplies it with: the class
    blending of Dolezal et al. 2023 (npj Precision Oncology 7, 49).

    Raises
    ------
    UserError
        If the model has no classes, no class `to`, or t lies outside 0 to 1.
    """
    if not 0 <= t <= 1:
        msg = f"A blend of {t:g} is not possible; give a number from 0 to 1."
        raise UserError(msg)
    require_classes(classes)
    end = np.array(class_vector(classes, to))
    weights = (1 - t) * np.array(point.class_weights) + t * end
    said = f"{t:.3f} of the way to {to}"
    return replace(
        point, class_weights=tuple(map(float, weights)), origin=f"{point.origin}; {said}".strip("; ")
    )


def require_classes(classes: Sequence[str]) -> None:
    """Refuse a generator that has no classes to flip between.

    Raises
    ------
    UserError
        If there are fewer than two.
    """
    if len(classes) < 2:
        has = f"only the class {classes[0]}" if classes else "no classes"
        msg = f"The generator has {has}, so there is nothing to flip to; train one with classes (network cdcgan)."
        raise UserError(msg)


def retimed(
    ts: NDArray[np.float64], values: NDArray[np.floating[Any]], *, frames: int | None = None
) -> NDArray[np.float64]:
    """Return places on a path such that `values` change by the same amount from each to the next.

    Re-parameterisation by arc length: the length of the path up to each t is summed from straight pieces, and
    inverted.

    Parameters
    ----------
    ts
        Places where the path was looked at, shape (m,), m >= 2, increasing.
    values
        What is to change evenly, there: shape (m,) or (m, d), distances are Euclidean.
    frames
        How many places to return; m if None.

    Returns
    -------
    numpy.ndarray
        float64, shape (frames,), from the first of `ts` to its last.
    """
    flat = np.asarray(values, np.float64).reshape(len(ts), -1)
    return retimed_by_steps(ts, np.linalg.norm(np.diff(flat, axis=0), axis=1), frames=frames)


def retimed_by_steps(
    ts: NDArray[np.float64], steps: NDArray[np.floating[Any]], *, frames: int | None = None
) -> NDArray[np.float64]:
    """Return places on a path such that it is equally long from each to the next.

    Parameters
    ----------
    ts
        Places where the path was looked at, shape (m,), m >= 2, increasing.
    steps
        Length of the path from each of them to the next, shape (m - 1,), not negative.
    frames
        How many places to return; m if None.
    """
    n, steps = len(ts) if frames is None else frames, np.asarray(steps, np.float64)
    if len(ts) < 2 or len(steps) != len(ts) - 1 or not np.isfinite(steps).all() or (steps < 0).any():
        msg = (
            f"A path of {len(ts)} places needs the length of each step between them, not {steps.tolist()!r}."
        )
        raise ValueError(msg)
    total = float(steps.sum())
    if total <= 0:  # nothing changes: as well here as there
        return np.linspace(ts[0], ts[-1], n)
    # A stretch where nothing changes is passed in no time; the hint of t keeps its places in order.
    length = np.concatenate([[0.0], np.cumsum(steps / total)]) + 1e-9 * (ts - ts[0]) / (ts[-1] - ts[0])
    places = np.interp(np.linspace(0, length[-1], n), length, ts)
    places[0], places[-1] = ts[0], ts[-1]
    return places


def unevenness(values: NDArray[np.floating[Any]]) -> float:
    """Return the largest step of a path over its mean step: 1 where it is even, NaN where nothing changes.

    `values` has the shape (m,) or (m, d), m >= 2.
    """
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    steps = np.linalg.norm(np.diff(flat, axis=0), axis=1)
    return float(steps.max() / steps.mean()) if steps.any() else math.nan


def residual_edit(
    real: NDArray[np.uint8], before: NDArray[np.uint8], after: NDArray[np.uint8], *, strength: float = 1.0
) -> NDArray[np.uint8]:
    """Return x + a (G(z, y') - G(z, y)): the edit put onto the tile itself.

    What the generator cannot draw of the tile is kept as it is. uint8 of the tiles' shape, clipped to 0 to 255.

    Parameters
    ----------
    real
        The tile x, uint8, shape (..., 3).
    before, after
        The generator's images of its point before and after the edit, of the same shape.
    strength
        a; 0 leaves the tile as it is.

    Raises
    ------
    UserError
        If the three differ in shape.
    """
    _require_same_shape(real, before, after)
    change = after.astype(np.float32) - before.astype(np.float32)
    return np.clip(real + strength * change, 0, 255).round().astype(np.uint8)


@dataclass(frozen=True)
class EditEffect:
    """How much an edit changed, beside how well the tile was found in the first place. Pixels in [-1, 1]."""

    change_rmse: float
    """From the generator's image before the edit to the one after."""
    error_rmse: float
    """From the tile to the generator's image of it; 0 for an image that was drawn, not found."""
    share_by_mean_colour: float
    """Share of the change (sum of squares) that the change of mean colour alone explains; 0 without a change."""

    @property
    def is_below_error(self) -> bool:
        """Whether the edit changed less than the reverse search got wrong."""
        return self.change_rmse < self.error_rmse

    @property
    def is_stain_only(self) -> bool:
        """Whether the edit did little else than to change the mean colour."""
        return self.share_by_mean_colour > STAIN_ONLY_SHARE

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a user has to know before believing the edit; empty where nothing stands against it."""
        said = []
        if self.is_below_error:
            said.append(
                f"The edit changes less (RMSE {self.change_rmse:.3f}) than the reverse search got wrong "
                f"({self.error_rmse:.3f}), so what it shows may be the error; search the tile with the method faithful."
            )
        if self.is_stain_only:
            said.append(
                f"The edit changes the stain alone: the mean colour explains {self.share_by_mean_colour:.0%} of it."
            )
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Return what reports say of the effect."""
        return {
            "change_rmse": self.change_rmse,
            "error_rmse": self.error_rmse,
            "share_by_mean_colour": self.share_by_mean_colour,
            "is_below_error": self.is_below_error,
            "is_stain_only": self.is_stain_only,
        }


def effect_of(
    before: NDArray[np.uint8], after: NDArray[np.uint8], *, real: NDArray[np.uint8] | None = None
) -> EditEffect:
    """Measure an edit.

    Parameters
    ----------
    before, after
        The generator's images before and after, uint8, shape (H, W, 3).
    real
        The tile that was searched; None for an image that was drawn, which has no error.

    Raises
    ------
    UserError
        If the images differ in shape.
    """
    _require_same_shape(before, after, before if real is None else real)
    change = _difference(before, after)
    total = float(np.square(change).sum())
    mean = change.reshape(-1, 3).mean(axis=0)
    by_mean = float(np.square(mean).sum()) * change.size / 3
    return EditEffect(
        change_rmse=float(np.sqrt(np.square(change).mean())),
        error_rmse=0.0 if real is None else float(np.sqrt(np.square(_difference(real, before)).mean())),
        share_by_mean_colour=by_mean / total if total > 0 else 0.0,
    )


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray((b.astype(np.float64) - a) / 127.5)


def _require_same_shape(a: NDArray[np.uint8], *others: NDArray[np.uint8]) -> None:
    if any(other.shape != a.shape for other in others):
        shapes = ", ".join(" x ".join(map(str, item.shape)) for item in (a, *others))
        msg = f"The images of an edit have to be of one size, not {shapes}; search the tile again with this generator."
        raise UserError(msg)
