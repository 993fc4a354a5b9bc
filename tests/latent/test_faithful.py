from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from napari_histolatent.latent import _faithful
from napari_histolatent.models import build_gan
from tests.latent.searching import EPITHELIUM, STROMA, noise, search

if TYPE_CHECKING:
    import pytest

    from napari_histolatent.models.protocols import Generator


def test_a_tuned_copy_draws_what_z_cannot(generator: Generator) -> None:
    tiles = noise(2)
    assert isinstance(generator, torch.nn.Module)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    found = search(generator, tiles, [STROMA, EPITHELIUM], method="faithful", steps=40, learning_rate=0.01)
    for item in found:
        assert item.rmse_at_z is not None
        assert item.rmse < 0.9 * item.rmse_at_z
        assert item.tuned is not None
        assert item.point.tuned_digest == item.tuned.digest
        assert item.tuned.checkpoint_digest == item.point.checkpoint_digest
    assert len({item.point.tuned_digest for item in found}) == 2
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_each_tile_is_tuned_on_its_own(generator: Generator) -> None:
    both = search(generator, noise(2), [STROMA] * 2, method="faithful", steps=3)
    (alone,) = search(generator, noise(2)[:1], [STROMA], method="faithful", steps=3)
    assert both[0].tuned is not None
    assert alone.tuned is not None
    for name, values in alone.tuned.state.items():
        assert abs(values.astype(float) - both[0].tuned.state[name]).max() < 5e-3


def test_tiles_after_a_stop_are_not_tuned(generator: Generator) -> None:
    asked = iter(range(10_000))
    # During the second tile: after the steps of fast, and those of the first.
    found = search(
        generator, noise(3), [STROMA] * 3, method="faithful", steps=5, should_stop=lambda: next(asked) >= 59
    )
    assert [item.tuned is not None for item in found] == [True, True, False]
    assert found[2].point.tuned_digest == ""
    assert found[2].rmse == found[2].rmse_at_z


def test_progress_never_goes_back(generator: Generator) -> None:
    steps: list[int] = []
    search(
        generator,
        noise(2),
        [STROMA] * 2,
        method="faithful",
        steps=6,
        on_step=lambda step, images: steps.append(step),
    )
    assert steps == sorted(steps)
    assert 50 <= steps[-1] < 56


def test_the_other_class_keeps_its_look_and_half_of_the_tile(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = noise(2)

    def missed() -> list[float]:
        """Return how far the copies' pictures in the other class are from what they are to be."""
        found = search(generator, tiles, [STROMA] * 2, method="faithful", steps=30, learning_rate=0.01)
        errors = []
        for tile, item in zip(tiles, found, strict=True):
            assert item.tuned is not None
            z = torch.tensor([item.point.values])
            own, other = (generator.map(z, torch.tensor([label])) for label in (STROMA, EPITHELIUM))
            wanted = generator.synthesize(other) + (tile - generator.synthesize(own)) / 2
            drawn = item.tuned.applied(generator).synthesize(other)
            errors.append(float((wanted.clamp(-1, 1) - drawn).square().mean()))
        return errors

    held = missed()
    monkeypatch.setattr(_faithful, "_ANCHOR_WEIGHT", 0.0)
    assert [one < 0.8 * other for one, other in zip(held, missed(), strict=True)] == [True, True]


def test_a_generator_without_classes_is_tuned_as_well() -> None:
    torch.manual_seed(2)
    network, _ = build_gan("dcgan", classes=(), size_px=16, z_dim=4, base_channels=4)
    assert isinstance(network, torch.nn.Module)
    plain: Any = network.eval().requires_grad_(False)
    (item,) = search(plain, noise(1), [()], method="faithful", steps=20, learning_rate=0.01)
    assert item.tuned is not None
    assert item.rmse_at_z is not None
    assert item.rmse < item.rmse_at_z
