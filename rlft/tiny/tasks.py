"""The embedded tasks by name: rows to train on, and a warm start for them.

A task name can be given as `--model_name_or_path`, as `--dataset_name`, or both.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlft.tiny import addition, questions, searcher, selection, style
from rlft.tiny.biography_task import BiographyTask
from rlft.tiny.needle import Walk
from rlft.tiny.needle_task import NeedleTask
from rlft.tiny.people import Size
from rlft.tiny.words import ENDINGS, OPENERS, SELECTION_WORDS, STYLE_WORDS
from rlft.tiny.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WARM_UP_SEED = 1_000
"""Added to the seed of the warm-up problems, to keep them apart from those of training and evaluation."""
WORLD_SEED = 7
"""Of the world that search tasks ask about; the warm-up draws other worlds."""


class TinyTask(Protocol):
    """An embedded task."""

    def rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """`count` rows to train on; the same seed gives the same rows."""
        ...

    def start(self, seed: int) -> Path:
        """Folder of a model warmed up on careless demonstrations; trained the first time, then found in the cache."""
        ...


@dataclass(frozen=True)
class AdditionTask:
    """Additions: digits of the numbers, and optimiser steps of the warm-up."""

    digits: int
    warm_up_steps: int

    def rows(self, count: int, seed: int) -> list[dict[str, Any]]:
        """`count` rows `{prompt, answer}`; the same seed gives the same rows."""
        return [dict(row) for row in addition.rows(count, seed, self.digits)]

    def start(self, seed: int) -> Path:
        """As `TinyTask.start`."""
        from rlft.tiny.warmup import SCHEDULE, warm_up

        count = self.warm_up_steps * SCHEDULE["per_device_train_batch_size"]
        rows = addition.demonstrations(count, WARM_UP_SEED + seed, self.digits)
        return warm_up(
            f"addition-{self.digits}", rows, seed=seed, schedule={**SCHEDULE, "max_steps": self.warm_up_steps}
        )


PromptTask = AdditionTask | NeedleTask  # rows are prompts for a reward, like those of a file


@dataclass(frozen=True)
class SearchTask:
    """Two-hop questions about a toy world: its size, and the width and length of the warm-up."""

    people: int = 1000
    companies: int = 200
    hidden: int = 128
    batch_size: int = 64
    warm_up_steps: int = 250

    def world(self) -> World:
        """The world that the questions are about."""
        return World(WORLD_SEED, self.people, self.companies)

    def passages(self) -> list[dict[str, str]]:
        """The corpus, passages `{id, title, text}`."""
        return self.world().passages

    def rows(self, count: int, seed: int, split: str = "train") -> list[dict[str, Any]]:
        """`count` different questions of a split (`train`, `dev`, `test`), as `questions.sample` draws them."""
        return questions.sample(self.world(), count, seed, split)

    def largest(self, split: str) -> int:
        """How many questions a split has with all kinds equally frequent; `rows` gives more, of unequal kinds."""
        world = self.world()
        return len(questions.TWO_HOP) * min(
            len(questions.questions(world, [kind], split)) for kind in questions.TWO_HOP
        )

    def start(self, seed: int) -> Path:
        """As `TinyTask.start`."""
        from rlft.tiny.warmup import SCHEDULE, warm_up

        conversations = searcher.demonstrations(self.warm_up_steps * self.batch_size, WARM_UP_SEED + seed)
        schedule = {
            **SCHEDULE,
            "max_steps": self.warm_up_steps,
            "per_device_train_batch_size": self.batch_size,
            "max_length": None,
            "train_sampling_strategy": "sequential",  # a world after the other; within one the order is random
        }
        rows = [{"messages": messages} for messages in conversations]
        name = f"search-{self.hidden}"
        return warm_up(name, rows, seed=seed, schedule=schedule, tokenizer=self.tokenizer(), build=self.build)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Of the search's words."""
        from rlft.tiny.word_tokenizer import word_tokenizer

        return word_tokenizer()

    def build(self, tokenizer: "PreTrainedTokenizerBase", seed: int) -> "PreTrainedModel":
        """The model before its warm-up."""
        from rlft.tiny.model import tiny_model

        return tiny_model(tokenizer, hidden=self.hidden, layers=2, kv_heads=4, feed_forward=2 * self.hidden, seed=seed)


@dataclass(frozen=True)
class SelectTask:
    """Questions with six candidate passages: steps of the warm-up's three parts, and its rows a step."""

    steps: tuple[int, int, int] = (250, 250, 200)
    batch_size: int = 32
    hidden: int = 128

    def rows(self, count: int, seed: int, split: str = "train") -> list[dict[str, Any]]:
        """`count` different questions of a split (`train`, `dev`, `test`) with candidates, as `selection.rows`."""
        return selection.rows(count, seed, split)

    def start(self, seed: int) -> Path:
        """As `TinyTask.start`."""
        from rlft.tiny.warmup import SCHEDULE, warm_up

        indices, look_ups, careless = (steps * self.batch_size for steps in self.steps)
        conversations = selection.demonstrations(indices, look_ups, careless, WARM_UP_SEED + seed)
        schedule = {
            **SCHEDULE,
            "max_steps": sum(self.steps),
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": 1.5e-3,  # at 2e-3 and above it stays at chance
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": self.steps[-1]},
            "max_length": None,
            "train_sampling_strategy": "sequential",  # from plain look-ups to careless ones
        }
        rows = [{"messages": messages} for messages in conversations]
        name, tokenizer = f"select-{self.hidden}", self.tokenizer()
        return warm_up(name, rows, seed=seed, schedule=schedule, tokenizer=tokenizer, build=self.build)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Of the selection's words, with a chat template that adds none to them."""
        from rlft.tiny.word_tokenizer import word_tokenizer

        return word_tokenizer(SELECTION_WORDS, selection.BARE_TEMPLATE)

    def build(self, tokenizer: "PreTrainedTokenizerBase", seed: int) -> "PreTrainedModel":
        """The model before its warm-up."""
        from rlft.tiny.model import tiny_model

        width = self.hidden
        return tiny_model(tokenizer, hidden=width, layers=2, heads=8, kv_heads=8, feed_forward=2 * width, seed=seed)


@dataclass(frozen=True)
class StyleTask:
    """Requests of users with a style: steps of the warm-up and its rows a step, and the model's width."""

    warm_up_steps: int = 750
    batch_size: int = 48
    hidden: int = 64

    def world(self) -> World:
        """The world of the users, one for each style."""
        return World(WORLD_SEED, people=len(OPENERS) * len(ENDINGS), companies=2)

    def rows(self, count: int, seed: int, split: str = "train", *, items: int = style.ITEMS) -> list[dict[str, Any]]:
        """`count` requests of users of a split (`train`, or `test` for the held-out ones), as `style.rows`."""
        return style.rows(self.world(), count, seed, split, items=items)

    def start(self, seed: int) -> Path:
        """As `TinyTask.start`."""
        from rlft.tiny.warmup import IGNORED, SCHEDULE, warm_up

        count = self.warm_up_steps * self.batch_size
        shown = style.demonstrations(self.world(), count, WARM_UP_SEED + seed, self.batch_size)
        tokenizer = self.tokenizer()
        rows = [
            {
                "input_ids": ids,
                "labels": [token if learnt else IGNORED for token, learnt in zip(ids, row["trained"], strict=True)],
            }
            for row, ids in zip(shown, tokenizer([row["text"] for row in shown])["input_ids"], strict=True)
        ]
        schedule = {
            **SCHEDULE,
            "max_steps": self.warm_up_steps,
            "per_device_train_batch_size": self.batch_size,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.05},
            "weight_decay": 0.01,
            "max_length": None,
            "train_sampling_strategy": "sequential",  # a batch shows one number of past items
        }
        name = f"style-{self.hidden}"
        return warm_up(name, rows, seed=seed, schedule=schedule, tokenizer=tokenizer, build=self.build)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Of the task's words, with a chat template that adds none to them."""
        from rlft.tiny.word_tokenizer import word_tokenizer

        return word_tokenizer(STYLE_WORDS, style.BARE_TEMPLATE)

    def build(self, tokenizer: "PreTrainedTokenizerBase", seed: int) -> "PreTrainedModel":
        """The model before its warm-up."""
        from rlft.tiny.model import tiny_model

        return tiny_model(tokenizer, hidden=self.hidden, seed=seed)


TASKS: dict[str, TinyTask] = {
    "tiny/addition": AdditionTask(digits=3, warm_up_steps=250),
    "tiny/addition-1": AdditionTask(digits=1, warm_up_steps=60),
    "tiny/needle": NeedleTask(Walk(), warm_up_steps=450),
    "tiny/needle-small": NeedleTask(Walk(letters=8), warm_up_steps=120),
    "tiny/search": SearchTask(),
    "tiny/search-small": SearchTask(people=200, companies=60, hidden=96, batch_size=12, warm_up_steps=200),
    "tiny/select": SelectTask(),
    "tiny/select-small": SelectTask(steps=(50, 100, 100), batch_size=12, hidden=64),
    "tiny/style": StyleTask(),
    "tiny/style-small": StyleTask(warm_up_steps=240, batch_size=32),
    "tiny/biographies": BiographyTask(),
    "tiny/biographies-small": BiographyTask(
        Size(old=40, new=16, homes=6, fields=6, employers=6), recall=0.2, steps=100, batch_size=8
    ),
}
SMOKE = {
    "tiny/addition": "tiny/addition-1",
    "tiny/needle": "tiny/needle-small",
    "tiny/search": "tiny/search-small",
    "tiny/select": "tiny/select-small",
    "tiny/style": "tiny/style-small",
    "tiny/biographies": "tiny/biographies-small",
}
"""What `--smoke` puts in the place of a task whose warm-up takes too long."""


def refuse_unknown(name: str) -> None:
    """Refuse a name that looks like an embedded task's and is none, before it is looked up on the Hub.

    Raises:
        ValueError: naming those there are.
    """
    if name.startswith("tiny/") and name not in TASKS and not Path(name).exists():
        raise ValueError(f"there is no embedded task {name!r}; there are {', '.join(TASKS)}.")


LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "TORCHELASTIC_",
    "ACCELERATE_",
    "FSDP_",
)


def warm_start(name: str, seed: int) -> Path:
    """Folder of the warmed-up model of an embedded task, the same for every process of a run.

    In a run of several processes the training is done by a child outside the process group: TRL's trainer would wait
    for processes that wait for it.

    Args:
        name: a key of `TASKS`.
        seed: of the warm-up.

    Returns:
        The folder.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        alone = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHER_VARIABLES)}
        code = "import sys; from rlft.tiny.tasks import TASKS; TASKS[sys.argv[1]].start(int(sys.argv[2]))"
        subprocess.run([sys.executable, "-c", code, name, str(seed)], env=alone, check=True)
    return TASKS[name].start(seed)
