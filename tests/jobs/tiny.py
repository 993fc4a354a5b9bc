"""Networks of a few thousand weights, trained here and now for a few steps: they draw noise, but whole."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch

from napari_histolatent.jobs.follow import new_training
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.training import ClassifierConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GAN = TrainingConfig(
    size_px=32, steps=20, batch_size=8, z_dim=8, base_channels=4, checkpoint_every=20, device="cpu"
)
CLASSIFIER = ClassifierConfig(
    size_px=32, steps=20, batch_size=8, base_channels=4, checkpoint_every=20, device="cpu"
)


def trained(dataset: Path, out: Path, config: TrainingConfig | ClassifierConfig) -> Path:
    """Train in this process, and return the run's folder."""
    run = new_training(dataset, out, config)
    KINDS[run.kind](run)
    assert run.status().state == "finished"
    return run.path


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, here and in child processes: two that share their cores are five times slower."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)
