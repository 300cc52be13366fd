"""Rows with outcomes and step labels, for a diagnosis of a model's states on them. Imports no torch.

One row is a completion, or several of one prompt; rows of one prompt make a group:

    {"prompt": "...", "completion": "...", "correct": false, "first_error": 41}
    {"prompt": "...", "completions": [["step", "step"], ...], "correct": [false, ...], "first_error": [1, ...]}

A completion is a text, whose `first_error` is the index of the first wrong character, or a list of steps (joined by a
blank line), whose `first_error` is the index of the first wrong step, as in ProcessBench. -1, null or no `first_error`:
there is none, or it is not known. A prompt is a text or a list of messages. Other fields are not read.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft.data.json_rows import iter_json_rows
from rlft.data.prompts import DataError

STEP_JOIN = "\n\n"


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One completion.

    Attributes:
        prompt: a text or a list of messages.
        completion: its text, not blank.
        correct: its outcome.
        error_at: index of the first wrong character, or None.
        place: file and line, for messages.
    """

    prompt: Any
    completion: str
    correct: bool
    error_at: int | None
    place: str


def read_labelled(path: str | Path) -> list[list[LabelledText]]:
    """Completions of a JSON Lines file by prompt, in order of first appearance.

    Args:
        path: the file.

    Returns:
        One list a prompt.

    Raises:
        rlft.data.prompts.DataError: if the file is missing or malformed, or a row breaks a rule; names the line.
    """
    groups: dict[str, list[LabelledText]] = {}
    for place, row in iter_json_rows(Path(path)):
        for one in _texts(place, row):
            groups.setdefault(json.dumps(one.prompt, sort_keys=True), []).append(one)
    if not any({True, False} <= {one.correct for one in group} for group in groups.values()):
        raise DataError(
            f"{path}: none of its {len(groups)} prompts has both a correct and a wrong completion, so there is nothing "
            "to compare; rows with the same `prompt` make a group."
        )
    return list(groups.values())


def _texts(place: str, row: dict[str, Any]) -> Iterator[LabelledText]:
    prompt = row.get("prompt")
    if not _is_prompt(prompt):
        raise DataError(f"{place}: prompt is {_seen(prompt)}; give a text or a list of messages with role and content.")
    if ("completion" in row) == ("completions" in row):
        raise DataError(f"{place}: give either `completion`, or `completions` with a list of them.")
    several = "completions" in row
    completions = row["completions"] if several else [row["completion"]]
    if not isinstance(completions, list) or not completions:
        raise DataError(f"{place}: completions is {_seen(completions)}; give a list with at least one.")
    columns = {name: _column(place, row, name, several, len(completions)) for name in ("correct", "first_error")}
    for completion, correct, error in zip(completions, columns["correct"], columns["first_error"], strict=True):
        if not (isinstance(correct, bool) or (isinstance(correct, int) and correct in (0, 1))):
            raise DataError(f"{place}: correct is {_seen(correct)}; give true or false for each completion.")
        text, starts = _text(place, completion)
        try:
            (json.dumps(prompt, ensure_ascii=False) + text).encode()
        except UnicodeEncodeError as fault:
            raise DataError(f"{place}: text holds half of a surrogate pair, which is no character.") from fault
        yield LabelledText(prompt, text, bool(correct), _error_at(place, error, starts), place)


def _column(place: str, row: dict[str, Any], name: str, several: bool, count: int) -> list[Any]:
    """The values of a field, one a completion."""
    if not several or (name == "first_error" and row.get(name) is None):
        return [row.get(name)] * count
    values = row.get(name)
    if not isinstance(values, list) or len(values) != count:
        raise DataError(f"{place}: {name} is {_seen(values)}; with {count} completions give a list of {count}.")
    return values


def _text(place: str, completion: Any) -> tuple[str, range | list[int]]:
    """The text of a completion, and the character index of each thing that `first_error` counts."""
    if isinstance(completion, str) and completion.strip():
        return completion, range(len(completion))
    if isinstance(completion, list) and completion and all(isinstance(s, str) and s.strip() for s in completion):
        starts, at = [], 0
        for step in completion:
            starts.append(at)
            at += len(step) + len(STEP_JOIN)
        return STEP_JOIN.join(completion), starts
    raise DataError(
        f"{place}: a completion is {_seen(completion)}; give a text or a list of steps, none of them blank."
    )


def _error_at(place: str, error: Any, starts: range | list[int]) -> int | None:
    if error is None:
        return None
    if isinstance(error, bool) or not isinstance(error, int) or not -1 <= error < len(starts):
        unit = "characters" if isinstance(starts, range) else "steps"
        raise DataError(
            f"{place}: first_error is {_seen(error)}, with {len(starts)} {unit}; give the index of the first wrong "
            "one, counted from 0, or -1 for none."
        )
    return None if error == -1 else starts[error]


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, list):
        return bool(prompt) and all(
            isinstance(message, dict) and {"role", "content"} <= set(message) for message in prompt
        )
    return isinstance(prompt, str) and bool(prompt.strip())


def _seen(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
