"""Intervals against published figures, and what they must do at the ends."""

import random

import pytest

from rlft.evaluate.intervals import difference_interval, mean_interval, newcombe, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_that_of_newcombes_table(successes: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17, 857-872, table I, method 3."""
    found = wilson(successes, count)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(
    ("table", "low", "high"), [((36, 12, 2, 0), 0.0569, 0.3404), ((1, 1, 7, 12), -0.5069, -0.0256)]
)
def test_paired_proportions_are_those_published(table: tuple[int, ...], low: float, high: float) -> None:
    """Newcombe 1998, 17, 2635-2650, table II, method 10; the airway example of Fagerland et al. 2013."""
    both, first, second, neither = table
    one = [1] * both + [1] * first + [0] * second + [0] * neither
    other = [1] * both + [0] * first + [1] * second + [0] * neither
    found = newcombe(one, other)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    back = newcombe(other, one)
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_rows_that_all_agree_are_no_certainty() -> None:
    assert mean_interval([1.0] * 8).low < 0.7
    found = difference_interval([1.0] * 8, [1.0] * 8)
    assert found.low < -0.2 < 0.2 < found.high


def test_samples_of_a_row_are_not_independent_rows() -> None:
    """Four equal samples of each row say no more than one: the interval is that of the rows."""
    rows = [1.0] * 6 + [0.0] * 4
    assert mean_interval(rows) == wilson(6, 10)
    assert mean_interval([*rows, 0.5]).high - mean_interval([*rows, 0.5]).low > 0.3


def test_the_interval_of_a_difference_covers_as_often_as_it_says() -> None:
    rng, covered, trials = random.Random(0), 0, 400
    for _ in range(trials):
        first = [int(rng.random() < 0.6) for _ in range(40)]
        second = [one if rng.random() < 0.5 else int(rng.random() < 0.4) for one in first]
        covered += newcombe(first, second).low <= 0.6 - (0.3 + 0.2) <= newcombe(first, second).high
    assert covered / trials > 0.92
