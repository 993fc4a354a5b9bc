from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from napari_histolatent._pictures import save_picture
from napari_histolatent.errors import SlideError, UserError
from napari_histolatent.jobs.tiles import Tile, cut_tile, open_tile, save_tuned, tuned_path
from napari_histolatent.latent import LatentPoint
from napari_histolatent.latent.tuned import TunedWeights
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

POINT = LatentPoint((0.5, -1.25), (0.0, 1.0), "abcd", origin="seed 1")


def same_origin(a: Tile, b: Tile) -> bool:
    """Whether two tiles say the same of where they came from, whatever files they were opened as."""
    fields = (
        "synthetic",
        "label",
        "mpp",
        "slide_digest",
        "x",
        "y",
        "level0_box",
        "model_digest",
        "latent_point",
    )
    return [a.provenance[name] for name in fields] == [b.provenance[name] for name in fields]


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def test_a_saved_tile_is_opened_as_it_was(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    tile = Tile(
        name="tile",
        pixels=pixels,
        mpp=0.5,
        slide_digest="ab12",
        centre=(100.5, 200.0),
        level0_box=(68.5, 168.0, 132.5, 232.0),
        point=POINT,
        synthetic=True,
        label="stroma",
    )
    save_picture(tmp_path / "tile.png", tile.pixels, tile.provenance)
    opened = open_tile(str(tmp_path / "tile.png"), size_px=64, mpp=0.5)
    np.testing.assert_array_equal(opened.pixels, pixels)
    assert same_origin(opened, tile)
    assert opened.name == "tile"
    assert opened.point == POINT


def test_a_plain_file_is_taken_as_it_is(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    tile = open_tile(str(tmp_path / "mine.png"), size_px=64, mpp=0.5)
    np.testing.assert_array_equal(tile.pixels, pixels)
    assert tile.name == "mine"
    assert (tile.mpp, tile.centre, tile.level0_box, tile.point, tile.synthetic) == (None,) * 4 + (False,)


@pytest.mark.parametrize(("mpp", "downsample"), [(0.5, 1), (1.0, 2), (0.75, 1.5)])
def test_a_place_on_a_slide_is_its_exact_pixels(tiny_slide: Path, mpp: float, downsample: float) -> None:
    tile = open_tile(f"{tiny_slide}@300,200.5", size_px=32, mpp=mpp)
    left, top = round(300 - 16 * downsample), round(200.5 - 16 * downsample)
    with open_slide(tiny_slide) as slide:
        expected = slide.read_region((left, top), size_px=(32, 32), mpp=mpp)
        assert tile.slide_digest == slide.info.digest
    np.testing.assert_array_equal(tile.pixels, expected)
    assert tile.centre == (300.0, 200.5)
    assert tile.level0_box == (left, top, left + 32 * downsample, top + 32 * downsample)
    assert tile.mpp == pytest.approx(mpp)
    assert tile.synthetic is False
    assert "300" in tile.name


def test_a_model_without_a_pixel_size_reads_level_0(slide_of: Callable[..., Slide]) -> None:
    level0 = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    tile = cut_tile(slide_of(level0), (60, 50), size_px=32, mpp=None)
    np.testing.assert_array_equal(tile.pixels, level0[34:66, 44:76])
    assert tile.mpp is None


def test_a_slide_without_a_pixel_size_is_refused_unless_it_is_stated(
    slide_of: Callable[..., Slide], tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    with pytest.raises(SlideError, match="does not state its pixel size"):
        cut_tile(slide_of(pixels), (20, 20), size_px=16, mpp=0.5)


def test_the_pixel_size_that_the_user_states_counts(tiny_slide: Path) -> None:
    tile = open_tile(f"{tiny_slide}@300,300", size_px=32, mpp=1.0, slide_mpp=0.25)
    assert tile.level0_box == (236, 236, 364, 364)


@pytest.mark.parametrize("place", ["-1,5", "5,-1", "768,5", "5,640", "1e9,5", "99999,99999"])
def test_a_place_off_the_slide_is_refused(tiny_slide: Path, place: str) -> None:
    with pytest.raises(UserError):
        open_tile(f"{tiny_slide}@{place}", size_px=32, mpp=1.0)


def test_the_refusal_says_how_large_the_slide_is(tiny_slide: Path) -> None:
    with pytest.raises(UserError, match=r"x=800, y=5 lies off tiny\.tiff \(768 x 640 px\)"):
        open_tile(f"{tiny_slide}@800,5", size_px=32, mpp=1.0)


@pytest.mark.parametrize("place", ["1.2.3,4", ".,4", "4,..", "4;4", "4"])
def test_a_place_that_is_no_number_is_one_sentence(tiny_slide: Path, place: str) -> None:
    with pytest.raises(UserError):
        open_tile(f"{tiny_slide}@{place}", size_px=32, mpp=1.0)


def test_a_missing_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"nowhere\.svs does not exist"):
        open_tile(f"{tmp_path / 'nowhere.svs'}@5,5", size_px=32, mpp=1.0)


def test_a_file_whose_name_looks_like_a_place_is_a_file(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "slide@3,4")
    tile = open_tile(str(tmp_path / "slide@3,4"), size_px=64, mpp=1.0)
    np.testing.assert_array_equal(tile.pixels, pixels)


@pytest.mark.parametrize("size", [(63, 64), (64, 32), (128, 128)])
def test_another_size_at_the_models_pixel_size_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save_picture(tmp_path / "a.png", np.zeros((size[1], size[0], 3), np.uint8), {"mpp": 0.5})
    with pytest.raises(UserError, match=rf"{size[0]} x {size[1]} px, the model takes 64 x 64 px"):
        open_tile(str(path), size_px=64, mpp=0.5)


# a picture, or a model, that does not state its pixel size


def test_a_plain_picture_of_another_size_is_taken_as_one_tile(
    tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    path = str(tmp_path / "a.png")
    Image.fromarray(pixels).save(path)
    tile = open_tile(path, size_px=32, mpp=2.0)
    blocks = pixels.reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(tile.pixels, blocks, atol=1)
    assert tile.mpp is None
    supposed = f"{path} does not state its pixel size, so all of it is taken to show as much tissue as one of the model's tiles"
    assert tile.remarks == (f"{supposed} (64 µm across), resampled from 64 to 32 px.",)
    (said,) = open_tile(path, size_px=64, mpp=2.0, mpp_is_assumed=True).remarks
    assert said == f"{supposed} (128 µm across, as its card assumes)."


def test_where_the_model_does_not_state_its_pixel_size_that_is_said(
    tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    path = str(save_picture(tmp_path / "a.png", pixels, {"mpp": 0.5}))
    tile = open_tile(path, size_px=32, mpp=None)
    assert tile.mpp == 1.0, "that of its pixels now"
    (said,) = tile.remarks
    assert said.startswith(
        f"The model does not say from what pixel size it learnt, so all of {path} is taken"
    )
    assert said.endswith("as one of the model's tiles, resampled from 64 to 32 px.")


def test_of_what_a_model_drew_nothing_is_supposed(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = save_picture(tmp_path / "a.png", pixels, {"synthetic": True, "mpp": None})
    assert open_tile(str(path), size_px=64, mpp=2.0).remarks == ()
    assert "resampled from 64 to 32 px" in open_tile(str(path), size_px=32, mpp=2.0).remarks[0]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((300, 200), "300 x 200 px, the model takes a square; cut it to one"),
        ((64, 63), "64 x 63 px, the model takes a square"),
        (
            (132, 132),
            "132 x 132 px of unknown pixel size, the model takes 32 x 32 px, more than 4 times apart",
        ),
        ((7, 7), "more than 4 times apart; scale it to that size if it shows as much tissue"),
    ],
)
def test_what_cannot_be_one_tile_is_refused(tmp_path: Path, size: tuple[int, int], words: str) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=words):
        open_tile(str(tmp_path / "a.png"), size_px=32, mpp=2.0)


def test_scanners_that_miss_a_round_pixel_size_by_little_are_not_refused(tmp_path: Path) -> None:
    path = save_picture(tmp_path / "a.png", np.zeros((256, 256, 3), np.uint8), {"mpp": 0.499})
    assert open_tile(str(path), size_px=64, mpp=2.0).pixels.shape == (64, 64, 3)
    path = save_picture(tmp_path / "b.png", np.zeros((512, 512, 3), np.uint8), {"mpp": 0.25})
    with pytest.raises(UserError, match=r"has 0\.25 µm per px, the model takes 2, more than 4 times apart"):
        open_tile(str(path), size_px=64, mpp=2.0)


def test_another_pixel_size_is_resampled_by_area(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = save_picture(tmp_path / "a.png", pixels, {"mpp": 0.5})
    tile = open_tile(str(path), size_px=32, mpp=1.0)
    blocks = pixels.reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_allclose(tile.pixels, blocks, atol=1)


def test_a_resampled_tile_can_be_saved_and_opened_again(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = save_picture(tmp_path / "a.png", pixels, {"mpp": 0.5})
    tile = open_tile(str(path), size_px=32, mpp=1.0)
    assert tile.mpp == 1.0  # that of its pixels now, not of the file's
    again = save_picture(tmp_path / "b.png", tile.pixels, tile.provenance)
    np.testing.assert_array_equal(open_tile(str(again), size_px=32, mpp=1.0).pixels, tile.pixels)


def test_a_coarser_picture_is_enlarged(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = save_picture(tmp_path / "a.png", pixels, {"mpp": 2.0})
    tile = open_tile(str(path), size_px=128, mpp=1.0)
    np.testing.assert_array_equal(tile.pixels[::2, 1::2], pixels)


@pytest.mark.parametrize(("own", "model"), [(0.499, 0.5), (0.5, None), (None, 0.5)])
def test_nearly_equal_and_unknown_pixel_sizes_change_nothing(
    tmp_path: Path, pixels: NDArray[np.uint8], own: float | None, model: float | None
) -> None:
    path = save_picture(tmp_path / "a.png", pixels, {"mpp": own})
    tile = open_tile(str(path), size_px=64, mpp=model)
    np.testing.assert_array_equal(tile.pixels, pixels)
    assert tile.mpp == own


@pytest.mark.parametrize(("own", "refused"), [(4.0, False), (4.2, True), (0.25, False), (0.2, True)])
def test_pixel_sizes_more_than_four_times_apart_are_refused(
    tmp_path: Path, pixels: NDArray[np.uint8], own: float, refused: bool
) -> None:
    path = save_picture(tmp_path / "a.png", pixels, {"mpp": own})
    if refused:
        with pytest.raises(UserError, match=r"more than 4 times apart; .* \(histolatent region --mpp 1\)"):
            open_tile(str(path), size_px=round(64 * own), mpp=1.0)
    else:
        assert open_tile(str(path), size_px=round(64 * own), mpp=1.0).pixels.shape[0] == round(64 * own)


@pytest.mark.parametrize(
    "provenance",
    [
        {"mpp": "half"},
        {"mpp": [0.5]},
        {"mpp": -0.5},
        {"x": "left", "y": 3},
        {"x": [1], "y": 3},
        {"latent_point": [1, 2]},
        {"latent_point": "z"},
        {"latent_point": {"values": [0.5]}},
        {"level0_box": ["a", "b", "c", "d"]},
        {"slide_digest": 3, "label": {}, "synthetic": "maybe"},
    ],
)
def test_garbled_provenance_ends_in_a_tile_or_one_sentence(
    tmp_path: Path, pixels: NDArray[np.uint8], provenance: dict[str, Any]
) -> None:
    path = save_picture(tmp_path / "a.png", pixels, provenance)
    try:
        tile = open_tile(str(path), size_px=64, mpp=0.5)
    except UserError:
        return
    np.testing.assert_array_equal(tile.pixels, pixels)
    again = save_picture(tmp_path / "b.png", tile.pixels, tile.provenance)
    assert same_origin(open_tile(str(again), size_px=64, mpp=0.5), tile)


def test_redrawing_keeps_the_place_and_marks_the_pixels(pixels: NDArray[np.uint8]) -> None:
    tile = Tile(
        "a", pixels, mpp=0.5, slide_digest="d", centre=(1, 2), level0_box=(0, 1, 2, 3), label="stroma"
    )
    drawn = tile.redrawn(255 - pixels, POINT, "flip")
    assert drawn.name == "a_flip"
    assert drawn.synthetic
    assert drawn.label is None
    assert (drawn.mpp, drawn.slide_digest, drawn.centre, drawn.level0_box) == (0.5, "d", (1, 2), (0, 1, 2, 3))
    assert drawn.provenance["model_digest"] == "abcd"
    assert drawn.provenance["latent_point"] == POINT.to_json()
    assert not tile.synthetic


# what is to be said of a tile


def test_a_tile_partly_off_the_slide_says_how_much(slide_of: Callable[..., Slide]) -> None:
    pixels = np.full((200, 200, 3), (200, 120, 170), np.uint8)
    slide = slide_of(pixels, mpp=(0.5, 0.5))
    said = cut_tile(slide, (10, 100), size_px=40, mpp=0.5).remarks
    assert said == ("25% of the tile at x=10, y=100 lies off array.tiff and is background.",)
    assert cut_tile(slide, (100, 100), size_px=40, mpp=0.5).remarks == ()


def test_a_blank_tile_is_called_so(slide_of: Callable[..., Slide], tmp_path: Path) -> None:
    white = np.full((64, 64, 3), 248, np.uint8)
    (said,) = cut_tile(slide_of(white, mpp=(0.5, 0.5)), (32, 32), size_px=32, mpp=0.5).remarks
    assert said.startswith("The tile is blank: 100% of it is unstained")
    path = save_picture(tmp_path / "a.png", white, {})
    assert open_tile(str(path), size_px=64, mpp=None).remarks == (said,)


def test_a_model_without_a_pixel_size_cuts_level_0_and_says_so(slide_of: Callable[..., Slide]) -> None:
    pixels = np.full((64, 64, 3), (200, 120, 170), np.uint8)
    (said,) = cut_tile(slide_of(pixels, mpp=(0.25, 0.25)), (32, 32), size_px=32, mpp=None).remarks
    assert "does not say from what pixel size it learnt; the tile is cut at level 0, 0.25" in said


def test_where_neither_pixel_size_is_known_that_is_said(slide_of: Callable[..., Slide]) -> None:
    pixels = np.full((64, 64, 3), (200, 120, 170), np.uint8)
    (said,) = cut_tile(slide_of(pixels), (32, 32), size_px=32, mpp=None).remarks
    assert said.startswith(
        "array.tiff does not state its pixel size; the tile is cut at level 0 and taken to"
    )


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (0.5, "The tile was resampled from 0.5 to the model's 2 µm per px."),
        (
            0.25,
            "The tile was resampled from 0.25 to the model's 2 µm per px.",
        ),  # 8 times: the slide has the detail
        (8.0, "The tile was resampled from 8 to the model's 2 µm per px."),
        (2.02, None),
    ],
)
def test_a_tile_of_another_pixel_size_than_any_level_says_so(
    slide_of: Callable[..., Slide], own: float, said: str | None
) -> None:
    slide = slide_of(np.full((200, 200, 3), (200, 120, 170), np.uint8), mpp=(own, own))
    tile = cut_tile(slide, (100, 100), size_px=16, mpp=2.0)
    assert tile.remarks == ((said,) if said else ())
    assert tile.mpp == pytest.approx(2.0, rel=0.02)


def test_a_level_of_the_models_pixel_size_is_read_as_it_is_stored(slide_of: Callable[..., Slide]) -> None:
    levels = [np.full((n, n, 3), (200, 120, 170), np.uint8) for n in (400, 100)]
    slide = slide_of(*levels, mpp=(0.499, 0.499))
    assert cut_tile(slide, (200, 200), size_px=16, mpp=2.0).remarks == ()
    (said,) = cut_tile(slide, (200, 200), size_px=16, mpp=3.0, mpp_is_assumed=True).remarks
    assert said == "The tile was resampled from 2 to the model's 3 µm per px, which its card assumes."


def test_a_slide_that_is_too_coarse_is_refused(slide_of: Callable[..., Slide]) -> None:
    slide = slide_of(np.full((64, 64, 3), (200, 120, 170), np.uint8), mpp=(8.5, 8.5))
    with pytest.raises(
        UserError, match=r"array\.tiff has 8\.5 µm per px at its finest, the model takes 2, more"
    ):
        cut_tile(slide, (32, 32), size_px=32, mpp=2.0)


def test_a_resampled_picture_says_so(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = save_picture(tmp_path / "a.png", pixels, {"mpp": 0.5})
    (said,) = open_tile(str(path), size_px=32, mpp=1.0).remarks
    assert said.endswith("a.png was resampled from 0.5 to the model's 1 µm per px.")


def tuned_tile(pixels: NDArray[np.uint8]) -> Tile:
    tuned = TunedWeights.of({"w": np.arange(6.0).reshape(2, 3)}, checkpoint_digest="abcd")
    point = replace(POINT, tuned_digest=tuned.digest)
    return Tile("a", pixels, point=point, synthetic=True, tuned=tuned)


def test_tuned_weights_lie_beside_the_picture(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    tile = tuned_tile(pixels)
    assert tile.tuned is not None
    path = save_picture(tmp_path / "a.png", tile.pixels, tile.provenance)
    weights = save_tuned(tmp_path, tile)
    assert weights == tuned_path(tmp_path, tile.tuned.digest)
    before = weights.stat().st_mtime_ns
    assert save_tuned(tmp_path, replace(tile, name="b")) == weights
    assert weights.stat().st_mtime_ns == before  # once for all tiles it draws
    again = open_tile(str(path), size_px=64, mpp=None)
    assert again.tuned is not None
    assert (again.point, again.tuned.digest) == (tile.point, tile.tuned.digest)
    assert save_tuned(tmp_path, Tile("c", pixels)) is None


def test_without_its_tuned_weights_only_the_picture_is_left(
    tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    tile = tuned_tile(pixels)
    path = save_picture(tmp_path / "a.png", tile.pixels, tile.provenance)
    lost = open_tile(str(path), size_px=64, mpp=None)
    assert (lost.point, lost.tuned) == (None, None)
    assert "are not beside it, so it is searched again" in lost.remarks[0]
    weights = save_tuned(tmp_path, tile)
    assert weights is not None
    weights.write_bytes(b"junk")
    assert open_tile(str(path), size_px=64, mpp=None).point is None
    TunedWeights.of({"w": np.zeros((2, 3))}, checkpoint_digest="abcd").save(weights)
    other = open_tile(str(path), size_px=64, mpp=None)
    assert other.point is None
    assert "holds other weights than a.png was drawn with" in other.remarks[0]


def test_a_residual_edit_has_no_point_that_draws_it(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    tile = Tile("a", pixels, point=POINT, synthetic=True, residual=0.5)
    path = save_picture(tmp_path / "a.png", pixels, tile.provenance)
    again = open_tile(str(path), size_px=64, mpp=None)
    assert again.point is None
    assert again.synthetic
    assert "residual" not in Tile("b", pixels).provenance
