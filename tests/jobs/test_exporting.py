from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from PIL import Image

from napari_histolatent._pictures import enlarged, marked, open_picture
from napari_histolatent.errors import UserError
from napari_histolatent.jobs.exporting import _ENCODERS, export_frames
from napari_histolatent.jobs.tiles import Tile
from napari_histolatent.latent import LatentPoint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def frames(n: int, side: int = 32) -> list[Tile]:
    rng = np.random.default_rng(0)
    return [
        Tile(
            f"frame_{i}",
            np.full((side, side, 3), rng.integers(40, 220, 3), np.uint8),
            point=LatentPoint((float(i), 1.0), (1 - i / n, i / n), "abcd", f"number {i}"),
            synthetic=True,
            source="slide.svs@1,2",
            slide_digest="5d",
            centre=(1, 2),
            seed=7,
        )
        for i in range(n)
    ]


def textured(n: int, side: int) -> list[Tile]:
    """Frames of which each pixel is another grey-to-pink, from one picture to another as on a path."""
    one, other = np.random.default_rng(1).uniform(60, 200, (2, side, side, 1)) + np.array([40, -20, 20])
    return [
        replace(tile, pixels=(one + (other - one) * i / (n - 1)).astype(np.uint8))
        for i, tile in enumerate(frames(n))
    ]


def decoded(path: Path, pixel_format: str = "rgb24") -> NDArray[np.uint8]:
    with av.open(path) as film:
        return np.stack([frame.to_ndarray(format=pixel_format) for frame in film.decode(video=0)])


@pytest.fixture(params=["first", "mpeg4"])
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder that is found here, and the one that every FFmpeg has."""
    if request.param == "mpeg4":
        only = {"mpeg4": _ENCODERS["mpeg4"]}
        monkeypatch.setattr("napari_histolatent.jobs.exporting._ENCODERS", only)


def test_every_file_is_written_and_says_that_it_is_synthetic(tmp_path: Path) -> None:
    chances = [{"a": 0.25 * i, "b": 1 - 0.25 * i} for i in range(3)]
    files = export_frames(
        tmp_path / "out", "a tile", frames(3), probabilities=chances, provenance={"to": "b"}
    )
    assert {name: path.name for name, path in files.items()} == {
        "strip": "a_tile_strip.png",
        "gif": "a_tile.gif",
        "mp4": "a_tile.mp4",
        "csv": "a_tile.csv",
    }
    pixels, says = open_picture(files["strip"])
    assert pixels.shape == (32, 3 * 32 + 2 * 4, 3)
    assert (says["synthetic"], says["model_digest"], says["to"], says["frames"]) == (True, "abcd", "b", 3)
    assert (says["slide_digest"], says["x"], says["seed"]) == ("5d", 1, 7)
    with Image.open(files["gif"]) as film:
        assert (film.n_frames, film.size) == (3, (256, 256))
        assert json.loads(film.info["comment"]) == says
    assert b"SYNTHETIC" in files["csv"].read_bytes()
    with av.open(files["mp4"]) as film:
        assert json.loads(film.metadata["description"]) == says
        assert film.metadata["comment"].startswith("SYNTHETIC: ")
        assert "abcd" in film.metadata["comment"]


def test_the_frames_of_a_gif_are_the_tiles_with_the_mark(tmp_path: Path) -> None:
    tiles = frames(3)
    path = export_frames(tmp_path, "a", tiles, formats=["gif"], fps=10)["gif"]
    with Image.open(path) as film:
        for i, tile in enumerate(tiles):
            film.seek(i)
            shown = np.asarray(film.convert("RGB")).astype(int)
            assert film.info["duration"] == 100
            assert np.abs(shown[0, 0] - tile.pixels[0, 0]).max() < 6
            assert (shown[-40:, :100] != shown[0, 0]).any()  # the corner mark


def test_the_table_has_a_line_a_frame(tmp_path: Path) -> None:
    chances = [{"a": 0.25 * i, "b": 1 - 0.25 * i} for i in range(3)]
    path = export_frames(tmp_path, "a", frames(3), formats=["csv"], probabilities=chances)["csv"]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["probability_a"]) for row in rows] == [0, 0.25, 0.5]
    assert [row["z"] for row in rows] == ["0 1", "1 1", "2 1"]
    assert {row["synthetic"] for row in rows} == {"SYNTHETIC"}
    assert {row["model_digest"] for row in rows} == {"abcd"}
    without = export_frames(tmp_path, "b", frames(2), formats=["csv"])["csv"].read_text()
    assert "probability" not in without


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize(("side", "factor"), [(17, 16), (64, 4), (257, 1)])
def test_the_frames_of_a_film_are_the_tiles_with_the_mark(tmp_path: Path, side: int, factor: int) -> None:
    tiles = textured(5, side)
    path = export_frames(tmp_path, "a", tiles, formats=["mp4"], fps=12.5)["mp4"]
    large = [enlarged(tile.pixels, factor) for tile in tiles]
    odd = side * factor % 2
    wanted = np.stack([marked(np.pad(image, ((0, odd), (0, odd), (0, 0)), mode="edge")) for image in large])
    shown = decoded(path)
    assert shown.shape == wanted.shape
    off = np.abs(shown.astype(int) - wanted)
    # Half the resolution in colour blurs the mark's edges; everything else is the tile's.
    assert off.mean(axis=(1, 2, 3)).max() < 3
    assert np.percentile(off, 99) < 12
    assert off.mean() < np.abs(wanted[1:].astype(int) - wanted[:-1]).mean() / 2


def test_a_film_is_h264_of_the_length_and_the_speed_that_were_asked(tmp_path: Path) -> None:
    path = export_frames(tmp_path, "a", frames(4), formats=["mp4"], fps=12.5)["mp4"]
    with av.open(path) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.frames, float(stream.average_rate or 0)) == (4, 12.5)
        assert (film.duration or 0) / av.time_base == pytest.approx(4 / 12.5)


@pytest.mark.parametrize("fps", [0.01, 29.97, 119.88, 120])
@pytest.mark.usefixtures("encoder")
def test_slow_and_fast_films(tmp_path: Path, fps: float) -> None:
    files = export_frames(tmp_path, "a", frames(2), formats=["mp4", "gif"], fps=fps)
    with av.open(files["mp4"]) as film:
        assert float(film.streams.video[0].average_rate or 0) == pytest.approx(fps, rel=1e-4)
    with Image.open(files["gif"]) as gif:
        assert gif.info["duration"] == pytest.approx(max(20, 1000 / fps), abs=5)


@pytest.mark.usefixtures("encoder")
def test_the_colours_of_a_film_are_those_that_it_names(tmp_path: Path) -> None:
    colours = {(255, 255, 255): (235, 128, 128), (255, 0, 0): (81, 90, 240), (0, 0, 255): (41, 240, 110)}
    tiles = [
        replace(tile, pixels=np.full((64, 64, 3), colour, np.uint8))
        for tile, colour in zip(frames(3), colours, strict=True)
    ]
    path = export_frames(tmp_path, "a", tiles, formats=["mp4"])["mp4"]
    with av.open(path) as film:
        codec = film.streams.video[0].codec_context
        assert (codec.color_range, codec.colorspace) == (1, 6)
        assert (codec.color_primaries, codec.color_trc) == (1, 1)
    samples = decoded(path, "yuv420p")
    # Planes below each other, Cb and Cr of half the side. ITU-R BT.601, samples of 16 to 235.
    found = [(int(s[10, 10]), int(s[256, 10]), int(s[320, 10])) for s in samples]
    assert np.abs(np.subtract(found, list(colours.values()))).max() <= 1


def test_encoding_is_loaded_only_for_a_film(tmp_path: Path) -> None:
    code = "import sys, napari_histolatent.jobs.exporting; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_pictures_that_no_encoder_takes_leave_nothing_behind(tmp_path: Path) -> None:
    tiles = [replace(tile, pixels=np.zeros((2, 20_000, 3), np.uint8)) for tile in frames(2)]
    with pytest.raises(UserError, match=r"20000 x 2 px cannot be encoded by \w+ \([^\n]+\); export a gif"):
        export_frames(tmp_path / "out", "a", tiles, formats=["strip", "csv", "mp4"])
    assert not (tmp_path / "out").exists()


def test_a_missing_encoder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_histolatent.jobs.exporting._ENCODERS", {"none_such": {}})
    with pytest.raises(UserError, match="no encoder for MP4 films \\(none_such\\); export a gif"):
        export_frames(tmp_path / "out", "a", frames(2), formats=["strip", "mp4"])
    assert not (tmp_path / "out").exists()


def test_real_frames_are_not_called_synthetic(tmp_path: Path) -> None:
    tiles = [replace(tile, synthetic=False, point=None) for tile in frames(2)]
    files = export_frames(tmp_path, "a", tiles, formats=["strip", "mp4"])
    assert open_picture(files["strip"])[1]["synthetic"] is False
    with av.open(files["mp4"]) as film:
        assert "comment" not in film.metadata
        assert json.loads(film.metadata["description"])["synthetic"] is False


@pytest.mark.parametrize(
    ("tiles", "options", "words"),
    [
        (frames(2), {"formats": ["avi"]}, "no export format 'avi'; choose from strip, gif, mp4, csv"),
        ([], {}, "no frames to export"),
        (frames(2), {"fps": 0.0}, "0 frames a second is not possible; give a number from 0.01 to 120"),
        (frames(2), {"fps": 0.009}, "0.009 frames a second"),
        (frames(2), {"fps": float("nan")}, "nan frames a second"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, tiles: list[Tile], options: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        export_frames(tmp_path / "out", "a", tiles, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    for wanted in ("strip", "gif", "mp4", "csv"):
        with pytest.raises(UserError, match="a file is in the way"):
            export_frames(tmp_path / "file", "a", frames(2), formats=[wanted])


def test_without_pyav_a_film_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"need the package av, which is not installed; .*export a gif"):
        export_frames(tmp_path / "out", "path", frames(3), formats=("gif", "mp4"))
    assert not (tmp_path / "out").exists()
