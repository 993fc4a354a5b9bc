"""A checkpoint copied into a new run, which goes on from its weights, optimisers and source of chance."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import digest_of_file, replacing, write_json
from napari_histolatent.errors import CheckpointError
from napari_histolatent.training.checkpoint import INFO_FILE, MODEL_FILE, STATE_FILE, Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.training.config import ClassifierConfig, TrainingConfig

KEPT_BY_A_FORK = ("network", "design", "size_px", "z_dim", "base_channels")
"""Settings that the weights are made for: a fork has those of its checkpoint."""


def copy_file(checkpoint: Checkpoint, name: str, folder: Path) -> None:
    """Copy one of a checkpoint's files; a run that goes on meanwhile may drop the checkpoint.

    Raises
    ------
    CheckpointError
        If the file is not there, or no longer.
    """
    source = checkpoint.path / name
    if not source.is_file():
        msg = f"{source} is missing (the run has dropped this checkpoint, or it was exported without it); choose another checkpoint."
        raise CheckpointError(msg)
    try:
        shutil.copyfile(source, folder / name)
    except FileNotFoundError:
        if folder.is_dir():
            msg = f"{source} was dropped by its run while it was copied; try again."
            raise CheckpointError(msg) from None
        raise


def fork_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    config: TrainingConfig | ClassifierConfig,
    dataset_digest: str,
    forked_from: dict[str, Any],
) -> None:
    """Copy a checkpoint into a new run's checkpoints folder, under the new run's settings and dataset.

    Parameters
    ----------
    checkpoint
        With the state of its training.
    folder
        The new run's checkpoints folder.
    config
        Of the new run. With another seed, what is left to chance goes on from that seed; else as it was.
    dataset_digest
        Of the new run's dataset.
    forked_from
        Kept beside the facts: the weights themselves come from there.

    Raises
    ------
    CheckpointError
        If a file is missing or broken.
    """
    path = folder / f"step-{checkpoint.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.mkdir()
        for name in (MODEL_FILE, STATE_FILE, INFO_FILE):
            copy_file(checkpoint, name, temporary)
        if config.seed != checkpoint.config.get("seed"):
            _reseed(temporary / STATE_FILE, config.seed)
        info = json.loads((temporary / INFO_FILE).read_text(encoding="utf-8"))
        info |= {
            "config": config.to_json(),
            "steps": config.steps,
            "dataset_digest": dataset_digest,
            "forked_from": forked_from,
        }
        if config.seed != checkpoint.config.get("seed"):
            info["state_digest"] = digest_of_file(temporary / STATE_FILE)
        write_json(temporary / INFO_FILE, info)


def _reseed(path: Path, seed: int) -> None:
    """Put a fresh source of chance into a training state."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    try:
        state = load(path.read_bytes())
    except SafetensorError as error:
        msg = f"{path.name} cannot be read as safetensors ({error}); it is truncated or of another format: choose another checkpoint."
        raise CheckpointError(msg) from error
    state["rng"] = torch.Generator().manual_seed(seed).get_state()
    path.write_bytes(save(state))
