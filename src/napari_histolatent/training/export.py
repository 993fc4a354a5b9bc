"""A trained network as a folder to hand on: weights, facts, a model card, and ONNX if wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import digest_of_file, replacing, write_text
from napari_histolatent.errors import CheckpointError, DatasetError, RunError, UserError, writing_to
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import Run
from napari_histolatent.training._onnx import write_generator_onnx
from napari_histolatent.training.card import CARD_FILE, CardFacts, DatasetFacts, dataset_facts, model_card
from napari_histolatent.training.checkpoint import INFO_FILE, MODEL_FILE, Checkpoint, latest_checkpoint
from napari_histolatent.training.chosen import chosen_checkpoint
from napari_histolatent.training.forking import copy_file
from napari_histolatent.training.load import ENCODER_FOLDER, load_classifier, load_generator
from napari_histolatent.training.shipped import SHIPPED, shipped_of_kind

if TYPE_CHECKING:
    from collections.abc import Mapping

CALIBRATION_FILE = "calibration.json"
ONNX_FILE = "generator.onnx"
SYNTHETIC_NOTE = "SYNTHETIC: every image this model draws is made up; not for diagnosis"


@dataclass(frozen=True)
class Export:
    """An exported folder."""

    folder: Path
    digest: str
    """Of the model: sha256 of its weights."""
    step: int
    files: Mapping[str, str]
    """Name, relative to the folder -> sha256."""
    onnx_difference: float | None
    """Largest difference of a pixel between the ONNX file and torch; None without the file."""


def export(
    named: str | Path,
    out: str | Path,
    *,
    step: int | None = None,
    best: bool = False,
    onnx: bool = False,
    licence: str = "",
    assumed_mpp: float | None = None,
    dataset: str | Path | None = None,
) -> Export:
    """Export a checkpoint to a folder that every command and dock takes for a run.

    The folder holds model.safetensors, checkpoint.json, MODEL_CARD.md, and where there are such the encoder
    (encoder/), calibration.json and the ONNX file. It appears whole or not at all.

    Parameters
    ----------
    named
        A run folder, a checkpoint, an exported folder, or the word shipped (its generator).
    out
        The folder to make; it must not hold anything yet.
    step, best
        Which checkpoint, see `chosen_checkpoint`; default: the newest.
    onnx
        Write a generator as ONNX, too (extra `onnx`): see `write_generator_onnx`.
    licence
        For the card; '' is 'not stated'.
    assumed_mpp
        Micrometres per pixel to assume on the card where the data do not say.
    dataset
        The dataset's folder, where it is no longer where the run says.

    Raises
    ------
    UserError
        If there is no such checkpoint, a file of it is broken, the folder cannot be made, the dataset is another
        one, or ONNX was wanted and cannot be had.
    """
    place = shipped_of_kind("gan") if str(named) == SHIPPED else Path(named).absolute()
    checkpoint = chosen_checkpoint(place, step=step, best=best)
    if assumed_mpp is not None and not 0 < assumed_mpp < math.inf:
        msg = f"A pixel size of {assumed_mpp:g} µm is not possible; give a number above 0, such as 0.5."
        raise UserError(msg)
    if onnx and checkpoint.kind != "gan":
        msg = f"{checkpoint.path} holds a {checkpoint.kind}, and ONNX files are made of generators only; leave --onnx out."
        raise UserError(msg)
    out = Path(out).absolute()
    for parent in out.parents:
        if any((parent / name).is_file() for name in ("run.json", INFO_FILE)):
            msg = (
                f"{out} lies in {parent}, which holds a run or a model of its own; choose a folder elsewhere."
            )
            raise CheckpointError(msg)
    loaded: Any
    if checkpoint.kind == "gan":
        loaded = load_generator(checkpoint.path, device="cpu")
    elif checkpoint.kind == "classifier":
        loaded = load_classifier(checkpoint.path, device="cpu")
    else:
        msg = f"{checkpoint.path} holds {checkpoint.kind} weights, which go with their generator; export the generator's run."
        raise CheckpointError(msg)
    run = _run_of(place)
    data = _dataset_of(checkpoint, run, dataset)
    difference = None
    with writing_to(out):
        _require_free(out)
        with replacing(out) as temporary:
            temporary.mkdir(parents=True)
            for name in (MODEL_FILE, INFO_FILE):
                copy_file(checkpoint, name, temporary)
            if (checkpoint.path / CALIBRATION_FILE).is_file():
                copy_file(checkpoint, CALIBRATION_FILE, temporary)
            encoder = _encoder_of(place, checkpoint)
            if encoder is not None:
                (temporary / ENCODER_FOLDER).mkdir()
                for name in (MODEL_FILE, INFO_FILE):
                    copy_file(encoder, name, temporary / ENCODER_FOLDER)
            if onnx:
                difference = write_generator_onnx(
                    loaded, temporary / ONNX_FILE, metadata=_onnx_facts(checkpoint)
                )
            facts = CardFacts(
                checkpoint=checkpoint,
                parameters=sum(weight.numel() for weight in loaded.network.parameters()),
                z_dim=loaded.network.z_dim if checkpoint.kind == "gan" else 0,
                prior=str(getattr(loaded.network, "prior", "normal")) if checkpoint.kind == "gan" else "",
                dataset=data,
                judges=_judges(checkpoint, run),
                forked_from=dict(run.spec.get("forked_from") or {}) if run else {},
                licence=licence,
                assumed_mpp=assumed_mpp,
                files=_digests(temporary),
                onnx_difference=difference,
            )
            write_text(temporary / CARD_FILE, model_card(facts))
            files = _digests(temporary)
    return Export(out, checkpoint.digest, checkpoint.step, files, difference)


def _require_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    if out.exists():
        msg = f"{out} is there already; choose another --out, nothing is written over."
        raise RunError(msg)
    out.parent.mkdir(parents=True, exist_ok=True)


def _run_of(place: Path) -> Run | None:
    """Return the run that is named, also by way of one of its checkpoints."""
    for folder in (place, place.parent.parent):
        if (folder / "run.json").is_file():
            return Run(folder)
    return None


def _dataset_of(checkpoint: Checkpoint, run: Run | None, named: str | Path | None) -> DatasetFacts | None:
    """Return what there is to say of the data, or None where they are not at hand; refuse others that are named."""
    if named is not None:
        opened = PatchDataset(named)
        if opened.digest != checkpoint.dataset_digest:
            msg = f"{named} is not the dataset that the model learnt from (digest {opened.digest[:12]}, the checkpoint names {checkpoint.dataset_digest[:12]}); name that one, or leave --dataset out."
            raise DatasetError(msg)
        return dataset_facts(opened)
    place = run.spec.get("dataset") if run else None
    if not place:
        return None
    try:
        opened = PatchDataset(place)
        return dataset_facts(opened) if opened.digest == checkpoint.dataset_digest else None
    except DatasetError:  # gone, moved or cut anew: the card says so
        return None


def _encoder_of(place: Path, checkpoint: Checkpoint) -> Checkpoint | None:
    """Return the encoder of exactly this generator: of another step, it would find points of other weights."""
    for folder in (checkpoint.path, checkpoint.path.parent.parent, place):
        beside = folder / ENCODER_FOLDER
        try:
            encoder = (
                Checkpoint.open(beside)
                if (beside / INFO_FILE).is_file()
                else latest_checkpoint(beside / "checkpoints")
            )
        except CheckpointError:
            continue
        if encoder.config.get("generator_digest") == checkpoint.digest:
            return encoder
    return None


def _judges(checkpoint: Checkpoint, run: Run | None) -> dict[str, str]:
    said = checkpoint.metrics.get("judges") or (run.status().data.get("judges") if run else None)
    return {str(name): str(digest) for name, digest in said.items()} if isinstance(said, dict) else {}


def _onnx_facts(checkpoint: Checkpoint) -> dict[str, str]:
    return {
        "synthetic": SYNTHETIC_NOTE,
        "model_digest": checkpoint.digest,
        "classes": ", ".join(checkpoint.classes),
        "made_by": "napari-histolatent",
    }


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): digest_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
