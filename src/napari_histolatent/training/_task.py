"""What the loop knows of a kind of training. Another system is another task: any number of networks, its own data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn
    from torch.optim import Optimizer


class TrainingTask(Protocol):
    """Networks, their optimisers, and one step of learning."""

    model: nn.Module
    """The network that is used afterwards (for a GAN: the generator's moving average)."""
    modules: dict[str, nn.Module]
    """The others, which only training needs."""
    optimizers: dict[str, Optimizer]
    rng: torch.Generator
    """The one source of chance: saved with a checkpoint, so that a resumed run goes on as if never stopped."""

    def step(self, index: int) -> dict[str, float]:
        """Learn from one batch and return the losses."""

    def finish(self) -> dict[str, Any]:
        """Make `model` ready for use (before a checkpoint) and return its metrics; draws nothing from `rng`."""

    def preview(self) -> NDArray[np.uint8] | None:
        """Return a picture of what the model does now, (height, width, 3), from fixed inputs."""
