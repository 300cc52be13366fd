"""Runs of n token ids as 64-bit numbers, so that NumPy can count and compare them.

Two different runs share a number by chance only, about once in 2^64 pairs.
"""

from collections.abc import Sequence

import numpy as np

Hashes = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]

# Odd constants of the SplitMix64 generator (Steele, Lea and Flood, 2014): products modulo 2^64 that mix well.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def ngrams(ids_T: Sequence[int], n: int) -> Hashes:
    """The number of every run of n ids, (max(T - n + 1, 0),), in order.

    Raises:
        ValueError: if n is below 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: a run has at least one token.")
    ids = np.asarray(ids_T, dtype=np.int64).astype(np.uint64)
    runs = max(ids.size - n + 1, 0)
    number = np.full(runs, n, dtype=np.uint64)
    for place in range(n):
        number = number * _BASE + ids[place : place + runs] + np.uint64(1)
    number = (number ^ (number >> np.uint64(30))) * _MIX[0]
    number = (number ^ (number >> np.uint64(27))) * _MIX[1]
    return number ^ (number >> np.uint64(31))


def shingles(ids_T: Sequence[int], n: int) -> Hashes:
    """The different n-grams, sorted; those of a shorter sequence are the one n-gram that is the whole of it."""
    return np.unique(ngrams(ids_T, max(1, min(n, len(ids_T)))))


def repeated_share(ids_T: Sequence[int], n: int) -> float:
    """Share of n-grams that stood earlier in the sequence, 0 to below 1; 0 where there are no n-grams."""
    number = ngrams(ids_T, n)
    return 1 - np.unique(number).size / number.size if number.size else 0.0


def shared_share(ids_T: Sequence[int], n: int, known: Hashes) -> float:
    """Share of n-grams that stand in `known`, which is sorted and not empty; 0 where there are no n-grams."""
    number = ngrams(ids_T, n)
    if not number.size:
        return 0.0
    nearest = np.minimum(np.searchsorted(known, number), known.size - 1)
    return float((known[nearest] == number).mean())
