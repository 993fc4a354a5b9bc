"""Batches from a patch dataset."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch

from napari_histolatent.errors import DatasetError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histolatent.patches import PatchDataset

_RESIDENT_BYTES = 4 << 30
"""A split up to this size is held in memory as uint8; a larger one is read batch by batch. All processes together
take this much at most, and half of the memory that is free: each of them holds the whole split."""
_AHEAD = 3
"""Batches that are read before they are asked for, where the split is not in memory."""


@dataclass(frozen=True)
class Part:
    """The share of each batch that one of several processes has: a block of neighbours."""

    index: int = 0
    of: int = 1

    def cut(self, whole: Tensor, dim: int = 0) -> Tensor:
        """Return this process's block of what was drawn for the whole batch."""
        n = whole.shape[dim] // self.of
        return whole.narrow(dim, self.index * n, n)


WHOLE = Part()


class Batches:
    """Random batches of one split, on a device. Chance comes from the generator passed in.

    Parameters
    ----------
    dataset, split
        Where the patches are.
    device
        Where the images go.
    balanced
        Draw as many of each class, however many there are of it; else each patch alike, and no label is looked at.
    part
        Of each batch, what this process gets.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        split: str,
        device: torch.device,
        *,
        balanced: bool = True,
        part: Part = WHOLE,
    ) -> None:
        self._dataset, self._device, self._part = dataset, device, part
        self.rows = dataset.rows_of(split)
        """Row of the dataset of each patch of the split."""
        self._labels = torch.zeros(len(self.rows), dtype=torch.int64)
        self._rows_of_class = [torch.arange(len(self.rows))]
        if balanced:
            self._labels = torch.from_numpy(dataset.labels[self.rows])
            self._rows_of_class = [
                torch.from_numpy(np.flatnonzero(self._labels.numpy() == i))
                for i in range(len(dataset.classes))
            ]
        nbytes = len(self.rows) * dataset.size_px**2 * 3
        self._resident: NDArray[np.uint8] | None = (
            dataset.read(self.rows) if nbytes <= _resident_bytes(part.of) else None
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_resident(self) -> bool:
        """Whether the split is held in memory."""
        return self._resident is not None

    def choose(self, n: int, rng: torch.Generator) -> Tensor:
        """Draw the places in the split of n patches, classes even, and return this process's part of them."""
        n_classes = len(self._rows_of_class)
        # The remainder goes round, so that over batches no class is favoured.
        first = int(torch.randint(0, n_classes, (1,), generator=rng))
        labels = (torch.arange(n) + first) % n_classes
        chance = torch.rand(n, generator=rng)
        places = torch.tensor(
            [
                int(self._rows_of_class[c][int(u * len(self._rows_of_class[c]))])
                for c, u in zip(labels, chance, strict=True)
            ]
        )
        return self._part.cut(places)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return n images (n, 3, size_px, size_px) in [-1, 1] and their class indices (n,), classes even."""
        return self.at(self.choose(n, rng))

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """Return at most n images spread evenly over the split, and their class indices: always the same."""
        return self.at(
            torch.from_numpy(np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).astype(np.int64)))
        )

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at these places of the split, and their class indices."""
        return self.to_images(self.read(places)), self._labels[places].to(self._device)

    def read(self, places: Tensor) -> Tensor:
        """Return pixels (n, size_px, size_px, 3) uint8, still off the device."""
        at = places.numpy()
        pixels = self._resident[at] if self._resident is not None else self._dataset.read(self.rows[at])
        read = torch.from_numpy(np.ascontiguousarray(pixels))
        # From pinned memory the copy to a GPU goes on beside the computation.
        return read.pin_memory() if self._device.type == "cuda" else read

    def to_images(self, pixels: Tensor) -> Tensor:
        """Return pixels as the networks see them: a quarter of the bytes travels when it is done on the device."""
        there = pixels.to(self._device, non_blocking=True)
        return there.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


def _resident_bytes(processes: int) -> int:
    """Return how much each of the processes may hold; those on other machines count, too."""
    return int(min(_RESIDENT_BYTES, psutil.virtual_memory().available // 2) // processes)


class Feed:
    """The training batches of a run, one for each step's number: where it is resumed does not matter.

    Where the split is not held in memory, a thread reads the batches that come next.
    """

    def __init__(self, batches: Batches, n: int, *, seed: int) -> None:
        self._batches, self._n, self._seed = batches, n, seed
        self._reader = None if batches.is_resident else ThreadPoolExecutor(1, "read patches")
        self._coming: dict[int, Future[tuple[Tensor, Tensor]]] = {}
        self.waited_seconds = 0.0
        """Time that steps have spent on getting their patches."""

    def take(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the images of a step, and their places in the split."""
        started = perf_counter()
        if self._reader is None:
            places, pixels = self._read(index)
        else:
            wanted = range(index, index + 1 + _AHEAD)
            # After a jump what was read is of no use.
            self._coming = {i: coming for i, coming in self._coming.items() if i in wanted}
            for i in wanted:
                if i not in self._coming:
                    self._coming[i] = self._reader.submit(self._read, i)
            places, pixels = self._coming.pop(index).result()
        images = self._batches.to_images(pixels)
        self.waited_seconds += perf_counter() - started
        return images, places

    def _read(self, index: int) -> tuple[Tensor, Tensor]:
        places = self._batches.choose(self._n, chance_of(self._seed, index))
        return places, self._batches.read(places)


def chance_of(seed: int, *numbers: int) -> torch.Generator:
    """Return a source of chance that belongs to a seed and to numbers from 0 on, such as a step's."""
    (state,) = np.random.SeedSequence([seed % 2**64, *numbers]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Return class vectors (B, n_classes) of class indices (B,)."""
    return torch.nn.functional.one_hot(labels, n_classes).float()


def area_fractions(dataset: PatchDataset, rows: NDArray[np.int64]) -> Tensor:
    """Return each patch's share of each class (n, K), float32; a row sums to 1.

    The rule that labelled the patches says what area is of which class: tissue that is not annotated is of the
    default class where there is one (the slide's own, else the recipe's), all that is annotated is of
    `annotated_as` if that is set. Area of no class counts for none: the shares are those of the rest. A patch
    that was labelled by hand, and one without any class's area, is of its label alone.

    Raises
    ------
    DatasetError
        If the dataset says nothing of areas: it was made from folders of images, or from points.
    """
    rule = dataset.settings.get("recipe", {}).get("labels", {})
    columns, everywhere = dataset.columns, _default_classes(dataset, rows, rule.get("default_class") or "")
    covered = np.zeros((len(rows), len(dataset.classes)))
    known = set(everywhere.tolist())
    for column in columns:
        name = column.removeprefix("coverage_")
        target = rule.get("annotated_as") or name
        if column == name or name in rule.get("exclude", ()) or target not in dataset.classes:
            continue
        covered[:, dataset.classes.index(target)] += columns[column][rows]
        known.add(target)
    missing = [name for name in dataset.classes if name not in known]
    if missing:
        msg = f"The dataset has no area fractions of {', '.join(missing)}, which continuous labels are made of; cut it from annotated areas, or train without continuous_labels."
        raise DatasetError(msg)
    together = covered.sum(1)
    annotated = columns["annotated"][rows] if "annotated" in columns else together.clip(0, 1)
    # Where regions overlap, the classes share what is annotated: none of it may be counted twice.
    twice = (together > annotated) & (together > 0)
    covered[twice] *= (annotated[twice] / together[twice])[:, None]
    for i, name in enumerate(dataset.classes):
        covered[:, i] += np.where(everywhere == name, 1 - annotated, 0)
    by_hand = columns["by_hand"][rows].astype(bool) if "by_hand" in columns else np.zeros(len(rows), bool)
    shares = torch.from_numpy(np.where(by_hand[:, None], 0, covered).astype(np.float32))
    total = shares.sum(1, keepdim=True)
    labelled = one_hot(torch.from_numpy(dataset.labels[rows]), len(dataset.classes))
    return torch.where(total > 0, shares / total.clamp_min(1e-6), labelled)


def _default_classes(dataset: PatchDataset, rows: NDArray[np.int64], default: str) -> NDArray[np.object_]:
    """Return the class of what is not annotated, for each patch; empty: it is of none."""
    own = {
        slide["digest"]: slide["label"] for slide in dataset.settings.get("slides", ()) if slide.get("label")
    }
    if not own:
        return np.full(len(rows), default, object)
    return np.array([own.get(slide, default) for slide in dataset.columns["slide"][rows].tolist()], object)
