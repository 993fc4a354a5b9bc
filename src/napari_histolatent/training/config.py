"""Every hyperparameter, validated, to and from JSON. No torch here: forms and lists open at once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from napari_histolatent._config import option
from napari_histolatent.errors import UserError
from napari_histolatent.models import CLASSIFIERS, GENERATORS

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class _Config:
    """What both kinds of training share."""

    size_px: int = option(64, "Side of the patches, in px.")
    steps: int = option(2000, "Steps of the whole run, those before a stop counted.")
    batch_size: int = option(16, "Patches per step.")
    seed: int = option(0, "Seed of weights, batches and noise.")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.")
    learning_rate: float = option(1e-3, "Step size of the optimisers.")
    checkpoint_every: int = option(500, "Steps between checkpoints.")
    log_every: int = option(20, "Steps between progress events.")

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
            if kind is int and item.name != "seed" and value < 1:
                msg = f"{item.name} has to be at least 1, not {value}."
                raise UserError(msg)
            if kind is float and item.name != "ema_decay" and not 0 <= value < math.inf:
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


@dataclass(frozen=True)
class TrainingConfig(_Config):
    """A conditional GAN's training.

    The defaults are the lean recipe: non-saturating loss (Goodfellow et al. 2014), lazy R1 on real images
    (Mescheder et al. 2018; Karras et al. 2020), differentiable augmentation (Zhao et al. 2020), the eight
    symmetries of the square on real patches, an exponential moving average of the generator.
    """

    network: str = option("cdcgan", "Network to train.")
    preset: str = option("lean", "Preset the settings started from.")
    z_dim: int = option(64, "Length of the latent vector z ~ N(0, I).")
    base_channels: int = option(16, "Width of the finest layers.")
    learning_rate: float = option(1e-3, "Of both Adam optimisers; betas (0, 0.99).")
    ema_decay: float = option(
        0.998,
        "Decay per step of the generator's moving average, which is the network that is used afterwards.",
    )
    r1_weight: float = option(0.15, "Weight of the gradient penalty on real images, at each of its steps.")
    r1_every: int = option(8, "Steps between gradient penalties.")
    symmetries: bool = option(True, "Show each real patch in one of the eight symmetries of the square.")
    augment: bool = option(
        True, "Colour, shift and cutout on what the discriminator sees, real and generated alike."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in GENERATORS:
            msg = f"There is no network named {self.network!r}; choose one of {', '.join(GENERATORS)}."
            raise UserError(msg)
        if not 0 <= self.ema_decay < 1:
            msg = f"ema_decay has to lie from 0 to below 1, not at {self.ema_decay:g}."
            raise UserError(msg)


@dataclass(frozen=True)
class ClassifierConfig(_Config):
    """A classifier's training: cross-entropy on balanced batches, with stain jitter and blur."""

    steps: int = option(300, "Steps of the whole run, those before a stop counted.")
    batch_size: int = option(32, "Patches per step.")
    checkpoint_every: int = option(300, "Steps between checkpoints.")
    network: str = option("convnet", "Classifier to train.")
    base_channels: int = option(24, "Width of the first layers.")
    learning_rate: float = option(2e-3, "Peak of the one-cycle schedule of AdamW.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in CLASSIFIERS:
            msg = f"There is no classifier named {self.network!r}; choose one of {', '.join(CLASSIFIERS)}."
            raise UserError(msg)


PRESETS: Mapping[str, TrainingConfig] = {
    # On one slide for two minutes there is nothing to overfit yet: without augmentation it learnt twice as fast.
    "demo": TrainingConfig(preset="demo", steps=2500, augment=False),
    "lean": TrainingConfig(preset="lean", steps=6000),
}
"""Name -> configuration. demo: about two minutes on two cores at 64 px; lean: about eight."""


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
