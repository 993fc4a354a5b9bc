"""`histolatent direction`: what its commands make, say and refuse. How directions are found is tested in latent and jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._pictures import open_picture
from napari_histolatent.cli import run_command
from napari_histolatent.latent.library import Library
from tests.jobs.tiny import GAN, one_thread, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def made(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generator's run, its pictures, and a library of two groups of them."""
    folder = tmp_path_factory.mktemp("directions")
    gan = trained(tiny_dataset, folder / "gan", GAN.with_changes(steps=2, checkpoint_every=2))
    assert run_command(["sample", str(gan), "--out", str(folder), "-n", "6", "--seed", "7"]) == 0
    for tag, numbers in (("a", (0, 2)), ("b", (1, 3, 5))):
        files = [str(folder / f"sample_{i:04d}.png") for i in numbers]
        assert run_command(["library", "add", str(folder / "lib"), *files, "--tag", tag]) == 0
    return folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run a `direction` command with --json; return the exit code, the report ({} if none) and stderr."""

    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        code = run_command(["direction", *(str(v) for v in arguments), "--json"])
        out, err = capfd.readouterr()
        return code, json.loads(out) if out else {}, err

    return call


def test_directions_are_made_listed_and_applied(run: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    lib = ["--library", made / "lib"]
    between = ["add", made / "gan", "--from", "a", "--to", "b", *lib]
    for options, kind in (([], "mean difference"), (["--boundary", "--name", "parted"], "boundary")):
        code, report, _ = run(*between, *options)
        assert (code, report["added"][0]["kind"]) == (0, kind)
        assert report["added"][0]["facts"]["n"] == [2, 3]
    code, report, _ = run("add", made / "gan", "--components", 2, "--samples", 16, *lib)
    assert [item["name"] for item in report["added"]] == ["change 1", "change 2"]
    code, report, _ = run("add", made / "gan", "--measure", "haematoxylin", "--samples", 16, *lib)
    assert (code, report["added"][0]["kind"]) == (0, "measured")
    code, report, _ = run("list", "--run", made / "gan", *lib)
    names = [item["name"] for item in report["directions"]]
    assert names == ["a to b", "parted", "change 1", "change 2", "haematoxylin"]

    picture = made / "sample_0000.png"
    moving = ["apply", made / "gan", picture, *lib, "--direction", "a to b", "--out", tmp_path]
    code, report, _ = run(*moving, "--strength", 1.5, "--strength", -0.5)
    assert code == 0
    start = np.array(open_picture(picture)[1]["latent_point"]["values"])
    vector = np.array(Library(made / "lib").direction("a to b").vector)
    for file, strength in zip(report["files"], (1.5, -0.5), strict=True):
        says = open_picture(Path(file))[1]
        assert says["synthetic"]
        np.testing.assert_allclose(says["latent_point"]["values"], start + strength * vector, atol=1e-6)

    code, _, err = run(*between)
    assert code == 2
    assert "a direction named 'a to b' already; choose another --name" in err.replace("\n", " ")


def test_a_direction_is_tried(run: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    lib = ["--library", tmp_path / "lib"]
    assert run("add", made / "gan", "--measure", "haematoxylin", "--samples", 64, *lib)[0] == 0
    code, report, _ = run(
        "test", made / "gan", "--direction", "haematoxylin", "--feature", "haematoxylin", *lib
    )
    assert code == 0
    assert report["features"]["haematoxylin"]["points"] == 64
    assert report["features"]["haematoxylin"]["median"] > 0.5, "it was made to grow along it"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["add", "GAN"], "--from and --to, --components or --measure, one of the three"),
        (["add", "GAN", "--from", "a"], "one of the three"),
        (["add", "GAN", "--measure", "lumen fraction", "--boundary"], "give --from and --to with it"),
        (
            ["add", "GAN", "--from", "a", "--to", "c"],
            "no point of this generator with the tag 'c'; its tags are a, b",
        ),
        (["add", "GAN", "--measure", "weight"], "no measured feature 'weight'"),
        (["test", "GAN", "--direction", "x"], "'x'"),
    ],
)
def test_what_cannot_be_done_is_said(
    run: Callable[..., Any], made: Path, arguments: list[str], sentence: str
) -> None:
    named = [made / "gan" if v == "GAN" else v for v in arguments]
    code, _, err = run(*named, "--library", made / "lib")
    assert code == 2
    assert sentence in err.replace("\n", " ")


def test_without_a_library(run: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    code, _, err = run("list", "--library", tmp_path / "none")
    assert code == 2
    assert "is no library yet; make a direction with" in err.replace("\n", " ")
