from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from napari_histolatent.errors import CheckpointError, DatasetError, UserError
from napari_histolatent.training import _data, loop
from napari_histolatent.training._classifier_task import ClassifierTask
from napari_histolatent.training._gan_task import GanTask
from napari_histolatent.training.checkpoint import Checkpoint, latest_checkpoint, load_weights
from napari_histolatent.training.load import load_generator
from napari_histolatent.training.loop import train

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.runs import RunEvent
    from napari_histolatent.training import ClassifierConfig, TrainingConfig
    from tests.training.conftest import Training

    TrainingOf = type[Training]

LOSSES = {"gan": {"discriminator", "generator"}, "classifier": {"cross_entropy"}}
both = pytest.mark.parametrize("config", ["gan", "classifier"], indirect=True)


@pytest.fixture
def config(
    request: pytest.FixtureRequest, gan_config: TrainingConfig, classifier_config: ClassifierConfig
) -> TrainingConfig | ClassifierConfig:
    return {"gan": gan_config, "classifier": classifier_config}[request.param]


@pytest.fixture(scope="session")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
    training: TrainingOf,
    gan_config: TrainingConfig,
    classifier_config: ClassifierConfig,
    patches: Any,
) -> dict[object, Training]:
    """Config -> a whole training of it; read it, do not change it."""
    return {
        config: training(config, patches, tmp_path_factory.mktemp("uninterrupted"))
        for config in (gan_config, classifier_config)
    }


def state_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return all that a checkpoint holds: the model, and what goes on from it."""
    model, training = (load_file(checkpoint.path / f"{name}.safetensors") for name in ("model", "training"))
    return {f"model.{key}": value for key, value in model.items()} | training


def assert_same_state(a: Checkpoint, b: Checkpoint) -> None:
    """Compare two checkpoints bit for bit."""
    state_a, state_b = state_of(a), state_of(b)
    assert state_a.keys() == state_b.keys()
    for key, value in state_a.items():
        assert value.dtype == state_b[key].dtype, key
        assert torch.equal(value, state_b[key]), key
    assert a.digest == b.digest
    assert a.metrics == b.metrics


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@both
def test_what_a_checkpoint_holds(config: Any, uninterrupted: dict[object, Training], patches: Any) -> None:
    checkpoint = uninterrupted[config].checkpoint
    assert checkpoint.kind in LOSSES
    assert (checkpoint.step, checkpoint.steps) == (6, 6)
    assert type(config).from_json(checkpoint.config) == config
    assert (checkpoint.classes, checkpoint.size_px, checkpoint.mpp) == (patches.classes, 16, 0.5)
    assert checkpoint.dataset_digest == patches.digest
    assert checkpoint.metrics
    keys = state_of(checkpoint).keys()
    parts = {"gan": ("model.", "module.generator.", "module.discriminator.", "optimizer.generator.",
                     "optimizer.discriminator.", "rng"),
             "classifier": ("model.", "optimizer.classifier.", "rng")}[checkpoint.kind]  # fmt: skip
    for part in parts:
        assert any(key.startswith(part) for key in keys), part


@both
def test_the_same_config_gives_the_same_bits(
    config: Any, uninterrupted: dict[object, Training], training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    torch.rand(3)  # torch's own chance stands elsewhere
    again = training(config, patches, tmp_path)
    assert again.losses == uninterrupted[config].losses
    assert set(again.losses) == {1, 2, 3, 4, 5, 6}
    assert set(again.losses[1]) == LOSSES[again.checkpoint.kind]
    assert_same_state(again.checkpoint, uninterrupted[config].checkpoint)


@both
def test_another_seed_gives_other_weights(
    config: Any, uninterrupted: dict[object, Training], training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    other = training(config.with_changes(seed=8), patches, tmp_path)
    assert other.checkpoint.digest != uninterrupted[config].checkpoint.digest


@both
@pytest.mark.parametrize("stop_after", [1, 2, 5], ids=["between", "at a checkpoint", "before the last"])
def test_stopped_and_resumed_equals_uninterrupted(
    config: Any,
    uninterrupted: dict[object, Training],
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    stop_after: int,
) -> None:
    whole = uninterrupted[config]
    first = training(config, patches, tmp_path, stop_after=stop_after)
    assert first.checkpoint.step == stop_after
    assert first.kinds[-1] == "stopped"
    torch.rand(3)
    second = training(config, patches, tmp_path, resume=True)
    assert second.events[0].step == stop_after
    assert {**first.losses, **second.losses} == whole.losses
    assert len(second.losses) == 6 - stop_after
    assert_same_state(second.checkpoint, whole.checkpoint)


@both
def test_killed_and_resumed_equals_uninterrupted(
    config: Any, uninterrupted: dict[object, Training], training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    def die(event: RunEvent) -> None:
        if event.kind == "progress" and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, patches, folder=tmp_path, on_event=die, should_stop=lambda: False)
    resumed = training(config, patches, tmp_path, resume=True)
    assert resumed.events[0].step == 4
    assert_same_state(resumed.checkpoint, uninterrupted[config].checkpoint)


@pytest.mark.parametrize("stop_after", [3])
def test_stopped_and_resumed_with_everything_switched_on(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    # What follows the step's number, what is drawn more than once a step, and what has a state of its own.
    config = gan_config.with_changes(
        design="s1",
        steps=5,
        generator_steps=2,
        label_smoothing=0.1,
        instance_noise=0.2,
        condition_ramp_steps=4,
        stain_jitter=0.2,
        precision="fp16",
        learning_rate=1e-4,
        checkpoint_every=100,
    )
    monkeypatch.setattr(_data, "_RESIDENT_BYTES", 0)  # patches are read ahead
    whole = training(config, patches, tmp_path / "whole")
    first = training(config, patches, tmp_path / "run", stop_after=stop_after)
    second = training(config, patches, tmp_path / "run", resume=True)
    assert second.events[0].step == stop_after
    assert {**first.losses, **second.losses} == whole.losses
    assert_same_state(second.checkpoint, whole.checkpoint)
    assert "module.loss_scale._extra_state" in state_of(whole.checkpoint)


def test_one_class_can_be_trained_without_classes(
    gan_config: TrainingConfig, training: TrainingOf, dataset_of: Callable[..., Any], tmp_path: Path
) -> None:
    dataset = dataset_of({"train": {"tumor": 6}})
    done = training(gan_config.with_changes(network="dcgan", steps=2), dataset, tmp_path)
    assert done.checkpoint.classes == ()
    loaded = load_generator(done.checkpoint.path, device="cpu")
    assert loaded.network.classes == ()
    with pytest.raises(DatasetError, match="train the network dcgan"):
        training(gan_config, dataset, tmp_path / "conditional")


def test_slow_steps_are_told_without_being_asked(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = gan_config.with_changes(log_every=100, checkpoint_every=100)
    quiet = training(config, patches, tmp_path / "quick")
    assert list(quiet.losses) == [6]
    monkeypatch.setattr(loop, "_SILENCE_SECONDS", 0.0)
    assert list(training(config, patches, tmp_path / "slow").losses) == [1, 2, 3, 4, 5, 6]


def test_stopped_again_and_again(
    gan_config: TrainingConfig,
    uninterrupted: dict[object, Training],
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
) -> None:
    for step in range(1, 6):
        assert training(gan_config, patches, tmp_path, stop_after=step, resume=True).checkpoint.step == step
    last = training(gan_config, patches, tmp_path, resume=True)
    assert_same_state(last.checkpoint, uninterrupted[gan_config].checkpoint)


def test_what_happens_in_order(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    done = training(gan_config.with_changes(steps=5, log_every=3), patches, tmp_path)
    assert [(event.kind, event.step) for event in done.events] == [
        ("started", 0),
        ("metrics", 2),
        ("sample", 2),
        ("checkpoint", 2),
        ("progress", 3),
        ("metrics", 4),
        ("sample", 4),
        ("checkpoint", 4),
        ("progress", 5),
        ("metrics", 5),
        ("sample", 5),
        ("checkpoint", 5),
        ("finished", 5),
    ]
    assert {event.steps for event in done.events} == {5}
    assert done.events[0].data["device"] == "cpu"
    pace = done.events[4].data
    assert pace.keys() == {"images_per_second", "seconds_per_step", "data_share"}
    assert pace["images_per_second"] > 0
    assert pace["seconds_per_step"] > 0
    assert 0 < pace["data_share"] < 1
    assert done.events[2].data == {"sample": "samples/step-00000002.png", "step": 2}
    assert done.events[-2].data == {
        "checkpoint": "checkpoints/step-00000005",
        "digest": done.checkpoint.digest,
        "metrics": done.checkpoint.metrics,
        "best": json.loads((tmp_path / "best.json").read_text()),
    }


def test_a_stop_is_reported_with_a_checkpoint(
    classifier_config: ClassifierConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    done = training(classifier_config.with_changes(log_every=100), patches, tmp_path, stop_after=3)
    assert [(event.kind, event.step) for event in done.events] == [
        ("started", 0),
        ("checkpoint", 2),
        ("checkpoint", 3),
        ("stopped", 3),
    ]
    assert done.checkpoint == latest_checkpoint(tmp_path / "checkpoints")


@both
def test_a_stop_at_the_last_step_is_an_end(
    config: Any, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    assert training(config, patches, tmp_path, stop_after=6).kinds[-1] == "finished"


@both
def test_what_is_finished_stays_so(
    config: Any, uninterrupted: dict[object, Training], training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted[config].folder, tmp_path, dirs_exist_ok=True)
    again = training(config, patches, tmp_path, resume=True)
    assert again.kinds == ["started", "finished"]
    assert again.checkpoint.step == 6
    assert again.checkpoint.digest == uninterrupted[config].checkpoint.digest


def test_more_steps_can_be_asked_for_later(
    gan_config: TrainingConfig,
    uninterrupted: dict[object, Training],
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
) -> None:
    training(gan_config.with_changes(steps=3), patches, tmp_path)
    longer = training(gan_config, patches, tmp_path, resume=True)
    assert longer.events[0].step == 3
    assert_same_state(longer.checkpoint, uninterrupted[gan_config].checkpoint)


def test_without_a_checkpoint_resuming_starts_anew(
    gan_config: TrainingConfig,
    uninterrupted: dict[object, Training],
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
) -> None:
    done = training(gan_config, patches, tmp_path / "new" / "run", resume=True)
    assert done.events[0].step == 0
    assert_same_state(done.checkpoint, uninterrupted[gan_config].checkpoint)


def test_two_checkpoints_are_kept_and_the_best(uninterrupted: dict[object, Training]) -> None:
    for done in uninterrupted.values():
        kids = {
            event.step: event.data["metrics"]["kid"]
            for event in done.events
            if event.kind == "checkpoint" and "kid" in event.data["metrics"]
        }
        best = {min(kids, key=lambda step: kids[step])} if kids else set()
        assert done.steps_kept == sorted({4, 6} | best)


def test_previews(uninterrupted: dict[object, Training], gan_config: TrainingConfig) -> None:
    done = uninterrupted[gan_config]
    samples = [event.data["sample"] for event in done.events if event.kind == "sample"]
    assert samples == [f"samples/step-0000000{step}.png" for step in (2, 4, 6)]
    names = [f"{kind}-0000000{step}.png" for kind in ("neighbours", "step") for step in (2, 4, 6)]
    assert sorted(path.name for path in (done.folder / "samples").iterdir()) == names
    with Image.open(done.folder / samples[-1]) as picture:
        assert (picture.format, picture.size) == ("PNG", (8 * 16, 2 * 16))


def test_a_classifier_has_no_previews(
    uninterrupted: dict[object, Training], classifier_config: ClassifierConfig
) -> None:
    assert not (uninterrupted[classifier_config].folder / "samples").exists()


@both
@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "checkpoint.json"])
def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(
    config: Any,
    uninterrupted: dict[object, Training],
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    name: str,
) -> None:
    first = training(config, patches, tmp_path, stop_after=4)
    truncate(first.checkpoint.path / name)
    resumed = training(config, patches, tmp_path, resume=True)
    assert resumed.events[0].step == 2
    assert_same_state(resumed.checkpoint, uninterrupted[config].checkpoint)


@both
def test_broken_checkpoints_only(config: Any, training: TrainingOf, patches: Any, tmp_path: Path) -> None:
    training(config, patches, tmp_path, stop_after=4)
    for path in (tmp_path / "checkpoints").glob("*/model.safetensors"):
        truncate(path)
    with pytest.raises(
        CheckpointError, match=r"step-00000004.model\.safetensors cannot be read as safetensors"
    ):
        training(config, patches, tmp_path, resume=True)


def test_after_a_fall_back_the_newest_checkpoint_is_the_one_just_written(
    classifier_config: ClassifierConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    first = training(classifier_config, patches, tmp_path, stop_after=4)
    truncate(first.checkpoint.path / "model.safetensors")
    second = training(classifier_config, patches, tmp_path, resume=True, stop_after=3)
    assert second.checkpoint.step == 3
    # Step 4 is broken and of a past that was taken back: nobody may be handed it as the newest.
    assert latest_checkpoint(tmp_path / "checkpoints") == second.checkpoint


def test_another_dataset_is_refused(
    gan_config: TrainingConfig, training: TrainingOf, dataset_of: Callable[..., Any], tmp_path: Path
) -> None:
    counts = {"train": {"a": 4, "b": 4}}
    training(gan_config, dataset_of(counts, digest="1" * 64), tmp_path, stop_after=1)
    with pytest.raises(
        CheckpointError, match=r"trained on another dataset \(digest 1{12}, now 2{12}\); start a new run\.$"
    ):
        training(gan_config, dataset_of(counts, digest="2" * 64), tmp_path, resume=True)


def test_another_network_is_refused(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    training(gan_config, patches, tmp_path, stop_after=1)
    with pytest.raises(CheckpointError, match="with base_channels 4, now it is 5; set it back, fork"):
        training(gan_config.with_changes(base_channels=5), patches, tmp_path, resume=True)


@pytest.mark.parametrize(
    "changes", [{"seed": 9}, {"learning_rate": 0.1}, {"beta2": 0.5}, {"batch_size": 4}], ids=str
)
def test_settings_of_what_is_learnt_cannot_change_on_the_way(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    training(gan_config, patches, tmp_path, stop_after=1)
    (name,) = changes
    with pytest.raises(CheckpointError, match=f"was trained with {name} .* start a new run"):
        training(gan_config.with_changes(**changes), patches, tmp_path, resume=True)


def test_settings_of_what_is_told_and_kept_may_change(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    training(gan_config, patches, tmp_path, stop_after=1)
    other = gan_config.with_changes(
        steps=2, device="auto", log_every=2, keep_checkpoints=5, metrics_every=0, checkpoint_every=1
    ).with_changes(device="cpu", halve_batch_if_out_of_memory=True, batch_size=4)  # a batch that was halved
    assert training(other, patches, tmp_path, resume=True).events[0].step == 1


def test_at_a_stop_the_weights_are_written_at_once(
    gan_config: TrainingConfig,
    uninterrupted: dict[object, Training],
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = training(gan_config.with_changes(steps=3), patches, tmp_path / "whole")

    def never(*_: Any) -> Any:
        pytest.fail("this takes long")

    for name in ("finish", "settle", "measure", "preview", "neighbours"):
        monkeypatch.setattr(GanTask, name, never)
    config = gan_config.with_changes(checkpoint_every=3)
    stopped = training(config, patches, tmp_path / "run", stop_after=3)
    assert stopped.kinds[-2:] == ["checkpoint", "stopped"]
    assert stopped.checkpoint.metrics == {}
    # It is made ready where it is used.
    assert stopped.checkpoint.digest != whole.checkpoint.digest
    a, b = (load_generator(done.checkpoint.path, device="cpu").network for done in (stopped, whole))
    assert not a.training
    for (key, value), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    monkeypatch.undo()
    resumed = training(config, patches, tmp_path / "run", resume=True)
    assert resumed.events[0].step == 3
    assert_same_state(resumed.checkpoint, uninterrupted[gan_config].checkpoint)


def test_a_stopped_run_that_is_to_end_there_is_made_ready(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    whole = training(gan_config.with_changes(steps=3), patches, tmp_path / "whole")
    training(gan_config, patches, tmp_path / "run", stop_after=3)
    ended = training(gan_config.with_changes(steps=3), patches, tmp_path / "run", resume=True)
    assert_same_state(ended.checkpoint, whole.checkpoint)


@both
def test_statistics_that_are_no_numbers_are_not_kept(
    config: Any,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = GanTask if hasattr(config, "z_dim") else ClassifierTask
    finish = task.finish

    def spoil(self: Any) -> dict[str, Any]:
        metrics = finish(self)
        next(self.model.buffers(), next(self.model.parameters())).detach().fill_(torch.nan)
        return metrics

    monkeypatch.setattr(task, "finish", spoil)
    with pytest.raises(UserError, match=r"step 2.*diverged"):
        training(config, patches, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@both
def test_a_loss_that_is_no_number_ends_it_and_the_last_checkpoint_stays(
    config: Any,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    task = GanTask if hasattr(config, "z_dim") else ClassifierTask
    learn = task.step
    monkeypatch.setattr(
        task, "step", lambda self, index: learn(self, index) | ({"generator": value} if index == 3 else {})
    )
    with pytest.raises(
        UserError, match=rf"^The generator loss is {value} at step 4: training diverged; .*lower learning"
    ):
        training(config, patches, tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints").step == 2


@both
def test_a_training_that_diverges_leaves_no_useless_checkpoint(
    config: Any, training: TrainingOf, patches: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="diverged"):
        training(config.with_changes(learning_rate=1e6, checkpoint_every=1, steps=40), patches, tmp_path)
    for file in (tmp_path / "checkpoints").glob("*/model.safetensors"):
        assert all(bool(torch.isfinite(value).all()) for value in load_file(file).values()), file


@both
@pytest.mark.parametrize("index", [3, 5], ids=["at a checkpoint", "at the last step"])
def test_weights_that_are_no_numbers_are_not_kept(
    config: Any,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    index: int,
) -> None:
    task = GanTask if hasattr(config, "z_dim") else ClassifierTask
    learn = task.step

    def spoil(self: Any, step: int) -> dict[str, float]:
        losses = learn(self, step)  # a loss is that of the weights before: it is still a number
        if step == index:
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.fill_(torch.nan)
        return losses

    monkeypatch.setattr(task, "step", spoil)
    with pytest.raises(UserError, match=f"step {index + 1}.*diverged"):
        training(config, patches, tmp_path)
    assert latest_checkpoint(tmp_path / "checkpoints").step == index - 1


@pytest.mark.parametrize("in_the_way", ["checkpoints", "samples", ""])
def test_a_file_in_the_way(
    gan_config: TrainingConfig, training: TrainingOf, patches: Any, tmp_path: Path, in_the_way: str
) -> None:
    folder = tmp_path / "run"
    if in_the_way:
        folder.mkdir()
    (folder / in_the_way).write_text("mine")
    with pytest.raises(
        UserError, match=r"^Cannot write to .*run.*: a file is in the way .*; choose another output"
    ):
        training(gan_config, patches, folder)
    assert (folder / in_the_way).read_text() == "mine"


@pytest.mark.parametrize(
    ("code", "sentence"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "it is read-only")]
)
def test_weights_that_cannot_be_written(
    gan_config: TrainingConfig,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    sentence: str,
) -> None:
    write = Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        if path.suffix == ".safetensors":
            raise OSError(code, os.strerror(code))
        return write(path, data)

    training(gan_config, patches, tmp_path, stop_after=1)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=f"^Cannot write to .*: {sentence}"):
        training(gan_config, patches, tmp_path, resume=True)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"size_px": 32}, DatasetError, "patches of 16 px, the training is set to 32 px"),
        ({"device": "cuda:99"}, UserError, "'cuda:99' is not on this machine"),
        ({"device": "gpu"}, UserError, "'gpu' is not the name of a device"),
    ],
)
@both
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    config: Any,
    training: TrainingOf,
    patches: Any,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        training(config.with_changes(**changes), patches, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_pictures_are_those_of_the_model_that_is_kept(
    gan_config: TrainingConfig, uninterrupted: dict[object, Training], patches: Any
) -> None:
    done = uninterrupted[gan_config]
    task = GanTask(gan_config, patches, torch.device("cpu"))
    load_weights(done.checkpoint, task.model, torch.device("cpu"))
    with Image.open(done.folder / "samples" / "step-00000006.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), task.preview())


@pytest.mark.parametrize("size_px", [8, 16, 32])
def test_every_size_that_a_network_draws_can_be_trained(
    gan_config: TrainingConfig,
    training: TrainingOf,
    dataset_of: Callable[..., Any],
    tmp_path: Path,
    size_px: int,
) -> None:
    dataset = dataset_of({"train": {"a": 4, "b": 4}}, size_px=size_px)
    try:
        done = training(gan_config.with_changes(size_px=size_px, steps=1), dataset, tmp_path)
    except UserError:
        assert size_px == 8, "only the smallest may be refused"
        return
    assert done.checkpoint.size_px == size_px
