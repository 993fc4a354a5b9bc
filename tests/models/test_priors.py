from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models.priors import (
    PRIORS,
    draw_latents,
    length_of_share,
    prior_percentile,
    prior_scale,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("n", "z_dim"), [(0, 3), (1, 1), (5, 7)])
def test_shape_and_kind(prior: str, n: int, z_dim: int) -> None:
    z = draw_latents(prior, n, z_dim, seeded())
    assert (z.shape, z.dtype, z.device.type) == ((n, z_dim), torch.float32, "cpu")


@pytest.mark.parametrize("prior", PRIORS)
def test_the_generator_alone_decides(prior: str) -> None:
    torch.manual_seed(1)
    first = draw_latents(prior, 4, 5, seeded())
    torch.manual_seed(2)
    rng = seeded()
    torch.testing.assert_close(draw_latents(prior, 4, 5, rng), first, rtol=0, atol=0)
    assert not torch.equal(draw_latents(prior, 4, 5, rng), first), "a second draw goes on"


@pytest.mark.parametrize(
    # Moments of N(0, 1) and of the uniform distribution from -1 to 1: E z^2 is 1 and 1/3, E z^4 is 3 and 1/5.
    ("prior", "second", "fourth"),
    [("normal", 1, 3), ("uniform", 1 / 3, 1 / 5)],
)
def test_moments(prior: str, second: float, fourth: float) -> None:
    z = draw_latents(prior, 2000, 100, seeded()).double()
    assert float(z.mean()) == pytest.approx(0, abs=0.01)
    assert float(z.square().mean()) == pytest.approx(second, rel=0.02)
    assert float(z.pow(4).mean()) == pytest.approx(fourth, rel=0.05)
    assert prior_scale(prior) == pytest.approx(math.sqrt(second))
    assert float(z.norm(dim=1).mean()) == pytest.approx(prior_scale(prior) * 10, rel=0.01)


def test_the_uniform_prior_fills_its_range() -> None:
    z = draw_latents("uniform", 1000, 10, seeded())
    assert -1 <= float(z.min()) < -0.99
    assert 0.99 < float(z.max()) <= 1


@pytest.mark.parametrize("name", ["", "gauss", "Normal"])
def test_another_prior_is_refused(name: str) -> None:
    sentence = rf"^There is no prior named '{name}'; choose one of normal, uniform\.$"
    with pytest.raises(UserError, match=sentence):
        draw_latents(name, 1, 1, seeded())
    with pytest.raises(UserError, match=sentence):
        prior_scale(name)


def test_what_is_known_of_a_prior_costs_no_torch() -> None:
    script = "import sys; from napari_histolatent.models import priors; priors.prior_scale('normal'); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("prior", PRIORS)
def test_percentiles_are_the_shares_of_shorter_vectors(prior: str) -> None:
    lengths = draw_latents(prior, 4000, 64, seeded()).norm(dim=1)
    for share in (0.05, 0.5, 0.95):
        length = float(lengths.quantile(share))
        assert prior_percentile(length, prior, 64) == pytest.approx(100 * share, abs=2)
        assert prior_percentile(length_of_share(share, prior, 64), prior, 64) == pytest.approx(100 * share)
    assert prior_percentile(0.0, prior, 64) < 1e-6
    assert prior_percentile(100.0, prior, 64) == pytest.approx(100)


def test_a_percentile_of_an_unknown_prior_is_refused() -> None:
    with pytest.raises(UserError, match="no prior named 'cauchy'"):
        prior_percentile(1.0, "cauchy", 3)
    with pytest.raises(UserError, match="no prior named 'cauchy'"):
        length_of_share(0.5, "cauchy", 3)
