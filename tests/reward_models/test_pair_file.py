"""The file of pairs comes back as it was, and users do not straddle the split."""

import json
from dataclasses import asdict, replace

import pytest

from rlft.data.prompts import DataError
from rlft.reward_models.pair_file import Pair, read_pairs, split_by_user, write_pairs
from tests.reward_models.toy import item, make_pairs


def test_the_file_gives_the_pairs_back(tmp_path):
    pairs = [*make_pairs(3), Pair("é", None, "q\n'{", [item("t", "x", "2015")], "it's {a}", ["b"], ["none"], "gold")]
    write_pairs(pairs, tmp_path / "pairs.jsonl")
    assert read_pairs(tmp_path / "pairs.jsonl") == pairs


ROW = asdict(make_pairs(1, kinds=["none"])[0])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "line 1 lacks id, user_id"),
        ({"id": "1"}, "lacks user_id"),
        (ROW | {"rejected": [" "]}, "empty answer"),
        (ROW | {"rejected": [None]}, "is no pair"),
        (ROW | {"kinds": ["odd"]}, "odd"),
        (ROW | {"kinds": []}, "1 rejected answers, 0 kinds"),
    ],
)
def test_a_row_that_is_no_pair_is_refused_by_its_line(tmp_path, row, said):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=said):
        read_pairs(tmp_path / "pairs.jsonl")


def test_every_user_is_on_one_side_of_the_split():
    pairs = make_pairs(60)
    train, held = split_by_user(pairs, share=0.25)
    assert {pair.user_id for pair in train}.isdisjoint({pair.user_id for pair in held})
    assert (len({pair.user_id for pair in held}), len(train) + len(held)) == (1, 60)
    assert split_by_user(pairs, share=0.25) == (train, held)


def test_without_user_ids_the_profile_names_the_user():
    pairs = [replace(pair, user_id=None) for pair in make_pairs(60)]
    train, held = split_by_user(pairs, share=0.3)
    texts = [{str(pair.profile) for pair in side} for side in (train, held)]
    assert texts[0].isdisjoint(texts[1])


def test_one_user_cannot_be_split():
    with pytest.raises(ValueError, match="1 users"):
        split_by_user([pair for pair in make_pairs(20) if pair.user_id == "m1"])
