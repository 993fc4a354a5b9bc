from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._napari.editing import _calibrating as calibrating
from napari_histolatent._napari.editing._calibrating import (
    dataset_to_calibrate_on,
    followed,
    running_calibration,
    start_calibration,
)
from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs import calibration
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import Run, RunEvent
from tests._napari.editing.untrained import untrained_generator

if TYPE_CHECKING:
    from pathlib import Path


def checkpoint(dataset: Path, folder: Path) -> Any:
    """Return the description of a generator that learnt from a dataset, in no run."""
    own = untrained_generator(path=folder, size_px=32).checkpoint
    return replace(own, classes=("epithelium", "stroma"), dataset_digest=PatchDataset(dataset).digest)


def test_the_dataset_that_is_open_serves_where_it_is_the_one_that_was_learnt_from(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "LEAST_TILES", 4)
    generator = checkpoint(tiny_dataset, tmp_path)
    assert dataset_to_calibrate_on(generator, tiny_dataset) == tiny_dataset
    for opened in (None, tmp_path):
        with pytest.raises(DatasetError, match="are not known here; choose their dataset in the Train dock"):
            dataset_to_calibrate_on(generator, opened)
    with pytest.raises(DatasetError, match="are not known here"):
        dataset_to_calibrate_on(replace(generator, dataset_digest="another"), tiny_dataset)


def test_the_dataset_of_the_run_comes_first_and_its_fault_is_told(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "LEAST_TILES", 4)
    Run.create(tmp_path / "run", kind="train", spec={"dataset": str(tiny_dataset)})
    generator = checkpoint(tiny_dataset, tmp_path / "run" / "checkpoints" / "step-00000001")
    assert dataset_to_calibrate_on(generator, None) == tiny_dataset
    monkeypatch.setattr(calibration, "LEAST_TILES", 10_000)
    with pytest.raises(DatasetError, match=r"holds out \d+ patches, a calibration needs 10000"):
        dataset_to_calibrate_on(generator, None)
    Run.create(tmp_path / "moved", kind="train", spec={"dataset": str(tmp_path / "gone")})
    generator = checkpoint(tiny_dataset, tmp_path / "moved" / "checkpoints" / "step-00000001")
    with pytest.raises(DatasetError, match=r"gone.* Or choose the dataset that this generator learnt from"):
        dataset_to_calibrate_on(generator, None)


def test_a_calibration_is_followed_to_its_end_or_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "_POLL_SECONDS", 0.0)
    run = Run.create(tmp_path / "run", kind="calibrate", spec={})
    heard: list[tuple[int, int]] = []

    def told(done: int, total: int) -> None:
        heard.append((done, total))
        run.append(RunEvent("progress", 6, 8) if len(heard) == 1 else RunEvent("finished", 8, 8))

    with run.exclusively():
        ended = followed(run, on_progress=told, should_stop=lambda: False)
    assert ended is not None
    assert (ended.state, heard) == ("finished", [(0, 0), (6, 8)])
    assert followed(run, on_progress=told, should_stop=lambda: True) is None


def test_a_calibration_of_the_generator_that_runs_is_found_and_no_second_one_is_started(
    tmp_path: Path,
) -> None:
    own = untrained_generator(path=tmp_path / "gan" / "checkpoints" / "step-00000001").checkpoint
    for name, of in (("other", tmp_path / "another"), ("mine", own.path)):
        Run.create(tmp_path / name, kind="calibrate", spec={"run": str(of)})
    other, mine = Run(tmp_path / "other"), Run(tmp_path / "mine")
    with other.exclusively():
        assert running_calibration(own) is None
        with mine.exclusively():
            found = running_calibration(own)
            assert found is not None
            assert found.path == mine.path
            assert start_calibration(own, tmp_path).path == mine.path
            assert running_calibration(own, but={mine.path}) is None


def test_the_last_phase_of_a_training_is_waited_for(tmp_path: Path) -> None:
    own = untrained_generator(path=tmp_path / "gan" / "checkpoints" / "step-00000001").checkpoint
    run = Run.create(tmp_path / "gan", kind="train", spec={})
    with run.exclusively():
        run.append(RunEvent("progress", 3, 8))
        assert running_calibration(own) is None, "it trains still"
        run.append(RunEvent("progress", 8, 8, data={"calibrating": {"done": 1, "tiles": 4}}))
        with pytest.raises(UserError, match="at the end of this generator's training"):
            running_calibration(own)
        run.append(RunEvent("finished", 8, 8))
    assert running_calibration(own) is None
