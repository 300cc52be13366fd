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
from tests.shared import ON_CPU


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
        **ON_CPU,
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


def hand_loss(
    model: torch.nn.Module, batch: list[dict[str, Any]], everything: list[dict[str, Any]] | None = None
) -> Tensor:
    """sum w * nll / (c * sum m) over the predicted tokens of whole rows, one row at a time.

    m is a row's mass, or the count of its trained tokens; c the mean weight of `everything`, by default of the batch.
    """
    total = torch.zeros(())
    for row in batch:
        log_probs = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for t in trained_places(row):
            total = total - row["weights"][t] * log_probs[t - 1, row["labels"][t]]
    known = everything or batch
    weight = sum(abs(row["weights"][t]) for row in known for t in trained_places(row))
    mean_weight = weight / sum(mass(row) for row in known)
    return total / (mean_weight * sum(mass(row) for row in batch))


def trained_places(row: dict[str, Any]) -> list[int]:
    return [t for t in range(1, len(row["input_ids"])) if row["labels"][t] != -100]


def mass(row: dict[str, Any]) -> float:
    return row.get("mass", len([t for t in trained_places(row) if row["weights"][t] != 0]))
