from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.jobs.seeing import (
    heatmaps_of,
    probabilities_of,
    remarks_on,
    require_match,
    require_same_classes,
    view_of,
)
from napari_histolatent.jobs.tiles import Tile

if TYPE_CHECKING:
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator

RNG = np.random.default_rng(0)


def tile(side: int, mpp: float | None, box: tuple[float, float, float, float] | None = None) -> Tile:
    return Tile("a", RNG.integers(0, 255, (side, side, 3)).astype(np.uint8), mpp=mpp, level0_box=box)


@pytest.mark.parametrize("mpp", [1.0, 0.99, None])
def test_a_tile_like_the_classifiers_own_is_shown_as_it_is(
    classifier: LoadedClassifier, mpp: float | None
) -> None:
    given = tile(32, mpp, (0, 0, 64, 64))
    view = view_of(classifier, given)
    assert view.pixels is given.pixels
    assert (view.level0_box, view.remark) == ((0, 0, 64, 64), None)
    assert remarks_on(classifier, [given]) == ()


def test_the_middle_of_a_larger_tile_is_shown_at_its_place(classifier: LoadedClassifier) -> None:
    given = tile(64, 1.0, (100, 100, 228, 228))
    view = view_of(classifier, given)
    np.testing.assert_array_equal(view.pixels, given.pixels[16:48, 16:48])
    assert view.level0_box == (132, 132, 196, 196)
    assert view.remark == "The classifier is shown the middle 32 µm of tiles of 64 µm."
    (heatmap,) = heatmaps_of(classifier, [given])
    assert heatmap.level0_box == (132, 132, 196, 196)
    assert heatmap.values.shape == (32, 32)


def test_a_tile_of_another_pixel_size_is_resampled_and_that_is_said(classifier: LoadedClassifier) -> None:
    given = tile(64, 0.5)
    view = view_of(classifier, given)
    means = given.pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(view.pixels, means, atol=0.6)
    assert remarks_on(classifier, [given, given]) == (
        "The classifier is shown the middle 32 µm of tiles of 32 µm, resampled from 0.5 to 1 µm per px.",
    )
    assert probabilities_of(classifier, [given]) == probabilities_of(
        classifier, [replace(given, pixels=view.pixels, mpp=1.0)]
    )


def test_a_tile_that_shows_less_is_enlarged_and_that_is_said(classifier: LoadedClassifier) -> None:
    view = view_of(classifier, tile(32, 0.5))
    assert view.pixels.shape == (32, 32, 3)
    assert view.remark is not None
    assert "less than the 32 µm the classifier learnt from, so it sees them 2 times too large" in view.remark


def test_without_a_pixel_size_the_field_of_view_is_taken_to_be_the_same(classifier: LoadedClassifier) -> None:
    view = view_of(classifier, tile(64, None))
    assert view.pixels.shape == (32, 32, 3)
    assert view.remark is not None
    assert view.remark.startswith("A pixel size is not known, so tiles of 64 px are taken to show as much")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (tile(32, 4.2), "trained on 1 µm per px, a has 4.2, more than 4 times apart"),
        (tile(200, 0.2), "more than 4 times apart"),
        (tile(16, 0.3), "less than a quarter"),
        (tile(200, None), "more than 4 times apart"),
    ],
)
def test_what_is_too_far_apart_is_refused(classifier: LoadedClassifier, given: Tile, words: str) -> None:
    with pytest.raises(UserError, match=words):
        probabilities_of(classifier, [given])


def test_nothing_to_see_is_no_error(classifier: LoadedClassifier) -> None:
    assert (probabilities_of(classifier, []), heatmaps_of(classifier, [])) == ([], [])


def test_other_classes_are_refused_and_both_models_named(
    generator: LoadedGenerator, classifier: LoadedClassifier
) -> None:
    other = replace(classifier, checkpoint=replace(classifier.checkpoint, classes=("tumour", "stroma")))
    with pytest.raises(UserError) as caught:
        require_same_classes(generator, other)
    for checkpoint in (generator.checkpoint, classifier.checkpoint):
        assert str(checkpoint.path) in str(caught.value)
    without = replace(generator, checkpoint=replace(generator.checkpoint, classes=()))
    require_same_classes(without, other)


def test_a_pixel_size_that_the_classifiers_card_assumes_is_called_so(classifier: LoadedClassifier) -> None:
    assumed = replace(classifier, checkpoint=replace(classifier.checkpoint, metrics={"mpp_is_assumed": True}))
    (said,) = remarks_on(assumed, [tile(64, 0.5)])
    assert said.endswith("resampled from 0.5 to 1 µm per px, which its card assumes.")


@pytest.mark.parametrize(
    ("mpp", "words"), [(1.0, None), (4.0, None), (0.25, None), (4.2, "4.2, more than 4")]
)
def test_a_classifier_of_pixels_too_far_apart_is_no_match(
    generator: LoadedGenerator, classifier: LoadedClassifier, mpp: float, words: str | None
) -> None:
    given = replace(generator, checkpoint=replace(generator.checkpoint, mpp=mpp))
    if words is None:
        require_match(given, classifier)
        return
    with pytest.raises(UserError, match=f"trained on 1 µm per px, the generator has {words}"):
        require_match(given, classifier)


def test_a_classifier_of_other_classes_is_no_match(
    generator: LoadedGenerator, classifier: LoadedClassifier
) -> None:
    other = replace(classifier, checkpoint=replace(classifier.checkpoint, classes=("tumour", "stroma")))
    with pytest.raises(UserError, match="knows the classes"):
        require_match(generator, other)
