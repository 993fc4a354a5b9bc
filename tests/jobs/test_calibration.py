from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.cli._app import run_command
from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs import calibration
from napari_histolatent.jobs.calibration import (
    CALIBRATE,
    calibrate,
    calibration_of,
    dataset_of,
    judged,
    new_calibration,
)
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.latent.search_options import OWN_STEPS
from napari_histolatent.latent.verdict import NO_CALIBRATION
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training.load import load_generator

if TYPE_CHECKING:
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator


@pytest.fixture(autouse=True)
def _few_tiles(monkeypatch: pytest.MonkeyPatch, generator: LoadedGenerator) -> Any:
    monkeypatch.setattr(calibration, "LEAST_TILES", 4)
    monkeypatch.setitem(OWN_STEPS, "fast", 3)
    yield
    (generator.checkpoint.path / "calibration.json").unlink(missing_ok=True)


def test_a_generator_is_calibrated_beside_its_checkpoint(
    gan_run: Path, generator: LoadedGenerator, tiny_dataset: Path
) -> None:
    assert calibration_of(generator.checkpoint) is None
    heard: list[tuple[int, int]] = []
    found = calibrate(gan_run, tiles=6, device="cpu", on_progress=lambda *at: heard.append(at))
    assert found.path == generator.checkpoint.path / "calibration.json"
    assert heard == [(6, 6)]
    read = calibration_of(generator.checkpoint)
    assert read is not None
    assert read.to_json() == found.calibration.to_json()
    assert (read.n, read.dataset_digest) == (6, PatchDataset(tiny_dataset).digest)
    assert load_generator(gan_run, device="cpu").checkpoint.digest == generator.checkpoint.digest
    for bounds in read.bounds.values():
        assert 0 < bounds.trusted <= bounds.known < 1000


def test_verdicts_of_tiles(
    gan_run: Path, generator: LoadedGenerator, classifier: LoadedClassifier, tiny_dataset: Path
) -> None:
    from napari_histolatent.latent.invert import invert
    from napari_histolatent.latent.perceptual import PerceptualDistance
    from napari_histolatent.models.images import to_tensor

    found = calibrate(gan_run, tiles=8, device="cpu").calibration
    data = PatchDataset(tiny_dataset)
    strange = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    pixels = np.concatenate([data.read(calibration.held_out_rows(data, 3)), strange])
    inversions = invert(
        generator.network,
        to_tensor(pixels),
        [(1.0, 0.0)] * len(pixels),
        checkpoint_digest=generator.checkpoint.digest,
        origins=[""] * len(pixels),
        method="fast",
        perceptual=PerceptualDistance(),
        steps=5,
    )
    verdicts = judged(generator, pixels, inversions, calibration=found, classifier=classifier)
    assert verdicts[-1].verdict == "outside"
    assert any("tissue" in reason for reason in verdicts[-1].reasons)
    assert all(item.verdict in ("trust", "caution", "outside") and item.reasons for item in verdicts)
    without = judged(generator, pixels, inversions, calibration=None)
    assert {(item.verdict, item.reasons) for item in without} == {(None, (NO_CALIBRATION,))}


def test_a_run_of_its_own(gan_run: Path, generator: LoadedGenerator) -> None:
    run = new_calibration(gan_run)
    KINDS[CALIBRATE](run)
    status = run.status()
    assert (status.state, status.step) == ("finished", status.steps)
    assert status.data["report"]["n"] == status.steps > 0
    assert calibration_of(generator.checkpoint) is not None


def test_a_run_that_is_stopped_keeps_nothing(gan_run: Path, generator: LoadedGenerator) -> None:
    run = new_calibration(gan_run)
    run.request_stop()
    KINDS[CALIBRATE](run)
    status = run.status()
    assert status.state == "stopped"
    assert "nothing is kept" in status.message
    assert calibration_of(generator.checkpoint) is None


def test_too_few_held_out_patches_are_refused(gan_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEAST_TILES", 10_000)
    with pytest.raises(DatasetError, match=r"holds out \d+ patches, a calibration needs 10000"):
        new_calibration(gan_run)


def test_a_dataset_that_is_not_known_or_does_not_fit_is_refused(
    generator: LoadedGenerator, tiny_dataset: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    elsewhere = replace(generator.checkpoint, path=tmp_path)
    with pytest.raises(DatasetError, match="is not known; name it with --dataset"):
        dataset_of(elsewhere, None)
    assert dataset_of(elsewhere, tiny_dataset).path == tiny_dataset
    with pytest.raises(DatasetError, match="has patches of 32 px, the generator draws 64 px"):
        dataset_of(replace(elsewhere, size_px=64), tiny_dataset)
    with pytest.raises(DatasetError, match=r"has the classes .*, the generator fat"):
        dataset_of(replace(elsewhere, classes=("fat",)), tiny_dataset)


def test_a_classifier_of_other_classes_is_refused(
    generator: LoadedGenerator, classifier: LoadedClassifier
) -> None:
    from dataclasses import replace

    calibration.require_judge(classifier, generator.checkpoint)
    with pytest.raises(UserError, match="choose two of the same dataset"):
        calibration.require_judge(classifier, replace(generator.checkpoint, classes=("a", "b")))


def test_the_command(
    gan_run: Path, generator: LoadedGenerator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command(["calibrate", str(gan_run), "--device", "cpu", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["bounds"]) == {"rmse", "perceptual", "z_ratio", "feature_distance"}
    assert Path(said["calibration"]).is_file()
    assert said["checkpoint_digest"] == generator.checkpoint.digest
    assert run_command(["calibrate", str(tmp_path), "--device", "cpu"]) == 2
