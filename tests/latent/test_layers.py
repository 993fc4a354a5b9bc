from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_histolatent.latent.draw import drawn_float
from napari_histolatent.models.metrics import rmse
from tests.latent.searching import STROMA, images_at, noise, random_z, search

if TYPE_CHECKING:
    from napari_histolatent.models.protocols import Generator


def test_offsets_come_nearer_than_z_alone_and_leave_z_as_it_was(generator: Generator) -> None:
    tiles = noise(2)
    fast = search(generator, tiles, [STROMA] * 2, method="fast")
    layers = search(generator, tiles, [STROMA] * 2, method="layers", steps=40)
    for before, after in zip(fast, layers, strict=True):
        assert after.rmse < 0.995 * before.rmse
        assert after.rmse_at_z == before.rmse
        assert after.point.values == before.point.values
        assert (len(after.point.offsets), len(after.point.offsets[0])) == (generator.num_ws, generator.w_dim)
    drawn = drawn_float(generator, [item.point for item in layers], torch.device("cpu"))
    assert torch.allclose(rmse(drawn, tiles), torch.tensor([item.rmse for item in layers]), rtol=1e-4)


def test_a_tile_that_z_can_draw_needs_no_offsets(generator: Generator) -> None:
    tiles = torch.cat([images_at(generator, 0.5 * random_z(1), [STROMA]), noise(1)])
    near, far = search(generator, tiles, [STROMA] * 2, method="layers", steps=30)
    length_near, length_far = (torch.tensor(item.point.offsets).norm() for item in (near, far))
    assert length_near < 0.5 * length_far


def test_a_search_that_was_stopped_before_has_none(generator: Generator) -> None:
    (item,) = search(generator, noise(1), [STROMA], method="layers", should_stop=lambda: True)
    assert item.point.offsets == ()
