"""`histolatent heatmap`: what it makes, says and refuses. How a region is mapped is tested in jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.cli import run_command
from napari_histolatent.jobs import region_heatmap
from napari_histolatent.jobs.region_heatmap import open_region_heatmap
from tests.jobs.tiny import CLASSIFIER, one_thread, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def clf(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(
        tiny_dataset,
        tmp_path_factory.mktemp("classifier") / "run",
        CLASSIFIER.with_changes(steps=2, checkpoint_every=2),
    )


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], tiny_slide: Path, clf: Path
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run `heatmap` on the tiny slide with --json; return the exit code, the report ({} if none) and stderr."""

    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        options = ["heatmap", tiny_slide, "--classifier", clf, *arguments, "--json"]
        code = run_command([str(v) for v in options])
        out, err = capfd.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


def test_a_box_is_mapped_and_the_same_again_is_only_reported(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        "--box",
        "64,128,192,128",
        "--target",
        "stroma",
        "--overlap",
        1,
        "--min-tissue",
        0,
        "--out",
        tmp_path,
    ]
    code, report, _ = run(*asked)
    assert code == 0
    found = open_region_heatmap(report["files"][0])
    assert (report["target"], report["tiles"]) == ("stroma", 6)
    assert report["level0_box"] == list(found.level0_box) == [64, 128, 256, 256]
    assert report["mean_probability"] == pytest.approx(float(found.probability.mean()))
    monkeypatch.setattr(region_heatmap, "map_region", lambda *_, **__: pytest.fail("it was mapped again"))
    assert run(*asked)[:2] == (0, report)
    code, _, err = run(*asked, "--target", "epithelium")
    assert code == 2
    assert "holds a run of something else already; choose another folder" in err


def test_the_same_command_goes_on_after_a_stop(
    run: Callable[..., Any], tiny_regions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--annotations", tiny_regions, "--target", "stroma", "--min-tissue", 0, "--out", tmp_path]
    with monkeypatch.context() as stopped:
        stopped.setattr(region_heatmap, "run_region_heatmap", lambda *_, **__: None)
        code, _, err = run(*asked)
    assert code == 2
    assert "was stopped before all" in err
    assert "run the same command again to go on" in err
    (tmp_path / "areas.wkb").unlink()  # killed before it was written
    code, report, _ = run(*asked)
    assert code == 0
    assert report["tiles"] > 0


def test_regions_of_a_class_and_the_class_that_is_seen(
    run: Callable[..., Any], tiny_regions: Path, tmp_path: Path
) -> None:
    asked = ["--annotations", tiny_regions, "--label", "stroma", "--overlap", 1, "--min-tissue", 0]
    code, report, err = run(*asked, "--out", tmp_path)
    assert code == 0
    found = open_region_heatmap(tmp_path)
    assert found.level0_box[0] == 400, "stroma lies on the right"
    assert f"evidence for {report['target']} is mapped, which the classifier sees in" in err
    assert np.isfinite(found.probability).sum() == report["tiles"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--box", "1,2,3"], "'1,2,3' is not four numbers; give left"),
        (["--box", "0,0,64,64", "--annotations", "REGIONS"], "--box or --annotations, not both"),
        (["--label", "stroma"], "give --annotations, too"),
        (
            ["--annotations", "REGIONS", "--label", "bone"],
            "no region of the class 'bone'; its classes are epithelium",
        ),
        (["--target", "bone"], "no class 'bone'; its classes are epithelium, stroma"),
        (["--box", "5000,0,64,64"], "lies off tiny.tiff"),
    ],
)
def test_what_cannot_be_mapped_is_said_before_anything_is_made(
    run: Callable[..., Any], tiny_regions: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    named = [str(tiny_regions) if v == "REGIONS" else v for v in options]
    code, _, err = run(*named, "--out", tmp_path / "map")
    assert code == 2
    assert sentence in err.replace("\n", " ")
    assert not (tmp_path / "map").exists()
