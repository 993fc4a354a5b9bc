from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_histolatent.errors import DatasetError
from napari_histolatent.models.images import to_pixels
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training import _data
from napari_histolatent.training._data import Batches, one_hot, require_trainable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row_of_each(dataset: Any) -> dict[bytes, int]:
    """Return the row of each patch; its grain names it."""
    return {patch.tobytes(): row for row, patch in enumerate(dataset.read(range(len(dataset))))}


def rows_drawn(dataset: Any, images: torch.Tensor) -> list[int]:
    rows = row_of_each(dataset)
    return [rows[patch.tobytes()] for patch in to_pixels(images)]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_are_of_their_split_and_rightly_labelled(patches: Any, split: str) -> None:
    images, labels = Batches(patches, split, CPU).draw(64, rng())
    assert (images.shape, images.dtype) == ((64, 3, 16, 16), torch.float32)
    rows = rows_drawn(patches, images)
    assert set(rows) <= set(patches.rows_of(split).tolist())
    assert labels.tolist() == patches.labels[rows].tolist()


def test_batches_are_balanced_though_the_dataset_is_not(patches: Any) -> None:
    _, labels = Batches(patches, "train", CPU).draw(10, rng())
    assert Counter(labels.tolist()) == {0: 5, 1: 5}


def test_the_remainder_goes_round(dataset_of: Callable[..., Any]) -> None:
    dataset = dataset_of({"train": {"a": 3, "b": 30, "c": 1}})
    batches, chance, total = Batches(dataset, "train", CPU), rng(), Counter[int]()
    for _ in range(90):
        counts = Counter(batches.draw(4, chance)[1].tolist())
        assert sorted(counts.values()) == [1, 1, 2]
        total += counts
    assert all(100 < n < 140 for n in total.values()), "120 each on average"


def test_every_patch_is_drawn(patches: Any) -> None:
    images, _ = Batches(patches, "train", CPU).draw(600, rng())
    assert set(rows_drawn(patches, images)) == set(patches.rows_of("train").tolist())


def test_batches_come_from_the_generator_alone(patches: Any) -> None:
    batches = Batches(patches, "train", CPU)
    first, again, other = (batches.draw(16, rng(seed))[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_split_too_large_for_memory_gives_the_same_batches(
    patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = Batches(patches, "train", CPU)
    monkeypatch.setattr(_data, "_RESIDENT_BYTES", 0)
    streamed = Batches(patches, "train", CPU)
    # From now on only the one that reads batch by batch can see the patches.
    monkeypatch.setattr(patches, "_pixels", 255 - patches._pixels)
    images, labels = resident.draw(8, rng())
    inverted, same_labels = streamed.draw(8, rng())
    np.testing.assert_array_equal(to_pixels(inverted), 255 - to_pixels(images))
    assert torch.equal(labels, same_labels)


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (4, 4), (9, 9), (1000, 9)])
def test_the_first_patches_are_always_the_same_and_spread_over_the_split(
    patches: Any, n: int, expected: int
) -> None:
    batches = Batches(patches, "val", CPU)
    images, labels = batches.first(n)
    batches.draw(8, rng())
    assert torch.equal(images, batches.first(n)[0])
    rows, own = rows_drawn(patches, images), patches.rows_of("val").tolist()
    assert len(rows) == len(set(rows)) == expected
    assert rows[0] == own[0]
    assert n == 1 or rows[-1] == own[-1]
    assert labels.tolist() == patches.labels[rows].tolist()


def test_the_length_is_that_of_the_split(patches: Any) -> None:
    assert [len(Batches(patches, split, CPU)) for split in ("train", "val", "test")] == [27, 9, 10]


def test_a_dataset_on_disk(tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    require_trainable(dataset, 32)
    images, labels = Batches(dataset, "train", CPU).draw(12, rng())
    rows = rows_drawn(dataset, images)
    assert Counter(labels.tolist()) == {0: 6, 1: 6}
    assert labels.tolist() == dataset.labels[rows].tolist()
    assert set(rows) <= set(dataset.rows_of("train").tolist())


def test_what_can_be_trained_passes(patches: Any) -> None:
    require_trainable(patches, 16)


@pytest.mark.parametrize(
    ("counts", "size_px", "sentence"),
    [
        (
            {"train": {"a": 3, "b": 3}},
            32,
            r"^The dataset has patches of 16 px, the training is set to 32 px; train with --size 16 or cut",
        ),
        ({"train": {"tumor": 3}}, 16, r"^The dataset has one class only \(tumor\); .* annotate another\.$"),
        (
            {"train": {"a": 3}, "val": {"a": 1, "b": 4}},
            16,
            r"^Class 'b' has no patch in the training split; annotate more of it",
        ),
        ({"val": {"a": 2, "b": 2}}, 16, r"^Class 'a' has no patch in the training split"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    dataset_of: Callable[..., Any], counts: dict[str, dict[str, int]], size_px: int, sentence: str
) -> None:
    with pytest.raises(DatasetError, match=sentence):
        require_trainable(dataset_of(counts), size_px)


def test_one_hot() -> None:
    vectors = one_hot(torch.tensor([2, 0]), 3)
    assert vectors.dtype == torch.float32
    assert vectors.tolist() == [[0, 0, 1], [1, 0, 0]]
