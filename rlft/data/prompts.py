"""Rows for reinforcement learning: a `prompt`, an `answer`, and whatever other columns the rewards read."""

import difflib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetGenerationError

from rlft.assets import shipped
from rlft.data.prompt_rows import DataError, refuse_rows, without_prompts_of
from rlft.tiny.tasks import SMOKE, TASKS, PromptTask

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
TINY_TRAIN_ROWS = 16_000
TINY_SEED, TINY_HELD_OUT_SEED = 11, 22
logger = logging.getLogger(__name__)


class Prompts(NamedTuple):
    """What was read."""

    train: Dataset
    held_out: Dataset
    left_out: dict[str, int]
    """Training rows left out, by reason."""


def load_prompts(
    name: str | None,
    *,
    config: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    system_prompt: str | None = None,
    held_out: int = 512,
) -> Prompts:
    """Training rows and held-out rows.

    Args:
        name: an embedded task (`tiny/addition`), a `.jsonl`, `.json`, `.parquet` or `.csv` file, or a Hub id.
        config: configuration name of the dataset.
        train_split: split trained on.
        test_split: split held out; where it does not exist, the last `held_out` training rows are held out instead.
        prompt_column: column renamed to `prompt`.
        answer_column: column renamed to `answer`, if present.
        system_prompt: turns prompts into conversations that open with this text.
        held_out: held-out rows wanted.

    Returns:
        `(train, held_out, left_out)`, of which the second has at most `held_out` rows. A training row whose prompt is
        held out is left out and counted, and a warning says so.

    Raises:
        DataError: on a missing split or column, an empty split, a prompt that is none, or an answer that is NaN.
    """
    if held_out < 0:
        raise DataError(f"--eval_rows {held_out}: it counts held-out rows and must be at least 0.")
    splits = _load(name, config, held_out)
    if train_split not in splits:
        raise DataError(f"{name} has no split {train_split!r}, only {listed(splits)}; set --dataset_train_split.")
    train = splits[train_split]
    if test_split in splits and test_split != train_split:
        test = splits[test_split].select(range(min(held_out, len(splits[test_split]))))
    else:
        cut = max(len(train) - held_out, 0)
        last = range(cut, len(train)) if held_out else []  # an empty range cannot be selected at the end
        train, test = train.select(range(cut)), train.select(last)
    if not len(train):
        raise DataError(
            f"{name}: split {train_split!r} has {len(splits[train_split])} rows and {held_out} were held out, so none "
            "is left to train on; lower --eval_rows, set --dataset_test_split, or give more data."
        )
    rows, tests = (_read(split, name, prompt_column, answer_column, system_prompt) for split in (train, test))
    kept = _not_held_out(rows, tests, str(name))
    left_out = {f"{train_split}: prompt is held out": len(rows) - len(kept)} if len(kept) < len(rows) else {}
    return Prompts(kept, tests, left_out)


def _not_held_out(train: Dataset, test: Dataset, name: str) -> Dataset:
    kept = without_prompts_of(train, test)
    if not len(kept):
        raise DataError(
            f"{name}: each of the {len(train)} training rows has a prompt that is held out too; lower --eval_rows, or "
            "give more prompts."
        )
    if len(kept) < len(train):
        logger.warning("%s: %d training rows are left out: their prompts are held out.", name, len(train) - len(kept))
    return kept


def load_held_out(
    name: str | None,
    *,
    config: str | None = None,
    split: str = "test",
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    system_prompt: str | None = None,
    rows: int = 0,
) -> Dataset:
    """Rows to evaluate on, of a file or split that nobody trains on.

    Args:
        name, config, prompt_column, answer_column, system_prompt: as for `load_prompts`.
        split: the only split there is may have any name.
        rows: the first ones; 0 is all (of an embedded task 512).

    Raises:
        DataError: as `load_prompts`.
    """
    splits = _load(name, config, rows or 512)
    if split not in splits and len(splits) > 1:
        raise DataError(f"{name} has no split {split!r}, only {listed(splits)}; set --split.")
    found = splits[split] if split in splits else next(iter(splits.values()))
    if not len(found):
        raise DataError(f"{name}: split {split!r} has no rows; give a file or a split with some.")
    kept = found.select(range(min(rows or len(found), len(found))))
    return _read(kept, name, prompt_column, answer_column, system_prompt)


def _load(name: str | None, config: str | None, held_out: int) -> DatasetDict:
    if not name:
        raise DataError("no dataset: set --dataset_name to tiny/addition, a file, or a Hub id.")
    task = TASKS.get(name)
    if isinstance(task, PromptTask):
        return _tiny(task, held_out)
    if task is not None:
        own = ", ".join(key for key, each in TASKS.items() if isinstance(each, PromptTask))
        raise DataError(
            f"--dataset_name {name} is the task of {' and '.join(_recipes_of(name))}; here, embedded ones are {own}."
        )
    suffix = Path(name).suffix
    if suffix in FORMATS:
        if not Path(name).is_file():
            raise DataError(f"--dataset_name {name}: no such file{' but a folder' * Path(name).is_dir()}.")
        return read_table(name, FORMATS[suffix])
    try:
        return load_dataset(name, config)
    except (ValueError, OSError) as error:
        raise DataError(
            f"--dataset_name {name} is no file that ends in {', '.join(FORMATS)}, and cannot be loaded as a folder or "
            f"from the Hub either: {error}"
        ) from error


def _read(
    split: Dataset, name: str | None, prompt_column: str, answer_column: str, system_prompt: str | None
) -> Dataset:
    renamed = _renamed(split, name, prompt_column, answer_column)
    return renamed if system_prompt is None else _conversations(renamed, system_prompt)


def _recipes_of(task: str) -> list[str]:
    """The recipes that have settings for an embedded task, or for the one that it is the quick form of."""
    names = {task, *(name for name, quick in SMOKE.items() if quick == task)}
    settings = sorted((shipped("recipes") / "configs").glob("*/*.yaml"))
    found = [file for file in settings if yaml.safe_load(file.read_text(encoding="utf-8")).get("dataset_name") in names]
    return list(dict.fromkeys(f"recipes/{file.parent.name}.py" for file in found))


def read_table(name: str, kind: str) -> DatasetDict:
    if not Path(name).read_bytes().strip():
        raise DataError(f"{name} is empty; give a file with one row per line.")
    if kind != "parquet":
        _refuse_other_encodings(name)
    try:
        return load_dataset(kind, data_files=name)
    except (DatasetGenerationError, ValueError) as error:
        raise DataError(f"{name} cannot be read as {kind}: {error.__cause__ or error} Is it cut off?") from error


def _refuse_other_encodings(name: str) -> None:
    with Path(name).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise DataError(f"{name}, line {number} is not UTF-8 ({error.reason}); convert the file.") from error


def _tiny(task: PromptTask, held_out: int) -> DatasetDict:
    test = list({row["prompt"]: row for row in task.rows(max(held_out, 1), TINY_HELD_OUT_SEED)}.values())
    known = {row["prompt"] for row in test}
    train = [row for row in task.rows(TINY_TRAIN_ROWS, TINY_SEED) if row["prompt"] not in known]
    return DatasetDict(train=Dataset.from_list(train), test=Dataset.from_list(test))


def _renamed(split: Dataset, name: str | None, prompt_column: str, answer_column: str) -> Dataset:
    if prompt_column not in split.column_names:
        near = difflib.get_close_matches(prompt_column, split.column_names, n=1)
        hint = f" (is it {near[0]!r}?)" if near else ""
        raise DataError(
            f"{name} has no column {prompt_column!r}, only {listed(split.column_names)}{hint}; set --prompt_column."
        )
    if answer_column != "answer" and answer_column not in split.column_names:
        raise DataError(
            f"{name} has no column {answer_column!r}, only {listed(split.column_names)}; set --answer_column."
        )
    wanted = {"prompt": prompt_column, "answer": answer_column}
    for target, source in wanted.items():
        if source != target and source in split.column_names:
            if target in split.column_names:
                split = split.remove_columns(target)
            split = split.rename_column(source, target)
    refuse_rows(split, str(name))
    return split


def _conversations(split: Dataset, system: str) -> Dataset:
    if not len(split):  # mapping no rows adds no column
        return split
    options = {"fn_kwargs": {"system": system}, "remove_columns": "prompt"}
    return split.map(_conversation, **options).rename_column("conversation", "prompt")


def _conversation(row: dict[str, Any], system: str) -> dict[str, Any]:
    prompt = row["prompt"]
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {"conversation": [{"role": "system", "content": system}, *turns]}


def listed(names: Any) -> str:
    return ", ".join(map(repr, names))
