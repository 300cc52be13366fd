"""Runs of PrLM on a random tiny model: a reward model's folder, rows, and completions by a script."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import Qwen3ForSequenceClassification

from rlft.reward_models.folder import write_scorer_json
from rlft.reward_models.spec import ScorerSpec
from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

SAID = [
    "so\n</think>{'title': 'red sun'}",
    "a long thought</think>{'title': 'red'}",
    "</think>{'title': '...'}",
    "it never ends",
    "\n</think>{'title': 'blue sun'}",
    "\n</think>{'title': 'sun'}",
    "x</think>no dict",
]
"""Completions in turn: a gold answer, one without a line break, the placeholder, no tag, two more answers, no dict."""


def write_scorer(folder: Path, form: str = "blind", seed: int = 1) -> Path:
    """A folder with a random reward model."""
    tokenizer = char_tokenizer()
    config = tiny_model(tokenizer, hidden=32, layers=1, seed=seed).config
    config.num_labels = 1
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_scorer_json(folder, ScorerSpec(form, "toy", max_length=256), tokenizer, {"loss": "bt"})
    return folder


def user_rows(count: int = 8) -> list[dict[str, Any]]:
    """Rows of as many users."""
    return [
        {
            "id": f"q{number}",
            "user_id": f"u{number}",
            "query": f"ask {number}",
            "profile": [{"id": "0", "text": f"text {number}", "target": f"target {number}", "date": None}],
            "gold": "red sun",
        }
        for number in range(count)
    ]


def prompt_of(row: Any, items: Any) -> str:
    return f"{''.join(item['target'] for item in items)}:{row['query']}="


def training_rows() -> Dataset:
    """What a trainer is given."""
    return Dataset.from_list(
        [
            {"prompt": prompt_of(row, row["profile"]), "answer": row["gold"], "query": row["query"]}
            | {"profile_items": row["profile"]}
            for row in user_rows(16)
        ]
    )


def scripted(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """`SAID` in turn, whatever is asked."""
    tokenizer = trainer.processing_class
    return {
        "prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts],
        "completion_ids": [tokenizer(SAID[i % len(SAID)]).input_ids for i in range(len(prompts))],
        "logprobs": None,
    }


def silent(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """One and the same answer."""
    tokenizer = trainer.processing_class
    ids = tokenizer(SAID[0]).input_ids
    prompt_ids = [tokenizer(prompt).input_ids for prompt in prompts]
    return {"prompt_ids": prompt_ids, "completion_ids": [ids] * len(prompts), "logprobs": None}
