from __future__ import annotations

from itertools import pairwise

import torch

from napari_histolatent.latent._lbfgs import minimise


def valley(x: torch.Tensor) -> torch.Tensor:
    """Rosenbrock's, lowest (0) at (1, 1)."""
    return 100 * (x[:, 1] - x[:, 0] ** 2) ** 2 + (1 - x[:, 0]) ** 2


def test_each_row_finds_its_lowest_point() -> None:
    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, 2.0]])
    x, loss = minimise(valley, start, steps=80)
    assert torch.allclose(x, torch.ones(3, 2), atol=1e-2)
    assert float(loss.max()) < 1e-4
    assert torch.equal(start, torch.tensor([[-1.2, 1.0], [0.0, 0.0], [2.0, 2.0]]))


def test_a_row_does_not_depend_on_the_others() -> None:
    start = torch.tensor([[-1.2, 1.0], [30.0, -7.0]])
    together, _ = minimise(valley, start, steps=12)
    alone, _ = minimise(valley, start[:1], steps=12)
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_it_never_goes_up() -> None:
    start = torch.tensor([[-1.2, 1.0], [4.0, -3.0]])
    losses = [minimise(valley, start, steps=n)[1] for n in range(1, 12)]
    assert all((after <= before + 1e-6).all() for before, after in pairwise(losses))


def test_a_wide_bowl_takes_few_steps() -> None:
    scales = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    _, loss = minimise(lambda x: (scales * x.square()).sum(1), torch.ones(1, 4), steps=25)
    assert float(loss) < 1e-5


def test_it_stops_when_asked() -> None:
    calls = 0

    def loss_of(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return valley(x)

    x, _ = minimise(loss_of, torch.zeros(1, 2), steps=50, should_stop=lambda: True)
    assert calls == 1
    assert torch.equal(x, torch.zeros(1, 2))


def test_a_start_at_the_lowest_point_stays() -> None:
    x, loss = minimise(valley, torch.ones(1, 2), steps=5)
    assert torch.equal(x, torch.ones(1, 2))
    assert float(loss) == 0


def test_a_cliff_is_not_jumped_off() -> None:
    def loss_of(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0] > 0, torch.nan, (x[:, 0] + 1).square() + x[:, 1].square())

    x, loss = minimise(loss_of, torch.tensor([[-0.05, 3.0]]), steps=20)
    assert bool(torch.isfinite(loss).all())
    assert float(x[0, 0]) <= 0
