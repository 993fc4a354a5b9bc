from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models import build_classifier
from napari_histolatent.models.images import to_tensor
from napari_histolatent.models.protocols import Classifier
from napari_histolatent.training import ClassifierConfig, _classifier_task
from napari_histolatent.training._classifier_task import ClassifierTask, one_cycle

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 300])
def test_the_learning_rate_rises_for_a_quarter_and_falls_to_nothing(steps: int) -> None:
    rates = [one_cycle(index, steps, 0.2) for index in range(steps)]
    assert all(0 < rate <= 0.2 for rate in rates)
    peak = rates.index(max(rates))
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert abs((peak + 0.5) / steps - 0.25) <= max(0.5 / steps, 0.25)
    assert rates[-1] <= 0.2 / (1.5 * steps) * 1.0001


def test_the_learning_rate_at_its_corners() -> None:
    assert one_cycle(24, 100, 1.0) == pytest.approx(0.98)
    assert one_cycle(25, 100, 1.0) == pytest.approx(0.745 / 0.75)
    assert one_cycle(0, 100, 1.0) == pytest.approx(0.02)
    assert one_cycle(99, 100, 1.0) == pytest.approx(0.005 / 0.75)


@pytest.mark.parametrize("index", [0, 3, 5])
def test_a_step_uses_the_rate_of_its_number(
    classifier_config: ClassifierConfig, patches: Any, index: int
) -> None:
    task = ClassifierTask(classifier_config, patches, CPU)
    task.step(index)
    rates = {group["lr"] for group in task.optimizers["classifier"].param_groups}
    assert rates == {one_cycle(index, 6, classifier_config.learning_rate)}


def test_a_step_changes_every_weight(classifier_config: ClassifierConfig, patches: Any) -> None:
    task = ClassifierTask(classifier_config, patches, CPU)
    assert isinstance(task.model, Classifier)
    before = [parameter.detach().clone() for parameter in task.model.parameters()]
    assert set(task.step(0)) == {"cross_entropy"}
    for (name, now), old in zip(task.model.named_parameters(), before, strict=True):
        assert not torch.equal(now, old), name


def test_weights_and_losses_come_from_the_seed_alone(
    classifier_config: ClassifierConfig, patches: Any
) -> None:
    losses = []
    for seed in (3, 3, 4):
        torch.rand(len(losses) + 1)  # torch's own chance stands elsewhere each time
        task = ClassifierTask(classifier_config.with_changes(seed=seed), patches, CPU)
        losses.append([task.step(index) for index in range(3)])
    assert losses[0] == losses[1] != losses[2]


def test_it_learns(classifier_config: ClassifierConfig, patches: Any) -> None:
    task = ClassifierTask(
        classifier_config.with_changes(augmentation="plain", steps=40, learning_rate=0.01), patches, CPU
    )
    losses = [task.step(index)["cross_entropy"] for index in range(40)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert task.finish()["accuracy"] >= 0.9


@pytest.mark.parametrize(
    ("counts", "split", "n"),
    [
        ({"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 5}, "test": {"a": 4, "b": 2}}, "test", 6),
        ({"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 5}}, "val", 7),
        ({"train": {"a": 3, "b": 3}, "test": {"b": 4}}, "test", 4),
    ],
)
def test_accuracy_is_that_on_held_out_patches(
    classifier_config: ClassifierConfig,
    dataset_of: Callable[..., Any],
    counts: dict[str, dict[str, int]],
    split: str,
    n: int,
) -> None:
    dataset = dataset_of(counts)
    task = ClassifierTask(classifier_config, dataset, CPU)
    task.step(0)
    state, metrics = task.rng.get_state(), task.finish()
    assert torch.equal(task.rng.get_state(), state)
    assert not task.model.training
    rows = dataset.rows_of(split)
    with torch.no_grad():
        right = task.model(to_tensor(dataset.read(rows))).argmax(1).numpy() == dataset.labels[rows]
    assert metrics == {
        "accuracy": pytest.approx(right.mean()),
        "per_class": {
            name: pytest.approx(right[dataset.labels[rows] == dataset.classes.index(name)].mean())
            for name in counts[split]
        },
        "n": n,
        "split": split,
    }


def test_without_held_out_patches_nothing_is_measured(
    classifier_config: ClassifierConfig, dataset_of: Callable[..., Any]
) -> None:
    task = ClassifierTask(classifier_config, dataset_of({"train": {"a": 3, "b": 3}}), CPU)
    assert task.finish() == {}
    assert not task.model.training


def test_learning_goes_on_after_a_measurement(classifier_config: ClassifierConfig, patches: Any) -> None:
    undisturbed, measured = (ClassifierTask(classifier_config, patches, CPU) for _ in range(2))
    for index in range(3):
        measured.finish()
        assert measured.step(index) == undisturbed.step(index)


def test_there_is_nothing_to_look_at(classifier_config: ClassifierConfig, patches: Any) -> None:
    assert ClassifierTask(classifier_config, patches, CPU).preview() is None


@pytest.mark.parametrize("augmentation", ClassifierConfig.augmentations)
def test_it_learns_from_augmented_patches_and_is_judged_on_those_as_they_are(
    classifier_config: ClassifierConfig, patches: Any, augmentation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = torch.zeros(8, 3, 16, 16)
    monkeypatch.setitem(_classifier_task.AUGMENTERS, augmentation, lambda _images, _rng: blank)
    task, seen = ClassifierTask(classifier_config.with_changes(augmentation=augmentation), patches, CPU), []
    task.model.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    task.step(0)
    assert seen.pop() is blank
    task.finish()
    assert [len(part) for part in seen] == [8, 2]  # a batch at a time
    assert torch.equal(torch.cat(seen), to_tensor(patches.read(patches.rows_of("test"))))


def test_weights_that_are_kept_are_not_given_to_the_optimiser(
    classifier_config: ClassifierConfig, patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_frozen(name: str, **options: Any) -> Any:
        network = build_classifier(name, **options)
        network.features.requires_grad_(False)  # type: ignore[attr-defined]
        return network

    monkeypatch.setattr(_classifier_task, "build_classifier", build_frozen)
    task = ClassifierTask(classifier_config, patches, CPU)
    (group,) = task.optimizers["classifier"].param_groups
    assert [tuple(weight.shape) for weight in group["params"]] == [(2, 16), (2,)]
    before = task.model.features[0].weight.clone()  # type: ignore[index,union-attr]
    task.step(0)
    assert torch.equal(task.model.features[0].weight, before)  # type: ignore[index,union-attr]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"augmentation": "strong"},
            r"^There is no augmentation named 'strong'; choose one of plain, robust\.$",
        ),
        ({"network": "vgg"}, r"^There is no classifier named 'vgg'; choose one of convnet, inception_v3\.$"),
    ],
)
def test_settings_that_no_classifier_can_have_are_refused(values: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ClassifierConfig(**values)  # type: ignore[arg-type]


def test_what_the_network_is_told() -> None:
    config = ClassifierConfig(
        network="inception_v3",
        base_channels=5,
        weights="w.safetensors",
        weights_sha256="ab",
        fine_tune=True,
    )
    assert config.network_options == {
        "base_channels": 5,
        "weights": "w.safetensors",
        "weights_sha256": "ab",
        "fine_tune": True,
    }
    assert ClassifierConfig().augmentation == "robust"
