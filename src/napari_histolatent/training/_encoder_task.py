"""Training of an encoder: from the images a generator draws back to what they were drawn from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Adam

from napari_histolatent.errors import CheckpointError, DatasetError
from napari_histolatent.models import build_encoder
from napari_histolatent.models.priors import draw_latents, prior_scale
from napari_histolatent.training._augment import dihedral
from napari_histolatent.training._data import Batches, one_hot
from napari_histolatent.training._distributed import join
from napari_histolatent.training.checkpoint import Checkpoint, checkpoints_in
from napari_histolatent.training.config import EncoderConfig
from napari_histolatent.training.load import ENCODER_FOLDER, load_generator
from napari_histolatent.training.suitable import require_trainable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.models.protocols import Generator
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.runs import RunEvent
    from napari_histolatent.training.config import TrainingConfig
    from napari_histolatent.training.load import LoadedGenerator

_MEASURED_IMAGES = 256
_WARM_UP_SHARE = 0.1
_REAL_WEIGHT_OF_PHASE = 1.0
"""A run has its patches at hand: with them an encoder redraws real images better, generated ones a little worse."""
_WITHOUT_EFFECT = frozenset({"device", "log_every", "checkpoint_every"})
"""Settings that may change before a training is resumed: they do not change what is learnt."""


class EncoderTask:
    """Synthetic pairs (z, y) -> G(z, y) -> E, with a pixel term, and optionally real patches -> E -> G.

    A step minimises mean((z - E_z)^2) / var(z) + class_weight * cross-entropy(y) + pixel_weight * mean((G(E_z, y)
    - x)^2). With real_weight, as many real patches add real_weight * (mean((G(E_z, y) - x)^2) + prior_weight *
    mean(E_z^2) / var(z)) and class_weight * their classes' cross-entropy. Means are over entries and images. The
    pixel terms are how Zhu et al. 2016 ("Projecting an image onto the manifold") train their network; of generated
    images the answer itself is known. Pixels are redrawn with the true class, so that they teach z alone.

    Parameters
    ----------
    config
        Its z_dim and prior are the generator's.
    generator
        What is inverted; it is only read. Its networks' parameters are expected to be frozen.
    dataset
        Real patches of the generator's size; None where there are none: then nothing real is used or measured.
    device
        Where the generator is.

    Raises
    ------
    DatasetError
        If real_weight is above 0 and there is no dataset or a class of it has no patch to train on, or if the
        patches are of another size or of other classes than the generator's.
    """

    def __init__(
        self,
        config: EncoderConfig,
        generator: Generator,
        dataset: PatchDataset | None,
        device: torch.device,
    ) -> None:
        if dataset is None and config.real_weight > 0:
            msg = "Real patches are wanted (real_weight above 0), but there is no dataset; name one, or set real_weight to 0."
            raise DatasetError(msg)
        if dataset is not None:
            _require_fitting(dataset, generator)
        torch.manual_seed(config.seed)  # fresh weights
        self._config, self._generator, self._device = config, generator, device
        network = build_encoder(
            config.network,
            classes=generator.classes,
            size_px=generator.size_px,
            z_dim=generator.z_dim,
            prior=config.prior,
            base_channels=config.base_channels,
        )
        assert isinstance(network, nn.Module)
        self.model: nn.Module = network.to(device)
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "encoder": Adam(self.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
        }
        self.rng = torch.Generator().manual_seed(config.seed)
        self._variance = prior_scale(config.prior) ** 2
        self._real = self._held_out = None
        if dataset is not None:
            balanced = bool(generator.classes)
            if config.real_weight > 0:
                require_trainable(dataset, generator.size_px, needs_classes=len(generator.classes) > 1)
                self._real = Batches(dataset, "train", device, balanced=balanced)
            split = "val" if len(dataset.rows_of("val")) else "train"
            self._held_out = Batches(dataset, split, device, balanced=balanced)

    def step(self, index: int) -> dict[str, Tensor]:
        """Learn from one batch; the learning rate follows the step's number, so a resumed run needs no more."""
        config = self._config
        self.model.train()
        for group in self.optimizers["encoder"].param_groups:
            group["lr"] = rate_of(index, config.steps, config.learning_rate)
        z, labels, images = self._pairs(config.batch_size, self.rng, first=index)
        guess, logits = self.model(images)
        z_loss = (guess - z).square().mean() / self._variance
        y_loss = self._class_loss(logits, labels)
        pixel_loss = (self._draw(guess, labels) - images).square().mean()
        loss = z_loss + config.class_weight * y_loss + config.pixel_weight * pixel_loss
        losses = {"encoder_z": z_loss, "encoder_y": y_loss, "encoder_pixels": pixel_loss}
        if self._real is not None:
            images, labels = self._real.draw(config.batch_size, self.rng)
            images = dihedral(images, self.rng)
            guess, logits = self.model(images)
            real_loss = (self._draw(guess, labels) - images).square().mean()
            beyond = guess.square().mean() / self._variance
            loss = loss + config.real_weight * (real_loss + config.prior_weight * beyond)
            loss = loss + config.class_weight * self._class_loss(logits, labels)
            losses["encoder_real_pixels"] = real_loss
        optimizer = self.optimizers["encoder"]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, inputs=list(self.model.parameters()))
        optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _pairs(self, n: int, rng: torch.Generator, *, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return z, class indices (all 0 without classes) and the images the generator draws of them."""
        z = draw_latents(self._config.prior, n, self._generator.z_dim, rng).to(self._device)
        # The remainder goes round, so that over batches no class is favoured.
        labels = ((torch.arange(n) + first) % max(len(self._generator.classes), 1)).to(self._device)
        at_once = self._config.batch_size
        with torch.no_grad():
            parts = zip(torch.split(z, at_once), torch.split(labels, at_once), strict=True)
            return z, labels, torch.cat([self._draw(*part) for part in parts])

    def _draw(self, z: Tensor, labels: Tensor) -> Tensor:
        n_classes = len(self._generator.classes)
        y = one_hot(labels, n_classes) if n_classes else z.new_zeros(len(z), 0)
        return self._generator.synthesize(self._generator.map(z, y))

    def _class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        # With one class or none there is nothing to tell apart; and the mean over no logits is not a number.
        return F.cross_entropy(logits, labels) if logits.shape[1] > 1 else logits.new_zeros(())

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Measure how images are redrawn from what the encoder says of them, both z and class its own.

        Returns
        -------
        dict
            Of generated images and of held-out real ones, where there are any: rmse_* (median over images, on
            [-1, 1]), class_accuracy_* (with two classes or more), z_rms_* (root mean square of z over its
            prior's standard deviation); and z_error, the mean squared error of z over its prior's variance.
        """
        self.model.eval()
        chance = torch.Generator().manual_seed(self._config.seed + 1)
        z, labels, images = self._pairs(_MEASURED_IMAGES, chance)
        guess, metrics = self._measure("generated", images, labels)
        metrics["z_error"] = float((guess - z).square().mean() / self._variance)
        if self._held_out is not None:
            metrics |= self._measure("real", *self._held_out.first(_MEASURED_IMAGES))[1]
        return metrics

    def _measure(self, name: str, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        guesses, all_logits, errors = [], [], []
        # A step has memory for as many, and more.
        for part in torch.split(images, self._config.batch_size):
            guess, logits = self.model(part)
            again = self._generator.synthesize(self._generator.map(guess, logits.softmax(1)))
            guesses.append(guess)
            all_logits.append(logits)
            errors.append((again - part).square().mean(dim=(1, 2, 3)).sqrt())
        guess, logits, rmse = torch.cat(guesses), torch.cat(all_logits), torch.cat(errors)
        metrics = {
            f"rmse_{name}": float(rmse.median()),
            f"z_rms_{name}": float((guess.square().mean() / self._variance).sqrt()),
        }
        if logits.shape[1] > 1:
            metrics[f"class_accuracy_{name}"] = float((logits.argmax(1) == labels).float().mean())
        return guess, metrics

    def preview(self) -> NDArray[np.uint8] | None:
        """Return None: the pictures of a run are its generator's, in one row of time."""
        return None


def rate_of(index: int, steps: int, peak: float) -> float:
    """Return a learning rate that rises over the first tenth and falls to 0: a function of the step alone."""
    position = (index + 0.5) / steps
    return peak * min(position / _WARM_UP_SHARE, (1 - position) / (1 - _WARM_UP_SHARE))


def _require_fitting(dataset: PatchDataset, generator: Generator) -> None:
    if dataset.size_px != generator.size_px:
        msg = f"The dataset has patches of {dataset.size_px} px, the generator draws {generator.size_px} px; name the dataset that it was trained on."
        raise DatasetError(msg)
    if generator.classes and dataset.classes != generator.classes:
        msg = f"The dataset has the classes {', '.join(dataset.classes)}, the generator {', '.join(generator.classes)}; name the dataset that it was trained on."
        raise DatasetError(msg)


def train_encoder(
    config: EncoderConfig,
    generator: LoadedGenerator,
    dataset: PatchDataset | None,
    *,
    folder: Path,
    on_event: Callable[[RunEvent], None],
    should_stop: Callable[[], bool],
    resume: bool = False,
) -> Checkpoint:
    """Train an encoder of a generator by the loop of all trainings, and return the last checkpoint.

    Parameters
    ----------
    config
        Its size_px, z_dim, prior and generator_digest are set from the generator.
    generator
        What the encoder belongs to, on the device of the config.
    dataset
        Real patches to learn from (with real_weight) and to be measured on; None: only generated images.
    folder
        Where checkpoints go (folder/checkpoints). Encoders there of other weights or settings are replaced.
    on_event, should_stop, resume
        As of `training.loop.train`.

    Raises
    ------
    UserError
        As `training.loop.train`; also if the folder holds another kind of checkpoint.
    """
    from napari_histolatent.training.loop import learn  # which comes here for the phase after a GAN

    network, origin = generator.network, generator.checkpoint
    config = config.with_changes(
        size_px=network.size_px,
        z_dim=network.z_dim,
        prior=network.prior,
        generator_digest=origin.digest,
    )
    processes = join(device=config.device)
    task = EncoderTask(config, network, dataset, processes.device)
    facts = {
        "kind": "encoder",
        "steps": config.steps,
        "config": config.to_json(),
        "classes": list(network.classes),
        "size_px": network.size_px,
        "mpp": origin.mpp,
        "dataset_digest": origin.dataset_digest if dataset is None else dataset.digest,
    }
    _clear_of_others(folder / "checkpoints", facts)
    return learn(
        task,
        config,
        facts,
        processes=processes,
        folder=folder,
        on_event=on_event,
        should_stop=should_stop,
        resume=resume,
    )


def batch_of_phase(config: TrainingConfig) -> int:
    """Return the batch of a run's encoder: its own, where the GAN's is not smaller for want of memory."""
    return min(EncoderConfig().batch_size, config.batch_size)


def train_encoder_of_run(
    config: TrainingConfig,
    checkpoint: Checkpoint,
    dataset: PatchDataset,
    *,
    folder: Path,
    on_event: Callable[[RunEvent], None],
    should_stop: Callable[[], bool],
    batch_size: int | None = None,
) -> Checkpoint:
    """Train the encoder of a GAN's run, as its last phase: config.encoder_steps steps that follow the GAN's.

    It lies in folder/encoder and goes on from there. Its events count on from the GAN's last step; what they say
    of its checkpoint is under data["encoder"], so that the run's checkpoint and metrics remain the generator's.
    Without a batch size it is that of `batch_of_phase`.
    """
    settings = EncoderConfig(
        steps=config.encoder_steps,
        batch_size=batch_size or batch_of_phase(config),
        real_weight=_REAL_WEIGHT_OF_PHASE,
        seed=config.seed,
        device=config.device,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
    )

    def tell(event: RunEvent) -> None:
        data = event.data
        if event.kind == "checkpoint":
            data = {"encoder": {**data, "checkpoint": f"{ENCODER_FOLDER}/{data['checkpoint']}"}}
        steps = config.steps + config.encoder_steps
        on_event(replace(event, step=config.steps + event.step, steps=steps, data=data))

    return train_encoder(
        settings,
        load_generator(checkpoint.path, device=config.device),
        dataset,
        folder=folder / ENCODER_FOLDER,
        on_event=tell,
        should_stop=should_stop,
        resume=True,
    )


def _clear_of_others(folder: Path, facts: dict[str, Any]) -> None:
    """Remove the encoders of other weights or settings: a training cannot go on from them."""
    for path in checkpoints_in(folder):
        try:
            checkpoint = Checkpoint.open(path)
        except CheckpointError:
            continue  # the loop passes over it, or says what is wrong
        if checkpoint.kind != "encoder":
            msg = f"{path} holds a {checkpoint.kind}, where an encoder is to go; name another folder."
            raise CheckpointError(msg)
        if _effective(checkpoint.config) != _effective(facts["config"]) or (
            checkpoint.dataset_digest != facts["dataset_digest"]
        ):
            shutil.rmtree(path)


def _effective(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in _WITHOUT_EFFECT}
