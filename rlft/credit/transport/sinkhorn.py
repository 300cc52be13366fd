"""Entropic transport for many span pairs at once, with a certified bound of W1 on either side.

Annealed Sinkhorn scaling in the kernel domain, potentials absorbed as epsilon falls (Cuturi 2013; Schmitzer 2019).
Its plan, rounded to the right marginals (Altschuler et al. 2017), costs at least W1; its potentials, made feasible by
c-transforms, are worth at most W1. Shapes: n pairs, padded to P and Q tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SCALES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.0025)
"""Epsilons of the certified solve, in units of a pair's mean cost: the gap it leaves is about half a per cent."""

STAGE = 10
"""Iterations at every epsilon of the certified solve."""

TINY = 1e-30


def certified(cost_nPQ: Tensor, real_nP: Tensor, real_nQ: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bounds of W1 for n pairs of uniform measures.

    Args:
        cost_nPQ: fp32 ground costs, any finite value on padding.
        real_nP: which rows are not padding.
        real_nQ: which columns are not padding.

    Returns:
        Lower and upper bounds (n,) float64, and the potentials (n, P) and (n, Q) behind the lower ones, 0 on padding.
    """
    pairs_nPQ = real_nP[:, :, None] & real_nQ[:, None, :]
    mean_n = (cost_nPQ * pairs_nPQ).sum((1, 2)) / pairs_nPQ.sum((1, 2))
    plan_nPQ, g_nQ = scaled(cost_nPQ, real_nP, real_nQ, [mean_n * scale for scale in SCALES], STAGE)
    u_nP = (cost_nPQ - g_nQ[:, None, :]).masked_fill(~real_nQ[:, None, :], torch.inf).amin(2).where(real_nP, 0.0)
    v_nQ = (cost_nPQ - u_nP[:, :, None]).masked_fill(~real_nP[:, :, None], torch.inf).amin(1).where(real_nQ, 0.0)
    lower_n = u_nP.double().sum(1) / real_nP.sum(1) + v_nQ.double().sum(1) / real_nQ.sum(1)
    return lower_n, plan_cost(plan_nPQ, cost_nPQ, real_nP, real_nQ), u_nP, v_nQ


def scaled(
    cost_nPQ: Tensor, real_nP: Tensor, real_nQ: Tensor, epsilons: Sequence[Tensor], iterations: int
) -> tuple[Tensor, Tensor]:
    """Sinkhorn's plan and column potentials after `iterations` at each epsilon in turn.

    Args:
        cost_nPQ, real_nP, real_nQ: as in `certified`.
        epsilons: the regularisers, each (n,), in units of the cost.
        iterations: row and column scalings at each.

    Returns:
        Plan (n, P, Q), whose column sums are right, and potentials (n, Q).
    """
    a_nP, b_nQ = real_nP / real_nP.sum(1, keepdim=True), real_nQ / real_nQ.sum(1, keepdim=True)
    outside_nPQ = ~(real_nP[:, :, None] & real_nQ[:, None, :])
    g_nQ = torch.zeros_like(b_nQ)
    for epsilon_n in epsilons:
        # with the least cost of every row at 0, no row of the kernel can underflow
        exponent_nPQ = (g_nQ[:, None, :] - cost_nPQ).masked_fill_(outside_nPQ, -torch.inf)
        exponent_nPQ -= exponent_nPQ.amax(2, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
        kernel_nPQ = exponent_nPQ.div_(epsilon_n[:, None, None].clamp(min=TINY)).exp_()
        q_nQ1 = torch.ones_like(b_nQ)[:, :, None]
        for _ in range(iterations):
            p_nP1 = a_nP[:, :, None] / (kernel_nPQ @ q_nQ1).clamp_(min=TINY)
            q_nQ1 = b_nQ[:, :, None] / (kernel_nPQ.mT @ p_nP1).clamp_(min=TINY)
        g_nQ = g_nQ + epsilon_n[:, None] * q_nQ1[:, :, 0].clamp(min=TINY).log()
    return kernel_nPQ.mul_(p_nP1).mul_(q_nQ1.mT), g_nQ


def plan_cost(plan_nPQ: Tensor, cost_nPQ: Tensor, real_nP: Tensor, real_nQ: Tensor) -> Tensor:
    """Cost (n,), float64, of plans made exact: rows and columns cut down to their mass, the rest spread evenly."""
    a_nP, b_nQ = real_nP / real_nP.sum(1, keepdim=True), real_nQ / real_nQ.sum(1, keepdim=True)
    plan_nPQ = plan_nPQ * (a_nP / plan_nPQ.sum(2).clamp(min=TINY)).clamp(max=1)[:, :, None]
    plan_nPQ = plan_nPQ * (b_nQ / plan_nPQ.sum(1).clamp(min=TINY)).clamp(max=1)[:, None, :]
    short_nP, short_nQ = (a_nP - plan_nPQ.sum(2)).clamp(min=0), (b_nQ - plan_nPQ.sum(1)).clamp(min=0)
    total_n = short_nP.sum(1).clamp(min=TINY)
    spread_n = (short_nP[:, None, :] @ cost_nPQ @ short_nQ[:, :, None])[:, 0, 0] / total_n
    return (plan_nPQ * cost_nPQ).sum((1, 2), dtype=torch.float64) + spread_n.double()
