"""A generator that was never trained: it draws noise, but whole, and costs no time to make."""

from __future__ import annotations

from pathlib import Path

import torch

from napari_histolatent.models import build_gan
from napari_histolatent.training.checkpoint import Checkpoint
from napari_histolatent.training.load import LoadedGenerator

CLASSES = ("healthy", "tumour")


def untrained_generator(
    *, digest: str = "d" * 64, path: Path = Path("/nowhere/untrained"), size_px: int = 16, seed: int = 0
) -> LoadedGenerator:
    """Return a generator of two classes with 4 numbers of z; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_gan("cdcgan", classes=CLASSES, size_px=size_px, z_dim=4, base_channels=4)[0]
    checkpoint = Checkpoint(
        path=path,
        kind="gan",
        step=1,
        steps=1,
        config={},
        classes=CLASSES,
        size_px=size_px,
        mpp=1.0,
        dataset_digest="",
        digest=digest,
        metrics={},
    )
    return LoadedGenerator(network.eval(), checkpoint, torch.device("cpu"))
