"""The toy world: the same by seed, a closed vocabulary, questions whose hops lead to the gold answer."""

import json
import re
from collections import Counter
from typing import Any

import pytest

from rlft.tiny import words
from rlft.tiny.questions import SPLITS, TWO_HOP, questions, sample
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.world import World, spellings

WORLD = World(3, people=200, companies=40)
VOCABULARIES = [words.SEARCH_WORDS, words.STYLE_WORDS, words.BIOGRAPHY_WORDS]


def test_the_seed_decides_the_world() -> None:
    again, other = World(3, people=200, companies=40), World(4, people=200, companies=40)
    assert (again.passages, questions(again)) == (WORLD.passages, questions(WORLD))
    assert other.passages != WORLD.passages
    assert sample(WORLD, 20, seed=1, split="test") == sample(again, 20, seed=1, split="test")
    assert sample(WORLD, 20, seed=1, split="test") != sample(WORLD, 20, seed=2, split="test")


def test_passages_have_ids_of_their_own_and_stand_under_their_subject() -> None:
    passages = WORLD.passages
    assert len({passage["id"] for passage in passages}) == len(passages) == 3 * 200 + 2 * 40
    assert all(passage["text"].startswith(f"{passage['title']} ") for passage in passages)
    assert len({*WORLD.people, *WORLD.companies}) == 240
    mentors = [(person, WORLD.fact(person, "mentored").object) for person in WORLD.people]
    assert all(person != mentor for person, mentor in mentors)


def test_a_reader_who_follows_the_hops_finds_the_gold_answer() -> None:
    """The oracle reads passages as text only: it finds what the question names, and goes where the passages lead."""
    texts = {passage["id"]: passage["text"] for passage in WORLD.passages}
    for row in questions(WORLD):
        entity = next(name for name in {*WORLD.people, *WORLD.companies} if f" {name} " in row["question"])
        for hop in row["hops"]:
            assert texts[hop["passage_id"]] == f"{hop['fact']} ."
            assert hop["query"].startswith(f"{entity} ")
            assert hop["fact"].startswith(f"{entity} ")
            entity = re.split(r" (?:at|in|by) ", hop["fact"])[1]
        assert entity == row["golden_answers"][0]
        assert row["golden_answers"] == spellings(entity)


def test_the_careless_query_is_about_the_question_s_own_entity_and_the_bridge_has_another_type() -> None:
    for row in questions(WORLD, TWO_HOP):
        first, second = row["hops"]
        asked, bridge = first["query"].rsplit(" ", 1)[0], second["query"].rsplit(" ", 1)[0]
        assert row["careless"]["query"].rsplit(" ", 1)[0] == asked
        assert (asked in WORLD.people) != (bridge in WORLD.people)
        assert asked.split()[0] != bridge.split()[0]


def test_splits_share_no_entity_and_leave_none_out() -> None:
    asked = {
        split: {row["hops"][0]["query"].rsplit(" ", 1)[0] for row in questions(WORLD, split=split)} for split in SPLITS
    }
    assert Counter(name for names in asked.values() for name in names) == Counter([*WORLD.people, *WORLD.companies])
    assert asked["train"] == {*WORLD.people[:120], *WORLD.companies[:24]}
    ids = [row["id"] for split in SPLITS for row in questions(WORLD, split=split)]
    assert len(set(ids)) == len(ids) == len(questions(WORLD))


def test_a_sample_has_each_kind_equally_often_as_long_as_it_lasts() -> None:
    rows = sample(WORLD, 60, seed=0, split="train")
    assert Counter(row["kind"] for row in rows) == {kind.name: 20 for kind in TWO_HOP}
    everything = sample(WORLD, 120 + 24 + 120, seed=0, split="train")
    assert len({row["id"] for row in everything}) == 264
    json.dumps(everything)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample(WORLD, 10_000, seed=0, split="test"), "10000 questions wanted.*test"),
        (lambda: questions(WORLD, split="validation"), "no split 'validation'"),
        (lambda: World(0, people=2000), "2000 names wanted: there are 1600"),
        (lambda: World(0, people=1), "at least 2"),
        (lambda: WORLD.fact("nobody", "works"), "nobody"),
        (lambda: word_tokenizer([*words.SEARCH_WORDS, "two words"]), "without blanks"),
        (lambda: word_tokenizer([*words.SEARCH_WORDS, "bank"]), "once"),
        (lambda: word_tokenizer(words.SENTENCES), "starts with <|pad|>"),
    ],
)
def test_bad_requests_are_refused(call: Any, message: str) -> None:
    with pytest.raises((ValueError, KeyError), match=message):
        call()


def test_all_that_the_world_writes_round_trips() -> None:
    tokenizer = word_tokenizer()
    texts = [passage["text"] for passage in WORLD.passages] + [passage["title"] for passage in WORLD.passages]
    for row in questions(WORLD):
        texts += [row["question"], *row["golden_answers"], *(hop["query"] for hop in row["hops"])]
    texts += ["<QUERY> <SEARCH> [1] [6] <FACT> <FINAL> [3] > [1]", "answer ?", "rank ?", "nothing"]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("vocabulary", VOCABULARIES, ids=["search", "style", "biography"])
def test_a_word_s_place_is_its_id(vocabulary: list[str]) -> None:
    tokenizer = word_tokenizer(vocabulary)
    assert len(tokenizer) == len(vocabulary) == len(set(vocabulary))
    assert tokenizer(" ".join(vocabulary)).input_ids == list(range(len(vocabulary)))
    assert [tokenizer.convert_ids_to_tokens(number) for number in tokenizer.all_special_ids] == sorted(
        words.CONTROLS, key=tokenizer.all_special_tokens.index
    )


def test_the_chat_template() -> None:
    tokenizer = word_tokenizer()
    messages = [{"role": "user", "content": "answer ?"}, {"role": "assistant", "content": "<FINAL>"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|u|> answer ? <|end|> <|a|> <FINAL> <|end|>"
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|u|> answer ? <|end|> <|a|>"
    assert (tokenizer.eos_token, tokenizer.padding_side) == ("<|end|>", "left")
    assert tokenizer("unheard of").input_ids == [tokenizer.unk_token_id, tokenizer("of").input_ids[0]]
