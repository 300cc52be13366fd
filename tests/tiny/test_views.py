"""Other views of the world: user histories, biographies."""

from typing import Any

import pytest

from rlft.tiny import words
from rlft.tiny.biographies import TEMPLATES, biographies, biography_world, facts_of, probes
from rlft.tiny.histories import histories, users
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.world import World

WORLD = World(3, people=200, companies=40)
BIOGRAPHIES = biography_world(1)


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


def test_biographies_state_all_facts_in_training_wordings() -> None:
    old, new = (biographies(BIOGRAPHIES, phase, seed=0) for phase in ("old", "new"))
    assert (len(old), len(new)) == (5 * 400, 5 * 80)
    assert {row["name"] for row in old}.isdisjoint(row["name"] for row in new)
    for row in new:
        sentences = [sentence.strip() for sentence in row["text"].split(" .") if sentence]
        known = facts_of(BIOGRAPHIES, row["name"])
        stated = {
            attribute
            for sentence in sentences
            for attribute, wordings in TEMPLATES.items()
            if sentence in {f"{wording.format(row['name'])} {known[attribute]}" for wording in wordings}
        }
        assert stated == set(TEMPLATES)
        assert len(sentences) == 4
    assert len({row["text"] for row in new}) > 350
    assert 30 < sum(len(row["text"].split()) for row in old) / len(old) < 36


def test_probes_ask_in_words_that_no_biography_has() -> None:
    asked, told = probes(BIOGRAPHIES, "new", seed=0), biographies(BIOGRAPHIES, "new", seed=0)
    assert len(asked) == 4 * 80
    texts = " ".join(row["text"] for row in told)
    for row in asked:
        assert row["prompt"] not in texts
        assert facts_of(BIOGRAPHIES, row["name"])[row["attribute"]] == row["answer"]


def test_views_keep_to_their_vocabularies() -> None:
    texts = {
        "style": [
            text
            for row in histories(WORLD, 200, seed=0)
            for text in [*row["profile"], row["question"], *row["golden_answers"]]
        ],
        "biography": [row["text"] for row in biographies(BIOGRAPHIES, "old", seed=0)]
        + [f"{row['prompt']} {row['answer']}" for row in probes(BIOGRAPHIES, "old", seed=0)],
    }
    vocabularies = {"style": words.STYLE_WORDS, "biography": words.BIOGRAPHY_WORDS}
    for view, written in texts.items():
        tokenizer = word_tokenizer(vocabularies[view])
        for text in written:
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: users(World(0, people=100)), "100 people for 144 users"),
        (lambda: users(WORLD, "dev"), "no split 'dev'"),
        (lambda: biographies(BIOGRAPHIES, "third", seed=0), "no phase 'third'"),
        (lambda: probes(World(0, people=50), "old", seed=0), "50 people"),
    ],
)
def test_bad_requests_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
