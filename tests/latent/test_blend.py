from __future__ import annotations

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint, flipped
from napari_histolatent.latent.blend import (
    blended,
    effect_of,
    require_classes,
    residual_edit,
    retimed,
    retimed_by_steps,
    unevenness,
)

CLASSES = ("epithelium", "stroma", "fat")
POINT = LatentPoint((0.5, -2.0), (1.0, 0.0, 0.0), "d", "tile 3")


def noise(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (size, size, 3)).astype(np.uint8)


def test_a_blend_goes_from_the_point_to_its_flip() -> None:
    assert blended(POINT, "fat", 0, CLASSES).class_weights == POINT.class_weights
    assert blended(POINT, "fat", 1, CLASSES).class_weights == flipped(POINT, "fat", CLASSES).class_weights
    quarter = blended(POINT, "fat", 0.25, CLASSES)
    assert quarter.class_weights == (0.75, 0, 0.25)
    assert quarter.values == POINT.values
    assert quarter.origin == "tile 3; 0.250 of the way to fat"


def test_a_blend_keeps_offsets_and_the_tuned_copy() -> None:
    point = LatentPoint((0.5,), (1.0, 0.0, 0.0), "d", offsets=((1.0, 2.0),), tuned_digest="t")
    between = blended(point, "stroma", 0.5, CLASSES)
    assert (between.offsets, between.tuned_digest) == (point.offsets, "t")


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_a_blend_beyond_its_ends_is_refused(t: float) -> None:
    with pytest.raises(UserError, match="give a number from 0 to 1"):
        blended(POINT, "fat", t, CLASSES)


@pytest.mark.parametrize(
    ("classes", "words"), [((), "has no classes, so"), (("fat",), "has only the class fat, so")]
)
def test_a_generator_without_classes_has_nothing_to_flip_to(classes: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        require_classes(classes)
    with pytest.raises(UserError, match=words):
        blended(POINT, "fat", 0.5, classes)


def test_retimed_steps_are_equal() -> None:
    ts = np.linspace(0, 1, 201)
    curve = np.column_stack([ts**3, np.sin(3 * ts)])
    places = retimed(ts, curve, frames=9)
    assert (places[0], places[-1], len(places)) == (0, 1, 9)
    assert (np.diff(places) > 0).all()
    again = np.column_stack([places**3, np.sin(3 * places)])
    even = np.column_stack([np.linspace(0, 1, 9) ** 3, np.sin(3 * np.linspace(0, 1, 9))])
    assert unevenness(again) < 1.05 < 1.3 < unevenness(even)


def test_a_sudden_change_gets_most_of_the_frames() -> None:
    ts = np.linspace(0, 1, 101)
    chance = 1 / (1 + np.exp(-60 * (ts - 0.5)))
    places = retimed(ts, chance, frames=11)
    assert np.abs(places[1:-1] - 0.5).max() < 0.06
    assert np.allclose(np.interp(places, ts, chance), np.linspace(0, 1, 11), atol=0.02)


def test_where_nothing_changes_the_places_stay_even() -> None:
    np.testing.assert_allclose(retimed(np.linspace(0, 1, 5), np.full((5, 3), 7.0)), np.linspace(0, 1, 5))
    still = retimed_by_steps(np.linspace(0, 1, 4), np.array([1.0, 0.0, 1.0]), frames=3)
    assert still[0] == 0
    assert 1 / 3 <= still[1] <= 2 / 3
    assert still[2] == 1
    assert np.isnan(unevenness(np.ones(4)))


@pytest.mark.parametrize("steps", [[1.0], [1.0, -1.0], [1.0, float("nan")]])
def test_steps_that_are_none_are_a_fault(steps: list[float]) -> None:
    with pytest.raises(ValueError, match="needs the length of each step"):
        retimed_by_steps(np.linspace(0, 1, 3), np.array(steps))


def test_a_residual_edit_keeps_what_the_generator_cannot_draw() -> None:
    real, before = noise(0), noise(1)
    after = np.clip(before.astype(int) + 20, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(residual_edit(real, before, after), real + 20)
    np.testing.assert_array_equal(residual_edit(real, before, after, strength=0.5), real + 10)
    np.testing.assert_array_equal(residual_edit(real, before, after, strength=0), real)
    np.testing.assert_array_equal(residual_edit(before, before, after), after)  # found perfectly: the flip


def test_a_residual_edit_stays_within_the_range() -> None:
    white, black = np.full((2, 2, 3), 255, np.uint8), np.zeros((2, 2, 3), np.uint8)
    np.testing.assert_array_equal(residual_edit(white, black, white), white)
    np.testing.assert_array_equal(residual_edit(black, white, black), black)


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="8 x 8 x 3, 4 x 4 x 3"):
        residual_edit(noise(0), noise(1, 4), noise(2, 4))
    with pytest.raises(UserError, match="of one size"):
        effect_of(noise(0), noise(1, 4))


def test_a_change_of_colour_alone_is_called_so() -> None:
    before = noise(0)
    tinted = before + np.array([20, 0, 5], np.uint8)
    effect = effect_of(before, tinted)
    assert effect.share_by_mean_colour == pytest.approx(1)
    assert effect.is_stain_only
    assert "changes the stain alone: the mean colour explains 100% of it" in effect.sentences[0]
    assert effect.change_rmse == pytest.approx(np.sqrt((400 + 25) / 3) / 127.5)


def test_a_change_of_structure_is_not() -> None:
    effect = effect_of(noise(0), noise(1))
    assert effect.share_by_mean_colour < 0.1
    assert effect.sentences == ()
    assert effect_of(noise(0), noise(0)).share_by_mean_colour == 0


def test_a_flip_smaller_than_the_error_says_so() -> None:
    real, before = noise(0), noise(1)
    after = before.copy()
    after[::2, ::2] += 9
    effect = effect_of(before, after, real=real)
    assert effect.is_below_error
    assert effect.error_rmse == pytest.approx(np.sqrt(((real.astype(float) - before) ** 2).mean()) / 127.5)
    assert "changes less (RMSE" in effect.sentences[0]
    assert effect.to_json()["is_below_error"] is True
    assert not effect_of(before, after).is_below_error  # drawn, not found: no error to hide in
