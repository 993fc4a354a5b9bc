"""Every hyperparameter, validated, to and from JSON. No torch here: forms and lists open at once."""

from __future__ import annotations

import math
import reprlib
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from napari_histolatent._config import option
from napari_histolatent.errors import UserError
from napari_histolatent.models import CLASSIFIERS, GENERATORS, WITHOUT_CLASSES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DESIGNS = ("modern", "s1")
"""How a DCGAN is built: as it trains best here, or as in Fernandez et al."""
PRECISIONS = ("fp32", "bf16", "fp16")
_TRUTHS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_MOST = 10**9
"""Of steps and whatever is counted in them: more than a year of them."""
_LEAST_PX, _LARGEST_S1_PX = 16, 512


def require_size(design: str, size_px: int) -> None:
    """Refuse a size that a design of GAN cannot have, as `build_gan` does; needs no torch.

    Raises
    ------
    UserError
        With the sizes that it can have.
    """
    if design == "s1":
        fits = size_px % _LEAST_PX == 0 and _LEAST_PX <= size_px <= _LARGEST_S1_PX
        sizes = f"64, 128, 256 or 512 px (or another multiple of {_LEAST_PX} below {_LARGEST_S1_PX})"
    else:
        fits = size_px >= _LEAST_PX and size_px.bit_count() == 1
        sizes = "16, 32, 64, ... px"
    if not fits:
        msg = f"The {design} design draws squares of {sizes}, not {size_px}; cut patches of such a size."
        raise UserError(msg)


@dataclass(frozen=True)
class _Config:
    """What all kinds of training share."""

    size_px: int = option(64, "Side of the patches, in px.")
    steps: int = option(2000, "Steps of the whole run, those before a stop counted.")
    batch_size: int = option(16, "Patches per step.")
    seed: int = option(0, "Seed of weights, batches and noise.")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.")
    learning_rate: float = option(1e-3, "Step size of the optimisers.")
    checkpoint_every: int = option(500, "Steps between checkpoints.")
    log_every: int = option(20, "Steps between progress events.")

    may_be_0: ClassVar[frozenset[str]] = frozenset({"seed"})
    """The whole numbers that mean something at 0; a seed may be below, too."""
    at_most: ClassVar[Mapping[str, int]] = {"size_px": 2048, "batch_size": 2**16}
    """The most that whole numbers may be, where that is less than `_MOST`."""
    below_1: ClassVar[frozenset[str]] = frozenset()
    """The shares: from 0 to below 1."""

    def __post_init__(self) -> None:
        for item in fields(self):
            kind: type[Any] = type(item.default)
            value: Any = getattr(self, item.name)
            # JSON writes 1.0 as 1: a whole number will do for a float.
            if not isinstance(value, (int, float) if kind is float else kind) or (
                isinstance(value, bool) and kind is not bool
            ):
                msg = f"{item.name} has to be of type {kind.__name__}, not {value!r}."
                raise UserError(msg)
            least = 0 if item.name in self.may_be_0 else 1
            if kind is int and item.name != "seed" and value < least:
                msg = f"{item.name} has to be at least {least}, not {value}."
                raise UserError(msg)
            most = self.at_most.get(item.name, _MOST)
            if kind is int and item.name != "seed" and value > most:
                msg = f"{item.name} has to be at most {most}, not {reprlib.repr(value)}."
                raise UserError(msg)
            if item.name == "seed" and not -(2**63) <= value < 2**63:
                msg = f"seed has to lie from -2^63 to below 2^63, not at {value}."
                raise UserError(msg)
            if item.name in self.below_1:
                if not 0 <= value < 1:
                    msg = f"{item.name} has to lie from 0 to below 1, not at {value:g}."
                    raise UserError(msg)
            elif kind is float and not 0 <= value < math.inf:
                bound = "above 0" if item.name == "learning_rate" else "0 or above"
                msg = f"{item.name} has to be {bound}, not {value:g}."
                raise UserError(msg)
        if self.learning_rate == 0:
            msg = "learning_rate has to be above 0, not 0."
            raise UserError(msg)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the config of JSON fields.

        Raises
        ------
        UserError
            If a field is unknown: the file is of a newer version, or was edited wrongly.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            msg = f"The training settings have unknown fields {', '.join(unknown)}; update napari-histolatent or remove them."
            raise UserError(msg)
        return cls(**values)

    def with_changes(self, **changes: Any) -> Self:
        """Return a copy with the changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def with_settings(self, settings: Sequence[str]) -> Self:
        """Return a copy with settings as a person types them: NAME=VALUE each.

        Raises
        ------
        UserError
            If one has no such form, there is no setting of the name, or the value is none of its kind.
        """
        kinds: dict[str, type[Any]] = {item.name: type(item.default) for item in fields(self)}
        changes: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals or name not in kinds:
                msg = f"{setting!r} is not a setting of the training; give NAME=VALUE, NAME one of {', '.join(kinds)}."
                raise UserError(msg)
            kind = kinds[name]
            try:
                changes[name] = _TRUTHS[text.lower()] if kind is bool else kind(text)
            except (ValueError, KeyError) as error:
                wanted = {bool: "yes or no", int: "a whole number", float: "a number"}[kind]
                msg = f"{name} has to be {wanted}, not {text!r}."
                raise UserError(msg) from error
        return replace(self, **changes)


@dataclass(frozen=True)
class TrainingConfig(_Config):
    """A GAN's training.

    The loss is the non-saturating one (Goodfellow et al. 2014, section 3), which Fernandez et al. use too. The
    defaults are the modern recipe: lazy R1 on real images (Mescheder et al. 2018; Karras et al. 2020, lazy),
    differentiable augmentation (Zhao et al. 2020), the eight symmetries of the square on real patches, an
    exponential moving average of the generator, Adam with betas (0, 0.99) (Karras et al. 2018).
    """

    network: str = option("cdcgan", "Network to train: cdcgan (with classes) or dcgan (without).")
    design: str = option("modern", "modern (the one that learns) or s1 (the paper of Fernandez et al.).")
    preset: str = option("modern", "Preset the settings started from.")
    z_dim: int = option(0, "Length of the latent vector; 0: the design's own (modern 64, s1 100).")
    base_channels: int = option(0, "Width of the finest layers; 0: the design's own (modern 16, s1 64).")
    learning_rate: float = option(1e-3, "Of both Adam optimisers.")
    beta1: float = option(0.0, "Adam's decay of the mean gradient.")
    beta2: float = option(0.99, "Adam's decay of the mean squared gradient.")
    generator_steps: int = option(1, "Steps of the generator after each of the discriminator.")
    ema_decay: float = option(
        0.998,
        "Decay per step of the generator's moving average, which is the network that is used afterwards; 0: none.",
    )
    r1_weight: float = option(0.15, "Weight of the gradient penalty on real images, at each of its steps.")
    r1_every: int = option(8, "Steps between gradient penalties.")
    label_smoothing: float = option(
        0.0, "Lowers what the discriminator is to answer to a real patch: 0.1 makes it 0.9."
    )
    instance_noise: float = option(
        0.0,
        "Standard deviation of noise on all the discriminator sees, in units of [-1, 1]; falls to 0 over the run.",
    )
    symmetries: bool = option(True, "Show each real patch in one of the eight symmetries of the square.")
    augment: bool = option(
        True, "Colour, shift and cutout on what the discriminator sees, real and generated alike."
    )
    stain_jitter: float = option(
        0.0, "Jitter of the real patches' stain: spread of the factors on optical density; 0.2 is plenty."
    )
    condition_ramp_steps: int = option(
        0, "Steps over which the class gains its full weight; keeps small data from conditional collapse."
    )
    continuous_labels: bool = option(
        False, "Condition on each class's share of the patch's area instead of on one class."
    )
    encoder_steps: int = option(0, "Steps of an encoder's training after the GAN's; 0: none.")
    calibrate: bool = option(
        True,
        "Search held-out patches at the end, which says how far to believe a reverse search; 256 at most.",
    )
    precision: str = option("fp32", "fp32, bf16 or fp16: of the convolutions; weights stay fp32.")
    devices: int = option(1, "Processes on each machine, one a device; the batch is divided among them.")
    nodes: int = option(1, "Machines.")
    channels_last: bool = option(False, "Keep channels innermost in memory.")
    compile: bool = option(
        False, "Compile both networks first (torch.compile), which takes a minute or more."
    )
    metrics_every: int = option(
        500, "Steps between measurements of quality and health; 0: at checkpoints only."
    )
    judge: str = option(
        "",
        "Classifier, as a run or checkpoint folder, that measures quality; empty: the shipped one, or none.",
    )
    keep_checkpoints: int = option(2, "Newest checkpoints to keep, besides the best and the milestones.")
    milestone_every: int = option(0, "Every so many steps a checkpoint is kept for good; 0: none.")
    tensorboard: bool = option(False, "Write event files for TensorBoard, too.")
    halve_batch_if_out_of_memory: bool = option(
        False, "Go on with half the batch where memory does not suffice, instead of ending."
    )

    may_be_0: ClassVar[frozenset[str]] = _Config.may_be_0 | {
        "z_dim",
        "base_channels",
        "condition_ramp_steps",
        "encoder_steps",
        "metrics_every",
        "milestone_every",
    }
    at_most: ClassVar[Mapping[str, int]] = {
        **_Config.at_most,
        "z_dim": 4096,
        "base_channels": 1024,
        "generator_steps": 100,
        "devices": 1024,
        "nodes": 1024,
        "keep_checkpoints": 10_000,
    }
    below_1: ClassVar[frozenset[str]] = frozenset(
        {"ema_decay", "beta1", "beta2", "label_smoothing", "stain_jitter"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("network", GENERATORS), ("design", DESIGNS), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in choices:
                msg = f"There is no {name} named {value!r}; choose one of {', '.join(choices)}."
                raise UserError(msg)
        require_size(self.design, self.size_px)
        if self.continuous_labels and not self.has_classes:
            msg = f"The network {self.network} has no classes to label; train cdcgan, or without continuous_labels."
            raise UserError(msg)
        if self.batch_size < 2 * self.processes:
            msg = f"A batch of {self.batch_size} is too small for batch normalisation, which compares patches; choose at least {2 * self.processes}, 2 for each process."
            raise UserError(msg)
        # By fours: the modern discriminator compares each four patches of a batch with each other.
        multiple = self.processes if self.processes == 1 or self.design == "s1" else 4 * self.processes
        if self.batch_size % multiple:
            msg = f"A batch of {self.batch_size} cannot be divided among {self.processes} processes; choose a multiple of {multiple}."
            raise UserError(msg)

    @property
    def has_classes(self) -> bool:
        """Whether the network draws tissue of a class."""
        return self.network not in WITHOUT_CLASSES

    @property
    def processes(self) -> int:
        """Processes in all."""
        return self.devices * self.nodes

    @property
    def network_options(self) -> dict[str, Any]:
        """What `build_gan` has to know besides classes and size."""
        return {
            "design": self.design,
            "z_dim": self.z_dim or None,
            "base_channels": self.base_channels or None,
        }


@dataclass(frozen=True)
class ClassifierConfig(_Config):
    """A classifier's training: cross-entropy on class-balanced batches."""

    steps: int = option(1200, "Steps of the whole run, those before a stop counted.")
    batch_size: int = option(32, "Patches per step.")
    checkpoint_every: int = option(300, "Steps between checkpoints.")
    network: str = option(
        "convnet", "Classifier to train: convnet, or inception_v3 (needs the extra inception)."
    )
    augmentation: str = option(
        "robust",
        "plain (judges by colour and sharpness too) or robust (stains swapped, blurred: judges by structure).",
    )
    base_channels: int = option(24, "Width of the convnet's first layers.")
    learning_rate: float = option(2e-3, "Peak of the one-cycle schedule of AdamW.")
    weights: str = option("", "safetensors file that inception_v3 starts from; empty: random weights.")
    weights_sha256: str = option("", "Digest that the file of weights has to have.")
    fine_tune: bool = option(
        False, "Let all layers of inception_v3 learn, instead of its new last one on features that stay."
    )

    augmentations: ClassVar[tuple[str, ...]] = ("plain", "robust")
    at_most: ClassVar[Mapping[str, int]] = {**_Config.at_most, "base_channels": 1024}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, what, choices in (
            ("network", "classifier", CLASSIFIERS),
            ("augmentation", "augmentation", self.augmentations),
        ):
            value = getattr(self, name)
            if value not in choices:
                msg = f"There is no {what} named {value!r}; choose one of {', '.join(choices)}."
                raise UserError(msg)
        if self.weights_sha256 and not self.weights:
            msg = f"The digest {reprlib.repr(self.weights_sha256)} is stated, but no file of weights; name the file, or leave weights_sha256 (--weights-sha256) out."
            raise UserError(msg)
        if self.network == "convnet":
            self._require_convnet()

    def _require_convnet(self) -> None:
        """Refuse what the convnet would quietly pass over, or is too small for."""
        if self.size_px < _LEAST_PX:
            msg = f"The convnet classifier needs patches of at least {_LEAST_PX} px, not {self.size_px}; cut larger patches."
            raise UserError(msg)
        if self.weights:
            msg = f"The convnet classifier learns from scratch and cannot start from {self.weights}; leave weights (--weights) empty, or choose inception_v3."
            raise UserError(msg)
        if self.fine_tune:
            msg = "The convnet classifier learns in all its layers anyway; leave fine_tune (--fine-tune) out, or choose inception_v3."
            raise UserError(msg)

    @property
    def network_options(self) -> dict[str, Any]:
        """What `build_classifier` has to know, besides classes and size, to start a training."""
        return {
            "base_channels": self.base_channels,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "fine_tune": self.fine_tune,
        }


@dataclass(frozen=True)
class EncoderConfig(_Config):
    """An encoder's training, on images that a generator draws and, if wished, on real patches too."""

    steps: int = option(1500, "Steps of the whole training, those before a stop counted.")
    batch_size: int = option(32, "Generated images per step, and as many patches where real ones are used.")
    network: str = option("convnet", "Encoder to train.")
    base_channels: int = option(16, "Width of the finest layers.")
    learning_rate: float = option(2e-3, "Peak of the schedule of Adam.")
    class_weight: float = option(0.1, "Weight of the cross-entropy of the class.")
    pixel_weight: float = option(1.0, "Weight of the squared difference between an image and its redrawing.")
    real_weight: float = option(0.0, "Weight of the same difference on real patches; 0: none are used.")
    prior_weight: float = option(
        0.03, "Weight, among the real patches, of the mean square of z in units of its prior's variance."
    )
    z_dim: int = option(64, "Length of the generator's latent vector; set from the generator.")
    prior: str = option("normal", "Distribution of z, normal or uniform; set from the generator.")
    generator_digest: str = option("", "Weights that the encoder belongs to; set from the generator.")

    networks: ClassVar[tuple[str, ...]] = ("convnet",)
    at_most: ClassVar[Mapping[str, int]] = {**_Config.at_most, "base_channels": 1024, "z_dim": 4096}
    priors: ClassVar[tuple[str, ...]] = ("normal", "uniform")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, what, choices in (
            ("network", "encoder", self.networks),
            ("prior", "prior", self.priors),
        ):
            value = getattr(self, name)
            if value not in choices:
                msg = f"There is no {what} named {value!r}; choose one of {', '.join(choices)}."
                raise UserError(msg)


PRESETS: Mapping[str, TrainingConfig] = {
    # On one slide for two minutes there is nothing to overfit yet: without augmentation it learnt twice as fast.
    "demo": TrainingConfig(preset="demo", steps=2500, augment=False),
    "modern": TrainingConfig(preset="modern", steps=5000),
    # Fernandez et al. give the networks, the loss, the batch of 64, noise on the discriminator's inputs, label
    # smoothing and two generator steps. They leave open, and it is taken from: Adam's rate and betas, Radford et
    # al. 2016 (section 4); the target 0.9 for real patches only, Salimans et al. 2016 (section 3.4); noise that
    # falls to 0 over the run, Soenderby et al. 2017 (section 3.2; its 0.1 is ours); the number of steps is ours.
    "s1": TrainingConfig(
        preset="s1",
        design="s1",
        steps=20000,
        batch_size=64,
        learning_rate=2e-4,
        beta1=0.5,
        beta2=0.999,
        generator_steps=2,
        label_smoothing=0.1,
        instance_noise=0.1,
        ema_decay=0.0,
        r1_weight=0.0,
        augment=False,
        symmetries=False,
    ),
}
"""Name -> configuration. demo: about two minutes on two cores at 64 px; modern: about eight; s1: the paper's."""


def preset(name: str) -> TrainingConfig:
    """Return a preset.

    Raises
    ------
    UserError
        If there is none of this name.
    """
    if name not in PRESETS:
        msg = f"There is no preset named {name!r}; choose one of {', '.join(PRESETS)}."
        raise UserError(msg)
    return PRESETS[name]
