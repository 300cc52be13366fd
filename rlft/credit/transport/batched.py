"""Nearest spans by batched tensor algebra, for a GPU: bounds for all pairs, Sinkhorn with a certificate for few.

Rounds as in `rounds.py`, with `sinkhorn.certified` in place of exact solves and several pairs of every span at a time.
What the tolerance still leaves open at the end, because Sinkhorn's own gap is wider, is solved exactly on the CPU.
Shapes: T, U tokens of the two sides; K, L their spans; n spans or pairs at once, padded to P and Q tokens.
"""

import numpy as np
import torch
from torch import Tensor

from rlft.credit.transport.exact import transport
from rlft.credit.transport.layout import Laid
from rlft.credit.transport.sinkhorn import certified

AT_ONCE = 4
"""Pairs of every span that a round solves."""

CHUNK = {"cuda": 1 << 26, "cpu": 1 << 20}
"""Numbers held at once."""


class Side:
    """One side of a search: the costs with its tokens as rows, its spans, and the least costs found."""

    def __init__(self, cost_TU: Tensor, laid: Laid, best_K: np.ndarray):
        device = cost_TU.device
        self.cost_TU, self.tokens = cost_TU, laid.tokens
        self.start_K, self.end_K = (torch.from_numpy(at).to(device) for at in (laid.start_K, laid.end_K))
        self.size_K = self.end_K - self.start_K
        step_P = torch.arange(int(laid.size_K.max()), device=device)
        self.real_KP = step_P < self.size_K[:, None]
        self.index_KP = torch.minimum(self.start_K[:, None] + step_P, self.end_K[:, None] - 1)
        self.best_K = torch.from_numpy(best_K).to(device)

    def sweep(self, spans_n: Tensor, u_nP: Tensor, other: "Side") -> Tensor:
        """Bounds (n, L) that potentials of these spans give for every opposing span; padding must hold 0."""
        price_nP = u_nP.masked_fill(~self.real_KP[spans_n], -torch.inf)
        step = max(1, CHUNK[u_nP.device.type] // (u_nP.shape[1] * other.tokens))
        least = [
            (self.cost_TU[self.index_KP[part]] - price[:, :, None]).amin(1)
            for part, price in zip(spans_n.split(step), price_nP.split(step), strict=True)
        ]
        total_nU = torch.nn.functional.pad(torch.cat(least).double().cumsum(1), (1, 0))
        mean_nL = (total_nU[:, other.end_K] - total_nU[:, other.start_K]) / other.size_K
        return mean_nL + u_nP.double().sum(1, keepdim=True) / self.size_K[spans_n, None]


def nearest(
    cost_TU: Tensor, one: Laid, other: Laid, best_K: np.ndarray, best_L: np.ndarray, tolerance: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The nearest opposing span of every span of both sides, within a tolerance.

    Args:
        cost_TU: fp32 token distances, on any device.
        one, other: the spans of both sides, at least one each.
        best_K, best_L: least costs known so far; only cheaper pairs are looked for.
        tolerance: largest allowed 1 - bound / cost, above 0.

    Returns:
        Lower bounds (K, L) of the cost of every pair, and the least costs (K,) and (L,), known ones included.
    """
    rows, columns = Side(cost_TU, one, best_K), Side(cost_TU.T.contiguous(), other, best_L)
    everything = [torch.arange(len(side.start_K), device=cost_TU.device) for side in (rows, columns)]
    zeros = [torch.zeros(side.index_KP.shape, device=cost_TU.device) for side in (rows, columns)]
    bound_KL = torch.maximum(
        rows.sweep(everything[0], zeros[0], columns), columns.sweep(everything[1], zeros[1], rows).T
    )
    solved_KL = torch.zeros(bound_KL.shape, dtype=torch.bool, device=cost_TU.device)
    while (open_KL := _open(bound_KL, rows, columns, tolerance) & ~solved_KL).any():
        k, l = _promising(bound_KL, open_KL)  # noqa: E741
        step = max(1, CHUNK[cost_TU.device.type] // (rows.index_KP.shape[1] * columns.index_KP.shape[1]))
        for part_k, part_l in zip(k.split(step), l.split(step), strict=True):
            block_nPQ = cost_TU[rows.index_KP[part_k][:, :, None], columns.index_KP[part_l][:, None, :]]
            lower_n, upper_n, u_nP, v_nQ = certified(block_nPQ, rows.real_KP[part_k], columns.real_KP[part_l])
            bound_KL[part_k, part_l] = torch.maximum(bound_KL[part_k, part_l], lower_n)
            solved_KL[part_k, part_l] = True
            for side, opposite, part, potential, bound in (
                (rows, columns, part_k, u_nP, bound_KL),
                (columns, rows, part_l, v_nQ, bound_KL.T),
            ):
                side.best_K.scatter_reduce_(0, part, upper_n, "amin")
                best = upper_n == side.best_K[part]  # one sweep a span: that of its best pair
                swept = side.sweep(part[best], potential[best], opposite)
                bound.scatter_reduce_(0, part[best, None].expand_as(swept), swept, "amax")
    _settle(cost_TU, one, other, rows, columns, bound_KL, tolerance)
    return bound_KL.cpu().numpy(), (rows.best_K.cpu().numpy(), columns.best_K.cpu().numpy())


def _open(bound_KL: Tensor, rows: Side, columns: Side, tolerance: float) -> Tensor:
    share = 1 - tolerance
    return (bound_KL < rows.best_K[:, None] * share) | (bound_KL < columns.best_K * share)


def _promising(bound_KL: Tensor, open_KL: Tensor) -> tuple[Tensor, Tensor]:
    """The open pairs with the lowest bounds of every span."""
    value_KL = bound_KL.masked_fill(~open_KL, torch.inf)
    chosen_KL = torch.zeros_like(open_KL)
    for axis in (0, 1):
        nearest = value_KL.topk(min(AT_ONCE, value_KL.shape[axis]), dim=axis, largest=False).indices
        chosen_KL.scatter_(axis, nearest, True)
    spans_k, spans_l = (chosen_KL & open_KL).nonzero(as_tuple=True)
    return spans_k, spans_l


def _settle(
    cost_TU: Tensor, one: Laid, other: Laid, rows: Side, columns: Side, bound_KL: Tensor, tolerance: float
) -> None:
    """Solve exactly, on the CPU, the pairs whose own gap is wider than the tolerance, nearest first."""
    left = _open(bound_KL, rows, columns, tolerance).nonzero()
    for k, l in left[bound_KL[left[:, 0], left[:, 1]].argsort()].tolist():  # noqa: E741
        if bound_KL[k, l] < (1 - tolerance) * max(rows.best_K[k], columns.best_K[l]):
            block_NM = cost_TU[one.start_K[k] : one.end_K[k], other.start_K[l] : other.end_K[l]]
            cost = transport(block_NM.cpu().numpy())[0]
            bound_KL[k, l] = cost
            rows.best_K[k].clamp_(max=cost)
            columns.best_K[l].clamp_(max=cost)
