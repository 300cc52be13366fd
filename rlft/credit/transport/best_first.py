# mypy: ignore-errors
"""The search over one side's spans in compiled loops; `compiled.py` explains it and is the module to call.

Shapes: T, U tokens of the two sides; N, M tokens of two spans; K, L spans; S stretches between neighbouring span
borders; R finished solves.
"""

import numpy as np
from numba import njit

from rlft.credit.transport.carry import FAR
from rlft.credit.transport.kernels import OPTIONS, assign, couple, least_of_rows, lower, total

LAZY_UP_TO = 16
"""Tokens of a span up to which potentials for an opposing span are made when its turn comes, not for all at once."""


@njit(**OPTIONS)
def mark(open_L, count, first_L, last_L, marked_S):
    """Mark the stretches that the first `count` open spans cover."""
    for s in range(len(marked_S)):
        marked_S[s] = False
    for q in range(count):
        for s in range(first_L[open_L[q]], last_L[open_L[q]]):
            marked_S[s] = True


@njit(**OPTIONS)
def bound_open(cost_TU, turned_UT, a, b, u_N, spans_L, cuts, limit, bound_L, open_L, count, v_U, least_SN, marked_S):
    """Bound the open spans by the potentials u, first with prices v for all of them, then with potentials for each.

    Returns:
        How many stay open; they move to the front of `open_L`.
    """
    start_L, end_L, first_L, last_L = spans_L[0], spans_L[1], spans_L[2], spans_L[3]
    n = b - a
    mean_u = total(u_N, 0, n) / n
    mark(open_L, count, first_L, last_L, marked_S)
    s = 0
    while s < len(marked_S):
        e = s
        while e < len(marked_S) and marked_S[e]:
            e += 1
        if e > s:
            least_of_rows(cost_TU, a, b, u_N, cuts[s], cuts[e], v_U[cuts[s] :])
        s = e + 1
    kept = 0
    for q in range(count):
        l = open_L[q]  # noqa: E741
        bound_L[l] = max(bound_L[l], mean_u + total(v_U, start_L[l], end_L[l]) / (end_L[l] - start_L[l]))
        if bound_L[l] < limit:
            open_L[kept] = l
            kept += 1
    if n <= LAZY_UP_TO:
        return kept
    mark(open_L, kept, first_L, last_L, marked_S)
    for s in range(len(marked_S)):
        if marked_S[s]:
            least_of_rows(turned_UT, cuts[s], cuts[s + 1], v_U[cuts[s] :], a, b, least_SN[s])
    count, kept = kept, 0
    for q in range(count):
        l = open_L[q]  # noqa: E741
        sum_u = least_potentials(least_SN, first_L[l], last_L[l], n, least_SN[-1])
        bound_L[l] = max(bound_L[l], sum_u / n + total(v_U, start_L[l], end_L[l]) / (end_L[l] - start_L[l]))
        if bound_L[l] < limit:
            open_L[kept] = l
            kept += 1
    return kept


@njit(**OPTIONS)
def least_potentials(least_SN, first, last, n, u_N):
    """A span's potentials against one opposing span: the least over its stretches. Returns their sum."""
    for i in range(n):
        u_N[i] = least_SN[first, i]
    for s in range(first + 1, last):
        for i in range(n):
            u_N[i] = lower(u_N[i], least_SN[s, i])
    return total(u_N, 0, n)


@njit(**OPTIONS)
def carried_over(cost_TU, a, b, u_N, before, c, v_M, fresh_N):
    """Potentials of span a..b: those of the last span (which ended at `before`); new tokens get its winner's prices."""
    overlap = max(0, before - a)
    for i in range(b - a):
        if i < overlap:
            fresh_N[i] = u_N[len(u_N) - overlap + i]
        elif len(v_M):
            fresh_N[i] = FAR
            for j in range(len(v_M)):
                fresh_N[i] = lower(fresh_N[i], cost_TU[a + i, c + j] - v_M[j])
        else:
            fresh_N[i] = 0.0


@njit(**OPTIONS)
def foremost(bound_L, open_L, count):
    """The place, among the first `count` open spans, of the one with the lowest bound."""
    q = 0
    for p in range(1, count):
        if bound_L[open_L[p]] < bound_L[open_L[q]]:
            q = p
    return q


@njit(**OPTIONS)
def balance(u_N, v_M, even_u_N, even_v_M):
    """Move a constant from u to v, which is free; left alone it grows, and digits are lost."""
    n, m = len(u_N), len(v_M)
    shift = np.float32((total(u_N, 0, n) / n - total(v_M, 0, m) / m) / 2)
    for i in range(n):
        even_u_N[i] = u_N[i] - shift
    for j in range(m):
        even_v_M[j] = v_M[j] + shift


@njit(**OPTIONS)
def grown(pairs, costs, matches):
    """The same with room for twice as many solves."""
    rows, width = matches.shape
    more_pairs, more_costs = np.empty((2 * rows, 2), np.int64), np.empty(2 * rows)
    more_matches = np.empty((2 * rows, width), np.int32)
    for r in range(rows):
        more_pairs[r, 0], more_pairs[r, 1], more_costs[r] = pairs[r, 0], pairs[r, 1], costs[r]
        for i in range(width):
            more_matches[r, i] = matches[r, i]
    return more_pairs, more_costs, more_matches


@njit(**OPTIONS)
def search(cost_TU, turned_UT, start_K, end_K, spans_L, cuts, bound_KL, best_K, tolerance):
    """Search consecutive spans; see `compiled.py` for the method. `bound_KL` and `best_K` are written.

    Returns:
        The finished solves (R, 2) in pairs of span numbers, their costs (R,), and their assignments (R, N), whose first
        entry is -1 where the spans differ in size.
    """
    start_L, end_L, first_L, last_L = spans_L[0], spans_L[1], spans_L[2], spans_L[3]
    width, most = 0, 0
    for k in range(len(start_K)):
        width = max(width, end_K[k] - start_K[k])
    for l in range(len(start_L)):  # noqa: E741
        most = max(most, width, end_L[l] - start_L[l])
    u_N, spare_N, v_M = np.zeros(width, np.float32), np.zeros(width, np.float32), np.zeros(most, np.float32)
    near_M = np.zeros(most, np.float32)
    v_U, least_SN = np.zeros(cost_TU.shape[1], np.float32), np.empty((len(cuts), width), np.float32)
    marked_S, open_L = np.zeros(len(cuts) - 1, np.bool_), np.empty(len(start_L), np.int64)
    row_of, column_of, work = np.empty(most, np.int32), np.empty(most, np.int32), np.empty((4, most), np.float32)
    pairs, costs, matches = np.empty((64, 2), np.int64), np.empty(64), np.empty((64, width), np.int32)
    solved, nearest, n = 0, -1, 0
    for k in range(len(start_K)):
        a, b = start_K[k], end_K[k]
        c, m = (start_L[nearest], end_L[nearest] - start_L[nearest]) if nearest >= 0 else (0, 0)
        carried_over(cost_TU, a, b, u_N[:n], end_K[k - 1] if k else a, c, near_M[:m], spare_N)
        n = b - a
        for i in range(n):
            u_N[i] = spare_N[i]
        while True:
            limit, count, cost = best_K[k] * (1 - tolerance), 0, 0.0
            for l in range(len(start_L)):  # noqa: E741
                if bound_KL[k, l] < limit:
                    open_L[count] = l
                    count += 1
            count = bound_open(
                cost_TU, turned_UT, a, b, u_N, spans_L, cuts, limit, bound_KL[k], open_L, count, v_U, least_SN, marked_S
            )
            finished = False
            while count and not finished:
                q = foremost(bound_KL[k], open_L, count)
                l = open_L[q]  # noqa: E741
                count -= 1
                open_L[q] = open_L[count]
                c, m = start_L[l], end_L[l] - start_L[l]
                for j in range(m):
                    v_M[j] = v_U[c + j]
                if n <= LAZY_UP_TO:
                    least_of_rows(turned_UT, c, c + m, v_M, a, b, spare_N)
                    bound = total(spare_N, 0, n) / n + total(v_M, 0, m) / m
                    if bound >= limit:
                        bound_KL[k, l] = max(bound, bound_KL[k, l])
                        continue
                else:
                    least_potentials(least_SN, first_L[l], last_L[l], n, spare_N)
                u, v = spare_N[:n], v_M[:m]
                if n == m:
                    bound, finished = assign(cost_TU, a, c, u, v, limit, row_of, column_of, work)
                else:
                    bound, finished, cost, _ = couple(cost_TU, turned_UT, a, c, u, v, limit, row_of, column_of, work)
                bound_KL[k, l] = max(bound, bound_KL[k, l])
                if finished:
                    if solved == len(costs):
                        pairs, costs, matches = grown(pairs, costs, matches)
                    if n == m:
                        cost = 0.0
                        for i in range(n):
                            cost += cost_TU[a + i, c + column_of[i]] / n
                    else:
                        column_of[0] = -1
                    pairs[solved, 0], pairs[solved, 1], costs[solved] = k, l, cost
                    for i in range(n):
                        matches[solved, i] = column_of[i]
                    solved += 1
                    bound_KL[k, l] = cost
                    best_K[k] = min(best_K[k], cost)
                    nearest = l
                    balance(u, v, u_N, near_M)
            if not finished:
                break
    return pairs[:solved], costs[:solved], matches[:solved]
