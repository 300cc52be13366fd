"""The embedded tasks by name, and the small search model: quick to warm up, and it knows the format."""

from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft.retrieval.bm25 import BM25Retriever
from rlft.rollouts.frame import ChatFrame
from rlft.rollouts.policy import GREEDY
from rlft.rollouts.search import SearchRollout
from rlft.rollouts.search_text import MARKERS, SearchOptions
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny import tasks
from rlft.tiny.searcher import REQUEST, known_mistake, shown
from rlft.tiny.word_tokenizer import word_tokenizer

SEARCH = tasks.SearchTask()
SMALL = tasks.TASKS["tiny/search-small"]


def test_smoke_replaces_a_task_by_one_of_its_kind() -> None:
    for name, smaller in tasks.SMOKE.items():
        assert type(tasks.TASKS[name]) is type(tasks.TASKS[smaller])


def test_search_rows_are_the_same_by_seed_and_of_one_split() -> None:
    assert SEARCH.rows(50, seed=1) == SEARCH.rows(50, seed=1, split="train")
    assert SEARCH.rows(50, seed=1) != SEARCH.rows(50, seed=2)
    ids = {split: {row["id"] for row in SEARCH.rows(SEARCH.largest(split), 0, split)} for split in ("train", "test")}
    assert {split: len(found) for split, found in ids.items()} == {"train": 360, "test": 180}
    assert ids["train"].isdisjoint(ids["test"])
    assert Counter(Counter(row["kind"] for row in SEARCH.rows(360, 3)).values()) == {120: 3}
    with pytest.raises(ValueError, match="5000 questions wanted"):
        SEARCH.rows(5000, 0, "dev")


def test_every_hop_s_passage_is_in_the_corpus() -> None:
    known = {passage["id"] for passage in SEARCH.passages()}
    assert len(known) == 3400
    assert all(hop["passage_id"] in known for row in SEARCH.rows(100, 0, "test") for hop in row["hops"])


def test_the_full_model_has_the_size_that_was_measured() -> None:
    model = SEARCH.build(word_tokenizer(), 0)
    assert 350_000 < model.num_parameters() < 356_000
    again = model.state_dict()
    assert all(
        torch.equal(value, again[name]) for name, value in SEARCH.build(word_tokenizer(), 0).state_dict().items()
    )


def test_the_small_model_knows_the_format() -> None:
    """Greedy: nearly every rollout does right or makes one of the two known mistakes (measured .94 to .98)."""
    assert isinstance(SMALL, tasks.SearchTask)
    torch.set_num_threads(1)
    folder = tasks.warm_start("tiny/search-small", 0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    frame = ChatFrame(tokenizer, markers=MARKERS)
    options = SearchOptions(
        max_hops=3,
        passages=3,
        max_turn_tokens=24,
        max_answer_tokens=8,
        max_tokens=400,
        instruction="{question}",
        passage="[{n}] {text}",
        answer_request=REQUEST,
    )
    policy = TransformersPolicy(AutoModelForCausalLM.from_pretrained(folder), frame.stop_ids, tokenizer.pad_token_id)
    rows = SMALL.rows(64, 0, "test")
    rollout = SearchRollout(frame, BM25Retriever.over(SMALL.passages()), options)
    trajectories = rollout(rows, policy, GREEDY)
    told = [
        known_mistake(trajectory.fields["queries"], row) for trajectory, row in zip(trajectories, rows, strict=True)
    ]
    assert told.count("other") <= 13
    first_search = tokenizer.decode(trajectories[0].segments[1].ids)
    texts = {passage["id"]: passage["text"] for passage in SMALL.passages()}
    seen = [texts[number] for number in trajectories[0].fields["passage_ids"][0]]
    assert first_search == f"<|u|> {shown(seen)} <|end|> <|a|>"


def test_a_name_that_looks_like_a_task_and_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no embedded task 'tiny/digits'; there are tiny/addition, "):
        tasks.refuse_unknown("tiny/digits")
    for name in ("tiny/select", "Qwen/Qwen2.5-3B"):
        tasks.refuse_unknown(name)
