from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent.training import beside_steps
from napari_histolatent.training.beside_steps import measure_beside

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.training import ClassifierConfig, TrainingConfig


@pytest.mark.parametrize("network", ["cdcgan", "dcgan"])
def test_measurements_checkpoints_and_encoder_steps_take_time(
    patches: Any, gan_config: TrainingConfig, network: str
) -> None:
    config = gan_config.with_changes(network=network, encoder_steps=3)
    found = measure_beside(config, patches, seconds=0)
    assert 0 < found["seconds_per_measurement"] < found["seconds_per_checkpoint"]
    assert found["seconds_per_encoder_step"] > 0


def test_without_an_encoder_none_is_trained(
    patches: Any, gan_config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside_steps, "EncoderTask", lambda *_: pytest.fail("nobody asked for it"))
    assert measure_beside(gan_config, patches)["seconds_per_encoder_step"] == 0


def test_a_classifier_looks_at_its_held_out_patches(
    patches: Any, classifier_config: ClassifierConfig, dataset_of: Callable[..., Any]
) -> None:
    found = measure_beside(classifier_config, patches)
    assert found["seconds_per_checkpoint"] > 0
    assert found["seconds_per_measurement"] == found["seconds_per_encoder_step"] == 0
    without = dataset_of({"train": {"epithelium": 2, "stroma": 2}})
    assert measure_beside(classifier_config, without)["seconds_per_checkpoint"] == 0


def test_only_a_few_patches_are_read(
    dataset_of: Callable[..., Any], gan_config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = dataset_of({"train": {"a": 900, "b": 400}, "val": {"a": 300, "b": 300}})
    read, seen = many.read, list[int]()

    def counted(rows: Any) -> Any:
        seen.append(len(rows))
        return read(rows)

    monkeypatch.setattr(many, "read", counted)
    measure_beside(gan_config.with_changes(encoder_steps=3), many, seconds=0)
    assert 0 < sum(seen) < 400
