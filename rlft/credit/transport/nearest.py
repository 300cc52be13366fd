"""Exact or certified W1 from every span of both sides of a group to its nearest span on the other side.

All span costs are windows of one matrix of token distances. Four solvers search it: `compiled` (numba), `rounds` (NumPy
and SciPy), and `batched` (torch, for a GPU, certified only); which one is used depends on where the states lie, on the
tolerance and on how much this process has searched so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from rlft.credit.spans import Span
from rlft.credit.transport import batched, rounds
from rlft.credit.transport.costs import coupling_costs, distances
from rlft.credit.transport.layout import Laid, Matched, strips

MEMORY = 2 << 30
"""Bytes that distance matrices may take at a time; larger groups are searched in strips of rollouts."""

NUMBA_FROM = 1 << 22
"""Token pairs after which a process loads the compiled solver: about two seconds of SciPy, which loading takes too."""

SOLVERS = ("auto", "scipy", "numba", "torch")

_searched_pairs = 0


@dataclass(frozen=True)
class NearestSpans:
    """W1 from each of K spans to its nearest opposing span.

    Attributes:
        minima_K: the W1 that was found: the minimum, or with a tolerance at most 1 / (1 - tolerance) times it.
        lower_K: certified lower bounds of the minimum; with tolerance 0 they equal `minima_K`, but for the rounding of
            fp32 distances (1e-6).
    """

    minima_K: np.ndarray
    lower_K: np.ndarray


def nearest_spans(
    states_A: Sequence[Tensor],
    states_B: Sequence[Tensor],
    spans_A: Sequence[Sequence[Span]],
    spans_B: Sequence[Sequence[Span]],
    *,
    tolerance: float = 0.0,
    solver: str = "auto",
    memory: int = MEMORY,
) -> tuple[NearestSpans, NearestSpans]:
    """W1 (arXiv 2604.23318, eq. 3, 4) from every span of each side to its nearest span on the other side.

    Args:
        states_A: states (T_i, H) of the rollouts of one side, at least one of them not empty.
        states_B: those of the other side, on the same device.
        spans_A: the spans [start, end) of each of these rollouts, the last of which ends with it.
        spans_B: those of the other side.
        tolerance: 0 for exact minima; else the largest allowed 1 - lower / minimum, below 1.
        solver: `scipy`, `numba`, `torch`, or `auto`: torch for states on a GPU if `tolerance` is above 0, else numba if
            it is installed and the token pairs this process has searched reach `NUMBA_FROM`, else scipy.
        memory: bytes for distance matrices; above it the group is searched in strips of rollouts.

    Returns:
        The result of either side, its spans in order.

    Raises:
        ValueError: if the tolerance is outside [0, 1), the solver is unknown, or torch is asked for exact minima.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance} must lie in [0, 1); 0 means exact.")
    if solver == "torch" and tolerance == 0:
        raise ValueError("solver='torch' certifies a tolerance and needs tolerance > 0; scipy and numba are exact.")
    lengths_A, lengths_B = ([len(states_TH) for states_TH in side] for side in (states_A, states_B))
    solver = _choose(solver, states_A[0].is_cuda, tolerance, sum(lengths_A) * sum(lengths_B))
    minima = [np.full(sum(map(len, spans)), np.inf) for spans in (spans_A, spans_B)]
    lower = [minimum_K.copy() for minimum_K in minima]
    offsets = [np.cumsum([0, *map(len, spans)]) for spans in (spans_A, spans_B)]
    for chosen in strips(lengths_A, lengths_B, memory):
        one, other = (Laid.of(spans[part]) for spans, part in zip((spans_A, spans_B), chosen, strict=True))
        x_TH, y_UH = (torch.cat(list(side[part])) for side, part in zip((states_A, states_B), chosen, strict=True))
        mine = [slice(at[part.start], at[part.stop]) for at, part in zip(offsets, chosen, strict=True)]
        if not len(one.start_K) or not len(other.start_K):
            continue
        best = [minimum[part] for minimum, part in zip(minima, mine, strict=True)]
        cost_TU = distances(x_TH, y_UH)
        if solver == "torch":
            bound_KL, (best[0][:], best[1][:]) = batched.nearest(cost_TU, one, other, best[0], best[1], tolerance)
        else:
            bound_KL, matched = _search(solver, cost_TU.cpu().numpy(), one, other, best[0], best[1], tolerance)
            cost_C = coupling_costs(x_TH, y_UH, matched)
            np.minimum.at(best[0], matched.k_C, cost_C)
            np.minimum.at(best[1], matched.l_C, cost_C)
        np.minimum(lower[0][mine[0]], bound_KL.min(1), out=lower[0][mine[0]])
        np.minimum(lower[1][mine[1]], bound_KL.min(0), out=lower[1][mine[1]])
    pairs = [NearestSpans(least, np.minimum(bound, least)) for least, bound in zip(minima, lower, strict=True)]
    return pairs[0], pairs[1]


def _choose(solver: str, on_gpu: bool, tolerance: float, pairs: int) -> str:
    global _searched_pairs
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is not one of {', '.join(SOLVERS)}.")
    if solver != "auto":
        return solver
    if on_gpu and tolerance > 0:
        return "torch"
    _searched_pairs += pairs
    return "numba" if _searched_pairs >= NUMBA_FROM and find_spec("numba") else "scipy"


def _search(
    solver: str,
    cost_TU: np.ndarray,
    one: Laid,
    other: Laid,
    best_K: np.ndarray,
    best_L: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, Matched]:
    if solver == "scipy":
        return rounds.nearest(cost_TU, one, other, best_K, best_L, tolerance)
    from rlft.credit.transport import compiled  # numba need not be installed

    return compiled.nearest(cost_TU, one, other, best_K, best_L, float(tolerance), threads=torch.get_num_threads())
