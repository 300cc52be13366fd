"""Other views of the world: user histories."""

from typing import Any

import pytest

from rlft.tiny import words
from rlft.tiny.histories import histories, users
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.world import World

WORLD = World(3, people=200, companies=40)


def test_styles_are_one_a_user_and_of_one_split() -> None:
    everyone, train, test = (users(WORLD, split) for split in (None, "train", "test"))
    assert everyone == train + test
    assert (len(train), len(test)) == (108, 36)
    assert len({(user.opener, user.ending) for user in everyone}) == len({user.name for user in everyone}) == 144
    assert users(World(4, people=200)) != everyone


def test_a_history_shows_the_style_that_the_answer_has() -> None:
    rows = histories(WORLD, 50, seed=0, split="test")
    assert rows == histories(WORLD, 50, seed=0, split="test")
    assert {row["user"] for row in rows} <= {user.name for user in users(WORLD, "test")}
    for row in rows:
        for text in [*row["profile"], *row["golden_answers"]]:
            opener, *content, ending = text.split()
            assert (opener, ending, len(content)) == (row["opener"], row["ending"], 3)
        assert row["question"].split()[1::2] == row["golden_answers"][0].split()[1:-1]
        assert len(row["profile"]) == 3


def test_histories_keep_to_their_vocabulary() -> None:
    tokenizer = word_tokenizer(words.STYLE_WORDS)
    for row in histories(WORLD, 200, seed=0):
        for text in [*row["profile"], row["question"], *row["golden_answers"]]:
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: users(World(0, people=100)), "100 people for 144 users"),
        (lambda: users(WORLD, "dev"), "no split 'dev'"),
    ],
)
def test_bad_requests_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
