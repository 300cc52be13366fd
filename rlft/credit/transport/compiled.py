"""Nearest spans with numba: best first, one span after the other, potentials carried over, hopeless solves abandoned.

For a span, potentials u of its tokens give every opposing token j the price v_j = min_i (cost_ij - u_i), and these give
the span's tokens better potentials for each opposing span: two sweeps of the cost matrix bound all of them. The span
with the lowest bound is solved from these potentials; a finished solve leaves better ones for the others, and for the
next span, which shares most tokens. Shapes as in `best_first.py`.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from rlft.credit.transport.best_first import search
from rlft.credit.transport.exact import coupling_of
from rlft.credit.transport.kernels import ENDLESS, couple
from rlft.credit.transport.layout import Laid, Matched

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
) -> tuple[np.ndarray, Matched]:
    """Arguments and results of `rounds.nearest`; in addition `threads`, how many may search at the same time."""
    if cost_TU.size <= SERIAL_UP_TO:
        threads = 1
    turned_UT = torch.from_numpy(cost_TU).T.contiguous().numpy()  # torch transposes in blocks, NumPy does not
    # infinities are undefined in the compiled loops
    best_K, best_L = np.minimum(best_K, ENDLESS), np.minimum(best_L, ENDLESS)
    bound_KL = np.zeros((len(best_K), len(best_L)))
    first = _side(cost_TU, turned_UT, one, other, bound_KL, best_K.copy(), tolerance, threads)
    seeded_L = best_L.copy()
    np.minimum.at(seeded_L, first[0][:, 1], first[1])
    bound_LK = bound_KL.T.copy()
    second = _side(turned_UT, cost_TU, other, one, bound_LK, seeded_L, tolerance, threads)
    sides = ((first, 0), (second, 1))
    won = [np.zeros(len(costs), bool) for (_, costs, _), _ in sides]
    for axis, best in enumerate((best_K, best_L)):
        least = best.copy()
        for (pairs, costs, _), turned in sides:
            np.minimum.at(least, pairs[:, axis ^ turned], costs)
        for won_R, ((pairs, costs, _), turned) in zip(won, sides, strict=True):
            spans = pairs[:, axis ^ turned]
            won_R |= (costs == least[spans]) & (costs < best[spans])
    matched = _matched(cost_TU, turned_UT, one, other, first, won[0])
    return bound_LK.T, Matched.join([matched, _matched(turned_UT, cost_TU, other, one, second, won[1]).turned])


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

    if threads == 1:
        return part(0, len(best_K))
    borders = np.linspace(0, len(best_K), min(threads, len(best_K)) + 1).astype(int).tolist()
    with ThreadPoolExecutor(len(borders) - 1) as pool:
        parts = list(pool.map(part, borders[:-1], borders[1:]))
    width = max(match_RN.shape[1] for _, _, match_RN in parts)
    matches = [np.pad(match_RN, ((0, 0), (0, width - match_RN.shape[1]))) for _, _, match_RN in parts]
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate(matches),
    )


def _matched(
    cost_TU: np.ndarray, turned_UT: np.ndarray, one: Laid, other: Laid, finished: Finished, won_R: np.ndarray
) -> Matched:
    """The couplings of the solves that won, with those of unequal spans solved once more, as they were not kept."""
    (k_C, l_C), match_CN = finished[0][won_R].T, finished[2][won_R]
    square = match_CN[:, 0] >= 0
    parts = [Matched.assigned(k_C[square], l_C[square], match_CN[square], one, other)]
    for k, l in zip(k_C[~square].tolist(), l_C[~square].tolist(), strict=True):  # noqa: E741
        a, c, n, m = one.start_K[k], other.start_K[l], one.size_K[k], other.size_K[l]
        u_N, v_M = np.zeros(n, np.float32), cost_TU[a : a + n, c : c + m].min(0)
        rows, columns, work = np.empty(n + m, np.int32), np.empty(n + m, np.int32), np.empty((4, n + m), np.float32)
        flow = couple(cost_TU, turned_UT, a, c, u_N, v_M, ENDLESS, rows, columns, work)[3]
        parts.append(coupling_of(flow if n > m else flow.T).between(k, l, a, c))
    return Matched.join(parts)
