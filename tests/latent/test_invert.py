from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from scipy.stats import chi2

from napari_histolatent.errors import UserError
from napari_histolatent.latent import Inversion, class_vector, random_points
from napari_histolatent.latent.draw import drawn_float
from napari_histolatent.latent.invert import METHODS, SearchOptions, invert
from napari_histolatent.latent.perceptual import PerceptualDistance
from napari_histolatent.models import build_gan
from napari_histolatent.models.metrics import psnr_db, rmse, ssim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.models.protocols import Generator

CLASSES = ("epithelium", "stroma")
CPU = torch.device("cpu")
EPITHELIUM, STROMA = (class_vector(CLASSES, name) for name in CLASSES)


@torch.no_grad()
def drawn(
    generator: Generator, z: Sequence[Sequence[float]], weights: Sequence[tuple[float, ...]]
) -> torch.Tensor:
    return generator.synthesize(generator.map(torch.tensor(z), torch.tensor(weights)))


def generated(generator: Generator, weights: Sequence[tuple[float, ...]], seed: int = 0) -> torch.Tensor:
    points = random_points(
        len(weights), z_dim=generator.z_dim, class_weights=EPITHELIUM, checkpoint_digest="d", seed=seed
    )
    return drawn(generator, [point.values for point in points], weights)


def search(
    generator: Generator, images: torch.Tensor, weights: Sequence[tuple[float, ...]], **options: Any
) -> list[Inversion]:
    return invert(
        generator,
        images,
        weights,
        checkpoint_digest="d" * 64,
        origins=[f"tile {i}" for i in range(len(images))],
        **options,
    )


def images_of(generator: Generator, found: list[Inversion]) -> torch.Tensor:
    return drawn(
        generator, [item.point.values for item in found], [item.point.class_weights for item in found]
    )


def test_a_generated_tile_is_found_again(generator: Generator) -> None:
    weights = [EPITHELIUM, EPITHELIUM, STROMA, STROMA]
    tiles = generated(generator, weights)
    found = search(generator, tiles, weights, steps=250)
    of_another_point = rmse(generated(generator, weights, seed=1), tiles)
    for item, other in zip(found, of_another_point, strict=True):
        assert item.rmse < 0.03
        assert item.rmse < 0.1 * float(other)


def test_the_latent_vector_is_found_again(generator: Generator) -> None:
    (point,) = random_points(1, z_dim=4, class_weights=STROMA, checkpoint_digest="d", seed=0)
    (item,) = search(generator, drawn(generator, [point.values], [STROMA]), [STROMA], steps=250)
    assert item.point.values == pytest.approx(point.values, abs=0.1)


def test_what_is_found_says_what_it_is(generator: Generator) -> None:
    weights = [EPITHELIUM, STROMA]
    for i, item in enumerate(search(generator, generated(generator, weights), weights, steps=3)):
        assert item.point.class_weights == weights[i]
        assert item.point.checkpoint_digest == "d" * 64
        assert item.point.origin == f"tile {i}"
        assert (item.point.space, len(item.point.values)) == ("z", 4)
        assert item.seconds > 0


def test_the_figures_are_those_of_the_point_that_is_returned(generator: Generator) -> None:
    weights = [EPITHELIUM, STROMA]
    tiles = generated(generator, weights)
    found = search(generator, tiles, weights, steps=30)
    images = images_of(generator, found)
    assert [item.rmse for item in found] == pytest.approx(rmse(images, tiles).tolist(), rel=1e-4)
    assert [item.psnr_db for item in found] == pytest.approx(psnr_db(images, tiles).tolist(), rel=1e-4)
    assert [item.ssim for item in found] == pytest.approx(ssim(images, tiles).tolist(), rel=1e-4)


def test_the_class_is_held_fixed(generator: Generator) -> None:
    tile = generated(generator, [EPITHELIUM])
    right, wrong = (search(generator, tile, [weights], steps=150)[0] for weights in (EPITHELIUM, STROMA))
    assert wrong.point.class_weights == STROMA
    assert right.rmse < 0.5 * wrong.rmse


def test_a_blend_of_classes_can_be_searched(generator: Generator) -> None:
    blend = (0.5, 0.5)
    (item,) = search(generator, generated(generator, [blend]), [blend], steps=250)
    assert item.rmse < 0.05


def test_the_seed_alone_decides(generator: Generator) -> None:
    tiles, weights = generated(generator, [EPITHELIUM, STROMA]), [EPITHELIUM, STROMA]
    torch.manual_seed(1)
    first, again, other = (
        [item.point for item in search(generator, tiles, weights, steps=5, seed=seed)] for seed in (2, 2, 3)
    )
    assert first == again
    assert first != other


def test_each_tile_is_searched_on_its_own(generator: Generator) -> None:
    tiles, weights = generated(generator, [EPITHELIUM, STROMA]), [EPITHELIUM, STROMA]
    with_another = search(generator, tiles, weights, steps=20)[0]
    elsewhere = search(generator, torch.cat([tiles[:1], -tiles[1:]]), weights, steps=20)[0]
    assert with_another.point.values == pytest.approx(elsewhere.point.values, abs=1e-5)


def test_more_steps_are_never_worse(generator: Generator) -> None:
    tile = generated(generator, [STROMA])
    # A rate that overshoots, so that the last step is not always the best.
    errors = [
        search(generator, tile, [STROMA], steps=40, learning_rate=2.0, should_stop=stop_after(n))[0].rmse
        for n in (1, 5, 10, 20, 40)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def stop_after(n: int) -> Any:
    """Return a question that is answered with yes the n-th time, and thereafter."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= n


def test_a_stopped_search_returns_the_best_so_far(generator: Generator) -> None:
    tile, errors = generated(generator, [STROMA]), list[float]()
    spy = Spy(generator, lambda images: errors.append(float(rmse(images.detach(), tile))))
    (item,) = search(
        spy, tile, [STROMA], steps=100, learning_rate=2.0, should_stop=lambda: errors[-1] > min(errors)
    )
    *searched, returned = errors
    assert 1 < len(searched) < 100, "it overshot before the end"
    assert item.rmse == pytest.approx(returned)
    assert item.rmse == pytest.approx(min(searched), rel=1e-5)
    assert min(searched) < searched[-1]


class Spy:
    """A generator that shows what it draws."""

    def __init__(self, generator: Generator, see: Any) -> None:
        self._generator, self._see = generator, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        images = self._generator.synthesize(w)
        self._see(images)
        return images


def test_steps_are_reported_with_the_images_so_far(generator: Generator) -> None:
    weights, reports = [EPITHELIUM, STROMA], []
    tiles = generated(generator, weights)
    search(generator, tiles, weights, steps=60, on_step=lambda step, images: reports.append((step, images)))
    assert [step for step, _ in reports] == [0, 25, 50]
    for _, images in reports:
        assert images.shape == tiles.shape
        assert not images.requires_grad
    first, *_, last = (float(rmse(images, tiles).mean()) for _, images in reports)
    assert last < 0.5 * first


def test_it_works_where_gradients_are_off(generator: Generator) -> None:
    tile = generated(generator, [STROMA])
    expected = search(generator, tile, [STROMA], steps=5)[0].point
    with torch.no_grad():
        assert search(generator, tile, [STROMA], steps=5)[0].point == expected


def test_the_generator_stays_as_it_is(generator: Generator) -> None:
    assert isinstance(generator, torch.nn.Module)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    search(generator, generated(generator, [STROMA]), [STROMA], steps=5)
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    assert all(parameter.grad is None for parameter in generator.parameters())


@pytest.mark.parametrize("method", ["slow", "", "S1"])
def test_an_unknown_method_is_refused(generator: Generator, method: str) -> None:
    with pytest.raises(
        UserError,
        match=rf"^There is no reverse search named '{method}'; choose one of s1, fast, layers, faithful\.$",
    ):
        search(generator, generated(generator, [STROMA]), [STROMA], method=method)


def test_every_method_can_be_named(generator: Generator) -> None:
    for method in METHODS:
        assert search(generator, generated(generator, [STROMA]), [STROMA], method=method, steps=2)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (16, 32), (17, 16)])
def test_a_tile_of_another_size_is_refused(generator: Generator, height: int, width: int) -> None:
    with pytest.raises(
        UserError, match=rf"^The tile is {width} x {height} px, the generator draws 16 px; give"
    ):
        search(generator, torch.zeros(1, 3, height, width), [STROMA])


@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_never_has_an_error_is_refused(generator: Generator, method: str) -> None:
    tiles = generated(generator, [STROMA, STROMA])
    tiles[1, 0, 3, 3] = torch.nan
    with pytest.raises(UserError, match="The reverse search diverged"):
        search(generator, tiles, [STROMA, STROMA], steps=3, method=method)


def test_an_error_that_is_lost_on_the_way_is_refused(generator: Generator) -> None:
    drawn = 0

    class Breaking(Spy):
        def synthesize(self, w: torch.Tensor) -> torch.Tensor:
            nonlocal drawn
            drawn += 1
            return self._generator.synthesize(w) * (torch.nan if drawn > 3 else 1)

    with pytest.raises(UserError, match="The reverse search diverged"):
        search(Breaking(generator, len), generated(generator, [STROMA]), [STROMA], steps=9)


def test_options_and_keywords_say_the_same(generator: Generator) -> None:
    tile = generated(generator, [STROMA])
    options = SearchOptions(steps=4, seed=3, learning_rate=0.1)
    (by_options,) = search(generator, tile, [STROMA], options=options)
    (by_keywords,) = search(generator, tile, [STROMA], steps=4, seed=3, learning_rate=0.1)
    assert by_options.point == by_keywords.point
    assert by_options.steps == 4


def test_a_weight_of_no_distance_is_refused(generator: Generator) -> None:
    options = SearchOptions(perceptual_weight=0.5)
    with pytest.raises(UserError, match=r"^A perceptual_weight of 0\.5 needs a perceptual distance"):
        search(generator, generated(generator, [STROMA]), [STROMA], options=options)


@pytest.mark.parametrize("method", METHODS)
def test_what_every_method_tells(generator: Generator, method: str) -> None:
    tiles, weights = generated(generator, [EPITHELIUM, STROMA]), [EPITHELIUM, STROMA]
    distance = PerceptualDistance()
    found = search(generator, tiles, weights, steps=3, method=method, perceptual=distance)
    with torch.no_grad():
        networks = [item.tuned.applied(generator) if item.tuned else generator for item in found]
        images = torch.cat(
            [drawn_float(network, [item.point], CPU) for network, item in zip(networks, found, strict=True)]
        )
    at_z = images_of(generator, found)
    assert [item.rmse for item in found] == pytest.approx(rmse(images, tiles).tolist(), rel=1e-3)
    assert [item.rmse_at_z for item in found] == pytest.approx(rmse(at_z, tiles).tolist(), rel=1e-3)
    assert [item.perceptual for item in found] == pytest.approx(distance(images, tiles).tolist(), rel=1e-3)
    assert [item.perceptual_at_z for item in found] == pytest.approx(distance(at_z, tiles).tolist(), rel=1e-3)
    for item in found:
        z = torch.tensor(item.point.values)
        assert item.z_ratio == pytest.approx(float(z.norm()) / 2, rel=1e-5)
        assert item.prior_percentile == pytest.approx(100 * chi2.cdf(float(z.square().sum()), 4), abs=1e-3)
        assert (item.method, item.spread) == (method, None)
        assert item.steps == (3 if method in ("s1", "fast") else 53)


def test_several_starts_keep_the_nearest_and_tell_their_spread(generator: Generator) -> None:
    tiles, weights = generated(generator, [EPITHELIUM, STROMA]), [EPITHELIUM, STROMA]
    for method in ("s1", "fast"):
        one, three = (
            search(generator, tiles, weights, method=method, options=SearchOptions(steps=5, starts=n))
            for n in (1, 3)
        )
        for alone, of_three in zip(one, three, strict=True):
            assert of_three.rmse <= alone.rmse * 1.001
            assert of_three.spread is not None
            assert of_three.spread > 0.001


def test_starts_that_found_the_same_image_have_no_spread(generator: Generator) -> None:
    tile = generated(generator, [STROMA])
    (item,) = search(generator, tile, [STROMA], options=SearchOptions(steps=150, starts=3))
    assert item.rmse < 0.02
    assert item.spread is not None
    assert item.spread < 0.03


def test_a_start_that_is_the_tile_itself_is_returned(generator: Generator) -> None:
    # The root's slope is infinite there.
    start = torch.randn(1, 4, generator=torch.Generator().manual_seed(6))
    (item,) = search(generator, drawn(generator, start.tolist(), [STROMA]), [STROMA], seed=6, steps=5)
    assert item.point.values == tuple(start[0].tolist())
    assert item.rmse == 0
    assert math.isfinite(item.psnr_db)


def test_a_layered_generator_of_another_make() -> None:
    class Line:
        """An image is w times its own pixel: nothing of a network class is needed."""

        classes, size_px, z_dim, num_ws, w_dim = CLASSES, 16, 2, 1, 4
        prior = "normal"

        def map(self, z: torch.Tensor, y: torch.Tensor, *, psi: float = 1.0) -> torch.Tensor:
            return torch.cat([psi * z, y], 1)[:, None]

        def synthesize(self, w: torch.Tensor) -> torch.Tensor:
            ramp = torch.linspace(-1, 1, 16)
            return (
                0.2 * (w[:, 0, 0, None, None] * ramp[:, None] + w[:, 0, 1, None, None] * ramp)[:, None]
            ).expand(-1, 3, -1, -1)

    tile = Line().synthesize(torch.tensor([[[1.0, -0.5, 1, 0]]]))
    (item,) = search(Line(), tile, [EPITHELIUM], steps=200)  # type: ignore[arg-type]
    assert item.point.values == pytest.approx((1, -0.5), abs=0.02)


@pytest.mark.parametrize("size_px", [8, 16, 32])
def test_tiles_of_every_size_that_a_network_draws(size_px: int) -> None:
    try:
        network, _ = build_gan("cdcgan", classes=CLASSES, size_px=size_px, z_dim=3, base_channels=4)
    except UserError:
        assert size_px == 8, "only the smallest may be refused"
        return
    assert isinstance(network, torch.nn.Module)
    (item,) = search(network.eval(), torch.zeros(1, 3, size_px, size_px), [STROMA], steps=2)
    assert 0 < item.rmse < 2
