from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.jobs import edits, steering
from napari_histolatent.latent.directions import apply

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.training.load import LoadedGenerator


def brightness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(images.mean(axis=(1, 2, 3)), np.float64)


def test_the_direction_of_a_measure_moves_it(
    generator: LoadedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Networks this small draw no nuclei: brightness stands for what is measured.
    monkeypatch.setattr(steering, "function_named", lambda _: brightness)
    direction = steering.direction_of_measure(generator, "haematoxylin", name="brighter", n=200)
    assert (direction.name, direction.facts["feature"]) == ("brighter", "haematoxylin")
    assert direction.facts["r2_left_out"] > 0.3
    moved = steering.tried(generator, direction, "haematoxylin", n=16)
    assert moved.median > 0.8
    back = replace(direction, vector=tuple(-v for v in direction.vector))
    assert steering.tried(generator, back, "haematoxylin", n=16).median == pytest.approx(-moved.median)
    with pytest.raises(UserError, match="was stopped"):
        steering.tried(generator, direction, "haematoxylin", n=4, should_stop=lambda: True)


def test_main_directions_change_the_images_more_than_chance(generator: LoadedGenerator) -> None:
    first, second = steering.main_directions(generator, 2, samples=100)
    assert (first.name, second.name, first.facts["of"]) == ("component 1", "component 2", "images")
    (tile,) = edits.sample_tiles(generator, 1, label="stroma", seed=4)
    ends = steering.steered(generator, tile, first, [-2.0, 0.0, 2.0])
    assert [item.name for item in ends] == [f"{tile.name}_component 1_{s}" for s in ("-2", "+0", "+2")]
    np.testing.assert_allclose(ends[1].pixels.astype(int), tile.pixels, atol=1)
    assert tile.point is not None
    assert ends[2].point == apply(tile.point, first, 2.0)
    assert all(item.synthetic for item in ends)


def test_the_making_of_directions_stops_between_batches_of_images(generator: LoadedGenerator) -> None:
    for make in (
        lambda **options: steering.main_directions(generator, 1, samples=200, **options),
        lambda **options: steering.direction_of_measure(generator, "haematoxylin", n=200, **options),
    ):
        told: list[tuple[int, int]] = []
        with pytest.raises(UserError, match="was stopped"):
            make(
                on_progress=lambda done, total, told=told: told.append((done, total)),
                should_stop=lambda told=told: len(told) == 2,
            )
        assert told == [(64, 200), (128, 200)]


def test_samples_in_batches_do_not_repeat(generator: LoadedGenerator) -> None:
    tiles = steering._samples(generator, 130, "stroma", 0, None, None)
    assert len({tile.point.values for tile in tiles if tile.point}) == 130


def test_a_tile_without_a_point_cannot_be_steered(generator: LoadedGenerator) -> None:
    (tile,) = edits.sample_tiles(generator, 1, label="stroma", seed=4)
    (direction,) = steering.main_directions(generator, 1, samples=30)
    with pytest.raises(UserError, match="has no latent point yet"):
        steering.steered(generator, replace(tile, point=None), direction, [1.0])
    with pytest.raises(UserError, match="no measured feature 'age'"):
        steering.direction_of_measure(generator, "age")


def test_several_features_are_tried_on_the_same_images(
    generator: LoadedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def darkness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return -brightness(images)

    measures = {"light": brightness, "dark": darkness}
    monkeypatch.setattr(steering, "function_named", measures.__getitem__)
    drawn, told = [], []
    real = steering.draw
    monkeypatch.setattr(steering, "draw", lambda *a, **options: drawn.append(a) or real(*a, **options))
    direction = steering.direction_of_measure(generator, "light", n=60)
    found = steering.tried_on(
        generator,
        direction,
        ["light", "dark"],
        n=8,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert list(found) == ["light", "dark"]
    assert found["dark"].correlations == pytest.approx([-v for v in found["light"].correlations])
    assert len(drawn) == len(steering.STRENGTHS)
    assert told[-1] == (7, 7)
    drawn.clear()
    assert steering.tried(generator, direction, "light", n=8) == found["light"]
