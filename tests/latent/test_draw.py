from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint, class_vector, flipped, random_points
from napari_histolatent.latent import draw as drawing
from napari_histolatent.latent.draw import draw, drawn_float, latents_of, tuned_copy
from napari_histolatent.latent.tuned import TunedWeights
from napari_histolatent.models.images import to_pixels

if TYPE_CHECKING:
    from napari_histolatent.models.protocols import Generator

CPU = torch.device("cpu")


def points_of(n: int, label: str = "epithelium", seed: int = 0) -> list[LatentPoint]:
    weights = class_vector(("epithelium", "stroma"), label)
    return random_points(n, z_dim=4, class_weights=weights, checkpoint_digest="d", seed=seed)


@pytest.mark.parametrize("n", [1, 5, 64, 65, 130])
def test_one_image_a_point(generator: Generator, n: int) -> None:
    pixels = draw(generator, points_of(n), device=CPU)
    assert (pixels.shape, pixels.dtype) == ((n, 16, 16, 3), np.uint8)


def test_images_are_those_of_a_direct_pass(generator: Generator) -> None:
    points = [*points_of(40), *points_of(40, "stroma", seed=1)]
    z = torch.tensor([point.values for point in points])
    y = torch.tensor([point.class_weights for point in points])
    expected = to_pixels(generator.synthesize(generator.map(z, y)))
    # A batch is summed in another order than its halves: one grey value at most.
    np.testing.assert_allclose(draw(generator, points, device=CPU).astype(int), expected.astype(int), atol=1)


def test_each_image_is_that_of_its_point(generator: Generator) -> None:
    points = points_of(70)
    together = draw(generator, points, device=CPU)
    for i in (0, 63, 64, 69):
        np.testing.assert_allclose(
            together[i].astype(int), draw(generator, [points[i]], device=CPU)[0], atol=1
        )
    assert len({image.tobytes() for image in together}) == 70


def test_a_flipped_point_is_another_image(generator: Generator) -> None:
    (point,) = points_of(1)
    one, other = draw(generator, [point, flipped(point, "stroma", generator.classes)], device=CPU).astype(int)
    assert np.abs(one - other).mean() > 2


def test_no_gradients_are_kept(generator: Generator) -> None:
    seen = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(generator, name)

        def synthesize(self, w: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_grad_enabled())
            return generator.synthesize(w)

    draw(Spy(), points_of(1), device=CPU)  # type: ignore[arg-type]
    assert seen == [False]


def test_floats_are_those_of_the_pixels(generator: Generator) -> None:
    points = points_of(70)
    images = drawn_float(generator, points, CPU)
    assert (tuple(images.shape), images.dtype) == ((70, 3, 16, 16), torch.float32)
    np.testing.assert_array_equal(to_pixels(images), draw(generator, points, device=CPU))


def test_offsets_are_added_to_the_latent_of_their_layer(generator: Generator) -> None:
    shape = (generator.num_ws, generator.w_dim)
    offsets = np.zeros(shape)
    offsets[1, 2] = 1.5
    plain, other = points_of(2)
    moved = replace(plain, offsets=tuple(map(tuple, offsets.tolist())))
    w = latents_of(generator, [plain, moved, other], CPU)
    np.testing.assert_allclose(w[1] - w[0], offsets, atol=1e-6)
    before, after, neighbour = draw(generator, [plain, moved, other], device=CPU).astype(int)
    assert np.abs(after - before).mean() > 1
    np.testing.assert_allclose(neighbour, draw(generator, [other], device=CPU)[0], atol=1)


def test_offsets_of_another_generator_are_refused(generator: Generator) -> None:
    (point,) = points_of(1)
    wrong = replace(point, offsets=((0.0,) * 6,) * 9)
    with pytest.raises(
        UserError, match=r"offsets for 9 layers of 6 numbers, the generator has 4 of 6; search"
    ):
        draw(generator, [point, wrong], device=CPU)


@pytest.mark.parametrize("folds", [True, False])
def test_what_is_drawn_often_is_drawn_by_the_folded_copy(
    generator: Generator, monkeypatch: pytest.MonkeyPatch, folds: bool
) -> None:
    folded: list[object] = []
    monkeypatch.setattr(drawing, "kept_folded", lambda network: folded.append(network) or network)
    draw(generator, points_of(2), device=CPU, folds=folds)
    assert folded == ([generator] if folds else [])


def tuned(generator: Generator, by: float) -> TunedWeights:
    state = {name: value.detach().numpy() + by for name, value in generator.named_parameters()}
    return TunedWeights.of(state, checkpoint_digest="d")


def test_a_tuned_copy_is_made_once_for_all_its_pictures(generator: Generator) -> None:
    first, second, third = (tuned(generator, by) for by in (0.01, 0.02, 0.03))
    copy = tuned_copy(generator, first)
    assert tuned_copy(generator, tuned(generator, 0.01)) is copy, "by its weights"
    expected = draw(first.applied(generator), points_of(3), device=CPU, folds=False)
    np.testing.assert_allclose(draw(copy, points_of(3), device=CPU).astype(int), expected, atol=1)
    tuned_copy(generator, second)
    assert tuned_copy(generator, first) is copy, "going back and forth between two"
    tuned_copy(generator, third)
    assert tuned_copy(generator, first) is copy
    assert tuned_copy(generator, second) is not copy
    tuned_copy(generator, third)
    assert tuned_copy(generator, first) is not copy, "of many, the newest are kept"
