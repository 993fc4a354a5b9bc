from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models import build_gan
from napari_histolatent.training import PRESETS, ClassifierConfig, TrainingConfig, preset
from napari_histolatent.training.config import DESIGNS, EncoderConfig

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGS = (TrainingConfig, ClassifierConfig)


@pytest.mark.parametrize("config", [*PRESETS.values(), TrainingConfig(), ClassifierConfig()])
def test_to_json_and_back(config: TrainingConfig | ClassifierConfig) -> None:
    assert type(config).from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_goes_to_json_and_back(kind: type[TrainingConfig | ClassifierConfig]) -> None:
    names = {item.name for item in fields(kind)}
    other: dict[str, Any] = {"size_px": 32, "steps": 7, "seed": 4, "device": "cpu", "learning_rate": 0.5}
    config = kind(**other)
    assert set(config.to_json()) == names
    back = kind.from_json(json.loads(json.dumps(config.to_json())))
    assert {name: getattr(back, name) for name in other} == other


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_field_that_is_missing_has_its_default(kind: type[TrainingConfig | ClassifierConfig]) -> None:
    assert kind.from_json({"steps": 12}) == kind(steps=12)


@pytest.mark.parametrize("kind", CONFIGS)
def test_unknown_fields_are_refused_by_name(kind: type[TrainingConfig | ClassifierConfig]) -> None:
    with pytest.raises(UserError, match=r"unknown fields betas, zoom; update napari-histolatent"):
        kind.from_json({"steps": 3, "zoom": 1, "betas": [0, 1]})


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", ["size_px", "steps", "batch_size", "checkpoint_every", "log_every"])
@pytest.mark.parametrize("value", [0, -5])
def test_counts_are_at_least_1(kind: type[TrainingConfig | ClassifierConfig], name: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"^{name} has to be at least 1, not {value}\.$"):
        kind.from_json({name: value})


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (TrainingConfig, {"network": "stylegan9"}, "no network named 'stylegan9'; choose one of cdcgan"),
        (ClassifierConfig, {"network": "cdcgan"}, "no classifier named 'cdcgan'; choose one of convnet"),
        (TrainingConfig, {"ema_decay": 1}, "ema_decay has to lie from 0 to below 1, not at 1"),
        (TrainingConfig, {"ema_decay": -0.1}, "ema_decay has to lie from 0 to below 1, not at -0.1"),
        (TrainingConfig, {"ema_decay": float("nan")}, "ema_decay has to lie"),
        (TrainingConfig, {"beta1": 1.0}, "beta1 has to lie from 0 to below 1, not at 1"),
        (
            TrainingConfig,
            {"label_smoothing": -0.5},
            "label_smoothing has to lie from 0 to below 1, not at -0.5",
        ),
        (TrainingConfig, {"stain_jitter": 1.5}, "stain_jitter has to lie from 0 to below 1, not at 1.5"),
        (TrainingConfig, {"design": "s2"}, "no design named 's2'; choose one of modern, s1"),
        (TrainingConfig, {"precision": "fp8"}, "no precision named 'fp8'; choose one of fp32, bf16, fp16"),
        (
            TrainingConfig,
            {"batch_size": 10, "devices": 2, "nodes": 2},
            r"A batch of 10 cannot be divided among 4 processes; choose a multiple of 16\.",
        ),
        (
            TrainingConfig,
            {"network": "dcgan", "continuous_labels": True},
            "The network dcgan has no classes to label; train cdcgan, or without continuous_labels",
        ),
        (TrainingConfig, {"learning_rate": 0}, "learning_rate has to be above 0, not 0"),
        (TrainingConfig, {"learning_rate": -1e-3}, "learning_rate has to be above 0, not -0.001"),
        (TrainingConfig, {"learning_rate": float("nan")}, "learning_rate has to be above 0, not nan"),
    ],
)
def test_bad_values_are_refused(kind: type, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        kind(**values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TrainingConfig, {"r1_every": 0}),  # else a division by zero at the first step
        (TrainingConfig, {"r1_weight": -1.0}),
        (TrainingConfig, {"z_dim": -1}),
        (TrainingConfig, {"base_channels": -1}),
        (TrainingConfig, {"devices": 0}),
        (TrainingConfig, {"nodes": 0}),
        (TrainingConfig, {"generator_steps": 0}),
        (TrainingConfig, {"keep_checkpoints": 0}),
        (TrainingConfig, {"milestone_every": -1}),
        (TrainingConfig, {"metrics_every": -1}),
        (TrainingConfig, {"instance_noise": -0.1}),
        (TrainingConfig, {"learning_rate": float("inf")}),
        (ClassifierConfig, {"base_channels": 0}),
        (ClassifierConfig, {"learning_rate": 0.0}),
        (ClassifierConfig, {"learning_rate": float("nan")}),
    ],
)
def test_values_that_no_training_can_have_are_refused(kind: type, values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        kind(**values)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("values", [{"steps": "many"}, {"batch_size": None}])
def test_json_of_the_wrong_type_is_refused(
    kind: type[TrainingConfig | ClassifierConfig], values: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        kind.from_json(values)


def test_a_config_does_not_change() -> None:
    config = TrainingConfig()
    with pytest.raises(FrozenInstanceError):
        config.steps = 3  # type: ignore[misc]


def test_changes_that_are_none_are_left_out() -> None:
    config = TrainingConfig(steps=5, seed=2)
    changed = config.with_changes(steps=9, seed=None, batch_size=None)
    assert changed == TrainingConfig(steps=9, seed=2)
    assert config.steps == 5


def test_changes_are_checked() -> None:
    with pytest.raises(UserError, match="steps has to be at least 1"):
        TrainingConfig().with_changes(steps=0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_carries_its_name(name: str) -> None:
    assert preset(name).preset == name


@pytest.mark.parametrize(
    "name",
    ["z_dim", "base_channels", "condition_ramp_steps", "encoder_steps", "metrics_every", "milestone_every"],
)
def test_0_switches_off_or_leaves_to_the_design(name: str) -> None:
    assert getattr(TrainingConfig.from_json({name: 0}), name) == 0


def test_a_network_is_told_only_what_was_set() -> None:
    assert TrainingConfig().network_options == {"design": "modern", "z_dim": None, "base_channels": None}
    config = TrainingConfig(design="s1", z_dim=7, base_channels=3)
    assert config.network_options == {"design": "s1", "z_dim": 7, "base_channels": 3}


def test_the_presets_there_are() -> None:
    assert set(PRESETS) == {"demo", "modern", "s1"}
    assert not preset("demo").augment
    assert preset("modern") == TrainingConfig(steps=5000)


def test_s1_is_as_the_paper_says() -> None:
    config = preset("s1")
    assert (config.design, config.batch_size, config.generator_steps) == ("s1", 64, 2)
    assert config.label_smoothing > 0
    assert config.instance_noise > 0
    assert (config.learning_rate, config.beta1, config.beta2) == (2e-4, 0.5, 0.999)
    later_inventions = (config.ema_decay, config.r1_weight, config.augment, config.symmetries)
    assert not any(later_inventions)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UserError, match=r"no preset named 'fast'; choose one of demo, modern, s1\.$"):
        preset("fast")


def test_settings_as_typed() -> None:
    typed = ["r1_weight=0.5", "encoder_steps=40", "tensorboard=yes", "augment=no", "judge=a=b"]
    assert TrainingConfig().with_settings(typed) == TrainingConfig(
        r1_weight=0.5, encoder_steps=40, tensorboard=True, augment=False, judge="a=b"
    )
    assert TrainingConfig().with_settings([]) == TrainingConfig()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "r1=0.5",
            r"'r1=0\.5' is not a setting of the training; give NAME=VALUE, NAME one of size_px, steps, ",
        ),
        ("augment", r"'augment' is not a setting"),
        ("augment=maybe", r"augment has to be yes or no, not 'maybe'\."),
        ("steps=1.5", r"steps has to be a whole number, not '1\.5'\."),
        ("r1_weight=much", r"r1_weight has to be a number, not 'much'\."),
        ("r1_weight=nan", r"r1_weight has to be 0 or above, not nan\."),
        ("steps=0", r"steps has to be at least 1, not 0\."),
    ],
)
def test_settings_that_cannot_be(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        TrainingConfig().with_settings([setting])


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 2**64, 10**30])
def test_a_seed_no_generator_takes_is_refused(seed: int) -> None:
    for config in (TrainingConfig, ClassifierConfig, EncoderConfig):
        with pytest.raises(UserError, match=f"^seed has to lie from -2.63 to below 2.63, not at {seed}"):
            config(seed=seed)
    assert TrainingConfig(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize(("design", "devices", "batch_size"), [("modern", 1, 1), ("s1", 1, 1), ("s1", 4, 4)])
def test_a_batch_too_small_to_be_normalised_is_refused(design: str, devices: int, batch_size: int) -> None:
    with pytest.raises(
        UserError, match=rf"^A batch of {batch_size} is too small .* at least {2 * devices}, 2"
    ):
        TrainingConfig(design=design, devices=devices, batch_size=batch_size)
    assert TrainingConfig(design=design, batch_size=2).batch_size == 2


@pytest.mark.parametrize(
    ("kind", "name", "value", "most"),
    [
        (TrainingConfig, "batch_size", 10**9, 2**16),
        (TrainingConfig, "steps", 10**12, 10**9),
        (TrainingConfig, "z_dim", 10**9, 4096),
        (TrainingConfig, "base_channels", 10**6, 1024),
        (TrainingConfig, "keep_checkpoints", 10**9, 10_000),
        (TrainingConfig, "size_px", 2**40, 2048),
        (TrainingConfig, "encoder_steps", 10**12, 10**9),
        (ClassifierConfig, "batch_size", 10**9, 2**16),
        (ClassifierConfig, "base_channels", 10**6, 1024),
        (EncoderConfig, "z_dim", 10**9, 4096),
    ],
)
def test_what_no_machine_could_do_is_refused(kind: type, name: str, value: int, most: int) -> None:
    with pytest.raises(UserError, match=rf"^{name} has to be at most {most}, not {value}\.$"):
        kind(**{name: value})


def refusal_of(make: Callable[[], object]) -> str:
    try:
        make()
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("design", DESIGNS)
def test_the_sizes_of_a_design_are_those_that_it_can_be_built_in(design: str) -> None:
    """What is said without torch is what the networks say."""

    def build(size_px: int) -> None:
        with torch.device("meta"):
            build_gan("dcgan", classes=(), size_px=size_px, design=design, z_dim=2, base_channels=1)

    for size_px in (1, 8, 15, 16, 24, 32, 48, 64, 96, 100, 128, 496, 512, 528, 1024):
        said = refusal_of(partial(TrainingConfig, design=design, size_px=size_px))
        assert said == refusal_of(partial(build, size_px))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"fine_tune": True}, r"learns in all its layers anyway; .* or choose inception_v3\.$"),
        ({"weights": "w", "weights_sha256": "a"}, r"learns from scratch and cannot start from w; .*\.$"),
        (
            {"network": "inception_v3", "weights_sha256": "ab"},
            r"'ab' is stated, but no file of weights; .*\.$",
        ),
        ({"size_px": 8}, r"needs patches of at least 16 px, not 8; cut larger patches\.$"),
    ],
)
def test_what_a_classifier_would_pass_over_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ClassifierConfig(**values)
