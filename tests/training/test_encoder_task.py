from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from napari_histolatent.errors import CheckpointError, DatasetError, UserError
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.models.images import to_tensor
from napari_histolatent.models.protocols import Encoder
from napari_histolatent.runs import Run, RunEvent
from napari_histolatent.training._encoder_task import (
    EncoderTask,
    rate_of,
    train_encoder,
    train_encoder_of_run,
)
from napari_histolatent.training.checkpoint import checkpoints_in, latest_checkpoint, restore, save_checkpoint
from napari_histolatent.training.config import EncoderConfig
from napari_histolatent.training.load import load_encoder, load_generator
from napari_histolatent.training.loop import train

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.training import TrainingConfig

CPU = torch.device("cpu")
CLASSES = ("epithelium", "stroma")


class TinyGenerator(nn.Module):
    """Smooth images of 16 px, linear in (z, y) before a tanh."""

    def __init__(self, classes: tuple[str, ...] = CLASSES, z_dim: int = 3) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(7)
        self.classes, self.size_px, self.z_dim = classes, 16, z_dim
        self.prior = "normal"
        self.num_ws, self.w_dim = 1, z_dim + len(classes)
        self.basis = torch.randn(self.w_dim, 3, 4, 4, generator=chance)

    def map(self, z: torch.Tensor, y: torch.Tensor, *, psi: float = 1.0) -> torch.Tensor:
        return torch.cat([z * psi, y], 1)[:, None]

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        coarse = torch.einsum("bw,wchv->bchv", w[:, 0], self.basis)
        return torch.tanh(nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear"))


@pytest.fixture(scope="module")
def config() -> EncoderConfig:
    return EncoderConfig(size_px=16, steps=20, batch_size=6, seed=3, device="cpu", base_channels=4, z_dim=3)


def weights(task: EncoderTask) -> list[torch.Tensor]:
    return [value.clone() for value in task.model.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("steps", [1, 10, 300])
def test_the_learning_rate_rises_for_a_tenth_and_falls_to_nothing(steps: int) -> None:
    rates = [rate_of(index, steps, 0.2) for index in range(steps)]
    assert all(0 < rate <= 0.2 for rate in rates)
    peak = rates.index(max(rates))
    assert rates == sorted(rates[:peak]) + sorted(rates[peak:], reverse=True)
    assert rate_of(10, 105, 1.0) == pytest.approx(1.0)
    assert rate_of(104, 105, 1.0) == pytest.approx(0.5 / 105 / 0.9)


def test_the_first_losses_are_those_of_the_formulas(config: EncoderConfig) -> None:
    generator = TinyGenerator()
    task = EncoderTask(config.with_changes(prior="uniform"), generator, None, CPU)
    z = torch.rand(6, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1
    y = torch.eye(2)[[0, 1, 0, 1, 0, 1]]
    with torch.no_grad():
        images = generator.synthesize(generator.map(z, y))
        guess, logits = task.model(images)
        again = generator.synthesize(generator.map(guess, y))
    losses = {name: float(value) for name, value in task.step(0).items()}
    assert losses == {
        "encoder_z": pytest.approx(3 * float((guess - z).square().mean()), rel=1e-5),
        "encoder_y": pytest.approx(float(-(logits.log_softmax(1) * y).sum(1).mean()), rel=1e-5),
        "encoder_pixels": pytest.approx(float((again - images).square().mean()), rel=1e-5),
    }


@pytest.mark.parametrize("real_weight", [0.0, 1.0])
def test_a_step_changes_every_weight_of_the_encoder_alone(
    config: EncoderConfig, patches: Any, real_weight: float
) -> None:
    generator = TinyGenerator()
    before_g = generator.basis.clone()
    task = EncoderTask(config.with_changes(real_weight=real_weight), generator, patches, CPU)
    before = weights(task)
    losses = task.step(0)
    assert ("encoder_real_pixels" in losses) == bool(real_weight)
    for name, old, now in zip(task.model.state_dict(), before, weights(task), strict=True):
        assert not torch.equal(old, now), name
    assert torch.equal(generator.basis, before_g)


@pytest.mark.parametrize("prior", ["normal", "uniform"])
@pytest.mark.parametrize("classes", [(), ("tissue",), CLASSES, ("a", "b", "c")])
def test_it_learns(config: EncoderConfig, classes: tuple[str, ...], prior: str) -> None:
    settings = config.with_changes(steps=80, batch_size=16, prior=prior, learning_rate=0.01)
    task = EncoderTask(settings, TinyGenerator(classes), None, CPU)
    before = task.finish()
    for index in range(80):
        task.step(index)
    after = task.finish()
    assert not task.model.training
    assert after["z_error"] < 0.5 * before["z_error"]
    assert after["rmse_generated"] < 0.6 * before["rmse_generated"]
    assert ("class_accuracy_generated" in after) == (len(classes) > 1)
    if len(classes) > 1:
        assert after["class_accuracy_generated"] > 0.9
    assert not any("real" in name for name in after)


def test_real_patches_are_redrawn_better_when_they_are_used(config: EncoderConfig, patches: Any) -> None:
    rmse = []
    for real_weight in (0.0, 5.0):
        settings = config.with_changes(
            steps=40, batch_size=16, learning_rate=0.01, real_weight=real_weight, prior_weight=0.0, z_dim=24
        )
        task = EncoderTask(settings, TinyGenerator(z_dim=24), patches, CPU)
        for index in range(40):
            task.step(index)
        rmse.append(task.finish()["rmse_real"])
    assert rmse[1] < 0.9 * rmse[0]


def test_the_prior_term_shortens_z_of_real_patches(config: EncoderConfig, patches: Any) -> None:
    lengths = []
    for prior_weight in (0.0, 3.0):
        settings = config.with_changes(
            steps=40, batch_size=16, learning_rate=0.01, real_weight=5.0, prior_weight=prior_weight
        )
        task = EncoderTask(settings, TinyGenerator(), patches, CPU)
        for index in range(40):
            task.step(index)
        lengths.append(task.finish()["z_rms_real"])
    assert lengths[1] < 0.8 * lengths[0]


def test_what_is_measured_on_held_out_patches(config: EncoderConfig, patches: Any) -> None:
    generator = TinyGenerator()
    task = EncoderTask(config, generator, patches, CPU)
    state, metrics = task.rng.get_state(), task.finish()
    assert torch.equal(task.rng.get_state(), state)
    rows = patches.rows_of("val")
    images = to_tensor(patches.read(rows))
    with torch.no_grad():
        z, logits = task.model(images)
        again = generator.synthesize(generator.map(z, logits.softmax(1)))
    errors = [float((a - b).square().mean()) ** 0.5 for a, b in zip(again, images, strict=True)]
    assert metrics["rmse_real"] == pytest.approx(sorted(errors)[(len(errors) - 1) // 2], rel=1e-5)
    assert metrics["z_rms_real"] == pytest.approx(float(z.square().mean().sqrt()), rel=1e-5)
    right = logits.argmax(1).numpy() == patches.labels[rows]
    assert metrics["class_accuracy_real"] == pytest.approx(right.mean())


def test_weights_and_losses_come_from_the_seed_alone(config: EncoderConfig, patches: Any) -> None:
    losses = []
    for seed in (3, 3, 4):
        torch.rand(len(losses) + 1)  # torch's own chance stands elsewhere each time
        task = EncoderTask(config.with_changes(seed=seed, real_weight=1.0), TinyGenerator(), patches, CPU)
        losses.append([float(task.step(index)["encoder_z"]) for index in range(3)])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("real_weight", [0.0, 1.0])
def test_set_back_to_a_checkpoint_it_goes_on_bit_for_bit(
    config: EncoderConfig, patches: Any, tmp_path: Path, real_weight: float
) -> None:
    def new(seed: int = 3) -> EncoderTask:
        settings = config.with_changes(real_weight=real_weight, seed=seed)
        return EncoderTask(settings, TinyGenerator(), patches, CPU)

    whole, stopped, resumed = new(), new(), new(seed=9)
    for index in range(5):
        whole.step(index)
    for index in range(2):
        stopped.step(index)
    facts = {
        "kind": "encoder",
        "steps": 20,
        "config": config.to_json(),
        "classes": list(CLASSES),
        "size_px": 16,
        "mpp": None,
        "dataset_digest": "d",
        "metrics": stopped.finish(),
    }
    restore(save_checkpoint(tmp_path, stopped, step=2, facts=facts), resumed, CPU)
    for index in range(2, 5):
        resumed.step(index)
    assert same(weights(whole), weights(resumed))


def test_real_patches_cannot_be_used_where_there_are_none(config: EncoderConfig) -> None:
    with pytest.raises(DatasetError, match=r"there is no dataset; name one, or set real_weight to 0\.$"):
        EncoderTask(config.with_changes(real_weight=1.0), TinyGenerator(), None, CPU)


def test_patches_of_another_generator_are_refused(
    config: EncoderConfig, dataset_of: Callable[..., Any]
) -> None:
    with pytest.raises(DatasetError, match=r"patches of 24 px, the generator draws 16 px; name the dataset"):
        EncoderTask(config, TinyGenerator(), dataset_of({"train": {"epithelium": 2}}, size_px=24), CPU)
    other = dataset_of({"train": {"stroma": 2, "epithelium": 2}})
    with pytest.raises(
        DatasetError, match=r"classes stroma, epithelium, the generator epithelium, stroma; name"
    ):
        EncoderTask(config, TinyGenerator(), other, CPU)
    lacking = dataset_of({"train": {"epithelium": 2}, "val": {"stroma": 2}})
    with pytest.raises(DatasetError, match=r"'stroma' has no patch in the training split"):
        EncoderTask(config.with_changes(real_weight=1.0), TinyGenerator(), lacking, CPU)
    EncoderTask(config, TinyGenerator(()), other, CPU)  # without classes the patches' do not matter


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("network", r"^There is no encoder named 'other'; choose one of convnet\.$"),
        ("prior", r"^There is no prior named 'other'; choose one of normal, uniform\.$"),
    ],
)
def test_settings_that_mean_nothing_are_refused(field: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        EncoderConfig(**{field: "other"})


def test_settings_survive_json(config: EncoderConfig) -> None:
    assert EncoderConfig.from_json(config.to_json()) == config


def test_there_is_nothing_to_look_at(config: EncoderConfig) -> None:
    assert EncoderTask(config, TinyGenerator(), None, CPU).preview() is None


SETTINGS = EncoderConfig(
    steps=6, batch_size=4, seed=5, device="cpu", base_channels=4, checkpoint_every=2, log_every=1
)


class Encoding:
    """One training of an encoder for a run's generator: its checkpoint, its events, and where they are."""

    def __init__(
        self, run: Path, folder: Path, patches: Any = None, *, stop_after: int | None = None, **changes: Any
    ) -> None:
        self.events, self._asked = list[RunEvent](), 0
        self.checkpoint = train_encoder(
            SETTINGS.with_changes(**changes),
            load_generator(run, device="cpu"),
            patches,
            folder=folder,
            on_event=self.events.append,
            should_stop=lambda: self._stop(stop_after),
            resume=True,
        )

    def _stop(self, after: int | None) -> bool:
        self._asked += 1
        return self.events[0].step + self._asked == after


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture
def copied(gan_run: Path, tmp_path: Path) -> Path:
    """A run of the test's own, to put an encoder in."""
    return Path(shutil.copytree(gan_run, tmp_path / "run"))


def test_it_belongs_to_its_generator_and_is_found_by_the_run(copied: Path, patches: Any) -> None:
    generator = latest_checkpoint(copied / "checkpoints")
    assert load_encoder(copied, device="cpu") is None
    made = Encoding(copied, copied / "encoder", patches).checkpoint
    assert (made.kind, made.step, made.classes) == ("encoder", 6, generator.classes)
    assert made.config["generator_digest"] == generator.digest
    assert (made.config["z_dim"], made.config["prior"], made.config["size_px"]) == (6, "normal", 16)
    for named in (copied, str(copied), generator.path, copied / "encoder" / "checkpoints" / "step-00000006"):
        loaded = load_encoder(named, device="cpu")
        assert loaded is not None
        assert isinstance(loaded.network, Encoder)
        assert loaded.checkpoint == made
        assert not any(module.training for module in loaded.network.modules())
        assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    # The weights are those that were measured.
    images = to_tensor(patches.read(patches.rows_of("val")))
    guess, _ = loaded.network(images)
    assert made.metrics["z_rms_real"] == pytest.approx(float(guess.square().mean().sqrt()), rel=1e-5)


def test_stopped_and_resumed_it_is_the_same_bit_for_bit(gan_run: Path, patches: Any, tmp_path: Path) -> None:
    whole = Encoding(gan_run, tmp_path / "whole", patches, real_weight=1.0)
    stopped = Encoding(gan_run, tmp_path / "parts", patches, real_weight=1.0, stop_after=3)
    assert (stopped.checkpoint.step, stopped.events[-1].kind) == (3, "stopped")
    resumed = Encoding(gan_run, tmp_path / "parts", patches, real_weight=1.0)
    assert resumed.events[0].step == 3
    last = "checkpoints/step-00000006"
    assert digests(tmp_path / "whole" / last) == digests(tmp_path / "parts" / last)
    assert resumed.checkpoint.digest == whole.checkpoint.digest


def test_an_encoder_of_other_settings_is_replaced(gan_run: Path, tmp_path: Path) -> None:
    Encoding(gan_run, tmp_path, stop_after=5)
    again = Encoding(gan_run, tmp_path, steps=4)
    assert again.events[0].step == 0
    assert [path.name for path in checkpoints_in(tmp_path / "checkpoints")] == [
        "step-00000002",
        "step-00000004",
    ]


def test_where_a_generator_lies_no_encoder_is_put(copied: Path) -> None:
    before = digests(copied)
    with pytest.raises(CheckpointError, match=r"holds a gan, where an encoder is to go; name another folder"):
        Encoding(copied, copied)
    assert digests(copied) == before


def test_an_encoder_of_another_generator_is_refused(copied: Path) -> None:
    older, *_, newer = checkpoints_in(copied / "checkpoints")
    Encoding(older, copied / "encoder")
    assert load_encoder(older, device="cpu") is not None
    with pytest.raises(
        CheckpointError, match=r"belongs to another generator .* train one for this generator"
    ):
        load_encoder(newer, device="cpu")
    with pytest.raises(CheckpointError, match=r"belongs to another generator"):
        load_encoder(copied / "encoder" / "checkpoints" / "step-00000006", generator_digest="f" * 64)


def test_beside_an_exported_generator_it_is_found(copied: Path, tmp_path: Path) -> None:
    made = Encoding(copied, copied / "encoder").checkpoint
    exported = shutil.copytree(latest_checkpoint(copied / "checkpoints").path, tmp_path / "exported")
    assert load_encoder(exported, device="cpu") is None
    shutil.copytree(made.path, exported / "encoder")
    loaded = load_encoder(exported, device="cpu")
    assert loaded is not None
    assert loaded.checkpoint.digest == made.digest


def test_a_classifier_has_no_encoder(classifier_run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds a classifier, where a generator is needed"):
        load_encoder(classifier_run, device="cpu")


def test_a_run_stopped_in_its_encoder_goes_on_there(
    copied: Path, gan_config: TrainingConfig, patches: Any
) -> None:
    config = gan_config.with_changes(encoder_steps=4)
    generator = latest_checkpoint(copied / "checkpoints")

    def go_on(should_stop: Callable[[], bool]) -> list[RunEvent]:
        events: list[RunEvent] = []
        train(config, patches, folder=copied, on_event=events.append, should_stop=should_stop, resume=True)
        return events

    stopped = go_on(lambda: True)
    # The generator was done before: its end is not the run's.
    assert [event.kind for event in stopped if event.kind in ("stopped", "finished")] == ["stopped"]
    assert (stopped[-1].step, stopped[-1].steps) == (config.steps + 1, config.steps + 4)
    ended = go_on(lambda: False)
    assert (ended[-1].kind, ended[-1].step) == ("finished", config.steps + 4)
    assert latest_checkpoint(copied / "checkpoints").digest == generator.digest
    loaded = load_encoder(copied, device="cpu")
    assert loaded is not None
    assert loaded.checkpoint.step == 4


def test_as_a_phase_it_counts_on_from_the_gan(copied: Path, gan_config: TrainingConfig, patches: Any) -> None:
    events: list[RunEvent] = []
    made = train_encoder_of_run(
        gan_config.with_changes(encoder_steps=4),
        latest_checkpoint(copied / "checkpoints"),
        patches,
        folder=copied,
        on_event=events.append,
        should_stop=lambda: False,
    )
    gan_steps = gan_config.steps
    assert (made.path, made.step) == (copied / "encoder" / "checkpoints" / "step-00000004", 4)
    assert {event.steps for event in events} == {gan_steps + 4}
    progress = [event for event in events if event.kind == "progress"]
    assert [event.step for event in progress] == [gan_steps + i for i in (1, 2, 3, 4)]
    names = {"encoder_z", "encoder_y", "encoder_pixels", "encoder_real_pixels"}
    assert set(progress[0].losses) == names  # a run's patches are used
    kept = [event for event in events if event.kind == "checkpoint"][-1]
    assert set(kept.data) == {"encoder"}  # the run's own checkpoint and metrics stay the generator's
    assert kept.data["encoder"]["digest"] == made.digest
    assert copied / kept.data["encoder"]["checkpoint"] == made.path
    assert events[-1].kind == "finished"


def test_as_a_job_of_its_own(copied: Path) -> None:
    spec = {"run": str(copied), "config": SETTINGS.to_json()}
    run = Run.create(copied / "encoder", kind="encoder", spec=spec)
    KINDS["encoder"](run)
    assert [event.kind for event in run.events()[0]][-1] == "finished"
    loaded = load_encoder(copied, device="cpu")
    assert loaded is not None
    assert "rmse_generated" in loaded.checkpoint.metrics
    assert "rmse_real" not in loaded.checkpoint.metrics  # the run names no dataset
