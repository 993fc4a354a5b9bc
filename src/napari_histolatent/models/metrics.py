"""How far images are from each other: pure functions on tensors (B, 3, H, W), RGB in [-1, 1]."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histolatent.models.protocols import Classifier

_IMAGES_AT_ONCE = 32
# On a CPU a classifier's maps of 32 images stay in its cache: a third faster than 128 at once.


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Return the root mean squared error of each pair, shape (B,), on pixels in [-1, 1]."""
    return (a - b).square().mean(dim=(1, 2, 3)).sqrt()


def psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair in dB, shape (B,); the peak is 2 ([-1, 1])."""
    return 20 * torch.log10(2 / rmse(a, b).clamp_min(1e-8))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each pair, shape (B,).

    Wang et al. 2004, equation 13: 11 px Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, range 2;
    mean over the pixels whose window lies inside, and over channels.
    """
    offsets = torch.arange(11, device=a.device, dtype=a.dtype) - 5
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    line = line / line.sum()
    window = (line[:, None] * line[None]).expand(3, 1, 11, 11)

    def local_mean(x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, window, groups=3)

    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a = local_mean(a * a) - mean_a.square()
    var_b = local_mean(b * b) - mean_b.square()
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    bottom = (mean_a.square() + mean_b.square() + c1) * (var_a + var_b + c2)
    return (top / bottom).mean(dim=(1, 2, 3))


def sample_deviation(images: Tensor) -> float:
    """Return the mean over pixels of the standard deviation over images: near 0 when a generator collapsed."""
    return float(images.std(dim=0).mean())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Return the unbiased squared MMD of two sets of features with a cubic kernel (KID, Binkowski et al. 2018).

    Parameters
    ----------
    a, b
        Features, shapes (n, d) and (m, d).
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m = len(a), len(b)
    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    within_a = (aa.sum() - aa.diagonal().sum()) / (n * (n - 1))
    within_b = (bb.sum() - bb.diagonal().sum()) / (m * (m - 1))
    return float(within_a + within_b - 2 * ab.mean())


class RandomFeatures(nn.Module):
    """A seeded random convolutional network: mean and deviation of each map of each layer.

    Its weights are random and never trained, so no run can change its own judge. Not comparable with
    Inception figures.
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        # Plain weights, not layers: those would draw their first values from torch's own chance.
        self.weights = nn.ParameterList()
        for before, after in ((3, 32), (32, 64), (64, 128)):
            weight = torch.randn(after, before, 3, 3, generator=generator)
            self.weights.append(nn.Parameter(weight * (2 / (9 * before)) ** 0.5, requires_grad=False))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 448) of images (B, 3, H, W)."""
        x, features = images, []
        for weight in self.weights:
            x = torch.relu(nn.functional.conv2d(x, weight, stride=2, padding=1))
            mean = x.mean(dim=(2, 3))
            # torch's own `std` takes seven times as long on a CPU, half of the time of this network.
            squares = (x - mean[:, :, None, None]).square_().sum(dim=(2, 3))
            features += [mean, (squares / max(x.shape[2] * x.shape[3] - 1, 1)).sqrt()]
        return torch.cat(features, dim=1)


class ClassifierFeatures(nn.Module):
    """What a trained classifier sees: the mean of each map of the layer that Grad-CAM weighs.

    The classifier is put in evaluation mode and never trained here.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        assert isinstance(classifier, nn.Module)
        self.classifier = classifier.eval().requires_grad_(False)
        self._maps: Tensor | None = None
        classifier.cam_layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: object, output: Tensor) -> None:
        self._maps = output

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, maps) of images (B, 3, H, W)."""
        self.classifier(images)
        maps, self._maps = self._maps, None
        assert maps is not None
        return maps.mean(dim=(2, 3))


class FeatureSpace:
    """Distances in the features of a frozen network, in units of their own spread over real images.

    Parameters
    ----------
    network
        Images (B, 3, H, W) to features (B, d).
    real
        The real images that set the origin and the units, shape (n, 3, H, W), n >= 2.
    """

    def __init__(self, network: nn.Module, real: Tensor) -> None:
        self._network = network.to(real.device)
        features = self._raw(real)
        self._mean, deviation = features.mean(0), features.std(0)
        # A feature that hardly varies over the real images must not outweigh all others.
        self._deviation = deviation.clamp_min(max(0.1 * float(deviation.median()), 1e-6))
        self.real = self._scaled(features)
        """Features of the real images, (n, d)."""

    def of(self, images: Tensor) -> Tensor:
        """Return the features (B, d) of images (B, 3, H, W)."""
        return self._scaled(self._raw(images))

    def _raw(self, images: Tensor) -> Tensor:
        # In parts: the maps of a first layer are many times the size of the images.
        return torch.cat([self._network(part) for part in torch.split(images, _IMAGES_AT_ONCE)])

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._deviation


@torch.no_grad()
def kernel_distance_of_images(a: Tensor, b: Tensor, *, seed: int = 0) -> float:
    """Return the kernel distance of two sets of images in features of a seeded random network.

    Features are put in units of their own spread over `a` (take the real images there).
    """
    space = FeatureSpace(RandomFeatures(seed=seed), a)
    return kernel_distance(space.real, space.of(b))


def mean_pairwise_distance(features: Tensor, groups: Tensor | None = None) -> float:
    """Return the mean distance of two different members of a set of features: near 0 when a generator collapsed.

    Parameters
    ----------
    features
        Shape (n, d); the distance is the root of the mean square over d.
    groups
        Integers (n,): only pairs of one group count, and each group as much as another. Without them, all pairs.

    Returns
    -------
    float
        NaN where no group has two members.
    """
    groups = torch.zeros(len(features), dtype=torch.long) if groups is None else groups.cpu()
    means = []
    for group in set(groups.tolist()):
        members = features[(groups == group).to(features.device)]
        if len(members) > 1:
            means.append(float(torch.pdist(members.float()).mean()) / members.shape[1] ** 0.5)
    return sum(means) / len(means) if means else float("nan")


def nearest_other(features: Tensor) -> float:
    """Return the median distance of a member of a set of features (n, d), n >= 2, to the nearest other member.

    It falls to 0 when a generator draws a few pictures again and again, however different those are.
    """
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    nearest_of_each = distances.min(dim=1).values
    return float(nearest_of_each.median()) / math.sqrt(features.shape[1])


def nearest(features: Tensor, others: Tensor, *, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return for each of n features the distance to its nearest of m others, (n,), and which it is, (n,).

    The distance is the root of the mean square over the features' d entries. `excluded`, bool (n, m), says which
    others do not count: for members of both sets, themselves.
    """
    # The matrix product finds the nearest twenty times faster, but leaves a rounding error where a copy has 0.
    distances = torch.cdist(features, others, compute_mode="use_mm_for_euclid_dist")
    which = (distances if excluded is None else distances.masked_fill(excluded, torch.inf)).argmin(dim=1)
    return (features - others[which]).square().mean(dim=1).sqrt(), which


def digest_of_network(network: nn.Module) -> str:
    """Return the sha256 of a network's weights and statistics by name: two of one digest judge alike."""
    hasher = sha256()
    for name, value in sorted(network.state_dict().items()):
        hasher.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        hasher.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()
