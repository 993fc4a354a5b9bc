from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from napari_histolatent.training._augment import (
    _cutout,
    _shift,
    differentiable_augment,
    dihedral,
    stain_and_blur,
)

if TYPE_CHECKING:
    from collections.abc import Callable

every_augmentation = pytest.mark.parametrize("augment", [dihedral, differentiable_augment, stain_and_blur])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int = 6, size_px: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size_px, size_px, generator=rng(100)) * 2 - 1


def symmetries_of(image: torch.Tensor) -> list[torch.Tensor]:
    """Return the four turns of an image (C, H, W) and of its mirror image."""
    return [torch.rot90(side, turns, (1, 2)) for side in (image, image.flip(2)) for turns in range(4)]


@every_augmentation
@pytest.mark.parametrize(("n", "size_px"), [(1, 8), (5, 16), (3, 33)])
def test_shape_and_type_stay(augment: Callable[..., torch.Tensor], n: int, size_px: int) -> None:
    images = random_images(n, size_px)
    changed = augment(images, rng())
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert bool(torch.isfinite(changed).all())


@every_augmentation
def test_chance_comes_from_the_generator_alone(augment: Callable[..., torch.Tensor]) -> None:
    images = random_images()
    torch.manual_seed(1)
    first, state = augment(images, rng(7)), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, augment(images, rng(7)))
    assert not torch.equal(first, augment(images, rng(8)))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state()), "drew from torch's own"


@every_augmentation
def test_images_of_a_batch_are_changed_each_in_its_own_way(augment: Callable[..., torch.Tensor]) -> None:
    changed = augment(random_images(1).expand(32, -1, -1, -1), rng())
    assert len({image.numpy().tobytes() for image in changed}) > 7


@every_augmentation
def test_the_images_given_stay_as_they_are(augment: Callable[..., torch.Tensor]) -> None:
    images = random_images()
    before = images.clone()
    augment(images, rng())
    assert torch.equal(images, before)


def test_dihedral_gives_the_eight_symmetries_and_nothing_else() -> None:
    image = random_images(1)[0]
    symmetries = symmetries_of(image)
    changed = dihedral(image.expand(200, -1, -1, -1), rng())
    seen = [[torch.equal(one, symmetry) for symmetry in symmetries] for one in changed]
    assert all(sum(row) == 1 for row in seen)
    assert all(10 < sum(column) < 45 for column in zip(*seen, strict=True)), "25 each on average"


def test_dihedral_keeps_each_image_in_its_place() -> None:
    images = random_images(8)
    for image, changed in zip(images, dihedral(images, rng()), strict=True):
        assert any(torch.equal(changed, symmetry) for symmetry in symmetries_of(image))


@pytest.mark.parametrize("augment", [dihedral, differentiable_augment])
def test_gradients_pass_through(augment: Callable[..., torch.Tensor]) -> None:
    images = torch.rand(2, 3, 6, 6, generator=rng(1), dtype=torch.float64, requires_grad=True)
    # Fresh generators: the same chance each time the images are nudged.
    assert torch.autograd.gradcheck(lambda x: augment(x, rng(3)), images)
    (gradient,) = torch.autograd.grad(augment(images, rng(3)).square().sum(), images)
    assert bool((gradient.abs().amax((1, 2, 3)) > 0).all())


def test_differentiable_augment_changes_colour_and_place() -> None:
    grey = torch.zeros(64, 3, 16, 16)
    means = differentiable_augment(grey + 0.3, rng()).mean((1, 2, 3))
    assert float(means.std()) > 0.05
    spot = grey.clone()
    spot[:, :, 8, 8] = 50
    places = {int(image.mean(0).flatten().argmax()) for image in differentiable_augment(spot, rng())}
    assert len(places) > 8


@pytest.mark.parametrize(("size_px", "reach"), [(6, 1), (16, 2), (32, 4)])
def test_a_shift_is_by_at_most_an_eighth_and_brings_in_grey(size_px: int, reach: int) -> None:
    image = random_images(1, size_px)[0]
    padded = torch.nn.functional.pad(image, (reach,) * 4)
    side = 2 * reach + 1
    possible = {
        padded[:, y : y + size_px, x : x + size_px].numpy().tobytes(): (y, x)
        for y in range(side)
        for x in range(side)
    }
    shifted = _shift(image.expand(60 * side, -1, -1, -1), rng())
    places = {possible[one.numpy().tobytes()] for one in shifted}
    assert {y for y, _ in places} == {x for _, x in places} == set(range(side))


def test_a_cutout_is_a_grey_square_somewhere_over_the_image() -> None:
    images = torch.ones(200, 3, 16, 16)
    cut = _cutout(images, rng())[:, 0] == 0
    heights, widths = cut.any(2).sum(1), cut.any(1).sum(1)
    assert torch.equal(cut.sum((1, 2)), heights * widths), "a rectangle"
    assert int(heights.max()) == int(widths.max()) == 9
    assert int(heights.min()) >= 4, "at least a quarter of the side is cut, even at a border"
    assert bool(cut.any(0).all()), "every pixel is cut in some image"
    assert not bool(cut.all(0).any())


@pytest.mark.parametrize("low", [-1.0, -3.0])
def test_stain_and_blur_stays_in_range(low: float) -> None:
    images = random_images(64) * -low
    images[0], images[1] = -1, 1
    changed = stain_and_blur(images, rng())
    assert float(changed.abs().max()) <= 1 + 1e-6


def test_stain_is_jittered_per_channel() -> None:
    # Constant images, which a blur leaves alone.
    changed = stain_and_blur(torch.full((64, 3, 8, 8), 0.2), rng())
    assert float(changed.std((2, 3)).max()) < 1e-5
    colors = changed.mean((2, 3))
    assert bool((colors.std(0) > 0.05).all())
    assert float((colors[:, 0] - colors[:, 1]).std()) > 0.05


def test_more_stain_is_darker_whatever_the_jitter() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(32, 3, 16, 16)
    changed = stain_and_blur(ramp, rng())
    assert bool((changed.diff(dim=3) >= -1e-6).all())


def test_about_half_of_the_images_are_blurred() -> None:
    spot = torch.full((400, 3, 9, 9), 0.5)
    spot[:, :, 4, 4] = -0.5
    changed = stain_and_blur(spot, rng())
    blurred = (changed[:, 0, 4, 5] - changed[:, 0, 0, 0]).abs() > 1e-6
    assert 150 < int(blurred.sum()) < 250
