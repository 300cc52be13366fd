"""The shortest runs of all five trainers on random models, each ending in a folder that others can be compared with."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig

from rlft import (
    DROConfig,
    DROTrainer,
    ExSearchConfig,
    ExSearchTrainer,
    PrLMConfig,
    PrLMTrainer,
    SHEARConfig,
    SHEARTrainer,
)
from rlft.record.callback import RecordCallback
from rlft.resume.find import holds_run
from rlft.retrieval import BM25Retriever
from rlft.tiny import selection
from rlft.tiny.biographies import biographies, biography_world
from rlft.tiny.model import tiny_model
from rlft.tiny.tasks import TASKS
from rlft.tiny.tokenizer import char_tokenizer
from rlft.tiny.word_tokenizer import word_tokenizer
from rlft.tiny.words import BIOGRAPHY_WORDS, SELECTION_WORDS
from rlft.trainers.stoc import STOCConfig, STOCTrainer

SEARCH: Any = TASKS["tiny/search-small"]
ON_CPU: dict[str, Any] = {
    **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True},
    **{"learning_rate": 1e-2, "logging_steps": 3, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2},
}
GRPO: dict[str, Any] = {
    "max_steps": 6,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 8,
}
REUSE: dict[str, Any] = {"steps_per_generation": 2, "num_iterations": 2, "window": 4, "stride": 2}
EM: dict[str, Any] = {
    **{"num_rounds": 1, "patience": 0, "shard_questions": 3, "num_generations": 4, "max_tokens": 256},
    **{"num_train_epochs": 1, "per_device_train_batch_size": 8, "eval_sampled": False, "max_answer_tokens": 4},
    **{"metric_for_best_model": "round", "seed": 3},
}
PROMPTS = ["1+1=", "22+3=", "4+56=", "7+8=", "2+9=", "3+3=", "5+5="]


def write_models(folder: Path) -> Path:
    """Random models, one for each kind of text, with their tokenizers."""
    tokenizers = {
        "characters": char_tokenizer(),
        "selection": word_tokenizer([*SELECTION_WORDS, "answer", "where"]),
        "biographies": word_tokenizer(BIOGRAPHY_WORDS),
        "search": word_tokenizer(),
    }
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(folder / name)
        tiny_model(tokenizer, hidden=16, layers=2, heads=2, kv_heads=2).save_pretrained(folder / name)
    return folder


def lora() -> LoraConfig:
    """An adapter with dropout, so that training draws random numbers as well as sampling."""
    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear")


def parity(completions: list[str], **_: Any) -> list[float]:
    """A reward that a random model wins about half of the time."""
    return [float(sum(map(ord, text)) % 2) for text in completions]


def shear(folder: Path, models: Path, **changes: Any) -> Any:
    """Each generation batch lasts for four steps, over the end of a pass: checkpoints stand in its middle."""
    return SHEARTrainer(
        model=str(models / "characters"),
        reward_funcs=parity,
        args=SHEARConfig(str(folder), **(ON_CPU | GRPO | REUSE | changes)),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        peft_config=lora(),
        callbacks=[RecordCallback()],
    )


def prlm(folder: Path, models: Path, **changes: Any) -> Any:
    """Every step samples, and all parameters learn."""
    return PrLMTrainer(
        model=str(models / "characters"),
        reward_funcs=parity,
        args=PrLMConfig(str(folder), **(ON_CPU | GRPO | changes)),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        callbacks=[RecordCallback()],
    )


def exsearch(folder: Path, models: Path, **changes: Any) -> Any:
    """A round of five questions."""
    texts = {"instruction": "{question}", "passage_format": "[{n}] {text}", "answer_request": "answer ?"}
    options = {"max_hops": 2, "passages": 2, "max_turn_tokens": 6, "questions_per_round": 5, **texts}
    return ExSearchTrainer(
        model=str(models / "search"),
        args=ExSearchConfig(str(folder), **(ON_CPU | EM | options | changes)),
        train_dataset=Dataset.from_list(SEARCH.rows(6, 1, "train")),
        eval_dataset=Dataset.from_list(SEARCH.rows(3, 1, "dev")),
        retriever=BM25Retriever.over(SEARCH.passages()),
        peft_config=lora(),
    )


def dro(folder: Path, models: Path, **changes: Any) -> Any:
    """A round of nine questions, both models learning."""
    texts = {
        **{"list_instruction": "{passages} rank {question}", "answer_instruction": "{passages} answer {question}"},
        **{"closed_book_instruction": "answer {question}", "passage_format": "[{n}] {text}"},
    }
    options = {"list_size": 2, "candidates": 5, "constrained": True, "max_list_tokens": 8, **texts}
    return DROTrainer(
        str(models / "selection"),
        DROConfig(str(folder), **(ON_CPU | EM | options | changes)),
        train_dataset=Dataset.from_list(selection.rows(9, 1)),
        eval_dataset=Dataset.from_list(selection.rows(3, 2)),
        peft_config=lora(),
    )


def stoc(folder: Path, models: Path, **changes: Any) -> Any:
    """Replay that the model writes, then six steps."""
    world = biography_world(0)
    options = {"alpha": 0.5, "seed_width": 3, "replay_max_length": 30, "max_repetition": None, "shard_items": 16}
    steps = {"max_steps": 6, "per_device_train_batch_size": 4, "max_length": 32, "seed": 5}
    return STOCTrainer(
        str(models / "biographies"),
        STOCConfig(str(folder), **(ON_CPU | options | steps | changes)),
        biographies(world, "new", 0, copies=1)[:12],
        peft_config=lora(),
        callbacks=[RecordCallback()],
    )


METHODS: dict[str, Callable[..., Any]] = {
    "shear": shear, "prlm": prlm, "exsearch": exsearch, "dro": dro, "stoc": stoc,
}  # fmt: skip


def work(method: str, folder: Path, models: Path, log: Path, **changes: Any) -> None:
    """In a process of its own: start a run or go on with it, to its end."""
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    torch.set_num_threads(1)
    trainer = METHODS[method](folder, models, **changes)
    trainer.train(resume_from_checkpoint=holds_run(folder))
    trainer.save_model(str(folder / "final"))
