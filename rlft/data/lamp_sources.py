"""Where a split of LaMP lies, and its gold outputs by id."""

import json
import re
from pathlib import Path
from typing import Any

from rlft.data.prompts import DataError, listed

SPLITS = ("train", "dev", "test")
HIDDEN = "test"
"""The split whose golds are not public."""


def lamp_files(path: Path, split: str) -> tuple[Path, Path]:
    """Files of a split: questions, and the outputs that belong beside them.

    Args:
        path: a folder with `dev_questions.json` or `dev/dev_questions.json`, or the file of questions itself.
        split: one of `SPLITS`; chooses the file in a folder.

    Raises:
        DataError: if there are no questions, or a file's name does not tell where its outputs are.
    """
    if split not in SPLITS:
        raise DataError(f"LaMP has no split {split!r}; it is one of {listed(SPLITS)}.")
    if path.is_dir():
        name = f"{split}_questions.json"
        found = next((file for file in (path / name, path / split / name) if file.is_file()), None)
        if found is None:
            seen = listed(sorted(file.name for file in path.iterdir())) or "nothing"
            raise DataError(f"{path} has no {name}, also not in a folder {split!r}; it holds {seen}.")
        path = found
    if "questions" not in path.name:
        raise DataError(f"{path}: a file of questions is named as in 'train_questions.json', for its outputs' sake.")
    return path, path.with_name(path.name.replace("questions", "outputs"))


def read_golds(path: Path, split: str, task: int) -> dict[str, str] | None:
    """Gold outputs by id; None where `test` has no file of them. An output that is null is the empty text.

    Args:
        path: a file `{"task": "LaMP_4", "golds": [{"id", "output"}, ...]}`.
        split: says whether the file may be missing.
        task: number that `task` must have.

    Raises:
        DataError: if the file is missing, is not of that form, is another task's, or has an id twice.
    """
    if not path.is_file():
        if split == HIDDEN:
            return None
        raise DataError(f"{path}: no such file, but {split} questions have outputs; only {HIDDEN!r} goes without.")
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON in UTF-8 ({error}).") from error
    if not isinstance(whole, dict) or not isinstance(whole.get("golds"), list):
        raise DataError(f"{path} has no 'golds': outputs are {{'task': 'LaMP_{task}', 'golds': [...]}}.")
    if not re.match(rf"LaMP[_-]{task}(?!\d)", str(whole.get("task"))):
        raise DataError(f"{path} has the outputs of {whole.get('task')!r}, not of task {task}.")
    golds: dict[str, str] = {}
    for number, gold in enumerate(whole["golds"]):
        name, output = _gold(gold, f"{path}, gold {number}")
        if name in golds:
            raise DataError(f"{path}, gold {number}: id {name!r} is there twice.")
        golds[name] = output
    return golds


def _gold(gold: Any, place: str) -> tuple[str, str]:
    if not isinstance(gold, dict) or gold.get("id") is None or "output" not in gold:
        raise DataError(f"{place} is {str(gold)[:80]!r}, not an object with 'id' and 'output'.")
    return str(gold["id"]), text_of(gold["output"], f"{place}, 'output'")


def text_of(value: Any, place: str) -> str:
    """A text without white space around it; a whole number (5 or 5.0) as `5`, null as the empty text.

    Raises:
        DataError: if it is anything else.
    """
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise DataError(f"{place} holds a {type(value).__name__}, not a text.")
    return str(value).strip()
