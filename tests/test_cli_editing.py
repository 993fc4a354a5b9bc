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
from napari_histolatent.training import load
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
    save_picture(tmp_path / "blank.png", np.full((32, 32, 3), 250, np.uint8), {"mpp": 1.0})
    green = np.random.default_rng(0).normal((40, 160, 60), 15, (32, 32, 3)).clip(0, 255).astype(np.uint8)
    save_picture(tmp_path / "green.png", green, {"mpp": 1.0})
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


def test_a_flip_to_the_class_a_tile_already_has_is_told(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    """The first two samples are of epithelium and of stroma."""
    first, second = models.tiles[:2]
    words = "sample_0000 is drawn as epithelium already, so a flip to epithelium would change nothing; flip it to stroma"
    for arguments in (["flip", models.gan, first], ["interpolate", models.gan, first]):
        code, report, err = run(*arguments, "--to", "epithelium", "--out", tmp_path / "o")
        assert (code, report, len(err.strip().splitlines())) == (2, {}, 1)
        assert words in err
    assert not (tmp_path / "o").exists()
    # Of several tiles the others are flipped.
    code, report, err = run("flip", models.gan, first, second, "--to", "epithelium", "--out", tmp_path / "p")
    assert code == 3
    assert [Path(name).name for name in report["files"]] == ["sample_0001_flip_epithelium.png"]
    assert words in report["failed"][0]
    assert f"Left out: {words}" in err


def test_a_flip_to_the_class_that_is_searched_is_refused_before_the_search(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    options = ["--label", "stroma", "--to", "stroma", "--out", tmp_path / "o"]
    for command in ("flip", "interpolate"):
        code, _, err = run(command, models.gan, models.plain, *options)
        assert code == 2
        assert "A tile of the class stroma flipped to stroma would stay as it is; give another class" in err
        assert "searched, RMSE" not in err
    # A picture that knows its point has a class of its own.
    assert run("flip", models.gan, models.tiles[0], *options)[0] == 0


def test_a_flip_of_what_the_classifier_sees_so_already_is_told(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    ways = (("epithelium", "stroma"), ("stroma", "epithelium"))
    for own, to in ways:
        options = ["--label", own, "--to", to, "--method", "fast", "--classifier", models.classifier]
        code, report, err = run("flip", models.gan, models.plain, *options, "--out", tmp_path / to)
        (item,) = report["images"]
        words = f"To the classifier this is no flip: it sees the tile as {to} already"
        is_seen_so = item["probability_real"][to] > 0.5
        assert (code, words in err) == (0, is_seen_so)
        assert any(words in said for said in item["remarks"]) is is_seen_so


def test_two_tiles_whose_searches_have_one_name_are_two_files(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    shutil.copy(models.tiles[0], tmp_path / "plain_reconstruction.png")
    images = [models.plain, tmp_path / "plain_reconstruction.png"]
    options = ["--to", "stroma", "--label", "epithelium", "--method", "fast", "--out", tmp_path / "o"]
    code, report, _ = run("flip", models.gan, *images, *options)
    assert code == 0
    assert len(set(report["files"])) == len(list((tmp_path / "o").glob("*.png"))) == 2


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


def test_gradcam_of_pictures_of_one_place_tells_how_much_they_agree(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    again = tmp_path / "again.png"
    shutil.copyfile(models.tiles[0], again)
    arguments = [
        "gradcam",
        models.classifier,
        *models.tiles,
        again,
        "--target",
        "stroma",
        "--out",
        tmp_path / "maps",
    ]
    code, report, _ = run(*arguments)
    assert code == 0
    told = [item for item in report["consistency"] if item["images"] == [str(models.tiles[0]), str(again)]]
    assert len(told) == 1
    assert told[0]["consistency"]["centroid_distance"]["value"] in (0, None)
    code, report, _ = run("gradcam", models.classifier, models.plain, "--out", tmp_path / "alone")
    assert (code, report["consistency"]) == (0, [])


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


# Tiles and classifiers of another pixel size


def with_mpp(checkpoint_run: Path, to: Path, mpp: float) -> Path:
    """Return a copy of a run whose checkpoint says another pixel size."""
    shutil.copytree(checkpoint_run, to)
    for path in (to / "checkpoints").glob("*/checkpoint.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mpp": mpp}))
    return to


def test_a_picture_of_another_size_is_resampled_and_that_is_said(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    with Image.open(models.plain) as image:
        image.resize((112, 112)).save(tmp_path / "large.png")
    options = ["--method", "s1", "--steps", 1, "--label", "stroma", "--out", tmp_path / "o"]
    code, report, err = run("invert", models.gan, tmp_path / "large.png", *options)
    assert code == 0
    (said,) = (sentence for sentence in report["images"][0]["remarks"] if "pixel size" in sentence)
    assert said.endswith(
        "taken to show as much tissue as one of the model's tiles (32 µm across), resampled from 112 to 32 px."
    )
    assert err.count(said) == 1
    assert open_picture(Path(report["images"][0]["files"][0]))[0].shape == (32, 32, 3)
    code, report, err = run("gradcam", models.classifier, tmp_path / "large.png", "--out", tmp_path / "g")
    assert (code, report["images"][0]["remarks"]) == (0, [said])
    assert said in err


def test_a_tile_at_the_rim_of_a_slide_of_another_pixel_size_says_both(
    run: Callable[..., Any], models: Models, tiny_slide: Path, tmp_path: Path
) -> None:
    options = ["--slide-mpp", 0.3, "--method", "s1", "--steps", 1, "--label", "stroma", "--out", tmp_path]
    code, report, err = run("invert", models.gan, f"{tiny_slide}@20,300", *options)
    assert code == 0
    off, resampled = report["images"][0]["remarks"][:2]
    assert off == "31% of the tile at x=20, y=300 lies off tiny.tiff and is background."
    assert resampled == "The tile was resampled from 0.6 to the model's 1 µm per px."
    assert off in err
    assert resampled in err


def test_a_classifier_of_another_pixel_size_is_shown_tiles_resampled_and_that_is_said(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    finer = with_mpp(models.classifier, tmp_path / "finer", 0.5)
    words = "The classifier is shown the middle 16 µm of tiles of 32 µm, resampled from 1 to 0.5 µm per px."
    options = ["--classifier", finer, "--out", tmp_path / "o"]
    searches = ["--method", "s1", "--steps", 1, "--label", "stroma"]
    code, report, err = run("invert", models.gan, models.tiles[0], *searches, *options)
    assert (code, err.count(words)) == (0, 1)
    assert report["images"][0]["probability_real"]
    run("library", "add", tmp_path / "lib", models.tiles[0], "--name", "a")
    code, _, err = run("arithmetic", models.gan, "a", "--library", tmp_path / "lib", *options)
    assert (code, err.count(words)) == (0, 1)


def test_a_classifier_of_pixels_too_far_apart_is_refused_before_any_search(
    run: Callable[..., Any], models: Models, tmp_path: Path
) -> None:
    coarser = with_mpp(models.classifier, tmp_path / "coarser", 4.5)
    options = ["--classifier", coarser, "--out", tmp_path / "o"]
    for arguments in (
        ["invert", models.gan, models.plain],
        ["flip", models.gan, models.plain, "--to", "stroma"],
    ):
        code, _, err = run(*arguments, *options)
        assert code == 2
        assert "trained on 4.5 µm per px, the generator has 1, more than 4 times apart" in err
        assert "searched, RMSE" not in err
    assert not (tmp_path / "o").exists()


def test_a_search_that_leaves_the_numbers_is_one_sentence(
    run: Callable[..., Any], models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load.load_generator(models.gan, device="cpu")
    network: Any = loaded.network
    for parameter in network.parameters():
        parameter.data.fill_(float("nan"))
    monkeypatch.setattr(load, "load_generator", lambda *_, **__: loaded)
    options = ["--method", "fast", "--steps", 1, "--label", "stroma", "--out", tmp_path / "o"]
    code, _, err = run("invert", models.gan, models.plain, *options)
    assert code == 2
    (line,) = (line for line in err.splitlines() if line.startswith("Error: "))
    assert line == "Error: The reverse search diverged (its error is no longer a number); try another seed."
    assert not (tmp_path / "o").exists()
