"""How far images are from each other: pure functions on tensors (B, 3, H, W), RGB in [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


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
        self.layers = nn.ModuleList()
        for before, after in ((3, 32), (32, 64), (64, 128)):
            layer = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            weight = torch.randn(layer.weight.shape, generator=generator)
            layer.weight = nn.Parameter(weight * (2 / (9 * before)) ** 0.5, requires_grad=False)
            self.layers.append(layer)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 448) of images (B, 3, H, W)."""
        x, features = images, []
        for layer in self.layers:
            x = torch.relu(layer(x))
            features += [x.mean(dim=(2, 3)), x.std(dim=(2, 3))]
        return torch.cat(features, dim=1)


@torch.no_grad()
def kernel_distance_of_images(a: Tensor, b: Tensor, *, seed: int = 0) -> float:
    """Return the kernel distance of two sets of images in features of a seeded random network.

    Features are put in units of their own spread over `a` (take the real images there).
    """
    network = RandomFeatures(seed=seed).to(a.device)
    features_a, features_b = network(a), network(b)
    mean, deviation = features_a.mean(0), features_a.std(0)
    # A feature that hardly varies over the real images must not outweigh all others.
    deviation = deviation.clamp_min(max(0.1 * float(deviation.median()), 1e-6))
    return kernel_distance((features_a - mean) / deviation, (features_b - mean) / deviation)
