from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.models._dcgan_modern import (
    ConditionalBatchNorm,
    ModernDiscriminator,
    ModernGenerator,
    _with_minibatch_deviation,
    build,
)
from napari_histolatent.models.protocols import Discriminator, Generator


def gan(
    size_px: int = 16, *, n_classes: int = 2, z_dim: int = 6, base_channels: int = 4, seed: int = 0
) -> tuple[ModernGenerator, ModernDiscriminator]:
    torch.manual_seed(seed)
    classes = tuple(f"class {i}" for i in range(n_classes))
    return build(classes=classes, size_px=size_px, z_dim=z_dim, base_channels=base_channels)


def latents(n: int, n_classes: int = 2, z_dim: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(n, z_dim, generator=torch.Generator().manual_seed(seed))
    return z, torch.eye(n_classes)[torch.arange(n) % n_classes] if n_classes else torch.empty(n, 0)


def random_images(n: int, size_px: int = 16, seed: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, size_px, size_px, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("n_classes", [0, 2])
def test_protocols(n_classes: int) -> None:
    generator, discriminator = gan(n_classes=n_classes)
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    assert generator.prior == "normal"


@pytest.mark.parametrize("n_classes", [0, 2, 3])
@pytest.mark.parametrize(("size_px", "num_ws"), [(16, 4), (32, 5), (64, 6)])
def test_shapes_and_range(size_px: int, num_ws: int, n_classes: int) -> None:
    generator, discriminator = gan(size_px, n_classes=n_classes)
    z, y = latents(5, n_classes)
    w = generator.map(z, y)
    images = generator.synthesize(w)
    assert (generator.z_dim, generator.num_ws, generator.w_dim) == (6, num_ws, 6 + n_classes)
    assert w.shape == (5, num_ws, 6 + n_classes)
    assert images.shape == (5, 3, size_px, size_px)
    assert images.dtype == torch.float32
    assert float(images.detach().abs().max()) <= 1
    assert discriminator(images, y).shape == (5,)


def test_the_range_holds_for_extreme_latents() -> None:
    generator, _ = gan()
    z, y = latents(4)
    assert float(generator.eval()(1000 * z, y).detach().abs().max()) <= 1


def test_w_repeats_z_and_class_for_each_layer() -> None:
    generator, _ = gan()
    z, y = latents(3)
    for layer in generator.map(z, y).unbind(1):
        torch.testing.assert_close(layer, torch.cat([z, y], 1), rtol=0, atol=0)


@pytest.mark.parametrize("psi", [0.0, 0.5, 1.0, 2.0])
def test_psi_scales_z_and_leaves_the_class(psi: float) -> None:
    generator, _ = gan()
    z, y = latents(3)
    torch.testing.assert_close(generator.map(z, y, psi=psi)[:, 0], torch.cat([psi * z, y], 1))


def test_map_then_synthesize_is_the_whole_network() -> None:
    generator, _ = gan()
    z, y = latents(4)
    generator.eval()
    torch.testing.assert_close(generator(z, y), generator.synthesize(generator.map(z, y)), rtol=0, atol=0)


@pytest.mark.parametrize("layer", [0, 1, 2])
@torch.no_grad()
def test_an_offset_in_any_one_layer_changes_the_image(layer: int) -> None:
    generator, _ = gan()
    w = generator.eval().map(*latents(3))
    shifted = w.clone()
    shifted[1, layer] += 1
    difference = (generator.synthesize(shifted) - generator.synthesize(w)).abs().amax((1, 2, 3))
    assert float(difference[1]) > 1e-3
    assert difference[[0, 2]].tolist() == [0, 0]  # nor does it reach another image


def test_the_class_changes_the_image() -> None:
    generator, _ = gan()
    z, _ = latents(4)
    one, other = (generator.eval()(z, torch.eye(2)[[k] * 4]) for k in (0, 1))
    assert bool(((one - other).square().mean((1, 2, 3)).sqrt() > 0.01).all())


def test_a_blend_of_classes_draws_another_image_than_either() -> None:
    generator, _ = gan()
    z, _ = latents(1)
    one, blend, other = (generator.eval()(z, torch.tensor([[1 - t, t]])) for t in (0.0, 0.5, 1.0))
    assert min(float((blend - end).detach().abs().max()) for end in (one, other)) > 1e-3


def test_z_changes_the_image() -> None:
    generator, _ = gan()
    z, _ = latents(2)
    images = generator.eval()(z, torch.eye(2)[[0, 0]])
    assert float((images[0] - images[1]).detach().square().mean().sqrt()) > 0.01


def test_ready_for_use_an_image_does_not_depend_on_its_batch() -> None:
    generator, _ = gan()
    z, y = latents(4)
    torch.testing.assert_close(generator.eval()(z, y)[2:3], generator(z[2:3], y[2:3]))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("a", "b"), [348_083, 322_161]),
        # Less, a class: 16 of the seed for each of 128 channels, two of each of 256 channels; 128 of the projection.
        ((), [348_083 - 2 * (128 * 16 + 2 * 256), 322_161 - 2 * 128]),
    ],
)
def test_parameter_counts_at_64_px(classes: tuple[str, ...], expected: list[int]) -> None:
    counts = [
        sum(parameter.numel() for parameter in network.parameters())
        for network in build(classes=classes, size_px=64)
    ]
    assert counts == expected


@torch.no_grad()
def test_512_px() -> None:
    generator, discriminator = gan(512, base_channels=1)
    z, y = latents(2)
    images = generator(z, y)
    assert (generator.num_ws, images.shape) == (9, (2, 3, 512, 512))
    assert bool(torch.isfinite(discriminator(images, y)).all())


def test_the_base_width_is_doubled_per_halving_and_at_most_eight_times() -> None:
    generator, discriminator = gan(128, base_channels=2)
    assert [stage.in_channels for stage in generator.stages] == [16, 16, 8, 4, 2]  # type: ignore[union-attr]
    assert [stage.out_channels for stage in discriminator.stages] == [2, 4, 8, 16, 16]  # type: ignore[union-attr]


@pytest.mark.parametrize("n_classes", [0, 2])
@pytest.mark.parametrize("size_px", [16, 32])
def test_every_parameter_gets_a_gradient(size_px: int, n_classes: int) -> None:
    generator, discriminator = gan(size_px, n_classes=n_classes)
    z, y = latents(8, n_classes)
    nn.functional.softplus(-discriminator(generator(z, y), y)).mean().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name
            assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("size_px", [-16, 0, 1, 2, 4, 12, 24, 63, 65, 96])
def test_a_size_it_cannot_draw_is_refused(size_px: int) -> None:
    with pytest.raises(
        UserError, match=rf"^The modern design draws squares of .*, not {size_px}; cut patches"
    ):
        build(classes=("a", "b"), size_px=size_px)


def test_weights_come_from_torchs_seed() -> None:
    first, again, other = (gan(seed=seed)[0].seed.weight for seed in (3, 3, 4))
    assert bool((first == again).all())
    assert not bool((first == other).all())


def test_the_classs_weights_start_larger_than_those_of_z() -> None:
    torch.manual_seed(0)
    weight = ConditionalBatchNorm(512, z_dim=8, n_classes=2).affine.weight.detach()
    assert float(weight[:, :8].std()) == pytest.approx(0.02, rel=0.1)
    assert float(weight[:, 8:].std()) == pytest.approx(0.1, rel=0.1)


def test_conditional_normalisation_against_its_formula() -> None:
    torch.manual_seed(0)
    layer = ConditionalBatchNorm(3, z_dim=4, n_classes=2)
    x, w = torch.randn(5, 3, 4, 4) * 7 + 2, torch.randn(5, 6)
    mean = x.mean((0, 2, 3), keepdim=True)
    deviation = x.var((0, 2, 3), unbiased=False, keepdim=True).add(1e-5).sqrt()
    affine = w @ layer.affine.weight.T + layer.affine.bias
    scale, shift = affine[:, :3, None, None], affine[:, 3:, None, None]
    torch.testing.assert_close(
        layer(x, w), (x - mean) / deviation * (1 + scale) + shift, rtol=1e-4, atol=1e-5
    )


def test_the_class_changes_the_score() -> None:
    _, discriminator = gan()
    images = random_images(4)
    one, other = (discriminator(images, torch.eye(2)[[k] * 4]) for k in (0, 1))
    assert bool(((one - other).abs() > 1e-4).all())


def test_the_score_is_linear_in_the_class() -> None:
    _, discriminator = gan()
    images = random_images(4)
    one, blend, other = (discriminator(images, torch.tensor([[1 - t, t]] * 4)) for t in (0.0, 0.25, 1.0))
    torch.testing.assert_close(blend, 0.75 * one + 0.25 * other)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 8])
def test_batches_of_any_size_are_scored(batch: int) -> None:
    _, discriminator = gan()
    scores = discriminator(random_images(batch), latents(batch)[1])
    assert scores.shape == (batch,)
    assert bool(torch.isfinite(scores).all())


def test_a_collapse_is_seen_in_the_score() -> None:
    _, discriminator = gan()
    images, (_, y) = random_images(4), latents(4)
    among_others = discriminator(images, y)[0]
    among_copies = discriminator(images[:1].expand(4, -1, -1, -1), y)[0]
    assert float((among_others - among_copies).detach().abs()) > 1e-4


def test_the_score_does_not_depend_on_the_order_within_a_group() -> None:
    _, discriminator = gan()
    images, (_, y) = random_images(4), latents(4)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(discriminator(images[order], y[order]), discriminator(images, y)[order])


@torch.no_grad()
@pytest.mark.parametrize(("batch", "group"), [(8, 4), (6, 2), (5, 1)])
def test_samples_in_a_row_are_judged_together(batch: int, group: int) -> None:
    _, discriminator = gan()
    images, (_, y) = random_images(batch), latents(batch)
    scores = discriminator(images, y)
    changed = images.clone()
    changed[0] *= -0.5
    touched = (discriminator(changed, y) - scores).abs() > 1e-6
    assert touched.tolist() == [i < group for i in range(batch)]


@torch.no_grad()
def test_a_batch_in_two_parts_has_the_groups_of_the_whole() -> None:
    _, discriminator = gan()
    images, (_, y) = random_images(8), latents(8)
    parts = [discriminator(images[part], y[part]) for part in (slice(4), slice(4, 8))]
    torch.testing.assert_close(torch.cat(parts), discriminator(images, y))


@torch.no_grad()
def test_the_deviation_against_its_formula() -> None:
    x = random_images(8, 4)
    expected = [part.double().numpy().std(axis=0).mean() for part in x.split(4) for _ in range(4)]
    maps = _with_minibatch_deviation(x)[:, 3]
    torch.testing.assert_close(maps, torch.tensor(expected).float()[:, None, None].expand(8, 4, 4))


def test_activations_keep_their_scale_through_the_layers() -> None:
    generator, _ = gan(64, base_channels=16)
    deviation = float(generator(*latents(16)).detach().std())
    assert 0.2 < deviation < 0.95, "an image that starts grey, or saturated, learns slowly"
    assert math.isfinite(deviation)


@pytest.mark.parametrize("scale", [300.0, 1e-4])
def test_the_minibatch_deviation_holds_in_half_precision(scale: float) -> None:
    # Squares of hundreds are beyond float16, those of ten thousandths below it.
    x = (scale * torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))).half()
    out = _with_minibatch_deviation(x)
    assert out.dtype == torch.float16
    expected = (x.double().var(0, unbiased=False) + 1e-8).sqrt().mean()
    assert float(out[0, 3, 0, 0]) == pytest.approx(float(expected), rel=2e-3)
