from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW

from napari_histolatent.models import build_classifier
from napari_histolatent.training._data import Batches
from napari_histolatent.training._judge_augment import AUGMENTERS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.config import ClassifierConfig

_EVALUATED_PATCHES = 2000


class ClassifierTask:
    """Cross-entropy on class-balanced batches, augmented as the config says."""

    def __init__(self, config: ClassifierConfig, dataset: PatchDataset, device: torch.device) -> None:
        torch.manual_seed(config.seed)  # fresh weights
        network = build_classifier(
            config.network,
            classes=dataset.classes,
            size_px=config.size_px,
            **config.network_options,
        )
        assert isinstance(network, nn.Module)
        self._config, self._augment = config, AUGMENTERS[config.augmentation]
        self._batches = Batches(dataset, "train", device)
        self._held_out = {
            split: Batches(dataset, split, device) for split in ("val", "test") if len(dataset.rows_of(split))
        }
        self.model: nn.Module = network.to(device)
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "classifier": AdamW(
                [weight for weight in self.model.parameters() if weight.requires_grad],
                lr=config.learning_rate,
            )
        }
        self.rng = torch.Generator().manual_seed(config.seed)
        self._classes = dataset.classes

    def step(self, index: int) -> dict[str, float]:
        """Learn from one batch; the learning rate follows the step's number, so a resumed run needs no more."""
        self.model.train()
        for group in self.optimizers["classifier"].param_groups:
            group["lr"] = one_cycle(index, self._config.steps, self._config.learning_rate)
        images, labels = self._batches.draw(self._config.batch_size, self.rng)
        loss = nn.functional.cross_entropy(self.model(self._augment(images, self.rng)), labels)
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
                right, labels = self._right(self._held_out[split])
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

    def _right(self, batches: Batches) -> tuple[Tensor, Tensor]:
        """Return for patches spread evenly over a split whether each is told rightly (0 or 1), and its class."""
        n = len(batches)
        places = torch.from_numpy(
            np.unique(np.linspace(0, n - 1, min(n, _EVALUATED_PATCHES)).astype(np.int64))
        )
        right, labels = [], []
        # A step has memory for as many, and more.
        for part in torch.split(places, self._config.batch_size):
            images, of_part = batches.at(part)
            right.append((self.model(images).argmax(1) == of_part).float())
            labels.append(of_part)
        return torch.cat(right), torch.cat(labels)

    def preview(self) -> NDArray[np.uint8] | None:
        """Return None: there is nothing to look at."""
        return None


def one_cycle(index: int, steps: int, peak: float) -> float:
    """Return a learning rate that rises over the first quarter and falls to 0: a function of the step alone."""
    position = (index + 0.5) / steps
    return peak * min(position / 0.25, (1 - position) / 0.75)
