"""What the loop knows of a kind of training. Another system is another task: any number of networks, its own data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from napari_histolatent.training._health import Balance


class TrainingTask(Protocol):
    """Networks, their optimisers, and one step of learning."""

    model: nn.Module
    """The network that is used afterwards (for a GAN: the generator's moving average)."""
    modules: dict[str, nn.Module]
    """The others, which only training needs."""
    optimizers: dict[str, Optimizer]
    rng: torch.Generator
    """The one source of chance: saved with a checkpoint, so that a resumed run goes on as if never stopped."""

    def step(self, index: int) -> Mapping[str, Tensor | float]:
        """Learn from one batch and return the losses, as they are: to look at them would wait for the device."""

    def finish(self) -> dict[str, Any]:
        """Make `model` ready for use (before a checkpoint) and return its metrics; draws nothing from `rng`."""

    def preview(self) -> NDArray[np.uint8] | None:
        """Return a picture of what the model does now, (height, width, 3), from fixed inputs."""


@runtime_checkable
class JudgedTask(Protocol):
    """What a task has whose samples are judged, as a GAN's are, besides what every task has."""

    balance: Balance
    """How the discriminator does, since it was last asked."""

    @property
    def judges(self) -> dict[str, str]:
        """Name -> digest of the frozen networks in whose features the samples are judged."""

    def measure(self) -> dict[str, Any]:
        """Return the metrics between two checkpoints; draws nothing from `rng`, changes nothing."""

    def neighbours(self) -> NDArray[np.uint8] | None:
        """Return a picture of samples and the training patch nearest to each."""
