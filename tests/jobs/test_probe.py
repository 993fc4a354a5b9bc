from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import RunError, UserError
from napari_histolatent.jobs import probe
from napari_histolatent.training import ClassifierConfig, TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

TINY = TrainingConfig(size_px=32, batch_size=4, z_dim=8, base_channels=4, device="cpu", steps=1000)


def test_a_fault_in_the_process_is_the_same_sentence(tmp_path: Path, tiny_dataset: Path) -> None:
    """A real process."""
    with pytest.raises(UserError, match="is not a patch dataset"):
        probe._ask(
            {"what": "steps", "dataset": str(tmp_path), "kind": "gan", "config": TINY.to_json()},
            lambda: False,
        )


def test_a_process_that_dies_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "__name__", "no_such_module")
    with pytest.raises(
        RunError, match=r"Nothing could be measured \(.*no_such_module.*\); start the training"
    ):
        probe.devices_here()


def test_it_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "__name__", "timeit")
    monkeypatch.setattr(probe.json, "dumps", lambda _: "while True: pass")
    assert probe.devices_here(lambda: True) == ()


def test_steps_are_timed_and_scaled(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from napari_histolatent.training import beside_steps
    from napari_histolatent.training import probe as steps

    asked: list[str] = []

    def in_this_process(question: dict[str, object], _: object) -> object:
        asked.append(str(question["kind"]))
        assert probe.main([json.dumps(question)]) == 0
        return json.loads(capsys.readouterr().out)["found"]

    monkeypatch.setattr(steps, "_MOST_STEPS", 3)
    monkeypatch.setattr(beside_steps, "_ENCODER_SECONDS", 0.0)
    monkeypatch.setattr(probe, "_ask", in_this_process)
    found = probe.estimate(tiny_dataset, TINY.with_changes(encoder_steps=50))
    assert found is not None
    assert asked == ["gan"]
    assert found.device == "cpu"
    assert found.measuring_seconds > 0
    assert found.encoder_seconds > 0
    beside = found.measuring_seconds + found.encoder_seconds
    assert found.seconds == pytest.approx(1000 * found.seconds_per_step + beside)
    assert found.images_per_second == pytest.approx(4 / found.seconds_per_step)
    assert found.memory_bytes > 50e6, "a process with torch takes at least that"


def test_a_checkpoint_is_as_large_as_what_is_in_it(tiny_dataset: Path, tmp_path: Path) -> None:
    from napari_histolatent.jobs.follow import new_training
    from napari_histolatent.jobs.kinds import KINDS
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.checkpoint import checkpoints_in
    from napari_histolatent.training.probe import checkpoint_bytes

    config = TINY.with_changes(steps=1)
    run = new_training(tiny_dataset, tmp_path / "run", config)
    KINDS[run.kind](run)
    (folder,) = checkpoints_in(run.checkpoints_folder)
    written = sum(path.stat().st_size for path in folder.iterdir())
    assert checkpoint_bytes(config, PatchDataset(tiny_dataset).classes) == pytest.approx(written, rel=0.25)


def test_a_run_keeps_the_newest_the_best_and_the_milestones() -> None:
    config = TrainingConfig(size_px=64, steps=1000, checkpoint_every=100, keep_checkpoints=2)
    pictures = 10 * 8 * 2 * 64**2 * 2
    assert probe.disk_bytes(config, 10**6, n_classes=2) == 3 * 10**6 + pictures
    milestones = config.with_changes(milestone_every=250)
    assert probe.disk_bytes(milestones, 10**6, n_classes=2) == 7 * 10**6 + pictures
    short = config.with_changes(steps=50)
    assert probe.disk_bytes(short, 10**6, n_classes=2) == 10**6 + pictures // 10
    assert probe.disk_bytes(ClassifierConfig(steps=10), 10**6, n_classes=2) == 10**6


def test_memory_is_what_was_held_at_most() -> None:
    import numpy as np
    import psutil

    from napari_histolatent.training.probe import _peak_bytes

    before = psutil.Process().memory_info().rss
    np.ones(25_000_000).sum()  # 200 MB, given back at once
    assert _peak_bytes() - before > 150e6


def test_a_probe_compares_with_no_real_patches(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training import _health
    from napari_histolatent.training import probe as steps

    monkeypatch.setattr(_health, "_Real", lambda *_, **__: pytest.fail("this takes seconds"))
    monkeypatch.setattr(steps, "_MOST_STEPS", 2)
    assert steps.measure(TINY, PatchDataset(tiny_dataset), folder=tmp_path)["steps"] > 0


def test_no_device_that_is_absent_is_measured(tiny_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = {
        "what": "steps",
        "dataset": str(tiny_dataset),
        "kind": "gan",
        "config": TINY.with_changes(device="cuda:7").to_json(),
    }
    assert probe.main([json.dumps(question)]) == 0
    assert "cuda:7" in json.loads(capsys.readouterr().out)["error"]


def test_the_processor_is_always_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([json.dumps({"what": "devices"})]) == 0
    *_, last = (probe.Device(**item) for item in json.loads(capsys.readouterr().out)["found"])
    assert last.name == "cpu"
    assert last.memory_bytes
    assert last.free_bytes
    assert last.free_bytes <= last.memory_bytes


def test_measurements_are_counted_once_each() -> None:
    def seconds(**changes: int) -> float:
        config = TINY.with_changes(**changes)
        return probe.measuring_seconds(config, seconds_per_measurement=1.0, seconds_per_checkpoint=100.0)

    assert seconds(steps=1000, checkpoint_every=500, metrics_every=500) == 200
    assert seconds(steps=1000, checkpoint_every=500, metrics_every=100) == 200 + 8
    assert seconds(steps=1001, checkpoint_every=500, metrics_every=300) == 300 + 3
    assert seconds(steps=100, checkpoint_every=500, metrics_every=0) == 100
    classifier = ClassifierConfig(steps=1200, checkpoint_every=300)
    found = probe.measuring_seconds(classifier, seconds_per_measurement=0.0, seconds_per_checkpoint=2.0)
    assert found == 8


def test_what_cannot_be_trained_is_said_before_a_process_is_started(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_ask", lambda *_: pytest.fail("no process is needed to know"))
    with pytest.raises(UserError, match="The judge nowhere cannot be used"):
        probe.estimate(tiny_dataset, TINY.with_changes(judge="nowhere"))
