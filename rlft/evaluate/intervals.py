"""Intervals at 95 %: of a mean over rows, and of the difference of two means over the same rows.

Rows are independent of each other, samples of one row are not. So a row counts once, by the mean of its samples. Where
every row's mean is 0 or 1 the intervals are Wilson's (1927) and, for a difference, Newcombe's for paired proportions
(1998, Statistics in Medicine 17, 2635-2650, method 10): they hold for few rows, and where all rows agree. Otherwise
rows are resampled (percentile bootstrap). Shapes: N rows.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from rlft.evaluate.personal import Interval, Measured, bootstrap, paired_bootstrap

_Z = NormalDist().inv_cdf(0.975)


def mean_interval(means_N: Sequence[float], seed: int = 0) -> Interval:
    """Mean over rows and its interval.

    Args:
        means_N: N values, one or more.
        seed: of the bootstrap.
    """
    if set(means_N) <= {0.0, 1.0}:
        return wilson(round(sum(means_N)), len(means_N))
    return bootstrap(_measured(means_N), seed=seed)


def difference_interval(first_N: Sequence[float], second_N: Sequence[float], seed: int = 0) -> Interval:
    """Mean of `first_N` less that of `second_N`, two systems on the same rows, and its interval.

    Raises:
        ValueError: if they have another number of rows.
    """
    if len(first_N) == len(second_N) and {*first_N, *second_N} <= {0.0, 1.0}:
        return newcombe(list(map(int, first_N)), list(map(int, second_N)))
    return paired_bootstrap(_measured(first_N), _measured(second_N), seed=seed)


def wilson(successes: int, count: int) -> Interval:
    """Wilson's score interval of a proportion."""
    share, spread = successes / count, _Z * _Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return Interval(share, max(middle - half, 0.0), min(middle + half, 1.0))


def newcombe(first_N: Sequence[int], second_N: Sequence[int]) -> Interval:
    """Newcombe's interval (method 10) of the difference of two paired proportions.

    Args:
        first_N: N outcomes, 0 or 1.
        second_N: those of the other system, in the same order.
    """
    count = len(first_N)
    one, other = wilson(sum(first_N), count), wilson(sum(second_N), count)
    below = (one.value - one.low, other.high - other.value)
    above = (one.high - one.value, other.value - other.low)
    both = sum(a and b for a, b in zip(first_N, second_N, strict=True))
    correlation = _correlation(both, sum(first_N), sum(second_N), count)
    difference = one.value - other.value
    low, high = (math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0)) for a, b in (below, above))
    return Interval(difference, difference - low, difference + high)


def _correlation(both: int, first: int, second: int, count: int) -> float:
    """Phi of the 2x2 table, drawn towards 0 where it is positive, as method 10 has it."""
    neither = count - first - second + both
    scale = first * (count - first) * second * (count - second)
    if not scale:
        return 0.0
    excess = both * neither - (first - both) * (second - both)
    return (max(excess - count / 2, 0.0) if excess > 0 else excess) / math.sqrt(scale)


def _measured(values_N: Sequence[float]) -> Measured:
    return Measured(np.array(values_N, dtype=float), lambda drawn_N: float(drawn_N.mean()))
