"""Task metrics: how good an answer is, decided by code that no reward shares.

A metric has the signature of a reward, `f(completions, **columns) -> list[float]`, so that any of either kind can be
named by `--eval_metric`. A metric is never trained on.
"""

import re
from collections.abc import Sequence
from typing import Any

METRICS = {"answer_match": "rlft.evaluate.metrics:answer_match"}

THOUGHT_END = "</think>"


def text_of(completion: Any) -> str:
    """Plain text of a completion: a string as it is, or the last message of a conversation."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def final_answer(text: str) -> str:
    """What stands after the last closing think tag, without surrounding space; the whole text if there is none."""
    return text.rpartition(THOUGHT_END)[2].strip()


def normalized(answer: str) -> str:
    """An answer for comparison: case folded, spaces collapsed, thousands separators and a final period dropped."""
    folded = " ".join(answer.casefold().split()).removesuffix(".")
    return re.sub(r"(?<=\d),(?=\d{3})", "", folded)


def answer_match(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """1.0 where the normalised final answer equals the normalised gold answer.

    Args:
        completions: B completions, strings or conversations.
        answer: B gold answers.
        **columns: other dataset columns, not used.

    Returns:
        B values, 0.0 or 1.0.
    """
    pairs = zip(completions, answer, strict=True)
    return [float(normalized(final_answer(text_of(given))) == normalized(str(gold))) for given, gold in pairs]
