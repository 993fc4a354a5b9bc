"""The commands that edit tiles: what they make, say and refuse. What all commands have in common is in test_cli."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from napari_histolatent._pictures import open_picture, save_picture
from napari_histolatent.cli import run_command
from tests.jobs.tiny import CLASSIFIER, GAN, one_thread, trained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@dataclass(frozen=True)
class Models:
    """Two runs, pictures of the generator that know their latent points, and one that knows nothing."""

    gan: Path
    classifier: Path
    tiles: tuple[Path, ...]
    plain: Path


@pytest.fixture(scope="module")
def models(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    gan = trained(tiny_dataset, folder / "gan", GAN)
    classifier = trained(tiny_dataset, folder / "classifier", CLASSIFIER)
    assert run_command(["sample", str(gan), "--out", str(folder), "-n", "3", "--seed", "7"]) == 0
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(60, 200, (32, 32, 3)).astype(np.uint8)).save(folder / "plain.png")
    tiles = tuple(folder / f"sample_{i:04d}.png" for i in range(3))
    return Models(gan, classifier, tiles, folder / "plain.png")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run a command line with --json; return the exit code, the report ({} if none) and stderr."""

    def call(*arguments: object, report: bool = True) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        code = run_command([str(v) for v in arguments] + (["--json"] if report else []))
        out, err = capfd.readouterr()
        return code, json.loads(out) if out and report else {}, err

    return call


def says(path: str | Path) -> dict[str, Any]:
    return open_picture(Path(path))[1]


# invert


def test_a_faithful_search_keeps_its_copy_beside_the_picture(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    options = ["--steps", 2, "--label", "stroma", "--classifier", models.classifier]
    code, report, _ = run("invert", models.gan, models.plain, *options, "--out", tmp_path)
    assert code == 0
    (item,) = report["images"]
    assert (item["method"], item["verdict"], item["label"]) == ("faithful", None, "stroma")
    assert "histolatent calibrate" in item["reasons"][0]
    assert item["perceptual"] > 0
    assert item["rmse"] <= item["rmse_at_z"]
    weights = Path(item["tuned_weights"])
    assert weights.is_file()
    point = says(item["files"][1])["latent_point"]
    assert weights.name == f"tuned_{point['tuned_digest'][:12]}.safetensors"
    # What was found can be gone on with: nothing is searched again.
    code, flipped, err = run(
        "flip", models.gan, item["files"][1], "--to", "epithelium", "--out", tmp_path / "flip"
    )
    assert (code, err) == (0, "")
    assert says(flipped["files"][0])["latent_point"]["values"] == point["values"]
    assert Path(flipped["images"][0]["tuned_weights"]).parent == tmp_path / "flip"
    # Without its weights the picture is only a picture.
    weights.unlink()
    code, _, err = run(
        "flip",
        models.gan,
        item["files"][1],
        "--to",
        "epithelium",
        "--method",
        "fast",
        "--out",
        tmp_path / "f2",
    )
    assert code == 0
    assert "are not beside it, so it is searched again" in err
    assert "searched, RMSE" in err


@pytest.mark.parametrize(
    ("method", "steps", "tuned"), [("s1", 2, False), ("fast", 2, False), ("layers", 52, False)]
)
def test_the_methods(
    run: Callable[..., Any], models: Models, tmp_path: Path, method: str, steps: int, tuned: bool
) -> None:
    options = ["--method", method, "--steps", 2, "--label", "stroma", "--out", tmp_path]
    code, report, _ = run("invert", models.gan, models.tiles[0], *options)
    (item,) = report["images"]
    assert (code, item["method"], item["steps"]) == (0, method, steps)
    assert (item["tuned_weights"] is not None) == tuned
    assert bool(says(item["files"][1])["latent_point"]["offsets"]) == (method == "layers")


def test_a_blank_tile_and_one_of_another_stain_are_remarked_on(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    save_picture(tmp_path / "blank.png", np.full((32, 32, 3), 250, np.uint8), {})
    green = np.random.default_rng(0).normal((40, 160, 60), 15, (32, 32, 3)).clip(0, 255).astype(np.uint8)
    save_picture(tmp_path / "green.png", green, {})
    images = [tmp_path / "blank.png", tmp_path / "green.png"]
    options = ["--method", "fast", "--steps", 1, "--label", "stroma"]
    code, report, err = run("invert", models.gan, *images, *options, "--out", tmp_path / "o")
    assert code == 0
    blank, other = (item["remarks"] for item in report["images"])
    assert "The tile is blank" in blank[0]
    assert "is stained unlike what the generator draws" in other[0]
    assert blank[0] in err
    assert other[0] in err
    code, report, _ = run(
        "invert", models.gan, images[1], *options, "--normalise-stain", "--out", tmp_path / "n"
    )
    (item,) = report["images"]
    assert "was given the colours that the generator draws" in item["remarks"][0]
    assert (open_picture(Path(item["files"][0]))[0] != green).any()


def test_a_dataset_is_searched_as_a_whole(
    run: Callable[..., Any], models: Models, tiny_dataset: Path, tmp_path: Path
) -> None:
    options = ["--method", "fast", "--steps", 1, "--split", "val", "--out", tmp_path / "points"]
    code, report, _ = run("invert", models.gan, "--dataset", tiny_dataset, *options)
    assert code == 0
    assert report["done"] == report["total"] > 0
    assert Path(report["table"]).is_file()


# flip


def test_a_residual_flip(run: Callable[..., Any], models: Models, tmp_path: Path) -> None:
    options = ["--to", "stroma", "--residual", "--strength", 0.5, "--method", "fast", "--label", "epithelium"]
    code, report, _ = run(
        "flip", models.gan, models.plain, *options, "--classifier", models.classifier, "--out", tmp_path
    )
    assert code == 0
    assert report["residual"] is True
    (item,) = report["images"]
    assert says(item["file"])["residual"] == 0.5
    assert item["effect"]["error_rmse"] > 0
    assert set(item["effect"]) >= {"change_rmse", "share_by_mean_colour", "is_below_error", "is_stain_only"}
    for name in ("probability_real", "probability_before", "probability_after"):
        assert sum(item[name].values()) == pytest.approx(1)


def test_a_flip_below_the_error_says_so(run: Callable[..., Any], models: Models, tmp_path: Path) -> None:
    """The tiny generator finds little of a tile of noise, and its flips change less than that."""
    options = ["--to", "stroma", "--method", "fast", "--label", "epithelium", "--out", tmp_path]
    _, report, err = run("flip", models.gan, models.plain, *options)
    (item,) = report["images"]
    assert item["effect"]["is_below_error"] == (item["effect"]["change_rmse"] < item["effect"]["error_rmse"])
    assert item["effect"]["is_below_error"]
    assert "changes less (RMSE" in item["remarks"][-1]
    assert "changes less (RMSE" in err


# interpolate


def test_a_blend_in_every_format(run: Callable[..., Any], models: Models, tmp_path: Path) -> None:
    options = ["--to", "stroma", "--frames", 5, "--export", "strip,gif,mp4,csv"]
    code, report, err = run(
        "interpolate",
        models.gan,
        models.tiles[0],
        *options,
        "--classifier",
        models.classifier,
        "--out",
        tmp_path,
    )
    assert (code, err, report["timing"]) == (0, "", "pixels")
    weights = [says(name)["latent_point"]["class_weights"][1] for name in report["files"]]
    assert (weights[0], weights[-1]) == (0, 1)
    assert (np.diff(weights) > 0).all()
    assert set(report["exports"]) == {"strip", "gif", "mp4", "csv"}
    with Image.open(report["exports"]["gif"]) as film:
        assert film.n_frames == 5
    with Path(report["exports"]["csv"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["probability_stroma"]) for row in rows] == pytest.approx(
        [chance["stroma"] for chance in report["probabilities"]]
    )
    assert Path(report["exports"]["mp4"]).read_bytes()[4:8] == b"ftyp"


def test_a_path_through_three_tiles(run: Callable[..., Any], models: Models, tmp_path: Path) -> None:
    options = ["--frames", 5, "--path", "linear", "--export", ""]
    code, report, _ = run("interpolate", models.gan, *models.tiles, *options, "--out", tmp_path)
    assert (code, report["strip"], report["timing"], report["probabilities"]) == (0, None, "even", None)
    for name, key in zip(report["files"][::2], models.tiles, strict=True):
        ours, theirs = (open_picture(Path(p))[0].astype(int) for p in (name, key))
        np.testing.assert_allclose(ours, theirs, atol=1)


# arithmetic and libraries


def test_a_library_is_filled_listed_and_calculated_with(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    code, report, _ = run("library", "add", library, *models.tiles[:2], "--tag", "pair", "--tag", "all")
    assert code == 0
    assert [item["name"] for item in report["added"]] == ["sample_0000", "sample_0001"]
    code, report, _ = run("library", "add", library, models.tiles[2], "--name", "the third", "--tag", "all")
    assert code == 0
    code, report, _ = run("library", "list", library, "--tag", "pair")
    assert [item["name"] for item in report["points"]] == ["sample_0000", "sample_0001"]
    assert report["tags"] == {"pair": 2, "all": 3}
    assert "values" not in json.dumps(report)
    _, report, _ = run("library", "list", library, "--search", "THIRD")
    assert [item["name"] for item in report["points"]] == ["the third"]
    options = ["--library", library, "--classifier", models.classifier, "--out", tmp_path / "sum"]
    code, report, _ = run("arithmetic", models.gan, "mean(all) - mean(pair) + 2 * the third", *options)
    assert code == 0
    assert report["names"] == ["all", "pair", "the third"]
    assert report["norm_after"] == pytest.approx(np.sqrt(8))
    (file,) = report["files"]
    assert (says(file)["synthetic"], says(file)["source"]) == (True, "mean(all) - mean(pair) + 2 * the third")
    assert report["label"] in ("epithelium", "stroma")
    assert sum(report["probabilities"][0].values()) == pytest.approx(1)


def test_an_image_without_a_point_is_searched_for_the_library(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    code, report, err = run("library", "add", tmp_path / "lib", models.plain, "--run", models.gan)
    assert code == 0
    assert "plain: searched, RMSE" in err
    assert report["added"][0]["name"] == "plain_reconstruction"


# gradcam


def test_gradcam_of_a_layer_in_other_colours(run: Callable[..., Any], models: Models, tmp_path: Path) -> None:
    pictures = {}
    for colormap in ("ember", "jet"):
        options = ["--target", "stroma", "--colormap", colormap, "--out", tmp_path / colormap]
        code, report, _ = run("gradcam", models.classifier, models.tiles[0], *options)
        assert code == 0
        pictures[colormap] = open_picture(Path(report["images"][0]["files"][0]))[0]
    assert (pictures["ember"] != pictures["jet"]).any()


# What the user can mend


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["invert", "GAN", "--out", "OUT"], "Give images (files, or SLIDE@X,Y) or --dataset"),
        (["invert", "GAN", "TILE", "--dataset", "X", "--out", "OUT"], "one of the two"),
        (["invert", "GAN", "TILE", "--method", "guess", "--out", "OUT"], "no reverse search named 'guess'"),
        (["interpolate", "GAN", "TILE", "--out", "OUT"], "1 are given"),
        (["interpolate", "GAN", "TILE", "TILE", "--to", "stroma", "--out", "OUT"], "2 are given with --to"),
        (["interpolate", "GAN", "TILE", "TILE", "--residual", "--out", "OUT"], "give it with --to"),
        (["interpolate", "GAN", "TILE", "--to", "bone", "--out", "OUT"], "no class 'bone'"),
        (["interpolate", "GAN", "TILE", "TILE", "--export", "avi", "--out", "OUT"], "no export format 'avi'"),
        (["interpolate", "GAN", "TILE", "TILE", "--path", "odd", "--out", "OUT"], "no path named 'odd'"),
        (["interpolate", "GAN", "TILE", "TILE", "--timing", "odd", "--out", "OUT"], "no timing named 'odd'"),
        (
            ["interpolate", "GAN", "TILE", "TILE", "--timing", "probability", "--out", "OUT"],
            "needs a classifier",
        ),
        (["arithmetic", "GAN", "a", "--library", "OUT", "--out", "OUT"], "is no library yet"),
        (["arithmetic", "GAN", "mean(a", "--library", "LIB", "--out", "OUT"], "at column 7"),
        (
            ["arithmetic", "GAN", "b + missing", "--library", "LIB", "--out", "OUT"],
            "at column 1, there is no",
        ),
        (
            ["arithmetic", "GAN", "a", "--label", "bone", "--library", "LIB", "--out", "OUT"],
            "no class 'bone'",
        ),
        (["library", "list", "OUT"], "is no library yet"),
        (["library", "add", "OUT", "PLAIN"], "has no latent point; give the generator with --run"),
        (["library", "add", "OUT", "TILE", "TILE", "--name", "a"], "cannot do for 2 images"),
        (["library", "add", "LIB", "TILE", "--name", "a"], "has a point named 'a' already"),
        (["gradcam", "CLF", "TILE", "--layer", "nowhere", "--out", "OUT"], "nowhere"),
        (["gradcam", "CLF", "TILE", "--colormap", "odd", "--out", "OUT"], "odd"),
        (["calibrate", "GAN", "--dataset", "OUT"], "OUT"),
    ],
)
def test_a_wrong_word_is_one_sentence_and_leaves_nothing(
    run: Callable[..., Any], models: Models, tmp_path: Path, arguments: list[str], words: str
) -> None:
    library, out = tmp_path / "lib", tmp_path / "OUT"
    assert run("library", "add", library, models.tiles[0], "--name", "a")[0] == 0
    named = {
        "GAN": models.gan,
        "CLF": models.classifier,
        "TILE": models.tiles[0],
        "PLAIN": models.plain,
        "LIB": library,
        "OUT": out,
    }
    code, report, err = run(*(named.get(word, word) for word in arguments))
    assert (code, report) == (2, {})
    assert err.startswith("Error: ")
    assert len(err.strip().splitlines()) == 1
    assert words in err
    assert not out.exists()


def test_a_generator_without_classes_cannot_flip_but_can_search(
    run: Callable[..., Any], models: Models, tiny_dataset: Path, tmp_path: Path
) -> None:
    plain = trained(tiny_dataset, tmp_path / "dcgan", GAN.with_changes(network="dcgan"))
    for arguments in (
        ["flip", plain, models.plain, "--to", "stroma"],
        ["interpolate", plain, models.plain, "--to", "stroma"],
    ):
        code, _, err = run(*arguments, "--out", tmp_path / "o")
        assert code == 2
        assert "The generator has no classes, so there is nothing to flip to" in err
    options = ["--method", "s1", "--steps", 1, "--out", tmp_path / "found"]
    code, report, _ = run("invert", plain, models.plain, *options, "--classifier", models.classifier)
    assert code == 0
    assert report["images"][0]["label"] is None
    code, _, err = run("invert", plain, models.plain, "--label", "stroma", *options)
    assert (code, "so none named 'stroma'" in err) == (2, True)


def test_a_checkpoint_that_was_deleted_is_one_sentence(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    shutil.copytree(models.gan, tmp_path / "gan")
    shutil.rmtree(tmp_path / "gan" / "checkpoints")
    code, _, err = run("flip", tmp_path / "gan", models.tiles[0], "--to", "stroma", "--out", tmp_path / "o")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
