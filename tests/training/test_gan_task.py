from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from napari_histolatent.models.metrics import kernel_distance_of_images, sample_deviation
from napari_histolatent.models.protocols import Generator
from napari_histolatent.training._data import Batches, chance_of, one_hot
from napari_histolatent.training._gan_task import GanTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.training import TrainingConfig

CPU = torch.device("cpu")


@pytest.fixture
def plain(gan_config: TrainingConfig) -> TrainingConfig:
    """No augmentation, so that what the discriminator sees can be drawn again."""
    return gan_config.with_changes(augment=False, symmetries=False, r1_weight=0.7, r1_every=3)


def clone_of(chance: torch.Generator) -> torch.Generator:
    clone = torch.Generator()
    clone.set_state(chance.get_state())
    return clone


def parameters_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def latents(n: int, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return z, one_hot(torch.arange(n) % 2, 2)


def test_the_model_is_a_generator_ready_for_use(gan_config: TrainingConfig, patches: Any) -> None:
    model = GanTask(gan_config, patches, CPU).model
    assert isinstance(model, Generator)
    assert (model.classes, model.size_px, model.z_dim) == (patches.classes, 16, 6)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("index", "penalised"), [(0, True), (1, False), (2, False), (3, True), (7, False)])
def test_the_losses_against_their_formulas(
    plain: TrainingConfig, patches: Any, index: int, penalised: bool
) -> None:
    task = GanTask(plain, patches, CPU)
    chance = clone_of(task.rng)
    real, labels = Batches(patches, "train", CPU).draw(8, chance_of(3, index))
    y = one_hot(labels, 2)
    with torch.no_grad():
        fake = task.modules["generator"](torch.randn(8, 6, generator=chance), y)
    discriminator = copy.deepcopy(task.modules["discriminator"])
    expected = softplus(-discriminator(real, y)).mean() + softplus(discriminator(fake, y)).mean()
    if penalised:
        real.requires_grad_(True)
        (slope,) = torch.autograd.grad(discriminator(real, y).sum(), real)
        expected = expected + 0.7 * slope.pow(2).sum((1, 2, 3)).mean()
    losses = task.step(index)
    assert float(losses["discriminator"]) == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():  # it answers to the discriminator that has just learnt
        expected = softplus(-task.modules["discriminator"](fake, y)).mean()
    assert float(losses["generator"]) == pytest.approx(expected.item(), rel=1e-5)


def test_the_penalty_pulls_the_slope_down(plain: TrainingConfig, patches: Any) -> None:
    slopes = []
    for weight in (0.0, 50.0):
        config = plain.with_changes(r1_weight=weight, r1_every=1, learning_rate=0.01)
        task = GanTask(config, patches, CPU)
        for index in range(8):
            task.step(index)
        images, labels = Batches(patches, "val", CPU).first(9)
        images.requires_grad_(True)
        scores = task.modules["discriminator"](images, one_hot(labels, 2))
        slopes.append(float(torch.autograd.grad(scores.sum(), images)[0].square().sum()))
    assert slopes[1] < 0.5 * slopes[0]


@pytest.mark.parametrize("name", ["augment", "symmetries"])
def test_augmentation_changes_what_the_discriminator_sees(
    plain: TrainingConfig, patches: Any, name: str
) -> None:
    without, with_it = (
        GanTask(plain.with_changes(**{name: value}), patches, CPU).step(1)["discriminator"]
        for value in (False, True)
    )
    assert without != with_it


def test_a_step_changes_every_weight_of_both_networks(gan_config: TrainingConfig, patches: Any) -> None:
    task = GanTask(gan_config, patches, CPU)
    before = {name: parameters_of(module) for name, module in task.modules.items()}
    task.step(0)
    for name, module in task.modules.items():
        for (key, now), old in zip(module.named_parameters(), before[name], strict=True):
            assert not torch.equal(now, old), f"{name}.{key}"


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_model_is_the_moving_average(gan_config: TrainingConfig, patches: Any, decay: float) -> None:
    task = GanTask(gan_config.with_changes(ema_decay=decay), patches, CPU)
    for index in range(2):
        before = parameters_of(task.model)
        task.step(index)
        current = parameters_of(task.modules["generator"])
        for averaged, old, new in zip(task.model.parameters(), before, current, strict=True):
            torch.testing.assert_close(averaged, decay * old + (1 - decay) * new)


def test_weights_and_losses_come_from_the_seed_alone(gan_config: TrainingConfig, patches: Any) -> None:
    losses = []
    for seed in (3, 3, 4):
        torch.rand(len(losses) + 1)  # torch's own chance stands elsewhere each time
        task = GanTask(gan_config.with_changes(seed=seed), patches, CPU)
        losses.append([task.step(index) for index in range(3)])
    assert losses[0] == losses[1] != losses[2]


def test_finishing_draws_nothing_from_the_tasks_chance(gan_config: TrainingConfig, patches: Any) -> None:
    task = GanTask(gan_config, patches, CPU)
    task.step(0)
    state, trained = task.rng.get_state(), parameters_of(task.model)
    first, second = task.finish(), task.finish()
    task.preview()
    assert first == second
    assert torch.equal(task.rng.get_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(task.model.parameters(), trained, strict=True))


def test_finishing_measures_the_averaged_weights_own_statistics(
    gan_config: TrainingConfig, patches: Any
) -> None:
    task = GanTask(gan_config, patches, CPU)
    for index in range(3):
        task.step(index)
    z, y = latents(512)

    def difference() -> float:
        """Between its stored statistics and those of a large batch."""
        of_the_batch = copy.deepcopy(task.model).train()
        with torch.no_grad():
            return float((task.model(z, y) - of_the_batch(z, y)).abs().mean())

    before = difference()
    task.finish()
    assert difference() < 0.2 * before
    assert not any(module.training for module in task.model.modules())


def test_metrics_against_the_held_out_patches(gan_config: TrainingConfig, patches: Any) -> None:
    task = GanTask(gan_config, patches, CPU)
    metrics = task.finish()
    real, _ = Batches(patches, "val", CPU).first(256)
    assert set(metrics) >= {"kid", "pixel_sd", "pixel_sd_real"}
    assert metrics["pixel_sd_real"] == pytest.approx(sample_deviation(real))
    generated = task.model(*latents(len(real)))
    assert metrics["pixel_sd"] == pytest.approx(sample_deviation(generated), rel=0.5)
    assert metrics["kid"] == pytest.approx(kernel_distance_of_images(real, generated), rel=0.5)
    assert metrics["kid"] > 10 * abs(
        kernel_distance_of_images(real, Batches(patches, "test", CPU).first(9)[0])
    )


def test_a_dataset_without_held_out_patches_is_measured_on_its_own(
    gan_config: TrainingConfig, dataset_of: Callable[..., Any]
) -> None:
    dataset = dataset_of({"train": {"a": 4, "b": 4}})
    metrics = GanTask(gan_config, dataset, CPU).finish()
    assert metrics["pixel_sd_real"] == pytest.approx(
        sample_deviation(Batches(dataset, "train", CPU).first(8)[0])
    )


def test_one_patch_is_too_few_to_measure(gan_config: TrainingConfig, dataset_of: Callable[..., Any]) -> None:
    dataset = dataset_of({"train": {"a": 1}, "val": {"a": 1}})
    task = GanTask(gan_config.with_changes(network="dcgan"), dataset, CPU)
    assert task.finish() == {}
    assert not any(module.training for module in task.model.modules())


def test_the_preview_has_a_row_a_class(gan_config: TrainingConfig, patches: Any) -> None:
    task = GanTask(gan_config, patches, CPU)
    task.finish()
    picture = task.preview()
    assert (picture.shape, picture.dtype) == ((2 * 16, 8 * 16, 3), np.uint8)
    np.testing.assert_array_equal(picture, task.preview())
    first, second = picture[:16], picture[16:]
    assert not np.array_equal(first, second)
    assert len({first[:, x : x + 16].tobytes() for x in range(0, 128, 16)}) == 8


@pytest.mark.parametrize("n_classes", [2, 3])
def test_more_classes(gan_config: TrainingConfig, dataset_of: Callable[..., Any], n_classes: int) -> None:
    dataset = dataset_of({"train": dict.fromkeys("abc"[:n_classes], 3)})
    task = GanTask(gan_config, dataset, CPU)
    assert set(task.step(0)) == {"discriminator", "generator"}
    assert task.preview().shape == (n_classes * 16, 128, 3)


def test_smoothing_is_cross_entropy_against_less_than_1(plain: TrainingConfig, patches: Any) -> None:
    task = GanTask(plain.with_changes(label_smoothing=0.2), patches, CPU)
    chance = clone_of(task.rng)
    real, labels = Batches(patches, "train", CPU).draw(8, chance_of(3, 1))
    y = one_hot(labels, 2)
    discriminator = copy.deepcopy(task.modules["discriminator"])
    with torch.no_grad():
        fake = task.modules["generator"](torch.randn(8, 6, generator=chance), y)
        of_real, of_fake = discriminator(real, y), discriminator(fake, y)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    expected = entropy(of_real, torch.full((8,), 0.8)) + entropy(of_fake, torch.zeros(8))
    assert float(task.step(1)["discriminator"]) == pytest.approx(expected.item(), rel=1e-5)


def test_the_generator_can_step_more_often(plain: TrainingConfig, patches: Any) -> None:
    task = GanTask(plain.with_changes(generator_steps=3, ema_decay=0.0), patches, CPU)
    task.step(1)
    counts = {
        name: {int(state["step"]) for state in optimizer.state.values()}
        for name, optimizer in task.optimizers.items()
    }
    assert counts == {"generator": {3}, "discriminator": {1}}
    for averaged, current in zip(
        task.model.parameters(), task.modules["generator"].parameters(), strict=True
    ):
        assert torch.equal(averaged, current)  # decay 0: no average


def test_betas_are_those_of_the_config(plain: TrainingConfig, patches: Any) -> None:
    task = GanTask(plain.with_changes(beta1=0.5, beta2=0.9, learning_rate=0.1), patches, CPU)
    for optimizer in task.optimizers.values():
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)
        assert optimizer.param_groups[0]["lr"] == 0.1


def recorded(monkeypatch: pytest.MonkeyPatch, task: GanTask) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keep the images and classes that a task's discriminator sees."""
    seen = []
    forward = task.modules["discriminator"].forward

    def look(images: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append((images.detach(), y))
        return forward(images, y)

    monkeypatch.setattr(task.modules["discriminator"], "forward", look)
    return seen


def test_instance_noise_falls_to_0_over_the_run(
    plain: TrainingConfig, patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = plain.with_changes(instance_noise=0.3, steps=10, r1_every=100)
    for index, deviation in ((1, 0.27), (5, 0.15), (10, 0.0)):
        task = GanTask(config, patches, CPU)
        seen = recorded(monkeypatch, task)
        task.step(index)
        real, _ = Batches(patches, "train", CPU).draw(8, chance_of(3, index))
        assert len(seen) == 3, "real, generated, and generated again"
        assert float((seen[0][0] - real).std()) == pytest.approx(deviation, rel=0.05)
        # The same images with the noise of the discriminator's turn and of the generator's.
        difference = (seen[1][0] - seen[2][0]).std() / 2**0.5
        assert float(difference) == pytest.approx(deviation, rel=0.05)


def test_the_class_gains_weight(plain: TrainingConfig, patches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, expected in ((0, 0.5), (2, 0.75), (4, 1.0), (9, 1.0)):
        task = GanTask(plain.with_changes(condition_ramp_steps=4), patches, CPU)
        seen = recorded(monkeypatch, task)
        task.step(index)
        for _, y in seen:
            assert y.amax(1).tolist() == pytest.approx([expected] * 8)
            assert y.sum(1).tolist() == pytest.approx([1.0] * 8)


def test_continuous_labels_are_area_fractions(
    plain: TrainingConfig, patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = np.linspace(0, 1, len(patches))
    columns = {"coverage_epithelium": share, "coverage_stroma": 1 - share}
    monkeypatch.setattr(patches, "columns", columns, raising=False)
    task = GanTask(plain.with_changes(continuous_labels=True), patches, CPU)
    seen = recorded(monkeypatch, task)
    task.step(1)
    batches = Batches(patches, "train", CPU)
    rows = batches.rows[batches.choose(8, chance_of(3, 1)).numpy()]
    for _, y in seen:
        np.testing.assert_allclose(y.numpy(), np.stack([share[rows], 1 - share[rows]], axis=1), rtol=1e-6)


def test_stain_jitter_changes_real_patches_only(
    plain: TrainingConfig, patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = []
    for spread in (0.0, 0.2):
        task = GanTask(plain.with_changes(stain_jitter=spread, r1_weight=0.0), patches, CPU)
        seen = recorded(monkeypatch, task)
        monkeypatch.setattr(task, "_draw", lambda y: torch.zeros(8, 3, 16, 16, requires_grad=True) * 1)
        task.step(1)
        pairs.append(seen)
    assert not torch.equal(pairs[0][0][0], pairs[1][0][0])
    assert torch.equal(pairs[0][1][0], pairs[1][1][0])


@pytest.mark.parametrize("design", ["modern", "s1"])
def test_without_classes(gan_config: TrainingConfig, dataset_of: Callable[..., Any], design: str) -> None:
    dataset = dataset_of({"train": {"tumor": 9}, "val": {"tumor": 4}})
    task = GanTask(gan_config.with_changes(network="dcgan", design=design), dataset, CPU)
    assert isinstance(task.model, Generator)
    assert task.model.classes == ()
    assert set(task.step(0)) == {"discriminator", "generator"}
    assert set(task.finish()) >= {"pixel_sd", "pixel_sd_real"}
    assert task.preview().shape == (16, 8 * 16, 3)


def test_latents_are_from_the_networks_own_prior(
    gan_config: TrainingConfig, patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = GanTask(gan_config.with_changes(design="s1"), patches, CPU)
    seen = []
    forward = task.modules["generator"].forward
    monkeypatch.setattr(task.modules["generator"], "forward", lambda z, y: seen.append(z) or forward(z, y))
    for index in range(20):
        task.step(index)
    z = torch.cat(seen)
    assert float(z.abs().max()) <= 1
    assert float(z.std()) == pytest.approx(3**-0.5, rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_much_the_same(plain: TrainingConfig, patches: Any, precision: str) -> None:
    full, half = (GanTask(plain.with_changes(precision=name), patches, CPU) for name in ("fp32", precision))
    losses = {name: float(value) for name, value in half.step(0).items()}
    assert losses == pytest.approx({k: float(v) for k, v in full.step(0).items()}, abs=0.03)
    for network in half.modules.values():
        assert {p.dtype for p in network.parameters()} <= {torch.float32}


def test_a_task_that_keeps_channels_last_learns_the_same(plain: TrainingConfig, patches: Any) -> None:
    first, last = (GanTask(plain.with_changes(channels_last=on), patches, CPU) for on in (False, True))
    weight = next(p for p in last.modules["discriminator"].parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    for index in range(2):
        losses = {name: float(value) for name, value in last.step(index).items()}
        assert losses == pytest.approx({k: float(v) for k, v in first.step(index).items()}, rel=1e-3)
