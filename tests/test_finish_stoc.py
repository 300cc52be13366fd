"""The table of replay: columns only where there is something in them."""

from rlft.finish_stoc import _aligned, _of_replay


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
