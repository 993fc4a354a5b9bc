from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models import build_classifier
from napari_histolatent.models.images import to_tensor
from napari_histolatent.training import TrainingConfig, _health
from napari_histolatent.training._health import Balance, HealthCheck, load_judge, warnings_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")
RANDOM_DIGEST = "febf09a6898fae564c465b45dc20575dd71770677af554065e1b22877c02cd0c"


@pytest.fixture(scope="module")
def dataset(dataset_of: Callable[..., Any]) -> Any:
    """Sixteen-pixel patches, each with its own coarse pattern, so that no two are alike."""
    made = dataset_of(
        {"train": {"a": 60, "b": 60}, "val": {"a": 40, "b": 40}, "test": {"a": 30, "b": 30}}, size_px=16
    )
    rng = np.random.default_rng(5)
    coarse = rng.normal(0, 30, (len(made), 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    made._pixels = np.clip(made._pixels + coarse, 0, 255).astype(np.uint8)
    return made


@pytest.fixture(scope="module")
def check(dataset: Any) -> HealthCheck:
    return HealthCheck(dataset, CPU)


@pytest.fixture(scope="module")
def judge() -> Any:
    torch.manual_seed(0)
    network = build_classifier("convnet", classes=("a", "b"), size_px=16, base_channels=4)
    return SimpleNamespace(network=network, checkpoint=SimpleNamespace(digest="j" * 64))


def images_of(dataset: Any, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = dataset.rows_of(split)
    return to_tensor(dataset.read(rows)), torch.from_numpy(dataset.labels[rows])


def test_real_patches_that_were_held_out_are_well(dataset: Any, check: HealthCheck) -> None:
    metrics = check.measure(*images_of(dataset, "test"))
    assert warnings_of(metrics) == []
    assert abs(metrics["kid"]) < 0.3
    assert metrics["kid"] == metrics["kid_random"]
    assert metrics["pixel_sd"] == pytest.approx(metrics["pixel_sd_real"], rel=0.15)
    assert metrics["sample_distance"] == pytest.approx(metrics["sample_distance_real"], rel=0.15)
    assert metrics["copies"] <= 0.1


def test_noise_is_far_from_real_patches(dataset: Any, check: HealthCheck) -> None:
    chance = torch.Generator().manual_seed(0)
    noise = torch.rand(60, 3, 16, 16, generator=chance) * 2 - 1
    real, _ = images_of(dataset, "test")
    assert check.measure(noise)["kid"] > 100 * abs(check.measure(real)["kid"])


@pytest.mark.parametrize("turned", [False, True], ids=["as they are", "turned and mirrored"])
def test_copies_of_training_patches_are_found(dataset: Any, check: HealthCheck, turned: bool) -> None:
    images, labels = images_of(dataset, "train")
    copies = torch.rot90(images, 1, (2, 3)).flip(2) if turned else images
    chance = torch.Generator().manual_seed(0)
    copies = copies + 0.01 * torch.randn(copies.shape, generator=chance)
    metrics = check.measure(copies, labels)
    assert metrics["copies"] == 1
    (said,) = warnings_of(metrics)
    assert "100% of the samples are nearer to a training patch than held-out patches are" in said


def test_the_nearest_training_patch_of_a_copy_is_its_original(dataset: Any, check: HealthCheck) -> None:
    images, _ = images_of(dataset, "train")
    copies = torch.rot90(images[[5, 2, 99, 2]], 3, (2, 3))
    originals = dataset.read(dataset.rows_of("train")[[5, 2, 99, 2]])
    np.testing.assert_array_equal(check.neighbours(copies), originals)


def test_one_picture_again_and_again_is_a_collapse(dataset: Any, check: HealthCheck) -> None:
    images, labels = images_of(dataset, "test")
    one_of_each = torch.stack([images[labels == i][0] for i in (0, 1)])[labels]
    metrics = check.measure(one_of_each, labels)
    assert metrics["sample_distance"] == pytest.approx(0, abs=1e-5)
    assert "differ from each other 0% as much as real patches do" in warnings_of(metrics)[0]


def test_a_few_pictures_again_and_again_are_one_too(dataset: Any, check: HealthCheck) -> None:
    images, labels = images_of(dataset, "test")
    few = images[:8].repeat(5, 1, 1, 1)
    metrics = check.measure(few, labels[:8].repeat(5))
    assert metrics["sample_distance"] > 0.6 * metrics["sample_distance_real"], "they differ a lot, yet"
    assert metrics["sample_spacing"] < 1e-3
    assert "draw a few pictures again and again" in warnings_of(metrics)[0]


def test_measuring_touches_no_source_of_chance(dataset: Any, check: HealthCheck) -> None:
    before = torch.get_rng_state()
    images, labels = images_of(dataset, "test")
    HealthCheck(dataset, CPU)
    first = check.measure(images, labels)
    check.neighbours(images[:2])
    assert torch.equal(torch.get_rng_state(), before)
    assert check.measure(images, labels) == first


def test_the_judge_gives_the_kid_and_is_named(dataset: Any, check: HealthCheck, judge: Any) -> None:
    judged = HealthCheck(dataset, CPU, judge=judge)
    assert judged.features == {"random": RANDOM_DIGEST, "judge": "j" * 64}
    assert check.features == {"random": RANDOM_DIGEST}
    images, labels = images_of(dataset, "test")
    with_judge, without = judged.measure(-images, labels), check.measure(-images, labels)
    assert with_judge["kid_random"] == without["kid_random"] == without["kid"]
    assert with_judge["kid"] != with_judge["kid_random"]
    assert (with_judge["kid_features"], without["kid_features"]) == ("j" * 64, RANDOM_DIGEST)
    assert (with_judge["kid_space"], without["kid_space"]) == ("judge", "random")


def test_without_a_validation_split_a_patch_is_not_taken_for_its_own_copy(
    dataset_of: Callable[..., Any],
) -> None:
    dataset = dataset_of({"train": {"a": 40, "b": 40}}, size_px=16)
    check = HealthCheck(dataset, CPU)
    images, labels = images_of(dataset, "train")
    assert check.measure(images[:40], labels[:40])["copy_distance"] > 0.05


@pytest.mark.parametrize("counts", [{"a": 1}, {}])
def test_too_little_to_compare_with_says_nothing(
    dataset_of: Callable[..., Any], counts: dict[str, int]
) -> None:
    dataset = dataset_of({"train": {"a": 1, **counts}}, size_px=16)
    check = HealthCheck(dataset, CPU)
    assert check.measure(torch.zeros(4, 3, 16, 16)) == {}
    assert check.neighbours(torch.zeros(4, 3, 16, 16)) is None
    assert warnings_of({}) == []


def test_large_patches_are_compared_with_fewer(
    dataset_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_health, "_TRAIN_PATCHES", 10)
    monkeypatch.setattr(_health, "_REAL_PIXELS", 12 * 16**2)
    monkeypatch.setattr(_health, "_READ_AT_ONCE", 4)
    dataset = dataset_of({"train": {"a": 20, "b": 20}, "val": {"a": 9, "b": 9}}, size_px=16)
    asked: list[int] = []
    read = dataset.read
    monkeypatch.setattr(dataset, "read", lambda rows: asked.append(len(rows)) or read(rows))
    check = HealthCheck(dataset, CPU)
    assert set(check.features) == {"random"}
    assert asked == [], "nothing is read before it is needed"
    metrics = check.measure(torch.zeros(4, 3, 16, 16))
    assert sum(asked) == 12 + 10
    assert max(asked) == 4
    assert metrics["copies_searched"] == 10 / 40


def test_symmetries_are_looked_at_one_by_one(
    dataset: Any, check: HealthCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = images_of(dataset, "val")
    check.neighbours(images[:1])
    sizes: list[int] = []
    of = _health.FeatureSpace.of
    monkeypatch.setattr(
        _health.FeatureSpace, "of", lambda self, images: sizes.append(len(images)) or of(self, images)
    )
    check.neighbours(images)
    assert sizes == [80] * 8


def test_copies_of_large_patches_are_found_at_a_reduced_side(
    dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_health, "_REDUCED_PX", 8)
    check = HealthCheck(dataset, CPU)
    images, labels = images_of(dataset, "train")
    assert check.measure(torch.rot90(images, 1, (2, 3)), labels)["copies"] == 1
    images, labels = images_of(dataset, "test")
    metrics = check.measure(images, labels)
    assert metrics["copies"] <= 0.1
    assert metrics["copies_searched"] == 1


def test_held_out_patches_are_as_many_of_each_class(dataset_of: Callable[..., Any]) -> None:
    dataset = dataset_of({"train": {"a": 90, "b": 90}, "val": {"a": 160, "b": 30}}, size_px=16)
    rows = dataset.rows_of("train")
    even = [*rows[dataset.labels[rows] == 0][:60], *rows[dataset.labels[rows] == 1][:60]]
    images, labels = to_tensor(dataset.read(even)), torch.from_numpy(dataset.labels[even])
    by_class = HealthCheck(dataset, CPU, with_classes=True).measure(images, labels)
    alike = HealthCheck(dataset, CPU, with_classes=False).measure(images)
    # Real patches with their classes in turn, as samples have theirs, are like those held out.
    assert abs(by_class["kid_random"]) < 0.1 * alike["kid_random"]


# The discriminator


def test_the_balance_is_the_mean_over_steps() -> None:
    balance = Balance()
    assert balance.take() == {}
    balance.add(torch.tensor([1.0, -1.0]), torch.tensor([-2.0, -4.0]))
    balance.add(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]))
    # Right of real ones: 1 of 2, 2 of 2; of generated ones: 2 of 2, 0 of 2.
    assert balance.take() == {
        "discriminator_real": 2.0,
        "discriminator_fake": -1.0,
        "discriminator_right": pytest.approx((0.5 + 1 + 1 + 0) / 4),
    }
    assert balance.take() == {}


@pytest.mark.parametrize(
    ("right", "words"), [(0.99, "right 99% of the time"), (0.5, "as good as guessing"), (0.7, "")]
)
def test_a_discriminator_that_is_too_strong_or_too_weak(right: float, words: str) -> None:
    said = " ".join(warnings_of({"discriminator_right": right}))
    assert words in said
    assert bool(said) == bool(words)


def test_warnings_are_whole_sentences_and_nan_says_nothing() -> None:
    ill = {
        "sample_distance": 0.1,
        "sample_distance_real": 1.0,
        "pixel_sd": 0.1,
        "pixel_sd_real": 0.3,
        "copies": 0.5,
        "discriminator_right": 1.0,
    }
    said = warnings_of(ill)
    assert len(said) == 4
    assert all(sentence[0].isupper() or sentence[0].isdigit() for sentence in said)
    assert all(sentence.endswith(".") and "; " in sentence for sentence in said)
    assert warnings_of(dict.fromkeys(ill, math.nan)) == []


def test_only_what_the_settings_leave_to_be_done_is_offered() -> None:
    guesses, sure = {"discriminator_right": 0.5}, {"discriminator_right": 0.99}
    quiet = TrainingConfig(augment=True, instance_noise=0.0, label_smoothing=0.0)
    loud = TrainingConfig(augment=False, instance_noise=0.1, label_smoothing=0.1)
    (said,) = warnings_of(guesses, quiet)
    assert said.endswith("from it; use a wider network.")
    (said,) = warnings_of(guesses, loud)
    assert said.endswith("lower instance noise, lower label smoothing or use a wider network.")
    (said,) = warnings_of(sure, quiet)
    assert said.endswith("from it; add instance noise or use more patches.")
    (said,) = warnings_of(sure, loud)
    assert said.endswith("switch augmentation on, use more instance noise or use more patches.")


def test_at_the_beginning_nothing_is_said() -> None:
    config = TrainingConfig(steps=1000)
    said = [len(warnings_of({"copies": 0.5}, config, step=step)) for step in (0, 49, 50, 1000)]
    assert said == [0, 0, 1, 1]


# Which judge


def test_the_judge_that_is_named_is_loaded(classifier_run: Path) -> None:
    judge = load_judge(str(classifier_run), CPU)
    assert judge is not None
    assert judge.checkpoint.kind == "classifier"
    assert not any(weight.requires_grad for weight in judge.network.parameters())  # type: ignore[attr-defined]


def test_a_judge_that_is_none_is_refused(gan_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a gan, where a classifier is needed"):
        load_judge(str(gan_run), CPU)
    with pytest.raises(UserError, match="is not a run folder"):
        load_judge(str(tmp_path), CPU)


@pytest.mark.parametrize("there", [True, False])
def test_without_a_name_the_shipped_one_judges_if_there_is_one(
    classifier_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    from napari_histolatent.training import shipped
    from napari_histolatent.training.checkpoint import latest_checkpoint

    if there:
        source = latest_checkpoint(classifier_run / "checkpoints").path
        (tmp_path / shipped.ROBUST_JUDGE).symlink_to(source, target_is_directory=True)
    monkeypatch.setattr(shipped, "_root", lambda: tmp_path)
    assert (load_judge("", CPU) is not None) == there
