"""The inner loops of the compiled solver (numba); `compiled.py` is the module to call.

Costs, prices and potentials are fp32 and sums are taken in float64. numba keeps the machine code beside this file and
makes it anew when this file changes, not when `carry.py` does. Shapes: T, U tokens of the two sides; N, M tokens of two
spans; K, L spans; S stretches between neighbouring span borders; R finished solves.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from rlft.credit.transport import carry as plain
from rlft.credit.transport.carry import FAR

OPTIONS = {"nogil": True, "fastmath": True, "cache": True, "error_model": "numpy"}

carry = njit(**OPTIONS)(plain.carry)


@intrinsic  # type: ignore[untyped-decorator]
def lower(typing, a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The lower of two fp32 numbers, as the instruction that packs; numba's own `min` branches."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        kind = ir.FloatType()
        minimum = builder.module.declare_intrinsic("llvm.minnum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(minimum, arguments, fastmath=("fast",))

    return types.float32(types.float32, types.float32), build


@njit(**OPTIONS)
def least_of_rows(cost_TU, first, last, price_N, c, d, least):
    """least[: d - c] = min over rows i of cost[i, c : d] - price[i - first]; four rows a pass, in cached pieces."""
    for start in range(c, d, 1024):
        stop = min(start + 1024, d)
        out_M = least[start - c : stop - c]
        a_M, p = cost_TU[first, start:stop], price_N[0]
        for j in range(len(out_M)):
            out_M[j] = a_M[j] - p
        i = first + 1
        while i + 3 < last:
            a_M, b_M = cost_TU[i, start:stop], cost_TU[i + 1, start:stop]
            c_M, d_M = cost_TU[i + 2, start:stop], cost_TU[i + 3, start:stop]
            p, q = price_N[i - first], price_N[i - first + 1]
            r, s = price_N[i - first + 2], price_N[i - first + 3]
            for j in range(len(out_M)):
                pair = lower(a_M[j] - p, b_M[j] - q)
                out_M[j] = lower(out_M[j], lower(pair, lower(c_M[j] - r, d_M[j] - s)))
            i += 4
        while i < last:
            a_M, p = cost_TU[i, start:stop], price_N[i - first]
            for j in range(len(out_M)):
                out_M[j] = lower(out_M[j], a_M[j] - p)
            i += 1


@njit(**OPTIONS)
def total(value_M, first, last):
    """Sum of a stretch."""
    found = 0.0
    for j in range(first, last):
        found += value_M[j]
    return found


@njit(**OPTIONS)
def relax(cost_M, price_M, shift, reach_M):
    """Distances through one more row."""
    for j in range(len(price_M)):
        reach_M[j] = lower(reach_M[j], cost_M[j] - price_M[j] + shift)


@njit(**OPTIONS)
def lowest(value_M):
    """The minimum."""
    found = FAR
    for j in range(len(value_M)):
        found = lower(found, value_M[j])
    return found


@njit(**OPTIONS)
def place(value_M, value):
    """The first index at which the value, known to occur, is reached; counted without a branch."""
    found = np.int32(len(value_M) - 1)
    for j in range(np.int32(len(value_M))):
        found = min(found, np.int32(j) if value_M[j] <= value else found)
    return found


@njit(**OPTIONS)
def assign(cost_NM, u_N, v_M, limit, row_of, column_of, work):
    """Every row to a column of its own, N <= M, by shortest augmenting paths (Jonker and Volgenant 1987).

    u and v are feasible potentials and become tight ones. Only for N = M is the assignment the best; it is abandoned
    once its dual mean, which only grows, reaches `limit`.

    Returns:
        The dual sum over N, a lower bound if N = M, and whether the assignment is complete.
    """
    price_M, reach_M, shift_N, level_M = work[0], work[1], work[2], work[3]
    n, m = cost_NM.shape
    rows, columns = np.empty(n, np.int32), np.empty(n, np.int32)
    row_of[:m], column_of[:n] = -1, -1
    dual, goal = u_N.sum() + v_M.sum(), limit * n
    for i in range(n):
        reach_M[:m] = FAR
        relax(cost_NM[i], v_M, -u_N[i], reach_M[:m])
        j = place(reach_M[:m], lowest(reach_M[:m]))
        if row_of[j] < 0:
            u_N[i] += reach_M[j]
            dual += reach_M[j]
            row_of[j], column_of[i] = i, j
    for f in range(n):
        if column_of[f] >= 0:
            continue
        price_M[:m] = v_M
        reach_M[:m] = FAR
        level, i, count = np.float32(0.0), f, 0
        while True:
            rows[count], shift_N[count] = i, level - u_N[i]
            relax(cost_NM[i], price_M[:m], shift_N[count], reach_M[:m])
            level = lowest(reach_M[:m])
            if dual + level >= goal:
                return (dual + level) / n, False
            j = place(reach_M[:m], level)
            if row_of[j] < 0:
                break
            columns[count], level_M[count] = j, level
            reach_M[j], price_M[j] = FAR, -FAR
            count += 1
            i = row_of[j]
        dual += level
        turn(cost_NM, v_M, rows, shift_N, j, count, row_of, column_of)
        u_N[f] += level
        for q in range(count):
            v_M[columns[q]] -= level - level_M[q]
            u_N[rows[q + 1]] += level - level_M[q]
    return dual / n, True


@njit(**OPTIONS)
def couple(cost_NM, turned_MN, u_N, v_M, limit, row_of, column_of, work):
    """The best coupling of spans of unequal size: an assignment of the smaller one, completed by `carry`.

    Returns:
        A lower bound of the cost, whether the coupling is complete, and the units that the smaller span's tokens (rows)
        take from those of the larger one.
    """
    if cost_NM.shape[0] < cost_NM.shape[1]:
        cost_NM, turned_MN, u_N, v_M, row_of, column_of = turned_MN, cost_NM, v_M, u_N, column_of, row_of
    n, m = cost_NM.shape
    flow_MN = np.zeros((m, n), np.int32)
    assign(turned_MN, v_M, u_N, FAR, column_of, row_of, work)
    for j in range(m):
        flow_MN[j, row_of[j]] = m // np.gcd(n, m)
    bound, finished = carry(cost_NM, u_N, v_M, flow_MN, limit)
    return bound, finished, flow_MN


@njit(**OPTIONS)
def turn(cost_NN, v_N, rows, shift_N, column, last, row_of, column_of):
    """Assign the free column, walking back: a column was reached from the row that gives it the least distance."""
    q = last
    while True:
        least, via = FAR, 0
        for p in range(q + 1):
            reach = cost_NN[rows[p], column] - v_N[column] + shift_N[p]
            if reach < least:
                least, via = reach, p
        row_of[column] = rows[via]
        column, column_of[rows[via]] = column_of[rows[via]], column
        if via == 0:
            return
        q = via - 1


@njit(**OPTIONS)
def mark(open_L, count, first_L, last_L, marked_S):
    """Mark the stretches that the first `count` open spans cover."""
    marked_S[:] = False
    for q in range(count):
        marked_S[first_L[open_L[q]] : last_L[open_L[q]]] = True


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
    mark(open_L, kept, first_L, last_L, marked_S)
    for s in range(len(marked_S)):
        if marked_S[s]:
            turned = turned_UT[:, a:b]
            least_of_rows(turned, cuts[s], cuts[s + 1], v_U[cuts[s] :], 0, n, least_SN[s])
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
    """Potentials of span a..b: those of the span before (ending at `before`), and for new tokens prices of its winner."""
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
def search(cost_TU, turned_UT, start_K, end_K, spans_L, cuts, bound_KL, best_K, tolerance):
    """Search consecutive spans; see `compiled.py` for the method. `bound_KL` and `best_K` are written.

    Returns:
        The finished solves (R, 2) in pairs of span numbers, their costs (R,), and their assignments (R, N), whose first
        entry is -1 where the spans differ in size.
    """
    start_L, end_L, first_L, last_L = spans_L[0], spans_L[1], spans_L[2], spans_L[3]
    width = (end_K - start_K).max()
    most = max(width, (end_L - start_L).max())
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
        u_N[:n] = spare_N[:n]
        while True:
            limit, count = best_K[k] * (1 - tolerance), 0
            for l in range(len(start_L)):  # noqa: E741
                if bound_KL[k, l] < limit:
                    open_L[count] = l
                    count += 1
            count = bound_open(
                cost_TU, turned_UT, a, b, u_N, spans_L, cuts, limit, bound_KL[k], open_L, count, v_U, least_SN, marked_S
            )
            finished = False
            while count and not finished:
                q = 0
                for p in range(1, count):
                    if bound_KL[k, open_L[p]] < bound_KL[k, open_L[q]]:
                        q = p
                l = open_L[q]  # noqa: E741
                count -= 1
                open_L[q] = open_L[count]
                c, m = start_L[l], end_L[l] - start_L[l]
                least_potentials(least_SN, first_L[l], last_L[l], n, spare_N)
                v_M[:m] = v_U[c : c + m]
                cost_NM = cost_TU[a:b, c : c + m]
                if n == m:
                    bound, finished = assign(cost_NM, spare_N[:n], v_M[:n], limit, row_of, column_of, work)
                else:
                    turned_MN = turned_UT[c : c + m, a:b]
                    bound, finished, flow_MN = couple(
                        cost_NM, turned_MN, spare_N[:n], v_M[:m], limit, row_of, column_of, work
                    )
                    column_of[0] = -1
                bound_KL[k, l] = max(bound, bound_KL[k, l])
                if finished:
                    if solved == len(costs):
                        pairs, costs = np.concatenate((pairs, pairs)), np.concatenate((costs, costs))
                        matches = np.concatenate((matches, matches))
                    cost = 0.0
                    if n == m:
                        for i in range(n):
                            cost += cost_NM[i, column_of[i]] / n
                    else:
                        carried = turned_MN if n > m else cost_NM
                        for i in range(min(n, m)):
                            cost += (carried[i] * flow_MN[i]).sum()
                        cost /= n * (m // np.gcd(n, m))
                    pairs[solved, 0], pairs[solved, 1], costs[solved] = k, l, cost
                    matches[solved, :n] = column_of[:n]
                    solved += 1
                    bound_KL[k, l] = cost
                    best_K[k] = min(best_K[k], cost)
                    nearest = l
                    # a constant may move from u to v freely; left alone it grows, and digits are lost
                    shift = (spare_N[:n].sum() / n - v_M[:m].sum() / m) / 2
                    u_N[:n] = spare_N[:n] - np.float32(shift)
                    near_M[:m] = v_M[:m] + np.float32(shift)
            if not finished:
                break
    return pairs[:solved], costs[:solved], matches[:solved]
