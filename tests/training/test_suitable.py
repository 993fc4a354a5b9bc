from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._files import digest_of_file
from napari_histolatent.errors import CheckpointError, DatasetError, RunError, UserError
from napari_histolatent.training import ClassifierConfig, TrainingConfig, suitable
from napari_histolatent.training.suitable import require_possible, require_trainable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRAIN = {"train": {"a": 2, "b": 1}, "val": {"a": 1, "b": 1}}


def test_what_can_be_trained_on(dataset_of: Callable[..., Any]) -> None:
    require_trainable(dataset_of(TRAIN), 16)
    require_trainable(dataset_of({"train": {"a": 2}}), 16, needs_classes=False)


@pytest.mark.parametrize(
    ("counts", "needs_classes", "words"),
    [
        ({"train": {}}, True, "has no patches"),
        ({"train": {}}, False, "has no patches"),
        ({"train": {"a": 2}}, True, r"has one class only \(a\).*train the network dcgan"),
        ({"train": {"a": 2}, "val": {"a": 1, "b": 3}}, True, "Class 'b' has no patch in the training split"),
        ({"val": {"a": 2, "b": 3}}, True, "no patch in the training split"),
        ({"val": {"a": 2}}, False, "no patch in the training split"),
    ],
)
def test_what_cannot(
    dataset_of: Callable[..., Any], counts: dict[str, dict[str, int]], needs_classes: bool, words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        require_trainable(dataset_of(counts), 16, needs_classes=needs_classes)


def test_another_size(dataset_of: Callable[..., Any]) -> None:
    with pytest.raises(
        DatasetError, match="patches of 16 px, the training is set to 32 px; train with --size 16"
    ):
        require_trainable(dataset_of(TRAIN), 32)


def test_a_dataset_whose_patches_have_no_classes(dataset_of: Callable[..., Any]) -> None:
    unlabelled = dataset_of({"train": {"": 3}})
    unlabelled.classes = ()
    require_trainable(unlabelled, 16, needs_classes=False)
    with pytest.raises(DatasetError, match="has no classes"):
        require_trainable(unlabelled, 16)


def test_a_classifier_is_told_of_classifiers(dataset_of: Callable[..., Any]) -> None:
    for counts, size_px in (({"train": {"a": 2}}, 16), (TRAIN, 32)):
        with pytest.raises(DatasetError) as caught:
            require_trainable(dataset_of(counts), size_px, is_classifier=True)
        assert "dcgan" not in str(caught.value)
        assert "--size" not in str(caught.value)


def judge_of(folder: Path, **changes: Any) -> str:
    """Write the facts of a judge; of its weights nothing is looked at here."""
    facts = {
        "format_version": 1,
        "kind": "classifier",
        "step": 5,
        "steps": 5,
        "config": ClassifierConfig(size_px=16).to_json(),
        "classes": ["b", "a"],
        "size_px": 16,
        "mpp": None,
        "dataset_digest": "d" * 64,
        "digest": "e" * 64,
        "metrics": {},
    }
    folder.mkdir()
    (folder / "checkpoint.json").write_text(json.dumps(facts | changes))
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "gan"}, "holds a gan, where a classifier is needed"),
        ({"size_px": 32}, "was trained on 32 px, the dataset has patches of 16 px"),
        ({"classes": ["a", "c"]}, "knows the classes a, c, the dataset a, b"),
    ],
)
def test_a_judge_of_something_else(
    dataset_of: Callable[..., Any], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    config = TrainingConfig(size_px=16)
    dataset = dataset_of(TRAIN)
    require_possible(config.with_changes(judge=judge_of(tmp_path / "good")), dataset)
    with pytest.raises(CheckpointError, match=words):
        require_possible(config.with_changes(judge=judge_of(tmp_path / "bad", **changes)), dataset)
    with pytest.raises(RunError, match=r"^The judge .*nowhere cannot be used: .* is not a run folder"):
        require_possible(config.with_changes(judge=str(tmp_path / "nowhere")), dataset)


def test_packages_that_are_not_installed(
    dataset_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suitable, "find_spec", lambda _: None)
    dataset = dataset_of(TRAIN)
    require_possible(TrainingConfig(size_px=16), dataset)
    with pytest.raises(UserError, match=r"napari-histolatent\[tensorboard\]"):
        require_possible(TrainingConfig(size_px=16, tensorboard=True), dataset)
    with pytest.raises(UserError, match=r"timm and torchvision.*napari-histolatent\[inception\]"):
        require_possible(ClassifierConfig(size_px=16, network="inception_v3"), dataset)


def test_weights_that_are_not_those_that_are_meant(
    dataset_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suitable, "find_spec", lambda name: name)
    file, dataset = tmp_path / "w.safetensors", dataset_of(TRAIN)
    config = ClassifierConfig(size_px=16, network="inception_v3", weights=str(file), weights_sha256="ab")
    with pytest.raises(UserError, match="do not exist; check --weights"):
        require_possible(config, dataset)
    file.write_bytes(b"weights")
    with pytest.raises(UserError, match=r"have the sha256 [0-9a-f]{64}, and ab\.\.\. is stated"):
        require_possible(config, dataset)
    require_possible(config.with_changes(weights_sha256=digest_of_file(file).upper()), dataset)


def test_continuous_labels_need_areas(dataset_of: Callable[..., Any]) -> None:
    dataset = dataset_of(TRAIN)
    dataset.columns = {"slide": dataset.labels.astype(object)}
    with pytest.raises(DatasetError, match="has no area fractions of a, b"):
        require_possible(TrainingConfig(size_px=16, continuous_labels=True), dataset)


def test_pixels_that_are_gone(dataset_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: Any) -> None:
        raise DatasetError("The pixels are gone.")

    dataset = dataset_of(TRAIN)
    monkeypatch.setattr(dataset, "read", gone)
    with pytest.raises(DatasetError, match="are gone"):
        require_possible(TrainingConfig(size_px=16), dataset)
