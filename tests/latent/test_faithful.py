from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.latent.searching import EPITHELIUM, STROMA, noise, search

if TYPE_CHECKING:
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
