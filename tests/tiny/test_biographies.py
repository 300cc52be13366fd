"""Biographies of any number of people: the corpus that was measured, its parts, and what is read back out of it."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rlft.tiny.biographies import (
    HELD_OUT_TEMPLATES,
    TEMPLATES,
    biographies,
    biography_world,
    probes,
    vocabulary,
)
from rlft.tiny.people import PAPER, TINY, Size
from rlft.tiny.stated import audit, stated_facts
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import BIOGRAPHY_WORDS

WORLD = biography_world(1)
OLD, NEW = (biographies(WORLD, phase, seed=0) for phase in ("old", "new"))
SMALL = replace(PAPER, old=300, new=60)
LARGE = biography_world(2, SMALL)


def words_in(rows: list[dict[str, Any]]) -> int:
    return sum(len(row["text"].split()) for row in rows)


def test_the_tiny_corpus_has_the_measured_sizes() -> None:
    assert (len(WORLD.old), len(WORLD.new)) == (400, 80)
    assert (len(OLD), len(NEW)) == (2000, 400)
    assert words_in(OLD) / len(OLD) == pytest.approx(32.6, abs=0.1)
    assert words_in(OLD) + len(OLD) == pytest.approx(67_000, rel=0.01)  # with an end token each
    assert 13_350 <= words_in(NEW) + len(NEW) <= 13_500
    assert vocabulary() == BIOGRAPHY_WORDS
    assert len(vocabulary()) == 205
    values = {attribute: {WORLD.facts(name)[attribute] for name in WORLD.names} for attribute in WORLD.facts("x y")}
    assert {attribute: len(found) for attribute, found in values.items() if attribute != "birthday"} == {
        "home": 20,
        "field": 16,
        "employer": 20,
    }
    assert {len(value.split()) for value in values["birthday"]} == {2}
    assert all(len(value.split()) == 1 for name, found in values.items() if name != "birthday" for value in found)


@pytest.mark.parametrize("world", [WORLD, LARGE], ids=["tiny", "paper"])
def test_new_names_are_made_of_the_words_of_one_pool(world: Any) -> None:
    assert len(set(world.names)) == len(world.names)
    assert world.old + world.new == world.names
    firsts, lasts = {name.split()[0] for name in world.names}, {name.split()[-1] for name in world.names}
    assert firsts.isdisjoint(lasts)


def test_no_word_of_a_tiny_new_name_is_new() -> None:
    assert {word for name in WORLD.new for word in name.split()} <= {
        word for name in WORLD.old for word in name.split()
    }


def test_each_kind_of_fact_keeps_its_last_words() -> None:
    ends = {attribute: {text.split()[-1] for text in texts} for attribute, texts in TEMPLATES.items()}
    home, field = ends["home"] - {"is"}, ends["field"]
    for attribute, texts in HELD_OUT_TEMPLATES.items():
        assert {text.split()[-1] for text in texts} <= ends[attribute]
        assert not set(texts) & set(TEMPLATES[attribute])
        assert (len(TEMPLATES[attribute]), len(texts)) == (5, 2)
    assert home == {"in"}
    assert field == {"studied", "about"}
    telling = [texts - {"is", "was"} for texts in ends.values()]
    assert len(set.union(*telling)) == sum(map(len, telling))


@pytest.mark.parametrize(("world", "facts"), [(WORLD, 4), (LARGE, 5)], ids=["tiny", "paper"])
def test_biographies_state_every_fact_once(world: Any, facts: int) -> None:
    rows = biographies(world, "new", seed=3, copies=2)
    assert rows == biographies(world, "new", seed=3, copies=2) != biographies(world, "new", seed=4, copies=2)
    assert Counter(row["name"] for row in rows) == dict.fromkeys(world.new, 2)
    for row in rows:
        stated = stated_facts(row["text"])
        assert len(stated) == facts
        assert {fact.name for fact in stated} == {row["name"]}
        assert {fact.attribute: fact.value for fact in stated} == world.facts(row["name"])
    assert len({row["text"] for row in rows}) > 0.9 * len(rows)


def test_probes_ask_in_words_that_no_biography_has() -> None:
    asked = probes(WORLD, "new", seed=0)
    assert len(asked) == len({row["id"] for row in asked}) == 4 * 80
    texts = " ".join(row["text"] for row in NEW)
    for row in asked:
        assert row["prompt"] not in texts
        assert WORLD.facts(row["name"])[row["attribute"]] == row["answer"]


def test_three_wordings_a_fact_as_in_the_paper() -> None:
    rows = probes(LARGE, "new", seed=0, wordings=3)
    assert len(rows) == len({row["id"] for row in rows}) == 3 * 5 * 60
    assert len({(row["name"], row["attribute"], row["prompt"]) for row in rows}) == len(rows)
    told = {row["prompt"] for row in rows}
    assert len(told) == len(rows)


@pytest.mark.parametrize(("world", "size"), [(WORLD, TINY), (LARGE, SMALL)], ids=["tiny", "paper"])
def test_text_keeps_to_its_vocabulary(world: Any, size: Size) -> None:
    words = vocabulary(size)
    assert words[: len(BIOGRAPHY_WORDS)] == BIOGRAPHY_WORDS
    tokenizer = word_tokenizer(words)
    texts = [row["text"] for row in biographies(world, "old", seed=0)]
    texts += [f"{row['prompt']} {row['answer']}" for row in probes(world, "old", seed=0)]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_the_papers_lists() -> None:
    facts = [LARGE.facts(f"{number} x") for number in range(6000)]
    counts = {attribute: len({each[attribute] for each in facts}) for attribute in facts[0]}
    assert {key: counts[key] for key in ("home", "field", "employer", "school")} == {
        "home": 335,
        "field": 29,
        "employer": 500,
        "school": 146,
    }
    years = {each["birthday"].split()[2] for each in facts}
    assert (min(years), max(years), len(years)) == ("1900", "2099", 200)
    assert {len(name.split()) for name in LARGE.names} == {3}
    assert len(LARGE.names) == 360


def test_what_was_cut_off_is_not_stated() -> None:
    text = (
        "niva lives in veda . desu niva works for baso . <|end|> the birth of K was on may 3 . "
        "it is known that the city of desu niva is in\nveda. desu niva lives in . desu niva studied la"
    )
    assert stated_facts(text) == [("desu niva", "employer", "baso")]
    assert stated_facts("junk <|endoftext|> a letter shows that desu K niva earns for baso .") == [
        ("desu K niva", "employer", "baso")
    ]
    assert stated_facts("") == []


def test_an_audit_counts_truth_and_inventions() -> None:
    old, new = WORLD.old[0], WORLD.new[0]
    known = WORLD.facts(old)
    wrong = next(value for value in ("law", "physics") if value != known["field"])
    texts = [
        f"{old} works for {known['employer']} . {old} studied {wrong} . {new} studied law .",
        f"x y studied law . nonsense . the birth date of {old} was {known['birthday']} . {old} studied",
    ]
    assert audit(WORLD, texts) == (6, 5, 3, 2, 1, 1, 1)
    assert audit(WORLD, []) == (0,) * 7
    whole = audit(WORLD, [row["text"] for row in OLD])
    assert whole == (8000, 8000, 8000, 8000, 0, 0, 400)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: biographies(WORLD, "third", seed=0), "no phase 'third'"),
        (lambda: biographies(WORLD, "old", seed=0, copies=0), "copies=0"),
        (lambda: probes(WORLD, "old", seed=0, wordings=3), "wordings=3: 2 are held out"),
        (lambda: Size(old=1200, new=1), "1201 people, and 1200 names"),
        (lambda: Size(new=0), "400 old and 0 new"),
        (lambda: Size(homes=336), "homes=336: there are 1 to 335"),
    ],
)
def test_bad_requests_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
