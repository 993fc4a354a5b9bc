"""The model card of an exported network, as Markdown: the same facts give the same text. Needs no torch.

Its sections follow Mitchell et al. 2019, "Model Cards for Model Reporting", section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._config import help_of
from napari_histolatent.training._keeping import JUDGE, RANDOM, kid_space
from napari_histolatent.training.config import ClassifierConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.checkpoint import Checkpoint

CARD_FILE = "MODEL_CARD.md"
NOT_STATED = "not stated"
_SPLITS = ("train", "val", "test", "")

_MEANINGS = {
    "kid": "KID to held-out patches in the features of kid_features; 0 is best",
    "kid_random": "KID to held-out patches in the features of a seeded random network; 0 is best",
    "kid_space": "whose features kid was measured in: a judge's, or a seeded random network's",
    "kid_features": "digest of the network in whose features kid was measured",
    "pixel_sd": "standard deviation of a pixel over samples, mean over pixels, in [-1, 1]; low: collapsed",
    "pixel_sd_real": "the same of real patches",
    "sample_distance": "mean distance of two samples of a class in random features; low: collapsed",
    "sample_distance_real": "the same of real patches",
    "sample_spacing": "distance of a sample to the one most like it, in random features; low: repeats itself",
    "sample_spacing_real": "the same of real patches",
    "nearest_distance": "median distance of a sample to its nearest training patch, in random features",
    "copy_distance": "held-out patches are nearer than this to a training patch in 1 % of cases",
    "copies": "share of samples nearer than that; high: training patches are repeated",
    "discriminator_real": "mean score of real patches",
    "discriminator_fake": "mean score of samples",
    "discriminator_right": "share of images that the discriminator takes for what they are; 0.5: it guesses",
    "kid_colour": "KID to held-out patches in the colour judge's features; 0 is best",
    "kid_colour_ratio": "the same, divided by the KID between held-out patches of two classes",
    "kid_random_ratio": "kid_random, divided by the KID between held-out patches of two classes",
    "pixel_sd_ratio": "pixel_sd, divided by that of held-out patches",
    "own_class_colour": "share of samples that the colour judge puts in their own class",
    "own_class_colour_worst": "the same, of the class that fares worst",
    "own_class_robust": "share of samples that the robust judge puts in their own class",
    "own_class_robust_worst": "the same, of the class that fares worst",
    "accuracy": "share of held-out patches put in their own class",
    "n": "held-out patches measured on",
    "split": "the split that they are of",
}
_KIDS = {
    JUDGE: "KID to held-out patches in the judge's features; 0 is best",
    RANDOM: "KID to held-out patches, the same as kid_random: there was no judge; 0 is best",
}
_MPP_IS_ASSUMED = "mpp_is_assumed"
"""Among a checkpoint's metrics where its mpp is nothing that the data said."""


@dataclass(frozen=True)
class SplitFacts:
    """One split of a dataset."""

    name: str
    patients: int | None
    """None where the dataset names no patients."""
    slides: int
    patches: tuple[int, ...]
    """Of each class, in the dataset's order."""


@dataclass(frozen=True)
class DatasetFacts:
    """What a card says of the data."""

    classes: tuple[str, ...]
    splits: tuple[SplitFacts, ...]
    patients: int | None
    slides: int
    split_by: str
    """How the splits were drawn: patient, slide, ... or '' where not said."""
    stain: str
    """Stain normalisation, or '' for none."""


@dataclass(frozen=True)
class CardFacts:
    """All that a card is made of."""

    checkpoint: Checkpoint
    parameters: int
    """Weights of the network."""
    prior: str = ""
    """Of a generator: normal or uniform."""
    z_dim: int = 0
    """Of a generator: length of its latent vector."""
    dataset: DatasetFacts | None = None
    """None where the dataset is gone or has changed since."""
    judges: Mapping[str, str] = field(default_factory=dict)
    """Feature networks that the metrics were measured in: name -> digest."""
    forked_from: Mapping[str, Any] = field(default_factory=dict)
    """Of a fork: digest and step of the checkpoint it started from."""
    licence: str = ""
    assumed_mpp: float | None = None
    """Micrometres per pixel to assume where the data do not say."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files beside the card: name -> sha256."""
    onnx_difference: float | None = None
    """Largest difference of a pixel between the ONNX file and torch; None without the file."""


def dataset_facts(dataset: PatchDataset) -> DatasetFacts:
    """Count patches, slides and patients of each split."""
    columns = dataset.columns
    splits, labels = columns["split"], dataset.labels
    slides = columns["slide"]
    patients = columns["patient"] if "patient" in columns else np.full(len(slides), "", object)
    there = set(splits.tolist())
    per_split = tuple(
        SplitFacts(
            name=name or "none",
            patients=_named(patients[splits == name]),
            slides=len(set(slides[splits == name].tolist())),
            patches=tuple(np.bincount(labels[splits == name], minlength=len(dataset.classes)).tolist()),
        )
        for name in _SPLITS
        if name in there
    )
    # Where a dataset was cut, it says by what its splits were drawn in the end; an imported one what was asked for.
    asked = dict(dataset.settings.get("split") or {}).get("by", "")
    stain = dict(dict(dataset.settings.get("stain") or {}).get("target") or {}).get("method", "")
    return DatasetFacts(
        classes=dataset.classes,
        splits=per_split,
        patients=_named(patients),
        slides=len(set(slides.tolist())),
        split_by=str(dataset.settings.get("split_by") or asked),
        stain=str(stain),
    )


def _named(patients: np.ndarray[Any, Any]) -> int | None:
    # A patch without a patient could be anybody's: then no number is right.
    found = set(patients.tolist())
    return None if "" in found or not found else len(found)


def model_card(facts: CardFacts) -> str:
    """Return the card's Markdown."""
    is_generator = facts.checkpoint.kind == "gan"
    sections = [
        ("", _head(facts, is_generator=is_generator)),
        ("Intended use", _uses(is_generator=is_generator)),
        ("Limits", _limits(facts, is_generator=is_generator)),
        ("Data", _data(facts)),
        ("Metrics", _metrics(facts)),
        ("Training", _training(facts)),
        ("Files", _files(facts, is_generator=is_generator)),
        ("Licence", [facts.licence or NOT_STATED]),
    ]
    parts = []
    for title, lines in sections:
        parts += [f"## {title}", ""] if title else []
        parts += [*lines, ""]
    return "\n".join(parts)


def _head(facts: CardFacts, *, is_generator: bool) -> Iterator[str]:
    checkpoint = facts.checkpoint
    classes = ", ".join(map(_text, checkpoint.classes)) or "none (unconditional)"
    network = _text(checkpoint.config.get("network", checkpoint.kind))
    design = checkpoint.config.get("design")
    yield f"# Model card: {network} {'generator' if is_generator else 'classifier'}, {checkpoint.size_px} px"
    yield ""
    if is_generator:
        yield "**SYNTHETIC: every image this model draws is made up. None shows tissue that was scanned.**"
        yield ""
    yield f"- Network: {network}{f', design {_text(design)}' if design else ''}; {facts.parameters:,} weights"
    yield f"- Classes: {classes}"
    if is_generator:
        prior = {"normal": "N(0, I)", "uniform": "uniform on [-1, 1]"}.get(
            facts.prior, facts.prior or NOT_STATED
        )
        yield f"- Latent vector: {f'{facts.z_dim} values, ' if facts.z_dim else ''}{prior}"
    yield f"- Images: {checkpoint.size_px} x {checkpoint.size_px} px, RGB"
    yield f"- Pixel size: {_pixel_size(facts)}"
    yield f"- Digest (sha256 of the weights): `{checkpoint.digest}`"
    if facts.forked_from:
        digest, step = facts.forked_from.get("digest", NOT_STATED), facts.forked_from.get("step", "?")
        yield f"- Started from the weights `{digest}` at step {step}"


def _pixel_size(facts: CardFacts) -> str:
    size_px, mpp = facts.checkpoint.size_px, _known_mpp(facts.checkpoint)
    if mpp is not None:
        return f"{mpp:g} µm per px; field of view {mpp * size_px:g} x {mpp * size_px:g} µm"
    assumed = facts.assumed_mpp or facts.checkpoint.mpp
    if assumed is not None:
        field_um = assumed * size_px
        return f"unknown, assumed {assumed:g} µm per px; field of view then {field_um:g} x {field_um:g} µm"
    return "unknown; so is the field of view"


def _known_mpp(checkpoint: Checkpoint) -> float | None:
    return None if checkpoint.metrics.get(_MPP_IS_ASSUMED) else checkpoint.mpp


def _uses(*, is_generator: bool) -> Iterator[str]:
    if is_generator:
        yield "Research and teaching: to see what a generative model has learnt of each class, to edit tiles in its"
        yield "latent space, and to study classifiers on the result."
    else:
        yield "Research and teaching: to judge samples of generators that learnt the same classes, and to show where"
        yield "a classifier looks."


def _limits(facts: CardFacts, *, is_generator: bool) -> Iterator[str]:
    yield "- **Not for diagnosis**, treatment or any other decision about a patient. It is not a medical device."
    yield "- It knows its classes as the data below show them: the same stain, scanner, organ and labels."
    if is_generator:
        yield "- Samples can be implausible, can repeat each other, and can resemble training patches; they are no"
        yield "  evidence of what tissue looks like."
        yield "- A change that follows a change of class shows what this model learnt, which may be stain alone."
    if _known_mpp(facts.checkpoint) is None:
        yield "- The pixel size of the data is unknown: nothing may be measured in micrometres on its images."
    if facts.dataset is not None and facts.dataset.patients is None:
        yield "- The data name no patients: whether one patient is in several splits cannot be told."
    if not any(split.name in ("val", "test") and sum(split.patches) for split in _splits(facts)):
        yield "- No held-out patches are known of: the metrics may be those of the training patches."


def _splits(facts: CardFacts) -> Sequence[SplitFacts]:
    return facts.dataset.splits if facts.dataset else ()


def _data(facts: CardFacts) -> Iterator[str]:
    dataset = facts.dataset
    if dataset is None:
        yield f"The dataset (digest `{facts.checkpoint.dataset_digest}`) was not at hand for this card."
        return
    patients = NOT_STATED if dataset.patients is None else str(dataset.patients)
    yield f"- Patients: {patients}; slides: {dataset.slides}"
    yield f"- Splits drawn by: {_text(dataset.split_by) or NOT_STATED}"
    yield f"- Stain normalisation: {_text(dataset.stain) or 'none'}"
    yield f"- Digest: `{facts.checkpoint.dataset_digest}`"
    yield ""
    yield from _table(
        ["split", "patients", "slides", *dataset.classes, "patches"],
        [
            [
                split.name,
                NOT_STATED if split.patients is None else split.patients,
                split.slides,
                *split.patches,
                sum(split.patches),
            ]
            for split in dataset.splits
        ],
    )


def _metrics(facts: CardFacts) -> Iterator[str]:
    space = kid_space(facts.checkpoint.metrics)
    meanings = _MEANINGS if space is None else _MEANINGS | {"kid": _KIDS[space]}
    rows: list[list[Any]] = []
    warnings: list[str] = []
    for name, value in _flat(facts.checkpoint.metrics):
        if isinstance(value, (list, tuple)):  # warnings
            warnings += map(str, value)
        elif name != _MPP_IS_ASSUMED:
            rows.append([name, _number(value), meanings.get(name.rpartition(": ")[2], "")])
    if rows:
        yield from _table(["metric", "value", "meaning"], rows)
        yield ""
        yield "Figures in features of other networks, Inception's among them, cannot be compared with these."
    else:
        yield "None were measured."
    if facts.judges:
        yield ""
        yield "Feature networks, frozen before training:"
        yield ""
        yield from _table(
            ["network", "digest"], [[name, f"`{digest}`"] for name, digest in sorted(facts.judges.items())]
        )
    if warnings:
        yield ""
        yield "Warnings at this checkpoint:"
        yield ""
        for warning in warnings:
            yield f"- {_text(warning)}"


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value


def _training(facts: CardFacts) -> Iterator[str]:
    checkpoint = facts.checkpoint
    kind: type[Any] = TrainingConfig if checkpoint.kind == "gan" else ClassifierConfig
    yield f"{checkpoint.step} of {checkpoint.steps} steps."
    yield ""
    rows = []
    for name, value in checkpoint.config.items():
        try:
            meaning = help_of(kind, name)
        except AttributeError:  # a setting of another version
            meaning = ""
        # Of a path only the last part is anybody else's business.
        shown = PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
        rows.append([name, _number(shown), meaning])
    yield from _table(["setting", "value", "meaning"], rows)


def _files(facts: CardFacts, *, is_generator: bool) -> Iterator[str]:
    if facts.files:
        yield from _table(
            ["file", "sha256"], [[name, f"`{digest}`"] for name, digest in sorted(facts.files.items())]
        )
        yield ""
    if facts.onnx_difference is not None:
        yield f"The ONNX file was compared with torch: no pixel differs by more than {facts.onnx_difference:.1e}."
        yield ""
    command = "sample FOLDER -n 16 --out samples" if is_generator else "gradcam FOLDER IMAGE --out maps"
    yield f"This folder stands for a run in every command and dock of napari-histolatent: `histolatent {command}`."


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(map(_text, head)) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(_text, row)) + " |"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else NOT_STATED
    if value is None or value == "":
        return NOT_STATED
    return str(value)


def _text(value: Any) -> str:
    """Return a name as one line that cannot break a table or begin markup of its own."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
