from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from napari_histolatent.errors import UserError
from napari_histolatent.training._data import Part
from napari_histolatent.training._distributed import join
from tests.training.two_processes import CONFIGS, dataset, optimised

if TYPE_CHECKING:
    from tests.training.conftest import Training

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes trained, a folder a config."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.two_processes", str(folder), "2"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_learn_what_one_does(
    by_two: Path, training: type[Training], tmp_path: Path, name: str
) -> None:
    with optimised(name):
        alone = training(CONFIGS[name], dataset(), tmp_path / "whole")
        begun = training(CONFIGS[name].with_changes(steps=1), dataset(), tmp_path / "begun")
    losses = json.loads((by_two / name / "losses-0.json").read_text())
    assert len(losses) == CONFIGS[name].steps
    for step, said in alone.losses.items():
        assert losses[str(step)] == pytest.approx(said, abs=1e-4), step
    kept = by_two / name / "checkpoints" / f"step-{CONFIGS[name].steps:08d}"
    for file in ("model.safetensors", "training.safetensors"):
        own, others = load_file(alone.checkpoint.path / file), load_file(kept / file)
        assert own.keys() == others.keys()
        for key, value in own.items():
            if file == "model.safetensors" and is_statistic(key):
                continue  # measured again for pictures, in batches as each process has memory for
            difference = float((value.double() - others[key].double()).abs().max())
            assert difference <= 1e-4 * size_of(key, own), key
    if name.endswith("steepest"):
        first, own, others = (
            load_file(at / "training.safetensors")
            for at in (begun.checkpoint.path, alone.checkpoint.path, kept)
        )
        for network in ("generator", "discriminator"):
            weights = [k for k in own if k.startswith(f"module.{network}.") and not is_statistic(k)]
            moved = max(float((own[k] - first[k]).abs().max()) for k in weights)
            apart = max(float((own[k] - others[k]).abs().max()) for k in weights)
            assert moved > 1e-4, "nothing was learnt"
            assert apart < 1e-2 * moved


def is_statistic(key: str) -> bool:
    """Whether a key names what a normalisation has seen, which no gradient moves."""
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))


def size_of(key: str, state: dict[str, torch.Tensor]) -> float:
    """Return how large what a key names is: gradients are small, and some (before a normalisation) nothing."""
    for mean in ("exp_avg", "exp_avg_sq"):  # of the gradient of the last step, and of the squares of all
        if key.endswith(f".{mean}"):
            network = key.split(".")[1]
            alike = [
                v for k, v in state.items() if k.startswith(f"optimizer.{network}.") and k.endswith(mean)
            ]
            return max(float(value.abs().max()) for value in alike)
    return 1.0


def test_only_the_first_process_reports(by_two: Path) -> None:
    for name in CONFIGS:
        assert json.loads((by_two / name / "losses-1.json").read_text()) == {}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_parts_are_blocks_that_make_up_the_whole(n: int) -> None:
    whole = torch.arange(24).reshape(8, 3)
    assert torch.equal(torch.cat([Part(i, n).cut(whole) for i in range(n)]), whole)
    across = whole.T
    assert torch.equal(torch.cat([Part(i, n).cut(across, dim=1) for i in range(n)], dim=1), across)


def test_one_process_needs_no_others() -> None:
    alone = join()
    assert alone.is_first
    assert alone.part == Part(0, 1)
    assert alone.agree(7) == 7
    assert alone.mean({"a": torch.tensor(0.5), "b": 2.0}) == {"a": 0.5, "b": 2.0}
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precision_is_that_of_the_convolutions(precision: str) -> None:
    alone = join(precision=precision)
    layer = torch.nn.Conv2d(1, 1, 1)
    with alone.autocast():
        out = layer(torch.ones(1, 1, 2, 2))
    assert out.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert layer.weight.dtype == torch.float32


def test_an_update_steps_along_the_gradient_of_the_parameters_that_are_named() -> None:
    alone = join()
    a, b = (torch.nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
    optimizer = torch.optim.SGD([a], lr=0.5)
    alone.update(optimizer, (a.square() * b).sum(), [a])
    assert a.tolist() == [0.0, -2.0]  # a - 0.5 * 2 a b
    assert b.grad is None


def test_a_loss_scale_goes_on_from_where_it_was() -> None:
    def spoil(processes: Any, times: int) -> None:
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        for _ in range(times):
            processes.update(optimizer, weight.sum() * float("inf"), [weight])
        assert weight.tolist() == [1.0], "a gradient that overflowed was not left out"

    first, second = join(precision="fp16"), join(precision="fp16")
    spoil(first, 3)
    state = first.scaling()["loss_scale"].state_dict()
    fresh = second.scaling()["loss_scale"]
    assert not torch.equal(state["_extra_state"], fresh.state_dict()["_extra_state"])
    fresh.load_state_dict(state)
    spoil(first, 1)
    spoil(second, 1)
    assert torch.equal(
        first.scaling()["loss_scale"].state_dict()["_extra_state"],
        second.scaling()["loss_scale"].state_dict()["_extra_state"],
    )


def test_precisions_without_a_scale_keep_none() -> None:
    assert join().scaling() == join(precision="bf16").scaling() == {}


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_histolatent.training._distributed.resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(
        UserError, match=r"^4 devices were asked for, 'cuda' names 2; train with --devices 2 or"
    ):
        join(device="cuda", devices=4)
    with pytest.raises(UserError, match=r"^2 devices were asked for, 'cuda:1' names 1; train with --devices"):
        join(device="cuda:1", devices=2)
