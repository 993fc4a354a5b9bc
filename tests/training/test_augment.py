from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from napari_histolatent.training._augment import (
    _cutout,
    _shift,
    add_noise,
    differentiable_augment,
    dihedral,
    jitter_stain,
)

if TYPE_CHECKING:
    from collections.abc import Callable

from napari_histolatent.training._data import WHOLE, Part


def jitter(images: torch.Tensor, rng: torch.Generator, part: Part = WHOLE) -> torch.Tensor:
    return jitter_stain(images, rng, 0.3, part)


def noise(images: torch.Tensor, rng: torch.Generator, part: Part = WHOLE) -> torch.Tensor:
    return add_noise(images, rng, 0.1, part)


of_gans = [dihedral, differentiable_augment, jitter, noise]
every_augmentation = pytest.mark.parametrize("augment", [dihedral, differentiable_augment])


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


@pytest.mark.parametrize("augment", [dihedral, differentiable_augment, noise])
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


@pytest.mark.parametrize("augment", of_gans)
@pytest.mark.parametrize("n", [2, 3])
def test_parts_are_changed_as_in_the_whole_batch(augment: Callable[..., torch.Tensor], n: int) -> None:
    images = random_images(6)
    chances = [rng(4) for _ in range(n)]
    parts = [augment(Part(i, n).cut(images), chances[i], Part(i, n)) for i in range(n)]
    torch.testing.assert_close(torch.cat(parts), augment(images, whole := rng(4)))
    assert all(torch.equal(chance.get_state(), whole.get_state()) for chance in chances)


def test_jittered_stain_is_a_factor_on_optical_density() -> None:
    images = random_images(200, 4).clamp(-0.9, 1)
    before, after = (-torch.log((x + 1) / 2) for x in (images, jitter(images, rng())))
    factors = (after / before.clamp_min(1e-6)).flatten(2)
    middle = factors.median(2).values
    assert float(((factors - middle[:, :, None]) * before.flatten(2)).abs().max()) < 1e-4, "one a channel"
    assert 0.7 <= float(middle.min()) < 0.72
    assert 1.28 < float(middle.max()) <= 1.3
    assert abs(float(torch.corrcoef(torch.stack([middle[:, 0], middle[:, 1]]))[0, 1])) < 0.3


def test_white_and_black_stay_in_range_when_stain_is_jittered() -> None:
    extremes = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(-1, 3, 4, 4)
    changed = jitter(extremes, rng())
    assert torch.equal(changed[1], extremes[1]), "glass has no stain"
    assert float(changed.abs().max()) <= 1


def test_noise_has_the_deviation_that_is_asked_for() -> None:
    added = add_noise(torch.zeros(16, 3, 32, 32), rng(), 0.25)
    assert float(added.std()) == pytest.approx(0.25, rel=0.02)
    assert float(added.mean()) == pytest.approx(0, abs=0.01)
    assert len({image.numpy().tobytes() for image in added}) == 16
