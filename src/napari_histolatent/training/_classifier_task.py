from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import AdamW

from napari_histolatent.models import build_classifier
from napari_histolatent.training._augment import dihedral, stain_and_blur
from napari_histolatent.training._data import Batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.config import ClassifierConfig

_EVALUATED_PATCHES = 2000


class ClassifierTask:
    """Cross-entropy on class-balanced batches, with symmetries, stain jitter and blur."""

    def __init__(self, config: ClassifierConfig, dataset: PatchDataset, device: torch.device) -> None:
        torch.manual_seed(config.seed)  # fresh weights
        network = build_classifier(
            config.network,
            classes=dataset.classes,
            size_px=config.size_px,
            base_channels=config.base_channels,
        )
        assert isinstance(network, nn.Module)
        self._config = config
        self._batches = Batches(dataset, "train", device)
        self._held_out = {
            split: Batches(dataset, split, device) for split in ("val", "test") if len(dataset.rows_of(split))
        }
        self.model: nn.Module = network.to(device)
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "classifier": AdamW(self.model.parameters(), lr=config.learning_rate)
        }
        self.rng = torch.Generator().manual_seed(config.seed)
        self._classes = dataset.classes

    def step(self, index: int) -> dict[str, float]:
        """Learn from one batch; the learning rate follows the step's number, so a resumed run needs no more."""
        self.model.train()
        for group in self.optimizers["classifier"].param_groups:
            group["lr"] = one_cycle(index, self._config.steps, self._config.learning_rate)
        images, labels = self._batches.draw(self._config.batch_size, self.rng)
        images = stain_and_blur(dihedral(images, self.rng), self.rng)
        loss = nn.functional.cross_entropy(self.model(images), labels)
        optimizer = self.optimizers["classifier"]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        return {"cross_entropy": float(loss.detach())}

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Return the accuracy on held-out patches, overall and per class, on the test split if there is one."""
        self.model.eval()
        for split in ("test", "val"):
            if split in self._held_out:
                images, labels = self._held_out[split].first(_EVALUATED_PATCHES)
                guesses = torch.cat([self.model(part).argmax(1) for part in torch.split(images, 256)])
                right = (guesses == labels).float()
                return {
                    "accuracy": float(right.mean()),
                    "per_class": {
                        name: float(right[labels == i].mean())
                        for i, name in enumerate(self._classes)
                        if bool((labels == i).any())
                    },
                    "n": len(labels),
                    "split": split,
                }
        return {}

    def preview(self) -> NDArray[np.uint8] | None:
        """Return None: there is nothing to look at."""
        return None


def one_cycle(index: int, steps: int, peak: float) -> float:
    """Return a learning rate that rises over the first quarter and falls to 0: a function of the step alone."""
    position = (index + 0.5) / steps
    return peak * min(position / 0.25, (1 - position) / 0.75)
