"""Short EXSEARCH runs on the small embedded world."""

import functools
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig

from rlft import ExSearchConfig, ExSearchTrainer
from rlft.retrieval import BM25Retriever
from rlft.tiny.tasks import TASKS

NAME = "tiny/search-small"
TASK: Any = TASKS[NAME]


@functools.cache
def model() -> str:
    """Folder of the warmed-up small model."""
    return str(TASK.start(0))


def config(folder: Path, **changes: Any) -> ExSearchConfig:
    """One round of 12 questions in three shards, K = 4."""
    settings = {
        "output_dir": str(folder),
        "num_rounds": 1,
        "questions_per_round": 12,
        "shard_questions": 4,
        "num_generations": 4,
        "max_hops": 3,
        "passages": 3,
        "max_turn_tokens": 20,
        "max_answer_tokens": 6,
        "max_tokens": 256,
        "instruction": "{question}",
        "passage_format": "[{n}] {text}",
        "answer_request": "answer ?",
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "learning_rate": 3e-3,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return ExSearchConfig(**(settings | changes))


def trainer(
    folder: Path,
    *,
    rows: list[dict[str, Any]] | None = None,
    dev_rows: list[dict[str, Any]] | None = None,
    **changes: Any,
) -> ExSearchTrainer:
    """A trainer on the warmed-up small model."""
    passed = {name: changes.pop(name) for name in ("retriever", "warm_up_dataset", "peft_config") if name in changes}
    defaults = {
        "retriever": BM25Retriever.over(TASK.passages()),
        "peft_config": LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear"),
    }
    return ExSearchTrainer(
        model=model(),
        args=config(folder, **changes),
        train_dataset=Dataset.from_list(rows or TASK.rows(24, 1, "train")),
        eval_dataset=Dataset.from_list(dev_rows or TASK.rows(6, 1, "dev")),
        **(defaults | passed),
    )
