"""From what a user names (a run, a checkpoint) to a network ready to use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import CheckpointError
from napari_histolatent.models import build_classifier, build_encoder, build_gan
from napari_histolatent.models.devices import resolve_device
from napari_histolatent.runs import Run
from napari_histolatent.training.checkpoint import (
    INFO_FILE,
    Checkpoint,
    checkpoints_in,
    latest_checkpoint,
    load_weights,
    require_fitting,
)
from napari_histolatent.training.config import ClassifierConfig, EncoderConfig, TrainingConfig
from napari_histolatent.training.shipped import SHIPPED, shipped_of_kind

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from napari_histolatent.models.protocols import Classifier, Encoder, Generator

ENCODER_FOLDER = "encoder"
"""In a run's or an exported generator's folder: its encoder."""


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


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in evaluation mode, and where it came from."""

    network: Encoder
    checkpoint: Checkpoint
    device: torch.device


def find_checkpoint(named: str | Path, *, kind: str = "gan") -> Checkpoint:
    """Return the checkpoint of a run folder (its newest), of a checkpoint folder, or of what the package ships.

    Parameters
    ----------
    named
        A run folder, a checkpoint's or exported folder, or the word shipped.
    kind
        What shipped means here: the generator (gan) or the robust judge (classifier).

    Raises
    ------
    CheckpointError
        If there is none, or it cannot be read.
    RunError
        If the path is neither.
    """
    path = shipped_of_kind(kind) if str(named) == SHIPPED else Path(named)
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
    network = _built(
        checkpoint,
        lambda: build_gan(
            config.network,
            classes=checkpoint.classes,
            size_px=checkpoint.size_px,
            **config.network_options,
        )[0],
    )
    place = _ready(network, checkpoint, device)
    _settle_if_stopped(network, checkpoint, config)
    return LoadedGenerator(network, checkpoint, place)


def load_classifier(named: str | Path, *, device: str = "auto") -> LoadedClassifier:
    """Load the classifier of a run or checkpoint.

    Raises
    ------
    UserError
        If there is none, it cannot be read, it is not a classifier's, or the device is absent.
    """
    checkpoint = find_checkpoint(named, kind="classifier")
    _require_kind(checkpoint, "classifier", "classifier")
    config = ClassifierConfig.from_json(checkpoint.config)
    network = _built(
        checkpoint,
        lambda: build_classifier(
            config.network,
            classes=checkpoint.classes,
            size_px=checkpoint.size_px,
            base_channels=config.base_channels,
        ),
    )
    place = _ready(network, checkpoint, device)
    return LoadedClassifier(network, checkpoint, place)


def load_encoder(
    named: str | Path, *, generator_digest: str | None = None, device: str = "auto"
) -> LoadedEncoder | None:
    """Load the encoder that belongs to a generator, or None where none was trained.

    Parameters
    ----------
    named
        A generator's run, checkpoint or exported folder, or an encoder's own run or checkpoint.
    generator_digest
        The generator it has to belong to; None: the one that is named, or any where an encoder is named.
    device
        Where to put it.

    Raises
    ------
    UserError
        If it cannot be read, it belongs to another generator, what is named is neither a generator nor an
        encoder, or the device is absent.
    """
    checkpoint = find_checkpoint(named)
    if checkpoint.kind != "encoder":
        _require_kind(checkpoint, "gan", "generator")
        generator_digest = generator_digest or checkpoint.digest
        found = _encoder_beside(checkpoint)
        if found is None:
            return None
        checkpoint = found
        _require_kind(checkpoint, "encoder", "encoder")
    config = EncoderConfig.from_json(checkpoint.config)
    if generator_digest is not None and config.generator_digest != generator_digest:
        msg = f"The encoder {checkpoint.path} belongs to another generator (digest {config.generator_digest[:12]}, this one has {generator_digest[:12]}); train one for this generator."
        raise CheckpointError(msg)
    network = _built(
        checkpoint,
        lambda: build_encoder(
            config.network,
            classes=checkpoint.classes,
            size_px=checkpoint.size_px,
            z_dim=config.z_dim,
            prior=config.prior,
            base_channels=config.base_channels,
        ),
    )
    place = _ready(network, checkpoint, device)
    return LoadedEncoder(network, checkpoint, place)


def _encoder_beside(generator: Checkpoint) -> Checkpoint | None:
    """Return the newest encoder in the folder of an exported generator or of a generator's run."""
    folder = generator.path / ENCODER_FOLDER
    if not folder.is_dir() and generator.path.parent.name == "checkpoints":
        folder = generator.path.parent.parent / ENCODER_FOLDER
    if (folder / INFO_FILE).is_file():
        return Checkpoint.open(folder)
    checkpoints = folder / "checkpoints"
    return latest_checkpoint(checkpoints) if checkpoints_in(checkpoints) else None


def _require_kind(checkpoint: Checkpoint, kind: str, what: str) -> None:
    if checkpoint.kind != kind:
        msg = f"{checkpoint.path} holds a {checkpoint.kind[:40]}, where a {what} is needed; name another run."
        raise CheckpointError(msg)


def _settle_if_stopped(network: Any, checkpoint: Checkpoint, config: TrainingConfig) -> None:
    """Make a generator ready that was written at once, as its run was asked to stop."""
    from napari_histolatent.training._settling import is_settled, settle

    if not is_settled(checkpoint):
        settle(network, config)


def _built(checkpoint: Checkpoint, build: Callable[[], Any]) -> Any:
    """Build the network of a checkpoint, once it is known to be as large as the weights beside it.

    How large it is to be, the facts say, and those anybody may have written: on the meta device it costs nothing
    to see what would come of them.
    """
    import torch

    with torch.device("meta"):
        outline = build()
    require_fitting(checkpoint, outline)
    return build()


def _ready(network: Any, checkpoint: Checkpoint, device: str) -> torch.device:
    place = resolve_device(device)
    network.to(place)
    load_weights(checkpoint, network, place)
    network.eval().requires_grad_(False)
    return place
