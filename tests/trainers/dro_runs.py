"""Short DRO runs on random tiny models."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig

from rlft.record.jsonl import read_jsonl
from rlft.retrieval.passage import Passage
from rlft.rollouts.store import read_shard
from rlft.rollouts.trajectory import Trajectory
from rlft.tiny import selection
from rlft.tiny.model import tiny_model
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import SELECTION_WORDS
from rlft.trainers.dro import DROConfig, DROTrainer
from tests.shared import ON_CPU

WORDS = [*SELECTION_WORDS, "answer", "where"]
"""Of the questions, and of what the tests say besides."""
TEMPLATES = {
    "list_instruction": "{passages} rank {question}",
    "answer_instruction": "{passages} answer {question}",
    "closed_book_instruction": "answer {question}",
    "passage_format": "[{n}] {text}",
}

STEPWISE: dict[str, Any] = {"eval_sampled": False, "save_strategy": "steps", "save_steps": 2}
"""Settings of runs that keep checkpoints of the M-step."""


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions with six candidates each, one of which answers."""
    return selection.rows(count, seed)


def bare(given: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without their candidates."""
    return [{name: value for name, value in row.items() if name != "candidates"} for row in given]


def save_model(folder: Path, seed: int = 0) -> Path:
    """A random two-layer model with the word tokenizer."""
    tokenizer = word_tokenizer(WORDS)
    tokenizer.save_pretrained(folder)
    tiny_model(tokenizer, hidden=32, layers=2, kv_heads=2, seed=seed).save_pretrained(folder)
    return folder


def config(folder: Path, **changes: Any) -> DROConfig:
    """One round of 9 questions in three shards, m = 4 lists of 2 out of 5."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "list_size": 2,
        "candidates": 5,
        "num_generations": 4,
        "num_rounds": 1,
        "patience": 0,
        "constrained": True,
        "shuffle_candidates": True,
        "max_list_tokens": 8,
        "max_answer_tokens": 6,
        "max_tokens": 256,
        **TEMPLATES,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "shard_questions": 3,
        **ON_CPU,
        "seed": 3,
    }
    return DROConfig(**(settings | changes))


def trainer(
    folder: Path,
    model: Path,
    *,
    train: Sequence[dict[str, Any]] | None = None,
    dev: Sequence[dict[str, Any]] | None = None,
    **changes: Any,
) -> DROTrainer:
    """A trainer from random weights."""
    names = ("retriever", "selector_model", "warm_up_datasets", "peft_config", "callbacks")
    passed = {name: changes.pop(name) for name in names if name in changes}
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear")
    return DROTrainer(
        str(model),
        config(folder, **changes),
        train_dataset=Dataset.from_list(list(rows(9, 1) if train is None else train)),
        eval_dataset=Dataset.from_list(list(rows(4, 2) if dev is None else dev)),
        **({"peft_config": lora} | passed),
    )


def asked() -> list[dict[str, Any]]:
    """Training questions of `finished_run`; every other one has a second answer."""
    made = rows(9, 1)
    for row, other in zip(made[::2], made[1::2], strict=False):
        row["golden_answers"] = [*row["golden_answers"], *other["golden_answers"]]
    return made


class Finder:
    """A retriever that finds what `rows` has for a question, and keeps count of what it was asked."""

    name = "finder"

    def __init__(self, given: Sequence[dict[str, Any]], find: int = 20) -> None:
        self.known = {row["question"]: row["candidates"][:find] for row in given}
        self.asked: list[list[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked.append(list(queries))
        found = (self.known[query][:k] for query in queries)
        return [[Passage(one["id"], one["title"], one["text"], 0.0) for one in candidates] for candidates in found]


@functools.cache
def finished_run(folder: Path) -> tuple[Path, Path]:
    """Folder of a finished run of two rounds, made once, and that of its base."""
    torch.set_num_threads(1)
    model = save_model(folder / "dro-base")
    run = trainer(folder / "dro", model, train=asked(), num_rounds=2, metric_for_best_model="round", eval_sampled=False)
    run.train()
    run.save_model()
    return folder / "dro", model


def outcome(folder: Path, number: int = 1) -> dict[str, bytes]:
    """What a round is compared by: both models, the lists' weights, and the dev metrics."""
    last = folder / f"round-{number}"
    names = [*(f"{role}/adapter_model.safetensors" for role in ("selector", "generator")), "weights.jsonl", "dev.json"]
    return {name: (last / name).read_bytes() for name in names}


def left(folder: Path, number: int) -> dict[str, dict[str, str]]:
    """Digests of the files that the stages of a round left, beside candidates and what peft writes in any order."""
    stages = json.loads((folder / f"round-{number}/manifest.json").read_text())
    return {
        name: {file: digest for file, digest in stage["files"].items() if not file.endswith("adapter_config.json")}
        for name, stage in stages.items()
        if not name.startswith("candidates")
    }


Question = tuple[dict[str, Any], list[Trajectory], dict[str, Any], dict[str, Any]]


def questions(folder: Path, number: int, given: Sequence[dict[str, Any]]) -> list[Question]:
    """Of a round, in order: row, lists, what was scored, weights."""
    last, by_id = folder / f"round-{number}", {row["id"]: row for row in given}
    lists: dict[str, list[Trajectory]] = {}
    for path in sorted(last.glob("lists-*")):
        for key, trajectory in read_shard(path):
            lists.setdefault(key["id"], []).append(trajectory)
    scores = [record for path in sorted(last.glob("scores-*")) for record in read_jsonl(path)]
    weights = read_jsonl(last / "weights.jsonl")
    assert [*lists] == [record["id"] for record in scores] == [record["id"] for record in weights]
    return [(by_id[name], lists[name], *found) for name, *found in zip(lists, scores, weights, strict=True)]
