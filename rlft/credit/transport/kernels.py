# mypy: ignore-errors
"""One pair of spans in compiled loops: minima over rows, assignments, couplings. numba infers the types.

Costs, prices and potentials are fp32 and sums are taken in float64. Shapes: T, U tokens of
the two sides; N, M tokens of two spans. numba keeps the machine code beside this file and `best_first.py`, and makes it
anew when the file itself changes: after a change here, delete the folder `__pycache__`.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from rlft.credit.transport.carry import FAR

OPTIONS = {"nogil": True, "fastmath": True, "cache": True, "error_model": "numpy"}

ENDLESS = 1e30
"""No limit; infinities are undefined in these loops."""


@intrinsic
def lower(typing, a, b):
    """The lower of two fp32 numbers, as the instruction that packs; numba's own `min` branches."""

    def build(context, builder, signature, arguments):
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
def assign(cost_TU, a, c, u_N, v_M, limit, row_of, column_of, work):
    """Every row a, a + 1, ... to a column of its own from c, c + 1, ..., N <= M (Jonker and Volgenant 1987).

    u and v are feasible potentials and become tight ones. Only for N = M is the assignment the best; it is abandoned
    once its dual mean, which only grows, reaches `limit`.

    Returns:
        The dual sum over N, a lower bound if N = M, and whether the assignment is complete.
    """
    price_M, reach_M, shift_N, level_M = work[0], work[1], work[2], work[3]
    n, m = len(u_N), len(v_M)
    rows, columns = np.empty(n, np.int32), np.empty(n, np.int32)
    for j in range(m):
        row_of[j] = -1
    for i in range(n):
        column_of[i] = -1
    dual, goal = total(u_N, 0, n) + total(v_M, 0, m), limit * n
    for i in range(n):
        for j in range(m):
            reach_M[j] = FAR
        relax(cost_TU[a + i, c : c + m], v_M, -u_N[i], reach_M[:m])
        j = place(reach_M[:m], lowest(reach_M[:m]))
        if row_of[j] < 0:
            u_N[i] += reach_M[j]
            dual += reach_M[j]
            row_of[j], column_of[i] = i, j
    for f in range(n):
        if column_of[f] >= 0:
            continue
        for j in range(m):
            price_M[j], reach_M[j] = v_M[j], FAR
        level, i, count = np.float32(0.0), f, 0
        while True:
            rows[count], shift_N[count] = i, level - u_N[i]
            relax(cost_TU[a + i, c : c + m], price_M[:m], shift_N[count], reach_M[:m])
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
        turn(cost_TU, a, c, v_M, rows, shift_N, j, count, row_of, column_of)
        u_N[f] += level
        for q in range(count):
            v_M[columns[q]] -= level - level_M[q]
            u_N[rows[q + 1]] += level - level_M[q]
    return dual / n, True


@njit(**OPTIONS)
def couple(cost_TU, turned_UT, a, c, u_N, v_M, limit, row_of, column_of, work):
    """The best coupling of spans of unequal size: an assignment of the smaller one, completed as in `carry.py`.

    Returns:
        A lower bound of the cost, whether the coupling is complete, its cost, and the units that the tokens of the
        smaller span (rows) take from those of the larger one.
    """
    if len(u_N) < len(v_M):
        cost_TU, turned_UT, a, c, u_N, v_M = turned_UT, cost_TU, c, a, v_M, u_N
        row_of, column_of = column_of, row_of
    n, m = len(u_N), len(v_M)
    assign(turned_UT, c, a, v_M, u_N, ENDLESS, column_of, row_of, work)
    g = n
    for divisor in range(1, m + 1):
        if n % divisor == 0 and m % divisor == 0:
            g = divisor
    supply, demand = m // g, n // g
    flow_MN, left_N, room_M = np.zeros((m, n), np.int32), np.zeros(n, np.int32), np.zeros(m, np.int32)
    dual, cost = 0.0, 0.0
    for i in range(n):
        left_N[i] = supply
        dual += u_N[i] * supply
    for j in range(m):
        flow_MN[j, row_of[j]], left_N[row_of[j]], room_M[j] = supply, 0, demand - supply
        dual += v_M[j] * demand
    finished = True
    for f in range(n):
        while finished and left_N[f] > 0:
            dual, finished = send(
                cost_TU, a, c, f, u_N, v_M, supply, demand, flow_MN, left_N, room_M, dual, limit * n * supply, work
            )
    for j in range(m):
        for i in range(n):
            cost += flow_MN[j, i] * turned_UT[c + j, a + i]
    return dual / (n * supply), finished, cost / (n * supply), flow_MN


@njit(**OPTIONS)
def send(cost_TU, a, c, f, u_N, v_M, supply, demand, flow_MN, left_N, room_M, dual, goal, work):
    """Send units from row f along shortest paths, until none is left or a path has lost its way back.

    Returns:
        The dual value in units, and whether it stayed below `goal`.
    """
    n, m = len(u_N), len(v_M)
    price_M, reach_M, column_at, row_at = work[0][:m], work[1][:m], work[2], work[3]
    rows, entry, unseen_N = np.empty(n, np.int32), np.empty(n, np.int32), np.ones(n, np.bool_)
    columns, came_M = np.empty(m, np.int32), np.zeros(m, np.int32)
    rows[0], row_at[0], unseen_N[f] = f, 0.0, False
    for j in range(m):
        price_M[j] = v_M[j]
        reach_M[j] = cost_TU[a + f, c + j] - v_M[j] - u_N[f]
    count, scanned, level, whole = 1, 0, np.float32(0.0), True
    while whole and left_N[f] > 0:
        level = lowest(reach_M)
        if dual + left_N[f] * level >= goal:
            return dual + left_N[f] * level, False
        j = place(reach_M, level)
        if room_M[j] > 0:
            units, column, q = min(left_N[f], room_M[j]), j, came_M[j]
            while q > 0:
                column = entry[q]
                units, q = min(units, flow_MN[column, rows[q]]), came_M[column]
            room_M[j] -= units
            left_N[f] -= units
            q = came_M[j]
            flow_MN[j, rows[q]] += units
            while q > 0:
                column = entry[q]
                flow_MN[column, rows[q]] -= units
                whole = whole and flow_MN[column, rows[q]] > 0
                q = came_M[column]
                flow_MN[column, rows[q]] += units
            continue
        columns[scanned], column_at[scanned] = j, level
        scanned += 1
        reach_M[j], price_M[j] = FAR, -FAR
        for i in range(n):
            if flow_MN[j, i] > 0 and unseen_N[i]:
                rows[count], entry[count], row_at[count], unseen_N[i] = i, j, level, False
                shift = level - u_N[i]
                for p in range(m):
                    through = cost_TU[a + i, c + p] - price_M[p] + shift
                    if through < reach_M[p]:
                        reach_M[p], came_M[p] = through, count
                count += 1
    for q in range(count):
        u_N[rows[q]] += level - row_at[q]
        dual += (level - row_at[q]) * supply
    for q in range(scanned):
        v_M[columns[q]] -= level - column_at[q]
        dual -= (level - column_at[q]) * demand
    return dual, True


@njit(**OPTIONS)
def turn(cost_TU, a, c, v_M, rows, shift_N, column, last, row_of, column_of):
    """Assign the free column, walking back: a column was reached from the row that gives it the least distance."""
    q = last
    while True:
        least, via = FAR, 0
        for p in range(q + 1):
            reach = cost_TU[a + rows[p], c + column] - v_M[column] + shift_N[p]
            if reach < least:
                least, via = reach, p
        row_of[column] = rows[via]
        column, column_of[rows[via]] = column_of[rows[via]], column
        if via == 0:
            return
        q = via - 1
