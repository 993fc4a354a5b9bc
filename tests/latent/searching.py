"""What the tests of the methods of reverse search share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from napari_histolatent.latent import Inversion, class_vector
from napari_histolatent.latent.invert import invert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.models.protocols import Generator

EPITHELIUM, STROMA = (class_vector(("epithelium", "stroma"), name) for name in ("epithelium", "stroma"))


@torch.no_grad()
def images_at(generator: Generator, z: torch.Tensor, weights: Sequence[tuple[float, ...]]) -> torch.Tensor:
    return generator.synthesize(generator.map(z, torch.tensor(weights)))


def random_z(n: int, seed: int = 0, z_dim: int = 4) -> torch.Tensor:
    return torch.randn(n, z_dim, generator=torch.Generator().manual_seed(seed))


def search(
    generator: Generator, tiles: torch.Tensor, weights: Sequence[tuple[float, ...]], **options: Any
) -> list[Inversion]:
    return invert(
        generator,
        tiles,
        weights,
        checkpoint_digest="d" * 64,
        origins=[f"tile {i}" for i in range(len(tiles))],
        **options,
    )


class Guess:
    """An encoder that answers the same whatever it sees."""

    classes, size_px, z_dim = ("epithelium", "stroma"), 16, 4

    def __init__(self, z: torch.Tensor) -> None:
        self._z = z

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._z.expand(len(images), -1).clone(), torch.zeros(len(images), 2)


def noise(n: int, seed: int = 0) -> torch.Tensor:
    """Tiles that the generator cannot draw."""
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
