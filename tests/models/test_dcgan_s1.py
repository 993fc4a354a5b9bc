from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_histolatent.errors import UserError
from napari_histolatent.models._dcgan_s1 import S1Discriminator, S1Generator, build
from napari_histolatent.models.priors import draw_latents
from napari_histolatent.models.protocols import Discriminator, Generator


def gan(
    size_px: int = 32, *, n_classes: int = 2, z_dim: int = 6, base_channels: int = 2, seed: int = 0
) -> tuple[S1Generator, S1Discriminator]:
    torch.manual_seed(seed)
    classes = tuple(f"class {i}" for i in range(n_classes))
    return build(classes=classes, size_px=size_px, z_dim=z_dim, base_channels=base_channels)


def lively(size_px: int = 32, **options: int) -> tuple[S1Generator, S1Discriminator]:
    """Networks as after some training: with weights of a size at which signals pass."""
    generator, discriminator = gan(size_px, **options)
    with torch.no_grad():
        for parameter in (*generator.parameters(), *discriminator.parameters()):
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)
    z, y = latents(16, len(generator.classes))
    for _ in range(8):  # running statistics
        discriminator(generator(z, y), y)
    return generator.eval(), discriminator.eval()


def latents(n: int, n_classes: int = 2, z_dim: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    z = draw_latents("uniform", n, z_dim, torch.Generator().manual_seed(seed))
    return z, torch.eye(n_classes)[torch.arange(n) % n_classes] if n_classes else torch.empty(n, 0)


def random_images(n: int, size_px: int = 32, seed: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, size_px, size_px, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("n_classes", [0, 2])
def test_protocols(n_classes: int) -> None:
    generator, discriminator = gan(n_classes=n_classes)
    assert isinstance(generator, Generator)
    assert isinstance(discriminator, Discriminator)
    assert generator.prior == "uniform"


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [0, 1, 2, 3])
@pytest.mark.parametrize("size_px", [16, 32, 64, 128, 256, 512])
def test_shapes_and_range(size_px: int, n_classes: int) -> None:
    generator, discriminator = gan(size_px, n_classes=n_classes, base_channels=1)
    z, y = latents(2, n_classes)
    w = generator.map(z, y)
    images = generator.synthesize(w)
    assert (generator.z_dim, generator.num_ws, generator.w_dim) == (6, 5, 6 + n_classes)
    assert w.shape == (2, 5, 6 + n_classes)
    assert images.shape == (2, 3, size_px, size_px)
    assert images.dtype == torch.float32
    assert float(images.abs().max()) <= 1
    assert discriminator(images, y).shape == (2,)


@torch.no_grad()
def test_the_range_holds_for_extreme_latents_and_is_used() -> None:
    generator, _ = lively()
    z, y = latents(4)
    assert float(generator(1000 * z, y).abs().max()) == 1


@pytest.mark.parametrize("n_classes", [0, 2])
@pytest.mark.parametrize(("size_px", "seed_px"), [(64, 4), (128, 8), (256, 16), (512, 32)])
def test_parameter_counts(size_px: int, seed_px: int, n_classes: int) -> None:
    kernels = 25 * (32 * 16 + 16 * 8 + 8 * 4 + 4 * 3)
    units = 32 * seed_px**2
    networks = gan(size_px, n_classes=n_classes, z_dim=10, base_channels=4)
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [
        (10 + n_classes + 1) * units + kernels + 2 * (32 + 16 + 8 + 4) + 3,
        kernels + n_classes * 25 * 8 + 4 + 2 * (8 + 16 + 32) + units + 1,
    ]


@pytest.mark.parametrize("n_classes", [0, 2])
def test_parameter_counts_at_256_px(n_classes: int) -> None:
    networks = build(classes=("a", "b")[:n_classes], size_px=256)
    # As above, with z of 100 and 512, 256, 128, 64 channels: in the paper's reading 17.5 and 4.4 million.
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [
        17_545_795 + n_classes * 131_072,
        4_438_529 + n_classes * 3_200,
    ]


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [0, 2])
def test_the_generator_against_its_description(n_classes: int) -> None:
    generator, _ = lively(n_classes=n_classes)
    z, y = latents(3, n_classes)
    weights = generator.state_dict()

    def normalised(x: torch.Tensor, i: int) -> torch.Tensor:
        mean, variance, gain, shift = (
            weights[f"norms.{i}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * gain + shift

    x = torch.cat([z, y], 1) @ weights["seed.weight"].T + weights["seed.bias"]
    x = x.reshape(3, 16, 2, 2)
    for i, side in enumerate((4, 8, 16, 32)):
        # A transposed convolution of stride 2: zeros between the pixels, then a convolution by the turned kernel.
        spread = torch.zeros(3, x.shape[1], side, side)
        spread[:, :, ::2, ::2] = normalised(x, i).clamp_min(0)
        x = functional.conv2d(
            spread,
            weights[f"stages.{i}.weight"].transpose(0, 1).flip(2, 3),
            weights.get(f"stages.{i}.bias"),
            1,
            2,
        )
    torch.testing.assert_close(generator(z, y), x.tanh(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [0, 2])
def test_the_discriminator_against_its_description(n_classes: int) -> None:
    _, discriminator = lively(n_classes=n_classes)
    images, (_, y) = random_images(3), latents(3, n_classes)
    weights = discriminator.state_dict()
    x = functional.conv2d(images, weights["stages.0.weight"], weights["stages.0.bias"], 2, 2)
    x = torch.where(x > 0, x, 0.2 * x)
    assert x.shape == (3, 2, 16, 16)
    x = torch.cat([x, torch.ones(3, n_classes, 16, 16) * y[:, :, None, None]], 1)
    for i in (1, 2, 3):
        x = functional.conv2d(x, weights[f"stages.{i}.weight"], None, 2, 2)
        mean, variance, gain, shift = (
            weights[f"norms.{i - 1}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (variance + 1e-5).sqrt() * gain + shift
        x = torch.where(x > 0, x, 0.2 * x)
    expected = (x.reshape(3, -1) * weights["score.weight"]).sum(1) + weights["score.bias"]
    torch.testing.assert_close(discriminator(images, y), expected, rtol=1e-4, atol=1e-4)


def test_the_discriminators_convolutions_see_61_px() -> None:
    _, discriminator = lively(128)
    maps: list[torch.Tensor] = []
    discriminator.norms[-1].register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    images = random_images(1, 128).requires_grad_()
    discriminator(images, latents(1)[1])
    maps[0][0, :, 4, 4].sum().backward()
    assert images.grad is not None
    seen = images.grad[0].abs().sum(0) > 0
    rows, columns = (seen.any(axis).nonzero()[:, 0] for axis in (1, 0))
    # Centred on px 64: 30 to either side, all of them seen.
    assert [rows[0], rows[-1], columns[0], columns[-1]] == [34, 94, 34, 94]
    assert int(seen.sum()) == 61**2


@pytest.mark.parametrize("n_classes", [0, 2])
@pytest.mark.parametrize("size_px", [16, 32])
def test_every_parameter_gets_a_gradient(size_px: int, n_classes: int) -> None:
    generator, discriminator = gan(size_px, n_classes=n_classes)
    z, y = latents(8, n_classes)
    functional.softplus(-discriminator(generator(z, y), y)).mean().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name
            assert float(parameter.grad.abs().max()) > 0, name


@torch.no_grad()
def test_class_and_z_reach_the_image() -> None:
    generator, _ = lively()
    z, _ = latents(2)
    first, other_z, other_class = generator(z[[0, 1, 0]], torch.eye(2)[[0, 0, 1]])
    for other in (other_z, other_class):
        assert float((first - other).square().mean().sqrt()) > 0.01


@torch.no_grad()
def test_the_class_reaches_the_score() -> None:
    _, discriminator = lively()
    images = random_images(4)
    one, other = (discriminator(images, torch.eye(2)[[k] * 4]) for k in (0, 1))
    assert bool(((one - other).abs() > 1e-3).all())


@torch.no_grad()
def test_ready_for_use_nothing_depends_on_the_batch() -> None:
    generator, discriminator = lively()
    z, y = latents(4)
    images = generator(z, y)
    torch.testing.assert_close(generator(z[2:3], y[2:3]), images[2:3])
    torch.testing.assert_close(discriminator(images[2:3], y[2:3]), discriminator(images, y)[2:3])


@torch.no_grad()
@pytest.mark.parametrize("psi", [0.0, 0.5, 1.0])
def test_w_repeats_z_and_class_and_psi_scales_z(psi: float) -> None:
    generator, _ = lively()
    z, y = latents(3)
    w = generator.map(z, y, psi=psi)
    for layer in w.unbind(1):
        torch.testing.assert_close(layer, torch.cat([psi * z, y], 1))
    torch.testing.assert_close(generator.synthesize(w), generator(psi * z, y), rtol=0, atol=0)


@torch.no_grad()
def test_w_written_out_draws_the_image_of_z() -> None:
    generator, _ = lively()
    z, y = latents(3)
    torch.testing.assert_close(generator.synthesize(generator.map(z, y).contiguous()), generator(z, y))


@torch.no_grad()
def test_an_offset_in_all_layers_is_another_z() -> None:
    generator, _ = lively()
    z, y = latents(3)
    w = generator.map(z, y).contiguous()
    w[:, :, :6] += 0.3
    torch.testing.assert_close(generator.synthesize(w), generator(z + 0.3, y))


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2, 3, 4])
def test_an_offset_in_any_one_layer_changes_its_image_alone(layer: int) -> None:
    generator, _ = lively()
    w = generator.map(*latents(3)).contiguous()
    shifted = w.clone()
    shifted[1, layer] += 1
    difference = (generator.synthesize(shifted) - generator.synthesize(w)).abs().amax((1, 2, 3))
    assert float(difference[1]) > 1e-3
    assert float(difference[[0, 2]].max()) < 1e-6


@torch.no_grad()
def test_a_later_layers_w_moves_the_means_of_that_layers_channels() -> None:
    generator, _ = lively()
    (z, other_z), y = latents(2)[0][:, None], torch.eye(2)[:1]
    maps: list[torch.Tensor] = []
    handle = generator.norms[3].register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    generator(z, y)
    generator(other_z, y)
    handle.remove()
    own, other = maps
    moved = own - own.mean((2, 3), keepdim=True) + other.mean((2, 3), keepdim=True)
    w = generator.map(z, y).contiguous()
    w[:, 4] = generator.map(other_z, y)[:, 4]
    expected = generator.stages[3](moved.clamp_min(0)).tanh()
    torch.testing.assert_close(generator.synthesize(w), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_one_layer_shifts_no_later_one_takes_back() -> None:
    generator, _ = lively()
    (z, *others), y = latents(3)[0][:, None], torch.eye(2)[:1]
    maps: list[torch.Tensor] = []
    handles = [
        norm.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
        for norm in generator.norms
    ]
    for each in (z, *others):
        generator(each, y)
    for handle in handles:
        handle.remove()
    means = [x.mean((2, 3), keepdim=True) for x in maps]  # of the four layers, of z and of the two others
    w = generator.map(z, y).contiguous()
    w[:, 1], w[:, 3] = generator.map(others[0], y)[:, 1], generator.map(others[1], y)[:, 3]
    x = maps[0] + means[4] - means[0]
    for i, shift in enumerate((0, means[8 + 2] - means[2], 0), 1):
        x = generator.norms[i](generator.stages[i - 1](x.clamp_min(0))) + shift
    expected = generator.stages[3](x.clamp_min(0)).tanh()
    torch.testing.assert_close(generator.synthesize(w), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_layers_w() -> None:
    generator, _ = lively()
    w = generator.map(*latents(2)).contiguous().requires_grad_()
    generator.synthesize(w).square().sum().backward()
    assert w.grad is not None
    assert bool((w.grad.abs().amax(2) > 0).all())


def test_initial_weights() -> None:
    for network in gan(64, z_dim=100, base_channels=16):
        for name, value in network.named_parameters():
            gain = name.startswith("norms") and name.endswith("weight")
            if name.endswith("bias"):
                assert not value.any(), name
            else:
                assert float(value.detach().mean()) == pytest.approx(1.0 if gain else 0, abs=0.01), name
                assert float(value.detach().std()) == pytest.approx(0.02, rel=0.4 if gain else 0.1), name


def test_weights_come_from_torchs_seed() -> None:
    first, again, other = (gan(seed=seed)[0].seed.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("size_px", [-16, 0, 1, 8, 24, 63, 65, 100, 528, 1024])
def test_a_size_it_cannot_draw_is_refused(size_px: int) -> None:
    with pytest.raises(UserError, match=rf"^The s1 design draws squares of .*, not {size_px}; cut patches"):
        build(classes=("a", "b"), size_px=size_px)
