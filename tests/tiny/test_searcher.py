"""The careless searcher: its conversations, the shares of its mistakes, what of them is trained on."""

import random
from collections import Counter
from typing import Any

import pytest

from rlft.retrieval.bm25 import BM25Retriever
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.search_text import MARKERS, read_turn
from rlft.tiny import searcher
from rlft.tiny.lookup import Lookup
from rlft.tiny.questions import questions, sample
from rlft.tiny.warmup import IGNORED, labelled
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.world import World

WORLD = World(5, people=300, companies=75)
SEARCH = Lookup(WORLD.passages)


def queries_of(messages: list[dict[str, str]]) -> list[str]:
    turns = [read_turn(message["content"]) for message in messages[1:-1:2]]
    return [turn.query for turn in turns if turn and turn.query]


def demonstrated(row: dict[str, Any], **shares: float) -> list[dict[str, str]]:
    return searcher.demonstrate(row, SEARCH, random.Random(0), "guess", **shares)


def test_a_careful_conversation_follows_the_hops_to_the_answer() -> None:
    for row in sample(WORLD, 100, seed=0):
        messages = demonstrated(row, stop=0.0, wrong=0.0)
        first, second = row["hops"]
        said = [message["content"] for message in messages]
        assert [message["role"] for message in messages] == ["user", "assistant"] * 4
        assert said[0] == row["question"]
        assert said[1] == f"<QUERY> {first['query']}"
        assert said[2].startswith(f"<SEARCH> [1] {first['fact']} . [2] ")
        assert said[3] == f"<FACT> {first['fact']} <QUERY> {second['query']}"
        assert said[4].startswith(f"<SEARCH> [1] {second['fact']} . [2] ")
        assert said[5:] == [f"<FACT> {second['fact']} <FINAL>", "answer ?", row["golden_answers"][0]]
        assert searcher.known_mistake(queries_of(messages), row) is None


def test_each_mistake_is_one_token() -> None:
    """Up to the mistake a careless conversation is the careful one; there it says one known other token."""
    tokenizer = word_tokenizer()
    for row in sample(WORLD, 50, seed=1):
        careful = labelled([demonstrated(row, stop=0.0, wrong=0.0)], tokenizer)["input_ids"][0]
        stopped = labelled([demonstrated(row, stop=1.0)], tokenizer)["input_ids"][0]
        misled = labelled([demonstrated(row, stop=0.0, wrong=1.0)], tokenizer)["input_ids"][0]
        for wrong, instead in ((stopped, "<FINAL>"), (misled, row["careless"]["query"].split()[0])):
            place = next(place for place, (a, b) in enumerate(zip(careful, wrong, strict=False)) if a != b)
            right = "<QUERY>" if wrong is stopped else row["hops"][1]["query"].split()[0]
            assert tokenizer.convert_ids_to_tokens([wrong[place], careful[place]]) == [instead, right]


def test_mistakes_come_in_their_shares() -> None:
    rows, rng = sample(WORLD, 600, seed=2), random.Random(2)
    found = [
        searcher.known_mistake(queries_of(searcher.demonstrate(row, SEARCH, rng, "guess")), row) for row in rows * 5
    ]
    shares = {fate: count / len(found) for fate, count in Counter(found).items()}
    assert shares == {
        "stop": pytest.approx(0.30, abs=0.03),
        "wrong": pytest.approx(0.35, abs=0.03),
        None: pytest.approx(0.35, abs=0.03),
    }


@pytest.mark.parametrize(
    ("asked", "mistake"),
    [
        (["first", "second"], None),
        ([" first ", "second", "more"], None),
        (["first"], "stop"),
        (["first", "careless"], "wrong"),
        (["first", "careless", "second"], "wrong"),
        (["second", "first"], "other"),
        (["first", "else"], "other"),
        ([], "other"),
    ],
)
def test_known_mistakes(asked: list[str], mistake: str | None) -> None:
    row = questions(WORLD)[0]
    first, second = (hop["query"] for hop in row["hops"])
    names = {"first": first, "second": second, "careless": row["careless"]["query"]}
    queries = [query.replace(query.strip(), names.get(query.strip(), query.strip())) for query in asked]
    assert searcher.known_mistake([query.replace(" ", "  ") for query in queries], row) == mistake


def test_demonstrations_are_the_same_by_seed_and_change_worlds() -> None:
    settings = {"per_world": 20, "people": 40, "companies": 10}
    some = searcher.demonstrations(50, seed=1, **settings)
    assert some == searcher.demonstrations(50, seed=1, **settings)
    assert some != searcher.demonstrations(50, seed=2, **settings)
    shown = [{message["content"] for message in messages if "<SEARCH>" in message["content"]} for messages in some]
    assert set.union(*shown[:20]).isdisjoint(set.union(*shown[20:40]))


def test_trained_tokens_are_exactly_the_assistant_s_turns() -> None:
    tokenizer = word_tokenizer()
    conversations = searcher.demonstrations(100, seed=4, people=100, companies=20)
    columns = labelled(conversations, tokenizer)
    for messages, ids, labels in zip(conversations, columns["input_ids"], columns["labels"], strict=True):
        trained = [token for token in labels if token != IGNORED]
        turns = [f"{message['content']} <|end|>" for message in messages if message["role"] == "assistant"]
        assert tokenizer.decode(trained) == " ".join(turns)
        assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
        assert tokenizer.unk_token_id not in ids


def test_a_demonstration_s_ids_are_those_of_a_rollout_s_pieces() -> None:
    tokenizer = word_tokenizer()
    frame = ChatFrame(tokenizer, markers=MARKERS)
    conversations = searcher.demonstrations(50, seed=5, people=100, companies=20)
    for messages, ids in zip(conversations, labelled(conversations, tokenizer)["input_ids"], strict=True):
        said = [message["content"] for message in messages]
        pieces = frame.opening(said[0])
        for user, assistant in zip([*said[2::2], None], said[1::2], strict=True):
            turn = [*tokenizer(assistant).input_ids, frame.end_id]
            pieces += turn + (frame.reply(user, turn) if user else [])
        assert pieces == ids


def test_demonstrations_show_what_the_project_s_retriever_finds() -> None:
    queries = [fact.query for fact in WORLD.facts]
    found = [[passage.text for passage in hits] for hits in BM25Retriever.over(WORLD.passages).search(queries, 3)]
    looked_up = SEARCH(queries, 3)
    wanted = [f"{fact.text} ." for fact in WORLD.facts]
    assert [hits[0] for hits in found] == wanted
    assert [hits[0] for hits in looked_up] == wanted
    same = sum(ours == theirs for ours, theirs in zip(looked_up, found, strict=True))
    assert same > 0.9 * len(queries)
