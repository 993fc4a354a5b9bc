from __future__ import annotations

import copy
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from napari_histolatent.training._gan_task import GanTask
from napari_histolatent.training._settling import SETTLED, is_settled, norm_batch_size, settle
from napari_histolatent.training.checkpoint import latest_checkpoint
from napari_histolatent.training.load import load_generator

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.training import TrainingConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(("size_px", "n"), [(16, 128), (64, 128), (128, 32), (512, 32)])
def test_fewer_large_images_measure_normalisation(size_px: int, n: int) -> None:
    assert norm_batch_size(size_px) == n


def test_settling_again_changes_nothing(gan_config: TrainingConfig, patches: Any) -> None:
    model = GanTask(gan_config, patches, CPU).model
    settle(model, gan_config)
    first = copy.deepcopy(model.state_dict())
    settle(model, gan_config)
    assert all(torch.equal(value, first[key]) for key, value in model.state_dict().items())
    settle(model, gan_config.with_changes(seed=4))
    assert not all(torch.equal(value, first[key]) for key, value in model.state_dict().items())


def test_a_generator_is_left_in_evaluation_mode_whatever_happens(
    gan_config: TrainingConfig, patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = GanTask(gan_config, patches, CPU)

    def fail(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(task.model, "forward", fail)
    for work in (task.finish, task.measure):
        with pytest.raises(MemoryError):
            work()
        assert not any(module.training for module in task.model.modules())


def test_the_mark_of_a_checkpoint_decides(gan_run: Path, tmp_path: Path) -> None:
    checkpoint = latest_checkpoint(gan_run / "checkpoints")
    assert is_settled(checkpoint)
    stored = load_generator(checkpoint.path, device="cpu").network.state_dict()  # type: ignore[attr-defined]
    copied = shutil.copytree(checkpoint.path, tmp_path / "copy")
    info = json.loads((copied / "checkpoint.json").read_text())
    info.pop(SETTLED)  # as an older version wrote it
    (copied / "checkpoint.json").write_text(json.dumps(info))
    assert is_settled(load_generator(copied, device="cpu").checkpoint)
    (copied / "checkpoint.json").write_text(
        json.dumps(info | {SETTLED: False, "config": info["config"] | {"seed": 4}})
    )
    settled = load_generator(copied, device="cpu").network.state_dict()  # type: ignore[attr-defined]
    assert not all(torch.equal(value, stored[key]) for key, value in settled.items())
