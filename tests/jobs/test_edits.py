from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.jobs import edits
from napari_histolatent.latent import Inversion, LatentPoint
from napari_histolatent.latent.draw import draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.jobs.tiles import Tile
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
