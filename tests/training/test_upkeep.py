"""What the loop does besides steps: metrics, which checkpoints stay, memory that runs out, TensorBoard."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from napari_histolatent.errors import UserError
from napari_histolatent.training._classifier_task import ClassifierTask
from napari_histolatent.training._encoder_task import EncoderTask
from napari_histolatent.training._gan_task import GanTask
from napari_histolatent.training._health import HealthCheck
from napari_histolatent.training.checkpoint import Checkpoint, checkpoints_in, latest_checkpoint
from napari_histolatent.training.loop import train

if TYPE_CHECKING:
    from napari_histolatent.training import ClassifierConfig, TrainingConfig
    from tests.training.conftest import Training

    TrainingOf = type[Training]

OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4398046511104 bytes."


@pytest.fixture
def kids(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the KIDs of the measurements to come shall be, in turn; 0.5 after that."""
    to_come: list[float] = []
    measure = HealthCheck.measure

    def fake(self: HealthCheck, *arguments: Any) -> dict[str, Any]:
        return measure(self, *arguments) | {"kid": to_come.pop(0) if to_come else 0.5}

    monkeypatch.setattr(HealthCheck, "measure", fake)
    return to_come


def best_of(folder: Path) -> dict[str, Any]:
    best: dict[str, Any] = json.loads((folder / "best.json").read_text())
    return best


# Metrics


def test_metrics_are_told_every_so_many_steps_and_at_checkpoints(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    config = gan_config.with_changes(steps=5, metrics_every=2, checkpoint_every=3)
    done = training(config, patches, tmp_path)
    told = {event.step: event.data["metrics"] for event in done.events if event.kind == "metrics"}
    assert list(told) == [2, 3, 4, 5]
    for metrics in told.values():
        assert {"kid", "kid_random", "pixel_sd", "sample_distance", "nearest_distance"} <= metrics.keys()
        assert {"discriminator_real", "discriminator_fake", "discriminator_right"} <= metrics.keys()
        assert isinstance(metrics["warnings"], list)
    # What a checkpoint keeps does not depend on when the process began: no figures of past steps, no words.
    kept = {k: v for k, v in told[5].items() if not k.startswith("discriminator_") and k != "warnings"}
    assert done.checkpoint.metrics == pytest.approx(kept)


def test_measuring_changes_nothing_that_is_learnt(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    often = training(gan_config.with_changes(metrics_every=1), patches, tmp_path / "often")
    never = training(gan_config.with_changes(metrics_every=0), patches, tmp_path / "never")
    assert often.checkpoint.digest == never.checkpoint.digest
    assert often.losses == never.losses
    assert never.kinds.count("metrics") == 3  # those of the checkpoints


def test_the_run_says_what_it_trains_and_which_networks_judge_it(
    gan_config: TrainingConfig,
    classifier_config: ClassifierConfig,
    classifier_run: Path,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
) -> None:
    config = gan_config.with_changes(steps=1, judge=str(classifier_run))
    done = training(config, patches, tmp_path / "gan")
    said = json.loads((tmp_path / "gan" / "config.json").read_text())
    assert said["config"] == config.to_json()
    assert said["dataset_digest"] == patches.digest
    judge = latest_checkpoint(classifier_run / "checkpoints").digest
    assert said["judges"]["judge"] == judge == done.checkpoint.metrics["kid_features"]
    assert len(said["judges"]["random"]) == 64
    assert done.events[0].data["judges"] == said["judges"]
    training(classifier_config.with_changes(steps=1), patches, tmp_path / "classifier")
    assert json.loads((tmp_path / "classifier" / "config.json").read_text())["judges"] == {}


def test_a_judge_that_is_not_there_is_refused_before_anything_is_written(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a run folder"):
        training(gan_config.with_changes(judge=str(tmp_path / "nowhere")), patches, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_samples_are_shown_with_their_nearest_training_patches(gan_run: Path) -> None:
    with Image.open(gan_run / "samples" / "neighbours-00000006.png") as picture:
        assert picture.size == (8 * 16, 2 * 16)
        assert picture.text["Comment"].startswith("SYNTHETIC")  # type: ignore[attr-defined]


# Which checkpoints stay


def test_the_best_and_the_milestones_stay(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path, kids: list[float]
) -> None:
    kids += [0.9, 0.1, 0.4, 0.3, 0.2, 0.6, 0.7, 0.8]
    config = gan_config.with_changes(steps=8, checkpoint_every=1, keep_checkpoints=1, milestone_every=3)
    done = training(config, patches, tmp_path)
    assert done.steps_kept == [2, 3, 6, 8]
    best = best_of(tmp_path)
    assert (best["step"], best["kid"]) == (2, 0.1)
    assert Checkpoint.open(tmp_path / best["checkpoint"]).step == 2
    told = [event.data["best"]["step"] for event in done.events if event.kind == "checkpoint"]
    assert told == [1, 2, 2, 2, 2, 2, 2, 2]


def test_the_best_outlives_a_stop_and_gives_way_to_a_better_one(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path, kids: list[float]
) -> None:
    config = gan_config.with_changes(checkpoint_every=1, keep_checkpoints=1)
    kids += [0.2, 0.3]  # at a stop nothing is measured
    assert training(config, patches, tmp_path, stop_after=3).steps_kept == [1, 3]
    (tmp_path / "best.json").unlink()  # as if killed before it was written
    assert training(config, patches, tmp_path, stop_after=4, resume=True).steps_kept == [1, 4]
    assert best_of(tmp_path)["step"] == 1
    kids += [0.1, 0.5]
    assert training(config, patches, tmp_path, resume=True).steps_kept == [5, 6]
    assert best_of(tmp_path)["step"] == 5


def test_a_classifier_has_no_best(classifier_run: Path) -> None:
    assert not (classifier_run / "best.json").exists()
    assert [int(path.name[5:]) for path in checkpoints_in(classifier_run / "checkpoints")] == [4, 6]


def test_a_full_disk_while_a_checkpoint_is_replaced_leaves_the_old_one(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = training(gan_config, patches, tmp_path, stop_after=2)
    write = Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        if path.name == "training.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(UserError, match=r"^Cannot write to .*: the disk is full"):
            training(gan_config, patches, tmp_path, stop_after=2)  # from the start: the same step again
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert latest_checkpoint(tmp_path / "checkpoints") == first.checkpoint
    assert training(gan_config, patches, tmp_path, resume=True).events[0].step == 2


# Memory


def memory_for(batch_size: int, monkeypatch: pytest.MonkeyPatch, *, from_step: int = 0) -> None:
    """Let the allocator fail in steps of larger batches."""
    for task in (GanTask, ClassifierTask):
        learn = task.step

        def step(self: Any, index: int, *, learn: Any = learn) -> Any:
            # A trial is a step 0 of a network of its own.
            if self._config.batch_size > batch_size and (index >= from_step or index == 0 < self.failed):
                type(self).failed += 1
                raise RuntimeError(OUT_OF_MEMORY)
            return learn(self, index)

        monkeypatch.setattr(task, "failed", 0, raising=False)
        monkeypatch.setattr(task, "step", step)


@pytest.mark.parametrize("kind", ["gan", "classifier"])
def test_memory_that_does_not_suffice_names_the_batch_that_fits(
    gan_config: TrainingConfig,
    classifier_config: ClassifierConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    memory_for(3, monkeypatch)
    config: Any = gan_config if kind == "gan" else classifier_config
    with pytest.raises(
        UserError, match=r"memory of cpu does not suffice for a batch of 8 patches of 16 px; 2 would fit"
    ):
        training(config, patches, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_no_batch_that_fits_is_said_too(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory_for(0, monkeypatch)
    with pytest.raises(UserError, match="nor for any smaller one"):
        training(gan_config.with_changes(halve_batch_if_out_of_memory=True), patches, tmp_path)


def test_where_it_is_allowed_training_goes_on_with_what_fits(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allowed = gan_config.with_changes(halve_batch_if_out_of_memory=True)
    small = training(allowed.with_changes(batch_size=4), patches, tmp_path / "small")
    memory_for(5, monkeypatch)
    done = training(allowed, patches, tmp_path / "halved")
    assert done.kinds[:3] == ["started", "metrics", "started"]
    (warning,) = done.events[1].data["metrics"]["warnings"]
    assert "batch of 8 patches of 16 px; the training goes on with a batch of 4." in warning
    assert done.checkpoint.config["batch_size"] == 4
    assert done.checkpoint.digest == small.checkpoint.digest


def test_what_was_learnt_before_memory_ran_out_is_kept(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory_for(5, monkeypatch, from_step=3)
    done = training(gan_config.with_changes(halve_batch_if_out_of_memory=True), patches, tmp_path)
    started = [event.step for event in done.events if event.kind == "started"]
    assert started == [0, 2]
    assert (done.checkpoint.step, done.checkpoint.config["batch_size"]) == (6, 4)


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise RuntimeError(OUT_OF_MEMORY)


def test_a_measurement_that_memory_does_not_suffice_for_is_left_out(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = gan_config.with_changes(metrics_every=1, steps=2, halve_batch_if_out_of_memory=True)
    measured = training(config, patches, tmp_path / "measured")
    monkeypatch.setattr(HealthCheck, "measure", out_of_memory)
    done = training(config, patches, tmp_path / "run")
    told = [event.data["metrics"]["warnings"] for event in done.events if event.kind == "metrics"]
    assert len(told) == 2
    assert all("skipped; the training goes on" in warning for (warning,) in told)
    assert done.kinds[-1] == "finished"
    assert done.checkpoint.metrics == {}
    assert done.checkpoint.config["batch_size"] == 8
    assert done.checkpoint.digest == measured.checkpoint.digest


def test_samples_are_drawn_by_the_batch(
    gan_config: TrainingConfig, patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = GanTask(gan_config.with_changes(batch_size=4), patches, torch.device("cpu"))
    sizes: list[int] = []
    task.model.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    task.finish()
    task.measure()
    assert set(sizes) == {4}


@pytest.mark.parametrize("allowed", [True, False])
def test_memory_that_does_not_suffice_for_the_encoder(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: bool,
) -> None:
    learn = EncoderTask.step

    def step(self: Any, index: int) -> Any:
        return learn(self, index) if self._config.batch_size <= 4 else out_of_memory()

    monkeypatch.setattr(EncoderTask, "step", step)
    config = gan_config.with_changes(steps=1, encoder_steps=2, halve_batch_if_out_of_memory=allowed)
    if not allowed:
        with pytest.raises(
            UserError, match=r"its encoder is not\. The memory of cpu does not suffice.* of 8 "
        ):
            training(config, patches, tmp_path)
        return
    done = training(config, patches, tmp_path)
    assert (done.events[-1].kind, done.events[-1].step) == ("finished", 3)
    (encoder,) = checkpoints_in(tmp_path / "encoder" / "checkpoints")
    assert Checkpoint.open(encoder).config["batch_size"] == 4


def test_another_error_of_a_step_is_ours(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step(self: Any, index: int) -> dict[str, float]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(GanTask, "step", step)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        training(gan_config.with_changes(halve_batch_if_out_of_memory=True), patches, tmp_path)


# TensorBoard


def test_tensorboard_that_is_not_installed_is_said_at_once(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"install napari-histolatent\[tensorboard\]"):
        training(gan_config.with_changes(tensorboard=True), patches, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_the_curves(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = gan_config.with_changes(tensorboard=True)
    training(config, patches, tmp_path, stop_after=3)
    training(config, patches, tmp_path, resume=True)
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [point.step for point in read.Scalars("loss/generator")] == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in read.Scalars("metrics/kid")] == [2, 4, 6]
    assert torch.tensor([p.value for p in read.Scalars("loss/generator")]).isfinite().all()


# Errors of whoever is told


@pytest.mark.parametrize("asked", ["on_event", "should_stop"])
def test_an_error_of_the_callers_own_does_not_blame_the_disk(
    gan_config: TrainingConfig, patches: Any, tmp_path: Path, asked: str
) -> None:
    error = ConnectionResetError(errno.ECONNRESET, "whoever listened is gone")

    def gone(*_: object) -> bool:
        raise error

    listens: dict[str, Any] = {"on_event": lambda _: None, "should_stop": lambda: False, asked: gone}
    with pytest.raises(ConnectionResetError) as caught:
        train(gan_config, patches, folder=tmp_path, **listens)
    assert caught.value is error
