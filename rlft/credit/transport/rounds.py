"""Nearest spans with NumPy and SciPy alone, in rounds: solve the most promising pair of every span, let its potentials
bound all others, repeat.

By linear-programming duality any potentials u of a span's tokens bound its W1 to every opposing span at once:
mean(u) + mean over the opposing span's tokens j of min_i (cost_ij - u_i) <= W1. Those of a solved pair are tight there
and good nearby, so few pairs have to be solved; u = 0 is the relaxed bound of Kusner et al. (2015).

Shapes: T, U tokens of the two sides; K, L their spans; n spans or pairs at once, padded to P and Q tokens.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.optimize import linear_sum_assignment

from rlft.credit.transport.carry import FAR
from rlft.credit.transport.exact import SETTLED, Coupling, couple
from rlft.credit.transport.layout import Laid, Matched

CHUNK = 1 << 18
"""Numbers held at once, so that they stay in the cache."""

ALONE = 2
"""Open pairs are bounded one by one, and better, once they hold less than this many times the numbers of a strip."""

FINISH = 4
"""Once at most this many open pairs are left for every pair of the round, all are solved."""


def nearest(
    cost_TU: np.ndarray, one: Laid, other: Laid, best_K: np.ndarray, best_L: np.ndarray, tolerance: float
) -> tuple[np.ndarray, Matched]:
    """The nearest opposing span of every span of both sides.

    Args:
        cost_TU: fp32 token distances.
        one, other: the spans of both sides, at least one each.
        best_K, best_L: least costs known so far; only cheaper pairs are looked for.
        tolerance: a pair whose bound reaches (1 - tolerance) times the best cost of its span is left unsolved.

    Returns:
        Lower bounds (K, L) of the cost of every pair, and the couplings of the nearest pairs that were found.
    """
    search = Search(cost_TU, one, other, best_K.copy(), best_L.copy(), tolerance)
    search.run()
    won = np.unique(np.concatenate([search.one.winner_K, search.other.winner_K]))
    pairs = [divmod(code, len(best_L)) for code in won[won >= 0].tolist()]
    whole = np.array([pair for pair in pairs if pair in search.assignments], np.intp).reshape(-1, 2)
    match_CN = np.array([search.assignments[pair] for pair in pairs if pair in search.assignments], np.intp)
    match_CN = match_CN.reshape(len(whole), search.one.width)
    parts = [Matched.assigned(whole[:, 0], whole[:, 1], match_CN, one, other)]
    for k, l in set(pairs) - search.assignments.keys():  # noqa: E741
        parts.append(search.couplings[k, l].between(k, l, one.start_K[k], other.start_K[l]))
    return search.bound_KL, Matched.join(parts)


class Side:
    """One side of a search: its spans, the costs with its tokens as rows, and the potentials found so far."""

    def __init__(self, cost_TU: np.ndarray, laid: Laid, best_K: np.ndarray):
        self.laid, self.best_K, self.cost_TU = laid, best_K, cost_TU
        self.size_K = laid.size_K
        self.width = int(self.size_K.max())
        self.step_P = np.arange(self.width)
        self.real_KP = self.step_P < self.size_K[:, None]
        self.u_KP = np.zeros(self.real_KP.shape, np.float32)
        self.winner_K = np.full(len(best_K), -1)

    def sweep(self, spans_n: np.ndarray, other: "Side") -> np.ndarray:
        """Bounds (n, L) that the potentials of these spans give for every opposing span."""
        u_nP = np.where(self.real_KP[spans_n], self.u_KP[spans_n], -FAR)
        rows_nP = np.minimum(self.laid.start_K[spans_n, None] + self.step_P, self.laid.tokens - 1)
        least_nU = np.empty((len(spans_n), other.laid.tokens), np.float32)
        chunk = max(1, CHUNK // (self.width * other.laid.tokens))
        for start in range(0, len(spans_n), chunk):
            part = slice(start, start + chunk)
            block_nPU = self.cost_TU[rows_nP[part], : other.laid.tokens]
            block_nPU -= u_nP[part, :, None]
            block_nPU.min(1, out=least_nU[part])
        return other.laid.means(least_nU) + self.mean(spans_n, self.u_KP[spans_n])[:, None]

    def mean(self, spans_n: np.ndarray, value_nP: np.ndarray) -> np.ndarray:
        """Means (n,) over the tokens of these spans; padding must hold 0."""
        return value_nP.sum(1, dtype=np.float64) / self.size_K[spans_n]


class Search:
    """Exact, or certified, minima of all spans of both sides over one distance matrix.

    Args:
        cost_TU: fp32 token distances.
        one, other: the spans of both sides.
        best_K, best_L: least costs known so far, lowered in place.
        tolerance: a pair whose bound reaches (1 - tolerance) times the best cost of its spans is left unsolved.
    """

    def __init__(
        self, cost_TU: np.ndarray, one: Laid, other: Laid, best_K: np.ndarray, best_L: np.ndarray, tolerance: float
    ):
        pad = (0, max(int(one.size_K.max()), int(other.size_K.max())))
        padded_TU = np.pad(cost_TU, (pad, pad))
        turned_UT = torch.from_numpy(padded_TU).T.contiguous().numpy()  # torch transposes in blocks, NumPy does not
        self.one, self.other = Side(padded_TU, one, best_K), Side(turned_UT, other, best_L)
        self.windows = sliding_window_view(padded_TU, (self.one.width, self.other.width))
        self.tolerance = tolerance
        self.bound_KL = np.maximum(
            self.one.sweep(np.arange(len(best_K)), self.other),
            self.other.sweep(np.arange(len(best_L)), self.one).T,
        )
        self.assignments: dict[tuple[int, int], np.ndarray] = {}
        self.couplings: dict[tuple[int, int], Coupling] = {}

    def run(self) -> None:
        """Solve pairs until every other pair is bounded away."""
        while (open_KL := self.open()).any():
            spans_k, spans_l = self.promising(open_KL)
            if last := bool(np.count_nonzero(open_KL) <= FINISH * len(spans_k)):
                spans_k, spans_l = open_KL.nonzero()
            # the potentials that a span keeps are those of its most promising pair, so that one is solved last
            order_n = np.argsort(self.bound_KL[spans_k, spans_l] * (1 if last else -1))
            spans_k, spans_l = spans_k[order_n], spans_l[order_n]
            for part in self.chunks(len(spans_k)):
                self.solve(spans_k[part], spans_l[part], last)
            if last:
                break
            self.tighten(spans_k, spans_l)

    def open(self) -> np.ndarray:
        """Pairs (K, L) that could still be the nearest of one of their spans."""
        share = 1 - self.tolerance
        return (self.bound_KL < self.one.best_K[:, None] * share) | (self.bound_KL < self.other.best_K * share)

    def promising(self, open_KL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pair with the lowest bound of every span that has an open pair."""
        value_KL = np.where(open_KL, self.bound_KL, np.inf)
        rows, columns = np.flatnonzero(open_KL.any(1)), np.flatnonzero(open_KL.any(0))
        chosen = np.zeros(open_KL.shape, bool)
        chosen[rows, value_KL[rows].argmin(1)] = True
        chosen[value_KL[:, columns].argmin(0), columns] = True
        spans_k, spans_l = chosen.nonzero()
        return spans_k, spans_l

    def blocks(self, spans_k: np.ndarray, spans_l: np.ndarray) -> np.ndarray:
        """Costs (n, P, Q) of pairs, FAR on padding."""
        block_nPQ = self.windows[self.one.laid.start_K[spans_k], self.other.laid.start_K[spans_l]]
        real_nP, real_nQ = self.one.real_KP[spans_k], self.other.real_KP[spans_l]
        short = ~(real_nP[:, -1] & real_nQ[:, -1])
        if short.any():
            real = real_nP[short, :, None] & real_nQ[short, None, :]
            block_nPQ[short] = np.where(real, block_nPQ[short], FAR)
        return block_nPQ

    def bounded(
        self, block_nPQ: np.ndarray, spans_k: np.ndarray, spans_l: np.ndarray, by_rows: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Potentials of pairs from those of their rows (or columns), improved on both sides, and their bounds (n,)."""
        real_nP, real_nQ = self.one.real_KP[spans_k], self.other.real_KP[spans_l]
        if by_rows:
            v_nQ = np.where(real_nQ, (block_nPQ - self.one.u_KP[spans_k][:, :, None]).min(1), 0)
            u_nP = np.where(real_nP, (block_nPQ - v_nQ[:, None, :]).min(2), 0)
        else:
            u_nP = np.where(real_nP, (block_nPQ - self.other.u_KP[spans_l][:, None, :]).min(2), 0)
            v_nQ = np.where(real_nQ, (block_nPQ - u_nP[:, :, None]).min(1), 0)
        return u_nP, v_nQ, self.one.mean(spans_k, u_nP) + self.other.mean(spans_l, v_nQ)

    def solve(self, spans_k: np.ndarray, spans_l: np.ndarray, last: bool) -> None:
        """Solve pairs that may still win, and keep their costs, couplings and (unless `last`) their potentials."""
        block_nPQ = self.blocks(spans_k, spans_l)
        u_nP, v_nQ, bound_n = self.bounded(block_nPQ, spans_k, spans_l)
        limit_n = np.maximum(self.one.best_K[spans_k], self.other.best_K[spans_l]) * (1 - self.tolerance)
        size_n, across_n = self.one.size_K[spans_k], self.other.size_K[spans_l]
        whole_n = (size_n == self.one.width) & (across_n == self.other.width) & (self.one.width == self.other.width)
        wanted_n = bound_n < limit_n
        reduced_nPQ = block_nPQ - u_nP[:, :, None] - v_nQ[:, None, :]
        cost_n = np.full(len(spans_k), np.inf)
        squares = (wanted_n & whole_n).nonzero()[0]
        if len(squares):
            column_nP = np.stack([linear_sum_assignment(reduced_nPQ[i])[1] for i in squares])
            matched_nP = np.take_along_axis(block_nPQ[squares], column_nP[:, :, None], 2)[:, :, 0]
            cost_n[squares] = matched_nP.mean(1, dtype=np.float64)
            spans = zip(spans_k[squares].tolist(), spans_l[squares].tolist(), strict=True)
            self.assignments |= dict(zip(spans, column_nP, strict=True))
            if not last:
                u_nP[squares], v_nQ[squares] = tight(block_nPQ[squares], column_nP, matched_nP, u_nP[squares])
        for i in np.flatnonzero(wanted_n & ~whole_n):
            n, m = size_n[i], across_n[i]
            cost_NM = block_nPQ[i, :n, :m]
            bound_n[i], coupling, u_nP[i, :n], v_nQ[i, :m] = couple(cost_NM, u_nP[i, :n], v_nQ[i, :m], limit_n[i])
            if coupling is not None:
                self.couplings[int(spans_k[i]), int(spans_l[i])] = coupling
                cost_n[i] = coupling.cost(cost_NM)
        self.keep(spans_k, spans_l, cost_n, np.where(np.isfinite(cost_n), cost_n, bound_n))
        self.one.u_KP[spans_k], self.other.u_KP[spans_l] = u_nP, v_nQ

    def keep(self, spans_k: np.ndarray, spans_l: np.ndarray, cost_n: np.ndarray, bound_n: np.ndarray) -> None:
        """Take over the costs and bounds of pairs."""
        self.bound_KL[spans_k, spans_l] = np.maximum(self.bound_KL[spans_k, spans_l], bound_n)
        code_n = spans_k * len(self.other.best_K) + spans_l
        for side, spans_n in ((self.one, spans_k), (self.other, spans_l)):
            np.minimum.at(side.best_K, spans_n, cost_n)
            won_n = (cost_n == side.best_K[spans_n]) & np.isfinite(cost_n)
            side.winner_K[spans_n[won_n]] = code_n[won_n]

    def tighten(self, spans_k: np.ndarray, spans_l: np.ndarray) -> None:
        """Bound the open pairs of spans whose potentials are new: in strips while most are open, then pair by pair."""
        open_KL = self.open()
        sides = [(self.one, self.other, spans_k, 0), (self.other, self.one, spans_l, 1)]
        for side, other, spans_n, axis in sides:
            spans_n = np.unique(spans_n)
            mine_KL = np.zeros(open_KL.shape, bool)
            np.moveaxis(mine_KL, axis, 0)[spans_n] = True
            pair_k, pair_l = (open_KL & mine_KL).nonzero()
            if len(pair_k) * other.width >= ALONE * len(spans_n) * other.laid.tokens:
                bound_KL = np.moveaxis(self.bound_KL, axis, 0)
                bound_KL[spans_n] = np.maximum(bound_KL[spans_n], side.sweep(spans_n, other))
                continue
            for part in self.chunks(len(pair_k)):
                k, l = pair_k[part], pair_l[part]  # noqa: E741
                bound_n = self.bounded(self.blocks(k, l), k, l, side is self.one)[2]
                self.bound_KL[k, l] = np.maximum(self.bound_KL[k, l], bound_n)

    def chunks(self, pairs: int) -> Iterator[slice]:
        """Slices of so many pairs that their costs stay in the cache."""
        step = max(1, CHUNK // (self.one.width * self.other.width))
        return (slice(start, start + step) for start in range(0, pairs, step))


def tight(
    block_nPP: np.ndarray, column_nP: np.ndarray, matched_nP: np.ndarray, u_nP: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Potentials that are tight on optimal assignments, by relaxing until nothing moves (Bellman and Ford)."""
    u_nP = u_nP.copy()
    settled_n = SETTLED * matched_nP.mean(1)
    moving = np.arange(len(u_nP))
    left_nPP = block_nPP
    for _ in range(u_nP.shape[1]):
        price_nP = np.empty((len(moving), u_nP.shape[1]), np.float32)
        np.put_along_axis(price_nP, column_nP[moving], matched_nP[moving] - u_nP[moving], 1)
        lowered_nP = np.minimum(u_nP[moving], (left_nPP - price_nP[:, None, :]).min(2))
        moved = (u_nP[moving] - lowered_nP).max(1) > settled_n[moving]
        u_nP[moving] = lowered_nP
        if not moved.any():
            break
        if not moved.all():
            moving, left_nPP = moving[moved], left_nPP[moved]
    return u_nP, (block_nPP - u_nP[:, :, None]).min(1)
