"""The embedded task of walks, and the model that has learnt to write them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlft.tiny import needle

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WARM_UP_SEED = 1_000
"""Added to the seed of the warm-up's walks, so that none of them are a run's."""


@dataclass(frozen=True)
class NeedleTask:
    """Walks with one decisive tag, a constructed case: the form of a walk, and optimiser steps of the warm-up."""

    walk: needle.Walk
    warm_up_steps: int

    def rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """`count` rows, as `needle.rows`; the same seed gives the same rows."""
        return needle.rows(count, seed, self.walk)

    def start(self, seed: int) -> Path:
        """As `TinyTask.start`."""
        from rlft.tiny.warmup import SCHEDULE, warm_up

        schedule = {**SCHEDULE, "max_steps": self.warm_up_steps, "learning_rate": 3e-3, "max_length": None}
        count = self.warm_up_steps * SCHEDULE["per_device_train_batch_size"]
        rows = needle.demonstrations(count, WARM_UP_SEED + seed, self.walk)
        return warm_up("needle", rows, seed=seed, schedule=schedule, build=self.build)

    def build(self, tokenizer: "PreTrainedTokenizerBase", seed: int) -> "PreTrainedModel":
        """The model before its warm-up."""
        from rlft.tiny.model import tiny_model

        return tiny_model(tokenizer, hidden=64, layers=2, seed=seed)
