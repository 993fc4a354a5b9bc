from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus
from torch.optim import Adam, Optimizer

from napari_histolatent.models import build_gan
from napari_histolatent.models._norm import GatheredBatchNorm2d
from napari_histolatent.models.images import to_pixels
from napari_histolatent.models.priors import draw_latents
from napari_histolatent.training._augment import add_noise, differentiable_augment, dihedral, jitter_stain
from napari_histolatent.training._data import Batches, Feed, area_fractions, one_hot
from napari_histolatent.training._distributed import Processes, join
from napari_histolatent.training._health import SAMPLES, Balance, HealthCheck, load_judge
from napari_histolatent.training._settling import classes_in_turn, images_at_once, settle

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.config import TrainingConfig

_PREVIEW_COLUMNS = 8


class GanTask:
    """A GAN, with classes or without: non-saturating loss with lazy R1, and a moving average of the generator.

    Parameters
    ----------
    config
        See there; what it leaves at 0 is off.
    dataset
        Patches of the config's size.
    device
        Where it is computed, by one process.
    processes
        Where it is computed, by several; `device` is then theirs.
    """

    def __init__(
        self,
        config: TrainingConfig,
        dataset: PatchDataset,
        device: torch.device,
        processes: Processes | None = None,
    ) -> None:
        self._processes = processes or join(device=str(device), precision=config.precision)
        self._config, self._device, self._part = config, self._processes.device, self._processes.part
        classes = dataset.classes if config.has_classes else ()
        torch.manual_seed(config.seed)  # fresh weights
        generator, discriminator = build_gan(
            config.network, classes=classes, size_px=config.size_px, **config.network_options
        )
        assert isinstance(generator, nn.Module)
        assert isinstance(discriminator, nn.Module)
        self._n_classes, self._z_dim, self._prior = len(classes), generator.z_dim, generator.prior
        self._generator: nn.Module = generator.to(self._device)
        self._discriminator: nn.Module = discriminator.to(self._device)
        if config.channels_last:
            for network in (self._generator, self._discriminator):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: nn.Module = copy.deepcopy(self._generator).eval().requires_grad_(False)
        self._norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in self._norms:
            if isinstance(norm, GatheredBatchNorm2d):
                norm.gathers = False  # every process has the whole of what the model draws
        self.modules: dict[str, nn.Module] = {
            "generator": self._generator,
            "discriminator": self._discriminator,
            **self._processes.scaling(),
        }
        self.optimizers: dict[str, Optimizer] = {
            name: Adam(self.modules[name].parameters(), config.learning_rate, (config.beta1, config.beta2))
            for name in ("generator", "discriminator")
        }
        self.rng = torch.Generator().manual_seed(config.seed)
        if config.compile:
            for network in (self._generator, self._discriminator):
                network.compile()
        self.balance = Balance()
        self._open(dataset)

    def _open(self, dataset: PatchDataset) -> None:
        balanced = self._n_classes > 0
        batches = Batches(dataset, "train", self._device, balanced=balanced, part=self._part)
        self._dataset = dataset
        self.feed = Feed(batches, self._config.batch_size, seed=self._config.seed)
        if not balanced:
            vectors = torch.zeros(len(batches), 0)
        elif self._config.continuous_labels:
            vectors = area_fractions(dataset, batches.rows)
        else:
            vectors = one_hot(torch.from_numpy(dataset.labels[batches.rows]), self._n_classes)
        self._class_vectors = vectors.to(self._device)
        # Of the batches, not of the dataset: those are even.
        of_each = [vectors[dataset.labels[batches.rows] == i].mean(0) for i in range(self._n_classes)]
        self._mean_vector = (
            torch.stack(of_each).mean(0).to(self._device) if balanced else vectors.new_zeros(0)
        )

    @property
    def waited_seconds(self) -> float:
        """Time that steps have spent on getting their patches."""
        return self.feed.waited_seconds

    @cached_property
    def _health(self) -> HealthCheck | None:
        """What judges the samples, in the first process only."""
        if not self._processes.is_first:
            return None
        judge = load_judge(self._config.judge, self._device)
        return HealthCheck(self._dataset, self._device, judge=judge, with_classes=self._n_classes > 0)

    @property
    def judges(self) -> dict[str, str]:
        """Name -> digest of the frozen networks in whose features the samples are judged."""
        return self._health.features if self._health else {}

    def step(self, index: int) -> dict[str, Tensor]:
        """Update the discriminator, then the generator, then the moving average."""
        config = self._config
        real, places = self.feed.take(index)
        y = self._weighed(self._class_vectors[places.to(self._device)], index)
        if config.symmetries:
            real = dihedral(real, self.rng, self._part)
        if config.stain_jitter:
            real = jitter_stain(real, self.rng, config.stain_jitter, self._part)
        noise = config.instance_noise * max(0.0, 1 - index / config.steps)

        fake = self._draw(y)
        of_real, of_fake = self._score(real, y, noise), self._score(fake.detach(), y, noise)
        self.balance.add(of_real, of_fake)
        # Cross-entropy against 1 - smoothing for real patches (Salimans et al. 2016, section 3.4) and 0 for others.
        discriminator_loss = (
            softplus(-of_real) + config.label_smoothing * of_real + softplus(of_fake)
        ).mean()
        if config.r1_weight and index % config.r1_every == 0:
            discriminator_loss = discriminator_loss + config.r1_weight * self._r1(real, y, noise)
        self._update("discriminator", discriminator_loss)

        for turn in range(config.generator_steps):
            generator_loss = softplus(-self._score(fake if turn == 0 else self._draw(y), y, noise)).mean()
            self._update("generator", generator_loss)
        self._average()
        return {"discriminator": discriminator_loss.detach(), "generator": generator_loss.detach()}

    def _weighed(self, y: Tensor, index: int) -> Tensor:
        """Return class vectors that count for more and more (after Shahbazi et al. 2022, who ramp the condition)."""
        ramp = self._config.condition_ramp_steps
        if index >= ramp or not self._n_classes:
            return y
        return self._mean_vector.lerp(y, index / ramp)

    def _draw(self, y: Tensor) -> Tensor:
        n = self._config.batch_size
        z = self._part.cut(draw_latents(self._prior, n, self._z_dim, self.rng)).to(self._device)
        with self._processes.autocast():
            images: Tensor = self._generator(z, y)
        return images.float()

    def _seen(self, images: Tensor, noise: float) -> Tensor:
        """Return images as the discriminator gets to see them."""
        if self._config.augment:
            images = differentiable_augment(images, self.rng, self._part)
        if noise:
            images = add_noise(images, self.rng, noise, self._part)
        return images.contiguous(memory_format=torch.channels_last) if self._config.channels_last else images

    def _score(self, images: Tensor, y: Tensor, noise: float) -> Tensor:
        seen = self._seen(images, noise)
        with self._processes.autocast():
            scores: Tensor = self._discriminator(seen, y)
        return scores.float()

    def _r1(self, real: Tensor, y: Tensor, noise: float) -> Tensor:
        """Return the squared gradient of the score by real images (Mescheder et al. 2018, equation 9).

        Always in float32, where a squared gradient neither vanishes nor overflows, and never compiled: compiled
        code has no second derivatives.
        """
        real = real.detach().requires_grad_(True)
        score = self._discriminator.forward(self._seen(real, noise), y).sum()
        (gradient,) = torch.autograd.grad(score, real, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()

    def _update(self, name: str, loss: Tensor) -> None:
        self._processes.update(self.optimizers[name], loss, list(self.modules[name].parameters()))

    @torch.no_grad()
    def _average(self) -> None:
        for averaged, current in zip(self.model.parameters(), self._generator.parameters(), strict=True):
            averaged.lerp_(current, 1 - self._config.ema_decay)

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Measure the averaged weights' own normalisation statistics, then the samples they draw."""
        self.settle()
        return self._measure()

    def settle(self) -> None:
        """Measure the averaged weights' own normalisation statistics, which pictures are drawn with."""
        settle(self.model, self._config)

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """Return the metrics between two checkpoints; the samples are normalised by their own statistics.

        That spares `finish`'s many batches, which cost more than the measurement.
        """
        for norm in self._norms:
            norm.momentum = 0.0  # what was measured for the last checkpoint stays
            norm.train()
        try:
            return self._measure()
        finally:
            for norm in self._norms:
                norm.eval()

    def _measure(self) -> dict[str, Any]:
        if self._health is None:
            return {}
        chance = torch.Generator().manual_seed(self._config.seed + 3)
        y = self._classes_in_turn(SAMPLES)
        return self._health.measure(self._sample(SAMPLES, chance), y.argmax(1) if self._n_classes else None)

    @torch.no_grad()
    def neighbours(self) -> NDArray[np.uint8] | None:
        """Return a picture of two rows: samples, and below each the training patch that is nearest to it."""
        if self._health is None:
            return None
        samples = self._sample(_PREVIEW_COLUMNS, torch.Generator().manual_seed(self._config.seed + 3))
        nearest = self._health.neighbours(samples)
        if nearest is None:
            return None
        return np.concatenate([np.concatenate(list(row), axis=1) for row in (to_pixels(samples), nearest)])

    def _sample(self, n: int, chance: torch.Generator) -> Tensor:
        z = draw_latents(self._prior, n, self._z_dim, chance).to(self._device)
        y = self._classes_in_turn(n)
        # In parts that a step has memory for; of even sizes, as a part may be normalised by itself.
        parts = -(-n // images_at_once(self._config))
        drawn = zip(z.tensor_split(parts), y.tensor_split(parts), strict=True)
        return torch.cat([self.model(*part) for part in drawn])

    def _classes_in_turn(self, n: int) -> Tensor:
        return classes_in_turn(n, self._n_classes, self._device)

    @torch.no_grad()
    def preview(self) -> NDArray[np.uint8]:
        """Return a grid from fixed latent vectors: a row a class, the same z in each column."""
        chance = torch.Generator().manual_seed(self._config.seed + 2)
        z = draw_latents(self._prior, _PREVIEW_COLUMNS, self._z_dim, chance).to(self._device)
        rows = []
        for y in self._classes_in_turn(max(self._n_classes, 1)):
            pixels = to_pixels(self.model(z, y.expand(len(z), -1)))
            rows.append(np.concatenate(list(pixels), axis=1))
        return np.concatenate(rows, axis=0)
