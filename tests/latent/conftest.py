from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from napari_histolatent.models import build_gan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_histolatent.models.protocols import Generator


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums come in one order, and networks this small are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def generator() -> Generator:
    """Two classes, 16 px, z of 4, random weights; with normalisation statistics, in evaluation mode, frozen."""
    torch.manual_seed(1)
    network, _ = build_gan("cdcgan", classes=("epithelium", "stroma"), size_px=16, z_dim=4, base_channels=6)
    assert isinstance(network, torch.nn.Module)
    with torch.no_grad():
        for _ in range(60):
            network(torch.randn(32, 4), torch.eye(2)[torch.arange(32) % 2])
    return network.eval().requires_grad_(False)
