from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from napari_histolatent.errors import CheckpointError
from napari_histolatent.training import checkpoint as checkpoint_module
from napari_histolatent.training.checkpoint import (
    Checkpoint,
    checkpoints_in,
    latest_checkpoint,
    load_weights,
    restore,
    save_checkpoint,
)

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
FACTS = {
    "kind": "gan",
    "steps": 9,
    "config": {"network": "line", "seed": 1},
    "classes": ["epithelium", "stroma"],
    "size_px": 16,
    "mpp": 0.5,
    "dataset_digest": "d" * 64,
    "metrics": {"kid": 0.25},
}


class Task:
    """The least that has every part: two networks, one with statistics, and their optimisers."""

    def __init__(self, seed: int, *, width: int = 4) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = nn.Linear(3, width)
        self.modules: dict[str, nn.Module] = {"judge": nn.Sequential(nn.Linear(width, 2), nn.BatchNorm1d(2))}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": torch.optim.Adam(self.model.parameters(), lr=0.1),
            "judge": torch.optim.AdamW(self.modules["judge"].parameters(), lr=0.1),
        }
        self.rng = torch.Generator().manual_seed(seed)

    def step(self, index: int) -> dict[str, float]:
        loss = self.modules["judge"](self.model(torch.randn(8, 3, generator=self.rng))).pow(4).mean()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"loss": float(loss.detach())}

    def finish(self) -> dict[str, Any]:
        return {}

    def preview(self) -> None:
        return None


def trained(steps: int = 3, seed: int = 0) -> Task:
    task = Task(seed)
    for index in range(steps):
        task.step(index)
    return task


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    """A checkpoint of `trained()`."""
    return save_checkpoint(tmp_path / "checkpoints", trained(), step=3, facts=FACTS)


def assert_same_state(a: Any, b: Any) -> None:
    """Compare nested states bit for bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_state(a[key], b[key])
    else:
        assert a == b


def change_info(checkpoint: Checkpoint, **changes: Any) -> None:
    file = checkpoint.path / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_facts_come_back(saved: Checkpoint, tmp_path: Path) -> None:
    assert Checkpoint.open(saved.path) == saved
    assert saved.path == tmp_path / "checkpoints" / "step-00000003"
    assert (saved.kind, saved.step, saved.steps) == ("gan", 3, 9)
    assert saved.config == {"network": "line", "seed": 1}
    assert saved.classes == ("epithelium", "stroma")
    assert (saved.size_px, saved.mpp) == (16, 0.5)
    assert (saved.dataset_digest, saved.metrics) == ("d" * 64, {"kid": 0.25})


def test_an_unknown_pixel_size_stays_unknown(tmp_path: Path) -> None:
    assert save_checkpoint(tmp_path, trained(), step=1, facts={**FACTS, "mpp": None}).mpp is None


def test_nothing_else_is_left_in_the_folder(saved: Checkpoint) -> None:
    assert [path.name for path in saved.path.parent.iterdir()] == ["step-00000003"]
    assert sorted(path.name for path in saved.path.iterdir()) == [
        "checkpoint.json",
        "model.safetensors",
        "training.safetensors",
    ]


def test_the_digest_is_that_of_the_weights_file(saved: Checkpoint) -> None:
    assert saved.digest == hashlib.sha256((saved.path / "model.safetensors").read_bytes()).hexdigest()


def test_the_digest_names_the_weights_and_nothing_else(tmp_path: Path) -> None:
    one = save_checkpoint(tmp_path / "a", trained(3), step=3, facts=FACTS)
    same = save_checkpoint(tmp_path / "b", trained(3), step=5, facts={**FACTS, "metrics": {}})
    further = save_checkpoint(tmp_path / "c", trained(4), step=4, facts=FACTS)
    assert one.digest == same.digest != further.digest


def test_a_task_is_set_back_bit_for_bit(saved: Checkpoint) -> None:
    original, other = trained(), trained(seed=9)
    restore(saved, other, CPU)
    assert_same_state(other.model.state_dict(), original.model.state_dict())
    for name in original.modules:
        assert_same_state(other.modules[name].state_dict(), original.modules[name].state_dict())
    for name in original.optimizers:
        assert_same_state(other.optimizers[name].state_dict(), original.optimizers[name].state_dict())
    assert torch.equal(other.rng.get_state(), original.rng.get_state())


@pytest.mark.parametrize("fresh", [Task(9), trained(seed=9)], ids=["new", "used"])
def test_a_task_goes_on_as_if_never_stopped(saved: Checkpoint, fresh: Task) -> None:
    original = trained()
    restore(saved, fresh, CPU)
    assert [fresh.step(i) for i in range(3, 7)] == [original.step(i) for i in range(3, 7)]


def test_a_checkpoint_before_the_first_step(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, Task(0), step=0, facts=FACTS)
    other = Task(9)
    restore(checkpoint, other, CPU)
    assert [other.step(i) for i in range(2)] == [Task(0).step(0), trained(1).step(1)]


def test_loading_leaves_the_rest_of_the_task_alone(saved: Checkpoint) -> None:
    other = trained(seed=9)
    before = other.rng.get_state()
    load_weights(saved, other.model, CPU)
    assert_same_state(other.model.state_dict(), trained().model.state_dict())
    assert torch.equal(other.rng.get_state(), before)


def test_weights_that_share_memory_or_lie_across_it(tmp_path: Path) -> None:
    task = trained()
    task.model.weight = nn.Parameter(torch.arange(12.0).reshape(3, 4).T)
    task.model.register_buffer("view", task.model.weight.detach()[1])
    checkpoint = save_checkpoint(tmp_path, task, step=1, facts=FACTS)
    state = load_file(checkpoint.path / "model.safetensors")
    assert torch.equal(state["weight"], task.model.weight)
    assert torch.equal(state["view"], task.model.weight[1])


def test_saving_changes_nothing(tmp_path: Path) -> None:
    saving, undisturbed = trained(), trained()
    save_checkpoint(tmp_path, saving, step=3, facts=FACTS)
    assert [saving.step(i) for i in range(3)] == [undisturbed.step(i) for i in range(3)]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for step in (2, 4, 6, 10, 100):
        save_checkpoint(tmp_path, trained(1), step=step, facts=FACTS, keep=keep)
    assert [int(path.name[5:]) for path in checkpoints_in(tmp_path)] == [4, 6, 10, 100][-keep:]


def test_two_are_kept_if_nothing_is_said(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, trained(1), step=step, facts=FACTS)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-00000002", "step-00000003"]


def test_the_same_step_again_replaces_the_first(saved: Checkpoint) -> None:
    again = save_checkpoint(saved.path.parent, trained(seed=4), step=3, facts=FACTS)
    assert again.path == saved.path
    assert again.digest != saved.digest
    assert Checkpoint.open(saved.path).digest == again.digest


def test_a_crash_while_saving_leaves_the_one_before(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(state: object) -> bytes:
        raise RuntimeError("power cut")

    monkeypatch.setattr(safetensors.torch, "save", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        save_checkpoint(saved.path.parent, trained(), step=4, facts=FACTS)
    assert [path.name for path in saved.path.parent.iterdir()] == ["step-00000003"]
    assert latest_checkpoint(saved.path.parent) == saved


def test_half_written_and_foreign_folders_are_not_listed(saved: Checkpoint) -> None:
    folder = saved.path.parent
    (folder / "step-00000009").mkdir()
    (folder / ".step-00000007.1-a.tmp").mkdir()
    (folder / ".step-00000007.1-a.tmp" / "checkpoint.json").write_text("{}")
    (folder / "step-notes.txt").write_text("mine")
    assert checkpoints_in(folder) == [saved.path]
    assert latest_checkpoint(folder) == saved


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    for step in (9, 10, 1_000_000):
        save_checkpoint(tmp_path, trained(1), step=step, facts=FACTS, keep=9)
    assert latest_checkpoint(tmp_path).step == 1_000_000
    assert [int(path.name[5:]) for path in checkpoints_in(tmp_path)] == [9, 10, 1_000_000]


@pytest.mark.parametrize("made", [True, False])
def test_no_checkpoint_yet(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "run" / "checkpoints"
    if made:
        folder.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"run has no checkpoint yet; let it train on"):
        latest_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "is missing"),
        ("", "cannot be parsed"),
        ("{", "cannot be parsed"),
        ("\xff\xfe", "is not UTF-8 text"),
        ('{"format_version": 1', "cannot be parsed"),
        ('{"step": 1e999}', "holds a number that is too large"),
        ("[" * 50_000, "is nested too deeply"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_facts_that_are_missing_or_broken(saved: Checkpoint, content: str | None, why: str) -> None:
    file = saved.path / "checkpoint.json"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(
        CheckpointError,
        match=rf"step-00000003 is not a checkpoint \(checkpoint\.json {why}\); choose",
    ):
        Checkpoint.open(saved.path)


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_another_format_version_is_refused(saved: Checkpoint, version: object) -> None:
    change_info(saved, format_version=version)
    with pytest.raises(
        CheckpointError,
        match=rf"has checkpoint format {version!r}, this version reads 1; update napari-histolatent",
    ):
        Checkpoint.open(saved.path)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"gan"'])
def test_json_of_another_kind_is_refused(saved: Checkpoint, content: str) -> None:
    (saved.path / "checkpoint.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"\(checkpoint\.json holds no JSON object\)"):
        Checkpoint.open(saved.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 3},
        {"step": "three"},
        {"step": "3"},
        {"step": -1},
        {"step": 3.5},
        {"step": True},
        {"step": None},
        {"steps": [9]},
        {"config": None},
        {"config": [["seed", 1]]},
        {"classes": 2},
        {"classes": "ab"},
        {"classes": ["a", 1]},
        {"classes": ["a", ["b"]]},
        {"classes": ["a", "a"]},
        {"size_px": []},
        {"size_px": 0},
        {"mpp": "fine"},
        {"mpp": 0},
        {"mpp": -0.5},
        {"dataset_digest": None},
        {"digest": 1},
        {"metrics": [1]},
        {"metrics": {"kid": "low"}},
        {"state_digest": None},
    ],
    ids=str,
)
def test_garbled_facts_are_refused(saved: Checkpoint, changes: dict[str, Any]) -> None:
    change_info(saved, **changes)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json lacks or garbles '\w+'.*; choose another"):
        Checkpoint.open(saved.path)


@pytest.mark.parametrize("name", ["kind", "step", "config", "classes", "mpp", "digest", "metrics"])
def test_lacking_facts_are_refused_by_name(saved: Checkpoint, name: str) -> None:
    file = saved.path / "checkpoint.json"
    info = json.loads(file.read_text())
    del info[name]
    file.write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match=rf"checkpoint\.json lacks or garbles '{name}'"):
        Checkpoint.open(saved.path)


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.marker)!r}, 'w').close()",))


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
@pytest.mark.parametrize("archive", [False, True], ids=["pickle", "torch.save"])
def test_a_pickle_is_refused_and_never_unpickled(
    saved: Checkpoint, tmp_path: Path, name: str, archive: bool
) -> None:
    marker, file = tmp_path / "marker", saved.path / name
    if archive:
        torch.save(Bomb(marker), file)
        torch.load(io.BytesIO(file.read_bytes()), weights_only=False)
    else:
        file.write_bytes(pickle.dumps(Bomb(marker)))
        pickle.loads(file.read_bytes())
    assert marker.exists(), "it does bite"
    marker.unlink()
    with pytest.raises(
        CheckpointError, match=rf"{name} cannot be read as safetensors .*choose another checkpoint"
    ):
        restore(saved, Task(1), CPU)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
@pytest.mark.parametrize(
    "length", [0, 4, 40, -4], ids=["empty", "in the length", "in the header", "at the end"]
)
def test_a_truncated_file_is_refused(saved: Checkpoint, name: str, length: int) -> None:
    file = saved.path / name
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(
        CheckpointError, match=rf"{name} cannot be read as safetensors .*truncated or of another"
    ):
        restore(saved, Task(1), CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors"])
def test_a_missing_file_is_refused(saved: Checkpoint, name: str) -> None:
    (saved.path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read as safetensors"):
        restore(saved, Task(1), CPU)


def test_weights_that_are_not_those_of_the_digest_are_refused(saved: Checkpoint) -> None:
    file = saved.path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 0x40  # a damaged disk, or another model put in its place
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_weights(saved, Task(1).model, CPU)


@pytest.mark.parametrize("width", [3, 5])
def test_weights_of_another_shape_are_refused(saved: Checkpoint, width: int) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"step-00000003 are not those of the network 'line' that it names; choose another",
    ):
        load_weights(saved, nn.Linear(3, width), CPU)


@pytest.mark.parametrize("network", [nn.Linear(3, 4, bias=False), nn.Sequential(nn.Linear(3, 4))])
def test_weights_of_other_names_are_refused(saved: Checkpoint, network: nn.Module) -> None:
    with pytest.raises(CheckpointError, match="not those of the network"):
        load_weights(saved, network, CPU)


def test_other_networks_of_another_shape_are_refused(saved: Checkpoint) -> None:
    other = Task(1)
    other.modules["judge"] = nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match="not those of the network"):
        restore(saved, other, CPU)


def test_a_training_state_without_its_chance_is_refused(saved: Checkpoint) -> None:
    file = saved.path / "training.safetensors"
    state = load_file(file)
    del state["rng"]
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"training\.safetensors"):
        restore(saved, Task(1), CPU)


def spoil(saved: Checkpoint, change: Any, *, noted: bool) -> Checkpoint:
    """Change the training's state; `noted`: with the digest of what it is now, as by a program that went wrong."""
    path = saved.path / "training.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    if noted:
        info = json.loads((saved.path / "checkpoint.json").read_text())
        info["state_digest"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (saved.path / "checkpoint.json").write_text(json.dumps(info))
    return Checkpoint.open(saved.path)


def test_a_training_state_that_is_not_that_of_the_digest_is_refused(saved: Checkpoint) -> None:
    fresh = Task(9)

    def nudge(state: dict[str, torch.Tensor]) -> None:
        state["optimizer.model.0.exp_avg"][0] += 1

    with pytest.raises(CheckpointError, match=r"training.safetensors is not the file .*; it is damaged"):
        restore(spoil(saved, nudge, noted=False), fresh, CPU)


def test_a_checkpoint_of_before_there_was_a_digest_of_the_state(saved: Checkpoint) -> None:
    fresh = Task(9)
    info = json.loads((saved.path / "checkpoint.json").read_text())
    del info["state_digest"]
    (saved.path / "checkpoint.json").write_text(json.dumps(info))
    restore(Checkpoint.open(saved.path), fresh, CPU)
    assert torch.equal(fresh.rng.get_state(), trained().rng.get_state())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rng", torch.zeros(3, dtype=torch.uint8)),
        ("rng", torch.zeros(16)),
        ("optimizer.model.first.exp_avg", torch.zeros(4)),
        ("optimizer.model.first", torch.zeros(4)),
        ("optimizer.model.0.exp_avg", torch.zeros(7)),
        ("optimizer.model.99.exp_avg", torch.zeros(4)),
    ],
)
def test_a_training_state_that_does_not_fit_is_refused(
    saved: Checkpoint, key: str, value: torch.Tensor
) -> None:
    fresh = Task(9)
    damaged = spoil(saved, lambda state: state.update({key: value}), noted=True)
    with pytest.raises(CheckpointError, match=r"training.safetensors does not fit its training .*; choose"):
        restore(damaged, fresh, CPU)


def test_memory_that_does_not_suffice_is_no_damage(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Task(9)

    def fail(state: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fresh.modules["judge"], "load_state_dict", fail)
    with pytest.raises(torch.OutOfMemoryError):
        restore(saved, fresh, CPU)


def test_a_kill_between_two_names_loses_no_checkpoint(
    saved: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, killed = saved.path.parent, subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    with monkeypatch.context() as during:
        # The old one is out of the way, and the process is gone before the new one has its name.
        during.setattr(os, "getpid", lambda: killed.pid)
        during.setattr(shutil, "rmtree", lambda *_, **__: None)
        with checkpoint_module._aside(saved.path):
            pass
    assert not saved.path.exists()
    assert checkpoints_in(folder) == [saved.path]
    assert Checkpoint.open(saved.path) == saved


def test_what_a_living_process_has_put_aside_stays_there(saved: Checkpoint) -> None:
    with checkpoint_module._aside(saved.path):
        assert checkpoints_in(saved.path.parent) == []
        save_checkpoint(saved.path.parent, trained(seed=4), step=3, facts=FACTS)
    assert [path.name for path in saved.path.parent.iterdir()] == [saved.path.name]
