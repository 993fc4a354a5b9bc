"""Whether a training can begin: asked before a run is made, and needs no torch (but for continuous labels)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._files import digest_of_file
from napari_histolatent.errors import CheckpointError, DatasetError, RunError, UserError
from napari_histolatent.training.chosen import chosen_checkpoint
from napari_histolatent.training.config import ClassifierConfig, TrainingConfig
from napari_histolatent.training.shipped import SHIPPED, shipped_of_kind

if TYPE_CHECKING:
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.checkpoint import Checkpoint


def require_possible(config: TrainingConfig | ClassifierConfig, dataset: PatchDataset) -> None:
    """Refuse what the training's process would refuse only once it runs.

    Parameters
    ----------
    config
        What is to be trained; what it says by itself was checked when it was made.
    dataset
        The patches to train on. One is read.

    Raises
    ------
    DatasetError
        As `require_trainable`; if the patches cannot be read, or continuous labels are wanted and the dataset says
        nothing of areas.
    UserError
        If a package that is asked for is not installed, the weights to start from are not those that are meant, or
        the judge is none, or is of other classes or another size.
    """
    is_classifier = isinstance(config, ClassifierConfig)
    needs_classes = isinstance(config, ClassifierConfig) or config.has_classes
    require_trainable(dataset, config.size_px, needs_classes=needs_classes, is_classifier=is_classifier)
    dataset.read(dataset.rows_of("train")[:1])  # pixels, or slides, that are gone
    if isinstance(config, ClassifierConfig):
        _require_weights(config)
        return
    if config.continuous_labels:
        from napari_histolatent.training._data import area_fractions  # torch, for who wants them

        area_fractions(dataset, dataset.rows_of("train"))
    if config.tensorboard and find_spec("tensorboard") is None:
        msg = "TensorBoard event files need the package tensorboard, which is not installed; run `pip install 'napari-histolatent[tensorboard]'`, or train without them."
        raise UserError(msg)
    if config.judge:
        _require_judge(config, dataset)


def require_trainable(
    dataset: PatchDataset, size_px: int, *, needs_classes: bool = True, is_classifier: bool = False
) -> None:
    """Refuse a dataset that cannot train a network of this size.

    Raises
    ------
    DatasetError
        If the patches have another size, there is none to train on, or, where classes are needed, there is one
        class only or a class has no training patch.
    """
    if dataset.size_px != size_px:
        remedy = f"train with --size {dataset.size_px} or cut patches of {size_px} px"
        if is_classifier:  # there is no such option: the dataset says it
            remedy = f"choose a dataset of {size_px} px"
        msg = (
            f"The dataset has patches of {dataset.size_px} px, the training is set to {size_px} px; {remedy}."
        )
        raise DatasetError(msg)
    if len(dataset) == 0:
        msg = "The dataset has no patches; annotate more tissue and cut it again."
        raise DatasetError(msg)
    if needs_classes and len(dataset.classes) < 2:
        has = f"one class only ({dataset.classes[0]})" if dataset.classes else "no classes"
        needs = (
            "a classifier tells two or more apart: annotate another and cut it again"
            if is_classifier
            else "a class-conditional network needs two: annotate another, or train the network dcgan, which needs none"
        )
        msg = f"The dataset has {has}; {needs}."
        raise DatasetError(msg)
    rows = dataset.rows_of("train")
    if len(rows) == 0:
        msg = "The dataset has no patch in the training split; cut it again with another split."
        raise DatasetError(msg)
    if not needs_classes:
        return
    counts = np.bincount(dataset.labels[rows], minlength=len(dataset.classes))
    for name, count in zip(dataset.classes, counts, strict=True):
        if count == 0:
            msg = f"Class {name!r} has no patch in the training split; annotate more of it and cut the dataset again."
            raise DatasetError(msg)


def _require_weights(config: ClassifierConfig) -> None:
    """Refuse an InceptionV3 that cannot be built here, or not from these weights."""
    if config.network != "inception_v3":
        return
    missing = [name for name in ("timm", "torchvision") if find_spec(name) is None]
    if missing:
        msg = f"InceptionV3 needs {' and '.join(missing)}, not installed here; run `pip install 'napari-histolatent[inception]'`, or choose the classifier convnet."
        raise UserError(msg)
    if not config.weights:
        return
    path = Path(config.weights)
    if not path.is_file():
        msg = f"The weights {path} do not exist; check --weights."
        raise UserError(msg)
    try:
        digest = digest_of_file(path)
    except OSError as error:
        msg = f"The weights {path} cannot be read ({error.strerror or error}); choose another file."
        raise UserError(msg) from error
    if digest != config.weights_sha256.strip().lower():
        stated = f"{config.weights_sha256[:12]}..." if config.weights_sha256 else "no digest"
        msg = f"The weights {path} have the sha256 {digest}, and {stated} is stated; choose the file that is meant, or state its digest."
        raise UserError(msg)


def _require_judge(config: TrainingConfig, dataset: PatchDataset) -> None:
    """Refuse a judge that is no classifier, or one of other patches than are to be judged."""
    judge = _judge_of(config.judge)
    if judge.kind != "classifier":
        msg = f"The judge {config.judge} holds a {judge.kind}, where a classifier is needed; name a run of `histolatent classifier train`, or leave judge empty."
        raise CheckpointError(msg)
    if judge.size_px != dataset.size_px:
        msg = f"The judge {config.judge} was trained on {judge.size_px} px, the dataset has patches of {dataset.size_px} px; name a classifier of that size, or leave judge empty."
        raise CheckpointError(msg)
    if config.has_classes and set(judge.classes) != set(dataset.classes):
        msg = f"The judge {config.judge} knows the classes {', '.join(judge.classes)}, the dataset {', '.join(dataset.classes)}; name a classifier of the same classes, or leave judge empty."
        raise CheckpointError(msg)


def _judge_of(named: str) -> Checkpoint:
    try:
        return chosen_checkpoint(shipped_of_kind("classifier") if named == SHIPPED else named)
    except (CheckpointError, RunError) as error:
        msg = f"The judge {named} cannot be used: {error}"
        raise type(error)(msg) from error
