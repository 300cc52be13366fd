"""Hashed n-grams against tuples of ids."""

import random

import numpy as np
import pytest

from rlft.replay.ngrams import ngrams, repeated_share, shared_share, shingles


def tuples(ids: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_numbers_are_equal_where_the_runs_are(n: int) -> None:
    ids = random.Random(n).choices(range(4), k=400)
    numbers, runs = ngrams(ids, n).tolist(), tuples(ids, n)
    assert len(numbers) == len(runs)
    assert len(set(numbers)) == len(set(runs)) == len(set(zip(numbers, runs, strict=True)))


def test_runs_that_look_alike_to_a_sum_have_their_own_numbers() -> None:
    runs = [[0], [0, 0], [0, 0, 0], [1, 2], [2, 1], [1, 0], [0, 1], [-100, 5], [5, -100], [2**31, 0]]
    assert len({int(ngrams(run, len(run))[0]) for run in runs}) == len(runs)


def test_sequences_shorter_than_n() -> None:
    assert ngrams([1, 2], 3).size == 0
    assert ngrams([], 3).size == 0
    assert shingles([1, 2], 5).tolist() == ngrams([1, 2], 2).tolist()


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("length", [0, 1, 3, 50])
def test_shares_equal_counting(n: int, length: int) -> None:
    chance = random.Random(length)
    ids, other = chance.choices(range(3), k=length), chance.choices(range(3), k=30)
    runs, known = tuples(ids, n), set(tuples(other, n))
    repeated = sum(run in runs[:place] for place, run in enumerate(runs)) / len(runs) if runs else 0
    shared = sum(run in known for run in runs) / len(runs) if runs else 0
    assert repeated_share(ids, n) == pytest.approx(repeated)
    assert shared_share(ids, n, np.unique(ngrams(other, n))) == pytest.approx(shared)


def test_extremes_of_repetition() -> None:
    assert repeated_share(list(range(50)), 4) == 0
    assert repeated_share([7] * 50, 4) == pytest.approx(46 / 47)


def test_a_run_of_no_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ngrams([1, 2, 3], 0)
