from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.training import PRESETS, ClassifierConfig, TrainingConfig, preset

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
        (TrainingConfig, {"z_dim": 0}),
        (TrainingConfig, {"base_channels": 0}),
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


def test_the_presets_there_are() -> None:
    assert set(PRESETS) == {"demo", "lean"}
    assert not preset("demo").augment
    assert preset("lean").augment


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UserError, match=r"no preset named 'fast'; choose one of demo, lean\.$"):
        preset("fast")
