"""Reward of the embedded task of style: the content of an answer, in whatever style it is."""

from collections.abc import Callable, Sequence
from typing import Any

from rlft.rewards.outcomes import Outcome
from rlft.rewards.personal import extract_answer
from rlft.tiny.style import THINK_END, content_f1


def content(
    completions: Sequence[Any],
    answer: Sequence[str],
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """Reward the F1 of the content words against the column `answer`, from 0 to 1.

    A completion without an answer scores 0.0; the share of these is logged as `rewards/content/unparseable`.

    Args:
        completions: B texts or message lists.
        answer: the words asked for, B texts.
        log_metric: TRL's logger.
        **kwargs: other columns.

    Returns:
        B scores.

    Raises:
        ValueError: if an `answer` has no words but markers of style.
    """
    answers = [extract_answer(completion, None, THINK_END) for completion in completions]
    if log_metric is not None and answers:
        log_metric(f"rewards/content/{Outcome.UNPARSEABLE}", answers.count(None) / len(answers))
    return [content_f1(said, gold) for said, gold in zip(answers, answer, strict=True)]
