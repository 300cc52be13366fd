"""The table of replay: intervals over people, columns only where there is something in them."""

import numpy as np
import pytest

from rlft.evaluate.personal import Measured, bootstrap
from rlft.finish_stoc import _aligned, _of_replay, by_owner


def mean(values: list[float]) -> Measured:
    return Measured(np.array(values), lambda chosen_N: float(chosen_N.mean()))


def test_people_are_drawn_with_all_their_facts() -> None:
    """Equal facts of a person add no information: the interval is that of one fact each, wider than over rows."""
    chance = np.random.default_rng(0)
    of_people = list(chance.integers(0, 2, 40).astype(float))
    rows = mean([value for value in of_people for _ in range(4)])
    owners = [f"p{number // 4}" for number in range(160)]
    drawn, plain = bootstrap(by_owner(rows, owners)), bootstrap(rows)
    assert drawn.value == pytest.approx(plain.value)
    assert drawn.high - drawn.low > 1.6 * (plain.high - plain.low)
    one_each = by_owner(mean(of_people), [f"p{number}" for number in range(40)])
    assert bootstrap(one_each).low == pytest.approx(bootstrap(mean(of_people)).low)


def test_owners_of_unequal_numbers_of_rows_weigh_as_many() -> None:
    assert by_owner(mean([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"]).value == 0.75


def test_empty_columns_are_left_out() -> None:
    table = _aligned([["", "old", "true", "seeds"], ["none", "0.4"], ["bos", "0.8", "", "1 of 9"]])
    assert table == "      old  seeds\nnone  0.4\nbos   0.8  1 of 9"


def test_replay_without_a_stated_fact_has_no_shares() -> None:
    mix = {"replay_distinct": 3, "replay_items": 4}
    stated = {"stated": 0, "about_old": 0, "about_new": 0, "true_of_old": 0, "old_people": 0}
    assert _of_replay({"mix": mix, "stated": stated}) == ["", "", "", "3 of 4", ""]
    stated |= {"stated": 10, "about_old": 8, "true_of_old": 6, "about_new": 1, "old_people": 5}
    seeds = {"distinct": 7, "seeds": 9}
    assert _of_replay({"mix": mix, "stated": stated, "seeds": seeds}) == ["75.0%", "10.0%", "5", "3 of 4", "7 of 9"]
