"""Batch normalisation whose statistics are those of the whole batch, where several processes share it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn

if TYPE_CHECKING:
    from torch import Tensor


class GatheredBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batch of all processes (Ioffe & Szegedy 2015, algorithm 1).

    In one process, in evaluation mode, and where `gathers` is False, it is `nn.BatchNorm2d` bit for bit; the
    state dict is the same always. Otherwise mean and variance are those of the batches of all processes taken
    together, and gradients (second ones too) pass through them to every process. `nn.SyncBatchNorm` does this
    on GPUs only.

    Then every process has to call it, as often as the others, with at least one sample each; the batches may
    differ in size. For a network that only some of the processes run (a moving average that the first one
    samples from), set `gathers` to False.
    """

    gathers: bool = True
    """Whether other processes' batches count."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W); of the same dtype."""
        by_batch = self.training or self.running_mean is None
        if not (self.gathers and by_batch and _world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, count = _statistics_of_all(input)
        if self.training and self.track_running_stats:
            self._remember(mean.detach(), variance.detach(), count.detach())
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.weight is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        # Float32 times half precision is float32: what goes on has the dtype of what came, as in nn.BatchNorm2d.
        return (input * scale[:, None, None] + shift[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics as `nn.BatchNorm2d` does: the variance without bias, momentum None a mean."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1)).to(variance.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def _statistics_of_all(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and count (scalar) over the (B, C, H, W) of all processes.

    One sum over processes carries all three. Local moments are float32 (or more); what is added up is float64,
    in which the difference of E[x^2] and the squared mean keeps its digits.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    variance, mean = torch.var_mean(x.to(dtype), dim=(0, 2, 3), correction=0)
    mean, variance = mean.double(), variance.double()
    n = x.numel() // x.shape[1]
    moments = _sum_over_processes(torch.cat([mean * n, (variance + mean.square()) * n, mean.new_tensor([n])]))
    count = moments[-1].detach()
    mean, square = (moments[:-1] / count).chunk(2)
    return mean.to(dtype), (square - mean.square()).clamp_min(0).to(dtype), count


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce, whose gradient is another; torch.distributed.nn.functional's is deprecated since torch 2.13."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _sum_over_processes(gradient.contiguous())


def _sum_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total


def _world_size() -> int:
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()
