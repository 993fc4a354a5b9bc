from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_histolatent.errors import DatasetError
from napari_histolatent.models.images import to_pixels
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training import _data
from napari_histolatent.training._data import (
    WHOLE,
    Batches,
    Feed,
    Part,
    area_fractions,
    chance_of,
    one_hot,
)
from napari_histolatent.training.suitable import require_trainable

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
        (
            {"train": {"tumor": 3}},
            16,
            r"^The dataset has one class only \(tumor\); .* annotate another, or train the network dcgan",
        ),
        (
            {"train": {"a": 3}, "val": {"a": 1, "b": 4}},
            16,
            r"^Class 'b' has no patch in the training split; annotate more of it",
        ),
        ({}, 16, r"^The dataset has no patches; annotate more tissue"),
        ({"val": {"a": 2, "b": 2}}, 16, r"no patch in the training split"),
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


def test_without_classes_one_will_do(dataset_of: Callable[..., Any]) -> None:
    require_trainable(dataset_of({"train": {"tumor": 3}}), 16, needs_classes=False)
    with pytest.raises(DatasetError, match=r"^The dataset has no patch in the training split; cut it again"):
        require_trainable(dataset_of({"val": {"tumor": 3}}), 16, needs_classes=False)
    with pytest.raises(DatasetError, match=r"patches of 16 px"):
        require_trainable(dataset_of({"train": {"tumor": 3}}), 32, needs_classes=False)


def test_unbalanced_batches_draw_each_patch_alike_and_look_at_no_label(
    patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = {row for row in patches.rows_of("train").tolist() if patches.labels[row] == 1}
    monkeypatch.setattr(patches, "labels", None)
    batches = Batches(patches, "train", CPU, balanced=False)
    rows = batches.rows[batches.choose(900, rng()).numpy()].tolist()
    assert set(rows) == set(patches.rows_of("train").tolist())
    assert 180 < sum(row in rare for row in rows) < 290, "7 in 27 of 900, not half"


def test_the_parts_of_a_batch_are_the_batch(patches: Any) -> None:
    whole, labels = Batches(patches, "train", CPU).draw(8, rng(3))
    parts = [Batches(patches, "train", CPU, part=Part(i, 4)).draw(8, rng(3)) for i in range(4)]
    assert torch.equal(torch.cat([images for images, _ in parts]), whole)
    assert torch.equal(torch.cat([of_part for _, of_part in parts]), labels)


def test_a_feed_depends_on_seed_and_step_alone(patches: Any) -> None:
    batches = Batches(patches, "train", CPU)
    feed, later, other = (Feed(batches, 8, seed=seed) for seed in (5, 5, 6))
    taken = [feed.take(index) for index in range(4)]
    images, places = later.take(3)
    assert torch.equal(images, taken[3][0])
    assert torch.equal(images, batches.at(places)[0])
    assert len({images.numpy().tobytes() for images, _ in [*taken, other.take(3)]}) == 5
    assert feed.waited_seconds > 0


def test_a_feed_that_reads_ahead_gives_the_same(patches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [Feed(Batches(patches, "train", CPU), 8, seed=5).take(index) for index in range(12)]
    monkeypatch.setattr(_data, "_RESIDENT_BYTES", 0)
    asked = list[int]()
    read = patches.read
    monkeypatch.setattr(patches, "read", lambda rows: asked.append(len(rows)) or read(rows))
    feed = Feed(Batches(patches, "train", CPU), 8, seed=5)
    for index in (0, 1, 2, 8, 9, 3):  # as after a jump
        images, places = feed.take(index)
        assert torch.equal(images, expected[index][0])
        assert torch.equal(places, expected[index][1])
    assert set(asked) == {8}
    assert len(asked) > 6, "none was read ahead"


def test_what_cannot_be_read_ahead_is_said_when_it_is_needed(
    patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: Any) -> Any:
        msg = "the disk is gone"
        raise DatasetError(msg)

    monkeypatch.setattr(_data, "_RESIDENT_BYTES", 0)
    feed = Feed(Batches(patches, "train", CPU), 8, seed=5)
    monkeypatch.setattr(patches, "read", fail)
    with pytest.raises(DatasetError, match="the disk is gone"):
        feed.take(0)


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_chance_belongs_to_its_numbers(seed: int) -> None:
    drawn = [float(torch.rand(1, generator=chance_of(*n))) for n in ((seed, 0), (seed, 1), (seed + 1, 0))]
    assert len(set(drawn)) == 3
    assert float(torch.rand(1, generator=chance_of(seed, 1))) == drawn[1]


def test_area_fractions_of_a_dataset_cut_from_areas(tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    rows = dataset.rows_of("train")
    shares = area_fractions(dataset, rows)
    assert (shares.shape, shares.dtype) == ((len(rows), len(dataset.classes)), torch.float32)
    torch.testing.assert_close(shares.sum(1), torch.ones(len(rows)))
    row = int(rows[5])
    areas = [float(dataset.columns[f"coverage_{name}"][row]) for name in dataset.classes]
    assert shares[5].tolist() == pytest.approx([area / sum(areas) for area in areas])


def test_area_fractions_are_of_what_is_annotated(patches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    n = len(patches)
    columns = {"coverage_epithelium": np.full(n, 0.1), "coverage_stroma": np.full(n, 0.3)}
    columns["coverage_epithelium"][4] = columns["coverage_stroma"][4] = 0
    monkeypatch.setattr(patches, "columns", columns, raising=False)
    shares = area_fractions(patches, np.array([3, 4]))
    assert shares[0].tolist() == pytest.approx([0.25, 0.75])
    assert shares[1].tolist() == one_hot(torch.tensor([patches.labels[4]]), 2)[0].tolist(), "its label alone"


def test_a_dataset_without_areas_has_no_fractions(patches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "columns", {"coverage_stroma": np.zeros(len(patches))}, raising=False)
    with pytest.raises(
        DatasetError, match=r"no area fractions of epithelium, .* without continuous_labels\.$"
    ):
        area_fractions(patches, patches.rows_of("train"))


def with_areas(patches: Any, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], **columns: float) -> Any:
    """Give each patch these shares, and the dataset this rule; the first is marked by hand, on another slide."""
    n = len(patches)
    filled: dict[str, Any] = {name: np.full(n, value, np.float32) for name, value in columns.items()}
    filled["by_hand"] = np.arange(n) == 0
    filled["slide"] = np.array(["a", "b", *["a"] * (n - 2)], object)
    monkeypatch.setattr(patches, "columns", filled, raising=False)
    monkeypatch.setattr(patches, "settings", {"recipe": {"labels": rule}, "slides": [{"digest": "a"}]})
    return patches


def test_what_is_not_annotated_is_of_the_default_class(patches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"default_class": "epithelium"}
    dataset = with_areas(patches, monkeypatch, rule, coverage_stroma=0.3, annotated=0.3)
    assert area_fractions(dataset, np.array([3]))[0].tolist() == pytest.approx([0.7, 0.3])
    label = [float(i == dataset.labels[0]) for i in range(2)]
    assert area_fractions(dataset, np.array([0]))[0].tolist() == label, "marked by hand"
    # A slide's own default goes before the recipe's.
    monkeypatch.setitem(dataset.settings, "slides", [{"digest": "b", "label": "stroma"}])
    assert area_fractions(dataset, np.array([1, 3])).tolist() == [
        pytest.approx([0, 1]),
        pytest.approx([0.7, 0.3]),
    ]


def test_all_that_is_annotated_can_be_one_class(patches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"default_class": "epithelium", "annotated_as": "stroma", "exclude": ["necrosis"]}
    shares = {"coverage_tumour": 0.2, "coverage_dysplasia": 0.1, "coverage_necrosis": 0.0}
    dataset = with_areas(patches, monkeypatch, rule, **shares, annotated=0.3)
    assert area_fractions(dataset, np.array([3]))[0].tolist() == pytest.approx([0.7, 0.3])
    # 0.2 and 0.1 that overlap by half of the smaller one: a quarter is annotated.
    dataset = with_areas(patches, monkeypatch, rule, **shares, annotated=0.25)
    assert area_fractions(dataset, np.array([3]))[0].tolist() == pytest.approx([0.75, 0.25])


def test_what_is_held_in_memory_is_shared_out_and_leaves_half_of_what_is_free(
    patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbytes = 27 * 16 * 16 * 3  # the training split

    def is_resident(limit: int, available: int, part: Part = WHOLE) -> bool:
        monkeypatch.setattr(_data, "_RESIDENT_BYTES", limit)
        monkeypatch.setattr(_data.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
        return Batches(patches, "train", CPU, part=part).is_resident

    assert is_resident(nbytes, 2 * nbytes)
    assert not is_resident(nbytes, 2 * nbytes - 2), "too little is free"
    assert not is_resident(2 * nbytes - 1, 9 * nbytes, Part(1, 2)), "two of them"
    assert is_resident(2 * nbytes, 9 * nbytes, Part(1, 2))
    assert not is_resident(9 * nbytes, 4 * nbytes - 2, Part(1, 2))
