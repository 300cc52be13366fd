"""Supervised warm-up of a tiny model, on careless demonstrations or on plain text, done once per machine and kept.

The result lies in the user's cache folder under a hash of everything that shapes it (demonstrations, tokenizer, model,
schedule, library versions), so a second run starts at once and a changed task never meets a stale model.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
import transformers
import trl
from filelock import FileLock
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlft.stream import Stream
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
IGNORED = -100
"""Label of a token that is not trained on."""

Build = Callable[[PreTrainedTokenizerBase, int], PreTrainedModel]
"""Makes the untrained model from a tokenizer and a seed."""


class Goal(NamedTuple):
    """Ends a warm-up before its schedule does: the learning rate falls to 0 from the step at which this is reached."""

    name: str
    """Of what is to be reached; part of the cache key."""
    reached: Callable[[PreTrainedModel], bool]
    every: int
    """Steps between two looks."""
    settle: int
    """Steps over which the learning rate falls."""


def cache_folder() -> Path:
    """`$RLFT_CACHE`, else `$XDG_CACHE_HOME/rlft`, else `~/.cache/rlft`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RLFT_CACHE") or Path(base) / "rlft")


def char_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """The model of the character tasks: `tiny_model` as it comes."""
    return tiny_model(tokenizer, seed=seed)


def warm_up(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    schedule: Mapping[str, Any] = SCHEDULE,
    tokenizer: PreTrainedTokenizerBase | None = None,
    build: Build = char_model,
    goal: Goal | None = None,
) -> Path:
    """Train a tiny model on demonstrations or text with TRL's SFTTrainer, or find the one trained before.

    Args:
        name: task name, the readable half of the folder's name.
        rows: demonstrations, all of one form: `{prompt, completion}`, trained on the completion; `{messages}`, trained
            on the assistant's turns (in the order given, uncut); `{input_ids, labels}`, used as they are; or `{text}`,
            joined with end tokens between them and cut into blocks of the schedule's `max_length`, in another order in
            every pass.
        seed: seed of weights and data order.
        schedule: `SFTConfig` fields; together with the rows and the seed they make the cache key.
        tokenizer: `char_tokenizer()` if not given; for `messages`, its chat template marks what the assistant writes.
        build: makes the untrained model from the tokenizer and the seed.
        goal: ends the training when it is reached; the schedule's `max_steps` is then the most it takes.

    Returns:
        Folder with model and tokenizer, loadable with `from_pretrained`.
    """
    tokenizer = tokenizer or char_tokenizer()
    folder = cache_folder() / "tiny" / f"{name}-{_key(rows, seed, schedule, tokenizer, build, goal)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            print(f"warming up the embedded model, once: supervised training, kept in {folder}", flush=True)  # noqa: T201
            datasets.disable_progress_bars()
            try:
                _train(rows, folder, seed, schedule, tokenizer, build, goal)
            finally:
                datasets.enable_progress_bars()
    return folder


def labelled(
    conversations: Sequence[list[dict[str, str]]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[list[int]]]:
    """Token ids of conversations, and as labels the assistant's turns with their end tokens.

    Args:
        conversations: each a list of messages `{role, content}`.
        tokenizer: its chat template wraps what the assistant writes in a `generation` block.

    Returns:
        Columns `input_ids` and `labels`; a label is the id itself, or -100 outside the assistant's turns.
    """
    rendered: Any = tokenizer.apply_chat_template(
        list(conversations), return_dict=True, return_assistant_tokens_mask=True
    )
    columns = zip(rendered["input_ids"], rendered["assistant_masks"], strict=True)
    return {
        "input_ids": rendered["input_ids"],
        "labels": [
            [token if trained else IGNORED for token, trained in zip(ids, mask, strict=True)] for ids, mask in columns
        ],
    }


def _key(
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    schedule: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    build: Build,
    goal: Goal | None,
) -> str:
    model = build(tokenizer, seed).config.to_diff_dict()
    vocabulary = [tokenizer.get_vocab(), tokenizer.chat_template]
    versions = [torch.__version__, transformers.__version__, trl.__version__]
    wanted = [] if goal is None else [goal.name, goal.every, goal.settle]
    content = json.dumps(
        [list(rows), seed, dict(schedule), model, vocabulary, versions, *wanted], sort_keys=True, default=str
    )
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _train(
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    schedule: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    build: Build,
    goal: Goal | None,
) -> None:
    model = build(tokenizer, seed)
    dataset, options = _dataset(rows, tokenizer, seed, schedule)
    with tempfile.TemporaryDirectory(prefix="warm-up-", dir=folder.parent) as scratch:
        trainer = trl.SFTTrainer(
            model=model,
            args=trl.SFTConfig(
                output_dir=scratch,
                seed=seed,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                optim="adamw_torch_fused",
                **options,
                **schedule,
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(_Bar)
        if goal is not None:
            trainer.add_callback(_Until(goal))
        trainer.train()
        finished = Path(scratch) / "model"
        model.save_pretrained(finished)
        tokenizer.save_pretrained(finished)
        finished.replace(folder)  # the folder appears whole or not at all


class _Bar(ProgressCallback):
    """The progress bar without the line of figures that it prints at the end."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        pass


class _Until(TrainerCallback):
    """Lowers the learning rate once the goal is reached, and then stops."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._reached_at: int | None = None
        self._rates: list[float] = []

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._reached_at is not None:  # over what the schedule has just set
            left = 1 - (state.global_step - self._reached_at) / self._goal.settle
            for group, rate in zip(kwargs["optimizer"].param_groups, self._rates, strict=True):
                group["lr"] = rate * left

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        if self._reached_at is None and step % self._goal.every == 0 and self._goal.reached(kwargs["model"]):
            self._reached_at, self._rates = step, [group["lr"] for group in kwargs["optimizer"].param_groups]
        if self._reached_at is not None and step >= self._reached_at + self._goal.settle:
            control.should_training_stop = True


def _dataset(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, seed: int, schedule: Mapping[str, Any]
) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The rows as a data set, and the `SFTConfig` fields that its form asks for."""
    if "prompt" in rows[0]:
        return datasets.Dataset.from_list([dict(row) for row in rows]), {"completion_only_loss": True}
    whole = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    if "text" in rows[0]:
        samples = [{"ids": tokenizer(row["text"])["input_ids"]} for row in rows]
        length = schedule["max_length"]
        stream = Stream(samples, end_id=int(str(tokenizer.eos_token_id)), length=length, seed=seed)
        blocks = schedule["max_steps"] * schedule["per_device_train_batch_size"]
        in_order = {"train_sampling_strategy": "sequential", "remove_unused_columns": False}
        return stream.dataset(blocks), whole | in_order
    if "messages" in rows[0]:
        columns = labelled([row["messages"] for row in rows], tokenizer)
    else:
        columns = {name: [row[name] for row in rows] for name in ("input_ids", "labels")}
    # The trainer's own preparation would only copy the columns, row by row.
    return datasets.Dataset.from_dict(columns), whole
