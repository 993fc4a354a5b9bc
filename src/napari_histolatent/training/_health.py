"""Whether a generator in training is well: judged by networks that no run changes, and said in sentences."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_histolatent.errors import CheckpointError
from napari_histolatent.models.images import to_tensor
from napari_histolatent.models.metrics import (
    ClassifierFeatures,
    FeatureSpace,
    RandomFeatures,
    digest_of_network,
    kernel_distance,
    mean_pairwise_distance,
    nearest,
    nearest_other,
    sample_deviation,
)
from napari_histolatent.training._keeping import JUDGE, RANDOM
from napari_histolatent.training.shipped import SHIPPED, shipped_of_kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.config import TrainingConfig
    from napari_histolatent.training.load import LoadedClassifier

SAMPLES = 160
"""Generated images for a measurement: more would cost over 2 % of the time of the 500 steps in between."""
_REAL_PATCHES, _REAL_PIXELS = 256, 1 << 23
"""Held-out patches: at most so many, and so many pixels in all."""
_LEAST_OF_A_CLASS = 16
"""A class with fewer held-out patches does not limit the others to its number."""
_COMPARED_SAMPLES = 24
"""Of the samples, those whose nearest training patch is looked for, in eight symmetries each."""
_TRAIN_PATCHES = 8192
"""Training patches among which the nearest is looked for."""
_REDUCED_PX = 64
"""Side at which copies are looked for: at that of large patches it would take minutes, and gigabytes."""
_READ_AT_ONCE = 128

_COPY_QUANTILE = 0.01
_COPIES_AT_MOST = 0.1
_COLLAPSED_DISTANCE, _COLLAPSED_SPACING = 0.6, 0.3
_COLLAPSED_DEVIATION = 0.6
_DISCRIMINATOR_SURE, _DISCRIMINATOR_GUESSES = 0.98, 0.52
_SAYS_NOTHING_SHARE = 0.05
"""Of the steps, at the beginning."""


class HealthCheck:
    """Measures samples against real patches in frozen feature networks; draws nothing from any source of chance.

    The real patches are read and looked at for the first measurement, not before: that takes seconds.

    Parameters
    ----------
    dataset
        Where the real patches come from: the validation split (the training split where there is none), and the
        training patches among which copies are looked for.
    device
        Where the samples are.
    judge
        A trained classifier that the run does not change, or None: then only the seeded random network judges.
    with_classes
        Whether the samples have classes: they are then compared within each.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        device: torch.device,
        *,
        judge: LoadedClassifier | None = None,
        with_classes: bool = True,
    ) -> None:
        self._dataset, self._device = dataset, device
        self._judge, self._with_classes = judge, with_classes
        held_out = dataset.rows_of("val")
        rows = held_out if len(held_out) > 1 else dataset.rows_of("train")
        n = min(_REAL_PATCHES, max(2, _REAL_PIXELS // dataset.size_px**2))
        labels = np.asarray(dataset.labels)
        self._real_rows = _evenly_of_each(rows, labels, n) if with_classes else _evenly(rows, n)
        self.features: dict[str, str] = {}
        """Name -> digest of each network that judges."""
        self._enough = len(self._real_rows) > 1
        if self._enough:
            self.features["random"] = digest_of_network(RandomFeatures())
            if judge:
                self.features["judge"] = judge.checkpoint.digest

    @cached_property
    def _real(self) -> _Real:
        """What is known of the real patches."""
        return _Real(
            self._dataset,
            self._real_rows,
            self._device,
            judge=self._judge,
            with_classes=self._with_classes,
        )

    @torch.no_grad()
    def measure(self, samples: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        """Return the measurements of generated images; `warnings_of` puts them into words.

        Parameters
        ----------
        samples
            Shape (n, 3, size_px, size_px), n >= 2, in [-1, 1].
        labels
            Their class indices, (n,); None without classes.

        Returns
        -------
        dict
            kid and kid_random (squared MMD in the judge's and in random features; without a judge kid is
            kid_random), kid_space (judge or random: whose features kid is measured in), kid_features (digest of that
            network), pixel_sd, pixel_sd_real; in random features
            sample_distance, sample_distance_real (mean pairwise distance within a class), sample_spacing,
            sample_spacing_real (median distance of an image to the nearest other one), nearest_distance
            (median distance of a sample to its nearest training patch), copy_distance (that of held-out patches,
            1 % quantile), copies (share of samples nearer than that) and copies_searched (share of the training
            patches that were compared, at a side of 64 px at most).
            Empty where the dataset has no two patches to compare with.
        """
        if not self._enough or len(samples) < 2:
            return {}
        real = self._real
        features = real.random.of(samples)
        kid_random = kernel_distance(real.random.real, features)
        distances, _ = real.nearest(samples[:_COMPARED_SAMPLES])
        return {
            "kid": kid_random
            if real.judge is None
            else kernel_distance(real.judge.real, real.judge.of(samples)),
            "kid_random": kid_random,
            "kid_space": RANDOM if real.judge is None else JUDGE,
            "kid_features": self.features.get("judge", self.features["random"]),
            "pixel_sd": sample_deviation(samples),
            "pixel_sd_real": real.pixel_sd,
            "sample_distance": mean_pairwise_distance(features, labels if self._with_classes else None),
            "sample_distance_real": real.distance,
            "sample_spacing": nearest_other(features),
            "sample_spacing_real": real.spacing,
            "nearest_distance": float(distances.median()),
            "copy_distance": real.copy_distance,
            "copies": float((distances < real.copy_distance).float().mean()),
            "copies_searched": real.searched,
        }

    @torch.no_grad()
    def look_at(self, samples: Tensor) -> None:
        """Do what grows with the number of samples in a measurement, to see how long it takes."""
        for space in (self._real.random, self._real.judge):
            if space is not None:
                float(space.of(samples).sum())  # once it is done on the device, too

    @torch.no_grad()
    def neighbours(self, samples: Tensor) -> NDArray[np.uint8] | None:
        """Return the training patch that is nearest to each sample, uint8 (n, size_px, size_px, 3).

        None where the dataset has no two patches to compare with.
        """
        if not self._enough:
            return None
        _, which = self._real.nearest(samples)
        # Stores read rows in ascending order best, and one row may be asked for twice.
        rows = self._real.train_rows[which.cpu().numpy()]
        return np.stack([self._dataset.read(np.array([row]))[0] for row in rows])


class _Real:
    """Real patches as the judges see them: held-out ones to compare with, training ones to find copies of."""

    @torch.no_grad()
    def __init__(
        self,
        dataset: PatchDataset,
        rows: NDArray[np.int64],
        device: torch.device,
        *,
        judge: LoadedClassifier | None,
        with_classes: bool,
    ) -> None:
        real = torch.cat(list(_images(dataset, rows, device)))
        random = RandomFeatures()
        self.random = FeatureSpace(random, real)
        self.judge = FeatureSpace(ClassifierFeatures(judge.network), real) if judge else None
        self.pixel_sd = sample_deviation(real)
        labels = torch.from_numpy(np.asarray(dataset.labels)[rows]) if with_classes else None
        self.distance = mean_pairwise_distance(self.random.real, labels)
        self.spacing = nearest_other(self.random.real)

        train = dataset.rows_of("train")
        self.train_rows = _evenly(train, _TRAIN_PATCHES)
        self.searched = len(self.train_rows) / max(1, len(train))
        reduced = _reduced(real)
        self._reduced = FeatureSpace(random, reduced)
        parts = [self._reduced.of(_reduced(part)) for part in _images(dataset, self.train_rows, device)]
        self._train = torch.cat(parts)
        # Without a validation split a patch would be its own copy.
        itself = torch.from_numpy(rows[:, None] == self.train_rows).to(device)
        held_out, _ = self.nearest(reduced, excluded=itself)
        # One that is in both splits says nothing of copying.
        held_out = held_out[held_out > 1e-3]
        self.copy_distance = float(held_out.quantile(_COPY_QUANTILE)) if len(held_out) else math.nan

    def nearest(self, images: Tensor, *, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return each image's distance to its nearest training patch, in whichever symmetry, and its place."""
        reduced = _reduced(images)
        found = [
            nearest(self._reduced.of(turned), self._train, excluded=excluded)
            for turned in _symmetries(reduced)
        ]
        distances, which = (torch.stack(both) for both in zip(*found, strict=True))
        shortest, symmetry = distances.min(dim=0)
        return shortest, which.gather(0, symmetry[None])[0]


def warnings_of(
    metrics: Mapping[str, Any], config: TrainingConfig | None = None, *, step: int | None = None
) -> list[str]:
    """Return what the measurements give reason to say; a number that is missing or NaN says nothing.

    Parameters
    ----------
    metrics
        See `HealthCheck.measure` and `Balance.take`.
    config
        The run's settings: only what they leave to be done is offered.
    step
        Where the run stands; in its first 5 % nothing is said, for every network is bad then.
    """
    if config is not None and step is not None and step < _SAYS_NOTHING_SHARE * config.steps:
        return []

    def value(name: str) -> float:
        return float(metrics.get(name, math.nan))

    warnings = []
    if value("sample_distance") < _COLLAPSED_DISTANCE * value("sample_distance_real"):
        share = value("sample_distance") / value("sample_distance_real")
        warnings.append(
            f"The samples differ from each other {share:.0%} as much as real patches do: the generator may have "
            "collapsed to a few pictures; go back to an earlier checkpoint, or train with a larger batch."
        )
    elif value("sample_spacing") < _COLLAPSED_SPACING * value("sample_spacing_real"):
        share = value("sample_spacing") / value("sample_spacing_real")
        warnings.append(
            f"A sample is {share:.0%} as far from the one most like it as real patches are: the generator may draw "
            "a few pictures again and again; go back to an earlier checkpoint, or train with a larger batch."
        )
    if value("pixel_sd") < _COLLAPSED_DEVIATION * value("pixel_sd_real"):
        warnings.append(
            f"The samples vary by {value('pixel_sd'):.2f} at each pixel, real patches by "
            f"{value('pixel_sd_real'):.2f}: the generator draws too much of the same; let it train on, or go back "
            "to an earlier checkpoint."
        )
    if value("copies") > _COPIES_AT_MOST:
        warnings.append(
            f"{value('copies'):.0%} of the samples are nearer to a training patch than held-out patches are: the "
            "generator may have memorised the training set; compare them, and train on more patches or fewer steps."
        )
    right = value("discriminator_right")
    if right > _DISCRIMINATOR_SURE:
        warnings.append(
            f"The discriminator is right {right:.0%} of the time: the generator learns little from it; "
            f"{_either(_to_weaken(config))}."
        )
    elif right < _DISCRIMINATOR_GUESSES:
        warnings.append(
            f"The discriminator is right {right:.0%} of the time, as good as guessing: the generator learns little "
            f"from it; {_either(_to_strengthen(config))}."
        )
    return warnings


def _to_weaken(config: TrainingConfig | None) -> list[str]:
    """Return what makes the discriminator's task harder."""
    found = [] if config and config.augment else ["switch augmentation on"]
    found.append("use more instance noise" if config and config.instance_noise else "add instance noise")
    return [*found, "use more patches"]


def _to_strengthen(config: TrainingConfig | None) -> list[str]:
    """Return what makes the discriminator's task easier."""
    found = []
    if config is None or config.instance_noise:
        found.append("lower instance noise")
    if config is None or config.label_smoothing:
        found.append("lower label smoothing")
    return [*found, "use a wider network"]


def _either(ways: list[str]) -> str:
    return " or ".join([part for part in (", ".join(ways[:-1]), ways[-1]) if part])


class Balance:
    """How the discriminator does, from the scores that the steps compute anyway; waits for no device."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._batches = 0

    @torch.no_grad()
    def add(self, real: Tensor, fake: Tensor) -> None:
        """Take in the scores of a step: of real and of generated images, any shapes; higher is more real."""
        real, fake = real.detach().float(), fake.detach().float()
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        sums = torch.stack([real.mean(), fake.mean(), right])
        self._sums = sums if self._sums is None else self._sums + sums
        self._batches += 1

    def take(self) -> dict[str, float]:
        """Return discriminator_real, discriminator_fake (mean scores) and discriminator_right (share), and begin anew."""
        if self._sums is None:
            return {}
        means = (self._sums / self._batches).tolist()
        self.__init__()  # type: ignore[misc]
        return dict(
            zip(("discriminator_real", "discriminator_fake", "discriminator_right"), means, strict=True)
        )


def load_judge(named: str, device: torch.device) -> LoadedClassifier | None:
    """Return the classifier whose features judge a run: the one that is named, else the shipped one, else None.

    Raises
    ------
    UserError
        If the one that is named cannot be read.
    """
    from napari_histolatent.training.load import load_classifier

    if not named:
        try:
            shipped_of_kind("classifier")
        except CheckpointError:
            return None
    return load_classifier(named or SHIPPED, device=str(device))


def _evenly(rows: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Return at most n of the rows, spread evenly: always the same."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(np.int64))
    return np.asarray(rows, np.int64)[places]


def _evenly_of_each(rows: NDArray[Any], labels: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Return at most about n of the rows, as many of each class: samples have their classes in turn, too."""
    of_each = [rows[labels[rows] == label] for label in np.unique(labels[rows])]
    if not of_each:
        return _evenly(rows, n)
    smallest = max(_LEAST_OF_A_CLASS, min(len(members) for members in of_each))
    most = min(max(1, n // len(of_each)), smallest)
    return np.sort(np.concatenate([_evenly(members, most) for members in of_each]))


def _images(dataset: PatchDataset, rows: NDArray[np.int64], device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(rows), _READ_AT_ONCE):
        yield to_tensor(dataset.read(rows[start : start + _READ_AT_ONCE])).to(device)


def _reduced(images: Tensor) -> Tensor:
    """Return images (n, 3, H, W) at a side of 64 px at most: each pixel the mean of those it covers."""
    side = min(_REDUCED_PX, images.shape[-1])
    return images if side == images.shape[-1] else torch.nn.functional.adaptive_avg_pool2d(images, side)


def _symmetries(images: Tensor) -> Iterator[Tensor]:
    """Yield images (n, 3, H, W) in each of the eight symmetries of the square: one at a time is in memory."""
    for k in range(4):
        turned = torch.rot90(images, k, (2, 3))
        yield turned
        yield turned.flip(3)
