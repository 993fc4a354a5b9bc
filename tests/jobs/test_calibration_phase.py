"""The end of a generator's run: its verdict is calibrated by itself."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.jobs import calibration, calibration_phase
from napari_histolatent.jobs.calibration import calibration_of, fitting_judge
from napari_histolatent.jobs.calibration_phase import EndHeldBack
from napari_histolatent.jobs.kinds import KINDS, TRAIN
from napari_histolatent.latent.search_options import OWN_STEPS
from napari_histolatent.runs import Run, RunEvent
from napari_histolatent.training import TrainingConfig
from napari_histolatent.training.chosen import chosen_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator


@pytest.fixture
def run(gan_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose generator is trained, and whose process was killed before it said so."""
    monkeypatch.setattr(calibration, "LEAST_TILES", 4)
    monkeypatch.setattr(calibration_phase, "TILES", 6)
    monkeypatch.setitem(OWN_STEPS, "fast", 3)
    shutil.copytree(gan_run, tmp_path / "run")
    events = tmp_path / "run" / "events.jsonl"
    lines = events.read_text().splitlines()
    events.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["kind"] != "finished"))
    return Run(tmp_path / "run")


def work(run: Run) -> list[RunEvent]:
    """Do the work of the run's process, and return what it said."""
    offset = run.events()[1]
    KINDS[TRAIN](run)
    return run.events(offset)[0]


def with_config(run: Run, **changes: Any) -> Run:
    """Return the run with other settings, as they would be in run.json."""
    run.spec["config"] = TrainingConfig.from_json(run.spec["config"]).with_changes(**changes).to_json()
    return run


def test_a_run_that_was_killed_before_its_end_calibrates_and_then_says_that_it_has_finished(run: Run) -> None:
    said = work(run)
    checkpoint = chosen_checkpoint(run.path)
    found = calibration_of(checkpoint)
    assert found is not None
    assert found.n == 6
    assert [event.kind for event in said] == ["started", "progress", "progress", "finished"]
    assert [event.data["calibrating"] for event in said[1:3]] == [
        {"done": 0, "tiles": 6},
        {"done": 6, "tiles": 6},
    ]
    assert said[2].message == "Calibrating the verdict of reverse search: 6 of 6 held-out patches searched."
    end = said[-1]
    assert [event.time for event in said] == sorted(event.time for event in said)
    assert (end.step, end.steps) == (checkpoint.step, checkpoint.step)
    assert end.data["calibration"]["calibration"] == f"checkpoints/{checkpoint.path.name}/calibration.json"
    assert run.status().data["checkpoint"] == f"checkpoints/{checkpoint.path.name}"


def test_it_follows_the_encoder_and_uses_it(run: Run) -> None:
    said = work(with_config(run, encoder_steps=2))
    kinds = [event.kind for event in said]
    assert kinds.count("finished") == 1
    last_of_encoder = max(i for i, event in enumerate(said) if "encoder" in event.data)
    first_of_calibration = min(i for i, event in enumerate(said) if "calibrating" in event.data)
    assert last_of_encoder < first_of_calibration
    found = calibration_of(chosen_checkpoint(run.path))
    assert found is not None
    assert found.encoder_digest == said[last_of_encoder].data["encoder"]["digest"]


def test_the_judge_of_the_run_tells_how_often_the_classes_agree(
    run: Run, classifier: LoadedClassifier
) -> None:
    path = chosen_checkpoint(run.path).path / "checkpoint.json"
    facts = json.loads(path.read_text())
    facts["config"]["judge"] = str(classifier.checkpoint.path)
    path.write_text(json.dumps(facts))
    said = work(with_config(run, judge=str(classifier.checkpoint.path)))
    assert said[-1].kind == "finished"
    found = calibration_of(chosen_checkpoint(run.path))
    assert found is not None
    assert found.classifier_digest == classifier.checkpoint.digest
    assert found.class_agreement is not None


def test_which_judge_fits(
    generator: LoadedGenerator, classifier: LoadedClassifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dataclasses import replace

    own, path = generator.checkpoint, classifier.checkpoint.path

    def judged_by(named: str | None, **changes: Any) -> str | None:
        return fitting_judge(replace(own, config=own.config | {"judge": named}, **changes))

    monkeypatch.setattr(calibration, "shipped_of_kind", lambda _: path)
    assert judged_by(str(path)) == str(path)
    assert judged_by("") == judged_by(None) == "shipped"
    assert judged_by(str(tmp_path)) == "shipped", "it is gone"
    assert judged_by(str(own.path)) == "shipped", "that is a generator"
    assert judged_by(str(path), classes=("fat", "stroma")) is None
    assert judged_by(str(path), size_px=64) is None
    assert judged_by(str(path), classes=()) is None


def test_a_calibration_that_fails_is_a_warning_and_the_run_has_finished(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> Callable[..., Any]:
        def calibrate(*_: Any, **__: Any) -> Any:
            raise error

        return calibrate

    before = run.status().data["metrics"]
    monkeypatch.setattr(calibration_phase, "calibrate", fail(UserError("The search diverged; look.")))
    said = work(run)
    assert [event.kind for event in said[-2:]] == ["metrics", "finished"]
    warnings = run.status().data["metrics"]["warnings"]
    assert warnings[-1] == (
        "The generator is trained, but the verdict of reverse search could not be calibrated: The search diverged; look; "
        "calibrate it later in the Edit dock or with `histolatent calibrate`."
    )
    assert run.status().data["metrics"] == before | {"warnings": warnings}, "what was measured stays"
    monkeypatch.setattr(calibration_phase, "calibrate", fail(KeyError("a slip")))
    assert work(run)[-1].kind == "finished"
    assert "KeyError: 'a slip' (details in " in run.status().data["metrics"]["warnings"][-1]
    assert "Traceback" in capfd.readouterr().err


def test_where_nothing_is_held_out_the_end_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEAST_TILES", 10_000)
    said = work(run)
    assert [event.kind for event in said] == ["started", "finished"]
    assert said[-1].message.startswith("The verdict of reverse search is not calibrated: The dataset ")
    assert "holds out" in said[-1].message
    assert calibration_of(chosen_checkpoint(run.path)) is None


def test_it_can_be_switched_off_and_old_settings_have_it_on(run: Run) -> None:
    old = run.spec["config"].copy()
    del old["calibrate"]
    assert TrainingConfig.from_json(old).calibrate
    said = work(with_config(run, calibrate=False))
    assert [event.kind for event in said] == ["started", "finished"]
    assert said[-1].message == ""
    assert calibration_of(chosen_checkpoint(run.path)) is None


def test_a_stop_in_the_middle_of_a_search_is_obeyed_and_a_resumed_run_calibrates_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent.latent._search import Search

    monkeypatch.setitem(OWN_STEPS, "fast", 500)
    is_over = Search.is_over
    asked = 0

    def ask(search: Search) -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            run.request_stop()
        return is_over(search)

    monkeypatch.setattr(Search, "is_over", ask)
    said = work(run)
    assert 3 <= asked < 10
    assert said[-1].kind == "stopped"
    assert said[-1].message == (
        "The generator is trained. The calibration was stopped after 0 of 6 tiles; nothing is kept of it."
    )
    assert calibration_of(chosen_checkpoint(run.path)) is None
    run.clear_stop()
    monkeypatch.setitem(OWN_STEPS, "fast", 3)
    assert work(run)[-1].kind == "finished"
    assert calibration_of(chosen_checkpoint(run.path)) is not None


def test_only_the_end_is_held_back() -> None:
    heard: list[str] = []
    held = EndHeldBack(lambda event: heard.append(event.kind))
    for kind in ("started", "progress", "stopped"):
        held(RunEvent(kind))
    assert held.end is None
    held(RunEvent("finished", 3, 3))
    assert heard == ["started", "progress", "stopped"]
    assert held.end is not None
