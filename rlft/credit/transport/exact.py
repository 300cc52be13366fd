"""Exact 1-Wasserstein distance between two token clouds: the best coupling, and potentials that prove it best.

Ground cost is the Euclidean distance, weights are uniform (SHEAR, arXiv 2604.23318, eq. 3). Shapes: N, M points; H
width; R matched pairs.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rlft.credit.transport.carry import FAR, carry
from rlft.credit.transport.layout import Matched

REPLICATE_UP_TO = 128
"""Largest assignment that spans of unequal size are blown up to; beyond it units are carried along augmenting paths."""

SETTLED = 1e-6
"""Potentials that move by less than this share of the cost have arrived."""


class Coupling(NamedTuple):
    """Which token goes where: R pairs of a row and a column with the mass that they carry (total 1)."""

    rows: np.ndarray
    columns: np.ndarray
    mass: np.ndarray

    def cost(self, cost_NM: np.ndarray) -> float:
        """The coupling's cost, in the units of `cost_NM`."""
        return float(self.mass @ cost_NM[self.rows, self.columns].astype(np.float64))

    def between(self, k: int, l: int, first_row: int, first_column: int) -> Matched:  # noqa: E741
        """The coupling of spans k and l, whose first tokens are given."""
        rows, columns = self.rows + first_row, self.columns + first_column
        return Matched(np.array([k]), np.array([l]), np.zeros(len(rows), np.intp), rows, columns, self.mass)


def couple(
    cost_NM: np.ndarray, u_N: np.ndarray, v_M: np.ndarray, limit: float
) -> tuple[float, Coupling | None, np.ndarray, np.ndarray]:
    """The best coupling of uniform measures on N and M points, unless its cost is certain to reach `limit`.

    N = M is an assignment problem. Otherwise every point is copied until both sides have lcm(N, M) points, or, if that
    is too many, an assignment of the smaller side is completed by carrying the units that are left.

    Args:
        cost_NM: fp32 ground costs.
        u_N: feasible row potentials to start from (u_i + v_j <= cost_ij); good ones shorten the search.
        v_M: the column potentials.
        limit: cost from which nobody is interested.

    Returns:
        A lower bound of the cost, the coupling (None if abandoned), and the potentials behind the bound.
    """
    n, m = cost_NM.shape
    if n < m:
        bound, turned, v_M, u_N = couple(cost_NM.T, v_M, u_N, limit)
        return bound, turned and Coupling(turned.columns, turned.rows, turned.mass), u_N, v_M
    common = math.lcm(n, m)
    carried = n != m and common > REPLICATE_UP_TO
    reduced_NM = cost_NM - u_N[:, None] - v_M
    if n != m and not carried:
        reduced_NM = np.repeat(np.repeat(reduced_NM, common // n, axis=0), common // m, axis=1)
    rows, columns = linear_sum_assignment(reduced_NM)
    if not carried:
        rows, columns = rows // (common // n), columns // (common // m)
    u_N, v_M = _potentials(cost_NM, rows, columns, u_N)
    if not carried:
        coupling = Coupling(rows, columns, np.full(common, 1 / common))
        return coupling.cost(cost_NM), coupling, u_N, v_M
    flow_MN = np.zeros((m, n), np.int32)
    flow_MN[columns, rows] = m // math.gcd(n, m)
    bound, finished = carry(cost_NM, u_N, v_M, flow_MN, limit)
    return bound, coupling_of(flow_MN) if finished else None, u_N, v_M


def coupling_of(flow_MN: np.ndarray) -> Coupling:
    """The coupling in which columns take these units from rows."""
    columns, rows = np.nonzero(flow_MN)
    return Coupling(rows, columns, flow_MN[columns, rows] / flow_MN.sum())


def transport(cost_NM: np.ndarray) -> tuple[float, Coupling]:
    """Exact optimal transport between uniform measures on N and on M points.

    Args:
        cost_NM: ground cost of every pair.

    Returns:
        The cost of the best coupling, in the units of `cost_NM`, and the coupling.
    """
    v_M = cost_NM.min(0).astype(np.float32)
    _, coupling, _, _ = couple(cost_NM.astype(np.float32), np.zeros(len(cost_NM), np.float32), v_M, math.inf)
    assert coupling is not None, "without a limit nothing is abandoned"
    return coupling.cost(cost_NM), coupling


def wasserstein(x_NH: Tensor, y_MH: Tensor) -> float:
    """Exact W1 between the uniform measures on two sets of points (arXiv 2604.23318, eq. 3).

    Args:
        x_NH: N points.
        y_MH: M points.

    Returns:
        W1, in the units of the points.
    """
    x_NH, y_MH = x_NH.detach().cpu(), y_MH.detach().cpu()
    return transport(torch.cdist(x_NH.double(), y_MH.double()).numpy())[0]


def _potentials(
    cost_NM: np.ndarray, rows: np.ndarray, columns: np.ndarray, u_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Potentials that are tight on an optimal assignment, by relaxing until nothing moves (Bellman and Ford)."""
    matched_R = cost_NM[rows, columns]
    settled = SETTLED * float(matched_R.mean())
    for _ in range(len(u_N)):
        price_M = np.full(cost_NM.shape[1], -FAR, np.float32)
        np.maximum.at(price_M, columns, matched_R - u_N[rows])
        lowered_N = np.minimum(u_N, (cost_NM - price_M).min(1))
        moved = (u_N - lowered_N).max() > settled
        u_N = lowered_N
        if not moved:
            break
    return u_N, (cost_NM - u_N[:, None]).min(0)
