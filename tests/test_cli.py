"""The command line is a contract: names, options, JSON fields, exit codes, and one sentence where it refuses."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image, PngImagePlugin
from rich.progress import Progress

import napari_histolatent
from napari_histolatent import cli, slides
from napari_histolatent._files import digest_of_file
from napari_histolatent._pictures import open_picture, save_picture
from napari_histolatent.annotations import Annotations, Region, read_annotations, write_annotations
from napari_histolatent.cli import app, run_command
from napari_histolatent.jobs.follow import new_training
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import Run, RunEvent
from napari_histolatent.slides import open_slide
from napari_histolatent.training import config as training_config
from tests.jobs.tiny import CLASSIFIER, GAN, one_thread, trained
from tests.runs.processes import end_processes_below, wait_for_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMANDS = [
    "demo",
    "info",
    "region",
    "thumbnail",
    "annotations check",
    "annotations convert",
    "extract",
    "dataset info",
    "dataset relabel",
    "dataset import-folder",
    "dataset export",
    "train",
    "fork",
    "resume",
    "stop",
    "runs",
    "sample",
    "export",
    "classifier train",
    "calibrate",
    "invert",
    "flip",
    "interpolate",
    "arithmetic",
    "library add",
    "library list",
    "gradcam",
]
EXTRACT = ["--size", "32", "--mpp", "1.0", "--stride", "8"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def _own_list(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(tmp_path_factory.mktemp("user_data")))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose runs are ended after the test."""
    yield tmp_path
    end_processes_below(tmp_path)


@dataclass(frozen=True)
class Models:
    """Two runs, and a tile of the generator as a file that knows its latent point."""

    gan: Path
    classifier: Path
    tile: Path

    @property
    def digest(self) -> str:
        return str(
            json.loads((self.gan / "checkpoints" / "step-00000020" / "checkpoint.json").read_text())["digest"]
        )


@pytest.fixture(scope="module")
def models(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    gan = trained(tiny_dataset, folder / "gan", GAN)
    classifier = trained(tiny_dataset, folder / "classifier", CLASSIFIER)
    assert run_command(["sample", str(gan), "--out", str(folder), "-n", "1", "--seed", "7"]) == 0
    return Models(gan, classifier, folder / "sample_0000.png")


class Outcome:
    """What one command line did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object on stdout, in strict JSON."""

        def refuse(name: str) -> None:
            pytest.fail(f"{name} is no JSON")

        assert self.out.endswith("}\n"), self.out
        report = json.loads(self.out, parse_constant=refuse)
        assert isinstance(report, dict)
        return report

    @property
    def refusal(self) -> str:
        """The one sentence of a command that the user can mend."""
        assert len(self.err.strip().splitlines()) == 1, self.err
        return self.last_refusal

    @property
    def last_refusal(self) -> str:
        """The one sentence of a command that the user can mend, after what it said while it went well."""
        assert "Traceback" not in self.err
        assert self.code == 2, self.err
        assert self.out == ""
        *before, line = self.err.strip().splitlines()
        assert not any(item.startswith("Error") for item in before)
        assert line.startswith("Error: ")
        assert line.endswith(".")
        return line


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """A function that runs a command line: `run("info", path)`."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run_command([str(v) for v in arguments])
        return Outcome(code, *capfd.readouterr())

    return call


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def chunk_of(path: str | Path) -> dict[str, Any]:
    """Return what a PNG of ours says of itself; a drawn one has to say so in words too."""
    with Image.open(path) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        chunk = json.loads(image.text["histolatent"])
        assert isinstance(chunk, dict)
        assert image.text.get("Comment", "").startswith("SYNTHETIC") == chunk["synthetic"]
    return chunk


def box(left: float, top: float, right: float, bottom: float) -> Any:
    from shapely.geometry import box as shape

    return shape(left, top, right, bottom)


def regions(path: Path, **classes: tuple[float, float, float, float]) -> Path:
    """Write a GeoJSON with a rectangle for each class."""
    shapes = tuple(Region(name, name, box(*corners)) for name, corners in classes.items())
    write_annotations(path, Annotations(shapes, format="test"))
    return path


def with_other_classes(classifier: Path, out: Path) -> Path:
    """Return a copy of a classifier's run that knows tumour and normal instead."""
    shutil.copytree(classifier, out)
    for file in out.rglob("checkpoint.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"classes": ["normal", "tumour"]}))
    return out


# Help and usage


def names_of(command: Any, prefix: str = "") -> list[str]:
    commands = getattr(command, "commands", None)
    if commands is None:
        return [prefix.strip()]
    return [name for key, item in commands.items() for name in names_of(item, f"{prefix} {key}")]


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(COMMANDS) <= set(names_of(typer.main.get_command(app)))


@pytest.mark.parametrize("command", names_of(typer.main.get_command(app)))
def test_every_command_has_help_with_an_example_that_begins_with_itself(
    run: Callable[..., Outcome], command: str
) -> None:
    outcome = run(*command.split(), "--help")
    assert outcome.code == 0
    words = re.sub(r"\x1b\[[0-9;]*m", "", outcome.out)  # colours, where CI asks for them
    assert f"Example: histolatent {command}" in " ".join(words.split())
    assert outcome.err == ""


def test_every_report_can_be_had_as_json() -> None:
    root = typer.main.get_command(app)
    for name in COMMANDS:
        command: Any = root
        for part in name.split():
            command = command.commands[part]
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options, name
        if name in ("demo", "extract", "train", "fork", "classifier train", "sample", "invert"):
            assert "--seed" in options, name


def test_the_version(run: Callable[..., Outcome]) -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"histolatent {napari_histolatent.__version__}\n")


def test_main_leaves_with_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["histolatent", "info", "nowhere.svs"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capfd.readouterr().err.startswith("Error: nowhere.svs does not exist")


@pytest.mark.parametrize(
    "arguments",
    [
        ["knit"],
        ["info"],
        ["info", "a.svs", "--colour"],
        ["region", "a.svs"],
        ["region", "a.svs", "--xy", "one", "two", "--size", "3", "3", "--out", "a.png"],
        ["sample", "run", "--out", "a", "-n", "0"],
        ["interpolate", "run", "a", "b", "--frames", "1", "--out", "o"],
        ["train", "patches"],
    ],
)
def test_a_command_line_that_is_not_one_is_told_why(
    run: Callable[..., Outcome], arguments: list[str]
) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage: histolatent" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("arguments", [[], ["dataset"], ["annotations"], ["classifier"]])
def test_no_command_shows_the_commands(run: Callable[..., Outcome], arguments: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code in (0, 2)
    assert "Usage: histolatent" in outcome.out + outcome.err
    assert "Traceback" not in outcome.err


# Interrupted


def test_an_interrupt_is_130_without_a_traceback(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tiny_slide: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slides, "open_slide", interrupted)
    outcome = run("info", tiny_slide)
    assert outcome.code == 130
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


def test_an_interrupted_extraction_is_taken_up_by_the_same_command(
    run: Callable[..., Outcome],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_slide: Path,
    tiny_regions: Path,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    cut = ["extract", tiny_slide, "--annotations", tiny_regions, *EXTRACT, "--out", folder / "ds"]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupted)
        outcome = run(*cut)
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    assert [path.name for path in folder.iterdir()] == ["ds.part"]
    other = run(*cut, "--threshold", 0.5)
    assert "ds.part holds an unfinished dataset of other slides, regions or settings" in other.refusal
    assert run(*cut, "--json").report["patches"] == len(PatchDataset(folder / "ds"))
    assert [path.name for path in folder.iterdir()] == ["ds"]


def test_extraction_under_a_changed_recipe_replaces_what_is_there_if_told_to(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    cut = ["extract", tiny_slide, "--annotations", tiny_regions, *EXTRACT, "--out", folder / "ds", "--json"]
    first = run(*cut).report
    assert "exists already; choose another output folder" in run(*cut, "--threshold", 0.3).refusal
    second = run(*cut, "--threshold", 0.3, "--overwrite").report
    assert second["patches"] > first["patches"]
    assert len(PatchDataset(folder / "ds")) == second["patches"]


def test_an_interrupted_training_is_stopped_and_can_be_resumed(
    run: Callable[..., Outcome], folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_dataset: Path
) -> None:
    steps = 200
    monkeypatch.setitem(
        training_config.PRESETS,
        "tiny",
        GAN.with_changes(checkpoint_every=steps, log_every=1),  # type: ignore[index]
    )

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    path = folder / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", interrupted)
        outcome = run("train", tiny_dataset, "--preset", "tiny", "--steps", steps, "--out", path, "--json")
    assert outcome.code == 130
    assert outcome.out == ""
    assert f"histolatent resume {path}" in outcome.err
    assert "Traceback" not in outcome.err
    stopped = Run(path).status()
    assert stopped.state == "stopped"
    assert (path / stopped.data["checkpoint"] / "model.safetensors").exists()

    resumed = run("resume", path, "--json")
    assert resumed.code == 0
    report = resumed.report
    assert (report["state"], report["step"], report["steps"]) == ("finished", steps, steps)
    assert set(report["losses"]) == {"discriminator", "generator"}
    assert math.isfinite(report["kid"])
    assert (Path(report["checkpoint"]) / "model.safetensors").exists()
    assert report["checkpoint"] == str(path / "checkpoints" / f"step-{steps:08d}")
    again = run("resume", path)
    assert "has finished; there is nothing to resume" in again.refusal


def interrupt_here() -> None:
    """As Ctrl-C does; what runs now may hold it back."""
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_while_a_run_is_made_leaves_none(
    run: Callable[..., Outcome], folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_dataset: Path
) -> None:
    make = new_training

    def interrupted(*arguments: Any) -> Run:
        made = make(*arguments)
        interrupt_here()
        assert made.path.exists(), "it waits until the run is made"
        return made

    monkeypatch.setattr("napari_histolatent.jobs.follow.new_training", interrupted)
    monkeypatch.setattr("napari_histolatent.runs.launch", lambda _: pytest.fail("nothing may be started"))
    before = signal.getsignal(signal.SIGINT)
    outcome = run("train", tiny_dataset, "--preset", "demo", "--out", folder / "run")
    assert (outcome.code, outcome.out) == (130, "")
    assert "Traceback" not in outcome.err
    assert list(folder.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before
    assert run("runs", "--json").report == {"runs": []}


def test_ctrl_c_while_a_run_is_started_stops_it(
    run: Callable[..., Outcome], folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_dataset: Path
) -> None:
    def start(made: Run) -> None:
        interrupt_here()
        made.append(RunEvent("stopped", 0, 9))

    monkeypatch.setattr("napari_histolatent.runs.launch", start)
    path = folder / "run"
    for detach in ([], ["--detach"]):
        outcome = run("train", tiny_dataset, "--preset", "demo", "--out", path, *detach)
        assert outcome.code == 130
        assert f"go on with: histolatent resume {path}" in outcome.err
        assert Run(path).stop_requested
        shutil.rmtree(path)


def test_ctrl_c_while_the_command_is_imported_is_no_traceback() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'napari_histolatent.cli._app': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted)\n"
        "from napari_histolatent.cli import main\n"
        "main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (None, "was never started, and there is nothing to stop; start it with `histolatent resume "),
        (
            "failed",
            "has failed at step 3, and there is nothing left to stop; go on with `histolatent resume ",
        ),
        ("progress", "was killed at step 3, and there is nothing left to stop; go on with "),
    ],
)
def test_a_run_that_has_nothing_to_stop_and_did_not_end_well_is_2(
    run: Callable[..., Outcome], folder: Path, last: str | None, words: str
) -> None:
    made = Run.create(folder / "run", kind="train", spec={})
    if last:
        made.append(RunEvent(last, step=3, steps=9))
        (made.path / "owner.json").write_text(
            json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "since": 1.0})
        )
    outcome = run("stop", made.path, "--json")
    assert outcome.code == 2
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.report["state"] == {None: "new", "progress": "interrupted"}.get(last, last)
    assert not made.stop_requested


@pytest.mark.parametrize("last", ["finished", "stopped"])
def test_a_run_that_has_ended_well_is_0_to_stop(run: Callable[..., Outcome], folder: Path, last: str) -> None:
    made = Run.create(folder / "run", kind="train", spec={})
    made.append(RunEvent(last, step=9, steps=9))
    outcome = run("stop", made.path, "--json")
    assert (outcome.code, outcome.err, outcome.report["state"]) == (0, "", last)


def test_a_kid_without_a_judge_is_not_shown_as_a_judges(run: Callable[..., Outcome], folder: Path) -> None:
    runs = [Run.create(folder / name, kind="train", spec={}) for name in ("alone", "judged")]
    alone = {"kid": 0.25, "kid_random": 0.25, "kid_space": "random", "kid_features": "r"}
    judged = {"kid": 0.125, "kid_random": 0.25, "kid_space": "judge", "kid_features": "j"}
    for made, metrics in zip(runs, (alone, judged), strict=True):
        made.append(RunEvent("finished", 9, 9, data={"metrics": metrics}))
    assert [run("stop", made.path, "--json").report["kid_space"] for made in runs] == ["random", "judge"]
    assert "kid_random 0.25" in run("stop", runs[0].path).out
    assert "kid 0" not in run("stop", runs[0].path).out
    assert "kid 0.125" in run("stop", runs[1].path).out
    compared = run("runs", "--compare", *(made.path for made in runs)).out
    assert re.search(r"^kid_space +random +judge$", compared, re.MULTILINE)
    assert "Their KIDs are measured in the features of different networks" in compared


def test_why_a_run_failed_is_said_when_asked_later(run: Callable[..., Outcome], folder: Path) -> None:
    failed = Run.create(folder / "run", kind="train", spec={})
    failed.append(RunEvent("failed", step=3, steps=9, message="The slide is gone; bring it back."))
    failed.append(
        RunEvent("metrics", step=3, steps=9, data={"metrics": {"warnings": ["One image, over and over."]}})
    )
    failed.append(RunEvent("failed", step=3, steps=9, message="The slide is gone; bring it back."))
    for command in (("stop", failed.path), ("runs",)):
        said = run(*command).out
        assert "The slide is gone; bring it back." in said
    assert "One image, over and over." in run("stop", failed.path).out


def test_a_detached_run_is_listed_and_stopped(
    run: Callable[..., Outcome], folder: Path, monkeypatch: pytest.MonkeyPatch, tiny_dataset: Path
) -> None:
    monkeypatch.setitem(
        training_config.PRESETS,
        "tiny",
        GAN.with_changes(checkpoint_every=10**6),  # type: ignore[index]
    )
    path, steps = folder / "run", 10**6
    started = run(
        "train", tiny_dataset, "--preset", "tiny", "--steps", steps, "--out", path, "--detach", "--json"
    )
    assert started.code == 0
    assert started.report["state"] in ("starting", "running")
    assert started.report["checkpoint"] is None
    again = run("train", tiny_dataset, "--preset", "tiny", "--out", path)
    assert "holds a run already" in again.refusal

    wait_for_kind(Run(path), "started")
    listed = run("runs", "--json")
    assert listed.code == 0
    (item,) = listed.report["runs"]
    assert (item["run"], item["kind"], item["state"], item["steps"]) == (str(path), "train", "running", steps)
    assert "is running already" in run("resume", path).refusal

    stopped = run("stop", path, "--json")
    assert stopped.code == 0
    assert stopped.report["state"] == "stopped"
    assert 0 < stopped.report["step"] < steps
    assert (Path(stopped.report["checkpoint"]) / "model.safetensors").exists()
    assert run("stop", path, "--json").report == stopped.report
    assert "stopped" in run("runs").out


# Reports


def test_info(run: Callable[..., Outcome], tiny_slide: Path) -> None:
    outcome = run("info", tiny_slide, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.report
    named = {"path", "backend", "vendor", "width_px", "height_px", "levels", "mpp_x", "mpp_y", "mpp_source"}
    assert named | {"bounds", "associated"} <= set(report)
    assert report["path"] == str(tiny_slide)
    assert (report["width_px"], report["height_px"]) == (768, 640)
    assert report["levels"] == [
        {"width_px": 768 // n, "height_px": 640 // n, "downsample": float(n)} for n in (1, 2, 4)
    ]
    assert report["mpp_x"] == report["mpp_y"] == pytest.approx(0.5)
    assert (report["backend"], report["vendor"]) == ("openslide", "generic-tiff")
    assert report["bounds"] == [0, 0, 768, 640]
    assert report["associated"] == []
    words = run("info", tiny_slide)
    assert words.code == 0
    assert "768 x 640 px, 0.5 x 0.5 µm per px" in words.out
    stated = run("info", tiny_slide, "--slide-mpp", 0.25, "--json").report
    assert (stated["mpp_x"], stated["mpp_source"]) == (0.25, "stated by the user")


@pytest.mark.parametrize(
    ("options", "level", "mpp"),
    [
        (["--level", "1"], 1, 1.0),
        (["--mpp", "0.5"], None, 0.5),
        (["--mpp", "0.8"], None, 0.8),
        (["--mag", "10"], None, 1.0),
    ],
)
def test_region(
    run: Callable[..., Outcome],
    folder: Path,
    tiny_slide: Path,
    options: list[str],
    level: int | None,
    mpp: float,
) -> None:
    out = folder / "new" / "part.png"
    outcome = run("region", tiny_slide, "--xy", 100, 200, "--size", 40, 30, "--out", out, "--json", *options)
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.report
    assert (report["width_px"], report["height_px"], report["level0_xy"]) == (40, 30, [100, 200])
    assert report["file"] == str(out)
    assert report["mpp"] == pytest.approx(mpp)
    with open_slide(tiny_slide) as slide:
        at: dict[str, Any] = {"level": level} if level is not None else {"mpp": mpp}
        expected = slide.read_region((100, 200), size_px=(40, 30), **at)
        digest = slide.info.digest
    np.testing.assert_array_equal(open_picture(out)[0], expected)
    chunk = chunk_of(out)
    assert (chunk["synthetic"], chunk["slide_digest"]) == (False, digest)
    reach = (40 * mpp / 0.5, 30 * mpp / 0.5)
    assert (chunk["x"], chunk["y"]) == pytest.approx((100 + reach[0] / 2, 200 + reach[1] / 2))
    assert chunk["level0_box"] == pytest.approx([100, 200, 100 + reach[0], 200 + reach[1]])
    assert chunk["mpp"] == pytest.approx(mpp)


def test_a_thumbnail_is_the_whole_slide(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, data_dir: Path
) -> None:
    out = folder / "thumbnail.png"
    report = run("thumbnail", tiny_slide, "--size", 192, "--out", out, "--json").report
    assert (report["width_px"], report["height_px"], report["downsample"]) == (192, 160, 4)
    assert report["mpp"] == pytest.approx(2.0)
    with open_slide(tiny_slide) as slide:
        assert np.array_equal(open_picture(out)[0], slide.read_region((0, 0), size_px=(192, 160), level=2))
    assert "192 x 160 px" in run("thumbnail", tiny_slide, "--size", 192, "--out", out).out
    assert "has no ICC profile" in run("thumbnail", tiny_slide, "--srgb", "--out", out).refusal
    with_profile = data_dir / "slides" / "fixtures" / "boxes.tiff"
    assert run("thumbnail", with_profile, "--srgb", "--out", out).code == 0


def test_annotations_check(run: Callable[..., Outcome], tiny_slide: Path, tiny_regions: Path) -> None:
    outcome = run("annotations", "check", tiny_regions, "--slide", tiny_slide, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    area = (310 * 520 - 80 * 80) + 300 * 520
    assert outcome.report == {
        "format": "qupath-geojson",
        "elements": 2,
        "regions": 2,
        "holes": 1,
        "points": 0,
        "classes": {"epithelium": 1, "stroma": 1},
        "area_px": pytest.approx(area),
        "repaired": 0,
        "repairs": [],
        "tidied": 0,
        "source_rings": 0,
        "dropped": 0,
        "outside": 0,
        "partly_outside": 0,
        "proposals": [],
        "messages": [],
    }
    assert f"{area:,} px²" in run("annotations", "check", tiny_regions).out


def test_annotations_convert_real_asap(run: Callable[..., Outcome], folder: Path, data_dir: Path) -> None:
    source = data_dir / "annotations/asap/camelyon16_tumor_036.xml"
    before = source.read_bytes()
    outcome = run("annotations", "convert", source, folder / "a.geojson", "--preset", "CAMELYON16", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.report
    assert (report["elements"], report["regions"], report["holes"]) == (105, 103, 2)
    assert report["classes"] == {"tumour": 103}
    assert report["written"] == str(folder / "a.geojson")
    assert report["written_format"] == "qupath-geojson"
    assert report["repaired"] == len(report["repairs"]) > 0
    written = read_annotations(folder / "a.geojson")
    assert written.classes == ("tumour",)
    assert sum(r.geometry.area for r in written.regions) == pytest.approx(report["area_px"])
    back = run("annotations", "convert", folder / "a.geojson", folder / "b.xml")
    assert back.code == 0
    assert f"written to {folder / 'b.xml'} as ASAP XML" in back.out
    again = run("annotations", "check", folder / "b.xml", "--json").report
    assert (again["format"], again["regions"], again["holes"]) == ("asap-xml", 103 + extra_parts(written), 2)
    assert again["area_px"] == pytest.approx(report["area_px"])
    assert source.read_bytes() == before
    assert sorted(v.name for v in folder.iterdir()) == ["a.geojson", "b.xml"]


def extra_parts(annotations: Annotations) -> int:
    """Return how many polygons a format without multipolygons writes besides the first of each region."""
    return sum(len(region.polygons) - 1 for region in annotations.regions)


def test_annotations_convert_with_what_can_be_chosen(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path, data_dir: Path
) -> None:
    out = folder / "a.xml"
    assert run("annotations", "convert", tiny_regions, out, "--format", "imagescope-xml").code == 0
    assert read_annotations(out).format == "imagescope-xml"
    options = ["--slide", tiny_slide, "--crop-to-bounds", "--scale", 0.5, "--shift", 10, 20, "--json"]
    report = run("annotations", "convert", tiny_regions, folder / "b.geojson", *options).report
    assert report["outside"] == 0
    moved = read_annotations(folder / "b.geojson").regions[0].geometry
    assert moved.bounds == (60 / 2 + 10, 60 / 2 + 20, 370 / 2 + 10, 580 / 2 + 20)
    mask = folder / "mask.tif"
    assert run("annotations", "convert", tiny_regions, mask, "--slide", tiny_slide).code == 0
    assert {r.class_name: r.geometry.area for r in read_annotations(mask).regions} == {
        "epithelium": 310 * 520 - 80 * 80,
        "stroma": 300 * 520,
    }
    nuclei = data_dir / "nuclei/monuseg/TCGA-HC-7209-01A-01-TS1.xml"
    n_source = nuclei.read_text().count("<Vertex ")
    areas = {}
    for rings in ("repaired", "source"):
        assert run("annotations", "convert", nuclei, folder / "n.xml", "--rings", rings).code == 0
        areas[rings] = (folder / "n.xml").read_text().count("<Coordinate ")
    # Rings that were closed by a point of their own lose that one alone.
    assert areas["repaired"] < areas["source"] <= n_source


def test_annotations_convert_that_leaves_something_out_is_3(
    run: Callable[..., Outcome], folder: Path
) -> None:
    document = {
        "type": "MultiPolygon",
        "coordinates": [[[[0, 0], [9, 0], [9, 9], [0, 0]]]],
    }
    line = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [0, 0]]]}
    features = [{"type": "Feature", "geometry": v, "properties": {"name": "n"}} for v in (document, line)]
    (folder / "in.geojson").write_text(json.dumps(features))
    outcome = run("annotations", "convert", folder / "in.geojson", folder / "out.xml", "--json")
    assert outcome.code == 3
    assert outcome.err == "1 of 2 shapes were left out; the report names them.\n"
    assert outcome.report["dropped"] == 1
    assert outcome.report["messages"] == ['feature 2 "n" dropped: 2 points that differ enclose no area']
    assert len(read_annotations(folder / "out.xml").regions) == 1
    # A check alone leaves nothing out of anything.
    assert run("annotations", "check", folder / "in.geojson").code == 0


def test_annotations_check_with_a_mapping_a_scale_and_a_shift(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path
) -> None:
    shapes = regions(folder / "r.geojson", Tumor=(10, 10, 100, 100), other=(10, 120, 100, 150))
    (folder / "mine.json").write_text(json.dumps({"groups": {"TUMOR": "lesion", "other": {"class": None}}}))
    check = ["annotations", "check", shapes, "--json"]
    assert run(*check, "--preset", "camelyon16").report["classes"] == {"other": 1, "tumour": 1}
    report = run(*check, "--preset", folder / "mine.json").report
    assert report["classes"] == {"lesion": 1}
    assert "group 'other' (1 shapes) was left out, as mapping mine says" in report["messages"]
    report = run(*check, "--slide", tiny_slide).report
    assert [v["factor"] for v in report["proposals"]] == [4.0, 2.0]
    assert run(*check, "--scale", 2, "--shift", 1, 1).report["area_px"] == 4 * (90 * 90 + 90 * 30)
    assert run(*check, "--scale", 4, "--slide", tiny_slide).report["proposals"] == []


def test_annotations_of_real_files_of_every_kind(run: Callable[..., Outcome], data_dir: Path) -> None:
    for name, form, n in (
        ("annotations/halo/example_holes.annotations", "halo-annotations", 6),
        ("annotations/other/darwin_v2_103S.json", "darwin-json", 17),
        ("annotations/other/ncrf_Tumor_030.json", "ncrf-json", 1),
        ("nuclei/monuseg/TCGA-HT-8564-01Z-00-DX1.xml", "imagescope-xml", 249),
    ):
        outcome = run("annotations", "check", data_dir / name, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        assert (outcome.report["format"], outcome.report["regions"]) == (form, n)


def test_extract_and_dataset_info(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    out = folder / "ds"
    outcome = run(
        "extract", tiny_slide, "--annotations", tiny_regions, "--out", out, "--json", "--workers", 1, *EXTRACT
    )
    assert outcome.code == 0
    report = outcome.report
    dataset = PatchDataset(out)
    assert report["patches"] == len(dataset) == sum(report["classes"].values())
    assert set(report["classes"]) == {"epithelium", "stroma"}
    assert set(report["splits"]) == {"train", "val", "test"}
    assert sum(report["splits"].values()) == report["patches"]
    assert report["failed"] == []
    empty = [name for name in ("train", "val", "test") if not report["splits"][name]]
    assert [v.split(" got no patch")[0] for v in report["messages"]] == [f"The split {v}" for v in empty]
    assert report["seconds"] > 0

    facts = run("dataset", "info", out, "--json")
    assert (facts.code, facts.err) == (0, "")
    told = facts.report
    assert (told["patches"], told["classes"]) == (report["patches"], report["classes"])
    assert {name: n for name, n in report["splits"].items() if n} == told["splits"]
    assert (told["size_px"], told["mpp"], told["digest"]) == (32, 1.0, dataset.digest)
    words = run("dataset", "info", out)
    assert f"{len(dataset)} patches of 32 px at 1 µm per px" in words.out
    assert run("dataset", "info", out, "--verify", "--json").report["verified"] is True
    (out / "pixels.zarr" / "c" / "0" / "0" / "0" / "0").write_bytes(b"junk")
    assert "are not those that were written" in run("dataset", "info", out, "--verify").refusal


def test_one_option_of_a_group_stands_for_the_group(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    cut = ["extract", tiny_slide, "--annotations", tiny_regions]
    assert run(*cut, "--out", folder / "a", *EXTRACT[:4], "--overlap", 20).code == 0
    preset = ["--preset", folder / "a" / "dataset.json", "--out", folder / "b"]
    given = [*preset, "--stride", 16, "--priority", "stroma"]
    assert run(*cut, *given).code == 0
    recipe = PatchDataset(folder / "b").settings["recipe"]
    assert (recipe["grid"]["stride_px"], recipe["grid"]["overlap_px"]) == (16, None)
    assert recipe["labels"]["rule"] == "priority"
    doubled = [*EXTRACT, "--out", folder / "c", "--priority", "stroma", "--rule", "area"]
    assert "means nothing to the rule area" in run(*cut, *doubled).refusal


def test_a_seed_of_the_split_is_a_seed(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = [
            tiny_slide,
            "--annotations",
            tiny_regions,
            "--out",
            folder / name,
            "--seed",
            seed,
            *EXTRACT,
        ]
        assert run("extract", *arguments).code == 0
    a, b, c = (PatchDataset(folder / name).digest for name in "abc")
    assert a == b != c


def test_every_option_of_the_recipe_reaches_the_dataset(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    options: dict[str, list[object]] = {
        "--size": [16],
        "--zoom": ["0,1"],
        "--overlap": [4],
        "--origin": [3, 5],
        "--edge": ["shift"],
        "--tissue": ["density"],
        "--min-tissue": [0.25],
        "--fill-holes": [30],
        "--drop-islands": [40],
        "--pens": ["blue,black"],
        "--reject-blur": [],
        "--min-focus": [0.5],
        "--max-white": [0.9],
        "--max-pen": [0.8],
        "--rule": ["priority"],
        "--threshold": [0.6],
        "--priority": ["stroma,epithelium"],
        "--default-class": ["rest"],
        "--ignore-above": [0.1],
        "--split-by": ["block"],
        "--shares": [0.6, 0.2, 0.2],
        "--balance": ["smallest"],
        "--per-class": [60],
        "--per-slide": [50],
        "--seed": [4],
        "--codec": ["jpeg"],
        "--jpeg-quality": [70],
        "--keep": ["tissue"],
    }
    given = [str(v) for name, values in options.items() for v in (name, *values)]
    outcome = run(
        "extract", tiny_slide, "--annotations", tiny_regions, "--out", folder / "ds", "--json", *given
    )
    assert outcome.code == 0
    recipe = PatchDataset(folder / "ds").settings["recipe"]
    expected = {
        "grid": {"size_px": 16, "downsamples": [1.0, 2.0], "overlap_px": 4, "edge": "shift", "mpp": None}
        | {"origin_px": [3.0, 5.0]},
        "tissue": {"method": "density", "min_tissue": 0.25, "fill_holes_below_um2": 30.0}
        | {"drop_islands_below_um2": 40.0, "pen_colors": ["blue", "black"], "reject_blur": True},
        "quality": {"min_focus": 0.5, "max_white": 0.9, "max_pen": 0.8},
        "labels": {"rule": "priority", "threshold": 0.6, "priority": ["stroma", "epithelium"]}
        | {"default_class": "rest", "ignore_above": 0.1},
        "split": {"by": "block", "fractions": [0.6, 0.2, 0.2], "seed": 4},
        "balance": {"method": "smallest", "per_class": 60, "per_slide": 50, "seed": 4},
        "store": {"codec": "jpeg", "jpeg_quality": 70, "keep": "tissue", "index_only": False},
    }
    for part, values in expected.items():
        assert values.items() <= recipe[part].items(), part
    classes = outcome.report["classes"]
    assert set(classes) == {"epithelium", "rest", "stroma"}
    assert 0 < max(classes.values()) <= 50

    # Its dataset.json is a recipe for the next.
    again = [
        "extract",
        tiny_slide,
        "--annotations",
        tiny_regions,
        "--out",
        folder / "again",
        "--codec",
        "raw",
    ]
    assert run(*again, "--preset", folder / "ds" / "dataset.json").code == 0
    by_mpp = [*again[:-2], "--preset", folder / "ds" / "dataset.json", "--mpp", 1, "--overwrite"]
    changed = PatchDataset(folder / "again").settings["recipe"]
    assert run(*by_mpp).code == 0  # another resolution takes the place of the recipe's own
    assert PatchDataset(folder / "again").settings["recipe"]["grid"]["downsamples"] == []
    assert changed.pop("store") == recipe.pop("store") | {"codec": "raw"}
    assert changed == recipe


def test_a_preset_and_a_view(run: Callable[..., Outcome], folder: Path, tiny_slide: Path) -> None:
    shapes = regions(folder / "r.geojson", tumour=(150, 150, 420, 420))
    cut = ["extract", tiny_slide, "--annotations", shapes, "--preset", "s1", "--size", 16, "--keep", "tissue"]
    report = run(*cut, "--out", folder / "ds", "--json").report
    assert report["classes"]["positive"] == report["classes"]["negative"]
    relabel = [
        "dataset",
        "relabel",
        folder / "ds",
        "--threshold",
        0.25,
        "--zoom",
        1,
        "--out",
        folder / "view",
    ]
    outcome = run(*relabel, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    view = PatchDataset(folder / "view")
    assert outcome.report["patches"] == len(view) > 0
    assert set(view.columns["downsample"].tolist()) == {2.0}
    assert "exists already" in run(*relabel).refusal
    words = run(*relabel, "--overwrite")
    assert f"{folder / 'view'}: {len(view)} patches of 16 px at 1 µm per px" in words.out
    assert "left out:" in words.out
    assert run("dataset", "info", folder / "view", "--json").report["digest"] == view.digest


def test_a_table_of_slides_and_a_folder_of_slides(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    (folder / "slides").mkdir()
    (folder / "regions").mkdir()
    for seed in range(3):
        slides.write_synthetic_slide(folder / "slides" / f"{seed}.tiff", size_px=(384, 320), seed=seed)
        regions(folder / "regions" / f"{seed}.geojson", a=(60, 60, 180, 260), b=(200, 60, 340, 260))
    by_folder = run(
        "extract", folder / "slides", "--annotations", folder / "regions", "--out", folder / "a", *EXTRACT
    )
    assert by_folder.code == 0
    assert len(set(PatchDataset(folder / "a").columns["slide"])) == 3
    lines = [f"slides/{seed}.tiff,regions/{seed}.geojson,p{seed}" for seed in (0, 1, 2, 9)]
    (folder / "batch.csv").write_text("\n".join(["slide,annotation,patient", *lines]))
    outcome = run("extract", folder / "batch.csv", "--out", folder / "b", *EXTRACT, "--json")
    assert outcome.code == 3
    (sentence,) = outcome.report["failed"]
    assert "9.tiff does not exist" in sentence
    assert set(PatchDataset(folder / "b").columns["patient"]) == {"p0", "p1", "p2"}
    doubled = run(
        "extract", folder / "batch.csv", "--annotations", tiny_regions, "--out", folder / "c", *EXTRACT
    )
    assert "says it for each slide; leave --annotations out" in doubled.refusal


def test_runs_when_there_are_none(run: Callable[..., Outcome]) -> None:
    assert run("runs", "--json").report == {"runs": []}
    assert "no runs" in run("runs").out


def test_a_fork_and_a_longer_run_are_listed_and_compared(
    run: Callable[..., Outcome],
    folder: Path,
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
    tiny_dataset: Path,
) -> None:
    def work(made: Run) -> None:  # in this process: what is launched is tested elsewhere
        KINDS[made.kind](made)

    monkeypatch.setattr("napari_histolatent.runs.launch", work)
    monkeypatch.setattr("napari_histolatent.jobs.follow.launch", work)
    first, second = folder / "first", folder / "second"
    made = run("fork", models.gan, "--steps", 22, "--seed", 5, "--out", first, "--json")
    assert made.code == 0
    assert (made.report["state"], made.report["step"], made.report["progress"]) == ("finished", 22, 1.0)
    assert made.report["checkpoint"] == str(first / "checkpoints" / "step-00000022")
    again = run("fork", first, "--steps", 23, "--learning-rate", 0.01, "--batch-size", 4, "--out", second)
    assert again.code == 0
    longer = run("resume", second, "--steps", 24, "--json").report
    assert (longer["state"], longer["step"], longer["steps"]) == ("finished", 24, 24)

    newest, older = run("runs", "--json").report["runs"]
    assert (newest["run"], older["run"]) == (str(second), str(first))
    for item in (newest, older):
        assert (item["dataset"], item["dataset_name"]) == (str(tiny_dataset), tiny_dataset.name)
        assert (item["network"], item["preset"]) == (GAN.network, GAN.preset)
        assert 0 <= item["age_seconds"] < 600
        assert item["progress"] == 1.0
    assert (newest["forked_from"]["step"], older["forked_from"]["step"]) == (22, 20)
    assert older["forked_from"]["digest"] == models.digest
    line = run("runs").out.splitlines()[0]
    for word in ("finished", "24/24", "100%", f"{GAN.network}/{GAN.preset}", tiny_dataset.name, str(second)):
        assert word in line

    compared = run("runs", "--compare", first, second, "--json").report
    assert (compared["a"], compared["b"], compared["same_dataset"]) == (str(first), str(second), True)
    settings = {item["name"]: (item["a"], item["b"]) for item in compared["settings"]}
    assert set(settings) == {"steps", "learning_rate", "batch_size", "forked_from"}
    assert settings["batch_size"] == (8, 4)
    results = {item["name"]: (item["a"], item["b"]) for item in compared["results"]}
    assert results["step"] == (22, 24)
    assert all(math.isfinite(value) for value in results["kid"])
    words = run("runs", "--compare", first, second).out
    assert re.search(r"^learning_rate +0\.001 +0\.01$", words, re.MULTILINE)


def test_a_run_that_diverged_is_reported_in_json_that_others_can_read(
    run: Callable[..., Outcome], folder: Path
) -> None:
    diverged = Run.create(folder / "run", kind="train", spec={})
    diverged.append(RunEvent("progress", 3, 9, {"generator": math.nan}))
    diverged.append(RunEvent("failed", 3, 9, message="The generator loss is nan at step 3."))
    (item,) = run("runs", "--json").report["runs"]
    assert (item["state"], item["losses"]) == ("failed", {"generator": None})


def test_sample(run: Callable[..., Outcome], folder: Path, models: Models) -> None:
    out = folder / "samples"
    outcome = run("sample", models.gan, "--out", out, "-n", 3, "--seed", 5, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.report
    assert (report["model_digest"], report["seed"]) == (models.digest, 5)
    assert {Path(name) for name in report["files"]} == set(out.iterdir())
    assert report["digests"] == [digest_of_file(Path(name)) for name in report["files"]]
    chunks = [chunk_of(name) for name in report["files"]]
    assert [chunk["label"] for chunk in chunks] == ["epithelium", "stroma", "epithelium"]
    for chunk in chunks:
        assert (chunk["synthetic"], chunk["seed"]) == (True, 5)
        assert chunk["model_digest"] == chunk["latent_point"]["checkpoint_digest"] == models.digest
        assert "seed 5" in chunk["latent_point"]["origin"]
        assert len(chunk["latent_point"]["values"]) == GAN.z_dim
    labelled = run("sample", models.gan, "--out", out, "-n", 2, "--label", "stroma", "--json").report
    assert [chunk_of(name)["label"] for name in labelled["files"]] == ["stroma"] * 2
    words = run("sample", models.gan, "--out", out, "-n", 1)
    assert "SYNTHETIC" in words.out


def test_an_exported_folder_is_taken_for_a_run(
    run: Callable[..., Outcome], folder: Path, models: Models, tiny_dataset: Path
) -> None:
    out = folder / "model"
    outcome = run("export", models.gan, "--out", out, "--licence", "CC0-1.0", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.report
    assert (report["model_digest"], report["step"], report["onnx_difference"]) == (models.digest, 20, None)
    assert {Path(name).name for name in report["files"]} == files_below(out)
    assert report["digests"] == [digest_of_file(Path(name)) for name in report["files"]]
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "CC0-1.0" in card
    assert f"Digest: `{PatchDataset(tiny_dataset).digest}`" in card
    assert "Patients: not stated; slides: 1" in card
    drawn = [
        run("sample", source, "-n", 1, "--seed", 7, "--out", folder / name, "--json").report
        for name, source in (("a", models.gan), ("b", out))
    ]
    assert drawn[0]["digests"] == drawn[1]["digests"]
    assert "is not a run folder" in run("fork", out, "--out", folder / "fork").refusal


def test_invert(run: Callable[..., Outcome], folder: Path, models: Models, tiny_slide: Path) -> None:
    place, out = f"{tiny_slide}@200,200", folder / "found"
    options = ["--steps", 10, "--classifier", models.classifier, "--out", out, "--json"]
    outcome = run("invert", models.gan, place, models.tile, *options)
    assert outcome.code == 0
    report = outcome.report
    assert (report["failed"], report["model_digest"]) == ([], models.digest)
    fields = {"rmse", "psnr_db", "ssim", "perceptual", "seconds", "verdict"}
    fields |= {"probability_real", "probability_reconstruction"}
    for item in report["images"]:
        assert fields <= set(item)
        assert 0 < item["rmse"] < 2
        assert sum(item["probability_real"].values()) == pytest.approx(1)
        assert sum(item["probability_reconstruction"].values()) == pytest.approx(1)
        real, drawn = (open_picture(Path(name))[0].astype(float) for name in item["files"])
        assert item["rmse"] == pytest.approx(np.sqrt((((real - drawn) / 127.5) ** 2).mean()), abs=0.01)
        assert item["label"] in ("epithelium", "stroma")
    with open_slide(tiny_slide) as slide:
        expected = slide.read_region((168, 168), size_px=(32, 32), mpp=1.0)
        digest = slide.info.digest
    real_file, drawn_file = report["images"][0]["files"]
    np.testing.assert_array_equal(open_picture(Path(real_file))[0], expected)
    real, drawn = chunk_of(real_file), chunk_of(drawn_file)
    assert (real["synthetic"], drawn["synthetic"]) == (False, True)
    for chunk in (real, drawn):
        assert (chunk["slide_digest"], chunk["x"], chunk["y"]) == (digest, 200, 200)
        assert chunk["level0_box"] == [168, 168, 232, 232]
        assert chunk["mpp"] == pytest.approx(1.0)
    assert drawn["latent_point"]["checkpoint_digest"] == models.digest
    assert "reverse search of" in drawn["latent_point"]["origin"]


def test_invert_takes_the_class_that_is_named(
    run: Callable[..., Outcome], folder: Path, models: Models
) -> None:
    for label, weights in (("epithelium", [1, 0]), ("stroma", [0, 1])):
        options = ["--steps", 2, "--out", folder / label, "--json", "--label", label]
        (item,) = run("invert", models.gan, models.tile, *options).report["images"]
        assert item["label"] == label
        assert chunk_of(item["files"][1])["latent_point"]["class_weights"] == weights
        assert (item["probability_real"], item["probability_reconstruction"]) == (None, None)


def test_flip(run: Callable[..., Outcome], folder: Path, models: Models) -> None:
    options = ["--to", "stroma", "--classifier", models.classifier, "--out", folder / "flipped", "--json"]
    outcome = run("flip", models.gan, models.tile, *options)
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.report
    assert (report["to"], report["failed"]) == ("stroma", [])
    (item,) = report["images"]
    before, after = chunk_of(models.tile)["latent_point"], chunk_of(item["file"])["latent_point"]
    assert before["values"] == after["values"]
    assert (before["class_weights"], after["class_weights"]) == ([1, 0], [0, 1])
    assert sum(item["probability_before"].values()) == pytest.approx(1)
    assert sum(item["probability_after"].values()) == pytest.approx(1)
    assert (open_picture(Path(item["file"]))[0] != open_picture(models.tile)[0]).any()


def test_a_tile_without_a_point_is_searched_before_it_is_flipped(
    run: Callable[..., Outcome], folder: Path, models: Models
) -> None:
    Image.fromarray(open_picture(models.tile)[0]).save(folder / "plain.png")
    outcome = run("flip", models.gan, folder / "plain.png", "--to", "stroma", "--out", folder / "o", "--json")
    assert outcome.code == 0
    assert "plain: searched, RMSE" in outcome.err
    (item,) = outcome.report["images"]
    assert "reverse search of plain" in chunk_of(item["file"])["latent_point"]["origin"]


def test_interpolate(run: Callable[..., Outcome], folder: Path, models: Models) -> None:
    assert run("sample", models.gan, "-n", 2, "--seed", 3, "--out", folder / "ends").code == 0
    a, b = folder / "ends" / "sample_0000.png", folder / "ends" / "sample_0001.png"
    options = ["--frames", 4, "--classifier", models.classifier, "--out", folder / "between", "--json"]
    outcome = run("interpolate", models.gan, a, b, *options)
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.report
    assert len(set(report["files"])) == len(report["probabilities"]) == 4
    weights = [chunk_of(name)["latent_point"]["class_weights"][1] for name in report["files"]]
    assert weights == pytest.approx([0, 1 / 3, 2 / 3, 1])
    for file, end in ((report["files"][0], a), (report["files"][-1], b)):
        ours, theirs = (open_picture(Path(name))[0].astype(int) for name in (file, end))
        np.testing.assert_allclose(ours, theirs, atol=1)
    strip = chunk_of(report["strip"])
    assert (strip["synthetic"], strip["model_digest"]) == (True, models.digest)
    assert [Path(strip[end]).stem for end in ("from", "to")] == ["sample_0000", "sample_0001"]
    assert open_picture(Path(report["strip"]))[0].shape == (32, 4 * 32 + 3 * 4, 3)


def test_gradcam(run: Callable[..., Outcome], folder: Path, models: Models, tiny_slide: Path) -> None:
    place = f"{tiny_slide}@200,200"
    options = ["--target", "stroma", "--out", folder / "maps", "--json"]
    outcome = run("gradcam", models.classifier, place, models.tile, *options)
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.report
    assert report["failed"] == []
    for item, synthetic in zip(report["images"], (False, True), strict=True):
        assert item["target"] == "stroma"
        assert 0 <= item["probability"] <= 1
        assert item["layer"]
        overlay, raw = item["files"]
        assert open_picture(Path(overlay))[0].shape == (32, 32, 3)
        assert chunk_of(overlay)["synthetic"] is synthetic
        assert chunk_of(overlay)["heatmap"]["target"] == "stroma"
        with tifffile.TiffFile(raw) as file:
            values = file.asarray()
            described = json.loads(file.pages[0].description)  # type: ignore[union-attr]
        assert (values.shape, values.dtype) == ((32, 32), np.float32)
        assert values.min() >= 0
        assert described["synthetic"] is synthetic
        facts = described["heatmap"]
        assert facts["maximum"] == item["maximum"] == pytest.approx(float(values.max()))
        assert facts["classifier_digest"] == item["classifier_digest"]
    assert report["images"][0]["level0_box"] == [168, 168, 232, 232]


# Done in part


def test_one_of_two_slides_failing_is_3(
    run: Callable[..., Outcome], folder: Path, data_dir: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    (folder / "regions").mkdir()
    broken = data_dir / "slides" / "fixtures" / "broken.svs"
    for stem in ("tiny", "broken"):
        shutil.copyfile(tiny_regions, folder / "regions" / f"{stem}.geojson")
    arguments = ["--annotations", folder / "regions", "--out", folder / "ds", *EXTRACT]
    outcome = run("extract", tiny_slide, broken, *arguments, "--json")
    assert outcome.code == 3
    (sentence,) = outcome.report["failed"]
    assert "broken.svs is not a slide that can be opened" in sentence
    assert outcome.report["patches"] == len(PatchDataset(folder / "ds")) > 0


def test_a_slide_without_annotations_is_left_out(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    (folder / "regions").mkdir()
    shutil.copyfile(tiny_regions, folder / "regions" / "tiny.geojson")
    shutil.copyfile(tiny_slide, folder / "other.tiff")
    arguments = ["--annotations", folder / "regions", "--out", folder / "ds", *EXTRACT]
    outcome = run("extract", tiny_slide, folder / "other.tiff", *arguments)
    assert outcome.code == 3
    assert "holds no annotations of other.tiff (other.xml, other.geojson, " in outcome.out


@pytest.mark.parametrize("command", ["invert", "flip", "gradcam"])
def test_one_of_two_images_failing_is_3(
    run: Callable[..., Outcome], folder: Path, models: Models, command: str
) -> None:
    model = models.classifier if command == "gradcam" else models.gan
    options = {"invert": ["--steps", 2], "flip": ["--to", "stroma"], "gradcam": []}[command]
    outcome = run(
        command, model, folder / "nowhere.png", models.tile, "--out", folder / "o", "--json", *options
    )
    assert outcome.code == 3
    assert len(outcome.report["images"]) == 1
    (sentence,) = outcome.report["failed"]
    assert "nowhere.png cannot be opened" in sentence
    assert sentence in outcome.err


@pytest.mark.parametrize("command", ["invert", "flip", "gradcam"])
def test_images_of_one_name_do_not_overwrite_each_other(
    run: Callable[..., Outcome], folder: Path, models: Models, command: str
) -> None:
    pixels, provenance = open_picture(models.tile)
    for name, picture in (("a", pixels), ("b", 255 - pixels)):
        save_picture(folder / name / "tile.png", picture, provenance)
    model = models.classifier if command == "gradcam" else models.gan
    options = {"invert": ["--steps", 2], "flip": ["--to", "stroma"], "gradcam": []}[command]
    images = [folder / "a" / "tile.png", folder / "b" / "tile.png"]
    outcome = run(command, model, *images, "--out", folder / "o", "--json", *options)
    assert outcome.code == 0
    files = [name for item in outcome.report["images"] for name in item.get("files", [item.get("file")])]
    files += [item["tuned_weights"] for item in outcome.report["images"] if item.get("tuned_weights")]
    assert len(set(files)) == len(files)
    assert {str(folder / "o" / name) for name in files_below(folder / "o")} == set(files)


def test_a_search_into_the_folder_of_its_tile_leaves_the_file_as_it_was(
    run: Callable[..., Outcome], folder: Path, models: Models
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "a pathologist")
    Image.fromarray(open_picture(models.tile)[0]).save(folder / "tile.png", pnginfo=info)
    before = (folder / "tile.png").read_bytes()
    run("invert", models.gan, folder / "tile.png", "--steps", 2, "--out", folder)
    assert (folder / "tile.png").read_bytes() == before


# What the user can mend


def test_a_file_that_is_no_slide(
    run: Callable[..., Outcome], folder: Path, data_dir: Path, tiny_regions: Path
) -> None:
    broken = data_dir / "slides" / "fixtures" / "broken.svs"
    words = "broken.svs is not a slide that can be opened"
    assert words in run("info", broken).refusal
    assert words in run("info", broken, "--json").refusal
    assert words in run("annotations", "check", tiny_regions, "--slide", broken).refusal
    out = ["--out", folder / "out"]
    assert words in run("region", broken, "--xy", 0, 0, "--size", 9, 9, "--level", 0, *out).refusal
    assert words in run("extract", broken, "--annotations", tiny_regions, *EXTRACT, *out).refusal
    assert words in run("demo", "--slide", broken, "--headless", *out).refusal
    assert list(folder.iterdir()) == []


def test_a_slide_that_opens_and_cannot_be_read(
    run: Callable[..., Outcome], folder: Path, tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> None:
    unreadable = data_dir / "slides" / "fixtures" / "unreadable.svs"
    shapes = regions(tmp_path_factory.mktemp("r") / "r.geojson", a=(0, 0, 8, 16), b=(8, 0, 16, 16))
    assert run("info", unreadable).code == 0
    words = r"unreadable.svs opens, but its pixels at"
    out = ["--out", folder / "out"]
    assert words in run("region", unreadable, "--xy", 0, 0, "--size", 9, 9, "--level", 0, *out).refusal
    grid = ["--size", 8, "--level", 0]
    assert words in run("extract", unreadable, "--annotations", shapes, *grid, *out).refusal
    assert list(folder.iterdir()) == []


def test_a_slide_without_a_pixel_size(
    run: Callable[..., Outcome], folder: Path, tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> None:
    slide = data_dir / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    shapes = regions(
        tmp_path_factory.mktemp("r") / "r.geojson", a=(900, 900, 1900, 1900), b=(2000, 900, 3000, 1900)
    )
    assert run("info", slide, "--json").report["mpp_x"] is None
    assert "pixel size not stated" in run("info", slide).out
    words = "does not state its pixel size (mpp missing); set it in the Slide dock, ask for a level"
    part = ["region", slide, "--xy", 1000, 1000, "--size", 20, 20, "--out", folder / "part.png"]
    assert words in run(*part, "--mpp", 0.5).refusal
    assert words in run(*part, "--mag", 20).refusal
    cut = ["extract", slide, "--annotations", shapes, "--size", 64, "--out", folder / "ds"]
    assert words in run(*cut, "--mpp", 0.5).refusal
    assert list(folder.iterdir()) == []
    # Each remedy that it names works.
    assert run(*part, "--level", 0).code == 0
    assert chunk_of(folder / "part.png")["mpp"] is None
    assert run(*part, "--mpp", 0.5, "--slide-mpp", 0.25).code == 0
    assert chunk_of(folder / "part.png")["level0_box"] == [1000, 1000, 1040, 1040]


def test_annotations_outside_the_slide(
    run: Callable[..., Outcome], folder: Path, tmp_path_factory: pytest.TempPathFactory, tiny_slide: Path
) -> None:
    shapes = regions(
        tmp_path_factory.mktemp("r") / "r.geojson", a=(9000, 0, 9100, 90), b=(9000, 100, 9100, 190)
    )
    words = "All 2 regions lie outside tiny.tiff (768 x 640 px): the first starts at x=9000, y=0"
    outcome = run("annotations", "check", shapes, "--slide", tiny_slide)
    assert outcome.code == 2
    assert outcome.err.startswith(f"Error: {words}")
    assert "outside the slide 2" in outcome.out
    assert run("annotations", "check", shapes, "--slide", tiny_slide, "--json").report["outside"] == 2
    cut = ["extract", tiny_slide, "--annotations", shapes, "--out", folder / "ds", *EXTRACT]
    assert words in run(*cut).refusal
    assert list(folder.iterdir()) == []
    assert run("annotations", "check", shapes).code == 0


def test_one_region_outside_is_reported(run: Callable[..., Outcome], folder: Path, tiny_slide: Path) -> None:
    shapes = regions(folder / "r.geojson", a=(0, 0, 100, 100), b=(9000, 0, 9100, 90))
    outcome = run("annotations", "check", shapes, "--slide", tiny_slide, "--json")
    assert outcome.code == 0
    assert outcome.report["outside"] == 1
    assert " (b) lies outside the slide" in outcome.report["messages"][0]


def test_a_class_with_no_patches(
    run: Callable[..., Outcome], folder: Path, tmp_path_factory: pytest.TempPathFactory, tiny_slide: Path
) -> None:
    shapes = regions(
        tmp_path_factory.mktemp("r") / "r.geojson", wide=(60, 60, 370, 580), narrow=(400, 60, 404, 64)
    )
    outcome = run("extract", tiny_slide, "--annotations", shapes, "--out", folder / "ds", *EXTRACT)
    assert "Class 'narrow' has no patches of 32 px" in outcome.refusal
    assert "lower the threshold" in outcome.refusal
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there(
    run: Callable[..., Outcome],
    folder: Path,
    models: Models,
    tiny_dataset: Path,
    device: str,
) -> None:
    options = ["--out", folder / "out", "--device", device]
    for command in (
        ["train", tiny_dataset],
        ["classifier", "train", tiny_dataset],
        ["fork", models.gan, "--steps", 99],
        ["sample", models.gan],
        ["invert", models.gan, models.tile],
        ["flip", models.gan, models.tile, "--to", "stroma"],
        ["interpolate", models.gan, models.tile, models.tile],
        ["gradcam", models.classifier, models.tile],
    ):
        assert f"{device!r}" in run(*command, *options).refusal
        assert list(folder.iterdir()) == [], command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT"],
            "Give one of --mpp, --level or --mag",
        ),
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--zoom", "0", "--mpp", 1],
            "Give one of --zoom, --mpp, --level or --mag",
        ),
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--zoom", "near"],
            "The zoom 'near' is not a list of whole numbers",
        ),
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--zoom", "-1"],
            "A downsample of 0.5 is not possible",
        ),
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--preset", "s9"],
            "There is no recipe 's9'",
        ),
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--preset", "REGIONS"],
            "holds no recipe",
        ),
        (
            ["extract", "SLIDE", "--out", "OUT", "--mpp", 1],
            "has no regions and no label, so its patches get no class",
        ),
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--size", 1024, "--mpp", 1],
            "smaller than one patch of 2048 level-0 px",
        ),
        (["dataset", "relabel", "DATASET", "--out", "OUT", "--zoom", 5], "no patches of downsample 32"),
        (["dataset", "relabel", "DATASET", "--out", "OUT", "--rule", "whim"], "no label rule 'whim'"),
        (["dataset", "export", "DATASET", "OUT", "--format", "gif"], "gif"),
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--mpp", 1, "--level", 0],
            "not --level and --mpp",
        ),
        (["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--mag", 0], "magnification of 0"),
        (
            ["extract", "SLIDE", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", "--mpp", 1],
            "2 slides need a folder with a file named as each slide, not one file (--annotations ",
        ),
        (
            ["extract", "SLIDE", "--annotations", "nowhere", "--out", "OUT", "--mpp", 1],
            "nowhere does not exist",
        ),
        (
            ["extract", "SLIDE", "--annotations", "REGIONS", "--out", "OUT", *EXTRACT, "--rule", "whim"],
            "whim",
        ),
        (["region", "SLIDE", "--xy", 0, 0, "--size", 0, 9, "--level", 0, "--out", "OUT"], "is empty"),
        (["region", "SLIDE", "--xy", 0, 0, "--size", 9, 9, "--level", 7, "--out", "OUT"], "has no level 7"),
        (["annotations", "check", "nowhere"], "nowhere does not exist"),
        (["annotations", "check", "SLIDE"], "is a TIFF that is no label mask"),
        (["annotations", "check", "REGIONS", "--preset", "nobody"], "There is no class mapping 'nobody'"),
        (["annotations", "check", "REGIONS", "--scale", 0], "--scale 0 --shift 0 0 is not possible"),
        (["annotations", "check", "REGIONS", "--scale", "nan"], "is not possible"),
        (["annotations", "check", "REGIONS", "--shift", 1, "inf"], "is not possible"),
        (["annotations", "check", "nowhere.xml", "--slide", "nowhere.svs"], "nowhere.svs does not exist"),
        (["annotations", "convert", "REGIONS", "OUT"], "The suffix of out tells no format"),
        (["annotations", "convert", "REGIONS", "OUT.svg"], "tells no format; name the file with one of"),
        (
            ["annotations", "convert", "REGIONS", "OUT.xml", "--format", "halo"],
            "no format that can be written",
        ),
        (["annotations", "convert", "REGIONS", "OUT.xml", "--rings", "wedding"], "neither 'repaired' nor"),
        (
            ["annotations", "convert", "REGIONS", "OUT.xml", "--crop-to-bounds"],
            "needs the slide whose bounds",
        ),
        (["annotations", "convert", "REGIONS", "OUT.ndpa"], "mean nothing without their slide"),
        (["annotations", "convert", "REGIONS", "OUT.csv"], "A table of points cannot hold the 2 areas"),
        (["annotations", "convert", "REGIONS", "REGIONS"], "is the file the regions were imported from"),
        (["dataset", "info", "nowhere"], "is not a patch dataset"),
        (["train", "nowhere", "--out", "OUT"], "is not a patch dataset"),
        (["train", "DATASET", "--out", "OUT", "--preset", "grand"], "no preset named 'grand'"),
        (["train", "DATASET", "--out", "OUT", "--network", "resnet"], "no network named 'resnet'"),
        (
            ["train", "DATASET", "--out", "OUT", "--size", 64],
            "patches of 32 px, the training is set to 64 px",
        ),
        (["train", "DATASET", "--out", "OUT", "--steps", 0], "steps has to be at least 1"),
        (["classifier", "train", "DATASET", "--out", "OUT", "--network", "cat"], "no classifier named 'cat'"),
        (
            ["classifier", "train", "DATASET", "--out", "OUT", "--fine-tune"],
            "learns in all its layers anyway",
        ),
        (["classifier", "train", "DATASET", "--out", "OUT", "--weights", "TILE"], "cannot start from "),
        (
            ["classifier", "train", "DATASET", "--out", "OUT", "--weights-sha256", "ab"],
            "but no file of weights",
        ),
        (["train", "DATASET", "--out", "OUT", "--size", 24], "The modern design draws squares of 16, 32"),
        (["train", "DATASET", "--out", "OUT", "--batch-size", 10**9], "batch_size has to be at most 65536"),
        (["train", "DATASET", "--out", "OUT", "--set", "judge=GAN"], "The judge GAN cannot be used"),
        (["resume", "nowhere"], "nowhere is not a run folder"),
        (["resume", "GAN", "--steps", 20], "has done 20 steps already; give more --steps than that, not 20"),
        (["fork", "nowhere", "--out", "OUT"], "nowhere is not a run folder"),
        (["fork", "GAN", "--out", "OUT"], "has done 20 steps of 20 already"),
        (["fork", "GAN", "--out", "OUT", "--steps", 30, "--step", 7], "no checkpoint of step 7"),
        (
            ["fork", "GAN", "--out", "OUT", "--steps", 30, "--batch-size", 0],
            "batch_size has to be at least 1",
        ),
        (["fork", "GAN", "--out", "GAN", "--steps", 30], "holds a run already"),
        (["runs", "--compare", "GAN", "nowhere"], "nowhere is not a run folder"),
        (["export", "nowhere", "--out", "OUT"], "nowhere is not a run folder"),
        (["export", "GAN", "--out", "GAN"], "is there already; choose another --out"),
        (["export", "GAN", "--out", "OUT", "--step", 7], "it keeps those of the steps 20"),
        (["export", "GAN", "--out", "OUT", "--step", 20, "--best"], "not both"),
        (["export", "GAN", "--out", "OUT", "--assume-mpp", 0], "pixel size of 0 µm is not possible"),
        (["export", "GAN", "--out", "OUT", "--dataset", "nowhere"], "is not a patch dataset"),
        (["export", "CLF", "--out", "OUT", "--onnx"], "ONNX files are made of generators only"),
        (["stop", "nowhere"], "nowhere is not a run folder"),
        (["sample", "nowhere", "--out", "OUT"], "nowhere is not a run folder"),
        (["sample", "shipped", "--out", "OUT"], "ships no trained model"),
        (["sample", "GAN", "--out", "OUT", "--label", "tumour"], "no class 'tumour'"),
        (["sample", "CLF", "--out", "OUT"], "holds a classifier, where a generator is needed"),
        (["gradcam", "GAN", "TILE", "--out", "OUT"], "holds a gan, where a classifier is needed"),
        (["gradcam", "CLF", "TILE", "--out", "OUT", "--target", "tumour"], "no class 'tumour'"),
        (["invert", "GAN", "TILE", "--out", "OUT", "--label", "tumour"], "no class 'tumour'"),
        (["invert", "GAN", "TILE", "--out", "OUT", "--method", "guess"], "no reverse search named 'guess'"),
        (["invert", "GAN", "nowhere.png", "--out", "OUT"], "nowhere.png cannot be opened"),
        (["invert", "GAN", "SLIDE@9000,0", "--out", "OUT"], "lies off tiny.tiff"),
        (["invert", "GAN", "SLIDE@1.2.3,0", "--out", "OUT"], "1.2.3"),
        (["invert", "GAN", "TILE", "--classifier", "GAN", "--out", "OUT"], "where a classifier is needed"),
        (["flip", "GAN", "TILE", "--to", "tumour", "--out", "OUT"], "no class 'tumour'"),
        (["interpolate", "GAN", "TILE", "nowhere.png", "--out", "OUT"], "nowhere.png cannot be opened"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_leaves_nothing(
    run: Callable[..., Outcome],
    folder: Path,
    request: pytest.FixtureRequest,
    models: Models,
    arguments: list[Any],
    words: str,
) -> None:
    named = {
        "SLIDE": request.getfixturevalue("tiny_slide"),
        "REGIONS": request.getfixturevalue("tiny_regions"),
        "DATASET": request.getfixturevalue("tiny_dataset"),
        "GAN": models.gan,
        "CLF": models.classifier,
        "TILE": models.tile,
        "OUT": folder / "out",
    }
    filled = []
    for argument in arguments:
        name, at, place = str(argument).partition("@")
        filled.append(f"{named.get(name, name)}{at}{place}")
    assert words in run(*filled).refusal
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ["invert", "flip", "interpolate"])
def test_a_classifier_of_other_classes_is_refused(
    run: Callable[..., Outcome],
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    models: Models,
    command: str,
) -> None:
    other = with_other_classes(models.classifier, tmp_path_factory.mktemp("other") / "classifier")
    images = [models.tile] * (2 if command == "interpolate" else 1)
    options = {"invert": ["--steps", 2], "flip": ["--to", "stroma"], "interpolate": []}[command]
    outcome = run(command, models.gan, *images, "--classifier", other, "--out", folder / "o", *options)
    assert "knows the classes epithelium, stroma, the classifier normal, tumour" in outcome.refusal
    assert list(folder.iterdir()) == []


# A disk that refuses


@pytest.fixture(
    params=["region", "extract", "train", "sample", "invert", "flip", "interpolate", "gradcam", "demo"]
)
def writer(
    request: pytest.FixtureRequest, models: Models, tiny_slide: Path, tiny_regions: Path, tiny_dataset: Path
) -> tuple[list[object], str]:
    """A command line that writes, without its --out, and what is added to the folder for it."""
    name = str(request.param)
    arguments: dict[str, list[object]] = {
        "region": [tiny_slide, "--xy", 0, 0, "--size", 20, 20, "--level", 0],
        "extract": [tiny_slide, "--annotations", tiny_regions, *EXTRACT],
        "train": [tiny_dataset, "--preset", "demo", "--steps", 1],
        "sample": [models.gan, "-n", 1],
        "invert": [models.gan, models.tile, "--steps", 1],
        "flip": [models.gan, models.tile, "--to", "stroma"],
        "interpolate": [models.gan, models.tile, models.tile],
        "gradcam": [models.classifier, models.tile],
        "demo": ["--slide", tiny_slide, "--annotations", tiny_regions, "--headless", "--steps", 1],
    }
    return [name, *arguments[name]], "part.png" if name == "region" else ""


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "it is read-only")]
)
def test_a_full_or_read_only_disk_is_one_sentence_and_no_half_is_left(
    run: Callable[..., Outcome],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: tuple[list[object], str],
    code: int,
    words: str,
) -> None:
    tried = []

    def replace(source: Any, target: Any, **_: Any) -> None:
        tried.append(str(target))
        raise OSError(code, os.strerror(code), str(target))

    arguments, name = writer
    # Every file and folder of ours takes its name at the end: this is where the disk says no.
    monkeypatch.setattr(os, "replace", replace)
    outcome = run(*arguments, "--out", folder / "out" / name)
    assert tried
    refusal = outcome.last_refusal if arguments[0] == "demo" else outcome.refusal
    assert words in refusal
    assert str(folder / "out") in refusal
    assert files_below(folder) == set()
    assert not any(path.name.endswith(".tmp") for path in folder.rglob("*"))
    if arguments[0] == "extract":
        assert not (folder / "out").exists()


def test_a_file_in_the_way_is_one_sentence(
    run: Callable[..., Outcome], folder: Path, writer: tuple[list[object], str]
) -> None:
    (folder / "file").write_text("here first")
    arguments, name = writer
    for out in (folder / "file", folder / "file" / "below"):
        if arguments[0] == "extract" and out == folder / "file":
            words = "exists already"
        elif arguments[0] == "train" and out == folder / "file":
            words = "choose another folder"
        else:
            words = "a file is in the way"
        assert words in run(*arguments, "--out", out / name).refusal
    assert (folder / "file").read_text() == "here first"
    assert files_below(folder) == {"file"}


def test_a_folder_in_the_place_of_a_picture_is_one_sentence(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path
) -> None:
    (folder / "mine").mkdir()
    part = ["region", tiny_slide, "--xy", 0, 0, "--size", 20, 20, "--level", 0]
    assert str(folder) in run(*part, "--out", folder / "mine").refusal
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_an_extraction_that_fails_in_the_middle_goes_on_when_there_is_room(
    run: Callable[..., Outcome],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_slide: Path,
    tiny_regions: Path,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cut = ["extract", tiny_slide, "--annotations", tiny_regions, "--out", folder / "ds", *EXTRACT]
    with monkeypatch.context() as patch:
        patch.setattr("napari_histolatent.patches._cutting.write_shard", full)
        outcome = run(*cut)
    assert "the disk is full" in outcome.refusal
    assert [path.name for path in folder.iterdir()] == ["ds.part"]
    assert run(*cut).code == 0
    assert [path.name for path in folder.iterdir()] == ["ds"]


def test_a_refusal_under_a_progress_bar_is_one_line_too(
    run: Callable[..., Outcome], folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    (folder / "ds").mkdir()
    outcome = run("extract", tiny_slide, "--annotations", tiny_regions, "--out", folder / "ds", *EXTRACT)
    assert outcome.err == f"Error: {folder / 'ds'} exists already and is no dataset; name another folder.\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tiny_slide: Path) -> None:
    def slip(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(slides, "open_slide", slip)
    with pytest.raises(ZeroDivisionError):
        run_command(["info", str(tiny_slide)])


# The command itself, in processes of its own


def test_the_whole_path_with_the_installed_command(
    folder: Path, tiny_slide: Path, tiny_regions: Path
) -> None:
    command = shutil.which("histolatent", path=str(Path(sys.executable).parent))
    assert command is not None

    def call(*arguments: object) -> dict[str, Any]:
        result = subprocess.run(
            [command, *map(str, arguments), "--json"], capture_output=True, text=True, cwd=folder, check=False
        )
        assert result.returncode == 0, result.stderr
        return Outcome(result.returncode, result.stdout, result.stderr).report

    cut = call("extract", tiny_slide, "--annotations", tiny_regions, "--out", "ds", *EXTRACT)
    assert cut["patches"] > 100
    gan = call("train", "ds", "--preset", "demo", "--steps", 10, "--out", "gan", "--device", "cpu")
    assert (gan["state"], gan["step"], gan["steps"]) == ("finished", 10, 10)
    assert set(gan["losses"]) == {"discriminator", "generator"}
    assert math.isfinite(gan["kid"])
    assert gan["checkpoint"] == str(folder / "gan" / "checkpoints" / "step-00000010")
    judge = call("classifier", "train", "ds", "--network", "convnet", "--steps", 10, "--out", "clf")
    assert (judge["state"], judge["step"]) == ("finished", 10)
    assert 0 <= judge["accuracy"] <= 1
    assert set(judge["per_class"]) == {"epithelium", "stroma"}
    assert judge["n"] > 0

    places = [f"{tiny_slide}@200,200", f"{tiny_slide}@550,300"]
    found = call("invert", "gan", *places, "--steps", 5, "--classifier", "clf", "--out", "found")
    (real_a, a), (_, b) = (item["files"] for item in found["images"])
    (other,) = {"epithelium", "stroma"} - {found["images"][0]["label"]}
    flipped = call("flip", "gan", a, "--to", other, "--classifier", "clf", "--out", "flipped")
    between = call("interpolate", "gan", a, b, "--frames", 3, "--out", "between")
    flip = flipped["images"][0]["file"]
    maps = call("gradcam", "clf", real_a, a, flip, "--target", "stroma", "--out", "maps")

    real = chunk_of(folder / real_a)
    assert (real["synthetic"], real["x"], real["y"], real["latent_point"]) == (False, 200, 200, None)
    for name in (a, flip, *between["files"]):
        assert chunk_of(folder / name)["source"].endswith("tiny.tiff@200,200"), name
    for name in (a, b, flip, *between["files"]):
        chunk = chunk_of(folder / name)
        assert chunk["synthetic"] is True
        assert chunk["model_digest"] == found["model_digest"]
        assert chunk["slide_digest"] == real["slide_digest"]
        assert chunk["mpp"] == pytest.approx(1.0)
    assert (chunk_of(folder / flip)["x"], chunk_of(folder / flip)["y"]) == (200, 200)
    assert [chunk_of(folder / item["files"][0])["synthetic"] for item in maps["images"]] == [
        False,
        True,
        True,
    ]
    assert not any(name.endswith(".tmp") for name in files_below(folder))
