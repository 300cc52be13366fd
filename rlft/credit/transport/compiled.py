"""Nearest spans with numba: best first, one span after the other, potentials carried over, hopeless solves abandoned.

For a span, potentials u of its tokens give every opposing token j the price v_j = min_i (cost_ij - u_i), and these give
the span's tokens better potentials for each opposing span: two sweeps of the cost matrix bound all of them. The span
with the lowest bound is solved from these potentials; a finished solve leaves better ones for the others, and for the
next span, which shares most tokens. Shapes as in `kernels.py`.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from rlft.credit.transport.carry import FAR
from rlft.credit.transport.exact import Coupling, coupling_of
from rlft.credit.transport.kernels import carry, search
from rlft.credit.transport.layout import Laid

SERIAL_UP_TO = 1 << 22
"""Token pairs up to which one thread does all."""

Finished = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Finished solves: span numbers (R, 2), costs (R,), assignments (R, N) with -1 in front where the sizes differ."""


def nearest(
    cost_TU: np.ndarray,
    one: Laid,
    other: Laid,
    best_K: np.ndarray,
    best_L: np.ndarray,
    tolerance: float,
    threads: int = 1,
) -> tuple[np.ndarray, dict[tuple[int, int], Coupling]]:
    """Arguments and results of `rounds.nearest`; in addition `threads`, how many may search at the same time."""
    if cost_TU.size <= SERIAL_UP_TO:
        threads = 1
    tensor_TU = torch.from_numpy(cost_TU)
    cost_TU, turned_UT = _spaced(tensor_TU), _spaced(tensor_TU.T)  # torch transposes in blocks, NumPy does not
    # infinities are undefined in the compiled loops
    best_K, best_L = np.minimum(best_K, FAR), np.minimum(best_L, FAR)
    bound_KL = np.zeros((len(best_K), len(best_L)))
    first = _side(cost_TU, turned_UT, one, other, bound_KL, best_K.copy(), tolerance, threads)
    seeded_L = best_L.copy()
    np.minimum.at(seeded_L, first[0][:, 1], first[1])
    bound_LK = bound_KL.T.copy()
    second = _side(turned_UT, cost_TU, other, one, bound_LK, seeded_L, tolerance, threads)
    couplings: dict[tuple[int, int], Coupling] = {}
    for axis, best in ((0, best_K), (1, best_L)):
        least = best.copy()
        np.minimum.at(least, first[0][:, axis], first[1])
        np.minimum.at(least, second[0][:, 1 - axis], second[1])
        for turned, (pairs, costs, matches) in enumerate((first, second)):
            spans = pairs[:, axis ^ turned]
            for r in ((costs == least[spans]) & (costs < best[spans])).nonzero()[0]:
                k, l = (int(number) for number in pairs[r][:: -1 if turned else 1])  # noqa: E741
                if (k, l) not in couplings:
                    couplings[k, l] = _coupling(cost_TU, one, other, k, l, matches[r], bool(turned))
    return bound_LK.T, couplings


def _side(
    cost_TU: np.ndarray,
    turned_UT: np.ndarray,
    one: Laid,
    other: Laid,
    bound_KL: np.ndarray,
    best_K: np.ndarray,
    tolerance: float,
    threads: int,
) -> Finished:
    """Search every span of one side; `bound_KL` and `best_K` are written."""
    cuts, first_L, last_L = other.cuts()
    spans_L = np.stack([other.start_K, other.end_K, first_L, last_L])

    def part(begin: int, end: int) -> Finished:
        mine = slice(begin, end)
        start_K, end_K = one.start_K[mine], one.end_K[mine]
        found = search(cost_TU, turned_UT, start_K, end_K, spans_L, cuts, bound_KL[mine], best_K[mine], tolerance)
        found[0][:, 0] += begin
        return found

    borders = np.linspace(0, len(best_K), min(threads, len(best_K)) + 1).astype(int).tolist()
    if len(borders) == 2:
        return part(*borders)
    with ThreadPoolExecutor(len(borders) - 1) as pool:
        parts = list(pool.map(part, borders[:-1], borders[1:]))
    pairs, costs, matches = zip(*parts, strict=True)
    width = max(match_RN.shape[1] for match_RN in matches)
    matches = [np.pad(match_RN, ((0, 0), (0, width - match_RN.shape[1]))) for match_RN in matches]
    return np.concatenate(pairs), np.concatenate(costs), np.concatenate(matches)


def _coupling(
    cost_TU: np.ndarray, one: Laid, other: Laid, k: int, l: int, match_N: np.ndarray, turned: bool  # noqa: E741
) -> Coupling:
    n, m = int(one.size_K[k]), int(other.size_K[l])
    if match_N[0] >= 0:
        rows, columns = np.arange(n), match_N[:n].astype(np.int64)
        return Coupling(columns, rows, np.full(n, 1 / n)) if turned else Coupling(rows, columns, np.full(n, 1 / n))
    cost_NM = cost_TU[one.start_K[k] : one.end_K[k], other.start_K[l] : other.end_K[l]]
    flow_MN, u_N, v_M = np.zeros((m, n), np.int32), np.zeros(n, np.float32), cost_NM.min(0)
    carry(cost_NM, u_N, v_M, flow_MN, FAR)
    return coupling_of(flow_MN)


def _spaced(cost_TU: Tensor) -> np.ndarray:
    """A copy whose rows do not all start at the same place of the cache, as they would with a power of two."""
    spaced = torch.empty(cost_TU.shape[0], cost_TU.shape[1] + 16)
    spaced[:, :-16] = cost_TU
    return spaced.numpy()[:, :-16]
