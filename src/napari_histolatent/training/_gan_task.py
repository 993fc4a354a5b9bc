from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim import Adam, Optimizer

from napari_histolatent.models import build_gan
from napari_histolatent.models.images import to_pixels
from napari_histolatent.models.metrics import kernel_distance_of_images, sample_deviation
from napari_histolatent.training._augment import differentiable_augment, dihedral
from napari_histolatent.training._data import Batches, one_hot

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.config import TrainingConfig

_PREVIEW_COLUMNS = 8
_METRIC_IMAGES = 256
_NORM_BATCHES, _NORM_BATCH_SIZE = 16, 128


class GanTask:
    """A class-conditional GAN: non-saturating loss with lazy R1, and a moving average of the generator."""

    def __init__(self, config: TrainingConfig, dataset: PatchDataset, device: torch.device) -> None:
        torch.manual_seed(config.seed)  # fresh weights
        generator, discriminator = build_gan(
            config.network,
            classes=dataset.classes,
            size_px=config.size_px,
            z_dim=config.z_dim,
            base_channels=config.base_channels,
        )
        assert isinstance(generator, nn.Module)
        assert isinstance(discriminator, nn.Module)
        self._config, self._device = config, device
        self._n_classes = len(dataset.classes)
        self._batches = Batches(dataset, "train", device)
        self._val = Batches(dataset, "val" if len(dataset.rows_of("val")) else "train", device)
        self._generator, self._discriminator = generator.to(device), discriminator.to(device)
        self.model: nn.Module = copy.deepcopy(generator).eval().requires_grad_(False)
        self.modules: dict[str, nn.Module] = {
            "generator": self._generator,
            "discriminator": self._discriminator,
        }
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(module.parameters(), lr=config.learning_rate, betas=(0.0, 0.99))
            for name, module in self.modules.items()
        }
        self.rng = torch.Generator().manual_seed(config.seed)

    def step(self, index: int) -> dict[str, float]:
        """Update the discriminator, then the generator, then the moving average."""
        config, n = self._config, self._config.batch_size
        real, labels = self._batches.draw(n, self.rng)
        y = one_hot(labels, self._n_classes)
        if config.symmetries:
            real = dihedral(real, self.rng)
        fake = self._generator(self._noise(n), y)

        discriminator_loss = (
            nn.functional.softplus(-self._score(real, y)).mean()
            + nn.functional.softplus(self._score(fake.detach(), y)).mean()
        )
        if index % config.r1_every == 0:
            discriminator_loss = discriminator_loss + config.r1_weight * self._r1(real, y)
        self._update("discriminator", discriminator_loss)

        generator_loss = nn.functional.softplus(-self._score(fake, y)).mean()
        self._update("generator", generator_loss)
        self._average()
        return {
            "discriminator": float(discriminator_loss.detach()),
            "generator": float(generator_loss.detach()),
        }

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self._config.z_dim, generator=self.rng).to(self._device)

    def _score(self, images: Tensor, y: Tensor) -> Tensor:
        if self._config.augment:
            images = differentiable_augment(images, self.rng)
        scores: Tensor = self._discriminator(images, y)
        return scores

    def _r1(self, real: Tensor, y: Tensor) -> Tensor:
        """Return the squared gradient of the score by real images (Mescheder et al. 2018, equation 9)."""
        real = real.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self._score(real, y).sum(), real, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()

    def _update(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        # Only this network's gradients: the other's would be computed and thrown away.
        torch.autograd.backward(loss, inputs=list(self.modules[name].parameters()))
        optimizer.step()

    @torch.no_grad()
    def _average(self) -> None:
        for averaged, current in zip(self.model.parameters(), self._generator.parameters(), strict=True):
            averaged.lerp_(current, 1 - self._config.ema_decay)

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Measure the averaged weights' own normalisation statistics, then the samples they draw."""
        chance = torch.Generator().manual_seed(self._config.seed + 1)
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches that follow
            norm.train()
        for _ in range(_NORM_BATCHES):
            self._sample(_NORM_BATCH_SIZE, chance)
        for norm in norms:
            norm.eval()
        real, _ = self._val.first(_METRIC_IMAGES)
        generated = self._sample(max(len(real), 2), chance)
        if len(real) < 2:
            return {}
        return {
            "kid": kernel_distance_of_images(real, generated),
            "pixel_sd": sample_deviation(generated),
            "pixel_sd_real": sample_deviation(real),
        }

    def _sample(self, n: int, chance: torch.Generator) -> Tensor:
        z = torch.randn(n, self._config.z_dim, generator=chance).to(self._device)
        labels = (torch.arange(n) % self._n_classes).to(self._device)
        images: Tensor = self.model(z, one_hot(labels, self._n_classes))
        return images

    @torch.no_grad()
    def preview(self) -> NDArray[np.uint8]:
        """Return a grid from fixed latent vectors: a row a class, the same z in each column."""
        chance = torch.Generator().manual_seed(self._config.seed + 2)
        z = torch.randn(_PREVIEW_COLUMNS, self._config.z_dim, generator=chance).to(self._device)
        rows = []
        for label in range(self._n_classes):
            y = one_hot(torch.full((len(z),), label, device=self._device), self._n_classes)
            rows.append(np.concatenate(list(to_pixels(self.model(z, y))), axis=1))
        return np.concatenate(rows, axis=0)
