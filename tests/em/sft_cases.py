"""A random tiny model, ragged rows with weights, and settings of short CPU runs, shared with the worker processes."""

import random
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM
from trl import SFTConfig

from rlft.tiny.model import tiny_model
from rlft.tiny.tokenizer import char_tokenizer


def tokenizer() -> PreTrainedTokenizerBase:
    return char_tokenizer()


def model() -> Qwen3ForCausalLM:
    return tiny_model(char_tokenizer(), hidden=32, layers=2)


def make_rows(seed: int = 0, count: int = 40, weight: Any = None) -> list[dict[str, list[Any]]]:
    """Rows of 6 to 24 tokens, about 60 % of them trained, with normal weights (or `weight` everywhere)."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        ids = [rng.randrange(4, 100) for _ in range(rng.randint(6, 24))]
        labels = [token if rng.random() < 0.6 else -100 for token in ids[:-1]] + ids[-1:]
        weights = [rng.gauss(0.5, 1.0) if weight is None else weight for _ in ids]
        made.append({"input_ids": ids, "labels": labels, "weights": weights})
    return made


def rows(**changes: Any) -> Dataset:
    return Dataset.from_list(make_rows(**changes))


def settings(output: Any, **changes: Any) -> SFTConfig:
    """Five steps of plain gradient descent, which shows gradients as they are."""
    arguments: dict[str, Any] = {
        "output_dir": str(output),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "max_steps": 5,
        "learning_rate": 0.05,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 8,
    }
    return SFTConfig(**(arguments | changes))


def state_of(trainer: Any) -> dict[str, Tensor]:
    """A copy of the trained parameters."""
    unwrapped = trainer.accelerator.unwrap_model(trainer.model)
    return {name: w.detach().clone() for name, w in unwrapped.named_parameters() if w.requires_grad}


def hand_loss(model: torch.nn.Module, batch: list[dict[str, list[Any]]]) -> Tensor:
    """sum w * nll / sum |w| over the predicted tokens of whole rows, one row at a time."""
    total, mass = torch.zeros(()), 0.0
    for row in batch:
        log_probs = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for t in range(1, len(row["input_ids"])):
            if row["labels"][t] != -100:
                total = total - row["weights"][t] * log_probs[t - 1, row["labels"][t]]
                mass += abs(row["weights"][t])
    return total / mass
