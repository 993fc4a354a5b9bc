"""What the process of a run says when its work cannot be done."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.jobs import __main__ as process
from napari_histolatent.jobs.follow import new_training
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import Run, RunEvent
from napari_histolatent.runs import _run as runs_module
from tests.jobs.tiny import CLASSIFIER, GAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def own_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def run(tiny_dataset: Path, tmp_path: Path) -> Run:
    return new_training(tiny_dataset, tmp_path / "run", GAN)


def kind_of_work(monkeypatch: pytest.MonkeyPatch, work: Callable[[Run], None]) -> None:
    monkeypatch.setattr(process, "KINDS", {"train": work})


def test_work_that_is_done_leaves_0(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kind_of_work(monkeypatch, lambda it: it.append(RunEvent("finished", 3, 3)))
    assert process.main([str(run.path)]) == 0
    assert run.status().state == "finished"


def test_a_fault_of_the_user_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(it: Run) -> None:
        it.append(RunEvent("progress", 7, 9))
        raise UserError("The disk is full; free some space.")

    kind_of_work(monkeypatch, refuse)
    assert process.main([str(run.path)]) == 2
    failed = run.events()[0][-1]
    assert (failed.kind, failed.message) == ("failed", "The disk is full; free some space.")
    assert capfd.readouterr().err == "The disk is full; free some space.\n"


def test_a_fault_of_ours_is_named_in_the_event_and_told_whole_in_the_log(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def crash(_: Run) -> None:
        raise ZeroDivisionError("a slip")

    kind_of_work(monkeypatch, crash)
    with pytest.raises(ZeroDivisionError):
        process.main([str(run.path)])
    (event,) = run.events()[0]
    assert (event.kind, event.message) == (
        "failed",
        f"ZeroDivisionError: a slip (details in {run.log_file})",
    )
    assert "Traceback" in capfd.readouterr().err


def test_a_kind_of_work_that_is_not_known_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", kind="knitting", spec={})
    assert process.main([str(run.path)]) == 2
    assert "the kind 'knitting', which this version does not know; update" in run.status().message


def test_settings_of_a_newer_version_are_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    spec = {"dataset": str(tiny_dataset), "config": GAN.to_json() | {"warp": 9}}
    run = Run.create(tmp_path / "run", kind="train", spec=spec)
    assert process.main([str(run.path)]) == 2
    assert "unknown fields warp; update" in run.status().message


def test_a_run_in_use_is_left_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "_LOCK_WAIT_SECONDS", 0.05)
    kind_of_work(monkeypatch, lambda it: it.append(RunEvent("finished")))
    with run.exclusively():
        assert process.main([str(run.path)]) == 2
    assert run.events()[0] == []


def test_a_sigterm_asks_the_run_to_stop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(it: Run) -> None:
        assert not it.stop_requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert it.stop_requested

    kind_of_work(monkeypatch, work)
    assert process.main([str(run.path)]) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_a_checkpoint_leaves_a_sentence_and_no_half(
    run: Run, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    write = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if path.suffix == ".safetensors":
            write(path, data[: len(data) // 2])
            raise OSError(code, os.strerror(code))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert process.main([str(run.path)]) == 2
    status = run.status()
    assert status.state in ("failed", "starting")  # this process is alive, which a real one is not
    assert status.message.startswith(f"Cannot write to {run.path}: ")
    assert list(run.checkpoints_folder.iterdir()) == []


def test_a_device_that_is_no_longer_there_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    config = CLASSIFIER.with_changes(device="cuda:99")
    spec = {"dataset": str(tiny_dataset), "config": config.to_json()}
    run = Run.create(tmp_path / "run", kind="classifier", spec=spec)
    assert process.main([str(run.path)]) == 2
    assert "'cuda:99' is not on this machine; use auto" in run.status().message


def test_a_training_that_does_not_fit_its_dataset_makes_no_run(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="patches of 32 px, the training is set to 64 px"):
        new_training(tiny_dataset, tmp_path / "run", GAN.with_changes(size_px=64))
    with pytest.raises(UserError, match="not a patch dataset"):
        new_training(tmp_path / "nothing", tmp_path / "run", GAN)
    with pytest.raises(UserError, match="'cuda:99' is not on this machine"):
        new_training(tiny_dataset, tmp_path / "run", CLASSIFIER.with_changes(device="cuda:99"))
    assert not (tmp_path / "run").exists()


def test_what_a_run_is_to_do_is_in_its_folder(run: Run, tiny_dataset: Path) -> None:
    description = json.loads((run.path / "run.json").read_text())
    assert description["kind"] == "train"
    assert description["spec"] == {
        "dataset": str(tiny_dataset),
        "dataset_digest": PatchDataset(tiny_dataset).digest,
        "config": GAN.to_json(),
    }
