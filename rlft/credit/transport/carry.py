"""Transport between uniform measures on n and on m points by shortest augmenting paths; meant for n != m.

Every row supplies m / g units and every column takes n / g, g their greatest common divisor, so all flows are whole.
`kernels.py` holds the same in compiled loops.
Source: successive shortest paths with potentials (Ahuja, Magnanti and Orlin, Network Flows, 1993, section 9.7).
"""

import math

import numpy as np

FAR = np.float32(1e30)
"""Stands for infinity: larger than any distance, and still finite when a potential is subtracted."""


def carry(
    cost_NM: np.ndarray, u_N: np.ndarray, v_M: np.ndarray, flow_MN: np.ndarray, limit: float
) -> tuple[float, bool]:
    """Complete a flow to the cheapest one, unless its cost is certain to reach `limit`.

    From every row with units left, distances grow over the residual graph; whenever they reach a column with room,
    units are sent there at once. The search starts afresh only when a path has lost its way back.

    Args:
        cost_NM: fp32 ground costs.
        u_N: row potentials, written.
        v_M: column potentials, written; to start with, any values are right, and near-optimal ones are fast.
        flow_MN: int32 units that columns take from rows, written; to start with, only where cost - v is least in a row.
        limit: abandon the search once the dual value, which only grows, has reached this.

    Returns:
        The dual value (a lower bound of the cost, and equal to it if finished), and whether the flow is finished.
    """
    n, m = cost_NM.shape
    g = math.gcd(n, m)
    supply, demand = m // g, n // g
    goal = limit * n * supply
    room_M, left_N = np.full(m, demand, np.int32), np.full(n, supply, np.int32)
    rows, entry, shift_N, row_at = np.zeros(n, np.int32), np.zeros(n, np.int32), u_N.copy(), u_N.copy()
    columns, column_at = np.zeros(m, np.int32), v_M.copy()
    room_M -= flow_MN.sum(1)
    left_N -= flow_MN.sum(0)
    u_N[:] = (cost_NM - v_M).min(1)
    dual = float(u_N.sum()) * supply + float(v_M.sum()) * demand
    for f in range(n):
        while left_N[f] > 0:
            price_M, came_M, unseen_N = v_M.copy(), np.zeros(m, np.int32), np.ones(n, np.bool_)
            rows[0], row_at[0], shift_N[0], unseen_N[f] = f, 0.0, -u_N[f], False
            reach_M = cost_NM[f] - price_M - u_N[f]
            count, scanned, level, whole = 1, 0, np.float32(0.0), True
            while whole and left_N[f] > 0:
                j = int(reach_M.argmin())
                level = reach_M[j]
                if dual + left_N[f] * level >= goal:
                    return (dual + left_N[f] * level) / (n * supply), False
                if room_M[j] > 0:
                    units, whole = _send(flow_MN, j, min(left_N[f], room_M[j]), rows, entry, came_M)
                    room_M[j] -= units
                    left_N[f] -= units
                    continue
                columns[scanned], column_at[scanned] = j, level
                scanned += 1
                reach_M[j], price_M[j] = FAR, -FAR
                for i in np.flatnonzero((flow_MN[j] > 0) & unseen_N):
                    unseen_N[i] = False
                    rows[count], entry[count], row_at[count], shift_N[count] = i, j, level, level - u_N[i]
                    through_M = cost_NM[i] - price_M + shift_N[count]
                    came_M[through_M < reach_M] = count
                    reach_M = np.minimum(through_M, reach_M)
                    count += 1
            for q in range(count):
                u_N[rows[q]] += level - row_at[q]
                dual += float(level - row_at[q]) * supply
            for q in range(scanned):
                v_M[columns[q]] -= level - column_at[q]
                dual -= float(level - column_at[q]) * demand
    return dual / (n * supply), True


def _send(
    flow_MN: np.ndarray, column: int, most: int, rows: np.ndarray, entry: np.ndarray, came_M: np.ndarray
) -> tuple[int, bool]:
    """Send units to a column along the path that reached it: each row on it gives what the next one takes over.

    Args:
        flow_MN: written.
        column: where the path ends.
        most: units to send, if the path carries as many.
        rows: the search's rows in the order in which it came to them, that which supplies the units first.
        entry: through which column it came to each.
        came_M: number in `rows` of the row from which each column was reached.

    Returns:
        The units sent, and whether the path could still be taken backwards: no flow on it is used up.
    """
    q = int(came_M[column])
    gains, losses = [(column, rows[q])], []
    while q > 0:
        through = entry[q]
        losses.append((through, rows[q]))
        q = int(came_M[through])
        gains.append((through, rows[q]))
    units = min([most, *(flow_MN[place] for place in losses)])
    for place in gains:
        flow_MN[place] += units
    for place in losses:
        flow_MN[place] -= units
    return units, all(flow_MN[place] > 0 for place in losses)
