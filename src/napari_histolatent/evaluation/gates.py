"""Whether a generator's samples are good enough: figures from judges that were frozen before, and their bounds.

No single figure is evidence. A classifier of colours is satisfied by noise of the right stain, a random network by
any image that is sharp and of the right contrast, and both judge the whole set, not whether each class is drawn where it was
asked for: so all of the bounds have to hold, and they have to fail on images that are known to be bad (`blurred`,
`mean_coloured`, an untrained generator).

Images are float tensors (n, 3, H, W), RGB in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.models.images import to_pixels, to_tensor
from napari_histolatent.models.metrics import (
    ClassifierFeatures,
    FeatureSpace,
    RandomFeatures,
    digest_of_network,
    kernel_distance,
    sample_deviation,
)
from napari_histolatent.models.priors import draw_latents

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histolatent.models.protocols import Classifier
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator

_AT_ONCE = 128


@dataclass(frozen=True)
class Labelled:
    """Images, and the index of the class that each shows or was drawn for."""

    images: Tensor
    labels: Tensor
    """int64, shape (n,)."""
    classes: tuple[str, ...] = ()
    """The names that the labels count; empty: those of the judge, in its order."""


@dataclass(frozen=True)
class Bounds:
    """What samples have to reach."""

    kid_colour_ratio: float = 0.01
    """Most, of the KID between two real classes, in features of the colour judge."""
    kid_random_ratio: float = 0.25
    """Most, of the KID between two real classes, in features of a seeded random network."""
    pixel_sd_ratio: float = 0.85
    """Least, of the deviation of real images."""
    own_class_colour: float = 0.95
    """Least share, of all classes together."""


@dataclass(frozen=True)
class SampleFigures:
    """What the judges say of one set of images."""

    kid_colour: float
    kid_colour_ratio: float
    """Divided by the KID between the held-out images of the first two classes; NaN where that is 0 or below: then
    the space tells not even these apart."""
    kid_random: float
    kid_random_ratio: float
    pixel_sd: float
    pixel_sd_ratio: float
    """Divided by that of the held-out images."""
    own_class_colour: float
    """Share that the colour judge puts in the class each was drawn for, the mean over the classes."""
    own_class_colour_worst: float
    """The same, of the class that fares worst."""
    own_class_robust: float | None = None
    own_class_robust_worst: float | None = None
    """By the robust judge, where there is one; reported, not bounded."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return asdict(self)


def missed(figures: SampleFigures, bounds: Bounds | None = None) -> tuple[str, ...]:
    """Return the names of the bounds that figures miss; a figure that is no number misses its own."""
    bounds = bounds or Bounds()
    within = {
        "kid_colour_ratio": figures.kid_colour_ratio <= bounds.kid_colour_ratio,
        "kid_random_ratio": figures.kid_random_ratio <= bounds.kid_random_ratio,
        "pixel_sd_ratio": figures.pixel_sd_ratio >= bounds.pixel_sd_ratio,
        "own_class_colour": figures.own_class_colour >= bounds.own_class_colour,
    }
    return tuple(name for name, holds in within.items() if not holds)


class Gates:
    """The judges, frozen, and what they say of real images; `measure` asks them about others."""

    def __init__(
        self,
        *,
        train: Tensor,
        held_out: Labelled,
        colour_judge: LoadedClassifier,
        robust_judge: LoadedClassifier | None = None,
        random_seed: int = 0,
    ) -> None:
        """Look at the real images once.

        Parameters
        ----------
        train
            Real images whose features set the units.
        held_out
            Real images of other groups (patients), of two classes or more: what samples are compared with.
        colour_judge
            A classifier trained on the training groups. Its last block's features, averaged over the image, span
            one of the two feature spaces.
        robust_judge
            A second opinion on classes.
        random_seed
            Of the random network.

        Raises
        ------
        UserError
            If the held-out images have fewer than two classes of two images each, or a judge was trained on other
            classes or another size.
        """
        counts = torch.bincount(held_out.labels, minlength=2)
        if len(counts) < 2 or int(counts[:2].min()) < 2:
            msg = f"The gates compare two classes of held-out patches, two patches each at least, and got {counts.tolist()}; hold out more groups."
            raise UserError(msg)
        self._colour, self._robust, self._classes = colour_judge, robust_judge, held_out.classes
        for judge in (colour_judge, robust_judge):
            if judge is not None:
                _require_same_classes("judge", judge.network.classes, held_out.classes)
                if judge.network.size_px != held_out.images.shape[-1]:
                    msg = f"The judge was trained on patches of {judge.network.size_px} px, those held out have {held_out.images.shape[-1]} px; choose a judge of this size."
                    raise UserError(msg)
        random = RandomFeatures(seed=random_seed)
        self.digests: dict[str, str] = {
            "colour_judge": colour_judge.checkpoint.digest,
            "random_features": digest_of_network(random),
        }
        if robust_judge is not None:
            self.digests["robust_judge"] = robust_judge.checkpoint.digest
        self._pixel_sd = sample_deviation(held_out.images)
        self._spaces = {
            "colour": _Space(ClassifierFeatures(colour_judge.network), train, held_out),
            "random": _Space(random, train, held_out),
        }

    @property
    def kid_between_classes(self) -> dict[str, float]:
        """KID between the held-out images of the first two classes, by feature space (colour, random)."""
        return {name: space.between_classes for name, space in self._spaces.items()}

    def measure(self, samples: Labelled) -> SampleFigures:
        """Return what the judges say of samples; take as many of each class as were held out.

        Raises
        ------
        UserError
            If the samples are of other classes than the held-out images.
        """
        _require_same_classes("generator", samples.classes, self._classes)
        kid = {name: space.distance(samples.images) for name, space in self._spaces.items()}
        # Through 0 or less, any samples would be near enough.
        ratio = {
            name: kid[name] / space.between_classes if space.between_classes > 0 else math.nan
            for name, space in self._spaces.items()
        }
        pixel_sd = sample_deviation(samples.images)
        colour = self._own_class(self._colour, samples)
        robust = self._own_class(self._robust, samples) if self._robust else None
        return SampleFigures(
            kid_colour=kid["colour"],
            kid_colour_ratio=ratio["colour"],
            kid_random=kid["random"],
            kid_random_ratio=ratio["random"],
            pixel_sd=pixel_sd,
            pixel_sd_ratio=pixel_sd / self._pixel_sd,
            own_class_colour=colour[0],
            own_class_colour_worst=colour[1],
            own_class_robust=robust[0] if robust else None,
            own_class_robust_worst=robust[1] if robust else None,
        )

    def _own_class(self, judge: LoadedClassifier, samples: Labelled) -> tuple[float, float]:
        shares = shares_in_own_class(judge.network, samples)
        return sum(shares) / len(shares), min(shares)


class _Space:
    """A feature space in units of the training images, and where the held-out images lie in it."""

    def __init__(self, network: nn.Module, train: Tensor, held_out: Labelled) -> None:
        self._space = FeatureSpace(network, train)
        self._held_out = self._space.of(held_out.images)
        first, second = (self._held_out[held_out.labels == i] for i in range(2))
        self.between_classes = kernel_distance(first, second)

    def distance(self, images: Tensor) -> float:
        return kernel_distance(self._held_out, self._space.of(images))


def _require_same_classes(who: str, own: tuple[str, ...], others: tuple[str, ...]) -> None:
    if own and others and set(own) != set(others):
        msg = f"The {who} knows the classes {', '.join(own)}, the held-out patches have {', '.join(others)}; choose a {who} of the same classes."
        raise UserError(msg)


@torch.no_grad()
def shares_in_own_class(classifier: Classifier, samples: Labelled) -> tuple[float, ...]:
    """Return, for each class that there are samples of, the share that the classifier puts in it.

    Classes are matched by name: the classifier may count them in another order.
    """
    outputs = [classifier.classes.index(name) for name in samples.classes or classifier.classes]
    guesses = torch.cat([classifier(part).argmax(1) for part in torch.split(samples.images, _AT_ONCE)])
    return tuple(
        float((guesses[samples.labels == label] == outputs[label]).float().mean())
        for label in torch.unique(samples.labels).tolist()
    )


def real_images(dataset: PatchDataset, split: str) -> Labelled:
    """Return all patches of a split."""
    rows = dataset.rows_of(split)
    labels = torch.from_numpy(dataset.labels[rows])
    return Labelled(to_tensor(dataset.read(rows)), labels, tuple(dataset.classes))


@torch.no_grad()
def sampled(
    generator: LoadedGenerator, labels: Tensor, *, seed: int, classes: tuple[str, ...] = ()
) -> Labelled:
    """Return images that a generator draws for classes (n,), rounded to 8 bits as real ones are.

    Parameters
    ----------
    generator, labels
        What draws, and the class of each image.
    seed
        Of the latents.
    classes
        The names that `labels` count; empty: the generator's, in its order.

    Raises
    ------
    UserError
        If the generator has other classes.
    """
    network = generator.network
    classes = classes or tuple(network.classes)
    _require_same_classes("generator", tuple(network.classes), classes)
    own = torch.tensor([network.classes.index(name) for name in classes])[labels]
    chance = torch.Generator().manual_seed(seed)
    z = draw_latents(network.prior, len(labels), network.z_dim, chance).to(generator.device)
    y = nn.functional.one_hot(own, len(network.classes)).float().to(generator.device)
    images = [
        to_tensor(to_pixels(network.synthesize(network.map(part_z, part_y))))
        for part_z, part_y in zip(torch.split(z, _AT_ONCE), torch.split(y, _AT_ONCE), strict=True)
    ]
    return Labelled(torch.cat(images), labels, classes)


def blurred(images: Tensor, *, factor: int = 2) -> Tensor:
    """Return images averaged over boxes of `factor` px and brought back to their size linearly: a bad sample."""
    small = nn.functional.avg_pool2d(images, factor)
    return nn.functional.interpolate(small, size=images.shape[2:], mode="bilinear", align_corners=False)


def mean_coloured(images: Tensor) -> Tensor:
    """Return images that are all of their own mean colour: a bad sample that keeps the stain."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images).contiguous()
