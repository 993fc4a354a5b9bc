from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent.errors import CheckpointError, RunError
from napari_histolatent.training.chosen import chosen_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def kept(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir())


def steps_of(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in kept(run)]


def test_the_newest_or_the_one_of_a_step(gan_run: Path) -> None:
    steps = steps_of(gan_run)
    assert len(steps) > 1
    assert chosen_checkpoint(gan_run).step == steps[-1]
    for step in steps:
        assert chosen_checkpoint(gan_run, step=step).step == step
        assert chosen_checkpoint(str(gan_run), step=step).path.name == f"step-{step:08d}"


def test_the_best_is_the_one_that_is_named(gan_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(gan_run, tmp_path / "run")
    for step in steps_of(run):
        (run / "best.json").write_text(json.dumps({"checkpoint": "any", "kid": 0.1, "step": step}))
        assert chosen_checkpoint(run, best=True).step == step


@pytest.mark.parametrize(
    "content",
    [None, "", "[]", '{"kid": 1}', '{"step": "x"}', '{"step": -4}', '{"step": 1e999}', '{"step": true}'],
)
def test_without_a_best_one_there_is_a_sentence(gan_run: Path, tmp_path: Path, content: str | None) -> None:
    run = shutil.copytree(gan_run, tmp_path / "run")
    (run / "best.json").unlink(missing_ok=True)
    if content is not None:
        (run / "best.json").write_text(content)
    with pytest.raises(CheckpointError, match="has measured no best checkpoint yet"):
        chosen_checkpoint(run, best=True)


def test_a_step_that_is_not_kept(gan_run: Path) -> None:
    steps = ", ".join(map(str, steps_of(gan_run)))
    with pytest.raises(
        CheckpointError, match=rf"no checkpoint of step 3; it keeps those of the steps {steps}\.$"
    ):
        chosen_checkpoint(gan_run, step=3)
    with pytest.raises(CheckpointError, match="--step 4 or --best, not both"):
        chosen_checkpoint(gan_run, step=4, best=True)


def test_a_single_checkpoint_stands_for_itself(gan_run: Path) -> None:
    path = kept(gan_run)[0]
    step = chosen_checkpoint(path).step
    assert chosen_checkpoint(path, step=step).path == path
    for wrong in ({"step": step + 1}, {"best": True}):
        options: dict[str, Any] = wrong
        with pytest.raises(CheckpointError, match=f"is a single checkpoint, of step {step}"):
            chosen_checkpoint(path, **options)


def test_a_folder_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        chosen_checkpoint(tmp_path)
