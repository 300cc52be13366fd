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

from rlft.credit.spans import Span, averaging

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


def transport(cost_NM: np.ndarray) -> tuple[float, np.ndarray | None]:
    """Exact optimal transport between uniform measures on N and on M points.

    N = M is an assignment problem. Otherwise every point is copied until both sides have lcm(N, M) points, or, if that
    is too many, the linear programme is solved.

    Args:
        cost_NM: ground cost of every pair.

    Returns:
        The cost of the best coupling, in the units of `cost_NM`, and the N optimal row potentials where the linear
        programme gave them.

    Raises:
        RuntimeError: if the linear programme is not solved (costs that are not finite).
    """
    n, m = cost_NM.shape
    common = math.lcm(n, m)
    if common <= REPLICATE_UP_TO or n == m:
        square = cost_NM if n == m else np.repeat(np.repeat(cost_NM, common // n, axis=0), common // m, axis=1)
        rows, columns = linear_sum_assignment(square)
        return float(square[rows, columns].sum()) / common, None
    row_sums = sparse.kron(sparse.eye_array(n), np.ones((1, m)))
    column_sums = sparse.kron(np.ones((1, n)), sparse.eye_array(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    constraints = sparse.vstack([row_sums, column_sums]).tocsr()
    solution = linprog(cost_NM.ravel(), A_eq=constraints, b_eq=marginals, method="highs-ds")
    if solution.x is None:
        raise RuntimeError(f"the transport programme of {n} x {m} points was not solved: {solution.message}")
    return float(solution.fun), solution.eqlin.marginals[:n]


def wasserstein(x_NH: Tensor, y_MH: Tensor) -> float:
    """Exact W1 between the uniform measures on two sets of points.

    Args:
        x_NH: N points.
        y_MH: M points.

    Returns:
        W1, in the units of the points.
    """
    return transport(distances(x_NH, y_MH))[0]


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
    forward_KL = averaging(spans_K, cost_TU.shape[0]) @ nearest_TL
    backward_KL = nearest_KU @ averaging(spans_L, cost_TU.shape[1]).T
    return forward_KL, backward_KL


def nearest_wasserstein(cost_TU: np.ndarray, spans_K: Sequence[Span], spans_L: Sequence[Span]) -> np.ndarray:
    """W1 from each of K spans to its nearest among L opposing spans, exactly.

    Candidates are solved in the order of their lower bound until the next bound cannot beat the best cost found
    (prefetch and prune, Kusner et al. 2015). Row potentials of a solved pair bound every other candidate too, by
    linear-programming duality: mean(u) + mean over the candidate's tokens j of min_i (cost_ij - u_i) <= W1.

    Args:
        cost_TU: token-by-token distances of the two sides.
        spans_K: spans along T.
        spans_L: spans along U, at least one.

    Returns:
        (K,) minima.
    """
    bound_KL = np.maximum(*lower_bounds(cost_TU, spans_K, spans_L))
    average_LU = averaging(spans_L, cost_TU.shape[1])
    best_K = np.full(len(spans_K), np.inf)
    for k, ((a, b), bound_L) in enumerate(zip(spans_K, bound_KL, strict=True)):
        while bound_L[nearest := int(bound_L.argmin())] < best_K[k]:
            c, d = spans_L[nearest]
            cost, potential_N = transport(cost_TU[a:b, c:d])
            best_K[k] = min(best_K[k], cost)
            if potential_N is not None:
                reduced_U = (cost_TU[a:b] - potential_N[:, None]).min(0)
                np.maximum(bound_L, potential_N.mean() + average_LU @ reduced_U, out=bound_L)
            bound_L[nearest] = np.inf
    return best_K
