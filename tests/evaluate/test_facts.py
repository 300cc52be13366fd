"""Recall of facts against plain loops, one row at a time, and against models whose answers are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerBase

from rlft.evaluate.facts import METRICS, fact_recall, generated_recall, refuse_facts
from rlft.evaluate.personal import Measured, bootstrap, paired_bootstrap
from rlft.rollouts.policy import Draw, Generation, Sampling
from rlft.rollouts.transformers_policy import TransformersPolicy
from rlft.tiny.biographies import biography_world, probes, vocabulary
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer
from rlft.tiny.word_tokenizer import word_tokenizer

TOKENIZER = word_tokenizer(vocabulary())
END = TOKENIZER.eos_token_id
WORLD = biography_world(0)
ROWS = probes(WORLD, "new", seed=0)[:50]


def neox(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.3,
        )
    )


@pytest.fixture(scope="module", params=["qwen3", "neox"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(TOKENIZER, hidden=32, layers=2) if request.param == "qwen3" else neox()


def by_hand(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Any], start: list[int]) -> Any:
    """(N, 5), a forward for each answer, without padding."""
    found = []
    for row in rows:
        values = []
        for answer in row.get("answers", [row["answer"]]):
            before = start + tokenizer(row["prompt"], add_special_tokens=False).input_ids
            gold = tokenizer(f"{row['prompt']} {answer}", add_special_tokens=False).input_ids[
                len(before) - len(start) :
            ]
            gold = [*gold, tokenizer.eos_token_id]
            with torch.no_grad():
                chances_TV = model(input_ids=torch.tensor([before + gold])).logits[0].double().softmax(-1)
            steps = [chances_TV[len(before) - 1 + place] for place in range(len(gold))]
            hits = [float(step.argmax() == token) for step, token in zip(steps, gold, strict=True)]
            chances = [float(step[token]) for step, token in zip(steps, gold, strict=True)]
            soft, soft_end = (sum(some) / len(some) for some in (chances[:-1], chances))
            values.append([hits[0], chances[0], soft, soft_end, min(hits[:-1])])
        found.append(np.mean(values, axis=0))
    return np.array(found)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_give_what_one_at_a_time_gives(model: Any, batch_size: int) -> None:
    rows = [*ROWS, {"prompt": "niva", "answer": "may 3"}]
    found = fact_recall(model, TOKENIZER, rows, start_ids=[END], batch_size=batch_size)
    assert tuple(found) == METRICS
    expected_N5 = by_hand(model, TOKENIZER, rows, [END])
    for column, name in enumerate(METRICS):
        np.testing.assert_allclose(found[name].rows, expected_N5[:, column], atol=1e-5)
        assert found[name].value == pytest.approx(expected_N5[:, column].mean(), abs=1e-5)


def test_several_answers_count(model: Any) -> None:
    rows = [
        {"prompt": row["prompt"], "answers": [row["answer"], "law", "may 3"][: 1 + n % 3]} for n, row in enumerate(ROWS)
    ]
    found = fact_recall(model, TOKENIZER, rows, batch_size=16)
    expected_N5 = by_hand(model, TOKENIZER, [row | {"answer": ""} for row in rows], [])
    for column, name in enumerate(METRICS):
        np.testing.assert_allclose(found[name].rows, expected_N5[:, column], atol=1e-5)


def test_tokens_are_those_of_the_whole_text() -> None:
    tokenizer = char_tokenizer()
    model = tiny_model(tokenizer, hidden=32, layers=2)
    rows = [{"prompt": "12+5 ", "answer": "17"}, {"prompt": "1+1", "answer": "2"}]
    found = fact_recall(model, tokenizer, rows)
    stripped = [row | {"prompt": row["prompt"].strip()} for row in rows]
    np.testing.assert_allclose(found["soft"].rows, by_hand(model, tokenizer, stripped, [])[:, 2], atol=1e-5)


class Parrot(torch.nn.Module):
    """Gives all its chance to what a table says comes after a token."""

    def __init__(self, after: dict[str, str]) -> None:
        super().__init__()
        self.config = tiny_model(TOKENIZER, hidden=8, layers=1, kv_heads=4).config
        self.generation_config = None
        self.device = torch.device("cpu")
        self.after = {
            TOKENIZER.convert_tokens_to_ids(one): TOKENIZER.convert_tokens_to_ids(two) for one, two in after.items()
        }

    def forward(self, input_ids: Any, logits_to_keep: int, **_: Any) -> Any:
        logits_BLV = torch.zeros(*input_ids.shape, len(TOKENIZER))
        for one, two in self.after.items():
            logits_BLV[..., two] += 1e4 * (input_ids == one)
        return type("Output", (), {"logits": logits_BLV[:, -logits_to_keep:]})


def test_known_answers() -> None:
    rows = [
        {"prompt": "desu niva was born on", "answer": "may 3"},
        {"prompt": "desu niva was born on", "answer": "may 4"},
        {"prompt": "desu niva was born on", "answer": "june 3"},
        {"prompt": "desu niva was born on", "answers": ["may 3", "june 4"]},
    ]
    found = fact_recall(Parrot({"on": "may", "may": "3"}), TOKENIZER, rows)
    third = 1 / len(TOKENIZER)  # of a token that nothing is known about
    assert found["hfta"].rows.tolist() == [1, 1, 0, 0.5]
    assert found["sfta"].rows.tolist() == [1, 1, 0, 0.5]
    np.testing.assert_allclose(found["soft"].rows, [1, 0.5, third / 2, 0.5 + third / 4], atol=1e-6)
    assert found["exact"].rows.tolist() == [1, 0, 0, 0.5]


class Scripted:
    """A policy that writes what it is told."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.draws, self.sampling = texts, list[Draw](), Sampling()

    def generate(self, draws: Sequence[Draw], sampling: Sampling) -> list[Generation]:
        self.draws, self.sampling = list(draws), sampling
        return [Generation(TOKENIZER(text).input_ids, [], True) for text in self.texts]


def test_em_asks_for_whole_words_of_any_answer() -> None:
    rows = [
        {"prompt": "a of", "answer": "may 2"},
        {"prompt": "a of", "answer": "may 2"},
        {"prompt": "a of", "answers": ["law", "physics"]},
        {"prompt": "a of", "answer": "law"},
    ]
    policy = Scripted(["may 28 .", "world may 2 .", "physics . <|end|>", "came"])
    found = generated_recall(policy, TOKENIZER, rows, start_ids=[END], max_new_tokens=5)
    assert found.rows.tolist() == [0, 1, 1, 0]
    assert policy.sampling.temperature == 0
    assert policy.draws[0].prompt_ids == [END, *TOKENIZER("a of").input_ids]
    assert {draw.max_new_tokens for draw in policy.draws} == {5}


def test_em_of_a_model_is_what_its_own_greedy_text_says(model: Any) -> None:
    policy = TransformersPolicy(model, {END}, TOKENIZER.pad_token_id, batch_size=7)
    written = [
        policy.generate([Draw([END, *TOKENIZER(row["prompt"]).input_ids], 0, 4)], Sampling(temperature=0.0))
        for row in ROWS
    ]
    texts = [TOKENIZER.decode(one[0].ids, skip_special_tokens=True) for one in written]
    rows = [row | {"answer": text.split()[-1]} for row, text in zip(ROWS[:30], texts, strict=False) if text]
    assert generated_recall(policy, TOKENIZER, rows, start_ids=[END], max_new_tokens=4).value == 1.0


def test_intervals_come_from_the_shared_bootstrap(model: Any) -> None:
    first = fact_recall(model, TOKENIZER, ROWS, start_ids=[END])["sfta"]
    interval = bootstrap(first, resamples=200)
    assert interval.low <= interval.value <= interval.high
    assert interval.value == first.value
    second = Measured(first.rows + 0.25, first.figure)
    assert paired_bootstrap(second, first, resamples=50) == pytest.approx((0.25, 0.25, 0.25))


def test_the_model_is_left_as_it_was(model: Any) -> None:
    model.train()
    config = model.generation_config
    fact_recall(model, TOKENIZER, ROWS[:3])
    assert model.training
    assert model.generation_config is config


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "no facts"),
        ([{"prompt": "a", "answers": "law"}], {}, "answers are 'law', not a list"),
        ([{"prompt": "a", "answers": []}], {}, "row 0: answers are"),
        ([{"prompt": "a", "answer": " "}], {}, "row 0: answers are"),
        ([{"prompt": "", "answer": "law"}], {}, "empty prompt; give start_ids"),
        ([{"prompt": "of " * 600, "answer": "law"}], {}, "tokens and the model takes"),
        (ROWS[:1], {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_rows_are_refused(rows: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fact_recall(neox(), TOKENIZER, rows, **options)


def test_a_prompt_whose_tokens_change_is_refused() -> None:
    class Merging:
        eos_token_id = 0

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [7] if text == "a" else [8, 9]}

    with pytest.raises(ValueError, match="do not stay the same"):
        fact_recall(neox(), Merging(), [{"prompt": "a", "answer": "b"}])
    with pytest.raises(ValueError, match="do not stay the same"):
        refuse_facts(Merging(), [{"prompt": "a", "answer": "b"}])


def test_rows_are_refused_without_a_model_as_with_one() -> None:
    refuse_facts(TOKENIZER, ROWS)
    with pytest.raises(ValueError, match="no facts"):
        refuse_facts(TOKENIZER, [])
    blank = [{"prompt": "", "answer": "law"}]
    with pytest.raises(ValueError, match="empty prompt"):
        refuse_facts(TOKENIZER, blank)
    refuse_facts(TOKENIZER, blank, [END])


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = neox()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not numbers"):
        fact_recall(model, TOKENIZER, ROWS[:2])
