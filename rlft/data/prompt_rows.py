"""What a row needs to be a prompt: text or messages, and a gold answer that is what stands in the file."""

import math
from typing import Any

from datasets import Dataset, Json


class DataError(ValueError):
    """A dataset that cannot be trained on."""


def refuse_rows(split: Dataset, name: str) -> None:
    """Refuse prompts that are no prompts, and answers that would be read as something else.

    Args:
        split: rows with a column `prompt`, and perhaps `answer`.
        name: of the dataset, for messages.

    Raises:
        DataError: naming the column and the first row.
    """
    for column in {"prompt", "answer"} & set(split.column_names):
        if isinstance(split.features[column], Json):
            # Json decodes texts too: the answer "007" would become the number 7.
            raise DataError(f"{name}: column {column!r} changes its type from row to row; make every value a text.")
    for number, prompt in enumerate(split["prompt"][:]):
        if not _is_prompt(prompt):
            raise DataError(
                f"{name}: the prompt of row {number} is {_short(prompt)}; a prompt is a text that is not blank, or "
                "messages with a role each. Mend the row or drop it, or set --prompt_column."
            )
    for number, answer in enumerate(split["answer"][:] if "answer" in split.column_names else ()):
        if isinstance(answer, float) and math.isnan(answer):
            raise DataError(f"{name}: the answer of row {number} is NaN, not an answer; mend the row or drop it.")


def without_prompts_of(train: Dataset, held_out: Dataset) -> Dataset:
    """The training rows whose prompt is not held out."""
    known = set(map(repr, held_out["prompt"][:]))
    kept = [number for number, prompt in enumerate(train["prompt"][:]) if repr(prompt) not in known]
    return train if len(kept) == len(train) else train.select(kept)


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, list):
        return bool(prompt) and all(isinstance(turn, dict) and turn.get("role") for turn in prompt)
    return isinstance(prompt, str) and bool(prompt.strip())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
