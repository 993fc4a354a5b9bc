from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.evaluation.gates import (
    Bounds,
    Gates,
    Labelled,
    SampleFigures,
    blurred,
    mean_coloured,
    missed,
    real_images,
    sampled,
    shares_in_own_class,
)
from napari_histolatent.models.metrics import RandomFeatures, digest_of_network

GOOD = SampleFigures(
    kid_colour=0.1,
    kid_colour_ratio=0.01,
    kid_random=0.5,
    kid_random_ratio=0.25,
    pixel_sd=0.3,
    pixel_sd_ratio=0.85,
    own_class_colour=0.95,
    own_class_colour_worst=0.9,
)
SIDE = 16


class Brightness(nn.Module):
    """Class 1 where the mean is above 0; its last block knows mean and mean square of 4 x 4 boxes."""

    classes, size_px = ("dark", "bright"), SIDE

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()

    @property
    def cam_layer(self) -> nn.Module:
        return self.last

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        boxes = nn.functional.avg_pool2d(images, 4)
        maps = self.last(torch.cat([boxes, nn.functional.avg_pool2d(images.square(), 4)], dim=1))
        mean = maps[:, :3].mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


def judge(digest: str = "colour") -> Any:
    return SimpleNamespace(network=Brightness(), checkpoint=SimpleNamespace(digest=digest), device="cpu")


def tissue(n_each: int, seed: int) -> Labelled:
    """Two classes, of dark and of bright images, each with its own colour and with grain."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.arange(2 * n_each) % 2
    level = torch.where(labels == 1, 0.4, -0.4)[:, None, None, None]
    hue = 0.1 * torch.randn(2 * n_each, 3, 1, 1, generator=chance)
    grain = 0.2 * torch.randn(2 * n_each, 3, SIDE, SIDE, generator=chance)
    return Labelled((level + hue + grain).clamp(-1, 1), labels)


@pytest.fixture(scope="module")
def gates() -> Gates:
    return Gates(
        train=tissue(80, 0).images,
        held_out=tissue(60, 1),
        colour_judge=judge(),
        robust_judge=judge("robust"),
    )


# The bounds


def test_figures_on_the_bounds_are_within() -> None:
    assert missed(GOOD) == ()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"kid_colour_ratio": 0.0101}, "kid_colour_ratio"),
        ({"kid_random_ratio": 0.251}, "kid_random_ratio"),
        ({"pixel_sd_ratio": 0.849}, "pixel_sd_ratio"),
        ({"own_class_colour": 0.949}, "own_class_colour"),
        ({"kid_colour_ratio": float("nan")}, "kid_colour_ratio"),
        ({"pixel_sd_ratio": float("nan")}, "pixel_sd_ratio"),
    ],
)
def test_each_bound_is_missed_alone(change: dict[str, float], name: str) -> None:
    assert missed(replace(GOOD, **change)) == (name,)


def test_the_robust_judge_is_reported_and_not_bounded() -> None:
    assert missed(replace(GOOD, own_class_robust=0.0, own_class_robust_worst=0.0)) == ()


def test_bounds_can_be_others() -> None:
    assert missed(GOOD, Bounds(pixel_sd_ratio=0.9)) == ("pixel_sd_ratio",)


# What passes, and what does not


def test_real_images_pass(gates: Gates) -> None:
    figures = gates.measure(tissue(60, 2))
    assert missed(figures) == ()
    assert figures.pixel_sd_ratio == pytest.approx(1, abs=0.05)
    assert figures.own_class_colour == figures.own_class_robust == 1


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (blurred, {"kid_colour_ratio", "kid_random_ratio"}),
        (mean_coloured, {"kid_colour_ratio", "kid_random_ratio"}),
        (lambda images: images[:2].repeat(60, 1, 1, 1), {"kid_random_ratio"}),
        (lambda images: torch.rand_like(images) * 2 - 1, {"own_class_colour"}),
    ],
    ids=["blurred", "mean colour", "two images only", "noise"],
)
def test_bad_samples_fail(gates: Gates, spoil: Any, names: set[str]) -> None:
    real = tissue(60, 2)
    assert names <= set(missed(gates.measure(Labelled(spoil(real.images), real.labels))))


def test_samples_of_the_wrong_class_fail_by_their_class_alone(gates: Gates) -> None:
    real = tissue(60, 2)
    figures = gates.measure(Labelled(real.images, 1 - real.labels))
    assert missed(figures) == ("own_class_colour",)
    assert figures.own_class_colour_worst == figures.own_class_robust_worst == 0


def test_one_image_repeated_has_no_deviation(gates: Gates) -> None:
    real = tissue(60, 2)
    figures = gates.measure(Labelled(real.images[:1].repeat(120, 1, 1, 1), real.labels))
    assert figures.pixel_sd_ratio == pytest.approx(0, abs=1e-6)
    assert "pixel_sd_ratio" in missed(figures)


# The figures


def polynomial_mmd(a: np.ndarray, b: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def off_diagonal(k: np.ndarray) -> float:
        return float(k[~np.eye(len(k), dtype=bool)].mean())

    return off_diagonal(kernel(a, a)) + off_diagonal(kernel(b, b)) - 2 * float(kernel(a, b).mean())


def test_kid_is_in_the_last_block_in_units_of_the_training_images(gates: Gates) -> None:
    def features(images: torch.Tensor) -> np.ndarray:
        x = images.double().numpy()
        return np.concatenate([x.mean(axis=(2, 3)), (x**2).mean(axis=(2, 3))], axis=1)

    train, held_out = features(tissue(80, 0).images), tissue(60, 1)
    mean, deviation = train.mean(0), train.std(0, ddof=1)
    deviation = np.maximum(deviation, 0.1 * np.sort(deviation)[(len(deviation) - 1) // 2])

    def scaled(images: torch.Tensor) -> np.ndarray:
        return (features(images) - mean) / deviation

    samples = tissue(60, 2)
    spoilt = Labelled(blurred(samples.images), samples.labels)
    between = polynomial_mmd(*(scaled(held_out.images[held_out.labels == i]) for i in (0, 1)))
    expected = polynomial_mmd(scaled(held_out.images), scaled(spoilt.images))
    figures = gates.measure(spoilt)
    assert gates.kid_between_classes["colour"] == pytest.approx(between, rel=1e-3)
    assert figures.kid_colour == pytest.approx(expected, rel=1e-3)
    assert figures.kid_colour_ratio == pytest.approx(expected / between, rel=1e-3)


def test_shares_are_per_class() -> None:
    images = torch.tensor([-0.5, 0.5, 0.5, 0.5, -0.5, 0.5])[:, None, None, None].expand(6, 3, SIDE, SIDE)
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    assert shares_in_own_class(Brightness(), Labelled(images, labels)) == (0.25, 0.5)


def test_the_judges_are_named_and_measuring_changes_none(gates: Gates) -> None:
    before = dict(gates.digests)
    assert before["colour_judge"] == "colour"
    assert before["robust_judge"] == "robust"
    assert before["random_features"] == digest_of_network(RandomFeatures(seed=0))
    assert before["random_features"] != digest_of_network(RandomFeatures(seed=1))
    first = gates.measure(tissue(20, 3))
    gates.measure(Labelled(mean_coloured(tissue(20, 4).images), tissue(20, 4).labels))
    assert gates.measure(tissue(20, 3)) == first
    assert gates.digests == before


def test_without_a_robust_judge_its_figure_is_none() -> None:
    real = tissue(20, 0)
    figures = Gates(train=real.images, held_out=real, colour_judge=judge()).measure(real)
    assert figures.own_class_robust is None
    assert figures.to_json()["own_class_robust_worst"] is None


def test_one_class_alone_is_refused() -> None:
    real = tissue(20, 0)
    held_out = Labelled(real.images, torch.zeros_like(real.labels))
    with pytest.raises(UserError, match=r"two classes of held-out patches.*got \[40, 0\]; hold out"):
        Gates(train=real.images, held_out=held_out, colour_judge=judge())


def turned(classes: tuple[str, ...] = ("bright", "dark"), size_px: int = SIDE) -> Any:
    """The judge, but for the order or the names of its classes, or for its size."""
    network = Brightness()
    forward = network.forward
    network.forward = lambda images: forward(images).flip(1)  # type: ignore[method-assign]
    network.classes, network.size_px = classes, size_px  # type: ignore[misc, assignment]
    return SimpleNamespace(network=network, checkpoint=SimpleNamespace(digest="turned"), device="cpu")


def named(images: Labelled, *classes: str) -> Labelled:
    return replace(images, classes=classes)


def test_classes_are_matched_by_name() -> None:
    held_out = named(tissue(60, 1), "dark", "bright")
    gates = Gates(train=tissue(80, 0).images, held_out=held_out, colour_judge=turned())
    real = tissue(60, 2)
    assert gates.measure(named(real, "dark", "bright")).own_class_colour == 1
    swapped = Labelled(real.images, 1 - real.labels, ("bright", "dark"))
    assert gates.measure(swapped).own_class_colour == 1
    assert gates.measure(named(real, "bright", "dark")).own_class_colour == 0
    with pytest.raises(UserError, match="generator knows the classes dark, grey, the held-out patches have"):
        gates.measure(named(real, "dark", "grey"))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"classes": ("bright", "grey")},
            r"^The judge knows the classes bright, grey, .* have dark, bright;",
        ),
        ({"size_px": 2 * SIDE}, r"^The judge was trained on patches of 32 px, those held out have 16 px;"),
    ],
)
def test_a_judge_of_other_patches_is_refused(wrong: dict[str, Any], sentence: str) -> None:
    real = named(tissue(20, 0), "dark", "bright")
    for judges in (
        {"colour_judge": turned(**wrong)},
        {"colour_judge": judge(), "robust_judge": turned(**wrong)},
    ):
        with pytest.raises(UserError, match=sentence):
            Gates(train=real.images, held_out=real, **judges)


def test_where_the_real_classes_are_alike_no_samples_pass() -> None:
    chance = torch.Generator().manual_seed(2)
    noise = torch.randn(40, 3, SIDE, SIDE, generator=chance).clamp(-1, 1)
    labels = torch.arange(20) % 2
    # The same images in both classes: the KID without bias is below 0.
    twice = noise[:10].repeat_interleave(2, dim=0)
    gates = Gates(train=noise, held_out=Labelled(twice, labels), colour_judge=judge())
    assert max(gates.kid_between_classes.values()) <= 0
    figures = gates.measure(Labelled(noise[10:30].sign(), labels))
    assert {"kid_colour_ratio", "kid_random_ratio"} <= set(missed(figures))


# Images


def test_blurring_averages_boxes() -> None:
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(1, 3, 8, 8)
    assert torch.equal(blurred(checks), torch.zeros(1, 3, 8, 8))
    halves = torch.cat([torch.zeros(1, 3, 8, 4), torch.ones(1, 3, 8, 4)], dim=3)
    soft = blurred(halves)
    assert soft.shape == halves.shape
    assert torch.allclose(soft[0, 0, 0], torch.tensor([0, 0, 0, 0.25, 0.75, 1, 1, 1]))


def test_mean_colour() -> None:
    image = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(1, 3, 2, 4)
    flat = mean_coloured(image)
    assert flat.shape == image.shape
    assert torch.equal(flat[0, :, 1, 2], torch.tensor([3.5, 11.5, 19.5]))


class Recorder:
    """Draws images of z's first entry and of the class, and keeps z."""

    classes, size_px, z_dim = ("dark", "bright"), SIDE, 5

    def __init__(self, prior: str) -> None:
        self.prior = prior
        self.seen: list[torch.Tensor] = []

    def map(self, z: torch.Tensor, y: torch.Tensor, *, psi: float = 1.0) -> torch.Tensor:
        self.seen.append(z)
        return torch.cat([z, y], dim=1)[:, None]

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        return (0.5 * w[:, 0, -1] - 0.25)[:, None, None, None].expand(-1, 3, SIDE, SIDE)


@pytest.mark.parametrize(("prior", "most"), [("uniform", 1.0), ("normal", 5.0)])
def test_samples_are_of_the_prior_and_of_the_classes_asked_for(prior: str, most: float) -> None:
    network: Any = Recorder(prior)
    loaded: Any = SimpleNamespace(network=network, device=torch.device("cpu"))
    labels = torch.arange(300) % 2
    first = sampled(loaded, labels, seed=7)
    z = torch.cat(network.seen)
    assert z.shape == (300, 5)
    assert (float(z.abs().max()) <= 1) == (prior == "uniform")
    assert float(z.abs().max()) <= most
    # 8 bits: -0.25 is pixel 96 (95.6) and 0.25 is 159 (159.4).
    values = torch.tensor([96 / 127.5 - 1, 159 / 127.5 - 1])[labels]
    assert torch.allclose(first.images[:, 0, 0, 0], values, atol=1e-6)
    again = sampled(loaded, labels, seed=7)
    assert torch.equal(torch.cat(network.seen[len(network.seen) // 2 :]), z)
    assert torch.equal(again.images, first.images)
    turned_round = sampled(loaded, labels, seed=7, classes=("bright", "dark"))
    assert torch.allclose(turned_round.images[:, 0, 0, 0], values.flip(0), atol=1e-6)
    with pytest.raises(UserError, match="generator knows the classes dark, bright,"):
        sampled(loaded, labels, seed=7, classes=("dark", "grey"))


def test_real_images_of_a_split(tiny_dataset: Any) -> None:
    from napari_histolatent.patches import PatchDataset

    dataset = PatchDataset(tiny_dataset)
    found = real_images(dataset, "val")
    rows = dataset.rows_of("val")
    assert found.images.shape == (len(rows), 3, 32, 32)
    assert found.labels.tolist() == dataset.labels[rows].tolist()
    pixels = dataset.read(rows[:1])[0].astype(float)
    assert found.images[0].permute(1, 2, 0).numpy() == pytest.approx(pixels / 127.5 - 1, abs=1e-6)
