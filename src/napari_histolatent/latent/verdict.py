"""How far a reverse search is to be believed: its figures beside those of held-out real tiles. Needs no torch."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_histolatent._files import DamagedJsonError, json_field, read_json_object, write_json
from napari_histolatent.errors import CheckpointError, writing_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.latent.points import Inversion

Verdict = Literal["trust", "caution", "outside"]

CALIBRATION_FILE = "calibration.json"
"""Beside a checkpoint's checkpoint.json, outside its digest."""
FORMAT_VERSION = 1
_LEAST_AGREEMENT = 0.9
NO_CALIBRATION = "How far to believe it is not known: this model has no calibration yet; make it with `histolatent calibrate RUN --dataset DS`."

_MEASURES: Mapping[str, str] = {
    "rmse": "the error of its reconstruction",
    "perceptual": "the perceptual distance of its reconstruction",
    "z_ratio": "the length of its latent vector",
    "feature_distance": "its distance to the tissue that the model learnt from",
}
_TRUSTED, _KNOWN = 0.90, 0.99
_FLOORS: Mapping[str, tuple[float, float]] = {"z_ratio": (1.2, 1.5)}
"""Least bounds: searches with a prior term end on its shell, and a hair beyond it says nothing."""
_NEIGHBOURS = 5
_AXES = 32
_MOST_ENTRIES = 4_000_000


@dataclass(frozen=True)
class Bounds:
    """What 90 % and 99 % of the held-out tiles keep to."""

    trusted: float
    known: float

    @classmethod
    def of(cls, values: Sequence[float], *, at_least: tuple[float, float] = (0.0, 0.0)) -> Bounds:
        """Return the bounds of a measure of held-out tiles.

        They are those of split conformal prediction (Vovk et al. 2005): the ceil((n + 1) q)-th smallest value, so that
        a further tile of the same kind keeps to it with probability q at least; the largest where n is too small.
        """
        ordered = sorted(values)
        n = len(ordered)
        low, high = (ordered[min(n, math.ceil((n + 1) * q)) - 1] for q in (_TRUSTED, _KNOWN))
        return cls(max(low, at_least[0]), max(high, at_least[1]))


@dataclass(frozen=True, eq=False)
class FamiliarTissue:
    """Features of tiles that the model learnt from, in the directions in which they vary most."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    """Of each of the d features."""
    axes: NDArray[np.float32]
    """(k, d), orthonormal."""
    tiles: NDArray[np.float32]
    """(n, k)."""

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> FamiliarTissue:
        """Return what features (n, d) of known tiles look like."""
        mean, deviation = features.mean(0), features.std(0)
        # A feature that hardly varies must not outweigh all others.
        deviation = np.maximum(deviation, max(0.1 * float(np.median(deviation)), 1e-6))
        scaled = (features - mean) / deviation
        axes = np.linalg.svd(scaled, full_matrices=False)[2][:_AXES]
        # As they are after they were written, so that a calibration that was read again says the same.
        axes = axes.astype(np.float16).astype(np.float32)
        tiles = (scaled @ axes.T).astype(np.float16).astype(np.float32)
        return cls(mean.astype(np.float32), deviation.astype(np.float32), axes, tiles)

    def distances(self, features: NDArray[np.float32], *, own: bool = False) -> NDArray[np.float64]:
        """Return for features (m, d) the mean distance to the 5 nearest known tiles, (m,).

        It is the root of the sum of squares along the axes and of what lies beside all of them: a tile that differs
        in what the known ones never do is far, too. With `own` the features are the known tiles' and each one's
        distance to itself does not count.
        """
        scaled = (features - self.mean) / self.deviation
        along = scaled @ self.axes.T
        beside = np.maximum((scaled**2).sum(1) - (along**2).sum(1), 0)
        squares = ((along**2).sum(1)[:, None] + (self.tiles**2).sum(1)) - 2 * along @ self.tiles.T
        distances = np.sqrt(np.maximum(squares, 0) + beside[:, None])
        if own:
            np.fill_diagonal(distances, np.inf)
        nearest = np.sort(distances, axis=1)[:, : min(_NEIGHBOURS, distances.shape[1] - own)]
        return np.asarray(nearest.mean(1), np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the arrays as JSON."""
        whole = {"mean": self.mean, "deviation": self.deviation}
        halves = {"axes": self.axes, "tiles": self.tiles}
        return {name: _packed(value, np.float32) for name, value in whole.items()} | {
            name: _packed(value, np.float16) for name, value in halves.items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FamiliarTissue:
        """Return what `to_json` said; ValueError if it did not say that."""
        mean, deviation, axes, tiles = (
            _unpacked(values, name) for name in ("mean", "deviation", "axes", "tiles")
        )
        d = mean.shape[0] if mean.ndim == 1 else -1
        shapes_fit = deviation.shape == (d,) and axes.shape[1:] == (d,) and tiles.shape[1:] == axes.shape[:1]
        if not shapes_fit or len(tiles) < 2 or float(deviation.min()) <= 0:
            raise ValueError("'familiar'")
        return cls(mean, deviation, axes, tiles)


def _packed(value: NDArray[Any], kind: type[np.floating[Any]]) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(value, np.dtype(kind).newbyteorder("<")).tobytes())
    return {"shape": list(value.shape), "type": np.dtype(kind).name, "base64": data.decode()}


def _unpacked(values: Mapping[str, Any], name: str) -> NDArray[np.float32]:
    said = json_field(values, name, dict)
    shape = json_field(said, "shape", list)
    if said.get("type") not in ("float16", "float32") or not all(
        type(n) is int and 0 < n <= _MOST_ENTRIES for n in shape
    ):
        raise ValueError(f"{name!r}")
    kind = np.dtype(said["type"]).newbyteorder("<")
    data = base64.b64decode(json_field(said, "base64", str), validate=True)
    if math.prod(shape) > _MOST_ENTRIES or len(data) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{name!r}")
    array = np.frombuffer(data, kind).reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name!r}")
    return array


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the figures of a reverse search are for held-out real tiles of a generator."""

    checkpoint_digest: str
    dataset_digest: str
    n: int
    """Held-out tiles."""
    bounds: Mapping[str, Bounds]
    """By measure: rmse, perceptual, z_ratio and feature_distance."""
    perceptual_digest: str
    features_digest: str
    """Of the frozen networks that the distances are measured in."""
    familiar: FamiliarTissue
    encoder_digest: str = ""
    classifier_digest: str = ""
    class_agreement: float | None = None
    """Share of the held-out tiles in which the classifier sees what it sees in their reconstruction."""

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "checkpoint_digest": self.checkpoint_digest,
            "dataset_digest": self.dataset_digest,
            "n": self.n,
            "method": "fast",
            "bounds": {name: {"q90": b.trusted, "q99": b.known} for name, b in self.bounds.items()},
            "perceptual_digest": self.perceptual_digest,
            "features_digest": self.features_digest,
            "encoder_digest": self.encoder_digest,
            "classifier_digest": self.classifier_digest,
            "class_agreement": self.class_agreement,
            "familiar": self.familiar.to_json(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration of JSON fields.

        Raises
        ------
        ValueError
            If a field is missing or is not what it should be.
        """
        if json_field(values, "format_version", int) != FORMAT_VERSION:
            raise ValueError("'format_version'")
        bounds = json_field(values, "bounds", dict)
        agreement = values.get("class_agreement")
        return cls(
            checkpoint_digest=json_field(values, "checkpoint_digest", str),
            dataset_digest=json_field(values, "dataset_digest", str),
            n=json_field(values, "n", int, least=1),
            bounds={
                name: Bounds(
                    json_field(json_field(bounds, name, dict), "q90", float),
                    json_field(json_field(bounds, name, dict), "q99", float),
                )
                for name in _MEASURES
            },
            perceptual_digest=json_field(values, "perceptual_digest", str),
            features_digest=json_field(values, "features_digest", str),
            encoder_digest=json_field({"encoder_digest": "", **values}, "encoder_digest", str),
            classifier_digest=json_field({"classifier_digest": "", **values}, "classifier_digest", str),
            class_agreement=None if agreement is None else json_field(values, "class_agreement", float),
            familiar=FamiliarTissue.from_json(json_field(values, "familiar", dict)),
        )

    def save(self, folder: Path) -> Path:
        """Write calibration.json into a checkpoint's folder, whole or not at all; return its path.

        Raises
        ------
        UserError
            If it cannot be written.
        """
        path = folder / CALIBRATION_FILE
        with writing_to(folder):
            write_json(path, self.to_json())
        return path

    @classmethod
    def load(cls, folder: Path, *, checkpoint_digest: str) -> Calibration | None:
        """Read calibration.json of a checkpoint's folder; None where there is none, or it is another generator's.

        Raises
        ------
        CheckpointError
            If it is damaged.
        """
        path = folder / CALIBRATION_FILE
        if not path.exists():
            return None
        try:
            found = cls.from_json(read_json_object(path))
        except DamagedJsonError as error:
            msg = f"{path} {error}; make it again with `histolatent calibrate`."
            raise CheckpointError(msg) from error
        except (ValueError, TypeError) as error:
            msg = f"{path} lacks or garbles {error}; make it again with `histolatent calibrate`."
            raise CheckpointError(msg) from error
        return found if found.checkpoint_digest == checkpoint_digest else None


@dataclass(frozen=True)
class Measures:
    """What is to be known of a tile besides its inversion; None: it was not measured."""

    feature_distance: float | None = None
    """`FamiliarTissue.distances` of the tile itself."""
    class_of_tile: str | None = None
    class_of_reconstruction: str | None = None
    """What a classifier sees in each."""
    classifier_digest: str = ""
    """Which one that is."""


def bounds_of(measured: Mapping[str, Sequence[float]]) -> dict[str, Bounds]:
    """Return the bounds of each measure of held-out tiles."""
    return {name: Bounds.of(measured[name], at_least=_FLOORS.get(name, (0.0, 0.0))) for name in _MEASURES}


def verdict_of(
    inversion: Inversion, measures: Measures, calibration: Calibration | None
) -> tuple[Verdict | None, tuple[str, ...]]:
    """Return how far to believe an inversion, and why, in plain sentences.

    Judged is z alone, drawn by the generator itself: layers and copies that were tuned to a tile reproduce
    anything. trust: each measure is as of 90 % of held-out tiles, and the classifier sees the same class in tile and
    reconstruction. caution: as of 99 %, or the classes differ. outside: beyond. None without a calibration.

    That the classes differ counts as every other measure does, where it is rare: of a classifier that sees
    the same class in fewer than 90 % of held-out tiles it is told, no more.
    """
    if calibration is None or calibration.checkpoint_digest != inversion.point.checkpoint_digest:
        return None, (NO_CALIBRATION,)
    values = {
        "rmse": inversion.rmse if inversion.rmse_at_z is None else inversion.rmse_at_z,
        "perceptual": inversion.perceptual
        if inversion.perceptual_at_z is None
        else inversion.perceptual_at_z,
        "z_ratio": inversion.z_ratio,
        "feature_distance": measures.feature_distance,
    }
    beyond, doubtful = [], []
    for name, what in _MEASURES.items():
        value, bounds = values[name], calibration.bounds[name]
        if value is None:
            continue
        # What is no number is within no bound.
        if not value <= bounds.known:
            beyond.append(
                f"{_capital(what)} ({value:.3g}) is beyond that of 99 % of held-out tiles ({bounds.known:.3g})."
            )
        elif not value <= bounds.trusted:
            doubtful.append(
                f"{_capital(what)} ({value:.3g}) is beyond that of 90 % of held-out tiles ({bounds.trusted:.3g})."
            )
    told = []
    if measures.class_of_tile != measures.class_of_reconstruction:
        said = f"The classifier sees {measures.class_of_tile} in the tile and {measures.class_of_reconstruction} in its reconstruction"
        agreement = calibration.class_agreement
        if calibration.classifier_digest != measures.classifier_digest or agreement is None:
            doubtful.append(f"{said}.")
        elif agreement >= _LEAST_AGREEMENT:
            doubtful.append(f"{said}, which is so in {100 * (1 - agreement):.0f} % of held-out tiles only.")
        else:
            told.append(
                f"{said}; that is so in {100 * (1 - agreement):.0f} % of held-out tiles and does not count."
            )
    if beyond:
        return "outside", (*beyond, *doubtful, *told)
    if doubtful:
        return "caution", (*doubtful, *told)
    fine = f"Everything measured is as good as in nine of ten of {calibration.n} real tiles that the model was tested on."
    return "trust", (fine, *told)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
