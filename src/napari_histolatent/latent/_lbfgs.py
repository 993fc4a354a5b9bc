"""L-BFGS for many small problems at once: each row of a batch has its own memory and its own step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_MEMORY = 10
_TRIALS = 6
_SUFFICIENT = 1e-4
_SHRINK = 0.4
_FIRST_REACH = 0.5
"""Length of a step of which nothing is known yet."""
_AGREEING = 1e-6
"""Least cosine between a move and the change of slope along it, for the two to say anything of a minimum."""


def minimise(
    loss_of: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the lowest point of each row, and its loss.

    Two-loop recursion (Nocedal & Wright 2006, algorithm 7.4) and backtracking to a sufficient decrease (theirs,
    equation 3.4). torch's own has one step length for a whole batch: a row would depend on its neighbours.

    Parameters
    ----------
    loss_of
        Losses (B,) of rows (B, n), each of its row alone; differentiable.
    start
        Shape (B, n).
    steps
        Most iterations; each evaluates `loss_of` once, and again as often as a row's step has to be shortened.
    should_stop
        Asked each iteration.
    """
    x = start.detach().clone()
    loss, slope = _evaluated(loss_of, x)
    moves: list[Tensor] = []
    turns: list[Tensor] = []
    reach = torch.full_like(loss, _FIRST_REACH)
    for _ in range(steps):
        if should_stop and should_stop():
            break
        product, knows = _inverse_hessian_times(slope, moves, turns)
        direction = -product
        descent = (direction * slope).sum(1)
        # Where rounding has made it point upwards, the slope itself does.
        uphill = descent >= 0
        direction = torch.where(uphill[:, None], -slope, direction)
        descent = torch.where(uphill, -slope.square().sum(1), descent)
        first = (reach / direction.norm(dim=1).clamp_min(1e-12)).clamp_max(1.0)
        length = torch.where(knows & ~uphill, torch.ones_like(loss), first)
        accepted = torch.zeros_like(uphill)
        for trial in range(_TRIALS):
            at = x + length[:, None] * direction
            with torch.enable_grad():
                leaf = at.detach().requires_grad_(True)
                found = loss_of(leaf)
            accepted = found.detach() <= loss + _SUFFICIENT * length * descent  # false of what is no number
            if bool(accepted.all()):
                break
            # A row that finds no lower place stays where it is.
            shorter = length * _SHRINK if trial < _TRIALS - 2 else torch.zeros_like(length)
            length = torch.where(accepted, length, shorter)
        (new_slope,) = torch.autograd.grad(found.sum(), leaf)
        moves.append(leaf.detach() - x)
        turns.append(new_slope - slope)
        # Where no step led down, what was learnt misleads: the row begins again, and more carefully.
        stuck = length == 0
        reach = torch.where(stuck, 0.1 * reach, reach)
        moves = [move.masked_fill(stuck[:, None], 0) for move in moves[-_MEMORY:]]
        turns = [turn.masked_fill(stuck[:, None], 0) for turn in turns[-_MEMORY:]]
        x, loss, slope = leaf.detach(), found.detach(), new_slope
    return x, loss


def _evaluated(loss_of: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        loss = loss_of(leaf)
        (slope,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), slope


def _inverse_hessian_times(slope: Tensor, moves: list[Tensor], turns: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the product of each row's approximate inverse Hessian with its slope, (B, n), and whether it knows one."""
    result = slope.clone()
    knows = torch.zeros(len(slope), dtype=torch.bool, device=slope.device)
    scale = torch.ones_like(slope[:, 0])
    factors: list[tuple[Tensor, Tensor]] = []
    for move, turn in zip(reversed(moves), reversed(turns), strict=True):
        product = (move * turn).sum(1)
        says = product > _AGREEING * move.norm(dim=1) * turn.norm(dim=1)
        safe = torch.where(says, product, torch.ones_like(product))
        inverse = torch.where(says, 1 / safe, torch.zeros_like(product))
        along = inverse * (move * result).sum(1)
        result = result - along[:, None] * turn
        factors.append((inverse, along))
        # The newest pair that says something sets the scale.
        newest = says & ~knows
        scale = torch.where(newest, product / turn.square().sum(1).clamp_min(1e-30), scale)
        knows |= says
    result = result * scale[:, None]
    for (move, turn), (inverse, along) in zip(zip(moves, turns, strict=True), reversed(factors), strict=True):
        across = inverse * (turn * result).sum(1)
        result = result + (along - across)[:, None] * move
    return result, knows
