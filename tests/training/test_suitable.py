from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.training.suitable import require_trainable

if TYPE_CHECKING:
    from collections.abc import Callable

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
