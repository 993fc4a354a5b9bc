from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn

from napari_histolatent.models._dcgan_family import build
from napari_histolatent.models._norm import GatheredBatchNorm2d

SPLIT = (3, 5)
"""Samples in each of the two processes."""
NETWORKS = [(design, classes) for design in ("modern", "s1") for classes in (("a", "b"), ())]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def a_batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images far from 0, whose two parts differ, and weights of the result."""
    x = normal(sum(SPLIT), 4, 6, 5, seed=1, dtype=dtype) * 3 + 20
    x[SPLIT[0] :] *= 0.5
    return x, normal(*x.shape, seed=2, dtype=dtype)


def part(x: torch.Tensor, rank: int | None, split: tuple[int, int] = SPLIT) -> torch.Tensor:
    return x if rank is None else x.split(list(split))[rank]


def made(kind: type[nn.BatchNorm2d], **options: Any) -> nn.BatchNorm2d:
    norm = kind(4, **options)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(normal(4, seed=3))
            norm.bias.copy_(normal(4, seed=4))
    return norm


def used(norm: nn.BatchNorm2d, rank: int | None) -> dict[str, torch.Tensor]:
    """Return all that comes of two training passes over (a part of) the batch."""
    batch, weights = a_batch()
    x = part(batch, rank).clone().requires_grad_()
    norm(part(batch, rank) * 0.7 - 1)
    out = norm(x)
    (out * part(weights, rank)).sum().backward()
    assert x.grad is not None
    found = {"out": out.detach(), "x.grad": x.grad}
    found |= {name: p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return found | {name: value.clone().float() for name, value in norm.named_buffers()}


def second_gradient(norm: nn.BatchNorm2d, rank: int | None) -> torch.Tensor:
    batch, weights = a_batch(torch.float64)
    x = part(batch, rank).clone().requires_grad_()
    loss = (norm(x).pow(3) * part(weights, rank)).sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad is not None
    return x.grad


def trained(design: str, classes: tuple[str, ...], rank: int | None) -> dict[str, torch.Tensor]:
    """Return images, scores and gradients of a generator's loss, of a batch of 8 or of a half."""
    torch.manual_seed(0)
    generator, discriminator = build(classes=classes, size_px=16, design=design, z_dim=5, base_channels=4)
    assert isinstance(generator, nn.Module)
    assert isinstance(discriminator, nn.Module)
    z = part(normal(8, 5, seed=5), rank, (4, 4))
    y = part(torch.eye(2)[torch.arange(8) % 2][:, : len(classes)], rank, (4, 4))
    images = generator.synthesize(generator.map(z, y))
    scores = discriminator(images, y)
    nn.functional.softplus(-scores).sum().backward()
    found = {"images": images.detach(), "scores": scores.detach()}
    for network in (generator, discriminator):
        name = type(network).__name__
        found |= {f"{name}.{k}.grad": p.grad for k, p in network.named_parameters() if p.grad is not None}
        found |= {f"{name}.{k}": value.float() for k, value in network.named_buffers()}
    return found


def all_of_it(rank: int | None) -> dict[str, Any]:
    kind = nn.BatchNorm2d if rank is None else GatheredBatchNorm2d
    found: dict[str, Any] = {
        "plain": used(made(kind), rank),
        "without affine": used(made(kind, affine=False), rank),
        "momentum None": used(made(kind, momentum=None), rank),
        "momentum 0.3": used(made(kind, momentum=0.3), rank),
        "without statistics": used(made(kind, track_running_stats=False), rank),
        "second": second_gradient(made(kind).double(), rank),
        "bfloat16": made(kind)(part(a_batch()[0], rank).bfloat16()),
    }
    return found | {
        f"{design} {len(classes)}": trained(design, classes, rank) for design, classes in NETWORKS
    }


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = all_of_it(rank)
    alone = made(GatheredBatchNorm2d)
    alone.gathers = False
    if rank == 0:  # nobody answers
        found["alone"] = used(alone, rank)
        found["evaluation"] = made(GatheredBatchNorm2d).eval()(a_batch()[0])
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, each with its part of the batch."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """What one process finds with the whole batch, by torch's own normalisation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = all_of_it(None)
    torch.set_num_threads(threads)
    return found


def together(name: str, values: list[torch.Tensor]) -> torch.Tensor:
    """Return parts one after the other, gradients of weights added up, and statistics as they are in both."""
    if name in {"out", "x.grad", "images", "scores"}:
        return torch.cat(values)
    if name.endswith("grad") or name in {"weight", "bias"}:
        return values[0] + values[1]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    return values[0]


@pytest.mark.parametrize(
    "case", ["plain", "without affine", "momentum None", "momentum 0.3", "without statistics"]
)
def test_two_processes_find_what_one_does(both: list[dict[str, Any]], one: dict[str, Any], case: str) -> None:
    assert {"out", "x.grad"} <= set(one[case]) == set(both[0][case])
    for name, expected in one[case].items():
        found = together(name, [result[case][name] for result in both])
        # Weights' gradients are sums over 240 values of about 1.
        loose = 1e-5 if name in {"weight", "bias"} else 1e-6
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=loose, msg=lambda m, n=name: f"{n}: {m}")


def test_second_gradients_pass_through_both(both: list[dict[str, Any]], one: dict[str, Any]) -> None:
    found = torch.cat([result["second"] for result in both])
    assert float(one["second"].abs().max()) > 0.1
    torch.testing.assert_close(found, one["second"], rtol=1e-6, atol=1e-6)


def test_half_precision_stays_half_precision(both: list[dict[str, Any]], one: dict[str, Any]) -> None:
    found = torch.cat([result["bfloat16"] for result in both])
    assert found.dtype == one["bfloat16"].dtype == torch.bfloat16
    # One in 2^8, of values up to about 5.
    torch.testing.assert_close(found, one["bfloat16"], rtol=0.01, atol=0.02)


@pytest.mark.parametrize("case", [f"{design} {len(classes)}" for design, classes in NETWORKS])
def test_both_designs_train_in_two_processes_as_in_one(
    both: list[dict[str, Any]], one: dict[str, Any], case: str
) -> None:
    assert set(one[case]) == set(both[0][case])
    for name, expected in one[case].items():
        found = together(name, [result[case][name] for result in both])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_one_that_does_not_gather_is_alone(both: list[dict[str, Any]]) -> None:
    expected = used(made(nn.BatchNorm2d), 0)
    for name, value in both[0]["alone"].items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


def test_in_use_nobody_is_asked(both: list[dict[str, Any]]) -> None:
    expected = made(nn.BatchNorm2d).eval()(a_batch()[0])
    torch.testing.assert_close(both[0]["evaluation"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
)
def test_in_one_process_it_is_torchs_bit_for_bit(options: dict[str, Any]) -> None:
    ours, theirs = made(GatheredBatchNorm2d, **options), made(nn.BatchNorm2d, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    expected = used(theirs, None)
    for name, value in used(ours, None).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    x = a_batch()[0]
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)
