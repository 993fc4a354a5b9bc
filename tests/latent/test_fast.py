from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.latent.invert import SearchOptions
from napari_histolatent.latent.perceptual import PerceptualDistance
from napari_histolatent.models import build_gan
from tests.latent.searching import EPITHELIUM, STROMA, Guess, images_at, noise, random_z, search

if TYPE_CHECKING:
    from napari_histolatent.models.protocols import Generator


def test_it_starts_where_the_encoder_says(generator: Generator) -> None:
    z = random_z(1)
    (item,) = search(generator, noise(1), [STROMA], method="fast", encoder=Guess(z), steps=1)
    assert item.point.values == pytest.approx(z[0].tolist(), abs=1e-6)


def test_a_good_guess_is_made_better(generator: Generator) -> None:
    z = random_z(2)
    tiles = images_at(generator, z, [EPITHELIUM, EPITHELIUM])
    near = Guess(z[:1] + 0.2)
    start, end = (
        search(generator, tiles[:1], [EPITHELIUM], method="fast", encoder=near, steps=n)[0] for n in (1, 50)
    )
    assert end.rmse < 0.3 * start.rmse


def test_without_an_encoder_the_nearest_of_drawn_images_is_the_start(generator: Generator) -> None:
    tiles = images_at(generator, random_z(2, seed=5), [EPITHELIUM, STROMA])
    found = search(generator, tiles, [EPITHELIUM, STROMA], method="fast", steps=1)
    others = images_at(generator, random_z(20, seed=6), [EPITHELIUM] * 20)
    nearest = (others - tiles[0]).square().mean(dim=(1, 2, 3)).sqrt().min()
    assert found[0].rmse <= float(nearest) * 1.2
    (alone,) = search(generator, tiles[1:], [STROMA], method="fast", steps=1)
    assert alone.point.values == pytest.approx(found[1].point.values)


def test_an_encoder_of_another_generator_is_refused(generator: Generator) -> None:
    other = Guess(torch.zeros(1, 4))
    other.size_px = 32
    with pytest.raises(
        UserError, match=r"^The encoder takes 32 px and gives 4 numbers, the generator draws 16 px from 4;"
    ):
        search(generator, noise(1), [STROMA], method="fast", encoder=other, steps=1)


def test_the_prior_keeps_z_from_leaving(generator: Generator) -> None:
    z = torch.tensor([[2.2, -2.2, 2.2, -2.2]])
    tile = images_at(generator, z, [STROMA])
    free, held = (
        search(
            generator,
            tile,
            [STROMA],
            method="fast",
            encoder=Guess(0.95 * z),
            options=SearchOptions(steps=50, prior_weight=weight),
        )[0]
        for weight in (0.0, 3.0)
    )
    # 95 % of drawn vectors of four numbers are at most 1.54 times as long as a typical one.
    assert held.z_ratio < 1.6 < free.z_ratio


def test_the_prior_leaves_a_generated_tile_where_it_was_drawn_from(generator: Generator) -> None:
    z = random_z(1)
    z = z / z.norm() * 2  # on the shell
    tile = images_at(generator, z, [STROMA])
    options = SearchOptions(steps=60, prior_weight=1.0)
    (item,) = search(generator, tile, [STROMA], method="fast", encoder=Guess(z * 0.95), options=options)
    assert item.point.values == pytest.approx(z[0].tolist(), abs=0.02)


def test_a_polish_comes_nearer(generator: Generator) -> None:
    z = random_z(2, seed=2) * 0.8  # inside the prior
    tiles = images_at(generator, z, [EPITHELIUM, STROMA])
    plain, polished = (
        search(
            generator,
            tiles,
            [EPITHELIUM, STROMA],
            method="fast",
            encoder=Guess(torch.zeros(1, 4)),
            options=SearchOptions(steps=20, polish_steps=n),
        )
        for n in (0, 25)
    )
    for before, after in zip(plain, polished, strict=True):
        assert after.rmse < 0.3 * before.rmse
        assert after.steps == 45


def test_a_polish_does_not_look_at_the_neighbours(generator: Generator) -> None:
    tiles = torch.cat([images_at(generator, random_z(1), [STROMA]), noise(1)])
    options = SearchOptions(steps=5, polish_steps=8)
    both = search(generator, tiles, [STROMA, STROMA], method="fast", options=options)
    (alone,) = search(generator, tiles[:1], [STROMA], method="fast", options=options)
    assert both[0].point.values == pytest.approx(alone.point.values, abs=1e-3)


def test_a_free_class_is_found(generator: Generator) -> None:
    z = random_z(1)
    tile = images_at(generator, z, [STROMA])
    options = SearchOptions(steps=60, polish_steps=5, free_class=True)
    (item,) = search(generator, tile, [(0.5, 0.5)], method="fast", encoder=Guess(z), options=options)
    assert item.point.class_weights[1] > 0.8
    assert sum(item.point.class_weights) == pytest.approx(1)


def test_the_perceptual_distance_is_made_small_where_it_has_a_weight(generator: Generator) -> None:
    distance = PerceptualDistance()
    plain, weighed = (
        search(
            generator,
            noise(3),
            [STROMA] * 3,
            method="fast",
            perceptual=distance,
            options=SearchOptions(steps=25, perceptual_weight=weight),
        )
        for weight in (0.0, 3.0)
    )

    def mean(found: list[Any]) -> float:
        return float(sum(item.perceptual for item in found) / len(found))

    assert mean(weighed) < mean(plain)


def test_a_uniform_prior_is_not_left() -> None:
    torch.manual_seed(0)
    network, _ = build_gan("cdcgan", classes=("epithelium", "stroma"), size_px=16, z_dim=4, base_channels=4)
    assert isinstance(network, torch.nn.Module)
    network.eval().requires_grad_(False)
    network.prior = "uniform"
    options = SearchOptions(steps=40, learning_rate=0.3, prior_weight=0.0, polish_steps=5)
    for item in search(network, noise(3), [STROMA] * 3, method="fast", options=options):
        assert max(map(abs, item.point.values)) <= 1


def test_a_stopped_search_is_not_polished(generator: Generator) -> None:
    options = SearchOptions(steps=30, polish_steps=5)
    (item,) = search(generator, noise(1), [STROMA], method="fast", options=options, should_stop=lambda: True)
    assert item.steps == 1


def test_progress_is_shown_often_enough_to_be_watched(generator: Generator) -> None:
    told: list[tuple[int, int]] = []
    search(
        generator,
        noise(2),
        [STROMA] * 2,
        method="fast",
        options=SearchOptions(steps=11, starts=2),
        on_step=lambda step, images: told.append((step, len(images))),
    )
    assert told == [(0, 2), (5, 2), (10, 2)]
