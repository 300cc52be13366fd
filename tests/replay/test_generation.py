"""Continuations: what is asked for, what an item holds, and that an item does not depend on its company."""

from typing import Any

import pytest
import torch

from rlft.replay.generation import Continuing, draws_of, without_seeded_sample, write_items
from rlft.replay.items import refuse_items
from rlft.replay.seeds import Seed
from rlft.rollouts.policy import Sampling
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

END = 1


def seed(sample: str, *ids: int) -> Seed:
    return Seed(sample, 3, 3 + len(ids), ids, 0.5, "fair")


def how(**changes: Any) -> Continuing:
    settings = {"samples": 2, "max_length": 12, "sampling": Sampling(repetition_penalty=1.05), "seed": 7}
    return Continuing(**{**settings, "start_ids": (), "end_id": END, **changes})


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(char_tokenizer(), hidden=16, layers=1, heads=2, kv_heads=2)


def items(model: Any, seeds: list[Seed], stops: set[int], batch_size: int = 64, **changes: Any) -> list[dict[str, Any]]:
    policy, settings = TransformersPolicy(model, stops, 0, batch_size), how(**changes)
    return write_items(list(draws_of(seeds, settings)), policy, settings, decode=str, model="theta-0")


def test_items_start_with_their_seed_and_end_at_the_length(model: Any) -> None:
    found = items(model, [seed("a", 5, 6, 7), seed("b", 8)], set())
    assert [item["id"] for item in found] == ["a:3-6/0", "a:3-6/1", "b:3-4/0", "b:3-4/1"]
    assert {len(item["ids"]) for item in found} == {12}
    assert found[0]["ids"][:3] == [5, 6, 7] == found[1]["ids"][:3]
    assert found[0]["ids"] != found[1]["ids"]
    assert [item["seed_tokens"] for item in found] == [3, 3, 1, 1]
    assert found[0]["text"] == str(found[0]["ids"])
    refuse_items(found, "written")


def test_logprob_is_the_models_own(model: Any) -> None:
    for item in items(model, [seed("a", 5, 6, 7)], set(), start_ids=(9,), samples=4):
        ids = [9, *item["ids"]]
        with torch.no_grad():
            logp_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        written = [logp_TV[place - 1, ids[place]].item() for place in range(4, len(ids))]
        assert item["logprob"] == pytest.approx(sum(written) / len(written), abs=1e-4)


def test_an_item_is_the_same_in_any_company(model: Any) -> None:
    seeds = [seed(str(number), 5 + number, 6) for number in range(6)]
    together = {item["id"]: item["ids"] for item in items(model, seeds, {END})}
    alone = {item["id"]: item["ids"] for one in reversed(seeds) for item in items(model, [one], {END}, 1)}
    assert together == alone
    assert together != {item["id"]: item["ids"] for item in items(model, seeds, {END}, seed=8)}


def test_an_empty_seed_starts_from_the_start_or_the_end_token() -> None:
    assert how().prompt(seed("a")) == [END]
    assert how(start_ids=(9,)).prompt(seed("a")) == [9]
    assert how(start_ids=(9,)).prompt(seed("a", 4)) == [9, 4]
    (_, _, draw), _ = draws_of([seed("a", 4)], how(start_ids=(9,)))
    assert (draw.prompt_ids, draw.max_new_tokens) == ([9, 4], 11)


def test_a_seed_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a seed of 3 tokens \(a:3-6\) leaves no room in items of 3"):
        list(draws_of([seed("a", 4, 5, 6)], how(max_length=3)))


@pytest.mark.parametrize(
    ("ids", "left"),
    [
        ([5, 6, END, 7, 8, END, 9], [7, 8, END, 9]),
        ([5, 6, 7], []),
        ([5, 6, END], []),
        ([END, 7], [7]),
    ],
)
def test_the_sample_that_a_seed_began_can_be_left_out(ids: list[int], left: list[int]) -> None:
    item = {"id": "a", "ids": ids, "text": "?", "seed_tokens": 2, "logprob": -1.0}
    wanted = {**item, "ids": left, "text": str(left), "seed_tokens": 0}
    assert without_seeded_sample(item, END, str) == wanted
