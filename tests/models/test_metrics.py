from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from napari_histolatent.errors import UserError
from napari_histolatent.models import GENERATORS, WITHOUT_CLASSES, build_classifier, build_gan
from napari_histolatent.models.metrics import (
    ClassifierFeatures,
    FeatureSpace,
    RandomFeatures,
    digest_of_network,
    kernel_distance,
    kernel_distance_of_images,
    mean_pairwise_distance,
    nearest,
    nearest_other,
    psnr_db,
    rmse,
    sample_deviation,
    ssim,
)


def random_images(n: int, size_px: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, size_px, size_px, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def smooth_images(n: int, size_px: int = 32, seed: int = 0) -> torch.Tensor:
    coarse = random_images(n, 4, seed)
    return torch.nn.functional.interpolate(coarse, size=(size_px, size_px), mode="bilinear")


def noisy(images: torch.Tensor, deviation: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    return (images + deviation * noise).clamp(-1, 1)


def normal(n: int, d: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + mean


def test_rmse_of_each_pair() -> None:
    a, b = random_images(4), random_images(4, seed=1)
    expected = np.sqrt(((a.double().numpy() - b.double().numpy()) ** 2).reshape(4, -1).mean(1))
    np.testing.assert_allclose(rmse(a, b).numpy(), expected, rtol=1e-5)


def test_rmse_of_black_and_white_is_2() -> None:
    white = torch.ones(1, 3, 4, 4)
    assert rmse(white, -white).tolist() == [2]
    assert rmse(white, white).tolist() == [0]


@pytest.mark.parametrize("deviation", [0.01, 0.1, 1.0])
def test_psnr_against_another_implementation(deviation: float) -> None:
    a = random_images(3)
    b = noisy(a, deviation)
    expected = [
        peak_signal_noise_ratio(x.double().numpy(), y.double().numpy(), data_range=2)
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(psnr_db(a, b).numpy(), expected, rtol=1e-5)


def test_psnr_of_identical_images_is_finite_and_large() -> None:
    image = random_images(1)
    assert 100 < float(psnr_db(image, image)) < math.inf


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (random_images(2, 32), random_images(2, 32, seed=1)),
        (smooth_images(2), noisy(smooth_images(2), 0.02)),
        (smooth_images(2), noisy(smooth_images(2), 0.5)),
        (smooth_images(2), -smooth_images(2)),
        (smooth_images(2), 0.5 * smooth_images(2) + 0.3),
        (random_images(2, 11), random_images(2, 11, seed=1)),
    ],
    ids=["unrelated", "near", "noisy", "negative", "paler", "one window"],
)
def test_ssim_against_another_implementation(a: torch.Tensor, b: torch.Tensor) -> None:
    expected = [
        structural_similarity(
            x.permute(1, 2, 0).double().numpy(),
            y.permute(1, 2, 0).double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=2,
            channel_axis=-1,
        )
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(ssim(a, b).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("images", [random_images(2, 16), smooth_images(2), torch.ones(1, 3, 16, 16)])
def test_ssim_of_identical_images_is_1(images: torch.Tensor) -> None:
    np.testing.assert_allclose(ssim(images, images).numpy(), 1, atol=1e-6)


def test_ssim_is_symmetric() -> None:
    a = smooth_images(2)
    torch.testing.assert_close(ssim(a, noisy(a, 0.2)), ssim(noisy(a, 0.2), a))


@pytest.mark.parametrize("size_px", [8, 16])
@pytest.mark.parametrize("name", GENERATORS)
def test_whatever_a_network_draws_can_be_judged(name: str, size_px: int) -> None:
    try:
        classes = () if name in WITHOUT_CLASSES else ("a", "b")
        generator, _ = build_gan(name, classes=classes, size_px=size_px, z_dim=4, base_channels=4)
    except UserError:
        assert size_px == 8, "only the smallest may be refused"
        return
    with torch.no_grad():
        images = generator.synthesize(
            generator.map(normal(4, 4, seed=0), torch.eye(2)[[0, 0, 1, 1], : len(classes)])
        )
    assert bool(torch.isfinite(ssim(images, -images)).all())
    assert math.isfinite(kernel_distance_of_images(images, images.flip(3)))


def test_deviation_of_samples() -> None:
    images = random_images(6)
    expected = images.double().numpy().std(axis=0, ddof=1).mean()
    assert sample_deviation(images) == pytest.approx(expected, rel=1e-5)
    assert sample_deviation(images[:1].expand(6, -1, -1, -1)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), [(2, 2, 1), (5, 7, 3), (12, 6, 8)])
def test_kernel_distance_against_a_double_loop(n: int, m: int, d: int) -> None:
    a, b = normal(n, d, seed=0).double(), normal(m, d, seed=1, mean=0.5).double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return (sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / d + 1) ** 3

    within_a = sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(kernel(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(x, y) for x in a for y in b) / (n * m)
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_0_on_average() -> None:
    n, d, draws = 12, 4, 400
    distances = [kernel_distance(normal(n, d, 2 * i), normal(n, d, 2 * i + 1)) for i in range(draws)]
    standard_error = float(np.std(distances)) / math.sqrt(draws)
    assert abs(float(np.mean(distances))) < 4 * standard_error
    assert min(distances) < 0, "what is unbiased falls below 0 at times"
    # With its diagonal the estimate would lie (E k(x, x) - E k(x, y)) / n higher, twice:
    x = normal(1000, d, seed=1)
    excess = 2 * float(((x.square().mean(1) + 1) ** 3).mean() - ((x @ x.T / d + 1) ** 3).mean()) / n
    assert excess > 8 * standard_error


def test_kernel_distance_grows_with_the_difference() -> None:
    a = normal(200, 4, seed=0)
    same, near, far = (kernel_distance(a, normal(200, 4, seed=1, mean=mean)) for mean in (0, 0.5, 2))
    assert abs(same) < 0.1 < near < far


def test_kernel_distance_is_symmetric() -> None:
    a, b = normal(5, 3, seed=0), normal(8, 3, seed=1)
    assert kernel_distance(a, b) == pytest.approx(kernel_distance(b, a), rel=1e-5)


@pytest.mark.parametrize("size_px", [16, 32])
def test_random_features_have_the_stated_shape(size_px: int) -> None:
    features = RandomFeatures()(random_images(3, size_px))
    assert features.shape == (3, 448)
    assert bool(torch.isfinite(features).all())
    assert not features.requires_grad


def test_random_features_come_from_their_seed_alone() -> None:
    images = random_images(3)
    torch.manual_seed(1)
    first = RandomFeatures(seed=5)(images)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, RandomFeatures(seed=5)(images))
    assert not np.allclose(first, RandomFeatures(seed=6)(images))


def test_random_features_are_never_trained() -> None:
    assert not any(parameter.requires_grad for parameter in RandomFeatures().parameters())


def test_kernel_distance_of_images_tells_sets_apart() -> None:
    real, again = smooth_images(48, 16, seed=0), smooth_images(48, 16, seed=1)
    same = kernel_distance_of_images(real, again)
    noise = kernel_distance_of_images(real, noisy(again, 0.2))
    collapsed = kernel_distance_of_images(real, again[:1].expand(48, -1, -1, -1))
    assert abs(same) < 0.1 * min(noise, collapsed)


def test_kernel_distance_of_images_comes_from_its_seed_alone() -> None:
    real, other = smooth_images(8, 16), random_images(8, 16)
    first, again, another = (kernel_distance_of_images(real, other, seed=seed) for seed in (0, 0, 1))
    assert first == again != another


def test_a_feature_that_is_the_same_in_all_real_images_does_no_harm() -> None:
    grey = torch.zeros(4, 3, 16, 16)
    assert kernel_distance_of_images(grey, grey) == pytest.approx(0, abs=1e-6)


def test_random_features_draw_nothing_from_torchs_own_chance() -> None:
    before = torch.get_rng_state()
    RandomFeatures()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_networks_digest_names_its_weights_and_statistics() -> None:
    def network(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))

    first, same, other = digest_of_network(network(0)), digest_of_network(network(0)), network(1)
    assert first == same != digest_of_network(other)
    used = network(0)
    used(random_images(2))
    assert digest_of_network(used) != first


def test_features_of_a_classifier_are_the_mean_of_its_maps() -> None:
    torch.manual_seed(0)
    classifier = build_classifier("convnet", classes=("a", "b"), size_px=16, base_channels=4)
    images = random_images(5)
    features = ClassifierFeatures(classifier)(images)
    assert not classifier.training  # type: ignore[attr-defined]
    assert features.shape == (5, 16)
    logits = classifier.head(features)  # type: ignore[attr-defined]
    torch.testing.assert_close(logits, classifier(images).detach(), atol=1e-5, rtol=1e-5)


def test_a_feature_space_measures_in_the_spread_of_real_images() -> None:
    real = smooth_images(40)
    space = FeatureSpace(RandomFeatures(), real)
    torch.testing.assert_close(space.real.mean(0), torch.zeros(448), atol=1e-4, rtol=0)
    assert float(space.real.std(0).median()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(space.of(real[3:5]), space.real[3:5], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("groups", [None, [0, 0, 0, 1, 1, 7]])
def test_mean_pairwise_distance_against_a_double_loop(groups: list[int] | None) -> None:
    features = normal(6, 5, seed=3)
    of = groups or [0] * 6
    means = []
    for group in set(of):
        members = [features[i] for i in range(6) if of[i] == group]
        pairs = [
            float((a - b).square().mean().sqrt())
            for i, a in enumerate(members)
            for j, b in enumerate(members)
            if i < j
        ]
        means += [sum(pairs) / len(pairs)] if pairs else []
    expected = sum(means) / len(means)
    found = mean_pairwise_distance(features, None if groups is None else torch.tensor(groups))
    assert found == pytest.approx(expected, rel=1e-5)


def test_no_pair_has_no_distance() -> None:
    assert math.isnan(mean_pairwise_distance(normal(2, 3, seed=0), torch.tensor([0, 1])))


def test_the_nearest_against_a_double_loop() -> None:
    a, b = normal(7, 5, seed=0), normal(9, 5, seed=1)
    b[4] = a[2]
    distances, which = nearest(a, b)
    expected = [[float((x - y).square().mean().sqrt()) for y in b] for x in a]
    assert which.tolist() == [row.index(min(row)) for row in expected]
    np.testing.assert_allclose(distances, [min(row) for row in expected], rtol=1e-5)
    assert (float(distances[2]), int(which[2])) == (0, 4)
    excluded = torch.zeros(7, 9, dtype=torch.bool)
    excluded[2, 4] = True
    assert int(nearest(a, b, excluded=excluded)[1][2]) == expected[2].index(sorted(expected[2])[1])
    within = [
        [math.inf if i == j else float((a[i] - a[j]).square().mean().sqrt()) for j in range(7)]
        for i in range(7)
    ]
    assert nearest_other(a) == pytest.approx(sorted(min(row) for row in within)[3], rel=1e-5)
