from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from napari_histolatent.training import ClassifierConfig
from napari_histolatent.training._judge_augment import (
    AUGMENTERS,
    greyed,
    jittered,
    noisy,
    plain,
    reduced,
    resharpened,
    restained,
    robust,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]

STEPS = [restained, jittered, greyed, resharpened, reduced, noisy, plain, robust]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tissue(n: int, size: int = 24) -> torch.Tensor:
    """Return images like tissue: each of its own colour, with grain that is much the same in all channels."""
    chance = rng(5)
    color = torch.rand(n, 3, 1, 1, generator=chance) * 0.6 - 0.5
    grain = torch.randn(n, 1, size, size, generator=chance) * 0.15
    grain = grain + torch.randn(n, 3, size, size, generator=chance) * 0.05
    grain = nn.functional.avg_pool2d(nn.functional.pad(grain, (1,) * 4, mode="replicate"), 3, 1) * 2
    return (color + grain).clamp(-0.95, 0.5)


def density(images: torch.Tensor) -> torch.Tensor:
    return -torch.log((images + 1) / 2)


def sharpness(images: torch.Tensor) -> torch.Tensor:
    return images.diff(dim=3).abs().mean((1, 2, 3))


@pytest.mark.parametrize("augment", STEPS)
def test_chance_comes_from_the_generator_alone(augment: Augment) -> None:
    images = tissue(24)
    before = images.clone()
    first, again, other = (augment(images, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before), "what is given is left as it is"


@pytest.mark.parametrize("augment", STEPS)
@pytest.mark.parametrize("n", [1, 7])
def test_shape_and_range_are_kept(augment: Augment, n: int) -> None:
    images = tissue(n, size=17) * 1.0
    images[0, :, :5], images[0, :, 5:9] = -1, 1
    changed = augment(images, rng())
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert bool(changed.isfinite().all())
    assert float(changed.abs().max()) <= 1 + 1e-5


def test_every_augmentation_that_a_config_can_name_is_there() -> None:
    assert set(AUGMENTERS) == set(ClassifierConfig.augmentations)


def test_plain_only_turns() -> None:
    images = tissue(32)
    turns = [t for x in (images, images.transpose(2, 3)) for t in (x, x.flip(2), x.flip(3), x.flip(2, 3))]
    changed = plain(images, rng())
    matches = torch.stack([(changed == turn).flatten(1).all(1) for turn in turns])
    assert bool(matches.any(0).all())
    assert bool(matches.any(1).all()), "each symmetry is used"


# Stain


def test_stains_are_exchanged_and_their_order_of_strength_is_lost() -> None:
    images = tissue(300)
    changed = restained(images, rng(), share=1.0)
    before, after = (density(v).mean((2, 3)) for v in (images, changed))
    for channel in range(3):
        pair = torch.stack([before[:, channel], after[:, channel]])
        # A patch's new stain says nothing of its old one, but the stains of all are as they were.
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.2
        assert float(after[:, channel].mean()) == pytest.approx(float(before[:, channel].mean()), rel=0.1)
        assert float(after[:, channel].std()) == pytest.approx(float(before[:, channel].std()), rel=0.25)


def test_restaining_keeps_the_structure() -> None:
    images = tissue(40)
    changed = restained(images, rng(), share=1.0)
    for before, after in zip(density(images).mean(1), density(changed).mean(1), strict=True):
        pair = torch.stack([before.flatten(), after.flatten()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.95


def test_a_share_is_restained() -> None:
    images = tissue(400)
    changed = (restained(images, rng()) != images).flatten(1).any(1)
    assert 0.72 < float(changed.float().mean()) < 0.88


def test_white_stays_white() -> None:
    images = tissue(40)
    images[:, :, :6] = 1.0
    changed = restained(images, rng(), share=1.0)
    assert float((changed[:, :, :6] - 1).abs().max()) < 1e-5
    assert float((changed[:, :, 6:] - images[:, :, 6:]).abs().mean()) > 0.05


@pytest.mark.parametrize("color", [1.0, 0.2])
def test_what_has_no_stain_to_speak_of_neither_changes_nor_gives_it_on(color: float) -> None:
    """White patches have too little tissue, patches of one colour no spread."""
    images = torch.full((30, 3, 16, 16), color)
    assert torch.equal(restained(images, rng(), share=1.0), images)
    images[::2] = tissue(15, size=16)
    changed = restained(images, rng(), share=1.0)
    assert torch.equal(changed[1::2], images[1::2])
    left = (changed[::2] == images[::2]).flatten(1).all(1)
    assert 1 <= int(left.sum()) <= 14, "those that were to get the stain of such a patch"


def test_stain_is_jittered_per_channel() -> None:
    changed = jittered(torch.full((200, 3, 8, 8), 0.2), rng())
    assert float(changed.std((2, 3)).max()) < 1e-5
    colors = density(changed).mean((2, 3))
    old = -math.log(0.6)
    assert bool((colors >= 0.85 * old - 0.05 - 1e-5).all())
    assert bool((colors <= 1.18 * old + 0.1 + 1e-5).all())
    assert float((colors[:, 0] - colors[:, 1]).std()) > 0.05


def test_more_stain_is_darker_whatever_the_jitter() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(32, 3, 16, 16)
    assert bool((jittered(ramp, rng()).diff(dim=3) >= -1e-6).all())


def test_a_share_loses_its_colour_but_not_its_brightness() -> None:
    images = tissue(400)
    changed = greyed(images, rng(), share=0.5)
    torch.testing.assert_close(changed.mean(1), images.mean(1))
    saturation = (changed - changed.mean(1, keepdim=True)).abs().mean((1, 2, 3))
    ratio = saturation / (images - images.mean(1, keepdim=True)).abs().mean((1, 2, 3))
    less = ratio < 0.999
    assert 0.4 < float(less.float().mean()) < 0.6
    assert float(ratio[less].max()) <= 0.5 + 1e-4


# Sharpness


def test_most_are_blurred_and_some_sharpened() -> None:
    images = tissue(600)
    ratio = sharpness(resharpened(images, rng())) / sharpness(images)
    assert 0.54 < float((ratio < 0.999).float().mean()) < 0.66
    assert 0.10 < float((ratio > 1.001).float().mean()) < 0.20
    assert float(ratio.min()) < 0.3


def test_the_blur_is_a_gaussian_of_up_to_2_px() -> None:
    spot = torch.full((300, 3, 21, 21), -0.5)
    spot[:, :, 10, 10] = 0.5
    changed = resharpened(spot, rng())[:, 0] + 0.5
    at = torch.arange(21.0) - 10
    blurred = changed[(changed[:, 10, 10] < 0.999) & (changed.amin((1, 2)) >= -1e-6)]
    assert len(blurred) > 100
    torch.testing.assert_close(blurred.sum((1, 2)), torch.ones(len(blurred)), rtol=1e-4, atol=1e-4)
    deviation = (blurred.sum(1) * at.square()).sum(1).sqrt()
    assert 1.85 < float(deviation.max()) <= 2.0
    # Separable, and of the shape of a Gaussian: each step from the middle divides by a fixed factor more.
    wide = blurred[deviation > 1][:, 10, 10:14].log()
    steps = wide.diff(dim=1)
    torch.testing.assert_close(steps[:, 1] / steps[:, 0], torch.full((len(wide),), 3.0), rtol=1e-2, atol=0)
    torch.testing.assert_close(steps[:, 2] / steps[:, 0], torch.full((len(wide),), 5.0), rtol=1e-2, atol=0)


def test_one_colour_has_no_sharpness_to_change() -> None:
    images = torch.rand(20, 3, 1, 1, generator=rng()).expand(20, 3, 16, 16)
    torch.testing.assert_close(resharpened(images, rng()), images)
    torch.testing.assert_close(reduced(images, rng()), images)


def test_a_sixth_is_reduced() -> None:
    images = tissue(36)
    changed = reduced(images, rng())
    less = sharpness(changed) < 0.95 * sharpness(images)
    assert less.tolist() == [True] * 6 + [False] * 30
    assert torch.equal(changed[6:], images[6:])


def test_a_share_gets_noise_of_its_own_strength() -> None:
    images = torch.zeros(400, 3, 16, 16)
    strength = noisy(images, rng()).std((1, 2, 3))
    some = strength > 0
    assert 0.33 < float(some.float().mean()) < 0.47
    assert 0.05 < float(strength[some].max()) < 0.065
    assert float(strength[some].min()) < 0.01
