"""What latent vectors are drawn from. Importing this costs no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    import torch

PRIORS: tuple[str, ...] = ("normal", "uniform")
"""normal: N(0, 1) in each coordinate; uniform: from -1 to 1 in each. All means are 0."""


def draw_latents(prior: str, n: int, z_dim: int, rng: torch.Generator) -> torch.Tensor:
    """Draw latent vectors.

    Parameters
    ----------
    prior
        One of `PRIORS`.
    n, z_dim
        How many, and their length.
    rng
        Source of chance, on the CPU: the same on every device.

    Returns
    -------
    torch.Tensor
        z, (n, z_dim), float32, on the CPU.

    Raises
    ------
    UserError
        If there is no such prior.
    """
    import torch

    if _known(prior) == "normal":
        return torch.randn(n, z_dim, generator=rng)
    return torch.rand(n, z_dim, generator=rng) * 2 - 1


def prior_scale(prior: str) -> float:
    """Return the standard deviation of one coordinate: 1, or 1 / sqrt(3) of the uniform prior.

    A drawn vector is about `prior_scale(prior) * sqrt(z_dim)` long, closely so at z_dim 64 or 100.

    Raises
    ------
    UserError
        If there is no such prior.
    """
    return 1.0 if _known(prior) == "normal" else 1 / math.sqrt(3)


def prior_percentile(length: float, prior: str, z_dim: int) -> float:
    """Return the share, in %, of drawn latent vectors that are shorter than this length.

    Of the normal prior the squared length follows the chi-squared distribution of z_dim degrees of freedom; of the
    uniform one it is a sum of z_dim squares of mean 1/3 and variance 4/45, taken as normal.

    Raises
    ------
    UserError
        If there is no such prior.
    """
    from scipy import stats

    if _known(prior) == "normal":
        return float(100 * stats.chi2.cdf(length**2, z_dim))
    return float(100 * stats.norm.cdf(length**2, z_dim / 3, math.sqrt(z_dim * 4 / 45)))


def length_of_share(share: float, prior: str, z_dim: int) -> float:
    """Return the length that this share (0 to 1) of drawn latent vectors does not exceed; see `prior_percentile`.

    Raises
    ------
    UserError
        If there is no such prior.
    """
    from scipy import stats

    if _known(prior) == "normal":
        return math.sqrt(float(stats.chi2.ppf(share, z_dim)))
    return math.sqrt(float(stats.norm.ppf(share, z_dim / 3, math.sqrt(z_dim * 4 / 45))))


def _known(prior: str) -> str:
    if prior not in PRIORS:
        msg = f"There is no prior named {prior!r}; choose one of {', '.join(PRIORS)}."
        raise UserError(msg)
    return prior
