"""Texts that break things: control strings, halves of characters, empty and huge ones, through rewards and records."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rlft import SHEARConfig, SHEARTrainer
from rlft.evaluate.metrics import answer_match
from rlft.record.jsonl import JsonLines, read_jsonl
from rlft.record.rollouts import RolloutLog, RolloutRow, read_rollouts
from rlft.retrieval import BM25Retriever
from rlft.rewards import checked, load_rewards
from rlft.rewards.personal import extract_answer
from rlft.rollouts.neutral import Neutraliser
from rlft.rollouts.search_text import MARKERS
from rlft.tiny.tokenizer import char_tokenizer

TEXTS = {
    "empty": "",
    "blank": " \t\r\n\v\f\x1c\x85\u2028\u2029",
    "nul": "a\0b",
    "control characters": "".join(map(chr, range(32))),
    "terminal escapes": "\x1b[2J\x1b]0;title\x07",
    "half a surrogate pair": "a\ud800b\udfffc",
    "beyond the basic plane": "𝔘𝔫𝔦 👩‍👩‍👧‍👦 🏳️‍🌈",
    "stacked accents": "z" + "\u0301" * 500,
    "right to left": "\u202eabc\u2066def\u2069",
    "invisible": "a\u200bb\ufeffc\u2060d\U000e0041",
    "not a character": "\uffff\ufdd0\U0010ffff",
    "control strings": "<|im_start|>system\n<|endoftext|></s>[INST]<QUERY>x</QUERY>",
    "wide control strings": "＜|im_end|＞",
    "line ends of JSON": '"}\n{"a": "\\ud800"}\u2028',
    "markup": "</script><script>alert(1)</script><!--",
    "tags never closed": "<think>" * 2000,
    "huge": "x" * 100_000,
    "huge, of many lines": "a\n" * 20_000,
    "huge number": "9" * 10_000,
    "deep brackets": "[" * 20_000 + "{" * 20_000,
}


def row(step: int, text: str) -> RolloutRow:
    return RolloutRow(step, step, 0, text, text, [1], {text[:50]: 1.0}, 1.0, 0.5, [1.0], "stop")


def test_records_give_them_back(tmp_path: Path) -> None:
    rows = [row(step, text) for step, text in enumerate(TEXTS.values())]
    RolloutLog(tmp_path, 0).append(rows)
    assert [*read_rollouts(tmp_path)] == rows
    lines = JsonLines(tmp_path / "lines.jsonl")
    for text in TEXTS.values():
        lines.append({"text": text})
    assert [line["text"] for line in read_jsonl(tmp_path / "lines.jsonl")] == [*TEXTS.values()]


@pytest.mark.parametrize("conversational", [False, True])
def test_ready_made_rewards_score_them_and_none_is_paid(conversational: bool) -> None:
    texts = [text for name, text in TEXTS.items() if name != "huge number"]
    completions = [[{"role": "assistant", "content": text}] for text in texts] if conversational else texts
    batch = {"completions": completions, "completion_ids": [[1]] * len(texts), "answer": ["936"] * len(texts)}
    rewards = load_rewards(["exact_match", "format", "length(max_length=8, buffer=4)"])
    for reward in [*rewards, answer_match]:
        assert checked(reward)(**batch) == [0.0] * len(texts)


@pytest.mark.parametrize("name", TEXTS)
def test_answers_in_them_are_found_or_not_without_an_error(name: str) -> None:
    assert extract_answer(f"{TEXTS[name]}</think>{{'title': 'said'}}", "title") == "said"
    assert extract_answer(TEXTS[name], "title") is None


@pytest.mark.parametrize("name", TEXTS)
def test_none_leaves_a_control_token(name: str) -> None:
    tokenizer = char_tokenizer()
    neutral = Neutraliser(tokenizer, [*MARKERS, "[INST]", "<|im_start|>", "<|im_end|>", "</s>"])
    assert not neutral.control_ids & set(tokenizer(neutral(TEXTS[name])[:10_000]).input_ids)
    assert "<|im_" not in neutral(TEXTS[name])


def test_they_can_be_indexed_and_searched(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    texts = [text for text in TEXTS.values() if text.strip()]
    corpus.write_text("".join(json.dumps({"id": str(i), "contents": text}) + "\n" for i, text in enumerate(texts)))
    found = BM25Retriever(corpus).search([*TEXTS.values()], 3)
    assert len(found) == len(TEXTS)
    assert all(math.isfinite(passage.score) for hits in found for passage in hits)


@pytest.mark.parametrize("lengths", [[0, 1, 12, 5], [0]], ids=["some empty", "all empty"])
def test_completions_that_end_at_once_are_trained_beside_others(
    lengths: list[int], random_model: Path, prompts: Dataset, grpo_arguments: Callable[..., dict[str, Any]]
) -> None:
    """Of an empty completion the token that ends it is all there is to train on."""

    def rollout(asked: list[str], trainer: Any) -> dict[str, Any]:
        tokenizer = trainer.processing_class
        ids, end = tokenizer("abcdefghijkl").input_ids, [tokenizer.eos_token_id]
        return {
            "prompt_ids": [tokenizer(prompt).input_ids for prompt in asked],
            "completion_ids": [ids[: lengths[i % len(lengths)]] + end for i in range(len(asked))],
            "logprobs": None,
        }

    def longer(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text) > 1) for text in completions]

    config = SHEARConfig(window=4, stride=2, **grpo_arguments(max_steps=1))
    trainer = SHEARTrainer(str(random_model), longer, config, train_dataset=prompts, rollout_func=rollout)
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["loss"])
    rows = [*read_rollouts(Path(config.output_dir) / "record")]
    assert [len(row.token_ids) for row in rows] == [lengths[i % len(lengths)] + 1 for i in range(16)]
