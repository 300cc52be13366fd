"""Supervised warm-up of a tiny model on careless demonstrations, done once per machine and kept.

The result lies in the user's cache folder under a hash of everything that shapes it (demonstrations, model, schedule,
library versions), so a second run starts at once and a changed task never meets a stale model.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from filelock import FileLock

from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer

SCHEDULE: Mapping[str, Any] = {
    "max_steps": 250,
    "per_device_train_batch_size": 64,
    "learning_rate": 4e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "adam_beta2": 0.99,
    "max_length": 64,
}


def cache_folder() -> Path:
    """`$RLFT_CACHE`, else `$XDG_CACHE_HOME/rlft`, else `~/.cache/rlft`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RLFT_CACHE") or Path(base) / "rlft")


def warm_up(
    name: str, rows: Sequence[Mapping[str, str]], *, seed: int = 0, schedule: Mapping[str, Any] = SCHEDULE
) -> Path:
    """Train a tiny model on demonstrations with TRL's SFTTrainer, or find the one trained before.

    Args:
        name: task name, the readable half of the folder's name.
        rows: `{prompt, completion}` demonstrations.
        seed: seed of weights and data order.
        schedule: `SFTConfig` fields; together with the rows and the seed they make the cache key.

    Returns:
        Folder with model and tokenizer, loadable with `from_pretrained`.
    """
    folder = cache_folder() / "tiny" / f"{name}-{_key(rows, seed, schedule)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            print(f"warming up the embedded model, once: supervised training, kept in {folder}", flush=True)  # noqa: T201
            datasets.disable_progress_bars()
            try:
                _train(rows, folder, seed, schedule)
            finally:
                datasets.enable_progress_bars()
    return folder


def _key(rows: Sequence[Mapping[str, str]], seed: int, schedule: Mapping[str, Any]) -> str:
    model = tiny_model(char_tokenizer(), seed=seed).config.to_diff_dict()
    versions = [torch.__version__, transformers.__version__, trl.__version__]
    content = json.dumps([list(rows), seed, dict(schedule), model, versions], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _train(rows: Sequence[Mapping[str, str]], folder: Path, seed: int, schedule: Mapping[str, Any]) -> None:
    tokenizer = char_tokenizer()
    model = tiny_model(tokenizer, seed=seed)
    with tempfile.TemporaryDirectory(prefix="warm-up-", dir=folder.parent) as scratch:
        trainer = trl.SFTTrainer(
            model=model,
            args=trl.SFTConfig(
                output_dir=scratch,
                seed=seed,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                completion_only_loss=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                optim="adamw_torch_fused",
                **schedule,
            ),
            train_dataset=datasets.Dataset.from_list([dict(row) for row in rows]),
            processing_class=tokenizer,
        )
        trainer.train()
        finished = Path(scratch) / "model"
        model.save_pretrained(finished)
        tokenizer.save_pretrained(finished)
        finished.replace(folder)  # the folder appears whole or not at all
