"""From three runs to the models that the package ships: halved on disk, measured as they are then, with cards."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._files import digest_of_file, write_json, write_text
from napari_histolatent.errors import CheckpointError, DatasetError, UserError, writing_to
from napari_histolatent.evaluation.gates import Gates, real_images, sampled
from napari_histolatent.jobs.calibration import calibrate
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training.card import CARD_FILE, CardFacts, dataset_facts, model_card
from napari_histolatent.training.checkpoint import INFO_FILE, MODEL_FILE, Checkpoint
from napari_histolatent.training.chosen import chosen_checkpoint
from napari_histolatent.training.load import (
    ENCODER_FOLDER,
    load_classifier,
    load_encoder,
    load_generator,
)
from napari_histolatent.training.shipped import COLOUR_JUDGE, GENERATOR, PARTS, ROBUST_JUDGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_histolatent.evaluation.gates import SampleFigures

MOST_BYTES = 6_000_000
"""Of all that is shipped: a package is downloaded by everyone."""
_LEAST_AXES = 2
"""Tensors of fewer are kept whole: they are small, and running variances are too small for half precision."""


@dataclass(frozen=True)
class ShippedModels:
    """What was written."""

    folder: Path
    n_bytes: int
    digests: Mapping[str, str]
    """Part (generator, colour_judge, robust_judge, encoder) -> sha256 of its weights."""
    figures: SampleFigures
    """Of the generator's samples, judged by the two judges, all three as shipped."""


def ship(
    run: str | Path,
    *,
    colour_judge: str | Path,
    robust_judge: str | Path,
    dataset: str | Path,
    out: Path,
    step: int | None = None,
    best: bool = False,
    licence: str = "",
    assumed_mpp: float | None = None,
    seed: int = 1,
    calibration_tiles: int = 256,
) -> ShippedModels:
    """Write the folders that 'shipped' names. What else lies in `out` stays; older parts are replaced.

    Parameters
    ----------
    run
        A generator's run (or checkpoint), with its encoder if it has one.
    colour_judge, robust_judge
        Classifiers of the same classes.
    dataset
        What all three learnt from; its held-out patches (val) judge the samples.
    out
        The folder of the parts.
    step, best
        Which of the run's checkpoints; default: the newest.
    licence
        For the cards.
    assumed_mpp
        Micrometres per pixel, where the data do not say: tiles are cut at this size, and the cards call it assumed.
    seed
        Of the samples that are measured.
    calibration_tiles
        Held-out tiles that reverse search is tried on, so that it can say how far to believe it; 0: not tried.

    Raises
    ------
    UserError
        If a part cannot be read, the three do not belong together, the weights do not fit half precision, all
        together are larger than `MOST_BYTES`, or `out` cannot be written.
    """
    sources = {
        GENERATOR: chosen_checkpoint(run, step=step, best=best),
        COLOUR_JUDGE: chosen_checkpoint(colour_judge),
        ROBUST_JUDGE: chosen_checkpoint(robust_judge),
    }
    data = PatchDataset(dataset)
    _require_together(sources, data)
    encoder = load_encoder(sources[GENERATOR].path, device="cpu")
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".new-") as name:
            new = Path(name)
            # A path of the machine that trained it says nothing elsewhere; with it, "" means the shipped judge.
            changes = {GENERATOR: {"judge": ""}}
            parts = {
                part: halved(source, new / part, assumed_mpp=assumed_mpp, config=changes.get(part))
                for part, source in sources.items()
            }
            digests = {part: checkpoint.digest for part, checkpoint in parts.items()}
            if encoder is not None:
                folder = new / GENERATOR / ENCODER_FOLDER
                belongs = {"generator_digest": digests[GENERATOR]}
                shrunk = halved(encoder.checkpoint, folder, assumed_mpp=assumed_mpp, config=belongs)
                digests[ENCODER_FOLDER] = shrunk.digest
            figures, judges = _measured(new, data, seed)
            _add_metrics(new / GENERATOR, {"gates": figures.to_json()})
            if calibration_tiles:
                judge = new / ROBUST_JUDGE
                calibrate(new / GENERATOR, dataset=dataset, classifier=judge, tiles=calibration_tiles)
            for part in PARTS:
                _write_card(new / part, data, judges, licence, assumed_mpp)
            n_bytes = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
            if n_bytes > MOST_BYTES:
                msg = f"The models to ship take {n_bytes / 1e6:.1f} MB together, more than {MOST_BYTES / 1e6:.0f} MB; train narrower networks."
                raise UserError(msg)
            for part in PARTS:
                shutil.rmtree(out / part, ignore_errors=True)
                os.replace(new / part, out / part)
    return ShippedModels(out, n_bytes, digests, figures)


def halved(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    assumed_mpp: float | None = None,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Write a checkpoint's weights in half precision, with its facts, and return the copy.

    It loads as any checkpoint does, in single precision. Its digest is another one; `trained_digest` in
    checkpoint.json names the weights it was made from.

    Parameters
    ----------
    checkpoint
        What is copied; the state of its training is left behind.
    folder
        The folder to make.
    assumed_mpp
        Micrometres per pixel to write where the checkpoint does not say, marked as assumed.
    config
        Settings to change, such as which generator an encoder belongs to.

    Raises
    ------
    CheckpointError
        If a weight is too large for half precision.
    """
    from safetensors.numpy import load_file, save

    state = load_file(checkpoint.path / MODEL_FILE)
    small = {name: _halved(name, value, checkpoint.path) for name, value in state.items()}
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(save(small))
    facts = json.loads((checkpoint.path / INFO_FILE).read_text(encoding="utf-8"))
    facts["trained_digest"] = checkpoint.digest
    facts["digest"] = digest_of_file(folder / MODEL_FILE)
    facts["config"] = {**facts["config"], **(config or {})}
    if facts["mpp"] is None and assumed_mpp is not None:
        facts["mpp"] = assumed_mpp
        facts["metrics"] = {**facts["metrics"], "mpp_is_assumed": True}
    write_json(folder / INFO_FILE, facts)
    return Checkpoint.open(folder)


def _halved(name: str, value: np.ndarray[Any, Any], path: Path) -> np.ndarray[Any, Any]:
    if value.dtype != np.float32 or value.ndim < _LEAST_AXES:
        return value
    with np.errstate(over="ignore"):
        small = value.astype(np.float16)
    if not np.isfinite(small).all():
        msg = f"The weights {name} of {path} reach {np.abs(value).max():.3g}, more than half precision holds (65504); ship another checkpoint."
        raise CheckpointError(msg)
    return small


def _require_together(sources: Mapping[str, Checkpoint], data: PatchDataset) -> None:
    for part, checkpoint in sources.items():
        kind = "gan" if part == GENERATOR else "classifier"
        if checkpoint.kind != kind:
            msg = f"{checkpoint.path} holds a {checkpoint.kind}, where a {kind} is needed for {part}; name another run."
            raise CheckpointError(msg)
        if checkpoint.classes != data.classes or checkpoint.size_px != data.size_px:
            msg = (
                f"{checkpoint.path} knows {', '.join(checkpoint.classes)} at {checkpoint.size_px} px, the dataset "
                f"{', '.join(data.classes)} at {data.size_px} px; name runs of this dataset."
            )
            raise DatasetError(msg)


def _measured(folder: Path, data: PatchDataset, seed: int) -> tuple[SampleFigures, dict[str, str]]:
    held_out = real_images(data, "val")
    gates = Gates(
        train=real_images(data, "train").images,
        held_out=held_out,
        colour_judge=load_classifier(folder / COLOUR_JUDGE, device="cpu"),
        robust_judge=load_classifier(folder / ROBUST_JUDGE, device="cpu"),
    )
    generator = load_generator(folder / GENERATOR, device="cpu")
    return gates.measure(sampled(generator, held_out.labels, seed=seed)), gates.digests


def _add_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    facts = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    facts["metrics"] = {**facts["metrics"], **metrics}
    write_json(folder / INFO_FILE, facts)


def _write_card(
    folder: Path, data: PatchDataset, judges: Mapping[str, str], licence: str, assumed_mpp: float | None
) -> None:
    checkpoint = Checkpoint.open(folder)
    is_generator = checkpoint.kind == "gan"
    network: Any = (load_generator if is_generator else load_classifier)(folder, device="cpu").network
    is_assumed = bool(checkpoint.metrics.get("mpp_is_assumed"))
    # The figures of a judge are no statement of the other judges on it.
    card = model_card(
        CardFacts(
            checkpoint=replace(checkpoint, mpp=None) if is_assumed else checkpoint,
            parameters=sum(weight.numel() for weight in network.parameters()),
            prior=network.prior if is_generator else "",
            dataset=dataset_facts(data),
            judges=judges if is_generator else {},
            licence=licence,
            assumed_mpp=assumed_mpp if is_assumed else None,
            files={
                path.relative_to(folder).as_posix(): digest_of_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            },
        )
    )
    write_text(folder / CARD_FILE, card)
