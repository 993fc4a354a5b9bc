"""What a training does besides its steps, timed: measurements, checkpoints, the steps of the encoder that follows."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from napari_histolatent.models import build_classifier, build_gan
from napari_histolatent.models.devices import resolve_device
from napari_histolatent.models.priors import draw_latents
from napari_histolatent.training._encoder_task import _REAL_WEIGHT_OF_PHASE, EncoderTask, batch_of_phase
from napari_histolatent.training._health import SAMPLES, HealthCheck, _evenly_of_each, load_judge
from napari_histolatent.training._settling import _BATCHES, classes_in_turn, images_at_once, norm_batch_size
from napari_histolatent.training.config import ClassifierConfig, EncoderConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent.patches import PatchDataset

_TIMED_SAMPLES = 24
"""As many as are compared with training patches at each measurement; what grows with their number is scaled."""
_FEW_PATCHES = 48
_EVALUATED_PATCHES = 2000
"""At most, at each checkpoint of a classifier."""
_PREVIEW_COLUMNS = 8
_ENCODER_SECONDS = 2.0


def measure_beside(
    config: TrainingConfig | ClassifierConfig, dataset: PatchDataset, *, seconds: float | None = None
) -> dict[str, float]:
    """Time what a run does besides its steps, with fresh networks and a few of the patches; nothing is kept.

    Parameters
    ----------
    config
        What is to be trained.
    dataset
        Patches of its size.
    seconds
        Time encoder steps for about this long, at least one; default: 2.

    Returns
    -------
    dict
        `seconds_per_measurement`, `seconds_per_checkpoint` (with the measurement in it, without the writing) and
        `seconds_per_encoder_step` (0 where none are asked for). Reading the patches that the first measurement
        compares with is not in it: seconds, once.

    Raises
    ------
    UserError
        If the config does not fit the dataset, its judge cannot be read, or the device is absent.
    """
    device = resolve_device(config.device)
    if isinstance(config, ClassifierConfig):
        return {
            "seconds_per_measurement": 0.0,
            "seconds_per_checkpoint": _evaluation_seconds(config, dataset, device),
            "seconds_per_encoder_step": 0.0,
        }
    few: Any = _Few(dataset)
    classes = dataset.classes if config.has_classes else ()
    built, _ = build_gan(config.network, classes=classes, size_px=config.size_px, **config.network_options)
    generator: Any = built
    generator.to(device).eval().requires_grad_(False)
    with torch.no_grad():
        samples = _draw(generator, config, device)
        drawing = _seconds_of(lambda: float(_draw(generator, config, device).mean())) / _TIMED_SAMPLES
        judge = load_judge(config.judge, device)
        health = HealthCheck(few, device, judge=judge, with_classes=bool(classes))
        y = classes_in_turn(_TIMED_SAMPLES, len(classes), device)
        labels = y.argmax(1) if classes else None
        measuring = SAMPLES * drawing
        if health.measure(samples, labels):  # the first one reads the patches
            looking = _seconds_of(lambda: health.look_at(samples)) / _TIMED_SAMPLES
            measuring += _seconds_of(lambda: health.measure(samples, labels))
            measuring += (SAMPLES - _TIMED_SAMPLES) * looking
    normed = any(isinstance(module, torch.nn.BatchNorm2d) for module in generator.modules())
    drawn = _PREVIEW_COLUMNS * max(1, len(classes))
    drawn += _BATCHES * norm_batch_size(config.size_px) if normed else 0
    return {
        "seconds_per_measurement": measuring,
        "seconds_per_checkpoint": measuring + drawn * drawing,
        "seconds_per_encoder_step": (
            _encoder_step_seconds(
                config, generator, few, device, _ENCODER_SECONDS if seconds is None else seconds
            )
            if config.encoder_steps
            else 0.0
        ),
    }


class _Few:
    """A few patches of each class and split of a dataset: enough to see how long one of them takes."""

    def __init__(self, dataset: PatchDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def rows_of(self, split: str) -> NDArray[np.int64]:
        rows = self._dataset.rows_of(split)
        return _evenly_of_each(rows, self._dataset.labels, _FEW_PATCHES) if len(rows) else rows


def _draw(generator: Any, config: TrainingConfig, device: torch.device) -> torch.Tensor:
    """Return `_TIMED_SAMPLES` images, drawn as the training draws them: in parts that a step has memory for."""
    chance = torch.Generator().manual_seed(config.seed)
    z = draw_latents(generator.prior, _TIMED_SAMPLES, generator.z_dim, chance).to(device)
    y = classes_in_turn(_TIMED_SAMPLES, len(generator.classes), device)
    at_once = images_at_once(config)
    drawn = [generator(*part) for part in zip(torch.split(z, at_once), torch.split(y, at_once), strict=True)]
    return torch.cat(drawn)


def _encoder_step_seconds(
    config: TrainingConfig, generator: Any, dataset: Any, device: torch.device, seconds: float
) -> float:
    settings = EncoderConfig(
        steps=config.encoder_steps,
        batch_size=batch_of_phase(config),
        real_weight=_REAL_WEIGHT_OF_PHASE,
        seed=config.seed,
        device=config.device,
        size_px=config.size_px,
        z_dim=generator.z_dim,
        prior=generator.prior,
    )
    task = EncoderTask(settings, generator, dataset, device)

    def step() -> None:
        float(task.step(0)["encoder_z"])  # once it is done on the device, too

    step()  # warm
    started, n = perf_counter(), 0
    while n == 0 or perf_counter() - started < seconds:
        step()
        n += 1
    return (perf_counter() - started) / n


@torch.no_grad()
def _evaluation_seconds(config: ClassifierConfig, dataset: PatchDataset, device: torch.device) -> float:
    """Return what a classifier's look at the held-out patches takes, at each of its checkpoints."""
    n = len(dataset.rows_of("test")) or len(dataset.rows_of("val"))
    if not n:
        return 0.0
    built = build_classifier(
        config.network, classes=dataset.classes, size_px=config.size_px, **config.network_options
    )
    network: Any = built
    network.to(device).eval()
    images = torch.zeros(min(config.batch_size, n), 3, config.size_px, config.size_px, device=device)
    network(images)
    looking = _seconds_of(lambda: float(network(images).mean()))
    return looking * min(n, _EVALUATED_PATCHES) / len(images)


def _seconds_of(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started
