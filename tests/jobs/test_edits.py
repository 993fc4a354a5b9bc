from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.jobs import edits
from napari_histolatent.jobs.tiles import Tile
from napari_histolatent.latent import Inversion, LatentPoint
from napari_histolatent.latent.blend import unevenness
from napari_histolatent.latent.draw import draw
from napari_histolatent.latent.library import Library
from napari_histolatent.training.load import load_generator

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator

CPU = torch.device("cpu")


def expect_same(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> None:
    """Expect equal pixels, but for what the size of a batch does to the last bit before rounding."""
    assert a.dtype == b.dtype == np.uint8
    np.testing.assert_allclose(a.astype(int), b.astype(int), atol=1)


@pytest.fixture
def pair(generator: LoadedGenerator) -> list[Tile]:
    """One latent vector in both classes."""
    return edits.sample_tiles(generator, 2, label=None, seed=5)


def test_classes_take_turns_and_share_their_latent_vectors(generator: LoadedGenerator) -> None:
    tiles = edits.sample_tiles(generator, 5, label=None, seed=3)
    assert [tile.label for tile in tiles] == ["epithelium", "stroma"] * 2 + ["epithelium"]
    points = [tile.point for tile in tiles if tile.point]
    assert [point.class_weights for point in points] == [(1, 0), (0, 1), (1, 0), (0, 1), (1, 0)]
    assert points[0].values == points[1].values
    assert points[2].values == points[3].values
    assert len({point.values for point in points}) == 3
    assert len({tile.name for tile in tiles}) == 5
    for tile, point in zip(tiles, points, strict=True):
        assert tile.synthetic
        assert tile.mpp == generator.checkpoint.mpp == 1.0
        assert point.checkpoint_digest == generator.checkpoint.digest
        expect_same(tile.pixels, draw(generator.network, [point], device=CPU)[0])


def test_a_label_draws_that_class_only_and_a_seed_draws_the_same_again(generator: LoadedGenerator) -> None:
    tiles = edits.sample_tiles(generator, 3, label="stroma", seed=3)
    assert [tile.label for tile in tiles] == ["stroma"] * 3
    again, other = (edits.sample_tiles(generator, 3, label="stroma", seed=seed) for seed in (3, 4))
    for a, b, c in zip(tiles, again, other, strict=True):
        assert a.point == b.point
        expect_same(a.pixels, b.pixels)
        assert (a.pixels != c.pixels).any()


def test_a_class_the_model_does_not_know_is_refused(generator: LoadedGenerator) -> None:
    with pytest.raises(UserError, match="no class 'tumour'; its classes are epithelium, stroma"):
        edits.sample_tiles(generator, 1, label="tumour", seed=0)


def test_a_search_without_a_label_takes_the_nearer_class_of_each_tile(
    generator: LoadedGenerator, pair: list[Tile], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {("tile 0", 0): 0.5, ("tile 1", 0): 0.1, ("tile 2", 0): 0.3} | {
        ("tile 0", 1): 0.2,
        ("tile 1", 1): 0.4,
        ("tile 2", 1): 0.1,
    }

    def invert(
        _: Any,
        images: torch.Tensor,
        class_weights: Sequence[tuple[float, ...]],
        *,
        checkpoint_digest: str,
        origins: Sequence[str],
        **__: Any,
    ) -> list[Inversion]:
        assert len(images) == len(class_weights) == len(origins) == 6
        return [
            Inversion(
                LatentPoint((float(i),) * 8, weights, checkpoint_digest, origin),
                rmse=errors[origin.removeprefix("reverse search of "), weights.index(1)],
                psnr_db=0,
                ssim=0,
                seconds=0,
            )
            for i, (weights, origin) in enumerate(zip(class_weights, origins, strict=True))
        ]

    monkeypatch.setattr(edits, "invert", invert)
    tiles = [replace(pair[0], name=f"tile {i}") for i in range(3)]
    found = edits.reverse_search(generator, tiles)
    assert [search.inversion.rmse for search in found] == [0.2, 0.1, 0.1]
    assert [search.inversion.point.class_weights for search in found] == [(0, 1), (1, 0), (0, 1)]
    for search, tile in zip(found, tiles, strict=True):
        assert search.tile is tile
        assert search.inversion.point.origin == f"reverse search of {tile.name}"
        assert search.reconstruction.point == search.inversion.point
        expect_same(
            search.reconstruction.pixels, draw(generator.network, [search.inversion.point], device=CPU)[0]
        )


def test_a_search_comes_nearer_and_says_how_far_it_is(generator: LoadedGenerator, pair: list[Tile]) -> None:
    heard: list[tuple[int, tuple[int, ...]]] = []
    (found,) = edits.reverse_search(
        generator,
        pair[1:],
        label="stroma",
        steps=60,
        on_step=lambda step, images: heard.append((step, images.shape)),
    )
    (start,) = edits.reverse_search(generator, pair[1:], label="stroma", steps=1)
    assert found.inversion.rmse < start.inversion.rmse
    difference = (found.reconstruction.pixels.astype(float) - pair[1].pixels) / 127.5
    assert found.inversion.rmse == pytest.approx(np.sqrt((difference**2).mean()), abs=0.01)
    assert found.inversion.point.class_weights == (0, 1)
    assert heard == [(0, (1, 32, 32, 3)), (25, (1, 32, 32, 3)), (50, (1, 32, 32, 3))]
    assert found.reconstruction.name == f"{pair[1].name}_reconstruction"
    assert found.reconstruction.synthetic


def test_a_flip_changes_the_class_and_nothing_else(generator: LoadedGenerator, pair: list[Tile]) -> None:
    flipped = edits.flip_tile(generator, pair[0], to="stroma")
    assert flipped.point is not None
    assert pair[0].point is not None
    assert flipped.point.values == pair[0].point.values
    assert flipped.point.class_weights == (0, 1)
    expect_same(flipped.pixels, pair[1].pixels)  # the same vector in the other class
    assert (flipped.pixels != pair[0].pixels).any()
    assert flipped.name == f"{pair[0].name}_flip_stroma"
    assert flipped.synthetic
    with pytest.raises(UserError, match="no class 'tumour'"):
        edits.flip_tile(generator, pair[0], to="tumour")


def test_frames_go_from_one_tile_to_the_other(generator: LoadedGenerator, pair: list[Tile]) -> None:
    frames = edits.interpolate_tiles(generator, pair[0], pair[1], frames=5)
    assert len(frames) == len({frame.name for frame in frames}) == 5
    expect_same(frames[0].pixels, pair[0].pixels)
    expect_same(frames[-1].pixels, pair[1].pixels)
    assert [frame.point.class_weights[1] for frame in frames if frame.point] == [0, 0.25, 0.5, 0.75, 1]
    assert all(frame.synthetic for frame in frames)


def test_a_tile_without_a_point_has_to_be_searched_first(
    generator: LoadedGenerator, pair: list[Tile]
) -> None:
    real = replace(pair[0], name="real", point=None)
    with pytest.raises(UserError, match="real has no latent point yet; search it first"):
        edits.flip_tile(generator, real, to="stroma")
    with pytest.raises(UserError, match="real has no latent point yet"):
        edits.interpolate_tiles(generator, pair[0], real, frames=3)


def test_points_of_two_generators_are_not_mixed(generator: LoadedGenerator, pair: list[Tile]) -> None:
    assert pair[1].point is not None
    foreign = replace(pair[1], point=replace(pair[1].point, checkpoint_digest="f" * 64))
    with pytest.raises(UserError, match="belong to different generators"):
        edits.interpolate_tiles(generator, pair[0], foreign, frames=3)


def test_probabilities_are_named_and_add_up(classifier: LoadedClassifier, pair: list[Tile]) -> None:
    rows = edits.probabilities_of(classifier, pair)
    assert [set(row) for row in rows] == [{"epithelium", "stroma"}] * 2
    assert [sum(row.values()) for row in rows] == pytest.approx([1, 1])


def test_heatmaps_are_for_the_class_that_is_seen_or_asked_for(
    classifier: LoadedClassifier, pair: list[Tile]
) -> None:
    tiles = [replace(pair[0], level0_box=(1, 2, 3, 4)), pair[1]]
    rows = edits.probabilities_of(classifier, tiles)
    maps = edits.heatmaps_of(classifier, tiles)
    assert [item.target for item in maps] == [max(row, key=row.__getitem__) for row in rows]
    for target in classifier.checkpoint.classes:
        asked = edits.heatmaps_of(classifier, tiles, target=target)
        assert [item.target for item in asked] == [target] * 2
        assert [item.probability for item in asked] == pytest.approx([row[target] for row in rows])
    assert maps[0].values.shape == (32, 32)
    assert [item.level0_box for item in maps] == [(1, 2, 3, 4), None]
    with pytest.raises(UserError, match="no class 'tumour'"):
        edits.heatmaps_of(classifier, tiles, target="tumour")


def test_a_classifier_of_other_classes_is_refused(
    generator: LoadedGenerator, classifier: LoadedClassifier
) -> None:
    edits.require_same_classes(generator, classifier)
    turned = replace(classifier, checkpoint=replace(classifier.checkpoint, classes=("stroma", "epithelium")))
    edits.require_same_classes(generator, turned)
    other = replace(classifier, checkpoint=replace(classifier.checkpoint, classes=("tumour", "stroma")))
    with pytest.raises(
        UserError, match=r"knows the classes epithelium, stroma, the classifier tumour, stroma"
    ):
        edits.require_same_classes(generator, other)


# paths, flips and arithmetic


@pytest.fixture(scope="module")
def real() -> Tile:
    """A tile that no generator drew."""
    pixels = np.random.default_rng(0).integers(60, 200, (32, 32, 3)).astype(np.uint8)
    return Tile(
        "real", pixels, mpp=1.0, centre=(200, 200), level0_box=(168, 168, 232, 232), source="s@200,200"
    )


@pytest.fixture(scope="module")
def found(generator: LoadedGenerator, real: Tile) -> edits.ReverseSearch:
    """The real tile, as a tuned copy draws it."""
    (search,) = edits.reverse_search(generator, [real], label="stroma", method="faithful", steps=3)
    return search


def test_a_faithful_search_is_drawn_by_its_own_copy(
    generator: LoadedGenerator, found: edits.ReverseSearch, real: Tile
) -> None:
    drawn, inversion = found.reconstruction, found.inversion
    assert drawn.tuned is inversion.tuned is not None
    assert drawn.point is not None
    assert drawn.point.tuned_digest == drawn.tuned.digest
    copy = drawn.tuned.applied(generator.network)
    expect_same(drawn.pixels, draw(copy, [drawn.point], device=CPU)[0])
    assert (drawn.pixels != draw(generator.network, [drawn.point], device=CPU)[0]).any()
    error = np.sqrt((((drawn.pixels.astype(float) - real.pixels) / 127.5) ** 2).mean())
    assert inversion.rmse == pytest.approx(error, abs=0.01)
    assert (drawn.centre, drawn.source, drawn.remarks) == (real.centre, real.source, ())


def test_without_a_label_fast_chooses_the_class_before_a_copy_is_tuned(
    generator: LoadedGenerator, real: Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def invert(*arguments: Any, method: str, **options: Any) -> list[Inversion]:
        asked.append((method, [weights.index(1) for weights in arguments[2]]))
        digest, origins = options["checkpoint_digest"], options["origins"]
        return [
            Inversion(LatentPoint((0.0,) * 8, weights, digest, origin), 1 - weights[1], 0, 0, 0)
            for weights, origin in zip(arguments[2], origins, strict=True)
        ]

    monkeypatch.setattr(edits, "invert", invert)
    edits.reverse_search(generator, [real, real], method="faithful")
    assert asked == [("fast", [0, 0, 1, 1]), ("faithful", [1, 1])]


def test_a_tile_of_another_size_is_one_sentence(generator: LoadedGenerator, real: Tile) -> None:
    with pytest.raises(UserError, match="real is 16 x 20 px, the generator draws 32 px"):
        edits.reverse_search(generator, [replace(real, pixels=real.pixels[:20, :16])])
    assert edits.reverse_search(generator, []) == []


def test_a_flip_says_what_it_changed(
    generator: LoadedGenerator, found: edits.ReverseSearch, real: Tile
) -> None:
    done = edits.flip(generator, found.reconstruction, to="epithelium", real=real)
    expect_same(done.before.pixels, found.reconstruction.pixels)
    assert done.effect.error_rmse == pytest.approx(found.inversion.rmse, abs=0.01)
    change = (done.after.pixels.astype(float) - done.before.pixels) / 127.5
    assert done.effect.change_rmse == pytest.approx(np.sqrt((change**2).mean()))
    assert done.after.tuned is found.reconstruction.tuned  # flipped in the copy that draws the tile
    assert done.after.residual is None


def test_a_residual_flip_is_put_onto_the_tile(
    generator: LoadedGenerator, found: edits.ReverseSearch, real: Tile
) -> None:
    plain = edits.flip(generator, found.reconstruction, to="epithelium", real=real)
    kept = edits.flip(
        generator, found.reconstruction, to="epithelium", real=real, residual=True, strength=0.5
    )
    change = plain.after.pixels.astype(float) - plain.before.pixels
    np.testing.assert_allclose(kept.after.pixels, np.clip(real.pixels + 0.5 * change, 0, 255), atol=0.51)
    assert kept.after.residual == kept.after.provenance["residual"] == 0.5
    assert kept.after.synthetic
    assert kept.after.name == f"{plain.after.name}_residual"


def test_a_generator_without_classes_cannot_flip(generator: LoadedGenerator, pair: list[Tile]) -> None:
    without = replace(generator, checkpoint=replace(generator.checkpoint, classes=()))
    with pytest.raises(UserError, match="has no classes, so there is nothing to flip to"):
        edits.flip_tile(without, pair[0], to="stroma")


def test_a_flip_to_the_tiles_own_class_is_refused(
    generator: LoadedGenerator, pair: list[Tile], found: edits.ReverseSearch
) -> None:
    """`pair` is one vector in both classes, `found` was searched as stroma."""
    for tile, own, other in (
        (pair[0], "epithelium", "stroma"),
        (found.reconstruction, "stroma", "epithelium"),
    ):
        said = f"{tile.name} is drawn as {own} already, so a flip to {own} would change nothing; flip it to {other}, "
        for flip in (edits.flip_tile, edits.flip):
            with pytest.raises(UserError, match=said):
                flip(generator, tile, to=own)
    assert pair[0].point is not None
    between = replace(pair[0], point=replace(pair[0].point, class_weights=(0.9, 0.1)))
    assert edits.flip_tile(generator, between, to="epithelium").point is not None, "a blend has a way to go"


def test_a_tile_whose_tuned_weights_are_lost_is_not_drawn_as_another(
    generator: LoadedGenerator, found: edits.ReverseSearch
) -> None:
    with pytest.raises(UserError, match="by a tuned copy of its generator, whose weights are not with it"):
        edits.flip_tile(generator, replace(found.reconstruction, tuned=None), to="epithelium")


def test_a_path_from_a_copy_to_the_generators_own_tile_has_both_ends_exact(
    generator: LoadedGenerator, found: edits.ReverseSearch, pair: list[Tile]
) -> None:
    frames = edits.path_tiles(generator, [found.reconstruction, pair[0]], frames=3)
    expect_same(frames[0].pixels, found.reconstruction.pixels)
    expect_same(frames[-1].pixels, pair[0].pixels)
    assert frames[-1].tuned is None
    middle = frames[1]
    assert middle.tuned is not None
    assert middle.tuned.digest != found.reconstruction.tuned.digest  # type: ignore[union-attr]
    assert middle.point is not None
    assert middle.point.tuned_digest == middle.tuned.digest


def test_a_path_passes_through_its_key_tiles(generator: LoadedGenerator) -> None:
    keys = edits.sample_tiles(generator, 3, label="stroma", seed=9)
    frames = edits.path_tiles(generator, keys, frames=5, kind="linear")
    for key, frame in zip(keys, frames[::2], strict=True):
        expect_same(key.pixels, frame.pixels)
    apart = edits.drawn_tiles(generator, keys, [1.0, 0.0, 0.5], kind="linear")
    for key, frame in zip((keys[2], keys[0], keys[1]), apart, strict=True):
        expect_same(key.pixels, frame.pixels)


@pytest.mark.parametrize("timing", ["pixels", "perceptual"])
def test_timing_makes_the_steps_of_a_blend_even(
    generator: LoadedGenerator, pair: list[Tile], timing: str
) -> None:
    frames = edits.path_tiles(generator, pair, frames=7, timing=timing)
    weights = [frame.point.class_weights[1] for frame in frames if frame.point]
    assert (weights[0], weights[-1]) == (0, 1)
    assert (np.diff(weights) > 0).all()
    if timing == "pixels":
        even = unevenness(np.stack([frame.pixels for frame in frames]))
        assert (
            even
            <= unevenness(np.stack([f.pixels for f in edits.path_tiles(generator, pair, frames=7)])) + 0.05
        )
        assert even < 1.3


def test_timing_by_probability(
    generator: LoadedGenerator, classifier: LoadedClassifier, pair: list[Tile]
) -> None:
    frames = edits.path_tiles(generator, pair, frames=5, timing="probability", classifier=classifier)
    assert len(frames) == 5
    with pytest.raises(UserError, match="Timing by probability needs a classifier"):
        edits.path_tiles(generator, pair, frames=5, timing="probability")
    with pytest.raises(UserError, match="no timing named 'slow'; choose one of: pixels, perceptual"):
        edits.path_tiles(generator, pair, frames=5, timing="slow")


def test_a_residual_path_begins_with_the_tile_itself(
    generator: LoadedGenerator, pair: list[Tile], real: Tile
) -> None:
    frames = edits.path_tiles(generator, pair, frames=3, residual_on=real)
    np.testing.assert_array_equal(frames[0].pixels, real.pixels)
    change = pair[1].pixels.astype(int) - pair[0].pixels
    np.testing.assert_allclose(frames[-1].pixels, np.clip(real.pixels + change, 0, 255), atol=2)
    assert [frame.residual for frame in frames] == [1.0] * 3


def test_a_path_that_was_stopped_has_no_more_frames(generator: LoadedGenerator, pair: list[Tile]) -> None:
    assert edits.path_tiles(generator, pair, frames=3, should_stop=lambda: True) == []
    assert edits.path_tiles(generator, pair, frames=3, timing="pixels", should_stop=lambda: True) == []
    with pytest.raises(UserError, match="at least 2 frames, not 1"):
        edits.path_tiles(generator, pair, frames=1)


def test_a_library_gives_arithmetic_its_points(
    generator: LoadedGenerator, pair: list[Tile], found: edits.ReverseSearch, tmp_path: Path
) -> None:
    library = Library(tmp_path / "library")
    a, b = (
        edits.add_to_library(library, tile, name=name, tags=["both"])
        for tile, name in zip(pair, "ab", strict=True)
    )
    tuned = edits.add_to_library(library, found.reconstruction, name="tuned one")
    tile, combination = edits.arithmetic_tile(
        generator, "mean(both) - a + tuned one", library, label="stroma"
    )
    assert combination.norm_after == pytest.approx(np.sqrt(8), rel=1e-6)
    assert tile.synthetic
    assert tile.point is not None
    assert (tile.point.class_weights, tile.source) == ((0, 1), "mean(both) - a + tuned one")
    expect_same(tile.pixels, draw(generator.network, [combination.point], device=CPU)[0])
    for entry, drawn in ((a, pair[0]), (b, pair[1]), (tuned, found.reconstruction)):
        again = edits.tile_of_entry(generator, library, entry)
        expect_same(again.pixels, drawn.pixels)
        assert again.point == drawn.point
    other = replace(generator, checkpoint=replace(generator.checkpoint, digest="f" * 64))
    with pytest.raises(UserError, match="belong to the generator"):
        edits.arithmetic_tile(other, "a", library)
    with pytest.raises(UserError, match="'a' belongs to the generator"):
        edits.tile_of_entry(other, library, a)
    with pytest.raises(UserError, match="real has no latent point yet"):
        edits.add_to_library(library, found.tile, name="c")


def test_networks_that_are_loaded_need_their_files_no_more(gan_run: Path, tmp_path: Path, real: Tile) -> None:
    shutil.copytree(gan_run, tmp_path / "run")
    loaded = load_generator(tmp_path / "run", device="cpu")
    shutil.rmtree(tmp_path / "run")
    (search,) = edits.reverse_search(loaded, [real], label="stroma", method="fast", steps=2)
    assert edits.flip_tile(loaded, search.reconstruction, to="epithelium").synthetic
    with pytest.raises(UserError):
        load_generator(tmp_path / "run", device="cpu")
