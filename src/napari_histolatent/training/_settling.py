"""Normalisation statistics of a generator's averaged weights: measured before it is used, not when a run is stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_histolatent.models.priors import draw_latents
from napari_histolatent.training._data import one_hot
from napari_histolatent.training.checkpoint import INFO_FILE

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histolatent.training.checkpoint import Checkpoint
    from napari_histolatent.training.config import TrainingConfig

SETTLED = "settled"
"""Fact of a checkpoint: false where it was written at once, its statistics not those of its weights."""
_BATCHES = 16


def is_settled(checkpoint: Checkpoint) -> bool:
    """Return whether the model of a checkpoint is ready for use as it lies on the disk."""
    try:
        info = json.loads((checkpoint.path / INFO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # whoever loads it says what is wrong
    return bool(info.get(SETTLED, True))


@torch.no_grad()
def settle(generator: nn.Module, config: TrainingConfig) -> None:
    """Measure the statistics of a generator's weights: always the same ones, drawn from the config's seed.

    Parameters
    ----------
    generator
        A generator in evaluation mode; it is left in that mode whatever happens.
    config
        That it was trained with: its batch is what memory is known to suffice for.
    """
    chance = torch.Generator().manual_seed(config.seed + 1)
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    device = next(generator.parameters()).device
    left = _BATCHES * norm_batch_size(config.size_px)
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches that follow
            norm.train()
        while norms and left > 0:
            n = min(images_at_once(config), norm_batch_size(config.size_px))
            z = draw_latents(generator.prior, n, generator.z_dim, chance).to(device)  # type: ignore[arg-type]
            generator(z, classes_in_turn(n, len(generator.classes), device))  # type: ignore[arg-type]
            left -= n
    finally:
        for norm in norms:
            norm.eval()


def classes_in_turn(n: int, n_classes: int, device: torch.device) -> Tensor:
    """Return n class vectors (n, n_classes), one class after the other."""
    if not n_classes:
        return torch.zeros(n, 0, device=device)
    return one_hot((torch.arange(n) % n_classes).to(device), n_classes)


def images_at_once(config: TrainingConfig) -> int:
    """Return how many images are drawn at once: a step holds more of as many.

    Of several processes, too: what is measured must not depend on how many there are, and gradients, which take
    most of a step's memory, are not needed here.
    """
    return max(2, config.batch_size)


def norm_batch_size(size_px: int) -> int:
    """Return how many images a batch has whose statistics are measured: larger ones have more pixels each."""
    return max(32, min(128, 128 * 64**2 // size_px**2))
