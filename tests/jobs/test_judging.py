from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs.judging import blurred, disk, judge, recoloured
from napari_histolatent.patches import fit_stain

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 32
PINK, VIOLET = (220, 130, 170), (120, 70, 150)


class Patches:
    """A dataset in memory: normal is pink and smooth, tumour violet and striped from pixel to pixel."""

    classes: tuple[str, ...] = ("normal", "tumour")
    size_px = SIZE
    path = Path("patches")

    def __init__(self, **counts: int) -> None:
        rng = np.random.default_rng(0)
        self._splits = np.repeat(list(counts), list(counts.values()))
        self.labels = np.arange(len(self._splits)) % 2
        base = np.array([PINK, VIOLET])[self.labels][:, None, None]
        grain = rng.normal(0, 4, (len(self.labels), 1, 1, 3)) + np.linspace(-15, 15, SIZE)[:, None, None]
        stripes = np.where(np.arange(SIZE) % 2, 12, -12)[:, None] * self.labels[:, None, None, None]
        self.pixels = np.clip(base + grain + stripes, 1, 254).astype(np.uint8)

    def rows_of(self, split: str) -> np.ndarray:
        return np.flatnonzero(self._splits == split)

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


def classifier(
    is_tumour: Callable[[torch.Tensor], torch.Tensor],
    *,
    classes: tuple[str, ...] = ("normal", "tumour"),
    size_px: int = SIZE,
) -> Any:
    """Return a loaded classifier that finds tumour in images by the function given."""

    class Network:
        def __init__(self) -> None:
            self.classes, self.size_px = classes, size_px

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            found = is_tumour(images).float()
            return torch.stack([found if name == "tumour" else 1 - found for name in classes], 1) * 9

    return SimpleNamespace(network=Network(), device=torch.device("cpu"))


def violet(images: torch.Tensor) -> torch.Tensor:
    return images[:, 0].mean((1, 2)) < 0.35


def striped(images: torch.Tensor) -> torch.Tensor:
    return images.diff(dim=3).abs().mean((1, 2, 3)) > 0.04


ALWAYS = {"accuracy": 1.0, "per_class": {"normal": 1.0, "tumour": 1.0}, "n": 6}


def test_a_judge_of_colour_is_found_out_by_recolouring_and_one_of_sharpness_by_blurring() -> None:
    patches: Any = Patches(train=40, val=6)
    by_colour = judge(classifier(violet), patches, recolour=True, blur=True)
    by_sharpness = judge(classifier(striped), patches, recolour=True, blur=True)
    assert by_colour.to_json() == {
        **ALWAYS,
        "split": "val",
        "recoloured": {"accuracy": 0.0, "per_class": {"normal": 0.0, "tumour": 0.0}, "n": 6},
        "blurred": ALWAYS,
        "recoloured_and_blurred": {"accuracy": 0.0, "per_class": {"normal": 0.0, "tumour": 0.0}, "n": 6},
    }
    missed = {"accuracy": 0.5, "per_class": {"normal": 1.0, "tumour": 0.0}, "n": 6}
    assert by_sharpness.to_json() == {
        **ALWAYS,
        "split": "val",
        "recoloured": ALWAYS,
        "blurred": missed,
        "recoloured_and_blurred": missed,
    }


@pytest.mark.parametrize(
    ("options", "changes"),
    [({}, set()), ({"recolour": True}, {"recoloured"}), ({"blur": True}, {"blurred"})],
)
def test_only_what_was_asked_for_is_changed(options: dict[str, bool], changes: set[str]) -> None:
    assert set(judge(classifier(violet), Patches(val=4), **options).changed) == changes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "asked", "split", "n"),
    [
        ({"train": 8, "val": 4, "test": 2}, None, "test", 2),
        ({"train": 8, "val": 4}, None, "val", 4),
        ({"train": 8, "val": 4, "test": 2}, "val", "val", 4),
        ({"train": 8, "val": 4}, "train", "train", 8),
    ],
)
def test_the_split(counts: dict[str, int], asked: str | None, split: str, n: int) -> None:
    judgement = judge(classifier(violet), Patches(**counts), split=asked)  # type: ignore[arg-type]
    assert (judgement.split, judgement.plain.n) == (split, n)


def test_the_classes_may_come_in_another_order() -> None:
    judgement = judge(classifier(violet, classes=("tumour", "normal")), Patches(val=6))  # type: ignore[arg-type]
    assert judgement.plain.to_json() == ALWAYS


def test_progress_ends_with_all() -> None:
    told: list[tuple[int, int]] = []
    judge(classifier(violet), Patches(val=600), on_progress=lambda *at: told.append(at))  # type: ignore[arg-type]
    assert told == [(256, 600), (512, 600), (600, 600)]


def test_what_does_not_fit_is_refused() -> None:
    patches: Any = Patches(train=4)
    with pytest.raises(
        DatasetError, match=r"patches has no patch in the split test or val; choose another with --split\.$"
    ):
        judge(classifier(violet), patches)
    with pytest.raises(DatasetError, match=r"has no patch in the split cake;"):
        judge(classifier(violet), patches, split="cake")
    with pytest.raises(UserError, match=r"knows the classes normal, cat, the dataset normal, tumour;"):
        judge(classifier(violet, classes=("normal", "cat")), patches)
    with pytest.raises(UserError, match=r"was trained on 64 px, the dataset has patches of 32 px;"):
        judge(classifier(violet, size_px=64), patches)


def test_a_class_without_tissue_cannot_be_recoloured() -> None:
    patches: Any = Patches(val=6)
    patches.pixels[1::2] = 255
    with pytest.raises(DatasetError, match=r"^How the class 'tumour' is stained cannot be seen: .*tissue"):
        judge(classifier(violet), patches, recolour=True)


def test_a_recoloured_patch_has_the_mean_stain_of_the_next_class() -> None:
    patches = Patches(train=40)
    fits = tuple(fit_stain(patches.pixels[i::2], method="reinhard") for i in range(2))
    changed = recoloured(patches.pixels[:6], patches.labels[:6], (*fits, fits[0]))
    for patch, label in zip(changed, patches.labels[:6], strict=True):
        found = np.array(fit_stain(patch, method="reinhard").values[0])
        own, other = (np.array(fits[i].values[0]) for i in (label, 1 - label))
        # Not all the way: a few of the new colours are no colours of 8 bits.
        assert np.linalg.norm(found - other) < 0.2 * np.linalg.norm(own - other)
    assert patches.pixels[0, 0, 0, 0] != changed[0, 0, 0, 0]


def test_a_patch_with_too_little_tissue_is_taken_to_be_stained_as_its_class() -> None:
    patches = Patches(train=40)
    fits = tuple(fit_stain(patches.pixels[i::2], method="reinhard") for i in range(2))
    patch = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
    patch[0, :10, :10] = PINK
    changed = recoloured(patch, np.array([0]), fits)
    assert (changed[0, 10:] == 255).all()
    assert np.abs(changed[0, 5, 5].astype(int) - VIOLET).max() < 30


@pytest.mark.parametrize("radius", [0.5, 1.5, 2.0, 3.2])
def test_a_disk(radius: float) -> None:
    kernel = disk(radius).astype(float)
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1
    assert kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-6)
    np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-6)
    at = np.arange(len(kernel)) - len(kernel) // 2
    # The variance of a disk along an axis is r² / 4; pixels have an extent of their own (1/12), and edges.
    assert abs((kernel.sum(0) * at**2).sum() - radius**2 / 4) <= 0.15
    assert (
        kernel[len(kernel) // 2, len(kernel) // 2] == pytest.approx(1 / (np.pi * radius**2), rel=0.03)
        or radius < 1
    )


def test_a_blurred_point_is_a_disk_and_one_colour_stays() -> None:
    patch = np.zeros((2, 11, 11, 3), np.uint8)
    patch[0, 5, 5, 1] = 255
    patch[1] = (10, 20, 30)
    changed = blurred(patch, radius_px=2)
    np.testing.assert_allclose(changed[0, 3:8, 3:8, 1], disk(2) * 255, atol=0.51)
    assert changed[0, :, :, [0, 2]].max() == 0
    assert (changed[1] == patch[1]).all()
