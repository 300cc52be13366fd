"""The embedded task of replay: people to be learnt of in two phases, and a model that knows those of the first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlft.tiny.biographies import biographies, biography_world, probes, vocabulary
from rlft.tiny.people import TINY, People, Size

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PEOPLE_SEED = 7
"""Of names and facts, which are the same whatever the seed of a run."""
LENGTH = 128
"""Tokens of a block in pre-training."""
EVERY, SETTLE = 25, 120
"""Steps between two looks at recall, and steps over which the learning rate then falls."""


@dataclass(frozen=True)
class BiographyTask:
    """Biographies of old and new people; the warm-up is a pre-training from scratch on the old ones."""

    size: Size = TINY
    copies: int = 5
    """Paraphrased biographies of each person."""
    recall: float = 0.85
    """Share of the old people's facts that the model completes in held-out wordings, at which its learning rate begins
    to fall; it rises further while that falls."""
    steps: int = 1500
    """Of pre-training, at most."""
    batch_size: int = 24
    """Blocks a step."""

    def world(self) -> People:
        """The people, and what is true of them."""
        return biography_world(PEOPLE_SEED, self.size)

    def rows(self, count: int, seed: int, phase: str = "new") -> list[dict[str, Any]]:
        """The first `count` biographies `{id, text, subject}` of a phase (`old`, `new`), in random order.

        Raises:
            ValueError: if there are fewer.
        """
        found = biographies(self.world(), phase, seed, copies=self.copies)
        if count > len(found):
            raise ValueError(f"{count} biographies of {phase} people wanted, and there are {len(found)}.")
        return [{"id": row["id"], "text": row["text"], "subject": row["name"]} for row in found[:count]]

    def largest(self, phase: str) -> int:
        """How many rows a phase has."""
        return self.copies * (self.size.old if phase == "old" else self.size.new)

    def kept(self, seed: int) -> list[dict[str, Any]]:
        """One biography of each old person, out of those that pre-training reads."""
        return [row for row in self.rows(self.largest("old"), seed, "old") if row["id"].endswith("/0")]

    def probes(self, phase: str, seed: int) -> list[dict[str, Any]]:
        """A held-out sentence `{id, subject, attribute, prompt, answer}` for each person and fact of a phase."""
        found = probes(self.world(), phase, seed)
        return [{"subject" if key == "name" else key: value for key, value in row.items()} for row in found]

    def start(self, seed: int) -> Path:
        """Folder of a model that knows the old people; trained the first time, then found in the cache."""
        from rlft.tiny.warmup import SCHEDULE, Goal, warm_up

        tokenizer = self.tokenizer()
        schedule = {
            **SCHEDULE,
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 40,
            "weight_decay": 0.1,
            "max_length": LENGTH,
        }
        goal = Goal(f"recall {self.recall}", self._knows(tokenizer, self.probes("old", seed)), EVERY, SETTLE)
        rows = [{"text": row["text"]} for row in self.rows(self.largest("old"), seed, "old")]
        return warm_up(
            "biographies", rows, seed=seed, schedule=schedule, tokenizer=tokenizer, build=self.build, goal=goal
        )

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Of the biographies' words."""
        from rlft.tiny.word_tokenizer import word_tokenizer

        return word_tokenizer(vocabulary(self.size))

    def build(self, tokenizer: "PreTrainedTokenizerBase", seed: int) -> "PreTrainedModel":
        """The model before its warm-up."""
        from rlft.tiny.model import tiny_model

        return tiny_model(tokenizer, hidden=64, layers=2, kv_heads=4, feed_forward=256, seed=seed)

    def _knows(self, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> Callable[[Any], bool]:
        """Whether a model completes so many sentences with the first word of the answer, as the likeliest one."""
        import torch

        by_length: dict[int, list[list[int]]] = {}
        for row in rows:
            ids = tokenizer(f"{row['prompt']} {row['answer'].split()[0]}")["input_ids"]
            by_length.setdefault(len(ids), []).append([tokenizer.eos_token_id, *ids])
        asked = [torch.tensor(same_length) for same_length in by_length.values()]

        def knows(model: Any) -> bool:
            hits = 0
            with torch.no_grad():
                for ids_BT in asked:
                    logits_BV = model(input_ids=ids_BT[:, :-1], logits_to_keep=1).logits[:, 0]
                    hits += int((logits_BV.argmax(-1) == ids_BT[:, -1]).sum())
            return hits >= self.recall * len(rows)

        return knows
