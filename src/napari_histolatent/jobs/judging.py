"""How often a classifier is right on held-out patches, also once their stain or sharpness is no clue any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.explain import gradcam
from napari_histolatent.models.images import to_tensor
from napari_histolatent.patches import StainFit, fit_stain, normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.load import LoadedClassifier

BLUR_RADIUS_PX = 2.0
"""Of the disk; as wide as a Gaussian of 1 px. No training here uses disks."""
_FITTED_PATCHES = 500
_AT_ONCE = 256
_SUBPIXELS = 16


@dataclass(frozen=True)
class Verdicts:
    """How often a classifier was right."""

    accuracy: float
    per_class: dict[str, float]
    """Of the classes that were seen."""
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return {"accuracy": self.accuracy, "per_class": self.per_class, "n": self.n}


@dataclass(frozen=True)
class Judgement:
    """Verdicts on the patches of one split, as they are and changed."""

    split: str
    plain: Verdicts
    changed: dict[str, Verdicts]
    """recoloured, blurred, recoloured_and_blurred: what was asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `histolatent classifier test --json` reports."""
        changed = {name: verdicts.to_json() for name, verdicts in self.changed.items()}
        return {**self.plain.to_json(), "split": self.split, **changed}


def judge(
    classifier: LoadedClassifier,
    dataset: PatchDataset,
    *,
    split: str | None = None,
    recolour: bool = False,
    blur: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Return how often a classifier is right on a split of a dataset.

    Parameters
    ----------
    classifier
        Of the dataset's classes and size.
    dataset
        With labels.
    split
        train, val or test; None: test, or val where there is no test.
    recolour
        Also on the same patches in the stain of another class: see `recoloured`.
    blur
        Also on the same patches blurred by a disk: see `blurred`. With both, also on patches that were both.
    on_progress
        Called with (patches done, patches in all).

    Raises
    ------
    DatasetError
        If the dataset has other classes or another size, or no patch in the split.
    """
    _require_same(classifier, dataset)
    name, rows = _rows(dataset, split)
    labels = dataset.labels[rows]
    fits = _class_fits(dataset) if recolour else ()
    changes: dict[str, Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.uint8]]] = {
        "plain": lambda pixels, _: pixels
    }
    if recolour:
        changes["recoloured"] = lambda pixels, own: recoloured(pixels, own, fits)
    if blur:
        changes["blurred"] = lambda pixels, _: blurred(pixels)
    if recolour and blur:
        changes["recoloured_and_blurred"] = lambda pixels, own: blurred(recoloured(pixels, own, fits))
    right: dict[str, list[NDArray[np.bool_]]] = {change: [] for change in changes}
    # The classifier may list the same classes in another order.
    classes = np.array([classifier.network.classes.index(item) for item in dataset.classes])
    for start in range(0, len(rows), _AT_ONCE):
        own = labels[start : start + _AT_ONCE]
        pixels = dataset.read(rows[start : start + _AT_ONCE])
        for change, make in changes.items():
            images = to_tensor(make(pixels, own)).to(classifier.device)
            guesses = gradcam.probabilities(classifier.network, images).argmax(1).cpu().numpy()
            right[change].append(guesses == classes[own])
        if on_progress:
            on_progress(start + len(own), len(rows))
    verdicts = {
        change: _verdicts(np.concatenate(parts), labels, dataset.classes) for change, parts in right.items()
    }
    return Judgement(name, verdicts.pop("plain"), verdicts)


def recoloured(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], fits: tuple[StainFit, ...]
) -> NDArray[np.uint8]:
    """Return each patch with the mean and spread of colour of the next class (of two: the other; Reinhard).

    Parameters
    ----------
    pixels
        uint8, shape (n, height, width, 3), RGB.
    labels
        Class index of each, shape (n,).
    fits
        Reinhard fit of each class. A patch with too little tissue for a fit of its own is taken to be stained as
        its class is.
    """
    result = np.empty_like(pixels)
    for i, (patch, label) in enumerate(zip(pixels, labels, strict=True)):
        try:
            source = fit_stain(patch, method="reinhard")
        except DatasetError:
            source = fits[label]
        result[i] = normalise(patch, source=source, target=fits[(label + 1) % len(fits)])
    return result


def blurred(pixels: NDArray[np.uint8], *, radius_px: float = BLUR_RADIUS_PX) -> NDArray[np.uint8]:
    """Return patches (n, height, width, 3) out of focus: each point a disk; borders are repeated."""
    kernel = disk(radius_px)[None, :, :, None]
    smooth = ndimage.convolve(pixels.astype(np.float32), kernel, mode="nearest")
    return np.asarray(np.clip(np.round(smooth), 0, 255), np.uint8)


def disk(radius_px: float) -> NDArray[np.float32]:
    """Return a disk's share of the area of each pixel around its middle; its sum is 1."""
    reach = int(np.ceil(radius_px - 0.5))
    side = 2 * reach + 1
    # The share of each pixel by counting points in it.
    at = (np.arange(side * _SUBPIXELS) + 0.5) / _SUBPIXELS - side / 2
    inside = at[:, None] ** 2 + at[None] ** 2 <= radius_px**2
    area = inside.reshape(side, _SUBPIXELS, side, _SUBPIXELS).mean(axis=(1, 3))
    return np.asarray(area / area.sum(), np.float32)


def _class_fits(dataset: PatchDataset) -> tuple[StainFit, ...]:
    """Return how each class is stained, from patches of the training split where it has some."""
    fits = []
    for i, name in enumerate(dataset.classes):
        train = dataset.rows_of("train")
        rows = train[dataset.labels[train] == i]
        if not len(rows):
            rows = np.flatnonzero(dataset.labels == i)
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _FITTED_PATCHES).astype(np.int64))]
        try:
            fits.append(fit_stain(dataset.read(chosen), method="reinhard"))
        except DatasetError as error:
            msg = f"How the class {name!r} is stained cannot be seen: {error}"
            raise DatasetError(msg) from error
    return tuple(fits)


def _verdicts(right: NDArray[np.bool_], labels: NDArray[np.int64], classes: tuple[str, ...]) -> Verdicts:
    return Verdicts(
        accuracy=float(right.mean()),
        per_class={
            name: float(right[labels == i].mean()) for i, name in enumerate(classes) if (labels == i).any()
        },
        n=len(labels),
    )


def _rows(dataset: PatchDataset, split: str | None) -> tuple[str, NDArray[np.int64]]:
    for name in (split,) if split else ("test", "val"):
        rows = dataset.rows_of(name)
        if len(rows):
            return name, rows
    msg = f"The dataset {dataset.path} has no patch in the split {split or 'test or val'}; choose another with --split."
    raise DatasetError(msg)


def _require_same(classifier: LoadedClassifier, dataset: PatchDataset) -> None:
    own = classifier.network.classes
    if set(own) != set(dataset.classes):
        msg = f"The classifier knows the classes {', '.join(own)}, the dataset {', '.join(dataset.classes)}; choose a dataset of the same classes."
        raise UserError(msg)
    if classifier.network.size_px != dataset.size_px:
        msg = f"The classifier was trained on {classifier.network.size_px} px, the dataset has patches of {dataset.size_px} px; choose a dataset of that size."
        raise UserError(msg)
