"""From what a user names (a run, a checkpoint) to a network ready to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import CheckpointError
from napari_histolatent.models import build_classifier, build_gan
from napari_histolatent.models.devices import resolve_device
from napari_histolatent.runs import Run
from napari_histolatent.training.checkpoint import INFO_FILE, Checkpoint, latest_checkpoint, load_weights
from napari_histolatent.training.config import ClassifierConfig, TrainingConfig

if TYPE_CHECKING:
    import torch

    from napari_histolatent.models.protocols import Classifier, Generator

SHIPPED = "shipped"


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator in evaluation mode, and where it came from."""

    network: Generator
    checkpoint: Checkpoint
    device: torch.device


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier in evaluation mode, and where it came from."""

    network: Classifier
    checkpoint: Checkpoint
    device: torch.device


def find_checkpoint(named: str | Path) -> Checkpoint:
    """Return the checkpoint of a run folder (its newest) or of a checkpoint folder.

    Raises
    ------
    CheckpointError
        If there is none, or it cannot be read.
    RunError
        If the path is neither.
    """
    if str(named) == SHIPPED:
        msg = "This version ships no trained model yet; name a run folder, for example the one `histolatent train` made."
        raise CheckpointError(msg)
    path = Path(named)
    if (path / INFO_FILE).is_file():
        return Checkpoint.open(path)
    return latest_checkpoint(Run(path).checkpoints_folder)


def load_generator(named: str | Path, *, device: str = "auto") -> LoadedGenerator:
    """Load the generator of a run or checkpoint.

    Raises
    ------
    UserError
        If there is none, it cannot be read, it is not a GAN's, or the device is absent.
    """
    checkpoint = find_checkpoint(named)
    _require_kind(checkpoint, "gan", "generator")
    config = TrainingConfig.from_json(checkpoint.config)
    network, _ = build_gan(
        config.network,
        classes=checkpoint.classes,
        size_px=checkpoint.size_px,
        z_dim=config.z_dim,
        base_channels=config.base_channels,
    )
    place = _ready(network, checkpoint, device)
    return LoadedGenerator(network, checkpoint, place)


def load_classifier(named: str | Path, *, device: str = "auto") -> LoadedClassifier:
    """Load the classifier of a run or checkpoint.

    Raises
    ------
    UserError
        If there is none, it cannot be read, it is not a classifier's, or the device is absent.
    """
    checkpoint = find_checkpoint(named)
    _require_kind(checkpoint, "classifier", "classifier")
    config = ClassifierConfig.from_json(checkpoint.config)
    network = build_classifier(
        config.network,
        classes=checkpoint.classes,
        size_px=checkpoint.size_px,
        base_channels=config.base_channels,
    )
    place = _ready(network, checkpoint, device)
    return LoadedClassifier(network, checkpoint, place)


def _require_kind(checkpoint: Checkpoint, kind: str, what: str) -> None:
    if checkpoint.kind != kind:
        msg = f"{checkpoint.path} holds a {checkpoint.kind}, where a {what} is needed; name another run."
        raise CheckpointError(msg)


def _ready(network: Any, checkpoint: Checkpoint, device: str) -> torch.device:
    place = resolve_device(device)
    network.to(place)
    load_weights(checkpoint, network, place)
    network.eval().requires_grad_(False)
    return place
