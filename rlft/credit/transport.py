"""Exact 1-Wasserstein distance between token clouds, and the nearest opposing span of every span.

W1 has the Euclidean distance as ground cost and uniform weights (SHEAR, arXiv 2604.23318, eq. 3). The paper
approximates it by Sinkhorn; here it is exact. Shapes: N, M points; H width; K spans of one rollout, L opposing spans.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from rlft.credit.spans import Span

REPLICATE_UP_TO = 256
"""Largest assignment that a pair of unequal spans is blown up to; beyond it the linear programme is faster."""


def distances(x_NH: Tensor, y_MH: Tensor) -> np.ndarray:
    """Euclidean distances between all points, by one centred matrix product in float64.

    Args:
        x_NH: N points.
        y_MH: M points on the same device.

    Returns:
        (N, M) float64 array on the CPU.
    """
    x, y = x_NH.detach().double(), y_MH.detach().double()
    centre_H = torch.cat([x, y]).mean(0)
    x, y = x - centre_H, y - centre_H
    squared_NM = (x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T
    return squared_NM.clamp(min=0).sqrt().cpu().numpy()


def transport_cost(cost_NM: np.ndarray) -> float:
    """Exact optimal transport cost between uniform measures on N and on M points.

    N = M is an assignment problem. Otherwise every point is copied until both sides have lcm(N, M) points, or, if that
    is too many, the linear programme is solved.

    Args:
        cost_NM: ground cost of every pair.

    Returns:
        The cost of the best coupling, in the units of `cost_NM`.
    """
    n, m = cost_NM.shape
    common = math.lcm(n, m)
    if n == m or common <= REPLICATE_UP_TO:
        square = np.repeat(np.repeat(cost_NM, common // n, axis=0), common // m, axis=1)
        rows, columns = linear_sum_assignment(square)
        return float(square[rows, columns].mean())
    row_sums = sparse.kron(sparse.eye_array(n), np.ones((1, m)))
    column_sums = sparse.kron(np.ones((1, n)), sparse.eye_array(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    solution = linprog(cost_NM.ravel(), A_eq=sparse.vstack([row_sums, column_sums]).tocsr(), b_eq=marginals)
    if solution.x is None:
        raise RuntimeError(f"the transport programme of {n} x {m} points was not solved: {solution.message}")
    return float(solution.fun)


def wasserstein(x_NH: Tensor, y_MH: Tensor) -> float:
    """Exact W1 between the uniform measures on two sets of points.

    Args:
        x_NH: N points.
        y_MH: M points.

    Returns:
        W1, in the units of the points.
    """
    return transport_cost(distances(x_NH, y_MH))


def lower_bounds(
    cost_TU: np.ndarray, spans_K: Sequence[Span], spans_L: Sequence[Span]
) -> tuple[np.ndarray, np.ndarray]:
    """Both one-sided relaxed transport costs of every span pair: each point goes to its nearest one opposite.

    Args:
        cost_TU: token-by-token distances of the two sides.
        spans_K: spans along T.
        spans_L: spans along U.

    Returns:
        Two (K, L) arrays; each is a lower bound of W1, and their sum is the Chamfer distance.
    """
    nearest_TL = np.stack([cost_TU[:, a:b].min(1) for a, b in spans_L], 1)
    nearest_KU = np.stack([cost_TU[a:b].min(0) for a, b in spans_K], 0)
    forward_KL = np.stack([nearest_TL[a:b].mean(0) for a, b in spans_K], 0)
    backward_KL = np.stack([nearest_KU[:, a:b].mean(1) for a, b in spans_L], 1)
    return forward_KL, backward_KL


def nearest_wasserstein(cost_TU: np.ndarray, spans_K: Sequence[Span], spans_L: Sequence[Span]) -> np.ndarray:
    """W1 from each of K spans to its nearest among L opposing spans, exactly.

    Candidates are tried in the order of their lower bound; the search ends when the next bound cannot beat the best
    cost found (prefetch and prune, Kusner et al. 2015).

    Args:
        cost_TU: token-by-token distances of the two sides.
        spans_K: spans along T.
        spans_L: spans along U, at least one.

    Returns:
        (K,) minima.
    """
    bound_KL = np.maximum(*lower_bounds(cost_TU, spans_K, spans_L))
    best_K = np.full(len(spans_K), np.inf)
    for k, (a, b) in enumerate(spans_K):
        for candidate in np.argsort(bound_KL[k]):
            if bound_KL[k, candidate] >= best_K[k]:
                break
            c, d = spans_L[candidate]
            best_K[k] = min(best_K[k], transport_cost(cost_TU[a:b, c:d]))
    return best_K
