"""Distance from every span to its nearest span on the other side, for both sides of a group at once.

`wasserstein` is SHEAR's, exact or certified; `chamfer`, `mmd` and `cosine` are those of the paper's ablation (arXiv
2604.23318, section 5.4.1), and `sinkhorn` is the approximation that the paper itself uses (App. B). Shapes: T, U tokens
of the two sides laid end to end; H hidden width; K, L their spans.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rlft.credit.options import DISTANCES
from rlft.credit.spans import Span
from rlft.credit.transport import distances, nearest_spans
from rlft.credit.transport.layout import Laid, strips
from rlft.credit.transport.nearest import MEMORY
from rlft.credit.transport.sinkhorn import plan_cost, scaled

Spans = Sequence[Sequence[Span]]
"""The spans of each rollout of a side."""

Nearest = Callable[[Sequence[Tensor], Sequence[Tensor], Spans, Spans], tuple[np.ndarray, np.ndarray]]
Table = Callable[[Tensor, Tensor, Laid, Laid], np.ndarray]

UNITLESS = frozenset({"mmd", "cosine"})
"""Distances that do not change when all states are scaled."""

THINNED_TOKENS = 2048
"""Tokens used for the typical distance inside a group; longer groups are thinned evenly."""

SINKHORN_EPSILON = 0.05
"""Regulariser of the `sinkhorn` distance, in units of the mean distance between tokens of the group."""

SINKHORN_ITERATIONS = 100
CHUNK = 1 << 22
"""Numbers in batched blocks that are held at once."""


def wasserstein_nearest(
    states_A: Sequence[Tensor], states_B: Sequence[Tensor], spans_A: Spans, spans_B: Spans, *, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """W1 to the nearest opposing span, (K,) and (L,); see `nearest_spans`."""
    one, other = nearest_spans(states_A, states_B, spans_A, spans_B, tolerance=tolerance)
    return one.minima_K, other.minima_K


def chamfer_table(x_TH: Tensor, y_UH: Tensor, one: Laid, other: Laid) -> np.ndarray:
    """Chamfer distance (both one-sided mean nearest-token distances added) of all span pairs, (K, L)."""
    cost_TU = distances(x_TH, y_UH).cpu().numpy()
    return one.means(_window_minima(cost_TU.T, other)).T + other.means(_window_minima(cost_TU, one))


def cosine_table(x_TH: Tensor, y_UH: Tensor, one: Laid, other: Laid) -> np.ndarray:
    """One minus the cosine of the span means, of all span pairs, (K, L)."""
    mean_KH, mean_LH = (
        laid.means(states.detach().double().cpu().numpy().T).T for states, laid in ((x_TH, one), (y_UH, other))
    )
    norms_KL = np.linalg.norm(mean_KH, axis=1)[:, None] * np.linalg.norm(mean_LH, axis=1)[None]
    return 1 - mean_KH @ mean_LH.T / np.maximum(norms_KL, np.finfo(float).tiny)


def mmd_table(x_TH: Tensor, y_UH: Tensor, one: Laid, other: Laid, *, bandwidth: float) -> np.ndarray:
    """Maximum mean discrepancy of all span pairs, (K, L), under the kernel exp(-d^2 / (2 bandwidth^2))."""
    x_TH, y_UH = x_TH.detach().double() / bandwidth, y_UH.detach().double() / bandwidth
    across_KL = one.means(other.means(_kernel(x_TH, y_UH).cpu().numpy()).T).T
    within_K, within_L = _within(x_TH, one), _within(y_UH, other)
    return np.sqrt(np.maximum(within_K[:, None] + within_L - 2 * across_KL, 0))


def sinkhorn_table(x_TH: Tensor, y_UH: Tensor, one: Laid, other: Laid, *, epsilon: float) -> np.ndarray:
    """Cost of Sinkhorn's plan, made exact, of all span pairs, (K, L): undebiased and at least W1 (paper, App. B)."""
    cost_TU = distances(x_TH, y_UH)
    (row_KP, real_KP), (column_LQ, real_LQ) = (_padded(laid, cost_TU.device) for laid in (one, other))
    table = torch.empty(len(row_KP) * len(column_LQ), dtype=torch.float64)
    step = max(1, CHUNK // (row_KP.shape[1] * column_LQ.shape[1]))
    for pairs in torch.arange(len(table)).split(step):
        k, l = pairs // len(column_LQ), pairs % len(column_LQ)  # noqa: E741
        block_nPQ = cost_TU[row_KP[k][:, :, None], column_LQ[l][:, None, :]]
        epsilon_n = torch.full((len(pairs),), epsilon, device=cost_TU.device)
        plan_nPQ, _ = scaled(block_nPQ, real_KP[k], real_LQ[l], [epsilon_n], SINKHORN_ITERATIONS)
        table[pairs] = plan_cost(plan_nPQ, block_nPQ, real_KP[k], real_LQ[l]).cpu()
    return table.reshape(len(row_KP), len(column_LQ)).numpy()


def nearest_by(distance: str, hidden: Sequence[Tensor], tolerance: float = 0.0) -> Nearest:
    """The distance called `distance`, with what it shares over one group already computed.

    Args:
        distance: one of `DISTANCES`.
        hidden: the states (T_i, H) of the whole group; `mmd` and `sinkhorn` take their scale from them.
        tolerance: of `wasserstein`; see `nearest_spans`.

    Returns:
        A function (states and spans of each side's rollouts) -> ((K,), (L,)) distances to the nearest opposing span.

    Raises:
        ValueError: if the name is unknown.
    """
    if distance == "wasserstein":
        return partial(wasserstein_nearest, tolerance=tolerance)
    if distance == "mmd":
        return _nearest_in(partial(mmd_table, bandwidth=_typical(hidden, np.median)))
    if distance == "sinkhorn":
        return _nearest_in(partial(sinkhorn_table, epsilon=SINKHORN_EPSILON * _typical(hidden, np.mean)))
    named: dict[str, Table] = {"chamfer": chamfer_table, "cosine": cosine_table}
    if distance not in named:
        raise ValueError(f"distance={distance!r} is not one of {', '.join(DISTANCES)}.")
    return _nearest_in(named[distance])


def _nearest_in(table: Table) -> Nearest:
    """Row and column minima of a table of all span pairs, made in strips of rollouts where the group is large."""

    def nearest(
        states_A: Sequence[Tensor], states_B: Sequence[Tensor], spans_A: Spans, spans_B: Spans
    ) -> tuple[np.ndarray, np.ndarray]:
        offsets = [np.cumsum([0, *map(len, spans)]) for spans in (spans_A, spans_B)]
        least_K, least_L = (np.full(offset[-1], np.inf) for offset in offsets)
        for a, b in strips([len(h) for h in states_A], [len(h) for h in states_B], MEMORY):
            one, other = Laid.of(spans_A[a]), Laid.of(spans_B[b])
            if len(one.start_K) and len(other.start_K):
                table_KL = table(torch.cat(list(states_A[a])), torch.cat(list(states_B[b])), one, other)
                for least, offset, part, axis in ((least_K, offsets[0], a, 1), (least_L, offsets[1], b, 0)):
                    mine = slice(offset[part.start], offset[part.stop])
                    least[mine] = np.minimum(least[mine], table_KL.min(axis))
        return least_K, least_L

    return nearest


def _window_minima(cost_TU: np.ndarray, laid: Laid) -> np.ndarray:
    """Minimum over the rows of every span, (K, U): over the stretches between span borders, then over each span's."""
    cuts, first_K, last_K = laid.cuts()
    stretch_SU = np.minimum.reduceat(cost_TU, cuts[:-1], axis=0)
    least_KU = stretch_SU[first_K]
    for step in range(1, int((last_K - first_K).max())):
        more = first_K + step < last_K
        least_KU[more] = np.minimum(least_KU[more], stretch_SU[first_K[more] + step])
    return least_KU


def _padded(laid: Laid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token numbers (K, P) of every span, its last one repeated, and which are real."""
    start_K, end_K = torch.from_numpy(laid.start_K).to(device), torch.from_numpy(laid.end_K).to(device)
    index_KP = start_K[:, None] + torch.arange(int(laid.size_K.max()), device=device)
    return torch.minimum(index_KP, end_K[:, None] - 1), index_KP < end_K[:, None]


def _kernel(x_NH: Tensor, y_MH: Tensor) -> Tensor:
    """exp(-d^2 / 2) between float64 points, (..., N, M); with batches of points, batch by batch."""
    centre_H = x_NH.mean(-2, keepdim=True)
    x_NH, y_MH = x_NH - centre_H, y_MH - centre_H
    squared_NM = (x_NH**2).sum(-1)[..., :, None] + (y_MH**2).sum(-1)[..., None, :] - 2 * x_NH @ y_MH.mT
    return squared_NM.clamp_(min=0).mul_(-0.5).exp_()


def _within(states_TH: Tensor, laid: Laid) -> np.ndarray:
    """Mean kernel inside every span, (K,)."""
    index_KP, real_KP = _padded(laid, states_TH.device)
    weight_KP = real_KP / real_KP.sum(1, keepdim=True).double()
    step = max(1, CHUNK // (index_KP.shape[1] * max(index_KP.shape[1], states_TH.shape[1])))
    means = [
        (weight[:, None, :] @ _kernel(states_TH[index], states_TH[index]) @ weight[:, :, None])[:, 0, 0]
        for index, weight in zip(index_KP.split(step), weight_KP.split(step), strict=True)
    ]
    return torch.cat(means).cpu().numpy()


def _typical(hidden: Sequence[Tensor], average: Callable[[np.ndarray], float]) -> float:
    """The median or mean distance between tokens of a group."""
    tokens_NH = torch.cat(list(hidden))
    thinned = tokens_NH[:: 1 + len(tokens_NH) // THINNED_TOKENS]
    pairs = distances(thinned, thinned).cpu().numpy()[np.triu_indices(len(thinned), 1)]
    return float(average(pairs)) or 1.0 if len(pairs) else 1.0  # all tokens alike: any scale gives distance 0
